package jwks_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/jwks"
	"autopilot-unassign/internal/upstream"
)

const issuer = "https://login.microsoftonline.com/"

// world is a Source on a cloud of its own.
type world struct {
	t      *testing.T
	cloud  *azuresim.Cloud
	source *jwks.Source
	log    *bytes.Buffer
}

// simulate runs a test in which time is not real. A goroutine that is left behind fails it.
func simulate(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, cloud: azuresim.New(), log: &bytes.Buffer{}}
		w.source = jwks.New(w.cloud, issuer, issuer, slog.New(slog.NewJSONHandler(w.log, nil)), w.cloud.TenantID)
		test(w)
	})
}

// id returns the id of the key that the cloud signs with now.
func (w *world) id() string {
	header, _, _ := strings.Cut(w.cloud.Token(azuresim.Claims{}, nil), ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		w.t.Fatal(err)
	}
	var parsed struct{ Kid string }
	if err := json.Unmarshal(text, &parsed); err != nil {
		w.t.Fatal(err)
	}
	return parsed.Kid
}

// ask asks for a key, and returns the result as a word: the number of keys, or the error.
func (w *world) ask(id string) string {
	return w.askWithin(25*time.Second, id)
}

func (w *world) askWithin(limit time.Duration, id string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	start := time.Now()
	keys, err := w.source.Keys(ctx, w.cloud.TenantID, id)
	if took := time.Since(start); took > min(limit, 5*time.Second) {
		w.t.Errorf("the keys took %v", took)
	}
	if err == nil {
		return fmt.Sprint(len(keys))
	}
	failure, ok := errors.AsType[*upstream.Error](err)
	if !ok || failure.Service != upstream.Identity || failure.MaybeDone {
		w.t.Errorf("the error is %#v", err)
	}
	return string(failure.Reason)
}

// want asks for a key, and compares the result and the number of reads so far.
func (w *world) want(when, id, what string, reads int) {
	w.t.Helper()
	if got := w.ask(id); got != what || w.cloud.Count(azuresim.StepKeys) != reads {
		w.t.Errorf("%s: %s after %d readings, want %s after %d", when, got, w.cloud.Count(azuresim.StepKeys), what, reads)
	}
}

func TestKeysAreReadOnce(t *testing.T) {
	simulate(t, func(w *world) {
		id := w.id()
		w.want("cold", id, "1", 1)
		w.want("warm", id, "1", 1)
		request := w.cloud.Requests(azuresim.StepKeys)[0]
		if request.Method != http.MethodGet || request.Host != "login.microsoftonline.com" ||
			request.Path != "/"+w.cloud.TenantID+"/discovery/v2.0/keys" || request.RawQuery != "" ||
			request.Header.Get("Authorization") != "" {
			t.Errorf("the request is %+v", request)
		}
		time.Sleep(time.Hour - time.Second)
		w.want("within the hour", id, "1", 1)
		time.Sleep(time.Second)
		w.want("after an hour", id, "1", 2)
		w.want("after that", id, "1", 2)
		if keys, err := w.source.Keys(t.Context(), "11111111-2222-4333-8444-555555555555", id); len(keys) > 0 || err != nil {
			t.Errorf("of a tenant that is not one of ours: %v, %v", keys, err)
		}
		w.want("after a stranger's", id, "1", 2)
		if w.log.Len() > 0 {
			t.Errorf("the log has %s", w.log)
		}
	})
}

// An unknown id costs one read, then none for five minutes. No caller waits for these minutes.
func TestUnknownKey(t *testing.T) {
	simulate(t, func(w *world) {
		w.want("cold", w.id(), "1", 1)
		start := time.Now()
		for i := range 50 {
			w.want("unknown", fmt.Sprint("stranger-", i), "0", 2)
		}
		if time.Since(start) > 0 {
			t.Errorf("it took %v", time.Since(start))
		}
		time.Sleep(5*time.Minute - time.Second)
		w.want("just before five minutes", "stranger", "0", 2)
		time.Sleep(time.Second)
		w.want("after five minutes", "stranger", "0", 3)
		w.want("known all the while", w.id(), "1", 3)
	})
}

