// Package functionshost is a double of the Azure Functions host for tests: it starts a custom handler, the real binary, as a
// process of its own, supervises it and hands it requests and invocations as the host does.
//
// The rules E1 to E23 in the comments are numbered as in the project's notes on the host's source (host 4.1037 of 2024 and, for
// proxying, of 2025). It differs from the host on purpose in one thing: of the parent's environment the worker gets PATH, HOME
// and TMPDIR alone, so that a test means what it says on every machine.
package functionshost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options are what a Host needs.
type Options struct {
	AppDir          string        // the folder with host.json and the folders of functions
	Env             []string      // NAME=value, for the worker
	Forwarding      bool          // hand on requests as hosts before 2025 did, though host.json asks for proxying
	InitTimeout     time.Duration // for the worker to listen; 0 means 30 s
	FunctionTimeout time.Duration // for an invocation that is no request; 0 means 5 min
	Ping            time.Duration // GET / is sent so often while running; 0 means never
	Key             string        // opens functions whose authLevel is function
}

// Line is a line that the worker has printed, with the level that the host gives it (E6).
type Line struct {
	Level string // Information, Warning or Error
	Text  string
}

// Host is a running host with its worker.
type Host struct {
	URL string // of the front door

	app     *app
	options Options
	port    int
	server  *http.Server
	client  *http.Client

	mu       sync.Mutex
	worker   *exec.Cmd
	ended    chan struct{} // closed when worker has ended
	crashes  []time.Time
	restarts int
	stopped  error // why the host has stopped, nil while it runs
	stopping bool
	lines    []Line
	drops    int
	last     string // the id of the last invocation
	running  sync.WaitGroup
	quit     chan struct{}
}

// maxCrashes stop the host, each within crashWindow of the one before (E22).
const (
	maxCrashes  = 3
	crashWindow = 30 * time.Minute
)

// Start starts the worker of the app, waits until it answers, and opens the front door. It fails where the host would not
// come up.
func Start(ctx context.Context, o Options) (*Host, error) {
	a, err := load(o.AppDir)
	if err != nil {
		return nil, err
	}
	if o.InitTimeout == 0 {
		o.InitTimeout = 30 * time.Second
	}
	if o.FunctionTimeout == 0 {
		o.FunctionTimeout = 5 * time.Minute
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	h := &Host{app: a, options: o, port: port, quit: make(chan struct{})}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute} // E23
	h.client = &http.Client{Transport: transport}
	if a.forwarding { // E15
		h.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	if err := h.launch(); err != nil {
		return nil, err
	}
	if err := h.ready(ctx); err != nil {
		h.Stop()
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		h.Stop()
		return nil, err
	}
	h.URL = "http://" + listener.Addr().String()
	h.server = &http.Server{Handler: http.HandlerFunc(h.frontDoor), ReadHeaderTimeout: 10 * time.Second}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	if o.Ping > 0 {
		h.running.Go(h.ping)
	}
	return h, nil
}

// freePort picks a port as the host does: by binding and letting go of it (E3).
func freePort(ctx context.Context) (int, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	_, text, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return 0, err
	}
	port, err := strconv.Atoi(text)
	return port, errors.Join(err, listener.Close())
}

// launch starts a worker, on the port that the host has had from the start (E3).
func (h *Host) launch() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	cmd := exec.Command(h.app.executable, h.app.arguments...) //nolint:gosec,noctx // the app's own; it ends by Stop
	cmd.Dir = h.app.dir
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+os.Getenv(name))
	}
	id := newID()
	cmd.Env = append(cmd.Env,
		fmt.Sprintf("FUNCTIONS_CUSTOMHANDLER_PORT=%d", h.port), "FUNCTIONS_CUSTOMHANDLER_WORKER_ID="+id,
		fmt.Sprintf("FUNCTIONS_HTTPWORKER_PORT=%d", h.port), "FUNCTIONS_HTTPWORKER_ID="+id,
		"FUNCTIONS_APP_ROOT_PATH="+h.app.dir)
	cmd.Env = append(cmd.Env, h.options.Env...)
	stdout, err1 := cmd.StdoutPipe()
	stderr, err2 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return fmt.Errorf("functionshost: start worker: %w", err)
	}
	ended := make(chan struct{})
	h.worker, h.ended = cmd, ended
	var streams sync.WaitGroup
	streams.Go(func() { h.capture(stdout, stdoutLevel) })
	streams.Go(func() { h.capture(stderr, stderrLevel) })
	h.running.Go(func() {
		streams.Wait()
		_ = cmd.Wait()
		h.exited(cmd.ProcessState)
		close(ended)
	})
	return nil
}

