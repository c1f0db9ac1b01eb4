package handler

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// response is a response before it is sent. Its other headers are already in the header of the ResponseWriter.
type response struct {
	status      int
	contentType string // "" without a body
	body        string
}

// send writes the response. A caller that went away does not read it.
func (r response) send(w http.ResponseWriter) {
	if r.contentType != "" {
		w.Header().Set("Content-Type", r.contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(r.body)))
	}
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, r.body)
}

func jsonResponse(status int, contentType string, body any) response {
	return response{status, contentType, encodeJSON(body)}
}

// encodeJSON returns a document as JSON. Escapes for HTML would make a requeued message too large to read.
func encodeJSON(document any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		panic(fmt.Sprintf("handler: encode %T: %v", document, err)) // every type is of this package
	}
	return b.String()
}

// Success is the body of a response about a device that was changed, or that a dry run checked.
type Success struct {
	Code           Code     `json:"code"`
	Message        string   `json:"message"`
	Status         int      `json:"status,omitempty"` // in a list
	DeviceID       string   `json:"deviceId"`
	SerialNumber   string   `json:"serialNumber,omitempty"`
	Account        *Account `json:"account,omitempty"`
	Reference      string   `json:"reference,omitempty"`
	RequestID      string   `json:"requestId,omitempty"`
	GraphRequestID string   `json:"graphRequestId,omitempty"`
	Verification   string   `json:"verification,omitempty"`
}

// Account is the resource account that a device carried when it was read.
type Account struct {
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	ResourceName      string `json:"resourceName,omitempty"`
}

// Failure is the body of every response that is no success. The error comes first, because callers truncate: ServiceNow
// keeps 100 characters of a body, Power Automate shows error.message. The other members are from RFC 9457 and our own.
type Failure struct {
	Error        FailureError  `json:"error"`
	Type         string        `json:"type"`
	Title        string        `json:"title"`
	Status       int           `json:"status"`
	Detail       string        `json:"detail"`
	Field        string        `json:"field,omitempty"`
	Retryable    bool          `json:"retryable"`
	Outcome      Outcome       `json:"outcome"`
	DeviceID     string        `json:"deviceId,omitempty"`
	SerialNumber string        `json:"serialNumber,omitempty"`
	Account      *Account      `json:"account,omitempty"`
	DeviceIDs    []string      `json:"deviceIds,omitempty"`   // of devices that share a serial number, at most 20
	DeviceCount  int           `json:"deviceCount,omitempty"` // of all devices that share it
	RequestID    string        `json:"requestId,omitempty"`
	Reference    string        `json:"reference,omitempty"`
	Graph        *GraphFailure `json:"graph,omitempty"`
}

// FailureError is a failure in the form of Graph's own.
type FailureError struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// GraphFailure has the details that Microsoft's support needs.
type GraphFailure struct {
	Status    int    `json:"status"`
	Code      string `json:"code,omitempty"`
	RequestID string `json:"requestId,omitempty"`
}

// List is the body of a response for a list of devices. Its Failure is nil where the status is 2xx.
type List struct {
	*Failure
	Summary   Summary `json:"summary"`
	Results   []any   `json:"results"` // a Success or a Failure for each device, in order
	Reference string  `json:"reference,omitempty"`
	RequestID string  `json:"requestId"`
}

