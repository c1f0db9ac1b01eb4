package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// desk is a handler for repeated requests. The header X-Caller (kind/id) names the caller; signature callers also have
// webhook-id.
type desk struct {
	*Handler
	mu   sync.Mutex
	acts int // on devices
	log  bytes.Buffer
}

// newDesk returns a desk that changes devices with act. n is the number of the call, from 1.
func newDesk(act func(n int, ids []graph.DeviceID) []graph.Result, policy Policy) *desk {
	d := &desk{}
	d.Handler = newHandler(Options{
		Devices: devicesFunc(func(ids []graph.DeviceID) []graph.Result {
			d.mu.Lock()
			d.acts++
			n := d.acts
			d.mu.Unlock()
			return act(n, ids)
		}),
		Verifier: verifierFunc(func(r *http.Request, _ []byte) (caller.Caller, error) {
			kind, id, _ := strings.Cut(r.Header.Get("X-Caller"), "/")
			who := caller.Caller{Kind: caller.Kind(kind), ID: id}
			if who.Kind == caller.KindSignature {
				who.Delivery = r.Header.Get("Webhook-Id")
			}
			return who, nil
		}),
		Policy: policy, Log: slog.New(slog.NewJSONHandler(&d.log, nil)), Timeout: 25 * time.Second,
	})
	return d
}

// ask sends body with headers, given as pairs of a name and a value.
func (d *desk) ask(t *testing.T, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, RouteUnassign, strings.NewReader(body))
	r.Header.Set("X-Caller", "api_key/flow")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

// want fails the test unless w is an answer with that status and code ("" for no body), replayed or not, after so many
// acts.
func (d *desk) want(t *testing.T, when string, w *httptest.ResponseRecorder, status int, code Code, replayed bool, acts int) {
	t.Helper()
	var body struct {
		Code  Code
		Error struct{ Code Code }
	}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatalf("%s: %v in %s", when, err, w.Body)
		}
	}
	if got := body.Code + body.Error.Code; w.Code != status || got != code || (w.Header().Get("Idempotent-Replayed") == "true") != replayed {
		t.Errorf("%s: %d %s %v, want %d %s, replayed: %v", when, w.Code, got, w.Header(), status, code, replayed)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.acts != acts {
		t.Errorf("%s: Graph was asked %d times, want %d", when, d.acts, acts)
	}
}

func alwaysDone(_ int, ids []graph.DeviceID) []graph.Result { return done204(ids) }

// failing returns results in which every device fails with err.
func failing(err error) func(int, []graph.DeviceID) []graph.Result {
	return func(_ int, ids []graph.DeviceID) []graph.Result {
		results := done204(ids)
		for i := range results {
			results[i].Err = err
		}
		return results
	}
}

const otherBody = `{"deviceId":"` + someDevice + `","reference":"another"}`

// TestRepetition has a delivery come again, in another form: it is answered as it was, in the form that it asks for
// now.
func TestRepetition(t *testing.T) {
	d := newDesk(alwaysDone, Policy{})
	headers := []string{"Idempotency-Key", "k-1", "X-Request-Id", "first"}
	d.want(t, "the first", d.ask(t, someBody, headers...), 204, "", false, 1)
	d.want(t, "again", d.ask(t, someBody, headers...), 204, "", true, 1)
	headers = append(headers, "X-Request-Id", "third", "Prefer", "return=representation")
	third := d.ask(t, someBody, headers...)
	d.want(t, "with a preference", third, 200, Unassigned, true, 1)
	if id := third.Header().Get("X-Request-Id"); id != "third" || !strings.Contains(third.Body.String(), `"requestId":"first"`) || !strings.Contains(third.Body.String(), `"graphRequestId":"graph-1"`) {
		t.Errorf("%s: %s", id, third.Body)
	}
	headers = append(headers, "X-Request-Id", "fourth")
	if fourth := d.ask(t, someBody, headers...); fourth.Body.String() != third.Body.String() {
		t.Errorf("the fourth answer is %s, the third %s", fourth.Body, third.Body)
	}
	lines := strings.Split(strings.TrimSpace(d.log.String()), "\n")
	if len(lines) != 4 || strings.Contains(lines[0], "replay") || !strings.Contains(lines[0], `"delivery_id":"k-1"`) {
		t.Fatalf("the log has %s", d.log.String())
	}
	for i, id := range []string{"first", "third", "fourth"} {
		if line := lines[i+1]; !strings.Contains(line, `"replayed":true,"replay_of":"first"`) || !strings.Contains(line, `"request_id":"`+id+`"`) ||
			!strings.Contains(line, `"code":"unassigned"`) || !strings.Contains(line, `"attempts":0`) || !strings.Contains(line, `"caller_id":"flow"`) {
			t.Errorf("the record of %s is %s", id, line)
		}
	}
}

