// Package functions is a double of the Azure Functions host for tests: it starts a custom handler, the real binary, as a
// process of its own, supervises it and hands it requests and invocations as the host does.
//
// The rules E1 to E23 in the comments are numbered as in the project's notes on the host's source (host 4.1037 of 2024 and, for
// proxying, of 2025). It differs from the host on purpose in these things:
//   - Of the parent's environment the worker gets PATH, HOME and TMPDIR alone, so that a test means what it says on every machine.
//   - A worker that is slow to answer GET /, redirects it, or does not answer within InitTimeout stops the host at once.
//   - An invocation that would hang until its time is up fails at once.
package functions

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
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
	ContentLength   bool          // give the body of an invocation a length, as under Core Tools, and do not send it in chunks
	InitTimeout     time.Duration // for the worker to listen; 0 means 30 s
	FunctionTimeout time.Duration // for a request or an invocation; 0 means 5 min
	ActivityTimeout time.Duration // for a proxied request without a byte in either direction; 0 means 240 s
	IdleTimeout     time.Duration // for a connection to the worker that is not used; 0 means 1 min
	Ping            time.Duration // GET / is sent so often while running; 0 means never
	Key             string        // opens functions whose authLevel is not anonymous
	MaxBody         int64         // bytes of a request's body; 0 means 104857600
}

// Line is a line of the log, with the level that the host gives it (E6).
type Line struct {
	Level        string // Information, Warning or Error
	Text         string
	Log          string // Console, or Host or Tooling where a prefix says so, or Function for what an invocation has answered
	InvocationID string // of what an invocation has answered; what the worker prints belongs to none
}

// Host is a running host with its worker.
type Host struct {
	URL string // of the front door

	app     *app
	options Options
	port    int
	server  *http.Server
	client  *http.Client
	ctx     context.Context // ends with the host; the cause says why
	stop    context.CancelCauseFunc

	mu       sync.Mutex
	worker   *worker
	crashes  []time.Time
	restarts int
	closed   bool // by Stop or Terminate: nothing is started any more
	lines    []Line
	drops    int
	last     string // the id of the last invocation
	running  sync.WaitGroup
}

// worker is one process.
type worker struct {
	cmd      *exec.Cmd
	ready    chan struct{} // closed when it has answered GET /
	ended    chan struct{} // closed when the process has ended
	replaced chan struct{} // closed when there is another in its place
	stderr   []string      // the lines; guarded by Host.mu
	killed   bool          // by the host, which starts another; guarded by Host.mu
}

// maxCrashes stop the host, each within crashWindow of the one before (E22).
const (
	maxCrashes  = 3
	crashWindow = 30 * time.Minute
)

// errClosed is why a host has ended that Stop has stopped.
var errClosed = errors.New("functions host: stopped")

