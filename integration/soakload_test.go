//go:build soak

package integration

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
)

// The devices of the load.
const (
	actedOn    = 300 // devices whose accounts are taken off and given back all the time
	leftAlone  = 50  // devices that no request may change
	rate       = 500 // requests in a second
	timeLimit  = 10 * time.Second
	slack      = 2 * time.Second // tolerance for a response, on a machine with other work
	patience   = 2 * time.Minute // of a caller
	maxShown   = 5               // times that the same is wrong, the others being counted
	histogram  = 200_000         // times that are told apart, of 0.1 ms
	strangeKey = "a stranger's key, which is long enough"
)

func deviceNumber(n int) azuresim.Device {
	room := "room." + strconv.Itoa(n)
	return azuresim.Device{
		ID: fmt.Sprintf("%08x-5b1d-4c55-9d3a-%012x", n, n), SerialNumber: fmt.Sprintf("5CG%07d", n), GroupTag: "MTR-Oslo",
		UserPrincipalName: room + "@contoso.com", ResourceName: room,
	}
}

// aKind is a kind of request: its share in a thousand, its content, and its permitted responses in health.
type aKind struct {
	name    string
	share   int
	make    func(l *load, random *rand.Rand) (body string, h http.Header)
	healthy []string
	// evidence with an unknown key, which causes a fetch
	stranger bool
	// the same delivery repeats as soon as its response has arrived
	twice bool
}

// listLength is the number of devices in a list.
const listLength = 20

