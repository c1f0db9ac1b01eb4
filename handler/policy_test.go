package handler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// hostPolicy is a Policy for the caller of AUTH=platform and for direct invocations.
func hostPolicy(p CallerPolicy) Policy {
	return Policy{Callers: map[string]CallerPolicy{caller.PlatformID: p, string(SourceInvoke): p}}
}

// inventory is a Graph of devices that can be listed and changed.
type inventory []graph.Device

func (i inventory) All(context.Context) iter.Seq2[graph.Device, error] {
	return func(yield func(graph.Device, error) bool) {
		for _, d := range i {
			if !yield(d, nil) {
				return
			}
		}
	}
}

func (inventory) Page(context.Context, string) ([]graph.Device, string, error) {
	panic("no sweep reads pages")
}

func (inventory) Find(context.Context, ...graph.Selector) []graph.Found {
	panic("no sweep reads devices")
}

func (inventory) UnassignResourceAccount(context.Context, ...graph.DeviceID) []graph.Result {
	panic("nothing is to be changed")
}

// runCommand runs a direct invocation and returns the code of its error, "" for none.
func runCommand(t *testing.T, h *Handler, text string) Code {
	t.Helper()
	_, err := h.Run(t.Context(), CommandEvent([]byte(text)))
	if failed, ok := err.(*EventError); ok { //nolint:errorlint // Run returns it as it is
		return failed.Code
	}
	return ""
}

// TestDryRunOfAll has requests and events that DRY_RUN turns into dry runs.
func TestDryRunOfAll(t *testing.T) {
	for name, body := range map[string]string{
		"a device": someBody, "a verified device": `{"deviceId":"` + someDevice + `","verify":true}`,
	} {
		fake := &fakeGraph{find: carrying(fjord)}
		w, answer, record := post(t, Options{Devices: fake, Policy: Policy{DryRun: true}}, body)
		if w.Code != http.StatusOK || answer["code"] != string(WouldUnassign) || record["dry_run"] != true || fake.changes != 0 {
			t.Errorf("%s: %d %v %v, %d changes", name, w.Code, answer, record, fake.changes)
		}
	}
	fake := &fakeGraph{find: carrying(fjord)}
	h := newHandler(Options{Devices: fake, Policy: Policy{DryRun: true}, Log: slog.New(slog.DiscardHandler), Timeout: time.Second})
	if code := runCommand(t, h, `{"command":"unassign","deviceId":"`+someDevice+`"}`); code != "" || fake.changes != 0 {
		t.Errorf("a command: %s, %d changes", code, fake.changes)
	}
	devices := inventory{{ID: mustDevice(t, someDevice), GroupTag: "MTR", Account: fjord}}
	h = newHandler(Options{
		Devices: devices, Policy: Policy{DryRun: true}, Sweep: Sweep{GroupTag: "MTR", MaxDevices: 5, Apply: true},
		Log: slog.New(slog.DiscardHandler), Timeout: time.Second,
	})
	if report, err := h.Run(t.Context(), SweepEvent(SourceTimer)); err != nil || !report.(Report).DryRun { //nolint:forcetypeassert // of a sweep
		t.Errorf("a sweep: %+v, %v", report, err)
	}
}

