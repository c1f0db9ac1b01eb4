package handler

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// origin says where a request or an event comes from. Every audit record about it begins with it.
type origin struct {
	requestID  string
	start      time.Time
	invocation Invocation
	trace      *upstream.Trace
	flow       slog.Attr // the run in Power Automate; zero if the request does not say
	caller     caller.Caller
	delivery   string // its id; "" if the caller sent none
}

// entry is one audit record. No secret, token, body or URL is in it.
type entry struct {
	message string // unassign, event, sweep, doctor or devices
	level   slog.Level
	attrs   []slog.Attr
}

// maxAttrs is the usual number of attributes of a record, or more.
const maxAttrs = 28

// newEntry returns a record that says where its request comes from and how it ended.
func (o *origin) newEntry(message string, level slog.Level, code Code) *entry {
	e := &entry{message, level, make([]slog.Attr, 0, maxAttrs)}
	e.add(slog.String("request_id", o.requestID), slog.String("host", o.invocation.Host))
	e.addText("invocation_id", o.invocation.ID)
	e.addText("caller_kind", string(o.caller.Kind))
	e.addText("caller_id", o.caller.ID)
	if o.flow.Key != "" {
		e.add(o.flow)
	}
	e.add(slog.String("code", string(code)))
	return e
}

func (e *entry) add(attrs ...slog.Attr) { e.attrs = append(e.attrs, attrs...) }

// addText adds a text unless it is empty.
func (e *entry) addText(key, value string) {
	if value != "" {
		e.add(slog.String(key, value))
	}
}

// addContext adds the caller's data unless there is none.
func (e *entry) addContext(context map[string]string) {
	if len(context) > 0 {
		e.add(slog.Any("context", context))
	}
}

// addError adds the cause of a failure unless it is nil.
func (e *entry) addError(err error) {
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		e.add(slog.Any("error", failed))
	} else if err != nil {
		e.add(slog.String("error", err.Error()))
	}
	if panicked, ok := errors.AsType[*singleflight.PanicError](err); ok {
		e.add(slog.String("stack", string(panicked.Stack)))
	}
}

// writeRecord writes an audit record at every log level: LOG_LEVEL must not hide a change.
func (h *Handler) writeRecord(ctx context.Context, e *entry) {
	record := slog.NewRecord(time.Now(), e.level, e.message, 0)
	// A group without a key adds its attributes to the record as they are, and copies none.
	record.AddAttrs(slog.Attr{Value: slog.GroupValue(e.attrs...)})
	_ = h.Log.Handler().Handle(ctx, record) // without Enabled
}

// auditWork writes a record for each device of w, or one without a device if w was refused before it was decoded. status is
// the response's.
func (h *Handler) auditWork(ctx context.Context, o *origin, w *work, status int) {
	if len(w.devices) == 0 {
		h.writeRecord(ctx, workEntry(o, w, nil, status))
	}
	for _, d := range w.devices {
		h.writeRecord(ctx, workEntry(o, w, d, status))
	}
}

// workEntry returns the record of a device, or of w where d is nil. A device of a list has the status that it has in
// results.
func workEntry(o *origin, w *work, d *device, status int) *entry {
	ended := w.result
	if !ended.failed() && d != nil {
		ended = d.result
		if w.list {
			status = ended.status
		}
	}
	level := levelOf(status)
	switch {
	case ended.code == inProgress: // the record of the running request has the result
		level = slog.LevelWarn
	case ended.failed() && o.caller.Kind == caller.KindEvent && !retryable(status): // no caller learns of it
		level = slog.LevelError
	}
	e := o.newEntry("unassign", level, ended.code)
	e.add(slog.Int("status", status), slog.String("outcome", string(ended.outcome)))
	replayOf := w.replayOf
	if d != nil {
		if d.known.ID != (graph.DeviceID{}) {
			e.addText("device_id", d.known.ID.String())
		}
		e.addText("serial_number", quoteUnprintable(d.known.SerialNumber))
		e.addText("group_tag", quoteUnprintable(d.known.GroupTag))
		e.addText("account_user_principal_name", quoteUnprintable(d.known.Account.UserPrincipalName))
		e.addText("account_resource_name", quoteUnprintable(d.known.Account.ResourceName))
		replayOf = cmp.Or(d.replayOf, replayOf)
	}
	e.addText("delivery_id", o.delivery)
	if replayOf != "" {
		e.add(slog.Bool("replayed", true), slog.String("replay_of", replayOf))
	}
	e.addText("reference", w.reference)
	e.addContext(w.context)
	if d != nil {
		e.addText("verification", d.verification)
		e.addText("graph_request_id", d.graphRequestID)
		e.addText("graph_client_request_id", d.clientRequestID)
	}
	e.add(
		slog.Bool("dry_run", w.dryRun),
		slog.Int("attempts", o.trace.Tries()),
		milliseconds("vault_ms", o.trace.Spent(upstream.Vault)),
		milliseconds("token_ms", o.trace.Spent(upstream.Identity)),
		milliseconds("graph_ms", o.trace.Spent(upstream.Graph)),
		milliseconds("total_ms", time.Since(o.start)),
	)
	if waited := o.trace.Waited(); waited > 0 {
		e.add(milliseconds("waited_ms", waited))
	}
	e.addError(ended.err)
	return e
}

// operatorEntry returns the record of a request for the doctor's report or the device list. details are from the
// response.
func operatorEntry(o *origin, message string, code Code, ended result, details ...slog.Attr) *entry {
	status, level := http.StatusOK, slog.LevelInfo
	if ended.failed() {
		status, code, level = ended.status, ended.code, levelOf(ended.status)
	}
	e := o.newEntry(message, level, code)
	e.add(slog.Int("status", status), milliseconds("total_ms", time.Since(o.start)))
	e.add(details...)
	e.addError(ended.err)
	return e
}

// flowOf returns the run in Power Automate or Logic Apps that a request comes from, as one group for the log, or a zero
// attribute. Any caller can send these headers: they help to find a run, and decide nothing. A value
// that is not plain is dropped whole: half an id finds no run.
func flowOf(h http.Header) slog.Attr {
	var attrs []slog.Attr
	for _, field := range []struct{ key, header string }{
		{"run_id", "X-Ms-Workflow-Run-Id"},
		{"action", "X-Ms-Workflow-Operation-Name"}, // by its name in the flow
		{"action_tracking_id", "X-Ms-Action-Tracking-Id"},
		{"client_tracking_id", "X-Ms-Client-Tracking-Id"}, // the run's, unless the flow sets its own
	} {
		if values := h.Values(field.header); len(values) == 1 && isPlain(values[0], maxContextName) {
			attrs = append(attrs, slog.String(field.key, values[0]))
		}
	}
	if len(attrs) == 0 {
		return slog.Attr{}
	}
	return slog.GroupAttrs("flow", attrs...)
}

// quoteUnprintable returns a text from Intune for the log, quoted if a character would break a line or change its
// direction.
func quoteUnprintable(s string) string {
	if isPrintable(s, len(s)) {
		return s
	}
	return quoteField(s)
}

// levelOf returns the log level for a status: error where this function needs a person, warning where a caller was
// denied.
func levelOf(status int) slog.Level {
	switch {
	case status >= 500, status == http.StatusFailedDependency:
		return slog.LevelError
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusTooManyRequests:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// milliseconds returns a duration for the log. Most are zero, and slog is slow with fractions.
func milliseconds(key string, d time.Duration) slog.Attr {
	if us := d.Microseconds(); us%1000 != 0 {
		return slog.Float64(key, float64(us)/1000)
	}
	return slog.Int64(key, d.Milliseconds())
}
