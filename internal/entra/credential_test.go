package entra_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/upstream"
)

// wantToken gets a token and returns it.
func (w *world) wantToken(c *entra.Credential, when string) string {
	w.T.Helper()
	token, err := c.GetToken(w.T.Context(), graphToken)
	if err != nil || !strings.HasPrefix(token.Token, "eyJ") {
		w.T.Fatalf("%s: no token: %v", when, err)
	}
	return token.Token
}

// wantFailure fails the test unless getting a token fails with that error.
func (w *world) wantFailure(c *entra.Credential, want, when string) {
	w.T.Helper()
	token, err := c.GetToken(w.T.Context(), graphToken)
	if err == nil {
		w.T.Fatalf("%s: a token, want %s", when, want)
	}
	if failed := w.Failure(err); failed.Error() != want || token.Token != "" {
		w.T.Errorf("%s: %v, want %s", when, failed, want)
	}
}

// kind is a way in which an app signs in.
type kind struct {
	credential func(*world) *entra.Credential
	put        func(w *world, renewed bool) // in the vault
	accept     func(w *world, renewed bool) // by Entra, and nothing else
	refused    string
	lists      int // requests for older versions after a refusal
}

func kinds() map[string]kind {
	value := map[bool]string{false: simulated.OldSecret, true: simulated.NewSecret}
	pair := map[bool]*pair{false: oldPair(), true: newPair()}
	return map[string]kind{
		"client secret": {
			(*world).appSecret,
			func(w *world, renewed bool) {
				w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: value[renewed]})
			},
			func(w *world, renewed bool) { w.Cloud.SetAppSecrets(value[renewed]) },
			"identity: credential_rejected (401 AADSTS7000215)", 0,
		},
		"certificate": {
			(*world).appCertificate,
			func(w *world, renewed bool) {
				w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: pair[renewed].pem()})
			},
			func(w *world, renewed bool) { w.Cloud.SetAppCertificates(pair[renewed].cert) },
			"identity: credential_rejected (401 AADSTS700027)", 1,
		},
	}
}

// eachKind runs a test with a credential of every kind, after its first token.
func eachKind(t *testing.T, test func(w *world, k kind, c *entra.Credential, first string)) {
	t.Helper()
	for name, k := range kinds() {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				k.accept(w, false)
				k.put(w, false)
				c := k.credential(w)
				first := w.wantToken(c, "cold")
				w.WantRequests("1 1 1 1 1", "cold")
				if again := w.wantToken(c, "warm"); again != first {
					w.T.Error("a token is not kept")
				}
				w.WantRequests("1 1 1 1 1", "warm")
				test(w, k, c, first)
			})
		})
	}
}

func TestRotation(t *testing.T) {
	eachKind(t, func(w *world, k kind, c *entra.Credential, first string) {
		k.put(w, true)
		k.accept(w, true)
		c.Expire(first)
		w.wantToken(c, "after a rotation")
		w.WantRequests("1 1 2 3 3", "after a rotation")
	})
}

func TestRefusedWithoutRotation(t *testing.T) {
	eachKind(t, func(w *world, k kind, c *entra.Credential, first string) {
		k.accept(w, true)
		c.Expire(first)
		w.wantFailure(c, k.refused, "with the same version in the vault")
		w.WantRequests(fmt.Sprintf("1 1 %d 2 2", 2+k.lists), "with the same version in the vault")
		k.put(w, true)
		time.Sleep(30*time.Second - time.Nanosecond)
		w.wantFailure(c, k.refused, "before 30 s are over")
		w.WantRequests(fmt.Sprintf("1 1 %d 3 3", 2+k.lists), "before 30 s are over")
		time.Sleep(5 * time.Second)
		w.wantToken(c, "after 30 s")
		w.WantRequests(fmt.Sprintf("1 1 %d 4 5", 3+k.lists), "after 30 s")
	})
}

