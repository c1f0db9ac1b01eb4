package entra_test

import (
	"crypto/rsa"
	"crypto/x509"
	"sync"
	"testing"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/hosttest/simulated"
)

func (w *world) appCertificate() *entra.Credential {
	return entra.AppCertificate(w.Cloud.TenantID, w.Cloud.ClientID, simulated.AppSecretName, w.Vault, w.Options)
}

// pair is a certificate with its key.
type pair struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// Making an RSA key takes a tenth of a second.
var (
	oldPair = sync.OnceValue(makePair)
	newPair = sync.OnceValue(makePair)
)

func makePair() *pair {
	key, cert := simulated.NewCertificate()
	return &pair{key, cert}
}

// pem returns the pair as Key Vault has it.
func (p *pair) pem() string { return simulated.InPEM(p.key, p.cert) }

// Entra ID accepts the stored certificate. One without a key causes no request for a token; the error says so.
func TestCertificate(t *testing.T) {
	for want, value := range map[string]string{
		"": oldPair().pem(),
		"vault: secret_invalid: secret graph-client-secret has no private key": simulated.InPEM(nil, oldPair().cert),
	} {
		simulate(t, func(w *world) {
			w.Cloud.SetAppCertificates(oldPair().cert)
			w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{Value: value})
			c := w.appCertificate()
			if want == "" {
				w.wantToken(c, "cold")
				w.WantRequests("1 1 1 1 1", "cold")
				return
			}
			w.wantFailure(c, want, "cold")
			w.WantRequests("1 1 1 0 0", "cold")
		})
	}
}
