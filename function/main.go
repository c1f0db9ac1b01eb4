// Unassign takes the resource account off Windows Autopilot devices when an authenticated caller asks for it. It is an
// Azure Functions custom handler, an AWS Lambda function, or a server on this machine, whichever host starts it; with no
// settings at all it runs on a simulated cloud.
//
// Package main knows the hosts and puts the rooms together. What the function does is in package handler.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"autopilot-unassign/internal/client"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/upstream"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := context.WithCancel(context.Background())
	go stopOnSignal(stop)
	err := run(ctx, os.Args, os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	if !errors.Is(err, flag.ErrHelp) { // which has been printed already
		fmt.Fprintln(os.Stderr, "unassign:", err)
	}
	os.Exit(exitCode(err))
}

// stopOnSignal calls stop when the process is to end. Go listens for signals on a thread of its own, for which a port need not wait to be
// opened: a signal that comes before ends the process at once.
func stopOnSignal(stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	stop()
}

// exitCode returns the exit status for err: the status that an error in its tree names, else 1.
func exitCode(err error) int {
	var coded interface {
		error
		ExitCode() int
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &coded):
		return coded.ExitCode()
	}
	return 1
}

// usageError is an error in the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// ExitCode returns the exit status of the process.
func (usageError) ExitCode() int { return 2 }

const usage = `usage: unassign [command]

  serve     serve requests (default); detects Azure Functions and Lambda. On this
            machine: -listen ADDRESS (127.0.0.1:8080), on a simulated cloud unless
            the settings name a vault, an app or callers
  demo      play the main job on a simulated cloud
  doctor    examine the deployment that the settings describe; changes nothing
  list      list the devices of a deployment that carry a resource account
  call      remove the resource account from devices, one or a list
  version   print the version

unassign help COMMAND has the flags and examples of a command.
`

// run is the program. It returns when its work is done, when ctx ends, or when it cannot go on.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	command, rest := "serve", args[1:]
	if len(rest) > 0 {
		command, rest = rest[0], rest[1:]
	}
	caller := client.Program{
		Version: version, Getenv: getenv, Stdin: stdin, Stdout: stdout, Stderr: stderr,
		ResetSignals: func() { signal.Reset(os.Interrupt, syscall.SIGTERM) },
	}
	switch command {
	case "serve":
		return serve(ctx, args[0], rest, getenv, stdout, stderr)
	case "demo":
		if len(rest) > 0 {
			return usageError("demo takes no arguments")
		}
		return demo(ctx, getenv, stdout)
	case "doctor":
		return doctor(ctx, rest, getenv, upstream.NewClient(), stdout, stderr)
	case "call":
		return caller.Call(ctx, rest)
	case "list":
		return caller.List(ctx, rest)
	case "version", "-v", "-version", "--version":
		fmt.Fprintln(stdout, version)
		return nil
	case "help", "-h", "-help", "--help":
		if len(rest) > 0 && rest[0] != "help" {
			return run(ctx, []string{args[0], rest[0], "-h"}, getenv, stdin, stdout, stderr)
		}
		fmt.Fprint(stdout, usage)
		return nil
	}
	return usageError(fmt.Sprintf("no command %q\n%s", command, usage))
}

// serve answers requests until ctx ends, under the host that the environment shows. The program goes by the name program.
func serve(ctx context.Context, program string, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to listen on, on this machine")
	if err := flags.Parse(args); err != nil {
		return errors.Join(usageError("serve"), err)
	}
	host, err := config.DetectHost(getenv)
	if err != nil {
		return err
	}
	if host == config.Local && !config.HasDeployment(getenv) {
		return simulate(ctx, program, *listen, getenv, stdout)
	}
	c, err := config.Load(getenv, host)
	if err != nil {
		return err
	}
	log := newLog(stdout, c.LogLevel)
	if c.VaultCredential == config.ManagedIdentity && getenv("AZURE_CLIENT_SECRET") != "" {
		log.WarnContext(ctx, "AZURE_CLIENT_SECRET is set and not used: VAULT_CREDENTIAL is managed-identity")
	}
	if c.PlatformAuth {
		log.WarnContext(ctx, "AUTH=platform: every request that the host lets through is carried out")
	}
	// Before the rooms are put together: a request that comes meanwhile waits in the port for less time than it would take to come again.
	listener, err := open(ctx, host, getenv("FUNCTIONS_CUSTOMHANDLER_PORT"), *listen)
	if err != nil {
		return err
	}
	transport := upstream.NewClient()
	s, err := wire(c, transport, log)
	if err != nil {
		return err
	}
	switch host {
	case config.Azure:
		return serveAzure(ctx, listener, s, c.Timeout, getenv, log)
	case config.Lambda:
		examine := func(ctx context.Context) (report, error) { return examineDeployment(ctx, c, transport) }
		return serveLambda(ctx, s, examine, log)
	}
	return serveLocal(ctx, listener, s, c.Timeout, log)
}

// open returns the port on which host is to find the process, which is one of its own or an address. A host that is asked for its
// requests has none.
func open(ctx context.Context, host, port, address string) (net.Listener, error) {
	switch host {
	case config.Azure:
		return listenAzure(ctx, port)
	case config.Lambda:
		return nil, nil //nolint:nilnil // there is none to find
	}
	return listenAt(ctx, address)
}
