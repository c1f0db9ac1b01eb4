package graph

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// The pace of a process. Graph accepts 100 writes in 20 s from an app in a tenant
// (https://learn.microsoft.com/graph/throttling-limits, Intune device enrollment). make scale prints the effect of these
// numbers for 1 to 80 processes.
const (
	maxRate      = 4.75             // writes a second; the rest of Graph's limit is left for interactive requests
	startRate    = 0.5              // before anything is known
	minRate      = 0.025            // a write in 40 s, so that a slow process makes progress
	startGrowth  = 0.05             // for each success, until Graph throttles for the first time
	growth       = 0.005            // for each success after that, far from the rate that Graph refused
	convergence  = 0.4              // a slower process grows faster by this power, so that rates converge
	probeGrowth  = 1e-4             // a second, near the rate that Graph refused
	nearRefused  = 0.92             // the share of that rate at which probing begins
	aboveRefused = 1.03             // the share at which it ends: the limit has moved
	maxProbe     = 5 * time.Minute  // the longest time of probing: the limit may have moved
	throttleCut  = 0.65             // the share of the rate that is left after a refusal
	cutInterval  = 20 * time.Second // Graph's window: the refusals of one window cut once
	jitter       = 0.5              // the most that is added to Retry-After, in multiples of it
	maxBlocks    = 8                // the longest wait after refusals in a row, in multiples of Retry-After
	defaultBlock = 10 * time.Second // where Graph names no Retry-After, as it often does
	accrual      = 2 * time.Second  // unused permits are kept for this long
)

// Pace limits the background writes of a process and adapts to Graph's limit. Processes do not know one another: each
// starts low, grows with every success and slows down when Graph throttles. Near the rate that Graph refused it grows
// slowly, as TCP CUBIC does (RFC 9438).
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
	refused      float64 // the rate at the last cut; 0 before the first
	refusals     int     // since the last success
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
	now := time.Now()
	for range succeeded {
		p.refusals = 0
		p.rate = min(maxRate, p.rate*(1+p.growth(now)))
	}
	if throttled == 0 {
		return
	}
	p.permits, p.updated = 0, now
	if now.Sub(p.lastCut) >= cutInterval {
		p.refused, p.rate, p.lastCut = p.rate, max(minRate, p.rate*throttleCut), now
	}
	if retryAfter <= 0 {
		retryAfter = defaultBlock
	}
	// A random part more than Graph asks for, so that processes do not return at the same moment.
	blocks := math.Exp2(float64(p.refusals)) * (1 + jitter*rand.Float64()) //nolint:gosec // no secret
	p.refusals++
	if until := now.Add(fractional(retryAfter.Seconds() * min(maxBlocks, blocks))); until.After(p.blockedUntil) {
		p.blockedUntil = until
	}
}

// growth returns the share by which a success raises the rate.
func (p *Pace) growth(now time.Time) float64 {
	faster := math.Pow(maxRate/p.rate, convergence)
	switch {
	case p.refused == 0:
		return startGrowth * faster
	case p.rate > p.refused*nearRefused && p.rate < p.refused*aboveRefused && now.Sub(p.lastCut) < maxProbe:
		return probeGrowth / p.rate
	}
	return growth * faster
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
