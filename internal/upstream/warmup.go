package upstream

import (
	"context"
	"time"
)

type warmUpKey struct{}

// WithWarmUp returns a context for work that no request waits for yet. The failures of such work are not remembered:
// the next request tries again.
func WithWarmUp(ctx context.Context) context.Context {
	return context.WithValue(ctx, warmUpKey{}, true)
}

// WarmUp reports whether ctx is one of [WithWarmUp].
func WarmUp(ctx context.Context) bool {
	is, _ := ctx.Value(warmUpKey{}).(bool)
	return is
}

// Detached returns a context for work that other requests may come to share: cancelling ctx does not cancel it. A
// warm-up stays cancellable, since it ends before any request can share its work.
func Detached(ctx context.Context) context.Context {
	if WarmUp(ctx) {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// Sleep waits for d, and reports whether ctx outlived that.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
