package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/lambda"
)

// eventsOnLambda is the program under the double of Lambda, with a sweep set up.
func eventsOnLambda(t *testing.T, c *azuresim.Cloud, o lambda.Options, changes ...string) lambdaDeployment {
	t.Helper()
	served := c.Serve()
	t.Cleanup(served.Close)
	o.Binary, o.Env = binary, environment(t, c, served, append([]string{
		"SWEEP_GROUP_TAG=MTR-Oslo",
		"REQUEST_TIMEOUT=20s",
	}, changes...)...)
	host, err := lambda.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Stop)
	d := lambdaDeployment{host}
	t.Cleanup(func() {
		if found := leaks(canaries(c, served), strings.Join(d.lines(), "\n")); len(found) > 0 {
			t.Errorf("the log has %q:\n%s", found, strings.Join(d.lines(), "\n"))
		}
	})
	return d
}

// invoke sends an event, and returns the reply of the function and the text of its error, one of which is "".
func invoke(t *testing.T, d lambdaDeployment, c *azuresim.Cloud, event string) (answer, failure, id string) {
	t.Helper()
	result, err := d.Invoke(t.Context(), []byte(event))
	if err != nil {
		t.Fatalf("%s: %+v, %v", event, result, err)
	}
	if result.Error != nil {
		failure = result.Error.Message
	}
	if found := leaks(canaries(c, nil), string(result.Payload), failure); len(found) > 0 {
		t.Errorf("the answer has %q: %s %s", found, result.Payload, failure)
	}
	return string(result.Payload), failure, result.RequestID
}

// at returns an event of the page with another time.
func at(t *testing.T, name string, due time.Time) string {
	t.Helper()
	return strings.ReplaceAll(fixture(t, name), "2026-11-23T02:00:00Z", due.UTC().Format(time.RFC3339))
}

const scheduleARN = "arn:aws:scheduler:eu-west-1:123456789012:schedule/default/unassign-sweep"

// scheduled returns the input of the page as EventBridge Scheduler fills it in.
func scheduled(t *testing.T, due time.Time) string {
	t.Helper()
	return strings.NewReplacer("<aws.scheduler.scheduled-time>", due.UTC().Format(time.RFC3339),
		"<aws.scheduler.schedule-arn>", scheduleARN).Replace(fixture(t, "scheduler-input.json"))
}

// Every event that asks for a sweep gets one, and its report.
func TestLambdaSweeps(t *testing.T) {
	t.Parallel()
	now := time.Now()
	arn := "map[scheduleArn:" + scheduleARN + "]"
	for _, apply := range []bool{false, true} {
		c := newCloud()
		d := eventsOnLambda(t, c, lambda.Options{}, fmt.Sprintf("SWEEP_APPLY=%v", apply))
		n := 0
		for name, test := range map[string]struct {
			event, source, context string
			dry                    bool // even where sweeps may act
		}{
			"a rule":                       {at(t, "eventbridge-rule.json", now), "schedule", "", false},
			"a rule, five hours behind":    {at(t, "eventbridge-rule.json", now.Add(-5*time.Hour)), "schedule", "", false},
			"Scheduler":                    {scheduled(t, now), "invoke", arn, false},
			"Scheduler, five hours behind": {scheduled(t, now.Add(-5*time.Hour)), "invoke", arn, false},
			"by hand":                      {fixture(t, "invoke-sweep.json"), "invoke", "", true},
			"by hand, as it is set up":     {`{"command":"sweep"}`, "invoke", "", false},
		} {
			secondDevice(c)
			c.PutDevice(azuresim.Device{
				ID: someDevice, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo",
				UserPrincipalName: "room.fjord@contoso.com",
			})
			dry := test.dry || !apply
			answer, failure, id := invoke(t, d, c, test.event)
			if want := strings.Replace(strings.TrimSpace(fixture(t, "sweep-report.json")), `"dryRun":true`,
				fmt.Sprintf(`"dryRun":%v`, dry), 1); answer != want || failure != "" {
				t.Errorf("%s: %s %s; want %s", name, answer, failure, want)
				continue
			}
			if left := carrying(c); dry != (left == 3) || !dry && left != 1 {
				t.Errorf("%s: %d devices carry an account", name, left)
			}
			n++
			check(t, name, records(t, d, "sweep", n)[n-1], map[string]string{
				"level": "INFO", "host": "lambda", "invocation_id": id, "caller_kind": "event", "caller_id": test.source,
				"code": "swept", "dry_run": fmt.Sprint(dry), "context": test.context,
			})
			for _, record := range records(t, d, "unassign", 2*n)[2*n-2:] {
				check(t, name, record, map[string]string{
					"invocation_id": id, "caller_kind": "event", "caller_id": test.source,
					"dry_run": fmt.Sprint(dry), "context": test.context, "group_tag": "MTR-Oslo",
				})
			}
		}
	}
}