// TestWhatIsKept repeats deliveries after each kind of result: the ledger stores only results that a retry cannot
// change.
func TestWhatIsKept(t *testing.T) {
	for service, reasons := range map[upstream.Service][]upstream.Reason{
		upstream.Graph: {
			upstream.NotFound, upstream.Conflict, upstream.StateChanged, upstream.Rejected, upstream.Forbidden, upstream.TenantNotEnabled, upstream.Throttled,
			upstream.Internal, upstream.BadAnswer, upstream.Unavailable, upstream.Locked, upstream.Timeout, upstream.Unreachable, upstream.Untrusted,
		},
		upstream.Vault:    {upstream.NotFound, upstream.Forbidden, upstream.SecretDisabled, upstream.Unavailable, upstream.Timeout},
		upstream.Identity: {upstream.CredentialRejected, upstream.CredentialExpired, upstream.AppNotFound, upstream.Unavailable, upstream.Timeout},
	} {
		for _, reason := range reasons {
			err := &upstream.Error{Service: service, Reason: reason}
			code := CodeOf(err)
			status := statusOf(code).status
			kept := status == 404 || status == 409 || status == 422
			d := newDesk(failing(err), Policy{})
			d.want(t, "first", d.ask(t, someBody, "Idempotency-Key", "k"), status, code, false, 1)
			acts := 2
			if kept {
				acts = 1
			}
			d.want(t, "again", d.ask(t, someBody, "Idempotency-Key", "k"), status, code, kept, acts)
			if stored := len(d.ledger.entries) == 1; stored != kept {
				t.Errorf("%s is stored: %t", code, stored)
			}
		}
	}
}

// TestWhatIsKeptOfAList repeats a list after a success and a failure: only the failed device is retried, because a done
// device may have a new account by now.
func TestWhatIsKeptOfAList(t *testing.T) {
	second := mustDevice(t, "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02")
	list := `{"devices":[{"deviceId":"` + someDevice + `"},{"deviceId":"` + second.String() + `"}]}`
	for _, test := range []struct {
		name   string
		reason upstream.Reason
		status int
		code   Code
		again  []graph.DeviceID
	}{
		{"one is not found", upstream.NotFound, 207, "", nil},
		{"one has another account", upstream.StateChanged, 207, "", nil},
		{"one is throttled", upstream.Throttled, 503, devicesFailed, []graph.DeviceID{second}},
		{"one is not permitted", upstream.Forbidden, 207, "", []graph.DeviceID{second}},
	} {
		var acted [][]graph.DeviceID
		d := newDesk(func(n int, ids []graph.DeviceID) []graph.Result {
			acted = append(acted, ids)
			results := done204(ids)
			for i := range results {
				if ids[i] == second && n < 3 {
					results[i].Err = &upstream.Error{Service: upstream.Graph, Reason: test.reason}
				}
			}
			return results
		}, Policy{})
		acts := 1
		d.want(t, test.name, d.ask(t, list, "Idempotency-Key", "k", "X-Request-Id", "first"), test.status, test.code, false, acts)
		acts += len(test.again)
		d.want(t, test.name+", again", d.ask(t, list, "Idempotency-Key", "k", "X-Request-Id", "second"), test.status, test.code, test.again == nil, acts)
		if last := acted[len(acted)-1]; test.again != nil && !slices.Equal(last, test.again) {
			t.Errorf("%s: %v was tried again, want %v", test.name, last, test.again)
		}
		if test.again == nil {
			continue
		}
		third := d.ask(t, list, "Idempotency-Key", "k", "X-Request-Id", "third", "Prefer", "return=representation")
		d.want(t, test.name+", a third time", third, 200, "", false, acts+1)
		if last := acted[len(acted)-1]; !slices.Equal(last, test.again) {
			t.Errorf("%s: %v was tried a third time, want %v", test.name, last, test.again)
		}
		d.want(t, test.name+", a fourth time", d.ask(t, list, "Idempotency-Key", "k", "X-Request-Id", "fourth"), 200, "", true, acts+1)
		var origins []string // of each record of the first device, and then of the second
		for line := range strings.Lines(d.log.String()) {
			var record struct {
				DeviceID string `json:"device_id"`
				ReplayOf string `json:"replay_of"`
			}
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatal(err)
			}
			if record.DeviceID != "" {
				origins = append(origins, record.ReplayOf)
			}
		}
		if want := []string{"", "", "first", "", "first", "", "first", "third"}; !slices.Equal(origins, want) {
			t.Errorf("%s: the records replay %q, want %q", test.name, origins, want)
		}
	}
}

