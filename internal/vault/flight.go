package vault

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/singleflight"

	"autopilot-unassign/internal/upstream"
)

// flight is a piece of work that is done once for all who ask for it at a time. Each of them waits no longer than its own
// context says, and the work goes on without those who have left.
type flight[T any] struct {
	group singleflight.Group
	stage atomic.Value // the upstream.Service that the work is waiting for
}

// landed is what a flight has brought.
type landed[T any] struct {
	value T
	trace *upstream.Trace
}

// do returns what work returns, as one of those who wait for it; key tells different works apart. If ctx ends before, the
// error is a time-out of the service that the work was waiting for. What the work has spent goes to the Trace of everyone.
func (f *flight[T]) do(ctx context.Context, key string, work func(context.Context) (T, error)) (T, error) {
	select {
	case result := <-f.start(ctx, key, work):
		done, _ := result.Val.(landed[T])
		for _, s := range []upstream.Service{upstream.Vault, upstream.Identity} {
			if done.trace != nil { // which it is after a panic
				upstream.Spent(ctx, s, done.trace.Spent(s))
			}
		}
		return done.value, result.Err
	case <-ctx.Done():
		var none T
		service, _ := f.stage.Load().(upstream.Service)
		return none, &upstream.Error{Service: service, Reason: upstream.Timeout, Cause: "no answer in time"}
	}
}

// start begins work unless it is under way, and returns the channel on which its result comes.
func (f *flight[T]) start(ctx context.Context, key string, work func(context.Context) (T, error)) <-chan singleflight.Result {
	f.stage.CompareAndSwap(nil, upstream.Vault)
	return f.group.DoChan(key, func() (_ any, err error) {
		result := landed[T]{trace: &upstream.Trace{}}
		// A panic would be thrown again where nobody could catch it.
		defer func() {
			if p := recover(); p != nil {
				service, _ := f.stage.Load().(upstream.Service)
				err = &upstream.Error{Service: service, Reason: upstream.BadAnswer, Cause: fmt.Sprintf("panic of type %T", p)}
			}
		}()
		result.value, err = work(upstream.WithTrace(upstream.Detached(ctx), result.trace))
		return result, err
	})
}