// The record of a sweep has the members that the page shows.
func TestSweepRecord(t *testing.T) {
	t.Parallel()
	c := newCloud()
	secondDevice(c)
	d := eventsOnLambda(t, c, lambda.Options{})
	invoke(t, d, c, scheduled(t, time.Now()))
	record := records(t, d, "sweep", 1)[0]
	var shown map[string]any
	if err := json.Unmarshal([]byte(fixture(t, "sweep-record.json")), &shown); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"timestamp", "request_id", "invocation_id", "total_ms"} { // which differ from run to run
		if reflect.TypeOf(record[name]) != reflect.TypeOf(shown[name]) {
			t.Errorf("%s is %v", name, record[name])
		}
		record[name] = shown[name]
	}
	if !reflect.DeepEqual(record, shown) {
		t.Errorf("the record is %v\nthe page has %v", record, shown)
	}
}

func TestLambdaUnassigns(t *testing.T) {
	t.Parallel()
	c := newCloud()
	secondDevice(c)
	d := eventsOnLambda(t, c, lambda.Options{})
	answer, failure, id := invoke(t, d, c, fixture(t, "invoke-unassign.json"))
	var report struct {
		Results []struct {
			Code   string
			Status int
		}
	}
	if err := json.Unmarshal([]byte(answer), &report); err != nil || failure != "" || len(report.Results) != 2 ||
		carrying(c) != 1 {
		t.Fatalf("%s %s", answer, failure)
	}
	for i, record := range records(t, d, "unassign", 2) {
		if r := report.Results[i]; r.Code != "unassigned" || r.Status != http.StatusOK {
			t.Errorf("%+v", r)
		}
		check(t, "a device", record, map[string]string{
			"level": "INFO", "host": "lambda", "invocation_id": id, "caller_kind": "event", "caller_id": "invoke",
			"code": "unassigned", "reference": "RITM0012345",
		})
	}
}

