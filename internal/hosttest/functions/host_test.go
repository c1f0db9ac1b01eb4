package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
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
	moved := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		reply(w, fmt.Sprintf(`{"ReturnValue":"%s with %d bytes"}`, r.Method, len(body)))
	}
	mux.HandleFunc("GET /moved", moved)
	mux.HandleFunc("POST /moved", moved)
	switch start {
	case "exits 0", "exits 1":
		os.Exit(int(start[6] - '0'))
	case "never listens":
		select {}
	case "prints":
		fmt.Println("to stdout, with an error")
		fmt.Fprintln(os.Stderr, "to stderr")
		fmt.Fprintln(os.Stderr, "a Warning to stderr")
		fmt.Println("LanguageWorkerConsoleLogfor the host")
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
	// A fixed buffer: a large one would hold an unread body.
	small := func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		return ctx
	}
	_ = (&http.Server{Handler: mux, ConnContext: small}).Serve(listener)
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
	case "exit 0", "exit 1", "exit 200":
		var code int
		_, _ = fmt.Sscanf(what, "exit %d", &code)
		os.Exit(code)
	}
}

// hostJSON is a host.json with more in customHandler.
func hostJSON(more string) string {
	return `{"version":"2.0","customHandler":{"description":{"defaultExecutablePath":"worker"}` + more + `}}`
}

const (
	proxying   = `,"enableProxyingHttpRequest":true,"enableForwardingHttpRequest":true`
	output     = `{"type":"http","direction":"out","name":"res"}`
	echoes     = `{"bindings":[{"type":"httpTrigger","direction":"in","name":"req","authLevel":"anonymous","route":"echo"},` + output + `]}`
	timer      = `{"type":"timerTrigger","direction":"in","name":"timer","schedule":"0 0 2 * * *"}`
	timerAlone = `{"bindings":[` + timer + `]}`
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

// start starts a host whose worker starts in that way, for an app with proxying, an HTTP function and a timer.
func start(t *testing.T, how string, o Options) (*Host, error) {
	t.Helper()
	if o.AppDir == "" {
		o.AppDir = newApp(t, hostJSON(proxying), map[string]string{"unassign": echoes, "sweep": timerAlone})
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
		"E22: an end with 0 before it listens": {"exits 0", 600 * time.Millisecond, "functions host: the worker did not answer in time; the host shuts down"},
		"E22: three ends with 1":               {"exits 1", 30 * time.Second, "functions host: exceeded the restarts of the worker; the host shuts down"},
		"E22: the last words of a worker":      {"exits 1 with a word", 30 * time.Second, "functions host: exceeded the restarts of the worker; the host shuts down: exit status 1: two, three, four"},
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

func TestStartWaitsForAWorkerThatListensLate(t *testing.T) { // E4, E5: a refused connection is no failure, any status is an answer
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
	dir := newApp(t, hostJSON(`,"x":1`), nil)
	// This worker is the shell: it prints its environment, and continues as the other worker.
	if err := os.Rename(filepath.Join(dir, "worker"), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "worker"), "#!/bin/sh\npwd\necho \"arguments: $# $1\"\nenv | sed 's/^/env: /'\nexec ./other\n")
	if err := os.Chmod(filepath.Join(dir, "worker"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "host.json"), `{"customHandler":{"description":{"defaultExecutablePath":"worker","arguments":["-only"]}}}`)
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
	if id := env["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"]; !isGUID(id) {
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

func isGUID(s string) bool {
	parts := strings.Split(s, "-")
	return len(s) == 36 && len(parts) == 5 && strings.Trim(s, "0123456789abcdef-") == "" && len(parts[0]) == 8 && len(parts[4]) == 12
}

func TestPingGoesOn(t *testing.T) { // E5
	t.Parallel()
	h := mustStart(t, "listens", Options{Ping: 10 * time.Millisecond})
	eventually(t, "/ is asked for again", func() bool { return h.printed("pinged") >= 3 })
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
		{"Information", "to stdout, with an error", "Console", ""},
		{"Error", "to stderr", "Console", ""},
		{"Warning", "a Warning to stderr", "Console", ""},
		{"Information", "for the host", "Host", ""},
		{"Error", "azfuncjsonlog:{}", "Console", ""},
		{"Information", strings.Repeat("x", 2<<20), "Console", ""},
		{"Information", "no end of linepinged map[]", "Console", ""},
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

// pid returns the id of the worker's process, by a request that is answered when there is a worker.
func pid(t *testing.T, h *Host) int {
	t.Helper()
	return call(t, h, http.MethodPost, "/api/echo", "x").seen(t).PID
}

func TestExit(t *testing.T) { // E22
	t.Parallel()
	t.Run("0 is not followed by another worker", func(t *testing.T) {
		t.Parallel()
		h := mustStart(t, "listens", Options{})
		w := h.worker
		call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "exit 0")
		<-w.ended
		if a := call(t, h, http.MethodPost, "/api/echo", "x"); a.status != http.StatusInternalServerError || h.Restarts() != 0 || h.Err() != nil {
			t.Errorf("status %d, %d restarts, %v; want 500 for ever", a.status, h.Restarts(), h.Err())
		}
		if _, err := h.Invoke(t.Context(), "sweep", nil); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("an invocation ends with %v; want a refused connection", err)
		}
	})
	t.Run("200 is followed by another worker as often as it comes, on the same port", func(t *testing.T) {
		t.Parallel()
		h := mustStart(t, "listens", Options{})
		port, before := h.port, pid(t, h)
		for i := range 4 {
			call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "exit 200")
			eventually(t, "there is another worker", func() bool { return h.Restarts() == i+1 })
		}
		if after := pid(t, h); after == before || h.port != port || h.Err() != nil {
			t.Errorf("worker %d, then %d, on ports %d and %d, %v", before, after, port, h.port, h.Err())
		}
	})
	t.Run("1 is followed by another worker twice, and the third time stops the host", func(t *testing.T) {
		t.Parallel()
		h := mustStart(t, "listens", Options{})
		for i := range 2 {
			if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "exit 1"); a.status != http.StatusInternalServerError {
				t.Errorf("the request that ended the worker has status %d, want 500", a.status)
			}
			eventually(t, "there is another worker", func() bool { return h.Restarts() == i+1 })
			pid(t, h) // E5: a request that comes meanwhile is held
		}
		_, _ = send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"), "X-Do", "exit 1")
		eventually(t, "the host stops", func() bool { return h.Err() != nil })
		eventually(t, "connections are refused", func() bool {
			_, err := send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"))
			return errors.Is(err, syscall.ECONNREFUSED)
		})
		if h.Restarts() != 2 {
			t.Errorf("%d restarts, want 2", h.Restarts())
		}
		if _, err := h.Invoke(t.Context(), "sweep", nil); err == nil || err.Error() != h.Err().Error() {
			t.Errorf("an invocation ends with %v, want %v", err, h.Err())
		}
	})
	t.Run("crashes more than half an hour apart are not added up", func(t *testing.T) {
		t.Parallel()
		h := mustStart(t, "listens", Options{})
		for i := range 4 {
			call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "exit 1")
			eventually(t, "there is another worker", func() bool { return h.Restarts() == i+1 })
			h.mu.Lock()
			for at := range h.crashes {
				h.crashes[at] = h.crashes[at].Add(-31 * time.Minute)
			}
			h.mu.Unlock()
		}
	})
}