func TestManyUnknownKeysAtOnce(t *testing.T) {
	simulate(t, func(w *world) {
		w.want("cold", w.id(), "1", 1)
		w.cloud.Fail(azuresim.StepKeys, -1, azuresim.Delay(2*time.Second))
		var asking sync.WaitGroup
		for i := range 200 {
			asking.Go(func() {
				if got := w.ask(fmt.Sprint("stranger-", i)); got != "0" {
					t.Errorf("an unknown key: %s", got)
				}
			})
		}
		asking.Go(func() {
			start := time.Now()
			if got := w.ask(w.id()); got != "1" || time.Since(start) > 0 {
				t.Errorf("a known key: %s after %v", got, time.Since(start))
			}
		})
		asking.Wait()
		if reads := w.cloud.Count(azuresim.StepKeys); reads != 2 {
			t.Errorf("the keys were read %d times, want 2", reads)
		}
	})
}

// The first caller that needs a new key finds it, and all concurrent callers get it too.
func TestRotation(t *testing.T) {
	simulate(t, func(w *world) {
		old := w.id()
		w.want("cold", old, "1", 1)
		w.cloud.RotateSigningKey()
		w.cloud.Fail(azuresim.StepKeys, -1, azuresim.Delay(time.Second))
		var asking sync.WaitGroup
		for range 50 {
			asking.Go(func() {
				if got := w.ask(w.id()); got != "1" {
					t.Errorf("the new key: %s", got)
				}
			})
			asking.Go(func() {
				if got := w.ask(old); got != "1" {
					t.Errorf("the old key: %s", got)
				}
			})
		}
		asking.Wait()
		w.want("after that", w.id(), "1", 2)

		w.cloud.Heal()
		w.cloud.RevokeSigningKeys()
		time.Sleep(time.Hour - 2*time.Second)
		w.want("revoked, within the hour", old, "1", 2)
		time.Sleep(2 * time.Second)
		w.want("revoked, after an hour", old, "0", 3)
	})
}

// A reading after an hour holds up the one request that does it.
func TestRefreshIsDoneByOne(t *testing.T) {
	simulate(t, func(w *world) {
		id := w.id()
		w.want("cold", id, "1", 1)
		time.Sleep(time.Hour)
		w.cloud.Fail(azuresim.StepKeys, 1, azuresim.Delay(3*time.Second))
		var mu sync.Mutex
		waited := 0
		var asking sync.WaitGroup
		for range 20 {
			asking.Go(func() {
				start := time.Now()
				if got := w.ask(id); got != "1" {
					t.Errorf("a known key: %s", got)
				}
				mu.Lock()
				defer mu.Unlock()
				if time.Since(start) > 0 {
					waited++
				}
			})
		}
		asking.Wait()
		if waited != 1 || w.cloud.Count(azuresim.StepKeys) != 2 {
			t.Errorf("%d requests waited, the keys were read %d times", waited, w.cloud.Count(azuresim.StepKeys))
		}
	})
}

