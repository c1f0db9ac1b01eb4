package entra_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/upstream"
)

// TestRefusals has a step refuse permanently, in the service's own words, and checks the resulting errors.
func TestRefusals(t *testing.T) {
	entra := func(status int, word string, number int) azuresim.Fault {
		return azuresim.Body(status, "application/json", fmt.Sprintf(
			`{"error":%q,"error_description":"AADSTS%d: canary","error_codes":[%[2]d]}`, word, number))
	}
	keyVault := func(status int, code, inner string) azuresim.Fault {
		return azuresim.Body(status, "application/json", fmt.Sprintf(
			`{"error":{"code":%q,"message":"canary","innererror":{"code":%q}}}`, code, inner))
	}
	for _, test := range []struct {
		step  azuresim.Step
		fault azuresim.Fault
		want  string
	}{
		{azuresim.StepToken, entra(401, "invalid_client", 7000215), "identity: credential_rejected (401 AADSTS7000215)"},
		{azuresim.StepToken, entra(401, "invalid_client", 7000222), "identity: credential_expired (401 AADSTS7000222)"},
		{azuresim.StepToken, entra(401, "invalid_client", 700027), "identity: credential_rejected (401 AADSTS700027)"},
		{azuresim.StepToken, entra(400, "unauthorized_client", 700016), "identity: app_not_found (400 AADSTS700016)"},
		{azuresim.StepToken, entra(400, "unauthorized_client", 1), "identity: app_not_found (400 AADSTS1)"},
		{azuresim.StepToken, entra(400, "invalid_request", 90002), "identity: tenant_not_found (400 AADSTS90002)"},
		{azuresim.StepToken, entra(400, "invalid_tenant", 1), "identity: tenant_not_found (400 AADSTS1)"},
		{azuresim.StepToken, entra(400, "invalid_resource", 500011), "identity: scope_invalid (400 AADSTS500011)"},
		{azuresim.StepToken, entra(400, "invalid_scope", 1), "identity: scope_invalid (400 AADSTS1)"},
		{azuresim.StepToken, entra(400, "invalid_request", 90033), "identity: unavailable (400 AADSTS90033)"},
		// "Confidential Client is not supported in Cross Cloud request" (certify#553), and its family.
		{azuresim.StepToken, entra(400, "invalid_request", 900382), "identity: tenant_not_found (400 AADSTS900382)"},
		{azuresim.StepToken, entra(400, "invalid_request", 900432), "identity: tenant_not_found (400 AADSTS900432)"},
		{azuresim.StepToken, entra(400, "invalid_request", 90051), "identity: tenant_not_found (400 AADSTS90051)"},
		{azuresim.StepToken, entra(400, "invalid_request", 50049), "identity: tenant_not_found (400 AADSTS50049)"},
		{azuresim.StepToken, entra(400, "unauthorized_client", 7000112), "identity: credential_rejected (400 AADSTS7000112)"},
		{azuresim.StepToken, entra(400, "invalid_resource", 500014), "identity: scope_invalid (400 AADSTS500014)"},
		{azuresim.StepToken, entra(400, "invalid_request", 90091), "identity: unavailable (400 AADSTS90091)"},
		{azuresim.StepSecret, azuresim.Body(404, "text/html", "<h1>canary</h1>"), "vault: bad_answer (404): 404 without a " +
			"code of Key Vault"},
		{
			azuresim.StepSecret, keyVault(409, "Conflict", "ObjectIsBeingRecovered"),
			"vault: unavailable (409 ObjectIsBeingRecovered): secret graph-client-secret",
		},
		{azuresim.StepSecret, azuresim.Body(400, "application/json",
			`{"error":{"code":"BadParameter","message":"The specified version (2026-04-01) is not recognized. Consider using the latest supported version (7.5)."}}`), "vault: version_unsupported (400 BadParameter): secret graph-client-secret"},
		{azuresim.StepToken, entra(400, "temporarily_unavailable", 1), "identity: unavailable (400 AADSTS1)"},
		{
			azuresim.StepToken, azuresim.Body(400, "application/json", `{"error":"canary: a sentence"}`),
			"identity: credential_rejected (400)",
		},
		{azuresim.StepToken, azuresim.Body(400, "text/html", "canary"), "identity: credential_rejected (400)"},
		{azuresim.StepDiscovery, entra(400, "invalid_tenant", 90002), "identity: tenant_not_found (400 AADSTS90002)"},
		{azuresim.StepIdentity, azuresim.Body(400, "application/json",
			`{"error":"invalid_request","error_description":"Identity not found"}`), "identity: credential_rejected (400 " +
			"invalid_request)"},
		{azuresim.StepSecret, keyVault(403, "Forbidden", "SecretDisabled"), "vault: secret_disabled (403 SecretDisabled): " +
			"secret graph-client-secret"},
		{
			azuresim.StepSecret, keyVault(403, "Forbidden", "ForbiddenByFirewall"),
			"vault: forbidden (403 ForbiddenByFirewall): secret graph-client-secret",
		},
		{azuresim.StepSecret, keyVault(403, "Forbidden", ""), "vault: forbidden (403 Forbidden): secret graph-client-secret"},
		{azuresim.StepSecret, keyVault(404, "SecretNotFound", "https://canary"), "vault: not_found (404): secret " +
			"graph-client-secret"},
		{
			azuresim.StepSecret, azuresim.Body(200, "application/json", `{"value":"","id":"x"}`),
			"vault: secret_invalid: secret graph-client-secret has no value",
		},
		{azuresim.StepSecret, azuresim.Body(200, "application/json", `{}`), "vault: secret_invalid: secret " +
			"graph-client-secret has no value"},
	} {
		simulate(t, func(w *world) {
			w.Cloud.Fail(test.step, -1, test.fault)
			_, err := w.appSecret().GetToken(w.T.Context(), graphToken)
			if failed := w.Failure(err); failed.Error() != test.want {
				w.T.Errorf("%v, want %s", failed, test.want)
			}
		})
	}
}

