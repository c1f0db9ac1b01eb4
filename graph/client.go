// Package graph calls the part of Microsoft Graph that this program needs: the beta resource
// windowsAutopilotDeviceIdentity and its one action unassignResourceAccountFromDevice.
//
// The action exists in beta only
// (https://learn.microsoft.com/graph/api/intune-enrollment-windowsautopilotdeviceidentity-unassignresourceaccountfromdevice).
// Repeating it is safe, since it sets a state; so every request has up to three tries inside the time of its context.
package graph

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/upstream"
)

const (
	maxTryTime     = 30 * time.Second // for one try, however much time the context has
	defaultTimeout = 25 * time.Second // for a call whose context has no deadline
	maxConnectTime = 5 * time.Second  // for opening a connection before the first request
	maxErrorBody   = 64 << 10         // bytes read of a failure's body
	maxBody        = 16 << 20         // bytes read of a success's body: a page of a thousand devices is 1 MB
	maxPooled      = 16 << 10         // bytes of a buffer that is kept: a body with one device has 1 KB
	maxWalks       = 2                // walks through the inventory at one time
)

// Client calls Graph. It is safe for concurrent use.
type Client struct {
	endpoint  string // https://graph.microsoft.com
	userAgent []string
	transport policy.Transporter
	cred      azcore.TokenCredential
	scopes    []string
	walks     chan struct{} // holds an element for each walk through the inventory
	pace      *Pace         // learns the result of each write
	bearer    atomic.Pointer[bearer]
	paced     bool // throttled writes are not retried: the pace decides the time
}

// Options configure a Client.
type Options struct {
	Transport policy.Transporter // the boundary to the cloud
	Version   string             // of this program, for User-Agent
	Pace      *Pace              // learns from the results of writes
}

// New returns a Client of the Graph root endpoint ("https://graph.microsoft.com"). Its requests carry tokens of cred
// for that root's .default scope. New makes no request. If cred has a method Expire(token string), the Client calls
// it with a token that Graph has refused.
func New(endpoint string, cred azcore.TokenCredential, o Options) (*Client, error) {
	root, err := url.Parse(endpoint)
	if err != nil || root.Scheme != "https" || root.Host == "" || strings.Trim(root.Path, "/") != "" || root.RawQuery != "" {
		return nil, errors.New("graph: the endpoint must be https:// and a host")
	}
	endpoint = "https://" + root.Host
	return &Client{
		endpoint: endpoint, userAgent: []string{"autopilot-unassign/" + o.Version}, transport: o.Transport,
		cred: cred, scopes: []string{endpoint + "/.default"}, walks: make(chan struct{}, maxWalks), pace: o.Pace,
	}, nil
}

// Background returns a Client for changes that a Pace schedules: it does not retry throttled requests.
func (c *Client) Background() *Client {
	return &Client{
		endpoint: c.endpoint, userAgent: c.userAgent, transport: c.transport,
		cred: c.cred, scopes: c.scopes, walks: c.walks, pace: c.pace, paced: true,
	}
}

// Warm fetches a token and opens a connection to Graph at the same time, so that the first request waits for neither.
// It sends no token to Graph. Its error is an *upstream.Error of the token; the first request reports a failed
// connection.
func (c *Client) Warm(ctx context.Context) error {
	connected := make(chan struct{})
	go func() {
		defer close(connected)
		defer func() { _ = recover() }() // no request needs the connection yet
		c.openConnection(ctx)
	}()
	_, err := c.fetchToken(ctx, "")
	<-connected
	return err
}

// openConnection sends a request that needs no token, and ignores its response.
func (c *Client) openConnection(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxConnectTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.endpoint+"/", nil)
	if err != nil {
		return
	}
	if resp, err := c.transport.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}

// request is a request to Graph, for as many tries as it takes.
type request struct {
	method, address string
	clientRequestID string
	body            []byte                // JSON; nil for none
	claims          string                // that the token must meet; "" for none
	decode          func(io.Reader) error // reads the body of a success
	write           bool                  // counts against the limit of writes
}

