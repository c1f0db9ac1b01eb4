// Package lambda is a double of AWS Lambda for tests: it starts a function, the real binary, as a process of its own and
// gives it invocations by the Runtime API (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), one at a time. It
// also makes the events that an HTTP API or a Function URL sends, and reads the answers as they do.
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

// Options are what a Host needs.
type Options struct {
	Binary  string
	Env     []string      // NAME=value, for the function; of the parent's environment it gets PATH, HOME and TMPDIR alone
	Timeout time.Duration // of the function; 0 means 28 s
	Init    time.Duration // for a process to ask for its first event; 0 means 10 s
}

// Error is a failure that the function has reported for an invocation.
type Error struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

// Result is the end of an invocation.
type Result struct {
	RequestID string
	Payload   []byte // what the function answered
	Error     *Error // what it reported instead
	TimedOut  bool   // it took too long, to start or to answer; its process was killed
	Exited    bool   // its process ended, or reported that it cannot start, before it answered
}

// Host is a function and what invokes it.
type Host struct {
	options Options
	address string
	server  *http.Server
	running sync.WaitGroup

	invoking sync.Mutex // one at a time

	mu         sync.Mutex
	process    *process
	current    *invocation // what the process is at work on
	lines      []string
	coldStarts int
	requests   int
	closed     bool // by Stop: nothing is started any more
}

// process is one process of the function.
type process struct {
	cmd       *exec.Cmd
	started   time.Time
	firstNext time.Duration    // guarded by Host.mu
	asked     chan struct{}    // closed when it has asked for an event
	ended     chan struct{}    // closed when it has ended
	failed    chan Error       // gets what it reports of its start
	events    chan *invocation // gets what it asks for
}

// invocation is one run of the function.
type invocation struct {
	id      string
	payload []byte
	timeout time.Duration
	result  chan Result
}

// Start opens the Runtime API. The function's process starts with the first invocation.
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
		h.finish(w, r, func(body []byte) Result { return Result{Payload: body} })
	})
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", func(w http.ResponseWriter, r *http.Request) {
		h.finish(w, r, func(body []byte) Result {
			failure := &Error{}
			_ = json.Unmarshal(body, failure) // what it cannot be read as is empty
			return Result{Error: failure}
		})
	})
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", h.initFailed)
	// A runtime that wants to hear of SIGTERM registers an extension of its own, which has no events here.
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Lambda-Extension-Identifier", "7c9aeb4e-3bb9-4d44-a4f4-0f1a4c6a9f55")
		_, _ = io.WriteString(w, "{}")
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	return h, nil
}

// next gives the process the next event, which it waits for. Its time begins now.
func (h *Host) next(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	p := h.process
	h.current = nil
	if p != nil && p.firstNext == 0 {
		p.firstNext = time.Since(p.started)
		close(p.asked)
	}
	h.mu.Unlock()
	if p == nil { // somebody else asks
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

// finish takes the end of the invocation that the process is at work on, and refuses that of any other.
func (h *Host) finish(w http.ResponseWriter, r *http.Request, result func([]byte) Result) {
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
	// The process may end, or ask for the next event, as soon as it has this.
	ended := result(body)
	ended.RequestID = e.id
	e.result <- ended
	w.WriteHeader(http.StatusAccepted)
}

// initFailed takes a process's word that it cannot start, which it can only say before it has asked for an event.
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
	_ = json.Unmarshal(body, &failure) // what it cannot be read as is empty
	select {
	case p.failed <- failure:
	default: // it has said so before
	}
	w.WriteHeader(http.StatusAccepted)
}

// Invoke invokes the function with payload and waits for the end. A process that has been killed or has ended is followed by
// a new one.
func (h *Host) Invoke(ctx context.Context, payload []byte) (Result, error) {
	h.invoking.Lock()
	defer h.invoking.Unlock()
	h.mu.Lock()
	h.requests++
	e := &invocation{
		id: fmt.Sprintf("8476a536-e9f4-11e8-9739-%012d", h.requests), payload: payload, timeout: h.options.Timeout, result: make(chan Result, 1),
	}
	h.mu.Unlock()
	p, end, err := h.ready(ctx)
	if p == nil {
		end.RequestID = e.id
		return end, err
	}
	timer := time.NewTimer(h.options.Init) // the function's own time begins when it has the event
	defer timer.Stop()
	for events := p.events; ; {
		select {
		case events <- e:
			events = nil // now there is the end to wait for alone
			timer.Reset(h.options.Timeout)
		case r := <-e.result:
			return r, nil
		case <-p.ended:
			if events != nil { // it has ended since the invocation before, and is not to blame for this one
				if p, end, err = h.ready(ctx); p == nil {
					end.RequestID = e.id
					return end, err
				}
				events = p.events
				break
			}
			select {
			case r := <-e.result: // it answered, and ended then
				return r, nil
			default:
			}
			return Result{RequestID: e.id, Exited: true}, nil
		case <-timer.C:
			p.kill()
			return Result{RequestID: e.id, TimedOut: true}, nil
		case <-ctx.Done():
			p.kill()
			return Result{RequestID: e.id}, ctx.Err()
		}
	}
}

// ready returns a process that has asked for an event and not ended since, or the end of the invocation that there is none for.
func (h *Host) ready(ctx context.Context) (*process, Result, error) {
	p, err := h.warm()
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
			p.kill()
		}
		return nil, Result{Error: &failure, Exited: true}, nil
	case <-p.ended:
		select {
		case <-p.asked:
			return p, Result{}, nil // and Invoke finds that it has ended
		case failure := <-p.failed:
			return nil, Result{Error: &failure, Exited: true}, nil
		default:
			return nil, Result{Exited: true}, nil
		}
	case <-limit.C:
		p.kill()
		return nil, Result{TimedOut: true}, nil
	case <-ctx.Done():
		p.kill()
		return nil, Result{}, ctx.Err()
	}
}

