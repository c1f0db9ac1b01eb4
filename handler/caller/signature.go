package caller

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of the Standard Webhooks scheme, 1.0.0 (https://www.standardwebhooks.com).
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// MinKeySize is the least length of a key of any kind, in bytes: what the Standard Webhooks scheme asks for.
const MinKeySize = 24

const (
	maxSignatures  = 16   // in one header: a sender that rotates needs two
	maxHeaderBytes = 2048 // of a header that is looked into
)

// Signature verifies the Standard Webhooks scheme: an HMAC-SHA-256 over id, timestamp and body.
//
// It covers neither method nor path, so only the body may say what is to be done. The id may have no dot, or a message
// signed for one id could be cut differently into id, timestamp and body.
type Signature struct {
	Keys      Keys
	Tolerance time.Duration    // how old or early a timestamp may be
	Now       func() time.Time // nil means time.Now
}

// Verify looks at the three headers webhook-id, webhook-timestamp and webhook-signature; one of them is evidence enough
// to be refused without the others.
func (s *Signature) Verify(r *http.Request, body []byte) (Caller, error) {
	if len(r.Header[headerID])+len(r.Header[headerTimestamp])+len(r.Header[headerSignature]) == 0 {
		return Caller{}, ErrNoEvidence
	}
	id, okID := single(r.Header, headerID)
	timestamp, okTimestamp := single(r.Header, headerTimestamp)
	signatures, okSignature := single(r.Header, headerSignature)
	if !okID || !okTimestamp || !okSignature {
		return Caller{}, denied("a webhook- header is missing, repeated or too long")
	}
	if !plainID(id) {
		return Caller{}, denied("webhook-id has a form that is not accepted")
	}
	sent, err := parseTimestamp(timestamp)
	if err != nil {
		return Caller{}, denied("webhook-timestamp is not a time in seconds")
	}
	candidates := parseSignatures(signatures)
	if len(candidates) == 0 {
		return Caller{}, denied("webhook-signature has no v1 signature")
	}
	name, err := match(r.Context(), s.Keys, func(keys []Key) (string, bool) {
		return signer(keys, candidates, id, timestamp, body)
	})
	if err != nil {
		return Caller{}, fmt.Errorf("signature: %w", err)
	}
	// The time is looked at when the MAC is known to be right, so that only the holder of a key learns about it.
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	if age := now().Truncate(time.Second).Sub(sent); age > s.Tolerance || age < -s.Tolerance {
		return Caller{Kind: KindSignature, ID: name}, fmt.Errorf("signature: %w", ErrExpired)
	}
	return Caller{Kind: KindSignature, ID: name, Delivery: id}, nil
}

// Challenge is what WWW-Authenticate says of signatures. No scheme is registered for them. To one who is known and may not
// call it says nothing: another scheme would not help.
func (s *Signature) Challenge(err error) string {
	if errors.Is(err, ErrForbidden) {
		return ""
	}
	return `Webhook-Signature realm="unassign"`
}

// signer returns the name of the key that one of the candidates was made with. It looks at every pair of the two, so
// that its time does not tell which one fits.
func signer(keys []Key, candidates [][]byte, id, timestamp string, body []byte) (name string, ok bool) {
	for _, key := range keys {
		want := mac(key.Value, id, timestamp, body)
		for _, got := range candidates {
			if hmac.Equal(got, want) {
				name, ok = key.Name, true
			}
		}
	}
	return name, ok
}

func mac(key []byte, id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range [][]byte{[]byte(id), []byte("."), []byte(timestamp), []byte("."), body} {
		_, _ = h.Write(part) // never fails
	}
	return h.Sum(nil)
}

// Sign sets the headers with which a request of the given id and body, sent at that time, verifies against key.
func Sign(h http.Header, key []byte, id string, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	h.Set(headerSignature, "v1,"+base64.StdEncoding.EncodeToString(mac(key, id, timestamp, body)))
}

// single returns the value of a header that is there exactly once and is not too long to be looked into.
func single(h http.Header, name string) (string, bool) {
	values := h[name]
	if len(values) != 1 || len(values[0]) > maxHeaderBytes {
		return "", false
	}
	return values[0], true
}

// plainID reports whether id has 1 to 128 characters, all of them ASCII letters, digits, '-' or '_'.
func plainID(id string) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	return strings.IndexFunc(id, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	}) < 0
}

// parseTimestamp reads seconds since 1970, in digits alone.
func parseTimestamp(s string) (time.Time, error) {
	seconds, err := strconv.ParseUint(s, 10, 40)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(int64(seconds), 0), nil
}

// parseSignatures returns the MACs of version v1 in a space-separated list of "version,base64". Others are passed over,
// as the scheme asks.
func parseSignatures(list string) [][]byte {
	var macs [][]byte
	for item := range strings.SplitSeq(list, " ") {
		encoded, ok := strings.CutPrefix(item, "v1,")
		if !ok || len(encoded) != base64.StdEncoding.EncodedLen(sha256.Size) { // a line break in it would be passed over
			continue
		}
		if mac, err := base64.StdEncoding.Strict().DecodeString(encoded); err == nil {
			macs = append(macs, mac)
		}
		if len(macs) == maxSignatures {
			break
		}
	}
	return macs
}

// ErrWeakKey is the error of decoding a key that is shorter than MinKeySize.
var ErrWeakKey = errors.New("key is shorter than 24 bytes")

// DecodeSignatureKey reads a signing key as the scheme writes it: base64, with or without "whsec_" in front. It returns
// ErrWeakKey for a short one.
func DecodeSignatureKey(s string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(s), "whsec_"))
	if err != nil {
		return nil, errors.New("key is not base64")
	}
	if len(key) < MinKeySize {
		return nil, ErrWeakKey
	}
	return key, nil
}

// DecodeAPIKey reads an API key: the text itself, without the white space around it. It returns ErrWeakKey for a short
// one.
func DecodeAPIKey(s string) ([]byte, error) {
	key := bytes.TrimSpace([]byte(s))
	if len(key) < MinKeySize {
		return nil, ErrWeakKey
	}
	return key, nil
}
