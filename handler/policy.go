package handler

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/handler/caller"
)

// Policy restricts the requests and events that this function carries out. The zero Policy allows everything.
type Policy struct {
	// GroupTags are the group tags of the devices that may be changed, exactly as written; a * at the end matches any
	// suffix. None allows every device.
	GroupTags []string
	// PerMinute is the number of devices that a caller may name in a minute, 0 for no limit. Each instance counts for
	// itself. Events do not count.
	PerMinute int
	// DryRun makes every request and event a dry run.
	DryRun bool
	// Callers has further restrictions for single callers, by the ID of the Caller.
	Callers map[string]CallerPolicy
}

// CallerPolicy restricts one caller. The zero CallerPolicy allows everything.
type CallerPolicy struct {
	GroupTags       []string `json:"groupTags"`       // as in Policy
	RequireExpected bool     `json:"requireExpected"` // each change must name the expected account
	DevicesPerHour  int      `json:"devicesPerHour"`  // changes in an hour, 0 for no limit; each instance counts for itself
}

// Allows reports whether a device with that group tag may be changed.
func (p Policy) Allows(groupTag string) bool { return matchesAny(p.GroupTags, groupTag) }

// AllowsCaller reports whether a caller may change a device with that group tag.
func (p Policy) AllowsCaller(id, groupTag string) bool {
	return p.Allows(groupTag) && matchesAny(p.Callers[id].GroupTags, groupTag)
}

// restrictsTags reports whether the group tag of a device matters for a caller.
func (p Policy) restrictsTags(id string) bool {
	return len(p.GroupTags)+len(p.Callers[id].GroupTags) > 0
}

// matchesAny reports whether a group tag matches one of patterns. No patterns match every group tag.
func matchesAny(patterns []string, groupTag string) bool {
	return len(patterns) == 0 ||
		slices.ContainsFunc(patterns, func(pattern string) bool { return matchTag(pattern, groupTag) })
}

// matchTag reports whether a group tag matches a pattern, which may end with a * for any suffix.
func matchTag(pattern, groupTag string) bool {
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(groupTag, prefix) || pattern == groupTag
}

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

// takeDevices counts n devices for a caller, or returns a *rateLimitError and counts none. The burst is a minute's worth, and
// at least a full list. Events do not count: their host sets their pace.
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
