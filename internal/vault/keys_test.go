package vault_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/vault"
)

// plain takes a key as it is, if it is long enough.
func plain(value string) ([]byte, error) {
	if len(value) < 10 {
		return nil, errors.New("key is too short")
	}
	return []byte(value), nil
}

// putKeys stores keys by the names of their secrets.
func (w *world) putKeys(namesAndValues ...string) {
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		w.Cloud.PutSecret(namesAndValues[i], azuresim.Secret{Value: namesAndValues[i+1]})
	}
}

// wantKeys fails the test unless get returns those keys, as name=value, and that error ("" for none), having caused
// so many requests for secrets in all.
func (w *world) wantKeys(get func(context.Context) ([]vault.Key, error), wantKeys, wantErr string, requests int,
	when string,
) {
	w.T.Helper()
	keys, err := get(w.T.Context())
	var texts []string
	for _, k := range keys {
		texts = append(texts, k.Name+"="+string(k.Value))
	}
	if got := strings.Join(texts, " "); got != wantKeys {
		w.T.Errorf("%s: keys %q, want %q", when, got, wantKeys)
	}
	got := ""
	if err != nil {
		got = w.Failure(err).Error()
	}
	if got != wantErr {
		w.T.Errorf("%s: error %q, want %q", when, got, wantErr)
	}
	if got := w.Cloud.Count(azuresim.StepSecret); got != requests {
		w.T.Errorf("%s: %d requests for secrets, want %d", when, got, requests)
	}
}

// TestKeysAreKept reads keys once a minute, and returns them in the order of their names, not of the responses.
func TestKeysAreKept(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a", "key-b", "canary-key-b", "key-c", "canary-key-c")
		w.Cloud.Fail(azuresim.StepSecret, 1, azuresim.Delay(time.Second))
		k := w.Vault.Keys(plain, "key-b", "key-c", "key-a")
		const want = "key-b=canary-key-b key-c=canary-key-c key-a=canary-key-a"
		w.wantKeys(k.Current, want, "", 3, "cold")
		w.putKeys("key-c", "canary-new-key-c")
		time.Sleep(time.Minute - time.Second - time.Nanosecond)
		w.wantKeys(k.Current, want, "", 3, "before a minute is over")
		time.Sleep(time.Nanosecond)
		w.wantKeys(k.Current, "key-b=canary-key-b key-c=canary-new-key-c key-a=canary-key-a", "", 6, "after a minute")
	})
}

// TestRefresh reads keys again for evidence that fits none of them, and not for much of it.
func TestRefresh(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a")
		k := w.Vault.Keys(plain, "key-a")
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 1, "cold")
		w.putKeys("key-a", "canary-new-key-a")
		w.wantKeys(k.Refresh, "key-a=canary-new-key-a", "", 2, "the first misfit")
		time.Sleep(4*time.Minute + 30*time.Second)
		w.wantKeys(k.Current, "key-a=canary-new-key-a", "", 3, "after a minute")
		w.putKeys("key-a", "canary-next-key-a")
		time.Sleep(30*time.Second - time.Nanosecond)
		w.wantKeys(k.Refresh, "key-a=canary-new-key-a", "", 3, "before 5 min are over")
		time.Sleep(time.Nanosecond)
		w.wantKeys(k.Refresh, "key-a=canary-next-key-a", "", 4, "after 5 min")
		w.wantKeys(k.Current, "key-a=canary-next-key-a", "", 4, "after that")
	})
}

// TestRefreshForAll has many concurrent misses. All of them get the result of one refresh.
func TestRefreshForAll(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a")
		k := w.Vault.Keys(plain, "key-a")
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 1, "cold")
		w.putKeys("key-a", "canary-new-key-a")
		w.Cloud.Fail(azuresim.StepSecret, 1, azuresim.Delay(2*time.Second))
		var waiting sync.WaitGroup
		for i := range 200 {
			waiting.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				w.wantKeys(k.Refresh, "key-a=canary-new-key-a", "", 2, "in a crowd")
			})
		}
		waiting.Wait()
		w.wantKeys(k.Refresh, "key-a=canary-new-key-a", "", 2, "after the crowd")
	})
}

