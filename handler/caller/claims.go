package caller

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/text"
)

// claims are the claims of an access token of Entra ID that authorise its caller
// (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference). Names of people and apps are not
// among them, because names can change and be reused.
type claims struct {
	jwt.RegisteredClaims // Issuer and the times are set

	audience  string
	tenant    string
	version   string
	kind      string // app or user; "" if the app registration does not request the claim
	app       string // the app that the token was issued to: a GUID in lower case, or ""
	object    string // the user, or the app's own principal: a GUID in lower case, or ""
	delegated bool   // it has scopes, and acts for a user
	scopes    []string
	roles     []string
}

// errClaims is the error of invalid claims.
var errClaims = errors.New("claims are invalid")

// UnmarshalJSON decodes claims more strictly than encoding/json: names are case-sensitive, a claim comes once and has
// its type, and null has no type.
func (c *claims) UnmarshalJSON(value []byte) error {
	m, err := decodeMembers(value)
	if err != nil {
		return err
	}
	var scopes, app, object string
	err = errors.Join(
		decodeClaim(m, "iss", &c.Issuer), decodeClaim(m, "aud", &c.audience), decodeClaim(m, "tid", &c.tenant),
		decodeClaim(m, "ver", &c.version),
		decodeClaim(m, "idtyp", &c.kind), decodeClaim(m, "scp", &scopes), decodeClaim(m, "roles", &c.roles),
		decodeClaim(m, "oid", &object),
		decodeTime(m, "exp", &c.ExpiresAt), decodeTime(m, "nbf", &c.NotBefore), decodeTime(m, "iat", &c.IssuedAt),
	)
	switch c.version {
	case "1.0":
		err = errors.Join(err, decodeClaim(m, "appid", &app))
	case "2.0":
		err = errors.Join(err, decodeClaim(m, "azp", &app))
	}
	_, c.delegated = m["scp"]
	c.scopes = strings.Fields(scopes)
	c.app, c.object = normalizeGUID(app), normalizeGUID(object)
	return err
}

// decodeMembers returns the members of a JSON object, which is valid JSON.
func decodeMembers(object []byte) (map[string]json.RawMessage, error) {
	if !text.IsObject(object) {
		return nil, errClaims
	}
	m := map[string]json.RawMessage{}
	for name, member := range text.Members(object) {
		if _, twice := m[string(name)]; twice {
			return nil, errClaims
		}
		m[string(name)] = member
	}
	return m, nil
}

// decodeClaim decodes the member of that name, if present, into a string or a list of strings.
func decodeClaim[T string | []string](m map[string]json.RawMessage, name string, into *T) error {
	claim, ok := m[name]
	if !ok {
		return nil
	}
	if string(claim) == "null" || json.Unmarshal(claim, into) != nil {
		return errClaims
	}
	return nil
}

// decodeTime decodes the member of that name, if present, as a time in whole seconds, as Entra ID writes it.
func decodeTime(m map[string]json.RawMessage, name string, into **jwt.NumericDate) error {
	claim, ok := m[name]
	if !ok {
		return nil
	}
	seconds, err := strconv.ParseUint(string(claim), 10, 40)
	if err != nil {
		return errClaims
	}
	*into = jwt.NewNumericDate(time.Unix(int64(seconds), 0))
	return nil
}

// normalizeGUID returns a GUID in lower case, "" for another text.
func normalizeGUID(s string) string {
	id, err := guid.Parse(s)
	if err != nil {
		return ""
	}
	return id.String()
}
