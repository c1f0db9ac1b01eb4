package handler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/upstream"
)

// unlimited is a pace without a limit.
type unlimited struct{}

func (unlimited) Take(_ context.Context, want int) int { return want }
func (unlimited) Return(int, time.Time)                {}
func (unlimited) Capacity(time.Duration) int           { return math.MaxInt32 }
func (unlimited) Rate() float64                        { return 0 }
func (unlimited) Learn(float64)                        {}

// returns is a pace without a limit that counts the permits given back.
type returns struct {
	unlimited

	permits atomic.Int64
}

func (r *returns) Return(permits int, _ time.Time) { r.permits.Add(int64(permits)) }

// slowPace grants one permit in each interval.
type slowPace struct {
	unlimited

	interval time.Duration
	capacity int
}

func (p slowPace) Take(ctx context.Context, _ int) int {
	select {
	case <-time.After(p.interval):
		return 1
	case <-ctx.Done():
		return 0
	}
}

func (p slowPace) Capacity(time.Duration) int { return p.capacity }

// graphLog is a Graph that records the changes; fail decides about each.
type graphLog struct {
	devicesFunc

	mu      sync.Mutex
	changed []string
	fail    func(id string, attempt int) error
}

func (g *graphLog) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	results := make([]graph.Result, len(ids))
	for i, id := range ids {
		attempt := 1
		for _, changed := range g.changed {
			if changed == id.String() {
				attempt++
			}
		}
		g.changed = append(g.changed, id.String())
		results[i] = graph.Result{ID: id, ClientRequestID: fmt.Sprint("request-", attempt)}
		if g.fail != nil {
			results[i].Err = g.fail(id.String(), attempt)
		}
	}
	return results
}

func idOf(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// messageOf returns the text of a message for devices, with further members.
func messageOf(members string, numbers ...int) []byte {
	devices := make([]string, len(numbers))
	for i, n := range numbers {
		devices[i] = `{"deviceId":"` + idOf(n) + `"}`
	}
	return []byte(`{"devices":[` + strings.Join(devices, ",") + `]` + members + `}`)
}

// graphFailure returns an error of Graph.
func graphFailure(reason upstream.Reason) error {
	return &upstream.Error{Service: upstream.Graph, Reason: reason}
}

// settle runs one message and returns its settlement and the log.
func settle(t *testing.T, o Options, m Message) (Settlement, string) {
	t.Helper()
	var log bytes.Buffer
	o.Log, o.Timeout = slog.New(slog.NewJSONHandler(&log, nil)), time.Second
	if m.Deliveries == 0 {
		m.Deliveries = 1
	}
	return runMessages(t, newHandler(o), m)[0], log.String()
}

// runMessages runs messages and returns their settlements.
func runMessages(t *testing.T, h *Handler, messages ...Message) []Settlement {
	t.Helper()
	settlements := make([]Settlement, len(messages))
	h.RunMessages(t.Context(), SourceSQS, messages, func(i int, s Settlement) { settlements[i] = s })
	return settlements
}

// decoded is a message that the function sent.
type decoded struct {
	Devices []struct {
		DeviceID string
		Expected map[string]string
	}
	Reference string
	Context   map[string]string
	Queue     queueState
}

// sent decodes messages, which the function must be able to read again.
func sent(t *testing.T, texts [][]byte) []decoded {
	t.Helper()
	messages := make([]decoded, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal(text, &messages[i]); err != nil {
			t.Fatal(err)
		}
		run := messageRun{message: Message{Text: text}}
		if run.decode(); run.invalid != nil || len(run.request.targets) != len(messages[i].Devices) {
			t.Errorf("%s: %v", text, run.invalid)
		}
	}
	return messages
}

// texts returns the texts of dead letters.
func texts(letters []DeadLetter) [][]byte {
	var all [][]byte
	for _, d := range letters {
		all = append(all, d.Text)
	}
	return all
}

func TestMessageIsDone(t *testing.T) {
	t.Parallel()
	g := &graphLog{}
	settlement, log := settle(t, Options{Devices: g}, Message{ID: "m-1", Text: messageOf(`,"reference":"R1"`, 1, 2), Context: map[string]string{"messageId": "m-1"}})
	if settlement.Retry || settlement.Requeue != nil || settlement.DeadLetters != nil || len(g.changed) != 2 {
		t.Errorf("%+v after %q", settlement, g.changed)
	}
	if strings.Count(log, `"code":"unassigned"`) != 2 || !strings.Contains(log, `"messageId":"m-1"`) || !strings.Contains(log, `"delivery_id":"m-1"`) {
		t.Error(log)
	}
}

// A permanent failure goes to the dead-letter queue at once, with its reason and without the devices that are done.
func TestPermanentFailureIsADeadLetter(t *testing.T) {
	t.Parallel()
	g := &graphLog{fail: func(id string, _ int) error {
		switch id {
		case idOf(2):
			return graphFailure(upstream.NotFound)
		case idOf(3):
			return graphFailure(upstream.Rejected)
		}
		return nil
	}}
	since := time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)
	settlement, _ := settle(t, Options{Devices: g}, Message{ID: "m-1", Text: messageOf(`,"reference":"R1","context":{"room":"Fjord"}`, 1, 2, 3), Sent: since, Context: map[string]string{"messageId": "m-1"}})
	if settlement.Retry || settlement.Requeue != nil || len(settlement.DeadLetters) != 2 {
		t.Fatalf("%+v", settlement)
	}
	for i, dead := range sent(t, texts(settlement.DeadLetters)) {
		want := []struct {
			id   string
			code Code
		}{{idOf(2), "device_not_found"}, {idOf(3), graphRejected}}[i]
		if len(dead.Devices) != 1 || dead.Devices[0].DeviceID != want.id || dead.Queue.Code != want.code || dead.Reference != "R1" ||
			!dead.Queue.Since.Equal(since) || len(dead.Context) != 1 || dead.Context["room"] != "Fjord" {
			t.Errorf("%s", settlement.DeadLetters[i].Text)
		}
	}
}

