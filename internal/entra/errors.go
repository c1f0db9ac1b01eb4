package entra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/upstream"
)

// throttledFor is the wait after a 429 of Entra ID without Retry-After.
const throttledFor = time.Minute

func reduceIdentity(ctx context.Context, err error, seen *azsdk.NetworkError) *upstream.Error {
	failed, _ := errors.AsType[*azidentity.AuthenticationFailedError](err)
	if failed == nil || failed.RawResponse == nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return seen.Reduce(upstream.Identity, err)
	}
	resp := failed.RawResponse
	var said struct {
		Error      string
		ErrorCodes []int `json:"error_codes"`
	}
	if body, err := runtime.Payload(resp); err == nil {
		_ = json.Unmarshal(body, &said) // the status decides about an unreadable body
	}
	e := &upstream.Error{
		Service:    upstream.Identity,
		Status:     resp.StatusCode,
		Code:       upstream.PlainCode(said.Error),
		RequestID:  upstream.PlainCode(resp.Header.Get("x-ms-request-id")),
		RetryAfter: upstream.RetryAfter(resp.Header, time.Now()),
	}
	var number upstream.Reason
	if len(said.ErrorCodes) > 0 {
		e.Code = fmt.Sprintf("AADSTS%d", said.ErrorCodes[0])
		number = reasonOfNumber(said.ErrorCodes[0])
	}
	switch status := resp.StatusCode; {
	case status < 400:
		e.Reason = upstream.BadAnswer
	case status == http.StatusTooManyRequests:
		e.Reason = upstream.Throttled
		if e.RetryAfter == 0 {
			e.RetryAfter = throttledFor
		}
	case status >= 500, status == http.StatusRequestTimeout, said.Error == "temporarily_unavailable":
		e.Reason = upstream.Unavailable
	case status == http.StatusNotFound, status == http.StatusGone: // of a managed identity endpoint that is starting
		e.Reason = upstream.Unavailable
	case number != "":
		e.Reason = number
	case said.Error == "unauthorized_client":
		e.Reason = upstream.AppNotFound
	case said.Error == "invalid_tenant":
		e.Reason = upstream.TenantNotFound
	case said.Error == "invalid_scope", said.Error == "invalid_resource":
		e.Reason = upstream.ScopeInvalid
	default: // invalid_client before all
		e.Reason = upstream.CredentialRejected
	}
	return e
}
