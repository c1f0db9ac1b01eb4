// Package handler is the function itself: it takes the webhook of a caller, finds out who it is, reads what is asked for,
// has it done, and answers by the status table.
//
// It knows HTTP and the log, and neither a cloud nor a host: [New] returns one http.Handler, and the hosts of package
// main turn their events into requests for it. What it needs of Graph it has from [Devices].
package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/upstream"
)

// The routes, the same on every host.
const (
	RouteUnassign = "/api/unassign"
	RouteHealth   = "/api/health"
	RouteDoctor   = "/api/doctor"
)

// Devices is what acting on devices needs of Graph. *graph.Client is one. Its errors are *upstream.Errors.
type Devices interface {
	// Find looks devices up and returns one Found for each selector, in order.
	Find(ctx context.Context, selectors ...graph.Selector) []graph.Found
	// All returns all devices, and ends with an error where it could not.
	All(ctx context.Context) iter.Seq2[graph.Device, error]
	// UnassignResourceAccount takes the resource account off each device and returns one result for each, in order.
	UnassignResourceAccount(ctx context.Context, ids ...graph.DeviceID) []graph.Result
}

var _ Devices = (*graph.Client)(nil)

// Options are what New needs. Nothing but Policy, Sweep, Doctor, Window and Version may be zero.
type Options struct {
	Devices  Devices
	Verifier caller.Verifier
	Policy   Policy
	Sweep    Sweep
	Doctor   Doctor
	Log      *slog.Logger
	Timeout  time.Duration // the time for one request, from its first byte to the answer
	Window   time.Duration // for how long a signature can be good: its tolerance, both ways
	Version  string        // of this program, for health
}

// Handler is the function. It is an http.Handler for all routes.
type Handler struct {
	Options
	limits       limits
	ledger       ledger
	examinations examinations
}

// New returns the Handler that o describes.
func New(o Options) *Handler {
	return &Handler{
		Options: o,
		limits:  limits{perMinute: o.Policy.PerMinute, byCaller: map[caller.Caller]*rate.Limiter{}},
		ledger:  ledger{entries: map[delivery]*entry{}, window: o.Window},
	}
}

// Invocation is what a host knows of the request it hands on, for the log.
type Invocation struct {
	Host string // azure, lambda or local
	ID   string // the host's own id of it; may be empty
}

type invocationKey struct{}

// WithInvocation returns a context that carries i to the audit record.
func WithInvocation(ctx context.Context, i Invocation) context.Context {
	return context.WithValue(ctx, invocationKey{}, i)
}

// ServeHTTP answers one request. It does not stop when the caller goes away: what was begun is brought to an end, within
// the time there is, and recorded.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	deadline := start.Add(h.Timeout)
	if hosts, ok := r.Context().Deadline(); ok && hosts.Before(deadline) {
		deadline = hosts
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), deadline)
	defer cancel()

	id := requestID(r.Header)
	trace := &upstream.Trace{}
	ctx = upstream.WithTrace(upstream.WithRequestID(ctx, id), trace)
	r = r.WithContext(ctx)

	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Request-Id", id)

	rec := &record{requestID: id, start: start, trace: trace, flow: flowOf(r.Header)}
	rec.invocation, _ = ctx.Value(invocationKey{}).(Invocation)
	audit := h.audit
	if r.URL.Path == RouteDoctor {
		audit = h.auditDoctor
	}
	defer func() {
		if p := recover(); p != nil {
			rec.stack = debug.Stack()
			h.fail(w, r, rec, fmt.Errorf("panic: %T", p))
			audit(ctx, rec)
		}
	}()
	switch r.URL.Path {
	case RouteUnassign:
		h.unassign(w, r, rec)
		audit(ctx, rec)
	case RouteDoctor:
		h.doctor(w, r, rec)
		audit(ctx, rec)
	case RouteHealth:
		h.health(w, r, rec)
	default:
		h.fail(w, r, rec, &refusal{code: routeNotFound})
	}
}

// health answers that the process is there, and in which version. It asks nobody.
func (h *Handler) health(w http.ResponseWriter, r *http.Request, rec *record) {
	if err := reads(w, r); err != nil {
		h.fail(w, r, rec, err)
		return
	}
	reply(w, http.StatusOK, "application/json", struct {
		Status  string `json:"status"`
		Version string `json:"version"`
	}{"ok", h.Version})
}

