// Package text cleans text that people and their tools have stored (settings, secrets, key files), and has the forms
// in which the commands print.
package text

import (
	"strings"
	"unicode"
)

// Alphanumeric are the ASCII letters and digits, as a set for strings.Trim.
const Alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// IsPrintableASCII reports whether s has no character but ASCII from space to tilde: what an HTTP header can carry.
func IsPrintableASCII(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// Trim removes invisible characters from both ends of s: white space of every script, control characters (NUL and CR
// among them), byte order marks and zero-width characters. Editors, shells and scripts add them unasked.
func Trim(s string) string {
	return strings.TrimFunc(s, func(c rune) bool { return unicode.IsSpace(c) || unicode.In(c, unicode.Cc, unicode.Cf, unicode.Z) })
}
