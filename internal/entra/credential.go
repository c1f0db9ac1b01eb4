// Package entra gets tokens from Entra ID: for a managed identity, a client secret, a certificate, a federated
// identity, or the account of the Azure CLI.
//
// Every error is an *upstream.Error: the errors of azidentity print whole responses, sometimes with the access token.
package entra

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

// Credential is the credential of an app whose client secret or certificate is in the vault, or that has neither
// ([Direct]). It is safe for concurrent use; concurrent callers share one request for a token.
//
// The secret is read when the first token is needed, and again after an hour, or when Entra ID refuses it: a new
// version is then tried within the same call. A token is kept until shortly before its expiry; the first call after that
// starts its renewal, and uses the old token.
type Credential struct {
	options azsdk.Options
	name    string
	read    func(ctx context.Context) (vault.Secret, error)
	// older returns the versions before one; nil for a credential that has none.
	older func(ctx context.Context, version string) ([]vault.Secret, error)
	// signIn returns a token source with a version of the secret. It makes no request.
	signIn func(vault.Secret) (azcore.TokenCredential, error)

	requests singleflight.Group[azcore.AccessToken]
	stage    atomic.Value // the upstream.Service that a request waits for

	mu      sync.Mutex
	token   azcore.AccessToken // the last one; its Token is "" before there is one
	expired bool               // Graph has refused the token

	acquiring sync.Mutex // held by the one request for a token; the fields below are its own
	secret    vault.Secret
	signed    *source   // made of secret, or of an older version; nil before that is read
	readAt    time.Time // when secret was read
	rereadAt  time.Time // when it was read because Entra refused it
	failure   error     // of the last try, nil if it was a success
	failedAt  time.Time
}

// source is a token source made of a version of the secret.
type source struct {
	azcore.TokenCredential

	secret vault.Secret
}

func (c *Credential) newSource(secret vault.Secret) (*source, error) {
	signed, err := c.signIn(secret)
	return &source{signed, secret}, err
}

// The lifetimes of a read secret.
const (
	refreshAfter = time.Hour        // the secret is read again
	maxStale     = 24 * time.Hour   // the secret is used so long while the vault is down
	failureTTL   = 5 * time.Second  // a failure is not retried before, so that many callers cause one attempt
	minReread    = 30 * time.Second // the least time between two reads because of a refusal by Entra ID
)

// The times before the end of a token: it is renewed from the first on, and used until the second.
const (
	renewBefore = 5 * time.Minute
	useUntil    = time.Minute
)

// AppSecret returns the credential of an app of a tenant whose client secret is the secret of that name in store. It
// makes no request.
func AppSecret(tenantID, clientID, name string, store *vault.Vault, o azsdk.Options) *Credential {
	return &Credential{
		options: o,
		name:    name,
		read:    func(ctx context.Context) (vault.Secret, error) { return store.Secret(ctx, name) },
		signIn: func(s vault.Secret) (azcore.TokenCredential, error) {
			return azidentity.NewClientSecretCredential(tenantID, clientID, s.Value(), &azidentity.ClientSecretCredentialOptions{
				ClientOptions:            o.Client(o.Share(azsdk.TokenShare)),
				DisableInstanceDiscovery: true,
			})
		},
	}
}

// AppCertificate returns the credential of an app of a tenant that signs in with the certificate of that name in
// store. It makes no request.
func AppCertificate(tenantID, clientID, name string, store *vault.Vault, o azsdk.Options) *Credential {
	return &Credential{
		options: o,
		name:    name,
		read:    func(ctx context.Context) (vault.Secret, error) { return store.Certificate(ctx, name) },
		older: func(ctx context.Context, version string) ([]vault.Secret, error) {
			return store.OlderCertificates(ctx, name, version)
		},
		signIn: func(s vault.Secret) (azcore.TokenCredential, error) {
			certs, key, err := s.KeyPair()
			if err != nil {
				return nil, err
			}
			return azidentity.NewClientCertificateCredential(tenantID, clientID, certs, key,
				&azidentity.ClientCertificateCredentialOptions{
					ClientOptions:            o.Client(o.Share(azsdk.TokenShare)),
					DisableInstanceDiscovery: true,
				})
		},
	}
}

