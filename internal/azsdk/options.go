// Package azsdk sets up clients of the Azure SDK: time limits, retries, the size of responses, and errors reduced to
// *upstream.Error. Packages entra and vault share it.
package azsdk

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/upstream"
)

// Options configure credentials and the vault. Transport, Timeout and Log are required.
type Options struct {
	azcore.ClientOptions               // Transport is the boundary to the cloud
	Timeout              time.Duration // the time for one request of a caller; each step gets a share of it
	Scope                string        // of the vault's tokens; "" if the vault must be asked for it
	Custom               bool          // a custom cloud: Key Vault's challenge may name another domain than the vault's
	Log                  *slog.Logger
}

// The shares of Options.Timeout. In a cold call the steps run in sequence: managed identity inside vault, then the
// token. Graph gets the rest.
const (
	IdentityShare = 0.15
	VaultShare    = 0.3
	TokenShare    = 0.3
)

// Share returns a share of the time for one request.
func (o *Options) Share(of float64) time.Duration { return time.Duration(of * float64(o.Timeout)) }

// maxResponse is the largest response that is read, in bytes. A certificate with its chain has some ten thousand.
const maxResponse = 256 << 10

// Client returns the options of an SDK client whose step may take limit: up to three attempts in that time. An
// attempt that hangs leaves enough time for a second one.
func (o Options) Client(limit time.Duration) azcore.ClientOptions {
	c := o.ClientOptions
	c.Transport = watched{upstream.Capped(o.Transport, maxResponse)}
	c.Retry = policy.RetryOptions{
		MaxRetries:    2,
		TryTimeout:    FirstTry(limit),
		RetryDelay:    limit / 50,
		MaxRetryDelay: limit / 10,
	}
	return c
}

// FirstTry returns the time for one of up to three attempts in limit.
func FirstTry(limit time.Duration) time.Duration { return limit * 6 / 10 }

type watchKey struct{}

// NetworkError holds the last network error of a step: azidentity reduces it to a text.
type NetworkError struct{ err error }

// Watch returns a context whose requests store their network errors in the NetworkError.
func Watch(ctx context.Context) (context.Context, *NetworkError) {
	seen := &NetworkError{}
	return context.WithValue(ctx, watchKey{}, seen), seen
}

// Reduce reduces err to an *upstream.Error of service, for an error that is no response. The network error counts, if
// err is the SDK's text of it. No device was changed by any of these requests.
func (n *NetworkError) Reduce(service upstream.Service, err error) *upstream.Error {
	if n.err != nil && !errors.Is(err, context.DeadlineExceeded) {
		err = n.err
	}
	e := upstream.Transport(service, err)
	e.MaybeDone = false
	return e
}

// watched is the transport of SDK clients.
type watched struct{ next upstream.Doer }

func (w watched) Do(req *http.Request) (*http.Response, error) {
	resp, err := w.next.Do(req)
	if seen, ok := req.Context().Value(watchKey{}).(*NetworkError); ok {
		seen.err = err
		if err == nil {
			resp.Body = watchedBody{resp.Body, seen}
		}
	}
	return resp, err
}

// watchedBody stores the error that ends a body early.
type watchedBody struct {
	io.ReadCloser
	seen *NetworkError
}

func (b watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.seen.err = err
	}
	return n, err
}
