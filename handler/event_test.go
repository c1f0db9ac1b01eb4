package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// carryOut runs an event on a handler made of o, and returns its result with the records of the log.
func carryOut(t *testing.T, o Options, e Event) (any, *EventError, []map[string]any) {
	t.Helper()
	var log bytes.Buffer
	o.Log, o.Timeout = slog.New(slog.NewJSONHandler(&log, nil)), time.Second
	report, err := newHandler(o).Run(WithInvocation(t.Context(), Invocation{Host: "lambda", ID: "invocation-1"}), e)
	failed, ok := errors.AsType[*EventError](err)
	if ok != (err != nil) {
		t.Fatalf("an error of type %T", err)
	}
	var records []map[string]any
	for line := range strings.Lines(log.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	return report, failed, records
}

const sweepCommand = `{"command":"sweep"}`

func message(source Source, text string, context map[string]string) Event {
	e := CommandEvent([]byte(strings.Replace(text, "{", `{"command":"unassign",`, 1)))
	e.Source, e.Context = source, context
	return e
}

func sweepWithContext(context map[string]string) Event {
	e := SweepEvent(SourceTimer)
	e.Context = context
	return e
}

// A panic is a transient error. The records name its devices, with an unknown outcome.
func TestEventPanics(t *testing.T) {
	broken := devicesFunc(func([]graph.DeviceID) []graph.Result { panic("broken") })
	for name, test := range map[string]struct {
		event   Event
		message string
	}{
		"a device": {message(SourceSQS, someBody, map[string]string{"messageId": "m-1"}), "unassign"},
		"a sweep":  {sweepWithContext(map[string]string{"messageId": "m-1"}), "event"},
	} {
		report, failed, records := carryOut(t, Options{Devices: broken, Sweep: Sweep{GroupTag: "MTR-Oslo"}}, test.event)
		if report != nil || failed == nil || failed.Code != internalError || !failed.Retryable || len(records) != 1 {
			t.Fatalf("%s: %v, %v, %v", name, report, failed, records)
		}
		record := records[0]
		words, _ := record["context"].(map[string]any)
		if record["msg"] != test.message || record["level"] != "ERROR" || record["code"] != "internal_error" || words["messageId"] != "m-1" ||
			record["invocation_id"] != "invocation-1" || record["stack"] == nil || strings.Contains(record["error"].(string), "broken") {
			t.Errorf("%s: %v", name, record)
		}
		if test.message == "unassign" && (record["device_id"] != someDevice || record["outcome"] != "unknown") {
			t.Errorf("%s: %v", name, record)
		}
	}
}

// The log has the message and every device that needs a person, because an event has no caller who learns of them.
func TestEventFailuresAreLoud(t *testing.T) {
	for name, test := range map[string]struct {
		command string
		reason  upstream.Reason
		level   string
		again   bool
	}{
		"no JSON":          {`5CG1234ABC`, "", "ERROR", false},
		"an unknown field": {`{"deviceId":"` + someDevice + `","force":true}`, "", "ERROR", false},
		"not found":        {someBody, upstream.NotFound, "ERROR", false},
		"a conflict":       {someBody, upstream.Conflict, "ERROR", false},
		"no permission":    {someBody, upstream.Forbidden, "ERROR", false},
		"throttled":        {someBody, upstream.Throttled, "WARN", true},
	} {
		devices := devicesFunc(func(ids []graph.DeviceID) []graph.Result {
			return []graph.Result{{ID: ids[0], Err: &upstream.Error{Service: upstream.Graph, Reason: test.reason}}}
		})
		_, failed, records := carryOut(t, Options{Devices: devices}, message(SourceStorageQueue, test.command, map[string]string{"messageId": "m-1", "dequeueCount": "2"}))
		if failed == nil || failed.Retryable != test.again || len(records) != 1 || records[0]["level"] != test.level {
			t.Errorf("%s: %+v, %v", name, failed, records)
			continue
		}
		if words, _ := records[0]["context"].(map[string]any); words["messageId"] != "m-1" || words["dequeueCount"] != "2" {
			t.Errorf("%s: the context is %v", name, words)
		}
	}
}

// The context of the event's author is beside the host's in the record, and the host's values win.
func TestEventContext(t *testing.T) {
	event := CommandEvent([]byte(`{"command":"unassign","deviceId":"` + someDevice + `","scheduleArn":"arn:1","context":{"room":"Fjord","scheduleArn":"forged"}}`))
	_, failed, records := carryOut(t, Options{Devices: devicesFunc(done204)}, event)
	want := map[string]any{"room": "Fjord", "scheduleArn": "arn:1"}
	if words, _ := records[0]["context"].(map[string]any); failed != nil || !maps.Equal(words, want) {
		t.Errorf("%v, the context is %v; want %v", failed, words, want)
	}
}

func TestDecodeCommand(t *testing.T) {
	id := `"deviceId":"` + someDevice + `"`
	for name, test := range map[string]struct {
		text  string
		code  Code // "" where it is accepted
		field string
	}{
		"a sweep":                   {sweepCommand, "", ""},
		"a sweep with all there is": {`{"command":"sweep","groupTag":"MTR-Oslo","dryRun":true,"scheduledTime":"2026-11-23T02:00:00Z","scheduleArn":"arn:1"}`, "", ""},
		"nulls":                     {`{"command":"sweep","groupTag":null,"dryRun":null,"scheduledTime":null}`, "", ""},
		"a device":                  {`{"command":"unassign",` + id + `,"verify":true}`, "", ""},
		"no command":                {`{` + id + `}`, eventInvalid, "command"},
		"a null command":            {`{"command":null}`, eventInvalid, "command"},
		"another command":           {`{"command":"wipe",` + id + `}`, eventInvalid, "command"},
		"a number":                  {`{"command":1,` + id + `}`, eventInvalid, "command"},
		"another case":              {`{"Command":"sweep"}`, unknownField, "Command"},
		"two commands":              {`{"command":"sweep","command":"unassign",` + id + `}`, duplicateField, "command"},
		"two commands, in two ways": {`{"command":"unassign","Command":"sweep",` + id + `}`, unknownField, "Command"},
		"a sweep of a device":       {`{"command":"sweep",` + id + `}`, unknownField, "deviceId"},
		"a device with a tag":       {`{"command":"unassign",` + id + `,"groupTag":"MTR-Oslo"}`, unknownField, "groupTag"},
		"a device of none":          {`{"command":"unassign"}`, selectorMissing, ""},
		"placeholders left":         {`{"command":"sweep","scheduledTime":"<aws.scheduler.scheduled-time>"}`, eventInvalid, "scheduledTime"},
		"an ARN with a line break":  {`{"command":"sweep","scheduleArn":"a\nb"}`, eventInvalid, "scheduleArn"},
		"an empty tag":              {`{"command":"sweep","groupTag":""}`, eventInvalid, "groupTag"},
		"a dry run in words":        {`{"command":"sweep","dryRun":"no"}`, dryRunInvalid, "dryRun"},
		"more behind it":            {sweepCommand + `{}`, invalidJSON, ""},
		"a list":                    {`[` + sweepCommand + `]`, invalidJSON, ""},
		"nothing":                   {``, bodyMissing, ""},
	} {
		err := CommandEvent([]byte(test.text)).invalid
		refused, _ := errors.AsType[*refusal](err)
		if refused == nil {
			refused = &refusal{}
		}
		if refused.code != test.code || refused.field != test.field {
			t.Errorf("%s: decode(%s) = %v; want %q of %q", name, test.text, err, test.code, test.field)
		}
		if event := CommandEvent([]byte(test.text)); test.field == "scheduleArn" && event.Context != nil {
			t.Errorf("%s: the record of the refusal would have %q", name, event.Context)
		}
	}
}

// eventCodes returns the codes that only events have.
func eventCodes(t *testing.T) []Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var codes []Code
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Code" {
			return true
		}
		for _, value := range spec.Values {
			literal, ok := value.(*ast.BasicLit)
			if !ok {
				t.Fatalf("a code in event.go is no literal")
			}
			code, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, Code(code))
		}
		return true
	})
	return codes
}