// While Entra ID is down, cached keys are valid for a day, and a retry waits half a minute after each failure.
func TestLastKnownGood(t *testing.T) {
	simulate(t, func(w *world) {
		id := w.id()
		w.want("cold", id, "1", 1)
		w.cloud.Fail(azuresim.StepKeys, -1, azuresim.Status(503))
		time.Sleep(time.Hour)
		w.want("after an hour", id, "1", 2)
		w.want("unknown, while it is down", "new", "unavailable", 2)
		time.Sleep(30*time.Second - time.Nanosecond)
		w.want("within the half minute", id, "1", 2)
		time.Sleep(time.Nanosecond)
		w.want("after the half minute", id, "1", 3)
		if log := w.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, `"used_on":true`) ||
			strings.Contains(log, w.cloud.TenantID) {
			t.Errorf("the log has %s", log)
		}
		time.Sleep(23*time.Hour - 31*time.Second)
		w.want("within the day", id, "1", 4)
		time.Sleep(time.Second)
		w.want("after a day", id, "unavailable", 4)
		w.cloud.Heal()
		time.Sleep(29 * time.Second)
		w.want("healed", id, "1", 5)
		w.want("healed, a stranger's", "stranger", "0", 6)
	})
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		fault azuresim.Fault
		want  upstream.Reason
		pause time.Duration // after which it is tried again
	}{
		"500":           {azuresim.Status(500), upstream.Unavailable, 30 * time.Second},
		"503":           {azuresim.Status(503, "Retry-After", "10"), upstream.Unavailable, 30 * time.Second},
		"503 for 1 min": {azuresim.Status(503, "Retry-After", "60"), upstream.Unavailable, time.Minute},
		"503 for ever":  {azuresim.Status(503, "Retry-After", "86400"), upstream.Unavailable, 5 * time.Minute},
		"429":           {azuresim.Status(429), upstream.Throttled, 30 * time.Second},
		"504":           {azuresim.Status(504), upstream.Timeout, 30 * time.Second},
		"400":           {azuresim.Status(400), upstream.BadAnswer, 30 * time.Second},
		"401":           {azuresim.Status(401), upstream.BadAnswer, 30 * time.Second},
		"404":           {azuresim.Status(404), upstream.BadAnswer, 30 * time.Second},
		"hangs":         {azuresim.Hang(), upstream.Timeout, 30 * time.Second},
		"too slow":      {azuresim.Delay(6 * time.Second), upstream.Timeout, 30 * time.Second},
		"reset":         {azuresim.Reset(), upstream.BadAnswer, 30 * time.Second},
		"cut off":       {azuresim.ResetMidBody(), upstream.BadAnswer, 30 * time.Second},
		"truncated":     {azuresim.Truncated(), upstream.BadAnswer, 30 * time.Second},
		"10 MiB":        {azuresim.Oversize(10 << 20), upstream.BadAnswer, 30 * time.Second},
		"more than 1 MiB": {azuresim.Body(200, "application/json", `{"keys":[`+member("key", testKey().N,
			nil)+`],"fill":"`+strings.Repeat("x", 1<<20)+`"}`), upstream.BadAnswer, 30 * time.Second},
		"a page":       {azuresim.WrongType(), upstream.BadAnswer, 30 * time.Second},
		"a redirect":   {azuresim.Redirect("https://stranger.example/keys"), upstream.BadAnswer, 30 * time.Second},
		"no host":      {azuresim.NoHost(), upstream.Unreachable, 30 * time.Second},
		"refused":      {azuresim.Refused(), upstream.Unreachable, 30 * time.Second},
		"untrusted":    {azuresim.Untrusted(), upstream.Untrusted, 30 * time.Second},
		"an empty set": {azuresim.Body(200, "application/json", `{"keys":[]}`), upstream.BadAnswer, 30 * time.Second},
		"no set":       {azuresim.Body(200, "application/json", `{}`), upstream.BadAnswer, 30 * time.Second},
		"null":         {azuresim.Body(200, "application/json", `null`), upstream.BadAnswer, 30 * time.Second},
		"nothing":      {azuresim.Body(200, "application/json", ``), upstream.BadAnswer, 30 * time.Second},
		"204":          {azuresim.Body(204, "application/json", ``), upstream.BadAnswer, 30 * time.Second},
		"unknown tenant": {
			azuresim.Body(400, "application/json", `{"error":"invalid_tenant","error_codes":[90002]}`),
			upstream.TenantNotFound, 30 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.cloud.Fail(azuresim.StepKeys, -1, test.fault)
				id := w.id()
				w.want("cold", id, string(test.want), 1)
				w.want("at once", id, string(test.want), 1)
				time.Sleep(test.pause - time.Nanosecond)
				w.want("before the pause ends", id, string(test.want), 1)
				_, err := w.source.Keys(t.Context(), w.cloud.TenantID, id)
				if failure, ok := errors.AsType[*upstream.Error](err); !ok || failure.RetryAfter != time.Nanosecond {
					t.Errorf("RetryAfter of %#v", err)
				}
				w.cloud.Heal()
				time.Sleep(time.Nanosecond)
				w.want("after the pause", id, "1", 2)
			})
			simulate(t, func(w *world) {
				id := w.id()
				w.want("cold", id, "1", 1)
				w.cloud.Fail(azuresim.StepKeys, -1, test.fault)
				w.want("unknown", "stranger", string(test.want), 2)
				w.want("known", id, "1", 2)
			})
		})
	}
}

