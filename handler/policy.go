package handler

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/handler/caller"
)

// Policy is what this function may be asked to do. The zero Policy allows everything.
type Policy struct {
	// GroupTags are those of the devices that may be acted on, exactly as written; a * at the end stands for any end. None
	// means all devices, whatever their tag.
	GroupTags []string
	// PerMinute is for how many devices a caller may ask in a minute, 0 for any number. Each instance of this function
	// counts for itself.
	PerMinute int
}

// Allows reports whether a device with that group tag may be acted on.
func (p Policy) Allows(groupTag string) bool {
	for _, allowed := range p.GroupTags {
		if prefix, ok := strings.CutSuffix(allowed, "*"); ok && strings.HasPrefix(groupTag, prefix) || allowed == groupTag {
			return true
		}
	}
	return len(p.GroupTags) == 0
}

// limits counts the devices that callers ask for.
type limits struct {
	perMinute int

	mu       sync.Mutex
	byCaller map[caller.Caller]*rate.Limiter
}

// limited is the error of a caller that has asked for too many devices.
type limited struct{ wait time.Duration }

func (l *limited) Error() string { return fmt.Sprintf("rate_limited: for %v", l.wait) }

// take counts n devices for who, or returns a *limited and counts nothing. A caller who has been quiet may ask for a
// minute's worth at once, and for a full list in any case.
func (l *limits) take(who caller.Caller, n int) error {
	if l.perMinute == 0 {
		return nil
	}
	who.Delivery = "" // all of them count
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.byCaller[who]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), max(l.perMinute, maxDevices))
		l.byCaller[who] = limiter
	}
	now := time.Now()
	reserved := limiter.ReserveN(now, n)
	if wait := reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
		return &limited{wait}
	}
	return nil
}
