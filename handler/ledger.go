package handler

import (
	"cmp"
	"context"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
)

// ledger knows what became of the deliveries of the last ten minutes, so that one that comes twice is carried out once.
// Senders do repeat themselves: Power Automate also where it is told not to, and all when an answer was lost.
//
// It is the memory of this instance alone, and ends with it. It can do nothing about a request that comes late for the first
// time: what protects a newer assignment from an old request is expected.
//
// Kept is what ended for good: what was done, and the refusals that are the device's own (outside the policy, not found,
// ambiguous, changed, in conflict, rejected). Such a delivery is over: one that was refused for the account it found must not
// succeed when somebody sends it again later. Not kept is what may end otherwise when it is asked again, as it must be: a
// failure that passes, and one of this function (424), which somebody repairs. What is refused before it reaches a device is
// not kept either, since it will be refused again. Of a list each device is kept by itself, and what comes again is carried out
// for the others.
//
// What is kept is what became of each device, not the answer: a repetition is answered in the form that it asks for itself.
// With the same preferences its body is the same to the byte, the id of the first request included.
type ledger struct {
	window time.Duration // for so long a signature can be good; it is not forgotten before

	mu      sync.Mutex
	entries map[delivery]*entry
	kept    []*entry // those that have ended, in that order
	devices int      // of kept
}

// remembered is how long an outcome is kept. It is as long as a signature is good with the standard tolerance.
const remembered = 10 * time.Minute

// maxRemembered is for how many devices outcomes are kept, the oldest being forgotten first: as many as Graph lets an app change in
// ten minutes.
const maxRemembered = 3000

// maxDelivery is the length of a delivery's id, in characters.
const maxDelivery = 128

// delivery names what a caller sends once, however often it comes. The same id of another caller is another delivery;
// behind the platform all callers are one. It is a hash, since there are thousands of them.
type delivery [sha256.Size]byte

// deliveryOf returns the delivery of that id that who has sent.
func deliveryOf(who caller.Caller, id string) delivery {
	// The kind is a word of ours and the id is plain, so that nothing in between can be taken for a part of either.
	return sha256.Sum256([]byte(string(who.Kind) + "\n" + who.ID + "\n" + id))
}

// entry is a delivery that is being carried out or has been.
type entry struct {
	delivery
	body  [sha256.Size]byte // its hash
	ended chan struct{}     // closed at the end, after which the rest does not change; nil from then on

	whole     bool        // all its devices have ended for good
	requestID string      // of the request that was carried out
	kept      []outcomeOf // of its devices; nil if nothing is kept
	at        time.Time

	before *entry // the attempt before this one, of which some devices have ended for good; nil for none
}

// outcomeOf is what became of a device, as it is told again. Thousands are kept, and of most no more than stands here.
type outcomeOf struct {
	final           bool // it would end again as it did; the rest is zero else
	id              graph.DeviceID
	code            Code   // of a success
	graphRequestID  string // the id that Graph gave the request for it
	clientRequestID string // and the one that it was given
	*further               // nil where there is nothing
}

// further is what else there may be to tell of a device.
type further struct {
	serialNumber, groupTag string
	verification           string
	err                    error
	candidates             []graph.DeviceID
	replayOf               string
}

// deliveryID returns the id of the delivery that who has sent with header h: the one that the signature covers or, for a
// caller who does not sign, that of Idempotency-Key, bare or in quotes. It is "" where there is none.
func deliveryID(h http.Header, who caller.Caller) (string, error) {
	keys := h.Values("Idempotency-Key")
	if who.Kind == caller.KindSignature || len(keys) == 0 {
		return who.Delivery, nil
	}
	key := keys[0]
	if bare, ok := strings.CutPrefix(key, `"`); ok && strings.HasSuffix(bare, `"`) {
		key = strings.TrimSuffix(bare, `"`)
	}
	if len(keys) > 1 || !plain(key, maxDelivery) {
		return "", &refusal{code: deliveryIDInvalid}
	}
	return key, nil
}

// once has rec's request carried out by do, unless its delivery has been: then rec gets what became of that. Of a list that has not
// ended for good as a whole, do is left with the rest.
func (h *Handler) once(ctx context.Context, rec *record, body []byte, do func(context.Context, *record) error) error {
	if rec.delivery == "" || rec.request.dryRun { // which changes nothing, however often it comes
		return do(ctx, rec)
	}
	e, first, err := h.ledger.begin(ctx, deliveryOf(rec.caller, rec.delivery), sha256.Sum256(body))
	if err != nil {
		return err
	}
	if !first {
		rec.replayOf = e.recall(rec.devices)
		return nil
	}
	if e.before != nil {
		e.before.recall(rec.devices)
	}
	var became []*device // nothing that is kept, unless the end is reached: a panic must not leave the others waiting
	defer func() { h.ledger.end(e, rec.requestID, became) }()
	if err := do(ctx, rec); err != nil {
		return err
	}
	became = rec.devices
	return nil
}