func TestUndecodableMessageIsADeadLetter(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"no JSON", `{"devices":[]}`, `{"command":"sweep"}`, `{"deviceId":"` + someDevice + `","queue":{"tries":-1}}`} {
		settlement, log := settle(t, Options{Devices: &graphLog{}}, Message{Text: []byte(text)})
		if settlement.Retry || len(settlement.DeadLetters) != 1 || string(settlement.DeadLetters[0].Text) != text || !strings.Contains(log, `"level":"ERROR"`) {
			t.Errorf("%s: %+v\n%s", text, settlement, log)
		}
	}
}

// A transient failure is retried by the queue, and is a dead letter after as many deliveries as the templates say.
func TestTransientFailureHasTries(t *testing.T) {
	t.Parallel()
	g := &graphLog{fail: func(string, int) error { return graphFailure(upstream.Unavailable) }}
	for deliveries := 1; deliveries <= maxTries; deliveries++ {
		settlement, _ := settle(t, Options{Devices: g}, Message{Text: messageOf("", 1), Deliveries: deliveries})
		if settlement.Retry != (deliveries < maxTries) || len(settlement.DeadLetters) != deliveries/maxTries {
			t.Errorf("delivery %d: %+v", deliveries, settlement)
		}
	}
	settlement, _ := settle(t, Options{Devices: g}, Message{Text: messageOf(`,"queue":{"tries":3}`, 1), Deliveries: 2})
	if settlement.Retry || len(settlement.DeadLetters) != 1 || sent(t, texts(settlement.DeadLetters))[0].Queue.Code != "graph_unavailable" {
		t.Errorf("deliveries of an earlier message do not count: %+v", settlement)
	}
}

// Of a message that failed in part only the failed devices are sent again, and their tries count on.
func TestTransientFailureOfSome(t *testing.T) {
	t.Parallel()
	g := &graphLog{fail: func(id string, _ int) error {
		if id == idOf(2) {
			return graphFailure(upstream.Internal)
		}
		return nil
	}}
	settlement, _ := settle(t, Options{Devices: g}, Message{Text: messageOf("", 1, 2, 3), Deliveries: 2})
	if settlement.Retry || settlement.DeadLetters != nil || len(settlement.Requeue) != 1 {
		t.Fatalf("%+v", settlement)
	}
	again := sent(t, settlement.Requeue)[0]
	if len(again.Devices) != 1 || again.Devices[0].DeviceID != idOf(2) || again.Queue.Tries != 2 {
		t.Errorf("%s", settlement.Requeue[0])
	}
}

