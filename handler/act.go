package handler

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/upstream"
)

// work is a request with its devices and their results.
type work struct {
	request
	caller   string // the ID of the Caller, for the policy
	devices  []*device
	repeated bool   // a queue delivered it before: another process may have changed some devices
	replayOf string // the id of the request that carried out this delivery before; "" if this request did
	result   result // of the whole request; zero where each device has its own
}

// device is one device of a request.
type device struct {
	target
	state
}

// state is what became of a device.
type state struct {
	known        graph.Device     // as read; before, the id and serial number that the caller sent
	read         bool             // known was read
	candidates   []graph.DeviceID // of the devices within the policy that share the serial number, at most maxDevices
	sharing      int              // the number of devices that share it, as far as the caller may know
	verification string           // cleared, pending or unknown; "" without verify
	replayOf     string           // the id of the earlier request that it ended in; "" if this request did
	result       result
	// Graph's request-id of the action and the client-request-id that it was sent; "" without an action.
	graphRequestID, clientRequestID string
}

// The states of a verification.
const (
	verifiedCleared = "cleared" // the device shows no resource account
	verifiedPending = "pending" // it still shows one: no source says how fast Intune is
	verifiedUnknown = "unknown" // it could not be read again in time
)

// setRequest sets the request of w, with a device for each target.
func (w *work) setRequest(req request) {
	w.request = req
	w.devices = make([]*device, len(req.targets))
	for i, t := range req.targets {
		w.devices[i] = &device{t, state{known: graph.Device{ID: t.id, SerialNumber: t.serial}}}
	}
}

// performOnce carries out w, unless its delivery was carried out before: then the ledger has the results. body is the
// delivery's content. Its error is about w as a whole.
func (h *Handler) performOnce(
	ctx context.Context, o *origin, w *work, body []byte, act func(context.Context) error,
) error {
	w.caller = o.caller.ID
	if h.Policy.DryRun {
		w.dryRun, w.verify = true, false
	}
	if o.delivery == "" || w.dryRun { // a dry run changes nothing, however often it comes
		return act(ctx)
	}
	entry, last, err := h.ledger.lookup(ctx, deliveryOf(o.caller, o.delivery), digestOf(body))
	if err != nil {
		return err
	}
	last.restore(w.devices)
	if last.complete {
		w.replayOf = last.requestID
		return nil
	}
	var ended []*device // nil after a refusal or a panic; store then only lets waiting requests go on
	defer func() { h.ledger.store(entry, o.requestID, ended) }()
	if err := act(ctx); err != nil {
		return err
	}
	ended = w.devices
	return nil
}

// actOnDevices reads the devices of w that have no result yet, checks them, changes them, and sets their results.
func (h *Handler) actOnDevices(ctx context.Context, o *origin, w *work) error {
	pending := slices.DeleteFunc(slices.Clone(w.devices), func(d *device) bool { return d.result.ended() })
	if err := h.limits.takeDevices(o.caller, len(pending)); err != nil {
		return err
	}
	if err := h.takeChanges(o, w, pending); err != nil {
		return err
	}
	h.tryDevices(ctx, h.Devices, w, pending)
	h.retryThrottled(ctx, w, pending)
	if w.verify {
		h.verifyDevices(ctx, w.devices)
	}
	return nil
}

// takeChanges counts the pending devices of w as changes of its caller, unless w is a dry run.
func (h *Handler) takeChanges(o *origin, w *work, pending []*device) error {
	if w.dryRun {
		return nil
	}
	return h.limits.takeChanges(o.caller, len(pending))
}

// tryDevices reads, checks and changes the pending devices of w once.
func (h *Handler) tryDevices(ctx context.Context, via Devices, w *work, pending []*device) {
	h.requireExpected(w, pending)
	h.readDevices(ctx, w, pending)
	for _, d := range pending {
		if d.read {
			h.checkDevice(w, d)
		}
	}
	if !w.dryRun {
		unassignDevices(ctx, via, w.devices, pending)
	}
}

// requireExpected refuses the devices without the expected account if the policy for the caller requires it.
func (h *Handler) requireExpected(w *work, pending []*device) {
	if w.dryRun || !h.Policy.Callers[w.caller].RequireExpected {
		return
	}
	for _, d := range pending {
		if !d.result.ended() && d.expected == (graph.Account{}) {
			d.result = classify(&refusal{policyDenied, "expected"})
		}
	}
}

