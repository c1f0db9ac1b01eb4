//go:build noaws

package main

import (
	"context"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

// withAWS is whether this build can speak to AWS.
const withAWS = false

// roleAssertion is for a package that runs on Azure alone, where there is no role of AWS. Its size is better spent.
func roleAssertion(config.AWSRole, upstream.Doer, string) vault.Assertion {
	return func(context.Context) (string, error) {
		return "", &upstream.Error{Service: upstream.Identity, Reason: upstream.CredentialRejected, Cause: "this build knows no AWS"}
	}
}
