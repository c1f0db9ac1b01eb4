package entra_test

import (
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
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

// appSecretThenStored returns a credential that has used the app's secret, two hours after another version was stored:
// the secret is read again, and the token has expired.
func (w *world) appSecretThenStored(value string) *entra.Credential {
	w.T.Helper()
	c := w.appSecret()
	w.wantToken(c, "with the first version")
	w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: value})
	time.Sleep(2 * time.Hour)
	return c
}

// A client secret that is stored before the app knows it, or by mistake, does not replace the one before, even if Graph
// refuses a token meanwhile.
func TestSecretThatEntraDoesNotKnow(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecretThenStored("the-id-of-the-secret")
		c.Expire(w.wantToken(c, "with a version that Entra ID does not know"))
		w.wantToken(c, "after Graph refused the token")
	})
}

// A new client secret that Entra ID does not know yet is used within the call that has the one before refused: the version
// before is in use by then, and the newest in memory.
func TestNewestOnceTheOlderIsRefused(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecretThenStored(simulated.NewSecret)
		c.Expire(w.wantToken(c, "with a version that Entra ID does not know yet"))
		w.Cloud.SetAppSecrets(simulated.NewSecret)
		w.wantToken(c, "once the app has the newest alone")
	})
}

// An outage of Entra ID while the version before is tried is no refusal, and costs that version nothing.
func TestOutageDuringTheFallback(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecretThenStored("the-id-of-the-secret")
		w.Cloud.Fail(azuresim.StepToken, 1, azuresim.Body(401, "application/json",
			`{"error":"invalid_client","error_codes":[7000215]}`))
		w.Cloud.Fail(azuresim.StepToken, 3, azuresim.Status(503))
		w.wantFailure(c, "identity: unavailable (503)", "in the outage")
		time.Sleep(10 * time.Second)
		w.wantToken(c, "after the outage")
	})
}

// An outage of the vault while a cold process looks for the older versions is no refusal. Without the permission to list
// them, the refusal stands.
func TestOlderVersionsThatCannotBeRead(t *testing.T) {
	for status, want := range map[int]string{
		503: "vault: unavailable (503 SimulatedFault): secret graph-client-secret",
		403: "identity: credential_rejected (401 AADSTS700027)",
	} {
		simulate(t, func(w *world) {
			first, renewed := oldPair(), newPair()
			w.Cloud.SetAppCertificates(first.cert)
			w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: first.pem()})
			time.Sleep(time.Minute)
			w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: renewed.pem()})
			w.Cloud.Fail(azuresim.StepSecret, 1, azuresim.Fault{})
			w.Cloud.Fail(azuresim.StepSecret, 4, azuresim.Status(status))
			w.wantFailure(w.appCertificate(), want, "cold")
		})
	}
}

// A secret that is disabled while a token made of it is in use, and refused by Graph, ends in the vault's answer.
func TestTokenOutlivesItsSecret(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		w.wantToken(c, "with the secret")
		w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: simulated.AppSecret, Disabled: true})
		var token string
		for range 2 { // the second renewal in the background reads the secret again
			time.Sleep(time.Hour - 3*time.Minute)
			token = w.wantToken(c, "while it is renewed")
			time.Sleep(10 * time.Second)
		}
		c.Expire(token)
		w.wantFailure(c, "vault: secret_disabled (403 SecretDisabled): secret graph-client-secret", "after Graph refused the token")
	})
}

// The only version is not tried twice when Entra ID refuses it after the hourly read.
func TestRefusedVersionIsTriedOnce(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		w.wantToken(c, "with the only version")
		w.Cloud.SetAppSecrets(simulated.NewSecret)
		time.Sleep(2 * time.Hour)
		before := w.Cloud.Count(azuresim.StepToken)
		w.wantFailure(c, "identity: credential_rejected (401 AADSTS7000215)", "after the app has lost it")
		if tries := w.Cloud.Count(azuresim.StepToken) - before; tries != 1 {
			t.Errorf("%d requests for a token, want 1", tries)
		}
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