// TestColdCrowd has many need the keys before they are there, and one not wait for them.
func TestColdCrowd(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a")
		w.Cloud.Fail(azuresim.StepSecret, 1, azuresim.Delay(2*time.Second))
		k := w.Vault.Keys(plain, "key-a")
		var waiting sync.WaitGroup
		for range 200 {
			waiting.Go(func() { w.wantKeys(k.Current, "key-a=canary-key-a", "", 1, "in a crowd") })
		}
		waiting.Go(func() {
			ctx, cancel := context.WithTimeout(w.T.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := k.Current(ctx)
			if failed := w.Failure(err); failed.Error() != "vault: timeout: no answer in time" ||
				time.Since(start) != time.Second {
				w.T.Errorf("%v after %v, want a time-out after a second", failed, time.Since(start))
			}
		})
		waiting.Wait()
		w.WantRequests("1 1 1 0 0", "for 201")
	})
}

// TestNobodyWaitsForKeys cancels the only caller that needs the keys. The next caller gets them.
func TestNobodyWaitsForKeys(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a")
		w.Cloud.Fail(azuresim.StepSecret, 1, azuresim.Delay(2*time.Second))
		k := w.Vault.Keys(plain, "key-a")
		ctx, cancel := context.WithTimeout(w.T.Context(), time.Second)
		defer cancel()
		if keys, err := k.Current(ctx); err == nil {
			w.T.Errorf("%d keys in less time than they take", len(keys))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 1, "later")
	})
}

// TestSomeKeys has one key of three missing: the others are there, and it is looked for every 30 s.
func TestSomeKeys(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a", "key-c", "canary-key-c")
		k := w.Vault.Keys(plain, "key-a", "key-b", "key-c")
		const some, missing = "key-a=canary-key-a key-c=canary-key-c", "vault: not_found (404 SecretNotFound): secret key-b"
		w.wantKeys(k.Current, some, missing, 3, "cold")
		if !strings.Contains(w.Log.String(),
			`"level":"WARN","msg":"a caller's key could not be read","secret":"key-b","used_on":false`) {
			w.T.Errorf("no warning: %s", w.Log)
		}
		w.putKeys("key-b", "canary-key-b")
		time.Sleep(30*time.Second - time.Nanosecond)
		w.wantKeys(k.Current, some, missing, 3, "before 30 s are over")
		time.Sleep(time.Nanosecond)
		w.wantKeys(k.Current, "key-a=canary-key-a key-b=canary-key-b key-c=canary-key-c", "", 6, "after 30 s")
		time.Sleep(50*time.Second - time.Nanosecond)
		w.wantKeys(k.Current, "key-a=canary-key-a key-b=canary-key-b key-c=canary-key-c", "", 6, "before a minute is nearly over")
	})
}

// TestKeyExpires has a key's secret expire, which ends it to the second, whether or not the vault can be asked.
func TestKeyExpires(t *testing.T) {
	for _, down := range []bool{false, true} {
		simulate(t, func(w *world) {
			w.putKeys("key-a", "canary-key-a")
			w.Cloud.PutSecret("key-b", azuresim.Secret{Value: "canary-key-b", Expires: time.Now().Add(10 * time.Minute)})
			k := w.Vault.Keys(plain, "key-a", "key-b")
			const both = "key-a=canary-key-a key-b=canary-key-b"
			w.wantKeys(k.Current, both, "", 2, "cold")
			time.Sleep(10*time.Minute - 2*time.Second)
			w.wantKeys(k.Current, both, "", 4, "before")
			time.Sleep(time.Second)
			w.wantKeys(k.Current, both, "", 4, "just before")
			time.Sleep(2 * time.Second) // the vault's time has whole seconds
			if down {
				w.Cloud.Fail(azuresim.StepSecret, 100, azuresim.Refused())
				if keys, err := k.Current(w.T.Context()); len(keys) != 1 || keys[0].Name != "key-a" || err == nil {
					w.T.Errorf("%v, %v", keys, err)
				}
				return
			}
			w.wantKeys(k.Current, "key-a=canary-key-a", "vault: secret_invalid: secret key-b has expired", 6, "after")
			if !strings.Contains(w.Log.String(), `"msg":"a caller's key could not be read","secret":"key-b","used_on":false`) {
				w.T.Errorf("no warning: %s", w.Log)
			}
		})
	}
}

