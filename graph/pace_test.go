package graph

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/upstream"
)

// checkWindows reports writes that are more in a window than maxRate allows.
func checkWindows(t *testing.T, at []time.Time) {
	t.Helper()
	most := int(maxRate * window.Seconds())
	for i := most; i < len(at); i++ {
		if took := at[i].Sub(at[i-most]); took < window {
			t.Fatalf("%d writes in %v", most+1, took)
		}
	}
}

// drain takes permits for d and returns how many there were.
func drain(p *Pace, d time.Duration, each func(granted int)) int {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	total := 0
	for {
		granted := p.Take(ctx, 20)
		if granted == 0 {
			return total
		}
		total += granted
		each(granted)
	}
}

func TestPaceGrowsToTheLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		succeed := func(granted int) { p.report(granted, 0, 0) }
		if first := drain(p, 3*time.Second, func(int) {}); first != 1 {
			t.Errorf("%d permits in 3 s without a response", first)
		}
		for heard, most := range map[float64]int{0: 8, startRate: 5} {
			quick := NewPace()
			quick.Learn(heard)
			first := drain(quick, 3*time.Second, func(granted int) { quick.report(granted, 0, 0) })
			if first < 1 || first > most {
				t.Errorf("%d permits in the first 3 s, another process at %.1f a second", first, heard)
			}
		}
		p.report(1, 0, 0)
		drain(p, 17*time.Second, succeed)
		if full := drain(p, 20*time.Second, succeed); full < 90 || full > 97 {
			t.Errorf("%d permits in 20 s, of the 100 that Graph takes", full)
		}
	})
}

// Slow calls do not hold up the start of a process, unless messages tell it the rate of another one: then many may share
// the limit.
func TestPaceStartsQuickly(t *testing.T) {
	t.Parallel()
	for heard, want := range map[float64]struct{ least, most int }{0: {14, 20}, startRate: {9, 13}} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPace()
			p.Learn(heard)
			n := drain(p, 8*time.Second, func(granted int) {
				time.AfterFunc(2*time.Second, func() { p.report(granted, 0, 0) }) // a read and the write
			})
			if n < want.least || n > want.most {
				t.Errorf("%d permits in 8 s with calls of a second, another process at %.1f a second", n, heard)
			}
			time.Sleep(2 * time.Second) // for the last of them
		})
	}
}

func TestPaceIsCutOnceInAWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		drain(p, 5*time.Minute, func(granted int) { p.report(granted, 0, 0) })
		for range 5 {
			p.report(0, 3, time.Second)
		}
		after := p.rate
		if after < maxRate*keptShare*0.9 || after > maxRate*keptShare*1.01 {
			t.Errorf("five refusals in a moment: %.2f writes a second", after)
		}
		time.Sleep(soon)
		p.report(0, 1, time.Second)
		if p.rate < after*minPart*keptShare*0.99 || p.rate > after*minPart {
			t.Errorf("a refusal two windows later: %.2f writes a second after %.2f", p.rate, after)
		}
		for range 100 {
			time.Sleep(window)
			p.report(0, 1, time.Second)
		}
		if p.rate != minRate {
			t.Errorf("after a hundred windows: %v writes a second", p.rate)
		}
	})
}

// A process that was refused at its start has counted few successes: it halves its rate. If Graph throttles it again
// after the block, they are its part of the limit.
func TestPaceMeasuresItsPartTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		drain(p, 8*time.Second, func(granted int) { p.report(granted, 0, 0) })
		before := p.rate
		p.report(0, 1, 10*time.Second)
		if p.rate < before*minPart*keptShare*0.99 || p.rate > before*minPart {
			t.Errorf("the first refusal: %.2f writes a second after %.2f", p.rate, before)
		}
		time.Sleep(time.Until(p.blockedUntil))
		part := float64(len(p.accepted)) / window.Seconds()
		p.report(0, 1, 10*time.Second)
		if p.rate > part {
			t.Errorf("the second refusal: %.2f writes a second, with %.2f accepted", p.rate, part)
		}
	})
}

// After a block, single writes find out whether Graph accepts writes again.
func TestPaceTriesSingleWritesAfterABlock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		drain(p, time.Minute, func(granted int) { p.report(granted, 0, 0) })
		p.report(0, 1, 10*time.Second)
		time.Sleep(time.Until(p.blockedUntil))
		if n := drain(p, 5*trialInterval-time.Millisecond, func(int) {}); n != 5 {
			t.Errorf("%d permits in five seconds without a success", n)
		}
		p.report(1, 0, 0)
		if n := p.Take(t.Context(), 20); n < 2 {
			t.Errorf("%d permits at once after a success", n)
		}
	})
}

