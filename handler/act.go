package handler

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// device is one device of a request, on its way from what the caller has named to what became of it.
type device struct {
	target
	known  graph.Device // as it was read, or its id alone
	read   bool
	result graph.Result // of the action; zero if Graph was not asked for it
	// replayOf is the id of the request in which it has ended for good, "" if that is this one.
	replayOf string

	code         Code   // of a success
	verification string // cleared, pending or unknown; "" if nobody asked
	err          error
	candidates   []graph.DeviceID // that share the serial number
}

// The states of a verification.
const (
	verifiedCleared = "cleared" // no resource account shows any more
	verifiedPending = "pending" // one still shows: nothing documents how fast Intune is
	verifiedUnknown = "unknown" // the device could not be read again in time
)

// begin takes req into rec, with a device for each of its targets.
func (rec *record) begin(req request) {
	rec.request = req
	rec.devices = make([]*device, len(req.targets))
	for i, target := range req.targets {
		rec.devices[i] = &device{target: target, known: graph.Device{ID: target.id, SerialNumber: target.serial}}
	}
}

// act does what rec's request asks for, and leaves in each of rec's devices what became of it.
func (h *Handler) act(ctx context.Context, rec *record) {
	h.decide(ctx, rec.devices, rec.request.dryRun)
	if !rec.request.dryRun {
		h.unassignAll(ctx, rec.devices)
	}
	if rec.request.verify {
		h.verifyAll(ctx, rec.devices)
	}
}

// decide reads the devices whose state matters, and settles what becomes of those that are not to be acted on. The others
// are left without a code and without an error.
func (h *Handler) decide(ctx context.Context, devices []*device, dryRun bool) {
	var reading []*device
	for _, d := range devices {
		if d.replayOf != "" {
			continue
		}
		if dryRun || d.serial != "" || d.expected != (graph.Account{}) || len(h.Policy.GroupTags) > 0 {
			reading = append(reading, d)
		}
	}
	for i, found := range h.find(ctx, reading) {
		d := reading[i]
		if d.err, d.candidates = found.Err, found.Candidates; d.err != nil {
			continue
		}
		d.known, d.read = found.Device, true
		switch account := d.known.Account; {
		case !h.Policy.Allows(d.known.GroupTag):
			d.err = &refusal{code: policyDenied}
		case d.expected != (graph.Account{}) && (account.Assigned() || account.Unknown) && !carries(account, d.expected):
			d.err = &refusal{code: stateChanged}
		case !account.Assigned() && !account.Unknown && (dryRun || d.expected != (graph.Account{})):
			d.code = AlreadyUnassigned
		case dryRun:
			d.code = WouldUnassign
		}
	}
}

// find looks devices up, each by what the caller has named or, if it is known already, by its id.
func (h *Handler) find(ctx context.Context, devices []*device) []graph.Found {
	if len(devices) == 0 {
		return nil
	}
	selectors := make([]graph.Selector, len(devices))
	for i, d := range devices {
		selectors[i] = graph.Selector{ID: d.known.ID, SerialNumber: d.serial}
	}
	return h.Devices.Find(ctx, selectors...)
}

// carries reports whether a device with account carries the expected one, which has one of its names.
func carries(account, expected graph.Account) bool {
	return (expected.UserPrincipalName == "" || strings.EqualFold(account.UserPrincipalName, expected.UserPrincipalName)) &&
		(expected.ResourceName == "" || strings.EqualFold(account.ResourceName, expected.ResourceName))
}

