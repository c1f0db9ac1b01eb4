package text

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// Unquote returns the string that a valid JSON value holds, and false for another value. It calls a decoder only for
// a string with an escape or invalid UTF-8: a decoder for each member costs most of the time of a page of devices.
func Unquote(value []byte) (s string, ok bool) {
	switch {
	case len(value) < 2 || value[0] != '"':
		return "", false
	case bytes.IndexByte(value, '\\') < 0 && utf8.Valid(value):
		return string(value[1 : len(value)-1]), true
	}
	var decoded string // s itself would be on the heap for every value
	ok = json.Unmarshal(value, &decoded) == nil
	return decoded, ok
}
