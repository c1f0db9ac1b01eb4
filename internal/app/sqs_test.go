//go:build !noaws

package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"autopilot-unassign/internal/config"
)

// sqsDouble answers requests as SQS does and keeps the messages.
type sqsDouble struct {
	t        *testing.T
	messages []string
	requests int
	response func() (status int, body string)
}

func (d *sqsDouble) Do(r *http.Request) (*http.Response, error) {
	d.requests++
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	signature := regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=AKID/\d{8}/eu-west-1/sqs/aws4_request, ` +
		`SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*x-amz-target, Signature=[0-9a-f]{64}$`)
	if !signature.MatchString(r.Header.Get("Authorization")) || r.Header.Get("X-Amz-Security-Token") != "session" {
		d.t.Errorf("Authorization is %q", r.Header.Get("Authorization"))
	}
	if r.URL.String() != "https://sqs.eu-west-1.amazonaws.com/" || r.Header.Get("X-Amz-Target") != "AmazonSQS.SendMessageBatch" {
		d.t.Errorf("%s to %s", r.Header.Get("X-Amz-Target"), r.URL)
	}
	var sent struct {
		QueueURL string `json:"QueueUrl"`
		Entries  []struct{ ID, MessageBody string }
	}
	if err := json.Unmarshal(body, &sent); err != nil || sent.QueueURL != "https://sqs.eu-west-1.amazonaws.com/123456789012/unassign" {
		d.t.Errorf("%v in %s", err, body)
	}
	status, text := http.StatusOK, `{"Successful":[]}`
	if d.response != nil {
		status, text = d.response()
	}
	for _, e := range sent.Entries {
		d.messages = append(d.messages, e.MessageBody)
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(text))}, nil
}

const queueARN = "arn:aws:sqs:eu-west-1:123456789012:unassign"

func (d *sqsDouble) sender() SQS {
	return SQS{Role: config.AWSRole{Region: "eu-west-1", KeyID: "AKID", Secret: "secret", Session: "session"}, Transport: d}
}

func TestSQSSendsInBatches(t *testing.T) {
	t.Parallel()
	d := &sqsDouble{t: t}
	var bodies [][]byte
	for i := range 25 {
		bodies = append(bodies, fmt.Appendf(nil, `{"serialNumber":"SN%d"}`, i))
	}
	bodies = append(bodies, []byte(strings.Repeat("x", maxSQSBytes)))
	if err := d.sender().Send(t.Context(), queueARN, bodies...); err != nil {
		t.Fatal(err)
	}
	if len(d.messages) != 26 || d.messages[24] != string(bodies[24]) || d.requests != 4 {
		t.Errorf("%d messages in %d requests", len(d.messages), d.requests)
	}
}

func TestSQSFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status     int
		body, want string
	}{
		"refused":       {403, `{"__type":"com.amazonaws.sqs#AccessDenied","message":"canary"}`, "status 403"},
		"one failed":    {200, `{"Failed":[{"Id":"0","Code":"InternalError","Message":"canary"}]}`, "1 of 1 messages failed: InternalError"},
		"a proxy's 200": {200, "<html>canary", "no JSON"},
	} {
		d := &sqsDouble{t: t, response: func() (int, string) { return test.status, test.body }}
		err := d.sender().Send(t.Context(), queueARN, []byte("{}"))
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, arn := range []string{"", "arn:aws:sns:eu-west-1:1:q", "arn:aws:sqs:eu-west-1.evil.example/:1:q", "arn:aws:sqs:us-east-1:1:q", "arn:aws:sqs::1:q", "arn:aws:sqs:eu-west-1:1/2:q"} {
		d := &sqsDouble{t: t}
		if err := d.sender().Send(t.Context(), arn, []byte("{}")); err == nil || d.requests > 0 {
			t.Errorf("%q: %v", arn, err)
		}
	}
}
