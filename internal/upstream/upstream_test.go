package upstream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"autopilot-unassign/internal/upstream"
)

func TestTransport(t *testing.T) {
	dial := func(err error) error {
		return &url.Error{Op: "Post", URL: "https://canary.example/secret", Err: &net.OpError{Op: "dial", Net: "tcp", Err: err}}
	}
	read := func(err error) error {
		return &url.Error{Op: "Post", URL: "https://canary.example/secret", Err: &net.OpError{Op: "read", Net: "tcp", Err: err}}
	}
	for name, test := range map[string]struct {
		err    error
		reason upstream.Reason
		sent   bool
	}{
		"no such host":           {dial(&net.DNSError{Err: "no such host", Name: "canary.example", IsNotFound: true}), upstream.Unreachable, false},
		"connection refused":     {dial(syscall.ECONNREFUSED), upstream.Unreachable, false},
		"dialling took too long": {dial(timeout{}), upstream.Unreachable, false},
		"unknown authority":      {&url.Error{Op: "Post", URL: "https://canary.example", Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, upstream.Untrusted, false},
		"wrong host name":        {&tls.CertificateVerificationError{Err: x509.HostnameError{Host: "canary.example", Certificate: &x509.Certificate{}}}, upstream.Untrusted, false},
		"deadline":               {&url.Error{Op: "Post", URL: "https://canary.example", Err: context.DeadlineExceeded}, upstream.Timeout, true},
		"cancelled":              {context.Canceled, upstream.Timeout, true},
		"time-out while reading": {read(timeout{}), upstream.Timeout, true},
		"connection reset":       {read(syscall.ECONNRESET), upstream.BadAnswer, true},
		"cut off":                {fmt.Errorf("canary: %w", io.ErrUnexpectedEOF), upstream.BadAnswer, true},
		"closed":                 {&url.Error{Op: "Post", URL: "https://canary.example", Err: io.EOF}, upstream.BadAnswer, true},
		"too large":              {&http.MaxBytesError{}, upstream.BadAnswer, true},
		"unforeseen":             {errors.New("canary"), upstream.BadAnswer, true},
	} {
		e := upstream.Transport(upstream.Graph, fmt.Errorf("canary: %w", test.err))
		if e.Service != upstream.Graph || e.Reason != test.reason || e.MaybeDone || e.Cause == "" {
			t.Errorf("%s: %+v; want %s", name, e, test.reason)
		}
		if sent := upstream.Classify(test.err).Sent; sent != test.sent {
			t.Errorf("%s: sent is %v", name, sent)
		}
		var logged bytes.Buffer
		slog.New(slog.NewJSONHandler(&logged, nil)).Error("x", slog.Any("error", e))
		if text := e.Error() + logged.String(); strings.Contains(text, "canary") {
			t.Errorf("%s: the text of the error got through: %s", name, text)
		}
	}
	known := &upstream.Error{Service: upstream.Vault, Reason: upstream.NotFound}
	if got := upstream.Transport(upstream.Graph, fmt.Errorf("get token: %w", known)); got != known {
		t.Errorf("an Error inside becomes %v", got)
	}
}

type timeout struct{}

func (timeout) Error() string   { return "i/o timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

func TestPlainCode(t *testing.T) {
	for code, want := range map[string]string{
		"ResourceNotFound":                     "ResourceNotFound",
		"No method match route template":       "No method match route template",
		"AADSTS7000215":                        "AADSTS7000215",
		"11111111-2222-4333-8444-555555555555": "11111111-2222-4333-8444-555555555555",
		"":                                     "",
		" leading":                             "",
		"two  spaces":                          "",
		"line\nbreak":                          "",
		"<html>":                               "",
		"https://host/path":                    "",
		"é":                                    "",
		strings.Repeat("x", 65):                "",
	} {
		if got := upstream.PlainCode(code); got != want {
			t.Errorf("PlainCode(%q) = %q, want %q", code, got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		header http.Header
		want   time.Duration
	}{
		"none":            {http.Header{}, 0},
		"seconds":         {http.Header{"Retry-After": {"17"}}, 17 * time.Second},
		"a date":          {http.Header{"Retry-After": {"Mon, 23 Nov 2026 02:00:45 GMT"}}, 45 * time.Second},
		"a past date":     {http.Header{"Retry-After": {"Mon, 23 Nov 2026 01:00:00 GMT"}}, 0},
		"milliseconds":    {http.Header{"Retry-After-Ms": {"1500"}}, 1500 * time.Millisecond},
		"of x-ms":         {http.Header{"X-Ms-Retry-After-Ms": {"250"}, "Retry-After": {"1"}}, time.Second},
		"negative":        {http.Header{"Retry-After": {"-5"}}, 0},
		"words":           {http.Header{"Retry-After": {"soon"}}, 0},
		"a month":         {http.Header{"Retry-After": {"2592000"}}, 24 * time.Hour},
		"beyond all time": {http.Header{"Retry-After": {"99999999999999999999"}}, 24 * time.Hour},
		"a fraction":      {http.Header{"Retry-After": {"0.249"}}, 249 * time.Millisecond},
		"not a number":    {http.Header{"Retry-After": {"NaN"}}, 0},
		"no end":          {http.Header{"Retry-After": {"Inf"}}, 24 * time.Hour},
	} {
		if got := upstream.RetryAfter(test.header, now); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// doerOf is a Doer with one response.
type doerOf http.Response

func (d doerOf) Do(*http.Request) (*http.Response, error) { return new(http.Response(d)), nil }

func TestCapped(t *testing.T) {
	for _, size := range []int{0, 9, 10, 11, 1000} {
		body := io.NopCloser(strings.NewReader(strings.Repeat("x", size)))
		resp, err := upstream.Capped(doerOf{Body: body}, 10).Do(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge != (size > 10) || len(got) != min(size, 10) {
			t.Errorf("%d of 10 bytes: read %d, %v", size, len(got), err)
		}
		_ = resp.Body.Close()
	}
}

func TestNewClientFollowsNoRedirect(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := upstream.Capped(upstream.NewClient(), 10).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || asked != 1 {
		t.Errorf("status %d after %d requests, want 307 after 1", resp.StatusCode, asked)
	}
}

func TestTrace(t *testing.T) {
	trace := &upstream.Trace{}
	ctx := upstream.WithTrace(t.Context(), trace)
	upstream.Spent(ctx, upstream.Vault, time.Second)
	upstream.Spent(ctx, upstream.Vault, time.Second)
	upstream.Tried(ctx)
	upstream.Spent(t.Context(), upstream.Vault, time.Second) // no trace: nothing happens
	upstream.Tried(t.Context())
	if trace.Spent(upstream.Vault) != 2*time.Second || trace.Spent(upstream.Graph) != 0 || trace.Tries() != 1 {
		t.Errorf("vault %v, graph %v, %d tries", trace.Spent(upstream.Vault), trace.Spent(upstream.Graph), trace.Tries())
	}
	if id := upstream.RequestID(upstream.WithTrace(t.Context(), &upstream.Trace{RequestID: "id-1"})); id != "id-1" || upstream.RequestID(t.Context()) != "" {
		t.Errorf("request id %q", id)
	}
}
