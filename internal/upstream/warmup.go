package upstream

import "context"

type warmUpKey struct{}

// WithWarmUp returns a context for work that no request waits for yet. What fails of it is not held against the request that
// comes next.
func WithWarmUp(ctx context.Context) context.Context {
	return context.WithValue(ctx, warmUpKey{}, true)
}

// WarmUp reports whether ctx is one of [WithWarmUp].
func WarmUp(ctx context.Context) bool {
	is, _ := ctx.Value(warmUpKey{}).(bool)
	return is
}

// Detached returns ctx for work that others may come to wait for: it does not end with ctx. That of a warm-up does, since who
// ends a warm-up does it before anybody else can be there.
func Detached(ctx context.Context) context.Context {
	if WarmUp(ctx) {
		return ctx
	}
	return context.WithoutCancel(ctx)
}
