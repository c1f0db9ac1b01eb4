package graph

import (
	"context"
	"net/http"
	"slices"

	"autopilot-unassign/internal/upstream"
)

const (
	root       = "/beta"
	collection = "/deviceManagement/windowsAutopilotDeviceIdentities"
	devices    = root + collection
	action     = "/unassignResourceAccountFromDevice"
)

// Result is the result of the action on one device.
type Result struct {
	ID DeviceID
	// Err is nil when Graph has removed the resource account, or found none on the device. Else it is an
	// *upstream.Error of Graph or of the token.
	Err error
	// RequestID is Graph's request-id, "" without a response, and ClientRequestID the client-request-id of the request.
	// Microsoft's support wants both.
	RequestID, ClientRequestID string
}

// newResult returns the Result of the action on a device. It is the one place that sets MaybeDone.
func newResult(id DeviceID, requestID, clientRequestID string, failure *upstream.Error, doubt bool) Result {
	r := Result{ID: id, RequestID: requestID, ClientRequestID: clientRequestID}
	if failure != nil {
		failure.MaybeDone = doubt
		r.Err = failure
	}
	return r
}

// UnassignResourceAccount removes the resource account from each of the devices and returns one Result for each, in
// order. It sends one request for one device, and one for each twenty otherwise. Any 2xx is a success: the
// documentation says 204 and the metadata 2XX.
//
// After the end of ctx it sends no more requests: the remaining devices time out, and are not in doubt.
func (c *Client) UnassignResourceAccount(ctx context.Context, ids ...DeviceID) []Result {
	if len(ids) == 1 {
		return []Result{c.unassignOne(ctx, ids[0])}
	}
	results := make([]Result, 0, len(ids))
	for chunk := range slices.Chunk(ids, maxBatch) {
		results = append(results, c.unassignBatch(ctx, chunk)...)
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
			results[i] = newResult(id, "", "", noTime(), false)
		}
		return results
	}
	for i, reply := range c.sendBatch(ctx, requests) {
		results[i] = newResult(ids[i], reply.requestID, reply.clientRequestID, reply.failure, reply.doubt)
	}
	return results
}

func noTime() *upstream.Error {
	return &upstream.Error{Service: upstream.Graph, Reason: upstream.Timeout, Cause: "no time left to send the request"}
}

func (c *Client) unassignOne(ctx context.Context, id DeviceID) Result {
	clientRequestID := newClientRequestID(ctx)
	if ctx.Err() != nil {
		return newResult(id, "", clientRequestID, noTime(), false)
	}
	address := c.endpoint + devices + "/" + id.String() + action
	r := request{
		method: http.MethodPost, address: address, clientRequestID: clientRequestID, decode: discardBody,
		write: true,
	}
	o := c.send(ctx, r)
	return newResult(id, requestID(o.header), clientRequestID, o.failure, o.doubt)
}
