package handler

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/handler/caller"
)

// ledger stores the results of the deliveries of the last ten minutes, so that a repeated delivery is carried out once.
// Senders repeat themselves: Power Automate even where retries are off, and all of them when a response is lost.
//
// It lives in the memory of one instance, and ends with it. It cannot detect a request that arrives late for the first
// time: expected protects a newer assignment from an old request.
//
// The ledger stores final results: successes, and refusals caused by the device (see result.isFinal). A delivery that was
// refused for the account it found must not succeed when it is repeated later. It does not store transient
// failures or our own configuration faults: a retry may succeed. Nor does it store refusals before a device is reached:
// a repetition is refused again. Each device of a list is stored by itself, and a repetition carries out the others.
//
// It stores the results of the devices, not the response: a repetition chooses the form of its response. With the same
// preferences the body is identical, including the id of the first request.
type ledger struct {
	window time.Duration // how long a signature can be valid; a delivery is stored at least as long

	mu      sync.Mutex
	entries map[delivery]*ledgerEntry
	stored  []*ledgerEntry // the entries with results, oldest first
	devices int            // in stored
}

// ledgerTTL is how long results are stored: the validity of a signature with the default tolerance.
const ledgerTTL = 10 * time.Minute

// maxStoredDevices is the number of devices whose results are stored; the oldest are evicted first. It is Graph's limit
// for the changes of an app in ten minutes.
const maxStoredDevices = 3000

// delivery is the hash of a caller and the id of one of its deliveries. The same id of another caller is another
// delivery. With AUTH=platform all callers count as one.
type delivery digest

func deliveryOf(from caller.Caller, id string) delivery {
	// Neither the kind nor an id has a line feed, so no two deliveries have the same text.
	return delivery(digestOf([]byte(string(from.Kind) + "\n" + from.ID + "\n" + id)))
}

// digest is the first half of a SHA-256 hash. A caller would need 2^64 deliveries for two that share it, and thousands
// are stored.
type digest [sha256.Size / 2]byte

func digestOf(text []byte) digest {
	sum := sha256.Sum256(text)
	return digest(sum[:])
}

// ledgerEntry is a delivery that is running or has stored results.
type ledgerEntry struct {
	key      delivery
	body     digest
	running  chan struct{} // closed when the attempt under way ends; nil if none is
	stored   storedAttempt
	storedAt time.Time // zero without stored results
}

// attempt holds the final results that the last attempt of a delivery left.
type attempt struct {
	requestID string
	devices   []state // the zero state where the result was not final; none without a final result
	complete  bool    // every device has a final result
}

// storedAttempt is an attempt in the ledger. An attempt of successes alone, as nearly all are, is packed into one string: a full
// ledger of plain attempts would add 1.8 MiB to the peak of memory that make bench limits.
type storedAttempt struct {
	packed  string
	whole   *attempt // nil for a packed attempt
	devices int      // zero for no final result
}

// textEnd ends a text in a packed attempt. It is in no text, because all are valid UTF-8.
const textEnd = "\xff"

// newStoredAttempt returns the final results of devices as the ledger stores them.
func newStoredAttempt(requestID string, devices []*device) storedAttempt {
	final, successes := 0, 0
	for _, d := range devices {
		if d.result.isFinal() {
			final++
		}
		if d.result.succeeded() {
			successes++
		}
	}
	switch {
	case final == 0:
		return storedAttempt{}
	case successes == len(devices):
		return storedAttempt{packed: packSuccesses(requestID, devices), devices: len(devices)}
	}
	whole := &attempt{requestID, make([]state, len(devices)), final == len(devices)}
	for i, d := range devices {
		if d.result.isFinal() {
			whole.devices[i] = d.state
		}
	}
	return storedAttempt{whole: whole, devices: len(devices)}
}

func packSuccesses(requestID string, devices []*device) string {
	packed := append(append(make([]byte, 0, 256), requestID...), textEnd...)
	for _, d := range devices {
		packed = append(packed, d.known.ID[:]...)
		for _, text := range d.texts() {
			packed = append(append(packed, *text...), textEnd...)
		}
	}
	return string(packed)
}

