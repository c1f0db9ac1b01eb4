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
	"sync/atomic"
	"time"

	"autopilot-unassign/internal/guid"
)

// Mode is how a host passes requests to the worker, if host.json asks for proxying.
type Mode int

// The modes. The package comment tells how they differ.
const (
	Proxying Mode = iota
	EarlyProxying
	Forwarding
)

// Modes are all modes by their names, for tests that hold in each.
func Modes() map[string]Mode {
	return map[string]Mode{"proxying": Proxying, "early proxying": EarlyProxying, "forwarding": Forwarding}
}

// Options configure a Host.
type Options struct {
	AppDir          string        // the folder with host.json and the folders of functions
	Env             []string      // NAME=value, settings of the app, for the worker and the host
	Mode            Mode          // of requests
	CoreTools       bool          // the host is the Core Tools
	InitTimeout     time.Duration // for the worker to listen; 0 means 30 s
	FunctionTimeout time.Duration // for a request or an invocation; 0 means 5 min
	Grace           time.Duration // between FunctionTimeout and its effect; 0 means 2.4 s
	ActivityTimeout time.Duration // for a proxied request without a byte in either direction; 0 means 240 s
	IdleTimeout     time.Duration // for an idle connection to the worker; 0 means 1 min
	Ping            time.Duration // interval of GET / while running; 0 means never
	Keys            []string      // each opens functions whose authLevel is not anonymous
	MaxBody         int64         // bytes of a request's body; 0 means 104857600
}

// Line is a line of the log, with the level that the host gives it (E6).
type Line struct {
	Level        string // Information, Warning or Error
	Text         string
	Log          string // Console for the worker's output, Host by its prefix, Function for the Logs of an invocation
	InvocationID string // of Logs
}

// Host is a running host with its worker.
type Host struct {
	URL string // for callers

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
	closed   bool // by Stop or End
	lines    []Line
	drops    int
	last     string // id of the last request or invocation
	running  sync.WaitGroup

	outstanding atomic.Int64
	places      chan struct{} // of requests that run; nil means any number
}

// worker is one process.
type worker struct {
	cmd      *exec.Cmd
	ready    chan struct{} // closed when it has responded to GET /
	ended    chan struct{} // closed when the process has ended
	replaced chan struct{} // closed when another takes its place
	stderr   []string      // lines; guarded by Host.mu
	killed   bool          // by the host, which starts another; guarded by Host.mu
}

// maxCrashes stop the host, each within crashWindow of the one before (E22).
const (
	maxCrashes  = 3
	crashWindow = 30 * time.Minute
)

// errClosed is the cause of a host that was stopped.
var errClosed = errors.New("functions host: stopped")