// Each waits no longer than its own time, and a request with little of it does not keep the others waiting for long.
func TestWaitersKeepTheirDeadlines(t *testing.T) {
	simulate(t, func(w *world) {
		w.cloud.Fail(azuresim.StepKeys, 1, azuresim.Delay(4*time.Second))
		id := w.id()
		var asking sync.WaitGroup
		asking.Go(func() {
			if got := w.ask(id); got != "1" {
				t.Errorf("who has time: %s", got)
			}
		})
		synctest.Wait()
		asking.Go(func() {
			if got := w.askWithin(time.Second, id); got != "timeout" {
				t.Errorf("who has none: %s", got)
			}
		})
		asking.Wait()
		w.want("after that", id, "1", 1)
	})
	simulate(t, func(w *world) {
		w.cloud.Fail(azuresim.StepKeys, 1, azuresim.Hang())
		id := w.id()
		start := time.Now()
		if got := w.askWithin(time.Second, id); got != "timeout" || time.Since(start) != 500*time.Millisecond {
			t.Errorf("within a second: %s after %v", got, time.Since(start))
		}
		time.Sleep(3*time.Second - time.Nanosecond)
		w.want("before six times that", id, "timeout", 1)
		time.Sleep(time.Nanosecond)
		w.want("after six times that", id, "1", 2)
	})
}

// panics is a Doer that panics once.
type panics struct {
	next upstream.Doer
	once sync.Once
}

func (p *panics) Do(req *http.Request) (*http.Response, error) {
	p.once.Do(func() { panic("canary") })
	return p.next.Do(req)
}

// A panic is a failed read: no request waits for ever.
func TestPanic(t *testing.T) {
	simulate(t, func(w *world) {
		w.source = jwks.New(&panics{next: w.cloud}, issuer, issuer, slog.New(slog.NewJSONHandler(w.log, nil)), w.cloud.TenantID)
		w.want("the panic", w.id(), "bad_answer", 0)
		w.want("after the panic", w.id(), "bad_answer", 0)
		time.Sleep(30 * time.Second)
		w.want("later", w.id(), "1", 1)
		if strings.Contains(w.log.String(), "canary") {
			t.Errorf("the log has %s", w.log)
		}
	})
}

var testKey = sync.OnceValue(func() *rsa.PrivateKey { return makeKey(2048) })

func makeKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