// TestKeyExpiresWhileTheVaultHangs has no request use the key of a secret that has expired meanwhile.
func TestKeyExpiresWhileTheVaultHangs(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a")
		w.Cloud.PutSecret("key-b", azuresim.Secret{Value: "canary-key-b", Expires: time.Now().Add(30 * time.Second)})
		k := w.Vault.Keys(plain, "key-a", "key-b")
		w.wantKeys(k.Current, "key-a=canary-key-a key-b=canary-key-b", "", 2, "cold")
		w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Hang())
		time.Sleep(30 * time.Second)
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 4, "after two seconds")
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 4, "at once")
		time.Sleep(time.Minute)
	})
}

// TestNoKeys has no key be there: that is looked at again after 5 s, however many ask.
func TestNoKeys(t *testing.T) {
	simulate(t, func(w *world) {
		k := w.Vault.Keys(plain, "key-a")
		const missing = "vault: not_found (404 SecretNotFound): secret key-a"
		for range 20 {
			w.wantKeys(k.Current, "", missing, 1, "at once")
		}
		w.putKeys("key-a", "canary-key-a")
		time.Sleep(5*time.Second - time.Nanosecond)
		w.wantKeys(k.Current, "", missing, 1, "before 5 s are over")
		time.Sleep(time.Nanosecond)
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 2, "after 5 s")
	})
}

// TestWhichErrorCounts has two keys missing for different reasons. The transient one counts, in any order.
func TestWhichErrorCounts(t *testing.T) {
	const notAName, short = "no name", "key-short"
	for _, test := range []struct {
		names []string
		want  string
	}{
		{[]string{notAName, "key-a"}, "vault: forbidden (403 SimulatedFault): secret key-a"},
		{[]string{"key-a", notAName}, "vault: forbidden (403 SimulatedFault): secret key-a"},
	} {
		simulate(t, func(w *world) {
			w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Status(403))
			w.wantKeys(w.Vault.Keys(plain, test.names...).Current, "", test.want, 1, strings.Join(test.names, ", "))
		})
	}
	simulate(t, func(w *world) {
		w.putKeys(short, "canary")
		w.wantKeys(w.Vault.Keys(plain, notAName, short).Current, "", "vault: not_found: no name of a secret", 1,
			"two that do not pass")
		w.wantKeys(w.Vault.Keys(plain, short, notAName).Current, "", "vault: secret_invalid: secret key-short is unusable: "+
			"key is too short", 2, "two that do not pass")
	})
}

// TestKeysUsedOn has the vault go down: keys are used for a day after they were read, and no longer.
func TestKeysUsedOn(t *testing.T) {
	for want, fault := range map[string]azuresim.Fault{
		"vault: unavailable (503 SimulatedFault): secret key-a": azuresim.Status(503, "Retry-After", "60"),
		"vault: forbidden (403 SimulatedFault): secret key-a":   azuresim.Status(403),
		"vault: bad_answer: error of type *errors.errorString":  azuresim.Truncated(),
	} {
		t.Run(want, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.putKeys("key-a", "canary-key-a")
				k := w.Vault.Keys(plain, "key-a")
				w.wantKeys(k.Current, "key-a=canary-key-a", "", 1, "cold")
				w.Cloud.Fail(azuresim.StepSecret, -1, fault)
				time.Sleep(time.Minute)
				w.wantKeys(k.Current, "key-a=canary-key-a", "", 2, "with the vault down")
				if !strings.Contains(w.Log.String(), `"msg":"a caller's key could not be read","secret":"key-a","used_on":true`) {
					w.T.Errorf("no warning: %s", w.Log)
				}
				time.Sleep(30*time.Second - time.Nanosecond)
				w.wantKeys(k.Current, "key-a=canary-key-a", "", 2, "before 30 s are over")
				time.Sleep(time.Nanosecond)
				w.wantKeys(k.Refresh, "key-a=canary-key-a", "", 3, "after 30 s")
				time.Sleep(24*time.Hour - 90*time.Second - time.Nanosecond)
				w.wantKeys(k.Current, "key-a=canary-key-a", "", 4, "before a day is over")
				time.Sleep(30 * time.Second)
				w.wantKeys(k.Current, "", want, 5, "after a day")
				w.Cloud.Heal()
				time.Sleep(5 * time.Second)
				w.wantKeys(k.Current, "key-a=canary-key-a", "", 6, "healed")
			})
		})
	}
}