// attempt returns the attempt as it was.
func (s storedAttempt) attempt() attempt {
	switch {
	case s.whole != nil:
		return *s.whole
	case s.devices == 0:
		return attempt{}
	}
	requestID, packed, _ := strings.Cut(s.packed, textEnd)
	a := attempt{requestID, make([]state, s.devices), true}
	for i := range a.devices {
		d := &a.devices[i]
		packed = packed[copy(d.known.ID[:], packed):]
		for _, text := range d.texts() {
			*text, packed, _ = strings.Cut(packed, textEnd)
		}
		d.result = succeed(d.result.code)
		d.read = true // or no text of its account is there
	}
	return a
}

// texts returns the texts of a success that a repetition has in its response and its record.
func (s *state) texts() []*string {
	account := &s.known.Account
	return []*string{
		(*string)(&s.result.code), &s.known.SerialNumber, &s.known.GroupTag, &account.UserPrincipalName,
		&account.AddressableUserName, &account.ResourceName, &s.verification, &s.replayOf, &s.graphRequestID,
		&s.clientRequestID,
	}
}

// lookup returns the entry of a delivery and its last attempt. Unless that is complete, the caller must carry out the
// rest and call store. While another request does that, lookup waits.
//
// The error is a *refusal: the delivery came with another body before, or ctx ended first.
func (l *ledger) lookup(ctx context.Context, key delivery, body digest) (*ledgerEntry, attempt, error) {
	for {
		e, last, running := l.claim(key, body)
		switch {
		case e.body != body:
			return nil, attempt{}, &refusal{code: deliveryIDReused}
		case running == nil:
			return e, last, nil
		}
		select {
		case <-running:
		case <-ctx.Done():
			return nil, attempt{}, &refusal{code: inProgress}
		}
	}
}

// claim returns the entry of a delivery. running is closed when another request's attempt ends; nil means that the
// entry is complete or that the attempt is the caller's.
func (l *ledger) claim(key delivery, body digest) (e *ledgerEntry, last attempt, running <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.stored) > 0 && time.Since(l.stored[0].storedAt) >= max(ledgerTTL, l.window) {
		l.evictOldest()
	}
	e, ok := l.entries[key]
	switch {
	case !ok:
		e = &ledgerEntry{key: key, body: body}
		l.entries[key] = e
	case e.running != nil || e.body != body:
		return e, attempt{}, e.running
	}
	if last = e.stored.attempt(); !last.complete {
		e.running = make(chan struct{})
	}
	return e, last, nil
}

// store ends the attempt of e, and stores the final results of devices. Without any, the results of the last attempt
// stay.
func (l *ledger) store(e *ledgerEntry, requestID string, devices []*device) {
	next := newStoredAttempt(requestID, devices)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(e.running)
	e.running = nil
	last := -1
	if !e.storedAt.IsZero() {
		last = slices.Index(l.stored, e)
	}
	switch {
	case next.devices > 0 && last >= 0:
		l.devices -= e.stored.devices
		l.stored = slices.Delete(l.stored, last, last+1)
	case next.devices > 0:
	case last >= 0:
		return
	default:
		delete(l.entries, e.key)
		return
	}
	e.stored, e.storedAt = next, time.Now()
	l.stored = append(l.stored, e)
	for l.devices += next.devices; l.devices > maxStoredDevices; {
		l.evictOldest()
	}
}

// evictOldest evicts the oldest results. An entry that is running stays claimed.
func (l *ledger) evictOldest() {
	oldest := l.stored[0]
	l.stored[0] = nil
	l.stored = l.stored[1:]
	l.devices -= oldest.stored.devices
	oldest.stored, oldest.storedAt = storedAttempt{}, time.Time{}
	if oldest.running == nil {
		delete(l.entries, oldest.key)
	}
}

// restore copies the stored results into devices, which come from the same body.
func (a attempt) restore(devices []*device) {
	for i, stored := range a.devices {
		if !stored.result.ended() {
			continue
		}
		devices[i].state = stored
		if !a.complete { // the other devices belong to this request
			devices[i].replayOf = cmp.Or(stored.replayOf, a.requestID)
		}
	}
}
