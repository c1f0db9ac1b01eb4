package lambda

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
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
}

// Host is a function with its Runtime API.
type Host struct {
	options  Options
	address  string
	server   *http.Server
	running  sync.WaitGroup
	asked    chan struct{}    // closed at the first /next
	ended    chan struct{}    // closed when the process has ended
	events   chan *invocation // gets the next event
	invoking sync.Mutex       // one at a time
	requests int

	mu        sync.Mutex
	cmd       *exec.Cmd // nil before the first invocation
	started   time.Time
	firstNext time.Duration
	current   *invocation
	lines     []string
}

// invocation is one run of the function.
type invocation struct {
	id      string
	payload []byte
	result  chan Result
}

// startLimit is the time for the start of a process (L5).
const startLimit = 10 * time.Second

// Start opens the Runtime API. The first invocation starts the process (L3).
func Start(ctx context.Context, o Options) (*Host, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("lambda host: %w", err)
	}
	o.Timeout = cmp.Or(o.Timeout, 28*time.Second)
	h := &Host{
		options: o, address: listener.Addr().String(),
		asked: make(chan struct{}), ended: make(chan struct{}), events: make(chan *invocation),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", h.sendEvent)
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
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	return h, nil
}

// waitForStart starts the process before the first invocation, and waits until it asks for its first event (L3, L5).
func (h *Host) waitForStart(ctx context.Context) error {
	if err := h.startProcess(); err != nil {
		return fmt.Errorf("lambda host: %w", err)
	}
	var err error
	select {
	case <-h.asked:
		return nil
	case <-h.ended:
		return h.describeEnd()
	case <-time.After(startLimit):
		err = fmt.Errorf("lambda host: no /next within %v", startLimit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	h.kill()
	return err
}

// describeEnd returns the error of a process that has ended (L6).
func (h *Host) describeEnd() error {
	return fmt.Errorf("lambda host: the process has ended: %v: %s", h.cmd.ProcessState, strings.Join(h.Lines(), "\n"))
}

// sendEvent responds with the next event, whose time begins now (L1).
func (h *Host) sendEvent(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.current = nil
	if h.firstNext == 0 {
		h.firstNext = time.Since(h.started)
		close(h.asked)
	}
	h.mu.Unlock()
	select {
	case e := <-h.events:
		h.mu.Lock()
		h.current = e
		h.mu.Unlock()
		header := w.Header()
		header.Set("Lambda-Runtime-Aws-Request-Id", e.id)
		header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(h.options.Timeout).UnixMilli(), 10))
		header.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:123456789012:function:unassign")
		header.Set("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0")
		header.Set("Content-Type", "application/json")
		_, _ = w.Write(e.payload)
	case <-r.Context().Done():
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

// Invoke invokes the function with payload and waits for the end (L1 to L6). Its error is the reason why there is none.
func (h *Host) Invoke(ctx context.Context, payload []byte) (Result, error) {
	h.invoking.Lock()
	defer h.invoking.Unlock()
	if err := h.waitForStart(ctx); err != nil {
		return Result{}, err
	}
	h.requests++
	e := &invocation{
		id: fmt.Sprintf("8476a536-e9f4-11e8-9739-%012d", h.requests), payload: payload, result: make(chan Result, 1),
	}
	select {
	case h.events <- e:
	case <-h.ended:
		return Result{}, h.describeEnd()
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	timer := time.NewTimer(h.options.Timeout)
	defer timer.Stop()
	var err error
	select {
	case r := <-e.result:
		return r, nil
	case <-h.ended:
		select {
		case r := <-e.result: // it ended after its reply
			return r, nil
		default:
			return Result{}, h.describeEnd()
		}
	case <-timer.C:
		err = fmt.Errorf("lambda host: the invocation took more than %v", h.options.Timeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	h.kill()
	return Result{}, err
}

// startProcess starts the process unless it was started before.
func (h *Host) startProcess() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd != nil {
		return nil
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
	h.started = time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	h.cmd = cmd
	var output sync.WaitGroup
	output.Go(func() { h.captureOutput(r) })
	h.running.Go(func() {
		_ = cmd.Wait()
		_ = w.Close()
		output.Wait()
		close(h.ended)
	})
	return nil
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

// kill ends the process, if it was started, and waits for its end.
func (h *Host) kill() {
	h.mu.Lock()
	cmd := h.cmd
	h.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		<-h.ended
	}
}

// Stop ends the process and the Runtime API. It leaves no process and no goroutine.
func (h *Host) Stop() {
	h.kill()
	_ = h.server.Close()
	h.running.Wait()
}

// Lines returns the output of the function so far.
func (h *Host) Lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// PID returns the id of the process.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cmd.Process.Pid
}

// FirstNext returns the time between the start of the process and its first /next.
func (h *Host) FirstNext() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.firstNext
}

// Answer is the response to a caller of an HTTP API or a Function URL.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// ReadAnswer returns the caller's response for the result of an event of payload format 2.0 (L9).
func ReadAnswer(r Result) (Answer, error) {
	var reply struct {
		StatusCode      int
		Headers         map[string]string
		Body            string
		IsBase64Encoded bool
		Cookies         []string
	}
	if json.Unmarshal(r.Payload, &reply) != nil || reply.StatusCode < 100 || reply.StatusCode > 599 ||
		reply.IsBase64Encoded || reply.Cookies != nil {
		return Answer{}, fmt.Errorf("lambda host: not a reply of payload format 2.0: %+v", r)
	}
	a := Answer{reply.StatusCode, http.Header{}, []byte(reply.Body)}
	for name, value := range reply.Headers {
		a.Header.Set(name, value)
	}
	return a, nil
}

// Event returns the event of payload format 2.0 for a request whose body is text (L9).
func Event(method, target string, header http.Header, body []byte) ([]byte, error) {
	path, query, _ := strings.Cut(target, "?")
	headers := map[string]string{}
	for name, values := range header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
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
		"isBase64Encoded": false,
	}
	if len(body) > 0 { // else there is no such member
		event["body"] = string(body)
	}
	return json.Marshal(event)
}
