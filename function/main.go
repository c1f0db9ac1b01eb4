// Unassign removes the resource account from Windows Autopilot devices on request of authenticated callers. It is an
// Azure Functions custom handler, an AWS Lambda function, or a server on this machine, depending on the host that
// starts it. Without settings it runs on a simulated cloud.
//
// Package main holds the commands and the hosts. Package handler serves requests; package app builds it from the
// settings.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/doctor"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// version is the content of the file VERSION, for a build without git. The Makefile sets it to the commit or the tag.
var version = "0.1.0"

func main() {
	ctx, stop := context.WithCancel(context.Background())
	go stopOnSignal(stop)
	err := run(ctx, os.Args, os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err == nil || errors.Is(err, flag.ErrHelp) { // the help has been printed already
		return
	}
	message := err.Error()
	if os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT") != "" {
		message = oneLine(message)
	}
	fmt.Fprintln(os.Stderr, "unassign:", message)
	os.Exit(exitCode(err))
}

// stopOnSignal calls stop on SIGINT or SIGTERM. It runs beside the start of the server: a signal that comes before it
// is ready ends the process at once.
func stopOnSignal(stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	stop()
}

// exitCode returns the exit status for err: the status that an error in its tree names, else 1.
func exitCode(err error) int {
	type coded interface {
		error
		ExitCode() int
	}
	if known, ok := errors.AsType[coded](err); ok {
		return known.ExitCode()
	}
	return 1
}

const usage = `usage: unassign [command]

  serve     serve requests (default); detects Azure Functions and Lambda. On this
            machine: -listen ADDRESS (127.0.0.1:8080), on a simulated cloud unless
            the settings name a vault, an app or callers
  demo      play the main job on a simulated cloud; -v shows every message
  doctor    examine the deployment that the settings describe; changes nothing
  list      list the devices of a deployment that carry a resource account
  call      remove the resource account from devices, one or a list
  version   print the version

unassign help settings lists the settings of serve and doctor.

unassign help COMMAND has the flags and examples of a command.
`

// run is the program. It returns when its work is done, when ctx ends, or when it cannot go on.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout,
	stderr io.Writer,
) error {
	command, rest := "serve", args[1:]
	if len(rest) > 0 {
		command, rest = rest[0], rest[1:]
	}
	switch command {
	case "serve":
		return serve(ctx, args[0], rest, getenv, stdout, stderr)
	case "demo":
		return play(ctx, rest, getenv, stdout)
	case "doctor":
		return doctor.Command(ctx, rest, getenv, upstream.NewClient(), version, stdout, stderr)
	case "call", "list":
		return callDeployment(ctx, command, rest, getenv, stdin, stdout, stderr)
	case "version", "-v", "-version", "--version":
		fmt.Fprintln(stdout, version)
		return nil
	case "help", "-h", "-help", "--help":
		if len(rest) > 0 && rest[0] == "settings" {
			return config.WriteHelp(stdout)
		}
		if len(rest) > 0 && rest[0] != "help" {
			return run(ctx, []string{args[0], rest[0], "-h"}, getenv, stdin, stdout, stderr)
		}
		fmt.Fprint(stdout, usage)
		return nil
	}
	return text.UsageError(fmt.Sprintf("no command %q\n%s", command, usage))
}
