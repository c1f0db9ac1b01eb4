package graph_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/upstream"
)

// unassign acts on the devices with those numbers within a time, and returns the result of each as a word.
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

// batchAnswer is a response to a batch with those items.
func batchAnswer(responses ...string) azuresim.Fault {
	return azuresim.Body(200, "application/json", `{"responses":[`+strings.Join(responses, ",")+`]}`)
}

// answers makes Graph respond with faults, one after the other.
func answers(step azuresim.Step, faults ...azuresim.Fault) func(*world) {
	return func(w *world) {
		for _, f := range faults {
			w.cloud.Fail(step, 1, f)
		}
	}
}

// always makes Graph respond with f to every request.
func always(step azuresim.Step, f azuresim.Fault) func(*world) {
	return func(w *world) { w.cloud.Fail(step, -1, f) }
}

// The results of three devices. A "?" means that Graph may have acted.
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
		{"a 200 with HTML", answers(item, page), "done, done, done", "2,3", "batch 3"},
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
		{"a response that cannot be decoded leaves nothing behind", answers(whole, azuresim.Body(200, "application/json", `{"responses":[{"id":"0","status":204},{"id":"1","status":204},{"id":"2","status":204}],"Responses":"x"}`), azuresim.Body(200, "application/json", `{}`)), "done, done, done", "1,2,3", "batch 3, batch 3, batch 3"},
		{"the whole says 500, then 401, then 403", answers(whole, azuresim.Status(500), azuresim.Status(401), azuresim.Status(403)), "forbidden?, forbidden?, forbidden?", "", "batch 3, batch 3, batch 3"},
		{"a proxy's page, once", answers(whole, azuresim.WrongType()), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"a connection that breaks for ever", always(whole, azuresim.Reset()), "bad_answer?, bad_answer?, bad_answer?", "", "batch 3, batch 3, batch 3"},
		{"no connection", always(whole, azuresim.Refused()), "unreachable, unreachable, unreachable", "", "batch 3, batch 3, batch 3"},

		{"no responses, once", answers(whole, azuresim.Body(200, "application/json", `{}`)), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"responses of another type, for ever", always(whole, azuresim.Body(200, "application/json", `{"responses":{"0":204}}`)), "bad_answer?, bad_answer?, bad_answer?", "", "batch 3, batch 3, batch 3"},
		{"one is missing", answers(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"2","status":204}`)), "done, done, done", "2", "batch 3, batch 1"},
		{"one is missing for ever", always(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"2","status":204}`)), "done, bad_answer?, done", "", "batch 3, batch 1, batch 1"},
		{"one is answered twice", answers(whole, batchAnswer(`{"id":"0","status":403}`, `{"id":"0","status":204}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`)), "done, done, done", "1", "batch 3, batch 1"},
		{"one is answered twice for ever", always(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"0","status":403}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`)), "bad_answer?, done, done", "", "batch 3, batch 1, batch 1"},
		{"one that was not asked for", answers(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`, `{"id":"3","status":500}`, `{"id":"+1","status":500}`, `{"id":"","status":500}`)), "done, done, done", "", "batch 3"},
		{"one that was done is answered again, and not asked for", answers(whole, batchAnswer(`{"id":"0","status":204}`, `{"id":"1","status":204}`, `{"id":"2","status":503}`), batchAnswer(`{"id":"0","status":500}`, `{"id":"2","status":204}`)), "done, done, done", "", "batch 3, batch 1"},
		{"a status that is none", answers(whole, batchAnswer(`{"id":"0"}`, `{"id":"1","status":204}`, `{"id":"2","status":204}`)), "done, done, done", "1", "batch 3, batch 1"},
		{"odd items", answers(whole, batchAnswer(`null`, `7`, `{"id":0,"status":"204","headers":7}`, `{"id":"1","status":204,"headers":{"Retry-After":7}}`, `{"id":"2","status":"no"}`, `[]`)), "done, done, done", "3", "batch 3, batch 1"},
		{"each item's token is refused, once", func(w *world) { w.cloud.RefuseItemTokens(1) }, "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"each item's token is refused, for ever", func(w *world) { w.cloud.RefuseItemTokens(9) }, "forbidden, forbidden, forbidden", "", "batch 3, batch 3"},
		{"one item's token is refused", answers(item, azuresim.Status(401)), "done, done, done", "1,2,3", "batch 3, batch 1"},
		{"approval is required", func(w *world) { w.cloud.RequireApproval(400) }, "approval_required, approval_required, approval_required", "", "batch 3"},
		{"approval is required, with a 403", func(w *world) { w.cloud.RequireApproval(403) }, "approval_required, approval_required, approval_required", "", "batch 3"},
		{"the whole says 404", always(whole, azuresim.GraphError(404, azuresim.Nested, 0)), "rejected, rejected, rejected", "", "batch 3"},
		{"a proxy says 404", always(whole, azuresim.Foreign(azuresim.Status(404))), "bad_answer?, bad_answer?, bad_answer?", "", "batch 3, batch 3, batch 3"},
		{"a proxy says 403, once", answers(whole, azuresim.Foreign(azuresim.Status(403))), "done, done, done", "1,2,3", "batch 3, batch 3"},
		{"carried out, then 503, then 412", func(w *world) {
			w.cloud.Fail(item, 1, azuresim.Done(azuresim.Body(503, "application/json", `{"error":{"code":"CancelledOnServiceTimeout"}}`)))
			w.cloud.Fail(item, 2, azuresim.Delay(0))
			w.cloud.Fail(item, 1, azuresim.Status(412))
		}, "state_changed?, done, done", "1,2,3", "batch 3, batch 1"},
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

// Results come in the order of the ids, and each twenty cost one request.
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

// Retry-After is obeyed where it leaves time for another try, and returned where it does not.
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
		{"an item, most of the time", azuresim.StepItem, azuresim.Status(503, "Retry-After", "15"), "done, done", 15 * time.Second, 0},
		{"an item, all of the time", azuresim.StepItem, azuresim.Status(503, "Retry-After", "24"), "unavailable, done", 0, 24 * time.Second},
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

// The failure of an item without a request-id has the request-id of the batch.
func TestBatchNamesItsRequest(t *testing.T) {
	simulate(t, func(w *world) {
		w.put("a", "b")
		w.cloud.Fail(azuresim.StepGraph, 1, batchAnswer(`{"id":"0","status":403}`, `{"id":"1","status":204}`))
		_, results := w.unassign(25*time.Second, 1, 2)
		failed, ok := errors.AsType[*upstream.Error](results[0].Err)
		if !ok || failed.RequestID == "" || failed.RequestID != results[0].RequestID || results[1].RequestID != failed.RequestID {
			w.t.Errorf("%+v, %+v", failed, results)
		}
	})
}

// Only refused items are sent again, after the longest of their Retry-After.
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

// A call without a deadline does not wait for an hour.
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

// The same holds for one device: two waits of nearly half of the time each are too many.
func TestSingleWithoutADeadline(t *testing.T) {
	simulate(t, func(w *world) {
		w.put("a")
		w.cloud.Fail(azuresim.StepGraph, -1, azuresim.Status(429, "Retry-After", "12"))
		start := time.Now()
		result := w.client.UnassignResourceAccount(w.t.Context(), device(1))[0]
		if took := time.Since(start); ending(w.t, result.Err) != "throttled" || took != 12*time.Second {
			w.t.Errorf("%v after %v", result.Err, took)
		}
	})
}

// A throttled write gets another try if Retry-After leaves half as much again as its last try took. A try that cannot end
// in time would leave the outcome unknown.
func TestThrottledTries(t *testing.T) {
	for _, test := range []struct {
		call, retryAfter time.Duration
		throttled, tries int
		result           string
	}{
		{time.Second, 10 * time.Second, 2, 3, "done"},
		{1500 * time.Millisecond, 10 * time.Second, 2, 2, "throttled"},
		{100 * time.Millisecond, 12 * time.Second, 2, 2, "throttled"},
		{2 * time.Second, 15 * time.Second, 1, 2, "done"},
		{3 * time.Second, 15 * time.Second, 1, 1, "throttled"}, // 4 seconds are left for a retry, 4.5 wanted
		{5 * time.Second, 15 * time.Second, 1, 1, "throttled"},
	} {
		for _, ids := range [][]graph.DeviceID{{device(1)}, {device(1), device(2)}} {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				transport := doer(func(*http.Request) (*http.Response, error) {
					tries++
					time.Sleep(test.call)
					wait, status := int(test.retryAfter.Seconds()), http.StatusNoContent
					if tries <= test.throttled {
						status = http.StatusTooManyRequests
					}
					text := fmt.Sprintf(`{"responses":[{"id":"0","status":%d,"headers":{"Retry-After":"%d"}},{"id":"1","status":204}]}`,
						status, wait)
					if len(ids) > 1 {
						status = http.StatusOK
					}
					header := http.Header{"Request-Id": {"r-1"}, "Retry-After": {strconv.Itoa(wait)}}
					return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(text))}, nil
				})
				client, err := graph.New(endpoint, anyToken{}, graph.Options{Pace: graph.NewPace(), Transport: transport})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second-test.call) // after a read
				defer cancel()
				result := client.UnassignResourceAccount(ctx, ids...)[0]
				if got := ending(t, result.Err); got != test.result || tries != test.tries {
					t.Errorf("%d devices, calls of %v: %s after %d tries, want %s after %d",
						len(ids), test.call, got, tries, test.result, test.tries)
				}
			})
		}
	}
}