// remember returns what is kept of a device.
func (d *device) remember() outcomeOf {
	if !d.final() {
		return outcomeOf{}
	}
	o := outcomeOf{final: true, id: d.known.ID, code: d.code, graphRequestID: d.result.RequestID, clientRequestID: d.result.ClientRequestID}
	if d.known.SerialNumber != "" || d.known.GroupTag != "" || d.verification != "" || d.err != nil || d.replayOf != "" {
		o.further = &further{d.known.SerialNumber, d.known.GroupTag, d.verification, d.err, d.candidates, d.replayOf}
	}
	return o
}

// recall puts what has ended for good into devices, which are those of the same body, and returns the id of the request that was
// carried out.
func (e *entry) recall(devices []*device) string {
	for i, d := range devices {
		o := &e.kept[i]
		if !o.final {
			continue
		}
		d.known, d.code = graph.Device{ID: o.id}, o.code
		d.result = graph.Result{ID: o.id, RequestID: o.graphRequestID, ClientRequestID: o.clientRequestID}
		if more := o.further; more != nil {
			d.known.SerialNumber, d.known.GroupTag = more.serialNumber, more.groupTag
			d.verification, d.err, d.candidates, d.replayOf = more.verification, more.err, more.candidates, more.replayOf
		}
		if !e.whole { // the others are this request's
			d.replayOf = cmp.Or(d.replayOf, e.requestID)
		}
	}
	return e.requestID
}

// carryOut does what rec's request asks for, if its caller may ask for so much.
func (h *Handler) carryOut(ctx context.Context, rec *record) error {
	left := 0
	for _, d := range rec.devices {
		if d.replayOf == "" {
			left++
		}
	}
	if err := h.limits.take(rec.caller, left); err != nil {
		return err
	}
	h.act(ctx, rec)
	return nil
}

// begin returns the entry of a delivery with that body. The first to ask for it must carry it out and call end; whoever comes
// meanwhile waits for that, and becomes the first if the end is not kept. The error is a *refusal: the delivery came with
// another body, or ctx has ended before it.
func (l *ledger) begin(ctx context.Context, d delivery, body [sha256.Size]byte) (e *entry, first bool, err error) {
	for {
		e, ended, first := l.entry(d, body)
		switch {
		case first:
			return e, true, nil
		case e.body != body:
			return nil, false, &refusal{code: deliveryIDReused}
		}
		if ended != nil {
			select {
			case <-ended:
			case <-ctx.Done():
				return nil, false, &refusal{code: inProgress}
			}
		}
		if e.whole {
			return e, false, nil
		}
	}
}

// entry returns the entry of d, the channel that is closed at its end, nil if that has come, and whether it was made for this.
func (l *ledger) entry(d delivery, body [sha256.Size]byte) (e *entry, ended <-chan struct{}, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.kept) > 0 && time.Since(l.kept[0].at) >= max(remembered, l.window) {
		l.forget()
	}
	before, ok := l.entries[d]
	if ok && (before.ended != nil || before.whole || before.body != body) {
		return before, before.ended, false
	}
	e = &entry{delivery: d, body: body, ended: make(chan struct{}), before: before}
	l.entries[d] = e
	return e, e.ended, true
}

// end tells what became of the devices of e, nil if it did not come to that. They were asked for by the request of that id.
func (l *ledger) end(e *entry, requestID string, devices []*device) {
	whole, some := len(devices) > 0, false
	kept := make([]outcomeOf, len(devices))
	for i, d := range devices {
		kept[i] = d.remember()
		whole = whole && kept[i].final
		some = some || kept[i].final
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(e.ended)
	e.ended, e.whole = nil, whole
	before := -1 // if there is none, or it is forgotten by now
	if e.before != nil {
		before = slices.Index(l.kept, e.before)
	}
	switch {
	case some && before >= 0: // e stands for both
		l.devices -= len(e.before.kept)
		l.kept = slices.Delete(l.kept, before, before+1)
	case some:
	case before >= 0: // it did not come so far this time
		l.entries[e.delivery] = e.before
		return
	default:
		delete(l.entries, e.delivery)
		return
	}
	e.requestID, e.kept, e.at, e.before = requestID, kept, time.Now(), nil
	l.kept = append(l.kept, e)
	for l.devices += len(kept); l.devices > maxRemembered; {
		l.forget()
	}
}

// forget forgets the oldest of the deliveries that have ended.
func (l *ledger) forget() {
	oldest := l.kept[0]
	l.kept[0] = nil
	l.kept = l.kept[1:]
	l.devices -= len(oldest.kept)
	if l.entries[oldest.delivery] == oldest { // and not a later attempt
		delete(l.entries, oldest.delivery)
	}
}

// final reports whether d has ended in a way in which it would end again.
func (d *device) final() bool {
	_, status, _ := d.end()
	return status != 0 && !retryable(status) && status != http.StatusFailedDependency
}
