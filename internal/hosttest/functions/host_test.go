package functions

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain plays the worker when this binary is started as one.
func TestMain(m *testing.M) {
	if start := os.Getenv("WORKER_START"); start != "" {
		work(start)
	}
	os.Exit(m.Run())
}

// work listens as a custom handler does. The environment selects its start; the header X-Do selects its response
// to a request, and the member do of the payload its response to an invocation.
func work(start string) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("pinged %q\n", r.Header)
		switch start {
		case "redirects":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "is slow":
			time.Sleep(1200 * time.Millisecond)
		case "hangs":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	for _, path := range []string{"/api/", "/API/"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { do(w, r, r.Header.Get("X-Do")) })
	}
	mux.HandleFunc("POST /{function}", invoked)
	switch start {
	case "exits 0":
		os.Exit(0)
	case "never listens":
		select {}
	case "prints":
		fmt.Println("to stdout, with an error")
		fmt.Fprintln(os.Stderr, "to stderr")
		fmt.Fprintln(os.Stderr, "a Warning to stderr")
		fmt.Fprintln(os.Stderr, "azfuncjsonlog:{}")
		fmt.Println(strings.Repeat("x", 2<<20))
		fmt.Print("no end of line")
	case "ends by SIGTERM with 7":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		go func() {
			<-signals
			os.Exit(7)
		}()
	case "exits 1 with a word":
		for _, line := range []string{"one", "two", "three", "four"} {
			fmt.Fprintln(os.Stderr, line)
		}
		os.Exit(1)
	case "listens late":
		time.Sleep(300 * time.Millisecond)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = http.Serve(listener, mux)
}

// seen is a request as the worker received it.
type seen struct {
	Method, URI, Host, Body, Remote string
	Header                          http.Header
	Length                          int64
	PID                             int
}

func see(r *http.Request) seen {
	body, _ := io.ReadAll(r.Body)
	return seen{r.Method, r.RequestURI, r.Host, string(body), r.RemoteAddr, r.Header, r.ContentLength, os.Getpid()}
}

func do(w http.ResponseWriter, r *http.Request, what string) {
	switch what {
	case "":
		_ = json.NewEncoder(w).Encode(see(r))
	case "413":
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too large")
	case "413 in the end":
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too large")
	case "405":
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
	case "413 and gone": // without a moment for the sender
		conn, _, _ := w.(http.Hijacker).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")
		_ = conn.Close()
	case "204":
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, _ := w.(http.Hijacker).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\nX-Own: 1\r\n\r\n")
		_ = conn.Close()
	case "headers":
		h := w.Header()
		h.Add("X-Own", "1")
		h.Add("X-Own", "2")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Alt-Svc", "h2")
		h["Content-Type"] = nil
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "<html>")
	case "redirect":
		http.Redirect(w, r, "/api/elsewhere", http.StatusFound)
	case "break":
		fmt.Println("asked")
		conn, _, _ := w.(http.Hijacker).Hijack()
		_ = conn.Close()
	case "break in the middle":
		conn, _, _ := w.(http.Hijacker).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
		_ = conn.Close()
	case "hang":
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("asked with %d bytes\n", len(body))
		<-r.Context().Done()
		fmt.Println("canceled")
	case "slowly":
		time.Sleep(300 * time.Millisecond)
		fmt.Println("answered")
	case "stream": // each byte is answered when it has come
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		one := make([]byte, 1)
		for {
			if _, err := io.ReadFull(r.Body, one); err != nil {
				return
			}
			_, _ = w.Write(one)
			_ = control.Flush()
		}
	case "exit 1":
		os.Exit(1)
	}
}

// hostJSON is a host.json with more in customHandler.
func hostJSON(more string) string { return strings.TrimSuffix(plainHost, "}}") + more + "}}" }

