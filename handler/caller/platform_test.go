package caller

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestCrossSiteRequests has requests that browsers send for pages of this site and of others, and one of a program.
func TestCrossSiteRequests(t *testing.T) {
	for name, test := range map[string]struct {
		header http.Header
		denied bool
	}{
		"a program":                  {nil, false},
		"its own page":               {http.Header{"Sec-Fetch-Site": {"same-origin"}}, false},
		"another site":               {http.Header{"Sec-Fetch-Site": {"cross-site"}}, true},
		"another name of the site":   {http.Header{"Sec-Fetch-Site": {"same-site"}}, true},
		"another site, old browser":  {http.Header{"Origin": {"https://evil.example"}}, true},
		"its own page, old browser":  {http.Header{"Origin": {"https://unassign.example"}}, false},
		"a sandboxed page":           {http.Header{"Origin": {"null"}}, true},
		"several values of a header": {http.Header{"Sec-Fetch-Site": {"cross-site", "same-origin"}}, true},
	} {
		r := httptest.NewRequest(http.MethodPost, "https://unassign.example/api/unassign", nil)
		maps.Copy(r.Header, test.header)
		sender, err := Platform{}.Verify(r, nil)
		if errors.Is(err, ErrDenied) != test.denied || !test.denied && sender != (Caller{Kind: KindPlatform, ID: PlatformID}) {
			t.Errorf("%s: %v, %v", name, sender, err)
		}
	}
}
