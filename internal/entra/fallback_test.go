package entra_test

import (
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

// A certificate that renews itself (the default policy of az keyvault certificate) has a version that Entra ID does
// not know. The version before is used while it is valid, with a warning; the new one is used as soon as the app has
// it.
func TestCertificateThatRenewsItself(t *testing.T) {
	simulate(t, func(w *world) {
		first, renewed := oldPair(), newPair()
		w.Cloud.SetAppCertificates(first.cert)
		w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: first.pem()})
		c := w.appCertificate()
		w.wantToken(c, "with the first version")
		w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: renewed.pem()})
		time.Sleep(2 * time.Hour) // the secret is read again, and the token has expired
		w.wantToken(c, "with a version that Entra ID does not know")
		if !strings.Contains(w.Log.String(), "the version before is used") {
			t.Errorf("no warning: %s", w.Log.String())
		}
		w.Cloud.SetAppCertificates(renewed.cert)
		time.Sleep(2 * time.Hour)
		w.wantToken(c, "once the app has it")
	})
}

// A client secret that is stored before the app knows it, or by mistake, does not replace the one before, even if Graph
// refuses a token meanwhile.
func TestSecretThatEntraDoesNotKnow(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		w.wantToken(c, "with the first version")
		w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: "the-id-of-the-secret"})
		time.Sleep(2 * time.Hour)
		c.Expire(w.wantToken(c, "with a version that Entra ID does not know"))
		w.wantToken(c, "after Graph refused the token")
	})
}

// A new client secret that Entra ID does not know yet is used within the call that has the one before refused: the version
// before is in use by then, and the newest in memory.
func TestNewestOnceTheOlderIsRefused(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		w.wantToken(c, "with the first version")
		w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: simulated.NewSecret})
		time.Sleep(2 * time.Hour)
		c.Expire(w.wantToken(c, "with a version that Entra ID does not know yet"))
		w.Cloud.SetAppSecrets(simulated.NewSecret)
		w.wantToken(c, "once the app has the newest alone")
	})
}

// An outage of Entra ID while the version before is tried is no refusal, and costs that version nothing.
func TestOutageDuringTheFallback(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		w.wantToken(c, "with the first version")
		w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: "the-id-of-the-secret"})
		time.Sleep(2 * time.Hour)
		w.Cloud.Fail(azuresim.StepToken, 1, azuresim.Body(401, "application/json",
			`{"error":"invalid_client","error_codes":[7000215]}`))
		w.Cloud.Fail(azuresim.StepToken, 3, azuresim.Status(503))
		w.wantFailure(c, "identity: unavailable (503)", "in the outage")
		time.Sleep(10 * time.Second)
		w.wantToken(c, "after the outage")
	})
}

// A process that starts after the renewal finds the version that the app has among the older ones. It does not use a
// disabled or expired version, and reports the refusal if no version is left.
func TestColdCertificateThatRenewedItself(t *testing.T) {
	for name, test := range map[string]struct {
		first azuresim.Secret
		want  string
	}{
		"valid":    {azuresim.Secret{}, ""},
		"disabled": {azuresim.Secret{Disabled: true}, "identity: credential_rejected (401 AADSTS700027)"},
		"expired": {
			azuresim.Secret{Expires: time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)},
			"identity: credential_rejected (401 AADSTS700027)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				first, renewed := oldPair(), newPair()
				w.Cloud.SetAppCertificates(first.cert)
				test.first.Value = first.pem()
				w.Cloud.PutSecret(simulated.AppSecretName, test.first)
				time.Sleep(time.Minute)
				w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: renewed.pem()})
				c := w.appCertificate()
				if test.want != "" {
					w.wantFailure(c, test.want, "cold")
					return
				}
				token := w.wantToken(c, "cold")
				if !strings.Contains(w.Log.String(), "the version before is used") {
					t.Errorf("no warning: %s", w.Log.String())
				}
				for range 2 { // the second time before the secret may be read again
					c.Expire(token)
					time.Sleep(10 * time.Second)
					token = w.wantToken(c, "after Graph refused the token")
				}
				w.Cloud.SetAppCertificates(renewed.cert)
				time.Sleep(2 * time.Hour)
				w.wantToken(c, "once the app has the newest")
			})
		})
	}
}
