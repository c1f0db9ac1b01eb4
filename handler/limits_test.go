package handler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// TestNullEntriesCount has a context with more entries than are allowed, all of them null.
func TestNullEntriesCount(t *testing.T) {
	entries := make([]string, maxContextEntries+1)
	for i := range entries {
		entries[i] = fmt.Sprintf(`"n%d":null`, i)
	}
	decode := func(entries []string) error {
		_, err := decodeBody([]byte(`{"deviceId":"` + someDevice + `","context":{` + strings.Join(entries, ",") + `}}`))
		return err
	}
	if err := decode(entries[1:]); err != nil {
		t.Errorf("as many as allowed: %v", err)
	}
	if refused, ok := errors.AsType[*refusal](decode(entries)); !ok || refused.code != contextInvalid {
		t.Errorf("one more: %v", refused)
	}
}

// TestLargeEvents has events that are larger than a body may be. Each is refused, in less time than a quadratic decoder
// takes.
func TestLargeEvents(t *testing.T) {
	var entries strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&entries, `,"%d":null`, i)
	}
	body := `{"deviceId":"` + someDevice + `","context":{` + entries.String()[1:] + `}}`
	start := time.Now()
	_, tooLarge := decodeBody([]byte(body))
	message := messageRun{message: Message{Text: []byte(body)}}
	message.decode()
	for name, err := range map[string]error{
		"a body":    tooLarge,
		"a message": message.invalid,
		"a command": CommandEvent([]byte(`{"command":"unassign",` + body[1:])).invalid,
	} {
		if refused, ok := errors.AsType[*refusal](err); !ok || refused.code != bodyTooLarge {
			t.Errorf("%s of %d bytes: %v", name, len(body), err)
		}
	}
	// The decoder itself must not be quadratic: a later limit may be larger.
	invalid := &refusal{code: invalidJSON}
	if err := readObject([]byte("{"+entries.String()[1:]+"}"), invalid, func(string) fieldReader { return boolField(new(bool), invalid) }); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestLedgerIsBoundedInBytes stores as many results as the ledger takes, of serial numbers that many devices share.
func TestLedgerIsBoundedInBytes(t *testing.T) {
	found := graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous}, Sharing: 5000, Candidates: make([]graph.Device, 1000)}
	h := newHandler(Options{
		Verifier: verifierFunc(func(*http.Request, []byte) (caller.Caller, error) {
			return caller.Caller{Kind: caller.KindAPIKey, ID: "key"}, nil
		}),
		Devices: &fakeGraph{find: func(graph.Selector) graph.Found { return found }},
	})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range maxStoredDevices / maxDevices {
		job := &work{}
		list := make([]target, maxDevices)
		for n := range list {
			list[n].serial = strings.Repeat("S", graph.MaxSerialNumber)
		}
		job.setRequest(request{targets: list, list: true})
		o := newOrigin(t.Context(), time.Now(), "request")
		o.caller, o.delivery = caller.Caller{Kind: caller.KindAPIKey, ID: "key"}, fmt.Sprint(i)
		if err := h.performOnce(t.Context(), o, job, nil, func(ctx context.Context) error { return h.actOnDevices(ctx, o, job) }); err != nil {
			t.Fatal(err)
		}
	}
	if h.ledger.devices != maxStoredDevices {
		t.Fatalf("%d devices are stored", h.ledger.devices)
	}
	if grown := int64(heap()) - int64(before); grown > 8<<20 {
		t.Errorf("the ledger holds %d KiB", grown>>10)
	} else {
		t.Logf("the ledger holds %d KiB", grown>>10)
	}
	runtime.KeepAlive(h)
}

// stalled is a body that must not be read.
type stalled struct{ t *testing.T }

func (s stalled) Read([]byte) (int, error) {
	s.t.Error("the body was read")
	return 0, io.EOF
}