// Throttled devices wait for further permits inside the invocation. Neither throttling nor lack of time uses up a try.
func TestThrottlingTakesNoTry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &graphLog{fail: func(id string, attempt int) error {
			if id == idOf(1) && attempt < 3 {
				return graphFailure(upstream.Throttled)
			}
			return nil
		}}
		settlement, log := settle(t, Options{Devices: g, Pace: slowPace{interval: 10 * time.Second, capacity: 2}},
			Message{ID: "m-1", Text: messageOf("", 1, 2, 3, 4, 5, 6, 7), Deliveries: 1})
		if settlement.Retry || settlement.DeadLetters != nil || len(settlement.Requeue) == 0 {
			t.Fatalf("%+v\n%s", settlement, log)
		}
		left := 0
		for _, m := range sent(t, settlement.Requeue) {
			left += len(m.Devices)
			if m.Queue.Tries != 0 || len(m.Devices) > 2 {
				t.Errorf("%+v", m)
			}
		}
		if done := strings.Count(log, `"code":"unassigned"`); done+left != 7 || len(g.changed) < 2 {
			t.Errorf("%d done, %d left, %q changed:\n%s", done, left, g.changed, log)
		}
		if !strings.Contains(log, `"waited_ms":20000`) || !strings.Contains(log, `"msg":"requeued"`) {
			t.Error(log)
		}
	})
}

// stuckGraph succeeds with a change after a time, and never reads a device after that.
type stuckGraph struct {
	graphLog

	change time.Duration
}

func (g *stuckGraph) UnassignResourceAccount(ctx context.Context, ids ...graph.DeviceID) []graph.Result {
	time.Sleep(g.change)
	return g.graphLog.UnassignResourceAccount(ctx, ids...)
}

func (g *stuckGraph) Find(ctx context.Context, selectors ...graph.Selector) []graph.Found {
	if len(g.changed) > 0 {
		<-ctx.Done()
	}
	return g.graphLog.Find(ctx, selectors...)
}

// The slowest message of the longest REQUEST_TIMEOUT ends within MessageTime. With a short one, ten messages have five
// seconds each for their settlement.
func TestMessageTime(t *testing.T) {
	t.Parallel()
	if short := newHandler(Options{Timeout: time.Second}).MessageTime(); short < settleAfter+2*time.Second+10*5*time.Second {
		t.Errorf("%v with a short REQUEST_TIMEOUT", short)
	}
	synctest.Test(t, func(t *testing.T) {
		const timeout = 200 * time.Second
		g := &stuckGraph{change: timeout - time.Second}
		h := newHandler(Options{Devices: g, Background: g, Log: slog.New(slog.DiscardHandler), Timeout: timeout, Pace: slowPace{interval: settleAfter/2 - time.Second, capacity: 2}})
		start := time.Now()
		runMessages(t, h, Message{ID: "m-1", Text: messageOf(`,"verify":true`, 1), Deliveries: 1})
		took, limit := time.Since(start), h.MessageTime()-settleAfter/2-sendReserve
		if len(g.changed) != 1 || took > limit || took < limit-5*time.Second {
			t.Errorf("%q changed in %v, want a little less than %v", g.changed, took, limit)
		}
	})
}

// The messages of a process that get no permit are requeued one after another, so that other processes receive some.
func TestMessagesAreRequeuedApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(Options{Devices: &graphLog{}, Pace: slowPace{interval: time.Hour, capacity: 100}, Timeout: time.Second, Log: slog.New(slog.DiscardHandler)})
		var batch []Message
		for i := range 8 {
			batch = append(batch, Message{ID: fmt.Sprint("m-", i), Text: messageOf("", i), Deliveries: 1})
		}
		start, last := time.Now(), time.Duration(0)
		h.RunMessages(t.Context(), SourceStorageQueue, batch, func(i int, s Settlement) {
			after := time.Since(start)
			if len(s.Requeue) != 1 || after <= last || after < settleAfter/2 || after > settleAfter {
				t.Errorf("message %d after %v: %+v", i, after, s)
			}
			last = after
		})
	})
}

// oddPace grants nothing, and panics when a settlement asks for its capacity.
type oddPace struct {
	unlimited

	asked atomic.Bool
}

func (*oddPace) Take(ctx context.Context, _ int) int { <-ctx.Done(); return 0 }

func (p *oddPace) Capacity(time.Duration) int {
	if p.asked.Swap(true) {
		panic("a defect")
	}
	return 100
}

// A panic outside of the change leaves the message in the queue, and the process alive.
func TestPanicOfASettlement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		settlement, log := settle(t, Options{Devices: &graphLog{}, Pace: &oddPace{}},
			Message{Text: messageOf("", 1), Context: map[string]string{"messageId": "m-1"}})
		if !settlement.Retry || !strings.Contains(log, `"code":"internal_error"`) || !strings.Contains(log, `"messageId":"m-1"`) {
			t.Errorf("%+v\n%s", settlement, log)
		}
	})
}

