package handler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// Pace grants permits for changes in the background. *graph.Pace implements it.
type Pace interface {
	// Take waits for permits and returns their number: at least one and at most want, or 0 if ctx ends first.
	Take(ctx context.Context, want int) int
	// Return gives back permits that were taken at that time, of changes that no write was sent for.
	Return(permits int, taken time.Time)
	// Capacity returns how many permits Take will grant within d.
	Capacity(d time.Duration) int
	// Rate returns the permits a second, 0 if the limit is not known.
	Rate() float64
	// Learn starts with the Rate of another process, unless the limit is known.
	Learn(rate float64)
}

// Message is one delivery of a queue message: a body as the webhook accepts it, plain or in base64.
type Message struct {
	ID         string
	Text       []byte
	Sent       time.Time         // zero if the host does not know
	Deliveries int               // of this message, including this one
	Context    map[string]string // the host's data for the log; may be nil
}

// Settlement tells a host how to settle a message. With the zero Settlement the message is done.
type Settlement struct {
	// Retry leaves the message in the queue, which delivers it again and counts the delivery.
	Retry bool
	// Requeue are messages to send to the queue in place of this one. They count no delivery.
	Requeue [][]byte
	// DeadLetters are messages to send to the dead-letter queue in place of this one.
	DeadLetters []DeadLetter
}

// DeadLetter is a message that failed permanently. Unless it could not be decoded, its member queue has the code too.
type DeadLetter struct {
	Text []byte
	Code Code
}

const (
	// settleAfter is the longest time for which a message takes permits. Then its remaining devices are requeued: a killed
	// process costs little work, and a slow process does not keep devices that another could take.
	settleAfter = 45 * time.Second
	// sendReserve is the time for the requests of a host that settle a message.
	sendReserve = 25 * time.Second
	// minMessageTime leaves time for the settlements of a batch, which come one after another.
	minMessageTime = 2 * time.Minute
	// maxTries is the number of deliveries after which a transient failure is permanent. Deliveries to a process that was
	// killed count, because no queue tells them apart. The queues' own limits are higher, and are reached only if every process
	// was killed.
	maxTries = 5
	// maxQueueState is the number of bytes above maxBody of a message that this function sent: with its member queue, and its
	// device in a list.
	maxQueueState = 256
	// maxRateAge is the age of a message above which its rate is no longer true.
	maxRateAge = 5 * time.Minute
)

// queueState is the member queue of a message that this function sent itself.
type queueState struct {
	Since time.Time `json:"since,omitzero"`  // when the first message was sent
	Tries int       `json:"tries,omitempty"` // deliveries of earlier messages that count: see messageRun.tries
	Code  Code      `json:"code,omitempty"`  // in a dead letter, the reason
	Rate  float64   `json:"rate,omitempty"`  // of the sender's pace, writes a second
}

// MessageTime returns the longest time that settling a message takes, for which a queue must not deliver it again: the
// time for permits, Timeout for the last change and Timeout for its verification.
func (h *Handler) MessageTime() time.Duration {
	return max(minMessageTime, settleAfter+2*h.Timeout+sendReserve)
}

// RunMessages carries out a batch of messages at the pace that Graph accepts. It calls settle with the index of each
// message as soon as its settlement is known, one call at a time, so that a killed process leaves little for another to
// repeat. Messages that the pace leaves no time for are requeued at once.
func (h *Handler) RunMessages(ctx context.Context, source Source, messages []Message, settle func(int, Settlement)) {
	type settled struct {
		index int
		Settlement
	}
	settlements := make(chan settled, len(messages))
	runs := make([]*messageRun, len(messages))
	for i, m := range messages {
		m.Sent = normalTime(m.Sent)
		runs[i] = &messageRun{Handler: h, source: source, message: m, audited: map[*device]bool{}, changing: map[*device]bool{}}
		runs[i].decode()
		if time.Since(m.Sent) < maxRateAge {
			h.Pace.Learn(runs[i].state.Rate)
		}
	}
	capacity := h.Pace.Capacity(settleAfter)
	for i, run := range runs {
		run.postponed = i > 0 && capacity < len(run.request.targets) // and those after it, in their order
		capacity -= len(run.request.targets)
		go func() {
			taking, cancel := context.WithTimeout(ctx, takingTime())
			defer cancel()
			run.taking = taking
			var s Settlement
			if err := singleflight.CatchPanic(func() error { s = run.settle(ctx); return nil }); err != nil {
				failed := &work{request: request{context: run.message.Context}, result: classify(err)}
				h.auditEvent(ctx, newOrigin(ctx, time.Now(), guid.New().String()), failed)
				s = Settlement{Retry: true} // the queue itself gives up after its own number of deliveries
			}
			settlements <- settled{i, s}
		}()
	}
	for range messages {
		s := <-settlements
		settle(s.index, s.Settlement)
	}
}

