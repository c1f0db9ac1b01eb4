//go:build !noaws

package app

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/upstream"
)

// assertionLife is the lifetime of a token of the role, in seconds. It is used at once; template.yaml allows no
// longer one.
const assertionLife = 300

// RoleAssertion returns the source of tokens of the function's role, for an audience of Entra ID: AWS STS issues a
// JWT with the role's ARN as its subject
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound.html). Entra ID accepts RS256 alone.
func RoleAssertion(role config.AWSRole, transport upstream.Doer, audience string) entra.Assertion {
	options := sts.Options{
		Region:     role.Region,
		HTTPClient: upstream.Capped(transport, 64<<10),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = 2, 200*time.Millisecond
		}),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			keys := aws.Credentials{AccessKeyID: role.KeyID, SecretAccessKey: role.Secret, SessionToken: role.Session}
			return keys, nil
		}),
	}
	if role.Endpoint != "" {
		options.BaseEndpoint = &role.Endpoint
	}
	client := sts.New(options)
	return func(ctx context.Context) (string, error) {
		out, err := client.GetWebIdentityToken(ctx, &sts.GetWebIdentityTokenInput{
			Audience:         []string{audience},
			SigningAlgorithm: new("RS256"),
			DurationSeconds:  new(int32(assertionLife)),
		})
		if err != nil {
			return "", reduceSTS(err)
		}
		return aws.ToString(out.WebIdentityToken), nil
	}
}

func reduceSTS(err error) *upstream.Error {
	said, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return upstream.Transport(upstream.Identity, err)
	}
	e := &upstream.Error{Service: upstream.Identity, Code: upstream.PlainCode(said.ErrorCode()), Cause: "AWS STS"}
	if answered, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		e.Status, e.RequestID = answered.HTTPStatusCode(), upstream.PlainCode(answered.ServiceRequestID())
	}
	switch {
	case e.Code == "OutboundWebIdentityFederationDisabledException", e.Code == "OutboundWebIdentityFederationDisabled":
		e.Reason = upstream.CredentialRejected
		e.Cause = "AWS STS: outbound web identity federation is not enabled in the account"
	case e.Code == "AccessDenied":
		e.Reason, e.Cause = upstream.CredentialRejected, "AWS STS: the role may not ask for this token"
	case e.Code == "Throttling", e.Status == http.StatusTooManyRequests:
		e.Reason = upstream.Throttled
	case e.Status >= 500:
		e.Reason = upstream.Unavailable
	default:
		e.Reason = upstream.CredentialRejected
	}
	return e
}
