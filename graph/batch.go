package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"autopilot-unassign/internal/upstream"
)

// maxBatch is as many requests as Graph takes in one batch (https://learn.microsoft.com/graph/json-batching).
const maxBatch = 20

// batchRequest is a request inside a batch.
type batchRequest struct {
	ID      string            `json:"id"`
	Method  string            `json:"method"`
	URL     string            `json:"url"` // below the root
	Headers map[string]string `json:"headers,omitempty"`
	Body    *struct{}         `json:"body,omitempty"` // a POST has to have one, if an empty one
}

// batchReply is the end of one. Its err is an *upstream.Error, or nil if the status is 2xx.
type batchReply struct {
	requestID, clientRequestID string
	body                       json.RawMessage
	err                        error
	whole                      bool // err is that of the whole batch, which has been tried often enough
}

// batch sends up to twenty requests as one and returns their ends, in order. Those that Graph may do better next time are
// sent again, alone, inside the time that ctx leaves.
func (c *Client) batch(ctx context.Context, requests []batchRequest) []batchReply {
	replies := make([]batchReply, len(requests))
	pending := make([]int, len(requests))
	for i := range requests {
		pending[i] = i
		requests[i].ID = strconv.Itoa(i)
	}
	maybeDone := make([]bool, len(requests))
	for try := 0; ; try++ {
		c.batchOnce(ctx, requests, pending, replies)
		var again []int
		var longest time.Duration
		for _, i := range pending {
			failed, ok := errors.AsType[*upstream.Error](replies[i].err)
			if !ok {
				continue
			}
			maybeDone[i] = maybeDone[i] || failed.MaybeDone
			failed.MaybeDone = maybeDone[i]
			if worthAgain(failed.Reason) && !replies[i].whole {
				again = append(again, i)
				longest = max(longest, failed.RetryAfter)
			}
		}
		if len(again) == 0 || try == retries {
			return replies
		}
		if longest == 0 {
			longest = backoff(try)
		}
		if !wait(ctx, longest) {
			return replies
		}
		pending = again
	}
}

// batchOnce sends those of the requests that are pending, and puts their ends into replies.
func (c *Client) batchOnce(ctx context.Context, requests []batchRequest, pending []int, replies []batchReply) {
	var sent struct {
		Requests []batchRequest `json:"requests"`
	}
	asked := make(map[string]int, len(pending))
	for _, i := range pending {
		sent.Requests = append(sent.Requests, requests[i])
		asked[requests[i].ID] = i
	}
	var got struct {
		Responses []struct {
			ID      string
			Status  int
			Headers map[string]string
			Body    json.RawMessage
		}
	}
	clientRequestID := newClientRequestID(ctx)
	body, err := json.Marshal(sent)
	if err != nil {
		panic(fmt.Sprintf("graph: batch: %v", err)) // the types are all of this file
	}
	a := c.do(ctx, request{http.MethodPost, c.endpoint + root + "/$batch", clientRequestID, body, into(&got)})
	for _, i := range pending {
		replies[i] = batchReply{clientRequestID: clientRequestID, err: itemUnanswered("no answer in the batch")}
		if a.failure != nil {
			own := *a.failure // each has its own: what became of each may differ
			replies[i] = batchReply{requestID: own.RequestID, clientRequestID: clientRequestID, err: &own, whole: true}
		}
	}
	if a.failure != nil {
		return
	}
	answered := make(map[string]bool, len(pending))
	for _, response := range got.Responses {
		i, pending := asked[response.ID]
		if !pending { // what was not asked for changes nothing
			continue
		}
		if answered[response.ID] {
			replies[i] = batchReply{clientRequestID: clientRequestID, err: itemUnanswered("two answers in the batch")}
			continue
		}
		answered[response.ID] = true
		header := http.Header{}
		for name, value := range response.Headers {
			header.Set(name, value)
		}
		reply := &replies[i]
		reply.requestID, reply.body, reply.err = upstream.PlainCode(header.Get("request-id")), response.Body, nil
		if response.Status/100 != 2 {
			failed := failure(response.Status, header, response.Body)
			failed.MaybeDone = failed.MaybeDone || a.doubt
			reply.err = failed
		}
	}
}

// itemUnanswered is the error of an item that has no answer one can go by.
func itemUnanswered(cause string) *upstream.Error {
	return &upstream.Error{Service: upstream.Graph, Reason: upstream.BadAnswer, MaybeDone: true, Cause: cause}
}
