// Package pipe connects a test to a server over a connection in memory, so that the server's deadlines are in simulated
// time.
package pipe

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/server"
)

// pipes is a listener with connections in memory, so that their deadlines are in simulated time.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// Serve runs test with a connection to the server of the HTTP hosts, and with the channel that its handler sends
// errors to.
func Serve(
	t *testing.T, build func(errs chan<- error) http.Handler, timeout time.Duration, test func(t *testing.T, conn net.Conn, errs <-chan error),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		listener := pipes{make(chan net.Conn), make(chan struct{})}
		done, errs := make(chan error, 1), make(chan error, 1) // in the bubble: waiting for them lets time pass
		h := build(errs)
		go func() { done <- server.Serve(ctx, listener, h, timeout, slog.New(slog.DiscardHandler)) }()
		client, far := net.Pipe()
		listener.accepted <- far
		test(t, client, errs)
		_ = client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
