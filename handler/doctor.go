package handler

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"autopilot-unassign/internal/singleflight"
)

// serveDoctor serves GET /api/doctor: a report on this deployment. Its failed checks are no failure of the request.
func (h *Handler) serveDoctor(w http.ResponseWriter, r *http.Request, o *origin) response {
	var report slog.LogValuer
	ctx := r.Context()
	// A report calls the services about as often as a full list does, and counts as one.
	ended := h.runOperation(w.Header(), r, o, maxDevices, func() (err error) {
		report, err = h.examine(ctx)
		return err
	})
	if ended.failed() {
		h.writeRecord(ctx, operatorEntry(o, "doctor", examined, ended))
		return h.failRequest(w.Header(), r, o, ended)
	}
	// The counts of the report stand beside the other attributes.
	h.writeRecord(ctx, operatorEntry(o, "doctor", examined, ended, slog.Any("", report)))
	return jsonResponse(http.StatusOK, "application/json", report)
}

// runOperation authenticates a request that only reads, checks that its caller is an operator within its rate limit,
// and runs operate. cost is the number of devices that the request counts for.
//
// It reads no body, and a signature must cover an empty body. A request for devices always has a body, so neither kind
// of signature is valid for the other route.
func (h *Handler) runOperation(header http.Header, r *http.Request, o *origin, cost int, operate func() error) result {
	err := singleflight.CatchPanic(func() error {
		err := checkReadMethod(header, r)
		if err == nil {
			o.caller, err = h.Verifier.Verify(r, nil)
		}
		if err == nil && !slices.Contains(h.Operators, o.caller.ID) {
			err = &refusal{code: operatorDenied}
		}
		if err == nil {
			err = h.limits.takeDevices(o.caller, cost)
		}
		if err == nil {
			err = operate()
		}
		return err
	})
	if err != nil {
		return classify(err)
	}
	return result{}
}

// examine returns the doctor's report. Requests that come during an examination share its report.
func (h *Handler) examine(ctx context.Context) (slog.LogValuer, error) {
	deadline, limited := ctx.Deadline()
	report, err := h.examinations.Do(ctx, "", func(ctx context.Context) (slog.LogValuer, error) {
		// It ends before the request does, so that the report names the checks that took too long.
		if limited {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/20))
			defer cancel()
		}
		return h.Examine(ctx)
	})
	if err != nil && ctx.Err() != nil {
		return nil, &refusal{code: inProgress}
	}
	return report, err
}
