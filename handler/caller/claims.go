package caller

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"autopilot-unassign/internal/guid"
)

// claims are those claims of an access token of Entra ID that decide
// (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference). Names of persons and apps are not
// among them: they can be changed and given again.
type claims struct {
	jwt.RegisteredClaims // of which Issuer and the times are read

	audience  string
	tenant    string
	version   string
	kind      string // app or user; "" where the API has not asked for it
	app       string // that was given the token: a GUID in lower case, or ""
	object    string // the user, or the app's own principal: a GUID in lower case, or ""
	delegated bool   // it has scopes, and so acts for a user
	scopes    []string
	roles     []string
}

// errClaims is the error of claims that are not what they must be.
var errClaims = errors.New("claims are not what they must be")

// UnmarshalJSON reads claims more strictly than encoding/json would by itself: names count as they are spelt, a claim
// comes once and is of its type, and null is of none.
func (c *claims) UnmarshalJSON(text []byte) error {
	m, err := members(text)
	if err != nil {
		return err
	}
	var scopes, app, object string
	err = errors.Join(
		value(m, "iss", &c.Issuer), value(m, "aud", &c.audience), value(m, "tid", &c.tenant), value(m, "ver", &c.version),
		value(m, "idtyp", &c.kind), value(m, "scp", &scopes), value(m, "roles", &c.roles), value(m, "oid", &object),
		readTime(m, "exp", &c.ExpiresAt), readTime(m, "nbf", &c.NotBefore), readTime(m, "iat", &c.IssuedAt),
	)
	switch c.version {
	case "1.0":
		err = errors.Join(err, value(m, "appid", &app))
	case "2.0":
		err = errors.Join(err, value(m, "azp", &app))
	}
	_, c.delegated = m["scp"]
	c.scopes = strings.Fields(scopes)
	c.app, c.object = plainGUID(app), plainGUID(object)
	return err
}

// members returns the members of the JSON object in text, which is valid JSON.
func members(text []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, errClaims
	}
	m := map[string]json.RawMessage{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		var member json.RawMessage
		if _, twice := m[name]; err != nil || !ok || twice || d.Decode(&member) != nil {
			return nil, errClaims
		}
		m[name] = member
	}
	return m, nil
}

// value reads the member of that name, if there is one, into a string or a list of strings.
func value[T string | []string](m map[string]json.RawMessage, name string, into *T) error {
	text, ok := m[name]
	if !ok {
		return nil
	}
	if string(text) == "null" || json.Unmarshal(text, into) != nil {
		return errClaims
	}
	return nil
}

// readTime reads the member of that name, if there is one, as a time in whole seconds: as Entra ID writes it.
func readTime(m map[string]json.RawMessage, name string, into **jwt.NumericDate) error {
	text, ok := m[name]
	if !ok {
		return nil
	}
	seconds, err := strconv.ParseUint(string(text), 10, 40)
	if err != nil {
		return errClaims
	}
	*into = jwt.NewNumericDate(time.Unix(int64(seconds), 0))
	return nil
}

// plainGUID returns the GUID in text in lower case, "" if it is none.
func plainGUID(text string) string {
	id, err := guid.Parse(text)
	if err != nil {
		return ""
	}
	return id.String()
}
