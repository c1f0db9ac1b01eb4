package azsdk

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// Flight runs work once for all callers that need its result at the same time. Its errors are *upstream.Errors.
type Flight[T any] struct {
	group singleflight.Group[string, T]
	stage atomic.Value // the upstream.Service that the work waits for
}

// SetStage sets the service that the work waits for. A caller whose time is up reports it.
func (f *Flight[T]) SetStage(s upstream.Service) { f.stage.Store(s) }

// Do returns the result of work. A call with the same key that is running is joined. If ctx ends first, the error is a
// timeout of the service that the work waits for; the work continues.
func (f *Flight[T]) Do(ctx context.Context, key string, work func(context.Context) (T, error)) (T, error) {
	f.stage.CompareAndSwap(nil, upstream.Vault)
	value, _, err := f.group.Do(ctx, key, work)
	service, _ := f.stage.Load().(upstream.Service)
	if p, ok := errors.AsType[*singleflight.PanicError](err); ok {
		return value, &upstream.Error{Service: service, Reason: upstream.BadAnswer, Cause: fmt.Sprintf("panic of type %T",
			p.Value)}
	}
	if err != nil && ctx.Err() != nil {
		if _, known := errors.AsType[*upstream.Error](err); !known {
			return value, &upstream.Error{Service: service, Reason: upstream.Timeout, Cause: "no answer in time"}
		}
	}
	return value, err
}

// Start starts work unless a call with the same key is running, and does not wait for it.
func (f *Flight[T]) Start(ctx context.Context, key string, work func(context.Context) (T, error)) {
	ctx = upstream.WithTrace(upstream.Detached(ctx), &upstream.Trace{})
	go func() { _, _ = f.Do(ctx, key, work) }()
}