// GetToken returns a token for the scope and claims in o. Its error is an *upstream.Error of the vault or the identity.
func (c *Credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if o.Claims == "" {
		now := time.Now()
		c.mu.Lock()
		token := c.token
		c.mu.Unlock()
		switch {
		case token.Token == "" || token.ExpiresOn.Sub(now) < useUntil: // requested below
		case token.ExpiresOn.Sub(now) < renewBefore, !token.RefreshOn.IsZero() && token.RefreshOn.Before(now):
			c.requests.Start(ctx, "", c.acquisition(o))
			return token, nil
		default:
			return token, nil
		}
	}
	token, err := c.requests.Do(ctx, o.Claims, c.acquisition(o))
	if err != nil {
		service, ok := c.stage.Load().(upstream.Service)
		if !ok {
			service = upstream.Vault
		}
		return azcore.AccessToken{}, upstream.Transport(service, err)
	}
	return token, nil
}

func (c *Credential) acquisition(o policy.TokenRequestOptions) func(context.Context) (azcore.AccessToken, error) {
	return func(ctx context.Context) (azcore.AccessToken, error) { return c.acquireToken(ctx, o) }
}

// Expire drops a token that Graph has refused, if it is the kept one: the next GetToken requests another from Entra ID,
// past every cache.
func (c *Credential) Expire(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if token != "" && c.token.Token == token {
		c.token, c.expired = azcore.AccessToken{}, true
	}
}

// acquireToken gets a token from Entra ID, and the secret from the vault where that is due.
func (c *Credential) acquireToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.acquiring.Lock()
	defer c.acquiring.Unlock()
	if c.failure != nil && time.Since(c.failedAt) < failureTTL {
		return azcore.AccessToken{}, c.failure
	}
	c.dropCache()
	token, err := c.requestToken(ctx, o)
	switch {
	case err == nil:
		c.failure = nil
		c.mu.Lock()
		defer c.mu.Unlock()
		c.token = token
	case !upstream.WarmUp(ctx):
		c.failure, c.failedAt = err, time.Now()
	}
	return token, err
}

// dropCache replaces the token source after Expire: azidentity has a cache of its own, and would hand out the same token.
// The version stays: Entra ID may refuse the newest.
func (c *Credential) dropCache() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.expired || c.signed == nil { // nil: the secret was disabled meanwhile
		return
	}
	if signed, err := c.newSource(c.signed.secret); err == nil {
		c.signed, c.expired = signed, false
	}
}

// requestToken requests a token with the current version of the secret, and with a fresh or an older one if Entra ID
// refuses that.
func (c *Credential) requestToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	before := c.signed
	justRead, err := c.readIfDue(ctx)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	token, err := c.signInWith(ctx, c.signed, o)
	switch {
	case !isRefusal(err):
		return token, err
	case justRead:
		return c.signInWithOlder(ctx, before, o, err)
	case time.Since(c.rereadAt) < minReread:
		return token, err
	}
	// Refused: it may have been rotated. If it has not been, the refusal stands.
	version, rereadAt := c.signed.secret.Version, time.Now()
	if err := c.readSecret(ctx); err != nil { // minReread does not hold back the next read
		return azcore.AccessToken{}, err
	}
	c.rereadAt = rereadAt
	if c.secret.Version == version {
		return c.signInWithOlder(ctx, nil, o, err)
	}
	return c.signInWith(ctx, c.signed, o)
}

// isRefusal reports whether err says that Entra ID does not accept a version of the credential.
func isRefusal(err error) bool {
	failed, ok := errors.AsType[*upstream.Error](err)
	return ok && (failed.Reason == upstream.CredentialRejected || failed.Reason == upstream.CredentialExpired)
}