// Start starts the worker of the app, waits until it answers, and opens the front door. It fails where the host would not
// come up.
func Start(ctx context.Context, o Options) (*Host, error) {
	a, err := load(o.AppDir)
	if err != nil {
		return nil, err
	}
	for option, value := range map[*time.Duration]time.Duration{
		&o.InitTimeout: 30 * time.Second, &o.FunctionTimeout: 5 * time.Minute, &o.ActivityTimeout: 240 * time.Second, &o.IdleTimeout: time.Minute,
	} {
		if *option == 0 {
			*option = value
		}
	}
	if o.MaxBody == 0 {
		o.MaxBody = 104857600
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	h := &Host{app: a, options: o, port: port}
	h.ctx, h.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	h.client = &http.Client{Transport: &http.Transport{ // E23
		DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 100, IdleConnTimeout: o.IdleTimeout,
	}}
	if a.forwarding { // E15
		h.client.CheckRedirect = noRedirect
	}
	h.mu.Lock()
	err = h.launch() //nolint:contextcheck // a worker outlives the start
	h.mu.Unlock()
	if err == nil {
		_, err = h.await(ctx)
	}
	if err != nil {
		h.Stop()
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		h.Stop()
		return nil, err
	}
	h.URL = "http://" + listener.Addr().String()
	h.server = &http.Server{
		Handler: http.HandlerFunc(h.serve), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return h.ctx },
	}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	if o.Ping > 0 {
		h.running.Go(h.ping)
	}
	return h, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// The ports that are picked from lie below those that systems give to whoever asks for any: between letting go of such a one and
// the worker's start, somebody else on a busy machine would get it, and be sent the worker's requests.
const (
	lowestPort  = 20000
	highestPort = 32767
)

// freePort picks a port as the host does: by binding and letting go of it (E3).
func freePort(ctx context.Context) (int, error) {
	var err error
	for range 100 {
		port := lowestPort + rand.IntN(highestPort-lowestPort+1) //nolint:gosec // any will do
		var listener net.Listener
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, err
}

// launch starts a worker, on the port that the host has had from the start (E3). The caller holds mu.
func (h *Host) launch() error {
	if h.closed {
		return errClosed
	}
	cmd := exec.Command(h.app.executable, h.app.arguments...) //nolint:gosec,noctx // the app's own; it ends by Stop
	cmd.Dir = h.app.dir
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	id := newID()
	cmd.Env = append(cmd.Env,
		fmt.Sprintf("FUNCTIONS_CUSTOMHANDLER_PORT=%d", h.port), "FUNCTIONS_CUSTOMHANDLER_WORKER_ID="+id,
		fmt.Sprintf("FUNCTIONS_HTTPWORKER_PORT=%d", h.port), "FUNCTIONS_HTTPWORKER_ID="+id,
		"FUNCTIONS_APP_ROOT_PATH="+h.app.dir)
	cmd.Env = append(cmd.Env, h.options.Env...)
	stdout, err1 := cmd.StdoutPipe()
	stderr, err2 := cmd.StderrPipe()
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("functions host: start worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("functions host: start worker: %w", err)
	}
	w := &worker{cmd: cmd, ready: make(chan struct{}), ended: make(chan struct{}), replaced: make(chan struct{})}
	if h.worker != nil {
		h.client.CloseIdleConnections() // which led to that one
		close(h.worker.replaced)
		h.restarts++
	}
	h.worker = w
	var streams sync.WaitGroup
	streams.Go(func() { h.capture(stdout, func(string) string { return "Information" }) })
	streams.Go(func() {
		h.capture(stderr, func(line string) string {
			h.mu.Lock()
			w.stderr = append(w.stderr, line)
			h.mu.Unlock()
			return stderrLevel(line)
		})
	})
	h.running.Go(func() {
		streams.Wait()
		_ = cmd.Wait()
		close(w.ended)
		h.exited(w)
	})
	h.running.Go(func() {
		if err := h.probe(w); err != nil {
			h.stop(err)
		}
	})
	return nil
}

func stderrLevel(line string) string {
	if strings.Contains(strings.ToLower(line), "warn") {
		return "Warning"
	}
	return "Error"
}

// capture logs what a worker prints, line by line (E6).
func (h *Host) capture(r io.Reader, level func(string) string) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			line := Line{Log: "Console", Text: strings.TrimRight(text, "\r\n")}
			line.Level = level(line.Text)
			for prefix, log := range map[string]string{"LanguageWorkerConsoleLog": "Host", "azfuncjsonlog:": "Tooling"} {
				if rest, ok := strings.CutPrefix(line.Text, prefix); ok {
					line.Text, line.Log = rest, log
					break
				}
			}
			h.mu.Lock()
			h.lines = append(h.lines, line)
			h.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// exited does what the host does about a worker that has ended (E20, E22).
func (h *Host) exited(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.ctx.Err() != nil {
		return
	}
	switch code := w.cmd.ProcessState.ExitCode(); {
	case w.killed || code == 200: // started again, and not counted
	case code == 0: // nothing: later invocations fail
		return
	default:
		now := time.Now()
		if n := len(h.crashes); n > 0 && now.Sub(h.crashes[n-1]) > crashWindow {
			h.crashes = nil
		}
		h.crashes = append(h.crashes, now)
		if len(h.crashes) == maxCrashes {
			words := w.stderr[max(0, len(w.stderr)-3):]
			h.stop(fmt.Errorf("functions host: exceeded the restarts of the worker; the host shuts down: %v: %s", w.cmd.ProcessState, strings.Join(words, ", ")))
			return
		}
	}
	if err := h.launch(); err != nil {
		h.stop(err)
	}
}

// probe asks a worker for / until it answers, whatever that is (E4). The double is stricter than the host in that the answer
// must come within a second and be no redirect. The error is why the host cannot go on; there is none when another worker
// takes the place of this one.
func (h *Host) probe(w *worker) error {
	ctx, cancel := context.WithTimeout(h.ctx, h.options.InitTimeout)
	defer cancel()
	for {
		start := time.Now()
		status, err := h.get(ctx)
		took := time.Since(start)
		switch {
		case err != nil:
		case took > time.Second:
			return fmt.Errorf("functions host: the worker took %v to answer GET /", took)
		case status/100 == 3:
			return fmt.Errorf("functions host: the worker answers GET / with %d", status)
		default:
			close(w.ready)
			return nil
		}
		select {
		case <-w.replaced:
			return nil
		case <-h.ctx.Done():
			return nil
		case <-ctx.Done():
			return errors.New("functions host: the worker did not answer in time; the host shuts down")
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// get sends GET / to the worker, reads the answer and returns its status.
func (h *Host) get(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.workerURL("/"), http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "") // and so none
	resp, err := h.client.Transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// await holds an invocation until the worker is ready, and returns that worker (E5).
func (h *Host) await(ctx context.Context) (*worker, error) {
	for {
		h.mu.Lock()
		w := h.worker
		h.mu.Unlock()
		select {
		case <-h.ctx.Done():
			return nil, context.Cause(h.ctx) //nolint:contextcheck // of the host, which has ended
		default:
		}
		select {
		case <-w.ready:
			select {
			case <-w.replaced:
			default:
				return w, nil
			}
		case <-w.replaced:
		case <-h.ctx.Done():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (h *Host) workerURL(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", h.port, path)
}

// ping asks for / now and then, and whatever comes is well (E5).
func (h *Host) ping() {
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-time.After(h.options.Ping):
		}
		_, _ = h.get(h.ctx)
	}
}

// kill ends a worker with all that it is doing; another is started on the same port (E20). Invocations are held from now on
// until that one is ready.
func (h *Host) kill(w *worker) {
	h.mu.Lock()
	select {
	case <-w.ended: // of itself
		h.mu.Unlock()
		return
	default:
	}
	w.killed = true
	_ = w.cmd.Process.Kill()
	h.mu.Unlock()
	select {
	case <-w.replaced:
	case <-h.ctx.Done():
	}
}

// Lines returns what the worker has printed so far, and its invocations have answered for the log.
func (h *Host) Lines() []Line {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// Restarts returns how often a worker was started again.
func (h *Host) Restarts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restarts
}

// Err returns why the host has stopped of itself, nil while it runs.
func (h *Host) Err() error {
	if err := context.Cause(h.ctx); !errors.Is(err, errClosed) {
		return err
	}
	return nil
}

// InvocationID returns the id of the last request or invocation that was handed to the worker.
func (h *Host) InvocationID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// newInvocation returns the id of a new one.
func (h *Host) newInvocation() string {
	id := newID()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = id
	return id
}

// DropNext makes the connection to the worker break after the next n requests have reached it, before their answers come
// back (E10).
func (h *Host) DropNext(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops = n
}

// Terminate sends the worker SIGTERM, which the host itself never does, and returns its exit code, -1 if the signal has ended
// it. No other worker is started.
func (h *Host) Terminate() int {
	h.mu.Lock()
	h.closed = true
	w := h.worker
	h.mu.Unlock()
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	<-w.ended
	return w.cmd.ProcessState.ExitCode()
}

// Stop ends the host, and the worker as the host does: by SIGKILL (E21). No process and no goroutine is left.
func (h *Host) Stop() {
	h.mu.Lock()
	h.closed = true
	w := h.worker
	h.mu.Unlock()
	h.stop(errClosed)
	if w != nil {
		_ = w.cmd.Process.Kill()
	}
	if h.server != nil {
		_ = h.server.Close()
	}
	h.running.Wait()
	h.client.CloseIdleConnections()
}
