package upstream

import (
	"context"
	"maps"
	"sync"
	"time"
)

// Trace is what one request cost beyond this program: how long it waited for each service and how often it asked Graph.
// The rooms that speak to a service add to the Trace in their context; the audit record shows it.
type Trace struct {
	mu    sync.Mutex
	spent map[Service]time.Duration
	tries int
}

type traceKey struct{}

// WithTrace returns a context that carries t.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// Spent adds d to what the request of ctx waited for s. Without a Trace in ctx it does nothing.
func Spent(ctx context.Context, s Service, d time.Duration) {
	t, ok := ctx.Value(traceKey{}).(*Trace)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spent == nil {
		t.spent = make(map[Service]time.Duration, 3)
	}
	t.spent[s] += d
}

// Tried counts one request sent to Graph. Without a Trace in ctx it does nothing.
func Tried(ctx context.Context) {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.tries++
	}
}

// Add counts what part has cost so far as a part of t.
func (t *Trace) Add(part *Trace) {
	part.mu.Lock()
	spent, tries := maps.Clone(part.spent), part.tries
	part.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spent == nil {
		t.spent = make(map[Service]time.Duration, len(spent))
	}
	for service, d := range spent {
		t.spent[service] += d
	}
	t.tries += tries
}

// Spent returns what the request has waited for s so far.
func (t *Trace) Spent(s Service) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spent[s]
}

// Tries returns how many requests were sent to Graph.
func (t *Trace) Tries() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tries
}

type requestIDKey struct{}

// WithRequestID returns a context that carries the id of the request being served. Graph is told it as
// client-request-id where it is a GUID.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id that ctx carries, "" if none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