// takingTime returns a random time between half of settleAfter and all of it. If the messages of a process were requeued
// at the same moment, the process would receive them again before another could.
func takingTime() time.Duration {
	return settleAfter/2 + rand.N(settleAfter/2) //nolint:gosec // no secret
}

// messageRun is one message in one invocation.
type messageRun struct {
	*Handler
	source    Source
	message   Message
	request   request
	invalid   error // a *refusal of the message; nil for one that can be carried out
	state     queueState
	taking    context.Context //nolint:containedctx // ends when no further permits are to be taken
	postponed bool            // the pace leaves no time for the message
	audited   map[*device]bool

	mu       sync.Mutex       // of the devices, while groups change
	changing map[*device]bool // devices in a group
	failure  error            // the first panic of a group
}

// settle carries out the message and returns its settlement.
func (m *messageRun) settle(ctx context.Context) Settlement {
	o := newOrigin(ctx, time.Now(), guid.New().String())
	o.caller = caller.Caller{Kind: caller.KindEvent, ID: string(m.source)}
	o.delivery = m.message.ID
	ctx = upstream.WithTrace(ctx, o.trace)
	job := work{}
	job.setRequest(m.request)
	job.repeated = m.tries() > 1
	job.list = true // each device has a status of its own
	job.context = mergeContext(job.context, m.message.Context)
	failure := m.invalid
	if failure == nil && !m.postponed {
		failure = singleflight.CatchPanic(func() error {
			return m.performOnce(ctx, o, &job, m.message.Text, func(ctx context.Context) error { return m.drain(ctx, o, &job) })
		})
	}
	if failure != nil {
		job.result = classify(failure)
		m.auditEvent(ctx, o, &job)
		return m.settleFailure(&job)
	}
	return m.settleDevices(ctx, o, &job)
}

// settleFailure returns the settlement of a message that failed as a whole.
func (m *messageRun) settleFailure(w *work) Settlement {
	switch {
	case len(w.devices) == 0: // not decoded
		return Settlement{DeadLetters: []DeadLetter{{m.message.Text, w.result.code}}}
	case retryable(w.result.status) && m.tries() < maxTries:
		return Settlement{Retry: true}
	}
	code := w.result.code
	return Settlement{DeadLetters: []DeadLetter{{m.body(w, w.devices, queueState{Code: code}), code}}}
}

// tries is the number of deliveries so far, including this one. A delivery whose devices only ran out of permits does not
// count.
func (m *messageRun) tries() int { return m.state.Tries + m.message.Deliveries }

// drain changes the devices of w in groups, as permits are granted, until none is left or the time for permits ends. A
// group does not wait for the one before, so that slow responses do not lower the pace.
//
// It holds the turn until all devices have a permit. The messages of a process then end one after another and not all
// at the same time, so that most are settled when the process is killed.
func (m *messageRun) drain(ctx context.Context, o *origin, w *work) error {
	m.refuseOld(w)
	passTurn := func() {}
	if !w.dryRun { // a dry run writes nothing
		passTurn = m.takeTurn(o)
	}
	defer passTurn()
	var groups sync.WaitGroup
	for {
		pending := m.pendingDevices(w)
		granted := m.takePermits(o, w, len(pending))
		if granted == 0 {
			groups.Wait()
			if m.failure != nil || len(m.pendingDevices(w)) == 0 || m.taking.Err() != nil {
				break
			}
			continue // some were throttled, by Graph or by the hourly limit
		}
		if granted == len(pending) {
			passTurn()
		}
		groups.Go(m.startGroup(ctx, o, w, pending[:granted]))
	}
	return m.failure
}

// takeTurn waits until the other messages of the process have their permits, or until the time for permits ends. It
// returns a function that passes the turn to the next message, once.
func (m *messageRun) takeTurn(o *origin) func() {
	start := time.Now()
	defer func() { o.trace.Wait(time.Since(start)) }()
	select {
	case m.turn <- struct{}{}:
		return sync.OnceFunc(func() { <-m.turn })
	case <-m.taking.Done():
		return func() {}
	}
}

