// Package singleflight runs concurrent calls for the same key once.
//
// Unlike golang.org/x/sync/singleflight it is typed, each caller waits under its own context, the work survives the
// caller that started it, and a panic of the work becomes an error.
package singleflight

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"autopilot-unassign/internal/upstream"
)

// Group runs at most one call for each key at a time. The zero Group is ready for use. It stores no result: a call that
// starts after the last one completed runs again.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

// call is one run of the work. value, err and trace are written before done is closed.
type call[V any] struct {
	done  chan struct{}
	value V
	err   error
	trace *upstream.Trace
}

// PanicError is the error of work that panicked. It prints the type of the value alone: the value may hold a secret.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %T", e.Value) }

// Do returns the result of work. If a call for key is running, Do waits for that call instead, and shared is true.
//
// The error is ctx.Err() if ctx ends first; the work continues. The context of the work carries the values of the
// caller that started it, but not its deadline (see [upstream.Detached]). The time that the work spent on each service
// is added to the trace of every caller.
func (g *Group[K, V]) Do(
	ctx context.Context, key K, work func(context.Context) (V, error),
) (value V, shared bool, err error) {
	c, shared := g.join(ctx, key, work)
	select {
	case <-c.done:
	case <-ctx.Done():
		select {
		case <-c.done: // both are ready: the result counts
		default:
			return value, shared, ctx.Err()
		}
	}
	for _, service := range []upstream.Service{upstream.Vault, upstream.Identity, upstream.Graph} {
		upstream.Spent(ctx, service, c.trace.Spent(service))
	}
	return c.value, shared, c.err
}

// join returns the call for key, and starts it unless it is running.
func (g *Group[K, V]) join(
	ctx context.Context, key K, work func(context.Context) (V, error),
) (c *call[V], shared bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c, shared = g.calls[key]; shared {
		return c, true
	}
	if g.calls == nil {
		g.calls = map[K]*call[V]{}
	}
	c = &call[V]{done: make(chan struct{}), trace: &upstream.Trace{}}
	g.calls[key] = c
	go g.run(upstream.WithTrace(upstream.Detached(ctx), c.trace), key, c, work)
	return c, false
}

func (g *Group[K, V]) run(ctx context.Context, key K, c *call[V], work func(context.Context) (V, error)) {
	defer func() {
		if p := recover(); p != nil {
			c.err = &PanicError{p, debug.Stack()}
		}
		g.mu.Lock()
		delete(g.calls, key)
		g.mu.Unlock()
		close(c.done)
	}()
	c.value, c.err = work(ctx)
}