// kinds returns the kinds of requests. Their shares add up to a thousand.
func kinds() []aKind {
	acted := func(random *rand.Rand) azuresim.Device { return deviceNumber(random.IntN(actedOn)) }
	alone := func(random *rand.Rand) azuresim.Device { return deviceNumber(actedOn + random.IntN(leftAlone)) }
	with := func(body func(random *rand.Rand) string) func(*load, *rand.Rand) (string, http.Header) {
		return func(l *load, random *rand.Rand) (string, http.Header) {
			text := body(random)
			return text, l.evidence(text, random, random.IntN(10) < 7)
		}
	}
	byID := func(random *rand.Rand) string {
		return fmt.Sprintf(`{"deviceId":%q,"reference":"RITM%07d"}`, acted(random).ID, random.IntN(10_000_000))
	}
	either := []string{"200 unassigned", "200 already_unassigned"}
	return []aKind{
		{name: "a device", share: 600, make: with(byID), healthy: []string{"204"}},
		{name: "a device, with a body in the answer", share: 50, make: func(l *load, random *rand.Rand) (string, http.Header) {
			text := byID(random)
			h := l.evidence(text, random, true)
			h.Set("Prefer", "return=representation")
			return text, h
		}, healthy: []string{"200 unassigned"}},
		{name: "a serial number", share: 60, make: with(func(random *rand.Rand) string {
			return fmt.Sprintf(`{"serialNumber":%q}`, strings.ToLower(acted(random).SerialNumber))
		}), healthy: []string{"204"}},
		{name: "a list", share: 10, make: with(func(random *rand.Rand) string {
			var devices []string
			for i, n := range random.Perm(actedOn)[:listLength] {
				if d := deviceNumber(n); i%4 == 3 {
					devices = append(devices, fmt.Sprintf(`{"serialNumber":%q}`, d.SerialNumber))
				} else {
					devices = append(devices, fmt.Sprintf(`{"deviceId":%q}`, d.ID))
				}
			}
			return `{"devices":[` + strings.Join(devices, ",") + `]}`
		}), healthy: either},
		{name: "a dry run", share: 60, make: with(func(random *rand.Rand) string {
			return fmt.Sprintf(`{"deviceId":%q,"dryRun":true}`, alone(random).ID)
		}), healthy: []string{"200 would_unassign"}},
		{name: "a verified request", share: 30, make: with(func(random *rand.Rand) string {
			return fmt.Sprintf(`{"deviceId":%q,"verify":true}`, acted(random).ID)
		}), healthy: []string{"200 unassigned"}},
		{name: "the account that is there", share: 40, make: with(func(random *rand.Rand) string {
			d := acted(random)
			return fmt.Sprintf(`{"deviceId":%q,"expected":{"userPrincipalName":%q}}`, d.ID, d.UserPrincipalName)
		}), healthy: []string{"204"}},
		{name: "another account", share: 20, make: with(func(random *rand.Rand) string {
			return fmt.Sprintf(`{"deviceId":%q,"expected":{"resourceName":"room.of.somebody.else"}}`, alone(random).ID)
		}), healthy: []string{"409 state_changed"}},
		{name: "an unknown id", share: 20, make: with(func(*rand.Rand) string {
			return `{"deviceId":"ffffffff-5b1d-4c55-9d3a-000000000000"}`
		}), healthy: []string{"404 device_not_found"}},
		{name: "an unknown serial number", share: 10, make: with(func(*rand.Rand) string {
			return `{"serialNumber":"5CG999999"}`
		}), healthy: []string{"404 device_not_found"}},
		{name: "a serial number of two", share: 10, make: with(func(*rand.Rand) string {
			return `{"serialNumber":"Default string"}`
		}), healthy: []string{"409 serial_number_ambiguous"}},
		{name: "a delivery twice", share: 30, make: func(l *load, random *rand.Rand) (string, http.Header) {
			text := byID(random)
			return text, l.evidence(text, random, true)
		}, healthy: []string{"204"}, twice: true},
		{name: "bad JSON", share: 15, make: with(func(*rand.Rand) string { return `{"deviceId":` }), healthy: []string{"400 invalid_json"}},
		{name: "an unknown field", share: 15, make: with(func(*rand.Rand) string {
			return `{"deviceId":"` + someDevice + `","force":true}`
		}), healthy: []string{"400 unknown_field"}},
		{name: "a signature of an hour ago", share: 5, make: func(l *load, random *rand.Rand) (string, http.Header) {
			text, h := byID(random), http.Header{}
			caller.Sign(h, l.signingKey(), "msg_old", time.Now().Add(-time.Hour), []byte(text))
			return text, h
		}, healthy: []string{"401 request_expired"}},
		{name: "a stranger's signature", share: 20, make: func(_ *load, random *rand.Rand) (string, http.Header) {
			text, h := byID(random), http.Header{}
			caller.Sign(h, []byte(strangeKey), "msg_strange", time.Now(), []byte(text))
			return text, h
		}, healthy: []string{"401 unauthenticated"}, stranger: true},
		{name: "a stranger's key", share: 5, make: func(_ *load, random *rand.Rand) (string, http.Header) {
			return byID(random), http.Header{"X-Api-Key": {strangeKey}}
		}, healthy: []string{"401 unauthenticated"}, stranger: true},
	}
}

// load sends requests at a rate, independent of earlier responses, and judges each response.
type load struct {
	*testing.T
	program *program
	seed    uint64
	kinds   []aKind
	client  *http.Client

	webhook, api atomic.Value // the callers' keys that are in use, as they are in the vault
	secrets      sync.Map     // all that have been, and must be seen nowhere

	rate     atomic.Int64
	asking   sync.WaitGroup
	late     time.Duration // of the sender at worst
	sent     atomic.Int64  // requests
	inFlight atomic.Int64

	mu       sync.Mutex
	windows  []*window
	awaited  map[string]*audited // requests by their ids whose answer or records have not come yet
	outcomes map[string]int      // answers by status and code
	devices  map[string]int      // likewise, of devices in lists
	took     [histogram + 1]int  // answers to which nothing was in the way, by how many 0.1 ms they took
	slowest  time.Duration       // of all answers while the program did not stand still
	wrong    map[string]int      // number of faults, by kind
	records  int
	replayed int
}

