// Package graph speaks the part of Microsoft Graph that this program needs: the beta resource
// windowsAutopilotDeviceIdentity and its one action unassignResourceAccountFromDevice.
//
// The action exists in beta only
// (https://learn.microsoft.com/graph/api/intune-enrollment-windowsautopilotdeviceidentity-unassignresourceaccountfromdevice).
// Repeating it is safe, since it sets a state; so every request is tried up to three times inside the time that its
// context leaves.
package graph

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/upstream"
)

const (
	retries    = 2                      // after the first try
	firstDelay = 400 * time.Millisecond // before the second try, where Graph does not say, and twice that before the third; up to as much is added
	errorBody  = 64 << 10               // as much of a failure's body as is read, in bytes
	noDeadline = 25 * time.Second       // the time for a call whose context has no deadline
	// largestAnswer is as much of a success's body as is read, in bytes. A page of a thousand devices has about one million.
	largestAnswer = 16 << 20
)

// Client makes requests of Graph. It is safe for concurrent use.
type Client struct {
	endpoint  string // https://graph.microsoft.com
	agent     string // the User-Agent
	transport policy.Transporter
	cred      azcore.TokenCredential
	scope     string
	header    atomic.Pointer[bearer] // of the last token; nil before there is one
}

// Options are what a Client may be told beside its endpoint and credential.
type Options struct {
	Transport policy.Transporter // the one seam to the cloud; nil means [upstream.NewClient]
	Version   string             // of this program, for User-Agent
}

// New returns a Client of the Graph root endpoint ("https://graph.microsoft.com"), which authorises its requests with
// tokens of cred for that root's .default scope. It makes no request. A cred with a method Expire(token string) is told
// of a token that Graph has refused.
func New(endpoint string, cred azcore.TokenCredential, o Options) (*Client, error) {
	root, err := url.Parse(endpoint)
	if err != nil || root.Scheme != "https" || root.Host == "" || (root.Path != "" && root.Path != "/") || root.RawQuery != "" {
		return nil, errors.New("graph: the endpoint must be https:// and a host")
	}
	if o.Transport == nil {
		o.Transport = upstream.NewClient()
	}
	endpoint = "https://" + root.Host
	return &Client{endpoint: endpoint, agent: "autopilot-unassign/" + o.Version, transport: o.Transport, cred: cred, scope: endpoint + "/.default"}, nil
}

// Warm gets a token, and meanwhile opens a connection to Graph, so that the first request has to wait for neither. It has done
// nothing to a device, and shows Graph no token. Its error is an *upstream.Error of whoever gives the token: a connection that
// could not be opened is the first request's to find out.
func (c *Client) Warm(ctx context.Context) error {
	connected := make(chan struct{})
	go func() {
		defer close(connected)
		defer func() { _ = recover() }() // of a connection that nobody needs yet
		c.connect(ctx)
	}()
	_, err := c.token(ctx, "")
	<-connected
	return err
}

// connectLimit is the time for opening a connection.
const connectLimit = 5 * time.Second

// connect opens a connection, by a request whose answer says nothing, whatever it is: one that nobody has to be signed in for.
func (c *Client) connect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.endpoint+"/", nil)
	if err != nil {
		return
	}
	if resp, err := c.transport.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}

// request is what Graph is asked, in as many tries as it takes.
type request struct {
	method, address string
	clientRequestID string
	body            []byte                // JSON; nil for none
	read            func(io.Reader) error // takes in the body of a success
}

// answer is what came of a request in the end.
type answer struct {
	header  http.Header     // of the last answer; nil if none came
	failure *upstream.Error // nil if that is a success
	doubt   bool            // a try ended in a way that leaves open whether Graph has acted; then failure is MaybeDone
}

// do sends r until there is an answer for good, inside the time that ctx leaves, or noDeadline.
//
// A token that Graph refuses is replaced once. It is got outside of the tries, so that waiting for one uses up the time of none.
func (c *Client) do(ctx context.Context, r request) (a answer) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, noDeadline)
		defer cancel()
	}
	claims := ""
	for renewed := false; ; renewed = true {
		token, err := c.token(ctx, claims)
		if err != nil {
			failure := *upstream.Transport(upstream.Graph, err) // the credential hands the same error to many
			failure.MaybeDone = failure.MaybeDone || a.doubt
			return answer{nil, &failure, failure.MaybeDone}
		}
		start := time.Now()
		a = c.tries(ctx, r, token.Token, a.doubt)
		upstream.Spent(ctx, upstream.Graph, time.Since(start))
		if renewed || a.failure == nil || a.failure.Status != http.StatusUnauthorized {
			return a
		}
		claims = claimsChallenge(a.header)
		if caching, ok := c.cred.(interface{ Expire(token string) }); ok && claims == "" {
			caching.Expire(token.Token)
		}
	}
}

// tryLimit is the longest that one try may take, however much time there is.
const tryLimit = 30 * time.Second

// tries sends r with a token up to three times: as often as Graph or the network may do better, and waiting for that leaves at least as
// much time as it takes. The tries share the time there is. doubt is that of tries before.
func (c *Client) tries(ctx context.Context, r request, token string, doubt bool) answer {
	limit := min(left(ctx)/(retries+1), tryLimit)
	for try := 0; ; try++ {
		header, failure := c.try(ctx, limit, r, token)
		if failure == nil {
			return answer{header, nil, doubt}
		}
		doubt = doubt || failure.MaybeDone
		failure.MaybeDone = doubt
		delay := cmp.Or(failure.RetryAfter, backoff(try))
		if try == retries || !worthAgain(failure.Reason) || !wait(ctx, delay) {
			return answer{header, failure, doubt}
		}
	}
}