func TestTerminateReturnsTheExitCode(t *testing.T) { // E21: ours, the host sends no SIGTERM
	t.Parallel()
	for how, want := range map[string]int{"ends by SIGTERM with 7": 7, "listens": -1} {
		h := mustStart(t, how, Options{})
		if got := h.End(syscall.SIGTERM); got != want || h.Restarts() != 0 {
			t.Errorf("a worker that %s: code %d, %d restarts; want %d and none", how, got, h.Restarts(), want)
		}
	}
}

func TestStopLeavesNothing(t *testing.T) { // E21: by SIGKILL, also in the middle of requests
	before := runtime.NumGoroutine()
	h := mustStart(t, "ends by SIGTERM with 7", Options{Ping: time.Millisecond})
	id := pid(t, h)
	hanging := make(chan struct{})
	go func() {
		defer close(hanging)
		_, _ = send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"), "X-Do", "hang")
	}()
	eventually(t, "a request hangs", func() bool { return h.printed("asked") == 1 })
	h.Stop()
	h.Stop() // once more is as well
	<-hanging
	if state := h.worker.cmd.ProcessState; !state.Sys().(syscall.WaitStatus).Signaled() || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the worker has ended with %v; want SIGKILL", state)
	}
	if err := syscall.Kill(id, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", id, err)
	}
	if _, err := h.Invoke(t.Context(), "sweep", nil); !errors.Is(err, errClosed) {
		t.Errorf("an invocation after Stop: %v", err)
	}
	if h.Err() != nil {
		t.Errorf("Stop is no failure: %v", h.Err())
	}
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func TestStopDuringARestartStartsNothing(t *testing.T) { // E21, E22
	t.Parallel()
	for range 5 {
		h := mustStart(t, "listens", Options{})
		w := h.worker
		go func() { _ = w.cmd.Process.Kill() }()
		h.Stop()
		h.mu.Lock()
		last := h.worker
		h.mu.Unlock()
		select {
		case <-last.ended:
		default:
			t.Error("a worker is left")
		}
	}
}

func TestWorkerWithoutTheRunBit(t *testing.T) { // E1
	t.Parallel()
	dir := newApp(t, strings.Replace(hostJSON(proxying), `"worker"`, `"host.json"`, 1), map[string]string{"unassign": echoes})
	h := mustStart(t, "listens", Options{AppDir: dir})
	if a := call(t, h, http.MethodPost, "/api/echo", "x"); a.status != http.StatusInternalServerError || a.body != "" {
		t.Errorf("%d %q; want 500", a.status, a.body)
	}
	if lines := h.Lines(); len(lines) != 1 || lines[0].Text != "Permission denied" {
		t.Errorf("the log has %v", lines)
	}
}

func TestStartFailsWithoutTheProgram(t *testing.T) { // E1: a name that is no file in the folder is looked for in PATH
	t.Parallel()
	dir := newApp(t, strings.Replace(hostJSON(""), "worker", "no-such-worker", 1), nil)
	if _, err := start(t, "listens", Options{AppDir: dir}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v; want %v", err, exec.ErrNotFound)
	}
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