// TestCallerPolicy has requests and events of a caller with a policy of its own.
func TestCallerPolicy(t *testing.T) {
	expecting := `{"deviceId":"` + someDevice + `","expected":{"resourceName":"room.fjord"}}`
	for name, test := range map[string]struct {
		policy CallerPolicy
		body   string
		status int
		want   string // in the response
	}{
		"its group tag":       {CallerPolicy{GroupTags: []string{"MTR-*"}}, someBody, 200, `"unassigned"`},
		"another group tag":   {CallerPolicy{GroupTags: []string{"Kiosk"}}, someBody, 403, `"policy_denied"`},
		"without expected":    {CallerPolicy{RequireExpected: true}, someBody, 403, `"field":"expected"`},
		"with expected":       {CallerPolicy{RequireExpected: true}, expecting, 200, `"unassigned"`},
		"a dry run":           {CallerPolicy{RequireExpected: true}, `{"deviceId":"` + someDevice + `","dryRun":true}`, 200, `"would_unassign"`},
		"more than in hours":  {CallerPolicy{DevicesPerHour: 1}, `{"devices":[` + expecting + `,{"serialNumber":"other"}]}`, 403, `"field":"devices"`},
		"a caller unaffected": {CallerPolicy{}, someBody, 200, `"unassigned"`},
	} {
		fake := &fakeGraph{find: carrying(fjord)}
		w, _, _ := post(t, Options{Devices: fake, Policy: hostPolicy(test.policy)}, test.body)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) || (fake.changes == 0) != (test.status == 403 || test.want == `"would_unassign"`) {
			t.Errorf("%s: %d %s, %d changes", name, w.Code, w.Body, fake.changes)
		}
		h := newHandler(Options{Devices: fake, Policy: hostPolicy(test.policy), Log: slog.New(slog.DiscardHandler), Timeout: time.Second})
		code := runCommand(t, h, strings.Replace(test.body, "{", `{"command":"unassign",`, 1))
		if denied := code == policyDenied; denied != (test.status == 403) {
			t.Errorf("%s: the command ends in %q", name, code)
		}
	}
	h := newHandler(Options{
		Devices: inventory{{ID: mustDevice(t, someDevice), GroupTag: "MTR", Account: fjord}}, Policy: hostPolicy(CallerPolicy{RequireExpected: true}),
		Sweep: Sweep{GroupTag: "MTR", MaxDevices: 5, Apply: true}, Log: slog.New(slog.DiscardHandler), Timeout: time.Second,
	})
	if code := runCommand(t, h, `{"command":"sweep"}`); code != policyDenied {
		t.Errorf("a sweep without expected accounts: %q", code)
	}
}

// TestDevicesPerHour counts the changes of a caller over hours.
func TestDevicesPerHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeGraph{find: carrying(fjord)}
		h := newHandler(Options{
			Devices: fake, Verifier: caller.Platform{}, Policy: hostPolicy(CallerPolicy{DevicesPerHour: 2}),
			Log: slog.New(slog.DiscardHandler), Timeout: time.Minute,
		})
		send := func(body string) string {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, RouteUnassign, strings.NewReader(body)))
			return fmt.Sprint(w.Code, " ", w.Header().Get("Retry-After"))
		}
		for i, step := range []struct {
			wait       time.Duration
			body, want string
		}{
			{0, someBody, "204 "},
			{40 * time.Minute, someBody, "204 "},
			{0, someBody, "429 1200"},
			{0, `{"deviceId":"` + someDevice + `","dryRun":true}`, "200 "},
			{20 * time.Minute, someBody, "204 "},
			{0, someBody, "429 2400"},
		} {
			time.Sleep(step.wait)
			if got := send(step.body); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
		if code := runCommand(t, h, `{"command":"unassign","devices":[{"deviceId":"`+someDevice+`"},{"serialNumber":"5CG1"}]}`); code != "" {
			t.Errorf("events share the limit of another caller: %s", code)
		}
		if code := runCommand(t, h, `{"command":"unassign","deviceId":"`+someDevice+`"}`); code != rateLimited {
			t.Errorf("events have no limit: %q", code)
		}
	})
}

// TestEventsDoNotCount sends more events than RATE_LIMIT allows requests.
func TestEventsDoNotCount(t *testing.T) {
	h := newHandler(Options{Devices: &fakeGraph{find: carrying(fjord)}, Policy: Policy{PerMinute: 1}, Log: slog.New(slog.DiscardHandler), Timeout: time.Second})
	for range 30 {
		if code := runCommand(t, h, `{"command":"unassign","deviceId":"`+someDevice+`"}`); code != "" {
			t.Fatalf("the event ended in %s", code)
		}
	}
}

