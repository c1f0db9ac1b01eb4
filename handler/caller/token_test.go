package caller_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"autopilot-unassign/handler/caller"
)

const (
	tenant      = "11111111-2222-4333-8444-555555555555"
	otherTenant = "99999999-2222-4333-8444-555555555555"
	audienceURI = "api://contoso.com/unassign"
	audienceID  = "66666666-7777-4888-8999-aaaaaaaaaaaa"
	appID       = "aaaaaaaa-0000-4000-8000-000000000001"
	userID      = "bbbbbbbb-0000-4000-8000-000000000002"
	issuerV1    = "https://sts.windows.net/" + tenant + "/"
	issuerV2    = "https://login.microsoftonline.com/" + tenant + "/v2.0"
	keyID       = "key-1"
)

// entraKey signs the tokens of these tests.
var entraKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// signingKeys are the keys of the tenant, with a count of their uses.
type signingKeys struct {
	asked int
	err   error
	more  []*rsa.PublicKey // of the same id, before the right one
}

func (k *signingKeys) Keys(_ context.Context, of, id string) ([]*rsa.PublicKey, error) {
	k.asked++
	if of != tenant || id != keyID || k.err != nil {
		return nil, k.err
	}
	return append(slices.Clone(k.more), &entraKey().PublicKey), nil
}

// noon is the time of these tests, in the middle of a second.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 500, time.UTC)

func tokenVerifier(keys caller.SigningKeys) *caller.Token {
	return &caller.Token{
		Keys: keys, Tenants: []string{tenant}, Audiences: []string{audienceURI, audienceID}, Role: "Device.Unassign", Scope: "user_impersonation",
		IssuerV1: "https://sts.windows.net/", IssuerV2: "https://login.microsoftonline.com/",
	}
}

type claimSet = map[string]any

// changed returns claims with changes, in which nil takes a claim out.
func changed(claims claimSet, changes claimSet) claimSet {
	c := maps.Clone(claims)
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, value any) bool { return value == nil })
	return c
}

func timesOf(claims claimSet) claimSet {
	return changed(claims, claimSet{"iat": noon.Unix() - 60, "nbf": noon.Unix() - 60, "exp": noon.Unix() + 3600, "tid": tenant, "uti": "canary-uti"})
}

// The four kinds of tokens, as Entra ID issues them.
var (
	appV1  = timesOf(claimSet{"aud": audienceURI, "iss": issuerV1, "ver": "1.0", "appid": appID, "appidacr": "1", "oid": userID, "roles": []string{"Device.Unassign"}})
	appV2  = timesOf(claimSet{"aud": audienceID, "iss": issuerV2, "ver": "2.0", "azp": appID, "azpacr": "1", "oid": userID, "idtyp": "app", "roles": []string{"Other", "Device.Unassign"}})
	userV1 = timesOf(claimSet{"aud": audienceURI, "iss": issuerV1, "ver": "1.0", "appid": appID, "oid": userID, "scp": "user_impersonation", "roles": []string{"Device.Unassign"}, "upn": "canary@contoso.com"})
	userV2 = timesOf(claimSet{"aud": audienceID, "iss": issuerV2, "ver": "2.0", "azp": appID, "oid": userID, "idtyp": "user", "scp": "email user_impersonation", "roles": []string{"Device.Unassign"}})
)

// issue returns a token, signed with key by a method.
func issue(tb testing.TB, method jwt.SigningMethod, key any, header, claims claimSet) string {
	tb.Helper()
	token := jwt.NewWithClaims(method, jwt.MapClaims(claims))
	token.Header["kid"] = keyID
	token.Header = changed(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func genuine(tb testing.TB, claims claimSet) string {
	tb.Helper()
	return issue(tb, jwt.SigningMethodRS256, entraKey(), nil, claims)
}

// verify returns the verdict of v at noon on a request with this Authorization header.
func verify(t *testing.T, v caller.Verifier, authorization ...string) (caller.Caller, error) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/unassign", nil)
	r.Header["Authorization"] = authorization
	who, err := verifyAt(t, noon, v, r, "")
	if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "eyJ")) {
		t.Errorf("the error has parts of the token: %v", err)
	}
	return who, err
}

