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

// Fault is a way in which a step can go wrong. The zero value is none.
type Fault struct {
	delay   time.Duration
	hang    bool
	answer  *answer // in the place of the service's own
	acts    bool    // the service has done what was asked for, whatever it answers
	shorten bool    // the body ends early, as if that were its end
	cut     bool    // the connection is lost in the middle of the body
	err     error   // no answer comes
}

// planned is a fault for the next requests of a step.
type planned struct {
	times int // negative: for ever
	fault Fault
}

// Fail makes the next times requests of step go wrong; a negative number means all of them until Heal. Faults of one step
// come in the order they were asked for.
func (c *Cloud) Fail(step Step, times int, f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[step] = append(c.faults[step], &planned{times, f})
}

// Heal takes back every Fail.
func (c *Cloud) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.faults)
}

func (c *Cloud) nextFault(step Step) Fault {
	for _, p := range c.faults[step] {
		if p.times != 0 {
			p.times--
			return p.fault
		}
	}
	return Fault{}
}

// wait spends the time that the fault takes, or returns the error of ctx when that ends before.
func (f Fault) wait(ctx context.Context) error {
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

// Delay makes the service slow: it answers as ever, after d.
func Delay(d time.Duration) Fault { return Fault{delay: d} }

// Hang makes the service take the request and never answer.
func Hang() Fault { return Fault{hang: true} }

// Status makes the service answer with a status, an error body of no particular form, and headers, given as pairs of a name
// and a value.
func Status(status int, headers ...string) Fault {
	a := jsonAnswer(status, map[string]any{"error": map[string]string{"code": "SimulatedFault", "message": "The service has failed."}})
	for i := 0; i+1 < len(headers); i += 2 {
		a.header.Set(headers[i], headers[i+1])
	}
	return Fault{answer: &a}
}

// Body makes the service answer with a status, a content type and a body.
func Body(status int, contentType, body string) Fault {
	return Fault{answer: &answer{status, http.Header{"Content-Type": {contentType}}, []byte(body)}}
}

// Done returns f, a fault that is an answer, for a service that has done what was asked for before it failed.
func Done(f Fault) Fault {
	f.acts = true
	return f
}

// Truncated makes the service's own answer end early, as if it were whole.
func Truncated() Fault { return Fault{shorten: true} }

// ResetMidBody makes the connection break in the middle of the service's own answer, which has had its effect.
func ResetMidBody() Fault { return Fault{cut: true} }

// Reset makes the connection break before an answer.
func Reset() Fault {
	return Fault{err: &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}}
}

// WrongType makes the service answer 200 with a page for people.
func WrongType() Fault {
	return Body(http.StatusOK, "text/html", "<!DOCTYPE html><title>Sign in to the network</title>")
}

// Oversize makes the service answer 200 with a body of JSON of about n bytes.
func Oversize(n int) Fault {
	body := append([]byte(`{"value":"`), bytes.Repeat([]byte("x"), n)...)
	return Body(http.StatusOK, "application/json", string(append(body, `"}`...)))
}

// Redirect makes the service answer 307 with that Location.
func Redirect(location string) Fault {
	return Status(http.StatusTemporaryRedirect, "Location", location)
}

// MalformedChallenge makes the vault ask for a token in words that azsecrets panics on.
func MalformedChallenge() Fault {
	return Status(http.StatusUnauthorized, "WWW-Authenticate", `Bearer authorization="login", resource="https://vault.azure.net"`)
}

// The following make a connection fail. They work in this process alone: nothing that is served on loopback can be
// without a name, refuse a connection or have a certificate of somebody else for one request.

// NoHost makes the name of the host unknown.
func NoHost() Fault {
	return Fault{err: &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "host", IsNotFound: true}}}
}

// Refused makes the host refuse the connection.
func Refused() Fault {
	return Fault{err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
}

// Untrusted makes the host's certificate one that is not trusted.
func Untrusted() Fault {
	return Fault{err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}
}

// Shape is a form in which errors of Graph come.
type Shape string

// The shapes.
const (
	Plain        Shape = "plain"         // JSON as documented
	Nested       Shape = "nested"        // JSON in the message
	DoublyNested Shape = "doubly nested" // JSON in JSON in the message
	HTML         Shape = "html"          // HTML in the message
	NoRoute      Shape = "no route"      // a code that is a sentence
	NotJSON      Shape = "not json"      // of an edge in front of Graph
)

// GraphError makes Graph answer with a status and an error body of that shape. Nested ones name internal hosts, as the
// real ones do, and say retryAfter where it is not zero, in the body alone.
func GraphError(status int, shape Shape, retryAfter int) Fault {
	a := graphError(status, shape, "SimulatedFault", "The service has failed.", retryAfter)
	return Fault{answer: &a}
}

// graphError returns an error of Graph.
func graphError(status int, shape Shape, code, message string, retryAfter int) answer {
	wait := any(nil)
	if retryAfter > 0 {
		wait = retryAfter
	}
	intune := func() string {
		return text(map[string]any{
			"_version": 3,
			"Message": message + " - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000 - Activity ID: 11111111-2222-4333-8444-555555555555" +
				" - Url: https://fef.msub01.manage.microsoft.com/StatelessDeviceEnrollmentFEService/deviceManagement/windowsAutopilotDeviceIdentities?api-version=5023-06-28",
			"CustomApiErrorPhrase": "", "RetryAfter": wait, "ErrorSourceService": "", "HttpHeaders": "{}",
		})
	}
	switch shape {
	case Nested:
		message = intune()
	case DoublyNested:
		message = text(map[string]any{"ErrorCode": code, "Message": intune(), "Target": nil})
		code = "UnknownError"
	case HTML:
		code, message = "UnknownError", `<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN"><TITLE>Bad Request</TITLE><h2>Bad Request - Invalid URL</h2><p>HTTP Error 400. The request URL is invalid.</p>`
	case NoRoute:
		code, message = "No method match route template", "No OData route exists that match template ~/singleton/navigation/key with http verb POST"
	case NotJSON:
		return answer{status, http.Header{"Content-Type": {"text/html"}}, fmt.Appendf(nil, "<html><body>%d %s</body></html>", status, http.StatusText(status))}
	}
	return jsonAnswer(status, map[string]any{"error": map[string]any{
		"code": code, "message": message,
		"innerError": map[string]string{"date": "2026-01-02T03:04:05", "request-id": "11111111-2222-4333-8444-555555555555", "client-request-id": "11111111-2222-4333-8444-555555555555"},
	}})
}

// text returns v as JSON in a string.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("azuresim: %v", err)) // the values are all of this package
	}
	return string(b)
}
