// Package upstream is the vocabulary in which the rooms that speak to Microsoft's services tell the rest of the program
// what went wrong there: one [Error], whichever service it was and whichever library spoke to it.
//
// An Error is safe to show and to log. It carries what outcome() decides by and what the service's support asks for,
// and nothing else: no body, no URL, no token. The rooms that make one have reduced the library's error to it, because
// those errors print whole answers (a truncated token response puts the access token into the text).
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// Service is one of the services behind this program.
type Service string

// The services. Identity is whoever issues tokens: Entra ID, or the managed identity endpoint of the host.
const (
	Graph    Service = "graph"
	Identity Service = "identity"
	Vault    Service = "vault"
)

// Reason is what went wrong, in the terms that the status table knows.
type Reason string

// The reasons that every service has.
const (
	Throttled   Reason = "throttled"   // 429
	Unavailable Reason = "unavailable" // 503, or the service's own word for "later"
	Internal    Reason = "internal"    // 500, 502
	Timeout     Reason = "timeout"     // 504, or our deadline passed
	Unreachable Reason = "unreachable" // no address, no connection
	Untrusted   Reason = "untrusted"   // its certificate is not trusted
	BadAnswer   Reason = "bad_answer"  // an answer that is no answer: cut off, redirect, wrong type, too large
	Forbidden   Reason = "forbidden"   // 401 or 403 with a token in hand
	NotFound    Reason = "not_found"   // the device, or the secret
	Rejected    Reason = "rejected"    // any other refusal of the 400 class
)

// The reasons of Graph alone.
const (
	Conflict         Reason = "conflict"           // 409
	StateChanged     Reason = "state_changed"      // 412
	Locked           Reason = "locked"             // 423
	Ambiguous        Reason = "ambiguous"          // several devices have the serial number
	TenantNotEnabled Reason = "tenant_not_enabled" // the tenant has no Intune
)

// The reasons of Identity alone.
const (
	CredentialRejected Reason = "credential_rejected"
	CredentialExpired  Reason = "credential_expired"
	AppNotFound        Reason = "app_not_found"
	TenantNotFound     Reason = "tenant_not_found"
	ScopeInvalid       Reason = "scope_invalid"
)

// The reasons of Vault alone.
const (
	SecretDisabled Reason = "secret_disabled"
	SecretInvalid  Reason = "secret_invalid" // it was read, and is not what it must be
)

// Error is a failure beyond this program.
type Error struct {
	Service    Service
	Reason     Reason
	Status     int           // HTTP status of the service, 0 if none came
	Code       string        // its error code, made short and plain by [PlainCode]; may be empty
	RequestID  string        // to quote to its support; may be empty
	RetryAfter time.Duration // how long it asked to be left alone, 0 if it did not say
	// MaybeDone is set when the service may have carried out what was asked, although this error came back: it had
	// the request when the time was up, or answered that it had failed on its own account.
	MaybeDone bool
	// Cause is a few fixed words for the log ("connection refused", "secret has no value"), never text of the service.
	Cause string
}

// Error returns service, reason, status, code and cause.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s", e.Service, e.Reason)
	if e.Status != 0 {
		s += fmt.Sprintf(" (%d", e.Status)
		if e.Code != "" {
			s += " " + e.Code
		}
		s += ")"
	}
	if e.Cause != "" {
		s += ": " + e.Cause
	}
	return s
}

// LogValue returns e as a group of attributes.
func (e *Error) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("service", string(e.Service)), slog.String("reason", string(e.Reason))}
	if e.Status != 0 {
		attrs = append(attrs, slog.Int("status", e.Status))
	}
	if e.Code != "" {
		attrs = append(attrs, slog.String("code", e.Code))
	}
	if e.RequestID != "" {
		attrs = append(attrs, slog.String("request_id", e.RequestID))
	}
	if e.RetryAfter != 0 {
		attrs = append(attrs, slog.Float64("retry_after_s", e.RetryAfter.Seconds()))
	}
	if e.Cause != "" {
		attrs = append(attrs, slog.String("cause", e.Cause))
	}
	return slog.GroupValue(attrs...)
}

// Transport reduces err, with which a request to s ended before an answer was there, to an Error. An error that is an
// *Error already is returned as it is, one that nobody foresaw becomes BadAnswer without a word of its text.
func Transport(s Service, err error) *Error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	e := &Error{Service: s}
	var (
		dns     *net.DNSError
		op      *net.OpError
		timeout net.Error
		cert    *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &cert), errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid):
		e.Reason, e.Cause = Untrusted, "certificate not trusted"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e.Reason, e.Cause, e.MaybeDone = Timeout, "no answer in time", true
	case errors.As(err, &dns):
		e.Reason, e.Cause = Unreachable, "name not resolved"
	case errors.As(err, &op) && op.Op == "dial":
		e.Reason, e.Cause = Unreachable, "no connection"
	case errors.Is(err, ErrTooLarge):
		e.Reason, e.Cause, e.MaybeDone = BadAnswer, "answer too large", true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.Reason, e.Cause, e.MaybeDone = BadAnswer, "connection lost before the answer was whole", true
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Reason, e.Cause, e.MaybeDone = Timeout, "no answer in time", true
	default:
		e.Reason, e.Cause, e.MaybeDone = BadAnswer, fmt.Sprintf("error of type %T", err), true
	}
	return e
}

// PlainCode returns code if it is a short and plain word of a service (letters, digits, '.', '_', '-' and single
// spaces, at most 64 bytes), else "". Graph has codes with spaces: "No method match route template".
func PlainCode(code string) string {
	if len(code) > 64 {
		return ""
	}
	for i, c := range []byte(code) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		case c == ' ' && i > 0 && code[i-1] != ' ':
		default:
			return ""
		}
	}
	return code
}
