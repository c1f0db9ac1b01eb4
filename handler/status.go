package handler

import (
	_ "embed"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
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
	routeNotFound        Code = "route_not_found"
	methodNotAllowed     Code = "method_not_allowed"
	bodyTimeout          Code = "body_timeout"
	stateChanged         Code = "state_changed"
	bodyTooLarge         Code = "body_too_large"
	unsupportedMediaType Code = "unsupported_media_type"
	graphRejected        Code = "graph_rejected"
	deliveryIDReused     Code = "idempotency_key_reused"
	graphThrottled       Code = "graph_throttled"
	rateLimited          Code = "rate_limited"
	internalError        Code = "internal_error"
	inProgress           Code = "in_progress"
)

//go:embed status.txt
var statusText string

type statusRow struct {
	status     int
	title      string
	message    string
	retryAfter time.Duration // zero: the header is not sent
}

// statusTable returns the rows of status.txt, and the code of each failure of a service by "service:reason". Parsing the
// table would delay every start.
//
//nolint:gochecknoglobals // a constant
var statusTable = sync.OnceValues(func() (rows map[Code]statusRow, codes map[string]Code) {
	rows, codes = map[Code]statusRow{}, map[string]Code{}
	for line := range strings.Lines(statusText) {
		cells := strings.SplitN(line, "|", 6)
		if strings.HasPrefix(line, "#") || len(cells) < 6 {
			continue
		}
		for i, cell := range cells {
			cells[i] = strings.TrimSpace(cell)
		}
		code, row := Code(cells[0]), statusRow{title: cells[4], message: cells[5]}
		row.status, _ = strconv.Atoi(cells[1])
		row.retryAfter, _ = time.ParseDuration(cells[2])
		rows[code] = row
		for failure := range strings.FieldsSeq(cells[3]) {
			codes[failure] = code
		}
	}
	return rows, codes
})

func statusOf(code Code) statusRow {
	rows, _ := statusTable()
	return rows[code]
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

// retriesLater reports whether Graph throttled a change that was surely not made. If it was in doubt before, the result
// says so, and the sender retries: the result of another try would hide the doubt.
func (r result) retriesLater() bool { return r.throttled && r.outcome == OutcomeNotDone }

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
	row := statusOf(r.code)
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
		_, codes := statusTable()
		for _, service := range []upstream.Service{failed.Service, "any"} {
			if code, ok := codes[string(service)+":"+string(failed.Reason)]; ok {
				return code
			}
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
