package handler

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// act takes the resource account off the device that rec's request names. The error is what the answer is made of.
func (h *handler) act(ctx context.Context, rec *record) error {
	rec.result = h.Devices.UnassignResourceAccount(ctx, rec.request.device)[0]
	return rec.result.Err
}

// record is what the audit says of one request. It is filled on the way; where the way ended early, the rest is zero.
type record struct {
	requestID  string
	start      time.Time
	invocation Invocation
	trace      *upstream.Trace
	caller     caller.Caller
	request    request
	result     graph.Result
	code       Code
	status     int
	err        error
	stack      []byte // of a panic
}

// audit writes rec: one line for each device acted on or refused, and for each request refused before it named one. No
// secret, token, body or URL is in it.
func (h *handler) audit(ctx context.Context, rec *record) {
	outcome := "done"
	if rec.err != nil {
		outcome = done(rec.err)
	}
	attrs := []slog.Attr{
		slog.String("request_id", rec.requestID),
		slog.String("host", rec.invocation.Host),
		slog.String("code", string(rec.code)),
		slog.Int("status", rec.status),
		slog.String("outcome", outcome),
	}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("invocation_id", rec.invocation.ID)
	add("caller_kind", string(rec.caller.Kind))
	add("caller_id", rec.caller.ID)
	if rec.request.device != (graph.DeviceID{}) {
		add("device_id", rec.request.device.String())
	}
	add("reference", rec.request.reference)
	if len(rec.request.context) > 0 {
		attrs = append(attrs, slog.Any("context", rec.request.context))
	}
	add("graph_request_id", rec.result.RequestID)
	add("graph_client_request_id", rec.result.ClientRequestID)
	attrs = append(attrs,
		slog.Bool("dry_run", false),
		slog.Int("attempts", rec.trace.Tries()),
		slog.Float64("vault_ms", ms(rec.trace.Spent(upstream.Vault))),
		slog.Float64("token_ms", ms(rec.trace.Spent(upstream.Identity))),
		slog.Float64("graph_ms", ms(rec.trace.Spent(upstream.Graph))),
		slog.Float64("total_ms", ms(time.Since(rec.start))),
	)
	if rec.err != nil {
		attrs = append(attrs, reason(rec.err))
	}
	if rec.stack != nil {
		attrs = append(attrs, slog.String("stack", string(rec.stack)))
	}
	h.Log.LogAttrs(ctx, level(rec.status), "unassign", attrs...)
}

// reason returns err for the log: the parts of an upstream failure, or the text of one of ours.
func reason(err error) slog.Attr {
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		return slog.Any("error", failed)
	}
	return slog.String("error", err.Error())
}

// level returns how loud the end of a request is: an error where somebody has to look after this function, a warning
// where a caller is not who it should be.
func level(status int) slog.Level {
	switch {
	case status >= 500, status == http.StatusFailedDependency:
		return slog.LevelError
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusTooManyRequests:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
