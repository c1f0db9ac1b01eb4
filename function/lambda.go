package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"autopilot-unassign/handler"
)

// answerMargin is kept back of the time that Lambda gives an invocation, so that the answer is ours and not Lambda's.
const answerMargin = time.Second

// serveLambda answers the invocations of Lambda. It returns only when ctx has ended before it began: the runtime ends the
// process itself.
func serveLambda(ctx context.Context, h http.Handler, log *slog.Logger) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// The runtime writes its own errors with package log. They are errors, and belong into the same stream.
	slog.SetDefault(log)
	slog.SetLogLoggerLevel(slog.LevelError)
	log.InfoContext(ctx, "listening", slog.String("host", hostLambda), slog.String("version", version))
	lambda.StartWithOptions(&lambdaHost{http: h, log: log}, lambda.WithContext(ctx))
	return errors.New("the Lambda runtime ended")
}

// lambdaHost turns the events of Lambda into requests, by their envelope alone. Nothing inside the body of a request can
// change what the envelope is taken for.
type lambdaHost struct {
	http http.Handler
	log  *slog.Logger
}

// Invoke answers one event. HTTP API and Function URL send payload format 2.0, whose answer is never an error: Lambda would
// make a text of its own of that. Any other event is refused with an error, which counts as a failed invocation.
func (l *lambdaHost) Invoke(ctx context.Context, payload []byte) (answer []byte, err error) {
	var envelope struct {
		Version        string
		HTTPMethod     json.RawMessage
		Records        json.RawMessage
		RequestContext struct {
			ELB  json.RawMessage
			HTTP struct{ Method string }
		}
	}
	switch err := json.Unmarshal(payload, &envelope); {
	case err != nil:
		return nil, l.refuse(ctx, "the event is not a JSON object")
	case envelope.Records != nil:
		return nil, l.refuse(ctx, "the event is a batch of records")
	case envelope.RequestContext.ELB != nil:
		return nil, l.refuse(ctx, "the event is of a load balancer")
	case envelope.HTTPMethod != nil:
		return nil, l.refuse(ctx, "the event has payload format 1.0; set it to 2.0")
	case envelope.Version != "2.0" || envelope.RequestContext.HTTP.Method == "":
		return nil, l.refuse(ctx, "the event is of no kind that is served")
	}
	var event events.APIGatewayV2HTTPRequest
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, l.refuse(ctx, "the event has the envelope of payload format 2.0 and not its form")
	}
	return json.Marshal(l.answer(ctx, event))
}

func (l *lambdaHost) refuse(ctx context.Context, why string) error {
	l.log.ErrorContext(ctx, "event refused", slog.String("host", hostLambda), slog.String("invocation_id", invocationID(ctx)), slog.String("reason", why))
	return errors.New(why)
}

// answer has event answered as a request.
func (l *lambdaHost) answer(ctx context.Context, event events.APIGatewayV2HTTPRequest) events.LambdaFunctionURLResponse {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerMargin))
		defer cancel()
	}
	ctx = handler.WithInvocation(ctx, handler.Invocation{Host: hostLambda, ID: invocationID(ctx)})
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