// stuckBodies sends the requests whose path ends in at to the cloud, and keeps all but the first byte of the answers.
type stuckBodies struct {
	cloud policy.Transporter
	at    string
}

func (s stuckBodies) Do(req *http.Request) (*http.Response, error) {
	resp, err := s.cloud.Do(req)
	if err == nil && strings.HasSuffix(req.URL.Path, s.at) {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(strings.NewReader("{"), stuck{req.Context()}), resp.Body}
	}
	return resp, err
}

type stuck struct{ ctx context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// TestBodyThatHangs has an answer begin and never end: that is a time-out too, although the libraries do not say so.
func TestBodyThatHangs(t *testing.T) {
	for at, want := range map[string]string{
		"/msi/token": "identity: timeout: no answer in time",
		"/secrets/" + simulated.AppSecretName + "/": "vault: timeout: no answer in time",
		"/openid-configuration":                     "identity: timeout: no answer in time",
		"/oauth2/v2.0/token":                        "identity: timeout: no answer in time",
	} {
		t.Run("at "+at, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.Rewire(stuckBodies{w.Cloud, at}, entra.ManagedIdentity)
				start := time.Now()
				_, err := w.appSecret().GetToken(w.T.Context(), graphToken)
				if failed := w.Failure(err); failed.Error() != want || time.Since(start) > 7500*time.Millisecond {
					w.T.Errorf("%v after %v, want %s within 7.5 s", failed, time.Since(start), want)
				}
			})
		})
	}
}

// TestMalformedChallengePasses has the SDK panic once, and not be the worse for it.
func TestMalformedChallengePasses(t *testing.T) {
	simulate(t, func(w *world) {
		w.Cloud.Fail(azuresim.StepChallenge, 1, azuresim.MalformedChallenge())
		_, err := w.Vault.Secret(w.T.Context(), simulated.AppSecretName)
		if failed := w.Failure(err); failed.Error() != "vault: bad_answer: malformed challenge" {
			w.T.Error(failed)
		}
		if _, err := w.Vault.Secret(w.T.Context(), simulated.AppSecretName); err != nil {
			w.T.Error(err)
		}
	})
}

// TestForeignChallenge has the vault request a token for another service. The identity must not be asked for it.
func TestForeignChallenge(t *testing.T) {
	simulate(t, func(w *world) {
		w.Cloud.Fail(azuresim.StepChallenge, -1, azuresim.Status(http.StatusUnauthorized, "WWW-Authenticate",
			`Bearer authorization="https://login.microsoftonline.com/canary", resource="https://canary.example"`))
		_, err := w.Vault.Secret(w.T.Context(), simulated.AppSecretName)
		if failed := w.Failure(err); failed.Service != upstream.Vault || failed.Reason != upstream.BadAnswer {
			w.T.Error(failed)
		}
		w.WantRequests("0 1 0 0 0", "a foreign challenge")
	})
}