// TestUnservedBodies has bodies that are refused before their content matters.
func TestUnservedBodies(t *testing.T) {
	key := caller.Any(&caller.APIKey{Keys: noKeys{}})
	for name, test := range map[string]struct {
		body        io.Reader
		contentType string
		verifier    caller.Verifier
		status      int
	}{
		"another type":  {stalled{t}, "text/plain", caller.Platform{}, http.StatusUnsupportedMediaType},
		"without a key": {stalled{t}, "application/json", key, http.StatusUnauthorized},
		"too large":     {strings.NewReader(strings.Repeat(" ", maxBody) + someBody), "", caller.Platform{}, http.StatusRequestEntityTooLarge},
		"just so large": {strings.NewReader(strings.Repeat(" ", maxBody-len(someBody)) + someBody), "", caller.Platform{}, http.StatusNoContent},
		"large, unsigned": {strings.NewReader(strings.Repeat(" ", maxBody) + someBody), "", verifierFunc(func(_ *http.Request, body []byte) (caller.Caller, error) {
			t.Errorf("a body of %d bytes is authenticated", len(body))
			return caller.Caller{}, caller.ErrDenied
		}), http.StatusRequestEntityTooLarge},
	} {
		h := newHandler(Options{Devices: devicesFunc(done204), Verifier: test.verifier, Log: slog.New(slog.DiscardHandler), Timeout: time.Second})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, RouteUnassign, test.body)
		r.Header.Set("Content-Type", test.contentType)
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != test.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// noKeys has no keys.
type noKeys struct{}

func (noKeys) Current(context.Context) ([]caller.Key, error) { return nil, nil }
func (noKeys) Refresh(context.Context) ([]caller.Key, error) { return nil, nil }

// TestRateLimitCountsDeliveries counts the deliveries of each caller together.
func TestRateLimitCountsDeliveries(t *testing.T) {
	limits := rateLimits{policy: Policy{PerMinute: 1}, limiters: map[caller.Caller]*rate.Limiter{}}
	for i := range maxDevices + 1 {
		from := caller.Caller{Kind: caller.KindSignature, ID: "key", Delivery: fmt.Sprint(i)}
		if err := limits.takeDevices(from, 1); (err != nil) != (i == maxDevices) {
			t.Errorf("device %d: %v", i+1, err)
		}
	}
	if err := limits.takeDevices(caller.Caller{Kind: caller.KindSignature, ID: "other"}, maxDevices); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

// TestGroupTags has group tags that match a pattern, and some that must not.
func TestGroupTags(t *testing.T) {
	p := Policy{GroupTags: []string{"MTR-*", "Retired"}}
	for tag, want := range map[string]bool{
		"MTR-Oslo": true, "MTR-": true, "Retired": true, "Retired-2": false, "MTR": false, "mtr-Oslo": false, "XMTR-Oslo": false, "": false,
	} {
		if p.Allows(tag) != want {
			t.Errorf("%q: %v", tag, !want)
		}
	}
}

// TestSweepMaximum has a sweep find one device more than it may change.
func TestSweepMaximum(t *testing.T) {
	devices := inventory{
		{ID: mustDevice(t, someDevice), GroupTag: "MTR", Account: fjord},
		{ID: mustDevice(t, someDevice[:35]+"2"), GroupTag: "MTR", Account: fjord},
	}
	for _, apply := range []bool{false, true} {
		h := newHandler(Options{
			Devices: devices, Sweep: Sweep{GroupTag: "MTR", MaxDevices: 1, Apply: apply}, Log: slog.New(slog.DiscardHandler), Timeout: time.Second,
		})
		if code := runCommand(t, h, `{"command":"sweep"}`); code != sweepTooMany {
			t.Errorf("%v: %q", apply, code)
		}
	}
}

// TestLateEvents has a command come more than six hours after its time.
func TestLateEvents(t *testing.T) {
	for late, want := range map[time.Duration]Code{maxLateness - time.Minute: "", maxLateness + time.Minute: eventLate} {
		h := newHandler(Options{Devices: devicesFunc(done204), Log: slog.New(slog.DiscardHandler), Timeout: time.Second})
		at := time.Now().Add(-late).Format(time.RFC3339)
		if code := runCommand(t, h, `{"command":"unassign","deviceId":"`+someDevice+`","scheduledTime":"`+at+`"}`); code != want {
			t.Errorf("after %v: %q", late, code)
		}
	}
}
