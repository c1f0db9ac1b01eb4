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

	"golang.org/x/sync/errgroup"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
)

// The measured figures.
const (
	listening   = "exec to listening"
	firstAtOnce = "exec to first answer, asked at once"
	firstLater  = "first answer, asked a second later"
	p50         = "p50, one client"
	p99         = "p99, one client"
	throughput  = "requests a second, 32 clients"
	processor   = "CPU a request"
	memory      = "peak memory"
	disk        = "on disk"
	coldAtOnce  = "upstream requests, first call at once"
	coldLater   = "upstream requests, first call a second later"
	warm        = "upstream requests, warm call"
	inSequence  = "upstream round trips in sequence, at once"
	inSequence1 = "upstream round trips in sequence, a second later"
)

// clients is how many callers there are at once where throughput is measured.
const clients = 32

// amount is how often a contestant is asked in a round: enough for a steady figure, and less than the 10,000 requests a minute that our
// own limit can be set to.
type amount struct{ warmUp, alone, together int }

func amountOf(delay time.Duration) amount {
	if delay == 0 {
		return amount{warmUp: 200, alone: 1000, together: 6000}
	}
	return amount{warmUp: 5, alone: 30, together: 960}
}

// In this time a contestant is started as often as it fits, because a start takes a hundred times as long for one as for
// another. The load of many clients takes the same time.
const (
	minStarts, maxStarts = 3, 15
	timeForStarts        = 750 * time.Millisecond
	timeTogether         = 3 * time.Second
)

// request returns a request with a body, signed with key.
func request(key []byte, body any) []byte {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // the bodies are all of this package
	}
	h := http.Header{"Host": {"127.0.0.1"}, "Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(text))}}
	caller.Sign(h, key, "msg_"+guid.New().String(), time.Now(), text)
	var b bytes.Buffer
	b.WriteString("POST /api/unassign HTTP/1.1\r\n")
	_ = h.Write(&b) // which never fails into memory
	b.WriteString("\r\n")
	b.Write(text)
	return b.Bytes()
}

// requests returns n requests for a device, each a delivery of its own. They are made before the clock runs.
func requests(n int) [][]byte {
	key, _ := signingKey()
	all := make([][]byte, n)
	for i := range all {
		all[i] = request(key, map[string]string{"deviceId": deviceID(0)})
	}
	return all
}

// check makes sure that a contestant does the work: it refuses a wrong signature, and a right one has an effect on the device.
func check(c *simulated, who contestant) error {
	before, err := c.do(order{Reassign: true})
	if err != nil {
		return err
	}
	p, err := start(c, who)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := p.conn.expect(http.StatusUnauthorized, request([]byte("somebody-else's-key-0123456789abcdef"), map[string]string{"deviceId": deviceID(0)})); err != nil {
		return p.fault(fmt.Errorf("a wrong signature: %w", err))
	}
	between, err := c.do(order{})
	if err != nil {
		return err
	}
	if between.Graph != before.Graph || !between.Assigned {
		return errors.New("a wrong signature reaches Graph")
	}
	if err := p.conn.expect(http.StatusNoContent, requests(1)[0]); err != nil {
		return p.fault(fmt.Errorf("a right signature: %w", err))
	}
	after, err := c.do(order{})
	if err != nil {
		return err
	}
	if after.Graph != before.Graph+1 || after.Assigned {
		return fmt.Errorf("a right signature: Graph got %d requests, and the device has a user: %t", after.Graph-before.Graph, after.Assigned)
	}
	return nil
}

// measure takes the figures of a contestant for one round.
func measure(c *simulated, who contestant, r results) error {
	bytes, err := who.disk()
	if err != nil {
		return err
	}
	first := map[time.Duration]firsts{}
	for _, delay := range delays() {
		m := measurement{c, who, delay, r}
		f, err := m.cold()
		if err != nil {
			return err
		}
		if f.later, err = m.warm(); err != nil {
			return err
		}
		first[delay] = f
		r.add(who.name, delay, disk, float64(bytes))
		// The added time divided by the delay is the number of sequential round trips. The start of the program is in both
		// measurements and cancels out.
		if delay > 0 {
			r.add(who.name, delay, inSequence, float64(f.atOnce-first[0].atOnce)/float64(delay))
			r.add(who.name, delay, inSequence1, float64(f.later-first[0].later)/float64(delay))
		}
	}
	return nil
}

// firsts are the times of first responses, the least of each round: other load of the machine only adds to them.
type firsts struct{ atOnce, later time.Duration }

// measurement has the figures of one contestant with one delay.
type measurement struct {
	cloud *simulated
	who   contestant
	delay time.Duration
	results
}

func (m measurement) note(what string, value float64) { m.add(m.who.name, m.delay, what, value) }

// upstream returns how many requests the cloud has got so far.
func (m measurement) upstream() (float64, error) {
	s, err := m.cloud.do(order{Delay: m.delay})
	return float64(s.Requests), err
}

