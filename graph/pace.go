package graph

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// The pace of a process. Graph takes 100 writes in 20 s from an app in a tenant
// (https://learn.microsoft.com/graph/throttling-limits, Intune device enrollment). make scale prints the effect of
// these numbers for 1 to 80 processes.
const (
	maxRate         = 4.75             // writes a second; the rest is left for interactive requests
	startRate       = 0.5              // before anything is known
	minRate         = 0.025            // a write in 40 s, so that a slow process finishes its device
	growth          = 0.005            // for each success at maxRate; a slower process grows faster, so that rates converge
	maxAcceleration = 10               // of growth after many successes in a row
	acceleration    = 60               // successes in a row that quadruple growth
	throttleCut     = 0.5              // the share of the rate that is left after a refusal
	cutInterval     = 20 * time.Second // Graph's window: the refusals of one window cut once
	maxBlocks       = 8                // the longest wait, in multiples of Retry-After
	defaultBlock    = 10 * time.Second // where Graph names no Retry-After, as it often does
	accrual         = 2 * time.Second  // unused permits are kept for this long
)

// Pace limits the background writes of a process and adapts to Graph's limit. Processes do not know one another: each
// starts low, grows with every success and halves when Graph throttles.
//
// Interactive requests take no permits. Their results are reported all the same, so that background work makes way for
// them.
type Pace struct {
	turn chan struct{} // held by the one caller that waits for permits; the others queue for it

	mu           sync.Mutex
	rate         float64 // permits a second
	permits      float64
	updated      time.Time // of permits
	blockedUntil time.Time
	lastCut      time.Time
	successes    int // since the last refusal
	refusals     int // since the last success
}

// NewPace returns a pace that knows nothing yet.
func NewPace() *Pace {
	return &Pace{turn: make(chan struct{}, 1), rate: startRate, permits: 1, updated: time.Now()}
}

// Take waits for permits and returns their number: at least one and at most want, or 0 if ctx ends first.
func (p *Pace) Take(ctx context.Context, want int) int {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	defer func() { <-p.turn }()
	for ctx.Err() == nil {
		granted, delay := p.grant(want)
		if granted > 0 {
			return granted
		}
		if !sleep(ctx, delay) {
			break
		}
	}
	return 0
}

// grant takes permits, or returns the time until there may be one.
func (p *Pace) grant(want int) (granted int, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if blocked := p.blockedUntil.Sub(now); blocked > 0 {
		return 0, blocked
	}
	p.permits = min(max(1, p.rate*accrual.Seconds()), p.permits+p.rate*now.Sub(p.updated).Seconds())
	p.updated = now
	// A second's worth at once, so that a fast pace sends batches.
	goal := max(1, min(float64(want), math.Floor(p.rate)))
	if p.permits < goal {
		return 0, fractional((goal-p.permits)/p.rate) + time.Millisecond
	}
	granted = min(want, int(p.permits))
	p.permits -= float64(granted)
	return granted, 0
}

// Capacity returns how many permits the pace expects to grant within d, at least one.
func (p *Pace) Capacity(d time.Duration) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, int(p.rate*d.Seconds()))
}

// report adapts the pace to the results of writes: how many succeeded, how many Graph throttled, and its Retry-After, 0
// for none.
func (p *Pace) report(succeeded, throttled int, retryAfter time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range succeeded {
		p.successes++
		p.refusals = 0
		faster := min(maxAcceleration, math.Pow(1+float64(p.successes)/acceleration, 2))
		p.rate = min(maxRate, p.rate*(1+growth*faster*math.Pow(maxRate/p.rate, 0.4)))
	}
	if throttled == 0 {
		return
	}
	now := time.Now()
	p.successes, p.permits, p.updated = 0, 0, now
	if now.Sub(p.lastCut) >= cutInterval {
		p.rate, p.lastCut = max(minRate, p.rate*throttleCut), now
	}
	if retryAfter <= 0 {
		retryAfter = defaultBlock
	}
	// A random part more than Graph asks for, so that processes do not return at the same moment.
	blocks := math.Exp2(float64(p.refusals)) * (1 + rand.Float64()) //nolint:gosec // jitter
	p.refusals++
	if until := now.Add(fractional(retryAfter.Seconds() * min(maxBlocks, blocks))); until.After(p.blockedUntil) {
		p.blockedUntil = until
	}
}

func fractional(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
