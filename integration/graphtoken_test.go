//go:build integration

package integration

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"autopilot-unassign/internal/azuresim"
)

// graphFront is a proxy in front of the simulated Graph, which knows only the tokens of its own cloud: it accepts
// tokens of an issuer, verified with the published keys, and forwards the requests with a token of the cloud.
type graphFront struct {
	t      *testing.T
	issuer *issuer
	url    string
	ca     []byte

	mu     sync.Mutex
	claims []map[string]any // of the tokens that it took
	bad    int              // tokens that it did not take
}

func newGraphFront(t *testing.T, i *issuer, c *azuresim.Cloud, served *azuresim.Served) *graphFront {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(served.CA)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	token := requestToken(t, &http.Client{Transport: transport}, served.AuthorityHost+"/"+c.TenantID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {c.ClientID}, "client_secret": {appSecret}, "scope": {served.GraphEndpoint + "/.default"},
	})
	graph, err := url.Parse(served.GraphEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(graph) // which sets the host as well, and Graph looks at it
		r.Out.Header.Set("Authorization", "Bearer "+token)
	}}
	f := &graphFront{t: t, issuer: i}
	server, ca := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead { // which opens a connection, and has no token
			return
		}
		claims, ok := f.verify(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		f.mu.Lock()
		if ok {
			f.claims = append(f.claims, claims)
		} else {
			f.bad++
		}
		f.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	f.url, f.ca = server.URL, ca
	return f
}

// verify returns the claims of a token that the issuer signed for this Graph.
func (f *graphFront) verify(token string) (map[string]any, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, false
	}
	var (
		header struct{ Alg, Kid string }
		claims map[string]any
	)
	decode := func(part string) []byte {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			f.t.Errorf("a part of the token: %v", err)
		}
		return text
	}
	if json.Unmarshal(decode(parts[0]), &header) != nil || json.Unmarshal(decode(parts[1]), &claims) != nil || header.Alg != "RS256" {
		return nil, false
	}
	resp, err := f.issuer.client.Get(f.issuer.url + "/" + f.issuer.tenant + "/discovery/v2.0/keys")
	if err != nil {
		f.t.Errorf("the issuer's keys: %v", err)
		return nil, false
	}
	defer func() { _ = resp.Body.Close() }()
	var set struct {
		Keys []struct{ Kid, N, E string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		f.t.Errorf("the issuer's keys: %v", err)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	for _, key := range set.Keys {
		public := &rsa.PublicKey{N: new(big.Int).SetBytes(decode(key.N)), E: int(new(big.Int).SetBytes(decode(key.E)).Int64())}
		if key.Kid == header.Kid && rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], decode(parts[2])) == nil {
			return claims, claims["iss"] == f.issuer.name() && claims["aud"] == f.url
		}
	}
	return nil, false
}

// The program fetches its token for Graph from a third-party provider, and Graph verifies it with the provider's
// keys.
func TestGraphToken(t *testing.T) {
	c, served := newCloud(t)
	i := startIssuer(t, c.TenantID, appSecret)
	f := newGraphFront(t, i, c, served)
	p := start(t, c, served, [][]byte{i.ca, f.ca}, "AZURE_AUTHORITY_HOST="+i.url, "GRAPH_ENDPOINT="+f.url)
	for range 2 { // a read and an action each
		if status, text := p.unassign(t, signed()); status != http.StatusNoContent {
			t.Fatalf("%d %s", status, text)
		}
	}
	if len(f.claims) != 4 || f.bad != 0 || f.claims[0]["azp"] != c.ClientID || f.claims[0]["tid"] != c.TenantID || f.claims[0]["iat"] != f.claims[1]["iat"] {
		t.Errorf("Graph took tokens with %v and refused %d", f.claims, f.bad)
	}
	if device, _ := c.Device(someDevice); device.UserPrincipalName != "" || c.Count(azuresim.StepToken) != 1 { // the front's own
		t.Errorf("the device has %q; our own Entra was asked %d times", device.UserPrincipalName, c.Count(azuresim.StepToken))
	}

	if _, ok := f.verify(i.token(t, c.ClientID, f.url, nil)); !ok {
		t.Error("the front does not take a token that the issuer has given to somebody else")
	}
	for name, claims := range map[string]map[string]any{"another audience": {"aud": "https://graph.microsoft.com"}, "another issuer": {"iss": "https://sts.example"}} {
		if _, ok := f.verify(i.token(t, c.ClientID, f.url, claims)); ok {
			t.Errorf("the front takes a token with %s, so that it would take anything of the program's", name)
		}
	}
}

// A secret that the provider refuses is a permanent fault of the deployment, distinct from a transient one.
func TestGraphTokenRefused(t *testing.T) {
	c, served := newCloud(t)
	i := startIssuer(t, c.TenantID, "another-secret")
	p := start(t, c, served, [][]byte{i.ca}, "AZURE_AUTHORITY_HOST="+i.url)
	if status, text := p.unassign(t, signed()); status != http.StatusFailedDependency || !strings.Contains(text, "credential_rejected") {
		t.Errorf("%d %s", status, text)
	}
}

// A discovery document of another issuer than the configured one is refused: no secret is sent to the address in it.
func TestGraphTokenOfAnotherIssuer(t *testing.T) {
	c, served := newCloud(t)
	var asked []string
	server, ca := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{
			"issuer": "https://sts.example/" + c.TenantID + "/v2.0", "token_endpoint": "https://" + r.Host + "/token",
			"authorization_endpoint": "https://" + r.Host + "/authorize", "jwks_uri": "https://" + r.Host + "/keys",
		})
	}))
	p := start(t, c, served, [][]byte{ca}, "AZURE_AUTHORITY_HOST="+server.URL)
	if status, text := p.unassign(t, signed()); status != http.StatusServiceUnavailable || !strings.Contains(text, "identity_unavailable") || c.Count(azuresim.StepGraph) != 0 {
		t.Errorf("%d %s", status, text)
	}
	if len(asked) == 0 || slices.Contains(asked, "/token") {
		t.Errorf("the provider was asked for %v", asked)
	}
}
