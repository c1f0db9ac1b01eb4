package azuresim

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Fault makes a step fail. The zero value does not.
type Fault struct {
	delay   time.Duration
	hang    bool
	answer  *answer // in place of the service's own
	foreign bool    // the answer is of a proxy or firewall
	acts    bool    // the request has its effect all the same
	shorten bool    // the body ends early, without an error
	cut     bool    // the connection is lost in the middle of the body
	err     error   // in place of a response
}

// planned is a fault for the next requests of a step.
type planned struct {
	times int // negative: for ever
	fault Fault
}

// Fail applies f to the next requests of step: so many times, or until Heal if times is negative. The faults of a
// step take turns in the order of their Fail.
func (c *Cloud) Fail(step Step, times int, f Fault) {
	c.changeLocked(func() { c.faults[step] = append(c.faults[step], &planned{times, f}) })
}

// Heal removes all faults.
func (c *Cloud) Heal() { c.changeLocked(func() { clear(c.faults) }) }

func (c *Cloud) nextFault(step Step) Fault {
	for _, p := range c.faults[step] {
		if p.times != 0 {
			p.times--
			return p.fault
		}
	}
	return Fault{}
}

// waitDelay waits for the time of the fault, or returns the error of ctx if ctx ends first.
func (f Fault) waitDelay(ctx context.Context) error {
	if f.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.delay == 0 {
		return nil
	}
	timer := time.NewTimer(f.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Delay makes the service respond after d.
func Delay(d time.Duration) Fault { return Fault{delay: d} }

// Hang makes the service accept the request and never respond.
func Hang() Fault { return Fault{hang: true} }

// Status makes the service respond with a status, a plain error body, and headers, given as pairs of a name and a
// value.
func Status(status int, headers ...string) Fault {
	a := jsonAnswer(status, map[string]any{
		"error": map[string]string{"code": "SimulatedFault", "message": "The service has failed."},
	})
	for i := 0; i+1 < len(headers); i += 2 {
		a.header.Set(headers[i], headers[i+1])
	}
	return Fault{answer: &a}
}

// Body makes the service respond with a status, a content type and a body.
func Body(status int, contentType, body string) Fault {
	return Fault{answer: &answer{status, http.Header{"Content-Type": {contentType}}, []byte(body)}}
}

// Done returns f, a fault with a response, for a service that carries out the request before it fails.
func Done(f Fault) Fault {
	f.acts = true
	return f
}

// Foreign returns f, a fault with a response, as the response of a proxy or firewall: without Graph's headers.
func Foreign(f Fault) Fault {
	f.foreign = true
	return f
}

// Truncated makes the service's own response end early, without an error.
func Truncated() Fault { return Fault{shorten: true} }

// ResetMidBody breaks the connection in the middle of the service's own response. The request has its effect.
func ResetMidBody() Fault { return Fault{cut: true} }

// Reset breaks the connection before a response.
func Reset() Fault {
	return Fault{err: &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}}
}

// WrongType responds 200 with the HTML page of a proxy.
func WrongType() Fault {
	return Foreign(Body(http.StatusOK, "text/html", "<!DOCTYPE html><title>Sign in to the network</title>"))
}

// Oversize makes the service respond 200 with about n bytes of JSON.
func Oversize(n int) Fault {
	body := append([]byte(`{"value":"`), bytes.Repeat([]byte("x"), n)...)
	return Body(http.StatusOK, "application/json", string(append(body, `"}`...)))
}

// Redirect makes the service respond 307 with that Location.
func Redirect(location string) Fault {
	return Status(http.StatusTemporaryRedirect, "Location", location)
}

// MalformedChallenge makes the vault challenge in a form that azsecrets panics on.
func MalformedChallenge() Fault {
	challenge := `Bearer authorization="login", resource="https://vault.azure.net"`
	return Status(http.StatusUnauthorized, "WWW-Authenticate", challenge)
}

// The following make a connection fail. They work in this process alone: a served Cloud cannot lose its name, refuse a
// connection or change its certificate for one request.

// NoHost makes the name of the host unknown.
func NoHost() Fault {
	unknown := &net.DNSError{Err: "no such host", Name: "host", IsNotFound: true}
	return Fault{err: &net.OpError{Op: "dial", Net: "tcp", Err: unknown}}
}

// Refused makes the host refuse the connection.
func Refused() Fault {
	return Fault{err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
}

// Untrusted makes the host's certificate untrusted.
func Untrusted() Fault {
	return Fault{err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}
}

// Shape is a form of Graph's errors.
type Shape string

// The shapes.
const (
	Plain        Shape = "plain"         // JSON as documented
	Nested       Shape = "nested"        // JSON in the message
	DoublyNested Shape = "doubly nested" // JSON in JSON in the message
	HTML         Shape = "html"          // HTML in the message
	NoRoute      Shape = "no route"      // a code that is a sentence
	NotJSON      Shape = "not json"      // from a proxy in front of Graph
)

// GraphError makes Graph respond with a status and an error body of that shape. Nested shapes name internal hosts, as
// the real ones do, and have a retryAfter above zero in the body alone.
func GraphError(status int, shape Shape, retryAfter int) Fault {
	a := graphError(status, shape, "SimulatedFault", "The service has failed.", retryAfter)
	return Fault{answer: &a, foreign: shape == NotJSON}
}

const activityID = "11111111-2222-4333-8444-555555555555"

// graphError returns an error response of Graph.
func graphError(status int, shape Shape, code, message string, retryAfter int) answer {
	wait := any(nil)
	if retryAfter > 0 {
		wait = retryAfter
	}
	intune := func() string {
		return jsonText(map[string]any{
			"_version": 3,
			"Message": message + " - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000" +
				" - Activity ID: " + activityID +
				" - Url: https://fef.msub01.manage.microsoft.com/StatelessDeviceEnrollmentFEService" +
				"/deviceManagement/windowsAutopilotDeviceIdentities?api-version=5023-06-28",
			"CustomApiErrorPhrase": "", "RetryAfter": wait, "ErrorSourceService": "", "HttpHeaders": "{}",
		})
	}
	switch shape {
	case Nested:
		message = intune()
	case DoublyNested:
		message = jsonText(map[string]any{"ErrorCode": code, "Message": intune(), "Target": nil})
		code = "UnknownError"
	case HTML:
		code = "UnknownError"
		message = `<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN"><TITLE>Bad Request</TITLE>` +
			`<h2>Bad Request - Invalid URL</h2><p>HTTP Error 400. The request URL is invalid.</p>`
	case NoRoute:
		code = "No method match route template"
		message = "No OData route exists that match template ~/singleton/navigation/key with http verb POST"
	case NotJSON:
		page := fmt.Appendf(nil, "<html><body>%d %s</body></html>", status, http.StatusText(status))
		return answer{status, http.Header{"Content-Type": {"text/html"}}, page}
	}
	return jsonAnswer(status, map[string]any{"error": map[string]any{
		"code": code, "message": message,
		"innerError": map[string]string{
			"date": "2026-01-02T03:04:05", "request-id": activityID, "client-request-id": activityID,
		},
	}})
}

// jsonText returns v as JSON in a string.
func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("azuresim: %v", err)) // the values are all of this package
	}
	return string(b)
}
