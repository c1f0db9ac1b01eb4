// Package vault reads secrets, certificates and callers' keys from Azure Key Vault.
//
// Callers' keys are read on first use and kept in memory. A mismatch reads them again, so that a rotation needs no
// restart. While the vault is down, keys stay in use. See [Keys].
//
// Every error is an *upstream.Error: the errors of azsecrets print whole responses.
package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// Secret is a version of a secret. Its value is only to be had by asking for it: it does not print.
type Secret struct {
	value   string
	Trimmed bool // invisible characters were removed from its ends
	Version string
	Expires time.Time // zero: never
}

// Value returns the secret itself.
func (s Secret) Value() string { return s.value }

// redacted is printed instead of a secret.
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
	options  azsdk.Options
}

// New returns the Vault at an address (https://contoso.vault.azure.net), read with the tokens of identity. It makes no
// request.
func New(vaultURL string, identity azcore.TokenCredential, o azsdk.Options) (*Vault, error) {
	sdk := o.Client(o.Share(azsdk.VaultShare))
	sdk.Transport = &versioned{next: sdk.Transport}
	client, err := azsecrets.NewClient(vaultURL, identity, &azsecrets.ClientOptions{
		ClientOptions:                        sdk,
		DisableChallengeResourceVerification: o.Custom,
	})
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return &Vault{client: client, identity: identity, options: o}, nil
}

// Scope requests a secret of the vault at an address without a token, and returns the scope of the tokens that the vault
// wants. It needs no identity. Its error is an *upstream.Error of the vault.
func Scope(ctx context.Context, vaultURL string, o azsdk.Options) (string, error) {
	asked := &askedForToken{}
	o.Scope = "" // as if it were unknown
	v, err := New(vaultURL, asked, o)
	if err != nil {
		return "", err
	}
	_, err = v.Secret(ctx, "any") // never read: the challenge comes first
	if asked.scope != "" {
		return asked.scope, nil
	}
	if err == nil {
		err = &upstream.Error{Service: upstream.Vault, Reason: upstream.BadAnswer, Cause: "a secret without a token"}
	}
	return "", err
}

// askedForToken is an identity without a token. It stores the request for one.
type askedForToken struct{ scope string }

func (a *askedForToken) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(o.Scopes) == 1 {
		a.scope = o.Scopes[0]
	}
	return azcore.AccessToken{}, &upstream.Error{
		Service: upstream.Identity, Reason: upstream.Rejected,
		Cause: "no token on purpose",
	}
}

// ValidName reports whether Key Vault accepts name for a secret: 1 to 127 letters, digits and hyphens
// (https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#object-identifiers). The SDK
// would put any other text into the path.
func ValidName(name string) bool {
	return 1 <= len(name) && len(name) <= 127 && strings.Trim(name, text.Alphanumeric+"-") == ""
}

// Secret reads the current version of a secret, in one request. Its error is an *upstream.Error of the vault, or of
// the identity that reads it.
//
// The value is a client secret, a signing key or an API key. Invisible characters at its ends are removed: editors
// and shells add them. Any other character that no HTTP header carries makes it invalid.
func (v *Vault) Secret(ctx context.Context, name string) (Secret, error) {
	s, err := v.readSecret(ctx, name, "", nil)
	if err == nil && !text.IsPrintableASCII(s.value) {
		return Secret{}, Invalid(name, "has a character that no HTTP header carries")
	}
	return s, err
}

func (v *Vault) readSecret(ctx context.Context, name, version string, o *azsecrets.GetSecretOptions) (Secret, error) {
	if !ValidName(name) {
		return Secret{}, &upstream.Error{Service: upstream.Vault, Reason: upstream.NotFound, Cause: "no name of a secret"}
	}
	start := time.Now()
	trace := &upstream.Trace{} // of this read alone: the identity's time is not the vault's
	step, cancel := context.WithTimeout(upstream.WithTrace(ctx, trace), v.options.Share(azsdk.VaultShare))
	defer cancel()
	step, seen := azsdk.Watch(step)
	resp, err := v.getSecret(step, name, version, o)
	identity := trace.Spent(upstream.Identity)
	upstream.Spent(ctx, upstream.Identity, identity)
	upstream.Spent(ctx, upstream.Vault, time.Since(start)-identity)
	if err != nil {
		return Secret{}, reduceVault(err, seen, name)
	}
	stored := ""
	if resp.Value != nil {
		stored = *resp.Value
	}
	s := Secret{value: text.Trim(stored)}
	s.Trimmed = s.value != stored
	s.Version = versionOf(resp.ID)
	if a := resp.Attributes; a != nil && a.Expires != nil {
		s.Expires = *a.Expires
	}
	if s.value == "" {
		return Secret{}, Invalid(name, "has no value")
	}
	if left := time.Until(s.Expires); !s.Expires.IsZero() && left < 14*24*time.Hour {
		// Key Vault also returns expired secrets. Entra ID decides whether one is still valid.
		v.options.Log.WarnContext(ctx, "a secret is about to expire or has expired", slog.String("secret", name),
			slog.Time("expires", s.Expires))
	}
	return s, nil
}

// FetchToken has the identity fetch its token for the vault, if the scope is known without the vault's challenge. The
// first read then finds it in the identity's cache. The read reports its failure.
func (v *Vault) FetchToken(ctx context.Context) {
	if v.options.Scope != "" {
		_, _ = v.identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{v.options.Scope}, EnableCAE: true})
	}
}

// getSecret requests a secret. The SDK panics on some challenges that are malformed.
func (v *Vault) getSecret(
	ctx context.Context, name, version string, o *azsecrets.GetSecretOptions,
) (resp azsecrets.GetSecretResponse, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &upstream.Error{Service: upstream.Vault, Reason: upstream.BadAnswer, Cause: "malformed challenge"}
		}
	}()
	return v.client.GetSecret(ctx, name, version, o)
}

// versionOf returns the last segment of a secret's id. The SDK's own parser panics on a short id.
func versionOf(id *azsecrets.ID) string {
	if id == nil {
		return ""
	}
	return string(*id)[strings.LastIndex(string(*id), "/")+1:]
}

// Invalid returns the error of a secret that was read and is unusable, for the reason why.
func Invalid(name, why string) *upstream.Error {
	return &upstream.Error{Service: upstream.Vault, Reason: upstream.SecretInvalid, Cause: "secret " + name + " " + why}
}

// KeepsSecret reports whether an earlier version of a secret stays in use after reading it again failed with err:
// while the vault is down or refuses us, but not once it says that the secret is gone, disabled or invalid.
func KeepsSecret(err error) bool {
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