// A message that is sent again carries the rate of its sender, and a process without one starts with it. An old message
// says nothing.
func TestMessagesCarryTheRate(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]float64{0: 0.125, maxRateAge + time.Second: 0} {
		synctest.Test(t, func(t *testing.T) {
			g := &graphLog{fail: func(id string, _ int) error {
				if id == idOf(1) {
					return graphFailure(upstream.NotFound)
				}
				return nil
			}}
			h := newHandler(Options{Devices: g, Pace: graph.NewPace(), Timeout: time.Second, Log: slog.New(slog.DiscardHandler)})
			settlement := runMessages(t, h, Message{
				ID: "m-1", Text: messageOf(`,"queue":{"rate":0.125}`, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20),
				Sent: time.Now().Add(-age), Deliveries: 1,
			})[0]
			if h.Pace.Rate() != want {
				t.Errorf("a message of %v ago: %g writes a second", age, h.Pace.Rate())
			}
			for _, m := range sent(t, settlement.Requeue) {
				if m.Queue.Rate != want {
					t.Errorf("a message of %v ago: sent again with %g", age, m.Queue.Rate)
				}
			}
			if want > 0 && len(settlement.Requeue) == 0 {
				t.Error("twenty devices at one in eight seconds are done within 45 s")
			}
			if dead := sent(t, texts(settlement.DeadLetters)); len(dead) != 1 || dead[0].Queue.Rate != 0 {
				t.Errorf("a dead letter that may be put back after days: %+v", dead)
			}
		})
	}
}

// accountsOf is a Graph in which some devices carry an account, and others have a user.
type accountsOf struct {
	graphLog

	assigned, users []string // ids, and a serial number
}

func (g *accountsOf) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	found := make([]graph.Found, len(selectors))
	for i, s := range selectors {
		d := &found[i].Device
		if d.ID = s.ID; s.SerialNumber != "" {
			d.ID, _ = graph.ParseDeviceID(idOf(99))
		}
		shows := func(list []string) bool { return slices.Contains(list, cmp.Or(s.SerialNumber, s.ID.String())) }
		switch {
		case shows(g.assigned):
			d.Account.ResourceName = "room"
		case shows(g.users):
			d.Account.UserPrincipalName, d.Account.AddressableUserName = "anna@contoso.com", "Anna"
		}
	}
	return found
}

// A message that comes again after its process was killed changes the devices that still carry an account. Where Graph
// has never shown a resource account in such a read, it changes all of them. It gives the permits of the others back.
func TestRepeatedMessageChangesTheRest(t *testing.T) {
	t.Parallel()
	byID := []string{idOf(1), idOf(2)}
	for name, test := range map[string]struct {
		shown      *accountsOf
		changed    []string
		text       []byte
		deliveries int
	}{
		"first delivery":            {&accountsOf{assigned: byID[1:]}, byID, messageOf("", 1, 2), 1},
		"second delivery":           {&accountsOf{assigned: byID[1:]}, byID[1:], messageOf("", 1, 2), 2},
		"sent again after a second": {&accountsOf{assigned: byID[1:]}, byID[1:], messageOf(`,"queue":{"tries":1}`, 1, 2), 1},
		"no account visible":        {&accountsOf{}, byID, messageOf("", 1, 2), 2},
		"the user of another":       {&accountsOf{users: byID[1:]}, byID, messageOf("", 1, 2), 2},
		"in a list alone": {
			&accountsOf{assigned: []string{"S2"}},
			[]string{idOf(1), idOf(99)},
			[]byte(`{"devices":[{"deviceId":"` + idOf(1) + `"},{"serialNumber":"S2"}]}`), 2,
		},
	} {
		g, pace := test.shown, &returns{}
		settlement, log := settle(t, Options{Devices: g, Pace: pace}, Message{Text: test.text, Deliveries: test.deliveries})
		if settlement.Retry || settlement.Requeue != nil || settlement.DeadLetters != nil || !slices.Equal(g.changed, test.changed) {
			t.Errorf("%s: %+v, %q changed", name, settlement, g.changed)
		}
		if unused := 2 - len(test.changed); pace.permits.Load() != int64(unused) {
			t.Errorf("%s: %d permits given back, want %d", name, pace.permits.Load(), unused)
		}
		if strings.Count(log, `"status":200`)+strings.Count(log, `"status":204`) != 2 || strings.Count(log, `"outcome":"done"`) != 2 {
			t.Errorf("%s: not two records of devices that are done\n%s", name, log)
		}
	}
}

