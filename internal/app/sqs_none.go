//go:build noaws

package app

import (
	"context"
	"errors"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/upstream"
)

// SQS stands for the sender of a build that runs on Azure alone.
type SQS struct {
	Role      config.AWSRole
	Transport upstream.Doer
}

// Send fails.
func (SQS) Send(context.Context, string, ...[]byte) error {
	return errors.New("sqs: this build does not support AWS")
}
