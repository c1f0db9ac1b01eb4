package graph_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/upstream"
)

// The pace learns from every write, alone or in a batch, and a Background client leaves throttled writes to it.
func TestPaceLearnsFromWrites(t *testing.T) {
	for name, count := range map[string]int{"one device": 1, "a batch": 3} {
		simulate(t, func(w *world) {
			serials, ids := make([]string, count), make([]graph.DeviceID, count)
			for i := range count {
				serials[i], ids[i] = "S", device(i+1)
			}
			w.put(serials...)
			w.cloud.Throttle(azuresim.WriteLimit{Writes: count, RetryAfter: 30})
			before := w.pace.Capacity(time.Hour)
			for _, r := range w.client.Background().UnassignResourceAccount(w.t.Context(), ids...) {
				if r.Err != nil {
					w.t.Fatal(r.Err)
				}
			}
			if after := w.pace.Capacity(time.Hour); after <= before {
				w.t.Errorf("%s: %d permits in an hour before %d successes, %d after", name, before, count, after)
			}
			start := time.Now()
			for _, r := range w.client.Background().UnassignResourceAccount(w.t.Context(), ids...) {
				failed, ok := errors.AsType[*upstream.Error](r.Err)
				if !ok || failed.Reason != upstream.Throttled || failed.RetryAfter != 30*time.Second {
					w.t.Errorf("%s: %v", name, r.Err)
				}
			}
			if took := time.Since(start); took > time.Second {
				w.t.Errorf("%s: throttled writes were retried for %v", name, took)
			}
			ctx, cancel := context.WithTimeout(w.t.Context(), 29*time.Second)
			defer cancel()
			if w.pace.Take(ctx, 1) != 0 {
				w.t.Errorf("%s: a permit before Retry-After", name)
			}
		})
	}
}

// Interactive writes teach the pace too, and are retried.
func TestInteractiveWritesAreRetried(t *testing.T) {
	simulate(t, func(w *world) {
		w.put("S1")
		w.cloud.Throttle(azuresim.WriteLimit{Writes: 1, RetryAfter: 5})
		w.client.UnassignResourceAccount(w.t.Context(), device(1))
		ctx, cancel := context.WithTimeout(w.t.Context(), 25*time.Second)
		defer cancel()
		w.client.UnassignResourceAccount(ctx, device(1))
		waiting, stop := context.WithTimeout(w.t.Context(), time.Second)
		defer stop()
		if w.pace.Take(waiting, 1) != 0 {
			w.t.Error("the pace does not make way for interactive writes")
		}
		if requests := len(w.cloud.Requests(azuresim.StepGraph)); requests < 3 {
			w.t.Errorf("%d requests", requests)
		}
	})
}

// Warm waits for the token and for the connection, which start together. It reports the failure of the token alone.
func TestWarm(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.Fail(azuresim.StepConnect, -1, azuresim.Delay(3*time.Second))
		w.cloud.Fail(azuresim.StepToken, -1, azuresim.Delay(2*time.Second))
		start := time.Now()
		if err := w.client.Warm(w.t.Context()); err != nil || time.Since(start) != 3*time.Second {
			w.t.Errorf("%v after %v", err, time.Since(start))
		}
		w.cloud.Fail(azuresim.StepConnect, -1, azuresim.Refused())
		if err := w.client.Warm(w.t.Context()); err != nil || w.cloud.Count(azuresim.StepConnect) != 2 {
			w.t.Errorf("%v with %d connections", err, w.cloud.Count(azuresim.StepConnect))
		}
	})
}
