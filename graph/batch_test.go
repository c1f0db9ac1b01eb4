package graph_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/upstream"
)

// unassign acts on the devices with those numbers within a time, and returns what became of each in a word.
func (w *world) unassign(within time.Duration, numbers ...int) (words string, results []graph.Result) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	ids := make([]graph.DeviceID, len(numbers))
	for i, n := range numbers {
		ids[i] = device(n)
	}
	results = w.client.UnassignResourceAccount(ctx, ids...)
	ends := make([]string, len(results))
	for i, r := range results {
		if r.ID != ids[i] {
			w.t.Errorf("result %d is of %v, want %v", i, r.ID, ids[i])
		}
		ends[i] = ending(w.t, r.Err)
	}
	return strings.Join(ends, ", "), results
}

// batchAnswer is an answer to a batch with those responses.
func batchAnswer(responses ...string) azuresim.Fault {
	return azuresim.Body(200, "application/json", `{"responses":[`+strings.Join(responses, ",")+`]}`)
}

// answers has Graph answer so, one after the other.
func answers(step azuresim.Step, faults ...azuresim.Fault) func(*world) {
	return func(w *world) {
		for _, f := range faults {
			w.cloud.Fail(step, 1, f)
		}
	}
}

// always has Graph answer so for ever.
func always(step azuresim.Step, f azuresim.Fault) func(*world) {
	return func(w *world) { w.cloud.Fail(step, -1, f) }
}