// unassignAll takes the resource account off those devices that are still to be acted on, each once however often it is
// named.
//
// A device that shows no account is acted on too: no source says which properties show one. Only what is answered differs.
func (h *Handler) unassignAll(ctx context.Context, devices []*device) {
	named := map[graph.DeviceID][]*device{}
	settled := map[graph.DeviceID]*device{} // in an attempt before
	for _, d := range devices {
		if d.replayOf != "" && d.err == nil {
			settled[d.known.ID] = d
		}
	}
	var ids []graph.DeviceID
	for _, d := range devices {
		if d.err != nil || d.code != "" {
			continue
		}
		if s := settled[d.known.ID]; s != nil { // by its other name
			d.code, d.result, d.verification, d.replayOf = s.code, s.result, s.verification, s.replayOf
			continue
		}
		if named[d.known.ID] == nil {
			ids = append(ids, d.known.ID)
		}
		named[d.known.ID] = append(named[d.known.ID], d)
	}
	if len(ids) == 0 {
		return
	}
	for _, result := range h.Devices.UnassignResourceAccount(ctx, ids...) {
		for _, d := range named[result.ID] {
			d.result, d.err = result, result.Err
			empty := d.read && !d.known.Account.Assigned() && !d.known.Account.Unknown
			failed, ok := errors.AsType[*upstream.Error](d.err)
			switch {
			case empty && (d.err == nil || ok && failed.Reason == upstream.Rejected):
				// Nothing documents what Graph answers where there is nothing to take off.
				d.code, d.err = AlreadyUnassigned, nil
			case d.err == nil:
				d.code = Unassigned
			}
		}
	}
}

// verifyAll reads the devices again that Graph has acted on. What it finds changes no success into a failure.
func (h *Handler) verifyAll(ctx context.Context, devices []*device) {
	var acted []*device
	for _, d := range devices {
		if d.err == nil && d.replayOf == "" {
			acted = append(acted, d)
		}
	}
	for i, found := range h.find(ctx, acted) {
		d := acted[i]
		switch {
		case found.Err != nil || found.Device.Account.Unknown:
			d.verification = verifiedUnknown
		case found.Device.Account.Assigned():
			d.verification = verifiedPending
		default:
			d.verification = verifiedCleared
		}
		if found.Err == nil {
			d.known.SerialNumber = found.Device.SerialNumber
		}
	}
}

// record is what the audit says of one request. It is filled on the way; where the way ended early, the rest is zero.
type record struct {
	requestID  string
	start      time.Time
	invocation Invocation
	trace      *upstream.Trace
	flow       slog.Attr // where in Power Automate the request comes from; zero if it does not say
	caller     caller.Caller
	delivery   string // its id; "" if the caller gave none
	replayOf   string // the id of the request that was carried out for this delivery before; "" if this is the first
	request    request
	devices    []*device
	code       Code
	status     int
	err        error          // of the request as a whole
	report     slog.LogValuer // of the doctor; nil if there is none
	stack      []byte         // of a panic
}

// answerID returns the id of the request that the answer is about. That of a repetition tells of the first, as it did.
func (rec *record) answerID() string { return cmp.Or(rec.replayOf, rec.requestID) }

// audit writes rec: one line for each device acted on or refused, and for each request refused before it named one. No
// secret, token, body or URL is in it.
func (h *Handler) audit(ctx context.Context, rec *record) {
	if len(rec.devices) == 0 {
		h.log(ctx, rec, nil)
	}
	for _, d := range rec.devices {
		h.log(ctx, rec, d)
	}
}

// log writes the line about d, or about the request where d is nil.
func (h *Handler) log(ctx context.Context, rec *record, d *device) {
	code, status, err := rec.code, rec.status, rec.err
	if d != nil && rec.err == nil {
		var alone int
		code, alone, err = d.end()
		if rec.request.several {
			status = alone
		}
	}
	outcome := "done"
	switch {
	case err != nil:
		outcome = done(err)
	case rec.request.dryRun:
		outcome = notDone
	}
	attrs := append(rec.origin(code), slog.Int("status", status), slog.String("outcome", outcome))
	add := func(key, value string) { attrs = appendWord(attrs, key, value) }
	if d != nil {
		if d.known.ID != (graph.DeviceID{}) {
			add("device_id", d.known.ID.String())
		}
		add("serial_number", visible(d.known.SerialNumber))
		add("group_tag", visible(d.known.GroupTag))
	}
	add("delivery_id", rec.delivery)
	replayOf := rec.replayOf
	if d != nil {
		replayOf = cmp.Or(d.replayOf, replayOf)
	}
	if replayOf != "" {
		attrs = append(attrs, slog.Bool("replayed", true), slog.String("replay_of", replayOf))
	}
	add("reference", rec.request.reference)
	if len(rec.request.context) > 0 {
		attrs = append(attrs, slog.Any("context", rec.request.context))
	}
	if d != nil {
		add("verification", d.verification)
		add("graph_request_id", d.result.RequestID)
		add("graph_client_request_id", d.result.ClientRequestID)
	}
	attrs = append(attrs,
		slog.Bool("dry_run", rec.request.dryRun),
		slog.Int("attempts", rec.trace.Tries()),
		milliseconds("vault_ms", rec.trace.Spent(upstream.Vault)),
		milliseconds("token_ms", rec.trace.Spent(upstream.Identity)),
		milliseconds("graph_ms", rec.trace.Spent(upstream.Graph)),
		milliseconds("total_ms", time.Since(rec.start)),
	)
	if err != nil {
		attrs = append(attrs, reason(err))
	}
	if rec.stack != nil {
		attrs = append(attrs, slog.String("stack", string(rec.stack)))
	}
	loud := level(status)
	switch {
	case code == inProgress: // the record of the first says how it ended
		loud = slog.LevelWarn
	case err != nil && rec.caller.Kind == caller.KindEvent && !retryable(status): // nobody else is told
		loud = slog.LevelError
	}
	h.Log.LogAttrs(ctx, loud, "unassign", attrs...)
}

