//go:build nosim

package main

import (
	"context"
	"errors"
	"io"

	"autopilot-unassign/internal/config"
)

var errNoSimulation = errors.New("this package is for a deployment and has neither a simulated cloud nor the commands of " +
	"callers; use a program of the release")

// play fails: this build has no simulated cloud.
func play(context.Context, []string, func(string) string, io.Writer) error { return errNoSimulation }

// simulate fails: this build has no simulated cloud. Its error names every missing setting.
func simulate(_ context.Context, _, _ string, getenv func(string) string, _ io.Writer) error {
	_, err := config.Load(getenv, config.Local)
	return errors.Join(errNoSimulation, err)
}

// callDeployment fails: this build serves callers and is none.
func callDeployment(context.Context, string, []string, func(string) string, io.Reader, io.Writer, io.Writer) error {
	return errNoSimulation
}