const (
	plainHost  = `{"version":"2.0","customHandler":{"description":{"defaultExecutablePath":"worker"},"enableProxyingHttpRequest":true,"enableForwardingHttpRequest":true}}`
	output     = `{"type":"http","direction":"out","name":"res"}`
	echoes     = `{"bindings":[{"type":"httpTrigger","direction":"in","name":"req","authLevel":"anonymous","route":"echo"},` + output + `]}`
	timer      = `{"type":"timerTrigger","direction":"in","name":"timer","schedule":"0 0 2 * * *"}`
	timerAlone = `{"bindings":[` + timer + `,{"type":"queue","direction":"out","name":"seen"}]}`
)

// newApp makes a folder with host.json, the worker and functions.
func newApp(t *testing.T, host string, functions map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "worker")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "host.json"), host)
	for name, text := range functions {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "function.json"), text)
	}
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts a host whose worker starts in that way, for an app with an HTTP function and a timer.
func start(t *testing.T, how string, o Options) (*Host, error) {
	t.Helper()
	if o.AppDir == "" {
		o.AppDir = newApp(t, plainHost, map[string]string{"unassign": echoes, "sweep": timerAlone})
	}
	o.Env = append(o.Env, "WORKER_START="+how)
	h, err := Start(t.Context(), o)
	if err == nil {
		t.Cleanup(h.Stop)
	}
	return h, err
}

func mustStart(t *testing.T, how string, o Options) *Host {
	t.Helper()
	h, err := start(t, how, o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// eventually waits for something that is about to be.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("it did not come about that %s", what)
		}
	}
}

func (h *Host) printed(text string) int {
	n := 0
	for _, line := range h.Lines() {
		if strings.HasPrefix(line.Text, text) {
			n++
		}
	}
	return n
}

func TestStartFailsAsTheHostWould(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		how  string
		init time.Duration
		want string
	}{
		"E4: a redirect of /":                  {"redirects", 5 * time.Second, "functions host: the worker answers GET / with 302"},
		"E4: more than a second for /":         {"is slow", 5 * time.Second, "functions host: the worker took 1."},
		"E4: no answer to /":                   {"hangs", 600 * time.Millisecond, "functions host: the worker did not answer in time; the host shuts down"},
		"E4: nobody who listens":               {"never listens", 300 * time.Millisecond, "functions host: the worker did not answer in time; the host shuts down"},
		"E22: an end with 0 before it listens": {"exits 0", 30 * time.Second, "functions host: the worker has ended; the host shuts down: exit status 0"},
		"E22: the last words of a worker":      {"exits 1 with a word", 30 * time.Second, "functions host: the worker has ended; the host shuts down: exit status 1: two, three, four"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := start(t, test.how, Options{InitTimeout: test.init})
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("%v; want %s…", err, test.want)
			}
		})
	}
}

func TestStartWaitsForAWorkerThatListensLate(t *testing.T) { // E4: a refused connection is no failure, any status is an answer
	t.Parallel()
	begin := time.Now()
	h := mustStart(t, "listens late", Options{})
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("the front door was open after %v, before the worker was", took)
	}
	// The answer may be here before the line that was printed ahead of it.
	eventually(t, "/ has been asked for", func() bool { return h.printed("pinged") > 0 })
	if pings := h.printed("pinged"); pings != 1 {
		t.Errorf("%d requests for / before the host was up; want 1", pings)
	}
	if line := h.Lines()[0].Text; line != "pinged map[]" {
		t.Errorf("E4: GET / has headers of its own: %s", line)
	}
}