// reads returns a *refusal unless r is a request that only reads.
func reads(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &refusal{code: methodNotAllowed}
	}
	return nil
}

// unassign serves the one verb. What it does and finds goes into rec.
func (h *Handler) unassign(w http.ResponseWriter, r *http.Request, rec *record) {
	body, err := readBody(w, r, min(10*time.Second, h.Timeout/2))
	if err != nil {
		h.fail(w, r, rec, err)
		return
	}
	rec.caller, err = h.Verifier.Verify(r, body)
	if err != nil {
		h.fail(w, r, rec, err)
		return
	}
	req, err := decode(body)
	if err != nil {
		h.fail(w, r, rec, err)
		return
	}
	rec.begin(req)
	if rec.delivery, err = deliveryID(r.Header, rec.caller); err != nil {
		h.fail(w, r, rec, err)
		return
	}
	if err := h.once(r.Context(), rec, body, h.carryOut); err != nil {
		h.fail(w, r, rec, err)
		return
	}
	if rec.replayOf != "" {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	h.succeed(w, r, rec)
}

// readBody returns the body of a request that is a POST of JSON of the right size and has arrived within limit. Nothing
// in it has been looked at, nor who sent it: these checks cost a stranger more than they cost us.
func readBody(w http.ResponseWriter, r *http.Request, limit time.Duration) ([]byte, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, &refusal{code: methodNotAllowed}
	}
	if !isJSON(r.Header) {
		w.Header().Set("Accept-Post", "application/json")
		return nil, &refusal{code: unsupportedMediaType}
	}
	// A host without a connection of its own (Lambda) has no deadline to set, and no slow body either.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(limit))
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	tooLarge := len(body) > maxBody
	if tooLarge {
		// Most callers look for an answer when they have sent everything, and see none if the connection is closed on them.
		_, _ = io.CopyN(io.Discard, r.Body, maxUnread)
	}
	switch {
	case tooLarge:
		return nil, &refusal{code: bodyTooLarge}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &refusal{code: bodyTimeout}
	case err != nil:
		return nil, &refusal{code: invalidJSON}
	}
	// Only now, since net/http waits for what is left of a body before it answers.
	_ = control.SetReadDeadline(time.Time{})
	return body, nil
}

// isJSON reports whether the body is declared as plain JSON in UTF-8, or not declared at all: scripts in ServiceNow send
// no Content-Type unless they are told to.
func isJSON(h http.Header) bool {
	if encoding := h.Values("Content-Encoding"); len(encoding) > 1 || (len(encoding) == 1 && !strings.EqualFold(encoding[0], "identity")) {
		return false
	}
	types := h.Values("Content-Type")
	if len(types) == 0 {
		return true
	}
	media, params, err := mime.ParseMediaType(types[0])
	charset, declared := params["charset"]
	return len(types) == 1 && err == nil && media == "application/json" && (!declared || strings.EqualFold(charset, "utf-8"))
}

// requestID returns the id that the caller gave its request if it is plain, else a fresh one.
func requestID(h http.Header) string {
	if ids := h.Values("X-Request-Id"); len(ids) == 1 && plain(ids[0], maxRequestID) {
		return ids[0]
	}
	return guid.New().String()
}

// succeed answers a request that was carried out, whatever became of its devices.
func (h *Handler) succeed(w http.ResponseWriter, r *http.Request, rec *record) {
	if rec.request.several {
		h.answerSeveral(w, r, rec)
		return
	}
	d := rec.devices[0]
	if d.err != nil {
		h.fail(w, r, rec, d.err)
		rec.err = nil // it is the device's, and recorded there
		return
	}
	rec.code = d.code
	prefers := prefersRepresentation(r.Header)
	if !prefers && !rec.request.dryRun && !rec.request.verify {
		rec.status = http.StatusNoContent // as Graph answers
		w.WriteHeader(rec.status)
		return
	}
	if prefers {
		w.Header().Set("Preference-Applied", "return=representation")
	}
	rec.status = http.StatusOK
	answer := d.success()
	answer.Reference, answer.RequestID = rec.request.reference, rec.answerID()
	reply(w, rec.status, "application/json", answer)
}

