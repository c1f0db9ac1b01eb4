package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"strconv"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/doctor"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// serve serves requests until ctx ends, for the host that the environment shows. program is the name of the executable.
func serve(ctx context.Context, program string, args []string, getenv func(string) string, stdout,
	stderr io.Writer,
) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to listen on, on this machine")
	if err := flags.Parse(args); err != nil {
		return errors.Join(text.UsageError("serve"), err)
	}
	host, err := config.DetectHost(getenv)
	if err != nil {
		return err
	}
	if host == config.Local && !config.HasDeployment(getenv) {
		return simulate(ctx, program, *listen, getenv, stdout)
	}
	// Listen before anything else: early connections wait in the accept queue instead of being refused.
	listener, err := openListener(ctx, host, getenv("FUNCTIONS_CUSTOMHANDLER_PORT"), *listen)
	if err != nil {
		return err
	}
	if listener != nil {
		defer func() { _ = listener.Close() }()
	}
	c, err := config.Load(getenv, host)
	if err != nil {
		return err
	}
	if err := app.CheckPlatformAuth(c, *listen, os.DirFS(".")); err != nil {
		return err
	}
	if host == config.Azure {
		stdout = app.SplitLevels(stdout, stderr)
	}
	log := app.NewLog(stdout, c.LogLevel)
	if c.VaultCredential == config.ManagedIdentity && getenv("AZURE_CLIENT_SECRET") != "" {
		log.WarnContext(ctx, "AZURE_CLIENT_SECRET is set and not used: VAULT_CREDENTIAL is managed-identity")
	}
	if level := getenv("AWS_LAMBDA_LOG_LEVEL"); host == config.Lambda && (level == "WARN" || level == "ERROR" ||
		level == "FATAL") {
		log.ErrorContext(ctx, "Lambda's ApplicationLogLevel hides audit records of successes: set it to INFO")
	}
	if c.Policy.DryRun {
		log.WarnContext(ctx, "DRY_RUN=true: nothing is changed")
	}
	if c.PlatformAuth {
		log.WarnContext(ctx, "AUTH=platform: the host authenticates callers; every request that it passes on is served")
	}
	transport := upstream.NewClient()
	examine := doctor.ForApp(c, transport, version)
	s, err := app.New(c, transport, examine, log, version)
	if err != nil {
		return err
	}
	switch host {
	case config.Azure:
		return serveAzure(ctx, listener, s, c.Timeout, getenv, log)
	case config.Lambda:
		return serveLambda(ctx, s, examine, app.NewQueues(getenv, transport), log)
	}
	return serveListener(ctx, listener, s, s, c.Timeout, log, config.Local, "")
}

// openListener opens the port on which host reaches the process. Lambda needs none: the process polls it.
func openListener(ctx context.Context, host, port, address string) (net.Listener, error) {
	switch host {
	case config.Azure: // which connects from this machine
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("FUNCTIONS_CUSTOMHANDLER_PORT is not a port")
		}
		return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	case config.Lambda:
		return nil, nil //nolint:nilnil // Lambda has no port
	}
	return listenAt(ctx, address)
}