// window is the time of a disturbance, from its start to the end of its effects.
type window struct {
	name             string
	from, until      time.Time // until is zero while it lasts
	extra, strangers []string  // permitted responses beside the healthy ones; further ones for strangers
	frozen           bool      // the program stands still
	seen             map[string]bool
}

// audited is the knowledge about a request from one of two sources: its response and the log.
type audited struct {
	kind         string
	want         int // records; 0 before the answer
	seen         int
	status       int // of the response, if the records agree; otherwise 0
	recorded     int
	recordedCode string
}

func newLoad(t *testing.T, seed uint64) *load {
	t.Helper()
	return &load{
		T: t, seed: seed, kinds: kinds(),
		client:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second}, Timeout: patience},
		awaited:  map[string]*audited{},
		outcomes: map[string]int{},
		devices:  map[string]int{},
		wrong:    map[string]int{},
	}
}

func (l *load) signingKey() []byte {
	key, _ := l.webhook.Load().(string)
	decoded, err := caller.DecodeSignatureKey(key)
	if err != nil {
		panic(err)
	}
	return decoded
}

// evidence returns the headers of a request with that body from a valid caller.
func (l *load) evidence(body string, random *rand.Rand, sign bool) http.Header {
	h := http.Header{}
	if sign {
		caller.Sign(h, l.signingKey(), fmt.Sprintf("msg_%016x", random.Uint64()), time.Now(), []byte(body))
	} else {
		key, _ := l.api.Load().(string)
		h.Set("X-Api-Key", key)
	}
	return h
}

// run sends requests until ctx ends.
func (l *load) run(ctx context.Context) {
	next := time.Now()
	for n := uint64(0); ctx.Err() == nil; {
		rate := l.rate.Load()
		if rate == 0 {
			time.Sleep(5 * time.Millisecond)
			next = time.Now()
			continue
		}
		time.Sleep(time.Until(next))
		l.late = max(l.late, time.Since(next))
		next = next.Add(time.Second / time.Duration(rate))
		n++
		l.asking.Go(func() { l.ask(n) })
	}
}

// ask makes the request of that number, and repeats it for some kinds.
func (l *load) ask(n uint64) {
	random := rand.New(rand.NewPCG(l.seed, n))
	share, at := random.IntN(1000), 0
	for share >= l.kinds[at].share {
		share -= l.kinds[at].share
		at++
	}
	kind := l.kinds[at]
	body, h := kind.make(l, random)
	h.Set("Content-Type", "application/json")
	answered := l.exchange(kind, fmt.Sprintf("soak-%d", n), body, h, false)
	if kind.twice && answered {
		l.exchange(kind, fmt.Sprintf("soak-%d-again", n), body, h.Clone(), true)
	}
}

// anAnswer is the body of a response, or of one for a device in a list.
type anAnswer struct {
	Code      string
	Error     struct{ Code string }
	Status    int
	Retryable bool
	Outcome   string
	RequestID string
	Results   []anAnswer
}

// exchange sends a request and judges the response. It reports whether the change was made.
func (l *load) exchange(kind aKind, id, body string, h http.Header, again bool) bool {
	l.sent.Add(1)
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	h.Set("X-Request-Id", id)
	l.mu.Lock()
	l.awaited[id] = &audited{kind: kind.name}
	l.mu.Unlock()
	begun := time.Now()
	req, err := http.NewRequest(http.MethodPost, l.program.url+"/api/unassign", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header = h
	resp, err := l.client.Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.complain("no answer", "%s %s, sent at %s, for %v: %v", kind.name, id, begun.Format(clock), time.Since(begun).Round(time.Millisecond), err)
		l.outcomes["no answer"]++
		delete(l.awaited, id)
		return false
	}
	l.judge(kind, id, begun, resp, text, again)
	return resp.StatusCode == http.StatusNoContent
}

const clock = "15:04:05.000"

