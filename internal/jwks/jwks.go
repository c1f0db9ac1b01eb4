// Package jwks reads and caches the keys that Entra ID signs tokens with, by Microsoft's rules
// (https://learn.microsoft.com/entra/identity-platform/signing-key-rollover): an unknown key causes a refresh, at a
// limited rate, and cached keys stay in use while Entra ID is down.
//
// No goroutine runs in the background. A request that finds a refresh due makes it, within its own time. Requests
// that need the refresh wait for it, each within its own context; the others use the cached keys.
package jwks

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/internal/upstream"
)

const (
	fresh     = time.Hour        // keys are not looked at again before
	stale     = 24 * time.Hour   // for so long keys are used while they cannot be read again
	mismatch  = 5 * time.Minute  // the least time between two readings that keys which are not known cause
	backOff   = 30 * time.Second // a failure is not tried again before
	timeout   = 5 * time.Second  // for one reading
	largest   = 1 << 20          // as much of an answer as is read, in bytes
	leastBits = 2048             // of a key
	mostBits  = 8192             // of a key: verifying with a larger one takes its time
)

// Source keeps the keys of some tenants. It is safe for concurrent use.
type Source struct {
	doer    upstream.Doer
	log     *slog.Logger
	tenants map[string]*tenant
}

// New returns the Source of the keys of tenants, which are GUIDs in lower case. The keys are read with doer from
// authority (https://login.microsoftonline.com). issuer is the issuer of version 2 tokens up to the tenant's id. It
// makes no request.
func New(doer upstream.Doer, authority, issuer string, log *slog.Logger, tenants ...string) *Source {
	s := &Source{upstream.Capped(doer, largest), log, map[string]*tenant{}}
	for _, id := range tenants {
		s.tenants[id] = &tenant{
			id:     id,
			url:    strings.TrimSuffix(authority, "/") + "/" + id + "/discovery/v2.0/keys",
			issuer: issuer + id + "/v2.0",
		}
	}
	return s
}

// tenant holds the keys of one tenant.
type tenant struct {
	id, url, issuer string

	mu       sync.Mutex
	keys     map[string][]*rsa.PublicKey // as they were last read; nil if they never were
	readAt   time.Time                   // when that was
	next     time.Time                   // when they are due again
	soughtAt time.Time                   // when they were read because one was not known
	failure  *upstream.Error             // of the last reading
	unasked  bool                        // that was a warm-up's, which is not held against who comes next
	reading  chan struct{}               // closed when the reading that is under way ends; nil if none is
}

// Keys returns the keys that go by id in a tenant of the Source: none if it has no such key. The error is an
// *upstream.Error of Identity; it comes only where no such key is known, and one might be had the keys been read.
func (s *Source) Keys(ctx context.Context, tenantID, id string) ([]*rsa.PublicKey, error) {
	t, ok := s.tenants[tenantID]
	if !ok {
		return nil, nil
	}
	switch reading, ours := t.begin(id); {
	case ours:
		s.read(ctx, t)
	case reading != nil:
		start := time.Now()
		select {
		case <-reading:
			upstream.Spent(ctx, upstream.Identity, time.Since(start))
		case <-ctx.Done():
			return nil, &upstream.Error{Service: upstream.Identity, Reason: upstream.Timeout, Cause: "no answer in time"}
		}
	}
	return t.known(id)
}

