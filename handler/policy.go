package handler

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/handler/caller"
)

// Policy restricts the requests that this function carries out. The zero Policy allows everything.
type Policy struct {
	// GroupTags are the group tags of the devices that may be changed, exactly as written; a * at the end matches any
	// suffix. None allows every device.
	GroupTags []string
	// PerMinute is the number of devices that a caller may name in a minute, 0 for no limit. Each instance counts for
	// itself.
	PerMinute int
}

// Allows reports whether a device with that group tag may be changed.
func (p Policy) Allows(groupTag string) bool {
	for _, pattern := range p.GroupTags {
		if matchTag(pattern, groupTag) {
			return true
		}
	}
	return len(p.GroupTags) == 0
}

// matchTag reports whether a group tag matches a pattern, which may end with a * for any suffix.
func matchTag(pattern, groupTag string) bool {
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(groupTag, prefix) || pattern == groupTag
}

// rateLimits counts the devices that each caller names.
type rateLimits struct {
	perMinute int

	mu       sync.Mutex
	limiters map[caller.Caller]*rate.Limiter
}

// rateLimitError is the error of a caller that exceeded its limit.
type rateLimitError struct{ wait time.Duration }

func (e *rateLimitError) Error() string { return fmt.Sprintf("rate_limited: retry in %v", e.wait) }

// take counts n devices for a caller, or returns a *rateLimitError and counts none. The burst is a minute's worth, and
// at least a full list.
func (l *rateLimits) take(from caller.Caller, n int) error {
	if l.perMinute == 0 {
		return nil
	}
	from.Delivery = "" // all deliveries of a caller count together
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.limiters[from]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), max(l.perMinute, maxDevices))
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
