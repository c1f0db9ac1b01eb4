package handler

import (
	"errors"
	"net/http"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// Code is the stable word for what became of a request, or of one device in it. docs/errors.md has an entry for each
// code of a failure.
type Code string

// The codes of successes.
const (
	Unassigned        Code = "unassigned"
	AlreadyUnassigned Code = "already_unassigned" // only where the state was read
	WouldUnassign     Code = "would_unassign"     // of a dry run
)

// successes are what a caller is told for the codes of successes.
var successes = map[Code]string{ //nolint:gochecknoglobals // a table that nothing writes to
	Unassigned:        "The device has no resource account any more.",
	AlreadyUnassigned: "The device had no resource account.",
	WouldUnassign:     "The device would lose its resource account. This was a dry run: nothing was changed.",
}

// devicesFailed is the code of an answer about several devices that have not all failed alike; results has theirs.
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
	unauthenticated      Code = "unauthenticated"
	requestExpired       Code = "request_expired"
	forbidden            Code = "forbidden"
	policyDenied         Code = "policy_denied"
	doctorDenied         Code = "doctor_denied"
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
	vaultForbidden       Code = "vault_forbidden"
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

// row is one line of the status table: what a caller is told for a code.
type row struct {
	status  int
	title   string
	message string // what it is and what to do; at most 300 characters, the beginning being what matters
	// retryAfter is told as Retry-After unless the service behind named a time itself. Zero: no such header.
	retryAfter time.Duration
}

// rows is the status table. docs/api.md shows it, openapi.yaml and docs/errors.md describe it; tests hold them to it.
var rows = map[Code]row{ //nolint:gochecknoglobals // a table that nothing writes to
	invalidJSON:         {400, "Invalid JSON", "The body is not one JSON object in UTF-8. Send a JSON object and nothing behind it.", 0},
	bodyMissing:         {400, "Body missing", "The request has no body. Send a JSON object that names a device.", 0},
	unknownField:        {400, "Unknown field", "The body has a field that is not known here. Names are case-sensitive; use context for data of your own.", 0},
	duplicateField:      {400, "Duplicate field", "The body has a field twice. Send each field once.", 0},
	selectorMissing:     {400, "No device named", "The body names no device. Send deviceId, serialNumber, or a list of devices.", 0},
	selectorAmbiguous:   {400, "Several selectors", "A device is named in two ways at once. Send one of deviceId, serialNumber and devices.", 0},
	devicesInvalid:      {400, "Invalid devices", "devices must be a list of 1 to 20 objects that each name a device by deviceId or serialNumber.", 0},
	deviceIDInvalid:     {400, "Invalid deviceId", "deviceId is not the id of an Autopilot device: a string with a GUID. In ServiceNow, take it with current.getValue('…').", 0},
	serialNumberInvalid: {400, "Invalid serialNumber", "serialNumber must be a string of at most 128 printable ASCII characters with a letter or digit in it and no space at an end. In ServiceNow, take it with current.getValue('…').", 0},
	expectedInvalid:     {400, "Invalid expected", "expected must be an object with either userPrincipalName or resourceName, a string that is not empty.", 0},
	dryRunInvalid:       {400, "Invalid dryRun", "dryRun must be true or false.", 0},
	verifyInvalid:       {400, "Invalid verify", "verify must be true or false, and cannot be true for a dry run, after which there is nothing to verify.", 0},
	referenceInvalid:    {400, "Invalid reference", "reference must be a string of at most 128 printable characters. In ServiceNow, take it with current.getValue('…').", 0},
	deliveryIDInvalid:   {400, "Invalid Idempotency-Key", "The header Idempotency-Key must come once and have 1 to 128 letters, digits, dots, hyphens and underscores, with or without quotes around them.", 0},
	contextInvalid:      {400, "Invalid context", "context must be an object of at most 20 strings, with names of at most 64 letters, digits, dots, hyphens and underscores and values of at most 256 printable characters.", 0},

	unauthenticated: {401, "Not authenticated", "The request could not be authenticated. Check the signature, the API key or the token, and that it is the current one.", 0},
	requestExpired:  {401, "Request expired", "The signature is right, but its time is outside the accepted window. Check the clock of the sender, and sign each attempt anew.", 0},

	forbidden:    {403, "Not allowed to call", "The token is genuine, but its app or user may not call this function. Assign the app role Device.Unassign (or what ENTRA_ROLE says), and for a user also consent to the scope.", 0},
	policyDenied: {403, "Outside the policy", "The group tag of the device is not one that this function may act on. Its setting ALLOWED_GROUP_TAGS lists those.", 0},
	doctorDenied: {403, "Not allowed to examine", "The caller is authentic, and may not have this function examined. Its setting OPERATOR_CALLERS lists those who may, and nobody where it is not set.", 0},

	deviceNotFound: {404, "Device not found", "No Autopilot device has this id or serial number. Check that an id is that of the Autopilot device, not of the Entra or Intune device.", 0},
	routeNotFound:  {404, "Route not found", "There is nothing at this address. The routes are POST /api/unassign, GET /api/doctor and GET /api/health.", 0},

	methodNotAllowed:     {405, "Method not allowed", "The address does not take this method. See the header Allow.", 0},
	bodyTimeout:          {408, "Body too slow", "The body did not arrive in time. Send the request again.", 0},
	serialAmbiguous:      {409, "Serial number ambiguous", "Several Autopilot devices have this serial number, and none was touched. deviceIds lists them: send the id of the one that is meant.", 0},
	stateChanged:         {409, "State changed", "The device does not carry the account that was expected, or was changed by somebody else meanwhile. Look at it before asking again.", 0},
	graphConflict:        {409, "Conflict in Intune", "Graph reports a conflict with another change of this device. Look at it before asking again.", 0},
	bodyTooLarge:         {413, "Body too large", "The body is larger than 16 KiB.", 0},
	unsupportedMediaType: {415, "Unsupported media type", "The body must be JSON in UTF-8: Content-Type application/json or none, and no Content-Encoding.", 0},
	graphRejected:        {422, "Rejected by Graph", "Graph refused the request for this device and will refuse it again. Its own code is in graph.", 0},
	deliveryIDReused:     {422, "Delivery id reused", "The same webhook-id or Idempotency-Key came with another body before. Give every request an id of its own, and keep it when the same request is sent again.", 0},

	permissionMissing:  {424, "Graph permission missing", "Graph does not let this function act. Its app needs the application permission DeviceManagementServiceConfig.ReadWrite.All with admin consent; a new grant takes some minutes.", 0},
	tenantNotEnabled:   {424, "Tenant without Intune", "Graph says that this does not apply to the tenant. Check GRAPH_TENANT_ID, and that the tenant has an active Intune licence.", 0},
	vaultForbidden:     {424, "Key Vault refused", "Key Vault does not let this function read its secrets. Check the role Key Vault Secrets User and the vault's firewall; a new role takes some minutes.", 0},
	secretNotFound:     {424, "Secret not found", "A secret that this function is set up to use is not in Key Vault. Check the names in its settings.", 0},
	secretDisabled:     {424, "Secret disabled", "A secret that this function is set up to use is disabled in Key Vault.", 0},
	secretInvalid:      {424, "Secret unusable", "A secret in Key Vault is not what it must be: empty, too short, not base64, expired, or a certificate without its key. The log names it.", 0},
	credentialRejected: {424, "Credential rejected", "Entra ID refused the credential of this function. Check that the secret or certificate in Key Vault is a current one of the app or, without one, whom the app trusts.", 0},
	credentialExpired:  {424, "Credential expired", "The client secret of the app has expired. Make a new one and store it in Key Vault; it is picked up by the next request.", 0},
	appNotFound:        {424, "App not found", "Entra ID does not know the app in this tenant. Check GRAPH_CLIENT_ID and GRAPH_TENANT_ID.", 0},
	tenantNotFound:     {424, "Tenant not found", "Entra ID does not know the tenant. Check GRAPH_TENANT_ID and AZURE_CLOUD.", 0},
	scopeInvalid:       {424, "Scope invalid", "Entra ID does not know Microsoft Graph by the address in use. Check AZURE_CLOUD and GRAPH_ENDPOINT.", 0},
	upstreamTLS:        {424, "Certificate not trusted", "The certificate of a service behind this function is not trusted. Check AZURE_CLOUD and any proxy in between.", 0},

	graphThrottled:      {429, "Throttled by Graph", "Graph is receiving too many requests. Ask again after the time in Retry-After.", 30 * time.Second},
	rateLimited:         {429, "Too many requests", "This caller has asked for more devices than it may in a minute. Ask again after the time in Retry-After.", time.Minute},
	internalError:       {500, "Internal error", "This function failed in a way nobody foresaw. Ask again; if it stays, report the request id.", 0},
	graphError:          {502, "Graph failed", "Graph failed on its own account. Ask again; repeating is safe.", 0},
	graphBadAnswer:      {502, "No answer from Graph", "What came back from Graph is not an answer. Ask again; repeating is safe.", 0},
	graphUnavailable:    {503, "Graph unavailable", "Graph is not available. Ask again after the time in Retry-After.", 30 * time.Second},
	deviceLocked:        {503, "Device locked", "Intune has locked the device for another change. Ask again after the time in Retry-After.", 30 * time.Second},
	vaultUnavailable:    {503, "Key Vault unavailable", "Key Vault is not available. Ask again after the time in Retry-After.", 10 * time.Second},
	identityUnavailable: {503, "Identity unavailable", "The service that issues tokens is not available. Ask again after the time in Retry-After.", 30 * time.Second},
	upstreamUnreachable: {503, "No connection", "A service behind this function could not be reached. Ask again after the time in Retry-After.", 30 * time.Second},
	inProgress:          {503, "In progress", "The same request came before and is still being carried out. Ask again after the time in Retry-After to learn how it ended.", 5 * time.Second},
	graphTimeout:        {504, "Graph timed out", "Graph did not answer in time, and may or may not have acted. Ask again; repeating is safe.", 0},
	vaultTimeout:        {504, "Key Vault timed out", "Key Vault did not answer in time. Nothing was done; ask again.", 0},
	identityTimeout:     {504, "Identity timed out", "The service that issues tokens did not answer in time. Nothing was done; ask again.", 0},
}

// retryable is the rule for callers: whether a request that got this status may do better when it is sent again.
func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// refusal is a failure that this room itself finds.
type refusal struct {
	code  Code
	field string // the field of the body it is about; may be empty
}

func (r *refusal) Error() string {
	if r.field != "" {
		return string(r.code) + ": " + shown(r.field)
	}
	return string(r.code)
}

// outcome says which row of the status table err belongs to. Whatever is not foreseen here is an internal error.
func outcome(err error) Code {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused.code
	}
	if _, ok := errors.AsType[*limited](err); ok {
		return rateLimited
	}
	failed, ok := errors.AsType[*upstream.Error](err)
	switch {
	case errors.Is(err, caller.ErrExpired):
		return requestExpired
	case errors.Is(err, caller.ErrForbidden):
		return forbidden
	case errors.Is(err, caller.ErrDenied), errors.Is(err, caller.ErrNoEvidence):
		return unauthenticated
	case !ok:
		return internalError
	case failed.Reason == upstream.Unreachable:
		return upstreamUnreachable
	case failed.Reason == upstream.Untrusted:
		return upstreamTLS
	}
	type fault struct {
		upstream.Service
		upstream.Reason
	}
	switch (fault{failed.Service, failed.Reason}) {
	case fault{upstream.Graph, upstream.NotFound}:
		return deviceNotFound
	case fault{upstream.Graph, upstream.Ambiguous}:
		return serialAmbiguous
	case fault{upstream.Graph, upstream.StateChanged}:
		return stateChanged
	case fault{upstream.Graph, upstream.Conflict}:
		return graphConflict
	case fault{upstream.Graph, upstream.Rejected}:
		return graphRejected
	case fault{upstream.Graph, upstream.Forbidden}:
		return permissionMissing
	case fault{upstream.Graph, upstream.TenantNotEnabled}:
		return tenantNotEnabled
	case fault{upstream.Graph, upstream.Throttled}:
		return graphThrottled
	case fault{upstream.Graph, upstream.Internal}:
		return graphError
	case fault{upstream.Graph, upstream.BadAnswer}:
		return graphBadAnswer
	case fault{upstream.Graph, upstream.Unavailable}:
		return graphUnavailable
	case fault{upstream.Graph, upstream.Locked}:
		return deviceLocked
	case fault{upstream.Graph, upstream.Timeout}:
		return graphTimeout

	case fault{upstream.Vault, upstream.Forbidden}, fault{upstream.Vault, upstream.Rejected}:
		return vaultForbidden
	case fault{upstream.Vault, upstream.NotFound}:
		return secretNotFound
	case fault{upstream.Vault, upstream.SecretDisabled}:
		return secretDisabled
	case fault{upstream.Vault, upstream.SecretInvalid}:
		return secretInvalid
	case fault{upstream.Vault, upstream.Timeout}:
		return vaultTimeout
	case fault{upstream.Vault, upstream.Throttled}, fault{upstream.Vault, upstream.Unavailable},
		fault{upstream.Vault, upstream.Internal}, fault{upstream.Vault, upstream.BadAnswer}:
		return vaultUnavailable

	case fault{upstream.Identity, upstream.CredentialRejected}, fault{upstream.Identity, upstream.Forbidden},
		fault{upstream.Identity, upstream.Rejected}:
		return credentialRejected
	case fault{upstream.Identity, upstream.CredentialExpired}:
		return credentialExpired
	case fault{upstream.Identity, upstream.AppNotFound}:
		return appNotFound
	case fault{upstream.Identity, upstream.TenantNotFound}:
		return tenantNotFound
	case fault{upstream.Identity, upstream.ScopeInvalid}:
		return scopeInvalid
	case fault{upstream.Identity, upstream.Timeout}:
		return identityTimeout
	case fault{upstream.Identity, upstream.Throttled}, fault{upstream.Identity, upstream.Unavailable},
		fault{upstream.Identity, upstream.Internal}, fault{upstream.Identity, upstream.BadAnswer}:
		return identityUnavailable
	}
	return internalError
}

// What became of the device, in a failure.
const (
	notDone = "not_done"
	unknown = "unknown"
)

// done says what became of the device when err came back: notDone, or unknown where the service may have acted or
// where this program does not know what it did or is doing.
func done(err error) string {
	failed, ok := errors.AsType[*upstream.Error](err)
	code := outcome(err)
	if (ok && failed.MaybeDone) || code == internalError || code == inProgress {
		return unknown
	}
	return notDone
}

// retryAfter returns how long the caller of a request that ended with err is asked to wait, 0 if it is not asked to.
func retryAfter(err error) time.Duration {
	wait := rows[outcome(err)].retryAfter
	said := time.Duration(0)
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		said = failed.RetryAfter
	} else if limited, ok := errors.AsType[*limited](err); ok {
		said = limited.wait
	}
	if wait > 0 && said > 0 { // what was said counts, rounded up to whole seconds
		return (said + time.Second - 1).Truncate(time.Second)
	}
	return wait
}
