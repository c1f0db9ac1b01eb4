package upstream

import (
	"context"
	"sync"
	"time"
)

// Trace counts the time that one request waited for each service, and its requests to Graph. The packages that call a
// service add to the Trace in their context; the audit record shows it.
type Trace struct {
	mu                     sync.Mutex
	graph, identity, vault time.Duration
	waited                 time.Duration
	tries                  int
}

// counter returns the counter for s, and panics for an unknown service.
func (t *Trace) counter(s Service) *time.Duration {
	switch s {
	case Graph:
		return &t.graph
	case Identity:
		return &t.identity
	case Vault:
		return &t.vault
	}
	panic("upstream: no such service")
}

type traceKey struct{}

// WithTrace returns a context that carries t.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// Spent adds d to the time that the request of ctx waited for s. Without a Trace in ctx it does nothing.
func Spent(ctx context.Context, s Service, d time.Duration) {
	t, ok := ctx.Value(traceKey{}).(*Trace)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	*t.counter(s) += d
}

// Tried counts one request sent to Graph. Without a Trace in ctx it does nothing.
func Tried(ctx context.Context) {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.tries++
	}
}

// Add adds the counters of part to t.
func (t *Trace) Add(part *Trace) {
	part.mu.Lock()
	graph, identity, vault, tries := part.graph, part.identity, part.vault, part.tries
	part.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.graph += graph
	t.identity += identity
	t.vault += vault
	t.tries += tries
}

// Spent returns the time that the request has waited for s so far.
func (t *Trace) Spent(s Service) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return *t.counter(s)
}

// Tries returns how many requests were sent to Graph.
func (t *Trace) Tries() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tries
}

type requestIDKey struct{}

// WithRequestID returns a context that carries the id of the request being served. Requests to Graph send it as
// client-request-id if it is a GUID.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id that ctx carries, "" if none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Wait adds d to the time that a request waited for permits to change devices in the background.
func (t *Trace) Wait(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waited += d
}

// Waited returns the time that a request waited for permits.
func (t *Trace) Waited() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waited
}
