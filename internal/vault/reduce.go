package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"autopilot-unassign/internal/upstream"
)

// reduceVault reduces an error of azsecrets, of reading the secret of that name, to an *upstream.Error: of the vault, or the
// one that the identity has given already. Nothing that is not foreseen here gets through.
func reduceVault(err error, seen *wireError, name string) *upstream.Error {
	if known, ok := errors.AsType[*upstream.Error](err); ok {
		return known
	}
	refused, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return reduceTransport(upstream.Vault, err, seen)
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

// reduceTransport reduces an error that is no answer. The one that the wire has seen counts, where err is the SDK's text of
// it. Nothing has been done to a device by anybody here.
func reduceTransport(s upstream.Service, err error, seen *wireError) *upstream.Error {
	if seen.err != nil && !errors.Is(err, context.DeadlineExceeded) {
		err = seen.err
	}
	return upstream.Transport(s, err)
}

// refined returns the Reason that a number of Entra ID's errors (AADSTS) stands for, "" if the number says no more than the
// error's word does (https://learn.microsoft.com/entra/identity-platform/reference-error-codes).
func refined(number int) upstream.Reason {
	switch number {
	case 7000222:
		return upstream.CredentialExpired
	case 70021, 700211, 700212, 700213: // no federated identity credential has the issuer, audience and subject
		return upstream.CredentialRejected
	case 700016, 700011, 70001:
		return upstream.AppNotFound
	case 90002, 90038:
		return upstream.TenantNotFound
	case 500011, 650057, 70011:
		return upstream.ScopeInvalid
	case 90006, 90024, 90033, 90055, 90090:
		return upstream.Unavailable
	}
	return ""
}

// throttledFor is how long Entra ID wants to be left alone where it does not say.
const throttledFor = time.Minute

// reduceIdentity reduces an error of azidentity to an *upstream.Error.
func reduceIdentity(ctx context.Context, err error, seen *wireError) *upstream.Error {
	failed, _ := errors.AsType[*azidentity.AuthenticationFailedError](err)
	if failed == nil || failed.RawResponse == nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return reduceTransport(upstream.Identity, err, seen)
	}
	resp := failed.RawResponse
	var said struct {
		Error      string
		ErrorCodes []int `json:"error_codes"`
	}
	if body, err := runtime.Payload(resp); err == nil {
		_ = json.Unmarshal(body, &said) // what it cannot be read as, the status decides
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
		number = refined(said.ErrorCodes[0])
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
