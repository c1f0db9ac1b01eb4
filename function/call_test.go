package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/demo"
)

func noEnv(string) string { return "" }

// runCommand runs the program with arguments, and returns its output.
func runCommand(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), append([]string{"unassign"}, args...), noEnv, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), err
}

// newSimulation returns a simulated deployment.
func newSimulation(t *testing.T) *demo.Simulation {
	t.Helper()
	s, err := demo.New(noEnv, io.Discard, version)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serveSimulation serves a simulated cloud until the test ends, and returns it with its address.
func serveSimulation(t *testing.T) (*demo.Simulation, string) {
	t.Helper()
	s := newSimulation(t)
	server := httptest.NewServer(s.App)
	t.Cleanup(server.Close)
	return s, server.URL
}

// containsAll reports whether a text has all of parts.
func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// writeFile writes a file for a test.
func writeFile(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun(t *testing.T) {
	if stdout, _, err := runCommand(t, "version"); err != nil || stdout != version+"\n" {
		t.Errorf("version: %q, %v", stdout, err)
	}
	if stdout, _, err := runCommand(t, "help"); err != nil || stdout != usage {
		t.Errorf("help: %q, %v", stdout, err)
	}
	for _, args := range [][]string{{"--version"}, {"-v"}} {
		if stdout, _, err := runCommand(t, args...); err != nil || stdout != version+"\n" {
			t.Errorf("%v: %q, %v", args, stdout, err)
		}
	}
	for _, args := range [][]string{{"call", "-h"}, {"call", "--help"}, {"help", "call"}, {"list", "-h"}, {
		"help",
		"list",
	}} {
		stdout, stderr, err := runCommand(t, args...)
		if err != nil || stderr != "" || !containsAll(stdout, "usage: unassign ", "  unassign call -csv devices.csv",
			"UNASSIGN_SECRET_FILE", "-url") {
			t.Errorf("%v: %v\n%s%s", args, err, stderr, stdout)
		}
	}
	for _, args := range [][]string{{"sing"}, {"demo", "-fast"}, {"serve", "-port", "1"}} {
		if _, _, err := runCommand(t, args...); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}

func TestServeSimulated(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out := &azuresim.Buffer{}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"unassign", "serve", "-listen", "127.0.0.1:0"}, noEnv, nil, out, out)
	}()
	for !strings.Contains(out.String(), "Stop with Ctrl-C") {
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopped: %v", err)
	}
	if first, _, _ := strings.Cut(out.String(), "\n"); first != "simulated: nothing leaves this process" {
		t.Errorf("the first line is %q", first)
	}
}

// The program itself, stopped by a signal while a request is under way, gets that one's answer and keeps it.
func TestCallCSVStoppedBySignal(t *testing.T) {
	t.Parallel()
	s := newSimulation(t)
	lines := []string{"serialNumber"}
	for i := range 45 {
		serial := fmt.Sprintf("SN-%d", i)
		lines = append(lines, serial)
		s.Cloud.PutDevice(azuresim.Device{
			ID: fmt.Sprintf("0aa00000-0000-4000-8000-%012d", i), SerialNumber: serial, UserPrincipalName: "room@contoso.com",
		})
	}
	var (
		mu      sync.Mutex
		served  int
		process *exec.Cmd
		stderr  *azuresim.Buffer
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		served++
		n, p, printed := served, process, stderr
		mu.Unlock()
		if n == 2 {
			_ = p.Process.Signal(os.Interrupt)
			for !strings.Contains(printed.String(), "stopping after the request under way") {
				time.Sleep(time.Millisecond)
			}
		}
		s.App.ServeHTTP(w, r)
	}))
	defer server.Close()
	file := writeFile(t, "devices.csv", lines...)
	key := writeFile(t, "key", s.WebhookKey)
	start := func() int {
		mu.Lock()
		stderr = &azuresim.Buffer{}
		process = exec.Command(binary, "call", "-url", server.URL, "-secret-file", key, "-csv", file)
		process.Stderr = stderr
		err := process.Start()
		mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		_ = process.Wait()
		return process.ProcessState.ExitCode()
	}
	if code := start(); code != 130 || !strings.Contains(stderr.String(), "45 devices: 40 succeeded; 5 not sent. "+
		"Results: ") {
		t.Errorf("stopped: exit code %d\n%s", code, stderr.String())
	}
	if code := start(); code != 0 || !strings.Contains(stderr.String(), "45 devices: 45 succeeded (40 in an earlier "+
		"run). Results: ") {
		t.Errorf("the second run: exit code %d\n%s", code, stderr.String())
	}
	mu.Lock()
	defer mu.Unlock()
	if served != 3 {
		t.Errorf("%d requests", served)
	}
}