// A message that fails as a whole returns to the queue until it has used up its tries.
func TestBrokenMessageUsesUpItsTries(t *testing.T) {
	t.Parallel()
	for deliveries, retry := range map[int]bool{maxTries - 1: true, maxTries: false} {
		g := &graphLog{fail: func(string, int) error { panic("a defect") }}
		settlement, _ := settle(t, Options{Devices: g}, Message{Text: messageOf("", 1), Deliveries: deliveries})
		if settlement.Retry != retry || (len(settlement.DeadLetters) == 0) != retry {
			t.Errorf("delivery %d: %+v", deliveries, settlement)
		}
	}
}

// A change in doubt that Graph throttles at its next try is not tried again at once: a later refusal would hide the doubt.
// The record says that the outcome is unknown, and the sender or the queue retries.
func TestThrottledInDoubt(t *testing.T) {
	t.Parallel()
	inDoubt := func() *graphLog {
		return &graphLog{fail: func(_ string, attempt int) error {
			if attempt == 1 {
				return &upstream.Error{Service: upstream.Graph, Reason: upstream.Throttled, MaybeDone: true}
			}
			return graphFailure(upstream.Forbidden)
		}}
	}
	g := inDoubt()
	settlement, log := settle(t, Options{Devices: g}, Message{Text: messageOf("", 1, 2)})
	if !settlement.Retry || len(g.changed) != 2 || strings.Count(log, `"outcome":"unknown"`) != 2 {
		t.Errorf("message: %+v, %q changed\n%s", settlement, g.changed, log)
	}
	g = inDoubt()
	w, _ := ask(t, Options{Devices: g, Timeout: time.Minute}, http.MethodPost, RouteUnassign, string(messageOf("", 1, 2)))
	if w.Code != http.StatusServiceUnavailable || len(g.changed) != 2 || strings.Count(w.Body.String(), `"outcome":"unknown"`) < 2 {
		t.Errorf("list: %d %s, %q changed", w.Code, w.Body, g.changed)
	}
}

// Devices above the devicesPerHour of the queue wait for the hour to pass, even those of one message. They use up neither a
// try nor permits meanwhile.
func TestHourlyLimitTakesNoTry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, pace := &graphLog{}, &returns{}
		h := newHandler(Options{
			Devices: g, Log: slog.New(slog.DiscardHandler), Timeout: time.Second, Pace: pace,
			Policy: Policy{Callers: map[string]CallerPolicy{string(SourceSQS): {DevicesPerHour: 2}}},
		})
		start := time.Now()
		last := runMessages(t, h, Message{ID: "m-1", Text: messageOf("", 1, 2, 3, 4), Deliveries: 1})[0]
		if len(g.changed) != 2 || len(last.Requeue) != 1 || last.DeadLetters != nil || pace.permits.Load() != 2 {
			t.Fatalf("%q changed, %+v, %d permits given back", g.changed, last, pace.permits.Load())
		}
		for n := 2; last.Requeue != nil && n < 1000; n++ {
			last = runMessages(t, h, Message{ID: fmt.Sprint("m-", n), Text: last.Requeue[0], Deliveries: 1})[0]
			if last.Retry || last.DeadLetters != nil {
				t.Fatalf("after %v: %+v", time.Since(start), last)
			}
		}
		if took := time.Since(start); len(g.changed) != 4 || took < time.Hour || took > time.Hour+settleAfter {
			t.Errorf("%q changed after %v", g.changed, took)
		}
	})
}

// Changes that Graph throttled do not count for devicesPerHour.
func TestThrottlingTakesNothingOfTheHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &graphLog{fail: func(_ string, attempt int) error {
			if attempt < 4 {
				return graphFailure(upstream.Throttled)
			}
			return nil
		}}
		settlement, log := settle(t, Options{
			Devices: g, Pace: slowPace{interval: time.Second, capacity: 20},
			Policy: Policy{Callers: map[string]CallerPolicy{string(SourceSQS): {DevicesPerHour: 2}}},
		}, Message{ID: "m-1", Text: messageOf("", 1, 2)})
		if settlement.Requeue != nil || len(g.changed) != 8 || strings.Count(log, `"code":"unassigned"`) != 2 {
			t.Errorf("%+v after %q\n%s", settlement, g.changed, log)
		}
	})
}

// throttledReads is a Graph that throttles every read for twenty seconds.
type throttledReads struct {
	graphLog

	reads int
}

func (g *throttledReads) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	g.reads++
	time.Sleep(100 * time.Millisecond)
	err := &upstream.Error{Service: upstream.Graph, Reason: upstream.Throttled, RetryAfter: 20 * time.Second}
	return slices.Repeat([]graph.Found{{Err: err}}, len(selectors))
}

