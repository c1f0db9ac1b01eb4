package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// call is one invocation of a worker.
type call struct {
	at       time.Duration // since the start of the test
	process  int
	messages string // "id:receives" of each
}

// recorder starts workers that record their calls and then do as told.
type recorder struct {
	mu      sync.Mutex
	begin   time.Time
	calls   []call
	started int
	do      func(ctx context.Context, batch []Message) ([]string, error)
}

func newRecorder(do func(ctx context.Context, batch []Message) ([]string, error)) *recorder {
	return &recorder{begin: time.Now(), do: do}
}

func (r *recorder) start() Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started++
	process := r.started
	return func(ctx context.Context, batch []Message) ([]string, error) {
		c := call{at: time.Since(r.begin), process: process}
		for i, m := range batch {
			if i > 0 {
				c.messages += " "
			}
			c.messages += fmt.Sprintf("%s:%d", m.Body, m.Receives)
		}
		r.mu.Lock()
		r.calls = append(r.calls, c)
		r.mu.Unlock()
		return r.do(ctx, batch)
	}
}

// holds compares the calls with their wanted form, "time process messages".
func (r *recorder) holds(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, c := range r.calls {
		got = append(got, fmt.Sprintf("%v %d %s", c.at, c.process, c.messages))
	}
	if !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
}

func takes(d time.Duration) func(context.Context, []Message) ([]string, error) {
	return func(ctx context.Context, _ []Message) ([]string, error) {
		select {
		case <-time.After(d):
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func checkStats(t *testing.T, got Stats, done, dead, expired int) {
	t.Helper()
	if got.Done != done || len(got.Dead) != dead || got.Expired != expired || got.Left != 0 {
		t.Errorf("%+v; want %d done, %d dead, %d expired, none left", got, done, dead, expired)
	}
}

func TestSQSDeletesDoneMessages(t *testing.T) { // S3, S4, S5
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(takes(time.Second))
		q := NewSQS(SQSOptions{Start: r.start, BatchSize: 2})
		q.Send("a", "b", "c", "d", "e")
		q.Run(t.Context())
		checkStats(t, q.Stats(), 5, 0, 0)
		var at []time.Duration
		for _, c := range r.calls {
			at = append(at, c.at)
		}
		if want := []time.Duration{0, 0, time.Second}; !slices.Equal(at, want) || r.started != 2 {
			t.Errorf("calls at %v by %d environments, want at %v by 2", at, r.started, want)
		}
	})
}

func TestSQSRedeliversFailedMessages(t *testing.T) { // S1, S2, S5, S6
	t.Parallel()
	for name, test := range map[string]struct {
		do         func(ctx context.Context, batch []Message) ([]string, error)
		want       []string
		done, dead int
	}{
		"one of two fails": {func(_ context.Context, batch []Message) ([]string, error) {
			if batch[0].Receives == 1 {
				return []string{batch[1].ID}, nil
			}
			return nil, nil
		}, []string{"0s 1 a:1 b:1", "2m48s 1 b:2"}, 2, 0},
		"an error": {
			func(context.Context, []Message) ([]string, error) { return nil, errors.New("x") },
			[]string{"0s 1 a:1 b:1", "2m48s 1 a:2 b:2"},
			0, 2,
		},
		"an unknown id": {
			func(context.Context, []Message) ([]string, error) { return []string{"x"}, nil },
			[]string{"0s 1 a:1 b:1", "2m48s 1 a:2 b:2"},
			0, 2,
		},
		"a timeout": {takes(time.Minute), []string{"0s 1 a:1 b:1", "2m48s 2 a:2 b:2"}, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRecorder(test.do)
				q := NewSQS(SQSOptions{Start: r.start, MaxConcurrency: 1, MaxReceiveCount: 2, Visibility: 168 * time.Second, Timeout: 28 * time.Second})
				q.Send("a", "b")
				q.Run(t.Context())
				r.holds(t, test.want...)
				checkStats(t, q.Stats(), test.done, test.dead, 0)
			})
		})
	}
}

