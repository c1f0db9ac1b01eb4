package caller

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"autopilot-unassign/internal/text"
)

const headerAuthorization = "Authorization"

const (
	maxToken    = 16 << 10         // bytes; a token with 200 groups, the most that Entra ID issues, has about 11,000
	maxKeyID    = 128              // bytes of the id of a signing key
	tokenLeeway = 60 * time.Second // between the clocks of Entra ID and of this machine
)

// SigningKeys are the public keys with which Entra ID signs the tokens of its tenants.
type SigningKeys interface {
	// Keys returns the keys with an id in a tenant: one, unless Entra ID publishes the id twice. No key and no error
	// means that the tenant has no such key.
	Keys(ctx context.Context, tenant, id string) ([]*rsa.PublicKey, error)
}

// Token verifies an access token of Entra ID in the header Authorization.
//
// A valid token for this function is not enough: Entra ID issues one to every app of the tenant. The app role
// authorises a caller, and without it the error is [ErrForbidden].
type Token struct {
	Keys      SigningKeys
	Tenants   []string // the accepted tenants, as GUIDs in lower case
	Audiences []string // of this function: its App ID URI, its client id, or both
	Role      string   // the app role that callers must have
	Scope     string   // the scope that a token acting for a user must have as well

	// The issuers of the two token versions, up to the tenant's id.
	IssuerV1, IssuerV2 string
}

// ErrForbidden is the error of an authenticated caller without the right to call.
var ErrForbidden = errors.New("authentic, but not allowed to call")

// tokenError is an ErrDenied of a token.
type tokenError struct {
	reason string // a fixed text
}

func (e *tokenError) Error() string { return "token: " + ErrDenied.Error() + ": " + e.reason }
func (e *tokenError) Unwrap() error { return ErrDenied }

// Verify checks the header Authorization. Another scheme than Bearer is no evidence of this kind. With ErrForbidden it
// returns the refused caller.
//
// It uses no address from a token: its tenant must be one of Tenants, and its key one of that tenant's.
func (t *Token) Verify(r *http.Request, _ []byte) (Caller, error) {
	raw, err := bearerToken(r.Header[headerAuthorization])
	if err != nil {
		return Caller{}, err
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}), jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway),
	)
	var c claims
	var own error // of our own checks, which the library wraps
	_, err = parser.ParseWithClaims(raw, &c, func(token *jwt.Token) (any, error) {
		var keys jwt.VerificationKeySet
		keys, own = t.keys(r.Context(), token.Header, &c)
		return keys, own
	})
	switch {
	case own != nil:
		return Caller{}, own
	case err != nil:
		return Caller{}, &tokenError{describeError(err)}
	}
	return t.authorise(&c)
}