const (
	byApp  = "app:" + appID
	byUser = "user:" + userID + ",app:" + appID
)

func TestTokenClaims(t *testing.T) {
	forbidden, denied := caller.ErrForbidden, caller.ErrDenied
	for name, test := range map[string]struct {
		claims claimSet
		change claimSet
		id     string // of the caller; also where he is forbidden
		err    error
		why    string // at the end of the error
	}{
		"an app, version 1":                     {appV1, nil, byApp, nil, ""},
		"an app, version 2":                     {appV2, nil, byApp, nil, ""},
		"a user, version 1":                     {userV1, nil, byUser, nil, ""},
		"a user, version 2":                     {userV2, nil, byUser, nil, ""},
		"an app that says so, version 1":        {appV1, claimSet{"idtyp": "app"}, byApp, nil, ""},
		"an app that does not, version 2":       {appV2, claimSet{"idtyp": nil}, byApp, nil, ""},
		"a user's that does not say so":         {userV2, claimSet{"idtyp": nil}, byUser, nil, ""},
		"version 1 for the client id":           {appV1, claimSet{"aud": audienceID}, byApp, nil, ""},
		"ids in upper case":                     {userV2, claimSet{"azp": strings.ToUpper(appID), "oid": strings.ToUpper(userID)}, byUser, nil, ""},
		"an app without a principal":            {appV2, claimSet{"oid": nil}, byApp, nil, ""},
		"a claim that nobody knows and is null": {appV2, claimSet{"xms_new": json.RawMessage("null")}, byApp, nil, ""},

		"no roles":                     {appV2, claimSet{"roles": nil}, byApp, forbidden, "app role"},
		"no roles, version 1":          {appV1, claimSet{"roles": nil}, byApp, forbidden, "app role"},
		"another role":                 {appV2, claimSet{"roles": []string{"Device.Read"}}, byApp, forbidden, "app role"},
		"the role in another case":     {appV2, claimSet{"roles": []string{"device.unassign"}}, byApp, forbidden, "app role"},
		"a longer role":                {appV2, claimSet{"roles": []string{"Device.Unassign.All"}}, byApp, forbidden, "app role"},
		"an empty list of roles":       {appV2, claimSet{"roles": []string{}}, byApp, forbidden, "app role"},
		"a user without the role":      {userV2, claimSet{"roles": nil}, byUser, forbidden, "app role"},
		"a user with another scope":    {userV2, claimSet{"scp": "email"}, byUser, forbidden, "scope"},
		"a user with a longer scope":   {userV2, claimSet{"scp": "user_impersonation.all"}, byUser, forbidden, "scope"},
		"a user with an empty scope":   {userV2, claimSet{"scp": ""}, byUser, forbidden, "scope"},
		"a user's without a scope":     {userV2, claimSet{"scp": nil}, byApp, forbidden, "scope"},
		"the role as a scope":          {userV2, claimSet{"scp": "Device.Unassign"}, byUser, forbidden, "scope"},
		"the role in wids, not roles":  {appV2, claimSet{"roles": nil, "wids": []string{"Device.Unassign"}}, byApp, forbidden, "app role"},
		"the role under another case":  {appV2, claimSet{"roles": nil, "Roles": []string{"Device.Unassign"}}, byApp, forbidden, "app role"},
		"roles that are a string":      {appV2, claimSet{"roles": "Device.Unassign"}, "", denied, "wrong type"},
		"roles with a number":          {appV2, claimSet{"roles": []any{1, "Device.Unassign"}}, "", denied, "wrong type"},
		"roles that are null":          {appV2, claimSet{"roles": json.RawMessage("null")}, "", denied, "wrong type"},
		"scopes that are a list":       {userV2, claimSet{"scp": []string{"user_impersonation"}}, "", denied, "wrong type"},
		"an app's with a scope":        {appV2, claimSet{"scp": "user_impersonation"}, "", denied, "has a scope"},
		"an app's with an empty scope": {appV2, claimSet{"scp": ""}, "", denied, "has a scope"},
		"a device's":                   {appV2, claimSet{"idtyp": "device"}, "", denied, "neither"},
		"a device's with a scope":      {userV2, claimSet{"idtyp": "device"}, "", denied, "neither"},
		"an ID token":                  {userV2, claimSet{"azp": nil, "scp": nil, "idtyp": nil, "nonce": "canary"}, "", denied, "no app"},
		"the app of version 1 in 2":    {appV2, claimSet{"azp": nil, "appid": appID}, "", denied, "no app"},
		"the app of version 2 in 1":    {appV1, claimSet{"appid": nil, "azp": appID}, "", denied, "no app"},
		"an app by a name":             {appV2, claimSet{"azp": "canary"}, "", denied, "no app"},
		"a user by a name":             {userV2, claimSet{"oid": "canary"}, "", denied, "no user"},
		"a user without an id":         {userV2, claimSet{"oid": nil}, "", denied, "no user"},

		"for Graph":                     {appV1, claimSet{"aud": "https://graph.microsoft.com"}, "", denied, "another audience"},
		"for Graph by its id":           {appV2, claimSet{"aud": "00000003-0000-0000-c000-000000000000"}, "", denied, "another audience"},
		"for another app":               {appV2, claimSet{"aud": appID}, "", denied, "another audience"},
		"for the URI and a slash":       {appV1, claimSet{"aud": audienceURI + "/"}, "", denied, "another audience"},
		"for the URI in another case":   {appV1, claimSet{"aud": strings.ToUpper(audienceURI)}, "", denied, "another audience"},
		"for a list":                    {appV2, claimSet{"aud": []string{audienceID}}, "", denied, "wrong type"},
		"for nobody":                    {appV2, claimSet{"aud": nil}, "", denied, "another audience"},
		"another tenant":                {appV2, claimSet{"tid": otherTenant, "iss": strings.ReplaceAll(issuerV2, tenant, otherTenant)}, "", denied, "another tenant"},
		"another tenant's issuer":       {appV2, claimSet{"iss": strings.ReplaceAll(issuerV2, tenant, otherTenant)}, "", denied, "issuer"},
		"another tenant's id":           {appV2, claimSet{"tid": otherTenant}, "", denied, "another tenant"},
		"the tenant in upper case":      {appV2, claimSet{"tid": strings.ToUpper("aaaaaaaa" + tenant[8:])}, "", denied, "another tenant"},
		"no tenant":                     {appV2, claimSet{"tid": nil}, "", denied, "another tenant"},
		"a tenant that is no GUID":      {appV2, claimSet{"tid": "../" + tenant}, "", denied, "another tenant"},
		"the common issuer":             {appV2, claimSet{"iss": "https://login.microsoftonline.com/common/v2.0"}, "", denied, "issuer"},
		"the issuer's template":         {appV2, claimSet{"iss": "https://login.microsoftonline.com/{tenantid}/v2.0"}, "", denied, "issuer"},
		"an issuer on this machine":     {appV2, claimSet{"iss": "http://127.0.0.1:1/" + tenant + "/v2.0"}, "", denied, "issuer"},
		"an issuer without its slash":   {appV1, claimSet{"iss": strings.TrimSuffix(issuerV1, "/")}, "", denied, "issuer"},
		"an issuer with a slash":        {appV2, claimSet{"iss": issuerV2 + "/"}, "", denied, "issuer"},
		"version 1 by the issuer of 2":  {appV1, claimSet{"iss": issuerV2}, "", denied, "issuer"},
		"version 2 by the issuer of 1":  {appV2, claimSet{"iss": issuerV1}, "", denied, "issuer"},
		"no issuer":                     {appV2, claimSet{"iss": nil}, "", denied, "issuer"},
		"an issuer that is a list":      {appV2, claimSet{"iss": []string{issuerV2}}, "", denied, "wrong type"},
		"no version":                    {appV2, claimSet{"ver": nil}, "", denied, "version"},
		"a version to come":             {appV2, claimSet{"ver": "3.0"}, "", denied, "version"},
		"a version that is a number":    {appV2, claimSet{"ver": 2.0}, "", denied, "wrong type"},
		"no end":                        {appV2, claimSet{"exp": nil}, "", denied, "cannot be verified"},
		"an end of 0":                   {appV2, claimSet{"exp": 0}, "", denied, "expired"},
		"an end that is a string":       {appV2, claimSet{"exp": "1795521600"}, "", denied, "wrong type"},
		"an end with a fraction":        {appV2, claimSet{"exp": json.RawMessage("1795521600.5")}, "", denied, "wrong type"},
		"an end beyond all times":       {appV2, claimSet{"exp": json.RawMessage("1e30")}, "", denied, "wrong type"},
		"an end before 1970":            {appV2, claimSet{"exp": -1}, "", denied, "wrong type"},
		"a start that is null":          {appV2, claimSet{"nbf": json.RawMessage("null")}, "", denied, "wrong type"},
		"an end 59 s ago":               {appV2, claimSet{"exp": noon.Unix() - 59}, byApp, nil, ""},
		"an end 60 s ago":               {appV2, claimSet{"exp": noon.Unix() - 60}, "", denied, "expired"},
		"a start in 60 s":               {appV2, claimSet{"nbf": noon.Unix() + 60}, byApp, nil, ""},
		"a start in 61 s":               {appV2, claimSet{"nbf": noon.Unix() + 61}, "", denied, "not valid yet"},
		"no start and no time of issue": {appV2, claimSet{"nbf": nil, "iat": nil}, byApp, nil, ""},
		"issued in 60 s":                {appV2, claimSet{"iat": noon.Unix() + 60}, byApp, nil, ""},
		"issued in 61 s":                {appV2, claimSet{"iat": noon.Unix() + 61}, "", denied, "issued in the future"},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := verify(t, tokenVerifier(&signingKeys{}), "Bearer "+genuine(t, changed(test.claims, test.change)))
			want := caller.Caller{}
			if test.id != "" {
				want = caller.Caller{Kind: caller.KindToken, ID: test.id}
			}
			if !errors.Is(err, test.err) || who != want || (err != nil && !strings.Contains(err.Error(), test.why)) {
				t.Errorf("Verify = %v, %v; want %v, %v (%s)", who, err, want, test.err, test.why)
			}
		})
	}
}