func TestSQSReplacesKilledEnvironment(t *testing.T) { // S6
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(takes(10 * time.Second))
		q := NewSQS(SQSOptions{Start: r.start, MaxConcurrency: 1, Visibility: 168 * time.Second})
		q.Send("a")
		if q.Kill() {
			t.Error("an idle environment was killed")
		}
		go func() {
			time.Sleep(5 * time.Second)
			if !q.Kill() {
				t.Error("no environment was at work")
			}
		}()
		q.Run(t.Context())
		r.holds(t, "0s 1 a:1", "2m48s 2 a:2")
		checkStats(t, q.Stats(), 1, 0, 0)
	})
}

func TestSQSDeliversAgainWhatTakesTooLong(t *testing.T) { // S8
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(func(ctx context.Context, batch []Message) ([]string, error) {
			return takes(time.Duration(3-batch[0].Receives)*100*time.Second)(ctx, batch)
		})
		q := NewSQS(SQSOptions{Start: r.start, Visibility: 168 * time.Second, Timeout: time.Hour})
		q.Send("a")
		q.Run(t.Context())
		if len(r.calls) != 2 || r.calls[1].at != 168*time.Second || time.Since(r.begin) != 268*time.Second {
			t.Errorf("%v after %v; want the delete of the second receive to count", r.calls, time.Since(r.begin))
		}
		checkStats(t, q.Stats(), 1, 0, 0)
	})
}

func TestSQSWaitsForABatch(t *testing.T) { // S4
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(takes(0))
		q := NewSQS(SQSOptions{Start: r.start, MaxConcurrency: 1, BatchingWindow: 5 * time.Second})
		q.Send("a")
		go func() {
			time.Sleep(3 * time.Second)
			q.Send("b")
		}()
		q.Run(t.Context())
		r.holds(t, "5s 1 a:1 b:1")
	})
}

func TestMessagesExpire(t *testing.T) { // S7, Q10
	t.Parallel()
	fails := func(context.Context, []Message) ([]string, error) { return nil, errors.New("x") }
	synctest.Test(t, func(t *testing.T) {
		q := NewSQS(SQSOptions{Start: newRecorder(fails).start, Retention: 5 * time.Minute, MaxReceiveCount: 100, Visibility: 168 * time.Second})
		q.Send("a")
		q.Run(t.Context())
		checkStats(t, q.Stats(), 0, 0, 1)
	})
	synctest.Test(t, func(t *testing.T) {
		q := NewStorage(StorageOptions{Start: newRecorder(fails).start, MaxDequeueCount: 1 << 20, VisibilityTimeout: time.Hour})
		q.Send("a")
		begin := time.Now()
		q.Run(t.Context())
		checkStats(t, q.Stats(), 0, 0, 1)
		if took := time.Since(begin); took < 7*24*time.Hour || took > 7*24*time.Hour+2*time.Hour {
			t.Errorf("it expired after %v", took)
		}
	})
}

func TestStorageRenewsLongInvocations(t *testing.T) { // Q2, Q3: measured, 12 minutes
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(takes(12 * time.Minute))
		q := NewStorage(StorageOptions{Start: r.start, Instances: 2})
		q.Send("a")
		q.Run(t.Context())
		if len(r.calls) != 1 {
			t.Errorf("%d deliveries, want one", len(r.calls))
		}
		checkStats(t, q.Stats(), 1, 0, 0)
	})
}

func TestStorageTakesBatches(t *testing.T) { // Q1
	t.Parallel()
	for threshold, want := range map[int][]string{0: {"0s", "0s", "10s", "10s"}, 1: {"0s", "0s", "1s", "1s"}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRecorder(func(ctx context.Context, batch []Message) ([]string, error) {
				if batch[0].Body == "a" {
					return takes(time.Second)(ctx, batch)
				}
				return takes(10*time.Second)(ctx, batch)
			})
			q := NewStorage(StorageOptions{Start: r.start, NewBatchThreshold: threshold})
			q.Send("a", "b", "c", "d")
			q.Run(t.Context())
			var at []string
			for _, c := range r.calls {
				at = append(at, c.at.String())
			}
			if !slices.Equal(at, want) {
				t.Errorf("threshold %d: calls at %v, want %v", threshold, at, want)
			}
		})
	}
}