// TestNames has names that Key Vault cannot have refused before they are part of a URL.
func TestNames(t *testing.T) {
	simulate(t, func(w *world) {
		for _, name := range []string{
			"", ".", "..", "../keys/canary", "canary/", "canary?x", "canary_1", "cänary",
			"canary\n", strings.Repeat("x", 128),
		} {
			_, err := w.Vault.Secret(w.T.Context(), name)
			if failed := w.Failure(err); failed.Error() != "vault: not_found: no name of a secret" {
				w.T.Errorf("%q: %v", name, failed)
			}
		}
		w.WantRequests("0 0 0 0 0", "names that are none")
	})
}

// TestExpiry has a secret that is about to expire, or has, be used, and told about.
func TestExpiry(t *testing.T) {
	const day = 24 * time.Hour
	for in, warned := range map[time.Duration]bool{-day: true, day: true, 14*day - time.Minute: true, 14*day +
		time.Minute: false} {
		simulate(t, func(w *world) {
			w.Cloud.PutSecret(simulated.AppSecretName, azuresim.Secret{
				Value: simulated.OldSecret, ContentType: "text/plain",
				Expires: time.Now().Add(in),
			})
			s, err := w.Vault.Secret(w.T.Context(), simulated.AppSecretName)
			if err != nil || s.Value() != simulated.OldSecret || !s.Expires.Equal(time.Now().Add(in)) {
				w.T.Errorf("read a secret that expires %v, %v", s.Expires, err)
			}
			if logged := strings.Contains(w.Log.String(),
				`"msg":"a secret is about to expire or has expired","secret":"graph-client-secret"`); logged != warned {
				w.T.Errorf("expires in %v: warned %v, want %v: %s", in, logged, warned, w.Log)
			}
		})
	}
}

// TestTenantThatIsNone has the library refuse its arguments. Its words are not passed on.
func TestTenantThatIsNone(t *testing.T) {
	simulate(t, func(w *world) {
		w.wantFailure(entra.AppSecret("canary tenant", w.Cloud.ClientID, simulated.AppSecretName, w.Vault, w.Options),
			"vault: secret_invalid: secret graph-client-secret cannot be used to sign in", "no tenant")
		w.WantRequests("1 1 1 0 0", "no tenant")
	})
}

// TestClientSecret reads the vault as an app, as a host does that has no identity of its own.
func TestClientSecret(t *testing.T) {
	simulate(t, func(w *world) {
		w.Cloud.IdentityClientID = w.Cloud.ClientID
		asApp := func(secret string) func(string, azsdk.Options) (azcore.TokenCredential, error) {
			return func(id string, o azsdk.Options) (azcore.TokenCredential, error) {
				return entra.ClientSecret(w.Cloud.TenantID, id, secret, o)
			}
		}
		w.Rewire(w.Cloud, asApp(simulated.OldSecret))
		if _, err := w.appSecret().GetToken(w.T.Context(), graphToken); err != nil {
			w.T.Error(err)
		}
		w.WantRequests("0 1 1 2 2", "reading as an app")
		w.Rewire(w.Cloud, asApp("canary-wrong"))
		_, err := w.appSecret().GetToken(w.T.Context(), graphToken)
		if failed := w.Failure(err); failed.Error() != "identity: credential_rejected (401 AADSTS7000215)" {
			w.T.Error(failed)
		}
	})
}

// TestAzureCLI has az be there, signed in or not, and not be there. An az that hangs is no reason to sign in.
func TestAzureCLI(t *testing.T) {
	const advice = "identity: credential_rejected: the Azure CLI gave no token: run az login"
	for name, test := range map[string]struct{ script, want string }{
		"signed in":     {`echo '{"accessToken":"canary","expires_on":4102444800,"tokenType":"Bearer"}'`, ""},
		"not signed in": {`echo "ERROR: canary: Please run 'az login' to setup account." >&2; exit 1`, advice},
		"other words":   {`echo '{"accessToken":"canary'`, advice},
		"not there":     {"", advice},
		"hangs":         {`exec sleep 60`, "identity: timeout: no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.script != "" {
				if err := os.WriteFile(filepath.Join(dir, "az"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir+":/bin:/usr/bin")
			if test.script == "" {
				t.Setenv("PATH", dir)
			}
			limit := simulated.Timeout
			if name == "hangs" {
				limit = 200 * time.Millisecond
			}
			credential, err := entra.AzureCLI(azsdk.Options{Timeout: limit})
			if err != nil {
				t.Fatal(err)
			}
			token, err := credential.GetToken(t.Context(), graphToken)
			got := ""
			if err != nil {
				got = (&simulated.World{T: t, Cloud: azuresim.New()}).Failure(err).Error()
			}
			if got != test.want || (got == "") != (token.Token == "canary") {
				t.Errorf("%s with a token %v; want %q", got, token.Token != "", test.want)
			}
		})
	}
}
