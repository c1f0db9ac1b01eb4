package vault

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/upstream"
)

// reduceVault reduces an error of azsecrets, for the secret of that name, to an *upstream.Error of the vault or of
// the identity. It passes on no text that it does not know.
func reduceVault(err error, seen *azsdk.NetworkError, name string) *upstream.Error {
	if known, ok := errors.AsType[*upstream.Error](err); ok {
		return known
	}
	refused, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return seen.Reduce(upstream.Vault, err)
	}
	e := &upstream.Error{
		Service: upstream.Vault, Status: refused.StatusCode,
		Code: upstream.PlainCode(refused.ErrorCode), Cause: "secret " + name,
	}
	var body []byte
	var said struct {
		Error struct {
			InnerError struct{ Code string }
		}
	}
	if resp := refused.RawResponse; resp != nil {
		e.RequestID = upstream.PlainCode(resp.Header.Get("x-ms-request-id"))
		e.RetryAfter = upstream.RetryAfter(resp.Header, time.Now())
		body, _ = runtime.Payload(resp) // the status decides if it cannot be read
		if json.Unmarshal(body, &said) == nil && said.Error.InnerError.Code != "" {
			e.Code = upstream.PlainCode(said.Error.InnerError.Code)
		}
	}
	switch status := refused.StatusCode; {
	case status == http.StatusNotFound && strings.HasSuffix(refused.ErrorCode, "NotFound"):
		e.Reason = upstream.NotFound
	case status == http.StatusNotFound: // Key Vault always sends a code: this response is not from a vault
		e.Reason, e.Cause = upstream.BadAnswer, "404 without a code of Key Vault"
	case status == http.StatusConflict: // the secret is being deleted or recovered
		e.Reason = upstream.Unavailable
	case status == http.StatusBadRequest && unsupportedVersion(body):
		e.Reason = upstream.VersionUnsupported
	case status == http.StatusForbidden && e.Code == "SecretDisabled":
		e.Reason = upstream.SecretDisabled
	case status == http.StatusTooManyRequests:
		e.Reason = upstream.Throttled
	case status >= 500, status == http.StatusRequestTimeout:
		e.Reason = upstream.Unavailable
	case status >= 400: // the token, a role or the network rules
		e.Reason = upstream.Forbidden
	default:
		e.Reason = upstream.BadAnswer
	}
	return e
}