// outcome is the result of a request after its last try.
type outcome struct {
	header  http.Header     // of the last response; nil without one
	token   string          // of the last try
	failure *upstream.Error // nil after a success
	doubt   bool            // a failed try leaves open whether Graph has carried out the request
}

// send sends r until it succeeds or has failed permanently, within the time of ctx or defaultTimeout.
//
// It replaces a refused token, once for each request. The tries share the time that fetching the token leaves.
func (c *Client) send(ctx context.Context, r request) (o outcome) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	claims := r.claims
	for renewed := false; ; renewed = true {
		token, err := c.fetchToken(ctx, claims)
		if err != nil {
			failure := *upstream.Transport(upstream.Graph, err) // a copy: other requests may hold the error
			return outcome{failure: &failure, doubt: o.doubt}
		}
		start := time.Now()
		o = c.sendWithRetries(ctx, r, token.Token, o.doubt)
		upstream.Spent(ctx, upstream.Graph, time.Since(start))
		if renewed || o.failure == nil || o.failure.Status != http.StatusUnauthorized {
			return o
		}
		claims = c.expireToken(token.Token, o.header)
	}
}

// expireToken returns the claims that the challenge in header h demands of the next token, "" for none. Without
// them it makes the credential forget the refused token; with them the credential keeps it.
func (c *Client) expireToken(token string, h http.Header) (claims string) {
	claims = claimsChallenge(h)
	if caching, ok := c.cred.(interface{ Expire(token string) }); ok && claims == "" {
		caching.Expire(token)
	}
	return claims
}

// sendOnce sends r once and reads the response within limit. inDoubt reports whether a failure leaves open that Graph
// has carried out the request.
func (c *Client) sendOnce(
	ctx context.Context, limit time.Duration, r request, token string,
) (_ http.Header, _ *upstream.Error, inDoubt bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.address, body)
	if err != nil {
		return nil, &upstream.Error{Service: upstream.Graph, Reason: upstream.Rejected, Cause: "not an address"}, false
	}
	req.Header = http.Header{
		"Accept":            mediaJSON,
		"Authorization":     c.authorization(token),
		"User-Agent":        c.userAgent,
		"Client-Request-Id": {r.clientRequestID},
		// Declares the request replayable, and sends nothing: net/http then opens a new connection itself when the kept
		// one turns out to be dead, as it is after a freeze.
		"Idempotency-Key": nil,
	}
	if r.body != nil {
		req.Header["Content-Type"] = mediaJSON
	}
	upstream.Tried(ctx)
	resp, err := c.transport.Do(req)
	if err != nil {
		return nil, upstream.Transport(upstream.Graph, err), upstream.Classify(err).Sent
	}
	defer func() { _ = resp.Body.Close() }()
	if isForeign(resp) {
		return resp.Header, badResponse(resp, "not a response of Graph: a proxy or firewall answers in its place"), true
	}
	if resp.StatusCode/100 != 2 {
		// The status decides, so a body that breaks off is good enough.
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		failure := classifyFailure(resp.StatusCode, resp.Header, body)
		return resp.Header, failure, leavesDoubt(failure.Reason)
	}
	if err := r.decode(http.MaxBytesReader(nil, resp.Body, maxBody)); err != nil {
		failure := badResponse(resp, "not the expected JSON")
		if fault := upstream.Classify(err); fault.Reason == upstream.Timeout {
			failure.Reason, failure.Cause, failure.Status = fault.Reason, fault.Cause, 0
		}
		return resp.Header, failure, true
	}
	return resp.Header, nil, false
}

// authorization returns the value of Authorization with token. It keeps the last one: a token has a kilobyte, and serves
// for an hour.
func (c *Client) authorization(token string) []string {
	last := c.bearer.Load()
	if last == nil || last.token != token {
		last = &bearer{token, []string{"Bearer " + token}}
		c.bearer.Store(last)
	}
	return last.header
}

// bearer is a token with its value of Authorization.
type bearer struct {
	token  string
	header []string
}

// mediaJSON is the value of Accept and Content-Type.
var mediaJSON = []string{"application/json"} //nolint:gochecknoglobals // a constant

