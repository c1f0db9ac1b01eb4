package handler

import (
	"errors"
	"net/http"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// Code is the stable name of the result of a request, or of one device in it. docs/errors.md has an entry for each code
// of a failure.
type Code string

// The codes of successes.
const (
	Unassigned        Code = "unassigned"
	AlreadyUnassigned Code = "already_unassigned" // only where the state was read
	WouldUnassign     Code = "would_unassign"     // of a dry run
)

// The codes of successes that stand in audit records alone.
const (
	examined Code = "examined" // the doctor's report was returned
	listed   Code = "listed"   // a page of the device list was returned
	swept    Code = "swept"    // a sweep completed
)

// devicesFailed is the code of a list that a retry may help, and of a list with different codes; results has a code for
// each device.
const devicesFailed Code = "devices_failed"

// The codes of failures.
const (
	invalidJSON          Code = "invalid_json"
	bodyMissing          Code = "body_missing"
	unknownField         Code = "unknown_field"
	duplicateField       Code = "duplicate_field"
	selectorMissing      Code = "selector_missing"
	selectorAmbiguous    Code = "selector_ambiguous"
	devicesInvalid       Code = "devices_invalid"
	deviceIDInvalid      Code = "device_id_invalid"
	serialNumberInvalid  Code = "serial_number_invalid"
	expectedInvalid      Code = "expected_invalid"
	dryRunInvalid        Code = "dry_run_invalid"
	verifyInvalid        Code = "verify_invalid"
	referenceInvalid     Code = "reference_invalid"
	contextInvalid       Code = "context_invalid"
	deliveryIDInvalid    Code = "idempotency_key_invalid"
	queryInvalid         Code = "query_invalid"
	unauthenticated      Code = "unauthenticated"
	requestExpired       Code = "request_expired"
	forbidden            Code = "forbidden"
	policyDenied         Code = "policy_denied"
	operatorDenied       Code = "operator_denied"
	deviceNotFound       Code = "device_not_found"
	routeNotFound        Code = "route_not_found"
	methodNotAllowed     Code = "method_not_allowed"
	bodyTimeout          Code = "body_timeout"
	serialAmbiguous      Code = "serial_number_ambiguous"
	stateChanged         Code = "state_changed"
	graphConflict        Code = "graph_conflict"
	bodyTooLarge         Code = "body_too_large"
	unsupportedMediaType Code = "unsupported_media_type"
	graphRejected        Code = "graph_rejected"
	deliveryIDReused     Code = "idempotency_key_reused"
	permissionMissing    Code = "graph_permission_missing"
	tenantNotEnabled     Code = "tenant_not_enabled"
	approvalRequired     Code = "admin_approval_required"
	vaultForbidden       Code = "vault_forbidden"
	vaultVersion         Code = "vault_version_unsupported"
	secretNotFound       Code = "secret_not_found"
	secretDisabled       Code = "secret_disabled"
	secretInvalid        Code = "secret_invalid"
	credentialRejected   Code = "credential_rejected"
	credentialExpired    Code = "credential_expired"
	appNotFound          Code = "app_not_found"
	tenantNotFound       Code = "tenant_not_found"
	scopeInvalid         Code = "scope_invalid"
	upstreamTLS          Code = "upstream_tls"
	graphThrottled       Code = "graph_throttled"
	rateLimited          Code = "rate_limited"
	internalError        Code = "internal_error"
	graphError           Code = "graph_error"
	graphBadAnswer       Code = "graph_bad_answer"
	graphUnavailable     Code = "graph_unavailable"
	deviceLocked         Code = "device_locked"
	vaultUnavailable     Code = "vault_unavailable"
	identityUnavailable  Code = "identity_unavailable"
	upstreamUnreachable  Code = "upstream_unreachable"
	inProgress           Code = "in_progress"
	graphTimeout         Code = "graph_timeout"
	vaultTimeout         Code = "vault_timeout"
	identityTimeout      Code = "identity_timeout"
)

// statusRow is one row of the status table.
type statusRow struct {
	status  int
	title   string
	message string // the event, then its fix; at most 300 characters
	// retryAfter is the value of Retry-After unless the service named a time. Zero means that the header is not sent.
	retryAfter time.Duration
}

// statusTable holds the status and the texts of every failure code of a request; the codes of events are in event.go.
// Tests hold openapi.yaml, docs/errors.md and
// docs/api.md to it.
var statusTable = map[Code]statusRow{ //nolint:gochecknoglobals // a table that nothing writes to
	invalidJSON: {
		400, "Invalid JSON",
		"The body is not one JSON object in UTF-8. Send one JSON object and nothing after it.", 0,
	},
	bodyMissing: {
		400, "Body missing",
		"The request has no body. Send a JSON object that names a device.", 0,
	},
	unknownField: {
		400, "Unknown field",
		"The body has an unknown field. Names are case-sensitive; use context for your own data.", 0,
	},
	duplicateField: {
		400, "Duplicate field",
		"The body has a field twice. Send each field once.", 0,
	},
	selectorMissing: {
		400, "No device named",
		"The body names no device. Send deviceId, serialNumber or devices.", 0,
	},
	selectorAmbiguous: {
		400, "Several selectors",
		"The body names a device in two ways. Send one of deviceId, serialNumber and devices.", 0,
	},
	devicesInvalid: {
		400, "Invalid devices",
		"devices must be a list of 1 to 20 objects that each name a device by deviceId or serialNumber.", 0,
	},
	deviceIDInvalid: {
		400, "Invalid deviceId",
		"deviceId must be a string with the GUID of an Autopilot device. In ServiceNow, read it with " +
			"current.getValue('…').", 0,
	},
	serialNumberInvalid: {
		400, "Invalid serialNumber",
		"serialNumber must be a string of at most 128 printable ASCII characters, with a letter or digit in it " +
			"and no space at either end. In ServiceNow, read it with current.getValue('…').", 0,
	},
	expectedInvalid: {
		400, "Invalid expected",
		"expected must be an object with either userPrincipalName or resourceName, a string that is not empty.", 0,
	},
	dryRunInvalid: {
		400, "Invalid dryRun",
		"dryRun must be true or false.", 0,
	},
	verifyInvalid: {
		400, "Invalid verify",
		"verify must be true or false, and must not be true in a dry run, which changes nothing.", 0,
	},
	referenceInvalid: {
		400, "Invalid reference",
		"reference must be a string. In ServiceNow, read it with current.getValue('…').", 0,
	},
	deliveryIDInvalid: {
		400, "Invalid Idempotency-Key",
		"Idempotency-Key must be one header with 1 to 128 printable ASCII characters.", 0,
	},
	contextInvalid: {
		400, "Invalid context",
		"context must be an object of at most 20 strings. A name has 1 to 64 letters, digits, dots, hyphens and " +
			"underscores.", 0,
	},
	queryInvalid: {
		400, "Invalid query",
		"The query has an unknown, repeated or invalid parameter. Send groupTag, serialNumber or pageToken, " +
			"each once; a pageToken comes from the previous page.", 0,
	},

	unauthenticated: {
		401, "Not authenticated",
		"The request is not authenticated. Check that the signature, API key or token is complete and current. " +
			"A webhook-id has 1 to 128 letters, digits, hyphens and underscores.", 0,
	},
	requestExpired: {
		401, "Request expired",
		"The signature is valid, but its timestamp is outside the accepted window. Check the sender's clock, " +
			"and sign each attempt anew.", 0,
	},

	forbidden: {
		403, "Not allowed to call",
		"The token is valid, but its app or user lacks the right to call. Assign the app role Device.Unassign " +
			"(setting ENTRA_ROLE); a user also needs the scope.", 0,
	},
	policyDenied: {
		403, "Outside the policy",
		"The policy of this function denies the change: for the device's group tag (ALLOWED_GROUP_TAGS, " +
			"CALLER_POLICY), or for the member that field names, which the policy requires or limits.", 0,
	},
	operatorDenied: {
		403, "Not an operator",
		"The caller is authenticated but is not an operator. Add its name to the setting OPERATOR_CALLERS.", 0,
	},

	deviceNotFound: {
		404, "Device not found",
		"No Autopilot device has this id or serial number. Check that an id is the Autopilot device's, not the " +
			"Entra or Intune device's.", 0,
	},
	routeNotFound: {
		404, "Route not found",
		"This address is no route. The routes are POST /api/unassign, GET /api/devices, GET /api/doctor and GET " +
			"/api/health.", 0,
	},

	methodNotAllowed: {
		405, "Method not allowed",
		"This route does not support the method. The header Allow lists the supported methods.", 0,
	},
	bodyTimeout: {
		408, "Body too slow",
		"The body did not arrive in time. Send the request again.", 0,
	},
	serialAmbiguous: {
		409, "Serial number ambiguous",
		"Several Autopilot devices have this serial number. None was changed. Send the deviceId of the right " +
			"device; deviceIds lists up to 20 of deviceCount.", 0,
	},
	stateChanged: {
		409, "State changed",
		"The device carries another account than expected, or changed during the request. account is the " +
			"account found. Check the device before you retry.", 0,
	},
	graphConflict: {
		409, "Conflict in Intune",
		"Graph reports a conflict with another change of this device. Check the device before you retry.", 0,
	},
	bodyTooLarge: {
		413, "Body too large",
		"The body is larger than 16 KiB. Send fewer devices in one request.", 0,
	},
	unsupportedMediaType: {
		415, "Unsupported media type",
		"The body must be JSON in UTF-8. Send Content-Type application/json or none, and no Content-Encoding.", 0,
	},
	graphRejected: {
		422, "Rejected by Graph",
		"Graph rejected the request for this device and will reject it again. The member graph has Graph's own " +
			"code.", 0,
	},
	deliveryIDReused: {
		422, "Delivery id reused",
		"The same webhook-id or Idempotency-Key came with another body before. Use a new id for each request, " +
			"and keep it when you retry.", 0,
	},

	permissionMissing: {
		424, "Graph permission missing",
		"Graph denied access. Grant the app the application permission " +
			"DeviceManagementServiceConfig.ReadWrite.All with admin consent; a new grant takes some minutes.", 0,
	},
	tenantNotEnabled: {
		424, "Tenant without Intune",
		"Graph reports that the tenant has no Intune. Check GRAPH_TENANT_ID, and that the tenant has an active " +
			"Intune licence.", 0,
	},
	approvalRequired: {
		424, "Admin approval required",
		"Multi Admin Approval in Intune blocks this app. Exclude the app from the access policy, or approve the " +
			"change in the Intune admin center.", 0,
	},
	vaultForbidden: {
		424, "Key Vault denied access",
		"Key Vault denied access to the secrets. Check the role Key Vault Secrets User and the vault's network " +
			"rules; a new role takes some minutes.", 0,
	},
	vaultVersion: {
		424, "Key Vault version unsupported",
		"Key Vault does not support the API version that this function uses. Report it with the version of this " +
			"function and the cloud.", 0,
	},
	secretNotFound: {
		424, "Secret not found",
		"A configured secret is not in Key Vault. Check the names of secrets in the settings.", 0,
	},
	secretDisabled: {
		424, "Secret disabled",
		"A configured secret is disabled in Key Vault. Enable it or store a new version.", 0,
	},
	secretInvalid: {
		424, "Secret unusable",
		"A configured secret in Key Vault is unusable: empty, too short, not base64, expired, or a certificate " +
			"without a private key. The log names the secret.", 0,
	},
	credentialRejected: {
		424, "Credential rejected",
		"Entra ID rejected this function's credential. Check that the secret or certificate in Key Vault " +
			"belongs to the app, or that the app trusts the federated identity.", 0,
	},
	credentialExpired: {
		424, "Credential expired",
		"The app's client secret has expired. Create a new one and store it in Key Vault; the next request uses " +
			"it.", 0,
	},
	appNotFound: {
		424, "App not found",
		"Entra ID does not know the app in this tenant. Check GRAPH_CLIENT_ID and GRAPH_TENANT_ID.", 0,
	},
	tenantNotFound: {
		424, "Tenant not found",
		"Entra ID does not know the tenant. Check GRAPH_TENANT_ID and AZURE_CLOUD.", 0,
	},
	scopeInvalid: {
		424, "Scope invalid",
		"Entra ID does not know Microsoft Graph at the configured address. Check AZURE_CLOUD and " +
			"GRAPH_ENDPOINT.", 0,
	},
	upstreamTLS: {
		424, "Certificate not trusted",
		"The TLS certificate of an upstream service is not trusted. Check AZURE_CLOUD and any proxy in between.", 0,
	},

	graphThrottled: {
		429, "Throttled by Graph",
		"Graph is throttling this function. Retry after the time in Retry-After.", 30 * time.Second,
	},
	rateLimited: {
		429, "Too many requests",
		"The caller exceeded its limit of devices a minute or an hour. Retry after the time in Retry-After.",
		time.Minute,
	},
	internalError: {
		500, "Internal error",
		"This function failed unexpectedly. Retry; if the error persists, report the request id.", 0,
	},
	graphError: {
		502, "Graph failed",
		"Graph reported an internal error. Retry; repeating the request is safe.", 0,
	},
	graphBadAnswer: {
		502, "Unexpected response from Graph",
		"The response from Graph is unreadable. Retry; repeating the request is safe.", 0,
	},
	graphUnavailable: {
		503, "Graph unavailable",
		"Graph is unavailable. Retry after the time in Retry-After.", 30 * time.Second,
	},
	deviceLocked: {
		503, "Device locked",
		"Intune has locked the device for another change. Retry after the time in Retry-After.", 30 * time.Second,
	},
	vaultUnavailable: {
		503, "Key Vault unavailable",
		"Key Vault is unavailable. Retry after the time in Retry-After.", 10 * time.Second,
	},
	identityUnavailable: {
		503, "Identity unavailable",
		"The token service is unavailable. Retry after the time in Retry-After.", 30 * time.Second,
	},
	upstreamUnreachable: {
		503, "No connection",
		"An upstream service could not be reached, and nothing was sent. Retry after the time in Retry-After.",
		30 * time.Second,
	},
	inProgress: {
		503, "In progress",
		"The same request is still running. Retry after the time in Retry-After to get its result.", 5 * time.Second,
	},
	graphTimeout: {
		504, "Graph timed out",
		"Graph did not respond in time. outcome tells whether it may have changed the device. Retry; repeating the " +
			"request is safe.", 0,
	},
	vaultTimeout: {
		504, "Key Vault timed out",
		"Key Vault did not respond in time. Nothing was changed; retry.", 0,
	},
	identityTimeout: {
		504, "Identity timed out",
		"The token service did not respond in time. Nothing was changed; retry.", 0,
	},
}

// upstreamCodes maps a service's failure to its code. Unreachable and Untrusted mean the same for every service.
//
//nolint:gochecknoglobals // a table that nothing writes to
var upstreamCodes = map[upstream.Service]map[upstream.Reason]Code{
	upstream.Graph: {
		upstream.NotFound: deviceNotFound, upstream.Ambiguous: serialAmbiguous, upstream.StateChanged: stateChanged,
		upstream.Conflict: graphConflict, upstream.Rejected: graphRejected, upstream.Forbidden: permissionMissing,
		upstream.TenantNotEnabled: tenantNotEnabled, upstream.ApprovalRequired: approvalRequired,
		upstream.Throttled: graphThrottled, upstream.Internal: graphError, upstream.BadAnswer: graphBadAnswer,
		upstream.Unavailable: graphUnavailable, upstream.Locked: deviceLocked, upstream.Timeout: graphTimeout,
	},
	upstream.Vault: {
		upstream.Forbidden: vaultForbidden, upstream.Rejected: vaultForbidden,
		upstream.VersionUnsupported: vaultVersion, upstream.NotFound: secretNotFound,
		upstream.SecretDisabled: secretDisabled, upstream.SecretInvalid: secretInvalid,
		upstream.Timeout: vaultTimeout, upstream.Throttled: vaultUnavailable, upstream.Unavailable: vaultUnavailable,
		upstream.Internal: vaultUnavailable, upstream.BadAnswer: vaultUnavailable,
	},
	upstream.Identity: {
		upstream.CredentialRejected: credentialRejected, upstream.Forbidden: credentialRejected,
		upstream.Rejected: credentialRejected, upstream.CredentialExpired: credentialExpired,
		upstream.AppNotFound: appNotFound, upstream.TenantNotFound: tenantNotFound, upstream.ScopeInvalid: scopeInvalid,
		upstream.Timeout: identityTimeout, upstream.Throttled: identityUnavailable,
		upstream.Unavailable: identityUnavailable, upstream.Internal: identityUnavailable,
		upstream.BadAnswer: identityUnavailable,
	},
}

// retryable is the rule for callers: it reports whether a retry of a request with this status may succeed.
func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Outcome says whether the change was made.
type Outcome string

// The outcomes. A dry run is OutcomeNotDone.
const (
	OutcomeDone    Outcome = "done"
	OutcomeNotDone Outcome = "not_done"
	OutcomeUnknown Outcome = "unknown" // the service may have made the change, or the change is still under way
)

// result is how a request or one of its devices ended. The zero result means that it has not ended.
type result struct {
	code       Code
	status     int
	outcome    Outcome
	retryAfter time.Duration // zero: no Retry-After
	throttled  bool          // by Graph
	err        error         // the cause, for the log; nil for a success
}

func (r result) ended() bool     { return r.code != "" }
func (r result) failed() bool    { return r.err != nil }
func (r result) succeeded() bool { return r.ended() && r.err == nil }

// isFinal reports whether a retry would end in the same result: a success, or a refusal caused by the device. Transient
// failures and our own configuration faults (424) are not final: a retry may succeed.
func (r result) isFinal() bool {
	return r.ended() && !retryable(r.status) && r.status != http.StatusFailedDependency
}

// succeed returns the result of a success.
func succeed(code Code) result {
	r := result{code: code, status: http.StatusOK, outcome: OutcomeDone}
	if code == WouldUnassign {
		r.outcome = OutcomeNotDone
	}
	return r
}

// refusal is a failure that this package detects.
type refusal struct {
	code  Code
	field string // the field of the body or the query that it is about; may be empty
}

func (r *refusal) Error() string {
	if r.field != "" {
		return string(r.code) + ": " + quoteField(r.field)
	}
	return string(r.code)
}

// classify returns the result of a request or device that failed with err. It decides code, status, outcome and
// Retry-After, and runs once for each failure. Only a list (listResponse) and a sweep have a result of their own.
func classify(err error) result {
	r := result{code: CodeOf(err), outcome: OutcomeNotDone, err: err}
	row := statusTable[r.code]
	r.status, r.retryAfter, r.throttled = row.status, row.retryAfter, r.code == graphThrottled
	var named time.Duration // by the service
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		named = failed.RetryAfter
		if failed.MaybeDone {
			r.outcome = OutcomeUnknown
		}
	} else if limited, ok := errors.AsType[*rateLimitError](err); ok {
		named = limited.wait
	}
	if r.code == internalError || r.code == inProgress {
		r.outcome = OutcomeUnknown
	}
	if r.retryAfter > 0 && named > 0 { // rounded up to whole seconds
		r.retryAfter = (named + time.Second - 1).Truncate(time.Second)
	}
	return r
}

// CodeOf returns the code of an error. An error that it does not know is an internal error.
func CodeOf(err error) Code {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused.code
	}
	if _, ok := errors.AsType[*rateLimitError](err); ok {
		return rateLimited
	}
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		switch failed.Reason {
		case upstream.Unreachable:
			return upstreamUnreachable
		case upstream.Untrusted:
			return upstreamTLS
		}
		if code, ok := upstreamCodes[failed.Service][failed.Reason]; ok {
			return code
		}
	}
	switch {
	case errors.Is(err, caller.ErrExpired):
		return requestExpired
	case errors.Is(err, caller.ErrForbidden):
		return forbidden
	case errors.Is(err, caller.ErrDenied), errors.Is(err, caller.ErrNoEvidence):
		return unauthenticated
	}
	return internalError
}
