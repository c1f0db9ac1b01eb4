// Package caller authenticates callers. A [Verifier] checks one kind of evidence on a request; [Any] tries several.
//
// The failed check is for the log alone: the response to an unauthenticated request is always the same, because a
// difference would help an attacker. The exceptions are [ErrExpired], which only the holder of a key can cause, and
// [ErrForbidden], which only the holder of a valid token for this function can.
package caller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Kind is a kind of evidence.
type Kind string

// The kinds of evidence.
const (
	KindSignature Kind = "signature"
	KindAPIKey    Kind = "api_key"
	KindToken     Kind = "token"
	KindPlatform  Kind = "platform"
	KindEvent     Kind = "event" // the host has authenticated the sender of the event
)

// Caller is the authenticated sender of a request, for policy and audit.
type Caller struct {
	Kind Kind
	ID   string // the name of the key, never the key; for a token the ids of its app and user
	// Delivery is the id of this delivery if the evidence covers one, as a signature does; "" otherwise.
	Delivery string
}

// Verifier checks one kind of evidence on a request.
type Verifier interface {
	// Verify returns the sender of r, whose body has been read into body. A nil error means that the request is
	// authenticated.
	//
	// Otherwise the error is or wraps ErrNoEvidence (r has no evidence of this kind), ErrDenied (the evidence is
	// invalid), ErrExpired (it was valid at another time) or ErrForbidden (it is valid, but the caller lacks a right),
	// or it is an error of reading the keys.
	Verify(r *http.Request, body []byte) (Caller, error)
}

// The errors of a verification. Reading keys has its own errors.
var (
	ErrNoEvidence = errors.New("no signature, API key or token of the kinds that are set up")
	ErrDenied     = errors.New("not authentic")
	ErrExpired    = errors.New("authentic, but outside the time window")
)

// deny returns an ErrDenied with its reason, a fixed text for the log.
func deny(reason string) error { return fmt.Errorf("%w: %s", ErrDenied, reason) }

// Key is a key of callers, with its name in logs.
type Key struct {
	Name  string
	Value []byte
}

// Keys are the valid keys of one kind: several during a rotation.
type Keys interface {
	// Current returns the keys. It may return both keys and an error; the error describes keys that failed temporarily.
	// A key that is missing permanently beside others is no error.
	Current(ctx context.Context) ([]Key, error)
	// Refresh returns the keys after a request matched none of them, since they may have been rotated. It reads them
	// again unless that was done recently.
	Refresh(ctx context.Context) ([]Key, error)
}

// matchKey calls fits with the current keys, and once more with refreshed keys if none matches. It returns the name of
// the matching key, ErrDenied if none matches, or the error of keys that failed temporarily and might have matched.
func matchKey(ctx context.Context, keys Keys, fits func([]Key) (name string, ok bool)) (string, error) {
	for _, read := range []func(context.Context) ([]Key, error){keys.Current, keys.Refresh} {
		known, err := read(ctx)
		if name, ok := fits(known); ok {
			return name, nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", deny("matches no key")
}

// Any returns a Verifier that accepts the evidence of any of verifiers, and tries all of them. Its error is
// ErrNoEvidence if no verifier found evidence, else the most specific one: unreadable keys, then ErrForbidden,
// ErrExpired, ErrDenied.
func Any(verifiers ...Verifier) Verifier { return anyOf(verifiers) }

type anyOf []Verifier

// bySpecificity are the errors of a verification, the most specific first. Unreadable keys come before them.
var bySpecificity = []error{ErrForbidden, ErrExpired, ErrDenied, ErrNoEvidence} //nolint:gochecknoglobals // a list that nothing writes to

func (a anyOf) Verify(r *http.Request, body []byte) (Caller, error) {
	sender, failure, best := Caller{}, ErrNoEvidence, len(bySpecificity)-1
	for _, v := range a {
		from, err := v.Verify(r, body)
		if err == nil {
			return from, nil
		}
		rank := slices.IndexFunc(bySpecificity, func(known error) bool { return errors.Is(err, known) })
		switch {
		case rank < best:
			sender, failure, best = from, err, rank
		case rank == best && errors.Is(err, ErrDenied):
			failure = errors.Join(failure, err)
		}
	}
	return sender, failure
}

// MayCarryEvidence reports whether a request with headers h carries evidence for v, valid or not. It is true for a
// Verifier that needs none.
func MayCarryEvidence(v Verifier, h http.Header) bool {
	switch v := v.(type) {
	case anyOf:
		return slices.ContainsFunc(v, func(v Verifier) bool { return MayCarryEvidence(v, h) })
	case *Signature:
		return len(h[headerID])+len(h[headerTimestamp])+len(h[headerSignature]) > 0
	case *APIKey:
		return len(h[headerAPIKey]) > 0
	case *Token:
		return len(h["Authorization"]) > 0
	}
	return true
}

// Challenge returns the value of WWW-Authenticate for a request that v refused with err: the schemes of its evidence. It
// may say that the evidence was refused, never why. An API key has no scheme, and a 401 must name one.
func Challenge(v Verifier, err error) string {
	schemes := challenges(v, err)
	if len(schemes) == 0 {
		return signatureChallenge
	}
	return strings.Join(schemes, ", ")
}

func challenges(v Verifier, err error) (schemes []string) {
	switch v := v.(type) {
	case anyOf:
		for _, v := range v {
			schemes = append(schemes, challenges(v, err)...)
		}
	case *Signature:
		if !errors.Is(err, ErrForbidden) { // another scheme would not help
			schemes = []string{signatureChallenge}
		}
	case *Token:
		schemes = []string{tokenChallenge(err)}
	}
	return schemes
}

// PlatformID is the ID of the one caller behind Platform.
const PlatformID = "host"

// Platform is the Verifier of a deployment whose host authenticates callers, by a function key or IAM. It accepts every
// request and reads no header that names a caller: any client can send those.
//
// It denies requests that a page of another site makes a browser send: a host that authenticates by cookie passes them
// on.
type Platform struct{}

// Verify returns the platform as the caller.
func (Platform) Verify(r *http.Request, _ []byte) (Caller, error) {
	if new(http.CrossOriginProtection).Check(r) != nil {
		return Caller{}, deny("a page of another site sent it")
	}
	return Caller{Kind: KindPlatform, ID: PlatformID}, nil
}
