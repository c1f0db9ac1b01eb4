package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"
)

// serveAzure answers the requests of the Azure Functions host, which proxies them to a port of this machine as they came.
// It listens before anything else: the host waits for an answer to GET /, whatever it is, before it sends a request.
//
// The host starts a worker again that has ended with an error, and never one that has ended without: so the end is
// always an error here, even when it was asked for.
func serveAzure(ctx context.Context, port string, h http.Handler, timeout time.Duration, log *slog.Logger) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("FUNCTIONS_CUSTOMHANDLER_PORT is not a port")
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "listening", slog.String("host", hostAzure), slog.String("port", port), slog.String("version", version))
	if err := serveHTTP(ctx, listener, invoked(h, hostAzure, "X-Azure-Functions-Invocationid"), timeout, log); err != nil {
		return err
	}
	return errors.New("stopped by a signal")
}
