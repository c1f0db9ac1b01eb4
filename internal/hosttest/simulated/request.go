package simulated

import (
	"net/http"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/guid"
)

// Request is a request to the function.
type Request struct {
	Method, Target string
	Header         http.Header
	Body           string
}

// Post returns a request that is authentic by its signature, a delivery of its own, changed by changes.
func Post(body string, changes ...func(*Request)) Request {
	r := Request{http.MethodPost, "/api/unassign", http.Header{
		"X-Request-Id": {"request-1"},
		"Content-Type": {"application/json"},
	}, body}
	caller.Sign(r.Header, []byte(SigningKey), "msg_"+guid.New().String(), time.Now(), []byte(body))
	for _, change := range changes {
		change(&r)
	}
	return r
}

// Header returns a change that sets the values of a header, or removes it.
func Header(name string, values ...string) func(*Request) {
	return func(r *Request) {
		delete(r.Header, http.CanonicalHeaderKey(name))
		if len(values) > 0 {
			r.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
}

// Unsigned removes the signature of a request.
func Unsigned(r *Request) {
	for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		r.Header.Del(name)
	}
}

// ByKey gives a request an API key in place of its signature.
func ByKey(r *Request) {
	Unsigned(r)
	r.Header.Set("X-Api-Key", APIKey)
}

// Delivery returns a change that gives a request a delivery id, by its signature or, without one, by a header.
func Delivery(id string) func(*Request) {
	return func(r *Request) {
		if r.Header.Get("Webhook-Id") != "" {
			caller.Sign(r.Header, []byte(SigningKey), id, time.Now(), []byte(r.Body))
			return
		}
		r.Header.Set("Idempotency-Key", id)
	}
}

// Bearer returns a change that puts a token of the cloud on a request.
func Bearer(c *azuresim.Cloud, of func(*azuresim.Cloud) azuresim.Claims) func(*Request) {
	return Header("Authorization", "Bearer "+c.Token(of(c), nil))
}

// The tokens of callers.
const (
	AudienceURI = "api://contoso.com/unassign"
	AudienceID  = "cccccccc-0000-4000-8000-000000000003"
	Audiences   = AudienceURI + "," + AudienceID // the value of ENTRA_AUDIENCE

	ServiceNow    = "aaaaaaaa-0000-4000-8000-000000000001" // an app of the tenant
	PowerAutomate = "d2ebd3a9-1ada-4480-8b2d-eac162716601" // HTTP with Microsoft Entra ID, the same app in every tenant
	User          = "bbbbbbbb-0000-4000-8000-000000000002"
	Role          = "Device.Unassign"
)

// FromServiceNow returns the claims of ServiceNow, which gets a token with the credentials of an app.
func FromServiceNow(c *azuresim.Cloud) azuresim.Claims {
	return c.AppClaims("2.0", AudienceID, ServiceNow, Role)
}

// FromPowerAutomate returns the claims of a flow, which gets a token for the user of its connection.
func FromPowerAutomate(c *azuresim.Cloud) azuresim.Claims {
	return c.UserClaims("1.0", AudienceURI, PowerAutomate, User, "user_impersonation", Role)
}

// WithClaim returns FromServiceNow with another value of a claim.
func WithClaim(name string, value any) func(*azuresim.Cloud) azuresim.Claims {
	return func(c *azuresim.Cloud) azuresim.Claims {
		return FromServiceNow(c).With(azuresim.Claims{name: value})
	}
}
