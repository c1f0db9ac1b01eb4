package app

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// warmUpSteps returns the steps of the warm-up that make a token for Graph, and connections to all hosts. A step reports no
// failure if another step needs its result: the other step reports it.
func (p *Parts) warmUpSteps() []func(context.Context) error {
	steps := []func(context.Context) error{p.Graph.Warm}
	for _, tenant := range p.tenants {
		steps = append(steps, func(ctx context.Context) error {
			p.options.Discover(ctx, tenant)
			return nil
		})
	}
	if p.Vault != nil {
		steps = append(steps, func(ctx context.Context) error {
			p.Vault.FetchToken(ctx)
			return nil
		})
	}
	return steps
}

// WarmUp reads callers' keys and gets a token for Graph before the first request needs them. An earlier request joins
// the running steps. WarmUp returns when all steps are done or ctx has ended. It logs failures; the request that needs
// the step retries it.
func (a *App) WarmUp(ctx context.Context) {
	start := time.Now()
	ctx = upstream.WithWarmUp(ctx)
	failures := make([]error, len(a.warmUp))
	var running sync.WaitGroup
	for i, step := range a.warmUp {
		running.Go(func() { failures[i] = singleflight.CatchPanic(func() error { return step(ctx) }) })
	}
	running.Wait()
	spent := slog.Int64("duration_ms", time.Since(start).Milliseconds())
	warm := true
	for _, err := range failures {
		if err != nil {
			warm = false
			a.log.WarnContext(ctx, "warm-up failed", slog.Any("error", err), spent)
		}
	}
	if warm {
		a.log.InfoContext(ctx, "warmed up", spent)
	}
}
