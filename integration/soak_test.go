//go:build soak

package integration

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
)

var (
	soakTime = flag.Duration("soaktime", 3*time.Minute, "how long the soak takes")
	soakOnly = flag.String("soakonly", "", "a regular expression for what is done to the program")
	soakSeed = flag.Uint64("soakseed", 0, "what the soak draws its lots with; 0 for something new")
)

// soak is a program under load, and its faults.
type soak struct {
	*load
	cloud  *azuresim.Cloud
	served *azuresim.Served
	random *rand.Rand // of the cards; nothing that the load does changes it
	begun  time.Time

	drawn      int // values of secrets
	name       int // 0 or 1: which of the first two secrets of each kind has the keys in use
	secretAt   time.Time
	newVersion [2]string // of the callers' keys, which are stored and not used yet
	switchAt   time.Time // when the callers may use those; zero if there are none
	readAt     time.Time // when it will be known again that a key that is named is missing
	played     map[string]int
}

// fault is a temporary fault of an upstream service.
type fault struct {
	name  string
	step  azuresim.Step
	times int // requests to the service; 0 for all
	how   azuresim.Fault
	// Responses permitted during the fault beside the healthy ones. At least one request must receive the first of
	// them, unless failed requests were retried after its end. Strangers are callers whose keys may be in the vault
	// and could not be fetched.
	extra, strangers []string
	revoke           bool // all tokens are taken back at its beginning, so that new ones are needed
	rotate           bool // likewise, and the app's secret is replaced
	long             bool // it takes until the keys of callers are read again, every 30 s while one that is named is missing
	lingers          time.Duration
}

// unread is the time after a fault in which a stranger may receive the response that not all keys could be fetched.
const unread = 36 * time.Second

