// Package lambdahost is a double of AWS Lambda for tests: it starts a function, the real binary, as a process of its own and
// gives it invocations by the Runtime API (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), one at a time. It
// also makes the events that an HTTP API or a Function URL sends, and reads the answers as they do.
package lambdahost

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
	TimedOut  bool   // it took too long; its process was killed
	Exited    bool   // its process ended before it answered
}

// Host is a function and what invokes it.
type Host struct {
	options Options
	address string
	server  *http.Server
	running sync.WaitGroup

	invoking sync.Mutex // one at a time

	mu         sync.Mutex
	process    *exec.Cmd
	ended      chan struct{}
	events     chan event
	results    map[string]chan Result
	lines      []string
	coldStarts int
	started    time.Time
	firstNext  time.Duration
	requests   int
}

type event struct {
	id       string
	payload  []byte
	deadline time.Time
}

// Start opens the Runtime API. The function's process starts with the first invocation.
func Start(ctx context.Context, o Options) (*Host, error) {
	if o.Timeout == 0 {
		o.Timeout = 28 * time.Second
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("lambdahost: %w", err)
	}
	h := &Host{options: o, address: listener.Addr().String(), results: map[string]chan Result{}}
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
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	h.running.Go(func() { _ = h.server.Serve(listener) })
	return h, nil
}

// next gives the process the next event, which it waits for.
func (h *Host) next(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	events := h.events
	if h.firstNext == 0 {
		h.firstNext = time.Since(h.started)
	}
	h.mu.Unlock()
	select {
	case e := <-events:
		header := w.Header()
		header.Set("Lambda-Runtime-Aws-Request-Id", e.id)
		header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(e.deadline.UnixMilli(), 10))
		header.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:123456789012:function:unassign")
		header.Set("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0")
		header.Set("Content-Type", "application/json")
		_, _ = w.Write(e.payload)
	case <-r.Context().Done():
	}
}

func (h *Host) finish(w http.ResponseWriter, r *http.Request, result func([]byte) Result) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	waiting := h.results[r.PathValue("id")]
	delete(h.results, r.PathValue("id"))
	h.mu.Unlock()
	w.WriteHeader(http.StatusAccepted)
	if waiting != nil {
		waiting <- result(body)
	}
}

// Invoke invokes the function with payload and waits for the end. A process that has been killed or has ended is followed by
// a new one.
func (h *Host) Invoke(ctx context.Context, payload []byte) (Result, error) {
	h.invoking.Lock()
	defer h.invoking.Unlock()
	ended, err := h.warm()
	if err != nil {
		return Result{}, err
	}
	h.mu.Lock()
	h.requests++
	id := fmt.Sprintf("8476a536-e9f4-11e8-9739-%012d", h.requests)
	result := make(chan Result, 1)
	h.results[id] = result
	events := h.events
	h.mu.Unlock()

	deadline := time.Now().Add(h.options.Timeout)
	timer := time.NewTimer(h.options.Timeout)
	defer timer.Stop()
	select {
	case events <- event{id, payload, deadline}:
	case <-ended:
		return Result{RequestID: id, Exited: true}, nil
	case <-timer.C:
		h.kill()
		return Result{RequestID: id, TimedOut: true}, nil
	}
	select {
	case r := <-result:
		r.RequestID = id
		return r, nil
	case <-ended:
		select {
		case r := <-result: // it answered, and ended then
			r.RequestID = id
			return r, nil
		default:
		}
		return Result{RequestID: id, Exited: true}, nil
	case <-timer.C:
		h.kill()
		return Result{RequestID: id, TimedOut: true}, nil
	case <-ctx.Done():
		h.kill()
		return Result{RequestID: id}, ctx.Err()
	}
}