// readDevices reads the devices that have neither been read nor have a result. A failed read is the device's result,
// unless the change does not depend on it: then the account stays unknown.
func (h *Handler) readDevices(ctx context.Context, w *work, devices []*device) {
	var reading []*device
	required := false
	for _, d := range devices {
		if !d.read && !d.result.ended() {
			reading = append(reading, d)
			required = required || h.requiresRead(w, d)
		}
	}
	if deadline, ok := ctx.Deadline(); ok && !required { // a slow read must leave time for the change
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	for i, found := range h.findDevices(ctx, reading) {
		d := reading[i]
		switch {
		case found.Err == nil:
			d.known, d.read = found.Device, true
			if d.known.Account.ResourceName != "" { // an assigned user may show in the other two properties
				h.accountShown(d).Store(true)
			}
		case h.requiresRead(w, d) || !isReadFailure(found.Err):
			d.result = classify(found.Err)
			h.setCandidates(w, d, found)
		}
	}
}

// accountShown returns the flag for reads like that of d: Graph has shown a resource account in one. Reads by id and by
// serial number have separate flags, because Graph fills other properties of this resource in lists alone.
func (h *Handler) accountShown(d *device) *atomic.Bool {
	if d.serial != "" {
		return &h.shownBySerial
	}
	return &h.shownByID
}

// setCandidates sets the devices that share a serial number, without those that the caller must not change.
func (h *Handler) setCandidates(w *work, d *device, found graph.Found) {
	for _, candidate := range found.Candidates {
		if len(d.candidates) < maxDevices && h.Policy.AllowsCaller(w.caller, candidate.GroupTag) {
			d.candidates = append(d.candidates, candidate.ID)
		}
	}
	d.sharing = found.Sharing
	if h.Policy.restrictsTags(w.caller) {
		d.sharing = len(d.candidates)
	}
}

// requiresRead reports whether the decision about a device depends on its state.
func (h *Handler) requiresRead(w *work, d *device) bool {
	return w.dryRun || d.serial != "" || d.expected != (graph.Account{}) || h.Policy.restrictsTags(w.caller)
}

// isReadFailure reports whether the failure may concern the read alone, so that the change may succeed. It is false for a
// missing device, a fault of the tenant or the credential, a lost connection, throttling, and each failure with a
// Retry-After.
func isReadFailure(err error) bool {
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok || failed.Service != upstream.Graph || failed.RetryAfter > 0 {
		return false
	}
	switch failed.Reason {
	case upstream.Internal, upstream.BadAnswer, upstream.Unavailable, upstream.Timeout,
		upstream.Rejected, upstream.Conflict, upstream.Locked:
		return true
	}
	return false
}

// findDevices looks devices up, by id where it is known.
func (h *Handler) findDevices(ctx context.Context, devices []*device) []graph.Found {
	if len(devices) == 0 {
		return nil
	}
	selectors := make([]graph.Selector, len(devices))
	for i, d := range devices {
		selectors[i] = graph.Selector{ID: d.known.ID, SerialNumber: d.serial}
	}
	return h.Devices.Find(ctx, selectors...)
}

// checkDevice sets the result of a device that was read and must not be changed: for the policy, the expected account,
// a dry run, or because a process that was killed with the same message has changed it. A missing account proves that
// only after Graph has shown a resource account (accountShown).
func (h *Handler) checkDevice(w *work, d *device) {
	account, expects := d.known.Account, d.expected != (graph.Account{})
	switch {
	case d.result.ended():
	case !h.Policy.AllowsCaller(w.caller, d.known.GroupTag):
		d.result = classify(&refusal{code: policyDenied})
	case expects && !d.carriesNothing() && !matchesAccount(account, d.expected):
		d.result = classify(&refusal{code: stateChanged})
	case d.carriesNothing() && (w.dryRun || expects || w.repeated && h.accountShown(d).Load()):
		d.result = succeed(AlreadyUnassigned)
	case w.dryRun:
		d.result = succeed(WouldUnassign)
	}
}

// carriesNothing reports whether d was read and shows no resource account.
func (d *device) carriesNothing() bool {
	return d.read && !d.known.Account.Assigned() && !d.known.Account.Unknown
}

// matchesAccount reports whether account has the one name that expected has.
func matchesAccount(account, expected graph.Account) bool {
	if expected.UserPrincipalName != "" {
		return strings.EqualFold(account.UserPrincipalName, expected.UserPrincipalName)
	}
	return strings.EqualFold(account.ResourceName, expected.ResourceName)
}

// unassignDevices removes the resource account from the pending devices without a result. A device that occurs twice in
// all is changed once.
//
// It also changes devices that show no account: no source says which properties show one. Only the code differs.
// checkDevice has one exception, for a message that was delivered before.
func unassignDevices(ctx context.Context, via Devices, all, pending []*device) {
	var changing []*device
	var ids []graph.DeviceID
	for _, d := range pending {
		if d.result.ended() {
			continue
		}
		if other := settledAs(all, d.known.ID); other != nil { // the list names it by serial number and by id
			d.known.Account = other.known.Account // the removed one: by now d may carry another
			d.result, d.verification, d.replayOf = other.result, other.verification, other.replayOf
			d.graphRequestID, d.clientRequestID = other.graphRequestID, other.clientRequestID
			continue
		}
		changing = append(changing, d)
		if !slices.Contains(ids, d.known.ID) {
			ids = append(ids, d.known.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	for _, response := range via.UnassignResourceAccount(ctx, ids...) {
		for _, d := range changing {
			if d.known.ID == response.ID {
				d.setResult(response)
			}
		}
	}
}

// settledAs returns the device of that id that was changed before, nil if none was. A repeated delivery may have found
// its device without an account.
func settledAs(devices []*device, id graph.DeviceID) *device {
	for _, d := range devices {
		if d.known.ID == id && (d.result.code == Unassigned || d.replayOf != "" && d.result.succeeded()) {
			return d
		}
	}
	return nil
}

// setResult sets the result of d from Graph's response to the change.
func (d *device) setResult(response graph.Result) {
	d.graphRequestID, d.clientRequestID = response.RequestID, response.ClientRequestID
	d.result = succeed(Unassigned)
	if response.Err != nil {
		d.result = classify(response.Err)
	}
	// No source says how Graph responds where there is no account to remove.
	if d.carriesNothing() && (response.Err == nil || d.result.code == graphRejected) {
		d.result = succeed(AlreadyUnassigned)
	}
}

// verifyDevices reads the changed devices again. Its findings never turn a success into a failure.
func (h *Handler) verifyDevices(ctx context.Context, devices []*device) {
	var changed []*device
	for _, d := range devices {
		if d.result.succeeded() && d.replayOf == "" {
			changed = append(changed, d)
		}
	}
	for i, found := range h.findDevices(ctx, changed) {
		d := changed[i]
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