// Success is the body of an answer for a device that was done, or that a dry run has looked at.
type Success struct {
	Code           Code     `json:"code"`
	Message        string   `json:"message"`
	Status         int      `json:"status,omitempty"` // in a list
	DeviceID       string   `json:"deviceId"`
	SerialNumber   string   `json:"serialNumber,omitempty"`
	Account        *Account `json:"account,omitempty"` // of a dry run: what the device carries
	Reference      string   `json:"reference,omitempty"`
	RequestID      string   `json:"requestId,omitempty"`
	GraphRequestID string   `json:"graphRequestId,omitempty"`
	Verification   string   `json:"verification,omitempty"`
}

// Account is the resource account that a device carries, by its names.
type Account struct {
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	ResourceName      string `json:"resourceName,omitempty"`
}

// success returns the answer for a device that has not failed.
func (d *device) success() Success {
	s := Success{
		Code: d.code, Message: successes[d.code], DeviceID: d.known.ID.String(), SerialNumber: d.known.SerialNumber,
		GraphRequestID: d.result.RequestID, Verification: d.verification,
	}
	if d.code == WouldUnassign {
		s.Account = &Account{d.known.Account.UserPrincipalName, d.known.Account.ResourceName}
	}
	return s
}

// Several is the body of an answer for a list of devices. Its Failure is nil where the status is 2xx.
type Several struct {
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

// answerSeveral answers for a list of devices. The status is 200 when all succeeded, 503 when asking again helps, which is
// safe, the common one when all failed alike, and 207 else.
func (h *Handler) answerSeveral(w http.ResponseWriter, r *http.Request, rec *record) {
	body := Several{Results: make([]any, len(rec.devices)), Reference: rec.request.reference, RequestID: rec.answerID()}
	body.Summary.Total = len(rec.devices)
	statuses, codes := map[int]bool{}, map[Code]bool{}
	again, wait, became := false, 10*time.Second, notDone
	for i, d := range rec.devices {
		code, status, err := d.end()
		statuses[status], codes[code] = true, true
		if err == nil {
			body.Summary.Succeeded++
			answer := d.success()
			answer.Status = status
			body.Results[i] = answer
			continue
		}
		body.Summary.Failed++
		body.Results[i] = d.failure(err)
		again = again || retryable(status)
		wait = max(wait, retryAfter(err))
		if done(err) == unknown {
			became = unknown
		}
	}
	status, alike := only(statuses)
	switch {
	case body.Summary.Failed == 0:
		rec.status = http.StatusOK
	case again:
		rec.status, rec.code = http.StatusServiceUnavailable, devicesFailed
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
	case !alike:
		rec.status = http.StatusMultiStatus
	default:
		rec.status, rec.code = status, devicesFailed
		if code, ok := only(codes); ok {
			rec.code = code
		}
	}
	contentType := "application/json"
	if rec.status >= 400 {
		title := "Devices failed"
		if rec.code != devicesFailed {
			title = rows[rec.code].title
		}
		message := fmt.Sprintf("%d of %d devices failed. results has an answer for each of them, in order.", body.Summary.Failed, body.Summary.Total)
		body.Failure = &Failure{
			Error: FailureError{rec.code, message}, Type: typeOf(rec.code), Title: title, Status: rec.status, Detail: message,
			Retryable: again, Outcome: became,
		}
		contentType = failureType(r.Header)
	}
	reply(w, rec.status, contentType, body)
}

// typeOf returns what explains a code.
func typeOf(code Code) string { return "docs/errors.md#" + string(code) }

// only returns the one key of a map that has one.
func only[K comparable](m map[K]bool) (key K, ok bool) {
	for key = range m {
		ok = len(m) == 1
	}
	return key, ok
}

// Failure is the body of every answer that is not a success. What a caller cuts off or shows alone comes first: ServiceNow
// keeps 100 characters of a body, Power Automate shows error.message. The rest are the members of RFC 9457 and ours.
type Failure struct {
	Error        FailureError  `json:"error"`
	Type         string        `json:"type"`
	Title        string        `json:"title"`
	Status       int           `json:"status"`
	Detail       string        `json:"detail"`
	Field        string        `json:"field,omitempty"`
	Retryable    bool          `json:"retryable"`
	Outcome      string        `json:"outcome"`
	DeviceID     string        `json:"deviceId,omitempty"`
	SerialNumber string        `json:"serialNumber,omitempty"`
	DeviceIDs    []string      `json:"deviceIds,omitempty"` // of the devices that share a serial number
	RequestID    string        `json:"requestId,omitempty"`
	Reference    string        `json:"reference,omitempty"`
	Graph        *GraphFailure `json:"graph,omitempty"`
}

// FailureError is a failure as Graph words its own.
type FailureError struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// GraphFailure is what Graph's support asks for.
type GraphFailure struct {
	Status    int    `json:"status"`
	Code      string `json:"code,omitempty"`
	RequestID string `json:"requestId,omitempty"`
}

// fail answers with the row of the status table that err belongs to, and puts the end into rec.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, rec *record, err error) {
	body := failureOf(err)
	if len(rec.devices) == 1 {
		body = rec.devices[0].failure(err)
	}
	body.RequestID, body.Reference = rec.answerID(), rec.request.reference
	rec.err, rec.code, rec.status = err, body.Error.Code, body.Status
	header := w.Header()
	if body.Status == http.StatusUnauthorized || body.Error.Code == forbidden {
		header.Set("WWW-Authenticate", h.challenge(err))
	}
	if wait := retryAfter(err); wait > 0 {
		header.Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
	}
	reply(w, body.Status, failureType(r.Header), body)
}