// bearerToken returns the token in the values of the header Authorization. It decodes nothing.
func bearerToken(values []string) (string, error) {
	if len(values) == 0 {
		return "", ErrNoEvidence
	}
	if len(values) > 1 {
		return "", &tokenError{"Authorization is repeated"}
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimLeft(token, " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return "", ErrNoEvidence
	case len(token) > maxToken:
		return "", &tokenError{"it is longer than 16 KiB"}
	case strings.Trim(token, text.Alphanumeric+"-_.") != "":
		// The base64 decoder ignores line ends, which an event of Lambda may contain.
		return "", &tokenError{"it has a character that no token has"}
	}
	return token, nil
}

// refusedHeaders are the members of a token's header that carry or locate a key, or require an extension (crit). The
// key must come from Entra ID, at the address in the settings.
var refusedHeaders = []string{"crit", "jku", "jwk", "x5u", "x5c"} //nolint:gochecknoglobals // a list that nothing writes to

// keys returns the keys that may have signed a token. The claims are unverified, but a token that is not for this
// function does not cause a request for keys.
func (t *Token) keys(ctx context.Context, header map[string]any, c *claims) (jwt.VerificationKeySet, error) {
	var set jwt.VerificationKeySet
	id, ok := header["kid"].(string)
	switch {
	case slices.ContainsFunc(refusedHeaders, func(name string) bool { _, ok := header[name]; return ok }):
		return set, &tokenError{"its header has crit, or a key or an address in it"}
	case !ok || id == "" || len(id) > maxKeyID:
		return set, &tokenError{"its header does not name a key"}
	}
	if err := t.checkClaims(c); err != nil {
		return set, err
	}
	keys, err := t.Keys.Keys(ctx, c.tenant, id)
	if err != nil {
		return set, fmt.Errorf("token: %w", err)
	}
	if len(keys) == 0 {
		return set, &tokenError{"its tenant has no such key"}
	}
	for _, key := range keys {
		set.Keys = append(set.Keys, key)
	}
	return set, nil
}

// checkClaims returns nil if c are the claims of a token of one of the tenants, for this function.
func (t *Token) checkClaims(c *claims) error {
	if !slices.Contains(t.Tenants, c.tenant) {
		return &tokenError{"it is of another tenant"}
	}
	var issuer string
	switch c.version {
	case "1.0":
		issuer = t.IssuerV1 + c.tenant + "/"
	case "2.0":
		issuer = t.IssuerV2 + c.tenant + "/v2.0"
	default:
		return &tokenError{"its version is unknown"}
	}
	switch {
	case c.Issuer != issuer:
		return &tokenError{"its issuer does not match its tenant and version"}
	case !slices.Contains(t.Audiences, c.audience):
		return &tokenError{"it is for another audience"}
	}
	return nil
}

// authorise returns the caller of a valid token, and an error unless it has the right to call.
//
// idtyp is optional: without it, a scope marks a token of a user. An ID token has neither a scope nor an app, and is
// denied here.
func (t *Token) authorise(c *claims) (Caller, error) {
	switch {
	case c.app == "":
		return Caller{}, &tokenError{"it names no app by its id"}
	case c.delegated && c.object == "":
		return Caller{}, &tokenError{"it names no user by its id"}
	case c.delegated && c.kind == "app":
		return Caller{}, &tokenError{"it is an app's and has a scope"}
	case c.kind != "" && c.kind != "app" && c.kind != "user":
		return Caller{}, &tokenError{"it is neither an app's nor a user's"}
	}
	sender := Caller{Kind: KindToken, ID: "app:" + c.app}
	if c.delegated {
		sender.ID = "user:" + c.object + "," + sender.ID
	}
	if len(t.Tenants) > 1 { // an app may be in several
		sender.ID += ",tenant:" + c.tenant
	}
	switch {
	case (c.delegated || c.kind == "user") && !slices.Contains(c.scopes, t.Scope):
		return sender, fmt.Errorf("token: %w: it lacks the scope", ErrForbidden)
	case !slices.Contains(c.roles, t.Role):
		return sender, fmt.Errorf("token: %w: it lacks the app role", ErrForbidden)
	}
	return sender, nil
}

// describeError returns the failed check of the library as a fixed text: the library's own text has parts of the token.
func describeError(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{errClaims, "a claim is missing, repeated or of the wrong type"},
		{jwt.ErrTokenMalformed, "it cannot be decoded"},
		{jwt.ErrTokenSignatureInvalid, "its signature or its algorithm is wrong"},
		{jwt.ErrTokenExpired, "it has expired"},
		{jwt.ErrTokenNotValidYet, "it is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "it was issued in the future"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "it cannot be verified"
}

// tokenChallenge returns the value of WWW-Authenticate for bearer tokens (RFC 6750, section 3). It names no tenant.
func tokenChallenge(err error) string {
	const challenge = `Bearer realm="unassign"`
	if errors.Is(err, ErrForbidden) {
		return challenge + `, error="insufficient_scope"`
	}
	if _, ok := errors.AsType[*tokenError](err); ok {
		return challenge + `, error="invalid_token"`
	}
	return challenge
}