// takePermits waits for permits and returns how many of the wanted devices may be changed: 0 when the time for permits has
// ended, or if none is wanted.
func (m *messageRun) takePermits(o *origin, w *work, want int) int {
	if want == 0 || w.dryRun {
		return want
	}
	if limit := m.Policy.Callers[w.caller].DevicesPerHour; limit > 0 { // the others wait for the next hour
		want = min(want, limit)
	}
	start := time.Now()
	defer func() { o.trace.Wait(time.Since(start)) }()
	return m.Pace.Take(m.taking, want)
}

// pendingDevices returns the devices of w that have no result and are in no group.
func (m *messageRun) pendingDevices(w *work) []*device {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.devices), func(d *device) bool { return d.result.ended() || m.changing[d] })
}

// startGroup returns a function that changes a group of devices that have permits, on copies: groups run concurrently.
func (m *messageRun) startGroup(ctx context.Context, o *origin, w *work, group []*device) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	part := *w
	part.devices = nil
	var copies []*device // of the group
	for _, d := range w.devices {
		one := *d
		part.devices = append(part.devices, &one)
		if slices.Contains(group, d) {
			copies = append(copies, &one)
			m.changing[d] = true
		}
	}
	return func() {
		var wait time.Duration
		err := singleflight.CatchPanic(func() error { wait = m.changeGroup(ctx, o, &part, copies); return nil })
		m.endGroup(ctx, o, w, group, copies, err)
		upstream.Sleep(m.taking, wait) //nolint:contextcheck // taking comes of ctx
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, d := range group {
			delete(m.changing, d)
		}
	}
}

// endGroup takes the results of a group over from its copies, and writes the records, before anything waits.
func (m *messageRun) endGroup(ctx context.Context, o *origin, w *work, group, copies []*device, failure error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, d := range group {
		*d = *copies[i]
	}
	m.failure = cmp.Or(m.failure, failure)
	if at := slices.IndexFunc(group, func(d *device) bool { return d.result.status == http.StatusFailedDependency }); at >= 0 {
		for _, d := range w.devices { // 424 is a fault of the deployment, so no other device can succeed
			if !d.result.ended() && !m.changing[d] {
				d.result = group[at].result
			}
		}
	}
	m.auditEnded(ctx, o, w)
}

// changeGroup changes the devices of group. A device that Graph throttled, or above the hourly limit of the caller, has
// no result yet: wait is the time until it may be tried again.
func (m *messageRun) changeGroup(ctx context.Context, o *origin, w *work, group []*device) (wait time.Duration) {
	start := time.Now()
	if err := m.takeChanges(o, w, group); err != nil {
		m.Pace.Return(len(group), start)
		if limited, ok := errors.AsType[*rateLimitError](err); ok {
			return limited.wait
		}
		for _, d := range group {
			d.result = classify(err)
		}
		return 0
	}
	acting, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	m.tryDevices(acting, m.Background, w, group)
	throttled, unused := 0, 0
	for _, d := range group {
		if w.repeated && d.clientRequestID == "" { // most likely the process that was killed has changed it
			unused++
		}
		if !d.result.retriesLater() {
			continue
		}
		throttled++
		if !d.read { // no permit delays a throttled read
			wait = max(wait, d.result.retryAfter)
		}
		d.result = result{}
	}
	if !w.dryRun {
		m.limits.returnChanges(o.caller, throttled)
		m.Pace.Return(unused, start)
	}
	if w.verify { // before the record
		verifying, cancel := context.WithTimeout(ctx, m.Timeout)
		defer cancel()
		m.verifyDevices(verifying, group)
	}
	return wait
}

// auditEnded writes the records of the devices that have a result and no record.
func (m *messageRun) auditEnded(ctx context.Context, o *origin, w *work) {
	for _, d := range w.devices {
		if d.result.ended() && !m.audited[d] {
			m.audited[d] = true
			m.writeRecord(ctx, workEntry(o, w, d, 0))
		}
	}
}

// refuseOld refuses a message above the age limit, for the devices without expected: they may carry a newer account.
func (m *messageRun) refuseOld(w *work) {
	since := m.since()
	if m.QueueMaxAge == 0 || since.IsZero() || time.Since(since) <= m.QueueMaxAge {
		return
	}
	for _, d := range w.devices {
		if d.expected == (graph.Account{}) && !d.result.ended() {
			d.result = classify(&refusal{code: messageTooOld})
		}
	}
}

// since returns when the first message was sent.
func (m *messageRun) since() time.Time {
	if m.state.Since.IsZero() || !m.message.Sent.IsZero() && m.state.Since.After(m.message.Sent) {
		return m.message.Sent
	}
	return m.state.Since
}