// A transient failure fails the invocation, and Lambda retries it. A permanent failure is a reply with the code, and
// an ERROR in the log.
func TestLambdaEventsFail(t *testing.T) {
	t.Parallel()
	later := azuresim.Status(503, "Retry-After", "3600")
	unassign := `{"command":"unassign","deviceId":"` + someDevice + `"}`
	for name, test := range map[string]struct {
		prepare         func(*azuresim.Cloud)
		event           string
		answer, failure string // a part of the one, or the other
		message, level  string // of the record
		code            string
	}{
		"Graph is not there": {
			func(c *azuresim.Cloud) { c.Fail(azuresim.StepGraph, 1, later) },
			`{"command":"sweep"}`, "", "graph_unavailable", "sweep", "ERROR", "graph_unavailable",
		},
		"a device is not done": {
			func(c *azuresim.Cloud) { c.Fail(azuresim.StepGraph, 1, later) }, unassign, "",
			"graph_unavailable", "unassign", "ERROR", "graph_unavailable",
		},
		"no permission": {
			func(c *azuresim.Cloud) { c.SetGraphRoles("Device.Read.All") },
			`{"command":"sweep"}`, `"code":"graph_permission_missing"`, "", "sweep", "ERROR", "graph_permission_missing",
		},
		"too many": {
			func(c *azuresim.Cloud) { secondDevice(c) }, `{"command":"sweep"}`,
			`"matching":2,"succeeded":0,"failed":0,"handedBack":2`, "", "sweep", "ERROR", "sweep_too_many",
		},
		"an unknown device": {
			nil, `{"command":"unassign","deviceId":"` + unknownDevice + `"}`,
			`"code":"device_not_found"`, "", "unassign", "ERROR", "device_not_found",
		},
		"a rule of yesterday": {
			nil, at(t, "eventbridge-rule.json", time.Now().Add(-7*time.Hour)),
			`{"error":{"code":"event_late"}}`, "", "event", "ERROR", "event_late",
		},
		"Scheduler of yesterday": {
			nil, scheduled(t, time.Now().Add(-7*time.Hour)),
			`{"error":{"code":"event_late"}}`, "", "event", "ERROR", "event_late",
		},
		"placeholders by hand": {
			nil, fixture(t, "scheduler-input.json"), `{"error":{"code":"event_invalid"}}`,
			"", "event", "ERROR", "event_invalid",
		},
		"a command that is none": {
			nil, `{"command":"wipe"}`, `{"error":{"code":"event_invalid"}}`, "", "event",
			"ERROR", "event_invalid",
		},
		"a command with more in it": {
			nil, `{"command":"sweep","apply":true}`, `{"error":{"code":"unknown_field"}}`,
			"", "event", "ERROR", "unknown_field",
		},
		"Scheduler without an input": {nil, fixture(t, "scheduler-no-input.json"), "", "the event is of EventBridge and " +
			"has no command; give the schedule an input", "event refused", "ERROR", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			if test.prepare != nil {
				test.prepare(c)
			}
			d := eventsOnLambda(t, c, lambda.Options{}, "SWEEP_APPLY=true", "SWEEP_MAX_DEVICES=1")
			answer, failure, id := invoke(t, d, c, test.event)
			if !strings.Contains(answer, test.answer) || (test.answer == "") != (answer == "") || failure != test.failure {
				t.Errorf("%q, the error %q; want %q, %q", answer, failure, test.answer, test.failure)
			}
			check(t, "the record", records(t, d, test.message, 1)[0], map[string]string{
				"level": test.level, "host": "lambda",
				"invocation_id": id, "code": test.code,
			})
			if carrying(c) != len(c.Devices()) {
				t.Error("an account was taken off")
			}
			if test.message == "event" || test.message == "event refused" {
				if n := c.Count(azuresim.StepGraph); n != 0 {
					t.Errorf("Graph was asked %d times", n)
				}
			}
			if test.answer == "" && test.code != "" { // Lambda sends it again
				if answer, failure, _ := invoke(t, d, c, test.event); failure != "" || carrying(c) != 0 {
					t.Errorf("again: %s %s", answer, failure)
				}
			}
		})
	}
}

