package graph

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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
		if first := drain(p, 20*time.Second, succeed); first < 5 || first > 60 {
			t.Errorf("%d permits in the first 20 s", first)
		}
		drain(p, 3*time.Minute, succeed)
		if full := drain(p, 20*time.Second, succeed); full < 90 || full > 99 {
			t.Errorf("%d permits in 20 s, of the 100 that Graph takes", full)
		}
	})
}

func TestPaceIsCutOnceInAWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		drain(p, 5*time.Minute, func(granted int) { p.report(granted, 0, 0) })
		for range 5 {
			p.report(0, 3, time.Second)
		}
		if p.rate < maxRate*throttleCut*0.99 || p.rate > maxRate*throttleCut*1.01 {
			t.Errorf("five refusals in a moment: %.2f writes a second", p.rate)
		}
		time.Sleep(cutInterval)
		p.report(0, 1, time.Second)
		if p.rate > maxRate*throttleCut*throttleCut*1.01 {
			t.Errorf("a refusal in the next window: %.2f writes a second", p.rate)
		}
		for range 100 {
			time.Sleep(cutInterval)
			p.report(0, 1, time.Second)
		}
		if p.rate != minRate {
			t.Errorf("after a hundred windows: %v writes a second", p.rate)
		}
	})
}

func TestPaceHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPace()
		for refusals, most := range []time.Duration{2, 4, 8, 8, 8} {
			p.report(0, 1, 10*time.Second)
			start := time.Now()
			if p.Take(t.Context(), 1) != 1 {
				t.Fatal("no permit")
			}
			waited := time.Since(start) // the next permit may take longer than the block
			if least := 10 * time.Second; waited < least || waited > 10*most*time.Second+fractional(1/p.rate)+time.Second {
				t.Errorf("refusal %d: a permit after %v", refusals+1, waited)
			}
		}
		p.report(0, 1, 0)
		start := time.Now()
		p.Take(t.Context(), 1)
		if waited := time.Since(start); waited < defaultBlock {
			t.Errorf("without Retry-After: a permit after %v", waited)
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
		if p.Capacity(time.Second) != 1 || p.Capacity(time.Minute) != 30 {
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
		fmt.Sprintf("up to %v devices a second", maxRate), fmt.Sprintf("%.0f %% of its rate", throttleCut*100),
	} {
		if !strings.Contains(text, figure) {
			t.Errorf("docs/schedules.md does not say %q", figure)
		}
	}
}
