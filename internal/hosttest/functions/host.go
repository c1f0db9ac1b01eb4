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
	"net/http/httputil"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"autopilot-unassign/internal/guid"
)

// Mode is how a host passes requests to the worker.
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
	AppDir      string        // the folder with host.json and the folders of functions
	Env         []string      // NAME=value, settings of the app, for the worker and the host
	Mode        Mode          // of requests
	CoreTools   bool          // the host is the Core Tools
	InitTimeout time.Duration // for the worker to listen; 0 means 30 s
	IdleTimeout time.Duration // for an idle connection to the worker; 0 means 1 min
}

// Line is a line of the worker's output, with the level that the host gives it (E6).
type Line struct {
	Level string // Information, Warning or Error
	Text  string
}

// Host is a running host with its worker.
type Host struct {
	URL string // for callers

	app     *app
	options Options
	port    int
	server  *http.Server
	client  *http.Client
	proxy   *httputil.ReverseProxy
	ctx     context.Context // ends with the host; the cause says why
	stop    context.CancelCauseFunc
	worker  *exec.Cmd
	ended   chan struct{} // closed when the worker has ended
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool // by Stop or End
	lines  []Line
	drops  int
	last   string // id of the last request or invocation

	outstanding atomic.Int64
	places      chan struct{} // of requests that run; nil means any number
}

// errClosed is the cause of a host that was stopped.
var errClosed = errors.New("functions host: stopped")

// Start starts the worker of the app, waits until it responds, and listens for callers. It fails where the host
// would not start.
func Start(ctx context.Context, o Options) (*Host, error) {
	a, err := load(o.AppDir)
	if err != nil {
		return nil, err
	}
	if o.InitTimeout == 0 {
		o.InitTimeout = 30 * time.Second
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = time.Minute
	}
	h := &Host{app: a, options: o, ended: make(chan struct{})}
	if a.concurrent > 0 {
		h.places = make(chan struct{}, a.concurrent)
	}
	h.ctx, h.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	h.client = &http.Client{
		Transport: &http.Transport{ // E23
			DisableCompression: true, MaxIdleConnsPerHost: 100, IdleConnTimeout: o.IdleTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // E15
	}
	h.proxy = h.newProxy()
	if err := h.startWorker(ctx); err != nil {
		return nil, err
	}
	if err := h.probe(ctx); err != nil {
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
		Handler: http.HandlerFunc(h.serve), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 256 << 10,
		BaseContext: func(net.Listener) context.Context { return h.ctx },
	}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	h.running.Go(func() {
		<-h.ctx.Done()
		_ = h.server.Close()
	})
	return h, nil
}

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

// startWorker starts the worker on a free port (E3).
func (h *Host) startWorker(ctx context.Context) error {
	var err error
	if h.port, err = freePort(ctx); err != nil {
		return err
	}
	h.worker = exec.Command(h.app.executable, h.app.arguments...) //nolint:gosec,noctx // the app's own; it ends by Stop
	h.worker.Dir = h.app.dir
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			h.worker.Env = append(h.worker.Env, name+"="+value)
		}
	}
	id := guid.New().String()
	h.worker.Env = append(h.worker.Env,
		fmt.Sprintf("FUNCTIONS_CUSTOMHANDLER_PORT=%d", h.port), "FUNCTIONS_CUSTOMHANDLER_WORKER_ID="+id,
		fmt.Sprintf("FUNCTIONS_HTTPWORKER_PORT=%d", h.port), "FUNCTIONS_HTTPWORKER_ID="+id,
		"FUNCTIONS_APP_ROOT_PATH="+h.app.dir)
	if h.options.CoreTools {
		h.worker.Env = append(h.worker.Env, "FUNCTIONS_CORETOOLS_ENVIRONMENT=true")
	}
	h.worker.Env = append(h.worker.Env, h.options.Env...)
	stdout, err1 := h.worker.StdoutPipe()
	stderr, err2 := h.worker.StderrPipe()
	if err := errors.Join(err1, err2, h.worker.Start()); err != nil {
		return fmt.Errorf("functions host: start worker: %w", err)
	}
	var words []string // of stderr
	var streams sync.WaitGroup
	streams.Go(func() { h.capture(stdout, func(string) string { return "Information" }) })
	streams.Go(func() {
		h.capture(stderr, func(line string) string {
			words = append(words, line)
			return stderrLevel(line)
		})
	})
	h.running.Go(func() {
		streams.Wait()
		_ = h.worker.Wait()
		close(h.ended)
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.closed {
			h.stop(fmt.Errorf("functions host: the worker has ended; the host shuts down: %v: %s", h.worker.ProcessState,
				strings.Join(words[max(0, len(words)-3):], ", ")))
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

// capture logs the output of the worker, line by line (E6).
func (h *Host) capture(r io.Reader, level func(string) string) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			text = strings.TrimRight(text, "\r\n")
			h.mu.Lock()
			h.lines = append(h.lines, Line{level(text), text})
			h.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// probe sends GET / to the worker until it responds (E4). The double wants the response within a second, and no
// redirect.
func (h *Host) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.options.InitTimeout)
	defer cancel()
	for {
		start := time.Now()
		status, err := h.pingWorker(ctx)
		took := time.Since(start)
		switch {
		case err != nil:
		case took > time.Second:
			return fmt.Errorf("functions host: the worker took %v to answer GET /", took)
		case status/100 == 3:
			return fmt.Errorf("functions host: the worker answers GET / with %d", status)
		default:
			return nil
		}
		select {
		case <-h.ctx.Done():
			return context.Cause(h.ctx) //nolint:contextcheck // the host's
		case <-ctx.Done():
			return errors.New("functions host: the worker did not answer in time; the host shuts down")
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// pingWorker sends GET / to the worker and returns the status.
func (h *Host) pingWorker(ctx context.Context) (int, error) {
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

func (h *Host) workerURL(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", h.port, path)
}

// Lines returns the output of the worker so far.
func (h *Host) Lines() []Line {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// InvocationID returns the id of the last request or invocation.
func (h *Host) InvocationID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// newInvocation returns a new id.
func (h *Host) newInvocation() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = guid.New().String()
	return h.last
}

// DropNext breaks the connection to the worker during the next n requests, before their responses arrive (E10).
func (h *Host) DropNext(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops = n
}

// WorkerPID returns the process id of the worker.
func (h *Host) WorkerPID() int { return h.worker.Process.Pid }

// End sends the worker a signal, which the host never does, and returns the exit code, -1 for an end by the signal.
func (h *Host) End(signal os.Signal) int {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	_ = h.worker.Process.Signal(signal)
	<-h.ended
	return h.worker.ProcessState.ExitCode()
}

// Stop ends the host, and the worker by SIGKILL (E21). It leaves no process and no goroutine.
func (h *Host) Stop() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop(errClosed)
	_ = h.worker.Process.Kill()
	if h.server != nil {
		_ = h.server.Close()
	}
	h.running.Wait()
	h.client.CloseIdleConnections()
}
