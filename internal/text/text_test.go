package text_test

import (
	"testing"

	"autopilot-unassign/internal/text"
)

func TestIsPrintableASCII(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"": true, "a ~": true, "\x1f": false, "\x7f": false, "a\n": false, "é": false} {
		if got := text.IsPrintableASCII(in); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestTrim(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"nothing to trim": "a b", "line feed": "a b\n", "CRLF": "a b\r\n", "byte order mark": "\ufeffa b", "NUL": "a b\x00",
		"zero-width space": "\u200ba b\u200b", "no-break space": "\u00a0a b", "ideographic space": "\u3000a b\u3000", "several": "\ufeff \ta b\r\n\x00",
	} {
		if got := text.Trim(in); got != "a b" {
			t.Errorf("%s: Trim(%q) = %q", name, in, got)
		}
	}
	if got := text.Trim(" \u200b\r\n"); got != "" {
		t.Errorf("only invisible characters: %q", got)
	}
}