func TestWorkerGetsItsEnvironmentAndFolder(t *testing.T) { // E3
	t.Setenv("OF_THE_PARENT", "1")
	dir := newApp(t, plainHost, nil)
	// This worker is the shell: it prints its environment, and continues as the other worker.
	if err := os.Rename(filepath.Join(dir, "worker"), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "worker"), "#!/bin/sh\npwd\necho \"arguments: $# $1\"\nenv | sed 's/^/env: /'\nexec ./other\n")
	if err := os.Chmod(filepath.Join(dir, "worker"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "host.json"), strings.Replace(plainHost, `"worker"`, `"worker","arguments":["-only"]`, 1))
	h := mustStart(t, "listens", Options{AppDir: dir, Env: []string{"OWN=2"}})
	env := map[string]string{}
	var other []string
	for _, line := range h.Lines() {
		if text, ok := strings.CutPrefix(line.Text, "env: "); ok {
			name, value, _ := strings.Cut(text, "=")
			env[name] = value
		} else {
			other = append(other, line.Text)
		}
	}
	port := fmt.Sprint(h.port)
	for name, want := range map[string]string{
		"FUNCTIONS_CUSTOMHANDLER_PORT": port, "FUNCTIONS_HTTPWORKER_PORT": port, "FUNCTIONS_APP_ROOT_PATH": dir,
		"FUNCTIONS_HTTPWORKER_ID": env["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"], "OWN": "2", "PATH": os.Getenv("PATH"), "OF_THE_PARENT": "",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	if id := env["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"]; len(id) != 36 {
		t.Errorf("the worker's id is %q", id)
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(other) < 2 || (other[0] != dir && other[0] != resolved) || other[1] != "arguments: 1 -only" {
		t.Errorf("the worker prints %q; want its folder %s and one argument", other, dir)
	}
}

func TestLinesHaveTheLevelOfTheirStream(t *testing.T) { // E6
	t.Parallel()
	h := mustStart(t, "prints", Options{})
	h.End(syscall.SIGTERM)
	h.Stop()
	got := map[Line]bool{}
	for _, line := range h.Lines() {
		got[line] = true
	}
	for _, want := range []Line{
		{"Information", "to stdout, with an error"},
		{"Error", "to stderr"},
		{"Warning", "a Warning to stderr"},
		{"Error", "azfuncjsonlog:{}"},
		{"Information", strings.Repeat("x", 2<<20)},
		{"Information", "no end of linepinged map[]"},
	} {
		if !got[want] {
			t.Errorf("there is no line %.60v", want)
		}
		delete(got, want)
	}
	if len(got) > 0 {
		t.Errorf("there are other lines: %.200v", slices.Collect(maps.Keys(got)))
	}
}

func TestEndOfTheWorkerStopsTheHost(t *testing.T) { // E22
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	if a, err := send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"), "X-Do", "exit 1"); err == nil && a.status != http.StatusInternalServerError {
		t.Errorf("the request that ended the worker has status %d, want 500 or none", a.status)
	}
	eventually(t, "connections are refused", func() bool {
		_, err := send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"))
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	if _, err := h.Invoke(t.Context(), "sweep", nil, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("an invocation ends with %v; want a refused connection", err)
	}
}

func TestTerminateReturnsTheExitCode(t *testing.T) { // E21: ours, the host sends no SIGTERM
	t.Parallel()
	for how, want := range map[string]int{"ends by SIGTERM with 7": 7, "listens": -1} {
		h := mustStart(t, how, Options{})
		if got := h.End(syscall.SIGTERM); got != want {
			t.Errorf("a worker that %s: code %d; want %d", how, got, want)
		}
	}
}

func TestStopLeavesNothing(t *testing.T) { // E21: by SIGKILL, also in the middle of requests
	before := runtime.NumGoroutine()
	h := mustStart(t, "ends by SIGTERM with 7", Options{})
	id := h.WorkerPID()
	hanging := make(chan struct{})
	go func() {
		defer close(hanging)
		_, _ = send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"), "X-Do", "hang")
	}()
	eventually(t, "a request hangs", func() bool { return h.printed("asked") == 1 })
	h.Stop()
	h.Stop() // once more is as well
	<-hanging
	if state := h.worker.ProcessState; !state.Sys().(syscall.WaitStatus).Signaled() || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the worker has ended with %v; want SIGKILL", state)
	}
	if err := syscall.Kill(id, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", id, err)
	}
	if _, err := h.Invoke(t.Context(), "sweep", nil, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("an invocation after Stop: %v", err)
	}
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

// No process that starts meanwhile gets the port of a worker.
func TestFreePort(t *testing.T) {
	for range 50 {
		port, err := freePort(t.Context())
		if err != nil || port < lowestPort || port > highestPort {
			t.Fatalf("%d, %v", port, err)
		}
	}
}
