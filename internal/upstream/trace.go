package upstream

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// Trace names the request being served, and counts the time that it waited for each service, and its requests to Graph.
// The packages that call a service add to the Trace in their context; the audit record shows it. It is safe for
// concurrent use.
type Trace struct {
	RequestID string // Graph gets it as client-request-id if it is a GUID

	spent         [3]atomic.Int64 // nanoseconds, by the index in services
	waited, tries atomic.Int64
}

var services = [...]Service{Graph, Identity, Vault} //nolint:gochecknoglobals // a list that nothing writes to

func (t *Trace) counter(s Service) *atomic.Int64 { return &t.spent[slices.Index(services[:], s)] }

type traceKey struct{}

// WithTrace returns a context that carries t.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// RequestID returns the id of the request of ctx, "" without a Trace in ctx.
func RequestID(ctx context.Context) string {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		return t.RequestID
	}
	return ""
}

// Spent adds d to the time that the request of ctx waited for s. Without a Trace in ctx it does nothing.
func Spent(ctx context.Context, s Service, d time.Duration) {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		t.counter(s).Add(int64(d))
	}
}

// Tried counts one request sent to Graph. Without a Trace in ctx it does nothing.
func Tried(ctx context.Context) {
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		t.tries.Add(1)
	}
}

// Add adds the times and tries of part to t.
func (t *Trace) Add(part *Trace) {
	for _, s := range services {
		t.counter(s).Add(int64(part.Spent(s)))
	}
	t.tries.Add(part.tries.Load())
}

// Spent returns the time that the request has waited for s so far.
func (t *Trace) Spent(s Service) time.Duration { return time.Duration(t.counter(s).Load()) }

// Tries returns how many requests were sent to Graph.
func (t *Trace) Tries() int { return int(t.tries.Load()) }

// Wait adds d to the time that a request waited for permits to change devices in the background.
func (t *Trace) Wait(d time.Duration) { t.waited.Add(int64(d)) }

// Waited returns the time that a request waited for permits.
func (t *Trace) Waited() time.Duration { return time.Duration(t.waited.Load()) }