// TestToldAgain repeats a list with a different result for each device: the response is the same to the byte, and the
// records have each device's result.
func TestToldAgain(t *testing.T) {
	d := newDesk(nil, Policy{GroupTags: []string{"MTR"}})
	d.Devices = manyEnds{}
	list := `{"verify":true,"devices":[{"serialNumber":"done"},{"serialNumber":"two"},{"serialNumber":"none"},{"serialNumber":"other"},{"serialNumber":"conflict"}]}`
	first := d.ask(t, list, "Idempotency-Key", "k", "X-Request-Id", "first")
	for _, part := range []string{`"verification":"cleared"`, `"serialNumber":"done"`, `"deviceIds":["` + someDevice, "policy_denied", `"graphRequestId":"graph-1"`, `"requestId":"graph-2"`} {
		if !strings.Contains(first.Body.String(), part) {
			t.Errorf("%s is not in %s", part, first.Body)
		}
	}
	records := strings.Split(strings.TrimSpace(d.log.String()), "\n")
	d.log.Reset()
	again := d.ask(t, list, "Idempotency-Key", "k", "X-Request-Id", "again")
	if again.Code != first.Code || again.Body.String() != first.Body.String() || again.Header().Get("Idempotent-Replayed") != "true" {
		t.Errorf("%d %v %s\nbefore: %d %s", again.Code, again.Header(), again.Body, first.Code, first.Body)
	}
	for i, line := range strings.Split(strings.TrimSpace(d.log.String()), "\n") {
		var before, now map[string]any
		if err := errors.Join(json.Unmarshal([]byte(records[i]), &before), json.Unmarshal([]byte(line), &now)); err != nil {
			t.Fatal(err)
		}
		for _, own := range []string{"time", "request_id", "replayed", "replay_of", "graph_ms", "token_ms", "vault_ms", "total_ms"} {
			delete(before, own)
			delete(now, own)
		}
		if !reflect.DeepEqual(now, before) {
			t.Errorf("the record is %v, and was %v", now, before)
		}
	}
}

// manyEnds is Graph with devices whose serial numbers say how they end.
type manyEnds struct{ devicesFunc }

func (manyEnds) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	found := make([]graph.Found, len(selectors))
	for i, s := range selectors {
		id, _ := graph.ParseDeviceID(someDevice[:35] + fmt.Sprint(i+2))
		found[i].Device = graph.Device{ID: id, SerialNumber: s.SerialNumber, GroupTag: "MTR"}
		switch s.SerialNumber {
		case "two":
			some, _ := graph.ParseDeviceID(someDevice)
			found[i] = graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous}, Candidates: []graph.Device{{ID: some, GroupTag: "MTR"}, {ID: id, GroupTag: "MTR"}}}
		case "none":
			found[i] = graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.NotFound, Status: 404, RequestID: "graph-2"}}
		case "other":
			found[i].Device.GroupTag = "Kiosk"
		}
	}
	return found
}

func (manyEnds) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	results := done204(ids)
	for i := range results {
		results[i].ClientRequestID = "client-1"
	}
	results[len(ids)-1].Err = &upstream.Error{Service: upstream.Graph, Reason: upstream.Conflict, Status: 409, MaybeDone: true}
	return results
}

