// Package handler serves the HTTP routes and events of this function: authenticate (caller), decode (request.go), read,
// check and change (act.go), respond (response.go), audit (audit.go).
//
// It knows HTTP and the log, but no cloud and no host. [New] returns one http.Handler; the hosts of package main turn
// their events into requests for it or into an [Event]. It reaches Graph through [Devices].
package handler

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// The routes, the same on every host. Their case and one slash at the end do not matter, as in the platforms in front.
const (
	RouteUnassign = "/api/unassign"
	RouteDevices  = "/api/devices"
	RouteDoctor   = "/api/doctor"
	RouteHealth   = "/api/health"
)

// Devices is the part of Graph that this package uses. *graph.Client implements it. Its errors are *upstream.Errors.
type Devices interface {
	// Find looks devices up and returns one Found for each selector, in order.
	Find(ctx context.Context, selectors ...graph.Selector) []graph.Found
	// All returns every device, and ends with an error if it breaks off.
	All(ctx context.Context) iter.Seq2[graph.Device, error]
	// Page returns one page of the inventory and the token of the next page, "" at the end. The first page has the
	// token "".
	Page(ctx context.Context, token string) (devices []graph.Device, next string, err error)
	// UnassignResourceAccount removes the resource account from each device and returns one result for each, in order.
	UnassignResourceAccount(ctx context.Context, ids ...graph.DeviceID) []graph.Result
}

// Options are the dependencies and settings of a Handler. Devices, Verifier, Log and Timeout are required, and for
// events Background and Pace.
type Options struct {
	Devices Devices
	// Background changes devices for queues and sweeps: it must not retry throttled requests, because Pace schedules
	// them.
	Background Devices
	Pace       Pace
	// QueueMaxAge is the age above which a message is refused for devices without expected; 0 for no limit.
	QueueMaxAge time.Duration
	Verifier    caller.Verifier
	Policy      Policy
	Sweep       Sweep
	Operators   []string // the callers that may list devices and examine the deployment, each by the ID of its Caller
	// Examine returns the doctor's report, as JSON for the operator and as counts for the log. It changes nothing, and
	// returns when its context ends. It may be nil without Operators.
	Examine func(ctx context.Context) (slog.LogValuer, error)
	Log     *slog.Logger
	Timeout time.Duration // for one request, from its first byte to the response
	Window  time.Duration // how long a signature can be valid: twice its tolerance
	Version string        // of this program, for health
}

// Handler is the http.Handler for every route, and carries out events.
type Handler struct {
	Options
	limits       rateLimits
	ledger       ledger
	examinations singleflight.Group[slog.LogValuer]
	turn         chan struct{} // held by the queue message that takes permits

	shownByID, shownBySerial atomic.Bool // Graph has shown a resource account: see accountShown
}

// New returns a Handler.
func New(o Options) *Handler {
	return &Handler{
		Options: o,
		limits: rateLimits{
			policy: o.Policy, limiters: map[caller.Caller]*rate.Limiter{}, changes: map[caller.Caller][]change{},
		},
		ledger: ledger{entries: map[delivery]*ledgerEntry{}, window: o.Window},
		turn:   make(chan struct{}, 1),
	}
}

// Invocation is the host's view of a request, for the log.
type Invocation struct {
	Host string // azure, lambda or local
	ID   string // the host's own id; may be empty
}

type invocationKey struct{}

// WithInvocation returns a context that carries i to the audit record.
func WithInvocation(ctx context.Context, i Invocation) context.Context {
	return context.WithValue(ctx, invocationKey{}, i)
}

// ServeHTTP serves one request. It ignores client disconnects: a started request runs to completion or to its deadline.
// It audits every request before it sends the response, except requests for health and for unknown routes.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	deadline := start.Add(h.Timeout)
	if hostDeadline, ok := r.Context().Deadline(); ok && hostDeadline.Before(deadline) {
		deadline = hostDeadline
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), deadline)
	defer cancel()
	o := newOrigin(ctx, start, requestID(r.Header))
	o.flow = flowOf(r.Header)
	r = r.WithContext(upstream.WithTrace(ctx, o.trace))

	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Request-Id", o.requestID)

	var serve func(http.ResponseWriter, *http.Request, *origin) response
	switch strings.ToLower(strings.TrimSuffix(r.URL.Path, "/")) {
	case RouteUnassign:
		serve = h.serveUnassign
	case RouteDevices:
		serve = h.serveDevices
	case RouteDoctor:
		serve = h.serveDoctor
	case RouteHealth:
		serve = h.serveHealth
	default:
		h.failRequest(header, r, o, classify(&refusal{code: routeNotFound})).send(w)
		return
	}
	serve(w, r, o).send(w)
}

func newOrigin(ctx context.Context, start time.Time, requestID string) *origin {
	o := &origin{requestID: requestID, start: start, trace: &upstream.Trace{RequestID: requestID}}
	o.invocation, _ = ctx.Value(invocationKey{}).(Invocation)
	return o
}

// requestID returns the caller's id of a request if it is plain, else a new one.
func requestID(h http.Header) string {
	if ids := h.Values("X-Request-Id"); len(ids) == 1 && isPlain(ids[0], maxRequestID) {
		return ids[0]
	}
	return guid.New().String()
}

// serveUnassign serves POST /api/unassign.
func (h *Handler) serveUnassign(w http.ResponseWriter, r *http.Request, o *origin) response {
	var job work
	if err := singleflight.CatchPanic(func() error { return h.performRequest(w, r, o, &job) }); err != nil {
		job.result = classify(err)
	}
	res := h.respond(w.Header(), r, o, &job)
	h.auditWork(r.Context(), o, &job, res.status)
	return res
}

// performRequest authenticates, decodes and performs a request. Its error is about the request as a whole.
func (h *Handler) performRequest(w http.ResponseWriter, r *http.Request, o *origin, job *work) error {
	if err := checkPost(w.Header(), r); err != nil {
		return err
	}
	if !caller.MayCarryEvidence(h.Verifier, r.Header) {
		return caller.ErrNoEvidence // without waiting for the body of a stranger
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if o.caller, err = h.Verifier.Verify(r, body); err != nil {
		return err
	}
	req, err := decodeBody(body)
	if err != nil {
		return err
	}
	job.setRequest(req)
	if o.delivery, err = deliveryID(r.Header, o.caller); err != nil {
		return err
	}
	return h.performOnce(r.Context(), o, job, body, func(ctx context.Context) error { return h.actOnDevices(ctx, o, job) })
}

// serveHealth serves GET /api/health: the process runs, in this version. It calls no service.
func (h *Handler) serveHealth(w http.ResponseWriter, r *http.Request, o *origin) response {
	if err := checkReadMethod(w.Header(), r); err != nil {
		return h.failRequest(w.Header(), r, o, classify(err))
	}
	return jsonResponse(http.StatusOK, "application/json", struct {
		Status  string `json:"status"`
		Version string `json:"version"`
	}{"ok", h.Version})
}

// checkReadMethod returns a *refusal unless r is a GET or HEAD.
func checkReadMethod(header http.Header, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		return &refusal{code: methodNotAllowed}
	}
	return nil
}
