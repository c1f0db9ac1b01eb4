package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/hosttest/lambda"
)

// echo responds with the request.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Seen", strings.Join(r.Header.Values("X-Sent"), "|"))
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, "%s %s?%s %q", r.Method, r.URL.Path, r.URL.RawQuery, body)
}

func event(method, path, body string, base64Encoded bool) map[string]any {
	return map[string]any{
		"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "a=1&a=2",
		"headers":        map[string]string{"x-sent": "one,two", "content-type": "application/json"},
		"requestContext": map[string]any{"stage": "$default", "http": map[string]string{"method": method, "path": path}},
		"body":           body, "isBase64Encoded": base64Encoded,
	}
}

func TestLambdaAnswersRequests(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		event map[string]any
		want  string
	}{
		"a text": {
			event("POST", "/api/unassign", `{"a":1}`, false),
			`POST /api/unassign?a=1&a=2 "{\"a\":1}"`,
		},
		"base64": {event("POST", "/api/unassign", base64.StdEncoding.EncodeToString([]byte("\xff\x00")),
			true), `POST /api/unassign?a=1&a=2 "\xff\x00"`},
		"no body":             {event("GET", "/api/health", "", false), `GET /api/health?a=1&a=2 ""`},
		"a stage in the path": {event("POST", "/prod/api/unassign", "x", false), `POST /api/unassign?a=1&a=2 "x"`},
		// powertools-lambda-python#579
		"an API mapping":          {event("POST", "/v1/api/unassign", "x", false), `POST /api/unassign?a=1&a=2 "x"`},
		"a mapping called api":    {event("POST", "/api/api/unassign/", "x", false), `POST /api/unassign/?a=1&a=2 "x"`},
		"a path of another route": {event("POST", "/v1/sweep", "x", false), `POST /v1/sweep?a=1&a=2 "x"`},
		"a method HTTP has not":   {event("P OST", "/api/unassign", "x", false), `P OST /api/unassign?a=1&a=2 "x"`},
		"an event inside the body": {
			event("POST", "/api/unassign",
				`{"Records":[{"eventSource":"aws:sqs"}],"httpMethod":"GET"}`, false),
			`POST /api/unassign?a=1&a=2 "{\"Records\":[{\"eventSource\":\"aws:sqs\"}],\"httpMethod\":\"GET\"}"`,
		},
	} {
		payload, err := json.Marshal(test.event)
		if err != nil {
			t.Fatal(err)
		}
		l := &lambdaHost{http: http.HandlerFunc(echo), log: slog.New(slog.DiscardHandler)}
		answer, err := l.Invoke(t.Context(), payload)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var response struct {
			StatusCode      int
			Headers         map[string]string
			Body            string
			IsBase64Encoded bool
		}
		if err := json.Unmarshal(answer, &response); err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusAccepted || response.Body != test.want ||
			response.Headers["x-seen"] != "one,two" || response.IsBase64Encoded {
			t.Errorf("%s: %s\nwant the body %s", name, answer, test.want)
		}
	}
}

func TestLambdaRefusesOtherEvents(t *testing.T) {
	t.Parallel()
	const (
		records  = "the event is a batch of records of no kind that is served"
		noKind   = "the event is of no kind that is served"
		schedule = "the event is of EventBridge and has no command; give the schedule an input"
		format   = "the event has payload format 1.0; set it to 2.0"
	)
	for name, test := range map[string]struct{ payload, want string }{
		"nothing":                     {``, "the event is not a JSON object"},
		"a text":                      {`"x"`, "the event is not a JSON object"},
		"an empty object":             {`{}`, noKind},
		"format 1.0":                  {`{"version":"1.0","httpMethod":"POST","path":"/api/unassign","body":"{}"}`, format},
		"a REST API":                  {`{"httpMethod":"POST","resource":"/","path":"/api/unassign"}`, format},
		"a load balancer":             {`{"requestContext":{"elb":{"targetGroupArn":"x"}},"httpMethod":"POST"}`, "the event is of a load balancer"},
		"SNS":                         {`{"Records":[{"EventSource":"aws:sns"}]}`, records},
		"SNS in the form of SQS":      {`{"Records":[{"eventSource":"aws:sns","messageId":"1","body":"{}"}]}`, records},
		"S3 beside SQS":               {`{"Records":[{"eventSource":"aws:sqs","messageId":"1","body":"{}"},{"eventSource":"aws:s3","messageId":"2"}]}`, records},
		"no records":                  {`{"Records":[]}`, records},
		"a message without id":        {`{"Records":[{"eventSource":"aws:sqs","body":"{}"}]}`, records},
		"no input":                    {`{"version":"0","source":"aws.scheduler","detail-type":"Scheduled Event","detail":"{}"}`, schedule},
		"another bus":                 {`{"version":"0","source":"contoso","detail-type":"Retired","detail":{"command":"sweep"}}`, schedule},
		"both of two":                 {`{"version":"2.0","requestContext":{"http":{"method":"POST"}},"Records":[]}`, noKind},
		"a command beside it":         {`{"version":"2.0","requestContext":{"http":{"method":"POST"}},"command":"sweep"}`, noKind},
		"a command beside a message":  {`{"command":"sweep","Records":[{"eventSource":"aws:sqs","messageId":"1","body":"{}"}]}`, noKind},
		"a command beside a schedule": {`{"command":"sweep","source":"aws.events","detail-type":"Scheduled Event"}`, noKind},
		"a schedule with a method":    {`{"httpMethod":"POST","source":"aws.events","detail-type":"Scheduled Event"}`, format},
		"a bare body":                 {`{"deviceId":"` + someDevice + `"}`, noKind},
		"2.0 without a method":        {`{"version":"2.0","requestContext":{"http":{}}}`, noKind},
		"2.0 of another form":         {`{"version":"2.0","requestContext":{"http":{"method":"POST"}},"headers":[1]}`, "the event has the envelope of payload format 2.0 and not its form"},
	} {
		var logged bytes.Buffer
		asked := false
		l := &lambdaHost{
			http: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }),
			run: func(context.Context, handler.Event) (any, error) {
				asked = true
				return struct{}{}, nil
			},
			log: app.NewLog(&logged, slog.LevelInfo),
		}
		answer, err := l.Invoke(t.Context(), []byte(test.payload))
		if err == nil || err.Error() != test.want || answer != nil || asked {
			t.Errorf("%s: %q, %v; want the error %q", name, answer, err, test.want)
		}
		if !strings.Contains(logged.String(), `"level":"ERROR"`) || !strings.Contains(logged.String(), test.want) {
			t.Errorf("%s: the log has %s", name, logged.String())
		}
	}
}

