package text

import (
	"bytes"
	"encoding/json"
	"iter"
	"strings"
	"unicode/utf8"
)

// Unquote returns the string that a valid JSON value holds, and false for another value. It calls a decoder only for
// a string with an escape or invalid UTF-8: a decoder for each member costs most of the time of a page of devices.
func Unquote(value []byte) (s string, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	return string(unquoted(value)), true
}

// unquoted returns the text of a JSON string, where possible without a copy.
func unquoted(value []byte) []byte {
	if bytes.IndexByte(value, '\\') < 0 && utf8.Valid(value) {
		return value[1 : len(value)-1]
	}
	var decoded string
	_ = json.Unmarshal(value, &decoded) // it is valid
	return []byte(decoded)
}

// IsObject reports whether a valid JSON value is an object.
func IsObject(value []byte) bool { return bytes.HasPrefix(trimSpace(value), []byte("{")) }

// Members returns the members of a valid JSON value in order, each as its name and its value in JSON. A value that is
// no object has none.
func Members(value []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		if !IsObject(value) {
			return
		}
		for rest := trimSpace(trimSpace(value)[1:]); rest[0] != '}'; rest = trimSpace(bytes.TrimPrefix(rest, []byte(","))) {
			var name, member []byte
			name, rest = cutValue(rest)
			member, rest = cutValue(trimSpace(rest[1:])) // behind the colon
			if !yield(unquoted(name), member) {
				return
			}
		}
	}
}

// cutValue cuts text behind the JSON value that it begins with, and behind the white space that follows. Text is inside an
// object, and valid JSON.
func cutValue(text []byte) (value, rest []byte) {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case depth == 0 && strings.IndexByte(",:]}"+whiteSpace, c) >= 0:
			return text[:i], trimSpace(text[i:])
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
	}
	return text, nil
}

// whiteSpace is the white space of JSON.
const whiteSpace = " \t\r\n"

func trimSpace(text []byte) []byte { return bytes.TrimLeft(text, whiteSpace) }
