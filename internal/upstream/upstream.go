// Package upstream holds the one [Error] of every service that this program calls, and the HTTP client for them.
//
// An Error is safe to show and to log: it has no body, no URL and no token. The packages that call a service reduce
// the errors of its library to one, because those print whole responses: a truncated token response puts the access
// token into the text.
package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"
)

// Service is one of the services behind this program.
type Service string

// The services. Identity issues tokens: Entra ID, the managed identity endpoint of the host, or AWS STS.
const (
	Graph    Service = "graph"
	Identity Service = "identity"
	Vault    Service = "vault"
)

// Reason classifies a failure. The status table has a row for each reason of each service.
type Reason string

// The reasons that every service has.
const (
	Throttled   Reason = "throttled"   // 429
	Unavailable Reason = "unavailable" // 503, or the service's own word for "later"
	Internal    Reason = "internal"    // 500, 502
	Timeout     Reason = "timeout"     // 504, or our deadline passed
	Unreachable Reason = "unreachable" // nothing was sent: Error.Barrier says why
	Untrusted   Reason = "untrusted"   // its certificate is not trusted
	BadAnswer   Reason = "bad_answer"  // invalid response: cut off, redirect, wrong type, too large
	Forbidden   Reason = "forbidden"   // 401 or 403 with a token in hand
	NotFound    Reason = "not_found"   // the device, or the secret
	Rejected    Reason = "rejected"    // any other refusal of the 400 class
)

// Transient reports whether a retry of a request that failed for that reason may succeed.
func (r Reason) Transient() bool {
	switch r {
	case Throttled, Unavailable, Internal, Timeout, Unreachable, BadAnswer:
		return true
	}
	return false
}

// The reasons of Graph alone.
const (
	Conflict         Reason = "conflict"           // 409
	StateChanged     Reason = "state_changed"      // 412
	Locked           Reason = "locked"             // 423
	Ambiguous        Reason = "ambiguous"          // several devices have the serial number
	TenantNotEnabled Reason = "tenant_not_enabled" // the tenant has no Intune
	ApprovalRequired Reason = "approval_required"  // the whole tenant has Intune's Multi Admin Approval
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
	SecretInvalid  Reason = "secret_invalid" // its value cannot be used
	// VersionUnsupported means that the vault does not know the api-version of the request.
	VersionUnsupported Reason = "version_unsupported"
)

// Error is a failure of a service, or of the network on the way to it. Its JSON has the details that the service's
// support needs.
type Error struct {
	Service    Service       `json:"service"`
	Reason     Reason        `json:"reason"`
	Barrier    Barrier       `json:"-"`                   // of Unreachable and Untrusted
	Status     int           `json:"status,omitempty"`    // HTTP status of the service, 0 without a response
	Code       string        `json:"code,omitempty"`      // its error code, reduced by [PlainCode]; may be empty
	RequestID  string        `json:"requestId,omitempty"` // for its support; may be empty
	RetryAfter time.Duration `json:"-"`                   // 0 if the service did not say
	// MaybeDone means that the change may have happened in spite of this error. Only graph's action changes anything,
	// and its result is the one place that sets it.
	MaybeDone bool `json:"-"`
	// Cause is a few fixed words for the log ("connection refused", "secret has no value"), never text of the service.
	Cause string `json:"-"`
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

// LogValue returns the fields of e that are set, as a group of attributes.
func (e *Error) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("service", string(e.Service)), slog.String("reason", string(e.Reason)),
		slog.Int("status", e.Status), slog.String("barrier", string(e.Barrier)),
		slog.String("code", e.Code), slog.String("request_id", e.RequestID),
		slog.Float64("retry_after_s", e.RetryAfter.Seconds()), slog.String("cause", e.Cause),
	}
	return slog.GroupValue(slices.DeleteFunc(attrs, func(a slog.Attr) bool {
		return reflect.ValueOf(a.Value.Any()).IsZero()
	})...)
}

// Transport reduces err, the error of a request to s without a complete response, to an Error. It returns an *Error
// inside err unchanged.
func Transport(s Service, err error) *Error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	f := Classify(err)
	return &Error{Service: s, Reason: f.Reason, Barrier: f.Barrier, Cause: f.Cause}
}

// PlainCode returns code if it is a short and plain identifier of a service (letters, digits, '.', '_', '-' and single
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
