package upstream

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// Doer sends a request and returns its response: an *http.Client, or a test's replacement. It has the method set of
// azcore's policy.Transporter, the one boundary to the cloud.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// NewClient returns the client for every request that leaves this process. It follows no redirect: a token must not
// travel to a host that a response names. Opening a connection and its TLS handshake have five seconds each; an
// HTTP/2 connection is probed before use after a pause, since the host may have frozen this process meanwhile. The
// response has the time of the request's context. [Classify] knows from its errors whether the request was sent.
//
// Proxies come from the environment. Requests to the host's identity endpoint never use one: they carry a secret in the
// clear.
func NewClient() Doer {
	return newClient(&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}, http.ProxyFromEnvironment)
}

func newClient(dialer *net.Dialer, proxy func(*http.Request) (*url.URL, error)) *direct {
	return &direct{&http.Transport{
		Proxy: func(req *http.Request) (*url.URL, error) {
			u, err := proxy(req)
			if u == nil && err == nil || identityEndpoint(req.URL) {
				return nil, nil
			}
			progressOf(req.Context()).proxied.Store(u != nil)
			return u, err
		},
		GetProxyConnectHeader:  reportTunnel,
		OnProxyConnectResponse: checkProxyResponse,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(progressOf(ctx).followDial(ctx), network, address)
		},
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          100,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}}
}

// identityEndpoint reports whether u is on the host's own network: the address in IDENTITY_ENDPOINT or MSI_ENDPOINT,
// or any link-local or loopback address.
func identityEndpoint(u *url.URL) bool {
	for _, name := range []string{"IDENTITY_ENDPOINT", "MSI_ENDPOINT"} {
		endpoint, err := url.Parse(os.Getenv(name))
		if err == nil && endpoint.Host != "" && strings.EqualFold(endpoint.Host, u.Host) {
			return true
		}
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && (ip.Unmap().IsLinkLocalUnicast() || ip.Unmap().IsLoopback())
}

// direct sends a request as it is, without the cookies and redirects of an http.Client.
type direct struct{ *http.Transport }

func (d *direct) Do(req *http.Request) (*http.Response, error) {
	p := &progress{}
	resp, err := d.RoundTrip(req.WithContext(p.follow(req.Context())))
	if err != nil {
		return nil, p.failure(err)
	}
	return resp, nil
}

// Capped returns a Doer that passes requests to next and limits the body of each response to limit bytes: reading more
// returns an *http.MaxBytesError. Azure's and AWS's libraries have no limit of their own.
func Capped(next Doer, limit int64) Doer { return capped{next, limit} }

type capped struct {
	next  Doer
	limit int64
}

func (c capped) Do(req *http.Request) (*http.Response, error) {
	resp, err := c.next.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, c.limit)
	return resp, nil
}
