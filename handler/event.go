package handler

import (
	"context"
	"log/slog"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// Event is work without a caller that waits: a sweep, or a request from a schedule. Its host has authenticated the sender.
// [SweepEvent] and [CommandEvent] make one; queue messages come through [Handler.RunMessages].
type Event struct {
	Source  Source
	Due     time.Time         // its scheduled time; zero if unknown
	Context map[string]string // the host's data for the log; may be nil

	sweep   *sweepArgs // nil for a request
	request request
	invalid error // a *refusal of its text; nil for an event that can be carried out
}

type sweepArgs struct {
	groupTag string // "" for the one in the settings
	dryRun   bool
}

// Source is where an Event comes from.
type Source string

// The sources.
const (
	SourceTimer        Source = "timer"    // of Azure Functions
	SourceSchedule     Source = "schedule" // of Amazon EventBridge
	SourceInvoke       Source = "invoke"   // a direct invocation
	SourceSQS          Source = "sqs"
	SourceStorageQueue Source = "storage_queue"
)

// Sources are all sources. Each is the ID of the Caller of its events.
func Sources() []Source {
	return []Source{SourceTimer, SourceSchedule, SourceInvoke, SourceSQS, SourceStorageQueue}
}

// SweepEvent returns the event of a sweep as configured.
func SweepEvent(source Source) Event { return Event{Source: source, sweep: &sweepArgs{}} }

// CommandEvent returns the event of a direct invocation: a body as the webhook accepts it with "command":"unassign" in
// it, or a sweep ({"command":"sweep"}, optionally with groupTag and dryRun). Both may carry scheduledTime and
// scheduleArn.
func CommandEvent(text []byte) Event {
	e := Event{Source: SourceInvoke}
	e.invalid = e.decodeCommand(text)
	return e
}

// EventError is the error of an event that was not carried out, or not completely. It was logged.
type EventError struct {
	Code      Code
	Retryable bool // a retry of the same event may succeed; it does nothing twice
	Throttled bool // Graph is throttling: other events should wait too
}

func (e *EventError) Error() string { return string(e.Code) }

// maxLateness is how long after its scheduled time an event is still carried out.
const maxLateness = 6 * time.Hour

// The codes of events, in addition to the codes of requests.
const (
	eventInvalid        Code = "event_invalid"         // a field is invalid; the log names it
	eventLate           Code = "event_late"            // more than six hours after its scheduled time
	messageTooOld       Code = "message_too_old"       // older than QUEUE_MAX_AGE, without expected
	sweepTagMissing     Code = "sweep_tag_missing"     // neither the event nor SWEEP_GROUP_TAG has a group tag
	sweepTooMany        Code = "sweep_too_many"        // more devices than SWEEP_MAX_DEVICES
	sweepInventorySmall Code = "sweep_inventory_small" // fewer devices in Intune than SWEEP_MIN_INVENTORY
	sweepIncomplete     Code = "sweep_incomplete"      // the time was up, or devices failed transiently
)

// Run carries out an event and returns a report for its host: the results of the devices, or the Report of a sweep. The
// error is an *EventError.
func (h *Handler) Run(ctx context.Context, e Event) (report any, err error) {
	o := newOrigin(ctx, time.Now(), guid.New().String())
	o.caller = caller.Caller{Kind: caller.KindEvent, ID: string(e.Source)}
	ctx = upstream.WithTrace(ctx, o.trace)
	e.request.list = true // each device has a status of its own
	e.request.context = mergeContext(e.request.context, e.Context)
	job := work{request: e.request}
	failure := singleflight.CatchPanic(func() error {
		switch {
		case e.invalid != nil:
			return e.invalid
		case !e.Due.IsZero() && time.Since(e.Due) > maxLateness:
			return &refusal{code: eventLate}
		case e.sweep != nil:
			report, err = h.runSweep(ctx, o, &job, *e.sweep)
			return nil
		}
		job.setRequest(e.request)
		ctx, cancel := context.WithTimeout(ctx, h.Timeout)
		defer cancel()
		return h.performOnce(ctx, o, &job, nil, func(ctx context.Context) error { return h.actOnDevices(ctx, o, &job) })
	})
	switch {
	case failure != nil:
		job.result = classify(failure)
		h.auditEvent(ctx, o, &job)
		return nil, &EventError{Code: job.result.code, Retryable: retryable(job.result.status)}
	case e.sweep != nil:
		return report, err
	}
	h.auditEvent(ctx, o, &job)
	return eventResult(job.devices)
}

// auditEvent writes a record for each device of an event, or one for an event that names none.
func (h *Handler) auditEvent(ctx context.Context, o *origin, w *work) {
	if len(w.devices) > 0 {
		h.auditWork(ctx, o, w, w.result.status)
		return
	}
	e := o.newEntry("event", slog.LevelError, w.result.code)
	e.addContext(w.context)
	e.addError(w.result.err)
	h.writeRecord(ctx, e)
}

// eventResult returns the results of devices for the host, and the error of the first failed device. A retryable
// failure comes before a permanent one.
func eventResult(devices []*device) (any, error) {
	var failed *EventError
	results := make([]any, len(devices))
	for i, d := range devices {
		results[i] = d.listBody()
		if !d.result.failed() {
			continue
		}
		if retry := retryable(d.result.status); failed == nil || retry && !failed.Retryable {
			failed = &EventError{d.result.code, retry, failed != nil && failed.Throttled}
		}
		failed.Throttled = failed.Throttled || d.result.throttled
	}
	report := map[string]any{"results": results}
	if failed != nil {
		return report, failed
	}
	return report, nil
}

// decodeCommand decodes the text of a command into e, as strictly as a body. Its error is a *refusal.
func (e *Event) decodeCommand(text []byte) error {
	text, err := checkJSON(text, maxBody)
	if err != nil {
		return err
	}
	var (
		body      bodyDecoder
		args      sweepArgs
		command   string
		ofRequest string // the first field that a sweep does not have
		ofSweep   string // the first field that a request does not have
	)
	err = readObject(text, &refusal{code: invalidJSON}, func(field string) fieldReader {
		invalid := &refusal{eventInvalid, field}
		switch field {
		case "command":
			return stringField(invalid, func(text string) bool {
				command = text
				return text == "sweep" || text == "unassign"
			})
		case "scheduledTime": // EventBridge Scheduler sets it: <aws.scheduler.scheduled-time>
			return stringField(invalid, func(text string) bool {
				due, err := time.Parse(time.RFC3339, text)
				e.Due = due
				return err == nil
			})
		case "scheduleArn": // <aws.scheduler.schedule-arn>
			return stringField(invalid, func(text string) bool {
				valid := isPrintable(text, maxContextValue)
				if valid && text != "" { // a refused command has a record too
					e.Context = map[string]string{"scheduleArn": text}
				}
				return valid
			})
		case "groupTag":
			ofSweep = field
			return stringField(invalid, func(text string) bool {
				args.groupTag = text
				return text != "" && isPrintable(text, maxContextValue)
			})
		}
		if field != "dryRun" && ofRequest == "" {
			ofRequest = field
		}
		return body.fieldReader(field)
	})
	switch {
	case err != nil:
		return err
	case command == "":
		return &refusal{eventInvalid, "command"}
	case command == "sweep" && ofRequest != "":
		return &refusal{unknownField, ofRequest}
	case command == "unassign" && ofSweep != "":
		return &refusal{unknownField, ofSweep}
	}
	if command == "sweep" {
		args.dryRun = body.req.dryRun
		e.sweep = &args
		return nil
	}
	e.request, err = body.finish()
	return err
}