// firstReadThrottled is a Graph that throttles the first read of its first device.
type firstReadThrottled struct{ graphLog }

func (g *firstReadThrottled) Find(ctx context.Context, selectors ...graph.Selector) []graph.Found {
	found := g.graphLog.Find(ctx, selectors...)
	if len(g.changed) == 0 {
		found[0] = graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.Throttled, RetryAfter: 10 * time.Second}}
	}
	return found
}

// The record of a change does not wait for the Retry-After of another device: the process may be killed meanwhile.
func TestRecordDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, log := settle(t, Options{Devices: &firstReadThrottled{}}, Message{Text: messageOf("", 1, 2)})
		first, second, _ := strings.Cut(log, "\n")
		if !strings.Contains(first, `"total_ms":0`) || !strings.Contains(first, idOf(2)) || !strings.Contains(second, `"total_ms":10000`) {
			t.Error(log)
		}
	})
}

// A message waits for the Retry-After of a read. The pace, which waits for a write's, is no help to a dry run.
func TestMessageWaitsForReads(t *testing.T) {
	t.Parallel()
	for _, dryRun := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := &throttledReads{}
			settlement, log := settle(t, Options{Devices: g, Policy: Policy{GroupTags: []string{"MTR-*"}, DryRun: dryRun}},
				Message{ID: "m-1", Text: messageOf("", 1, 2)})
			if len(settlement.Requeue) != 1 || settlement.Retry || g.reads > 3 {
				t.Errorf("dry run %v: %d reads, %+v\n%s", dryRun, g.reads, settlement, log)
			}
		})
	}
}

// A message with a time that package time reads and does not write becomes a dead letter. It must not end the process.
func TestOddTimesOfMessages(t *testing.T) {
	t.Parallel()
	g := &graphLog{fail: func(string, int) error { return graphFailure(upstream.NotFound) }}
	for _, since := range []string{
		"2001-01-01T00:00:00+24:00", "2001-01-01T00:00:00-23:60", "9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00",
	} {
		settlement, log := settle(t, Options{Devices: g}, Message{Text: messageOf(`,"queue":{"since":"`+since+`"}`, 1)})
		if len(settlement.DeadLetters) != 1 {
			t.Errorf("%s: %+v\n%s", since, settlement, log)
		}
	}
	for _, sent := range []time.Time{
		time.Date(2001, 1, 1, 0, 0, 0, 0, time.FixedZone("", 24*3600)), time.UnixMilli(1 << 58), time.UnixMilli(-1 << 58),
	} {
		settlement, log := settle(t, Options{Devices: g}, Message{Text: messageOf("", 1), Sent: sent})
		if len(settlement.DeadLetters) != 1 {
			t.Errorf("%v: %+v\n%s", sent, settlement, log)
		}
	}
}

// The messages of a batch that the pace leaves no time for are requeued at once, with the time they were sent.
func TestBatchAboveCapacityIsPostponed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &graphLog{}
		h := newHandler(Options{Devices: g, Pace: slowPace{interval: time.Second, capacity: 3}, Timeout: time.Second, Log: slog.New(slog.DiscardHandler)})
		since := time.Now().Add(-time.Hour)
		var batch []Message
		for i := range 4 {
			batch = append(batch, Message{ID: fmt.Sprint("m-", i), Text: messageOf("", 2*i, 2*i+1), Sent: since, Deliveries: 1})
		}
		start := time.Now()
		settlements := runMessages(t, h, batch...)
		if took := time.Since(start); took > 10*time.Second || len(g.changed) != 2 {
			t.Errorf("%q changed in %v", g.changed, took)
		}
		if settlements[0].Requeue != nil {
			t.Errorf("%+v", settlements[0])
		}
		for _, s := range settlements[1:] {
			if s.Retry || len(s.Requeue) != 1 || !sent(t, s.Requeue)[0].Queue.Since.Equal(since) {
				t.Errorf("%+v", s)
			}
		}
	})
}

// The messages of a process end one after another: a killed process then leaves few changed devices in unsettled messages.
func TestMessagesEndOneAfterAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(Options{Devices: &graphLog{}, Pace: slowPace{interval: time.Second, capacity: 20}, Timeout: time.Second, Log: slog.New(slog.DiscardHandler)})
		var batch []Message
		for i := range 3 {
			batch = append(batch, Message{ID: fmt.Sprint("m-", i), Text: messageOf("", 3*i, 3*i+1, 3*i+2), Deliveries: 1})
		}
		start := time.Now()
		var ends []time.Duration
		h.RunMessages(t.Context(), SourceSQS, batch, func(_ int, s Settlement) {
			ends = append(ends, time.Since(start))
			if s.Retry || s.Requeue != nil {
				t.Errorf("%+v", s)
			}
		})
		if want := []time.Duration{3 * time.Second, 6 * time.Second, 9 * time.Second}; !slices.Equal(ends, want) {
			t.Errorf("settled after %v, want %v", ends, want)
		}
	})
}