// Start starts the worker of the app, waits until it responds, and listens for callers. It fails where the host
// would not start.
func Start(ctx context.Context, o Options) (*Host, error) {
	a, err := load(o.AppDir)
	if err != nil {
		return nil, err
	}
	for option, value := range map[*time.Duration]time.Duration{
		&o.InitTimeout: 30 * time.Second, &o.FunctionTimeout: 5 * time.Minute, &o.Grace: 2400 * time.Millisecond,
		&o.ActivityTimeout: 240 * time.Second, &o.IdleTimeout: time.Minute,
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
	if a.concurrent > 0 {
		h.places = make(chan struct{}, a.concurrent)
	}
	h.ctx, h.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	h.client = &http.Client{Transport: &http.Transport{ // E23
		DisableCompression: true, MaxIdleConnsPerHost: 100, IdleConnTimeout: o.IdleTimeout,
	}}
	if a.forwarding { // E15
		h.client.CheckRedirect = noRedirect
	}
	if a.runnable {
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
	} else {
		h.lines = []Line{{Level: "Error", Text: "Permission denied", Log: "Host"}} // E1
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		h.Stop()
		return nil, err
	}
	h.URL = "http://" + listener.Addr().String()
	h.server = &http.Server{
		Handler: http.HandlerFunc(h.serve), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 256 << 10,
		BaseContext: func(net.Listener) context.Context { return h.ctx },
	}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	h.running.Go(func() { // E22: the process ends
		<-h.ctx.Done()
		_ = h.server.Close()
	})
	if o.Ping > 0 {
		h.running.Go(h.ping)
	}
	return h, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// The range of ports lies below the ephemeral one: between the close and the worker's start, another process of a
// busy machine could get an ephemeral port.
const (
	lowestPort  = 20000
	highestPort = 32767
)

// freePort returns a free port, found by binding and closing (E3).
func freePort(ctx context.Context) (int, error) {
	var err error
	for range 100 {
		port := lowestPort + rand.IntN(highestPort-lowestPort+1) //nolint:gosec // no secret
		var listener net.Listener
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, err
}

// launch starts a worker on the host's port (E3). The caller holds mu.
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
	id := guid.New().String()
	cmd.Env = append(cmd.Env,
		fmt.Sprintf("FUNCTIONS_CUSTOMHANDLER_PORT=%d", h.port), "FUNCTIONS_CUSTOMHANDLER_WORKER_ID="+id,
		fmt.Sprintf("FUNCTIONS_HTTPWORKER_PORT=%d", h.port), "FUNCTIONS_HTTPWORKER_ID="+id,
		"FUNCTIONS_APP_ROOT_PATH="+h.app.dir)
	if h.options.CoreTools {
		cmd.Env = append(cmd.Env, "FUNCTIONS_CORETOOLS_ENVIRONMENT=true")
	}
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
		h.client.CloseIdleConnections() // to the worker before
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

// capture logs the output of a worker, line by line (E6).
func (h *Host) capture(r io.Reader, level func(string) string) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			line := Line{Log: "Console", Text: strings.TrimRight(text, "\r\n")}
			line.Level = level(line.Text)
			if rest, ok := strings.CutPrefix(line.Text, "LanguageWorkerConsoleLog"); ok {
				line.Text, line.Log = rest, "Host"
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

// exited restarts a worker that has ended, or stops the host (E20, E22).
func (h *Host) exited(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.ctx.Err() != nil {
		return
	}
	switch code := w.cmd.ProcessState.ExitCode(); {
	case w.killed || code == 200: // no crash
	case code == 0:
		return
	default:
		now := time.Now()
		if n := len(h.crashes); n > 0 && now.Sub(h.crashes[n-1]) > crashWindow {
			h.crashes = nil
		}
		h.crashes = append(h.crashes, now)
		if len(h.crashes) == maxCrashes {
			words := w.stderr[max(0, len(w.stderr)-3):]
			h.stop(fmt.Errorf("functions host: exceeded the restarts of the worker; the host shuts down: %v: %s",
				w.cmd.ProcessState, strings.Join(words, ", ")))
			return
		}
	}
	if err := h.launch(); err != nil {
		h.stop(err)
	}
}

// probe sends GET / to a worker until it responds (E4). The double wants the response within a second, and no
// redirect. An error stops the host.
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

// get sends GET / to the worker and returns the status.
func (h *Host) get(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.workerURL("/"), http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "") // sends none
	resp, err := h.client.Transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// errPermission is the error of every request to a worker that cannot be started (E1).
var errPermission = errors.New("functions host: start worker: permission denied")

// await returns the worker once it is ready (E5).
func (h *Host) await(ctx context.Context) (*worker, error) {
	if !h.app.runnable {
		return nil, errPermission
	}
	for {
		h.mu.Lock()
		w := h.worker
		h.mu.Unlock()
		select {
		case <-h.ctx.Done():
			return nil, context.Cause(h.ctx) //nolint:contextcheck // the host's
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

// ping sends GET / at intervals and ignores the response (E5).
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

// kill ends a worker and waits for another to take its place (E20).
func (h *Host) kill(w *worker) {
	h.mu.Lock()
	select {
	case <-w.ended:
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

// Lines returns the output of the worker and the Logs of invocations so far.
func (h *Host) Lines() []Line {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// Restarts returns the number of restarts of the worker.
func (h *Host) Restarts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restarts
}

// Err returns the reason of a host that has ended by itself, nil while it runs.
func (h *Host) Err() error {
	if err := context.Cause(h.ctx); !errors.Is(err, errClosed) {
		return err
	}
	return nil
}

// InvocationID returns the id of the last request or invocation.
func (h *Host) InvocationID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// newInvocation returns a new id.
func (h *Host) newInvocation() string {
	id := guid.New().String()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = id
	return id
}

// DropNext breaks the connection to the worker during the next n requests, before their responses arrive (E10).
func (h *Host) DropNext(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops = n
}

// WorkerPID returns the process id of the worker.
func (h *Host) WorkerPID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.worker.cmd.Process.Pid
}

// End sends the worker a signal, which the host never does, and returns the exit code, -1 for an end by the signal.
// No other worker is started.
func (h *Host) End(signal os.Signal) int {
	h.mu.Lock()
	h.closed = true
	w := h.worker
	h.mu.Unlock()
	_ = w.cmd.Process.Signal(signal)
	<-w.ended
	return w.cmd.ProcessState.ExitCode()
}

// Stop ends the host, and the worker by SIGKILL (E21). It leaves no process and no goroutine.
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