// TestForgottenMeanwhile evicts an attempt while the next one of the same delivery is running: a later request waits for
// the running one.
func TestForgottenMeanwhile(t *testing.T) {
	list := `{"devices":[{"deviceId":"` + someDevice + `"},{"deviceId":"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"}]}`
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(func(n int, ids []graph.DeviceID) []graph.Result {
			results := done204(ids)
			if n == 1 {
				results[1].Err = &upstream.Error{Service: upstream.Graph, Reason: upstream.Throttled}
			}
			time.Sleep(10 * time.Second)
			return results
		}, Policy{})
		d.ask(t, list, "Idempotency-Key", "k")
		time.Sleep(10*time.Minute - 5*time.Second)
		done := make(chan int)
		go func() { done <- d.ask(t, list, "Idempotency-Key", "k").Code }()
		time.Sleep(6 * time.Second)
		d.ask(t, someBody, "Idempotency-Key", "k") // which forgets, and is refused: it is another body
		d.want(t, "meanwhile", d.ask(t, list, "Idempotency-Key", "k"), 200, "", true, 2)
		if status := <-done; status != 200 {
			t.Errorf("the second attempt: %d", status)
		}
	})
}

// TestListNamesADeviceTwice has a list come again whose second name for a device could not be looked up the first time:
// it is not acted on for that name either, and its new account is not said to be removed.
func TestListNamesADeviceTwice(t *testing.T) {
	twice := &namedTwice{id: mustDevice(t, someDevice)}
	d := newDesk(nil, Policy{})
	d.Devices = twice
	list := `{"devices":[{"deviceId":"` + someDevice + `"},{"serialNumber":"5CG1234ABC"}]}`
	for i, status := range []int{503, 200, 200} {
		if w := d.ask(t, list, "Idempotency-Key", "k"); w.Code != status || strings.Contains(w.Body.String(), "new@contoso.com") {
			t.Errorf("answer %d is %d %s", i+1, w.Code, w.Body)
		}
	}
	if twice.acts != 1 || twice.finds != 2 {
		t.Errorf("it was acted on %d times, and looked up %d times", twice.acts, twice.finds)
	}
}

// namedTwice is Graph with one device, which is not found by its serial number the first time.
type namedTwice struct {
	devicesFunc
	id          graph.DeviceID
	finds, acts int
}

func (n *namedTwice) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	n.finds++
	found := make([]graph.Found, len(selectors))
	for i, s := range selectors {
		found[i].Device = graph.Device{ID: n.id, SerialNumber: s.SerialNumber, Account: graph.Account{UserPrincipalName: "new@contoso.com"}}
		if n.finds == 1 {
			found[i].Err = &upstream.Error{Service: upstream.Graph, Reason: upstream.Timeout}
		}
	}
	return found
}

func (n *namedTwice) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	n.acts++
	return done204(ids)
}

// TestListThatDoesNotComeSoFar repeats a list that exceeds its caller's rate: earlier results stay in the ledger.
func TestListThatDoesNotComeSoFar(t *testing.T) {
	list := `{"devices":[{"deviceId":"` + someDevice + `"},{"deviceId":"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"}]}`
	synctest.Test(t, func(t *testing.T) {
		var acted []int
		d := newDesk(func(_ int, ids []graph.DeviceID) []graph.Result {
			acted = append(acted, len(ids))
			results := done204(ids)
			results[len(ids)-1].Err = &upstream.Error{Service: upstream.Graph, Reason: upstream.Throttled}
			return results
		}, Policy{PerMinute: 1})
		for range 30 { // more than its caller may ask for at once
			d.ask(t, list, "Idempotency-Key", "k")
		}
		if len(acted) == 30 || acted[0] != 2 || slices.Max(acted[1:]) != 1 {
			t.Errorf("%v devices were acted on", acted)
		}
		if len(d.ledger.stored) != 1 || d.ledger.devices != 2 {
			t.Errorf("one delivery has %d entries with %d devices", len(d.ledger.stored), d.ledger.devices)
		}
		time.Sleep(5 * time.Minute) // by then its caller may ask for both again
		if d.ask(t, list, "Idempotency-Key", "k"); acted[len(acted)-1] != 1 {
			t.Errorf("%v devices were acted on", acted)
		}
		time.Sleep(time.Hour) // by then all is forgotten
		d.ask(t, list, "Idempotency-Key", "k")
		if acted[len(acted)-1] != 2 {
			t.Errorf("%v devices were acted on", acted)
		}
		if len(d.ledger.entries) != 1 || len(d.ledger.stored) != 1 || d.ledger.devices != 2 {
			t.Errorf("the ledger has %d entries, %d kept, of %d devices", len(d.ledger.entries), len(d.ledger.stored), d.ledger.devices)
		}
	})
}

