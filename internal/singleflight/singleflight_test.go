package singleflight_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

func TestConcurrentCallsShareOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group singleflight.Group[int]
		runs := 0
		work := func(ctx context.Context) (int, error) {
			runs++
			run := runs
			time.Sleep(time.Second)
			upstream.Spent(ctx, upstream.Vault, time.Second)
			return run, ctx.Err()
		}
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() {
				trace := &upstream.Trace{}
				value, err := group.Do(upstream.WithTrace(t.Context(), trace), "key", work)
				if value != 1 || err != nil || trace.Spent(upstream.Vault) != time.Second {
					t.Errorf("%d, %v, %v on the vault", value, err, trace.Spent(upstream.Vault))
				}
			})
		}
		callers.Wait()
		if runs != 1 {
			t.Errorf("%d runs", runs)
		}
		if value, err := group.Do(t.Context(), "key", work); value != 2 || err != nil {
			t.Errorf("a later call: %d, %v", value, err)
		}
	})
}

// A caller leaves when its own context ends; the others get the result.
func TestEachCallerWaitsUnderItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group singleflight.Group[string]
		work := func(ctx context.Context) (string, error) {
			time.Sleep(time.Minute)
			return "value", ctx.Err()
		}
		var patient sync.WaitGroup
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		patient.Go(func() {
			time.Sleep(time.Millisecond)
			if value, err := group.Do(t.Context(), "key", work); value != "value" || err != nil {
				t.Errorf("the patient caller: %q, %v", value, err)
			}
		})
		start := time.Now()
		if _, err := group.Do(impatient, "key", work); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("the impatient caller: %v after %v", err, time.Since(start))
		}
		patient.Wait()
	})
}

func TestPanicIsAnError(t *testing.T) {
	var group singleflight.Group[int]
	_, err := group.Do(t.Context(), "key", func(context.Context) (int, error) { panic("canary") })
	panicked, ok := errors.AsType[*singleflight.PanicError](err)
	if !ok || strings.Contains(err.Error(), "canary") || len(panicked.Stack) == 0 {
		t.Errorf("%v", err)
	}
	if value, err := group.Do(t.Context(), "key", func(context.Context) (int, error) { return 2, nil }); value != 2 || err != nil {
		t.Errorf("after the panic: %d, %v", value, err)
	}
}
