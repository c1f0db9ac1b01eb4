//go:build integration

package integration

import (
	"net/http"
	"strings"
	"testing"
)

const (
	audience  = "api://autopilot-unassign"
	callerApp = "0b7f0f6e-5d0a-4b8e-9c2d-6f1a2b3c4d5e"
)

func bearing(token string) http.Header {
	return http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + token}}
}

// Tokens of callers are signed by a third-party provider. The program verifies them with the provider's keys and with
// each of its own checks.
func TestCallerToken(t *testing.T) {
	c, served := newCloud(t)
	i := startIssuer(t, c.TenantID, appSecret)
	f := newGraphFront(t, i, c, served)
	p := start(t, c, served, [][]byte{i.ca, f.ca}, "AZURE_AUTHORITY_HOST="+i.url, "GRAPH_ENDPOINT="+f.url,
		"WEBHOOK_SECRET_NAMES=", "API_KEY_SECRET_NAMES=", "ENTRA_AUDIENCE="+audience)
	role := []string{"Device.Unassign"}
	for name, test := range map[string]struct {
		claims map[string]any
		status int
		code   string
	}{
		"an app with the role":                   {map[string]any{"roles": role}, 204, ""},
		"a user with the scope and the role":     {map[string]any{"roles": role, "idtyp": "user", "scp": "user_impersonation"}, 204, ""},
		"an app without a role":                  {nil, 403, "forbidden"},
		"an app with another role":               {map[string]any{"roles": []string{"Device.Read"}}, 403, "forbidden"},
		"a user with the scope alone":            {map[string]any{"idtyp": "user", "scp": "user_impersonation"}, 403, "forbidden"},
		"a token for Graph":                      {map[string]any{"roles": role, "aud": "https://graph.microsoft.com"}, 401, "unauthenticated"},
		"a token of another tenant":              {map[string]any{"roles": role, "tid": "11111111-2222-4333-8444-555555555555"}, 401, "unauthenticated"},
		"a token that names another issuer":      {map[string]any{"roles": role, "iss": "https://sts.example/" + c.TenantID + "/v2.0"}, 401, "unauthenticated"},
		"a token of a version that is not known": {map[string]any{"roles": role, "ver": "3.0"}, 401, "unauthenticated"},
		"a token that has expired":               {map[string]any{"roles": role, "exp": 1614265330}, 401, "unauthenticated"},
		"a token that is not valid yet":          {map[string]any{"roles": role, "nbf": 4102444800}, 401, "unauthenticated"},
	} {
		status, text := p.unassign(t, bearing(i.token(t, callerApp, audience, test.claims)))
		if status != test.status || !strings.Contains(text, test.code) {
			t.Errorf("%s: %d %s; want %d %s", name, status, text, test.status, test.code)
		}
	}
	token := i.token(t, callerApp, audience, map[string]any{"roles": role})
	head, tail, _ := strings.Cut(token, ".")
	claims, signature, _ := strings.Cut(tail, ".")
	other := i.token(t, callerApp, audience, nil)
	_, otherTail, _ := strings.Cut(other, ".")
	otherClaims, _, _ := strings.Cut(otherTail, ".")
	for name, forged := range map[string]string{
		"the signature of another token": head + "." + otherClaims + "." + signature,
		"no signature":                   head + "." + claims + ".",
		"an algorithm of none":           "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + claims + ".",
	} {
		if status, text := p.unassign(t, bearing(forged)); status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if log := p.out.String(); !strings.Contains(log, `"caller_kind":"token","caller_id":"app:`+callerApp+`"`) || strings.Contains(log, token) || strings.Contains(log, signature) {
		t.Errorf("the log is %s", log)
	}
}
