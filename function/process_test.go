package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/hosttest/functions"
	"autopilot-unassign/internal/hosttest/simulated"
)

// deploy serves the cloud and starts the program on it under a host, both until the test ends.
func deploy(t *testing.T, c *azuresim.Cloud, host string, changes ...string) deployment {
	t.Helper()
	served := c.Serve()
	t.Cleanup(served.Close)
	d := hosts[host](t, environment(t, c, served, changes...))
	t.Cleanup(d.stop)
	return d
}

// allSteps are the steps of the cloud that a request can wait for.
var allSteps = []azuresim.Step{
	azuresim.StepSTS, azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery,
	azuresim.StepToken, azuresim.StepKeys, azuresim.StepConnect, azuresim.StepGraph,
}

// A process starts and refuses requests while no service of the cloud responds. On Lambda this takes the time of a
// warm-up.
func TestStartWaitsForNobody(t *testing.T) {
	t.Parallel()
	for host := range hosts {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			for _, step := range allSteps {
				c.Fail(step, -1, azuresim.Hang())
			}
			begun := time.Now()
			d := deploy(t, c, host, patient)
			for _, test := range []struct {
				request sent
				status  int
				body    string
			}{
				{sent{Method: http.MethodGet, Target: "/api/health", Header: http.Header{}}, 200, `{"status":"ok","version":"` + version + `"}` + "\n"},
				{post("", func(s *sent) { s.Method = http.MethodGet }), 405, ""},
				{post(validBody, header("Content-Type", "text/plain")), 415, ""},
				{post(padded(17 << 10)), 413, ""},
				{post(validBody, unsigned), 401, ""},
				{post(validBody, header("Webhook-Id", "a.b")), 401, ""},
			} {
				answer, err := d.send(t.Context(), test.request)
				if err != nil || answer.status != test.status || !strings.Contains(answer.body, test.body) {
					t.Errorf("%d %s, %v; want %d", answer.status, answer.body, err, test.status)
				}
			}
			// By that time nothing has been given up, but on Lambda.
			if spent := time.Since(begun); host == config.Lambda != strings.Contains(strings.Join(d.lines(), "\n"),
				"warm-up failed") {
				t.Errorf("after %v the log is %s", spent, d.lines())
			}
		})
	}
}

// A failed warm-up does not fail the first request.
func TestStartWithoutTheCloud(t *testing.T) {
	t.Parallel()
	for host := range hosts {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			for _, step := range allSteps {
				c.Fail(step, -1, azuresim.Status(403))
			}
			d := deploy(t, c, host, "ENTRA_AUDIENCE="+simulated.Audiences)
			// which starts a Lambda
			if answer, err := d.send(t.Context(), sent{Method: http.MethodGet, Target: "/api/health", Header: http.Header{}}); err != nil ||
				answer.status != http.StatusOK {
				t.Fatalf("%d, %v", answer.status, err)
			}
			records(t, d, "warm-up failed", 4) // two kinds of keys, tokens, Graph
			c.Heal()
			for _, request := range []sent{valid(), post(validBody, byKey), post(validBody, unsigned, bearer(c,
				fromServiceNow))} {
				if answer, err := d.send(t.Context(), request); err != nil || answer.status != http.StatusNoContent {
					t.Errorf("%d %s, %v", answer.status, answer.body, err)
				}
			}
		})
	}
}

// A process survives failed requests, and a second request costs Graph a read and a change and no other service
// anything.
func TestWarm(t *testing.T) {
	t.Parallel()
	for host := range hosts {
		c := newCloud()
		d := deploy(t, c, host)
		for range 3 {
			if answer, err := d.send(t.Context(), valid()); err != nil || answer.status != http.StatusNoContent {
				t.Fatalf("%s: %d %s, %v", host, answer.status, answer.body, err)
			}
			c.Fail(azuresim.StepGraph, 1, azuresim.GraphError(404, azuresim.Nested, 0))
			if answer, err := d.send(t.Context(), valid()); err != nil || answer.status != http.StatusNotFound {
				t.Fatalf("%s: %d %s, %v", host, answer.status, answer.body, err)
			}
		}
		got := fmt.Sprint(c.Count(azuresim.StepIdentity), c.Count(azuresim.StepSecret), c.Count(azuresim.StepDiscovery),
			c.Count(azuresim.StepToken), c.Count(azuresim.StepGraph))
		// both callers' keys and the app's secret; a token; three pairs, and three reads
		if want := "1 3 1 1 9"; got != want {
			t.Errorf("%s: identity, secret, discovery, token and graph were asked %s times, want %s", host, got, want)
		}
	}
}