// signInWithOlder requests a token with an older version after Entra ID refused the newest one: a certificate that
// renews itself has a version that the app does not have yet. It uses before, the version in memory, or the versions in
// the vault if that is nil or the newest, and keeps the first that is not refused until the secret is read again. It
// returns refusal if all are refused, and the vault's error if that may hide an accepted one for now.
func (c *Credential) signInWithOlder(
	ctx context.Context, before *source, o policy.TokenRequestOptions, refusal error,
) (azcore.AccessToken, error) {
	older, unread := []*source{before}, error(nil)
	if before == nil || before.secret.Version == c.secret.Version {
		older, unread = c.readOlder(ctx)
	}
	for _, signed := range older {
		token, err := c.signInWith(ctx, signed, o)
		if isRefusal(err) {
			continue
		}
		c.signed = signed // also after an outage of Entra ID, which says nothing about the version
		if err == nil {
			c.options.Log.WarnContext(ctx, "Entra ID refuses the newest version of the app's credential; "+
				"the version before is used: add the newest to the app", slog.String("secret", c.name), slog.Any("error", refusal))
		}
		return token, err
	}
	if failed, ok := errors.AsType[*upstream.Error](unread); ok && failed.Reason.Transient() {
		return azcore.AccessToken{}, unread
	}
	return azcore.AccessToken{}, refusal
}

// readOlder returns the token sources of the older versions in the vault, of those before an error.
func (c *Credential) readOlder(ctx context.Context) (sources []*source, err error) {
	if c.older == nil {
		return nil, nil
	}
	c.stage.Store(upstream.Vault)
	older, err := c.older(ctx, c.secret.Version)
	if err != nil {
		c.options.Log.WarnContext(ctx, "the older versions of the app's credential cannot be read",
			slog.String("secret", c.name), slog.Any("error", err))
	}
	for _, secret := range older {
		if signed, err := c.newSource(secret); err == nil {
			sources = append(sources, signed)
		}
	}
	return sources, err
}

// readIfDue reads the secret if that is due, and reports whether it did.
func (c *Credential) readIfDue(ctx context.Context) (justRead bool, err error) {
	signed, age := c.signed, time.Since(c.readAt)
	if signed != nil && age < refreshAfter {
		return false, nil
	}
	err = c.readSecret(ctx)
	if err != nil && signed != nil && age < maxStale && vault.KeepsSecret(err) {
		c.options.Log.WarnContext(ctx, "the vault is not answering; the app's credential is used on", slog.String("secret",
			c.name), slog.Any("error", err))
		return false, nil
	}
	return err == nil, err
}

// readSecret reads the secret and makes its token source. A failure may keep the version before.
func (c *Credential) readSecret(ctx context.Context) error {
	c.stage.Store(upstream.Vault)
	secret, err := c.read(ctx)
	var signed *source
	if err == nil {
		if signed, err = c.newSource(secret); err != nil {
			err = vault.Invalid(c.name, vault.FaultOf(err))
		}
	}
	switch {
	case err == nil:
		c.secret, c.signed, c.readAt = secret, signed, time.Now()
	case !vault.KeepsSecret(err): // dropped too, even if the vault is down the next time
		c.secret, c.signed = vault.Secret{}, nil
	}
	return err
}

// signInWith requests a token of Entra ID from a token source.
func (c *Credential) signInWith(
	ctx context.Context, signed *source, o policy.TokenRequestOptions,
) (azcore.AccessToken, error) {
	c.stage.Store(upstream.Identity)
	inTime, ok := signed.TokenCredential.(identity) // one that is used directly has its errors reduced already
	if !ok {
		inTime.TokenCredential = signed.TokenCredential
	}
	inTime.limit = c.options.Share(azsdk.TokenShare)
	return inTime.requestToken(ctx, o)
}
