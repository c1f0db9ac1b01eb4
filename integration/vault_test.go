//go:build integration

package integration

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets/fake"

	"autopilot-unassign/internal/azuresim"
)

// fakeVault is Microsoft's own fake of Key Vault, over TLS. The fake makes the challenge and writes the responses;
// this type holds the content of the vault. It ignores tokens.
type fakeVault struct {
	url string
	ca  []byte

	mu      sync.Mutex
	secrets map[string][]azsecrets.Secret // their versions, the current one last
	refused map[string]int                // the status for those that are not handed out
	forms   []azsecrets.ContentType       // that certificates were asked for in
}

func newVault(t *testing.T) *fakeVault {
	t.Helper()
	v := &fakeVault{secrets: map[string][]azsecrets.Secret{}, refused: map[string]int{}}
	v.put("graph-client-secret", "1", appSecret)
	v.put("webhook-servicenow", "1", webhookKey)
	v.put("api-key-flow", "1", apiKey)
	transport := fake.NewServerTransport(&fake.Server{GetSecret: v.get})
	server, ca := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := r.WithContext(context.WithValue(r.Context(), runtime.CtxAPINameKey{}, "Client.GetSecret"))
		req.URL.Scheme, req.URL.Host = "https", r.Host
		resp, err := transport.Do(req)
		if refused, ok := errors.AsType[*azcore.ResponseError](err); ok {
			resp, err = refused.RawResponse, nil
		}
		if err != nil {
			t.Errorf("the fake: %v", err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	v.url, v.ca = server.URL, ca
	return v
}

func (v *fakeVault) get(_ context.Context, name, version string, o *azsecrets.GetSecretOptions) (resp azfake.Responder[azsecrets.GetSecretResponse], failed azfake.ErrorResponder) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if o != nil && o.OutContentType != nil {
		v.forms = append(v.forms, *o.OutContentType)
	}
	versions := v.secrets[name]
	switch status := v.refused[name]; {
	case status != 0:
		failed.SetResponseError(status, http.StatusText(status))
	case len(versions) == 0 || version != "":
		failed.SetResponseError(http.StatusNotFound, "SecretNotFound")
	default:
		resp.SetResponse(http.StatusOK, azsecrets.GetSecretResponse{Secret: versions[len(versions)-1]}, nil)
	}
	return resp, failed
}

// put makes value the current version of a secret.
func (v *fakeVault) put(name, version, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets[name] = append(v.secrets[name], azsecrets.Secret{
		ID: new(azsecrets.ID(v.url + "/secrets/" + name + "/" + version)), Value: &value, Attributes: &azsecrets.SecretAttributes{Enabled: new(true)},
	})
}

// refuse makes the vault respond with a status for a secret.
func (v *fakeVault) refuse(name string, status int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refused[name] = status
}

// startOn starts the program on a cloud with the vault v.
func startOn(t *testing.T, v *fakeVault, settings ...string) (*azuresim.Cloud, *program) {
	t.Helper()
	c, served := newCloud(t)
	p := start(t, c, served, [][]byte{v.ca}, append([]string{"KEY_VAULT_URL=" + v.url}, settings...)...)
	t.Cleanup(func() {
		if n := c.Count(azuresim.StepSecret) + c.Count(azuresim.StepChallenge); n > 0 {
			t.Errorf("our own vault was asked %d times", n)
		}
	})
	return c, p
}

func TestVault(t *testing.T) {
	_, p := startOn(t, newVault(t))
	for name, h := range map[string]http.Header{"signature": signed(), "API key": keyed()} {
		if status, text := p.unassign(t, h); status != http.StatusNoContent {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
}

// A new version of the client secret and of a key is used without a restart, in the call that notices it.
func TestVaultRotation(t *testing.T) {
	v := newVault(t)
	c, p := startOn(t, v)
	if status, text := p.unassign(t, keyed()); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, text)
	}
	const newSecret, newKey = "canary-app-secret-second", "canary-api-key-second-0123456789"
	v.put("graph-client-secret", "2", newSecret)
	v.put("api-key-flow", "2", newKey)
	c.SetAppSecrets(newSecret)
	c.RevokeTokens()
	h := keyed()
	h.Set("X-Api-Key", newKey)
	if status, text := p.unassign(t, h); status != http.StatusNoContent {
		t.Errorf("with the new ones: %d %s", status, text)
	}
	if status, text := p.unassign(t, keyed()); status != http.StatusUnauthorized {
		t.Errorf("with the old key: %d %s", status, text)
	}
}

// A secret that the vault does not return is a permanent fault, with its own code.
func TestVaultRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*fakeVault)
		status  int
		code    string
	}{
		"deleted": {func(v *fakeVault) { delete(v.secrets, "graph-client-secret") }, http.StatusFailedDependency, "secret_not_found"},
		// The fake has no inner code, which distinguishes a disabled secret from a missing role.
		"disabled, or forbidden": {func(v *fakeVault) { v.refuse("graph-client-secret", http.StatusForbidden) }, http.StatusFailedDependency, "vault_forbidden"},
		"throttled":              {func(v *fakeVault) { v.refuse("graph-client-secret", http.StatusTooManyRequests) }, http.StatusServiceUnavailable, "vault_unavailable"},
		"no value":               {func(v *fakeVault) { v.put("graph-client-secret", "2", "") }, http.StatusFailedDependency, "secret_invalid"},
		"a key deleted":          {func(v *fakeVault) { delete(v.secrets, "api-key-flow") }, http.StatusFailedDependency, "secret_not_found"},
	} {
		v := newVault(t)
		test.prepare(v)
		_, p := startOn(t, v)
		if status, text := p.unassign(t, keyed()); status != test.status || !strings.Contains(text, `"code":"`+test.code+`"`) {
			t.Errorf("%s: %d %s; want %d %s", name, status, text, test.status, test.code)
		}
	}
}

// A certificate written by another library is valid for signing in, in each of the forms that Key Vault may use.
func TestVaultCertificate(t *testing.T) {
	dir := t.TempDir()
	if text, err := node(t, "certificate.mjs", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	text, err := os.ReadFile(filepath.Join(dir, "certificate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.secret"))
	if err != nil || len(files) != 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		value, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v := newVault(t)
		v.put("graph-certificate", "1", string(value))
		c, p := startOn(t, v, "GRAPH_SECRET_NAME=", "GRAPH_CERTIFICATE_NAME=graph-certificate")
		c.SetAppSecrets()
		c.SetAppCertificates(certificate)
		if status, text := p.unassign(t, keyed()); status != http.StatusNoContent {
			t.Errorf("%s: %d %s", filepath.Base(file), status, text)
		}
		if !slices.Equal(v.forms, []azsecrets.ContentType{azsecrets.ContentTypePEM}) {
			t.Errorf("%s: the certificate was asked for as %v", filepath.Base(file), v.forms)
		}
	}
}
