package entra_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/hosttest/simulated"
)

var graphToken = policy.TokenRequestOptions{Scopes: []string{"https://graph.microsoft.com/.default"}}

// shares are the times that the steps may take of it, when those before take none.
var shares = map[azuresim.Step]time.Duration{
	azuresim.StepIdentity:  3750 * time.Millisecond,
	azuresim.StepChallenge: 7500 * time.Millisecond,
	azuresim.StepSecret:    7500 * time.Millisecond,
	azuresim.StepDiscovery: 7500 * time.Millisecond,
	azuresim.StepToken:     7500 * time.Millisecond,
}

// world has the checks of this package beside those of a simulated.World.
type world struct{ *simulated.World }

// simulate runs a test in a world of its own, in simulated time.
func simulate(t *testing.T, test func(w *world)) {
	t.Helper()
	simulated.RunInWorld(t, func(w *simulated.World) { test(&world{w}) })
}

func (w *world) appSecret() *entra.Credential {
	return entra.AppSecret(w.Cloud.TenantID, w.Cloud.ClientID, simulated.AppSecretName, w.Vault, w.Options)
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
	if want := len(faults) * (len(simulated.ColdSteps) + 3); len(rows) != want {
		t.Errorf("testdata/faults.txt has %d rows, want %d", len(rows), want)
	}
}

// endOf gets a token, or a key, while a step fails, and returns the result: the requests of every step, how long
// it took, and the whole error.
func (w *world) endOf(what string, step azuresim.Step, fault azuresim.Fault) string {
	ctx, cancel := context.WithTimeout(w.T.Context(), simulated.Timeout)
	defer cancel()
	w.Cloud.Fail(step, -1, fault)
	start := time.Now()
	var err error
	switch what {
	case "token":
		_, err = w.appSecret().GetToken(ctx, graphToken)
	case "key":
		_, err = w.Vault.Keys(func(value string) ([]byte, error) { return []byte(value), nil }, simulated.AppSecretName).Current(ctx)
	default:
		w.T.Fatalf("testdata/faults.txt has a read of %q", what)
	}
	if took := time.Since(start); took > shares[step] {
		w.T.Errorf("it took %v of %v", took, shares[step])
	}
	end := []string{w.Requests(), "ok", "-", "-"}
	if err != nil {
		failed := w.Failure(err)
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
		bare := azcore.ClientOptions{Transport: w.Cloud}
		credential, err1 := azidentity.NewClientSecretCredential(w.Cloud.TenantID, w.Cloud.ClientID, simulated.OldSecret,
			&azidentity.ClientSecretCredentialOptions{ClientOptions: bare})
		identity, err2 := azidentity.NewManagedIdentityCredential(
			&azidentity.ManagedIdentityCredentialOptions{ClientOptions: bare, ID: azidentity.ClientID(w.Cloud.IdentityClientID)})
		client, err3 := azsecrets.NewClient(w.Cloud.VaultURL, identity, &azsecrets.ClientOptions{ClientOptions: bare})
		if err := errors.Join(err1, err2, err3); err != nil {
			w.T.Fatal(err)
		}
		for _, test := range []struct {
			name   string
			step   azuresim.Step
			fault  azuresim.Fault
			canary string
		}{
			{"a token answer that is cut off tells the token", azuresim.StepToken, azuresim.Truncated(), "eyJ"},
			{"a token request that is refused tells the tenant", azuresim.StepToken, azuresim.Status(400), w.Cloud.TenantID},
			{"a secret that may not be read tells the vault", azuresim.StepSecret, azuresim.Status(403), "simulated-vault"},
		} {
			w.Cloud.Fail(test.step, -1, test.fault)
			var err error
			if test.step == azuresim.StepToken {
				_, err = credential.GetToken(w.T.Context(), graphToken)
			} else {
				_, err = client.GetSecret(w.T.Context(), simulated.AppSecretName, "", nil)
			}
			if err == nil || !slices.Contains(w.CanariesIn(err.Error()), test.canary) {
				w.T.Errorf("%s, and the search finds none in %v", test.name, err)
			}
			w.Cloud.Heal()
		}
	})
}
