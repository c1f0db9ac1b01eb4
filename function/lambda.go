package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/config"
)

// answerMargin is kept back of the time that Lambda gives an invocation, so that the answer is ours and not Lambda's.
const answerMargin = time.Second

// warmUpLimit is the time for the warm-up before the first invocation is taken. A request waits for it as well, and the HTTP API
// waits for no longer than half a minute.
const warmUpLimit = 3 * time.Second

// serveLambda answers the invocations of Lambda. It returns only when ctx has ended before it began: the runtime ends the
// process itself.
//
// The warm-up comes before, within Lambda's time for starting, and is broken off at its end: a process that is frozen should not be
// waiting for an answer.
func serveLambda(ctx context.Context, s *server, examine func(context.Context) (report, error), log *slog.Logger) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// The runtime writes its own errors with package log. They are errors, and belong into the same stream.
	slog.SetDefault(log)
	slog.SetLogLoggerLevel(slog.LevelError)
	start, cancel := context.WithTimeout(ctx, warmUpLimit)
	s.warmUp.run(start)
	cancel()
	log.InfoContext(ctx, "listening", slog.String("host", config.Lambda), slog.String("version", version))
	lambda.StartWithOptions(&lambdaHost{http: s, run: s.Run, examine: examine, log: log}, lambda.WithContext(ctx))
	return errors.New("the Lambda runtime ended")
}

// lambdaHost turns the events of Lambda into requests and events, by their envelope alone. Nothing inside the body of a
// request or a message can change what the envelope is taken for.
type lambdaHost struct {
	http    http.Handler
	run     func(context.Context, handler.Event) (any, error)
	examine func(context.Context) (report, error) // the doctor's report on this deployment
	log     *slog.Logger
}

// envelope is what tells events apart. What is nil was not there.
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

// Invoke answers one event: a request of an HTTP API or a Function URL (payload format 2.0), whose answer is never an
// error, since Lambda would make a text of its own of that; messages of SQS; a schedule of EventBridge; a command. Any
// other event is refused with an error, which counts as a failed invocation. So does what may do better when Lambda sends
// it again.
func (l *lambdaHost) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var e envelope
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, l.refuse(ctx, "the event is not a JSON object")
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerMargin))
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
		return nil, l.refuse(ctx, "the event is of a load balancer")
	case e.HTTPMethod != nil:
		return nil, l.refuse(ctx, "the event has payload format 1.0; set it to 2.0")
	case len(kinds) != 1:
		return nil, l.refuse(ctx, "the event is of no kind that is served")
	case kinds["records"]:
		return l.messages(ctx, payload)
	case kinds["schedule"]:
		return l.schedule(ctx, payload)
	case string(e.Command) == `"doctor"`:
		return l.doctor(ctx, payload)
	case kinds["command"]:
		return l.event(ctx, handler.Event{Source: handler.SourceInvoke, Command: payload})
	}
	var event events.APIGatewayV2HTTPRequest
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, l.refuse(ctx, "the event has the envelope of payload format 2.0 and not its form")
	}
	return json.Marshal(l.answer(ctx, event))
}

// schedule carries out the event of an EventBridge rule that runs at times: a sweep. A rule or a schedule with an input of
// its own sends that and nothing else, which is a command.
func (l *lambdaHost) schedule(ctx context.Context, payload []byte) ([]byte, error) {
	var event events.EventBridgeEvent
	if err := json.Unmarshal(payload, &event); err != nil || event.Source != "aws.events" || event.DetailType != "Scheduled Event" {
		return nil, l.refuse(ctx, "the event is of EventBridge and has no command; give the schedule an input")
	}
	return l.event(ctx, handler.Event{Source: handler.SourceSchedule, Command: []byte(handler.SweepCommand), Due: event.Time})
}