// After a deadline in the middle, the devices of sent requests are in doubt, and the others are not.
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

// A single device has a request of its own, without a body.
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

// One device: its result, whether Graph has acted, and the requests.
func TestSingleEnds(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*world)
		want    string
	}{
		"a proxy's page, once":           {answers(azuresim.StepGraph, azuresim.WrongType()), `done "1" by post, post`},
		"a proxy's page":                 {always(azuresim.StepGraph, azuresim.WrongType()), `bad_answer? "" by post, post, post`},
		"a success of a proxy":           {always(azuresim.StepGraph, azuresim.Foreign(azuresim.Body(200, "application/json", `{}`))), `bad_answer? "" by post, post, post`},
		"an HTML page with a request-id": {always(azuresim.StepGraph, azuresim.Body(200, "text/html; charset=utf-8", "<html>")), `bad_answer? "" by post, post, post`},
		"any 2xx of Graph":               {always(azuresim.StepGraph, azuresim.Body(202, "application/json", `{}`)), `done "" by post`},
		"approval is required":           {func(w *world) { w.cloud.RequireApproval(400) }, `approval_required "" by post`},
		"no connection":                  {always(azuresim.StepGraph, azuresim.Refused()), `unreachable "" by post, post, post`},
		"no such host":                   {always(azuresim.StepGraph, azuresim.NoHost()), `unreachable "" by post, post, post`},
		"a 404 of a proxy, then Graph's": {answers(azuresim.StepGraph, azuresim.Foreign(azuresim.Status(404)), azuresim.Status(404)), `not_found? "" by post, post`},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.put("a")
				test.prepare(w)
				end, _ := w.unassign(25*time.Second, 1)
				if got := fmt.Sprintf("%s %q by %s", end, w.done(1), w.asked()); got != test.want {
					w.t.Errorf("%s\nwant %s", got, test.want)
				}
			})
		})
	}
}

