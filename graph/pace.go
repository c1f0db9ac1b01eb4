package graph

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"autopilot-unassign/internal/upstream"
)

// The pace of a process. Graph accepts 100 writes in 20 s from an app in a tenant
// (https://learn.microsoft.com/graph/throttling-limits, Intune device enrollment). make scale prints the effect of these
// numbers for 1 to 80 processes.
const (
	maxRate       = 4.8                           // writes a second; the rest of Graph's limit is left for interactive requests
	startRate     = 0.3                           // low, as 80 processes may start at the same moment
	startStep     = 0.43                          // added for each success until Graph throttles: the rate doubles in two seconds
	quickRate     = 1                             // below it, a success until then lets another write go at once
	minRate       = 0.025                         // a write in 40 s, so that a slow process makes progress
	learnedGrowth = 0.1                           // for each success until then, from the rate of another process
	growth        = 0.005                         // for each success after that, far from the rate that Graph refused
	probeGrowth   = 1e-4                          // growth a second near the refused rate, as a share: probing
	nearRefused   = 0.92                          // the share of that rate at which probing begins
	aboveRefused  = 1.03                          // the share at which it ends: the limit has moved
	maxProbe      = 5 * time.Minute               // the longest time of probing: the limit may have moved
	keptShare     = 0.95                          // the share of its part that a process keeps after a refusal
	minPart       = 0.5                           // a first refusal at most halves the rate: few successes measure the part badly
	fewWrites     = 10                            // in a window: fewer do not measure the part of the limit
	window        = 20 * time.Second              // Graph's window: the refusals of one window cut once
	soon          = 2 * window                    // a second refusal within this time means that the measured part is right
	ownWindow     = window + 500*time.Millisecond // the window of a process, as latency shifts its writes
	jitter        = 0.03                          // the most that is added to Retry-After at maxRate, in multiples of it
	maxBlocks     = 8                             // the longest wait after refusals in a row, in multiples of Retry-After
	defaultBlock  = 10 * time.Second              // where Graph names no Retry-After, as it often does
	trialInterval = time.Second                   // between single writes after a block, until one succeeds
	accrual       = 5 * time.Second               // unused permits are kept for this long
)

// Pace limits the background writes of a process and adapts to Graph's limit. Processes do not know one another: each
// starts low, grows with every success and slows down when Graph throttles. A refusal tells a process its part of the
// limit: the writes that Graph accepted from it in the window. It goes on a little below that rate, and near the rate
// that Graph refused it grows slowly, as TCP Westwood and CUBIC do (RFC 9438).
//
// After a block, a process sends single writes until one succeeds. Then it may spend the permits that it missed, but in
// one window never more than its rate allows.
//
// Interactive requests take no permits. Their results are reported all the same, so that background work makes way for
// them.
type Pace struct {
	turn chan struct{} // held by the one caller that waits for permits; the others queue for it

	mu           sync.Mutex
	rate         float64 // permits a second
	heard        float64 // the highest rate of another process, 0 for none
	permits      float64
	updated      time.Time // of permits
	blockedUntil time.Time
	lastCut      time.Time
	refused      float64     // the rate that Graph seems to have refused last: the measured part, or the whole rate; 0 before
	refusals     int         // since the last success
	measured     float64     // the part at the first of them: a blocked process has nothing accepted
	nextTrial    time.Time   // the earliest time of the next write while refusals is above 0
	granted      []time.Time // permits in the window
	accepted     []time.Time // writes in the window
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
		if !upstream.Sleep(ctx, delay) {
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
	if pause := p.blockedUntil.Sub(p.updated); pause > 0 { // what a block earned is kept, even above the limit of accrual
		p.permits, p.updated = p.rate*pause.Seconds(), p.blockedUntil
	}
	earned := p.permits + p.rate*now.Sub(p.updated).Seconds()
	p.permits, p.updated = max(p.permits, min(earned, max(1, p.rate*accrual.Seconds()))), now
	// A second's worth at once, so that a fast pace sends batches.
	goal := max(1, min(float64(want), math.Floor(p.rate)))
	if p.refusals > 0 {
		if wait := p.nextTrial.Sub(now); wait > 0 {
			return 0, wait
		}
		want, goal = 1, 1
	}
	if p.permits < goal {
		return 0, fractional((goal-p.permits)/p.rate) + time.Millisecond
	}
	p.granted = dropBefore(p.granted, now.Add(-ownWindow))
	room := max(1, int(p.rate*window.Seconds())) - len(p.granted)
	if room <= 0 {
		return 0, p.granted[0].Add(ownWindow).Sub(now) + time.Millisecond
	}
	granted = min(want, int(p.permits), room)
	p.permits, p.nextTrial = p.permits-float64(granted), now.Add(trialInterval)
	p.granted = append(p.granted, slices.Repeat([]time.Time{now}, granted)...)
	return granted, 0
}

// Return gives back permits that were taken at that time, of changes that no write was sent for. The window may have passed
// since then: later permits stay in it.
func (p *Pace) Return(permits int, taken time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.permits += float64(permits)
	end := slices.IndexFunc(p.granted, taken.Before)
	if end < 0 {
		end = len(p.granted)
	}
	p.granted = slices.Delete(p.granted, max(0, end-permits), end)
}

// dropBefore drops the times before start from an ordered list.
func dropBefore(times []time.Time, start time.Time) []time.Time {
	return slices.DeleteFunc(times, func(at time.Time) bool { return at.Before(start) })
}

// Capacity returns how many permits the pace expects to grant within d, at least one.
func (p *Pace) Capacity(d time.Duration) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, int(p.rate*d.Seconds()))
}

