package text_test

import (
	"encoding/json"
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
