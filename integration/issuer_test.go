//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// issuer is an identity provider that signs its own tokens (node/issuer.mjs), under the paths of Entra ID for one
// tenant. A program reaches it through AZURE_AUTHORITY_HOST and may accept callers' tokens from it.
type issuer struct {
	url    string // the authority's
	tenant string
	ca     []byte
	client *http.Client
}

var portOf = regexp.MustCompile(`(?m)^port (\d+)$`)

// startIssuer starts a provider for a tenant, whose apps have the secret, until the test ends.
func startIssuer(t *testing.T, tenant, secret string) *issuer {
	t.Helper()
	var proxy httputil.ReverseProxy
	server, ca := serveTLS(t, &proxy)
	i := &issuer{url: server.URL, tenant: tenant, ca: ca, client: server.Client()}

	process := node(t, "issuer.mjs")
	process.Env = append(process.Env, "ISSUER="+i.name(), "TENANT="+tenant, "SECRET="+secret)
	var out output
	process.Stdout, process.Stderr = &out, &out
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	provider := &url.URL{Scheme: "http", Host: "127.0.0.1:" + await(t, &out, portOf)[1]}
	paths := map[string]string{
		"/" + tenant + "/oauth2/v2.0/token":   "/token",
		"/" + tenant + "/discovery/v2.0/keys": "/jwks",
	}
	proxy.Rewrite = func(r *httputil.ProxyRequest) {
		r.SetURL(provider)
		path, ok := paths[r.In.URL.Path]
		if !ok {
			path = strings.TrimPrefix(r.In.URL.Path, "/"+tenant+"/v2.0")
		}
		r.Out.URL.Path = path
	}
	return i
}

// name is the issuer in the tokens and in the discovery document.
func (i *issuer) name() string { return i.url + "/" + i.tenant + "/v2.0" }

// token returns a token for a resource, issued to an app that has the secret appSecret; claims replace the defaults.
func (i *issuer) token(t *testing.T, app, resource string, claims map[string]any) string {
	t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return requestToken(t, i.client, i.url+"/"+i.tenant+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {app}, "client_secret": {appSecret}, "scope": {resource + "/.default"}, "claims": {string(text)},
	})
}

// requestToken posts a form to an endpoint and returns the token.
func requestToken(t *testing.T, client *http.Client, endpoint string, form url.Values) string {
	t.Helper()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	resp, err := post(t.Context(), client, endpoint, form)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK || answer.AccessToken == "" {
		t.Fatalf("the token endpoint: %s, %v", resp.Status, err)
	}
	return answer.AccessToken
}

func post(ctx context.Context, client *http.Client, endpoint string, form url.Values) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return client.Do(req)
}