// Warm reads the keys of all tenants that have not been read, so that no request has to wait for them. It returns the
// first error.
func (s *Source) Warm(ctx context.Context) error {
	errs := make(chan error, len(s.tenants))
	for id := range s.tenants {
		go func() {
			// which it is if Keys does not return
			err := error(&upstream.Error{Service: upstream.Identity, Reason: upstream.BadAnswer, Cause: "panic"})
			defer func() {
				_ = recover()
				errs <- err
			}()
			_, err = s.Keys(ctx, id, "")
		}()
	}
	var first error
	for range s.tenants {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

// begin returns the refresh that a request for the key id must wait for, nil for none. If ours, the caller must make
// the refresh; otherwise it is running.
func (t *tenant) begin(id string) (reading <-chan struct{}, ours bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	usable := t.keys != nil && now.Sub(t.readAt) < stale
	known := usable && len(t.keys[id]) > 0
	due := !now.Before(t.next) || t.failure != nil && t.unasked
	// After a failure, due says when to try again.
	sought := usable && !known && t.failure == nil && now.Sub(t.soughtAt) >= mismatch
	switch {
	case t.reading != nil && known:
		return nil, false
	case t.reading != nil:
		return t.reading, false
	case !due && !sought:
		return nil, false
	}
	if sought {
		t.soughtAt = now
	}
	t.reading = make(chan struct{})
	return t.reading, true
}

// known returns the keys that go by id as they are known.
func (t *tenant) known(id string) ([]*rsa.PublicKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if keys := t.keys[id]; len(keys) > 0 && now.Sub(t.readAt) < stale {
		return keys, nil
	}
	if t.failure == nil {
		return nil, nil
	}
	failure := *t.failure
	failure.RetryAfter = max(t.next.Sub(now), 0)
	return nil, &failure
}

// read reads the keys of t and stores the result.
func (s *Source) read(ctx context.Context, t *tenant) {
	start := time.Now()
	limit := timeout
	if end, ok := ctx.Deadline(); ok { // the steps after the keys need time too
		limit = min(limit, end.Sub(start)/2)
	}
	var keys map[string][]*rsa.PublicKey
	// which it is if fetch does not return
	failure := &upstream.Error{Service: upstream.Identity, Reason: upstream.BadAnswer, Cause: "panic"}
	defer func() {
		upstream.Spent(ctx, upstream.Identity, time.Since(start))
		t.mu.Lock()
		defer t.mu.Unlock()
		now := time.Now()
		t.failure = failure
		if failure == nil {
			t.keys, t.readAt, t.next = keys, now, now.Add(fresh)
		} else {
			pause := max(backOff, min(failure.RetryAfter, mismatch))
			if failure.Reason == upstream.Timeout && limit < timeout { // it was not given the time, so it is no worse than that
				pause = backOff / timeout * limit
			}
			t.next, t.unasked = now.Add(pause), upstream.WarmUp(ctx)
			used := t.keys != nil && now.Sub(t.readAt) < stale
			s.log.WarnContext(ctx, "the signing keys could not be read", slog.Bool("used_on", used), slog.Any("error", failure))
		}
		close(t.reading)
		t.reading = nil
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	keys, failure = s.fetch(ctx, t)
}

// fetch asks for the keys of t.
func (s *Source) fetch(ctx context.Context, t *tenant) (map[string][]*rsa.PublicKey, *upstream.Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return nil, &upstream.Error{Service: upstream.Identity, Reason: upstream.BadAnswer, Cause: "address is none"}
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
		return nil, refused(resp, body)
	}
	keys := t.parse(body)
	if len(keys) == 0 {
		return nil, &upstream.Error{Service: upstream.Identity, Reason: upstream.BadAnswer, Status: resp.StatusCode,
			Cause: "no signing key in the answer"}
	}
	return keys, nil
}

// refused returns the failure of a reading whose answer has another status than 200.
func refused(resp *http.Response, body []byte) *upstream.Error {
	failure := &upstream.Error{
		Service: upstream.Identity, Reason: upstream.BadAnswer, Status: resp.StatusCode,
		RequestID:  upstream.PlainCode(resp.Header.Get("x-ms-request-id")),
		RetryAfter: upstream.RetryAfter(resp.Header, time.Now()),
	}
	var said struct {
		ErrorCodes []int `json:"error_codes"`
	}
	_ = json.Unmarshal(body, &said) // the status decides about an unreadable body
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

// jwk is a key as RFC 7517 and 7518 write it, with the member that Entra ID adds.
type jwk struct {
	Kty, Use, Kid, Alg, N, E string
	Issuer                   string // of the tokens that the key is for, perhaps with {tenantid} in it
}

// parse returns the keys in a key set that sign tokens of t, by their ids. It passes over all others: a set has keys
// of other kinds and for other issuers.
//
// The issuer of a key is always the issuer of version 2 tokens. Microsoft's own library compares it with that issuer
// also for version 1 tokens (AadTokenValidationParametersExtension, in Microsoft.IdentityModel.Validators).
func (t *tenant) parse(body []byte) map[string][]*rsa.PublicKey {
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
		key, ok := k.public()
		if ok && !slices.ContainsFunc(keys[k.Kid], func(known *rsa.PublicKey) bool { return known.Equal(key) }) {
			keys[k.Kid] = append(keys[k.Kid], key)
		}
	}
	return keys
}

// public returns the key itself, if it is one of RSA that is worth trusting.
func (k *jwk) public() (*rsa.PublicKey, bool) {
	n, errN := base64.RawURLEncoding.DecodeString(k.N)
	e, errE := base64.RawURLEncoding.DecodeString(k.E)
	if k.Kty != "RSA" || errN != nil || errE != nil || len(e) > 4 {
		return nil, false
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	bits := key.N.BitLen()
	return key, leastBits <= bits && bits <= mostBits && key.N.Bit(0) == 1 && key.E >= 3 && key.E%2 == 1 && key.E < 1<<31
}
