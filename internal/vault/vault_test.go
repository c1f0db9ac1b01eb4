package vault_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

const (
	timeout = 25 * time.Second // for a request to the program

	appSecretName = "graph-client-secret"
	oldSecret     = "canary-old-client-secret"
	newSecret     = "canary-new-client-secret"
)

// coldSteps are the steps of a cold GetToken, in their order.
var coldSteps = []azuresim.Step{
	azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery, azuresim.StepToken,
}

// world is a vault in a cloud of its own, as the program has them on Azure Functions.
type world struct {
	t     *testing.T
	cloud *azuresim.Cloud
	vault *vault.Vault
	log   *text.Buffer

	options azsdk.Options
}

// simulate runs a test in simulated time: waiting for a deadline takes none, and this package, the libraries and the
// cloud share one clock. A goroutine that is left when every deadline is over fails the test: that is the rule of
// synctest, after whose end time stands still.
func simulate(t *testing.T, test func(w *world)) {
	t.Helper()
	t.Setenv("IDENTITY_ENDPOINT", "http://169.254.169.254/msi/token")
	t.Setenv("IDENTITY_HEADER", "simulated-identity-header")
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, cloud: azuresim.New(), log: &text.Buffer{}}
		w.rewire(w.cloud, entra.ManagedIdentity)
		w.cloud.SetAppSecrets(oldSecret)
		w.cloud.PutSecret(appSecretName, azuresim.Secret{Value: oldSecret})
		test(w)
		time.Sleep(timeout)
		w.leaks("the log", w.log.String())
	})
}

// rewire makes the vault anew, with nothing read, with that transport and the identity that is had by asking so for it.
func (w *world) rewire(transport policy.Transporter, identity func(clientID string,
	o azsdk.Options) (azcore.TokenCredential, error),
) {
	w.t.Helper()
	w.options = azsdk.Options{
		ClientOptions: azcore.ClientOptions{Transport: transport},
		Timeout:       timeout,
		Log:           slog.New(slog.NewJSONHandler(w.log, nil)),
	}
	credential, err := identity(w.cloud.IdentityClientID, w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.vault, err = vault.New(w.cloud.VaultURL, credential, w.options); err != nil {
		w.t.Fatal(err)
	}
}

// requests returns how many requests each step of a cold call has seen, in one word: "1 1 1 1 1".
func (w *world) requests() string {
	var counts []string
	for _, step := range coldSteps {
		counts = append(counts, fmt.Sprint(w.cloud.Count(step)))
	}
	return strings.Join(counts, " ")
}

// wantRequests fails the test unless the steps have seen so many requests in all.
func (w *world) wantRequests(want, when string) {
	w.t.Helper()
	if got := w.requests(); got != want {
		w.t.Errorf("%s: identity, challenge, secret, discovery and token were asked %s times, want %s", when, got, want)
	}
}

// failure takes apart the error of a read. It must be an *upstream.Error that reveals nothing of the secret.
func (w *world) failure(err error) *upstream.Error {
	w.t.Helper()
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Error("failed", slog.Any("error", err))
	for _, form := range []string{"%s", "%v", "%+v", "%#v", "%q"} {
		w.leaks(form, fmt.Sprintf(form, err))
	}
	w.leaks("the error in the log", logged.String())
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		w.t.Fatalf("%T is no *upstream.Error: %v", err, err)
	}
	w.leaks("the error's fields", fmt.Sprintf("%+v", *failed))
	if failed.MaybeDone {
		w.t.Errorf("%v may have been done, although no device was touched", err)
	}
	return failed
}

// leaks fails the test if text tells a secret, a token or where they are.
func (w *world) leaks(where, text string) {
	w.t.Helper()
	if found := w.canariesIn(text); len(found) > 0 {
		w.t.Errorf("%s leaks %q: %.300s", where, found, text)
	}
}

func (w *world) canariesIn(text string) (found []string) {
	for _, canary := range []string{
		"canary", "eyJ", w.cloud.TenantID, "simulated-vault", "simulated-identity-header",
		"PRIVATE KEY", "Trace ID",
	} {
		if strings.Contains(text, canary) {
			found = append(found, canary)
		}
	}
	return found
}

// TestSecretsDoNotPrint checks that values with a secret print it only on an explicit request.
func TestSecretsDoNotPrint(t *testing.T) {
	simulate(t, func(w *world) {
		secret, err := w.vault.Secret(w.t.Context(), appSecretName)
		if err != nil || secret.Value() != oldSecret {
			w.t.Fatalf("read %q, %v", secret.Value(), err)
		}
		keys, err := w.vault.Keys(plain, appSecretName).Current(w.t.Context())
		if err != nil || len(keys) != 1 || string(keys[0].Value) != oldSecret {
			w.t.Fatalf("read %d keys, %v", len(keys), err)
		}
		for _, v := range []any{secret, &secret, []vault.Secret{secret}, keys[0], &keys[0], keys} {
			texts := []string{fmt.Sprint(v), fmt.Sprintln(v)}
			for _, verb := range "vsqxXdT" {
				texts = append(texts, fmt.Sprintf("%"+string(verb), v), fmt.Sprintf("%+"+string(verb), v),
					fmt.Sprintf("%#"+string(verb), v))
			}
			encoded, err := json.Marshal(v)
			if err != nil {
				w.t.Error(err)
			}
			var logged bytes.Buffer
			slog.New(slog.NewTextHandler(&logged, nil)).Error("x", slog.Any("v", v))
			slog.New(slog.NewJSONHandler(&logged, nil)).Error("x", slog.Any("v", v))
			for _, text := range append(texts, string(encoded), logged.String()) {
				w.leaks(fmt.Sprintf("%T", v), text)
				if strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", oldSecret)) || strings.Contains(text,
					"99 97 110") || strings.Contains(text, "Y2FuYXJ5") {
					w.t.Errorf("%T is told as its bytes: %s", v, text)
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
				w.cloud.Fail(azuresim.StepChallenge, test.times, test.fault)
				scope, err := vault.Scope(w.t.Context(), w.cloud.VaultURL,
					azsdk.Options{ClientOptions: azcore.ClientOptions{Transport: w.cloud}, Timeout: timeout})
				if got := fmt.Sprint(scope, " ", err); !strings.HasPrefix(got, test.want) {
					w.t.Errorf("Scope = %s, want %s", got, test.want)
				}
				if n := w.cloud.Count(azuresim.StepIdentity) + w.cloud.Count(azuresim.StepSecret); n > 0 {
					w.t.Errorf("there were %d other requests", n)
				}
			})
		})
	}
}