// batch returns the event of SQS with messages by their ids.
func batch(t *testing.T, messages ...[2]string) string {
	t.Helper()
	var event map[string][]map[string]any
	if err := json.Unmarshal([]byte(sentNow(fixture(t, "sqs.json"))), &event); err != nil {
		t.Fatal(err)
	}
	var records []map[string]any
	for _, m := range messages {
		record := maps.Clone(event["Records"][0])
		record["messageId"], record["body"] = m[0], m[1]
		records = append(records, record)
	}
	text, err := json.Marshal(map[string]any{"Records": records})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// handedBack is the reply that hands messages back. A list of none is written as such: null would do as well, and
// says less.
func handedBack(ids ...string) string {
	items := []string{}
	for _, id := range ids {
		items = append(items, `{"itemIdentifier":"`+id+`"}`)
	}
	return `{"batchItemFailures":[` + strings.Join(items, ",") + `]}`
}

func TestSQS(t *testing.T) {
	t.Parallel()
	one, other, unknown := `{"deviceId":"`+someDevice+`"}`, `{"serialNumber":"5CG5678DEF"}`,
		`{"deviceId":"`+unknownDevice+`"}`
	later := azuresim.Status(503, "Retry-After", "3600")
	for name, test := range map[string]struct {
		prepare func(*azuresim.Cloud)
		event   string
		back    []string
		left    int    // devices with an account, of three
		codes   string // of the records, with the message
		graph   int    // requests at the most
	}{
		"the message of the page": {
			nil, sentNow(fixture(t, "sqs.json")), nil, 2,
			"unassigned 059f36b4-87a3-44ab-83d2-661975830a7d", 2,
		},
		"two messages": {
			nil, batch(t, [2]string{"1", one}, [2]string{"2", other}), nil, 1,
			"unassigned 1, unassigned 2", 4,
		},
		"a message twice": {nil, batch(t, [2]string{"1", one}, [2]string{"1", one}), nil, 2, "unassigned 1", 2},
		"a message twice, failed": {
			nil, batch(t, [2]string{"1", unknown}, [2]string{"1", unknown}),
			[]string{"1"},
			3,
			"device_not_found 1", 1,
		},
		"a device in two messages": {
			nil, batch(t, [2]string{"1", one}, [2]string{"2", one}), nil, 2, "unassigned, already_unassigned", 4,
		},
		"no JSON in one": {
			nil, batch(t, [2]string{"1", "5CG1234ABC"}, [2]string{"2", one}),
			[]string{"1"},
			2,
			"invalid_json 1, unassigned 2", 2,
		},
		"a command in one": {
			nil, batch(t, [2]string{"1", `{"command":"sweep"}`}, [2]string{"2", one}),
			[]string{"1"},
			2,
			"unknown_field 1, unassigned 2", 2,
		},
		"an event in one": {
			nil, batch(t, [2]string{"1", fixture(t, "eventbridge-rule.json")}, [2]string{"2", one}),
			[]string{"1"},
			2, "unknown_field 1, unassigned 2", 2,
		},
		"nothing in one": {
			nil, batch(t, [2]string{"1", ""}, [2]string{"2", one}),
			[]string{"1"},
			2,
			"body_missing 1, unassigned 2", 2,
		},
		"one for ever": {
			nil, batch(t, [2]string{"1", one}, [2]string{"2", unknown}, [2]string{"3", other}),
			[]string{"2"},
			1, "unassigned 1, device_not_found 2, unassigned 3", 5,
		},
		"all of them": {func(c *azuresim.Cloud) { c.Fail(azuresim.StepGraph, -1, later) }, batch(t, [2]string{
			"1",
			one,
		}, [2]string{"2", one}), []string{"1", "2"}, 3, "graph_unavailable 1, graph_unavailable 2", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			secondDevice(c)
			d := eventsOnLambda(t, c, lambda.Options{})
			if test.prepare != nil {
				test.prepare(c)
			}
			answer, failure, id := invoke(t, d, c, test.event)
			if answer != handedBack(test.back...) || failure != "" || carrying(c) != test.left ||
				c.Count(azuresim.StepGraph) > test.graph {
				t.Errorf("%s %s, %d devices carry an account, Graph was asked %d times; want %s, %d, at most %d",
					answer, failure, carrying(c), c.Count(azuresim.StepGraph), handedBack(test.back...), test.left, test.graph)
			}
			var codes []string
			for _, record := range recordsWhere(t, d, "caller_id", "sqs", strings.Count(test.codes, ",")+1) {
				words, _ := record["context"].(map[string]any)
				codes = append(codes, fmt.Sprint(record["code"], " ", words["messageId"]))
				check(t, "a record", record, map[string]string{
					"host": "lambda", "invocation_id": id, "caller_kind": "event",
					"caller_id": "sqs",
				})
				if words["receiveCount"] != "1" || strings.HasSuffix(fmt.Sprint(record["code"]),
					"unassigned") != (record["level"] == "INFO") {
					t.Errorf("%v", record)
				}
			}
			want := strings.Split(test.codes, ", ")
			// two messages run at the same time: either may be first
			if !strings.Contains(test.codes, " ") || strings.HasPrefix(test.codes, "unassigned,") {
				for i := range codes {
					codes[i], _, _ = strings.Cut(codes[i], " ")
				}
			}
			slices.Sort(want)
			slices.Sort(codes)
			if !slices.Equal(codes, want) {
				t.Errorf("%q, want %q", codes, want)
			}
		})
	}
	if page := strings.TrimSpace(fixture(t, "sqs-reply.json")); page != handedBack(
		"059f36b4-87a3-44ab-83d2-661975830a7d") {
		t.Errorf("the page has the reply %s", page)
	}
}

// With a function timeout of 3 to 6 s the first message is tried all the same.
func TestSQSWithAShortTimeout(t *testing.T) {
	t.Parallel()
	for _, timeout := range []time.Duration{3 * time.Second, 6 * time.Second} {
		c := newCloud()
		d := eventsOnLambda(t, c, lambda.Options{Timeout: timeout})
		one := `{"deviceId":"` + someDevice + `"}`
		if answer, failure, _ := invoke(t, d, c, batch(t, [2]string{"1", one})); answer != handedBack() || failure != "" ||
			carrying(c) != 0 {
			t.Errorf("%v: %s %s, %d devices carry an account", timeout, answer, failure, carrying(c))
		}
	}
}

