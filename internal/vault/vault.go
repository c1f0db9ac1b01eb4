// Package vault keeps what the program must not know for longer than it needs: the credential of its app and the keys of
// its callers. Both are secrets in Azure Key Vault, read when they are first needed and kept in memory.
//
// Nothing needs a restart. A credential that Entra ID refuses is read again inside the call that finds out, and a key that
// does not fit may be a new one. While the vault is down, what has been read is used on. See [Credential] and [Keys].
//
// Every error that leaves the package is an *upstream.Error: those of azidentity and azsecrets print whole answers, one of
// them the access token.
package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"autopilot-unassign/internal/upstream"
)

// Options are what the package may be told beside its addresses and names.
type Options struct {
	azcore.ClientOptions               // Transport is the one seam to the cloud; nil means upstream.NewClient
	Timeout              time.Duration // the time for one request to the program, of which the steps here get a share
	Scope                string        // of the vault's tokens, "" where the vault must be asked for it
	Custom               bool          // a cloud of one's own: Key Vault's challenge may name another domain than the vault's
	Log                  *slog.Logger
}

// The shares of Options.Timeout. Cold, the steps come one after another: managed identity inside vault, then the token.
// What they leave is Graph's.
const (
	identityShare = 0.15
	vaultShare    = 0.3
	tokenShare    = 0.3
)

func (o *Options) share(of float64) time.Duration { return time.Duration(of * float64(o.Timeout)) }

// largestAnswer is as much of an answer as is read, in bytes. A certificate with its chain is some ten thousand.
const largestAnswer = 256 << 10

func (o Options) withDefaults() Options {
	if o.Transport == nil {
		o.Transport = upstream.NewClient()
	}
	if o.Timeout == 0 {
		o.Timeout = 25 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// client returns the options for a client of the SDK whose step may take limit: up to three tries in that time, of which
// one that hangs leaves enough for a second, and the wire watched.
func (o Options) client(limit time.Duration) azcore.ClientOptions {
	c := o.ClientOptions
	c.Transport = wire{upstream.Capped(o.Transport, largestAnswer)}
	c.Retry = policy.RetryOptions{
		MaxRetries:    2,
		TryTimeout:    firstTry(limit),
		RetryDelay:    limit / 50,
		MaxRetryDelay: limit / 10,
	}
	return c
}

// firstTry is the time for one of up to three tries in limit.
func firstTry(limit time.Duration) time.Duration { return limit * 6 / 10 }

// Secret is a version of a secret. Its value is only to be had by asking for it: it does not print.
type Secret struct {
	value       string
	Version     string
	ContentType string
	Expires     time.Time // zero: never
}

// Value returns the secret itself.
func (s Secret) Value() string { return s.value }

// redacted is what is printed in the place of a secret.
const redacted = "[REDACTED]"

// Format prints a placeholder, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a placeholder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Vault reads secrets of one vault. It is safe for concurrent use.
type Vault struct {
	client   *azsecrets.Client
	identity azcore.TokenCredential
	options  Options
	first    sync.Once // reading
}

// New returns the Vault at an address (https://contoso.vault.azure.net), read with the tokens of identity. It makes no
// request.
func New(vaultURL string, identity azcore.TokenCredential, o Options) (*Vault, error) {
	o = o.withDefaults()
	client, err := azsecrets.NewClient(vaultURL, identity, &azsecrets.ClientOptions{
		ClientOptions:                        o.client(o.share(vaultShare)),
		DisableChallengeResourceVerification: o.Custom,
	})
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return &Vault{client: client, identity: identity, options: o}, nil
}

// Scope asks the vault at an address, without a token, and returns the scope of the tokens that it wants. So one finds out
// whether it is there without an identity. Its error is an *upstream.Error of the vault.
func Scope(ctx context.Context, vaultURL string, o Options) (string, error) {
	asked := &askedForToken{}
	o.Scope = "" // as if nobody knew it
	v, err := New(vaultURL, asked, o)
	if err != nil {
		return "", err
	}
	_, err = v.Secret(ctx, "any") // which is never asked for: the challenge comes first
	if asked.scope != "" {
		return asked.scope, nil
	}
	if err == nil {
		err = &upstream.Error{Service: upstream.Vault, Reason: upstream.BadAnswer, Cause: "a secret without a token"}
	}
	return "", err
}

// askedForToken is an identity that has no token, and keeps what it was asked for.
type askedForToken struct{ scope string }

func (a *askedForToken) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(o.Scopes) == 1 {
		a.scope = o.Scopes[0]
	}
	return azcore.AccessToken{}, &upstream.Error{Service: upstream.Identity, Reason: upstream.Rejected, Cause: "no token on purpose"}
}

// ValidName reports whether Key Vault accepts name as that of a secret: 1 to 127 letters, digits and hyphens
// (https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#object-identifiers). The SDK would put
// any other text into the path.
func ValidName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= 127
}

// Secret reads the current version of a secret, in one request. Its error is an *upstream.Error of the vault, or of the
// identity that reads it.
func (v *Vault) Secret(ctx context.Context, name string) (Secret, error) {
	return v.read(ctx, name, nil)
}