// TestTenMinutes has a delivery come again at the end of its time, and the time not begin anew with it.
func TestTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(alwaysDone, Policy{})
		d.want(t, "the first", d.ask(t, someBody, "Idempotency-Key", "k"), 204, "", false, 1)
		time.Sleep(5 * time.Minute)
		d.want(t, "after 5 min", d.ask(t, someBody, "Idempotency-Key", "k"), 204, "", true, 1)
		time.Sleep(5*time.Minute - time.Nanosecond)
		d.want(t, "before 10 min are over", d.ask(t, someBody, "Idempotency-Key", "k"), 204, "", true, 1)
		d.want(t, "another body before 10 min are over", d.ask(t, otherBody, "Idempotency-Key", "k"), 422, deliveryIDReused, false, 1)
		time.Sleep(time.Nanosecond)
		d.want(t, "after 10 min", d.ask(t, otherBody, "Idempotency-Key", "k"), 204, "", false, 2)
	})
}

// TestInFlight has a delivery come again while it is being carried out.
func TestInFlight(t *testing.T) {
	slowly := func(act func(int, []graph.DeviceID) []graph.Result) func(int, []graph.DeviceID) []graph.Result {
		return func(n int, ids []graph.DeviceID) []graph.Result {
			time.Sleep(5 * time.Second)
			return act(n, ids)
		}
	}
	t.Run("the first ends well", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(slowly(alwaysDone), Policy{})
			var asking sync.WaitGroup
			asking.Go(func() { d.want(t, "the first", d.ask(t, someBody, "Idempotency-Key", "k"), 204, "", false, 1) })
			synctest.Wait()
			start := time.Now()
			for range 10 {
				asking.Go(func() { d.want(t, "meanwhile", d.ask(t, someBody, "Idempotency-Key", "k"), 204, "", true, 1) })
			}
			d.want(t, "another body meanwhile", d.ask(t, otherBody, "Idempotency-Key", "k"), 422, deliveryIDReused, false, 1)
			asking.Wait()
			if took := time.Since(start); took != 5*time.Second {
				t.Errorf("it took %v, want 5 s", took)
			}
		})
	})
	for name, first := range map[string]func(int, []graph.DeviceID) []graph.Result{
		"the first fails":  failing(&upstream.Error{Service: upstream.Graph, Reason: upstream.Unavailable}),
		"the first panics": func(int, []graph.DeviceID) []graph.Result { panic("canary") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(slowly(func(n int, ids []graph.DeviceID) []graph.Result {
					if n == 1 {
						return first(n, ids)
					}
					return done204(ids)
				}), Policy{})
				var asking sync.WaitGroup
				asking.Go(func() {
					if w := d.ask(t, someBody, "Idempotency-Key", "k"); w.Code < 500 {
						t.Errorf("the first: %d %s", w.Code, w.Body)
					}
				})
				synctest.Wait()
				var replayed atomic.Int32
				for range 5 {
					asking.Go(func() {
						w := d.ask(t, someBody, "Idempotency-Key", "k")
						if w.Code != 204 {
							t.Errorf("meanwhile: %d %s", w.Code, w.Body)
						}
						if w.Header().Get("Idempotent-Replayed") == "true" {
							replayed.Add(1)
						}
					})
				}
				asking.Wait()
				if replayed.Load() != 4 || d.acts != 2 {
					t.Errorf("%d of five were replayed, Graph was asked %d times; want one to have carried it out", replayed.Load(), d.acts)
				}
			})
		})
	}
	t.Run("the time is up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(func(_ int, ids []graph.DeviceID) []graph.Result {
				time.Sleep(time.Minute)
				return done204(ids)
			}, Policy{})
			var asking sync.WaitGroup
			asking.Go(func() { d.ask(t, someBody, "Idempotency-Key", "k") })
			synctest.Wait()
			start := time.Now()
			w := d.ask(t, someBody, "Idempotency-Key", "k")
			d.want(t, "meanwhile", w, 503, inProgress, false, 1)
			if took := time.Since(start); took != 25*time.Second || w.Header().Get("Retry-After") != "5" || !strings.Contains(w.Body.String(), `"outcome":"unknown"`) {
				t.Errorf("after %v: %v %s", took, w.Header(), w.Body)
			}
			asking.Wait()
			if log := d.log.String(); !strings.Contains(log, `"level":"WARN","msg":"unassign"`) || !strings.Contains(log, `"code":"in_progress"`) {
				t.Errorf("the log has %s", log)
			}
			d.want(t, "later", d.ask(t, someBody, "Idempotency-Key", "k"), 204, "", true, 1)
		})
	})
}

