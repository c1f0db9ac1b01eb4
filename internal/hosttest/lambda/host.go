package lambda

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options configure a Host.
type Options struct {
	Binary  string
	Env     []string      // NAME=value, for the function
	Timeout time.Duration // of the function; 0 means 28 s
	Init    time.Duration // until the first /next; 0 means 10 s
}

// Error is the failure of an invocation as the function reports it.
type Error struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

// Result is the end of an invocation.
type Result struct {
	RequestID string
	Payload   []byte // the reply of the function
	Error     *Error // its failure instead
	TimedOut  bool   // the start or the invocation took too long, and the process was killed
	Exited    bool   // the process ended, or reported a failed start
}

// Host is a function with its Runtime API.
type Host struct {
	options Options
	address string
	server  *http.Server
	running sync.WaitGroup

	invoking sync.Mutex // one at a time

	mu         sync.Mutex
	process    *process
	current    *invocation // of the process
	lines      []string
	coldStarts int
	requests   int
	closed     bool // by Stop
}

// process is one process of the function.
type process struct {
	cmd       *exec.Cmd
	started   time.Time
	firstNext time.Duration    // guarded by Host.mu
	asked     chan struct{}    // closed at the first /next
	ended     chan struct{}    // closed when it has ended
	failed    chan Error       // gets the failure of its start
	events    chan *invocation // gets its next event
}

// invocation is one run of the function.
type invocation struct {
	id      string
	payload []byte
	timeout time.Duration
	result  chan Result
}

// Start opens the Runtime API. The first invocation starts a process (L3).
func Start(ctx context.Context, o Options) (*Host, error) {
	if o.Timeout == 0 {
		o.Timeout = 28 * time.Second
	}
	if o.Init == 0 {
		o.Init = 10 * time.Second
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("lambda host: %w", err)
	}
	h := &Host{options: o, address: listener.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", h.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", func(w http.ResponseWriter, r *http.Request) {
		h.finishInvocation(w, r, func(body []byte) Result { return Result{Payload: body} })
	})
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", func(w http.ResponseWriter, r *http.Request) {
		h.finishInvocation(w, r, func(body []byte) Result {
			failure := &Error{}
			_ = json.Unmarshal(body, failure) // left empty if it is no JSON
			return Result{Error: failure}
		})
	})
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", h.initFailed)
	// L7: a runtime that listens for SIGTERM registers an extension.
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Lambda-Extension-Identifier", "7c9aeb4e-3bb9-4d44-a4f4-0f1a4c6a9f55")
		_, _ = io.WriteString(w, "{}")
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next",
		func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	return h, nil
}

// next responds with the next event, whose time begins now (L1).
func (h *Host) next(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	p := h.process
	h.current = nil
	if p != nil && p.firstNext == 0 {
		p.firstNext = time.Since(p.started)
		close(p.asked)
	}
	h.mu.Unlock()
	if p == nil { // a request by another process
		w.WriteHeader(http.StatusForbidden)
		return
	}
	select {
	case e := <-p.events:
		h.mu.Lock()
		h.current = e
		h.mu.Unlock()
		header := w.Header()
		header.Set("Lambda-Runtime-Aws-Request-Id", e.id)
		header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(e.timeout).UnixMilli(), 10))
		header.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:123456789012:function:unassign")
		header.Set("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0")
		header.Set("Content-Type", "application/json")
		_, _ = w.Write(e.payload)
	case <-r.Context().Done():
	case <-p.ended:
	}
}

// finishInvocation takes the end of the current invocation and refuses any other (L2).
func (h *Host) finishInvocation(w http.ResponseWriter, r *http.Request, result func([]byte) Result) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	e := h.current
	known := e != nil && e.id == r.PathValue("id")
	if known {
		h.current = nil
	}
	h.mu.Unlock()
	if !known {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	// The process may end, or ask for the next event, as soon as it has this response.
	ended := result(body)
	ended.RequestID = e.id
	e.result <- ended
	w.WriteHeader(http.StatusAccepted)
}