// complain counts faults and prints the first.
func (l *load) complain(what, format string, args ...any) {
	l.wrong[what]++
	if l.wrong[what] <= maxShown {
		l.Errorf("%s: %s", what, fmt.Sprintf(format, args...))
	}
}

// retried are the statuses that docs/api.md marks for a retry.
var retried = []int{408, 429, 500, 502, 503, 504}

func (l *load) judge(kind aKind, id string, begun time.Time, resp *http.Response, text []byte, again bool) {
	ended := time.Now()
	var a anAnswer
	outcome := strconv.Itoa(resp.StatusCode)
	err := error(nil)
	if resp.StatusCode != http.StatusNoContent {
		err = json.Unmarshal(text, &a)
		outcome = strings.TrimSpace(outcome + " " + cmp.Or(a.Error.Code, a.Code))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var around []*window
	limit, still := timeLimit+slack, false
	for _, w := range l.windows {
		if (w.until.IsZero() || begun.Before(w.until)) && ended.After(w.from) {
			around = append(around, w)
			if w.frozen {
				still = true
				limit += min(ended.Sub(w.from), w.length(ended))
			}
		}
	}
	tell := func(what string) {
		var names []string
		for _, w := range around {
			names = append(names, w.name)
		}
		l.complain(what, "%s %s, sent at %s, after %v: %s %s %v; meanwhile %q", kind.name, id, begun.Format(clock), ended.Sub(begun).Round(time.Millisecond), outcome, text, resp.Header, names)
	}
	allowed := func(outcome string) bool {
		for _, w := range around {
			if w.seen != nil {
				w.seen[outcome] = true
			}
		}
		return slices.Contains(kind.healthy, outcome) || slices.ContainsFunc(around, func(w *window) bool {
			return slices.Contains(w.extra, outcome) || kind.stranger && slices.Contains(w.strangers, outcome)
		})
	}
	l.outcomes[outcome]++
	took := ended.Sub(begun)
	if !still {
		l.slowest = max(l.slowest, took)
	}
	if len(around) == 0 {
		l.took[min(took/resolution, histogram)]++
	}
	if took > limit {
		tell("late")
	}
	if err != nil {
		tell("not JSON")
	}
	if l.leaks(text) {
		tell("a secret in an answer")
	}
	records, status := 1, resp.StatusCode
	if len(a.Results) > 0 {
		records, status = listLength, 0
		if want := listOutcome(a.Results); want != outcome {
			tell("a list's answer that does not fit its results, which are " + want)
		}
		for _, result := range a.Results {
			device := fmt.Sprint(result.Status, " ", cmp.Or(result.Error.Code, result.Code))
			l.devices[device]++
			if !allowed(device) {
				tell("a result that is neither healthy nor the fault's")
				break
			}
		}
	} else if !allowed(outcome) {
		tell("neither healthy nor the fault's")
	}
	if resp.StatusCode >= 400 && (a.Status != resp.StatusCode || a.Retryable != slices.Contains(retried, a.Status) || a.Outcome != "not_done" && a.Outcome != "unknown" || a.RequestID != id && !again) {
		tell("a failure that contradicts itself")
	}
	if wait := resp.StatusCode == 429 || resp.StatusCode == 503; wait != (resp.Header.Get("Retry-After") != "") {
		tell("Retry-After")
	}
	if again && resp.Header.Get("Idempotent-Replayed") == "true" {
		l.replayed++
	} else if again && len(around) == 0 {
		tell("carried out twice")
	}
	entry := l.awaited[id]
	entry.want, entry.status = records, status
	l.settle(id, entry)
}

// listOutcome returns the status and code of a response about a list with those results, by docs/api.md.
func listOutcome(results []anAnswer) string {
	statuses, codes := map[int]bool{}, map[string]bool{}
	failed := false
	for _, result := range results {
		statuses[result.Status], codes[cmp.Or(result.Error.Code, result.Code)] = true, true
		failed = failed || result.Status != http.StatusOK
		if slices.Contains(retried, result.Status) {
			return "503 devices_failed"
		}
	}
	switch {
	case !failed:
		return "200"
	case len(statuses) > 1:
		return "207"
	case len(codes) > 1:
		return fmt.Sprint(results[0].Status, " devices_failed")
	}
	return fmt.Sprint(results[0].Status, " ", results[0].Error.Code)
}

// settle ends the wait for a request whose response and records have arrived.
func (l *load) settle(id string, entry *audited) {
	if entry.want == 0 || entry.seen < entry.want {
		return
	}
	if entry.status != 0 && entry.recorded != entry.status {
		l.complain("a record of another end", "%s %s was answered %d, and the log says %d %s", entry.kind, id, entry.status, entry.recorded, entry.recordedCode)
	}
	delete(l.awaited, id)
}

// audit takes a line of the log if it is an audit record.
func (l *load) audit(line []byte) bool {
	leak := l.leaks(line)
	var record struct {
		Message   string
		RequestID string `json:"request_id"`
		Code      string
		Status    int
	}
	if json.Unmarshal(line, &record) != nil || record.Message != "unassign" {
		if leak {
			l.Errorf("a secret in the log: %s", line)
		}
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if leak {
		l.complain("a secret in the log", "%s", line)
	}
	l.records++
	entry := l.awaited[record.RequestID]
	if entry == nil {
		l.complain("a record too many", "%s", line)
		return true
	}
	entry.seen, entry.recorded, entry.recordedCode = entry.seen+1, record.Status, record.Code
	l.settle(record.RequestID, entry)
	return true
}

// length returns the duration of w, up to now if it is open.
func (w *window) length(now time.Time) time.Duration {
	if w.until.IsZero() {
		return now.Sub(w.from)
	}
	return w.until.Sub(w.from)
}

// leaks reports whether a secret is in text.
func (l *load) leaks(text []byte) (found bool) {
	l.secrets.Range(func(secret, _ any) bool {
		s, _ := secret.(string)
		found = bytes.Contains(text, []byte(s))
		return !found
	})
	return found
}

// open begins a window.
func (l *load) open(w window) *window {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.from, w.seen = time.Now(), map[string]bool{}
	l.windows = slices.DeleteFunc(l.windows, func(old *window) bool { return !old.until.IsZero() && time.Since(old.until) > 2*patience })
	l.windows = append(l.windows, &w)
	return &w
}

// shut ends a window, which lingers for some time.
func (l *load) shut(w *window, lingers time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.until = time.Now().Add(lingers)
}

// saw reports whether a request in w, or a device in a list, received such a response.
func (l *load) saw(w *window, outcome string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.seen[outcome]
}

// finish waits until every request has its response and its record, and reports the missing ones.
func (l *load) finish() {
	l.asking.Wait()
	for wait := time.Now(); time.Since(wait) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		l.mu.Lock()
		left := len(l.awaited)
		l.mu.Unlock()
		if left == 0 {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, entry := range l.awaited {
		l.complain("records missing", "%s %s: %d of %d", entry.kind, id, entry.seen, entry.want)
	}
	l.client.CloseIdleConnections()
}

// resolution is the precision of the recorded durations.
const resolution = 100 * time.Microsecond

// percentile returns the duration that a share of the undisturbed responses did not exceed.
func (l *load) percentile(share float64) time.Duration {
	all, so := 0, 0
	for _, n := range &l.took {
		all += n
	}
	for i, n := range &l.took {
		if so += n; float64(so) >= share*float64(all) {
			return time.Duration(i+1) * resolution
		}
	}
	return histogram * resolution
}

// table returns counts, the largest first.
func table(counts map[string]int) string {
	var lines []string
	for _, name := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) }) {
		lines = append(lines, fmt.Sprintf("  %9d  %s", counts[name], name))
	}
	return strings.Join(lines, "\n")
}