// TestWhoseDelivery has callers with equal delivery ids, and unauthenticated id headers beside a signature.
func TestWhoseDelivery(t *testing.T) {
	d := newDesk(alwaysDone, Policy{})
	for i, test := range []struct {
		name     string
		headers  []string
		replayed bool
	}{
		{"an API key", []string{"X-Caller", "api_key/flow", "Idempotency-Key", "k"}, false},
		{"another API key", []string{"X-Caller", "api_key/other", "Idempotency-Key", "k"}, false},
		{"another kind of the same name", []string{"X-Caller", "token/flow", "Idempotency-Key", "k"}, false},
		{"the platform", []string{"X-Caller", "platform/host", "Idempotency-Key", "k"}, false},
		{"a signature", []string{"X-Caller", "signature/flow", "Webhook-Id", "k"}, false},
		{"an id that is not signed, with the first", []string{"X-Caller", "signature/flow", "Webhook-Id", "k", "Idempotency-Key", "l"}, true},
		{"a signed id, with the first's unsigned", []string{"X-Caller", "signature/flow", "Webhook-Id", "m", "Idempotency-Key", "l"}, false},
		{"a malformed one that is not looked at", []string{"X-Caller", "signature/flow", "Webhook-Id", "k", "Idempotency-Key", "\x1b"}, true},
		{"an API key without an id", []string{"X-Caller", "api_key/flow"}, false},
		{"an API key without an id, again", []string{"X-Caller", "api_key/flow"}, false},
		{"an API key with an id that nobody has signed", []string{"X-Caller", "api_key/flow", "Webhook-Id", "k"}, false},
		{"an API key with an id that nobody has signed, again", []string{"X-Caller", "api_key/flow", "Webhook-Id", "k"}, false},
	} {
		acts := d.acts + 1
		if test.replayed {
			acts--
		}
		d.want(t, fmt.Sprint(i, ": ", test.name), d.ask(t, someBody, test.headers...), 204, "", test.replayed, acts)
	}
}

func TestIdempotencyKey(t *testing.T) {
	for name, test := range map[string]struct {
		sent []string
		want string // "" for a refusal
	}{
		"plain":                       {[]string{"RITM0012345.retry-2_a"}, "RITM0012345.retry-2_a"},
		"in quotes":                   {[]string{`"RITM0012345"`}, "RITM0012345"},
		"128 characters":              {[]string{strings.Repeat("a", 128)}, strings.Repeat("a", 128)},
		"128 characters in quotes":    {[]string{`"` + strings.Repeat("a", 128) + `"`}, strings.Repeat("a", 128)},
		"129 characters":              {[]string{strings.Repeat("a", 129)}, ""},
		"empty":                       {[]string{""}, ""},
		"empty in quotes":             {[]string{`""`}, ""},
		"one quote":                   {[]string{`"`}, `"`},
		"an open quote":               {[]string{`"a`}, `"a`},
		"quotes in quotes":            {[]string{`""a""`}, `"a"`},
		"an action of Power Automate": {[]string{"08584542217612634418212349876CU21-HTTP_(2)"}, "08584542217612634418212349876CU21-HTTP_(2)"},
		"a URN":                       {[]string{"urn:uuid:6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"}, "urn:uuid:6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"},
		"twice":                       {[]string{"a", "a"}, ""},
		"with a space":                {[]string{"a, b"}, "a, b"},
		"a line break":                {[]string{"a\r\nX-Api-Key: b"}, ""},
		"an escape":                   {[]string{"\x1b[2J"}, ""},
		"a change of direction":       {[]string{"a\u202eb"}, ""},
		"a separator of lines":        {[]string{"a\u2028b"}, ""},
		"digits from elsewhere":       {[]string{"\uff11\uff12"}, ""},
		"a hyphen that is not that":   {[]string{"a\u2010b"}, ""},
	} {
		id, err := deliveryID(http.Header{"Idempotency-Key": test.sent}, caller.Caller{Kind: caller.KindAPIKey})
		if id != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, id, err, test.want)
		}
	}
	d := newDesk(alwaysDone, Policy{})
	d.want(t, "no key", d.ask(t, someBody, "Idempotency-Key", "a\u202eb"), 400, deliveryIDInvalid, false, 0)
	if strings.Contains(d.log.String(), "\u202e") {
		t.Errorf("the log has %s", d.log.String())
	}
}

