package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
)

// responseMargin is the part of the function's time that is left for the response, which would else be Lambda's own.
const responseMargin = time.Second

// warmUpLimit limits the warm-up before the first invocation. The request that started the process waits for it, and
// the HTTP API waits for 30 s in all.
const warmUpLimit = 3 * time.Second

// serveLambda serves the invocations of Lambda. It returns only if ctx has ended before: the runtime ends the
// process itself.
//
// The warm-up runs before the first invocation and is cancelled at its limit: a frozen process must not have
// requests open.
func serveLambda(ctx context.Context, s *app.App, examine app.Examine, queues *app.Queues, log *slog.Logger) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// The runtime writes its errors with package log: take them into the same stream, at level ERROR.
	slog.SetDefault(log)
	slog.SetLogLoggerLevel(slog.LevelError)
	start, cancel := context.WithTimeout(ctx, warmUpLimit)
	s.WarmUp(start)
	cancel()
	log.InfoContext(ctx, "listening", slog.String("host", config.Lambda), slog.String("version", version))
	lambda.StartWithOptions(&lambdaHost{
		http: s, run: s.Run, settle: s.RunMessages, hide: s.MessageTime(), examine: examine, queues: queues, log: log,
	}, lambda.WithContext(ctx))
	return errors.New("the Lambda runtime ended")
}

// lambdaHost turns the events of Lambda into requests and events, by their envelope alone: the body of a request or
// a message cannot change its kind.
type lambdaHost struct {
	http    http.Handler
	run     func(context.Context, handler.Event) (any, error)
	examine app.Examine
	settle  func(context.Context, handler.Source, []handler.Message, func(int, handler.Settlement))
	hide    time.Duration // for messages: those of a killed process are delivered again after it
	queues  *app.Queues
	log     *slog.Logger
}

// envelope holds the members that tell events apart. An absent one is nil.
type envelope struct {
	Version        string
	HTTPMethod     json.RawMessage
	Records        json.RawMessage
	Source         json.RawMessage
	DetailType     json.RawMessage `json:"detail-type"`
	Command        json.RawMessage
	RequestContext struct {
		ELB  json.RawMessage
		HTTP struct{ Method string }
	}
}

// Invoke handles one event: a request of an HTTP API or a Function URL (payload format 2.0), messages of SQS, a
// schedule of EventBridge, or a command. A request never ends with an error, for which Lambda would send a response
// of its own. Any other event ends with an error if it is refused or if a retry by Lambda may help.
func (l *lambdaHost) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var e envelope
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, l.refuseEvent(ctx, "the event is not a JSON object")
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-responseMargin))
		defer cancel()
	}
	ctx = handler.WithInvocation(ctx, handler.Invocation{Host: config.Lambda, ID: invocationID(ctx)})
	kinds := map[string]bool{
		"records": e.Records != nil, "request": e.Version == "2.0" && e.RequestContext.HTTP.Method != "",
		"schedule": e.Source != nil && e.DetailType != nil, "command": e.Command != nil,
	}
	maps.DeleteFunc(kinds, func(_ string, is bool) bool { return !is })
	switch {
	case e.RequestContext.ELB != nil:
		return nil, l.refuseEvent(ctx, "the event is of a load balancer")
	case e.HTTPMethod != nil:
		return nil, l.refuseEvent(ctx, "the event has payload format 1.0; set it to 2.0")
	case len(kinds) != 1:
		return nil, l.refuseEvent(ctx, "the event is of no kind that is served")
	case kinds["records"]:
		return l.runMessages(ctx, payload)
	case kinds["schedule"]:
		return l.runSchedule(ctx, payload)
	case string(e.Command) == `"doctor"`:
		return l.runDoctor(ctx, payload)
	case kinds["command"]:
		return l.runEvent(ctx, handler.CommandEvent(payload))
	}
	var event events.APIGatewayV2HTTPRequest
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, l.refuseEvent(ctx, "the event has the envelope of payload format 2.0 and not its form")
	}
	w := &recorder{header: http.Header{}}
	l.http.ServeHTTP(w, httpRequest(ctx, event))
	return json.Marshal(w.response())
}

