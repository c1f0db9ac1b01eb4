package azuresim

import (
	"fmt"
	"net/http"
	"strings"
)

var identityService = service{ //nolint:gochecknoglobals // a table that nothing writes to
	name:   "identity",
	step:   func(*http.Request) Step { return StepIdentity },
	answer: (*Cloud).serveIdentity,
}

// identityHeader is the secret with which a worker of App Service calls the managed identity endpoint.
const identityHeader = "simulated-identity-header"

// SetIdentityRoles sets the application permissions of the managed identity in Graph.
func (c *Cloud) SetIdentityRoles(roles ...string) { c.changeLocked(func() { c.identityRoles = roles }) }

// Issuer returns the issuer of the tenant's version 2 tokens. An app that trusts a managed identity names it.
func (c *Cloud) Issuer() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.authority + "/" + c.TenantID + "/v2.0"
}

// serveIdentity serves the managed identity endpoint of a virtual machine and of App Service.
func (c *Cloud) serveIdentity(r *http.Request, _ []byte) answer {
	query := r.URL.Query()
	switch {
	case r.Header.Get("Metadata") != "true" && r.Header.Get("X-Identity-Header") != identityHeader:
		return invalidRequest("Required metadata header not specified")
	case query.Get("client_id") != "" && query.Get("client_id") != c.IdentityClientID:
		return invalidRequest("Identity not found")
	case query.Get("resource") == "":
		return invalidRequest("resource is missing")
	}
	resource := query.Get("resource")
	token := c.issueToken(Claims{
		"aud": resource, "appid": c.IdentityClientID, "idtyp": "app", "roles": c.identityRoles,
	})
	if strings.HasPrefix(resource, "api://AzureADTokenExchange") { // for a federated credential
		issuer := c.authority + "/" + c.TenantID + "/v2.0"
		token = c.signToken(c.commonClaims().With(Claims{
			"aud": resource, "iss": issuer, "sub": c.IdentityObjectID, "ver": "2.0",
		}), nil)
	}
	return jsonAnswer(http.StatusOK, map[string]string{
		"access_token": token,
		"expires_on":   fmt.Sprint(c.Now().Add(c.life).Unix()),
		"expires_in":   fmt.Sprint(int(c.life.Seconds())),
		"resource":     resource,
		"token_type":   "Bearer",
		"client_id":    c.IdentityClientID,
	})
}

// invalidRequest returns the endpoint's refusal of a request.
func invalidRequest(description string) answer {
	return jsonAnswer(http.StatusBadRequest, map[string]string{
		"error": "invalid_request", "error_description": description,
	})
}
