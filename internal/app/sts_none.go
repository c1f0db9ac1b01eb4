//go:build noaws

package app

import (
	"context"
	"errors"
	"time"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/upstream"
)

// RoleAssertion always fails: this build is for Azure, and leaves the AWS SDK out.
func RoleAssertion(config.AWSRole, upstream.Doer, string) entra.Assertion {
	return func(context.Context) (string, error) {
		return "", &upstream.Error{
			Service: upstream.Identity, Reason: upstream.CredentialRejected,
			Cause: "this build has no AWS SDK",
		}
	}
}

// Queues needs the AWS SDK.
type Queues struct{}

// NewQueues returns a Queues that always fails.
func NewQueues(func(string) string, upstream.Doer) *Queues { return nil }

// Requeue always fails.
func (*Queues) Requeue(context.Context, string, ...[]byte) error { return errNoAWS }

// Delete always fails.
func (*Queues) Delete(context.Context, string, string) error { return errNoAWS }

// Hide always fails.
func (*Queues) Hide(context.Context, string, time.Duration, ...string) error { return errNoAWS }

// DeadLetter always fails.
func (*Queues) DeadLetter(context.Context, string, []byte, string, string) error { return errNoAWS }

var errNoAWS = errors.New("this build has no AWS SDK")