// The page says of each code of events whether the event is tried again, as the code decides it.
func TestDocsHaveEveryEventCode(t *testing.T) {
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, events, _ := strings.Cut(string(text), "\n# Events\n")
	entry := regexp.MustCompile(`(?m)^## (\w+)\n\n\*\*(Tried again|Not tried again)\.\*\* \S`)
	documented := map[Code]string{}
	for _, m := range entry.FindAllStringSubmatch(events, -1) {
		documented[Code(m[1])] = m[2]
	}
	codes := eventCodes(t)
	if len(codes) < 6 || strings.Count(events, "\n## ") != len(codes) {
		t.Errorf("docs/errors.md has %d entries of events, event.go the codes %v", strings.Count(events, "\n## "), codes)
	}
	h := newHandler(Options{Log: slog.New(slog.DiscardHandler)})
	for _, code := range codes {
		_, err := h.Run(t.Context(), Event{invalid: &refusal{code: code}})
		if strings.HasPrefix(string(code), "sweep_") {
			_, err = h.endSweep(t.Context(), newOrigin(t.Context(), time.Now(), ""), &work{}, Report{}, result{code: code})
		}
		want := "Not tried again"
		if failed, ok := errors.AsType[*EventError](err); ok && failed.Retryable {
			want = "Tried again"
		}
		if documented[code] != want {
			t.Errorf("docs/errors.md has %q for %s, want %q", documented[code], code, want)
		}
	}
}

// A queue delivers a message more than once. A device with a final result is not changed again: it may have a new
// account.
func TestEventComesAgain(t *testing.T) {
	const unknown = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"
	var acted []string
	var log bytes.Buffer
	h := newHandler(Options{
		Devices: devicesFunc(func(ids []graph.DeviceID) []graph.Result {
			results := done204(ids)
			for i, id := range ids {
				acted = append(acted, id.String())
				if id.String() == unknown && len(acted) < 3 {
					results[i].Err = &upstream.Error{Service: upstream.Graph, Reason: upstream.Unavailable}
				}
			}
			return results
		}),
		Verifier: caller.Platform{}, Log: slog.New(slog.NewJSONHandler(&log, nil)), Timeout: time.Second,
	})
	m := Message{ID: "m-1", Text: []byte(`{"devices":[{"deviceId":"` + someDevice + `"},{"deviceId":"` + unknown + `"}]}`), Deliveries: 1}
	for i, failed := range []bool{true, false, false} {
		if s := runMessages(t, h, m)[0]; s.Retry || (len(s.Requeue) > 0) != failed {
			t.Errorf("delivery %d: %+v", i+1, s)
		}
	}
	if want := []string{someDevice, unknown, unknown}; !slices.Equal(acted, want) {
		t.Errorf("%q were acted on, want %q:\n%s", acted, want, &log)
	}
	m.ID = "m-2" // another message that says the same
	if s := runMessages(t, h, m)[0]; s.Retry || len(s.Requeue) > 0 || len(acted) != 5 {
		t.Errorf("%+v, after %q", s, acted)
	}
}