// A block measures nothing: after a time in which Graph refuses everything, a process goes on near its rate before.
func TestPaceRecoversFromABlock(t *testing.T) {
	t.Parallel()
	for _, blocked := range []time.Duration{15 * time.Second, 45 * time.Second, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPace()
			drain(p, 5*time.Minute, func(granted int) { p.report(granted, 0, 0) })
			drain(p, blocked, func(granted int) { p.report(0, granted, 10*time.Second) })
			after := drain(p, 5*time.Minute, func(granted int) { p.report(granted, 0, 0) })
			if full := maxRate * 300; float64(after) < full/2 {
				t.Errorf("blocked for %v: %d writes in five minutes, of %.0f", blocked, after, full)
			}
		})
	}
}

// Writes without a response of Graph do not raise the rate, and do not end the trial after a block.
func TestPaceLearnsNothingFromAnOutage(t *testing.T) {
	t.Parallel()
	p := NewPace()
	c := &Client{pace: p}
	c.reportWrites(&upstream.Error{Service: upstream.Graph, Reason: upstream.Throttled, RetryAfter: time.Second})
	rate, refusals := p.rate, p.refusals
	for _, failure := range []*upstream.Error{{Reason: upstream.Unreachable}, {Reason: upstream.Timeout}, {Reason: upstream.Unavailable, Status: 503}} {
		c.reportWrites(failure)
		if p.rate != rate || p.refusals != refusals {
			t.Errorf("%s: the rate is %v, want %v; %d refusals", failure.Reason, p.rate, rate, p.refusals)
		}
	}
	c.reportWrites(&upstream.Error{Reason: upstream.NotFound, Status: 404})
	if p.refusals != 0 {
		t.Error("a response of Graph does not count")
	}
}

// A refusal tells a process its part of the limit.
func TestPaceTakesItsPart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		drain(p, 5*time.Minute, func(granted int) { p.report(granted, 0, 0) })
		for range 60 { // as much as another process leaves
			time.Sleep(window / 60)
			p.report(1, 0, 0)
		}
		p.report(0, 1, time.Second)
		if p.rate < 2.75 || p.rate > 2.95 {
			t.Errorf("60 writes in the window: %.2f writes a second", p.rate)
		}
		time.Sleep(2 * time.Second)
		drain(p, time.Minute, func(granted int) { p.report(granted, 0, 0) })
		if p.rate < 2.75 || p.rate > 3.1 {
			t.Errorf("a minute later: %.2f writes a second", p.rate)
		}
		drain(p, maxProbe, func(granted int) { p.report(granted, 0, 0) })
		if p.rate < 4 {
			t.Errorf("after the time of probing: %.2f writes a second", p.rate)
		}
	})
}

// A process makes up for the time of a block, and keeps its own writes in a window below its rate.
func TestPaceMakesUpForABlock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		succeed := func(granted int) { p.report(granted, 0, 0) }
		drain(p, 5*time.Minute, succeed)
		p.report(0, 1, 10*time.Second)
		rate := p.rate
		time.Sleep(time.Until(p.blockedUntil))
		if n := drain(p, time.Second, succeed); n < 20 {
			t.Errorf("%d permits in the second after a block", n)
		}
		if n := drain(p, window-time.Second, succeed); float64(n) > rate*window.Seconds()*1.1 {
			t.Errorf("%d more in the window, at %.2f writes a second", n, rate)
		}
	})
}

func TestPaceHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		for refusals, least := range []time.Duration{1, 2, 4, 8, 8} {
			start := time.Now()
			for range 3 { // two were on their way
				p.report(0, 1, 10*time.Second)
			}
			blocked := time.Until(p.blockedUntil)
			if most := min(maxBlocks, float64(least)*(1+jitter*maxRate/minRate)); blocked < least*10*time.Second || blocked > fractional(10*most) {
				t.Errorf("refusal %d: blocked for %v", refusals+1, blocked)
			}
			if p.Take(t.Context(), 1) != 1 || time.Since(start) < blocked {
				t.Errorf("refusal %d: a permit after %v", refusals+1, time.Since(start))
			}
		}
		p.report(1, 0, 0)
		p.report(0, 1, 0)
		if blocked := time.Until(p.blockedUntil); blocked < defaultBlock || blocked > maxBlocks*defaultBlock {
			t.Errorf("without Retry-After: blocked for %v", blocked)
		}
	})
}

// After a pause, no window has more permits than the rate allows.
func TestPaceKeepsToItsRateAfterAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		var at []time.Time
		succeed := func(granted int) {
			p.report(granted, 0, 0)
			at = append(at, slices.Repeat([]time.Time{time.Now()}, granted)...)
		}
		drain(p, time.Minute, succeed)
		time.Sleep(accrual)
		drain(p, time.Minute, succeed)
		checkWindows(t, at)
	})
}