// TestPolicyHidesOtherDevices has devices outside the policy: a response repeats only the request's own words about
// them.
func TestPolicyHidesOtherDevices(t *testing.T) {
	inside, outside := mustDevice(t, someDevice), mustDevice(t, someDevice[:35]+"9")
	shared := graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous}, Sharing: 1000}
	for range 30 {
		shared.Candidates = append(shared.Candidates, graph.Device{ID: outside, GroupTag: "Kiosk"}, graph.Device{ID: inside, GroupTag: "MTR-Oslo"})
	}
	fake := &fakeGraph{find: func(s graph.Selector) graph.Found {
		if s.SerialNumber == "shared" {
			return shared
		}
		return graph.Found{Device: graph.Device{ID: outside, SerialNumber: "hidden", GroupTag: "Kiosk", Account: fjord}}
	}}
	policy := Policy{GroupTags: []string{"MTR-*"}}
	for name, body := range map[string]string{
		"by id": `{"deviceId":"` + outside.String() + `"}`, "by serial number": `{"serialNumber":"visible"}`, "shared": `{"serialNumber":"shared"}`,
	} {
		w, _, record := post(t, Options{Devices: fake, Policy: policy}, body)
		answer := strings.ReplaceAll(w.Body.String(), body[1:len(body)-1], "") // the request's own words
		for _, secret := range []string{"hidden", "Kiosk", "fjord", outside.String(), "1000"} {
			if strings.Contains(answer, secret) {
				t.Errorf("%s: %q is in %s", name, secret, answer)
			}
		}
		if n := strings.Count(answer, inside.String()); n > maxDevices || (name == "shared") != (n == maxDevices) {
			t.Errorf("%s: %d ids in %s", name, n, answer)
		}
		if name != "shared" && record["group_tag"] != "Kiosk" {
			t.Errorf("%s: the record is %v", name, record)
		}
	}
	w, answer, _ := post(t, Options{Devices: fake}, `{"serialNumber":"shared"}`)
	if ids, _ := answer["deviceIds"].([]any); len(ids) != maxDevices || answer["deviceCount"] != 1000.0 {
		t.Errorf("without a policy: %s", w.Body)
	}
}

// TestAuditIsWrittenAtEveryLevel has the records of a request, a refusal, an event and a sweep in a log of errors alone,
// and the records of requests before their responses.
func TestAuditIsWrittenAtEveryLevel(t *testing.T) {
	var log bytes.Buffer
	h := newHandler(Options{
		Devices: &fakeGraph{find: carrying(fjord)}, Verifier: caller.Platform{}, Timeout: time.Second,
		Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	serve := func(method, target, body string) {
		w := &firstWrite{ResponseRecorder: httptest.NewRecorder(), log: &log}
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body)))
		if !w.recorded {
			t.Errorf("%s %s: the response was sent before the record was written", method, target)
		}
		log.Reset()
	}
	serve(http.MethodPost, RouteUnassign, someBody)
	serve(http.MethodPost, RouteUnassign, "{}")
	serve(http.MethodGet, RouteDevices, "")
	serve(http.MethodGet, RouteDoctor, "")
	_ = runCommand(t, h, `{"command":"unassign","deviceId":"`+someDevice+`"}`)
	_ = runCommand(t, h, `{"command":"sweep"}`)
	_ = runCommand(t, h, `{}`)
	for _, message := range []string{"unassign", "sweep", "event"} {
		if !strings.Contains(log.String(), `"msg":"`+message+`"`) {
			t.Errorf("no record %q in %s", message, &log)
		}
	}
}

// firstWrite notes whether the log had a record when the response began.
type firstWrite struct {
	*httptest.ResponseRecorder
	log      *bytes.Buffer
	recorded bool
}

func (w *firstWrite) WriteHeader(status int) {
	w.recorded = w.log.Len() > 0
	w.ResponseRecorder.WriteHeader(status)
}

