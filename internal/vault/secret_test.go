package vault_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/hosttest/simulated"
)

// Tools store more than the secret: a line end (azure-cli#27500), CRLF (WSL#7248), a byte order mark
// (Win32-OpenSSH#2070).
func TestSecretsFromTheWild(t *testing.T) {
	simulate(t, func(w *world) {
		const secret = "canary~secret.of_an-app"
		for name, value := range map[string]string{
			"a line feed": secret + "\n", "CRLF": secret + "\r\n", "a byte order mark": "\ufeff" + secret, "a NUL": secret +
				"\x00", "a no-break space": "\u00a0" + secret,
		} {
			w.Cloud.PutSecret("wild", azuresim.Secret{Value: value})
			s, err := w.Vault.Secret(w.T.Context(), "wild")
			if err != nil || s.Value() != secret || !s.Trimmed {
				t.Errorf("%s: trimmed: %t, %v", name, s.Trimmed, err)
			}
		}
		for name, value := range map[string]string{
			"two lines": secret + "\n" + secret, "a NUL inside": "canary\x00secret",
			"a letter outside ASCII": "canary\u00e4secret", "UTF-16": "\xff\xfec\x00a\x00",
		} {
			w.Cloud.PutSecret("wild", azuresim.Secret{Value: value})
			_, err := w.Vault.Secret(w.T.Context(), "wild")
			if err == nil || w.Failure(err).Error() != "vault: secret_invalid: secret wild has a character that no HTTP header "+
				"carries" {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.Cloud.PutSecret("wild", azuresim.Secret{Value: secret})
		if s, err := w.Vault.Secret(w.T.Context(), "wild"); err != nil || s.Trimmed {
			t.Errorf("a clean secret: trimmed: %t, %v", s.Trimmed, err)
		}
	})
}

// oldVault is a vault that knows no api-version after 7.4.
type oldVault struct {
	policy.Transporter
	versions []string
}

func (o *oldVault) Do(req *http.Request) (*http.Response, error) {
	if version := req.URL.Query().Get("api-version"); version != "" && req.Header.Get("Authorization") != "" {
		if o.versions = append(o.versions, version); version != "7.4" {
			body := `{"error":{"code":"BadParameter","message":"The specified version (` + version + `) is not recognized."}}`
			cloud := azuresim.New()
			cloud.Fail(azuresim.StepSecret, -1, azuresim.Body(400, "application/json", body))
			cloud.Fail(azuresim.StepChallenge, -1, azuresim.Body(400, "application/json", body))
			again := req.Clone(req.Context())
			again.Host, again.URL.Host = strings.TrimPrefix(cloud.VaultURL, "https://"), strings.TrimPrefix(cloud.VaultURL,
				"https://")
			return cloud.Do(again)
		}
	}
	return o.Transporter.Do(req)
}

// A vault of a sovereign cloud may not know the SDK's api-version for months (azure-sdk-for-net#14788). The old
// version is used, and the new one is tried again later.
func TestVaultThatKnowsNoNewVersion(t *testing.T) {
	simulate(t, func(w *world) {
		old := &oldVault{Transporter: w.Cloud}
		w.Rewire(old, entra.ManagedIdentity)
		for range 2 {
			if s, err := w.Vault.Secret(w.T.Context(), simulated.AppSecretName); err != nil || s.Value() != simulated.OldSecret {
				t.Fatal(err)
			}
		}
		if len(old.versions) != 3 || old.versions[1] != "7.4" || old.versions[2] != "7.4" {
			t.Errorf("asked with %v", old.versions)
		}
	})
}