// initFailed takes the failure of a start, which a process can report only before its first /next (L5).
func (h *Host) initFailed(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	p := h.process
	tooLate := p == nil || p.firstNext != 0
	h.mu.Unlock()
	if tooLate {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	var failure Error
	_ = json.Unmarshal(body, &failure) // left empty if it is no JSON
	select {
	case p.failed <- failure:
	default: // reported before
	}
	w.WriteHeader(http.StatusAccepted)
}

// Invoke invokes the function with payload and waits for the end (L1 to L6).
func (h *Host) Invoke(ctx context.Context, payload []byte) (Result, error) {
	h.invoking.Lock()
	defer h.invoking.Unlock()
	h.mu.Lock()
	h.requests++
	e := &invocation{
		id: fmt.Sprintf("8476a536-e9f4-11e8-9739-%012d", h.requests), payload: payload, timeout: h.options.Timeout,
		result: make(chan Result, 1),
	}
	h.mu.Unlock()
	p, end, err := h.readyProcess(ctx)
	if p == nil {
		end.RequestID = e.id
		return end, err
	}
	timer := time.NewTimer(h.options.Init) // Timeout begins with the event
	defer timer.Stop()
	for events := p.events; ; {
		select {
		case events <- e:
			events = nil // sent
			timer.Reset(h.options.Timeout)
		case r := <-e.result:
			return r, nil
		case <-p.ended:
			if events != nil { // it ended after the invocation before
				if p, end, err = h.readyProcess(ctx); p == nil {
					end.RequestID = e.id
					return end, err
				}
				events = p.events
				break
			}
			select {
			case r := <-e.result: // it ended after its reply
				return r, nil
			default:
			}
			return Result{RequestID: e.id, Exited: true}, nil
		case <-timer.C:
			p.killProcess()
			return Result{RequestID: e.id, TimedOut: true}, nil
		case <-ctx.Done():
			p.killProcess()
			return Result{RequestID: e.id}, ctx.Err()
		}
	}
}

// readyProcess returns a process that waits for an event, or else the end of the invocation.
func (h *Host) readyProcess(ctx context.Context) (*process, Result, error) {
	p, err := h.warmProcess()
	if err != nil {
		return nil, Result{}, err
	}
	limit := time.NewTimer(h.options.Init)
	defer limit.Stop()
	select {
	case <-p.asked:
		return p, Result{}, nil
	case failure := <-p.failed:
		select {
		case <-p.ended:
		case <-time.After(shutdown):
			p.killProcess()
		}
		return nil, Result{Error: &failure, Exited: true}, nil
	case <-p.ended:
		select {
		case <-p.asked:
			return p, Result{}, nil // Invoke finds the end
		case failure := <-p.failed:
			return nil, Result{Error: &failure, Exited: true}, nil
		default:
			return nil, Result{Exited: true}, nil
		}
	case <-limit.C:
		p.killProcess()
		return nil, Result{TimedOut: true}, nil
	case <-ctx.Done():
		p.killProcess()
		return nil, Result{}, ctx.Err()
	}
}

// shutdown is the time between a failed start and the kill (L5).
const shutdown = 500 * time.Millisecond

// warmProcess returns the process, a new one if there is none.
func (h *Host) warmProcess() (*process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errors.New("lambda host: stopped")
	}
	if h.process != nil {
		select {
		case <-h.process.ended:
		default:
			return h.process, nil
		}
	}
	cmd := exec.Command(h.options.Binary) //nolint:gosec,noctx // it ends by Stop
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env,
		"AWS_LAMBDA_RUNTIME_API="+h.address, "AWS_LAMBDA_FUNCTION_NAME=unassign", "AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256", "AWS_REGION=eu-west-1", "AWS_LAMBDA_LOG_FORMAT=JSON",
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"LAMBDA_TASK_ROOT=/var/task", "_HANDLER=bootstrap", "TZ=:UTC")
	cmd.Env = append(cmd.Env, h.options.Env...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w // L8
	p := &process{
		cmd: cmd, started: time.Now(), asked: make(chan struct{}), ended: make(chan struct{}),
		failed: make(chan Error, 1),
		events: make(chan *invocation),
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("lambda host: %w", err)
	}
	h.process, h.current = p, nil
	h.coldStarts++
	var output sync.WaitGroup
	output.Go(func() { h.captureOutput(r) })
	h.running.Go(func() {
		_ = cmd.Wait()
		_ = w.Close()
		output.Wait()
		close(p.ended)
	})
	return p, nil
}