// try sends r once, and reads the answer, whose header it returns, before limit is over.
func (c *Client) try(ctx context.Context, limit time.Duration, r request, token string) (http.Header, *upstream.Error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.address, body)
	if err != nil {
		return nil, &upstream.Error{Service: upstream.Graph, Reason: upstream.Rejected, Cause: "not an address"}
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", c.bearer(token))
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("client-request-id", r.clientRequestID)
	// Declares the request replayable, and sends nothing: net/http then opens a new connection itself when the kept one
	// turns out to be dead, as it is after a freeze.
	req.Header["Idempotency-Key"] = nil
	upstream.Tried(ctx)
	resp, err := c.transport.Do(req)
	if err != nil {
		failure := *upstream.Transport(upstream.Graph, err)
		return nil, &failure
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		// What was read before an error is worth reading all the same: the status has the last word.
		body, _ := io.ReadAll(io.LimitReader(resp.Body, errorBody))
		return resp.Header, failure(resp.StatusCode, resp.Header, body)
	}
	if err := r.read(upstream.Cap(resp.Body, largestAnswer)); err != nil {
		return resp.Header, badAnswer(resp.Header, err)
	}
	return resp.Header, nil
}

// read gets what is at address and decodes it into v, if the status is 2xx. Any other end is an *upstream.Error. Reading changes
// nothing, so that it is never in doubt what became of a device.
func (c *Client) read(ctx context.Context, address string, v any) error {
	a := c.do(ctx, request{method: http.MethodGet, address: address, clientRequestID: newClientRequestID(ctx), read: into(v)})
	if a.failure == nil {
		return nil
	}
	a.failure.MaybeDone = false
	return a.failure
}

// into returns what decodes the body of an answer into v.
func into(v any) func(io.Reader) error {
	return func(r io.Reader) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		reflect.ValueOf(v).Elem().SetZero() // of what an earlier answer has left there
		return json.Unmarshal(body, v)
	}
}

// ignore reads a body so that the connection can be used again. It is not understood, and may end as it likes.
func ignore(r io.Reader) error {
	_, _ = io.Copy(io.Discard, io.LimitReader(r, errorBody))
	return nil
}

// backoff returns how long to wait before a try that follows try, counted from 0, where Graph does not say.
func backoff(try int) time.Duration {
	return firstDelay<<try + rand.N(firstDelay) //nolint:gosec // it spreads callers, and keeps no secret
}

// left returns how much time ctx leaves.
func left(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return noDeadline
}

// wait waits for d if that leaves as much time as it takes, and reports whether it has.
func wait(ctx context.Context, d time.Duration) bool {
	if d >= left(ctx)/2 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// badAnswer is the error of an answer of Graph whose status is a success and whose body is none.
func badAnswer(h http.Header, err error) *upstream.Error {
	failed := upstream.Transport(upstream.Graph, err)
	failed.RequestID = upstream.PlainCode(h.Get("request-id"))
	if failed.Reason != upstream.Timeout {
		failed.Reason, failed.Cause = upstream.BadAnswer, "not the JSON it should be"
	}
	return failed
}

// newClientRequestID returns the id of the request being served if it is a GUID, which Graph asks for, else a fresh one.
func newClientRequestID(ctx context.Context) string {
	if id := upstream.RequestID(ctx); id != "" {
		if _, err := guid.Parse(id); err == nil {
			return id
		}
	}
	return guid.New().String()
}

// worthAgain reports whether Graph or the network may do better next time.
func worthAgain(r upstream.Reason) bool {
	switch r {
	case upstream.Throttled, upstream.Unavailable, upstream.Internal, upstream.Timeout, upstream.Unreachable, upstream.BadAnswer:
		return true
	}
	return false
}

// bearer is a token as it stands in a header. It is kept because it is long, and the same for an hour.
type bearer struct{ token, header string }

// bearer returns what the header says for a token.
func (c *Client) bearer(token string) string {
	b := c.header.Load()
	if b == nil || b.token != token {
		b = &bearer{token, "Bearer " + token}
		c.header.Store(b)
	}
	return b.header
}

// token gets a token that meets claims. Its error is an *upstream.Error.
func (c *Client) token(ctx context.Context, claims string) (azcore.AccessToken, error) {
	token, err := c.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{c.scope}, Claims: claims, EnableCAE: true})
	if _, ok := errors.AsType[*upstream.Error](err); err != nil && !ok {
		err = &upstream.Error{Service: upstream.Identity, Reason: upstream.Unavailable, Cause: fmt.Sprintf("error of type %T", err)}
	}
	return token, err
}

// claimsParameter finds the claims in the challenge of continuous access evaluation:
// Bearer …, error="insufficient_claims", claims="eyJ…"
// (https://learn.microsoft.com/entra/identity-platform/claims-challenge).
var claimsParameter = regexp.MustCompile(`\bclaims="([A-Za-z0-9+/_=-]+)"`)

// claimsChallenge returns the claims that the answer with header h wants a new token to meet, "" if it names none.
func claimsChallenge(h http.Header) string {
	for _, challenge := range h.Values("WWW-Authenticate") {
		if m := claimsParameter.FindStringSubmatch(challenge); m != nil {
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
				if claims, err := encoding.DecodeString(m[1]); err == nil {
					return string(claims)
				}
			}
		}
	}
	return ""
}