// An invoker writes the events: a word that is not plain reaches no log.
func TestSQSWordsAreNotTrusted(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnLambda(t, c, lambda.Options{})
	id := "id\u202e" + strings.Repeat("x", 3000)
	event := strings.Replace(batch(t, [2]string{id, "no JSON"}), `"ApproximateReceiveCount":"1"`,
		`"ApproximateReceiveCount":"1\n2"`, 1)
	if answer, failure, _ := invoke(t, d, c, event); answer != handedBack(id) || failure != "" {
		t.Errorf("%s %s", answer, failure)
	}
	check(t, "the record", records(t, d, "event", 1)[0], map[string]string{
		"code": "invalid_json", "context": "",
		"caller_id": "sqs",
	})
	if log := strings.Join(d.lines(), "\n"); strings.Contains(log, "\u202e") || strings.Contains(log, "xxx") ||
		len(log) > 3000 {
		t.Errorf("the log has %s", log)
	}
}

// Nothing in a request turns it into an event.
func TestRequestsAreNoEvents(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnLambda(t, c, lambda.Options{}, "SWEEP_APPLY=true")
	for name, s := range map[string]sent{
		"messages in the body":   post(fixture(t, "sqs.json")),
		"a schedule in the body": post(fixture(t, "eventbridge-rule.json")),
		"a command in the body":  post(`{"command":"sweep"}`),
		"a command in the headers": post(`{}`, header("Command", "sweep"), header("Detail-Type", "Scheduled Event"),
			header("Source", "aws.events"), header("Records", `[{"eventSource":"aws:sqs"}]`)),
		"a command in the query": post(`{}`, func(
			s *sent,
		) {
			s.Target += "?command=sweep&Records=1&detail-type=x&source=aws.events"
		}),
		"a command and no evidence": post(`{"command":"sweep"}`, unsigned),
		"the path of an event":      post(`{"command":"sweep"}`, func(s *sent) { s.Target = "/sweep" }),
	} {
		answer, err := d.send(t.Context(), s)
		if err != nil || answer.status/100 != 4 || !strings.Contains(answer.body, `"error":{"code":"`) {
			t.Errorf("%s: %d %s, %v", name, answer.status, answer.body, err)
		}
	}
	for _, message := range []string{"sweep", "event", "event refused"} {
		records(t, d, message, 0)
	}
	if c.Count(azuresim.StepGraph) != 0 {
		t.Errorf("Graph was asked %d times", c.Count(azuresim.StepGraph))
	}
}

// fakeSQS responds to the actions of SQS that the function calls, and keeps the messages that were sent.
type fakeSQS struct {
	t      *testing.T
	status int
	calls  []string
	sent   []map[string]any

	requeued []string
	partly   bool // refuses the entries of a batch
}

