package guid_test

import (
	"strings"
	"testing"

	"autopilot-unassign/internal/guid"
)

func TestParse(t *testing.T) {
	const want = "0f0e0d0c-0b0a-4908-8706-050403020100"
	for _, s := range []string{want, strings.ToUpper(want)} {
		g, err := guid.Parse(s)
		if err != nil || g.String() != want {
			t.Errorf("Parse(%q) = %v, %v", s, g, err)
		}
	}
	for name, s := range map[string]string{
		"empty":               "",
		"too short":           want[:35],
		"too long":            want + "0",
		"a byte too long":     want + "00",
		"braces":              "{" + want[:34] + "}",
		"urn":                 "urn:uuid:" + want,
		"no hyphens":          strings.ReplaceAll(want, "-", ""),
		"hyphen elsewhere":    "0f0e0d0c0-b0a-4908-8706-050403020100",
		"not hex":             "gf0e0d0c-0b0a-4908-8706-050403020100",
		"fullwidth digit":     "\uff10f0e0d0c-0b0a-4908-8706-0504030201",
		"hyphen of U+2010":    "0f0e0d0c\u20100b0a-4908-8706-0504030201",
		"path in the middle":  "0f0e0d0c-0b0a-4908-8706-05040302/../",
		"percent":             "0f0e0d0c-0b0a-4908-8706-0504030201%2",
		"line break":          want[:35] + "\n",
		"sign that hex skips": "+f0e0d0c-0b0a-4908-8706-050403020100",
	} {
		if g, err := guid.Parse(s); err == nil {
			t.Errorf("%s: Parse(%q) = %v, want an error", name, s, g)
		}
	}
}

func TestNew(t *testing.T) {
	a, b := guid.New(), guid.New()
	if a == b {
		t.Errorf("two GUIDs are alike: %v", a)
	}
	if s := a.String(); s[14] != '4' || !strings.ContainsRune("89ab", rune(s[19])) {
		t.Errorf("%s is not of version 4", s)
	}
	if parsed, err := guid.Parse(a.String()); err != nil || parsed != a {
		t.Errorf("Parse(%v) = %v, %v", a, parsed, err)
	}
}
