package app_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

// crowd are callers who call all the time, each on its own, until the crowd goes home. Every answer to them must be a
// success.
type crowd struct {
	cloud    *azuresim.Cloud
	handler  http.Handler
	switched atomic.Int32 // how many of them use the new key
	home     chan struct{}
	calling  sync.WaitGroup
	answered atomic.Int32
}

// callers is the number of callers of a crowd.
const callers = 8

// gather has a crowd call the whole program in this process, on cloud and with changed settings, each caller every so
// often. A caller makes its requests authentic with before until it has switched, and with after from then on.
func gather(
	t *testing.T, cloud *azuresim.Cloud, every time.Duration, before, after func(*sent), changes ...string,
) *crowd {
	t.Helper()
	c := &crowd{cloud: cloud, handler: wired(t, cloud, &bytes.Buffer{}, changes...), home: make(chan struct{})}
	// so that there are always some on the way; a call has two
	cloud.Fail(azuresim.StepGraph, -1, azuresim.Delay(3*time.Second/2))
	for i := range callers {
		c.calling.Go(func() {
			for time.Sleep(time.Duration(i)*every/callers + time.Millisecond); ; time.Sleep(every) {
				select {
				case <-c.home:
					return
				default:
				}
				prove := before
				if i < int(c.switched.Load()) {
					prove = after
				}
				if w := ask(t, c.handler, post(validBody, prove)); w.Code != http.StatusNoContent {
					t.Errorf("caller %d, of whom %d have switched: %d %s", i, c.switched.Load(), w.Code, w.Body)
				}
				c.answered.Add(1)
			}
		})
	}
	return c
}

// switchOver has one caller after the other use the new key, over a minute.
func (c *crowd) switchOver() {
	for range callers {
		c.switched.Add(1)
		time.Sleep(time.Minute / callers)
	}
}

// leave ends the calls, of which there must have been at least so many.
func (c *crowd) leave(t *testing.T, calls int) {
	t.Helper()
	close(c.home)
	c.calling.Wait()
	if n := int(c.answered.Load()); n < calls {
		t.Errorf("there were %d calls, want at least %d", n, calls)
	}
}

// atMost fails the test if a step has seen more requests than that since it had seen before.
func (c *crowd) atMost(t *testing.T, step azuresim.Step, before, most int, when string) {
	t.Helper()
	if n := c.cloud.Count(step) - before; n > most {
		t.Errorf("%s: %d requests of the step %s, want at most %d", when, n, step, most)
	}
}

// keyKind is a kind of callers' keys.
type keyKind struct {
	setting  string
	old, new string // as they are in the vault
	prove    func(key string) func(*sent)
}

var keyKinds = map[string]keyKind{
	"webhook": {
		"WEBHOOK_SECRET_NAMES", encodeKey([]byte("old-signing-key-0123456789abcd")),
		encodeKey([]byte("new-signing-key-0123456789abcd")), func(key string) func(*sent) {
			return func(s *sent) {
				decoded, err := caller.DecodeSignatureKey(key)
				if err != nil {
					panic(err)
				}
				caller.Sign(s.Header, decoded, s.Header.Get("Webhook-Id"), time.Now(), []byte(s.Body))
			}
		},
	},
	"API": {
		"API_KEY_SECRET_NAMES", "old-api-key-0123456789abcdef", "new-api-key-0123456789abcdef",
		func(key string) func(*sent) {
			return func(s *sent) {
				unsigned(s)
				s.Header.Set("X-Api-Key", key)
			}
		},
	},
}

// TestKeyRotation replaces a key of callers as docs/operations.md says, while they call: the new one is stored beside
// the old, the callers switch, the old one is disabled.
func TestKeyRotation(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	for name, kind := range keyKinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rotateKey(t, kind) })
		})
	}
}