// cold takes the figures of a process that has just been started, and asked at once.
func (m measurement) cold() (firsts, error) {
	var ready, answered []time.Duration
	var upstream []float64
	for began := time.Now(); len(ready) < minStarts || len(ready) < maxStarts && time.Since(began) < timeForStarts; {
		before, err := m.upstream()
		if err != nil {
			return firsts{}, err
		}
		ask := requests(1)[0]
		p, err := start(m.cloud, m.who)
		if err != nil {
			return firsts{}, err
		}
		err = p.conn.expect(http.StatusNoContent, ask)
		answered, ready = append(answered, time.Since(p.began)), append(ready, p.listening)
		if err != nil {
			err = p.fault(err)
		}
		p.stop()
		after, err1 := m.upstream()
		if err := errors.Join(err, err1); err != nil {
			return firsts{}, err
		}
		upstream = append(upstream, after-before)
	}
	m.note(listening, median(ready).Seconds())
	m.note(firstAtOnce, median(answered).Seconds())
	m.note(coldAtOnce, median(upstream))
	return firsts{atOnce: slices.Min(answered)}, nil
}

// warm takes the figures of a process that has been there for a second, and how long the first answer took.
func (m measurement) warm() (time.Duration, error) {
	before, err := m.upstream()
	if err != nil {
		return 0, err
	}
	amount := amountOf(m.delay)
	p, err := start(m.cloud, m.who)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	time.Sleep(time.Second)

	ask := requests(1 + amount.warmUp + amount.alone)
	conn, err := p.dial()
	if err != nil {
		return 0, err
	}
	defer conn.close()
	took := make([]time.Duration, len(ask))
	for i, request := range ask {
		began := time.Now()
		if err := conn.expect(http.StatusNoContent, request); err != nil {
			return 0, p.fault(err)
		}
		took[i] = time.Since(began)
		if i > 0 {
			continue
		}
		after, err := m.upstream()
		if err != nil {
			return 0, err
		}
		m.note(firstLater, took[0].Seconds())
		m.note(coldLater, after-before)
	}
	m.note(p50, median(took[1+amount.warmUp:]).Seconds())
	m.note(p99, percentile(took[1+amount.warmUp:], 99).Seconds())
	if err := m.together(p, amount.together); err != nil {
		return 0, p.fault(err)
	}
	if m.who.name == ours {
		if err := m.lists(p); err != nil {
			return 0, p.fault(err)
		}
	}
	return took[0], nil
}

// together takes the figures of many clients at once, and of the memory after them.
func (m measurement) together(p *process, n int) error {
	var conns []*connection
	defer func() {
		for _, conn := range conns {
			conn.close()
		}
	}()
	for _, ask := range requests(clients) { // connections are made before the clock runs
		conn, err := p.dial()
		if err != nil {
			return err
		}
		conns = append(conns, conn)
		if err := conn.expect(http.StatusNoContent, ask); err != nil {
			return err
		}
	}
	ask := requests(n)
	before, err1 := m.upstream()
	worked, err2 := p.processorTime()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var next, done atomic.Int64
	var group errgroup.Group
	began := time.Now()
	for _, conn := range conns {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < int64(n) && time.Since(began) < timeTogether; i = next.Add(1) - 1 {
				if err := conn.expect(http.StatusNoContent, ask[i]); err != nil {
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
	after, err1 := m.upstream()
	until, err2 := p.processorTime()
	peak, err3 := p.status("VmHWM")
	m.note(throughput, answered/took.Seconds())
	m.note(processor, (until-worked).Seconds()/answered)
	m.note(memory, peak*1024)
	m.note(warm, (after-before)/answered)
	return errors.Join(err1, err2, err3)
}

// The ways to have a list of devices done.
const (
	listOfIDs     = "20 in one request, by id"
	singlesByID   = "20 requests, by id"
	listOfSerials = "20 in one request, by serial number"
	singlesBySN   = "20 requests, by serial number"
)

// Each way is measured by its time and its upstream requests.
const (
	asTime     = ": time"
	asUpstream = ": upstream requests"
)

// lists compares a list with as many requests one after the other.
func (m measurement) lists(p *process) error {
	key, _ := signingKey()
	byID, bySerial := make([]map[string]string, listLength), make([]map[string]string, listLength)
	for i := range listLength {
		byID[i] = map[string]string{"deviceId": deviceID(i + 1)}
		bySerial[i] = map[string]string{"serialNumber": serialNumber(i + 1)}
	}
	for _, way := range []struct {
		name    string
		devices []map[string]string
		one     bool // request for all
	}{{listOfIDs, byID, true}, {singlesByID, byID, false}, {listOfSerials, bySerial, true}, {singlesBySN, bySerial, false}} {
		var asks [][]byte
		status := http.StatusNoContent
		if way.one {
			asks, status = [][]byte{request(key, map[string]any{"devices": way.devices})}, http.StatusOK
		} else {
			for _, device := range way.devices {
				asks = append(asks, request(key, device))
			}
		}
		conn, err := p.dial()
		if err != nil {
			return err
		}
		before, err := m.upstream()
		if err != nil {
			return err
		}
		began := time.Now()
		for _, ask := range asks {
			if err := conn.expect(status, ask); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
		}
		took := time.Since(began)
		conn.close()
		after, err := m.upstream()
		if err != nil {
			return err
		}
		m.note(way.name+asTime, took.Seconds())
		m.note(way.name+asUpstream, after-before)
	}
	return nil
}