// origin returns what every record says first: what it is about and who has caused it.
func (rec *record) origin(code Code) []slog.Attr {
	const usual = 26 // or fewer
	attrs := append(make([]slog.Attr, 0, usual), slog.String("request_id", rec.requestID), slog.String("host", rec.invocation.Host))
	attrs = appendWord(attrs, "invocation_id", rec.invocation.ID)
	attrs = appendWord(attrs, "caller_kind", string(rec.caller.Kind))
	attrs = appendWord(attrs, "caller_id", rec.caller.ID)
	if rec.flow.Key != "" {
		attrs = append(attrs, rec.flow)
	}
	return append(attrs, slog.String("code", string(code)))
}

// flowOf returns where in Power Automate or Logic Apps a request comes from, as one group for the log, or a zero attribute
// where it does not say. The platform sends these headers, and so can anybody: they help to find a run, and decide nothing.
// What is not plain is left out rather than cut, since half an id finds nothing.
func flowOf(h http.Header) slog.Attr {
	var words []slog.Attr
	for _, word := range []struct{ key, header string }{
		{"run_id", "X-Ms-Workflow-Run-Id"},
		{"action", "X-Ms-Workflow-Operation-Name"}, // by its name in the flow
		{"action_tracking_id", "X-Ms-Action-Tracking-Id"},
		{"client_tracking_id", "X-Ms-Client-Tracking-Id"}, // the run's, unless the flow sets its own; shared by all items of a loop
	} {
		if values := h.Values(word.header); len(values) == 1 && plain(values[0], maxContextName) {
			words = append(words, slog.String(word.key, values[0]))
		}
	}
	if len(words) == 0 {
		return slog.Attr{}
	}
	return slog.GroupAttrs("flow", words...)
}

// appendWord appends an attribute unless its value is empty.
func appendWord(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}

// end returns what became of d: the code, the status that it has or would have alone, and the error if it is a failure.
func (d *device) end() (Code, int, error) {
	if d.err != nil {
		code := outcome(d.err)
		return code, rows[code].status, d.err
	}
	return d.code, http.StatusOK, nil
}

// reason returns err for the log: the parts of an upstream failure, or the text of one of ours.
func reason(err error) slog.Attr {
	if failed, ok := errors.AsType[*upstream.Error](err); ok {
		return slog.Any("error", failed)
	}
	return slog.String("error", err.Error())
}

// level returns how loud the end of a request is: an error where somebody has to look after this function, a warning
// where a caller is not who it should be.
func level(status int) slog.Level {
	switch {
	case status >= 500, status == http.StatusFailedDependency:
		return slog.LevelError
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusTooManyRequests:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// milliseconds returns d for the log. Most are none, and slog is slow with fractions.
func milliseconds(key string, d time.Duration) slog.Attr {
	if us := d.Microseconds(); us%1000 != 0 {
		return slog.Float64(key, float64(us)/1000)
	}
	return slog.Int64(key, d.Milliseconds())
}
