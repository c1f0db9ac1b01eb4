package vault

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// Assertion returns a token that says who this process is, in the words of somebody whom an app trusts: AWS, or the managed
// identity of this host. Its error is an *upstream.Error.
type Assertion func(ctx context.Context) (string, error)

// Federated returns the credential of an app of a tenant that trusts whoever assertion speaks for, by a federated identity
// credential (https://learn.microsoft.com/entra/workload-id/workload-identity-federation). No secret is stored anywhere. The
// errors of its tokens are *upstream.Errors.
func Federated(tenantID, clientID string, assertion Assertion, o Options) (azcore.TokenCredential, error) {
	o = o.withDefaults()
	limit := o.share(identityShare)
	credential, err := azidentity.NewClientAssertionCredential(tenantID, clientID, func(ctx context.Context) (string, error) {
		text, err := assertion(ctx)
		if failed, ok := ctx.Value(assertionKey{}).(*assertionError); ok {
			failed.err = err
		}
		return text, err
	}, &azidentity.ClientAssertionCredentialOptions{
		ClientOptions:            o.client(limit),
		DisableInstanceDiscovery: true,
	})
	return identity{federated{credential}, limit}, err
}

// Asserted returns the Assertion of an identity: its token for the exchange, of which audience is the name in this cloud.
func Asserted(identity azcore.TokenCredential, audience string) Assertion {
	return func(ctx context.Context) (string, error) {
		token, err := identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}})
		return token.Token, err
	}
}

// federated is a credential whose assertion may fail. azidentity makes a text of that error.
type federated struct{ azcore.TokenCredential }

type assertionKey struct{}

type assertionError struct{ err error }

// GetToken returns a token, or the error of the assertion as it was.
func (f federated) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	var failed assertionError
	token, err := f.TokenCredential.GetToken(context.WithValue(ctx, assertionKey{}, &failed), o)
	if err != nil && failed.err != nil {
		err = failed.err
	}
	return token, err
}

// Direct returns a Credential that has nothing in a vault: what signIn returns signs in by itself. It makes no request.
func Direct(signIn func() (azcore.TokenCredential, error), o Options) (*Credential, error) {
	if _, err := signIn(); err != nil { // which is about what it was given, and would be the same each time
		return nil, err
	}
	return &Credential{
		vault:  &Vault{options: o.withDefaults()},
		read:   func(context.Context) (Secret, error) { return Secret{}, nil },
		signIn: func(Secret) (azcore.TokenCredential, error) { return signIn() },
	}, nil
}