// A host from before 2025 builds each request anew, and appends its invocation id to the caller's.
func TestForwardingHost(t *testing.T) {
	t.Parallel()
	c := newCloud()
	served := c.Serve()
	defer served.Close()
	host, err := functions.Start(t.Context(), functions.Options{
		AppDir: stageAzure(t), Env: environment(t, c, served),
		Mode: functions.Forwarding,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Stop()
	d := azureDeployment{host}
	answer, err := d.send(t.Context(), post(validBody, header("X-Azure-Functions-Invocationid", "spoofed")))
	if err != nil || answer.status != http.StatusNoContent {
		t.Fatalf("%d %s, %v", answer.status, answer.body, err)
	}
	check(t, "the record", records(t, d, "unassign", 1)[0], map[string]string{"invocation_id": host.InvocationID()})
	if log := strings.Join(d.lines(), "\n"); strings.Contains(log, "spoofed") {
		t.Errorf("the log has %s", log)
	}
	if answer, err = d.send(t.Context(), post("")); err != nil || !strings.Contains(answer.body, "body_missing") {
		t.Errorf("no body: %d %s, %v", answer.status, answer.body, err)
	}
}

// The Functions host sends a request again when the connection breaks before its body was read. Afterwards the caller
// gets 500 and retries: both are safe.
func TestBrokenConnectionToTheWorker(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := deploy(t, c, config.Azure).(azureDeployment)
	d.DropNext(1)
	answer, err := d.send(t.Context(), valid())
	if err != nil || answer.status != http.StatusInternalServerError || answer.body != "" {
		t.Fatalf("%d %s, %v", answer.status, answer.body, err)
	}
	answer, err = d.send(t.Context(), valid())
	if err != nil || answer.status != http.StatusNoContent || c.Count(azuresim.StepGraph) != 4 {
		t.Errorf("%d %s, %v; Graph was asked %d times", answer.status, answer.body, err, c.Count(azuresim.StepGraph))
	}
}

// The Functions host starts a worker again that has ended with an error, and never one that has ended without.
func TestWorkerNeverEndsWithoutAnError(t *testing.T) {
	t.Parallel()
	d := deploy(t, newCloud(), config.Azure).(azureDeployment)
	if code := d.End(syscall.SIGTERM); code != 1 {
		t.Errorf("after SIGTERM the worker's exit code is %d, want 1", code)
	}
}

// A record arrives at the Functions host with its own level.
func TestLevelsReachTheHost(t *testing.T) {
	t.Parallel()
	d := deploy(t, newCloud(), config.Azure, "LOG_LEVEL=info").(azureDeployment)
	for _, request := range []sent{valid(), post(validBody, unsigned), post(strings.Replace(validBody, someDevice,
		unknownDevice, 1))} {
		if _, err := d.send(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	records(t, d, "unassign", 3)
	want := map[string]string{"INFO": "Information", "WARN": "Warning", "ERROR": "Error"}
	seen := map[string]bool{}
	for _, line := range d.Lines() {
		var record struct{ Level string }
		if json.Unmarshal([]byte(line.Text), &record) == nil && want[record.Level] != line.Level {
			t.Errorf("%s arrives as %s", line.Text, line.Level)
		}
		seen[line.Level] = true
	}
	if len(seen) < 2 {
		t.Errorf("levels %v", seen)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for name, test := range map[string]struct {
		args   []string
		env    []string
		code   int
		stderr string
	}{
		"version":            {[]string{"version"}, nil, 0, ""},
		"help":               {[]string{"help"}, nil, 0, ""},
		"an unknown command": {[]string{"sing"}, nil, 2, "unassign: no command \"sing\""},
		"an unknown flag": {[]string{"call", "-force"}, nil, 2, "unassign: call: flag provided but not defined: " +
			"-force\nsee unassign call -h\n"},
		"a flag's help":     {[]string{"call", "-help"}, nil, 0, ""},
		"help of a command": {[]string{"help", "call"}, nil, 0, ""},
		"--version":         {[]string{"--version"}, nil, 0, ""},
		"-v":                {[]string{"-v"}, nil, 0, ""},
		"settings missing": {
			nil,
			[]string{"KEY_VAULT_URL=https://contoso.vault.azure.net"},
			1,
			"GRAPH_TENANT_ID is not set",
		},
		"settings on a host": {nil, []string{"FUNCTIONS_CUSTOMHANDLER_PORT=1"}, 1, "KEY_VAULT_URL is not set"},
		"two hosts": {
			nil,
			[]string{"FUNCTIONS_CUSTOMHANDLER_PORT=1", "AWS_LAMBDA_RUNTIME_API=x"},
			1,
			"are both set",
		},
		"an address it cannot be": {[]string{"serve", "-listen", "256.0.0.1:1"}, nil, 1, "listen"},
		"a port in use": {
			[]string{"serve", "-listen", taken.Addr().String()},
			nil, 1,
			"another program uses 127.0.0.1:",
		},
	} {
		var stderr strings.Builder
		cmd := exec.Command(binary, test.args...)
		cmd.Env = append([]string{"HOME=" + os.Getenv("HOME")}, test.env...)
		cmd.Stderr = &stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%s: exit code %d, %q; want %d and %q", name, code, stderr.String(), test.code, test.stderr)
		}
	}
}

// After a signal a running request finishes, also one that waits for a fetch of the warm-up.
func TestStopLetsRequestsEnd(t *testing.T) {
	t.Parallel()
	for _, step := range []azuresim.Step{azuresim.StepToken, azuresim.StepGraph} {
		c := newCloud()
		c.Fail(step, 1, azuresim.Delay(500*time.Millisecond))
		d := deploy(t, c, config.Local).(*localDeployment)
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(d.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		s := valid()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\nExpect: 100-continue\r\n",
			s.Target, len(s.Body))
		_ = s.Header.Write(conn)
		fmt.Fprint(conn, "\r\n")
		answers := bufio.NewReader(conn)
		// the handler reads
		if resp, err := http.ReadResponse(answers, nil); err != nil || resp.StatusCode != http.StatusContinue {
			t.Fatalf("%s: %v, %v", step, resp, err)
		}
		_ = d.process.Process.Signal(os.Interrupt)
		fmt.Fprint(conn, s.Body)
		if resp, err := http.ReadResponse(answers, nil); err != nil || resp.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %v, %v", step, resp, err)
		}
		d.stop()
		if code := d.process.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s: the exit code is %d", step, code)
		}
	}
}

// A client secret left in the environment is not used, and the log says so.
func TestUnusedSecretIsReported(t *testing.T) {
	for _, test := range []struct {
		getenv   func(string) string
		reported bool
	}{
		{complete("AZURE_CLIENT_SECRET", canarySecret), true},
		{complete(), false},
		{complete("VAULT_CREDENTIAL", "client-secret", "AZURE_CLIENT_SECRET", canarySecret, "AZURE_CLIENT_ID", clientID,
			"AZURE_TENANT_ID", tenantID), false},
	} {
		ctx, stop := context.WithCancel(t.Context())
		out := &azuresim.Buffer{}
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, []string{"unassign", "serve", "-listen", "127.0.0.1:0"}, test.getenv, nil, out, out)
		}()
		for !strings.Contains(out.String(), `"listening"`) {
			select {
			case err := <-ended:
				t.Fatal(err)
			case <-time.After(time.Millisecond):
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if reported := strings.Contains(out.String(), "AZURE_CLIENT_SECRET is set and not "+
			"used"); reported != test.reported || strings.Contains(out.String(), canarySecret) {
			t.Errorf("the log is %s", out.String())
		}
	}
}