// Rate returns the permits a second that Graph's limit leaves for this process, 0 if it does not know.
func (p *Pace) Rate() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused == 0 && !p.learned() {
		return 0
	}
	return p.rate
}

// Learn starts with the rate of another process, the highest of those that it is told, until Graph refuses something. A
// process that replaces one of eighty would otherwise disturb all of them until it has found its part. It finds a rate
// above startRate as quickly by itself, and keeps the part of the limit that Graph has accepted from it in the window.
func (p *Pace) Learn(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused > 0 || !(rate > p.heard) { // or not a number
		return
	}
	switch {
	case p.heard > 0:
		p.rate = max(p.rate, min(rate, startRate))
	case rate < startRate:
		least := minRate
		if p.accepted = dropBefore(p.accepted, time.Now().Add(-window)); len(p.accepted) >= fewWrites {
			least = p.part()
		}
		p.rate = max(least, rate)
	}
	p.heard = rate
}

// learned reports whether the rate comes from another process, and Graph has refused nothing since.
func (p *Pace) learned() bool { return p.refused == 0 && 0 < p.heard && p.heard < startRate }

// report adapts the pace to the results of writes: how many succeeded, how many Graph throttled, and its Retry-After, 0
// for none.
func (p *Pace) report(succeeded, throttled int, retryAfter time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for range succeeded {
		p.refusals = 0
		if p.refused == 0 && p.heard == 0 && p.rate < quickRate {
			p.permits++ // as in TCP's slow start (RFC 5681)
		}
		p.accepted = append(p.accepted, now)
		p.rate = min(maxRate, p.grown(now))
	}
	p.accepted = dropBefore(p.accepted, now.Add(-window))
	// Above maxRate the number does not matter, and interactive requests can be many.
	p.accepted = slices.Delete(p.accepted, 0, max(0, len(p.accepted)-int(maxRate*window.Seconds())))
	if throttled == 0 {
		return
	}
	p.permits, p.updated = 0, now
	newBlock := !now.Before(p.blockedUntil) // else the request was on its way when another was refused
	sinceCut := now.Sub(p.lastCut)
	if again := newBlock && sinceCut < soon; again || sinceCut >= window {
		p.cut(now, again)
	}
	if retryAfter <= 0 {
		retryAfter = defaultBlock
	}
	blocks := 1.0
	if newBlock {
		// A random part more than Graph asks for, so that processes do not return at the same moment: the slower this one
		// is, the more there are.
		blocks = math.Exp2(float64(p.refusals)) * (1 + jitter*maxRate/p.rate*rand.Float64()) //nolint:gosec // no secret
		p.refusals++
	}
	if until := now.Add(fractional(retryAfter.Seconds() * min(maxBlocks, blocks))); until.After(p.blockedUntil) {
		p.blockedUntil = until
	}
}

// part returns the part of Graph's limit that the process had: the writes that Graph accepted from it in the window.
func (p *Pace) part() float64 { return float64(len(p.accepted)) / window.Seconds() }

// cut lowers the rate to a little below the part of Graph's limit that the process had. again says that this is the second
// refusal in a short time.
func (p *Pace) cut(now time.Time, again bool) {
	part := p.part()
	if p.refusals == 0 {
		p.measured = part
	}
	least := p.rate * minPart
	if again {
		least = p.measured
	}
	part = min(max(part, least), p.rate)
	p.refused = p.rate
	if len(p.accepted) >= fewWrites {
		p.refused = part
	}
	p.rate, p.lastCut = max(minRate, part*keptShare), now
}

// grown returns the rate after a success.
func (p *Pace) grown(now time.Time) float64 {
	switch {
	case p.learned():
		return p.rate * (1 + learnedGrowth)
	case p.refused == 0:
		return p.rate + startStep
	case p.rate > p.refused*nearRefused && p.rate < p.refused*aboveRefused && now.Sub(p.lastCut) < maxProbe:
		return p.rate + probeGrowth
	}
	late := max(1, now.Sub(p.lastCut).Seconds()/maxProbe.Seconds()) // long without a refusal, the limit has moved
	return p.rate * (1 + growth*late*late)
}

func fractional(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