// shutdown is how long a process may live that has reported that it cannot start.
const shutdown = 500 * time.Millisecond

// warm returns the process, having started one if there is none.
func (h *Host) warm() (*process, error) {
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
	cmd := exec.Command(h.options.Binary) //nolint:gosec,noctx // the function's own; it ends by Stop
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env,
		"AWS_LAMBDA_RUNTIME_API="+h.address, "AWS_LAMBDA_FUNCTION_NAME=unassign", "AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256", "AWS_REGION=eu-west-1", "AWS_LAMBDA_LOG_FORMAT=JSON", "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"LAMBDA_TASK_ROOT=/var/task", "_HANDLER=bootstrap", "TZ=:UTC")
	cmd.Env = append(cmd.Env, h.options.Env...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w // Lambda has one stream
	p := &process{
		cmd: cmd, started: time.Now(), asked: make(chan struct{}), ended: make(chan struct{}), failed: make(chan Error, 1),
		events: make(chan *invocation),
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("lambda host: %w", err)
	}
	h.process, h.current = p, nil
	h.coldStarts++
	var output sync.WaitGroup
	output.Go(func() { h.capture(r) })
	h.running.Go(func() {
		_ = cmd.Wait()
		_ = w.Close()
		output.Wait()
		close(p.ended)
	})
	return p, nil
}

// capture keeps what a process prints, line by line.
func (h *Host) capture(r io.Reader) {
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

// kill ends a process and waits until it has.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Stop ends the process and the Runtime API. No process and no goroutine is left.
func (h *Host) Stop() {
	h.mu.Lock()
	h.closed = true
	p := h.process
	h.mu.Unlock()
	if p != nil {
		p.kill()
	}
	_ = h.server.Close()
	h.running.Wait()
}

// Lines returns what the function has printed so far.
func (h *Host) Lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// ColdStarts returns how many processes have been started.
func (h *Host) ColdStarts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.coldStarts
}

// PID returns the id of the process that is there, 0 for none.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return 0
	}
	return h.process.cmd.Process.Pid
}

// FirstNext returns how long the last process took from its start to its first question for an event.
func (h *Host) FirstNext() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return 0
	}
	return h.process.firstNext
}

// Answer is what a caller of an HTTP API or a Function URL gets.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// errMalformed is the end of a reply that a gateway cannot use.
var errMalformed = errors.New("lambda host: the reply is not of payload format 2.0")

// ReadAnswer makes the answer to a caller of what a function has replied to an event of payload format 2.0. A reply without a
// status is itself the body of a 200. Any other end is a 500, with a text of the gateway's own, and the error says why.
func ReadAnswer(r Result) (Answer, error) {
	failed := Answer{http.StatusInternalServerError, http.Header{"Content-Type": {"application/json"}}, []byte(`{"message":"Internal Server Error"}`)}
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

// Event returns the event of payload format 2.0 for a request, as an HTTP API sends it, and a Function URL does with other
// words in parts that nobody looks at: names of headers in lower case, values of one name joined by commas, cookies apart, and
// the body, if there is one, in base64 where that is asked for, as gateways do with what is no text.
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
			"accountId": "123456789012", "apiId": "api", "domainName": "api.execute-api.eu-west-1.amazonaws.com", "requestId": "JKJaXmPLvHcESHA=",
			"routeKey": "ANY " + path, "stage": "$default", "time": "23/Nov/2026:02:00:00 +0000", "timeEpoch": 1795399200000,
			"http": map[string]any{"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": header.Get("User-Agent")},
		},
		"isBase64Encoded": base64Encoded && len(body) > 0,
	}
	if cookies != nil {
		event["cookies"] = cookies
	}
	switch {
	case len(body) == 0: // the event has no such member
	case base64Encoded:
		event["body"] = base64.StdEncoding.EncodeToString(body)
	default:
		event["body"] = string(body)
	}
	return json.Marshal(event)
}
