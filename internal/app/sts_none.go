//go:build noaws

package app

import (
	"context"
	"errors"

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

// DeadLetters needs the AWS SDK.
type DeadLetters struct{}

// NewDeadLetters returns a DeadLetters that always fails.
func NewDeadLetters(func(string) string, upstream.Doer) *DeadLetters { return nil }

// Send always fails.
func (*DeadLetters) Send(context.Context, string, string, string, string) error {
	return errors.New("this build has no AWS SDK")
}
