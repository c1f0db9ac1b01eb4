package caller

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
)

const headerAPIKey = "X-Api-Key"

// APIKey verifies a key in the header x-api-key, for callers that cannot sign. The key travels with every request and
// proves less than a signature: it covers neither the body nor a time.
type APIKey struct {
	Keys Keys
}

// Verify checks the header x-api-key.
func (a *APIKey) Verify(r *http.Request, _ []byte) (Caller, error) {
	if len(r.Header[headerAPIKey]) == 0 {
		return Caller{}, ErrNoEvidence
	}
	sent, ok := singleHeader(r.Header, headerAPIKey)
	if !ok {
		return Caller{}, deny("x-api-key is repeated or too long")
	}
	// Compare hashes: a constant-time comparison reveals the length of its operands.
	got := sha256.Sum256([]byte(sent))
	name, err := matchKey(r.Context(), a.Keys, func(keys []Key) (name string, ok bool) {
		for _, key := range keys {
			want := sha256.Sum256(key.Value)
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
				name, ok = key.Name, true
			}
		}
		return name, ok
	})
	if err != nil {
		return Caller{}, fmt.Errorf("api key: %w", err)
	}
	return Caller{Kind: KindAPIKey, ID: name}, nil
}