// TestLedgerIsBounded has more deliveries than are kept, of one device and of twenty: the oldest are forgotten, the
// others not.
func TestLedgerIsBounded(t *testing.T) {
	devices := strings.TrimSuffix(strings.Repeat(`{"deviceId":"`+someDevice+`"},`, maxDevices), ",")
	for body, most := range map[string]int{someBody: maxStoredDevices, `{"devices":[` + devices + `]}`: maxStoredDevices / maxDevices} {
		d := newDesk(alwaysDone, Policy{})
		d.Log = slog.New(slog.DiscardHandler)
		for i := range most + 1 {
			d.ask(t, body, "Idempotency-Key", fmt.Sprint(i))
		}
		replayed := func(i int) bool {
			return d.ask(t, body, "Idempotency-Key", fmt.Sprint(i)).Header().Get("Idempotent-Replayed") == "true"
		}
		if !replayed(most) || !replayed(1) || replayed(0) {
			t.Errorf("of %d deliveries the oldest is kept, or another is not", most+1)
		}
		if len(d.ledger.entries) != most || len(d.ledger.stored) != most || d.ledger.devices != maxStoredDevices {
			t.Errorf("%d and %d deliveries are kept, for %d devices", len(d.ledger.entries), len(d.ledger.stored), d.ledger.devices)
		}
	}
}

// TestRepetitionIsNotCounted counts only carried-out requests for a caller's limit. A request over the limit is no final
// result of its delivery.
func TestRepetitionIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(alwaysDone, Policy{PerMinute: 20})
		sign := func(id string) []string { return []string{"X-Caller", "signature/servicenow", "Webhook-Id", id} }
		for i := range 20 {
			d.want(t, "within the limit", d.ask(t, someBody, sign(fmt.Sprint(i))...), 204, "", false, i+1)
		}
		for i := range 20 {
			d.want(t, "again", d.ask(t, someBody, sign(fmt.Sprint(i))...), 204, "", true, 20)
		}
		d.want(t, "one too many", d.ask(t, someBody, sign("20")...), 429, rateLimited, false, 20)
		time.Sleep(3 * time.Second)
		d.want(t, "one too many, later", d.ask(t, someBody, sign("20")...), 204, "", false, 21)
	})
}

// TestLedgerPacksSuccesses fills every field of a device: a packed success comes back whole, but for its target, which
// the request has.
func TestLedgerPacksSuccesses(t *testing.T) {
	var fill func(v reflect.Value, name string)
	fill = func(v reflect.Value, name string) {
		v = reflect.NewAt(v.Type(), v.Addr().UnsafePointer()).Elem() // settable, although the field is not exported
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i), name+"."+v.Type().Field(i).Name)
			}
		case reflect.String:
			v.SetString(name + strings.Repeat("x", 200)) // a length of two bytes
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Array:
			for i := range v.Len() {
				v.Index(i).SetUint(uint64(i) + 1)
			}
		case reflect.Int, reflect.Int64, reflect.Slice, reflect.Interface:
		default:
			t.Fatalf("%s is of a new kind, %s", name, v.Kind())
		}
	}
	full := func() *device {
		d := &device{}
		fill(reflect.ValueOf(d).Elem(), "device")
		d.target, d.result, d.known.Account.Unknown = target{}, succeed(d.result.code), false // of no use for a repetition
		return d
	}
	empty := &device{state: state{read: true, result: succeed(AlreadyUnassigned)}}
	stored := newStoredAttempt("request-1", []*device{full(), empty, full()})
	got, want := fmt.Sprintf("%#v", stored.attempt()), fmt.Sprintf("%#v", attempt{"request-1", []state{full().state, empty.state, full().state}, true})
	if stored.packed == "" || got != want {
		t.Errorf("%q\ncomes back as %s\nwant %s", stored.packed, got, want)
	}
}
