package azuresim

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the standard defines x5t by it
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/internal/guid"
)

var entraService = service{ //nolint:gochecknoglobals // a table that nothing writes to
	name: "entra",
	step: func(r *http.Request) Step {
		switch {
		case strings.HasSuffix(r.URL.Path, "/token"):
			return StepToken
		case strings.HasSuffix(r.URL.Path, "/keys"):
			return StepKeys
		}
		return StepDiscovery
	},
	answer: (*Cloud).serveEntra,
}

// tokenLife is the default lifetime of a token.
const tokenLife = time.Hour

// SetTokenLife sets the lifetime of new tokens of Entra, of the managed identity and of callers.
func (c *Cloud) SetTokenLife(life time.Duration) { c.changeLocked(func() { c.life = life }) }

// SetAppSecrets replaces the client secrets of the app.
func (c *Cloud) SetAppSecrets(values ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.accepted)
	for _, value := range values {
		c.accepted[value] = true
	}
}

// ExpireAppSecret adds value as an expired client secret of the app.
func (c *Cloud) ExpireAppSecret(value string) { c.changeLocked(func() { c.accepted[value] = false }) }

// SetAppCertificates replaces the certificates of the app.
func (c *Cloud) SetAppCertificates(certs ...*x509.Certificate) {
	c.changeLocked(func() { c.certs = certs })
}

// SetGraphRoles sets the application permissions in new tokens of the app.
func (c *Cloud) SetGraphRoles(roles ...string) { c.changeLocked(func() { c.roles = roles }) }

// RevokeTokens makes Graph refuse every token issued so far.
func (c *Cloud) RevokeTokens() { c.changeLocked(func() { c.revoked = c.Now().Add(time.Nanosecond) }) }

// entraError returns an error response of Entra.
func (c *Cloud) entraError(status int, code string, number int, message string) answer {
	return jsonAnswer(status, map[string]any{
		"error": code,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
			number, message, guid.New(), guid.New(), c.Now().UTC().Format("2006-01-02 15:04:05Z")),
		"error_codes":    []int{number},
		"timestamp":      c.Now().UTC().Format("2006-01-02 15:04:05Z"),
		"trace_id":       guid.New().String(),
		"correlation_id": guid.New().String(),
		"error_uri":      fmt.Sprintf("https://login.microsoftonline.com/error?code=%d", number),
	})
}

func (c *Cloud) serveEntra(r *http.Request, body []byte) answer {
	base := "https://" + r.Host
	if r.URL.Path == "/common/discovery/instance" {
		return jsonAnswer(http.StatusOK, map[string]any{
			"tenant_discovery_endpoint": base + "/" + c.TenantID + "/v2.0/.well-known/openid-configuration",
			"api-version":               "1.1",
			"metadata": []any{map[string]any{
				"preferred_network": r.Host, "preferred_cache": r.Host, "aliases": []string{r.Host},
			}},
		})
	}
	tenant, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if tenant != c.TenantID {
		return c.entraError(http.StatusBadRequest, "invalid_tenant", 90002, "Tenant '"+tenant+"' not found.")
	}
	switch path {
	case "v2.0/.well-known/openid-configuration":
		return jsonAnswer(http.StatusOK, map[string]any{
			"issuer":                 base + "/" + tenant + "/v2.0",
			"authorization_endpoint": base + "/" + tenant + "/oauth2/v2.0/authorize",
			"token_endpoint":         base + "/" + tenant + "/oauth2/v2.0/token",
			"jwks_uri":               base + "/" + tenant + "/discovery/v2.0/keys",
		})
	case "discovery/v2.0/keys":
		issuer := base
		if r.Host == "login.chinacloudapi.cn" { // another host issues the tokens there
			issuer = "https://login.partner.microsoftonline.cn"
		}
		keys := []any{}
		for i := c.oldest; i <= c.newest; i++ {
			key := signingKey(i)
			keys = append(keys, map[string]any{
				"kty": "RSA", "use": "sig", "kid": keyID(key), "issuer": issuer + "/{tenantid}/v2.0",
				"n": encodeBase64(key.N.Bytes()), "e": encodeBase64(big.NewInt(int64(key.E)).Bytes()),
			})
		}
		return jsonAnswer(http.StatusOK, map[string]any{"keys": keys})
	case "oauth2/v2.0/token":
		form, err := url.ParseQuery(string(body))
		if err != nil || r.Method != http.MethodPost {
			return c.entraError(http.StatusBadRequest, "invalid_request", 900144, "The request body must be a form.")
		}
		return c.serveToken(form, base+"/"+tenant+"/oauth2/v2.0/token")
	}
	return c.entraError(http.StatusNotFound, "invalid_request", 90023, "There is no such endpoint.")
}

