package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/upstream"
)

// Event is work that nobody waits for. Its host has authenticated whoever caused it.
type Event struct {
	Source  Source
	Command []byte            // what is to be done, as JSON
	Due     time.Time         // when it was to happen; zero if the host does not say
	ID      string            // of a message of a queue, which may come twice; may be empty
	Context map[string]string // words of the host's for the log; may be nil
}

// Source is where an Event comes from.
type Source string

// The sources. What comes from a queue is a body as the webhook takes it. The others are commands: such a body with
// "command":"unassign" in it, or SweepCommand with more or less in it.
const (
	SourceTimer        Source = "timer"    // of Azure Functions
	SourceSchedule     Source = "schedule" // of Amazon EventBridge
	SourceInvoke       Source = "invoke"   // whoever may invoke the function
	SourceSQS          Source = "sqs"
	SourceStorageQueue Source = "storage_queue"
)

// SweepCommand is the command of a sweep as the settings have it.
const SweepCommand = `{"command":"sweep"}`

// EventError is the error of an event that was not carried out, or not wholly. It has been logged.
type EventError struct {
	Code      Code
	Retryable bool // whether the same event may do better later; nothing is done twice then
	Throttled bool // whether Graph asks to be left alone, so that other events had better wait too
}

func (e *EventError) Error() string { return string(e.Code) }

// late is how long after its time an event of a schedule is still carried out.
const late = 6 * time.Hour

// The codes of events, beside those of requests.
const (
	eventInvalid        Code = "event_invalid"         // a field of it, which the log names
	eventLate           Code = "event_late"            // it is more than six hours behind its time
	sweepTagMissing     Code = "sweep_tag_missing"     // neither the event nor SWEEP_GROUP_TAG names a group tag
	sweepTooMany        Code = "sweep_too_many"        // more devices than SWEEP_MAX_DEVICES
	sweepInventorySmall Code = "sweep_inventory_small" // fewer devices in Intune than SWEEP_MIN_INVENTORY
	sweepIncomplete     Code = "sweep_incomplete"      // the time was up, or Graph was throttling
	swept               Code = "swept"
)

// Run carries out an event and returns what its host may hand to whoever looks: the answers for devices, or the Report of
// a sweep. The error is an *EventError.
func (h *Handler) Run(ctx context.Context, e Event) (report any, err error) {
	rec := &record{
		requestID: guid.New().String(), start: time.Now(), trace: &upstream.Trace{},
		caller: caller.Caller{Kind: caller.KindEvent, ID: string(e.Source)},
	}
	rec.invocation, _ = ctx.Value(invocationKey{}).(Invocation)
	ctx = upstream.WithTrace(upstream.WithRequestID(ctx, rec.requestID), rec.trace)
	defer func() {
		if p := recover(); p != nil {
			rec.err, rec.stack = fmt.Errorf("panic: %T", p), debug.Stack()
			report, err = nil, h.refuse(ctx, rec, internalError)
		}
	}()
	rec.words(e.Context)
	command, err := e.decode()
	if err != nil {
		rec.err = err
		return nil, h.refuse(ctx, rec, outcome(err))
	}
	if due := later(e.Due, command.due); !due.IsZero() && time.Since(due) > late {
		rec.words(command.context)
		return nil, h.refuse(ctx, rec, eventLate)
	}
	if command.sweep {
		rec.words(command.context)
		return h.sweep(ctx, rec, command)
	}
	rec.begin(command.request)
	rec.words(e.Context)
	rec.request.several = true // each has its own status, and there is no other
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	rec.delivery = e.ID
	err = h.once(ctx, rec, e.Command, func(ctx context.Context, rec *record) error {
		h.act(ctx, rec)
		return nil
	})
	if err != nil {
		rec.err = err
		return nil, h.refuse(ctx, rec, outcome(err))
	}
	h.audit(ctx, rec)
	return ended(rec.devices)
}

// words adds words to the context that rec logs.
func (rec *record) words(words map[string]string) {
	if rec.request.context == nil && len(words) > 0 {
		rec.request.context = map[string]string{}
	}
	maps.Copy(rec.request.context, words)
}