// What becomes of three devices, of which the second does not exist where the row says so. A "?" means that Graph may have
// acted.
func TestBatch(t *testing.T) {
	item, whole := azuresim.StepItem, azuresim.StepGraph
	page := azuresim.Body(200, "text/html", "<!DOCTYPE html>")
	for _, test := range []struct {
		name    string
		prepare func(*world)
		ends    string
		done    string
		asked   string
	}{
		{"all are done", nil, "done, done, done", "1,2,3", "batch 3"},
		{"one does not exist", func(w *world) { w.put("a"); w.cloud.Fail(item, 1, azuresim.GraphError(404, azuresim.Nested, 0)) }, "not_found, done, done", "2,3", "batch 3"},
		{"one says 429 once", answers(item, azuresim.Status(429)), "done, done, done", "1,2,3", "batch 3, batch 1"},
		{"one says 429 for ever", answers(item, azuresim.Status(204), azuresim.Status(429), azuresim.Status(204), azuresim.Status(429), azuresim.Status(429)), "done, throttled, done", "", "batch 3, batch 1, batch 1"},
		{"one says 500 once: it may be done by then", answers(item, azuresim.Status(500), azuresim.Status(204), azuresim.Status(204), azuresim.Status(403)), "forbidden?, done, done", "", "batch 3, batch 1"},
		{"one says 500 and is done, then 403", answers(item, azuresim.Done(azuresim.Status(500)), azuresim.Status(204), azuresim.Status(204), azuresim.Status(403)), "forbidden?, done, done", "1", "batch 3, batch 1"},
		{"one says 503, two say 500", answers(item, azuresim.Status(503), azuresim.Status(500), azuresim.Status(500)), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"all say 503 for ever", always(item, azuresim.Status(503)), "unavailable, unavailable, unavailable", "", "batch 3, batch 3, batch 3"},
		{"all say 504 for ever", always(item, azuresim.Status(504)), "timeout?, timeout?, timeout?", "", "batch 3, batch 3, batch 3"},
		{"all say 403", always(item, azuresim.Status(403)), "forbidden, forbidden, forbidden", "", "batch 3"},
		{"all say 409", always(item, azuresim.Status(409)), "conflict, conflict, conflict", "", "batch 3"},
		{"all say 412", always(item, azuresim.Status(412)), "state_changed, state_changed, state_changed", "", "batch 3"},
		{"all say 423", always(item, azuresim.Status(423)), "locked, locked, locked", "", "batch 3"},
		{"a 200 with a page for people", answers(item, page), "done, done, done", "2,3", "batch 3"},
		{"a 502 that is not JSON", answers(item, azuresim.GraphError(502, azuresim.NotJSON, 0)), "done, done, done", "1,2,3", "batch 3, batch 1"},
		{"a 400 with HTML in it", answers(item, azuresim.GraphError(400, azuresim.HTML, 0)), "rejected, done, done", "2,3", "batch 3"},
		{"a redirect", answers(item, azuresim.Redirect("https://stranger.example")), "done, done, done", "1,2,3", "batch 3, batch 1"},

		{"the whole says 429 once", answers(whole, azuresim.Status(429)), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"the whole says 429 for ever", always(whole, azuresim.Status(429)), "throttled, throttled, throttled", "", "batch 3, batch 3, batch 3"},
		{"the whole says 503 for ever", always(whole, azuresim.Status(503)), "unavailable, unavailable, unavailable", "", "batch 3, batch 3, batch 3"},
		{"the whole says 500 for ever", always(whole, azuresim.Status(500)), "internal?, internal?, internal?", "", "batch 3, batch 3, batch 3"},
		{"the whole says 500 once, then 403", answers(whole, azuresim.Status(500), azuresim.Status(403)), "forbidden?, forbidden?, forbidden?", "", "batch 3, batch 3"},
		{"the whole says 400", always(whole, azuresim.Status(400)), "rejected, rejected, rejected", "", "batch 3"},
		{"the whole hangs", always(whole, azuresim.Hang()), "timeout?, timeout?, timeout?", "", "batch 3, batch 3, batch 3"},
		{"the whole hangs once", answers(whole, azuresim.Hang()), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"the answer breaks off, and what follows is 403", answers(whole, azuresim.ResetMidBody(), azuresim.Status(403)), "forbidden?, forbidden?, forbidden?", "1,2,3", "batch 3, batch 3"},
		{"the answer breaks off, and the next one says 412 for each", func(w *world) {
			w.cloud.Fail(whole, 1, azuresim.ResetMidBody())
			w.cloud.Fail(item, 3, azuresim.Delay(0))
			w.cloud.Fail(item, -1, azuresim.Status(412))
		}, "state_changed?, state_changed?, state_changed?", "1,2,3", "batch 3, batch 3"},
		{"the whole says 500 and is done, and the next answer says 412 for each", func(w *world) {
			w.cloud.Fail(whole, 1, azuresim.Done(azuresim.Status(500)))
			w.cloud.Fail(item, 3, azuresim.Status(204))
			w.cloud.Fail(item, -1, azuresim.Status(412))
		}, "state_changed?, state_changed?, state_changed?", "", "batch 3, batch 3"},
		{"the answer is cut off for ever", always(whole, azuresim.Truncated()), "bad_answer?, bad_answer?, bad_answer?", "1,2,3", "batch 3, batch 3, batch 3"},
		{"a page for people, once", answers(whole, azuresim.WrongType()), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"a connection that breaks for ever", always(whole, azuresim.Reset()), "bad_answer?, bad_answer?, bad_answer?", "", "batch 3, batch 3, batch 3"},
		{"nobody there", always(whole, azuresim.Refused()), "unreachable, unreachable, unreachable", "", "batch 3, batch 3, batch 3"},

		{"no responses, once", answers(whole, azuresim.Body(200, "application/json", `{}`)), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"responses of another type, for ever", always(whole, azuresim.Body(200, "application/json", `{"responses":{"0":204}}`)), "bad_answer?, bad_answer?, bad_answer?", "", "batch 3, batch 3, batch 3"},
		{"one is missing", answers(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"2","status":204}`)), "done, done, done", "2", "batch 3, batch 1"},
		{"one is missing for ever", always(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"2","status":204}`)), "done, bad_answer?, done", "", "batch 3, batch 1, batch 1"},
		{"one is answered twice", answers(whole, batchAnswer(`{"id":"0","status":403}`, `{"id":"0","status":204}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`)), "done, done, done", "1", "batch 3, batch 1"},
		{"one is answered twice for ever", always(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"0","status":403}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`)), "bad_answer?, done, done", "", "batch 3, batch 1, batch 1"},
		{"one that was not asked for", answers(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`, `{"id":"3","status":500}`, `{"id":"+1","status":500}`, `{"id":"","status":500}`)), "done, done, done", "", "batch 3"},
		{"one that was done is answered again, and not asked for", answers(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"1","status":204}`, `{"id":"2","status":503}`), batchAnswer(`{"id":"0","status":500}`, `{"id":"2","status":204}`)), "done, done, done", "", "batch 3, batch 1"},
		{"a status that is none", answers(whole, batchAnswer(`{"id":"0"}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`)), "done, done, done", "1", "batch 3, batch 1"},
		{"in no order", answers(whole, batchAnswer(`{"id":"2","status":403}`, `{"id":"0","status":204}`, `{"id":"1","status":404}`)), "done, not_found, forbidden", "", "batch 3"},

		{"no credential", func(w *world) { w.cloud.DeleteSecret("app") }, "not_found, not_found, not_found", "", ""},
		{"the token is revoked, and no other comes", func(w *world) {
			w.unassign(time.Minute, 9, 9)
			w.cloud.RevokeTokens()
			w.cloud.SetAppSecrets("another")
			w.cloud.Fail(whole, 1, azuresim.Status(500)) // Graph may have acted by then
		}, "credential_rejected?, credential_rejected?, credential_rejected?", "", "batch 2, batch 3, batch 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.put("a", "b", "c")
				if test.prepare != nil {
					test.prepare(w)
				}
				start := time.Now()
				ends, results := w.unassign(25*time.Second, 1, 2, 3)
				if done, asked := w.done(3), w.asked(); ends != test.ends || done != test.done || asked != test.asked {
					w.t.Errorf("%s; done are %q by %s\nwant %s; %q by %s", ends, done, asked, test.ends, test.done, test.asked)
				}
				if took := time.Since(start); took > 25*time.Second {
					w.t.Errorf("it took %v", took)
				}
				wantNoPassword(w.t, results)
			})
		})
	}
}

// Results come in the order of the ids, however the answers do, and each twenty cost one request.
func TestBatchOrder(t *testing.T) {
	for _, n := range []int{1, 2, 19, 20, 21, 40, 45} {
		simulate(t, func(w *world) {
			numbers, want := make([]int, n), make([]string, n)
			serials := make([]string, n)
			for i := range n {
				numbers[i], want[i], serials[i] = i+1, "done", fmt.Sprint(i)
			}
			w.put(serials...)
			if n > 7 {
				numbers[6], want[6] = 999, "not_found"
			}
			ends, results := w.unassign(25*time.Second, numbers...)
			if ends != strings.Join(want, ", ") {
				w.t.Errorf("%d: %s", n, ends)
			}
			if asked := w.cloud.Count(azuresim.StepGraph); asked != (n+19)/20 {
				w.t.Errorf("%d: %d requests", n, asked)
			}
			if slices.ContainsFunc(results, func(r graph.Result) bool { return r.RequestID == "" || r.ClientRequestID == "" }) {
				w.t.Errorf("%d: ids for support are missing in %+v", n, results)
			}
		})
	}
}

// What Graph asks to wait for is waited for where there is twice the time, and passed on where there is not.
func TestBatchRetryAfter(t *testing.T) {
	for _, test := range []struct {
		name   string
		step   azuresim.Step
		fault  azuresim.Fault
		ends   string
		waited time.Duration // exactly, where Graph says how long
		passed time.Duration
	}{
		{"an item, inside", azuresim.StepItem, azuresim.Status(429, "Retry-After", "7"), "done, done", 7 * time.Second, 0},
		{"an item that says it inside its body", azuresim.StepItem, azuresim.GraphError(429, azuresim.Nested, 7), "done, done", 7 * time.Second, 0},
		{"an item, outside", azuresim.StepItem, azuresim.Status(429, "Retry-After", "120"), "throttled, done", 0, 2 * time.Minute},
		{"an item, half of the time", azuresim.StepItem, azuresim.Status(503, "Retry-After", "15"), "unavailable, done", 0, 15 * time.Second},
		{"the whole, inside", azuresim.StepGraph, azuresim.Status(429, "Retry-After", "7"), "done, done", 7 * time.Second, 0},
		{"the whole, outside", azuresim.StepGraph, azuresim.Status(503, "Retry-After", "120"), "unavailable, unavailable", 0, 2 * time.Minute},
	} {
		simulate(t, func(w *world) {
			w.put("a", "b")
			w.cloud.Fail(test.step, 1, test.fault)
			start := time.Now()
			ends, results := w.unassign(25*time.Second, 1, 2)
			waited := time.Since(start)
			if ends != test.ends || waited != test.waited {
				w.t.Errorf("%s: %s after %v; want %s after %v", test.name, ends, waited, test.ends, test.waited)
			}
			if failed, ok := errors.AsType[*upstream.Error](results[0].Err); ok && failed.RetryAfter != test.passed {
				w.t.Errorf("%s: %v is passed on, want %v", test.name, failed.RetryAfter, test.passed)
			}
		})
	}
}

// Only what Graph refused is sent again, after the longest time that it asks for.
func TestBatchWaitsForTheLongest(t *testing.T) {
	simulate(t, func(w *world) {
		w.put("a", "b", "c")
		for _, wait := range []string{"2", "6", "4"} {
			w.cloud.Fail(azuresim.StepItem, 1, azuresim.Status(429, "Retry-After", wait))
		}
		start := time.Now()
		if ends, _ := w.unassign(25*time.Second, 1, 2, 3); ends != "done, done, done" || time.Since(start) != 6*time.Second {
			w.t.Errorf("%s after %v", ends, time.Since(start))
		}
	})
}

// Without a deadline there is an end all the same: a wait of an hour is not waited for.
func TestBatchWithoutADeadline(t *testing.T) {
	for _, step := range []azuresim.Step{azuresim.StepItem, azuresim.StepGraph} {
		simulate(t, func(w *world) {
			w.put("a", "b")
			w.cloud.Fail(step, -1, azuresim.Status(429, "Retry-After", "3600"))
			start := time.Now()
			results := w.client.UnassignResourceAccount(w.t.Context(), device(1), device(2))
			if took := time.Since(start); ending(w.t, results[0].Err) != "throttled" || took > time.Minute {
				w.t.Errorf("%s: %v after %v", step, results[0].Err, took)
			}
		})
	}
}

// When the time is up in the middle, those that Graph had are in doubt and those that it had not are not.
func TestDeadlineInTheMiddle(t *testing.T) {
	simulate(t, func(w *world) {
		numbers, serials := make([]int, 45), make([]string, 45)
		for i := range numbers {
			numbers[i], serials[i] = i+1, fmt.Sprint(i)
		}
		w.put(serials...)
		w.unassign(time.Minute, 999) // which brings the token
		w.cloud.Fail(azuresim.StepGraph, 1, azuresim.Delay(0))
		w.cloud.Fail(azuresim.StepGraph, -1, azuresim.Hang())
		ids := make([]graph.DeviceID, len(numbers))
		for i, n := range numbers {
			ids[i] = device(n)
		}
		ctx, cancel := context.WithCancel(w.t.Context())
		start := time.Now()
		time.AfterFunc(4*time.Second, cancel)
		for i, result := range w.client.UnassignResourceAccount(ctx, ids...) {
			want := "done"
			if i >= 40 {
				want = "timeout"
			} else if i >= 20 {
				want = "timeout?"
			}
			if end := ending(w.t, result.Err); end != want {
				w.t.Errorf("%d: %s, want %s", i, end, want)
			}
		}
		if took := time.Since(start); took != 4*time.Second {
			w.t.Errorf("it took %v", took)
		}
	})
}

// A single device has a request of its own, with nothing in its body.
func TestSingle(t *testing.T) {
	simulate(t, func(w *world) {
		w.put("a")
		if ends, _ := w.unassign(25*time.Second, 1); ends != "done" || w.done(1) != "1" || w.asked() != "post" {
			w.t.Errorf("%s by %s", ends, w.asked())
		}
		r := w.cloud.Requests(azuresim.StepGraph)[0]
		if len(r.Body) != 0 || r.Header.Get("Content-Type") != "" || r.Header.Get("Client-Request-Id") == "" || r.Path != "/beta/deviceManagement/windowsAutopilotDeviceIdentities/"+device(1).String()+"/unassignResourceAccountFromDevice" {
			w.t.Errorf("%+v", r)
		}
		w.cloud.Fail(azuresim.StepGraph, 1, azuresim.Status(500))
		w.cloud.Fail(azuresim.StepGraph, 1, azuresim.Status(403))
		if ends, _ := w.unassign(25*time.Second, 1); ends != "forbidden?" {
			w.t.Errorf("500, then 403: %s", ends)
		}
		ctx, cancel := context.WithCancel(w.t.Context())
		cancel()
		if result := w.client.UnassignResourceAccount(ctx, device(1)); ending(w.t, result[0].Err) != "timeout" {
			w.t.Errorf("no time: %v", result[0].Err)
		}
	})
}