// captureOutput keeps the output of a process, line by line (L8).
func (h *Host) captureOutput(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			h.mu.Lock()
			h.lines = append(h.lines, strings.TrimRight(text, "\r\n"))
			h.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// killProcess ends a process and waits for its end.
func (p *process) killProcess() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Stop ends the process and the Runtime API. It leaves no process and no goroutine.
func (h *Host) Stop() {
	h.mu.Lock()
	h.closed = true
	p := h.process
	h.mu.Unlock()
	if p != nil {
		p.killProcess()
	}
	_ = h.server.Close()
	h.running.Wait()
}

// Lines returns the output of the function so far.
func (h *Host) Lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// ColdStarts returns the number of processes started.
func (h *Host) ColdStarts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.coldStarts
}

// PID returns the id of the current process, 0 for none.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return 0
	}
	return h.process.cmd.Process.Pid
}

// FirstNext returns the time between the start of the last process and its first /next.
func (h *Host) FirstNext() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return 0
	}
	return h.process.firstNext
}

// Answer is the response to a caller of an HTTP API or a Function URL.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// errMalformed is the error of a reply that a gateway cannot use.
var errMalformed = errors.New("lambda host: the reply is not of payload format 2.0")

// ReadAnswer returns the caller's response for the result of an event of payload format 2.0 (L9). An error gives the
// reason of a 500 of the gateway's own.
func ReadAnswer(r Result) (Answer, error) {
	failed := Answer{
		http.StatusInternalServerError,
		http.Header{"Content-Type": {"application/json"}},
		[]byte(`{"message":"Internal Server Error"}`),
	}
	if r.Payload == nil {
		return failed, fmt.Errorf("lambda host: no reply: %+v", r)
	}
	var status struct{ StatusCode json.RawMessage }
	err := json.Unmarshal(r.Payload, &status)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !ok {
		return failed, errMalformed
	}
	if status.StatusCode == nil { // no object, or one without it
		return Answer{http.StatusOK, http.Header{"Content-Type": {"application/json"}}, r.Payload}, nil
	}
	var reply struct {
		StatusCode      int
		Headers         map[string]string
		Body            string
		IsBase64Encoded bool
		Cookies         []string
	}
	if json.Unmarshal(r.Payload, &reply) != nil || reply.StatusCode < 100 || reply.StatusCode > 599 {
		return failed, errMalformed
	}
	a := Answer{reply.StatusCode, http.Header{}, []byte(reply.Body)}
	if reply.IsBase64Encoded {
		body, err := base64.StdEncoding.DecodeString(reply.Body)
		if err != nil {
			return failed, errMalformed
		}
		a.Body = body
	}
	for name, value := range reply.Headers {
		a.Header.Set(name, value)
	}
	for _, cookie := range reply.Cookies {
		a.Header.Add("Set-Cookie", cookie)
	}
	return a, nil
}

// Event returns the event of payload format 2.0 for a request (L9). The body is in base64 if base64Encoded is set,
// as gateways send it if it is no text.
func Event(method, target string, header http.Header, body []byte, base64Encoded bool) ([]byte, error) {
	path, query, _ := strings.Cut(target, "?")
	headers := map[string]string{}
	var cookies []string
	for name, values := range header {
		if http.CanonicalHeaderKey(name) != "Cookie" {
			headers[strings.ToLower(name)] = strings.Join(values, ",")
			continue
		}
		for _, value := range values {
			cookies = append(cookies, strings.Split(value, "; ")...)
		}
	}
	event := map[string]any{
		"version": "2.0", "routeKey": "ANY " + path, "rawPath": path, "rawQueryString": query, "headers": headers,
		"requestContext": map[string]any{
			"accountId": "123456789012", "apiId": "api", "domainName": "api.execute-api.eu-west-1.amazonaws.com",
			"requestId": "JKJaXmPLvHcESHA=",
			"routeKey":  "ANY " + path, "stage": "$default", "time": "23/Nov/2026:02:00:00 +0000",
			"timeEpoch": 1795399200000,
			"http": map[string]any{
				"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1",
				"userAgent": header.Get("User-Agent"),
			},
		},
		"isBase64Encoded": base64Encoded && len(body) > 0,
	}
	if cookies != nil {
		event["cookies"] = cookies
	}
	switch {
	case len(body) == 0: // no such member
	case base64Encoded:
		event["body"] = base64.StdEncoding.EncodeToString(body)
	default:
		event["body"] = string(body)
	}
	return json.Marshal(event)
}