// serveToken serves a token request by client credentials.
func (c *Cloud) serveToken(form url.Values, endpoint string) answer {
	if form.Get("grant_type") != "client_credentials" {
		message := "The app requested an unsupported grant type."
		return c.entraError(http.StatusBadRequest, "unsupported_grant_type", 70003, message)
	}
	client, trusts := form.Get("client_id"), c.trust[form.Get("client_id")] != nil
	if client != c.ClientID && !trusts {
		message := "Application with identifier '" + client + "' was not found in the directory."
		return c.entraError(http.StatusBadRequest, "unauthorized_client", 700016, message)
	}
	switch valid, known := c.accepted[form.Get("client_secret")]; {
	case trusts && form.Has("client_assertion"):
		if number, message := c.checkFederated(c.trust[client], form.Get("client_assertion")); number != 0 {
			return c.entraError(http.StatusUnauthorized, "invalid_client", number, message)
		}
	case form.Has("client_assertion"):
		if err := c.checkAssertion(form.Get("client_assertion"), endpoint); err != nil {
			message := "The certificate with identifier used to sign the client assertion is not registered on application. "
			return c.entraError(http.StatusUnauthorized, "invalid_client", 700027, message+err.Error())
		}
	case known && !valid:
		message := "The provided client secret keys for app '" + c.ClientID + "' are expired."
		return c.entraError(http.StatusUnauthorized, "invalid_client", 7000222, message)
	case !known:
		message := "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value."
		return c.entraError(http.StatusUnauthorized, "invalid_client", 7000215, message)
	}
	// MSAL adds scopes of OpenID Connect. They mean nothing here.
	scopes := slices.DeleteFunc(strings.Fields(form.Get("scope")), func(s string) bool {
		return s == "openid" || s == "offline_access" || s == "profile"
	})
	if len(scopes) != 1 || !strings.HasSuffix(scopes[0], "/.default") {
		message := "The provided request must include a 'scope' input parameter that ends in /.default."
		return c.entraError(http.StatusBadRequest, "invalid_scope", 70011, message)
	}
	resource := strings.TrimSuffix(scopes[0], "/.default")
	if !strings.HasPrefix(resource, "https://") {
		message := "The resource principal named " + resource + " was not found in the tenant."
		return c.entraError(http.StatusBadRequest, "invalid_resource", 500011, message)
	}
	roles := c.roles
	if client != c.ClientID {
		roles = c.identityRoles
	}
	token := c.issueToken(Claims{
		"aud": resource, "appid": client, "idtyp": "app", "roles": roles,
	})
	// The token stands first, so that a truncated response still contains it.
	body := fmt.Appendf(nil, `{"access_token":%q,"token_type":"Bearer","expires_in":%d,"ext_expires_in":%[2]d,"padding":%q}`,
		token, int(c.life.Seconds()), strings.Repeat(".", len(token)))
	return answer{http.StatusOK, http.Header{"Content-Type": {"application/json"}}, body}
}

