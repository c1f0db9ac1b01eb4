package entra_test

import (
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
)

// A certificate that renews itself (the default policy of az keyvault certificate) has a version that Entra ID does not know. The
// version before is used while it is valid, with a warning; the new one is used as soon as the app has it.
func TestCertificateThatRenewsItself(t *testing.T) {
	simulate(t, func(w *world) {
		first, renewed := oldPair(), newPair()
		w.cloud.SetAppCertificates(first.cert)
		w.cloud.PutSecret(appSecretName, azuresim.Secret{Value: first.pem()})
		c := w.appCertificate()
		w.wantToken(c, "with the first version")
		w.cloud.PutSecret(appSecretName, azuresim.Secret{Value: renewed.pem()})
		time.Sleep(2 * time.Hour) // the secret is read again, and the token has expired
		w.wantToken(c, "with a version that Entra ID does not know")
		if !strings.Contains(w.log.String(), "the version before is used") {
			t.Errorf("no warning: %s", w.log.String())
		}
		w.cloud.SetAppCertificates(renewed.cert)
		time.Sleep(2 * time.Hour)
		w.wantToken(c, "once the app has it")
	})
}