func TestStorageHidesFailedMessages(t *testing.T) { // Q4: tries about 30 s apart, then poison
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(func(context.Context, []Message) ([]string, error) { return nil, errors.New("x") })
		q := NewStorage(StorageOptions{Start: r.start, MaxDequeueCount: 3, MaxPollingInterval: time.Second})
		q.Send("a")
		q.Run(t.Context())
		for i, c := range r.calls {
			late := c.at - time.Duration(i)*30*time.Second
			if c.messages != fmt.Sprintf("a:%d", i+1) || late < 0 || late > time.Duration(i)*time.Second {
				t.Errorf("call %d: %+v", i, c)
			}
		}
		checkStats(t, q.Stats(), 0, 1, 0)
		if len(r.calls) != 3 {
			t.Errorf("%d tries, want 3", len(r.calls))
		}
	})
}

func TestStorageAfterKills(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kill  func(*Storage) bool
		limit time.Duration // of the function
		after time.Duration // the second delivery, at the earliest
	}{
		"Q6: the function's time is up": {func(*Storage) bool { return true }, 83 * time.Second, 113 * time.Second},
		"Q7: a worker":                  {func(q *Storage) bool { return q.Kill() }, time.Hour, 113 * time.Second},
		"Q8: an instance":               {(*Storage).KillInstance, time.Hour, 10 * time.Minute}, // measured
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRecorder(func(ctx context.Context, batch []Message) ([]string, error) {
					if batch[0].Receives > 1 {
						return nil, nil
					}
					return takes(12*time.Minute)(ctx, batch)
				})
				q := NewStorage(StorageOptions{Start: r.start, FunctionTimeout: test.limit, MaxPollingInterval: time.Second})
				q.Send("a", "b")
				go func() {
					time.Sleep(83 * time.Second)
					if !test.kill(q) {
						t.Error("nothing was killed")
					}
				}()
				q.Run(t.Context())
				if len(r.calls) != 4 || r.started != 2 {
					t.Fatalf("%+v by %d workers", r.calls, r.started)
				}
				for _, c := range r.calls[2:] {
					if c.at < test.after || c.at > test.after+2*time.Second || c.process != 2 {
						t.Errorf("%+v; want it at %v", c, test.after)
					}
				}
				checkStats(t, q.Stats(), 2, 0, 0)
			})
		})
	}
}

func TestStorageBuriesAfterTheLastDelivery(t *testing.T) { // Q5
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(takes(time.Minute))
		q := NewStorage(StorageOptions{Start: r.start, MaxDequeueCount: 1})
		q.Send("a")
		go func() {
			time.Sleep(time.Second)
			q.KillInstance()
		}()
		q.Run(t.Context())
		checkStats(t, q.Stats(), 0, 1, 0)
		if len(r.calls) != 1 {
			t.Errorf("%d calls, want one", len(r.calls))
		}
	})
}

func TestDeadLetterByTheWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q *Storage
		q = NewStorage(StorageOptions{Start: func() Worker {
			return func(_ context.Context, batch []Message) ([]string, error) {
				q.DeadLetter(batch[0].Body)
				return nil, nil
			}
		}})
		q.Send("a")
		q.Run(t.Context())
		if s := q.Stats(); len(s.Dead) != 1 || s.Dead[0].Body != "a" || s.Done != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestSQSSettlesByReceipt(t *testing.T) { // S9
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q *SQS
		r := newRecorder(nil)
		r.do = func(ctx context.Context, batch []Message) ([]string, error) {
			for _, m := range batch {
				if m.Body == "done" {
					q.DeleteMessage(m.Receipt)
				} else {
					q.ChangeMessageVisibility(m.Receipt, time.Minute)
				}
			}
			if r.started == 1 {
				q.Kill()
				<-ctx.Done()
			}
			return nil, nil
		}
		q = NewSQS(SQSOptions{Start: r.start, MaxConcurrency: 1})
		q.Send("done", "rest")
		q.Run(t.Context())
		r.holds(t, "0s 1 done:1 rest:1", "1m0s 2 rest:2")
		if s := q.Stats(); s.Done != 2 || s.Left != 0 || s.Kills != 1 {
			t.Errorf("%+v", s)
		}
	})
}