// A second interrupt stops the program without waiting for the response.
func TestCallStoppedTwice(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice the disconnect
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	key := writeFile(t, "key", encodeKey(canaryKey))
	stderr := &azuresim.Buffer{}
	process := exec.CommandContext(t.Context(), binary, "call", "-url", server.URL, "-secret-file", key, "-device",
		someDevice, "-retries", "0", "-timeout", "20s")
	process.Stderr = stderr
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	start := time.Now()
	_ = process.Process.Signal(os.Interrupt)
	for !strings.Contains(stderr.String(), "stop again to end at once") && time.Since(start) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	_ = process.Process.Signal(os.Interrupt)
	if err := process.Wait(); err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("it ended after %s with %v\n%s", time.Since(start), err, stderr.String())
	}
}

// The loop of docs/callers.md leads from the list to the undo list, in bash and in PowerShell.
func TestLoop(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/callers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## From the list to the undo list\n")
	section, _, _ = strings.Cut(section, "\n## ")
	module, err := filepath.Abs("../infra/powershell/AutopilotUnassign")
	if err != nil {
		t.Fatal(err)
	}
	for language, test := range map[string]struct {
		program []string
		before  string
	}{
		"sh": {[]string{"bash", "-euc"}, "unassign() { " + binary + " \"$@\"; }\n"},
		"powershell": { // which asks nobody
			[]string{"pwsh", "-NonInteractive", "-Command"}, "$ErrorActionPreference = 'Stop'; $ConfirmPreference = 'None'\n",
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			m := regexp.MustCompile("(?s)\n```" + language + "\n(.*?)\n```\n").FindStringSubmatch(section)
			if len(m) == 0 || strings.Count(m[1], "\n") > 9 {
				t.Fatalf("the loop is not there, or has more than ten lines: %q", m)
			}
			program := test.program[0]
			if shared := "../../shared/tools/pwsh"; language == "powershell" {
				if _, err := os.Stat(shared); err == nil {
					program = shared
				}
			}
			path, err := exec.LookPath(program)
			if err != nil {
				t.Skipf("%s is not installed", program)
			}
			if path, err = filepath.Abs(path); err != nil {
				t.Fatal(err)
			}
			s, url := serveSimulation(t)
			command := exec.CommandContext(t.Context(), path, append(slices.Clone(test.program[1:]), test.before+m[1])...)
			command.Dir = t.TempDir()
			if err := os.Symlink(module, filepath.Join(command.Dir, "AutopilotUnassign")); err != nil {
				t.Fatal(err)
			}
			command.Env = append(os.Environ(), "UNASSIGN_URL="+url, "UNASSIGN_SECRET_FILE="+writeFile(t, "key", s.WebhookKey))
			out, err := command.CombinedOutput()
			if err != nil || !containsAll(string(out), "room.elv@contoso.com", "room.dal@contoso.com") {
				t.Errorf("%v\n%s", err, out)
			}
			for _, d := range s.Cloud.Devices() {
				if retired := d.GroupTag == "Retired"; retired != (d.UserPrincipalName == "") {
					t.Errorf("%s carries %q", d.SerialNumber, d.UserPrincipalName)
				}
			}
			undo, err := os.ReadFile(filepath.Join(command.Dir, "undo.csv"))
			if err != nil || !containsAll(string(undo), "room.elv@contoso.com", "room.dal@contoso.com") {
				t.Errorf("%v\n%s", err, undo)
			}
		})
	}
}