func faults() []fault {
	graph := func(name string, how azuresim.Fault, extra ...string) fault {
		return fault{name: "Graph: " + name, step: azuresim.StepGraph, how: how, extra: extra}
	}
	some := func(f fault, times int) fault {
		f.times = times
		return f
	}
	item := func(name string, how azuresim.Fault, extra ...string) fault {
		return fault{name: "Graph, in batches: " + name, step: azuresim.StepItem, how: how, extra: extra}
	}
	// A failure of the identity is shared for five seconds, and one that hangs takes three before.
	entra := func(name string, step azuresim.Step, how azuresim.Fault, extra ...string) fault {
		return fault{name: "Entra ID: " + name, step: step, how: how, extra: extra, revoke: true, lingers: 10 * time.Second}
	}
	// Fetched keys stay in use, but an unknown key may be the one that could not be fetched.
	vault := func(name string, step azuresim.Step, how azuresim.Fault, strangers ...string) fault {
		return fault{name: name, step: step, how: how, strangers: strangers, long: true}
	}
	return []fault{
		graph("429 for 1 s", azuresim.Status(429, "Retry-After", "1"), "429 graph_throttled"),
		graph("429 for a minute", azuresim.Status(429, "Retry-After", "60"), "429 graph_throttled"),
		graph("429 in the body alone", azuresim.GraphError(429, azuresim.Nested, 20), "429 graph_throttled"),
		graph("500", azuresim.Status(500), "502 graph_error"),
		graph("500, and done", azuresim.Done(azuresim.GraphError(500, azuresim.DoublyNested, 0)), "502 graph_error", "200 already_unassigned"),
		graph("502", azuresim.GraphError(502, azuresim.NotJSON, 0), "502 graph_error"),
		graph("503", azuresim.Status(503), "503 graph_unavailable"),
		graph("503 for an hour", azuresim.Status(503, "Retry-After", "3600"), "503 graph_unavailable"),
		graph("504", azuresim.Status(504), "504 graph_timeout"),
		graph("400", azuresim.GraphError(400, azuresim.HTML, 0), "422 graph_rejected"),
		graph("403", azuresim.Status(403), "424 graph_permission_missing"),
		graph("404", azuresim.Status(404), "404 device_not_found", "422 graph_rejected"), // of a list that is not there
		graph("409", azuresim.Status(409), "409 graph_conflict"),
		graph("412", azuresim.Status(412), "409 state_changed"),
		graph("423", azuresim.Status(423), "503 device_locked"),
		graph("reset", azuresim.Reset(), "502 graph_bad_answer", "503 upstream_unreachable", "504 graph_timeout"), // no connection for long enough
		// The 422 is of an unknown device: its status alone does not tell.
		graph("reset in the body", azuresim.ResetMidBody(), "502 graph_bad_answer", "422 graph_rejected", "503 upstream_unreachable", "504 graph_timeout"),
		graph("truncated", azuresim.Truncated(), "502 graph_bad_answer", "422 graph_rejected"),
		graph("a proxy's page", azuresim.WrongType(), "502 graph_bad_answer"),
		graph("slow", azuresim.Delay(400*time.Millisecond)),
		some(graph("too slow, 1500 times", azuresim.Delay(4*time.Second), "504 graph_timeout", "503 upstream_unreachable"), 1500),
		some(graph("hangs 1500 times", azuresim.Hang(), "504 graph_timeout", "503 upstream_unreachable"), 1500),
		some(graph("401 once", azuresim.Status(401)), 1),
		item("429", azuresim.Status(429), "429 graph_throttled"),
		item("503", azuresim.Status(503), "503 graph_unavailable"),
		item("403", azuresim.Status(403), "424 graph_permission_missing"),
		entra("500", azuresim.StepToken, azuresim.Status(500), "503 identity_unavailable"),
		entra("503", azuresim.StepToken, azuresim.Status(503, "Retry-After", "60"), "503 identity_unavailable"),
		entra("429", azuresim.StepToken, azuresim.Status(429), "503 identity_unavailable"),
		entra("reset", azuresim.StepToken, azuresim.Reset(), "503 identity_unavailable"),
		entra("truncated", azuresim.StepToken, azuresim.Truncated(), "503 identity_unavailable"),
		entra("hangs", azuresim.StepToken, azuresim.Hang(), "504 identity_timeout"),
		entra("slow", azuresim.StepToken, azuresim.Delay(time.Second)),
		entra("no discovery", azuresim.StepDiscovery, azuresim.Status(503)), // the discovered endpoints stay in use
		{name: "Entra ID: down, and nobody is told", step: azuresim.StepToken, how: azuresim.Status(503), long: true},
		vault("the vault: 503", azuresim.StepSecret, azuresim.Status(503), "503 vault_unavailable"),
		vault("the vault: 403", azuresim.StepSecret, azuresim.Status(403), "424 vault_forbidden"),
		vault("the vault: reset", azuresim.StepSecret, azuresim.Reset(), "503 vault_unavailable"),
		vault("the vault: hangs", azuresim.StepSecret, azuresim.Hang(), "504 vault_timeout", "503 vault_unavailable"),
		vault("the vault: slow", azuresim.StepSecret, azuresim.Delay(time.Second)),
		vault("the managed identity: 500", azuresim.StepIdentity, azuresim.Status(500), "503 identity_unavailable"),
		vault("the managed identity: hangs", azuresim.StepIdentity, azuresim.Hang(), "504 identity_timeout", "504 vault_timeout"),
		{
			name: "the vault: 503, while the app's secret is replaced", step: azuresim.StepSecret, how: azuresim.Status(503),
			extra: []string{"503 vault_unavailable"}, strangers: []string{"503 vault_unavailable"}, rotate: true, lingers: 10 * time.Second,
		},
	}
}

// card is a disturbance of the program. It returns false if it is not possible now.
type card struct {
	name string
	play func(s *soak) bool
}

