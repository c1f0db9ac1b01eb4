package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/server"
)

// serveListener warms s up and serves h on the port of a host until ctx ends.
func serveListener(
	ctx context.Context, listener net.Listener, s *app.App, h http.Handler, timeout time.Duration, log *slog.Logger,
	host, idHeader string,
) error {
	log.InfoContext(ctx, "listening", slog.String("host", host), slog.String("address", listener.Addr().String()),
		slog.String("version", version))
	go s.WarmUp(context.WithoutCancel(ctx)) // a request that waits for a warm-up fetch must not lose it to a signal
	return server.Serve(ctx, listener, withInvocation(h, host, idHeader), timeout, log)
}

// listenAt listens at an address of this machine.
func listenAt(ctx context.Context, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	const windowsInUse = syscall.Errno(10048) // WSAEADDRINUSE
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, windowsInUse) {
		return nil, fmt.Errorf("another program uses %s; choose another port, such as -listen 127.0.0.1:8081", address)
	}
	return listener, err
}

// withInvocation passes requests to h with the host's name and the id that the host gives each request in idHeader.
func withInvocation(h http.Handler, host, idHeader string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		invocation := handler.Invocation{Host: host, ID: lastValue(r.Header, idHeader)}
		r = r.WithContext(handler.WithInvocation(r.Context(), invocation))
		if r.ContentLength != 0 {
			w, r.Body = server.DrainBody(w, r)
		}
		h.ServeHTTP(w, r)
	})
}

// lastValue returns the last value of a header. A forwarding host appends its own value to the caller's, as another
// header or behind a comma.
func lastValue(h http.Header, name string) string {
	values := h.Values(name)
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	return strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
}