// Summary counts the devices of a list.
type Summary struct {
	Total     int `json:"total"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
}

// respond returns the response to a request for devices, and sets its headers in header.
func (h *Handler) respond(header http.Header, r *http.Request, o *origin, w *work) response {
	id := o.requestID
	if w.replayOf != "" { // a repetition has the body of the first request
		id = w.replayOf
		header.Set("Idempotent-Replayed", "true")
	}
	var d *device // the only one
	ended := w.result
	if len(w.devices) == 1 {
		if d = w.devices[0]; !ended.failed() && !w.list {
			ended = d.result
		}
	}
	if ended.failed() {
		body := newFailure(ended, d)
		body.RequestID, body.Reference = id, w.reference
		if ended.status == http.StatusUnauthorized || ended.code == forbidden {
			header.Set("WWW-Authenticate", caller.Challenge(h.Verifier, ended.err))
		}
		if ended.retryAfter > 0 {
			setRetryAfter(header, ended.retryAfter)
		}
		return jsonResponse(ended.status, failureType(r.Header), body)
	}
	if w.list {
		return listResponse(header, r, w, id)
	}
	prefers := prefersRepresentation(r.Header)
	if !prefers && !w.dryRun && !w.verify {
		return response{status: http.StatusNoContent} // as Graph responds
	}
	if prefers {
		header.Set("Preference-Applied", "return=representation")
	}
	body := d.success()
	body.Reference, body.RequestID = w.reference, id
	return jsonResponse(http.StatusOK, "application/json", body)
}

// failRequest returns the response to a request that failed as a whole, without devices.
func (h *Handler) failRequest(header http.Header, r *http.Request, o *origin, ended result) response {
	return h.respond(header, r, o, &work{result: ended})
}

// listResponse returns the response for a list of devices. Its status is 200 if all succeeded, 503 if a retry may help
// (repeating is safe), the common status if all failed alike, and 207 otherwise.
func listResponse(header http.Header, r *http.Request, w *work, id string) response {
	body := List{Results: make([]any, len(w.devices)), Reference: w.reference, RequestID: id}
	body.Summary.Total = len(w.devices)
	first := w.devices[0].result
	sameStatus, sameCode, retry := true, true, false
	wait, outcome := 10*time.Second, OutcomeNotDone
	for i, d := range w.devices {
		ended := d.result
		body.Results[i] = d.listBody()
		sameStatus, sameCode = sameStatus && ended.status == first.status, sameCode && ended.code == first.code
		if !ended.failed() {
			body.Summary.Succeeded++
			continue
		}
		body.Summary.Failed++
		retry = retry || retryable(ended.status)
		wait = max(wait, ended.retryAfter)
		if ended.outcome == OutcomeUnknown {
			outcome = OutcomeUnknown
		}
	}
	status, code := first.status, devicesFailed
	switch {
	case body.Summary.Failed == 0:
		return jsonResponse(http.StatusOK, "application/json", body)
	case retry:
		status = http.StatusServiceUnavailable
		setRetryAfter(header, wait)
	case !sameStatus:
		return jsonResponse(http.StatusMultiStatus, "application/json", body)
	case sameCode:
		code = first.code
	}
	failure := newFailure(result{code: code, status: status, outcome: outcome}, nil)
	failure.Title = cmp.Or(failure.Title, "Devices failed")
	failure.Detail = fmt.Sprintf("%d of %d devices failed. results has the result of each device, in order.",
		body.Summary.Failed, body.Summary.Total)
	failure.Error.Message = failure.Detail
	body.Failure = &failure
	return jsonResponse(status, failureType(r.Header), body)
}

func (d *device) listBody() any {
	if d.result.failed() {
		return newFailure(d.result, d)
	}
	body := d.success()
	body.Status = d.result.status
	return body
}

// success returns the body for a device that has not failed.
func (d *device) success() Success {
	return Success{
		Code: d.result.code, Message: successMessage(d.result.code, d.verification), DeviceID: d.known.ID.String(),
		SerialNumber: d.known.SerialNumber, Account: d.account(), GraphRequestID: d.graphRequestID,
		Verification: d.verification,
	}
}

// successMessage returns the message of a success. It never contradicts the verification.
func successMessage(code Code, verification string) string {
	message := "Graph removed the resource account."
	switch code {
	case WouldUnassign:
		return "The request would remove the resource account. This was a dry run: nothing was changed."
	case AlreadyUnassigned:
		message = "The device had no resource account when it was read."
	}
	switch verification {
	case verifiedCleared:
		message += " The device shows none now."
	case verifiedPending:
		message += " The device still shows one: Intune may need some minutes. Check it later."
	case verifiedUnknown:
		message += " The device could not be read again to verify it."
	}
	return message
}

// account returns the account that d carried when it was read, nil for none.
func (d *device) account() *Account {
	if !d.read || !d.known.Account.Assigned() {
		return nil
	}
	return &Account{d.known.Account.UserPrincipalName, d.known.Account.ResourceName}
}

// newFailure returns the body for a failure. d is the device that failed, nil for a request without one. For a device
// outside the policy it has only the caller's own words.
func newFailure(ended result, d *device) Failure {
	row := statusOf(ended.code)
	body := Failure{
		Error:     FailureError{ended.code, row.message},
		Type:      docsOf(ended.code),
		Title:     row.title,
		Status:    ended.status,
		Detail:    row.message,
		Retryable: retryable(ended.status),
		Outcome:   ended.outcome,
	}
	if refused, ok := errors.AsType[*refusal](ended.err); ok {
		body.Field = quoteField(refused.field)
	}
	failed, ok := errors.AsType[*upstream.Error](ended.err)
	if ok && failed.Service == upstream.Graph && failed.Status != 0 {
		body.Graph = &GraphFailure{failed.Status, failed.Code, failed.RequestID}
	}
	if d == nil {
		return body
	}
	known := d.known
	if ended.code == policyDenied {
		known = graph.Device{ID: d.id, SerialNumber: d.serial}
	} else {
		body.Account = d.account()
	}
	if known.ID != (graph.DeviceID{}) {
		body.DeviceID = known.ID.String()
	}
	body.SerialNumber = known.SerialNumber
	for _, id := range d.candidates {
		body.DeviceIDs = append(body.DeviceIDs, id.String())
	}
	body.DeviceCount = d.sharing
	return body
}

func docsOf(code Code) string { return "docs/errors.md#" + string(code) }

// quoteField returns the name of a field as the caller wrote it, cut and in plain ASCII.
func quoteField(field string) string {
	if len(field) > 64 {
		field = field[:64] + "…"
	}
	return strings.Trim(strconv.QuoteToASCII(field), `"`)
}

// prefersRepresentation reports whether the caller wants the result in the body of a success (RFC 7240).
func prefersRepresentation(h http.Header) bool {
	return slices.ContainsFunc(listMembers(h, "Prefer"), func(preference string) bool {
		preference, _, _ = strings.Cut(preference, ";") // parameters
		name, value, _ := strings.Cut(preference, "=")
		return strings.EqualFold(strings.TrimSpace(name), "return") &&
			strings.EqualFold(strings.Trim(value, " \t\""), "representation")
	})
}

// failureType returns the media type of a failure: application/problem+json for a caller that lists it, else
// application/json, the only type that Power Automate documents as JSON.
func failureType(h http.Header) string {
	const problem = "application/problem+json"
	if acceptQuality(h, problem) > 0 {
		return problem
	}
	return "application/json"
}

// acceptQuality returns the quality that Accept gives a media type by name, 0 if it does not list the type.
func acceptQuality(h http.Header, media string) float64 {
	for _, accepted := range listMembers(h, "Accept") {
		listed, params, err := mime.ParseMediaType(accepted)
		if err != nil || listed != media {
			continue
		}
		if quality, err := strconv.ParseFloat(params["q"], 64); err == nil {
			return quality
		}
		return 1
	}
	return 0
}
