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
)

const headerAuthorization = "Authorization"

const (
	maxToken    = 8 << 10          // bytes of a token that is looked into
	maxKeyID    = 128              // bytes of the id of a signing key
	tokenLeeway = 60 * time.Second // how far the clocks of Entra ID and of this machine may be apart
)

// SigningKeys are the public keys with which Entra ID signs the tokens of its tenants.
type SigningKeys interface {
	// Keys returns the keys that go by id in a tenant, of which there is more than one only while Entra ID is in disorder.
	// None and no error means that the tenant has no such key; an error, that this is not known.
	Keys(ctx context.Context, tenant, id string) ([]*rsa.PublicKey, error)
}

// Token verifies an access token of Entra ID in the header Authorization.
//
// That a token is genuine and meant for this function is not enough: Entra ID issues one to every app of the tenant that
// asks. The app role is what lets a caller in, and without it the error is [ErrForbidden].
type Token struct {
	Keys      SigningKeys
	Tenants   []string // whose tokens are accepted, as GUIDs in lower case
	Audiences []string // what names this function in a token: its App ID URI, its client id, or both
	Role      string   // the app role that callers must have
	Scope     string   // what a token that acts for a user must have beside it

	// The beginnings of the issuers, as far as the tenant's id: Entra ID issues tokens of two versions.
	IssuerV1, IssuerV2 string

	Now func() time.Time // nil means time.Now
}

// ErrForbidden is the error of a caller that is authentic and has not been given the right to call.
var ErrForbidden = errors.New("authentic, but not allowed to call")

// tokenError is an ErrDenied of a token.
type tokenError struct {
	why string // in fixed words
}

func (e *tokenError) Error() string { return "token: " + ErrDenied.Error() + ": " + e.why }
func (e *tokenError) Unwrap() error { return ErrDenied }

// Verify looks at the header Authorization. One with another scheme than Bearer is no evidence of this kind. With
// ErrForbidden it returns who was refused.
//
// No address is taken from a token: its tenant must be one of Tenants, and its key one of that tenant's.
func (t *Token) Verify(r *http.Request, _ []byte) (Caller, error) {
	raw, err := bearer(r.Header[headerAuthorization])
	if err != nil {
		return Caller{}, err
	}
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}), jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway), jwt.WithTimeFunc(now),
	)
	var c claims
	var own error // of the checks that are not the library's
	_, err = parser.ParseWithClaims(raw, &c, func(token *jwt.Token) (any, error) {
		var keys jwt.VerificationKeySet
		keys, own = t.keys(r.Context(), token.Header, &c)
		return keys, own
	})
	switch {
	case own != nil:
		return Caller{}, own
	case err != nil:
		return Caller{}, &tokenError{explain(err)}
	}
	return t.authorise(&c)
}

// bearer returns the token in the values of the header Authorization. It decodes nothing.
func bearer(values []string) (string, error) {
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
		return "", &tokenError{"it is longer than 8 KiB"}
	case strings.ContainsFunc(token, func(c rune) bool {
		// base64 passes over line ends, which no header has but an event may.
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.'
	}):
		return "", &tokenError{"it has a character that no token has"}
	}
	return token, nil
}

// carried are the members of a token's header by which it says where its key is, brings one along, or asks for what this
// room does not do (crit). The key is Entra ID's, from the address in the settings.
var carried = []string{"crit", "jku", "jwk", "x5u", "x5c"} //nolint:gochecknoglobals // a list that nothing writes to

// keys returns the keys that a token may be signed with. Nothing of it is known to be true yet, but a token that says by
// itself that it is not for this function does not cause keys to be read.
func (t *Token) keys(ctx context.Context, header map[string]any, c *claims) (jwt.VerificationKeySet, error) {
	var set jwt.VerificationKeySet
	id, ok := header["kid"].(string)
	switch {
	case slices.ContainsFunc(carried, func(name string) bool { _, ok := header[name]; return ok }):
		return set, &tokenError{"its header has crit, or a key or an address in it"}
	case !ok || id == "" || len(id) > maxKeyID:
		return set, &tokenError{"its header does not name a key"}
	}
	if err := t.accepts(c); err != nil {
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

// accepts returns nil if c are the claims of a token of one of the tenants, for this function.
func (t *Token) accepts(c *claims) error {
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
		return &tokenError{"it is of a version that is not known"}
	}
	switch {
	case c.Issuer != issuer:
		return &tokenError{"its issuer is not that of its tenant and version"}
	case !slices.Contains(t.Audiences, c.audience):
		return &tokenError{"it is for another audience"}
	}
	return nil
}

// authorise says who sent a genuine token with the claims c, and whether he may call.
//
// Without idtyp, which an app must ask for, a scope is what makes a token one of a user. An ID token has none, but it has
// no app either, and ends here.
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
	who := Caller{Kind: KindToken, ID: "app:" + c.app}
	if c.delegated {
		who.ID = "user:" + c.object + "," + who.ID
	}
	if len(t.Tenants) > 1 { // an app may be in several
		who.ID += ",tenant:" + c.tenant
	}
	switch {
	case (c.delegated || c.kind == "user") && !slices.Contains(c.scopes, t.Scope):
		return who, fmt.Errorf("token: %w: it has not the scope", ErrForbidden)
	case !slices.Contains(c.roles, t.Role):
		return who, fmt.Errorf("token: %w: it has not the app role", ErrForbidden)
	}
	return who, nil
}

// explain returns which check of the library err is about, in fixed words: its own have parts of the token in them.
func explain(err error) string {
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

// Challenge is what WWW-Authenticate says of bearer tokens (RFC 6750, section 3). It names no tenant.
func (t *Token) Challenge(err error) string {
	const challenge = `Bearer realm="unassign"`
	if errors.Is(err, ErrForbidden) {
		return challenge + `, error="insufficient_scope"`
	}
	if _, ok := errors.AsType[*tokenError](err); ok {
		return challenge + `, error="invalid_token"`
	}
	return challenge
}
