package queue

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// SQSOptions describe a queue and its event source mapping. Zero values mean the settings of template.yaml's queue.
type SQSOptions struct {
	Start           func() Worker // starts an environment of the function
	Visibility      time.Duration // 0 means 90 min
	MaxReceiveCount int           // 0 means 5
	BatchSize       int           // 0 means 10
	BatchingWindow  time.Duration
	MaxConcurrency  int           // 0 means 2
	Timeout         time.Duration // of the function; 0 means 15 min
	Retention       time.Duration // 0 means 4 days
	Seed            uint64        // for Kill
}

// SQS is a queue of Amazon SQS with a Lambda function behind it.
type SQS struct {
	*store

	options SQSOptions
}

// NewSQS returns an empty queue.
func NewSQS(o SQSOptions) *SQS {
	o.Visibility = cmp.Or(o.Visibility, 90*time.Minute)
	o.MaxReceiveCount = cmp.Or(o.MaxReceiveCount, 5)
	o.BatchSize = cmp.Or(o.BatchSize, 10)
	o.MaxConcurrency = cmp.Or(o.MaxConcurrency, 2)
	o.Timeout = cmp.Or(o.Timeout, 15*time.Minute)
	o.Retention = cmp.Or(o.Retention, 4*24*time.Hour)
	return &SQS{store: newStore(o.Retention, o.Seed), options: o}
}

// DeleteMessage deletes the message with that receipt (S9).
func (q *SQS) DeleteMessage(receipt string) {
	if l, ok := q.leaseOf(receipt); ok {
		q.deleteMessage(l)
	}
}

// ChangeMessageVisibility delivers the message with that receipt again after d (S9).
func (q *SQS) ChangeMessageVisibility(receipt string, d time.Duration) {
	if l, ok := q.leaseOf(receipt); ok {
		q.hideMessage(l, d)
	}
}

// Run works until the queue is empty or ctx ends, and every worker has returned (S3).
func (q *SQS) Run(ctx context.Context) {
	var slots sync.WaitGroup
	for range q.options.MaxConcurrency {
		slots.Go(func() { q.pollBatches(ctx) })
	}
	slots.Wait()
	q.workers.Wait()
}

// pollBatches invokes one environment with one batch after another.
func (q *SQS) pollBatches(ctx context.Context) {
	p := startProcess(ctx, q.options.Start)
	defer func() { p.end(nil) }()
	for ctx.Err() == nil {
		left, changed := q.countLeft()
		if left == 0 {
			return
		}
		leases, next := q.receiveMessages(q.options.BatchSize, q.options.MaxReceiveCount, q.options.Visibility)
		if len(leases) == 0 {
			waitUntil(ctx, next, changed)
			continue
		}
		if len(leases) < q.options.BatchSize && q.options.BatchingWindow > 0 { // S4
			waitUntil(ctx, time.Now().Add(q.options.BatchingWindow), nil)
			more, _ := q.receiveMessages(q.options.BatchSize-len(leases), q.options.MaxReceiveCount,
				q.options.Visibility)
			leases = append(leases, more...)
		}
		q.invoke(p, leases) //nolint:contextcheck // a process has a context of its own
		if p.ctx.Err() != nil {
			p = startProcess(ctx, q.options.Start)
		}
	}
}

// invoke hands a batch to an environment and deletes the messages that it has done (S5, S6).
func (q *SQS) invoke(p *process, leases []lease) {
	batch := make([]Message, len(leases))
	kept := map[string]bool{}
	for i, l := range leases {
		batch[i] = l.received
		kept[l.ID] = false
	}
	failed, err := q.call(p, batch, q.options.Timeout, q.options.Timeout, func() {})
	if err == ErrTimeout { //nolint:errorlint // a cause is itself
		p.end(err)
	}
	if err != nil {
		return
	}
	for _, id := range failed {
		if _, ok := kept[id]; !ok {
			return
		}
		kept[id] = true
	}
	for _, l := range leases {
		if !kept[l.ID] {
			q.deleteMessage(l)
		}
	}
}