// Claims in a form that no library writes: a repeated one counts for neither of its values.
func TestTokenClaimsAsText(t *testing.T) {
	good, err := json.Marshal(appV2)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"a list":            `[]`,
		"null":              `null`,
		"a string":          `"canary"`,
		"no JSON":           `{"aud":`,
		"nothing":           ``,
		"two objects":       string(good) + string(good),
		"a claim twice":     strings.Replace(string(good), `"roles"`, `"roles":[],"roles"`, 1),
		"an unknown twice":  strings.Replace(string(good), `{`, `{"x":1,"x":1,`, 1),
		"a claim escaped":   strings.Replace(string(good), `"aud"`, `"aud":"canary","\u0061ud"`, 1),
		"exp with a plus":   strings.Replace(string(good), `"exp":`, `"exp":+`, 1),
		"tid with a NUL":    strings.Replace(string(good), `"tid":"`, `"tid":"\u0000`, 1),
		"depth beyond 1000": strings.Replace(string(good), `{`, `{"x":`+strings.Repeat("[", 1500)+strings.Repeat("]", 1500)+`,"y":`+strings.Repeat("[", 9000), 1),
	} {
		if who, err := verify(t, tokenVerifier(&signingKeys{}), "Bearer "+signText(t, text)); !errors.Is(err, caller.ErrDenied) {
			t.Errorf("%s: Verify = %v, %v; want ErrDenied", name, who, err)
		}
	}
	if who, err := verify(t, tokenVerifier(&signingKeys{}), "Bearer "+signText(t, string(good))); err != nil {
		t.Errorf("as they are: Verify = %v, %v", who, err)
	}
}