// TestPolicyOfAQueue has messages of a queue under the policy for their source and under DRY_RUN.
func TestPolicyOfAQueue(t *testing.T) {
	only := func(p CallerPolicy) Policy { return Policy{Callers: map[string]CallerPolicy{string(SourceSQS): p}} }
	for name, test := range map[string]struct {
		policy  Policy
		code    Code // in the record
		changes int
		retry   bool
		dead    int
	}{
		"no policy":      {Policy{PerMinute: 1}, Unassigned, 2, false, 0},
		"a dry run":      {Policy{DryRun: true}, WouldUnassign, 0, false, 0},
		"its group tags": {only(CallerPolicy{GroupTags: []string{"revoked"}}), policyDenied, 0, false, 1},
		"no expected":    {only(CallerPolicy{RequireExpected: true}), policyDenied, 0, false, 1},
		"an hour's":      {only(CallerPolicy{DevicesPerHour: 2}), Unassigned, 2, false, 0},
	} {
		changed := &graphLog{}
		settlement, log := settle(t, Options{Devices: changed, Policy: test.policy}, Message{ID: "1", Text: messageOf("", 1, 2)})
		if len(changed.changed) != test.changes || settlement.Retry != test.retry || len(settlement.DeadLetters) != test.dead ||
			strings.Count(log, `"code":"`+string(test.code)+`"`) != 2 {
			t.Errorf("%s: %d changes, %+v, %s", name, len(changed.changed), settlement, log)
		}
	}
}

// failingChanges is an inventory that fails changes, for a reason by the id of the device.
type failingChanges struct {
	inventory
	reasons map[graph.DeviceID]upstream.Reason
}

func (f failingChanges) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	results := make([]graph.Result, len(ids))
	for i, id := range ids {
		results[i].ID = id
		if reason := f.reasons[id]; reason != "" {
			results[i].Err = &upstream.Error{Service: upstream.Graph, Reason: reason}
		}
	}
	return results
}

// A sweep hands a device with a transient failure back, and counts one with a permanent failure as failed.
func TestSweepCountsFailures(t *testing.T) {
	t.Parallel()
	f := failingChanges{reasons: map[graph.DeviceID]upstream.Reason{{2}: upstream.Locked, {3}: upstream.Conflict, {4}: upstream.Conflict}}
	for n := range byte(4) {
		f.inventory = append(f.inventory, graph.Device{
			ID: graph.DeviceID{n + 1}, GroupTag: "Retired", Account: graph.Account{UserPrincipalName: "room"},
		})
	}
	h := newHandler(Options{
		Devices: f, Log: slog.New(slog.DiscardHandler), Timeout: time.Second,
		Sweep: Sweep{GroupTag: "Retired", MaxDevices: 4, Apply: true},
	})
	report, err := h.Run(t.Context(), SweepEvent(SourceTimer))
	want := Report{
		Code: sweepIncomplete, GroupTag: "Retired", Inventory: 4, Tagged: 4, Matching: 4, Succeeded: 1, Failed: 2, HandedBack: 1,
	}
	failed, ok := errors.AsType[*EventError](err)
	if report != want || !ok || !failed.Retryable {
		t.Errorf("%+v, %v; want %+v", report, err, want)
	}
}

// brokenChange is an inventory that panics in its first changes.
type brokenChange struct {
	inventory

	calls int
}

func (b *brokenChange) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	if b.calls++; b.calls == 1 {
		panic("a defect behind the change")
	}
	return done204(ids)
}

// A panic behind a change leaves a record of each device, and the sweep goes on with the others.
func TestPanicOfASweep(t *testing.T) {
	t.Parallel()
	b := &brokenChange{}
	for n := range byte(maxDevices + 1) {
		b.inventory = append(b.inventory, graph.Device{ID: graph.DeviceID{n + 1}, GroupTag: "Retired", Account: graph.Account{ResourceName: "room"}})
	}
	var log bytes.Buffer
	h := newHandler(Options{
		Devices: b, Log: slog.New(slog.NewJSONHandler(&log, nil)), Timeout: time.Second,
		Sweep: Sweep{GroupTag: "Retired", MaxDevices: 100, Apply: true},
	})
	report, err := h.Run(t.Context(), SweepEvent(SourceTimer))
	want := Report{
		Code: sweepIncomplete, GroupTag: "Retired", Inventory: 21, Tagged: 21, Matching: 21, Succeeded: 1, HandedBack: 20,
	}
	if report != want || err == nil || strings.Count(log.String(), `"outcome":"unknown","device_id"`) != maxDevices {
		t.Errorf("%+v, %v\n%s", report, err, log.String())
	}
}
