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
	code    Code
	attrs   []slog.Attr // after the code
	err     error       // the cause of a failure; nil without one
}

// maxAttrs is the usual number of attributes of a record, or more.
const maxAttrs = 32

// writeRecord writes an audit record at every log level: LOG_LEVEL must not hide a change.
func (h *Handler) writeRecord(ctx context.Context, o *origin, e entry) {
	attrs := append(make([]slog.Attr, 0, maxAttrs),
		slog.String("request_id", o.requestID), slog.String("host", o.invocation.Host))
	attrs = appendText(attrs, "invocation_id", o.invocation.ID)
	attrs = appendText(attrs, "caller_kind", string(o.caller.Kind))
	attrs = appendText(attrs, "caller_id", o.caller.ID)
	if o.flow.Key != "" {
		attrs = append(attrs, o.flow)
	}
	attrs = append(attrs, slog.String("code", string(e.code)))
	attrs = append(attrs, e.attrs...)
	if failed, ok := errors.AsType[*upstream.Error](e.err); ok {
		attrs = append(attrs, slog.Any("error", failed))
	} else if e.err != nil {
		attrs = append(attrs, slog.String("error", e.err.Error()))
	}
	if panicked, ok := errors.AsType[*singleflight.PanicError](e.err); ok {
		attrs = append(attrs, slog.String("stack", string(panicked.Stack)))
	}
	record := slog.NewRecord(time.Now(), e.level, e.message, 0)
	record.AddAttrs(attrs...)
	_ = h.Log.Handler().Handle(ctx, record) // without Enabled
}

// auditWork writes a record for each device of w, or one without a device if w was refused before it was decoded. status is
// the response's.
func (h *Handler) auditWork(ctx context.Context, o *origin, w *work, status int) {
	if len(w.devices) == 0 {
		h.writeRecord(ctx, o, workEntry(o, w, nil, status))
	}
	for _, d := range w.devices {
		h.writeRecord(ctx, o, workEntry(o, w, d, status))
	}
}

// workEntry returns the record of a device, or of w where d is nil. A device of a list has the status that it has in
// results.
func workEntry(o *origin, w *work, d *device, status int) entry {
	ended := w.result
	if !ended.failed() && d != nil {
		ended = d.result
		if w.list {
			status = ended.status
		}
	}
	e := entry{message: "unassign", level: levelOf(status), code: ended.code, err: ended.err}
	switch {
	case ended.code == inProgress: // the record of the running request has the result
		e.level = slog.LevelWarn
	case ended.failed() && o.caller.Kind == caller.KindEvent && !retryable(status): // no caller learns of it
		e.level = slog.LevelError
	}
	attrs := append(make([]slog.Attr, 0, maxAttrs),
		slog.Int("status", status), slog.String("outcome", string(ended.outcome)))
	add := func(key, value string) { attrs = appendText(attrs, key, value) }
	replayOf := w.replayOf
	if d != nil {
		if d.known.ID != (graph.DeviceID{}) {
			add("device_id", d.known.ID.String())
		}
		add("serial_number", quoteUnprintable(d.known.SerialNumber))
		add("group_tag", quoteUnprintable(d.known.GroupTag))
		add("account_user_principal_name", quoteUnprintable(d.known.Account.UserPrincipalName))
		add("account_resource_name", quoteUnprintable(d.known.Account.ResourceName))
		replayOf = cmp.Or(d.replayOf, replayOf)
	}
	add("delivery_id", o.delivery)
	if replayOf != "" {
		attrs = append(attrs, slog.Bool("replayed", true), slog.String("replay_of", replayOf))
	}
	add("reference", w.reference)
	attrs = appendContext(attrs, w.context)
	if d != nil {
		add("verification", d.verification)
		add("graph_request_id", d.graphRequestID)
		add("graph_client_request_id", d.clientRequestID)
	}
	attrs = append(attrs,
		slog.Bool("dry_run", w.dryRun),
		slog.Int("attempts", o.trace.Tries()),
		milliseconds("vault_ms", o.trace.Spent(upstream.Vault)),
		milliseconds("token_ms", o.trace.Spent(upstream.Identity)),
		milliseconds("graph_ms", o.trace.Spent(upstream.Graph)),
		milliseconds("total_ms", time.Since(o.start)),
	)
	if waited := o.trace.Waited(); waited > 0 {
		attrs = append(attrs, milliseconds("waited_ms", waited))
	}
	e.attrs = attrs
	return e
}

// operatorEntry returns the record of a request for the doctor's report or the device list. details are from the
// response.
func operatorEntry(o *origin, message string, code Code, ended result, details ...slog.Attr) entry {
	e := entry{message: message, code: code, level: slog.LevelInfo}
	status := http.StatusOK
	if ended.failed() {
		status, e.code, e.err, e.level = ended.status, ended.code, ended.err, levelOf(ended.status)
	}
	e.attrs = append([]slog.Attr{slog.Int("status", status), milliseconds("total_ms", time.Since(o.start))}, details...)
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

// appendText appends an attribute unless its value is empty.
func appendText(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}

// appendContext appends the caller's data unless there is none.
func appendContext(attrs []slog.Attr, context map[string]string) []slog.Attr {
	if len(context) == 0 {
		return attrs
	}
	return append(attrs, slog.Any("context", context))
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
