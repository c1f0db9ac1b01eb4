package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

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
	message, _ := decodeMessageEvent(SourceSQS, []byte(body))
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
	found := graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous}, Sharing: 5000}
	h := New(Options{
		Verifier: verifierFunc(func(r *http.Request, _ []byte) (caller.Caller, error) {
			return caller.Caller{Kind: caller.KindAPIKey, ID: "key"}, nil
		}),
		Devices: &fakeGraph{find: func(graph.Selector) graph.Found {
			found := found
			found.Candidates = make([]graph.Device, 100)
			return found
		}},
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
			list[n].serial = strings.Repeat("S", maxSerialNumber)
		}
		job.setRequest(request{targets: list, list: true})
		o := newOrigin(t.Context(), time.Now(), "request")
		o.caller, o.delivery = caller.Caller{Kind: caller.KindAPIKey, ID: "key"}, fmt.Sprint(i)
		if err := h.perform(t.Context(), o, job, nil, func(ctx context.Context) error { return h.act(ctx, o, job) }); err != nil {
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
