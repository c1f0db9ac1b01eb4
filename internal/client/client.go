// Package client calls the function from the caller's side: single devices, or a list in a file, with retries by
// the rule of the README for all callers. It is the commands call and list.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	maxResponse  = 4 << 20          // bytes of a response
	firstWait    = 2 * time.Second  // without a Retry-After; doubled for each retry
	longestOwn   = 30 * time.Second // up to this
	longestRetry = 15 * time.Minute // the longest Retry-After that is waited for
)

// Evidence sets the headers that prove the caller of a request with this id and body, at the present time.
type Evidence func(h http.Header, id string, body []byte)

// headerEvidence returns the Evidence of a header, beside which the delivery has its id.
func headerEvidence(name, value string) Evidence {
	return func(h http.Header, id string, _ []byte) {
		h.Set(name, value)
		h.Set("Idempotency-Key", id)
	}
}

// decodeSignature reads a signing key, which signs the id of the delivery.
func decodeSignature(text string) (Evidence, error) {
	key, err := caller.DecodeSignatureKey(text)
	return func(h http.Header, id string, body []byte) { caller.Sign(h, key, "msg_"+id, time.Now(), body) }, err
}

func decodeAPIKey(text string) (Evidence, error) {
	key, err := caller.DecodeAPIKey(text)
	return headerEvidence("X-Api-Key", string(key)), err
}

// decodeToken reads an access token of Entra ID: one word.
func decodeToken(text string) (Evidence, error) {
	if strings.ContainsAny(text, " \t") {
		return nil, errors.New("not an access token: it has more than one word")
	}
	return headerEvidence("Authorization", "Bearer "+text), nil
}

// Client sends requests to a deployment. The fields without a note are needed.
type Client struct {
	URL         string // of the route
	Evidence    Evidence
	FunctionKey string // of a function app whose host asks for one; may be empty
	HTTP        upstream.Doer
	Agent       string
	Retries     int           // the most retries of a request
	Timeout     time.Duration // of each attempt
	Note        func(string)  // receives the reason of each wait

	reached bool // a response has come
}

// Order is the body of a request.
type Order struct {
	Devices   []Target `json:"devices,omitempty"`
	DryRun    bool     `json:"dryRun,omitempty"`
	Verify    bool     `json:"verify,omitempty"`
	Reference string   `json:"reference,omitempty"`
}

// Target is a device in an Order.
type Target struct {
	DeviceID     string   `json:"deviceId,omitempty"`
	SerialNumber string   `json:"serialNumber,omitempty"`
	Expected     Expected `json:"expected,omitzero"`
}

// Expected is the account that a device must still carry, by one of its names.
type Expected struct {
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	ResourceName      string `json:"resourceName,omitempty"`
}

// String returns the name of the account.
func (e Expected) String() string { return cmp.Or(e.UserPrincipalName, e.ResourceName) }

// parseAccount returns the account called name: a user principal name if it has an @, else a resource name.
func parseAccount(name string) Expected {
	if strings.Contains(name, "@") {
		return Expected{UserPrincipalName: name}
	}
	return Expected{ResourceName: name}
}

// Response is a response to a request.
type Response struct {
	Status     int
	RequestID  string // "" if the function did not send the response
	Body       []byte
	retryAfter time.Duration // 0 if it does not say
}

// Succeeded reports whether the function answered 2xx. The platform in front of it has 2xx responses of its own.
func (r Response) Succeeded() bool { return r.Status/100 == 2 && r.RequestID != "" }

// Retryable is the rule for callers: whether a retry may help after a response of this status.
func Retryable(status int) bool {
	return slices.Contains([]int{
		http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	}, status)
}

// The errors of a request without a response.
var (
	ErrNotSent    = errors.New("nothing was sent")
	ErrNoResponse = errors.New("the outcome is unknown")
)

// sendGet sends a GET request with a query, and retries by the rule.
func (c *Client) sendGet(ctx context.Context, query url.Values) (Response, error) {
	return c.sendWithRetries(ctx, http.MethodGet, query, nil, func(Response) bool { return false })
}