// event carries out an event. What asking again cannot help has been logged, and is no error to Lambda.
func (l *lambdaHost) event(ctx context.Context, e handler.Event) ([]byte, error) {
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

// doctor answers with the report on this deployment. That something in it has failed is no failure of the invocation.
func (l *lambdaHost) doctor(ctx context.Context, payload []byte) ([]byte, error) {
	var command map[string]string
	if err := json.Unmarshal(payload, &command); err != nil || len(command) != 1 || command["command"] == "" {
		return nil, l.refuse(ctx, "the command doctor takes nothing beside it")
	}
	r, err := l.examine(ctx)
	if err != nil {
		return nil, err
	}
	l.log.InfoContext(ctx, "doctor", slog.String("host", config.Lambda), slog.String("invocation_id", invocationID(ctx)), slog.Any("", r))
	return json.Marshal(r)
}

// leastForMessage is the time that must be left for a message to be begun.
const leastForMessage = 5 * time.Second

// messages carries out a batch of messages of SQS, one after the other, and hands those back that have failed: SQS delivers
// them again, and moves them to the dead-letter queue in the end. When Graph is throttling or the time is short, the
// rest is handed back without being tried. A message that is there twice is carried out once.
func (l *lambdaHost) messages(ctx context.Context, payload []byte) ([]byte, error) {
	var batch events.SQSEvent
	if err := json.Unmarshal(payload, &batch); err != nil || len(batch.Records) == 0 {
		return nil, l.refuse(ctx, "the event is a batch of records of no kind that is served")
	}
	for _, m := range batch.Records {
		if m.EventSource != "aws:sqs" || m.MessageId == "" {
			return nil, l.refuse(ctx, "the event is a batch of records of no kind that is served")
		}
	}
	reply := events.SQSEventResponse{BatchItemFailures: []events.SQSBatchItemFailure{}}
	throttled := false
	seen := map[string]bool{}
	for _, m := range batch.Records {
		if seen[m.MessageId] {
			continue
		}
		seen[m.MessageId] = true
		deadline, limited := ctx.Deadline()
		back := throttled || limited && time.Until(deadline) < leastForMessage
		if !back {
			_, err := l.run(ctx, handler.Event{Source: handler.SourceSQS, ID: m.MessageId, Command: []byte(m.Body), Context: map[string]string{
				"messageId": m.MessageId, "receiveCount": m.Attributes["ApproximateReceiveCount"],
			}})
			failed, ok := errors.AsType[*handler.EventError](err)
			back, throttled = err != nil, ok && failed.Throttled
		} else {
			l.log.WarnContext(ctx, "handed back", slog.String("host", config.Lambda), slog.String("invocation_id", invocationID(ctx)),
				slog.String("message_id", m.MessageId), slog.String("receive_count", m.Attributes["ApproximateReceiveCount"]), slog.Bool("throttled", throttled))
		}
		if back {
			reply.BatchItemFailures = append(reply.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: m.MessageId})
		}
	}
	return json.Marshal(reply)
}

func (l *lambdaHost) refuse(ctx context.Context, why string) error {
	l.log.ErrorContext(ctx, "event refused", slog.String("host", config.Lambda), slog.String("invocation_id", invocationID(ctx)), slog.String("reason", why))
	return errors.New(why)
}

// answer has event answered as a request.
func (l *lambdaHost) answer(ctx context.Context, event events.APIGatewayV2HTTPRequest) events.LambdaFunctionURLResponse {
	r, err := httpRequest(ctx, event)
	if err != nil {
		_ = l.refuse(ctx, err.Error())
		return events.LambdaFunctionURLResponse{StatusCode: http.StatusBadRequest}
	}
	w := &recorder{header: http.Header{}}
	l.http.ServeHTTP(w, r)
	return w.response()
}

// httpRequest returns the request that event describes. The body is decoded before anybody looks at it: a signature is over
// the bytes that were sent.
func httpRequest(ctx context.Context, event events.APIGatewayV2HTTPRequest) (*http.Request, error) {
	body := []byte(event.Body)
	if event.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(event.Body); err != nil {
			return nil, errors.New("the body is said to be base64 and is not")
		}
	}
	path := event.RawPath
	if stage := event.RequestContext.Stage; stage != "" && stage != "$default" {
		path = strings.TrimPrefix(path, "/"+stage)
	}
	r, err := http.NewRequestWithContext(ctx, event.RequestContext.HTTP.Method, "https://lambda.invalid", bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the method is not one of HTTP")
	}
	r.URL.Path, r.URL.RawQuery = path, event.RawQueryString
	for name, value := range event.Headers {
		r.Header.Add(name, value)
	}
	return r, nil
}

func invocationID(ctx context.Context) string {
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		return lc.AwsRequestID
	}
	return ""
}

// recorder keeps an answer until it is whole.
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

// response returns the answer in the form of payload format 2.0, with the headers in lower case as Lambda has them.
func (w *recorder) response() events.LambdaFunctionURLResponse {
	w.WriteHeader(http.StatusOK)
	response := events.LambdaFunctionURLResponse{StatusCode: w.status, Headers: map[string]string{}, Body: w.body.String()}
	for name, values := range w.header {
		response.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return response
}