func (v *Vault) read(ctx context.Context, name string, o *azsecrets.GetSecretOptions) (Secret, error) {
	if !ValidName(name) {
		return Secret{}, &upstream.Error{Service: upstream.Vault, Reason: upstream.NotFound, Cause: "no name of a secret"}
	}
	start := time.Now()
	trace := &upstream.Trace{} // of this read alone: what the identity takes is not the vault's time
	step, cancel := context.WithTimeout(upstream.WithTrace(ctx, trace), v.options.share(vaultShare))
	defer cancel()
	step, seen := watch(step)
	v.begin(ctx)
	resp, err := v.get(step, name, o)
	identity := trace.Spent(upstream.Identity)
	upstream.Spent(ctx, upstream.Identity, identity)
	upstream.Spent(ctx, upstream.Vault, time.Since(start)-identity)
	if err != nil {
		return Secret{}, reduceVault(err, seen, name)
	}
	s := Secret{value: deref(resp.Value), ContentType: deref(resp.ContentType)}
	if resp.ID != nil {
		s.Version = version(string(*resp.ID))
	}
	if a := resp.Attributes; a != nil && a.Expires != nil {
		s.Expires = *a.Expires
	}
	if s.value == "" {
		return Secret{}, invalid(name, "has no value")
	}
	if left := time.Until(s.Expires); !s.Expires.IsZero() && left < 14*24*time.Hour {
		// Key Vault hands out what has expired, and Entra is the judge of whether it is still good.
		v.options.Log.WarnContext(ctx, "a secret is about to expire or has expired", slog.String("secret", name), slog.Time("expires", s.Expires))
	}
	return s, nil
}

// begin asks the identity for its token, where it is known for what, before the vault asks for one: it is not waited for.
func (v *Vault) begin(ctx context.Context) {
	if v.options.Scope == "" {
		return
	}
	v.first.Do(func() {
		go func() {
			// With a Trace of its own: whoever waits for the token counts the time.
			_, _ = v.identity.GetToken(upstream.WithTrace(upstream.Detached(ctx), &upstream.Trace{}), policy.TokenRequestOptions{Scopes: []string{v.options.Scope}, EnableCAE: true})
		}()
	})
}

// get asks for a secret. The SDK panics on some challenges that are malformed.
func (v *Vault) get(ctx context.Context, name string, o *azsecrets.GetSecretOptions) (resp azsecrets.GetSecretResponse, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &upstream.Error{Service: upstream.Vault, Reason: upstream.BadAnswer, Cause: "malformed challenge"}
		}
	}()
	return v.client.GetSecret(ctx, name, "", o)
}

// version returns the last part of a secret's id, without the SDK's reader of ids: that one panics on a short one.
func version(id string) string {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i] == '/' {
			return id[i+1:]
		}
	}
	return ""
}

func deref[T any](p *T) (zero T) {
	if p == nil {
		return zero
	}
	return *p
}

// invalid is the error of a secret that could be read and is of no use.
func invalid(name, why string) *upstream.Error {
	return &upstream.Error{Service: upstream.Vault, Reason: upstream.SecretInvalid, Cause: "secret " + name + " " + why}
}

// usable reports whether what was read of a secret before may be used on although reading it again ended with err: while
// the vault is down or does not let us in, but not when it says that the secret is gone, disabled or another thing now.
func usable(err error) bool {
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		return false
	}
	switch failed.Reason {
	case upstream.NotFound, upstream.SecretDisabled, upstream.SecretInvalid:
		return false
	}
	return true
}

// The times after which what has been read is read again.
const (
	fresh    = time.Hour        // a secret is not looked at again before
	stale    = 24 * time.Hour   // for so long a secret is used while it cannot be read again
	negative = 5 * time.Second  // a failure is not tried again before, so that many callers do not all try
	partial  = 30 * time.Second // likewise, where some of several keys could be read
)

// wire is the Transport of the SDK's clients. It keeps the last error of the network for the one who watches: azidentity
// turns it into a text.
type wire struct{ next upstream.Doer }

type watchKey struct{}

// wireError is the last error of the network that a step has seen, in asking or in reading the answer.
type wireError struct{ err error }

// watch returns a context whose requests leave their network errors in the wireError.
func watch(ctx context.Context) (context.Context, *wireError) {
	seen := &wireError{}
	return context.WithValue(ctx, watchKey{}, seen), seen
}

func (w wire) Do(req *http.Request) (*http.Response, error) {
	resp, err := w.next.Do(req)
	if seen, ok := req.Context().Value(watchKey{}).(*wireError); ok {
		seen.err = err
		if err == nil {
			resp.Body = watchedBody{resp.Body, seen}
		}
	}
	return resp, err
}

// watchedBody is the body of an answer, and leaves the error that ends it early in the wireError.
type watchedBody struct {
	io.ReadCloser
	seen *wireError
}

func (b watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.seen.err = err
	}
	return n, err
}