// refuse logs an event that was not carried out, and returns its error. What became of devices that it has named already is in
// doubt, and each has its record.
func (h *Handler) refuse(ctx context.Context, rec *record, code Code) error {
	rec.code, rec.status = code, rows[code].status
	if len(rec.devices) > 0 {
		h.audit(ctx, rec)
		return &EventError{Code: code, Retryable: retryable(rec.status)}
	}
	attrs := rec.origin(code)
	if len(rec.request.context) > 0 {
		attrs = append(attrs, slog.Any("context", rec.request.context))
	}
	if rec.err != nil {
		attrs = append(attrs, reason(rec.err))
	}
	if rec.stack != nil {
		attrs = append(attrs, slog.String("stack", string(rec.stack)))
	}
	h.Log.LogAttrs(ctx, slog.LevelError, "event", attrs...)
	return &EventError{Code: code, Retryable: retryable(rec.status)}
}

// ended returns the answers for devices, and the error that is left if any has failed: one that can be tried again counts
// more than one that cannot.
func ended(devices []*device) (any, error) {
	var failed *EventError
	answers := make([]any, len(devices))
	for i, d := range devices {
		code, status, err := d.end()
		if err == nil {
			answer := d.success()
			answer.Status = status
			answers[i] = answer
			continue
		}
		answers[i] = d.failure(err)
		if again := retryable(status); failed == nil || again && !failed.Retryable {
			failed = &EventError{Code: code, Retryable: again}
		}
		failed.Throttled = failed.Throttled || throttled(err)
	}
	report := map[string]any{"results": answers}
	if failed != nil {
		return report, failed
	}
	return report, nil
}

func throttled(err error) bool {
	failed, ok := errors.AsType[*upstream.Error](err)
	return ok && failed.Reason == upstream.Throttled
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// command is what an event asks for: a sweep or a request.
type command struct {
	request
	sweep    bool
	groupTag string    // of the sweep; "" for the one in the settings
	due      time.Time // when it was to happen, as whoever made the event says
}

// decode reads what e asks for, as strictly as the body of a request.
func (e Event) decode() (command, error) {
	if e.Source == SourceSQS || e.Source == SourceStorageQueue {
		req, err := decode(e.Command)
		return command{request: req}, err
	}
	return decodeCommand(e.Command)
}

func decodeCommand(text []byte) (command, error) {
	var c command
	invalid := func(field string) error { return &refusal{eventInvalid, field} }
	fields := map[string]func(json.RawMessage) error{
		"command": func(value json.RawMessage) error {
			word, _ := stringValue(value)
			c.sweep = word == "sweep"
			if !c.sweep && word != "unassign" {
				return invalid("command")
			}
			return nil
		},
		// EventBridge Scheduler fills these in: <aws.scheduler.scheduled-time> and <aws.scheduler.schedule-arn>.
		"scheduledTime": func(value json.RawMessage) error {
			word, _ := stringValue(value)
			var err error
			if c.due, err = time.Parse(time.RFC3339, word); err != nil {
				return invalid("scheduledTime")
			}
			return nil
		},
		"scheduleArn": func(value json.RawMessage) error {
			arn, ok := stringValue(value)
			if !ok || !printable(arn, maxContextValue) {
				return invalid("scheduleArn")
			}
			c.context = map[string]string{"scheduleArn": arn}
			return nil
		},
	}
	var kind struct{ Command *string }
	switch err := json.Unmarshal(text, &kind); {
	case err == nil && kind.Command == nil:
		return c, invalid("command")
	case err != nil, *kind.Command != "sweep":
		req, err := decodeWith(text, fields)
		if req.context == nil {
			req.context = c.context
		} else {
			maps.Copy(req.context, c.context)
		}
		c.request, c.sweep = req, false
		return c, err
	}
	fields["dryRun"] = flag(&c.dryRun, &refusal{dryRunInvalid, "dryRun"})
	fields["groupTag"] = func(value json.RawMessage) error {
		tag, ok := stringValue(value)
		if !ok || tag == "" || !printable(tag, maxContextValue) {
			return invalid("groupTag")
		}
		c.groupTag = tag
		return nil
	}
	if !utf8.Valid(text) || !json.Valid(text) {
		return c, &refusal{code: invalidJSON}
	}
	err := object(text, &refusal{code: invalidJSON}, func(field string) func(json.RawMessage) error { return fields[field] })
	return c, err
}
