// Package client is a caller of the function: it sends what a person at a terminal asks for, as one request or as a list
// in a file, and asks again by the rule that README gives all callers.
//
// It knows the contract from the caller's side, and no more of the function than that.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/upstream"
)

// The limits of waiting and reading.
const (
	maxAnswer  = 1 << 20          // bytes of an answer that are read
	firstWait  = 2 * time.Second  // where the answer does not say how long; doubled each time
	longestOwn = 30 * time.Second // up to this
	// longestWait is the longest Retry-After that is waited for. Who is asked to wait longer is told so, and comes back.
	longestWait = 15 * time.Minute
)

// Evidence puts into a header what shows who is asking, for a request of that id and body at the present time.
type Evidence func(h http.Header, id string, body []byte)

// Signature returns the Evidence of who signs with key. The id is that of the delivery, under the signature.
func Signature(key []byte) Evidence {
	return func(h http.Header, id string, body []byte) { caller.Sign(h, key, "msg_"+id, time.Now(), body) }
}

// APIKey returns the Evidence of who has an API key.
func APIKey(key string) Evidence {
	return func(h http.Header, id string, _ []byte) {
		h.Set("X-Api-Key", key)
		h.Set("Idempotency-Key", id)
	}
}

// Token returns the Evidence of who has an access token of Entra ID.
func Token(token string) Evidence {
	return func(h http.Header, id string, _ []byte) {
		h.Set("Authorization", "Bearer "+token)
		h.Set("Idempotency-Key", id)
	}
}

// DecodeToken reads an access token: one word, without the white space around it.
func DecodeToken(text string) (string, error) {
	token := strings.TrimSpace(text)
	if token == "" || strings.IndexFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) >= 0 {
		return "", errors.New("not an access token: it must be one word")
	}
	return token, nil
}

// Client sends requests to a deployment. All its fields are needed.
type Client struct {
	URL      string // of the route
	Evidence Evidence
	HTTP     upstream.Doer
	Agent    string
	Retries  int           // how often it asks again
	Timeout  time.Duration // for each attempt
	Note     func(string)  // told what is being waited for
}

// Order is the body of a request.
type Order struct {
	Target
	Devices   []Target `json:"devices,omitempty"`
	DryRun    bool     `json:"dryRun,omitempty"`
	Verify    bool     `json:"verify,omitempty"`
	Reference string   `json:"reference,omitempty"`
}

// Target is a device in an Order.
type Target struct {
	DeviceID     string    `json:"deviceId,omitempty"`
	SerialNumber string    `json:"serialNumber,omitempty"`
	Expected     *Expected `json:"expected,omitempty"`
}

// Expected is the account that a device must still carry, by one of its names.
type Expected struct {
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	ResourceName      string `json:"resourceName,omitempty"`
}

// Expect returns what name says of an account: with an @ it is a user principal name, without one a resource name, and
// nothing is nil.
func Expect(name string) *Expected {
	switch {
	case name == "":
		return nil
	case strings.Contains(name, "@"):
		return &Expected{UserPrincipalName: name}
	}
	return &Expected{ResourceName: name}
}

// Answer is what came back.
type Answer struct {
	Status     int
	StatusText string // such as 200 OK
	Body       []byte
	retryAfter time.Duration // 0 if it does not say
}

// Succeeded reports whether the answer is a 2xx.
func (a Answer) Succeeded() bool { return a.Status/100 == 2 }

// Retryable is the rule for callers: whether asking again may help after an answer of that status.
func Retryable(status int) bool {
	return slices.Contains([]int{
		http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	}, status)
}

// ErrNoAnswer is in the error of a request that was sent and not answered, so that it is not known what was done.
var ErrNoAnswer = errors.New("no answer, so it is not known what was done")

// Send sends o until it is answered with something else than a status that asks for a repetition, or until that was asked
// for too often or for too late. All attempts have one id. The error is nil where there is an answer, whatever its status.
//
// When ctx ends, an attempt under way comes to its end, within its time, and nothing more is sent.
func (c *Client) Send(ctx context.Context, o Order) (Answer, error) {
	return c.send(ctx, o, func(Answer) bool { return false })
}

// Report asks for the doctor's report as Send sends an order, with evidence over no body.
func (c *Client) Report(ctx context.Context) (Answer, error) {
	return c.repeat(ctx, http.MethodGet, nil, func(Answer) bool { return false })
}

// send is Send with the answers that enough reports true for not asked for again.
func (c *Client) send(ctx context.Context, o Order, enough func(Answer) bool) (Answer, error) {
	body, err := encode(o)
	if err != nil {
		return Answer{}, err
	}
	return c.repeat(ctx, http.MethodPost, body, enough)
}

// repeat sends a request, and again by the rule, until enough reports true for the answer.
func (c *Client) repeat(ctx context.Context, method string, body []byte, enough func(Answer) bool) (Answer, error) {
	id := guid.New().String()
	for tried := 0; ; tried++ {
		answer, err := c.attempt(ctx, method, id, body)
		why := answer.StatusText
		if err != nil {
			why = "no answer"
		}
		switch _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); {
		case err == nil && (!Retryable(answer.Status) || enough(answer)), untrusted:
			return answer, err
		}
		if waited, stop := c.wait(ctx, why, answer.retryAfter, tried); !waited {
			if stop != nil && err == nil {
				err = stop
			}
			return answer, err
		}
	}
}

// wait waits before an attempt that follows on tried repetitions, as long as was said or, if nothing was, a while of its
// own. It returns whether that attempt is to be made, and the end of ctx where that is why not.
func (c *Client) wait(ctx context.Context, why string, said time.Duration, tried int) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if tried >= c.Retries {
		return false, nil
	}
	wait := min(firstWait<<min(tried, 10), longestOwn)
	if said > 0 {
		wait = said
	}
	if wait > longestWait {
		c.Note(fmt.Sprintf("%s; it asks to be left alone for %s, which is longer than this waits", why, wait))
		return false, nil
	}
	c.Note(fmt.Sprintf("%s; asking again in %s (%d of %d)", why, wait, tried+1, c.Retries))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-timer.C:
		return true, nil
	}
}

// attempt sends a request once, with its evidence made anew.
func (c *Client) attempt(ctx context.Context, method, id string, body []byte) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.URL, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Prefer", "return=representation")
	}
	req.Header.Set("User-Agent", c.Agent)
	c.Evidence(req.Header, id, body)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		if address, ok := errors.AsType[*url.Error](err); ok {
			err = address.Err // without the address, in which there may be a key
		}
		return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer := Answer{Status: resp.StatusCode, StatusText: statusText(resp.StatusCode), retryAfter: upstream.RetryAfter(resp.Header, time.Now())}
	if answer.Body, err = io.ReadAll(upstream.Cap(resp.Body, maxAnswer)); err != nil {
		return Answer{}, fmt.Errorf("%w: it began with %s and broke off: %w", ErrNoAnswer, statusText(resp.StatusCode), err)
	}
	return answer, nil
}

// statusText returns a status with its name, which is not taken from the answer: what comes from there may do anything to a
// terminal.
func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprint(status, " ", http.StatusText(status)))
}

// encode writes o as it is signed and sent. What HTML would need escaped stays short.
func encode(o Order) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
