// Package jwks reads the signing keys of Entra ID and keeps them, by Microsoft's rules
// (https://learn.microsoft.com/entra/identity-platform/signing-key-rollover): an unknown key causes a read, though
// not many of them, and keys stay in use while Entra ID is down.
//
// The package has no background refresh. A request that finds a read due waits for it, within its own time. Requests
// that need no new key use the known ones meanwhile.
package jwks

import (
	"cmp"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

const (
	refreshAfter       = time.Hour        // keys are read again
	maxStale           = 24 * time.Hour   // keys stay in use while Entra ID is down
	minRefreshInterval = 5 * time.Minute  // between two reads because of an unknown key
	failureTTL         = 30 * time.Second // before the retry of a failed read
	readTimeout        = 5 * time.Second
	maxResponse        = 1 << 20 // bytes
	minKeyBits         = 2048
	maxKeyBits         = 8192 // verifying with a larger key takes long
)

// Source keeps the keys of some tenants. It is safe for concurrent use.
type Source struct {
	doer    upstream.Doer
	log     *slog.Logger
	tenants map[string]*tenant
	reads   singleflight.Group[struct{}] // by tenant
}

// New returns the Source of the keys of tenants, which are GUIDs in lower case. It reads the keys with doer from
// authority (https://login.microsoftonline.com). issuer is the issuer of tokens of version 2, up to the tenant's id.
// New makes no request.
func New(doer upstream.Doer, authority, issuer string, log *slog.Logger, tenants ...string) *Source {
	s := &Source{doer: upstream.Capped(doer, maxResponse), log: log, tenants: map[string]*tenant{}}
	for _, id := range tenants {
		s.tenants[id] = &tenant{
			id:     id,
			url:    strings.TrimSuffix(authority, "/") + "/" + id + "/discovery/v2.0/keys",
			issuer: issuer + id + "/v2.0",
		}
	}
	return s
}

type tenant struct {
	id, url, issuer string

	mu         sync.Mutex
	keys       map[string][]*rsa.PublicKey // of the last successful read; nil before it
	readAt     time.Time                   // of the last successful read
	next       time.Time                   // of the next read
	soughtAt   time.Time                   // of the last read because of an unknown key
	failure    *upstream.Error             // of the last read
	warmUpOnly bool                        // that was the warm-up's: the next request retries it
	reading    bool                        // from the decision to read until the end of the read
}

// Keys returns the keys with an id in a tenant of the Source, none if it has no such key. The error is an
// *upstream.Error of Identity; it is set only if a successful read could have found the key.
func (s *Source) Keys(ctx context.Context, tenantID, id string) ([]*rsa.PublicKey, error) {
	t, ok := s.tenants[tenantID]
	if !ok {
		return nil, nil
	}
	if t.needsRead(id) {
		limit := readTimeout
		if deadline, ok := ctx.Deadline(); ok { // the steps after this one need time too
			limit = min(limit, time.Until(deadline)/2)
		}
		_, err := s.reads.Do(ctx, tenantID, func(ctx context.Context) (struct{}, error) {
			s.readKeys(ctx, t, limit)
			return struct{}{}, nil
		})
		if err != nil && ctx.Err() != nil {
			return nil, newError(upstream.Timeout, "no answer in time")
		}
	}
	return t.knownKeys(id)
}

// Warm reads the keys of all tenants that were not read yet. Its error is the first failure.
func (s *Source) Warm(ctx context.Context) error {
	ids := slices.Collect(maps.Keys(s.tenants))
	errs := make([]error, len(ids))
	var reads sync.WaitGroup
	for i, id := range ids {
		reads.Go(func() { _, errs[i] = s.Keys(ctx, id, "") })
	}
	reads.Wait()
	return cmp.Or(errs...)
}

// needsRead reports whether a request for the key with an id must wait for a read.
func (t *tenant) needsRead(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	usable := t.keys != nil && now.Sub(t.readAt) < maxStale
	known := usable && len(t.keys[id]) > 0
	if t.reading {
		return !known
	}
	due := !now.Before(t.next) || t.failure != nil && t.warmUpOnly
	// After a failure, next is the time of the retry.
	sought := usable && !known && t.failure == nil && now.Sub(t.soughtAt) >= minRefreshInterval
	if sought {
		t.soughtAt = now
	}
	t.reading = due || sought
	return t.reading
}

func (t *tenant) knownKeys(id string) ([]*rsa.PublicKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if keys := t.keys[id]; len(keys) > 0 && now.Sub(t.readAt) < maxStale {
		return keys, nil
	}
	if t.failure == nil {
		return nil, nil
	}
	failure := *t.failure
	failure.RetryAfter = max(t.next.Sub(now), 0)
	return nil, &failure
}

// readKeys reads the keys of t within limit and stores the result, unless the read that a request waited for has just
// ended.
func (s *Source) readKeys(ctx context.Context, t *tenant, limit time.Duration) {
	t.mu.Lock()
	needed := t.reading
	t.mu.Unlock()
	if !needed {
		return
	}
	start := time.Now()
	var keys map[string][]*rsa.PublicKey
	failure := newError(upstream.BadAnswer, "panic") // unless fetchKeys returns
	defer func() {
		upstream.Spent(ctx, upstream.Identity, time.Since(start))
		t.mu.Lock()
		defer t.mu.Unlock()
		now := time.Now()
		t.failure, t.reading = failure, false
		if failure == nil {
			t.keys, t.readAt, t.next = keys, now, now.Add(refreshAfter)
			return
		}
		pause := max(failureTTL, min(failure.RetryAfter, minRefreshInterval))
		if failure.Reason == upstream.Timeout && limit < readTimeout { // a shorter limit proves less
			pause = failureTTL / readTimeout * limit
		}
		t.next, t.warmUpOnly = now.Add(pause), upstream.WarmUp(ctx)
		used := t.keys != nil && now.Sub(t.readAt) < maxStale
		s.log.WarnContext(ctx, "the signing keys could not be read",
			slog.Bool("used_on", used), slog.Any("error", failure))
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	keys, failure = s.fetchKeys(ctx, t)
}

func newError(reason upstream.Reason, cause string) *upstream.Error {
	return &upstream.Error{Service: upstream.Identity, Reason: reason, Cause: cause}
}

func (s *Source) fetchKeys(ctx context.Context, t *tenant) (map[string][]*rsa.PublicKey, *upstream.Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return nil, newError(upstream.BadAnswer, "not an address")
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.doer.Do(req)
	if err != nil {
		return nil, upstream.Transport(upstream.Identity, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, upstream.Transport(upstream.Identity, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, classifyRefusal(resp, body)
	}
	keys := t.parseKeys(body)
	if len(keys) == 0 {
		failure := newError(upstream.BadAnswer, "no signing key in the response")
		failure.Status = resp.StatusCode
		return nil, failure
	}
	return keys, nil
}

// classifyRefusal returns the failure of a read with another status than 200.
func classifyRefusal(resp *http.Response, body []byte) *upstream.Error {
	failure := &upstream.Error{
		Service: upstream.Identity, Reason: upstream.BadAnswer, Status: resp.StatusCode,
		RequestID:  upstream.PlainCode(resp.Header.Get("x-ms-request-id")),
		RetryAfter: upstream.RetryAfter(resp.Header, time.Now()),
	}
	var said struct {
		ErrorCodes []int `json:"error_codes"`
	}
	_ = json.Unmarshal(body, &said) // without a readable body the status decides
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		failure.Reason = upstream.Throttled
	case resp.StatusCode == http.StatusGatewayTimeout:
		failure.Reason = upstream.Timeout
	case resp.StatusCode >= 500:
		failure.Reason = upstream.Unavailable
	// https://learn.microsoft.com/entra/identity-platform/reference-error-codes
	case slices.Contains(said.ErrorCodes, 90002):
		failure.Reason, failure.Code = upstream.TenantNotFound, "AADSTS90002"
	}
	return failure
}

// jwk is a key of RFC 7517 and 7518, with the member that Entra ID adds.
type jwk struct {
	Kty, Use, Kid, Alg, N, E string
	Issuer                   string // of the tokens that the key is for, perhaps with {tenantid} in it
}

// parseKeys returns the keys of a key set that sign tokens of t, by their ids. It skips keys of other kinds and for other
// issuers.
//
// The issuer of a key is always the issuer of version 2 tokens. Microsoft's own library compares it with that issuer
// also for version 1 tokens (AadTokenValidationParametersExtension, in Microsoft.IdentityModel.Validators).
func (t *tenant) parseKeys(body []byte) map[string][]*rsa.PublicKey {
	var set struct{ Keys []json.RawMessage }
	if json.Unmarshal(body, &set) != nil {
		return nil
	}
	keys := map[string][]*rsa.PublicKey{}
	for _, text := range set.Keys {
		var k jwk
		if json.Unmarshal(text, &k) != nil || k.Kid == "" || k.Use != "sig" || (k.Alg != "" && k.Alg != "RS256") {
			continue
		}
		if k.Issuer != "" && strings.ReplaceAll(k.Issuer, "{tenantid}", t.id) != t.issuer {
			continue
		}
		key, ok := k.publicKey()
		if ok && !slices.ContainsFunc(keys[k.Kid], func(known *rsa.PublicKey) bool { return known.Equal(key) }) {
			keys[k.Kid] = append(keys[k.Kid], key)
		}
	}
	return keys
}

// publicKey returns the key, if it is an RSA key of a safe size.
func (k *jwk) publicKey() (*rsa.PublicKey, bool) {
	n, errN := base64.RawURLEncoding.DecodeString(k.N)
	e, errE := base64.RawURLEncoding.DecodeString(k.E)
	if k.Kty != "RSA" || errN != nil || errE != nil || len(e) > 4 {
		return nil, false
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	bits := key.N.BitLen()
	return key, minKeyBits <= bits && bits <= maxKeyBits && key.N.Bit(0) == 1 &&
		key.E >= 3 && key.E%2 == 1 && key.E < 1<<31
}
