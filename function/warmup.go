package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"autopilot-unassign/internal/upstream"
)

// warmUp is what a process does of itself, so that the first request finds it done: the keys of callers are read and a token for
// Graph is there. A request that comes before joins what is under way.
type warmUp struct {
	steps []func(context.Context) error
	log   *slog.Logger
}

// run carries out all steps at once, and returns when they are done or ctx has ended. What fails is logged, and tried again by
// the request that needs it.
func (w warmUp) run(ctx context.Context) {
	start := time.Now()
	ctx = upstream.WithWarmUp(ctx)
	failures := make([]error, len(w.steps))
	var running sync.WaitGroup
	for i, step := range w.steps {
		running.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					failures[i] = fmt.Errorf("panic of type %T", p)
				}
			}()
			failures[i] = step(ctx)
		})
	}
	running.Wait()
	spent := slog.Int64("duration_ms", time.Since(start).Milliseconds())
	warm := true
	for _, err := range failures {
		if err != nil {
			warm = false
			w.log.WarnContext(ctx, "warm-up failed", slog.Any("error", err), spent)
		}
	}
	if warm {
		w.log.InfoContext(ctx, "warmed up", spent)
	}
}
