package graph

import (
	"context"
	"net/http"

	"autopilot-unassign/internal/upstream"
)

const (
	root       = "/beta"
	collection = "/deviceManagement/windowsAutopilotDeviceIdentities"
	devices    = root + collection
	action     = "/unassignResourceAccountFromDevice"
)

// Result is what became of one device.
type Result struct {
	ID DeviceID
	// Err is nil when Graph has taken the resource account off the device, or found none on it. Else it is an
	// *upstream.Error, of Graph or of whoever gives the token.
	Err error
	// RequestID is Graph's request-id and ClientRequestID the client-request-id it was sent, both for its support.
	// RequestID is "" if no answer came.
	RequestID, ClientRequestID string
}

// UnassignResourceAccount takes the resource account off each of the devices and returns one Result for each, in order:
// with one request for a single one, and with one for each twenty else. Any 2xx is a success: the documentation says 204
// and the metadata 2XX.
//
// When ctx ends, the devices not yet tried are reported as timed out and not done.
func (c *Client) UnassignResourceAccount(ctx context.Context, ids ...DeviceID) []Result {
	if len(ids) == 1 {
		return []Result{c.unassign(ctx, ids[0])}
	}
	results := make([]Result, 0, len(ids))
	for start := 0; start < len(ids); start += maxBatch {
		results = append(results, c.unassignBatch(ctx, ids[start:min(start+maxBatch, len(ids))])...)
	}
	return results
}

func (c *Client) unassignBatch(ctx context.Context, ids []DeviceID) []Result {
	requests := make([]batchRequest, len(ids))
	for i, id := range ids {
		requests[i] = batchRequest{
			Method: http.MethodPost, URL: collection + "/" + id.String() + action,
			Headers: map[string]string{"Content-Type": "application/json"}, Body: &struct{}{},
		}
	}
	results := make([]Result, len(ids))
	if ctx.Err() != nil {
		for i, id := range ids {
			results[i] = Result{ID: id, Err: noTime()}
		}
		return results
	}
	for i, reply := range c.batch(ctx, requests) {
		results[i] = Result{ID: ids[i], Err: reply.err, RequestID: reply.requestID, ClientRequestID: reply.clientRequestID}
	}
	return results
}

func noTime() *upstream.Error {
	return &upstream.Error{Service: upstream.Graph, Reason: upstream.Timeout, Cause: "no time left to ask"}
}

func (c *Client) unassign(ctx context.Context, id DeviceID) Result {
	result := Result{ID: id, ClientRequestID: newClientRequestID(ctx)}
	if err := ctx.Err(); err != nil {
		result.Err = noTime()
		return result
	}
	address := c.endpoint + devices + "/" + id.String() + action
	a := c.do(ctx, request{method: http.MethodPost, address: address, clientRequestID: result.ClientRequestID, read: ignore})
	result.RequestID = upstream.PlainCode(a.header.Get("request-id"))
	if a.failure != nil {
		result.Err = a.failure
	}
	return result
}
