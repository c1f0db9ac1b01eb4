package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"

	signature "autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/hosttest/lambda"
)

// The figures.
const (
	ready        = "exec to ready"
	first        = "exec to first response"
	firstSlow    = "the same, 50 ms upstream"
	inSequence   = "upstream round trips in sequence, cold"
	coldRequests = "upstream requests, cold"
	warmRequests = "upstream requests, warm"
	p50          = "p50, warm, one client"
	throughput   = "requests a second, 32 clients"
	processor    = "CPU a request"
	memory       = "peak memory"
	disk         = "on disk"
)

// The amounts of a round. Together they stay below our limit of 10,000 requests a minute.
const (
	clients   = 32
	warmingUp = 200
	turns     = 12

	alone        = 100 // in a turn, as the two below
	together     = 500
	timeTogether = 300 * time.Millisecond
)

// One contestant takes a hundred times as long to start as another: a round starts each as often as time
// permits.
const (
	minStarts, maxStarts = 3, 15
	timeForStarts        = 1500 * time.Millisecond
)

// newRequest returns a signed request for the device, as bytes on the wire or as an event.
func newRequest(who contestant, key []byte) []byte {
	body, err := json.Marshal(map[string]string{"deviceId": deviceID})
	if err != nil {
		panic(err) // the body is of this function
	}
	h := http.Header{
		"Host": {"127.0.0.1"}, "Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(body))},
	}
	signature.Sign(h, key, "msg_"+guid.New().String(), time.Now(), body)
	if who.cloud == aws {
		event, err := lambda.Event(http.MethodPost, "/api/unassign", h, body)
		if err != nil {
			panic(err) // likewise
		}
		return event
	}
	var b bytes.Buffer
	b.WriteString("POST /api/unassign HTTP/1.1\r\n")
	_ = h.Write(&b) // never fails into memory
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// newRequests returns n requests, each a delivery of its own. They are made before the clock runs.
func newRequests(who contestant, n int) [][]byte {
	key, _ := signingKey()
	all := make([][]byte, n)
	for i := range all {
		all[i] = newRequest(who, key)
	}
	return all
}

// checkContestant makes sure that a contestant does the job: it refuses a wrong signature; for a right one it reads the device
// and changes it.
func checkContestant(c *simulated, who contestant) error {
	before, err := c.do(order{Reassign: true})
	if err != nil {
		return err
	}
	p, err := start(c, who)
	if err != nil {
		return err
	}
	defer p.stop()
	forged := newRequest(who, []byte("another-caller's-key-0123456789abcdef"))
	if err := expect(p, http.StatusUnauthorized, forged); err != nil {
		return p.fault(fmt.Errorf("a wrong signature: %w", err))
	}
	between, err := c.do(order{})
	if err != nil {
		return err
	}
	if between.Graph != before.Graph || !between.Assigned {
		return errors.New("a wrong signature reaches Graph")
	}
	if err := expect(p, http.StatusNoContent, newRequests(who, 1)[0]); err != nil {
		return p.fault(fmt.Errorf("a right signature: %w", err))
	}
	after, err := c.do(order{})
	if err != nil {
		return err
	}
	if after.Graph != before.Graph+2 || after.Assigned {
		return fmt.Errorf("a right signature: Graph got %d requests, want 2; the device has a user: %t",
			after.Graph-before.Graph, after.Assigned)
	}
	return nil
}

// measureRound takes the figures of all contestants for one round. Each starts cold several times in a row, so that its
// files are cached alike. The warm processes take many turns.
func measureRound(c *simulated, field []contestant, round int, r results) error {
	var all []*measurement
	defer func() {
		for _, m := range all {
			m.stop()
		}
	}()
	for _, who := range field {
		m := &measurement{cloud: c, who: who, results: r}
		all = append(all, m)
		size, err := who.size()
		if err != nil {
			return err
		}
		m.addFigure(disk, size)
	}
	if err := errors.Join(takeTurns(all, round, (*measurement).measureCold), takeTurns(all, round, (*measurement).startWarm)); err != nil {
		return err
	}
	for i := range turns {
		if err := errors.Join(takeTurns(all, i, (*measurement).measureAlone), takeTurns(all, i, (*measurement).measureTogether)); err != nil {
			return err
		}
	}
	return takeTurns(all, 0, (*measurement).finish)
}

// takeTurns takes a part of each contestant's round, beginning with contestant first.
func takeTurns(all []*measurement, first int, part func(*measurement) error) error {
	for i := range all {
		m := all[(first+i)%len(all)]
		if err := part(m); err != nil {
			if m.process != nil {
				err = m.fault(err)
			}
			return fmt.Errorf("%s on %s: %w", m.who.name, m.who.cloud, err)
		}
	}
	return nil
}

// measurement is a contestant's round.
type measurement struct {
	process // the warm one

	cloud *simulated
	who   contestant
	results

	conns        []caller // of the clients at once
	worked, done float64  // the CPU seconds for the clients at once, and their requests
}

// coldStarts holds a value for each start.
type coldStarts struct {
	starts, responses []time.Duration
	upstream          []float64
}

func (m *measurement) addFigure(what string, value float64) { m.add(m.who.contestantName, what, value) }

func (m *measurement) stop() {
	if m.process != nil {
		m.process.stop()
	}
}

// countRequests returns the number of the cloud's requests so far, and sets the delay of its responses.
func (m *measurement) countRequests(delay time.Duration) (float64, error) {
	s, err := m.cloud.do(order{Delay: delay})
	return float64(s.Requests), err
}

// measureCold takes the figures of the cold starts.
func (m *measurement) measureCold() error {
	fast, err := m.startCold(delays[0])
	if err != nil {
		return err
	}
	slow, err := m.startCold(delays[1])
	if err != nil {
		return err
	}
	m.addFigure(first, median(fast.responses).Seconds())
	m.addFigure(firstSlow, median(slow.responses).Seconds())
	m.addFigure(ready, median(fast.starts).Seconds())
	m.addFigure(coldRequests, median(fast.upstream))
	// The delay lengthens a response by one delay for each round trip that it waits for in sequence. Other work of the
	// machine can only add to a time, so the shortest ones count.
	waited := slices.Min(slow.responses) - slices.Min(fast.responses)
	m.addFigure(inSequence, waited.Seconds()/(delays[1]-delays[0]).Seconds())
	return nil
}

// startCold starts the contestant several times, and sends each process a request at once.
func (m *measurement) startCold(delay time.Duration) (s coldStarts, err error) {
	for began := time.Now(); len(s.starts) < minStarts || len(s.starts) < maxStarts && time.Since(began) < timeForStarts; {
		before, err := m.countRequests(delay)
		if err != nil {
			return s, err
		}
		request := newRequests(m.who, 1)[0]
		p, err := start(m.cloud, m.who)
		if err != nil {
			return s, err
		}
		err = expect(p, http.StatusNoContent, request)
		s.responses, s.starts = append(s.responses, time.Since(p.startedAt())), append(s.starts, p.readyAfter())
		if err != nil {
			err = p.fault(err)
		}
		p.stop()
		after, err1 := m.countRequests(0)
		if err := errors.Join(err, err1); err != nil {
			return s, err
		}
		s.upstream = append(s.upstream, after-before)
	}
	return s, nil
}

// startWarm starts the process that stays, and warms it up.
func (m *measurement) startWarm() (err error) {
	if m.process, err = start(m.cloud, m.who); err != nil {
		return err
	}
	for _, request := range newRequests(m.who, warmingUp) {
		if err := expect(m, http.StatusNoContent, request); err != nil {
			return err
		}
	}
	if m.who.cloud == aws { // Lambda gives a process one request at a time
		return nil
	}
	for _, request := range newRequests(m.who, clients) {
		conn, err := m.dial()
		if err != nil {
			return err
		}
		m.conns = append(m.conns, conn)
		if err := expect(conn, http.StatusNoContent, request); err != nil {
			return err
		}
	}
	return nil
}

// measureAlone takes a turn with one client.
func (m *measurement) measureAlone() error {
	took := make([]time.Duration, alone)
	for i, request := range newRequests(m.who, alone) {
		began := time.Now()
		if err := expect(m, http.StatusNoContent, request); err != nil {
			return err
		}
		took[i] = time.Since(began)
	}
	m.addFigure(p50, median(took).Seconds())
	return nil
}

// measureTogether takes a turn with many clients at once.
func (m *measurement) measureTogether() error {
	if m.conns == nil {
		return nil
	}
	requests := newRequests(m.who, together)
	before, err := readProcess(m, procfs.Proc.Stat)
	if err != nil {
		return err
	}
	var next, done atomic.Int64
	var group errgroup.Group
	began := time.Now()
	for _, conn := range m.conns {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < together && time.Since(began) < timeTogether; i = next.Add(1) - 1 {
				if err := expect(conn, http.StatusNoContent, requests[i]); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	took, answered := time.Since(began), float64(done.Load())
	after, err := readProcess(m, procfs.Proc.Stat)
	m.addFigure(throughput, answered/took.Seconds())
	m.worked, m.done = m.worked+after.CPUTime()-before.CPUTime(), m.done+answered
	return err
}

// finish takes the figures of the warm process as a whole.
func (m *measurement) finish() error {
	if m.conns != nil {
		m.addFigure(processor, m.worked/m.done)
	}
	before, err1 := m.countRequests(0)
	err2 := expect(m, http.StatusNoContent, newRequests(m.who, 1)[0])
	after, err3 := m.countRequests(0)
	m.addFigure(warmRequests, after-before)
	status, err4 := readProcess(m, procfs.Proc.NewStatus)
	m.addFigure(memory, float64(status.VmHWM))
	return errors.Join(err1, err2, err3, err4)
}

// readProcess returns what the kernel reports of a process.
func readProcess[T any](p process, read func(procfs.Proc) (T, error)) (value T, err error) {
	proc, err := procfs.NewProc(p.pid())
	if err != nil {
		return value, err
	}
	return read(proc)
}
