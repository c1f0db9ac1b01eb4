package handler

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/handler/caller"
)

// rateLimits counts the devices that each caller names, and those that it changes.
type rateLimits struct {
	policy Policy

	mu       sync.Mutex
	limiters map[caller.Caller]*rate.Limiter
	changes  map[caller.Caller][]change // of the last hour, oldest first
}

// change counts devices that a caller changed at once.
type change struct {
	at      time.Time
	devices int
}

// rateLimitError is the error of a caller that exceeded its limit.
type rateLimitError struct{ wait time.Duration }

func (e *rateLimitError) Error() string { return fmt.Sprintf("rate_limited: retry in %v", e.wait) }

// takeDevices counts n devices for a caller, or returns a *rateLimitError and counts none. The burst is a minute's worth,
// and at least a full list. Events do not count: their host sets their pace.
func (l *rateLimits) takeDevices(from caller.Caller, n int) error {
	perMinute := l.policy.PerMinute
	if perMinute == 0 || from.Kind == caller.KindEvent {
		return nil
	}
	from.Delivery = "" // all deliveries of a caller count together
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.limiters[from]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(float64(perMinute)/60), max(perMinute, maxDevices))
		l.limiters[from] = limiter
	}
	now := time.Now()
	reserved := limiter.ReserveN(now, n)
	if wait := reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
		return &rateLimitError{wait}
	}
	return nil
}

// takeChanges counts n changes for a caller of which CALLER_POLICY limits the changes in an hour. It returns a
// *rateLimitError if the last hour leaves fewer, a *refusal if no hour ever allows n, and counts none then.
func (l *rateLimits) takeChanges(from caller.Caller, n int) error {
	limit := l.policy.Callers[from.ID].DevicesPerHour
	switch {
	case limit == 0 || n == 0:
		return nil
	case n > limit:
		return &refusal{policyDenied, "devices"}
	}
	from.Delivery = ""
	l.mu.Lock()
	defer l.mu.Unlock()
	now, total := time.Now(), n
	last := slices.DeleteFunc(l.changes[from], func(c change) bool { return now.Sub(c.at) >= time.Hour })
	l.changes[from] = last
	for _, c := range last {
		total += c.devices
	}
	for _, c := range last {
		if total <= limit {
			break
		}
		if total -= c.devices; total <= limit {
			return &rateLimitError{time.Hour - now.Sub(c.at)}
		}
	}
	l.changes[from] = append(last, change{now, n})
	return nil
}

// returnChanges takes n of the last changes of a caller from its count: they did not happen.
func (l *rateLimits) returnChanges(from caller.Caller, n int) {
	from.Delivery = ""
	l.mu.Lock()
	defer l.mu.Unlock()
	changes := l.changes[from]
	for i := len(changes) - 1; i >= 0 && n > 0; i-- {
		returned := min(n, changes[i].devices)
		changes[i].devices -= returned
		n -= returned
	}
}