func (f *fakeSQS) Do(r *http.Request) (*http.Response, error) {
	action := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	f.calls = append(f.calls, action)
	signed := r.Header.Get("Authorization")
	if r.URL.String() != "https://sqs.eu-west-1.amazonaws.com/" || r.Header.Get("X-Amz-Security-Token") != "session" ||
		!strings.HasPrefix(signed, "AWS4-HMAC-SHA256 Credential=key/") || !strings.Contains(signed,
		"/eu-west-1/sqs/aws4_request") || !strings.Contains(signed, "x-amz-target") {
		f.t.Errorf("%s %s, signed %s", r.Method, r.URL, signed)
	}
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		f.t.Error(err)
	}
	body := `{"Attributes":{"RedrivePolicy":"{\"deadLetterTargetArn\":\"arn:aws:sqs:eu-west-1:123456789012:dead\",\"maxReceiveCount\":5}"}}`
	switch action {
	case "ChangeMessageVisibilityBatch":
		if entries := fmt.Sprint(in["Entries"]); strings.Count(entries, "VisibilityTimeout:90") != strings.Count(entries, "ReceiptHandle:") {
			f.t.Errorf("hidden: %s", entries)
		}
	case "SendMessage":
		f.sent = append(f.sent, in)
		body = `{"MessageId":"1"}`
	case "SendMessageBatch":
		f.requeued = append(f.requeued, fmt.Sprint(in["Entries"]))
		body = `{"Successful":[{"Id":"0"}]}`
		if f.partly {
			body = `{"Failed":[{"Id":"0","Code":"InternalError"}]}`
		}
	}
	if action != "SendMessage" && in["QueueUrl"] != "https://sqs.eu-west-1.amazonaws.com/123456789012/unassign" {
		f.t.Errorf("the attributes of %v", in["QueueUrl"])
	}
	return &http.Response{StatusCode: f.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// A permanent failure goes to the dead-letter queue at once, with its code. If that fails, SQS moves it later.
func TestSQSPermanentFailures(t *testing.T) {
	t.Parallel()
	env := map[string]string{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "session"}
	run := func(_ context.Context, _ handler.Source, messages []handler.Message, settle func(int, handler.Settlement)) {
		for i, m := range messages {
			var s handler.Settlement
			switch string(m.Text) {
			case "permanent":
				s.DeadLetters = []handler.DeadLetter{{Text: m.Text, Code: "device_not_found"}}
			case "transient":
				s.Retry = true
			case "half":
				s.Requeue = [][]byte{[]byte("rest")}
			}
			settle(i, s)
		}
	}
	const source = "arn:aws:sqs:eu-west-1:123456789012:unassign"
	event := batch(t, [2]string{"1", "done"}, [2]string{"2", "permanent"}, [2]string{"3", "transient"}, [2]string{
		"4",
		"permanent",
	}, [2]string{"5", "half"})
	event = regexp.MustCompile(`"eventSourceARN":"[^"]*"`).ReplaceAllString(event, `"eventSourceARN":"`+source+`"`)
	for name, test := range map[string]struct {
		event  string
		status int
		env    map[string]string
		back   []string
		calls  []string
	}{
		// Each message is deleted as soon as it is settled.
		"sent": {event, 200, env, []string{"3"}, []string{
			"ChangeMessageVisibilityBatch", "DeleteMessage",
			"GetQueueAttributes", "SendMessage", "DeleteMessage",
			"SendMessage", "DeleteMessage",
			"SendMessageBatch", "DeleteMessage",
		}},
		// After a refused deletion the response deletes the messages.
		"refused": {event, 403, env, []string{"2", "3", "4", "5"}, []string{
			"ChangeMessageVisibilityBatch", "DeleteMessage",
			"GetQueueAttributes", "GetQueueAttributes", "SendMessageBatch",
		}},
		"no credentials": {event, 200, nil, []string{"2", "3", "4", "5"}, nil},
		"a forged ARN": {
			strings.ReplaceAll(event, "eu-west-1", "evil.example/"), 200, env,
			[]string{"2", "3", "4", "5"},
			nil,
		},
	} {
		sqs := &fakeSQS{t: t, status: test.status}
		log := &bytes.Buffer{}
		l := &lambdaHost{
			settle: run, hide: 90 * time.Second, queues: app.NewQueues(func(name string) string { return test.env[name] }, sqs),
			log: app.NewLog(log, slog.LevelInfo),
		}
		reply, err := l.Invoke(t.Context(), []byte(test.event))
		if err != nil || string(reply) != handedBack(test.back...) || !slices.Equal(sqs.calls, test.calls) {
			t.Errorf("%s: %s, %v after %v; want %s after %v", name, reply, err, sqs.calls, handedBack(test.back...), test.calls)
		}
		if n := strings.Count(log.String(), "dead letter not sent"); (n > 0) != (name != "sent") {
			t.Errorf("%s: the log has %s", name, log)
		}
		for i, m := range sqs.sent {
			attributes, _ := json.Marshal(m["MessageAttributes"])
			want := fmt.Sprintf(
				`{"code":{"DataType":"String","StringValue":"device_not_found"},"messageId":{"DataType":"String","StringValue":"%d"}}`, 2+2*i)
			if m["QueueUrl"] != "https://sqs.eu-west-1.amazonaws.com/123456789012/dead" || m["MessageBody"] != "permanent" ||
				string(attributes) != want {
				t.Errorf("%s: %v, want the attributes %s", name, m, want)
			}
		}
	}
}
