package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/config"
)

// serveLocal answers plain HTTP on this machine until ctx ends.
func serveLocal(ctx context.Context, listener net.Listener, s *server, timeout time.Duration, log *slog.Logger) error {
	log.InfoContext(ctx, "listening", slog.String("host", config.Local), slog.String("address", listener.Addr().String()), slog.String("version", version))
	go s.warmUp.run(context.WithoutCancel(ctx))
	return serveHTTP(ctx, listener, invoked(s, config.Local, ""), timeout, log)
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

// invoked hands requests on to h with the host's name, and the id that the host gives each in idHeader.
func invoked(h http.Handler, host, idHeader string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		invocation := handler.Invocation{Host: host, ID: lastValue(r.Header, idHeader)}
		h.ServeHTTP(w, r.WithContext(handler.WithInvocation(r.Context(), invocation)))
	})
}

// lastValue returns the last value of a header: the host's own comes last where a caller has sent one too, in a header of its
// own or behind a comma.
func lastValue(h http.Header, name string) string {
	values := h.Values(name)
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	return strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
}

// serveHTTP answers the requests of listener until ctx ends, then lets those begun come to their end. A request may take
// timeout.
func serveHTTP(ctx context.Context, listener net.Listener, h http.Handler, timeout time.Duration, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second, // the handler has a shorter time of its own for a body
		WriteTimeout:      timeout + 15*time.Second,
		IdleTimeout:       120 * time.Second, // longer than the Functions host keeps an idle connection
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// simulate answers requests on a simulated cloud, and tells how to send one, if need be with the program by its name.
func simulate(ctx context.Context, program, address string, getenv func(string) string, stdout io.Writer) error {
	s, err := newSimulation(getenv, stdout)
	if err != nil {
		return err
	}
	listener, err := listenAt(ctx, address)
	if err != nil {
		return err
	}
	s.banner(stdout, program, "http://"+listener.Addr().String())
	return serveHTTP(ctx, listener, invoked(s.handler, config.Local, ""), s.config.Timeout, s.log)
}