// challenge returns what WWW-Authenticate says to a request that ended with err: the schemes that the Verifier takes. An API key
// has none, and a 401 must name one.
func (h *Handler) challenge(err error) string {
	if c, ok := h.Verifier.(caller.Challenger); ok {
		if challenge := c.Challenge(err); challenge != "" {
			return challenge
		}
	}
	return (&caller.Signature{}).Challenge(err)
}

// failureOf returns the body of the answer for err.
func failureOf(err error) Failure {
	code := outcome(err)
	row := rows[code]
	body := Failure{
		Error:     FailureError{code, row.message},
		Type:      typeOf(code),
		Title:     row.title,
		Status:    row.status,
		Detail:    row.message,
		Retryable: retryable(row.status),
		Outcome:   done(err),
	}
	if refused, ok := errors.AsType[*refusal](err); ok {
		body.Field = shown(refused.field)
	}
	if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.Service == upstream.Graph && failed.Status != 0 {
		body.Graph = &GraphFailure{failed.Status, failed.Code, failed.RequestID}
	}
	return body
}

// failure returns the answer for a device that has failed with err.
func (d *device) failure(err error) Failure {
	body := failureOf(err)
	if d.known.ID != (graph.DeviceID{}) {
		body.DeviceID = d.known.ID.String()
	}
	body.SerialNumber = d.known.SerialNumber
	for _, id := range d.candidates {
		body.DeviceIDs = append(body.DeviceIDs, id.String())
	}
	return body
}

// reply writes body as JSON.
func reply(w http.ResponseWriter, status int, contentType string, body any) {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		panic(fmt.Sprintf("handler: encode %T: %v", body, err)) // the types are all of this file
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, b.String()) // a caller who has gone away does not read it
}

// shown returns a field's name as a caller wrote it, cut and made plain.
func shown(field string) string {
	if len(field) > 64 {
		field = field[:64] + "…"
	}
	return strings.Trim(strconv.QuoteToASCII(field), `"`)
}

// visible returns a text that comes from Intune for the log: as it is, or quoted where a character of it would break a line
// or turn its direction. What comes from callers has been refused by then.
func visible(s string) string {
	if printable(s, len(s)) {
		return s
	}
	return shown(s)
}

// prefersRepresentation reports whether the caller asked for the result in the body of a success.
func prefersRepresentation(h http.Header) bool {
	for _, preference := range listed(h, "Prefer") {
		name, value, _ := strings.Cut(preference, "=")
		if strings.EqualFold(strings.TrimSpace(name), "return") && strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "representation") {
			return true
		}
	}
	return false
}

// failureType returns the media type for a failure: application/problem+json for a caller that lists it, else
// application/json, the only one that Power Automate documents as JSON.
func failureType(h http.Header) string {
	const problem = "application/problem+json"
	for _, accepted := range listed(h, "Accept") {
		media, params, err := mime.ParseMediaType(accepted)
		refused := params["q"] != "" && strings.Trim(params["q"], "0.") == "" // q=0, which is "not this one"
		if err == nil && media == problem && !refused {
			return problem
		}
	}
	return "application/json"
}

// listed returns the members of a header that is a comma-separated list, without their white space.
func listed(h http.Header, name string) []string {
	var members []string
	for _, value := range h.Values(name) {
		for member := range strings.SplitSeq(value, ",") {
			members = append(members, strings.TrimSpace(member))
		}
	}
	return members
}
