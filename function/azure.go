package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/config"
)

// listenAzure opens the port of this machine on which the Azure Functions host wants to find the process.
func listenAzure(ctx context.Context, port string) (net.Listener, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("FUNCTIONS_CUSTOMHANDLER_PORT is not a port")
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
}

// serveAzure answers the requests of the Azure Functions host, which proxies them to listener as they came. The host waits for
// an answer to GET /, whatever it is, before it sends a request.
//
// The host starts a worker again that has ended with an error, and never one that has ended without: so the end is
// always an error here, even when it was asked for.
func serveAzure(ctx context.Context, listener net.Listener, s *server, timeout time.Duration, log *slog.Logger) error {
	address := listener.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "listening", slog.String("host", config.Azure), slog.String("port", port), slog.String("version", version))
	go s.warmUp.run(context.WithoutCancel(ctx)) // requests that have joined it are brought to their end
	worker := invoked(&azureWorker{s.Handler, address, ctx.Done(), log}, config.Azure, azureInvocationID)
	if err := serveHTTP(ctx, listener, worker, timeout, log); err != nil {
		return err
	}
	return errors.New("stopped by a signal")
}

// azureInvocationID is the header in which the host gives every request and invocation an id.
const azureInvocationID = "X-Azure-Functions-Invocationid"

// The functions of the app that no request starts, by the names of their folders. The host invokes them by a POST to
// /{name} (docs/design.md).
const (
	functionSweep = "/sweep"
	functionQueue = "/queue"
)

// azureEventTime is the time for an event. It is below functionTimeout in host.json, at whose end the host kills the
// worker with all that it is doing.
const azureEventTime = 4*time.Minute + 30*time.Second

// azureWorker answers requests, and the invocations by timer and queue.
type azureWorker struct {
	handler *handler.Handler
	address string          // that it listens on
	stop    <-chan struct{} // closed when the process is to end
	log     *slog.Logger
}

// ServeHTTP takes a request for an invocation only if it was made for this very address. A caller can send that Host, since
// the host hands it on; but the host hands on requests for the routes under /api alone, and these paths are none.
func (a *azureWorker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.Host == a.address && (r.URL.Path == functionSweep || r.URL.Path == functionQueue) {
		a.invoke(w, r)
		return
	}
	a.handler.ServeHTTP(w, r)
}

// invocation is what the host sends of an invocation.
type invocation struct {
	Data struct {
		Timer   *struct{ IsPastDue bool }
		Message json.RawMessage
	}
	Metadata json.RawMessage
}

// invocationResult is what the host expects. It must be an object: the host would wait for ever for one that is not.
type invocationResult struct {
	Outputs     map[string]any
	Logs        []string
	ReturnValue any
}

// invoke carries out an event. A status other than 2xx is the only way to make the host try it again.
func (a *azureWorker) invoke(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), azureEventTime)
	defer cancel()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(azureEventTime + 15*time.Second)) // later than for a request
	event, err := readInvocation(r)
	if err != nil {
		// The host counts it as failed, and brings a queue's message to the poison queue in the end.
		a.log.ErrorContext(ctx, "event refused", slog.String("host", config.Azure),
			slog.String("invocation_id", lastValue(r.Header, azureInvocationID)), slog.String("reason", err.Error()))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if event.Source == handler.SourceTimer {
		// A sweep takes longer than a process that is to end is given: it must end before, with a record of what became of each device.
		go func() {
			select {
			case <-a.stop:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	result := invocationResult{Outputs: map[string]any{}, Logs: []string{}}
	_, err = a.handler.Run(ctx, event)
	failed, _ := errors.AsType[*handler.EventError](err)
	switch {
	case err == nil:
	case failed == nil, failed.Retryable:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case event.Source == handler.SourceStorageQueue:
		// Asking again does not help: a person must look at it. The bytes are written as base64, which the host decodes; it
		// would take a text for base64 that happens to be some.
		result.Outputs["poison"] = event.Command
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(result) // a host that has gone away does not read it
}

// maxInvocation is as much of an invocation as is read, in bytes. A message of a queue has at most 64 KiB.
const maxInvocation = 1 << 20

// readInvocation returns the event of an invocation. Its error has words of ours alone.
func readInvocation(r *http.Request) (handler.Event, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxInvocation+1))
	var in invocation
	switch {
	case err != nil:
		return handler.Event{}, errors.New("the invocation breaks off")
	case len(body) > maxInvocation:
		return handler.Event{}, errors.New("the invocation is larger than 1 MiB")
	case json.Unmarshal(body, &in) != nil:
		return handler.Event{}, errors.New("the invocation is not the JSON it should be")
	}
	if r.URL.Path == functionSweep {
		if in.Data.Timer == nil {
			return handler.Event{}, errors.New("the invocation has no timer")
		}
		event := handler.Event{Source: handler.SourceTimer, Command: []byte(handler.SweepCommand)}
		if in.Data.Timer.IsPastDue {
			event.Context = map[string]string{"isPastDue": "true"}
		}
		return event, nil
	}
	if in.Data.Message == nil || string(in.Data.Message) == "null" {
		return handler.Event{}, errors.New("the invocation has no message")
	}
	words := messageWords(in.Metadata)
	return handler.Event{Source: handler.SourceStorageQueue, ID: words["messageId"], Command: message(in.Data.Message), Context: words}, nil
}

// message returns the text of a queue's message. The host writes a text as JSON, and that again as a string of JSON; one that
// it has read as JSON already comes as that.
func message(data json.RawMessage) []byte {
	var text string
	if json.Unmarshal(data, &text) != nil {
		return data
	}
	var inner string
	if json.Unmarshal([]byte(text), &inner) == nil {
		text = inner
	}
	return []byte(text)
}

// plainWord is what the host's own words in the metadata look like, an id or a number, and longestWord the longest, in bytes.
const (
	plainWord   = `^[0-9A-Za-z-]+$`
	longestWord = 64
)

// messageWords returns the words of a message's metadata for the log. The host puts the members of a message that is JSON
// among them, so that anything may be there.
func messageWords(metadata json.RawMessage) map[string]string {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(metadata, &members) // there are none if it is no object
	words := map[string]string{}
	for name, word := range map[string]string{"messageId": "Id", "dequeueCount": "DequeueCount"} {
		if text := string(message(members[word])); len(text) <= longestWord && regexp.MustCompile(plainWord).MatchString(text) {
			words[name] = text
		}
	}
	return words
}