func rotateKey(t *testing.T, kind keyKind) {
	t.Helper()
	const every = 20 * time.Second
	cloud := newCloud()
	cloud.PutSecret("key-a", azuresim.Secret{Value: kind.old})
	start := time.Now()
	c := gather(t, cloud, every, kind.prove(kind.old), kind.prove(kind.new), "WEBHOOK_SECRET_NAMES", "", kind.setting, "key-a,key-b")
	time.Sleep(time.Minute)
	cloud.PutSecret("key-b", azuresim.Secret{Value: kind.new})
	time.Sleep(30 * time.Second)
	c.switchOver()
	if n := cloud.Count(azuresim.StepSecret); n > 9 { // the app's secret, and two keys at 0, 30, 60 and 90 s
		t.Errorf("%d requests for secrets until all had switched, want at most 9", n)
	}
	cloud.PutSecret("key-a", azuresim.Secret{Value: kind.old, Disabled: true})
	before := cloud.Count(azuresim.StepSecret)
	// No request has missed all keys so far. The first miss refreshes the keys, so that the old one is gone at once.
	if w := ask(t, c.handler, post(validBody, kind.prove(kind.old+"BBBB"))); w.Code != http.StatusUnauthorized {
		t.Errorf("a key that is none: %d %s", w.Code, w.Body)
	}
	if w := ask(t, c.handler, post(validBody, kind.prove(kind.old))); w.Code != http.StatusUnauthorized {
		t.Errorf("the old key after its end: %d %s", w.Code, w.Body)
	}
	time.Sleep(5 * time.Minute)
	c.leave(t, callers*int(time.Since(start)/(every+3*time.Second)-1))
	c.atMost(t, azuresim.StepSecret, before, 2*11, "after the old key was disabled, which is looked for every 30 s")
	c.atMost(t, azuresim.StepToken, 0, 1, "for callers' keys")
	c.atMost(t, azuresim.StepIdentity, 0, 1, "for callers' keys")
}

// TestClientSecretRotation has Entra refuse the app's old secret in the moment in which the new one is stored, and in
// one case also Graph all tokens that were issued for it, while callers call.
func TestClientSecretRotation(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	rotations(t, "GRAPH_SECRET_NAME", func(cloud *azuresim.Cloud, secret string) string {
		cloud.SetAppSecrets(secret)
		return secret
	})
}

// TestCertificateRotation is TestClientSecretRotation for an app that signs in with a certificate.
func TestCertificateRotation(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	certs := map[string]func() (*rsa.PrivateKey, *x509.Certificate){
		"old": sync.OnceValues(simulated.NewCertificate),
		"new": sync.OnceValues(simulated.NewCertificate),
	}
	rotations(t, "GRAPH_CERTIFICATE_NAME", func(cloud *azuresim.Cloud, which string) string {
		key, cert := certs[which]()
		cloud.SetAppCertificates(cert)
		return simulated.InPEM(key, cert)
	})
}

// rotations rotates a credential of the app that the setting names. accept makes Entra accept one of that name and no
// other, and returns the value to store.
func rotations(t *testing.T, setting string, accept func(cloud *azuresim.Cloud, which string) string) {
	t.Helper()
	for name, test := range map[string]struct {
		revoked bool
		token   int // requests for tokens after the rotation, in the hour after it
	}{
		// The old token is used to within 5 min of its end. Then the old credential is refused once, and the new one asked.
		"tokens stay good": {false, 2},
		// The old credential is refused once, the new one asked, and its token renewed after 55 min.
		"tokens are revoked": {true, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := newCloud()
				cloud.PutSecret("app-credential", azuresim.Secret{Value: accept(cloud, "old")})
				cloud.Fail(azuresim.StepToken, -1, azuresim.Delay(2*time.Second))
				key := func(*sent) {}
				c := gather(t, cloud, time.Minute, key, key, "GRAPH_SECRET_NAME", "", setting, "app-credential")
				time.Sleep(time.Minute)
				c.atMost(t, azuresim.StepToken, 0, 1, "before")
				tokens, secrets := cloud.Count(azuresim.StepToken), cloud.Count(azuresim.StepSecret)
				cloud.PutSecret("app-credential", azuresim.Secret{Value: accept(cloud, "new")})
				if test.revoked {
					cloud.RevokeTokens()
				}
				time.Sleep(58 * time.Minute)
				c.leave(t, 50*callers)
				c.atMost(t, azuresim.StepSecret, secrets, 58*60/50+1, "after: the callers' key each 50 s, and the app's secret once")
				if n := cloud.Count(azuresim.StepToken) - tokens; n != test.token {
					t.Errorf("%d requests for tokens after the rotation, want %d", n, test.token)
				}
				if n := cloud.Count(azuresim.StepGraph) - 2*int(c.answered.Load()); n < 0 || n > callers {
					t.Errorf("Graph was asked %d times more than callers were answered, want at most %d", n, callers)
				}
			})
		})
	}
}
