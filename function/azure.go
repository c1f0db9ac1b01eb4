package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
)

// serveAzure serves the requests and invocations of the Azure Functions host until ctx ends.
//
// It always returns an error: the host restarts a worker that exits with an error and never one that exits with 0.
func serveAzure(
	ctx context.Context, listener net.Listener, s *app.App, timeout time.Duration, getenv func(string) string,
	log *slog.Logger,
) error {
	worker := &azureWorker{
		handler: s.Handler, address: listener.Addr().String(), coreTools: getenv(coreToolsVariable) != "",
		stop: ctx.Done(), log: log,
	}
	if err := serveListener(ctx, listener, s, worker, timeout, log, config.Azure, azureInvocationID); err != nil {
		return err
	}
	return errors.New("stopped by a signal")
}

// azureInvocationID is the header with the host's id of a request or an invocation.
const azureInvocationID = "X-Azure-Functions-Invocationid"

// coreToolsVariable is set for workers of the Core Tools, the host on a developer's machine.
const coreToolsVariable = "FUNCTIONS_CORETOOLS_ENVIRONMENT"

// Paths of invocations: the host posts to /{folder of the function}.
const (
	functionSweep = "/sweep"
	functionQueue = "/queue"
)

// azureEventTime limits an event. It is below functionTimeout in host.json, after which the host kills the worker
// with all its requests.
const azureEventTime = 29 * time.Minute

// azureWorker serves callers' requests, and the host's invocations by timer and queue.
type azureWorker struct {
	handler   *handler.Handler
	address   string          // of the listener
	coreTools bool            // the host is the Core Tools
	stop      <-chan struct{} // closed when the process must end
	log       *slog.Logger
}

// ServeHTTP tells invocations from requests. The routes of the host lead no request to the paths of invocations;
// isInvocation holds even if a route is added that does.
func (a *azureWorker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.isInvocation(r) {
		a.invoke(w, r)
		return
	}
	a.handler.ServeHTTP(w, r)
}

// proxyHeaders are set on every request that a host proxies, and on no invocation: the first by all proxying hosts,
// the others since late 2025. A caller can neither remove nor change them.
var proxyHeaders = []string{ //nolint:gochecknoglobals // a constant table
	"X-Ms-Invocation-Id", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

// isInvocation reports whether the host itself made r. Hosts that proxy mark each request with proxyHeaders. Hosts
// that forward, from before 2025, keep the caller's Host and never send a chunked body, and invocations are chunked
// on all hosts but the Core Tools.
func (a *azureWorker) isInvocation(r *http.Request) bool {
	proxied := func(name string) bool { return r.Header[name] != nil }
	return r.Method == http.MethodPost && (r.URL.Path == functionSweep || r.URL.Path == functionQueue) &&
		r.Host == a.address && (r.ContentLength < 0 || a.coreTools) && !slices.ContainsFunc(proxyHeaders, proxied)
}

// invocation is the part of an invocation's body that is used.
type invocation struct {
	Data struct {
		Timer   *struct{ IsPastDue bool }
		Message json.RawMessage
	}
	Metadata json.RawMessage
}

// invocationResult is the response to an invocation. It must be an object: the host waits until functionTimeout
// after any other 2xx response.
type invocationResult struct {
	Outputs     map[string]any
	Logs        []string
	ReturnValue any
}

// invoke runs an event. Only a status other than 2xx makes the host retry it.
func (a *azureWorker) invoke(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), azureEventTime)
	defer cancel()
	// longer than for a request
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(azureEventTime + 15*time.Second))
	in, err := readInvocation(r)
	if err != nil {
		// The host counts a failed try, and moves a queue's message to the poison queue after the last one.
		a.log.ErrorContext(ctx, "event refused", slog.String("host", config.Azure),
			slog.String("invocation_id", lastValue(r.Header, azureInvocationID)), slog.String("reason", err.Error()))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	// Work in the background outlasts the time between a signal and the kill: end it now, so that each device gets its
	// record and the rest is requeued.
	go func() {
		select {
		case <-a.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	result, retry := a.runInvocation(ctx, in)
	if retry {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(result) // fails only if the host is gone
}

// runInvocation carries out a sweep or a message. retry reports whether the host shall try it again.
func (a *azureWorker) runInvocation(ctx context.Context, in invocation) (result invocationResult, retry bool) {
	result = invocationResult{Outputs: map[string]any{}, Logs: []string{}}
	if in.Data.Timer != nil {
		event := handler.SweepEvent(handler.SourceTimer)
		if in.Data.Timer.IsPastDue {
			event.Context = map[string]string{"isPastDue": "true"}
		}
		_, err := a.handler.Run(ctx, event)
		failed, ok := errors.AsType[*handler.EventError](err)
		return result, err != nil && (!ok || failed.Retryable)
	}
	var settlement handler.Settlement
	a.handler.RunMessages(ctx, handler.SourceStorageQueue, []handler.Message{storageMessage(in)},
		func(_ int, s handler.Settlement) { settlement = s })
	result.setOutput("again", settlement.Requeue)
	var dead [][]byte
	for _, d := range settlement.DeadLetters {
		dead = append(dead, d.Text)
	}
	result.setOutput("poison", dead)
	return result, settlement.Retry
}

// maxInvocation limits the body of an invocation, in bytes. A message of a queue has at most 64 KiB.
const maxInvocation = 1 << 20

// readInvocation returns an invocation by timer or queue. Its errors quote nothing of the invocation.
func readInvocation(r *http.Request) (in invocation, err error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxInvocation+1))
	switch {
	case err != nil:
		return in, errors.New("the invocation breaks off")
	case len(body) > maxInvocation:
		return in, errors.New("the invocation is larger than 1 MiB")
	case json.Unmarshal(body, &in) != nil:
		return in, errors.New("the invocation is not valid JSON")
	}
	if r.URL.Path == functionSweep {
		if in.Data.Timer == nil {
			return in, errors.New("the invocation has no timer")
		}
		return in, nil
	}
	in.Data.Timer = nil
	if in.Data.Message == nil || string(in.Data.Message) == "null" {
		return in, errors.New("the invocation has no message")
	}
	return in, nil
}

// oneLine joins the lines of an error: of a worker that exits, the host reports the last three lines alone.
func oneLine(text string) string {
	return strings.NewReplacer(":\n  ", ": ", "\n  ", "; ", "\n", "; ").Replace(text)
}
