package entra

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

// Assertion returns a token that proves the identity of this process to an app: AWS or the managed identity issues
// it. Its error is an *upstream.Error.
type Assertion func(ctx context.Context) (string, error)

// Shared returns an Assertion that runs assertion once for concurrent callers, within the time of an identity's step: an
// issuer that hangs must not hold later callers.
func Shared(assertion Assertion, o azsdk.Options) Assertion {
	limit := o.Share(azsdk.IdentityShare)
	requests := &singleflight.Group[string]{}
	return func(ctx context.Context) (string, error) {
		text, err := requests.Do(ctx, "", func(ctx context.Context) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			return assertion(ctx)
		})
		if err != nil {
			return "", upstream.Transport(upstream.Identity, err)
		}
		return text, nil
	}
}

// Federated returns the credential of an app of a tenant that trusts the issuer of assertion, by a federated identity
// credential (https://learn.microsoft.com/entra/workload-id/workload-identity-federation). No secret is stored
// anywhere. The errors of its tokens are *upstream.Errors.
func Federated(tenantID, clientID string, assertion Assertion, o azsdk.Options) (azcore.TokenCredential, error) {
	limit := o.Share(azsdk.IdentityShare)
	fromContext := func(ctx context.Context) (string, error) {
		text, _ := ctx.Value(assertionKey{}).(string)
		return text, nil
	}
	credential, err := azidentity.NewClientAssertionCredential(tenantID, clientID, fromContext, &azidentity.ClientAssertionCredentialOptions{
		ClientOptions:            o.Client(limit),
		DisableInstanceDiscovery: true,
	})
	return newIdentity(federated{credential, assertion}, limit), err
}

// Asserted returns the Assertion of an identity: its token for audience, the name of the token exchange in this cloud.
func Asserted(identity azcore.TokenCredential, audience string) Assertion {
	return func(ctx context.Context) (string, error) {
		token, err := identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}})
		return token.Token, err
	}
}

// federated gets the assertion before azidentity asks for it: azidentity would reduce its error to a text, and asks
// only after it knows the tenant's endpoints.
type federated struct {
	azcore.TokenCredential
	assertion Assertion
}

type assertionKey struct{}

// GetToken returns a token, or the error of the assertion.
func (f federated) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	text, err := f.assertion(ctx)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return f.TokenCredential.GetToken(context.WithValue(ctx, assertionKey{}, text), o)
}

// Direct returns a Credential without a secret in a vault: signIn returns the credential itself. It makes no request.
func Direct(signIn func() (azcore.TokenCredential, error), o azsdk.Options) (*Credential, error) {
	if _, err := signIn(); err != nil { // a fault of the settings
		return nil, err
	}
	return &Credential{
		options: o,
		read:    func(context.Context) (vault.Secret, error) { return vault.Secret{}, nil },
		signIn:  func(vault.Secret) (azcore.TokenCredential, error) { return signIn() },
	}, nil
}