// tried is a request of one try.
type tried struct {
	at     time.Time
	limit  time.Duration // its time
	header http.Header
	body   string
	answer *measured
}

// measured is the body of a response: text, followed by blanks without end if it is endless.
type measured struct {
	text          io.Reader
	endless       bool
	read          int
	ended, closed bool
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.text.Read(p)
	if err != nil && m.endless {
		n, err = copy(p, bytes.Repeat([]byte(" "), len(p))), nil
	}
	m.read += n
	m.ended = m.ended || err != nil
	return n, err
}

func (m *measured) Close() error {
	m.closed = true
	return nil
}

// answering returns a client of a Graph that sends those responses, one after the other, each with text as its body. It also
// returns the requests.
func answering(t *testing.T, text string, endless bool, answers ...http.Response) (*graph.Client, *[]tried) {
	t.Helper()
	var tries []tried
	client, err := graph.New(endpoint, anyToken{}, graph.Options{Pace: graph.NewPace(), Version: "v1", Transport: doer(func(r *http.Request) (*http.Response, error) {
		var body []byte
		if r.Body != nil {
			body, _ = io.ReadAll(r.Body)
		}
		deadline, _ := r.Context().Deadline()
		answer := answers[len(tries)]
		m := &measured{text: strings.NewReader(text), endless: endless}
		answer.Body = m
		if answer.Header == nil {
			answer.Header = http.Header{}
		}
		if answer.Header.Get("request-id") == "" {
			answer.Header.Set("request-id", "r-1")
		}
		tries = append(tries, tried{time.Now(), time.Until(deadline), r.Header, string(body), m})
		return &answer, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	return client, &tries
}

// Each try repeats the whole request, after its wait, and has its share of the time.
func TestEachTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, tries := answering(t, `{}`, false, http.Response{StatusCode: 429, Header: http.Header{"Retry-After": {"3"}}}, http.Response{StatusCode: 503}, http.Response{StatusCode: 403})
		ctx, cancel := context.WithTimeout(t.Context(), 27*time.Second)
		defer cancel()
		trace := &upstream.Trace{}
		client.UnassignResourceAccount(upstream.WithTrace(ctx, trace), device(1), device(2))
		if len(*tries) != 3 || trace.Tries() != 3 {
			t.Fatalf("%d tries, of which %d are counted", len(*tries), trace.Tries())
		}
		first := (*tries)[0]
		want := http.Header{
			"Accept": {"application/json"}, "Authorization": {"Bearer token"}, "Content-Type": {"application/json"}, "User-Agent": {"autopilot-unassign/v1"},
			"Client-Request-Id": first.header["Client-Request-Id"], "Idempotency-Key": nil, // net/http looks whether it is there
		}
		for i, try := range *tries {
			if !reflect.DeepEqual(try.header, want) || len(try.header.Get("Client-Request-Id")) != 36 {
				t.Errorf("try %d has the header %v", i, try.header)
			}
			if try.body != first.body || !strings.Contains(try.body, device(2).String()) {
				t.Errorf("try %d has the body %s", i, try.body)
			}
			if try.limit != 9*time.Second || !try.answer.ended || !try.answer.closed {
				t.Errorf("try %d: %+v, %+v", i, try, try.answer)
			}
		}
		if wait := (*tries)[1].at.Sub(first.at); wait != 3*time.Second {
			t.Errorf("the second try comes after %v", wait)
		}
		if wait := (*tries)[2].at.Sub((*tries)[1].at); wait <= 800*time.Millisecond || wait >= 1600*time.Millisecond {
			t.Errorf("the third try comes after %v", wait)
		}
	})
}

// A try ends, with an hour left and without a deadline.
func TestLimitOfATry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, tries := answering(t, "", false, http.Response{StatusCode: 204}, http.Response{StatusCode: 204})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		client.UnassignResourceAccount(ctx, device(1))
		client.UnassignResourceAccount(t.Context(), device(1))
		if long, none := (*tries)[0].limit, (*tries)[1].limit; long != 30*time.Second || none != 25*time.Second/3 {
			t.Errorf("with an hour it is %v, and without a deadline %v", long, none)
		}
	})
}

