// Package graph speaks the part of Microsoft Graph that this program needs: the beta resource
// windowsAutopilotDeviceIdentity and its one action unassignResourceAccountFromDevice.
//
// The action exists in beta only
// (https://learn.microsoft.com/graph/api/intune-enrollment-windowsautopilotdeviceidentity-unassignresourceaccountfromdevice).
// Repeating it is safe, since it sets a state; so every request is tried up to three times inside the time that its
// context leaves.
package graph

import (
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
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/upstream"
)

const (
	retries    = 2                      // after the first try
	firstDelay = 400 * time.Millisecond // before the second try, where Graph does not say; three times that before the third, jittered
	errorBody  = 64 << 10               // as much of a failure's body as is read, in bytes
	noDeadline = 25 * time.Second       // the time for a call whose context has no deadline
	// largestAnswer is as much of a success's body as is read, in bytes. A page of a thousand devices has about one million.
	largestAnswer = 16 << 20
)

// Client makes requests of Graph. It is safe for concurrent use.
type Client struct {
	endpoint  string // https://graph.microsoft.com
	pipeline  runtime.Pipeline
	authorize *authorize
	transport policy.Transporter
	// selects is whether Graph takes the selection of a device's properties, as far as that is known.
	selects atomic.Int32
}

// Options are what a Client may be told beside its endpoint and credential.
type Options struct {
	azcore.ClientOptions        // Transport is the one seam to the cloud; nil means [upstream.NewClient]
	Version              string // of this program, for User-Agent
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
	authorize := &authorize{cred: cred, scope: endpoint + "/.default"}
	return &Client{
		endpoint:  endpoint,
		authorize: authorize,
		transport: o.Transport,
		pipeline: runtime.NewPipeline("autopilot-unassign", o.Version, runtime.PipelineOptions{
			PerCall:  []policy.Policy{authorize},
			PerRetry: []policy.Policy{policyFunc(readFailure)},
		}, &o.ClientOptions),
	}, nil
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
	_, err := c.authorize.token(ctx, "")
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

// call is what the policies of the pipeline know of one request, over all its tries.
type call struct {
	deadline  time.Time
	tries     int
	failure   *upstream.Error // of the last try that was answered; nil while none was, or when it was a success
	maybeDone bool            // a try ended in a way that leaves open whether Graph has acted
}

// do sends req and returns the answer if its status is 2xx, with its body unread. Any other end is an *upstream.Error. It
// is in doubt if a try before the one that was answered leaves open whether Graph has acted.
func (c *Client) do(ctx context.Context, req *policy.Request) (resp *http.Response, doubt bool, err error) {
	header := req.Raw().Header
	header.Set("Accept", "application/json")
	// Declares the request replayable, and sends nothing: net/http then opens a new connection itself when the kept one
	// turns out to be dead, as it is after a freeze.
	header["Idempotency-Key"] = nil

	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(noDeadline)
	}
	call := &call{deadline: deadline}
	req.SetOperationValue(call)
	runtime.SkipBodyDownload(req)
	resp, err = c.pipeline.Do(req)
	switch {
	case err != nil:
		failure := *upstream.Transport(upstream.Graph, err) // the credential hands the same error to many
		failure.MaybeDone = failure.MaybeDone || call.maybeDone
		return nil, failure.MaybeDone, &failure
	case call.failure != nil:
		call.failure.MaybeDone = call.failure.MaybeDone || call.maybeDone
		return nil, call.failure.MaybeDone, call.failure
	}
	return resp, call.maybeDone, nil
}

// read sends req and decodes the answer into v, if its status is 2xx. Any other end is an *upstream.Error. Reading changes
// nothing, so that it is never in doubt what became of a device.
func (c *Client) read(ctx context.Context, req *policy.Request, v any) error {
	_, err := c.exchange(ctx, req, v)
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		failed.MaybeDone = false
	}
	return err
}

// exchange sends req and decodes the answer into v. It is do for answers that have something to say: one that breaks off,
// or is not what it should be, is asked for again as one that did not come.
func (c *Client) exchange(ctx context.Context, req *policy.Request, v any) (doubt bool, err error) {
	for try := 0; ; try++ {
		resp, before, err := c.do(ctx, req.Clone(ctx)) //nolint:bodyclose // decode closes it
		doubt = doubt || before
		if err != nil {
			if failed, ok := errors.AsType[*upstream.Error](err); ok {
				failed.MaybeDone = doubt
			}
			return doubt, err
		}
		err = decode(resp, v)
		if err == nil || try == retries || !wait(ctx, backoff(try)) {
			return doubt, err
		}
		doubt = true // Graph had said that it has acted
	}
}

// decode reads the body of resp, closes it, and decodes it into v. Its error is that of badAnswer.
func decode(resp *http.Response, v any) error {
	reader := upstream.Cap(resp.Body, largestAnswer)
	defer func() { _ = reader.Close() }()
	body, err := io.ReadAll(reader)
	if err == nil {
		reflect.ValueOf(v).Elem().SetZero() // of what an earlier answer has left there
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		return badAnswer(resp.Header, err)
	}
	return nil
}