// TestSoak lets a program serve 500 requests a second for a long time, while upstream services fail, keys and secrets
// are rotated, tokens expire, and the program itself is paused. Each response follows the contract, each request has
// one record, and memory does not grow.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("the seed is %d", seed)

	fresh := newSoak(t, seed)
	fresh.during(t, 10*time.Second, func() { time.Sleep(10 * time.Second) })
	freshFigures, freshGoroutines := fresh.end(t)
	t.Logf("after 10 s: %v, %d goroutines", freshFigures, freshGoroutines)

	s := newSoak(t, seed)
	var samples []sample
	s.during(t, *soakTime, func() {
		stop := make(chan struct{})
		var watching sync.WaitGroup
		watching.Go(func() {
			for ticker := time.NewTicker(5 * time.Second); ; {
				select {
				case <-ticker.C:
					samples = append(samples, sample{time.Since(s.begun), measure(t, s.program)})
				case <-stop:
					return
				}
			}
		})
		s.playAll()
		close(stop)
		watching.Wait()
	})
	figures, left := s.end(t)

	t.Logf("%d requests in %v, %d of them repeated deliveries that were not carried out again; the sender was %v late at worst", s.sent.Load(), soakTime, s.replayed, s.late.Round(time.Millisecond))
	t.Logf("answers:\n%s", table(s.outcomes))
	t.Logf("devices in lists:\n%s", table(s.devices))
	t.Logf("audit records: %d", s.records)
	t.Logf("what was done:\n%s", table(s.played))
	t.Logf("with nothing in the way: half of the answers within %v, 99 of 100 within %v, 999 of 1000 within %v; the slowest of all, but for those who came while it stood still, took %v", s.percentile(0.5), s.percentile(0.99), s.percentile(0.999), s.slowest.Round(time.Millisecond))
	t.Logf("the cloud was asked %v", counts(s.cloud))
	t.Logf("afterwards: %v, %d goroutines", figures, left)
	if len(s.wrong) > 0 {
		t.Errorf("wrong:\n%s", table(s.wrong))
	}
	flat(t, samples)
	if figures.files > freshFigures.files+4 || left > freshGoroutines+4 {
		t.Errorf("%d files and %d goroutines are left; after 10 s there were %d and %d", figures.files, left, freshFigures.files, freshGoroutines)
	}
	for n := range leftAlone {
		want := deviceNumber(actedOn + n)
		if device, _ := s.cloud.Device(want.ID); device.ResourceName != want.ResourceName {
			t.Errorf("nobody asked to take the account off %s, and it is off", want.ID)
		}
	}
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	s := &soak{
		load: newLoad(t, seed), cloud: azuresim.New(), random: rand.New(rand.NewPCG(seed, 0)),
		played: map[string]int{},
	}
	for n := range actedOn + leftAlone {
		s.cloud.PutDevice(deviceNumber(n))
	}
	for n := range 2 {
		twin := deviceNumber(actedOn + leftAlone + n)
		twin.SerialNumber = "Default string"
		s.cloud.PutDevice(twin)
	}
	// Renewed every minute; an hour would be longer than the soak.
	s.cloud.SetTokenLife(6 * time.Minute)
	s.replaceAppSecret()
	signing, api := s.newKeys()
	s.store(0, signing, api)
	s.use(0, signing, api)
	served := s.cloud.ServeHTTP2()
	t.Cleanup(served.Close)
	s.served = served
	s.program = prepare(t, s.cloud, served, nil,
		"WEBHOOK_SECRET_NAMES=webhook-0,webhook-1,webhook-2", "API_KEY_SECRET_NAMES=api-key-0,api-key-1,api-key-2", "RATE_LIMIT=0", "REQUEST_TIMEOUT="+timeLimit.String())
	s.program.out.take = s.audit
	s.program.listen(t)
	return s
}

// during keeps up the load while work runs, and gives the removed accounts back.
func (s *soak) during(t *testing.T, planned time.Duration, work func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), planned+10*time.Minute)
	defer cancel()
	s.begun = time.Now()
	s.rate.Store(rate)
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	running.Go(func() {
		for n := 0; ctx.Err() == nil; time.Sleep(time.Second) {
			for range 50 {
				s.cloud.PutDevice(deviceNumber(n % actedOn))
				n++
			}
			s.cloud.Forget()
		}
	})
	work()
	cancel()
	running.Wait()
	s.finish()
}

// end ends the program, and returns its resources after a time without requests and connections.
func (s *soak) end(t *testing.T) (figures, int) {
	t.Helper()
	s.served.CloseIdle()
	time.Sleep(2 * time.Second)
	f := measure(t, s.program)
	n := goroutines(t, s.program)
	if out := s.program.out.String(); strings.Contains(out, "panic") {
		t.Errorf("something panicked:\n%s", out)
	}
	return f, n
}

