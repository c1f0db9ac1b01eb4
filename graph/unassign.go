package graph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"autopilot-unassign/internal/upstream"
)

// devices is the collection of Autopilot devices, below the root of Graph.
const devices = "/beta/deviceManagement/windowsAutopilotDeviceIdentities"

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

// UnassignResourceAccount takes the resource account off each of the devices, one after the other, and returns one Result
// for each, in order. Any 2xx is a success: the documentation says 204 and the metadata 2XX.
//
// When ctx ends, the devices not yet tried are reported as timed out and not done.
func (c *Client) UnassignResourceAccount(ctx context.Context, ids ...DeviceID) []Result {
	results := make([]Result, len(ids))
	for i, id := range ids {
		results[i] = c.unassign(ctx, id)
	}
	return results
}

func (c *Client) unassign(ctx context.Context, id DeviceID) Result {
	result := Result{ID: id, ClientRequestID: newClientRequestID(ctx)}
	if err := ctx.Err(); err != nil {
		result.Err = &upstream.Error{Service: upstream.Graph, Reason: upstream.Timeout, Cause: "no time left to ask"}
		return result
	}
	req, err := runtime.NewRequest(ctx, http.MethodPost, c.endpoint+devices+"/"+id.String()+"/unassignResourceAccountFromDevice")
	if err != nil {
		result.Err = fmt.Errorf("graph: unassign resource account: %w", err)
		return result
	}
	req.Raw().Header.Set("client-request-id", result.ClientRequestID)
	resp, err := c.do(ctx, req)
	if err != nil {
		result.Err = err
		if failure, ok := errors.AsType[*upstream.Error](err); ok {
			result.RequestID = failure.RequestID
		}
		return result
	}
	// Whatever the body of a success is, it is read so that the connection can be used again, and not understood.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, errorBody))
	_ = resp.Body.Close()
	result.RequestID = upstream.PlainCode(resp.Header.Get("request-id"))
	return result
}
