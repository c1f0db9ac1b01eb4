package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"autopilot-unassign/internal/upstream"
)

// warmUp reads callers' keys and gets a token for Graph before the first request needs them. A request that comes
// earlier joins the calls that run.
type warmUp struct {
	steps []func(context.Context) error
	log   *slog.Logger
}

// WarmUp runs all steps at once, and returns when they are done or ctx has ended. It logs failures; the request that
// needs the step retries it.
func (a *App) WarmUp(ctx context.Context) {
	w := a.warmUp
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