// runSchedule runs the sweep of an EventBridge rule. A rule or a schedule with an input of its own sends that input
// alone, which is a command.
func (l *lambdaHost) runSchedule(ctx context.Context, payload []byte) ([]byte, error) {
	var event events.EventBridgeEvent
	if err := json.Unmarshal(payload, &event); err != nil || event.Source != "aws.events" ||
		event.DetailType != "Scheduled Event" {
		return nil, l.refuseEvent(ctx, "the event is of EventBridge and has no command; give the schedule an input")
	}
	sweep := handler.SweepEvent(handler.SourceSchedule)
	sweep.Due = event.Time
	return l.runEvent(ctx, sweep)
}

// runEvent runs an event. A permanent failure has been logged and is no error to Lambda, which would retry it.
func (l *lambdaHost) runEvent(ctx context.Context, e handler.Event) ([]byte, error) {
	report, err := l.run(ctx, e)
	if failed, ok := errors.AsType[*handler.EventError](err); ok {
		if failed.Retryable {
			return nil, failed
		}
		if report == nil {
			report = map[string]any{"error": map[string]any{"code": failed.Code}}
		}
	}
	return json.Marshal(report)
}

// runDoctor returns the report on this deployment. A failed check is no failure of the invocation.
func (l *lambdaHost) runDoctor(ctx context.Context, payload []byte) ([]byte, error) {
	var command map[string]string
	if err := json.Unmarshal(payload, &command); err != nil || len(command) != 1 || command["command"] == "" {
		return nil, l.refuseEvent(ctx, "the command doctor takes nothing beside it")
	}
	r, err := l.examine(ctx)
	if err != nil {
		return nil, err
	}
	l.log.InfoContext(ctx, "doctor", slog.String("host", config.Lambda), slog.String("invocation_id",
		invocationID(ctx)), slog.Any("", r))
	return json.Marshal(r)
}

func (l *lambdaHost) refuseEvent(ctx context.Context, why string) error {
	l.log.ErrorContext(ctx, "event refused", slog.String("host", config.Lambda), slog.String("invocation_id",
		invocationID(ctx)), slog.String("reason", why))
	return errors.New(why)
}

// httpRequest returns the request that event describes, with the body as the caller sent it: a signature is over its
// bytes.
func httpRequest(ctx context.Context, event events.APIGatewayV2HTTPRequest) *http.Request {
	body := io.Reader(strings.NewReader(event.Body))
	if event.IsBase64Encoded {
		body = base64.NewDecoder(base64.StdEncoding, body) // a Read fails if it is no base64
	}
	// The base URL is constant, so this cannot fail. The method is set apart: one that HTTP does not have gets a 405.
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://lambda.invalid", body)
	r.Method = event.RequestContext.HTTP.Method
	r.URL.Path, r.URL.RawQuery = event.RawPath, event.RawQueryString
	// A stage and the API mapping of a custom domain stand in front of the route.
	if at := strings.LastIndex(strings.ToLower(r.URL.Path), "/api/"); at > 0 && at < len(r.URL.Path) {
		r.URL.Path = r.URL.Path[at:]
	}
	for name, value := range event.Headers {
		r.Header.Add(name, value)
	}
	return r
}

func invocationID(ctx context.Context) string {
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		return lc.AwsRequestID
	}
	return ""
}

// recorder keeps a response until it is complete.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// response returns the response in payload format 2.0, whose headers are in lower case.
func (w *recorder) response() events.LambdaFunctionURLResponse {
	w.WriteHeader(http.StatusOK)
	response := events.LambdaFunctionURLResponse{StatusCode: w.status, Headers: map[string]string{}, Body: w.body.String()}
	for name, values := range w.header {
		response.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return response
}
