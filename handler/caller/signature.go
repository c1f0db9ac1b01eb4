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

	"autopilot-unassign/internal/text"
)

// The headers of the Standard Webhooks scheme, 1.0.0 (https://www.standardwebhooks.com).
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// MinKeySize is the minimum length of a key of any kind, in bytes, as in the Standard Webhooks scheme.
const MinKeySize = 24

const (
	maxSignatures  = 16   // in one header: a sender that rotates keys needs two
	maxHeaderBytes = 2048 // of a header of evidence
)

// Signature verifies the Standard Webhooks scheme: an HMAC-SHA-256 over id, timestamp and body.
//
// It covers neither method nor path, so only the body may name devices. The id must not contain a dot: a signed text
// could otherwise be split into another id, timestamp and body.
type Signature struct {
	Keys      Keys
	Tolerance time.Duration // the accepted difference of a timestamp, both ways
}

// Verify checks the headers webhook-id, webhook-timestamp and webhook-signature. Any of them counts as evidence, and is
// denied without the others.
func (s *Signature) Verify(r *http.Request, body []byte) (Caller, error) {
	if len(r.Header[headerID])+len(r.Header[headerTimestamp])+len(r.Header[headerSignature]) == 0 {
		return Caller{}, ErrNoEvidence
	}
	id, okID := singleHeader(r.Header, headerID)
	timestamp, okTimestamp := singleHeader(r.Header, headerTimestamp)
	signatures, okSignature := singleHeader(r.Header, headerSignature)
	if !okID || !okTimestamp || !okSignature {
		return Caller{}, deny("a webhook- header is missing, repeated or too long")
	}
	if !validID(id) {
		return Caller{}, deny("webhook-id has a form that is not accepted")
	}
	seconds, err := strconv.ParseUint(timestamp, 10, 40) // digits alone
	if err != nil {
		return Caller{}, deny("webhook-timestamp is not a time in seconds")
	}
	candidates := parseSignatures(signatures)
	if len(candidates) == 0 {
		return Caller{}, deny("webhook-signature has no v1 signature")
	}
	name, err := matchKey(r.Context(), s.Keys, func(keys []Key) (string, bool) {
		return findSigner(keys, candidates, id, timestamp, body)
	})
	if err != nil {
		return Caller{}, fmt.Errorf("signature: %w", err)
	}
	// Check the time after the MAC, so that only the holder of a key learns about it.
	if age := time.Now().Truncate(time.Second).Sub(time.Unix(int64(seconds), 0)); age > s.Tolerance || age < -s.Tolerance {
		return Caller{Kind: KindSignature, ID: name}, fmt.Errorf("signature: %w", ErrExpired)
	}
	return Caller{Kind: KindSignature, ID: name, Delivery: id}, nil
}

// signatureChallenge is the value of WWW-Authenticate for signatures, for which no scheme is registered.
const signatureChallenge = `Webhook-Signature realm="unassign"`

// findSigner returns the name of the key of one of the candidates. It compares every pair, so that its time does not
// reveal the match.
func findSigner(keys []Key, candidates [][]byte, id, timestamp string, body []byte) (name string, ok bool) {
	for _, key := range keys {
		want := computeMAC(key.Value, id, timestamp, body)
		for _, got := range candidates {
			if hmac.Equal(got, want) {
				name, ok = key.Name, true
			}
		}
	}
	return name, ok
}

func computeMAC(key []byte, id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range [][]byte{[]byte(id), []byte("."), []byte(timestamp), []byte("."), body} {
		_, _ = h.Write(part) // never fails
	}
	return h.Sum(nil)
}

// Sign sets the headers of a signature with key over id, time and body.
func Sign(h http.Header, key []byte, id string, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	h.Set(headerSignature, "v1,"+base64.StdEncoding.EncodeToString(computeMAC(key, id, timestamp, body)))
}

// singleHeader returns the value of a header that is present exactly once and has at most maxHeaderBytes.
func singleHeader(h http.Header, name string) (string, bool) {
	values := h[name]
	if len(values) != 1 || len(values[0]) > maxHeaderBytes {
		return "", false
	}
	return values[0], true
}

// validID reports whether id has 1 to 128 characters, all of them ASCII letters, digits, '-' or '_'.
func validID(id string) bool {
	return 1 <= len(id) && len(id) <= 128 && strings.Trim(id, text.Alphanumeric+"-_") == ""
}

// parseSignatures returns the MACs of version v1 in a space-separated list of "version,base64". It ignores other
// versions, as the scheme requires.
func parseSignatures(list string) [][]byte {
	var macs [][]byte
	for item := range strings.SplitSeq(list, " ") {
		encoded, ok := strings.CutPrefix(item, "v1,")
		if !ok || len(encoded) != base64.StdEncoding.EncodedLen(sha256.Size) { // the decoder would ignore a line break
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

// DecodeSignatureKey decodes a signing key of the scheme: base64, with or without the prefix "whsec_". It returns
// ErrWeakKey for a short key.
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

// DecodeAPIKey returns an API key without surrounding white space. It returns ErrWeakKey for a short key.
func DecodeAPIKey(s string) ([]byte, error) {
	key := bytes.TrimSpace([]byte(s))
	if len(key) < MinKeySize {
		return nil, ErrWeakKey
	}
	return key, nil
}