// A bounded part of a response is read, and its body is closed.
func TestEndlessResponse(t *testing.T) {
	unassign := func(ctx context.Context, c *graph.Client) error {
		return c.UnassignResourceAccount(ctx, device(1))[0].Err
	}
	find := func(ctx context.Context, c *graph.Client) error {
		return c.Find(ctx, graph.Selector{ID: device(1)})[0].Err
	}
	for _, test := range []struct {
		name   string
		ask    func(context.Context, *graph.Client) error
		status int
		most   int
		end    string
	}{
		{"a failure", unassign, 403, 64 << 10, "forbidden"},
		{"a success without a body", unassign, 200, 64 << 10, "done"},
		{"a device", find, 200, 16<<20 + 1, "bad_answer"},
	} {
		synctest.Test(t, func(t *testing.T) {
			answer := http.Response{StatusCode: test.status, Header: http.Header{"Request-Id": {"graph-1"}}}
			client, tries := answering(t, `{}`, true, answer, answer, answer)
			ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
			defer cancel()
			err := test.ask(ctx, client)
			if end := ending(t, err); end != test.end {
				t.Errorf("%s: %s", test.name, end)
			}
			if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.RequestID != "graph-1" {
				t.Errorf("%s: %+v", test.name, failed)
			}
			for i, try := range *tries {
				if try.answer.read != test.most || !try.answer.closed {
					t.Errorf("%s, try %d: %d bytes are read, closed: %v", test.name, i, try.answer.read, try.answer.closed)
				}
			}
		})
	}
}