// isForeign reports whether resp is of a proxy or a firewall on the way: every response of Graph has a request-id, and
// none is HTML. A 429 or a failure of the 5xx class says the same with or without one.
func isForeign(resp *http.Response) bool {
	status := resp.StatusCode
	if status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		return false
	}
	return resp.Header.Get("Request-Id") == "" || status/100 == 2 && strings.HasPrefix(strings.ToLower(resp.Header.Get("Content-Type")), "text/html")
}

// badResponse reports a response without a valid result.
func badResponse(resp *http.Response, cause string) *upstream.Error {
	return &upstream.Error{
		Service: upstream.Graph, Reason: upstream.BadAnswer,
		Status: resp.StatusCode, RequestID: requestID(resp.Header), Cause: cause,
	}
}

// requestID returns Graph's request-id, reduced: it stands in responses and in the log.
func requestID(h http.Header) string { return upstream.PlainCode(h.Get("Request-Id")) }

// getJSON decodes the resource at address into v. Its error is an *upstream.Error.
func (c *Client) getJSON(ctx context.Context, address string, v any) error {
	o := c.send(ctx, request{
		method: http.MethodGet, address: address, clientRequestID: newClientRequestID(ctx), decode: decodeInto(v),
	})
	if o.failure != nil {
		return o.failure
	}
	return nil
}

// decodeInto returns a function that decodes the body of a response into v.
func decodeInto(v any) func(io.Reader) error {
	return func(r io.Reader) error {
		body, _ := buffers.Get().(*bytes.Buffer)
		body.Reset()
		defer func() {
			if body.Cap() <= maxPooled {
				buffers.Put(body)
			}
		}()
		if _, err := body.ReadFrom(r); err != nil {
			return err
		}
		if device, ok := v.(*Device); ok && json.Valid(body.Bytes()) { // faster than json.Unmarshal
			return device.decode(body.Bytes())
		}
		reflect.ValueOf(v).Elem().SetZero() // an earlier try may have left something
		return json.Unmarshal(body.Bytes(), v)
	}
}

// buffers is a pool of buffers for bodies.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }} //nolint:gochecknoglobals // a pool of nothing but memory

// discardBody reads a body so that the connection can be reused, and ignores its errors.
func discardBody(r io.Reader) error {
	_, _ = io.Copy(io.Discard, io.LimitReader(r, maxErrorBody))
	return nil
}

// newClientRequestID returns the id of the request being served if it is a GUID, as Graph requires, else a new one.
func newClientRequestID(ctx context.Context) string {
	if id := upstream.RequestID(ctx); id != "" {
		if _, err := guid.Parse(id); err == nil {
			return id
		}
	}
	return guid.New().String()
}

// fetchToken returns a token that meets claims. Its error is an *upstream.Error.
func (c *Client) fetchToken(ctx context.Context, claims string) (azcore.AccessToken, error) {
	o := policy.TokenRequestOptions{Scopes: c.scopes, Claims: claims, EnableCAE: true}
	token, err := c.cred.GetToken(ctx, o)
	if _, ok := errors.AsType[*upstream.Error](err); err != nil && !ok {
		cause := fmt.Sprintf("error of type %T", err)
		err = &upstream.Error{Service: upstream.Identity, Reason: upstream.Unavailable, Cause: cause}
	}
	return token, err
}

// claimsParameter matches the claims in the challenge of continuous access evaluation:
// Bearer …, error="insufficient_claims", claims="eyJ…"
// (https://learn.microsoft.com/entra/identity-platform/claims-challenge).
var claimsParameter = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\bclaims="([A-Za-z0-9+/_=-]+)"`) }) //nolint:gochecknoglobals // a constant

// claimsChallenge returns the claims of the challenge in h, "" for none.
func claimsChallenge(h http.Header) string {
	for _, challenge := range h.Values("WWW-Authenticate") {
		if m := claimsParameter().FindStringSubmatch(challenge); m != nil {
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
				if claims, err := encoding.DecodeString(m[1]); err == nil {
					return string(claims)
				}
			}
		}
	}
	return ""
}