// member returns a key as Entra lists it, with changes, in which nil takes a member out.
func member(id string, n *big.Int, changes map[string]any) string {
	m := map[string]any{
		"kty": "RSA", "use": "sig", "kid": id, "x5t": id,
		"n": base64.RawURLEncoding.EncodeToString(n.Bytes()), "e": "AQAB", "x5c": []string{"MII"},
	}
	for name, value := range changes {
		m[name] = value
		if value == nil {
			delete(m, name)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Which keys of a set are taken: each set has a good one beside the one that is looked at.
func TestSet(t *testing.T) {
	n := testKey().N
	other := makeKey(2048).N
	change := func(name string, value any) string { return member("key", n, map[string]any{name: value}) }
	for name, test := range map[string]struct {
		members string
		want    string // the number of keys by the id "key"
	}{
		"as Entra lists it":              {member("key", n, nil), "1"},
		"with its algorithm":             {change("alg", "RS256"), "1"},
		"with another algorithm":         {change("alg", "RS512"), "0"},
		"with the issuer's template":     {change("issuer", issuer+"{tenantid}/v2.0"), "1"},
		"with the tenant's issuer":       {change("issuer", issuer+"TENANT/v2.0"), "1"},
		"with another tenant's issuer":   {change("issuer", issuer+"9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"), "0"},
		"with an issuer elsewhere":       {change("issuer", "https://login.example/{tenantid}/v2.0"), "0"},
		"with an issuer that is no text": {change("issuer", 1), "0"},
		"for encryption":                 {change("use", "enc"), "0"},
		"for nothing":                    {change("use", nil), "0"},
		"of a curve":                     {`{"kty":"EC","use":"sig","kid":"key","crv":"P-256","x":"AA","y":"AA"}`, "0"},
		"symmetric":                      {`{"kty":"oct","use":"sig","kid":"key","k":"AA"}`, "0"},
		"of a curve that says RSA's":     {change("kty", "EC"), "0"},
		"without an id":                  {change("kid", nil), "0"},
		"of 1024 bits":                   {member("key", makeKey(1024).N, nil), "0"},
		"of 2047 bits":                   {member("key", new(big.Int).SetBit(new(big.Int).Rsh(n, 1), 0, 1), nil), "0"},
		"of 16384 bits": {member("key", new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), 16383), 0, 1),
			nil), "0"},
		"even":                     {member("key", new(big.Int).SetBit(n, 0, 0), nil), "0"},
		"with e=3":                 {change("e", "Aw"), "1"},
		"with e=1":                 {change("e", "AQ"), "0"},
		"with an even e":           {change("e", "AQAA"), "0"},
		"with e of 33 bits":        {change("e", "AQAAAAE"), "0"},
		"with e of 65 bits":        {change("e", "AQAAAAAAAQAB"), "0"},
		"with e of 32 bits":        {change("e", "_____w"), "0"},
		"with no e":                {change("e", nil), "0"},
		"with e in another base64": {change("e", "AQAB=="), "0"},
		"with n in another base64": {change("n", base64.StdEncoding.EncodeToString(n.Bytes())), "0"},
		"with n that is a number":  {change("n", 65537), "0"},
		"that is a string":         {`"key"`, "0"},
		"that is null":             {`null`, "0"},
		"twice":                    {member("key", n, nil) + "," + member("key", n, nil), "1"},
		"twice, not the same":      {member("key", n, nil) + "," + member("key", other, nil), "2"},
		"twice, one of another issuer": {member("key", n, nil) + "," + member("key", other,
			map[string]any{"issuer": "https://login.example"}), "1"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				members := strings.ReplaceAll(test.members, "TENANT", w.cloud.TenantID)
				w.cloud.Fail(azuresim.StepKeys, -1, azuresim.Body(200, "application/json", `{"keys":[`+members+","+member("good",
					n, nil)+`]}`))
				if got := w.ask("good"); got != "1" {
					t.Errorf("the key beside: %s", got)
				}
				if got := w.ask("key"); got != test.want {
					t.Errorf("%s keys, want %s", got, test.want)
				}
			})
		})
	}
}

// FuzzSet answers with any body. Properties:
//  1. Nothing panics, and an error is one of Identity.
//  2. Every key that is handed out is one of RSA of 2048 to 8192 bits with an odd exponent of 3 or more.
func FuzzSet(f *testing.F) {
	n := testKey().N
	f.Add(`{"keys":[`+member("key", n, nil)+`]}`, "key")
	f.Add(`{"keys":[`+member("key", n, map[string]any{"issuer": issuer + "{tenantid}/v2.0"})+`]}`, "key")
	f.Add(`{"keys":[`+member("key", n, map[string]any{"e": "Ag"})+`]}`, "key")
	f.Add(`{"KEYS":[`+member("", n, nil)+`]}`, "")
	f.Add(`{"keys":[{}]}`, "")
	f.Add(`{"keys":null}`, "key")
	f.Add(`[]`, "key")
	const tenant = "11111111-2222-4333-8444-555555555555"
	f.Fuzz(func(t *testing.T, body, id string) {
		cloud := azuresim.New()
		cloud.Fail(azuresim.StepKeys, -1, azuresim.Body(200, "application/json", body))
		source := jwks.New(cloud, issuer, issuer, slog.New(slog.DiscardHandler), tenant)
		keys, err := source.Keys(t.Context(), tenant, id)
		if failure, ok := errors.AsType[*upstream.Error](err); err != nil && (!ok || failure.Service != upstream.Identity) {
			t.Fatalf("the error is %#v", err)
		}
		for _, key := range keys {
			if bits := key.N.BitLen(); bits < 2048 || bits > 8192 || key.E < 3 || key.E%2 == 0 {
				t.Fatalf("a key of %d bits with the exponent %d", bits, key.E)
			}
		}
	})
}