// slowGraph is a Graph that responds after ten seconds.
type slowGraph struct{ graphLog }

func (g *slowGraph) UnassignResourceAccount(ctx context.Context, ids ...graph.DeviceID) []graph.Result {
	time.Sleep(10 * time.Second)
	return g.graphLog.UnassignResourceAccount(ctx, ids...)
}

// Slow responses do not lower the pace: neither the next devices of a message nor the next message wait for them.
func TestSlowResponsesDoNotLowerThePace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &slowGraph{}
		h := newHandler(Options{Devices: g, Pace: slowPace{interval: time.Second, capacity: 20}, Timeout: 20 * time.Second, Log: slog.New(slog.DiscardHandler)})
		start := time.Now()
		runMessages(t, h, Message{ID: "m-1", Text: messageOf("", 1, 2, 3), Deliveries: 1}, Message{ID: "m-2", Text: messageOf("", 4, 5, 6), Deliveries: 1})
		if took := time.Since(start); took != 16*time.Second || len(g.changed) != 6 {
			t.Errorf("%q changed in %v", g.changed, took)
		}
	})
}

// The first message of a batch is always tried, however little the pace grants.
func TestFirstMessageIsAlwaysTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &graphLog{}
		settle(t, Options{Devices: g, Pace: slowPace{interval: time.Second, capacity: 1}}, Message{Text: messageOf("", 1, 2, 3)})
		if len(g.changed) != 3 {
			t.Errorf("%q changed", g.changed)
		}
	})
}

func TestOldMessage(t *testing.T) {
	t.Parallel()
	old := time.Now().Add(-25 * time.Hour)
	expected := []byte(`{"devices":[{"deviceId":"` + idOf(1) + `"},{"deviceId":"` + idOf(2) + `","expected":{"userPrincipalName":"room.fjord@contoso.com"}}]}`)
	for name, test := range map[string]struct {
		message Message
		dead    []string
		changed []string
	}{
		"sent yesterday": {Message{Text: expected, Sent: old}, []string{idOf(1)}, []string{idOf(2)}},
		"sent now":       {Message{Text: messageOf("", 1), Sent: time.Now()}, nil, []string{idOf(1)}},
		"no time known":  {Message{Text: messageOf("", 1)}, nil, []string{idOf(1)}},
		"requeued": {
			Message{Text: messageOf(`,"queue":{"since":"`+old.Format(time.RFC3339)+`"}`, 1), Sent: time.Now()}, []string{idOf(1)}, nil,
		},
		"since in the future": {
			Message{Text: messageOf(`,"queue":{"since":"2999-01-01T00:00:00Z"}`, 1), Sent: old}, []string{idOf(1)}, nil,
		},
	} {
		g := &graphLog{}
		settlement, log := settle(t, Options{Devices: g, QueueMaxAge: 24 * time.Hour}, test.message)
		var dead []string
		for _, m := range sent(t, texts(settlement.DeadLetters)) {
			for _, d := range m.Devices {
				dead = append(dead, d.DeviceID)
			}
		}
		if !slices.Equal(dead, test.dead) || !slices.Equal(g.changed, test.changed) || strings.Contains(log, string(messageTooOld)) != (dead != nil) {
			t.Errorf("%s: %q changed, %q dead\n%s", name, g.changed, dead, log)
		}
	}
}

// A fault of this function ends a message without a request for each device.
func TestPermanentFaultEndsAMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &graphLog{fail: func(string, int) error { return graphFailure(upstream.Forbidden) }}
		settlement, _ := settle(t, Options{Devices: g, Pace: slowPace{interval: time.Second, capacity: 20}}, Message{Text: messageOf("", 1, 2, 3)})
		if len(g.changed) != 1 || len(settlement.DeadLetters) != 1 || len(sent(t, texts(settlement.DeadLetters))[0].Devices) != 3 {
			t.Errorf("%q changed, %+v", g.changed, settlement)
		}
	})
}