// A result has the request-id of the last response, and each body is read to its end, so that the connection is reused.
func TestResultNamesTheLastResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := func(id string) http.Header { return http.Header{"Request-Id": {id}} }
		client, tries := answering(t, "text", false, http.Response{StatusCode: 503, Header: id("1")}, http.Response{StatusCode: 200, Header: id("2")}, http.Response{StatusCode: 403, Header: id("3")})
		for _, want := range []string{"2", "3"} {
			if result := client.UnassignResourceAccount(t.Context(), device(1))[0]; result.RequestID != want {
				t.Errorf("%+v, want %s", result, want)
			}
		}
		for i, try := range *tries {
			if !try.answer.ended || !try.answer.closed {
				t.Errorf("try %d: %+v", i, try.answer)
			}
		}
	})
}

// renewing is a credential that records the claims and the expired tokens of its calls.
type renewing struct{ claims, expired []string }

func (r *renewing) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	r.claims = append(r.claims, o.Claims)
	return azcore.AccessToken{Token: fmt.Sprint("token-", len(r.claims)), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func (r *renewing) Expire(token string) { r.expired = append(r.expired, token) }

// A refused token is replaced once. A claims challenge expires no token: the next one differs by its claims.
func TestRefusedToken(t *testing.T) {
	for challenge, want := range map[string]renewing{
		`Bearer error="invalid_token"`:                              {[]string{"", ""}, []string{"token-1"}},
		`Bearer error="insufficient_claims", claims="eyJhIjoxfQ=="`: {[]string{"", `{"a":1}`}, nil},
	} {
		credential := &renewing{}
		var sent []string
		client, err := graph.New(endpoint, credential, graph.Options{Pace: graph.NewPace(), Transport: doer(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header.Get("Authorization"))
			return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {challenge}, "Request-Id": {"r-1"}}, Body: http.NoBody}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		result := client.UnassignResourceAccount(t.Context(), device(1))[0]
		if ending(t, result.Err) != "forbidden" || !slices.Equal(sent, []string{"Bearer token-1", "Bearer token-2"}) || !reflect.DeepEqual(*credential, want) {
			t.Errorf("%s: %v by %v with %+v", challenge, result.Err, sent, credential)
		}
	}
}

// stuck is a body that never arrives.
type stuck struct{ context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.Done()
	return 0, s.Err()
}

func (stuck) Close() error { return nil }

// A body that does not arrive in time is a timeout, in spite of its status 200.
func TestBodyThatNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, err := graph.New(endpoint, anyToken{}, graph.Options{Pace: graph.NewPace(), Transport: doer(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Request-Id": {"r-1"}}, Body: stuck{r.Context()}}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		found, results := client.Find(t.Context(), graph.Selector{ID: device(1)}), client.UnassignResourceAccount(t.Context(), device(1), device(2))
		if end := ending(t, found[0].Err) + ", " + ending(t, results[0].Err); end != "timeout, timeout?" || time.Since(start) > time.Minute {
			t.Errorf("%s after %v", end, time.Since(start))
		}
		if result := client.UnassignResourceAccount(t.Context(), device(1))[0]; result.Err != nil { // the status alone is enough for the action
			t.Error(result.Err)
		}
	})
}