// TestKeysNotUsedOn has the vault say that a key is no more, and go down after that.
func TestKeysNotUsedOn(t *testing.T) {
	for want, change := range map[string]func(*world){
		"vault: not_found (404 SecretNotFound): secret key-a": func(w *world) { w.Cloud.DeleteSecret("key-a") },
		"vault: secret_disabled (403 SecretDisabled): secret key-a": func(w *world) {
			w.Cloud.PutSecret("key-a",
				azuresim.Secret{Disabled: true})
		},
		"vault: secret_invalid: secret key-a has no value":                  func(w *world) { w.putKeys("key-a", "") },
		"vault: secret_invalid: secret key-a is unusable: key is too short": func(w *world) { w.putKeys("key-a", "canary") },
	} {
		t.Run(want, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.putKeys("key-a", "canary-key-a", "key-b", "canary-key-b")
				k := w.Vault.Keys(plain, "key-a", "key-b")
				w.wantKeys(k.Current, "key-a=canary-key-a key-b=canary-key-b", "", 2, "cold")
				change(w)
				w.wantKeys(k.Refresh, "key-b=canary-key-b", want, 4, "gone")
				w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Status(403))
				time.Sleep(30 * time.Second)
				w.wantKeys(k.Current, "key-b=canary-key-b", "vault: forbidden (403 SimulatedFault): secret key-a", 6,
					"gone, and the vault down")
			})
		})
	}
}

// TestManyKeysInTime has the identity hang under more keys than fit into the time one after the other.
func TestManyKeysInTime(t *testing.T) {
	simulate(t, func(w *world) {
		w.Cloud.Fail(azuresim.StepIdentity, -1, azuresim.Hang())
		start := time.Now()
		w.wantKeys(w.Vault.Keys(plain, "key-a", "key-b", "key-c", "key-d", "key-e").Current, "",
			"identity: timeout: no answer in time", 0, "with the identity hanging")
		if took := time.Since(start); took > simulated.Timeout*3/10 {
			w.T.Errorf("it took %v of %v", took, simulated.Timeout*3/10)
		}
	})
}

// TestRevocation follows docs/operations.md: an operator disables the secret of a caller's key while requests with it
// keep coming, each matched by a key. The instance uses the key for less than a minute, also while strangers cause
// reads.
func TestRevocation(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a", "key-b", "canary-key-b")
		k := w.Vault.Keys(plain, "key-a", "key-b")
		w.wantKeys(k.Current, "key-a=canary-key-a key-b=canary-key-b", "", 2, "cold")
		w.wantKeys(k.Refresh, "key-a=canary-key-a key-b=canary-key-b", "", 4, "a stranger")
		time.Sleep(17 * time.Second)
		w.Cloud.PutSecret("key-a", azuresim.Secret{Disabled: true})
		disabled := time.Now()
		for {
			keys, _ := k.Current(w.T.Context())
			if len(keys) == 1 && keys[0].Name == "key-b" {
				break
			}
			if time.Since(disabled) > time.Minute {
				w.T.Fatalf("the key is in use after %v", time.Since(disabled))
			}
			time.Sleep(100 * time.Millisecond)
		}
		w.T.Logf("refused after %v", time.Since(disabled))
	})
}

// TestRevocationAfterAQuietTime has requests come at once after half an hour without any. All of them wait for the read
// that finds a key disabled.
func TestRevocationAfterAQuietTime(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a", "key-b", "canary-key-b")
		k := w.Vault.Keys(plain, "key-a", "key-b")
		w.wantKeys(k.Current, "key-a=canary-key-a key-b=canary-key-b", "", 2, "cold")
		w.Cloud.PutSecret("key-a", azuresim.Secret{Disabled: true})
		time.Sleep(30 * time.Minute)
		w.Cloud.Fail(azuresim.StepSecret, 2, azuresim.Delay(time.Second))
		var requests sync.WaitGroup
		for range 3 {
			requests.Go(func() {
				w.wantKeys(k.Current, "key-b=canary-key-b",
					"vault: secret_disabled (403 SecretDisabled): secret key-a", 4, "after half an hour")
			})
			time.Sleep(time.Millisecond)
		}
		requests.Wait()
	})
}