func TestRefusedWhenJustRead(t *testing.T) {
	for name, k := range kinds() {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				k.accept(w, true)
				k.put(w, false)
				w.wantFailure(k.credential(w), k.refused, "cold")
				w.WantRequests(fmt.Sprintf("1 1 %d 1 1", 1+k.lists), "cold")
			})
		})
	}
}

// TestRefusedWithTheVaultDown replaces the refused secret in an unreachable vault: until the vault has been read,
// this is a transient failure of the vault, not of the credential, also for a secret that is due for a read.
func TestRefusedWithTheVaultDown(t *testing.T) {
	for _, age := range []time.Duration{0, 2 * time.Hour} {
		eachKind(t, func(w *world, k kind, c *entra.Credential, first string) {
			k.put(w, true)
			k.accept(w, true)
			w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Refused())
			c.Expire(first)
			time.Sleep(age)
			for range 3 {
				w.wantFailure(c, "vault: unreachable: connection refused", "with the vault down")
				time.Sleep(5 * time.Second)
			}
			w.Cloud.Heal()
			w.wantToken(c, "with the vault back")
		})
	}
}

// TestRefusedTwice has both versions refused: the second is the end of it.
func TestRefusedTwice(t *testing.T) {
	eachKind(t, func(w *world, k kind, c *entra.Credential, first string) {
		k.put(w, true)
		w.Cloud.SetAppSecrets()
		w.Cloud.SetAppCertificates()
		c.Expire(first)
		w.wantFailure(c, k.refused, "with a new version that is refused too")
		w.WantRequests("1 1 2 3 3", "with a new version that is refused too")
	})
}

func TestExpiredSecret(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		first := w.wantToken(c, "cold")
		w.Cloud.ExpireAppSecret(simulated.OldSecret)
		c.Expire(first)
		w.wantFailure(c, "identity: credential_expired (401 AADSTS7000222)", "expired")
		w.WantRequests("1 1 2 2 2", "expired")
	})
}

// TestUsedOn has the vault go down: the credential is used for a day after it was read, and no longer.
func TestUsedOn(t *testing.T) {
	for name, fault := range map[string]azuresim.Fault{
		"vault: unavailable (503 SimulatedFault): secret graph-client-secret": azuresim.Status(503),
		"vault: unreachable: connection refused":                              azuresim.Refused(),
		"vault: timeout: no answer in time":                                   azuresim.Hang(),
		"vault: forbidden (403 SimulatedFault): secret graph-client-secret":   azuresim.Status(403),
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(w *world, _ kind, c *entra.Credential, first string) {
				w.Cloud.Fail(azuresim.StepSecret, -1, fault)
				const warning = "the vault is not answering; the app's credential is used on"
				for _, pause := range []time.Duration{time.Hour + time.Second, 22*time.Hour + 58*time.Minute} {
					time.Sleep(pause)
					before := strings.Count(w.Log.String(), warning)
					if again := w.wantToken(c, "with the vault down"); again == first {
						w.T.Error("a token is used past its end")
					}
					if warned := strings.Count(w.Log.String(), warning) - before; warned != 1 || !strings.Contains(w.Log.String(),
						`"level":"WARN"`) {
						w.T.Errorf("%d warnings: %s", warned, w.Log)
					}
				}
				time.Sleep(time.Hour + time.Second)
				w.wantFailure(c, name, "with the vault down for a day")
			})
		})
	}
}