// backoff returns how long to wait before a try that follows try, counted from 0, where Graph does not say.
func backoff(try int) time.Duration {
	return firstDelay<<try + rand.N(firstDelay) //nolint:gosec // it spreads callers, and keeps no secret
}

// wait waits for d if that leaves as much time as it takes, and reports whether it has.
func wait(ctx context.Context, d time.Duration) bool {
	left := noDeadline
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	if d >= left/2 {
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

// retry returns how the tries share the time that is left.
func (c *call) retry() policy.RetryOptions {
	left := time.Until(c.deadline)
	return policy.RetryOptions{
		MaxRetries:    retries,
		RetryDelay:    firstDelay,
		MaxRetryDelay: left,
		TryTimeout:    min(left/(retries+1), tryLimit),
		ShouldRetry:   c.again,
	}
}

// tryLimit is the longest that one try may take, however much time there is.
const tryLimit = 30 * time.Second

// again decides whether a try that ended with an answer or with err is worth another: Graph or the network may do better next time,
// and waiting for it leaves at least as much time as it takes.
func (c *call) again(_ *http.Response, err error) bool {
	failure := c.failure
	if err != nil {
		failure = upstream.Transport(upstream.Graph, err)
	}
	if failure == nil {
		return false
	}
	c.maybeDone = c.maybeDone || failure.MaybeDone
	if !worthAgain(failure.Reason) {
		return false
	}
	wait := failure.RetryAfter
	if wait == 0 {
		wait = firstDelay << c.tries // an upper bound of the delay that the pipeline will choose
	}
	return wait < time.Until(c.deadline)/2
}

// worthAgain reports whether Graph or the network may do better next time.
func worthAgain(r upstream.Reason) bool {
	switch r {
	case upstream.Throttled, upstream.Unavailable, upstream.Internal, upstream.Timeout, upstream.Unreachable, upstream.BadAnswer:
		return true
	}
	return false
}

// readFailure is the policy nearest to the wire. It counts the try, and reads an answer that is no success to its end or
// limit, so that a try's time-out covers it and again() can decide by what it says.
func readFailure(req *policy.Request) (*http.Response, error) {
	var call *call
	req.OperationValue(&call)
	call.tries++
	call.failure = nil
	upstream.Tried(req.Raw().Context())
	resp, err := req.Next()
	if err != nil || resp.StatusCode/100 == 2 {
		return resp, err
	}
	// What was read before an error is worth reading all the same: the status has the last word.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, errorBody))
	_ = resp.Body.Close()
	resp.Body = http.NoBody
	call.failure = failure(resp.StatusCode, resp.Header, body)
	if after := call.failure.RetryAfter; after > 0 && resp.Header.Get("Retry-After") == "" {
		// Graph said it in the body alone; the retry policy looks at the header.
		resp.Header.Set("Retry-After", fmt.Sprint(int(after.Seconds())))
	}
	return resp, nil
}

// authorize is the policy that puts a token on a request, and on a second one where Graph refuses the first.
//
// It stands in front of the retries, not behind them, so that a wait for the credential is not cut by the time-out of a
// try. azcore's own bearer token policy lets the callers wait for one another's token without an eye on their contexts.
type authorize struct {
	cred   azcore.TokenCredential
	scope  string
	header atomic.Pointer[bearer] // of the last token; nil before there is one
}

// bearer is a token as it stands in a header. It is kept because it is long, and the same for an hour.
type bearer struct{ token, header string }

// bearer returns what the header says for a token.
func (a *authorize) bearer(token string) string {
	b := a.header.Load()
	if b == nil || b.token != token {
		b = &bearer{token, "Bearer " + token}
		a.header.Store(b)
	}
	return b.header
}

func (a *authorize) Do(req *policy.Request) (*http.Response, error) {
	resp, token, err := a.send(req, "")
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	claims := claimsChallenge(resp.Header)
	if caching, ok := a.cred.(interface{ Expire(token string) }); ok && claims == "" {
		caching.Expire(token)
	}
	resp, _, err = a.send(req, claims)
	return resp, err
}

// send gets a token that meets claims and passes req on with it. It returns the token beside the answer.
func (a *authorize) send(req *policy.Request, claims string) (*http.Response, string, error) {
	ctx := req.Raw().Context()
	token, err := a.token(ctx, claims)
	if err != nil {
		return nil, "", err
	}
	req.Raw().Header.Set("Authorization", a.bearer(token.Token))
	var call *call
	req.OperationValue(&call)
	start := time.Now()
	// Only here: the credential makes requests of its own with the same context, which are not to be tried like this one.
	resp, err := req.WithContext(policy.WithRetryOptions(ctx, call.retry())).Next()
	upstream.Spent(ctx, upstream.Graph, time.Since(start))
	return resp, token.Token, err
}

// token gets a token that meets claims. Its error is an *upstream.Error.
func (a *authorize) token(ctx context.Context, claims string) (azcore.AccessToken, error) {
	token, err := a.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{a.scope}, Claims: claims, EnableCAE: true})
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

type policyFunc func(*policy.Request) (*http.Response, error)

func (f policyFunc) Do(req *policy.Request) (*http.Response, error) { return f(req) }
