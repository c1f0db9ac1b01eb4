package entra_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

const (
	timeout = 25 * time.Second // for a request to the program

	appSecretName = "graph-client-secret"
	oldSecret     = "canary-old-client-secret"
	newSecret     = "canary-new-client-secret"
)

var graphToken = policy.TokenRequestOptions{Scopes: []string{"https://graph.microsoft.com/.default"}}

// coldSteps are the steps of a cold GetToken, in their order.
var coldSteps = []azuresim.Step{
	azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery, azuresim.StepToken,
}

// shares are the times that the steps may take of it, when those before take none.
var shares = map[azuresim.Step]time.Duration{
	azuresim.StepIdentity:  3750 * time.Millisecond,
	azuresim.StepChallenge: 7500 * time.Millisecond,
	azuresim.StepSecret:    7500 * time.Millisecond,
	azuresim.StepDiscovery: 7500 * time.Millisecond,
	azuresim.StepToken:     7500 * time.Millisecond,
}

// world is a vault in a cloud of its own, as the program has them on Azure Functions.
type world struct {
	t     *testing.T
	cloud *azuresim.Cloud
	vault *vault.Vault
	log   *bytes.Buffer

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
		w := &world{t: t, cloud: azuresim.New(), log: &bytes.Buffer{}}
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

func (w *world) appSecret() *entra.Credential {
	return entra.AppSecret(w.cloud.TenantID, w.cloud.ClientID, appSecretName, w.vault, w.options)
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

// TestFaults fails every step of a cold GetToken and of reading a key in every way, and compares the result with
// testdata/faults.txt.
func TestFaults(t *testing.T) {
	faults, rows := simulated.Faults(), map[string]bool{}
	for _, columns := range simulated.ReadRows(t, "testdata/faults.txt") {
		name, what, step, want := columns[0], columns[1], columns[2], strings.Join(columns[3:], " | ")
		fault, known := faults[name]
		if !known {
			t.Fatalf("testdata/faults.txt has the fault %q", name)
		}
		rows[name+what+step] = true
		t.Run(fmt.Sprintf("%s of the %s, %s", step, what, name), func(t *testing.T) {
			simulate(t, func(w *world) {
				if got := w.endOf(what, azuresim.Step(step), fault); got != want {
					t.Errorf("%s\nwant %s", got, want)
				}
			})
		})
	}
	if want := len(faults) * (len(coldSteps) + 3); len(rows) != want {
		t.Errorf("testdata/faults.txt has %d rows, want %d", len(rows), want)
	}
}

// endOf gets a token, or a key, while a step fails, and returns the result: the requests of every step, how long
// it took, and the whole error.
func (w *world) endOf(what string, step azuresim.Step, fault azuresim.Fault) string {
	ctx, cancel := context.WithTimeout(w.t.Context(), timeout)
	defer cancel()
	w.cloud.Fail(step, -1, fault)
	start := time.Now()
	var err error
	switch what {
	case "token":
		_, err = w.appSecret().GetToken(ctx, graphToken)
	case "key":
		_, err = w.vault.Keys(func(value string) ([]byte, error) { return []byte(value), nil }, appSecretName).Current(ctx)
	default:
		w.t.Fatalf("testdata/faults.txt has a read of %q", what)
	}
	if took := time.Since(start); took > shares[step] {
		w.t.Errorf("it took %v of %v", took, shares[step])
	}
	end := []string{w.requests(), "ok", "-", "-"}
	if err != nil {
		failed := w.failure(err)
		end[1] = failed.Error()
		if failed.RetryAfter > 0 {
			end[2] = failed.RetryAfter.String()
		}
		if failed.RequestID != "" {
			end[3] = failed.RequestID
		}
	}
	return strings.Join(end, " | ")
}

// TestLibrariesLeak shows that the search for leaks finds secrets in the libraries' own errors.
func TestLibrariesLeak(t *testing.T) {
	simulate(t, func(w *world) {
		bare := azcore.ClientOptions{Transport: w.cloud}
		credential, err1 := azidentity.NewClientSecretCredential(w.cloud.TenantID, w.cloud.ClientID, oldSecret,
			&azidentity.ClientSecretCredentialOptions{ClientOptions: bare})
		identity, err2 := azidentity.NewManagedIdentityCredential(
			&azidentity.ManagedIdentityCredentialOptions{ClientOptions: bare, ID: azidentity.ClientID(w.cloud.IdentityClientID)})
		client, err3 := azsecrets.NewClient(w.cloud.VaultURL, identity, &azsecrets.ClientOptions{ClientOptions: bare})
		if err := errors.Join(err1, err2, err3); err != nil {
			w.t.Fatal(err)
		}
		for _, test := range []struct {
			name   string
			step   azuresim.Step
			fault  azuresim.Fault
			canary string
		}{
			{"a token answer that is cut off tells the token", azuresim.StepToken, azuresim.Truncated(), "eyJ"},
			{"a token request that is refused tells the tenant", azuresim.StepToken, azuresim.Status(400), w.cloud.TenantID},
			{"a secret that may not be read tells the vault", azuresim.StepSecret, azuresim.Status(403), "simulated-vault"},
		} {
			w.cloud.Fail(test.step, -1, test.fault)
			var err error
			if test.step == azuresim.StepToken {
				_, err = credential.GetToken(w.t.Context(), graphToken)
			} else {
				_, err = client.GetSecret(w.t.Context(), appSecretName, "", nil)
			}
			if err == nil || !slices.Contains(w.canariesIn(err.Error()), test.canary) {
				w.t.Errorf("%s, and the search finds none in %v", test.name, err)
			}
			w.cloud.Heal()
		}
	})
}
