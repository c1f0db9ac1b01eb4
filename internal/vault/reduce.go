package vault

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/upstream"
)

// reduceVault reduces an error of azsecrets, of reading the secret of that name, to an *upstream.Error: of the vault, or the
// one that the identity has given already. Nothing that is not foreseen here gets through.
func reduceVault(err error, seen *azsdk.NetworkError, name string) *upstream.Error {
	if known, ok := errors.AsType[*upstream.Error](err); ok {
		return known
	}
	refused, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return seen.Reduce(upstream.Vault, err)
	}
	e := &upstream.Error{Service: upstream.Vault, Status: refused.StatusCode, Code: upstream.PlainCode(refused.ErrorCode), Cause: "secret " + name}
	var said struct {
		Error struct {
			InnerError struct{ Code string }
		}
	}
	if resp := refused.RawResponse; resp != nil {
		e.RequestID = upstream.PlainCode(resp.Header.Get("x-ms-request-id"))
		e.RetryAfter = upstream.RetryAfter(resp.Header, time.Now())
		if body, err := runtime.Payload(resp); err == nil && json.Unmarshal(body, &said) == nil && said.Error.InnerError.Code != "" {
			e.Code = upstream.PlainCode(said.Error.InnerError.Code)
		}
	}
	switch status := refused.StatusCode; {
	case status == http.StatusNotFound:
		e.Reason = upstream.NotFound
	case status == http.StatusForbidden && e.Code == "SecretDisabled":
		e.Reason = upstream.SecretDisabled
	case status == http.StatusTooManyRequests:
		e.Reason = upstream.Throttled
	case status >= 500, status == http.StatusRequestTimeout:
		e.Reason = upstream.Unavailable
	case status >= 400: // a token that the vault does not take, a role or a way in that is missing
		e.Reason = upstream.Forbidden
	default:
		e.Reason = upstream.BadAnswer
	}
	return e
}
