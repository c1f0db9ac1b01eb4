//go:build !nosim

package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"autopilot-unassign/internal/client"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/demo"
	"autopilot-unassign/internal/server"
	"autopilot-unassign/internal/upstream"
)

// play plays the main job on a simulated cloud.
func play(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	return demo.Play(ctx, args, getenv, stdout, version)
}

// simulate serves requests on a simulated cloud, and prints a request to try. program is the name of the executable.
func simulate(ctx context.Context, program, address string, getenv func(string) string, stdout io.Writer) error {
	s, err := demo.New(getenv, stdout, version)
	if err != nil {
		return err
	}
	listener, err := listenAt(ctx, address)
	if err != nil {
		return err
	}
	s.Banner(stdout, program, "http://"+listener.Addr().String())
	return server.Serve(ctx, listener, withInvocation(s.App, config.Local, ""), s.Config.Timeout, s.Log)
}

// callDeployment runs the commands of callers: call and list.
func callDeployment(ctx context.Context, command string, args []string, getenv func(string) string, stdin io.Reader,
	stdout, stderr io.Writer,
) error {
	program := client.Program{
		Version: version, HTTP: upstream.NewClient(), Getenv: getenv, Stdin: stdin, Stdout: stdout, Stderr: stderr,
		ResetSignals: func() { signal.Reset(os.Interrupt, syscall.SIGTERM) },
	}
	if command == "list" {
		return program.List(ctx, args)
	}
	return program.Call(ctx, args)
}
