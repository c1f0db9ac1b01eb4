package upstream

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Doer sends a request and returns its answer: an *http.Client, or whatever a test puts in its place. It has the method
// set of azcore's policy.Transporter, the one seam to the cloud.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// NewClient returns the client that every request to the cloud goes through unless a test or the simulation puts
// another Doer there. It follows no redirect (a token must not travel to a host that an answer names), gives up a
// connection or a handshake after five seconds, and asks an idle HTTP/2 connection whether it is alive before it is used
// again, since a function may have been frozen meanwhile. The time for an answer is the request's context's alone.
func NewClient() Doer {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	return direct{&http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          100,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}}
}

// direct sends a request as it is: what an http.Client adds, cookies and redirects, is not wanted.
type direct struct{ *http.Transport }

func (d direct) Do(req *http.Request) (*http.Response, error) { return d.RoundTrip(req) }

// ErrTooLarge is the error of reading past the limit of a body that [Capped] or [Cap] has limited.
var ErrTooLarge = errors.New("answer is larger than its limit")

// Capped returns a Doer that passes requests to next and lets nobody read more than limit bytes of an answer's body.
// The libraries that read the answers have no limit of their own.
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
	resp.Body = Cap(resp.Body, c.limit)
	return resp, nil
}

// Cap returns body, of which reading more than limit bytes gives ErrTooLarge. io.LimitReader would end it as if it were
// whole.
func Cap(body io.ReadCloser, limit int64) io.ReadCloser {
	return &cappedBody{ReadCloser: body, left: limit}
}

type cappedBody struct {
	io.ReadCloser
	left int64 // bytes that may still be read; -1 once there were more
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, ErrTooLarge
	}
	return n, err
}

// RetryAfter returns how long the answer with header h asks to be left alone: the larger of what the headers that
// Microsoft's services use say (retry-after-ms, x-ms-retry-after-ms, Retry-After in seconds or as a date), 0 if none
// does. It is a day at the most: what asks for more is mistaken, and would keep this function from its work.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	var longest time.Duration
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if ms, err := strconv.ParseUint(h.Get(name), 10, 31); err == nil {
			longest = max(longest, time.Duration(ms)*time.Millisecond)
		}
	}
	value := h.Get("Retry-After")
	if s, err := strconv.ParseUint(value, 10, 31); err == nil {
		longest = max(longest, time.Duration(s)*time.Second)
	} else if at, err := http.ParseTime(value); err == nil {
		longest = max(longest, at.Sub(now))
	}
	return min(longest, 24*time.Hour)
}