// playAll plays cards, with a pause after each, until the time is over. It begins with the mandatory ones.
func (s *soak) playAll() {
	first := []card{
		{"keys under a new name", (*soak).keysByName},
		{"the app's secret, and all tokens taken back", func(s *soak) bool { return s.appSecret(true) }},
		{"still, nobody asking", func(s *soak) bool { return s.freeze(false, false) }},
		{"still, with all connections closed", func(s *soak) bool { return s.freeze(true, false) }},
	}
	rest := append(slices.Clone(first),
		card{"keys in new versions", (*soak).keysByVersion},
		card{"the app's secret, the old one refused", func(s *soak) bool { return s.appSecret(false) }},
		card{"all tokens taken back", (*soak).takeBack},
		card{"still under load", (*soak).freezeUnderLoad},
		card{"still, with requests on the way", (*soak).freezeMidway},
		card{"still until the tokens have ended", func(s *soak) bool { return s.freeze(true, true) }},
	)
	for _, f := range faults() {
		rest = append(rest, card{f.name, func(s *soak) bool { return s.suffer(f) }})
	}
	only := regexp.MustCompile(*soakOnly)
	other := func(c card) bool { return !only.MatchString(c.name) }
	first, rest = slices.DeleteFunc(first, other), slices.DeleteFunc(rest, other)
	s.rest(10 * time.Second)
	var later []card
	for deck := first; s.left() > 10*time.Second; {
		if len(deck) == 0 {
			deck = slices.Clone(rest)
			s.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
			deck, later = append(later, deck...), nil
		}
		var c card
		c, deck = deck[0], deck[1:]
		if !s.switchAt.IsZero() && time.Now().After(s.switchAt) {
			s.useNewVersions()
		}
		if !c.play(s) {
			later = append(later, c)
			s.rest(10 * time.Millisecond)
			continue
		}
		s.played[c.name]++
		s.rest(time.Duration(4+s.random.IntN(4)) * time.Second)
	}
	s.rest(max(s.left(), 0))
}

func (s *soak) left() time.Duration { return *soakTime - time.Since(s.begun) }

func (s *soak) rest(d time.Duration) { time.Sleep(d) }

// suffer applies a fault for a while.
func (s *soak) suffer(f fault) bool {
	lasts := time.Duration(8+s.random.IntN(5)) * time.Second
	if f.long {
		lasts = 45 * time.Second
	}
	switch {
	case s.left() < lasts+f.lingers+5*time.Second,
		len(f.strangers) > 0 && !s.oneMissing(), // which would not show, or keep a new version from being read
		f.rotate && !s.maySecret():
		return false
	}
	times := f.times
	if times == 0 {
		times = -1
	}
	w, keys := s.open(window{name: f.name, extra: f.extra}), s.open(window{name: f.name, strangers: f.strangers})
	s.cloud.Fail(f.step, times, f.how)
	if f.revoke {
		s.cloud.RevokeTokens()
	}
	if f.rotate {
		s.replaceAppSecret()
		s.cloud.RevokeTokens()
	}
	s.rest(lasts)
	s.cloud.Heal()
	s.shut(w, f.lingers)
	if len(f.strangers) > 0 {
		s.shut(keys, unread)
	} else {
		s.shut(keys, 0)
	}
	s.rest(f.lingers)
	must := f.extra
	if len(must) == 0 && f.step == azuresim.StepSecret {
		w, must = keys, f.strangers
	}
	if len(must) > 0 && f.times == 0 && !s.saw(w, must[0]) {
		s.mu.Lock()
		s.complain("a fault that does not show", "%s: nobody was answered %s", f.name, must[0])
		s.mu.Unlock()
	}
	return true
}

// newValue returns a value that no secret has had.
func (s *soak) newValue() string {
	s.drawn++
	return fmt.Sprintf("canary-%016x-%04d", s.random.Uint64(), s.drawn)
}

// replaceAppSecret stores a new secret of the app in the vault and makes Entra ID refuse the old one.
func (s *soak) replaceAppSecret() {
	value := s.newValue()
	s.secrets.Store(value, nil)
	s.cloud.PutSecret("graph-client-secret", azuresim.Secret{Value: value})
	s.cloud.SetAppSecrets(value)
	s.secretAt = time.Now()
}

// maySecret reports whether the app's secret may be replaced: a refusal causes a fetch every 30 s at most.
func (s *soak) maySecret() bool { return time.Since(s.secretAt) > 31*time.Second }

// appSecret replaces the app's secret. A valid token stays in use until its renewal, unless it is revoked.
func (s *soak) appSecret(revoke bool) bool {
	takes := 70 * time.Second
	if revoke {
		takes = 5 * time.Second
	}
	if !s.maySecret() || s.left() < takes+10*time.Second {
		return false
	}
	before := s.cloud.Count(azuresim.StepToken)
	s.replaceAppSecret()
	if revoke {
		s.cloud.RevokeTokens()
	}
	s.rest(takes)
	s.secretAt = time.Now()
	if s.cloud.Count(azuresim.StepToken) < before+2 { // one that is refused, and one that is not
		s.Errorf("the app's secret was replaced, and Entra ID asked %d times", s.cloud.Count(azuresim.StepToken)-before)
	}
	return true
}