// signText returns a genuine token whose claims are that text.
func signText(tb testing.TB, text string) string {
	tb.Helper()
	head, _, _ := strings.Cut(genuine(tb, appV2), ".")
	signed := head + "." + base64.RawURLEncoding.EncodeToString([]byte(text))
	signature, err := jwt.SigningMethodRS256.Sign(signed, entraKey())
	if err != nil {
		tb.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestTokenAlgorithmAndKey(t *testing.T) {
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&entraKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	for name, token := range map[string]string{
		"no algorithm":                    issue(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, appV2),
		"none, with a signature":          issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"alg": "none"}, appV2),
		"alg missing":                     issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"alg": nil}, appV2),
		"alg in lower case":               issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"alg": "rs256"}, appV2),
		"alg that is a canary":            issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"alg": "canary"}, appV2),
		"HS256 with the public key":       issue(t, jwt.SigningMethodHS256, asPEM, nil, appV2),
		"HS256 with the public key's DER": issue(t, jwt.SigningMethodHS256, public, nil, appV2),
		"PS256":                           issue(t, jwt.SigningMethodPS256, entraKey(), nil, appV2),
		"RS384":                           issue(t, jwt.SigningMethodRS384, entraKey(), nil, appV2),
		"ES256":                           issue(t, jwt.SigningMethodES256, curve, nil, appV2),
		"a stranger's key":                issue(t, jwt.SigningMethodRS256, stranger, nil, appV2),
		"a kid that is a number":          issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"kid": 1}, appV2),
		"an unknown kid":                  issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"kid": "canary"}, appV2),
		"crit":                            issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"crit": []string{"exp"}}, appV2),
		"an empty crit":                   issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"crit": []string{}}, appV2),
		"jku":                             issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"jku": "https://canary.example/keys"}, appV2),
		"jwk":                             issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"jwk": claimSet{"kty": "RSA"}}, appV2),
		"x5u":                             issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"x5u": "https://canary.example"}, appV2),
		"x5c":                             issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"x5c": []string{"canary"}}, appV2),
	} {
		if who, err := verify(t, tokenVerifier(&signingKeys{}), "Bearer "+token); !errors.Is(err, caller.ErrDenied) {
			t.Errorf("%s: Verify = %v, %v; want ErrDenied", name, who, err)
		}
	}
	for name, token := range map[string]string{
		"x5t, which version 1 has": issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"x5t": keyID}, appV1),
		"as it is":                 genuine(t, appV2),
	} {
		if _, err := verify(t, tokenVerifier(&signingKeys{}), "Bearer "+token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verify(t, tokenVerifier(&signingKeys{more: []*rsa.PublicKey{&stranger.PublicKey}}), "Bearer "+genuine(t, appV2)); err != nil {
		t.Errorf("with another key of the same id: %v", err)
	}
}

func TestTokenForm(t *testing.T) {
	token := genuine(t, appV2)
	parts := strings.Split(token, ".")
	long := func(size int) string { // the token has a claim that fills it up
		for fill := (size-len(token))*3/4 - 32; ; fill++ {
			if filled := genuine(t, changed(appV2, claimSet{"fill": strings.Repeat("x", fill)})); len(filled) >= size {
				return filled
			}
		}
	}
	sixteen := long(16<<10 - 1)
	for name, test := range map[string]struct {
		sent []string
		want error
	}{
		"none":                        {nil, caller.ErrNoEvidence},
		"another scheme":              {[]string{"Basic Y2FuYXJ5OnBhc3N3b3Jk"}, caller.ErrNoEvidence},
		"no scheme":                   {[]string{token}, caller.ErrNoEvidence},
		"empty":                       {[]string{""}, caller.ErrNoEvidence},
		"a scheme that begins alike":  {[]string{"BearerX " + token}, caller.ErrNoEvidence},
		"once":                        {[]string{"Bearer " + token}, nil},
		"in lower case":               {[]string{"bearer " + token}, nil},
		"in upper case":               {[]string{"BEARER " + token}, nil},
		"several spaces":              {[]string{"Bearer   " + token}, nil},
		"a tab":                       {[]string{"Bearer\t" + token}, caller.ErrNoEvidence},
		"twice":                       {[]string{"Bearer " + token, "Bearer " + token}, caller.ErrDenied},
		"beside another scheme":       {[]string{"Basic Y2FuYXJ5", "Bearer " + token}, caller.ErrDenied},
		"twice in one":                {[]string{"Bearer " + token + ", Bearer " + token}, caller.ErrDenied},
		"the scheme alone":            {[]string{"Bearer"}, caller.ErrDenied},
		"no token":                    {[]string{"Bearer "}, caller.ErrDenied},
		"157 groups, 9.2 KB":          {[]string{"Bearer " + long(9_200)}, nil},
		"about 16 KiB":                {[]string{"Bearer " + sixteen}, nil},
		"17 KiB":                      {[]string{"Bearer " + long(17<<10)}, caller.ErrDenied},
		"16 KiB of dots":              {[]string{"Bearer " + strings.Repeat(".", 16<<10)}, caller.ErrDenied},
		"two parts":                   {[]string{"Bearer " + parts[0] + "." + parts[1]}, caller.ErrDenied},
		"four parts":                  {[]string{"Bearer " + token + ".x"}, caller.ErrDenied},
		"five parts, encrypted":       {[]string{"Bearer " + token + ".x.x"}, caller.ErrDenied},
		"a dot behind":                {[]string{"Bearer " + token + "."}, caller.ErrDenied},
		"padding":                     {[]string{"Bearer " + token + "="}, caller.ErrDenied},
		"padding inside":              {[]string{"Bearer " + parts[0] + "=." + parts[1] + "." + parts[2]}, caller.ErrDenied},
		"a space behind":              {[]string{"Bearer " + token + " "}, caller.ErrDenied},
		"a line end in the signature": {[]string{"Bearer " + token[:len(token)-9] + "\n" + token[len(token)-9:]}, caller.ErrDenied},
		"base64 for files":            {[]string{"Bearer " + parts[0] + "." + parts[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]) + "+"}, caller.ErrDenied},
		"bits behind the signature":   {[]string{"Bearer " + token[:len(token)-1] + string(token[len(token)-1]+1)}, caller.ErrDenied},
		"no signature":                {[]string{"Bearer " + parts[0] + "." + parts[1] + "."}, caller.ErrDenied},
		"another token's signature":   {[]string{"Bearer " + parts[0] + "." + parts[1] + "." + strings.Split(genuine(t, appV1), ".")[2]}, caller.ErrDenied},
		"a header that is a list":     {[]string{"Bearer W10." + parts[1] + "." + parts[2]}, caller.ErrDenied},
		"quotes":                      {[]string{`Bearer "` + token + `"`}, caller.ErrDenied},
	} {
		if who, err := verify(t, tokenVerifier(&signingKeys{}), test.sent...); !errors.Is(err, test.want) {
			t.Errorf("%s: Verify = %v, %v; want %v", name, who, err, test.want)
		}
	}
	if len(sixteen) > 16<<10 {
		t.Errorf("the long token has %d bytes", len(sixteen))
	}
}