// A body that is said to be base64 and is not gets the one form of a failure.
func TestLambdaRefusesFalseBase64(t *testing.T) {
	t.Parallel()
	d := deploy(t, newCloud(), config.Lambda).(lambdaDeployment)
	for _, body := range []string{"%%%", validBody, "abc"} {
		request := event("POST", "/api/unassign", body, true)
		request["headers"] = map[string]string{"x-api-key": canaryAPIKey}
		payload, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		result, err := d.Invoke(t.Context(), payload)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := lambda.ReadAnswer(result)
		if err != nil || answer.Status != http.StatusBadRequest || !bytes.Contains(answer.Body,
			[]byte(`"error":{"code":"invalid_json"`)) {
			t.Errorf("%s: %d %s, %v", body, answer.Status, answer.Body, err)
		}
	}
}

// FuzzInvoke throws events at the classifier. Properties:
//  1. It does not panic.
//  2. Only an event with the envelope of payload format 2.0 reaches the handler as a request, and then there is an answer with
//     a status and no error.
//  3. No event is taken for two things.
func FuzzInvoke(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"version":"2.0","rawPath":"/api/unassign","requestContext":{"http":{"method":"POST"}},"body":"{}"}`,
		`{"version":"2.0","requestContext":{"http":{"method":"P OST"}}}`, `{"Records":[]}`,
		`{"version":"2.0","requestContext":{"http":{"method":"GET"},"elb":{}}}`,
		`{"version":"2.0","requestContext":{"http":{"method":"GET"}},"body":"%","isBase64Encoded":true}`, `[]`, `null`,
		`{"Records":[{"eventSource":"aws:sqs","messageId":"1","body":"{}"}]}`, `{"command":"sweep"}`,
		`{"command":"sweep","version":"2.0","requestContext":{"http":{"method":"GET"}}}`,
		`{"version":"0","source":"aws.events","detail-type":"Scheduled Event","time":"2026-11-23T02:00:00Z","detail":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		asked := false
		ran := 0
		l := &lambdaHost{log: slog.New(slog.DiscardHandler), http: http.HandlerFunc(func(w http.ResponseWriter,
			r *http.Request,
		) {
			asked = true
			echo(w, r)
		}), run: func(context.Context, handler.Event) (any, error) {
			ran++
			return map[string]any{}, nil
		}, settle: func(_ context.Context, _ handler.Source, messages []handler.Message, settle func(int, handler.Settlement)) {
			ran++
			for i := range messages {
				settle(i, handler.Settlement{})
			}
		}}
		answer, err := l.Invoke(t.Context(), payload)
		var response struct{ StatusCode int }
		switch {
		case err != nil && (asked || ran > 0 || answer != nil):
			t.Fatalf("%q: an error and an answer: %v, %s", payload, err, answer)
		case asked && ran > 0:
			t.Fatalf("%q is taken for two things", payload)
		case err == nil && json.Unmarshal(answer, &response) != nil, err == nil && ran == 0 && response.StatusCode < 200:
			t.Fatalf("%q: %s", payload, answer)
		}
		var envelope struct {
			Version        string
			RequestContext struct{ HTTP struct{ Method string } }
		}
		if asked && (json.Unmarshal(payload, &envelope) != nil || envelope.Version != "2.0" ||
			envelope.RequestContext.HTTP.Method == "") {
			t.Fatalf("%q reached the handler", payload)
		}
	})
}
