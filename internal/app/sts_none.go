//go:build noaws

package app

import (
	"context"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/upstream"
)

// RoleAssertion always fails: this build is for Azure, and leaves the AWS SDK out.
func RoleAssertion(config.AWSRole, upstream.Doer, string) entra.Assertion {
	return func(context.Context) (string, error) {
		return "", &upstream.Error{Service: upstream.Identity, Reason: upstream.CredentialRejected, Cause: "this build has no AWS SDK"}
	}
}
