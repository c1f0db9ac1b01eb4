// Package caller finds out who is asking. A [Verifier] looks for one kind of evidence on a request; [Any] asks several.
//
// Which check failed is for the log alone: the answer to a request that is not authentic is the same whatever was wrong
// with it, because the difference would tell a stranger how close he is. The exceptions are [ErrExpired], which only the
// holder of a key can cause, and [ErrForbidden], which only the holder of a genuine token for this function can.
package caller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Kind is a kind of evidence.
type Kind string

// The kinds.
const (
	KindSignature Kind = "signature"
	KindAPIKey    Kind = "api_key"
	KindToken     Kind = "token"
	KindPlatform  Kind = "platform"
	KindEvent     Kind = "event" // the host itself, which has authenticated whoever caused the event
)

// Caller is who asks, for policy and audit.
type Caller struct {
	Kind Kind
	ID   string // the name of the key that proved it, never the key; of a token the ids of the app and the user
	// Delivery is the id of this delivery, where the evidence covers one: a signature does. What a header says beside the
	// evidence is not it.
	Delivery string
}

// Verifier looks for one kind of evidence on a request.
type Verifier interface {
	// Verify returns who sent r, whose body has been read into body. A nil error means that the request is authentic.
	//
	// Else the error is or wraps ErrNoEvidence (r does not try this kind), ErrDenied (it tries, and is not authentic),
	// ErrExpired (it was authentic at another time), ErrForbidden (it is authentic, and not enough), or is an error of
	// reading the keys, in which case nothing is known of the request.
	Verify(r *http.Request, body []byte) (Caller, error)
}

// The ends of a verification that are not an error of reading keys.
var (
	ErrNoEvidence = errors.New("no signature, API key or token of the kinds that are set up")
	ErrDenied     = errors.New("not authentic")
	ErrExpired    = errors.New("authentic, but outside the time window")
)

// denied returns an ErrDenied that says why, in fixed words for the log.
func denied(why string) error { return fmt.Errorf("%w: %s", ErrDenied, why) }

// Key is a key that callers use, with the name it goes by in logs.
type Key struct {
	Name  string
	Value []byte
}

// Keys are the keys of one kind that are valid now, several of them while one replaces another.
type Keys interface {
	// Current returns the keys. Both results may be set: the keys that could be read, and why others could not be read
	// although they may be soon. A key that is lastingly missing beside others is no error.
	Current(ctx context.Context) ([]Key, error)
	// Refresh is asked when a request fits none of the keys, since they may have been rotated. It returns the keys
	// after having read them again, or as they are when that was done only lately.
	Refresh(ctx context.Context) ([]Key, error)
}

// match calls fits with the current keys, and once more with fresh ones if it finds none that fits. It returns the name
// of the key that fitted. Without one it returns ErrDenied, or the error of reading keys where one of those unread
// might have fitted.
func match(ctx context.Context, keys Keys, fits func([]Key) (name string, ok bool)) (string, error) {
	for _, read := range []func(context.Context) ([]Key, error){keys.Current, keys.Refresh} {
		known, err := read(ctx)
		if name, ok := fits(known); ok {
			return name, nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", denied("fits no key")
}

// Challenger is a Verifier whose kind of evidence has a scheme that WWW-Authenticate can name.
type Challenger interface {
	Verifier
	// Challenge returns what WWW-Authenticate says of the scheme in the answer to a request that ended with err, "" for
	// nothing. It may say that evidence of this kind was refused, never why.
	Challenge(err error) string
}

// Any returns a Verifier that is satisfied with the evidence of any of verifiers. All of them are asked. Its error is
// ErrNoEvidence if none found any, else the one that tells most: that keys could not be read, then that the caller is
// forbidden to call, then that the request has expired, then that it was denied. It challenges with what any of them does.
func Any(verifiers ...Verifier) Challenger { return anyOf(verifiers) }

type anyOf []Verifier

func (a anyOf) Verify(r *http.Request, body []byte) (Caller, error) {
	type end struct {
		who Caller
		err error
	}
	var unread, forbidden, expired, refused end
	for _, v := range a {
		who, err := v.Verify(r, body)
		switch {
		case err == nil:
			return who, nil
		case errors.Is(err, ErrNoEvidence):
		case errors.Is(err, ErrDenied):
			refused.err = errors.Join(refused.err, err)
		case errors.Is(err, ErrExpired):
			expired = end{who, err}
		case errors.Is(err, ErrForbidden):
			forbidden = end{who, err}
		default:
			unread.err = err
		}
	}
	for _, e := range []end{unread, forbidden, expired, refused} {
		if e.err != nil {
			return e.who, e.err
		}
	}
	return Caller{}, ErrNoEvidence
}

func (a anyOf) Challenge(err error) string {
	var challenges []string
	for _, v := range a {
		if c, ok := v.(Challenger); ok {
			if challenge := c.Challenge(err); challenge != "" {
				challenges = append(challenges, challenge)
			}
		}
	}
	return strings.Join(challenges, ", ")
}

// PlatformID is the ID of the one caller that there is behind Platform.
const PlatformID = "host"

// Platform is the Verifier of a deployment whose host has authenticated the caller already, by a function key or IAM. It
// accepts everything and looks at nothing: headers in which a platform names the caller can be sent by anybody.
type Platform struct{}

// Verify returns the platform as the caller.
func (Platform) Verify(*http.Request, []byte) (Caller, error) {
	return Caller{Kind: KindPlatform, ID: PlatformID}, nil
}