// Evidence that is invalid by itself causes no read of keys.
func TestTokenAsksForKeysLast(t *testing.T) {
	for name, token := range map[string]string{
		"another audience": genuine(t, changed(appV2, claimSet{"aud": appID})),
		"another tenant":   genuine(t, changed(appV2, claimSet{"tid": otherTenant})),
		"another issuer":   genuine(t, changed(appV2, claimSet{"iss": "https://canary.example/" + tenant + "/v2.0"})),
		"a wrong type":     genuine(t, changed(appV2, claimSet{"roles": 1})),
		"PS256":            issue(t, jwt.SigningMethodPS256, entraKey(), nil, appV2),
		"no kid":           issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"kid": nil}, appV2),
		"an empty kid":     issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"kid": ""}, appV2),
		"a long kid":       issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"kid": strings.Repeat("k", 129)}, appV2),
		"jku":              issue(t, jwt.SigningMethodRS256, entraKey(), claimSet{"jku": "https://canary.example"}, appV2),
	} {
		keys := &signingKeys{}
		if _, err := verify(t, tokenVerifier(keys), "Bearer "+token); !errors.Is(err, caller.ErrDenied) || keys.asked > 0 {
			t.Errorf("%s: %v, and the keys were asked for %d times", name, err, keys.asked)
		}
	}
	down := errors.New("the keys are not to be had")
	keys := &signingKeys{err: down}
	if _, err := verify(t, tokenVerifier(keys), "Bearer "+genuine(t, appV2)); !errors.Is(err, down) || errors.Is(err, caller.ErrDenied) {
		t.Errorf("without keys: %v", err)
	}
}

