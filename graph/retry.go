package graph

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"

	"autopilot-unassign/internal/upstream"
)

const (
	maxRetries = 2
	firstDelay = 400 * time.Millisecond  // before the first retry without Retry-After; doubles, plus jitter
	minTryTime = 1500 * time.Millisecond // that a wait must leave for a retry
)

// sendWithRetries sends r with a token, and retries transient failures after the Retry-After of Graph, or a backoff, while
// waitFor allows it. The tries share the time of ctx. doubt carries over from earlier tries.
func (c *Client) sendWithRetries(ctx context.Context, r request, token string, doubt bool) outcome {
	limit := min(remainingTime(ctx)/(maxRetries+1), maxTryTime)
	for try := 0; ; try++ {
		start := time.Now()
		header, failure, inDoubt := c.sendOnce(ctx, limit, r, token)
		doubt = doubt || inDoubt
		if r.write || failure != nil && failure.Reason == upstream.Throttled {
			c.reportWrites(failure)
		}
		if failure == nil || try == maxRetries || !c.retries(failure) ||
			!waitFor(ctx, cmp.Or(failure.RetryAfter, backoffAfter(try)), time.Since(start)) {
			return outcome{header, token, failure, doubt}
		}
	}
}

// retries reports whether a failure is worth another try now.
func (c *Client) retries(failure *upstream.Error) bool {
	return failure.Reason.Transient() && (!c.paced || failure.Reason != upstream.Throttled)
}

// backoffAfter returns the wait after try, counted from 0, without Retry-After.
func backoffAfter(try int) time.Duration {
	return firstDelay<<try + rand.N(firstDelay) //nolint:gosec // jitter, not a secret
}

// remainingTime returns the time until the deadline of ctx.
func remainingTime(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return defaultTimeout
}

// waitFor waits for d unless that leaves too little time for a retry, and reports whether it did. Half of the remaining
// time is enough, and so is half as much again as the last try took: with calls of a second and a Retry-After of ten,
// three tries fit into 25 seconds.
func waitFor(ctx context.Context, d, lastTry time.Duration) bool {
	left := remainingTime(ctx)
	return d < left-min(left/2, max(minTryTime, lastTry*3/2)) && upstream.Sleep(ctx, d)
}

// leavesDoubt reports whether a response with that reason leaves open that Graph has carried out the request.
func leavesDoubt(r upstream.Reason) bool {
	return r == upstream.Internal || r == upstream.Timeout || r == upstream.BadAnswer
}

// reportWrites reports the results of writes to the pace, each a failure or nil. A success counts, and so does a response
// of the class 4xx that does not throttle. A write without a response, or with one of the class 5xx, says nothing.
func (c *Client) reportWrites(failures ...*upstream.Error) {
	succeeded, throttled, retryAfter := 0, 0, time.Duration(0)
	for _, failure := range failures {
		switch {
		case failure == nil:
			succeeded++
		case failure.Reason == upstream.Throttled:
			throttled++
			retryAfter = max(retryAfter, failure.RetryAfter)
		case failure.Status/100 == 4:
			succeeded++
		}
	}
	c.pace.report(succeeded, throttled, retryAfter)
}