func stdoutLevel(string) string { return "Information" }

func stderrLevel(line string) string {
	if strings.Contains(strings.ToLower(line), "warn") {
		return "Warning"
	}
	return "Error"
}

func (h *Host) capture(r io.Reader, level func(string) string) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := strings.TrimPrefix(lines.Text(), "LanguageWorkerConsoleLog")
		h.mu.Lock()
		h.lines = append(h.lines, Line{level(text), text})
		h.mu.Unlock()
	}
}

// exited does what the host does about a worker that has ended (E22).
func (h *Host) exited(state *os.ProcessState) {
	h.mu.Lock()
	if h.stopping || h.stopped != nil {
		h.mu.Unlock()
		return
	}
	again := false
	switch state.ExitCode() {
	case 0: // nothing: later invocations fail
	case 200:
		again = true
	default:
		now := time.Now()
		if n := len(h.crashes); n > 0 && now.Sub(h.crashes[n-1]) > crashWindow {
			h.crashes = nil
		}
		h.crashes = append(h.crashes, now)
		again = len(h.crashes) < maxCrashes
		if !again {
			h.stopped = errors.New("exceeded the restarts of the worker; the host shuts down")
		}
	}
	if again {
		h.restarts++
	}
	h.mu.Unlock()
	if again {
		_ = h.launch()
	}
}

// ready asks the worker for / until it answers, whatever that is (E4). The double is stricter than the host in that the answer
// must come within a second and be no redirect.
func (h *Host) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.options.InitTimeout)
	defer cancel()
	probe := &http.Client{Transport: h.client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for {
		start := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.workerURL("/"), nil)
		if err != nil {
			return err
		}
		resp, err := probe.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			switch took := time.Since(start); {
			case took > time.Second:
				return fmt.Errorf("functionshost: the worker took %v to answer GET /", took)
			case resp.StatusCode/100 == 3:
				return fmt.Errorf("functionshost: the worker answers GET / with %s", resp.Status)
			}
			return nil
		}
		if err := h.Err(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("functionshost: the worker did not answer in time; the host shuts down")
		case <-time.After(25 * time.Millisecond):
		}
	}
}

func (h *Host) workerURL(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", h.port, path) }

// ping asks for / now and then (E5).
func (h *Host) ping() {
	for {
		select {
		case <-h.quit:
			return
		case <-time.After(h.options.Ping):
		}
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, h.workerURL("/"), nil)
		if err != nil {
			return
		}
		if resp, err := h.client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
}

// Lines returns what the worker has printed so far.
func (h *Host) Lines() []Line {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Line(nil), h.lines...)
}

// Restarts returns how often a worker was started again.
func (h *Host) Restarts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restarts
}

// Err returns why the host has stopped of itself, nil while it runs.
func (h *Host) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopped
}

// InvocationID returns the id of the last request or invocation that was handed to the worker.
func (h *Host) InvocationID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// DropNext makes the connection to the worker break after the next n requests have reached it, before their answers come
// back (E10).
func (h *Host) DropNext(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops = n
}

// Terminate sends the worker SIGTERM, which the host itself never does, and returns its exit code.
func (h *Host) Terminate() int {
	h.mu.Lock()
	h.stopping = true
	worker, ended := h.worker, h.ended
	h.mu.Unlock()
	_ = worker.Process.Signal(syscall.SIGTERM)
	<-ended
	return worker.ProcessState.ExitCode()
}

// Stop ends the host, and the worker as the host does: by SIGKILL (E21). No process and no goroutine is left.
func (h *Host) Stop() {
	h.mu.Lock()
	h.stopping = true
	worker := h.worker
	h.mu.Unlock()
	select {
	case <-h.quit:
	default:
		close(h.quit)
	}
	if h.server != nil {
		_ = h.server.Close()
	}
	_ = worker.Process.Kill()
	h.running.Wait()
	h.client.CloseIdleConnections()
}
