package queue

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Message is a message as a worker receives it.
type Message struct {
	ID       string
	Body     string
	Sent     time.Time
	Receives int // ApproximateReceiveCount or DequeueCount: 1 at the first delivery
	Receipt  string
}

// Worker is one process of the function. It returns the ids of the messages that failed; an error fails them all. Its
// context ends when the process is killed or its time is up: context.Cause is ErrKilled or ErrTimeout.
type Worker func(ctx context.Context, batch []Message) (failed []string, err error)

// Causes of a Worker's context.
var (
	ErrKilled  = errors.New("queue: the worker was killed")
	ErrTimeout = errors.New("queue: the function's time is up")
)

// Stats counts the work of an engine.
type Stats struct {
	Left        int // messages that are neither done nor dead
	Done        int
	Dead        []Message // in the dead-letter or poison queue
	Expired     int       // deleted because of their age
	Invocations int
	Deliveries  int // messages handed to workers
	Kills       int
}

// entry is a message in the queue.
type entry struct {
	Message
	visible time.Time
	order   int // of arrival
	index   int // in the heap
	gone    bool
}

// lease is one receive of a message. It settles the message only while no later receive has happened.
type lease struct {
	*entry
	receive  int
	received Message
}

// store holds the messages of a queue, in the order in which they become visible.
type store struct {
	mu      sync.Mutex
	entries entryHeap
	stats   Stats
	sent    int
	changed chan struct{} // closed when a message arrives or the last one goes
	random  *rand.Rand
	busy    []*process
	keep    time.Duration    // retention
	leases  map[string]lease // by receipt
	workers sync.WaitGroup   // calls of workers
}

func newStore(keep time.Duration, seed uint64) *store {
	return &store{
		changed: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 1)), keep: keep, //nolint:gosec // a test's
		leases: map[string]lease{},
	}
}

// Send puts messages into the queue.
func (s *store) Send(bodies ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, body := range bodies {
		s.sent++
		m := Message{ID: fmt.Sprintf("message-%06d", s.sent), Body: body, Sent: now}
		heap.Push(&s.entries, &entry{Message: m, visible: now, order: s.sent})
		s.stats.Left++
	}
	s.notifyPollers()
}

// DeadLetter puts a message into the dead-letter or poison queue, as a worker does with a permanent failure.
func (s *store) DeadLetter(body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Dead = append(s.stats.Dead, Message{Body: body, Sent: time.Now()})
}

// Stats returns the counts so far.
func (s *store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Dead = slices.Clone(stats.Dead)
	return stats
}

// notifyPollers wakes the pollers. The caller holds mu.
func (s *store) notifyPollers() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// receiveMessages returns at most limit visible messages and hides them. Those received more than most times are dead
// instead. next is the time at which another message becomes visible, zero for none.
func (s *store) receiveMessages(limit, most int, hide time.Duration) (leases []lease, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(leases) < limit && len(s.entries) > 0 && !s.entries[0].visible.After(now) {
		e := s.entries[0]
		switch {
		case e.gone:
			heap.Pop(&s.entries)
		case now.Sub(e.Sent) >= s.keep:
			s.stats.Expired++
			s.removeEntry(e)
		default:
			e.Receives++
			if e.Receives > most {
				e.Receives--
				s.stats.Dead = append(s.stats.Dead, e.Message)
				s.removeEntry(e)
				continue
			}
			e.visible = now.Add(hide)
			heap.Fix(&s.entries, 0)
			delete(s.leases, e.Receipt)
			e.Receipt = fmt.Sprintf("%s/%d", e.ID, e.Receives)
			l := lease{e, e.Receives, e.Message}
			s.leases[e.Receipt] = l
			leases = append(leases, l)
		}
	}
	s.stats.Deliveries += len(leases)
	if len(s.entries) > 0 {
		next = s.entries[0].visible
	}
	return leases, next
}

// removeEntry counts a message as gone. The caller holds mu.
func (s *store) removeEntry(e *entry) {
	e.gone = true
	delete(s.leases, e.Receipt)
	s.stats.Left--
	if s.stats.Left == 0 {
		s.notifyPollers()
	}
}

// settleLease changes a message that l still holds.
func (s *store) settleLease(l lease, change func(*entry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.gone || l.Receives != l.receive {
		return // another receive holds it
	}
	change(l.entry)
}

func (s *store) deleteMessage(l lease) {
	s.settleLease(l, func(e *entry) {
		s.stats.Done++
		s.removeEntry(e)
	})
}

// leaseOf returns the lease with that receipt, unless the message was received again or is gone.
func (s *store) leaseOf(receipt string) (lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.leases[receipt]
	return l, ok
}

// hideMessage makes a message visible again after d.
func (s *store) hideMessage(l lease, d time.Duration) {
	s.settleLease(l, func(e *entry) {
		e.visible = time.Now().Add(d)
		heap.Fix(&s.entries, e.index)
	})
}

// buryMessage moves a message to the dead-letter side.
func (s *store) buryMessage(l lease) {
	s.settleLease(l, func(e *entry) {
		s.stats.Dead = append(s.stats.Dead, e.Message)
		s.removeEntry(e)
	})
}

// countLeft returns how many messages are in the queue, and a channel that is closed when a message arrives or the last
// one goes.
func (s *store) countLeft() (int, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Left, s.changed
}

// waitUntil returns when next has come, a message has arrived, or ctx has ended.
func waitUntil(ctx context.Context, next time.Time, changed <-chan struct{}) {
	var timer <-chan time.Time
	if !next.IsZero() {
		timer = time.After(time.Until(next))
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer:
	}
}

// process is one process of the function, with the context of all that it does.
type process struct {
	worker Worker
	ctx    context.Context //nolint:containedctx // the life of the process
	end    context.CancelCauseFunc
}

func startProcess(ctx context.Context, start func() Worker) *process {
	p := &process{worker: start()}
	p.ctx, p.end = context.WithCancelCause(ctx)
	return p
}

// call hands a batch to the worker and returns its result, or the cause if the process ends first. every is called
// so often meanwhile.
func (s *store) call(p *process, batch []Message, timeout, interval time.Duration, every func()) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(p.ctx, timeout, ErrTimeout)
	defer cancel()
	s.mu.Lock()
	s.stats.Invocations++
	s.busy = append(s.busy, p)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		at := slices.Index(s.busy, p)
		s.busy = slices.Delete(s.busy, at, at+1)
		s.mu.Unlock()
	}()
	type result struct {
		failed []string
		err    error
	}
	done := make(chan result, 1)
	s.workers.Go(func() {
		failed, err := p.worker(ctx, batch)
		done <- result{failed, err}
	})
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case r := <-done:
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return r.failed, r.err
		case <-tick.C:
			every()
		}
	}
}

// Kill ends a process that is at work, chosen at random, and reports whether there was one.
func (s *store) Kill() bool { return s.killProcess(ErrKilled) }

func (s *store) killProcess(cause error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.busy) == 0 {
		return false
	}
	s.stats.Kills++
	s.busy[s.random.IntN(len(s.busy))].end(cause)
	return true
}

// entryHeap orders entries by the time at which they are visible.
type entryHeap []*entry

func (h entryHeap) Len() int { return len(h) }

func (h entryHeap) Less(i, j int) bool {
	if !h[i].visible.Equal(h[j].visible) {
		return h[i].visible.Before(h[j].visible)
	}
	return h[i].order < h[j].order
}

func (h entryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *entryHeap) Push(x any) {
	e := x.(*entry) //nolint:forcetypeassert // Send pushes entries alone
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *entryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}