// Permits that were given back are granted again, and count as no write of the window.
func TestPaceTakesPermitsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		drain(p, 5*time.Minute, func(granted int) { p.report(granted, 0, 0) })
		start := time.Now()
		for range 100 {
			p.Return(p.Take(t.Context(), 20), time.Now())
		}
		if took := time.Since(start); took > accrual {
			t.Errorf("a hundred groups that wrote nothing took %v", took)
		}
		p.Return(1, time.Now())
		if n := drain(p, window-time.Millisecond, func(int) {}); float64(n) > maxRate*window.Seconds() {
			t.Errorf("%d writes in a window after that", n)
		}
	})
}

// Callers get permits in the order in which they came, and each at least one.
func TestPaceIsFair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		var order []int
		done := make(chan int, 3)
		for i := range 3 {
			go func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if p.Take(t.Context(), 20) != 1 {
					t.Error("more than one permit at the start")
				}
				done <- i
			}()
		}
		for range 3 {
			order = append(order, <-done)
		}
		if order[0] != 0 || order[1] != 1 || order[2] != 2 {
			t.Errorf("the order is %v", order)
		}
	})
}

// A process that replaces another starts with its rate, and grows until Graph refuses something. It keeps its own rate
// as soon as it knows one.
func TestPaceLearnsTheRateOfAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		if p.Learn(math.NaN()); p.Rate() != 0 {
			t.Errorf("%g writes a second before any is known", p.Rate())
		}
		p.Learn(0.06)
		succeed := func(granted int) { p.report(granted, 0, 0) }
		if first := drain(p, time.Minute, succeed); first < 3 || first > 8 || p.Rate() < 0.06 {
			t.Errorf("%d writes in the first minute, %.2f a second after it", first, p.Rate())
		}
		learned := p.Rate()
		if p.Learn(0.05); p.Rate() != learned {
			t.Errorf("%.2f writes a second, and %.2f after a lower one", learned, p.Rate())
		}
		if p.Learn(0.2); p.Rate() != 0.2 {
			t.Errorf("%.2f writes a second, not the highest rate", p.Rate())
		}
		drain(p, 30*time.Minute, succeed)
		if p.Rate() < 4 {
			t.Errorf("%.2f writes a second although nobody else writes", p.Rate())
		}
		p.report(0, 1, time.Second)
		time.Sleep(2 * time.Second)
		cut := p.Rate()
		p.report(1, 0, 0)
		if p.Rate() > cut*1.02 {
			t.Errorf("%.2f after %.2f: grows as before the refusal", p.Rate(), cut)
		}
		fast := NewPace()
		if fast.Learn(startRate); fast.Rate() != 0 {
			t.Errorf("learned %g writes a second, which is found as quickly", fast.Rate())
		}
		if fast.Learn(0.05); fast.Rate() != 0 {
			t.Errorf("learned %g writes a second from the slower of two processes", fast.Rate())
		}
	})
}

// Permits that come back late take no others out of the window: no window has more writes than the rate allows.
func TestPaceTakesLatePermitsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		var at []time.Time
		succeed := func(granted int) {
			p.report(granted, 0, 0)
			at = append(at, slices.Repeat([]time.Time{time.Now()}, granted)...)
		}
		drain(p, time.Minute, succeed)
		for _, late := range []time.Duration{15 * time.Second, 25 * time.Second} {
			time.Sleep(window)
			taken := time.Now()
			unused := p.Take(t.Context(), 20)
			drain(p, late, succeed)
			p.Return(unused, taken)
			drain(p, window, succeed)
		}
		checkWindows(t, at)
	})
}

// A process that writes at its own rate does not slow down because a message carries a lower one.
func TestPaceKeepsWhatGraphAccepts(t *testing.T) {
	t.Parallel()
	for _, told := range []float64{1e-300, 0.06} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPace()
			succeed := func(granted int) { p.report(granted, 0, 0) }
			drain(p, time.Minute, succeed)
			p.Learn(told)
			if writes := drain(p, time.Minute, succeed); writes < 240 {
				t.Errorf("told %g: %d writes in a minute at a limit of 288", told, writes)
			}
		})
	}
}

func TestPaceEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		p.report(0, 1, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		waiting := make(chan int)
		go func() { waiting <- p.Take(ctx, 1) }()
		if p.Take(ctx, 1) != 0 || <-waiting != 0 || time.Since(start) != time.Minute {
			t.Errorf("Take returned after %v", time.Since(start))
		}
	})
}

func TestPaceCapacity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		if p.Capacity(time.Second) != 1 || p.Capacity(time.Minute) != int(startRate*60) {
			t.Errorf("%d in a second, %d in a minute", p.Capacity(time.Second), p.Capacity(time.Minute))
		}
	})
}

// docs/schedules.md has the figures of the pace.
func TestPageHasThePace(t *testing.T) {
	page, err := os.ReadFile("../docs/schedules.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	for _, figure := range []string{
		fmt.Sprintf("up to %v devices a second", maxRate), fmt.Sprintf("%.0f %% of the rate", keptShare*100),
	} {
		if !strings.Contains(text, figure) {
			t.Errorf("docs/schedules.md does not say %q", figure)
		}
	}
}
