// Package singleflight runs concurrent calls for the same key once, with golang.org/x/sync/singleflight.
//
// Each caller waits under its own context, the work survives the caller that started it, and a panic of the work becomes
// an error.
package singleflight

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/singleflight"

	"autopilot-unassign/internal/upstream"
)

// Group runs at most one call for each key at a time. The zero Group is ready for use. It stores no result: a call that
// starts after the last one completed runs again.
type Group[V any] struct{ calls singleflight.Group }

// outcome is the result of the work, with the time that it spent on each service.
type outcome[V any] struct {
	value V
	trace upstream.Trace
}

// PanicError is the error of work that panicked. It prints the type of the value alone: the value may hold a secret.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %T", e.Value) }

// CatchPanic returns the error of f, or a *PanicError if f panics.
func CatchPanic(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{p, debug.Stack()}
		}
	}()
	return f()
}

// Do returns the result of work, or of the running call for key. The error is ctx.Err() if ctx ends first; the work
// continues. The time that the work spent on each service is added to the trace of every caller.
func (g *Group[V]) Do(ctx context.Context, key string, work func(context.Context) (V, error)) (value V, err error) {
	running := g.Start(ctx, key, work)
	var result singleflight.Result
	select {
	case result = <-running:
	case <-ctx.Done():
		select {
		case result = <-running: // both are ready: the result counts
		default:
			return value, ctx.Err()
		}
	}
	if o, ok := result.Val.(*outcome[V]); ok {
		value = o.value
		for _, service := range []upstream.Service{upstream.Vault, upstream.Identity, upstream.Graph} {
			upstream.Spent(ctx, service, o.trace.Spent(service))
		}
	}
	return value, result.Err
}

// Start starts work unless a call for key is running, and does not wait for it. The context of the work carries the
// values of ctx, but not its deadline (see [upstream.Detached]).
func (g *Group[V]) Start(
	ctx context.Context, key string, work func(context.Context) (V, error),
) <-chan singleflight.Result {
	return g.calls.DoChan(key, func() (any, error) {
		o := &outcome[V]{}
		return o, CatchPanic(func() (err error) {
			o.value, err = work(upstream.WithTrace(upstream.Detached(ctx), &o.trace))
			return err
		})
	})
}
