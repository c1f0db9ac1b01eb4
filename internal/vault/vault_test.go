package vault_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/vault"
)

// world has the checks of this package beside those of a simulated.World.
type world struct{ *simulated.World }

// simulate runs a test in a world of its own, in simulated time.
func simulate(t *testing.T, test func(w *world)) {
	t.Helper()
	simulated.RunInWorld(t, func(w *simulated.World) { test(&world{w}) })
}

// TestSecretsDoNotPrint checks that values with a secret print it only on an explicit request.
func TestSecretsDoNotPrint(t *testing.T) {
	simulate(t, func(w *world) {
		secret, err := w.Vault.Secret(w.T.Context(), simulated.AppSecretName)
		if err != nil || secret.Value() != simulated.OldSecret {
			w.T.Fatalf("read %q, %v", secret.Value(), err)
		}
		keys, err := w.Vault.Keys(plain, simulated.AppSecretName).Current(w.T.Context())
		if err != nil || len(keys) != 1 || string(keys[0].Value) != simulated.OldSecret {
			w.T.Fatalf("read %d keys, %v", len(keys), err)
		}
		for _, v := range []any{secret, &secret, []vault.Secret{secret}, keys[0], &keys[0], keys} {
			texts := []string{fmt.Sprint(v), fmt.Sprintln(v)}
			for _, verb := range "vsqxXdT" {
				texts = append(texts, fmt.Sprintf("%"+string(verb), v), fmt.Sprintf("%+"+string(verb), v),
					fmt.Sprintf("%#"+string(verb), v))
			}
			encoded, err := json.Marshal(v)
			if err != nil {
				w.T.Error(err)
			}
			var logged bytes.Buffer
			slog.New(slog.NewTextHandler(&logged, nil)).Error("x", slog.Any("v", v))
			slog.New(slog.NewJSONHandler(&logged, nil)).Error("x", slog.Any("v", v))
			for _, text := range append(texts, string(encoded), logged.String()) {
				w.Leaks(fmt.Sprintf("%T", v), text)
				if strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", simulated.OldSecret)) || strings.Contains(text,
					"99 97 110") || strings.Contains(text, "Y2FuYXJ5") {
					w.T.Errorf("%T is told as its bytes: %s", v, text)
				}
			}
		}
	})
}

// The scope of a vault is known by one request, without a token and an identity.
func TestScope(t *testing.T) {
	for name, test := range map[string]struct {
		fault azuresim.Fault
		times int
		want  string
	}{
		"a vault":               {azuresim.Fault{}, 0, "https://vault.azure.net/.default <nil>"},
		"no host":               {azuresim.NoHost(), -1, " vault: unreachable: no such host"},
		"no challenge":          {azuresim.WrongType(), -1, " vault: bad_answer"},
		"a malformed challenge": {azuresim.MalformedChallenge(), -1, " vault: bad_answer: malformed challenge"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.Cloud.Fail(azuresim.StepChallenge, test.times, test.fault)
				scope, err := vault.Scope(w.T.Context(), w.Cloud.VaultURL,
					w.Options)
				if got := fmt.Sprint(scope, " ", err); !strings.HasPrefix(got, test.want) {
					w.T.Errorf("Scope = %s, want %s", got, test.want)
				}
				if n := w.Cloud.Count(azuresim.StepIdentity) + w.Cloud.Count(azuresim.StepSecret); n > 0 {
					w.T.Errorf("there were %d other requests", n)
				}
			})
		})
	}
}
