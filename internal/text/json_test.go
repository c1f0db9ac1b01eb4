package text_test

import (
	"encoding/json"
	"maps"
	"testing"

	"autopilot-unassign/internal/text"
)

// FuzzUnquote compares Unquote with encoding/json.
func FuzzUnquote(f *testing.F) {
	for _, seed := range []string{`""`, `"a"`, `"\u00e9\n\""`, `"é"`, "\"\xff\"", `null`, `1`, `{"a":"b"}`, `["a"]`, `"\ud800"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if !json.Valid([]byte(value)) || value[0] <= ' ' {
			return
		}
		var want any
		if err := json.Unmarshal([]byte(value), &want); err != nil {
			return // a number out of range
		}
		wanted, isString := want.(string)
		if last := value[len(value)-1]; isString && last != '"' {
			return // white space behind the value
		}
		if got, ok := text.Unquote([]byte(value)); ok != isString || got != wanted {
			t.Errorf("%q: %q, %t, want %q, %t", value, got, ok, wanted, isString)
		}
	})
}

// FuzzMembers compares Members with encoding/json.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{}`, ` { "a" : 1 , "b":[{"c":"}"},2] } `, `{"a\"":"\\","":null}`, `{"a":{"b":"]"}}`, `{"a":1,"\u0061":2}`, `[{"a":1}]`, `"{"`, `null`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if !json.Valid([]byte(value)) {
			return
		}
		var want map[string]json.RawMessage
		isObject := json.Unmarshal([]byte(value), &want) == nil && want != nil
		got := map[string]json.RawMessage{}
		for name, member := range text.Members([]byte(value)) {
			got[string(name)] = member
		}
		same := func(a, b json.RawMessage) bool { return string(a) == string(b) }
		if text.IsObject([]byte(value)) != isObject || !maps.EqualFunc(got, want, same) {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	})
}
