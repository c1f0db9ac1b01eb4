package simulated

import (
	"bytes"
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
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

// The vault of a World.
const (
	Timeout = 25 * time.Second // for a request to the program

	AppSecretName = "graph-client-secret"
	OldSecret     = "canary-old-client-secret"
	NewSecret     = "canary-new-client-secret"
)

// ColdSteps are the steps of a cold GetToken, in their order.
//
//nolint:gochecknoglobals // a list that nothing writes to
var ColdSteps = []azuresim.Step{
	azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery, azuresim.StepToken,
}

// World is a vault in a cloud of its own, as the program has them on Azure Functions.
type World struct {
	T       *testing.T
	Cloud   *azuresim.Cloud
	Vault   *vault.Vault
	Log     *azuresim.Buffer
	Options azsdk.Options
}

// RunInWorld runs a test in simulated time: waiting for a deadline takes none, and this package, the libraries and the
// cloud share one clock. A goroutine that is left when every deadline is over fails the test: that is the rule of
// synctest, after whose end time stands still.
func RunInWorld(t *testing.T, test func(w *World)) {
	t.Helper()
	t.Setenv("IDENTITY_ENDPOINT", "http://169.254.169.254/msi/token")
	t.Setenv("IDENTITY_HEADER", "simulated-identity-header")
	synctest.Test(t, func(t *testing.T) {
		w := &World{T: t, Cloud: azuresim.New(), Log: &azuresim.Buffer{}}
		w.Rewire(w.Cloud, entra.ManagedIdentity)
		w.Cloud.SetAppSecrets(OldSecret)
		w.Cloud.PutSecret(AppSecretName, azuresim.Secret{Value: OldSecret})
		test(w)
		time.Sleep(Timeout)
		w.Leaks("the log", w.Log.String())
	})
}

// Rewire makes the vault anew, with nothing read, with that transport and the identity that is had by asking so for it.
func (w *World) Rewire(transport policy.Transporter, identity func(clientID string,
	o azsdk.Options) (azcore.TokenCredential, error),
) {
	w.T.Helper()
	w.Options = azsdk.Options{
		ClientOptions: azcore.ClientOptions{Transport: transport},
		Timeout:       Timeout,
		Log:           slog.New(slog.NewJSONHandler(w.Log, nil)),
	}
	credential, err := identity(w.Cloud.IdentityClientID, w.Options)
	if err != nil {
		w.T.Fatal(err)
	}
	if w.Vault, err = vault.New(w.Cloud.VaultURL, credential, w.Options); err != nil {
		w.T.Fatal(err)
	}
}

// Requests returns how many requests each step of a cold call has seen, in one word: "1 1 1 1 1".
func (w *World) Requests() string {
	var counts []string
	for _, step := range ColdSteps {
		counts = append(counts, fmt.Sprint(w.Cloud.Count(step)))
	}
	return strings.Join(counts, " ")
}

// WantRequests fails the test unless the steps have seen so many requests in all.
func (w *World) WantRequests(want, when string) {
	w.T.Helper()
	if got := w.Requests(); got != want {
		w.T.Errorf("%s: identity, challenge, secret, discovery and token were asked %s times, want %s", when, got, want)
	}
}

// Failure takes apart the error of a read. It must be an *upstream.Error that reveals nothing of the secret.
func (w *World) Failure(err error) *upstream.Error {
	w.T.Helper()
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Error("failed", slog.Any("error", err))
	for _, form := range []string{"%s", "%v", "%+v", "%#v", "%q"} {
		w.Leaks(form, fmt.Sprintf(form, err))
	}
	w.Leaks("the error in the log", logged.String())
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		w.T.Fatalf("%T is no *upstream.Error: %v", err, err)
	}
	w.Leaks("the error's fields", fmt.Sprintf("%+v", *failed))
	if failed.MaybeDone {
		w.T.Errorf("%v may have been done, although no device was touched", err)
	}
	return failed
}

// Leaks fails the test if text tells a secret, a token or where they are.
func (w *World) Leaks(where, text string) {
	w.T.Helper()
	if found := w.CanariesIn(text); len(found) > 0 {
		w.T.Errorf("%s leaks %q: %.300s", where, found, text)
	}
}

// CanariesIn returns the secrets in text, and the places where they are.
func (w *World) CanariesIn(text string) (found []string) {
	for _, canary := range []string{
		"canary", "eyJ", w.Cloud.TenantID, "simulated-vault", "simulated-identity-header",
		"PRIVATE KEY", "Trace ID",
	} {
		if strings.Contains(text, canary) {
			found = append(found, canary)
		}
	}
	return found
}