// sendOrder sends an order, and retries by the rule until final reports true for the response.
func (c *Client) sendOrder(ctx context.Context, o Order, final func(Response) bool) (Response, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return Response{}, err
	}
	return c.sendWithRetries(ctx, http.MethodPost, nil, body, final)
}

// sendWithRetries sends a request, and retries by the rule until final reports true for the response. All attempts
// have one id. The error is nil where there is a response, of any status. When ctx ends, an attempt under way
// still runs to its end.
func (c *Client) sendWithRetries(ctx context.Context, method string, query url.Values, body []byte,
	final func(Response) bool,
) (Response, error) {
	id := guid.New().String()
	sent := false
	for tried := 0; ; tried++ {
		response, err := c.sendOnce(ctx, method, query, id, body)
		if sent = sent || !errors.Is(err, ErrNotSent); sent && errors.Is(err, ErrNotSent) {
			err = fmt.Errorf("an earlier attempt was sent, and then there was no connection: %w", ErrNoResponse)
		}
		why := response.statusText()
		switch {
		case err == nil && (!Retryable(response.Status) || final(response)):
			return response, nil
		case errors.Is(err, ErrNotSent) && !c.reached: // a wrong address, more likely than a failure that passes
			return response, err
		case err != nil:
			why = "no response"
		}
		if waited, stop := c.waitForRetry(ctx, why, response.retryAfter, tried); !waited {
			return response, errors.Join(err, stop)
		}
	}
}

// waitForRetry waits before the retry that follows tried retries: for retryAfter, or a backoff if it is 0. It
// reports whether to retry; its error is the end of ctx.
func (c *Client) waitForRetry(ctx context.Context, why string, retryAfter time.Duration, tried int) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if tried >= c.Retries {
		return false, nil
	}
	wait := cmp.Or(retryAfter, min(firstWait<<min(tried, 10), longestOwn))
	if wait > longestRetry {
		c.Note(fmt.Sprintf("%s; Retry-After is %s; giving up (limit %s)", why, wait, longestRetry))
		return false, nil
	}
	c.Note(fmt.Sprintf("%s; retrying in %s (%d of %d)", why, wait, tried+1, c.Retries))
	if !upstream.Sleep(ctx, wait) {
		return false, ctx.Err()
	}
	return true, nil
}

// sendOnce sends a request once, with fresh evidence.
func (c *Client) sendOnce(ctx context.Context, method string, query url.Values, id string,
	body []byte,
) (Response, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.URL, bytes.NewReader(body))
	if err != nil {
		return Response{}, err
	}
	if len(query) > 0 {
		own := req.URL.Query()
		maps.Copy(own, query)
		req.URL.RawQuery = own.Encode()
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Prefer", "return=representation")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.Agent)
	if c.FunctionKey != "" {
		req.Header.Set("X-Functions-Key", c.FunctionKey)
	}
	c.Evidence(req.Header, id, body)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return Response{}, connectionError(req.URL.Host, err)
	}
	defer func() { _ = resp.Body.Close() }()
	c.reached = true
	response := Response{
		Status: resp.StatusCode, RequestID: plainText(resp.Header.Get("X-Request-ID")),
		retryAfter: upstream.RetryAfter(resp.Header, time.Now()),
	}
	if response.Body, err = io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxResponse)); err != nil {
		return Response{}, fmt.Errorf("the response began with %s and broke off: %w", response.statusText(),
			ErrNoResponse)
	}
	return response, nil
}

// connectionError returns an error without the address of the request, which may hold a key.
func connectionError(host string, err error) error {
	fault := upstream.Classify(err)
	if !fault.Sent {
		return fmt.Errorf("no connection to %s (%s): %w", host, fault.Cause, ErrNotSent)
	}
	return fmt.Errorf("no response from %s (%s): %w", host, fault.Cause, ErrNoResponse)
}

// statusText returns the status with its name from our own table, such as 200 OK: a name from the wire may do anything to
// a terminal.
func (r Response) statusText() string {
	return strings.TrimSpace(fmt.Sprint(r.Status, " ", http.StatusText(r.Status)))
}
