package handler

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"autopilot-unassign/handler/caller"
)

// Doctor has this deployment examined for those who may see what comes of it: which roles its app has, what its policy is and what
// its secrets are called. A key for asking about devices is none for that.
type Doctor struct {
	// Callers are who may ask, each by the ID of its Caller. None means nobody.
	Callers []string
	// Examine returns the report, for the caller as JSON and for the log as a few numbers. It changes nothing, and returns when ctx
	// ends at the latest. It may be nil where nobody may ask.
	Examine func(ctx context.Context) (slog.LogValuer, error)
}

// examined is the code of a report, in records alone. What the report says of the deployment is no matter of this code.
const examined Code = "examined"

// examination is one that is being made or has been.
type examination struct {
	ended  chan struct{} // closed at the end, after which the rest does not change
	report slog.LogValuer
	err    error
}

// examinations has one made at a time, so that callers in great number cost the services behind no more than one.
type examinations struct {
	mu    sync.Mutex
	going *examination // nil for none
}

// share returns the report of the examination that is being made or, if there is none, of one that it has made by examine.
func (e *examinations) share(ctx context.Context, examine func(context.Context) (slog.LogValuer, error)) (slog.LogValuer, error) {
	e.mu.Lock()
	if going := e.going; going != nil {
		e.mu.Unlock()
		select {
		case <-going.ended:
			return going.report, going.err
		case <-ctx.Done():
			return nil, &refusal{code: inProgress}
		}
	}
	own := &examination{ended: make(chan struct{}), err: &refusal{code: internalError}} // what the others get if examine panics
	e.going = own
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.going = nil
		close(own.ended)
	}()
	own.report, own.err = examine(ctx)
	return own.report, own.err
}

// doctor serves the report on this deployment. What has failed in it is no failure of the request.
//
// A body is not read, and a signature must be one over none. So the signature of a request for devices, whose body cannot be empty,
// is good for nothing here, and one that is good here is good for no device.
func (h *Handler) doctor(w http.ResponseWriter, r *http.Request, rec *record) {
	err := reads(w, r)
	if err == nil {
		rec.caller, err = h.Verifier.Verify(r, nil)
	}
	if err == nil {
		rec.report, err = h.report(r.Context(), rec.caller)
	}
	if err != nil {
		h.fail(w, r, rec, err)
		return
	}
	rec.code, rec.status = examined, http.StatusOK
	reply(w, rec.status, "application/json", rec.report)
}

// report returns the report for who, if he may have it.
func (h *Handler) report(ctx context.Context, who caller.Caller) (slog.LogValuer, error) {
	if !slices.Contains(h.Doctor.Callers, who.ID) {
		return nil, &refusal{code: doctorDenied}
	}
	// It asks the services behind about as often as a full list does, and counts as one.
	if err := h.limits.take(who, maxDevices); err != nil {
		return nil, err
	}
	return h.examinations.share(ctx, func(ctx context.Context) (slog.LogValuer, error) {
		// It ends before the request does, so that what was not answered in time is told by the report, and those who
		// share it have it in time as well.
		if end, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, end.Add(-time.Until(end)/20))
			defer cancel()
		}
		return h.Doctor.Examine(ctx)
	})
}

// auditDoctor writes who has asked for a report and what came of it.
func (h *Handler) auditDoctor(ctx context.Context, rec *record) {
	attrs := append(rec.origin(rec.code), slog.Int("status", rec.status), milliseconds("total_ms", time.Since(rec.start)))
	if rec.report != nil {
		attrs = append(attrs, slog.Any("", rec.report)) // whose numbers stand beside the others
	}
	if rec.err != nil {
		attrs = append(attrs, reason(rec.err))
	}
	if rec.stack != nil {
		attrs = append(attrs, slog.String("stack", string(rec.stack)))
	}
	h.Log.LogAttrs(ctx, level(rec.status), "doctor", attrs...)
}
