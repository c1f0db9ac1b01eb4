package azuresim

import (
	"fmt"
	"net/http"
)

var identityService = service{ //nolint:gochecknoglobals // a table that nothing writes to
	name:   "identity",
	step:   func(*http.Request) Step { return StepIdentity },
	answer: (*Cloud).identity,
}

// identityHeader is what App Service gives its workers to show to the managed identity endpoint.
const identityHeader = "simulated-identity-header"

// identity answers as the managed identity endpoint of a virtual machine or of App Service.
func (c *Cloud) identity(r *http.Request, _ []byte) answer {
	query := r.URL.Query()
	switch {
	case r.Header.Get("Metadata") != "true" && r.Header.Get("X-Identity-Header") != identityHeader:
		return jsonAnswer(http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": "Required metadata header not specified"})
	case query.Get("client_id") != "" && query.Get("client_id") != c.IdentityClientID:
		return jsonAnswer(http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": "Identity not found"})
	case query.Get("resource") == "":
		return jsonAnswer(http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": "resource is missing"})
	}
	return jsonAnswer(http.StatusOK, map[string]string{
		"access_token": c.issue(map[string]any{"aud": query.Get("resource"), "appid": c.IdentityClientID, "idtyp": "app"}),
		"expires_on":   fmt.Sprint(c.Now().Add(tokenLife).Unix()),
		"expires_in":   fmt.Sprint(int(tokenLife.Seconds())),
		"resource":     query.Get("resource"),
		"token_type":   "Bearer",
		"client_id":    c.IdentityClientID,
	})
}
