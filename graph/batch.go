package graph

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"autopilot-unassign/internal/upstream"
)

// maxBatch is the most requests that Graph accepts in one batch (https://learn.microsoft.com/graph/json-batching).
const maxBatch = 20

type batchRequest struct {
	ID      string            `json:"id"`
	Method  string            `json:"method"`
	URL     string            `json:"url"` // below the root
	Headers map[string]string `json:"headers,omitempty"`
	Body    *struct{}         `json:"body,omitempty"` // a POST must have one, if an empty one
}

type batchReply struct {
	requestID, clientRequestID string
	header                     http.Header
	body                       json.RawMessage
	failure                    *upstream.Error // nil for 2xx
	doubt                      bool            // a try leaves open whether Graph has carried out the request
	whole                      bool            // the whole batch failed, after its retries
}

// sendBatch sends up to twenty requests as one and returns their results, in order. It retries transient failures of
// single requests within the time of ctx.
func (c *Client) sendBatch(ctx context.Context, requests []batchRequest) []batchReply {
	replies := make([]batchReply, len(requests))
	pending := make([]int, len(requests))
	for i := range requests {
		pending[i] = i
		requests[i].ID = strconv.Itoa(i)
	}
	for try, renewed := 0, false; ; try++ {
		start := time.Now()
		token := c.sendPending(ctx, requests, pending, replies, "")
		if refused := refusedTokens(replies, pending); len(refused) > 0 && !renewed {
			renewed = true
			c.sendPending(ctx, requests, refused, replies, c.expireToken(token, replies[refused[0]].header))
		}
		if requests[0].Method != http.MethodGet {
			failures := make([]*upstream.Error, len(pending))
			for at, i := range pending {
				failures[at] = replies[i].failure
			}
			c.reportWrites(failures...)
		}
		var again []int
		var delay time.Duration
		for _, i := range pending {
			if f := replies[i].failure; f != nil && c.retries(f) && !replies[i].whole {
				again = append(again, i)
				delay = max(delay, f.RetryAfter)
			}
		}
		if len(again) == 0 || try == maxRetries || !waitFor(ctx, cmp.Or(delay, backoffAfter(try)), time.Since(start)) {
			return replies
		}
		pending = again
	}
}

// refusedTokens returns the pending requests whose token Graph refused although it accepted the batch.
func refusedTokens(replies []batchReply, pending []int) (refused []int) {
	for _, i := range pending {
		if f := replies[i].failure; f != nil && f.Status == http.StatusUnauthorized && !replies[i].whole {
			refused = append(refused, i)
		}
	}
	return refused
}

// sendPending sends the pending requests with a token that meets claims, and stores their results in replies. It
// returns the token.
func (c *Client) sendPending(
	ctx context.Context, requests []batchRequest, pending []int, replies []batchReply, claims string,
) (token string) {
	var batch struct {
		Requests []batchRequest `json:"requests"`
	}
	unanswered := make(map[string]int, len(pending))
	for _, i := range pending {
		batch.Requests = append(batch.Requests, requests[i])
		unanswered[requests[i].ID] = i
	}
	body, err := json.Marshal(batch)
	if err != nil {
		panic(fmt.Sprintf("graph: batch: %v", err)) // the types are all of this file
	}
	var got struct{ Responses []batchItem }
	id := newClientRequestID(ctx)
	o := c.send(ctx, request{
		method: http.MethodPost, address: c.endpoint + root + "/$batch",
		clientRequestID: id, body: body, claims: claims, decode: decodeInto(&got),
	})
	for _, i := range pending {
		failure := badPage("the batch has no valid response to the request")
		if o.failure != nil {
			*failure = *notOfDevice(o.failure)
		}
		failure.RequestID = cmp.Or(failure.RequestID, requestID(o.header))
		replies[i] = batchReply{
			requestID: requestID(o.header), clientRequestID: id,
			failure: failure, doubt: replies[i].doubt || o.doubt, whole: o.failure != nil,
		}
	}
	if o.failure != nil {
		return o.token
	}
	items := map[int]batchItem{}
	for _, item := range got.Responses {
		i, ok := unanswered[string(item.id)]
		if !ok {
			continue
		}
		if _, twice := items[i]; twice {
			item.status = 0
		}
		items[i] = item
	}
	for _, i := range pending {
		if items[i].status == 0 {
			replies[i].doubt = true
			continue
		}
		replies[i].takeItem(items[i])
	}
	return o.token
}

func (r *batchReply) takeItem(item batchItem) {
	r.header, r.body, r.failure = item.header, item.body, nil
	r.requestID = cmp.Or(requestID(item.header), r.requestID)
	if item.status/100 != 2 {
		r.failure = classifyFailure(item.status, item.header, item.body)
		r.failure.RequestID = r.requestID
		r.doubt = r.doubt || leavesDoubt(r.failure.Reason)
	}
}

// batchItem is the response to a request in a batch. Its status is 0 if it is invalid.
type batchItem struct {
	id     jsonText
	status int
	header http.Header
	body   json.RawMessage
}

// UnmarshalJSON never fails: an invalid item must not spoil its batch.
func (b *batchItem) UnmarshalJSON(text []byte) error {
	var item struct {
		ID      jsonText
		Status  jsonText
		Headers json.RawMessage
		Body    json.RawMessage
	}
	_ = json.Unmarshal(text, &item) // members of another type stay empty
	*b = batchItem{id: item.ID, header: http.Header{}, body: item.Body}
	if status, err := strconv.Atoi(string(item.Status)); err == nil && status >= 100 && status < 600 {
		b.status = status
	}
	var headers map[string]jsonText
	_ = json.Unmarshal(item.Headers, &headers)
	for name, value := range headers {
		b.header.Set(name, string(value))
	}
	return nil
}
