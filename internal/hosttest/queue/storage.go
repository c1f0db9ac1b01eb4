package queue

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// StorageOptions describe a queue and its listeners. Zero values mean the settings of the queue's host.json.
type StorageOptions struct {
	Start              func() Worker // starts a worker. It gets one message at a time, several of them at once
	Instances          int           // 0 means 1
	BatchSize          int           // 0 means 2
	NewBatchThreshold  int
	MaxDequeueCount    int           // 0 means 5
	VisibilityTimeout  time.Duration // after a failure; 0 means 30 s
	FunctionTimeout    time.Duration // 0 means 30 min
	MaxPollingInterval time.Duration // 0 means 1 min
	Retention          time.Duration // 0 means 7 days
	Seed               uint64        // for Kill and KillInstance
}

// Lease times of the host (Q2).
const (
	storageLease   = 10 * time.Minute
	storageRenewal = storageLease / 2
)

// errInstance is the cause of a process whose whole instance was killed (Q8).
var errInstance = errors.New("queue: the instance was killed")

// Storage is an Azure Storage queue with instances of the Functions host behind it.
type Storage struct {
	*store

	options StorageOptions
}

// NewStorage returns an empty queue.
func NewStorage(o StorageOptions) *Storage {
	o.Instances = cmp.Or(o.Instances, 1)
	o.BatchSize = cmp.Or(o.BatchSize, 2)
	o.MaxDequeueCount = cmp.Or(o.MaxDequeueCount, 5)
	o.VisibilityTimeout = cmp.Or(o.VisibilityTimeout, 30*time.Second)
	o.FunctionTimeout = cmp.Or(o.FunctionTimeout, 30*time.Minute)
	o.MaxPollingInterval = cmp.Or(o.MaxPollingInterval, time.Minute)
	o.Retention = cmp.Or(o.Retention, 7*24*time.Hour)
	return &Storage{store: newStore(o.Retention, o.Seed), options: o}
}

// KillInstance ends an instance that is at work, host and worker, and reports whether there was one (Q8).
func (q *Storage) KillInstance() bool { return q.killProcess(errInstance) }

// Run works until the queue is empty or ctx ends, and every worker has returned.
func (q *Storage) Run(ctx context.Context) {
	var instances sync.WaitGroup
	for range q.options.Instances {
		instances.Go(func() { q.listen(ctx) })
	}
	instances.Wait()
	q.workers.Wait()
}

// instance is one host with its worker.
type instance struct {
	mu      sync.Mutex
	process *process
	atWork  int
	settled chan struct{} // gets a value when an invocation has ended
}

// listen receives messages and starts an invocation for each (Q1, Q9).
func (q *Storage) listen(ctx context.Context) {
	var invocations sync.WaitGroup
	defer invocations.Wait()
	i := &instance{
		process: startProcess(ctx, q.options.Start),
		settled: make(chan struct{}, q.options.BatchSize+q.options.NewBatchThreshold),
	}
	defer func() { i.process.end(nil) }()
	idle := 100 * time.Millisecond
	for ctx.Err() == nil {
		left, _ := q.countLeft()
		if left == 0 {
			return
		}
		i.mu.Lock()
		free := i.atWork <= q.options.NewBatchThreshold
		i.mu.Unlock()
		if !free {
			select {
			case <-i.settled:
			case <-ctx.Done():
			}
			continue
		}
		leases, _ := q.receiveMessages(q.options.BatchSize, q.options.MaxDequeueCount, storageLease)
		if len(leases) == 0 {
			_, changed := q.countLeft()
			if left, _ = q.countLeft(); left > 0 {
				q.pausePolling(ctx, idle, changed)
			}
			idle = min(2*idle, q.options.MaxPollingInterval)
			continue
		}
		idle = 100 * time.Millisecond
		for _, l := range leases {
			i.mu.Lock()
			i.atWork++
			i.mu.Unlock()
			invocations.Go(func() {
				q.invoke(ctx, i, l)
				i.mu.Lock()
				i.atWork--
				i.mu.Unlock()
				select {
				case i.settled <- struct{}{}:
				default: // as many are waiting to be seen
				}
			})
		}
	}
}

// pausePolling waits for the next poll, or for the queue to be empty.
func (q *Storage) pausePolling(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-changed:
			var left int
			if left, changed = q.countLeft(); left == 0 {
				return
			}
		}
	}
}

// invoke hands a message to the worker of an instance and settles it (Q2 to Q8).
func (q *Storage) invoke(ctx context.Context, i *instance, l lease) {
	i.mu.Lock()
	if i.process.ctx.Err() != nil {
		i.process = startProcess(ctx, q.options.Start)
	}
	p := i.process
	i.mu.Unlock()
	renew := func() { q.hideMessage(l, storageLease) }
	//nolint:contextcheck // a process has a context of its own
	failed, err := q.call(p, []Message{l.received}, q.options.FunctionTimeout, storageRenewal, renew)
	switch {
	case errors.Is(err, errInstance), ctx.Err() != nil:
		return
	case errors.Is(err, ErrTimeout):
		p.end(ErrKilled) // with all that it is doing
	}
	switch {
	case err == nil && len(failed) == 0:
		q.deleteMessage(l)
	case l.receive >= q.options.MaxDequeueCount:
		q.buryMessage(l)
	default:
		q.hideMessage(l, q.options.VisibilityTimeout)
	}
}