// takeBack makes Graph refuse all present tokens.
func (s *soak) takeBack() bool {
	before := s.cloud.Count(azuresim.StepToken)
	s.cloud.RevokeTokens()
	s.rest(5 * time.Second)
	if n := s.cloud.Count(azuresim.StepToken) - before; n == 0 || n > 5 {
		s.Errorf("all tokens were taken back, and Entra ID asked for %d", n)
	}
	return true
}

// newKeys returns keys of callers as the vault stores them.
func (s *soak) newKeys() (signing, api string) {
	value := s.newValue()
	signing, api = "whsec_"+base64.StdEncoding.EncodeToString([]byte(value)), s.newValue()
	for _, secret := range []string{value, signing, api} {
		s.secrets.Store(secret, nil)
	}
	return signing, api
}

// store puts keys into the secrets of that number.
func (s *soak) store(name int, signing, api string) {
	s.cloud.PutSecret(fmt.Sprintf("webhook-%d", name), azuresim.Secret{Value: signing})
	s.cloud.PutSecret(fmt.Sprintf("api-key-%d", name), azuresim.Secret{Value: api})
}

// use makes the callers use keys, stored in the secrets of that number.
func (s *soak) use(name int, signing, api string) {
	s.webhook.Store(signing)
	s.api.Store(api)
	s.name = name
}

// disable disables the secrets of that number.
func (s *soak) disable(name int) {
	s.cloud.PutSecret(fmt.Sprintf("webhook-%d", name), azuresim.Secret{Value: s.newValue(), Disabled: true})
	s.cloud.PutSecret(fmt.Sprintf("api-key-%d", name), azuresim.Secret{Value: s.newValue(), Disabled: true})
}

// spare is the number of the secrets that are missing or disabled most of the time.
const spare = 2

// known is the time after which keys are known that were stored in secrets formerly missing or disabled.
const known = 32 * time.Second

// keysByName replaces the keys of callers as docs/operations.md describes it, with keys in other secrets. One named
// key is missing at all times, so that new keys are known within 30 seconds.
func (s *soak) keysByName() bool {
	if !s.oneMissing() || s.left() < known+10*time.Second {
		return false
	}
	old := s.name
	signing, api := s.newKeys()
	s.store(1-old, signing, api)
	s.rest(known)
	s.use(1-old, signing, api)
	s.rest(3 * time.Second) // for requests signed with the old key
	s.disable(old)
	return true
}

// keysByVersion stores new versions in fetched secrets, which nothing fetches again before an unknown key arrives, at
// most once in five minutes. The callers receive the keys after that.
func (s *soak) keysByVersion() bool {
	if !s.oneMissing() || s.left() < known+7*time.Minute {
		return false
	}
	s.store(1-s.name, s.newValue(), s.newValue()) // the first is no key at all, which must do no harm
	signing, api := s.newKeys()
	s.store(1-s.name, signing, api)
	signing, api = s.newKeys()
	s.store(spare, signing, api) // so that none is missing
	s.rest(known)
	s.newVersion[0], s.newVersion[1] = s.newKeys()
	s.store(1-s.name, s.newVersion[0], s.newVersion[1])
	s.switchAt = time.Now().Add(mismatch)
	return true
}

func (s *soak) useNewVersions() {
	old := s.name
	s.use(1-old, s.newVersion[0], s.newVersion[1])
	s.rest(5 * time.Second)
	s.disable(old)
	s.disable(spare)
	s.switchAt, s.readAt = time.Time{}, time.Now().Add(mismatch)
	s.played["keys in new versions are used"]++
}

// mismatch is the time since an unknown key caused a fetch.
const mismatch = 5*time.Minute + 5*time.Second

// oneMissing reports whether one key of each kind is known to be missing, so that keys are fetched every 30 seconds.
func (s *soak) oneMissing() bool { return s.switchAt.IsZero() && time.Now().After(s.readAt) }