// settleDevices returns the settlement of a message from the results of its devices.
func (m *messageRun) settleDevices(ctx context.Context, o *origin, w *work) Settlement {
	var (
		settlement      Settlement
		left, transient []*device
		settled         int
		dead            = map[Code][]*device{}
	)
	m.auditEnded(ctx, o, w)
	for _, d := range w.devices {
		if !d.result.ended() {
			left = append(left, d)
			continue
		}
		switch {
		case !d.result.failed():
			settled++
		case retryable(d.result.status) && m.tries() < maxTries:
			transient = append(transient, d)
		default:
			settled++
			dead[d.result.code] = append(dead[d.result.code], d)
		}
	}
	if len(transient) > 0 && settled+len(left) == 0 {
		return Settlement{Retry: true}
	}
	for _, code := range slices.Sorted(maps.Keys(dead)) {
		text := m.body(w, dead[code], queueState{Tries: m.tries(), Code: code})
		settlement.DeadLetters = append(settlement.DeadLetters, DeadLetter{text, code})
	}
	if len(transient) > 0 {
		settlement.Requeue = append(settlement.Requeue, m.body(w, transient, queueState{Tries: m.tries()}))
	}
	for chunk := range slices.Chunk(left, min(maxDevices, m.Pace.Capacity(settleAfter/2))) {
		settlement.Requeue = append(settlement.Requeue, m.body(w, chunk, queueState{Tries: min(m.tries()-1, maxTries-1)}))
	}
	if requeued := len(left) + len(transient); requeued > 0 {
		m.Log.LogAttrs(ctx, slog.LevelInfo, "requeued", slog.String("request_id", o.requestID),
			slog.String("delivery_id", o.delivery),
			slog.Int("devices", requeued), slog.Int("settled", settled), milliseconds("waited_ms", o.trace.Waited()))
	}
	return settlement
}

// messageDevice is a device in a message that this function sends.
type messageDevice struct {
	DeviceID     string   `json:"deviceId,omitempty"`
	SerialNumber string   `json:"serialNumber,omitempty"`
	Expected     *Account `json:"expected,omitempty"`
}

// body returns a message for some of the devices, with the other members of the request.
func (m *messageRun) body(w *work, devices []*device, state queueState) []byte {
	state.Since = m.since()
	if state.Code == "" { // a dead letter may be put back after days
		state.Rate = m.Pace.Rate()
	}
	list := make([]messageDevice, len(devices))
	for i, d := range devices {
		list[i] = messageDevice{SerialNumber: d.serial}
		if d.serial == "" {
			list[i].DeviceID = d.id.String()
		}
		if d.expected != (graph.Account{}) {
			list[i].Expected = &Account{d.expected.UserPrincipalName, d.expected.ResourceName}
		}
	}
	text := encodeJSON(struct {
		Devices   []messageDevice   `json:"devices"`
		DryRun    bool              `json:"dryRun,omitempty"`
		Verify    bool              `json:"verify,omitempty"`
		Reference string            `json:"reference,omitempty"`
		Context   map[string]string `json:"context,omitempty"`
		Queue     queueState        `json:"queue"`
	}{list, m.request.dryRun, m.request.verify, w.reference, m.request.context, state})
	return []byte(strings.TrimSuffix(text, "\n"))
}

// decode decodes the text of the message: a body, with the member queue if this function sent it.
func (m *messageRun) decode() {
	var decoder bodyDecoder
	own, text := false, decodeMessage(m.message.Text)
	m.request, m.invalid = decoder.decode(text, maxBody+maxQueueState, func(field string) fieldReader {
		if field != "queue" {
			return decoder.fieldReader(field)
		}
		own = true
		return func(value json.RawMessage) error {
			if json.Unmarshal(value, &m.state) != nil || m.state.Tries < 0 {
				return &refusal{code: eventInvalid, field: field}
			}
			m.state.Since = normalTime(m.state.Since)
			m.state.Tries = min(m.state.Tries, maxTries) // or the sum with deliveries could overflow
			if m.state.Code != "" {                      // a dead letter that was put back
				m.state.Tries = 0
			}
			return nil
		}
	})
	if m.invalid == nil && !own && len(text) > maxBody {
		m.request, m.invalid = request{}, &refusal{code: bodyTooLarge}
	}
}

// normalTime returns t in UTC, and zero for a time that JSON cannot hold: package time reads some that it does not write,
// such as one with the offset +24:00.
func normalTime(t time.Time) time.Time {
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// mergeContext returns the sender's context with the host's data in it, which wins.
func mergeContext(context, host map[string]string) map[string]string {
	merged := map[string]string{}
	maps.Copy(merged, context)
	maps.Copy(merged, host)
	return merged
}
