package entra

import (
	"context"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// ManagedIdentity returns the credential of the host's managed identity, the user-assigned one with that client id,
// or the system-assigned one if it is "". The errors of its tokens are *upstream.Errors.
func ManagedIdentity(clientID string, o azsdk.Options) (azcore.TokenCredential, error) {
	limit := o.Share(azsdk.IdentityShare)
	options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: o.Client(limit)}
	if clientID != "" {
		options.ID = azidentity.ClientID(clientID)
	}
	credential, err := azidentity.NewManagedIdentityCredential(options)
	return newIdentity(credential, limit), err
}

// ClientSecret returns the credential of an app with a client secret, for hosts that have no identity of their own. The
// errors of its tokens are *upstream.Errors.
func ClientSecret(tenantID, clientID, secret string, o azsdk.Options) (azcore.TokenCredential, error) {
	limit := o.Share(azsdk.IdentityShare)
	credential, err := azidentity.NewClientSecretCredential(tenantID, clientID, secret,
		&azidentity.ClientSecretCredentialOptions{
			ClientOptions:            o.Client(limit),
			DisableInstanceDiscovery: true,
		})
	return newIdentity(credential, limit), err
}

// AzureCLI returns the credential of the user signed in with az, for a terminal. The errors of its tokens are
// *upstream.Errors.
func AzureCLI(o azsdk.Options) (azcore.TokenCredential, error) {
	credential, err := azidentity.NewAzureCLICredential(nil)
	i := newIdentity(credential, o.Timeout)
	i.cli = true
	return i, err
}

// identity is a credential of azidentity with a limit to its time and its errors reduced. Concurrent callers share one
// request for a token.
type identity struct {
	azcore.TokenCredential
	limit    time.Duration
	requests *singleflight.Group[azcore.AccessToken]
	cli      bool // of the user signed in with az on this machine, in any tenant
}

func newIdentity(credential azcore.TokenCredential, limit time.Duration) identity {
	return identity{
		TokenCredential: credential, limit: limit, requests: &singleflight.Group[azcore.AccessToken]{},
	}
}

// GetToken returns a token, or an *upstream.Error.
func (i identity) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if !i.cli { // so the vault's tenant is its own, or the vault will not take the token
		o.TenantID = ""
	}
	token, err := i.requests.Do(ctx, fmt.Sprint(o), func(ctx context.Context) (azcore.AccessToken, error) {
		return i.requestToken(ctx, o)
	})
	if err != nil {
		return azcore.AccessToken{}, upstream.Transport(upstream.Identity, err)
	}
	return token, nil
}

// requestToken requests a token within the limit. Its error is an *upstream.Error.
func (i identity) requestToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	start := time.Now()
	step, cancel := context.WithTimeout(ctx, i.limit)
	defer cancel()
	step, seen := azsdk.Watch(step)
	token, err := i.TokenCredential.GetToken(step, o)
	upstream.Spent(ctx, upstream.Identity, time.Since(start))
	if err == nil {
		return token, nil
	}
	failure := reduceIdentity(step, err, seen)
	if i.cli && failure.Reason == upstream.BadAnswer {
		failure = &upstream.Error{
			Service: upstream.Identity, Reason: upstream.CredentialRejected,
			Cause: "the Azure CLI gave no token: run az login",
		}
	}
	return azcore.AccessToken{}, failure
}