// Where tokens of several tenants are accepted, an app that is in two of them is two callers.
func TestTokenOfSeveralTenants(t *testing.T) {
	v := tokenVerifier(&signingKeys{})
	v.Tenants = []string{otherTenant, tenant}
	who, err := verify(t, v, "Bearer "+genuine(t, userV2))
	if want := byUser + ",tenant:" + tenant; err != nil || who.ID != want {
		t.Errorf("Verify = %v, %v; want %s", who, err, want)
	}
	who, err = verify(t, v, "Bearer "+genuine(t, changed(appV2, claimSet{"tid": otherTenant})))
	if !errors.Is(err, caller.ErrDenied) {
		t.Errorf("one tenant's id with another's issuer: %v, %v", who, err)
	}
}

func TestChallenge(t *testing.T) {
	signature, key, token := &caller.Signature{}, &caller.APIKey{}, tokenVerifier(&signingKeys{})
	_, denied := verify(t, token, "Bearer x")
	_, forbidden := verify(t, token, "Bearer "+genuine(t, changed(appV2, claimSet{"roles": nil})))
	const webhook, bearer = `Webhook-Signature realm="unassign"`, `Bearer realm="unassign"`
	for name, test := range map[string]struct {
		asked []caller.Verifier
		err   error
		want  string
	}{
		"signatures":                     {[]caller.Verifier{signature, key}, caller.ErrDenied, webhook},
		"keys":                           {[]caller.Verifier{key}, caller.ErrDenied, webhook},
		"tokens":                         {[]caller.Verifier{key, token}, caller.ErrNoEvidence, bearer},
		"both, none was sent":            {[]caller.Verifier{signature, token}, caller.ErrNoEvidence, webhook + ", " + bearer},
		"both, a signature was refused":  {[]caller.Verifier{signature, token}, caller.ErrDenied, webhook + ", " + bearer},
		"both, a token was refused":      {[]caller.Verifier{signature, token}, denied, webhook + ", " + bearer + `, error="invalid_token"`},
		"both, a token was not enough":   {[]caller.Verifier{signature, token}, forbidden, bearer + `, error="insufficient_scope"`},
		"both, both were refused":        {[]caller.Verifier{signature, token}, errors.Join(caller.ErrDenied, denied), webhook + ", " + bearer + `, error="invalid_token"`},
		"both, the signature is too old": {[]caller.Verifier{signature, token}, caller.ErrExpired, webhook + ", " + bearer},
	} {
		if got := caller.Challenge(caller.Any(test.asked...), test.err); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// FuzzAuthorization sends any header Authorization. Properties:
//  1. It does not panic.
//  2. Only the genuine token behind the scheme Bearer, alone in its header, is accepted.
//  3. Nothing of it is in the error.
func FuzzAuthorization(f *testing.F) {
	token := genuine(f, appV2)
	parts := strings.Split(token, ".")
	f.Add("Bearer "+token, "")
	f.Add("bEARER  "+token, "")
	f.Add("Bearer "+token, "Bearer "+token)
	f.Add("Bearer "+token+".", "")
	f.Add("Bearer "+token+"=", "")
	f.Add("Bearer "+token+"\r\n", "")
	f.Add("Bearer "+parts[0]+".e30."+parts[2], "")
	f.Add("Bearer eyJhbGciOiJub25lIn0."+parts[1]+".", "")
	f.Add("Basic Y2FuYXJ5", "")
	f.Add("Bearer ..", "")
	f.Fuzz(func(t *testing.T, first, second string) {
		values := []string{first}
		if second != "" {
			values = append(values, second)
		}
		_, err := verify(t, tokenVerifier(&signingKeys{}), values...)
		scheme, rest, _ := strings.Cut(first, " ")
		good := len(values) == 1 && strings.EqualFold(scheme, "bearer") && strings.TrimLeft(rest, " ") == token
		if good != (err == nil) {
			t.Fatalf("%q: %v", values, err)
		}
	})
}