// warm returns the channel that is closed when the process ends, having started one if there is none.
func (h *Host) warm() (chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended != nil {
		select {
		case <-h.ended:
		default:
			return h.ended, nil
		}
	}
	cmd := exec.Command(h.options.Binary) //nolint:gosec,noctx // the function's own; it ends by Stop
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+os.Getenv(name))
	}
	cmd.Env = append(cmd.Env,
		"AWS_LAMBDA_RUNTIME_API="+h.address, "AWS_LAMBDA_FUNCTION_NAME=unassign", "AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256", "AWS_REGION=eu-west-1", "AWS_LAMBDA_LOG_FORMAT=JSON", "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"LAMBDA_TASK_ROOT=/var/task", "_HANDLER=bootstrap", "TZ=:UTC")
	cmd.Env = append(cmd.Env, h.options.Env...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w // Lambda has one stream
	h.started, h.firstNext, h.events = time.Now(), 0, make(chan event)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("lambdahost: %w", err)
	}
	h.coldStarts++
	ended := make(chan struct{})
	h.process, h.ended = cmd, ended
	h.running.Go(func() {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			h.mu.Lock()
			h.lines = append(h.lines, lines.Text())
			h.mu.Unlock()
		}
	})
	h.running.Go(func() {
		_ = cmd.Wait()
		_ = w.Close()
		close(ended)
	})
	return ended, nil
}

// kill ends the process and waits until it has.
func (h *Host) kill() {
	h.mu.Lock()
	process, ended := h.process, h.ended
	h.mu.Unlock()
	if process != nil {
		_ = process.Process.Kill()
		<-ended
	}
}

// Stop ends the process and the Runtime API. No process and no goroutine is left.
func (h *Host) Stop() {
	h.kill()
	_ = h.server.Close()
	h.running.Wait()
}

// Lines returns what the function has printed so far.
func (h *Host) Lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.lines...)
}

// ColdStarts returns how many processes have been started.
func (h *Host) ColdStarts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.coldStarts
}

// FirstNext returns how long the last process took from its start to its first question for an event.
func (h *Host) FirstNext() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.firstNext
}

// Answer is what a caller of an HTTP API or a Function URL gets.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// errMalformed is the end of a reply that a gateway cannot use.
var errMalformed = errors.New("lambdahost: the reply is not of payload format 2.0")

// ReadAnswer makes the answer to a caller of what a function has replied to an event of payload format 2.0. Any other end is a
// 500, with a text of the gateway's own.
func ReadAnswer(r Result) (Answer, error) {
	failed := Answer{http.StatusInternalServerError, http.Header{"Content-Type": {"application/json"}}, []byte(`{"message":"Internal Server Error"}`)}
	if r.Payload == nil {
		return failed, fmt.Errorf("lambdahost: no reply: %+v", r)
	}
	var reply struct {
		StatusCode      int
		Headers         map[string]string
		Body            string
		IsBase64Encoded bool
		Cookies         []string
	}
	if json.Unmarshal(r.Payload, &reply) != nil || reply.IsBase64Encoded {
		return failed, errMalformed
	}
	if reply.StatusCode == 0 { // the reply is taken as the body
		return Answer{http.StatusOK, http.Header{"Content-Type": {"application/json"}}, r.Payload}, nil
	}
	a := Answer{reply.StatusCode, http.Header{}, []byte(reply.Body)}
	for name, value := range reply.Headers {
		a.Header.Set(name, value)
	}
	return a, nil
}

// Event returns the event of payload format 2.0 for a request, as an HTTP API sends it, and a Function URL does with other
// words in parts that nobody looks at: names of headers in lower case, values of one name joined by commas, and the body in
// base64 where that is asked for, as gateways do with what is no text.
func Event(method, target string, header http.Header, body []byte, base64Encoded bool) ([]byte, error) {
	path, query, _ := strings.Cut(target, "?")
	headers := map[string]string{}
	for name, values := range header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	text := string(body)
	if base64Encoded {
		text = base64.StdEncoding.EncodeToString(body)
	}
	return json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "ANY " + path, "rawPath": path, "rawQueryString": query, "headers": headers,
		"requestContext": map[string]any{
			"accountId": "123456789012", "apiId": "api", "domainName": "api.execute-api.eu-west-1.amazonaws.com", "requestId": "JKJaXmPLvHcESHA=",
			"routeKey": "ANY " + path, "stage": "$default", "time": "23/Nov/2026:02:00:00 +0000", "timeEpoch": 1795399200000,
			"http": map[string]any{"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": header.Get("User-Agent")},
		},
		"body": text, "isBase64Encoded": base64Encoded,
	})
}