// TestRevocationDuringARead disables a secret while a read lasts that has its value already: the minute counts from the
// begin of the read. The second read lasts for half an hour, as in a process that is frozen between requests. The request
// that wakes it does not take its values for new ones.
func TestRevocationDuringARead(t *testing.T) {
	const both, disabled = "key-a=canary-key-a key-b=canary-key-b", "vault: secret_disabled (403 SecretDisabled): secret key-a"
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a", "key-b", "canary-key-b")
		lasts, begun := 5*time.Second, time.Now()
		k := w.Vault.Keys(func(value string) ([]byte, error) {
			if value == "canary-key-b" {
				time.Sleep(lasts)
			}
			return plain(value)
		}, "key-a", "key-b")
		go func() {
			time.Sleep(time.Nanosecond)
			w.Cloud.PutSecret("key-a", azuresim.Secret{Disabled: true})
		}()
		w.wantKeys(k.Current, both, "", 2, "a slow read")
		lasts = 0
		time.Sleep(time.Until(begun.Add(time.Minute)))
		w.wantKeys(k.Current, "key-b=canary-key-b", disabled, 4, "a minute after its begin")

		w.putKeys("key-a", "canary-key-a")
		time.Sleep(30 * time.Second)
		w.wantKeys(k.Current, both, "", 6, "enabled again")
		lasts = 30 * time.Minute
		time.Sleep(55 * time.Second)
		w.wantKeys(func(ctx context.Context) ([]vault.Key, error) {
			defer synctest.Wait() // until the read in the background has sent its requests
			return k.Current(ctx)
		}, both, "", 8, "with a read beside it")
		w.Cloud.PutSecret("key-a", azuresim.Secret{Disabled: true})
		time.Sleep(lasts - time.Second)
		lasts = 0
		w.wantKeys(k.Current, "key-b=canary-key-b", disabled, 10, "half an hour later")
	})
}

// TestKeysAreReadBesideARequest sends requests more often than once a minute: no request waits for the vault. After a quiet
// minute one does.
func TestKeysAreReadBesideARequest(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a")
		k := w.Vault.Keys(plain, "key-a")
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 1, "cold")
		w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Delay(time.Second))
		requests, last := 1, time.Now()
		for _, after := range []time.Duration{48 * time.Second, time.Second, 10 * time.Second, 45 * time.Second, 58 * time.Second} {
			time.Sleep(after)
			start := time.Now()
			if _, err := k.Current(w.T.Context()); err != nil || time.Since(start) != 0 {
				w.T.Errorf("%v after the last request: waited for %v, %v", after, time.Since(start), err)
			}
			if time.Since(last) >= 50*time.Second {
				requests, last = requests+1, time.Now()
			}
			synctest.Wait() // the read has begun
			for range 10 {
				w.wantKeys(k.Current, "key-a=canary-key-a", "", w.Cloud.Count(azuresim.StepSecret), "at the same time")
			}
			time.Sleep(time.Second)
			if got := w.Cloud.Count(azuresim.StepSecret); got != requests {
				w.T.Errorf("%v after the last request: %d requests for secrets, want %d", after, got, requests)
			}
		}
		time.Sleep(time.Minute)
		start := time.Now()
		w.wantKeys(k.Current, "key-a=canary-key-a", "", requests+1, "after a quiet minute")
		if took := time.Since(start); took != time.Second {
			w.T.Errorf("after a quiet minute it took %v, want one round trip", took)
		}
	})
}

// TestSlowVaultHoldsNobody has the vault hang when known keys are due: requests wait two seconds, and go on with them.
func TestSlowVaultHoldsNobody(t *testing.T) {
	simulate(t, func(w *world) {
		w.putKeys("key-a", "canary-key-a")
		k := w.Vault.Keys(plain, "key-a")
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 1, "cold")
		w.Cloud.Fail(azuresim.StepSecret, -1, azuresim.Hang())
		time.Sleep(time.Minute)
		start := time.Now()
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 2, "with the vault hanging")
		w.wantKeys(k.Current, "key-a=canary-key-a", "", 2, "while it hangs")
		if took := time.Since(start); took != 2*time.Second {
			w.T.Errorf("it took %v", took)
		}
		time.Sleep(time.Minute)
	})
}