// stand pauses the program for d.
func (s *soak) stand(d time.Duration, meanwhile func()) {
	w := s.open(window{name: "still", frozen: true})
	s.signal(syscall.SIGSTOP)
	meanwhile()
	s.rest(d - time.Since(w.from))
	s.signal(syscall.SIGCONT)
	s.shut(w, 2*time.Second) // waiting requests delay new ones
}

func (s *soak) signal(sig syscall.Signal) {
	if err := s.program.process.Process.Signal(sig); err != nil {
		s.Errorf("%v: %v", sig, err)
	}
}

// freeze pauses the program while only a few requests arrive, as a host does between requests. None of them may fail
// because of it, even if the services have closed all connections or the tokens have expired.
func (s *soak) freeze(closed, expired bool) bool {
	longest := min(70*time.Second, s.left()/8)
	if longest < 5*time.Second || expired && longest < 70*time.Second {
		return false
	}
	d := 5*time.Second + time.Duration(s.random.Int64N(int64(longest-5*time.Second)+1))
	if expired {
		d = 70 * time.Second
		s.cloud.SetTokenLife(90 * time.Second)
		s.cloud.RevokeTokens()
		s.rest(2 * time.Second)
		s.cloud.SetTokenLife(6 * time.Minute)
	}
	s.rate.Store(0)
	s.rest(300 * time.Millisecond) // for started requests
	for wait := time.Now(); s.inFlight.Load() > 0 && time.Since(wait) < patience; {
		time.Sleep(time.Millisecond)
	}
	s.stand(d, func() {
		if closed {
			s.served.CloseIdle()
		}
		s.rest(d / 2)
		s.rate.Store(20)
	})
	s.rate.Store(rate)
	return true
}

// freezeUnderLoad pauses the program for less than a try takes, so that no request fails because of it.
func (s *soak) freezeUnderLoad() bool {
	if s.left() < 15*time.Second {
		return false
	}
	s.stand(2*time.Second, func() {})
	return true
}

// freezeMidway pauses the program for longer than a request may take, with requests in flight. Those may run out of
// time; each still gets a response.
func (s *soak) freezeMidway() bool {
	if s.left() < 30*time.Second {
		return false
	}
	w := s.open(window{name: "requests on the way when it stood still", extra: []string{"504 graph_timeout", "504 identity_timeout", "504 vault_timeout"}})
	s.stand(15*time.Second, func() {
		s.rate.Store(0)
		s.shut(w, 100*time.Millisecond)
	})
	s.rate.Store(rate)
	return true
}

// sample is a measurement of the program's resources at a time.
type sample struct {
	at time.Duration
	figures
}

// shortest is the shortest soak whose memory is judged. Memory used during a fault is freed over some minutes
// (net/http keeps a broken HTTP/2 connection until its idle time of 90 s ends); in a shorter soak the result would
// depend on the time of that fault.
const shortest = 15 * time.Minute

// flat fails if the lower quartile of memory in the last third of the time exceeds the first third's, without its
// first tenth, by more than 2 MiB and 10 %. The lower quartile is the level between faults; memory used during a
// fault, for a thousand requests at once, is no growth.
func flat(t *testing.T, samples []sample) {
	t.Helper()
	warm := *soakTime / 10
	thirds := [3][]sample{}
	for _, s := range samples {
		if s.at >= warm && s.at < *soakTime {
			third := int(3 * (s.at - warm) / (*soakTime - warm))
			thirds[third] = append(thirds[third], s)
		}
	}
	quartiles := func(samples []sample) (rss, threads, files int) {
		of := func(value func(sample) int) int {
			var values []int
			for _, s := range samples {
				values = append(values, value(s))
			}
			slices.Sort(values)
			if len(values) == 0 {
				return 0
			}
			return values[len(values)/4]
		}
		return of(func(s sample) int { return s.rss }), of(func(s sample) int { return s.threads }), of(func(s sample) int { return s.files })
	}
	var rss [3]int
	for i, name := range []string{"first", "second", "last"} {
		var threads, files int
		rss[i], threads, files = quartiles(thirds[i])
		t.Logf("lower quartile of %d samples in the %s third: %d KiB resident, %d threads, %d files", len(thirds[i]), name, rss[i], threads, files)
	}
	if *soakTime >= shortest && rss[2] > rss[0]+max(2<<10, rss[0]/10) {
		t.Errorf("memory grew from %d to %d KiB", rss[0], rss[2])
	}
}
