package handler

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"autopilot-unassign/internal/upstream"
)

const (
	// maxThrottledRetries is how often throttled devices are retried after Graph's client gave up.
	maxThrottledRetries = 3
	// longRetryAfter is the Retry-After from which on a single device is retried once here: the client may have had no
	// time for its three tries of the read, which has half of the time of a request. A list is retried in any case.
	longRetryAfter = 5 * time.Second
	// minAttemptTime is the time that must be left for another attempt.
	minAttemptTime = 3 * time.Second
)

// retryThrottled retries the throttled devices of pending after the Retry-After of Graph, as long as there is time.
func (h *Handler) retryThrottled(ctx context.Context, w *work, pending []*device) {
	for try := range maxThrottledRetries {
		pending = slices.DeleteFunc(pending, func(d *device) bool { return !d.result.retriesLater() })
		if len(pending) == 0 || !w.list && (try > 0 || pending[0].result.retryAfter < longRetryAfter) || !waitForGraph(ctx, pending) {
			break
		}
		for _, d := range pending {
			d.result = result{}
		}
		h.tryDevices(ctx, h.Devices, w, pending)
	}
}

// waitForGraph waits for the longest Retry-After of the devices. It returns false at once if too little time would be
// left.
func waitForGraph(ctx context.Context, throttled []*device) bool {
	var longest time.Duration
	for _, d := range throttled {
		longest = max(longest, d.result.retryAfter)
	}
	deadline, limited := ctx.Deadline()
	return (!limited || time.Until(deadline) >= longest+minAttemptTime) && upstream.Sleep(ctx, longest)
}

// setRetryAfter passes a wait on to the caller, in whole seconds.
func setRetryAfter(header http.Header, wait time.Duration) {
	header.Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
}