// A redelivered message changes only the devices that are not done.
func TestMessageComesAgain(t *testing.T) {
	t.Parallel()
	g := &graphLog{fail: func(id string, attempt int) error {
		if id == idOf(2) && attempt == 1 {
			return graphFailure(upstream.Unavailable)
		}
		return nil
	}}
	h := newHandler(Options{Devices: g, Timeout: time.Second, Log: slog.New(slog.DiscardHandler)})
	m := Message{ID: "m-1", Text: messageOf("", 1, 2), Deliveries: 1}
	for range 2 { // the queue delivers it again before the requeued message arrives
		runMessages(t, h, m)
	}
	if want := []string{idOf(1), idOf(2), idOf(2)}; !slices.Equal(g.changed, want) {
		t.Errorf("%q changed, want %q", g.changed, want)
	}
}

func TestMessagePanic(t *testing.T) {
	t.Parallel()
	settlement, log := settle(t, Options{Devices: &graphLog{fail: func(string, int) error { panic("broken") }}}, Message{Text: messageOf("", 1)})
	if !settlement.Retry || !strings.Contains(log, string(internalError)) {
		t.Errorf("%+v\n%s", settlement, log)
	}
}

// The record of a change has its verification.
func TestMessageIsVerified(t *testing.T) {
	t.Parallel()
	g := &accountsOf{assigned: []string{idOf(1)}}
	_, log := settle(t, Options{Devices: g}, Message{Text: messageOf(`,"verify":true`, 1, 2)})
	if strings.Count(log, `"verification":"pending"`) != 1 || strings.Count(log, `"verification":"cleared"`) != 1 {
		t.Error(log)
	}
}

// The rest of the largest message is a message that can be read. It keeps verify under DRY_RUN.
func TestRestOfTheLargestMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		expected := `","expected":{"resourceName":"` + strings.Repeat("ö", 245) + `<&>"}}`
		text := strings.ReplaceAll(string(messageOf("", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)), `"}`, expected)
		text = text[:len(text)-1] + `,"verify":true,"context":{"of":"HTML"`
		for i := 10; len(text) < maxBody-2; i++ {
			text += fmt.Sprintf(`,"%d":%q`, i, strings.Repeat("&", min(maxContextValue, maxBody-10-len(text))))
		}
		text += "}}"
		settlement, log := settle(t, Options{Devices: &throttledReads{}, Policy: Policy{DryRun: true}}, Message{Text: []byte(text), Sent: time.Now()})
		if len(text) != maxBody || len(settlement.Requeue) != 1 || !bytes.Contains(settlement.Requeue[0], []byte(`"verify":true`)) {
			t.Fatalf("%d bytes: %+v\n%s", len(text), settlement, log)
		}
		if again := sent(t, settlement.Requeue)[0]; len(again.Devices) != maxDevices {
			t.Errorf("%s", settlement.Requeue[0])
		}
		settlement, _ = settle(t, Options{Devices: &graphLog{}}, Message{Text: []byte(text + " ")})
		if len(settlement.DeadLetters) != 1 || settlement.DeadLetters[0].Code != bodyTooLarge {
			t.Errorf("a byte more: %+v", settlement)
		}
	})
}

// A dry run takes no permits.
func TestMessageDryRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &graphLog{}
		start := time.Now()
		settlement, log := settle(t, Options{Devices: g, Pace: slowPace{interval: time.Hour, capacity: 20}}, Message{Text: messageOf(`,"dryRun":true`, 1, 2)})
		if settlement.Requeue != nil || len(g.changed) != 0 || strings.Count(log, "would_unassign") != 2 || time.Since(start) > time.Second {
			t.Errorf("%+v\n%s", settlement, log)
		}
	})
}

// Deliveries that a killed process used up do not make a requeued message unreadable, and a dead letter that is put back starts
// anew.
func TestTriesOfOtherMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &graphLog{}
		settlement, _ := settle(t, Options{Devices: g, Pace: slowPace{interval: time.Hour, capacity: 20}}, Message{Text: messageOf("", 1), Deliveries: 12})
		if len(settlement.Requeue) != 1 || sent(t, settlement.Requeue)[0].Queue.Tries != maxTries-1 {
			t.Errorf("%+v", settlement)
		}
	})
	g := &graphLog{fail: func(string, int) error { return graphFailure(upstream.Unavailable) }}
	settlement, _ := settle(t, Options{Devices: g}, Message{Text: messageOf(`,"queue":{"tries":9,"code":"graph_unavailable"}`, 1)})
	if !settlement.Retry {
		t.Errorf("%+v", settlement)
	}
	settlement, _ = settle(t, Options{Devices: g}, Message{Text: messageOf(`,"queue":{"tries":9223372036854775807}`, 1)})
	if len(settlement.DeadLetters) != 1 {
		t.Errorf("a number of tries near the largest: %+v", settlement)
	}
}
