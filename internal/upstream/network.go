package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync/atomic"
	"syscall"
)

// Barrier is the part of the network that kept a request from being sent.
type Barrier string

// The barriers.
const (
	DNS        Barrier = "dns"
	Connection Barrier = "connection"
	Proxy      Barrier = "proxy"
	TLS        Barrier = "tls"
)

// Fault classifies an error of a Doer, or of reading a response body.
type Fault struct {
	Reason  Reason  // Unreachable, Untrusted, Timeout or BadAnswer
	Barrier Barrier // of Unreachable and Untrusted
	Cause   string  // a few fixed words for the log, never text of the error
	Sent    bool    // the service may have received the whole request
}

// Classify returns the Fault of err. A Doer of [NewClient] knows which step of a request failed; for other errors
// Classify goes by their types, and assumes that the request was sent where they leave it open.
func Classify(err error) Fault {
	if known, ok := errors.AsType[*requestError](err); ok {
		return known.Fault
	}
	at := opened
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		at = connecting
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		at = resolving
	}
	if at != opened || isUntrusted(err) {
		return unsentFault(err, at, false)
	}
	return sentFault(err)
}

// step is the last step of a request that began.
type step int32

// The steps, in their order.
const (
	queued step = iota
	resolving
	connecting
	tunnelling  // CONNECT was sent to the proxy
	handshaking // TLS
	opened      // there is a connection
)

// unsentFault classifies the error of a request that was not sent.
func unsentFault(err error, at step, proxied bool) Fault {
	if errors.Is(err, context.Canceled) || (at == queued || at == opened) && errors.Is(err, context.DeadlineExceeded) {
		return Fault{Reason: Timeout, Cause: "no time left to send the request"}
	}
	if isUntrusted(err) {
		return Fault{Reason: Untrusted, Barrier: TLS, Cause: "certificate not trusted"}
	}
	f := Fault{Reason: Unreachable, Barrier: Connection, Cause: unsentCause(err, at)}
	switch {
	case at == handshaking:
		f.Barrier, f.Cause = TLS, "TLS handshake: "+f.Cause
	case proxied:
		f.Barrier = Proxy
	case at == resolving:
		f.Barrier = DNS
	}
	if proxied {
		f.Cause = "proxy: " + f.Cause
	}
	return f
}

// unsentCause returns the reason why a step failed, for the log.
func unsentCause(err error, at step) string {
	var (
		refused *proxyError
		dns     *net.DNSError
		record  tls.RecordHeaderError
		alert   tls.AlertError
	)
	switch {
	case errors.As(err, &refused):
		return fmt.Sprintf("answered CONNECT with %d", refused.status)
	case at == resolving && errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case at == resolving:
		return "name not resolved"
	case errors.As(err, &record):
		return "the other side does not speak TLS"
	case errors.As(err, &alert):
		return "refused by the other side"
	case at == handshaking && timedOut(err):
		return "no answer in time"
	case at == handshaking && connectionLost(err):
		return "connection reset"
	case at == handshaking:
		return "failed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to the host"
	case timedOut(err):
		return "no connection in time"
	case connectionLost(err):
		return "connection lost before the request was sent"
	}
	return "no connection"
}

// sentFault classifies the error of a request that may have been sent.
func sentFault(err error) Fault {
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case timedOut(err), errors.Is(err, context.Canceled):
		return Fault{Reason: Timeout, Cause: "no answer in time", Sent: true}
	case tooLarge:
		return Fault{Reason: BadAnswer, Cause: "response too large", Sent: true}
	case connectionLost(err):
		return Fault{Reason: BadAnswer, Cause: "connection lost before the end of the response", Sent: true}
	}
	return Fault{Reason: BadAnswer, Cause: fmt.Sprintf("error of type %T", err), Sent: true}
}

func timedOut(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

func connectionLost(err error) bool {
	lost := []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed}
	return slices.ContainsFunc(lost, func(known error) bool { return errors.Is(err, known) })
}

func isUntrusted(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// requestError is an error of NewClient's Doer with its Fault. It prints as that error.
type requestError struct {
	error
	Fault
}

func (f *requestError) Unwrap() error { return f.error }

// progress follows a request of NewClient's Doer. net/http calls the hooks from several goroutines.
type progress struct {
	step    atomic.Int32
	sent    atomic.Bool // the headers were written to a connection, if not to the last one
	proxied atomic.Bool
}

type progressKey struct{}

// progressOf returns the progress that ctx carries, or one that nothing reads.
func progressOf(ctx context.Context) *progress {
	if p, ok := ctx.Value(progressKey{}).(*progress); ok {
		return p
	}
	return &progress{}
}

// follow returns a context that makes a request report its steps to p, without the steps of followDial: their hooks cost
// every request something.
func (p *progress) follow(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(context.WithValue(ctx, progressKey{}, p), &httptrace.ClientTrace{
		TLSHandshakeStart: func() { p.reach(handshaking) },
		GotConn:           func(httptrace.GotConnInfo) { p.reach(opened) },
		WroteHeaders:      func() { p.sent.Store(true) },
	})
}

// followDial returns a context that reports the steps of opening a connection to p.
func (p *progress) followDial(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { p.reach(resolving) },
		ConnectStart: func(string, string) { p.reach(connecting) },
	})
}

func (p *progress) reach(s step) { p.step.Store(int32(s)) }

func (p *progress) failure(err error) error {
	if p.sent.Load() {
		return &requestError{err, sentFault(err)}
	}
	return &requestError{err, unsentFault(err, step(p.step.Load()), p.proxied.Load())}
}

// proxyError is the error of a proxy that does not open a tunnel.
type proxyError struct{ status int }

func (r *proxyError) Error() string {
	return fmt.Sprintf("the proxy answered CONNECT with %d", r.status)
}

func checkProxyResponse(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &proxyError{resp.StatusCode}
	}
	return nil
}

func reportTunnel(ctx context.Context, _ *url.URL, _ string) (http.Header, error) {
	progressOf(ctx).reach(tunnelling)
	return http.Header{}, nil
}
