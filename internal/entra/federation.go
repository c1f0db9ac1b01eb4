package entra

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

// Assertion returns a token that identifies this process, from an issuer that an app trusts: AWS, or the managed
// identity of this host. Its error is an *upstream.Error.
type Assertion func(ctx context.Context) (string, error)

// Federated returns the credential of an app of a tenant that trusts the subject of assertion by a federated identity
// credential (https://learn.microsoft.com/entra/workload-id/workload-identity-federation). No secret is stored
// anywhere. The errors of its tokens are *upstream.Errors.
func Federated(tenantID, clientID string, assertion Assertion, o azsdk.Options) (azcore.TokenCredential, error) {
	o = o.WithDefaults()
	limit := o.Share(azsdk.IdentityShare)
	early := &earlyAssertion{assertion: assertion, limit: limit}
	credential, err := azidentity.NewClientAssertionCredential(tenantID, clientID, func(ctx context.Context) (string,
		error) {
		text, err := early.take(ctx)
		if failed, ok := ctx.Value(assertionKey{}).(*assertionError); ok {
			failed.err = err
		}
		return text, err
	}, &azidentity.ClientAssertionCredentialOptions{
		ClientOptions:            o.Client(limit),
		DisableInstanceDiscovery: true,
	})
	return newIdentity(federated{credential, early}, limit), err
}

// Asserted returns the Assertion of an identity: its token for the exchange, of which audience is the name in this
// cloud.
func Asserted(identity azcore.TokenCredential, audience string) Assertion {
	return func(ctx context.Context) (string, error) {
		token, err := identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}})
		return token.Token, err
	}
}

// federated is a credential whose assertion may fail. azidentity makes a text of that error.
type federated struct {
	azcore.TokenCredential
	early *earlyAssertion
}

type assertionKey struct{}

type assertionError struct{ err error }

// GetToken returns a token, or the error of the assertion as it was.
func (f federated) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	f.early.begin(ctx)
	defer f.early.answer.Store(nil) // which was for this call
	var failed assertionError
	token, err := f.TokenCredential.GetToken(context.WithValue(ctx, assertionKey{}, &failed), o)
	if err != nil && failed.err != nil {
		err = failed.err
	}
	return token, err
}

// earlyAssertion is an assertion that is asked for, the first time, while Entra ID is asked for its endpoints:
// azidentity wants it only after that.
type earlyAssertion struct {
	assertion Assertion
	limit     time.Duration
	first     sync.Once
	answer    atomic.Pointer[chan early] // nil before it is asked for, and when it has been taken
}

type early struct {
	text string
	err  error
}

// begin asks for the first assertion, unless that has been done.
func (e *earlyAssertion) begin(ctx context.Context) {
	e.first.Do(func() {
		answer := make(chan early, 1)
		e.answer.Store(&answer)
		go func() {
			ctx, cancel := context.WithTimeout(upstream.Detached(ctx), e.limit)
			defer cancel()
			// which it is if assertion does not return
			first := early{err: &upstream.Error{Service: upstream.Identity, Reason: upstream.BadAnswer, Cause: "panic"}}
			defer func() {
				_ = recover()
				answer <- first
			}()
			first.text, first.err = e.assertion(ctx)
		}()
	})
}

// take returns the first assertion, or another where that has been taken already.
func (e *earlyAssertion) take(ctx context.Context) (string, error) {
	answer := e.answer.Swap(nil)
	if answer == nil {
		return e.assertion(ctx)
	}
	select {
	case first := <-*answer:
		return first.text, first.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Direct returns a Credential without a secret in a vault: the result of signIn signs in by itself. It makes no
// request.
func Direct(signIn func() (azcore.TokenCredential, error), o azsdk.Options) (*Credential, error) {
	if _, err := signIn(); err != nil { // caused by its arguments, so it is the same each time
		return nil, err
	}
	return &Credential{
		options:  o.WithDefaults(),
		read:     func(context.Context) (vault.Secret, error) { return vault.Secret{}, nil },
		discover: func(context.Context) {},
		signIn:   func(vault.Secret) (azcore.TokenCredential, error) { return signIn() },
	}, nil
}