// checkAssertion verifies the signature of a client assertion by the app's certificates, its endpoint and its times.
func (c *Cloud) checkAssertion(assertion, endpoint string) error {
	t, ok := splitToken(assertion)
	now, claims := float64(c.Now().Unix()), t.claims
	own := claims["sub"] == c.ClientID && claims["iss"] == c.ClientID
	if !ok || claims["aud"] != endpoint || !own || t.timeOf("exp") < now || t.timeOf("nbf") > now+60 {
		return errors.New("the claims of the assertion do not match the app")
	}
	for _, cert := range c.certs {
		long, short := sha256.Sum256(cert.Raw), sha1.Sum(cert.Raw) //nolint:gosec // see the import
		// MSAL for Go pads the long one, against RFC 7515.
		padded := base64.StdEncoding.EncodeToString(long[:])
		named := t.header["x5t#S256"] == encodeBase64(long[:]) || t.header["x5t#S256"] == padded ||
			t.header["x5t"] == encodeBase64(short[:])
		key, isRSA := cert.PublicKey.(*rsa.PublicKey)
		if named && isRSA && (t.header["alg"] == "RS256" && t.signedBy(key) || t.header["alg"] == "PS256" &&
			rsa.VerifyPSS(key, crypto.SHA256, t.digest[:], t.signature, nil) == nil) {
			return nil
		}
	}
	return errors.New("no certificate fits")
}

// checkFederated verifies an assertion by the issuers that an app trusts. It returns the number and the message of
// Entra's error, 0 for success.
func (c *Cloud) checkFederated(trusted []Trust, assertion string) (int, string) {
	t, ok := splitToken(assertion)
	if !ok {
		return 50027, "JWT token is invalid or malformed."
	}
	if t.header["alg"] != "RS256" {
		return 5002738, "Invalid JWT token. '" + asString(t.header["alg"]) + "' is not a supported signature algorithm."
	}
	issuer, audience, subject := false, false, false
	for _, app := range trusted {
		issuer = issuer || app.Issuer == t.claims["iss"]
		audience = audience || app.Audience == t.claims["aud"]
		subject = subject || app.Subject == t.claims["sub"]
	}
	const none = "No matching federated identity record found for presented assertion "
	switch {
	case !issuer:
		return 700211, none + "issuer."
	case !audience:
		return 700212, none + "audience."
	case !subject:
		return 700213, none + "subject."
	}
	key := signingKey(c.newest)
	if t.claims["iss"] == c.role.Issuer {
		key = awsKey()
	}
	if !t.signedBy(&key.PublicKey) {
		return 50013, "Assertion failed signature validation."
	}
	if t.timeOf("exp") < float64(c.Now().Unix()) {
		return 700024, "Client assertion is not within its valid time range."
	}
	return 0, ""
}

// signing holds the signing keys of all simulated tenants. Each tenant starts with the first. Generating a key takes
// a tenth of a second.
var signing struct { //nolint:gochecknoglobals // each is generated once
	mu   sync.Mutex
	keys []*rsa.PrivateKey
}

// signingKey returns the key of that number.
func signingKey(number int) *rsa.PrivateKey {
	signing.mu.Lock()
	defer signing.mu.Unlock()
	for len(signing.keys) <= number {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(fmt.Sprintf("azuresim: %v", err)) // only for an invalid size
		}
		signing.keys = append(signing.keys, key)
	}
	return signing.keys[number]
}

func keyID(key *rsa.PrivateKey) string {
	sum := sha256.Sum256(key.N.Bytes())
	return encodeBase64(sum[:8])
}

// RotateSigningKey makes Entra sign with a new key, and still list the earlier ones.
func (c *Cloud) RotateSigningKey() { c.changeLocked(func() { c.newest++ }) }

// RevokeSigningKeys makes Entra list the newest signing key alone.
func (c *Cloud) RevokeSigningKeys() {
	c.changeLocked(func() {
		c.oldest = c.newest
		clear(c.genuine)
	})
}

// Claims are claims of a token, by their names.
type Claims map[string]any

// With returns a copy of claims with changes; nil removes a claim.
func (claims Claims) With(changes Claims) Claims {
	changed := maps.Clone(claims)
	maps.Copy(changed, changes)
	maps.DeleteFunc(changed, func(_ string, value any) bool { return value == nil })
	return changed
}

// AppClaims returns the claims of a token of that version (1.0 or 2.0) that an app gets for itself by its client
// credentials, as ServiceNow does.
func (c *Cloud) AppClaims(version, audience, app string, roles ...string) Claims {
	principal := guid.New().String()
	claims := c.callerClaims(version, audience, app, roles)
	claims["oid"], claims["sub"], claims["idtyp"] = principal, principal, "app"
	return claims
}

