package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// script is a deployment that answers each request as scripted: a status, or 0 for no response.
type script struct {
	statuses   []int
	retryAfter []string
	headers    []http.Header
}

func (s *script) Do(r *http.Request) (*http.Response, error) {
	n := len(s.headers)
	s.headers = append(s.headers, r.Header)
	switch s.statuses[n] {
	case 0:
		return nil, io.ErrUnexpectedEOF
	case refusedConnection:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	resp := &http.Response{StatusCode: s.statuses[n], Header: http.Header{"X-Request-Id": {"x"}}, Body: http.NoBody}
	if n < len(s.retryAfter) {
		resp.Header.Set("Retry-After", s.retryAfter[n])
	}
	return resp, nil
}

const refusedConnection = -1

// Where an attempt was sent, a later one without a connection does not tell that nothing was.
func TestClientRemembersWhatWasSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for want, statuses := range map[error][]int{
			ErrNotSent: {refusedConnection}, ErrNoResponse: {0, refusedConnection, refusedConnection},
		} {
			s := &script{statuses: statuses}
			c := Client{URL: contoso, Evidence: headerEvidence("X-Api-Key", "k"), HTTP: s, Retries: len(statuses) - 1, Timeout: time.Second, Note: func(string) {}}
			results := NewResults("")
			l := List{Client: &c, Results: results, Progress: func(Counts) {}}
			row := Row{ID: oneID}
			_, err := l.Work(t.Context(), []Row{row})
			r, _ := results.Of(row)
			unknown := errors.Is(want, ErrNoResponse)
			if !errors.Is(err, want) || len(s.headers) != len(statuses) || (r.Outcome == outcomeUnknown) != unknown {
				t.Errorf("%v: %v, %q after %d requests", statuses, err, r.Outcome, len(s.headers))
			}
			s.statuses = append(s.statuses, refusedConnection)
			c.Retries, c.reached = 0, true
			if _, err := l.Work(t.Context(), []Row{row}); !errors.Is(err, ErrNotSent) {
				t.Errorf("the next run of %v: %v", statuses, err)
			}
			if r, _ := results.Of(row); (r.Outcome == outcomeUnknown) != unknown {
				t.Errorf("the next run of %v leaves %q", statuses, r.Outcome)
			}
		}
	})
}

func isFinal(Response) bool { return false }

// All attempts of a request have its id; the signed ones are signed anew.
func TestClientRetries(t *testing.T) {
	t.Parallel()
	signature, err := decodeSignature("whsec_" + strings.Repeat("a2tr", 8))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		evidence Evidence
		same     []string
	}{
		"signed":  {signature, []string{"Webhook-Id"}},
		"API key": {headerEvidence("X-Api-Key", "k"), []string{"X-Api-Key", "Idempotency-Key"}},
		"token":   {headerEvidence("Authorization", "Bearer eyJ.e30.x"), []string{"Authorization", "Idempotency-Key"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{statuses: []int{429, 408, 500, 502, 503, 504, 0, 204, 404}, retryAfter: []string{"9"}}
			var notes []string
			c := Client{
				URL: contoso, Evidence: test.evidence, HTTP: s, Agent: "test", Retries: 7, Timeout: time.Second, Note: func(text string) { notes = append(notes, text) },
			}
			response, err := c.sendOrder(t.Context(), Order{Devices: []Target{{DeviceID: oneID}}}, isFinal)
			if err != nil || response.Status != 204 || !response.Succeeded() || len(s.headers) != 8 {
				t.Fatalf("%s: %d, %v, %d requests", name, response.Status, err, len(s.headers))
			}
			if !slices.Equal(notes, []string{
				"429 Too Many Requests; retrying in 9s (1 of 7)", "408 Request Timeout; retrying in 4s (2 of 7)", "500 Internal Server Error; retrying in 8s (3 of 7)",
				"502 Bad Gateway; retrying in 16s (4 of 7)", "503 Service Unavailable; retrying in 30s (5 of 7)", "504 Gateway Timeout; retrying in 30s (6 of 7)", "no response; retrying in 30s (7 of 7)",
			}) {
				t.Errorf("%s: notes %q", name, notes)
			}
			first, last := s.headers[0], s.headers[7]
			for _, h := range test.same {
				if first.Get(h) == "" || first.Get(h) != last.Get(h) {
					t.Errorf("%s: %s was %q and became %q", name, h, first.Get(h), last.Get(h))
				}
			}
			if name == "signed" && (first.Get("Webhook-Timestamp") == last.Get("Webhook-Timestamp") || first.Get("Webhook-Signature") == last.Get("Webhook-Signature")) {
				t.Errorf("the last attempt was signed like the first: %v", last)
			}
			id := test.same[len(test.same)-1]
			if response, err := c.sendOrder(t.Context(), Order{}, isFinal); err != nil || response.Status != 404 || s.headers[8].Get(id) == first.Get(id) {
				t.Errorf("%s: another request ends with %d, %v, and has the id %s", name, response.Status, err, s.headers[8].Get(id))
			}
		})
	}
}

// A signal ends a wait at once, and the last response is still returned.
func TestClientStopsWhileItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{statuses: []int{503}, retryAfter: []string{"600"}}
		c := Client{URL: contoso, Evidence: headerEvidence("X-Api-Key", "k"), HTTP: s, Agent: "test", Retries: 3, Timeout: time.Second, Note: func(string) {}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		response, err := c.sendOrder(ctx, Order{}, isFinal)
		if !errors.Is(err, context.DeadlineExceeded) || response.Status != 503 || len(s.headers) != 1 || time.Since(start) != 5*time.Second {
			t.Errorf("%d, %v, %d requests in %s", response.Status, err, len(s.headers), time.Since(start))
		}
		c.HTTP = &script{statuses: []int{0}}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.sendOrder(ctx, Order{}, isFinal); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrNoResponse) {
			t.Errorf("without a response: %v", err)
		}
	})
}

// A Retry-After beyond the limit is told and not waited for.
func TestClientGivesUp(t *testing.T) {
	t.Parallel()
	var notes []string
	c := Client{
		URL: contoso, Evidence: headerEvidence("X-Api-Key", "k"), HTTP: &script{statuses: []int{503}, retryAfter: []string{"1200"}}, Retries: 3, Timeout: time.Second,
		Note: func(text string) { notes = append(notes, text) },
	}
	if response, err := c.sendOrder(t.Context(), Order{}, isFinal); err != nil || response.Status != 503 || !slices.Equal(notes, []string{"503 Service Unavailable; Retry-After is 20m0s; giving up (limit 15m0s)"}) {
		t.Errorf("%d, %v, %q", response.Status, err, notes)
	}
}
