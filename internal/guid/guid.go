// Package guid reads and makes GUIDs in the one form that Microsoft Graph prints: 36 ASCII characters, hex digits with
// hyphens behind the 8th, 12th, 16th and 20th.
//
// A GUID that has been parsed can be put into a URL path as it is: the value prints only hex digits
// and hyphens. Braces, the urn:uuid: prefix and look-alike characters, which other parsers accept, are refused.
package guid

import (
	"errors"

	"github.com/google/uuid"
)

// GUID is 16 bytes in the order they are printed in, in lower case. The zero value is the all-zero GUID.
type GUID = uuid.UUID

// New returns a random (version 4) GUID.
func New() GUID { return uuid.New() }

// Parse reads s, in either case. It returns an error for everything but the 36-character form.
func Parse(s string) (GUID, error) {
	g, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return GUID{}, errors.New("not a GUID of the form 00000000-0000-0000-0000-000000000000")
	}
	return g, nil
}
