package vault_test

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/vault"
)

// pair is a certificate with its key.
type pair struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// Making an RSA key takes a tenth of a second.
var (
	oldPair = sync.OnceValue(func() *pair { return newPairOf(must(rsa.GenerateKey(rand.Reader, 2048))) })
	newPair = sync.OnceValue(func() *pair { return newPairOf(must(rsa.GenerateKey(rand.Reader, 2048))) })
	ecPair  = sync.OnceValue(func() *pair { return newPairOf(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newPairOf(key crypto.Signer) *pair {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "canary"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &pair{key, must(x509.ParseCertificate(der))}
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (p *pair) certPEM() string { return block("CERTIFICATE", p.cert.Raw) }

func (p *pair) keyPEM() string {
	return block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(p.key)))
}

// pem returns the pair as Key Vault has it.
func (p *pair) pem() string { return p.keyPEM() + p.certPEM() }

// pfx returns the pair as PKCS#12, with other certificates beside it.
func (p *pair) pfx(e *pkcs12.Encoder, password string, others ...*x509.Certificate) string {
	return base64.StdEncoding.EncodeToString(must(e.Encode(p.key, p.cert, others, password)))
}

// TestCertificateForms reads a certificate in every form that it may be stored in, and in forms that are unusable: the
// error names the kind of defect, and nothing else.
func TestCertificateForms(t *testing.T) {
	app, other, ec := oldPair(), newPair(), ecPair()
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(app.key.(*rsa.PrivateKey)))
	lines := func(s string) string { return strings.Join([]string{s[:64], s[64:128], s[128:]}, "\r\n") + "\n" }
	for name, test := range map[string]struct{ value, want string }{
		"PEM":                             {app.pem(), ""},
		"PEM, the key last":               {app.certPEM() + app.keyPEM(), ""},
		"PEM with words between":          {"Bag Attributes\n" + app.keyPEM() + "subject=CN = canary\n" + app.certPEM(), ""},
		"PEM with a PKCS#1 key":           {pkcs1 + app.certPEM(), ""},
		"PEM, another certificate before": {app.keyPEM() + other.certPEM() + app.certPEM(), ""},
		"PEM, another certificate after":  {app.certPEM() + other.certPEM() + pkcs1, ""},
		"PKCS#12 of 1999":                 {app.pfx(pkcs12.LegacyRC2, ""), ""},
		"PKCS#12 with 3DES and SHA-1":     {app.pfx(pkcs12.LegacyDES, ""), ""},
		"PKCS#12 with AES and SHA-256":    {app.pfx(pkcs12.Modern2023, ""), ""},
		"PKCS#12 of 2026":                 {app.pfx(pkcs12.Modern2026, ""), ""},
		"PKCS#12 in clear":                {app.pfx(pkcs12.Passwordless, ""), ""},
		"PKCS#12 with a chain":            {app.pfx(pkcs12.Modern2023, "", other.cert), ""},
		"PKCS#12 in lines":                {lines(app.pfx(pkcs12.Modern2023, "")), ""},
		"PEM with an EC key":              {ec.pem(), "has a key that is not RSA"},
		"PKCS#12 with an EC key":          {ec.pfx(pkcs12.Modern2023, ""), "has a key that is not RSA"},
		// azure-docs#37025: tools take the line ends away, write them as two characters, or add quotes.
		"PEM without line ends":               {strings.ReplaceAll(app.pem(), "\n", ""), ""},
		"PEM with blanks for line ends":       {strings.ReplaceAll(app.pem(), "\n", " "), ""},
		"PEM with a literal \\n":              {strings.ReplaceAll(app.pem(), "\n", `\n`), ""},
		"PEM in quotes":                       {`"` + app.pem() + `"`, ""},
		"PEM with CRLF and a byte order mark": {"\ufeff" + strings.ReplaceAll(app.pem(), "\n", "\r\n"), ""},
		"PEM without a key":                   {app.certPEM(), "has no private key"},
		"PEM with an encrypted key": {
			block("ENCRYPTED PRIVATE KEY", []byte("canary")) + app.certPEM(),
			"has no private key",
		},
		"PEM without a certificate":      {app.keyPEM(), "has no certificate that its key belongs to"},
		"PEM with another's certificate": {app.keyPEM() + other.certPEM(), "has no certificate that its key belongs to"},
		"PEM with a broken key": {
			block("PRIVATE KEY", []byte("canary")) + app.certPEM(),
			"has a key that cannot be read",
		},
		"PEM with a broken PKCS#1 key": {
			block("RSA PRIVATE KEY", []byte("canary")) + app.certPEM(),
			"has a key that cannot be read",
		},
		"PEM with a broken certificate": {
			app.keyPEM() + block("CERTIFICATE", []byte("canary")),
			"has a certificate that cannot be read",
		},
		"PEM that is cut off": {app.keyPEM()[:200], "has no private key"},
		"PKCS#12 with a password": {app.pfx(pkcs12.Modern2023, "canary"), "is no PKCS#12 file with a key and " +
			"without a password"},
		"old PKCS#12 with a password": {app.pfx(pkcs12.LegacyDES, "canary"), "is no PKCS#12 file with a key and " +
			"without a password"},
		"PKCS#12 that is cut off": {app.pfx(pkcs12.Modern2023, "")[:400], "is no PKCS#12 file with a key and " +
			"without a password"},
		"PKCS#12 without a key": {base64.StdEncoding.EncodeToString(must(pkcs12.Modern2023.EncodeTrustStore(
			[]*x509.Certificate{app.cert}, ""))), "is no PKCS#12 file with a key and without a password"},
		"base64 of something else": {
			base64.StdEncoding.EncodeToString([]byte("canary")),
			"is no PKCS#12 file with a key and without a password",
		},
		"a client secret in the wrong place": {simulated.OldSecret, "is neither PEM nor PKCS#12 in base64"},
		"white space":                        {" \n", "has no value"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.Cloud.PutSecret("certificate", azuresim.Secret{Value: test.value})
				s, err := w.Vault.Certificate(w.T.Context(), "certificate")
				if name == "white space" {
					if err == nil || w.Failure(err).Error() != "vault: secret_invalid: secret certificate has no value" {
						t.Errorf("%v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				certs, key, err := s.KeyPair()
				if test.want == "" {
					if err != nil || !certs[0].Equal(app.cert) || !app.key.(*rsa.PrivateKey).Equal(key) {
						t.Errorf("%v", err)
					}
					return
				}
				if err == nil || err.Error() != test.want || vault.FaultOf(err) != test.want {
					t.Errorf("%v, want %s", err, test.want)
				}
			})
		})
	}
}

// TestCertificateAsPEM asks the vault for PEM, and accepts the response of a vault without that option.
func TestCertificateAsPEM(t *testing.T) {
	const pemFile = "application/x-pem-file"
	for _, test := range []struct {
		name   string
		times  int
		status int
		asked  []string // for which form
		want   string
	}{
		{"a vault that knows PEM", 0, 0, []string{pemFile}, ""},
		{"a vault that refuses the option", 1, http.StatusBadRequest, []string{pemFile, "any"}, ""},
		{
			"a vault that refuses all", -1, http.StatusBadRequest,
			[]string{pemFile, "any"},
			"vault: forbidden (400 SimulatedFault): secret graph-client-secret",
		},
		{
			"a vault that lets nobody in", -1, http.StatusForbidden,
			[]string{pemFile},
			"vault: forbidden (403 SimulatedFault): secret graph-client-secret",
		},
		{"a vault without the secret", -1, http.StatusNotFound, []string{pemFile}, "vault: bad_answer (404 SimulatedFault): " +
			"404 without a code of Key Vault"},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{
					Value:       oldPair().pfx(pkcs12.LegacyDES, ""),
					ContentType: "application/x-pkcs12",
				})
				w.Cloud.Fail(azuresim.StepSecret, test.times, azuresim.Status(test.status))
				if _, err := w.Vault.Certificate(w.T.Context(), simulated.AppSecretName); test.want == "" && err != nil ||
					test.want != "" && (err == nil || w.Failure(err).Error() != test.want) {
					t.Errorf("%v, want %s", err, test.want)
				}
				var asked []string
				for _, r := range w.Cloud.Requests(azuresim.StepSecret) {
					query := must(url.ParseQuery(r.RawQuery))
					asked = append(asked, cmp.Or(query.Get("outContentType"), "any"))
				}
				if got, want := strings.Join(asked, ", "), strings.Join(test.asked, ", "); got != want {
					t.Errorf("asked for %s, want %s", got, want)
				}
			})
		})
	}
}

// TestOlderCertificates lists the versions before the current one, the newest first, without versions that are disabled or
// have expired.
func TestOlderCertificates(t *testing.T) {
	simulate(t, func(w *world) {
		for _, s := range []azuresim.Secret{
			{Value: "first"},
			{Value: "second", Disabled: true},
			{Value: "third"},
			{Value: "fourth", Expires: time.Now().Add(time.Minute)},
			{Value: "fifth"},
			{Value: "sixth"},
		} {
			w.Cloud.PutSecret("certificate", s)
			time.Sleep(time.Hour)
		}
		current, err := w.Vault.Certificate(w.T.Context(), "certificate")
		if err != nil {
			t.Fatal(err)
		}
		older, err := w.Vault.OlderCertificates(w.T.Context(), "certificate", current.Version)
		var values []string
		for _, s := range older {
			values = append(values, s.Value())
		}
		if got := strings.Join(values, ", "); err != nil || got != "fifth, third, first" {
			t.Errorf("%s, %v", got, err)
		}
	})
}