// TestNotUsedOn has the vault say that the credential is no more, and go down after that.
func TestNotUsedOn(t *testing.T) {
	for want, change := range map[string]func(*world){
		"vault: not_found (404 SecretNotFound): secret graph-client-secret": func(w *world) {
			w.Cloud.DeleteSecret(
				simulated.AppSecretName)
		},
		"vault: secret_disabled (403 SecretDisabled): secret graph-client-secret": func(w *world) {
			w.Cloud.PutSecret(
				simulated.AppSecretName, azuresim.Secret{Disabled: true})
		},
		"vault: secret_invalid: secret graph-client-secret has no value": func(w *world) {
			w.Cloud.PutSecret(
				simulated.AppSecretName, azuresim.Secret{})
		},
	} {
		t.Run(want, func(t *testing.T) {
			eachKind(t, func(w *world, k kind, c *entra.Credential, _ string) {
				change(w)
				time.Sleep(time.Hour + time.Second)
				w.wantFailure(c, want, "gone")
				w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Refused())
				time.Sleep(5 * time.Second)
				w.wantFailure(c, "vault: unreachable: connection refused", "gone, and the vault down")
				w.Cloud.Heal()
				k.put(w, false)
				time.Sleep(5 * time.Second)
				w.wantToken(c, "back again")
			})
		})
	}
}

// TestFailureIsKept has many callers share one failure for five seconds.
func TestFailureIsKept(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Status(403))
		const want = "vault: forbidden (403 SimulatedFault): secret graph-client-secret"
		for range 20 {
			w.wantFailure(c, want, "at once")
		}
		time.Sleep(5*time.Second - time.Nanosecond)
		w.wantFailure(c, want, "before 5 s are over")
		w.WantRequests("1 1 1 0 0", "before 5 s are over")
		time.Sleep(time.Nanosecond)
		w.wantFailure(c, want, "after 5 s")
		w.WantRequests("1 1 2 0 0", "after 5 s")
		w.Cloud.Heal()
		time.Sleep(5 * time.Second)
		w.wantToken(c, "healed")
	})
}

// TestOneForAll has many wait for the first token at once, one of them for less long than it takes.
func TestOneForAll(t *testing.T) {
	for step, service := range map[azuresim.Step]upstream.Service{
		azuresim.StepSecret: upstream.Vault,
		azuresim.StepToken:  upstream.Identity,
	} {
		simulate(t, func(w *world) {
			w.Cloud.Fail(step, 1, azuresim.Delay(2*time.Second))
			w.Cloud.Fail(azuresim.StepIdentity, 1, azuresim.Delay(500*time.Millisecond))
			c := w.appSecret()
			var waiting sync.WaitGroup
			for range 200 {
				waiting.Go(func() {
					trace := &upstream.Trace{}
					if _, err := c.GetToken(upstream.WithTrace(w.T.Context(), trace), graphToken); err != nil {
						w.T.Error(err)
					}
					spent := map[upstream.Service]time.Duration{upstream.Vault: 0, upstream.Identity: 500 * time.Millisecond}
					spent[service] += 2 * time.Second
					for of, want := range spent {
						if got := trace.Spent(of); got != want {
							w.T.Errorf("waited %v for %s, want %v", got, of, want)
						}
					}
				})
			}
			waiting.Go(func() {
				ctx, cancel := context.WithTimeout(w.T.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := c.GetToken(ctx, graphToken)
				if took := time.Since(start); took != time.Second {
					w.T.Errorf("a deadline of a second was kept after %v", took)
				}
				if failed := w.Failure(err); *failed != (upstream.Error{
					Service: service, Reason: upstream.Timeout,
					Cause: "no answer in time",
				}) {
					w.T.Errorf("%v, want a time-out of %s", failed, service)
				}
			})
			waiting.Wait()
			w.WantRequests("1 1 1 1 1", "for 201")
		})
	}
}

// TestNobodyWaits cancels all callers before the token arrives. Later callers get it.
func TestNobodyWaits(t *testing.T) {
	simulate(t, func(w *world) {
		w.Cloud.Fail(azuresim.StepSecret, 1, azuresim.Delay(2*time.Second))
		c := w.appSecret()
		ctx, cancel := context.WithCancel(w.T.Context())
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				if _, err := c.GetToken(ctx, graphToken); w.Failure(err).Reason != upstream.Timeout {
					w.T.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		cancel()
		waiting.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		w.WantRequests("1 1 1 1 1", "when all have left")
		w.wantToken(c, "later")
		w.WantRequests("1 1 1 1 1", "later")
	})
}