// UserClaims returns the claims of a token of that version that an app gets for a user, as connectors of Power
// Automate do.
func (c *Cloud) UserClaims(version, audience, app, user, scope string, roles ...string) Claims {
	claims := c.callerClaims(version, audience, app, roles)
	claims["oid"], claims["sub"], claims["scp"], claims["name"] = user, encodeBase64([]byte(user)), scope, "Kari Nordmann"
	return claims
}

func (c *Cloud) callerClaims(version, audience, app string, roles []string) Claims {
	c.mu.Lock()
	defer c.mu.Unlock()
	claims := c.commonClaims()
	claims["aud"], claims["ver"] = audience, version
	if version == "2.0" {
		claims["iss"], claims["azp"], claims["azpacr"] = c.authority+"/"+c.TenantID+"/v2.0", app, "1"
	} else {
		claims["appid"], claims["appidacr"] = app, "1"
	}
	if len(roles) > 0 {
		claims["roles"] = roles
	}
	return claims
}

// Token returns a token with claims, signed with the newest key. The members of header override its own.
func (c *Cloud) Token(claims Claims, header map[string]any) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.signToken(claims, header)
}

// commonClaims returns the claims of every token, in version 1.
func (c *Cloud) commonClaims() Claims {
	c.issued++
	now := c.Now()
	return Claims{
		"iss": "https://sts.windows.net/" + c.TenantID + "/", "tid": c.TenantID, "ver": "1.0",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(c.life).Unix(),
		"uti": fmt.Sprintf("token-%d", c.issued),
	}
}

// issueToken returns a token with claims and the claims of every token.
func (c *Cloud) issueToken(claims Claims) string {
	return c.signToken(c.commonClaims().With(claims).With(Claims{"issued_ns": fmt.Sprint(c.Now().UnixNano())}), nil)
}

func (c *Cloud) signToken(claims Claims, header map[string]any) string {
	return signWith(signingKey(c.newest), claims, header)
}

// signWith returns a JWT with claims, signed with key. The members of header override its own.
func signWith(key *rsa.PrivateKey, claims Claims, header map[string]any) string {
	head := map[string]any{"alg": "RS256", "typ": "JWT", "kid": keyID(key)}
	maps.Copy(head, header)
	signed := encodeBase64([]byte(jsonText(head))) + "." + encodeBase64([]byte(jsonText(claims)))
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	if err != nil {
		panic(fmt.Sprintf("azuresim: %v", err)) // only for too short a key
	}
	return signed + "." + encodeBase64(signature)
}

// claimsOf returns the claims of a request's bearer token if the Cloud has issued it and it has not expired.
func (c *Cloud) claimsOf(r *http.Request) (map[string]any, bool) {
	text, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	t, ok := c.genuine[text]
	if !ok {
		if t, ok = c.verifyToken(text); !ok {
			return nil, false
		}
		c.genuine[text] = t
	}
	return t.claims, t.claims["tid"] == c.TenantID && t.timeOf("exp") > float64(c.Now().Unix())
}

// verifyToken returns a token if it is signed by a listed key.
func (c *Cloud) verifyToken(text string) (token, bool) {
	t, ok := splitToken(text)
	genuine := false
	for i := c.oldest; i <= c.newest; i++ {
		key := signingKey(i)
		genuine = genuine || t.header["kid"] == keyID(key) && t.signedBy(&key.PublicKey)
	}
	return t, ok && genuine
}

// token is a JWT that was split.
type token struct {
	header, claims map[string]any
	digest         [sha256.Size]byte // of the signed part
	signature      []byte
}

// splitToken splits a JWT, and verifies nothing.
func splitToken(text string) (t token, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return t, false
	}
	for i, into := range []*map[string]any{&t.header, &t.claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.NewDecoder(bytes.NewReader(raw)).Decode(into) != nil {
			return t, false
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	t.digest, t.signature = sha256.Sum256([]byte(parts[0]+"."+parts[1])), signature
	return t, err == nil
}

// signedBy reports whether the token is signed with key by RS256.
func (t token) signedBy(key *rsa.PublicKey) bool {
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, t.digest[:], t.signature) == nil
}

// timeOf returns a claim that is a time, in seconds.
func (t token) timeOf(claim string) float64 {
	seconds, _ := t.claims[claim].(float64)
	return seconds
}

func encodeBase64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
