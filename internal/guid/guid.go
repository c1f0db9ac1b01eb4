// Package guid reads and makes GUIDs in the one form that Microsoft Graph prints: 36 ASCII characters, hex digits with
// hyphens behind the 8th, 12th, 16th and 20th.
//
// A GUID that has been parsed can be put into a URL path as it is: the value prints only hex digits
// and hyphens. Braces, the urn:uuid: prefix and look-alike characters, which other parsers accept, are refused.
package guid

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
)

// GUID is 16 bytes in the order they are printed in. The zero value is the all-zero GUID.
type GUID [16]byte

// ErrSyntax is the error of Parse for a text that is no GUID.
var ErrSyntax = errors.New("not a GUID of the form 00000000-0000-0000-0000-000000000000")

// New returns a random (version 4) GUID.
func New() GUID {
	var g GUID
	_, _ = rand.Read(g[:]) // never fails: crypto/rand ends the process instead
	g[6] = g[6]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// Parse reads s, in either case. It returns ErrSyntax for everything but the 36-character form.
func Parse(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return GUID{}, ErrSyntax
	}
	compact := make([]byte, 0, 32)
	for _, part := range []string{s[:8], s[9:13], s[14:18], s[19:23], s[24:]} {
		compact = append(compact, part...)
	}
	if _, err := hex.Decode(g[:], compact); err != nil {
		return GUID{}, ErrSyntax
	}
	return g, nil
}

// String returns g in lower case.
func (g GUID) String() string {
	b := make([]byte, 0, 36)
	for i, part := range [][]byte{g[:4], g[4:6], g[6:8], g[8:10], g[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return string(b)
}
