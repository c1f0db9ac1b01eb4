//go:build hostile

package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/functions"
)

// The load. A hostile sender has everything except a valid key: the address, the format, the name of a device, and
// old signed requests.
const (
	hostileRequests = 100_000
	honestRequests  = 1_000
	senders         = 16 // of hostile requests, each with a connection of its own
	slowConnections = 64 // that are opened and never finish a request, beside those
	loadLimit       = 3 * time.Minute
)

// shareOf is the share of a front in the load.
func shareOf(front string) float64 {
	if front == "direct" {
		return 0.4
	}
	return 0.2
}

// attack is a kind of hostile request, with its permitted responses.
type attack struct {
	name   string
	make   func(n int) (method, target string, h http.Header, body string)
	status int
}

// hosted are further responses to an attack behind a Functions host.
var hosted = map[string]int{
	"a body that is said to be compressed": 401, // a forwarding host loses Content-Encoding
	"another method":                       404, // the host knows no BREW, and no route lists TRACE
	"a bad path":                           401, // /admin is the host's own
}

func attacks() []attack {
	withJSON := func(h http.Header) http.Header {
		h.Set("Content-Type", "application/json")
		return h
	}
	post := func(h http.Header, body string) (string, string, http.Header, string) {
		return http.MethodPost, "/api/unassign", withJSON(h), body
	}
	sign := func(key []byte, at time.Time) http.Header {
		h := http.Header{}
		caller.Sign(h, key, "msg_1", at, []byte(body))
		return h
	}
	stranger := []byte("a stranger's key, which is long enough")
	long := strings.Repeat("A", 20<<10)
	old := sign(signingKey, time.Now().Add(-time.Hour)) // caught an hour ago, and sent for ever since
	return []attack{
		{"no evidence", func(int) (string, string, http.Header, string) { return post(http.Header{}, body) }, 401},
		{"a wrong key", func(n int) (string, string, http.Header, string) {
			return post(http.Header{"X-Api-Key": {fmt.Sprintf("guess-%020d-0123456789", n)}}, body)
		}, 401},
		{"a stranger's signature", func(int) (string, string, http.Header, string) { return post(sign(stranger, time.Now()), body) }, 401},
		{"an old signature", func(int) (string, string, http.Header, string) { return post(old.Clone(), body) }, 401},
		{"another body", func(n int) (string, string, http.Header, string) {
			return post(sign(signingKey, time.Now()), strings.Replace(body, "RITM0012345", "RITM"+strconv.Itoa(n), 1))
		}, 401},
		{"two signatures", func(int) (string, string, http.Header, string) {
			h := sign(signingKey, time.Now())
			h.Add("Webhook-Id", "msg_2")
			return post(h, body)
		}, 401},
		{"junk", func(n int) (string, string, http.Header, string) {
			random := rand.New(rand.NewPCG(1, uint64(n))) // the same junk every time
			junk := make([]byte, random.IntN(4096))
			for i := range junk {
				junk[i] = byte(random.UintN(256))
			}
			return post(http.Header{"X-Api-Key": {"guess"}}, string(junk))
		}, 401},
		{"depth", func(int) (string, string, http.Header, string) {
			return post(http.Header{}, strings.Repeat("[", 8<<10)+strings.Repeat("]", 8<<10))
		}, 401},
		{"oversize", func(int) (string, string, http.Header, string) {
			return post(http.Header{"X-Api-Key": {"guess"}}, `{"reference":"`+long+`"}`)
		}, 413},
		{"a body that is said to be compressed", func(int) (string, string, http.Header, string) {
			return post(http.Header{"Content-Encoding": {"gzip"}}, "\x1f\x8b")
		}, 415},
		{"huge headers", func(int) (string, string, http.Header, string) {
			return post(http.Header{"X-Padding": {long, long}}, body)
		}, 431},
		{"a long key", func(int) (string, string, http.Header, string) { return post(http.Header{"X-Api-Key": {long}}, body) }, 401},
		{"many signatures", func(int) (string, string, http.Header, string) {
			h := sign(stranger, time.Now())
			h.Set("Webhook-Signature", strings.Repeat(h.Get("Webhook-Signature")+" ", 300))
			return post(h, body)
		}, 401},
		{"another method", func(n int) (string, string, http.Header, string) {
			return []string{"GET", "PUT", "DELETE", "TRACE", "OPTIONS", "BREW"}[n%6], "/api/unassign", http.Header{}, ""
		}, 405},
		{"a bad path", func(n int) (string, string, http.Header, string) {
			paths := []string{"/", "/api/unassign//", "/api//unassign", "/api/%2e%2e/unassign", "/admin/host/status", "/api/unassign%00", "/.env", "/API/unassigned"}
			return http.MethodPost, paths[n%len(paths)], withJSON(keyed()), body
		}, 404},
		{"a forged invocation", func(n int) (string, string, http.Header, string) {
			h := withJSON(http.Header{"X-Azure-Functions-Invocationid": {"1"}, "User-Agent": {"Azure-Functions-Host/4.0"}})
			return http.MethodPost, []string{"/sweep", "/queue"}[n%2], h, `{"Data":{"message":"{\"deviceId\":\"` + someDevice + `\"}","timer":{"isPastDue":true}},"Metadata":{}}`
		}, 404},
		{"a forged envelope", func(int) (string, string, http.Header, string) {
			h := http.Header{"X-Ms-Client-Principal": {"eyJhdXRoX3R5cCI6ImFhZCJ9"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Amzn-Request-Context": {`{"authorizer":{"iam":{}}}`}}
			return post(h, `{"version":"2.0","routeKey":"POST /api/unassign","requestContext":{"http":{"method":"POST"}},"isBase64Encoded":false,"body":"{}"}`)
		}, 401},
	}
}

// stalled are requests of about sixty bytes without the body that they promise.
func stalled() []string {
	const rest = " HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
	return []string{
		"GET /api/health" + rest + "\r\n", "GET /api/doctor" + rest + "\r\n", "POST /x" + rest + "\r\n", "POST /api/unassign" + rest + "\r\n",
		"POST /api/unassign" + rest + "Content-Type: text/plain\r\n\r\n", "POST /api/unassign" + rest + "X-Api-Key: x\r\n\r\n",
	}
}

// TestSixtyBytes opens connections with a request of some sixty bytes that promises one byte more: a thousand directly,
// and behind a host, which refuses more than a hundred by itself, ninety, of which fifty run. No connection is held for
// longer than the time for a body, and an honest request is served beside them.
func TestSixtyBytes(t *testing.T) {
	for front, begin := range fronts() {
		t.Run(front, func(t *testing.T) {
			connections, limit := 1000, 6*time.Second // three for the body, and a busy machine
			if front != "direct" {
				connections, limit = 90, 12*time.Second // two after the other
			}
			sixtyBytes(t, begin, connections, limit)
		})
	}
}

func sixtyBytes(t *testing.T, begin startFunc, connections int, limit time.Duration) {
	t.Helper()
	cloud, served := newCloud(t)
	p := begin(t, cloud, served, nil)
	warm(t, p)
	requests := stalled()
	slowest, senders := make([]time.Duration, len(requests)), sync.WaitGroup{}
	var recording sync.Mutex
	for n := range connections {
		senders.Go(func() {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(p.url, "http://"))
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer func() { _ = conn.Close() }()
			begun := time.Now()
			_ = conn.SetDeadline(begun.Add(20 * time.Second))
			_, _ = io.WriteString(conn, requests[n%len(requests)])
			if _, err := bufio.NewReader(conn).ReadBytes('\n'); err != nil {
				t.Errorf("%q: %v", requests[n%len(requests)], err)
			}
			recording.Lock()
			defer recording.Unlock()
			slowest[n%len(requests)] = max(slowest[n%len(requests)], time.Since(begun))
		})
	}
	begun := time.Now()
	if status, text := p.unassign(t, keyed()); status != http.StatusNoContent {
		t.Errorf("an honest request beside them: %d %s", status, text)
	}
	t.Logf("an honest request beside them took %v", time.Since(begun).Round(time.Millisecond))
	senders.Wait()
	for i, took := range slowest {
		line, _, _ := strings.Cut(requests[i], "\r\n")
		t.Logf("%-28s %3d bytes: the slowest of %d took %v", line, len(requests[i]), connections/len(requests), took.Round(time.Millisecond))
		if took > limit {
			t.Errorf("%q is held for %v", requests[i], took)
		}
	}
	t.Logf("afterwards: %v", measure(t, p))
}

// TestPoisonEvents has messages of a queue that are built to keep a decoder busy, up to the largest that SQS takes. Each
// becomes a dead letter in far less time than a message takes, so that its neighbours are served.
func TestPoisonEvents(t *testing.T) {
	h := handler.New(handler.Options{Log: slog.New(slog.DiscardHandler), Timeout: time.Second}) // nothing reaches Graph
	for _, size := range []int{16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		text := []byte(poison(size))
		begun := time.Now()
		var settlement handler.Settlement
		h.RunMessages(t.Context(), handler.SourceSQS, []handler.Message{{ID: "poison", Text: text, Deliveries: 1}},
			func(_ int, s handler.Settlement) { settlement = s })
		took := time.Since(begun)
		t.Logf("a message of %4d KiB: settled in %v", len(text)>>10, took.Round(time.Microsecond))
		if len(settlement.DeadLetters) != 1 || settlement.Retry || took > time.Second {
			t.Errorf("%d dead letters after %v", len(settlement.DeadLetters), took)
		}
	}
	// Every host invokes alike. A Storage queue takes 64 KiB.
	cloud, served := newCloud(t)
	p := behind(functions.Proxying, "functions", "queue")(t, cloud, served, nil)
	begun := time.Now()
	text := poison(60 << 10)
	result, err := p.host.Deliver(t.Context(), "queue", functions.Message{ID: "poison", Body: text, Sent: begun, Receives: 1})
	took := time.Since(begun)
	t.Logf("a message of %4d KiB through the Functions host: settled in %v", len(text)>>10, took.Round(time.Microsecond))
	if got, _ := result.Outputs["poison"].([]byte); err != nil || string(got) != text || took > time.Second {
		t.Errorf("%v, %d bytes of poison after %v", err, len(got), took)
	}
}

// poison returns a message of a size that has a null entry of context in every few bytes.
func poison(size int) string {
	var entries strings.Builder
	for i := 0; entries.Len() < size; i++ {
		fmt.Fprintf(&entries, `,"%d":null`, i)
	}
	return `{"deviceId":"` + someDevice + `","context":{` + entries.String()[1:] + `}}`
}

// TestShortSerialNumbers sends lists of serial numbers of one character. Each list costs at most one walk through the
// inventory, and RATE_LIMIT ends the lists of a caller.
func TestShortSerialNumbers(t *testing.T) {
	for front, begin := range fronts() {
		t.Run(front, func(t *testing.T) { shortSerialNumbers(t, begin) })
	}
}

func shortSerialNumbers(t *testing.T, begin startFunc) {
	t.Helper()
	cloud, served := newCloud(t)
	p := begin(t, cloud, served, nil, "RATE_LIMIT=") // its default
	warm(t, p)
	before := counts(cloud)[azuresim.StepGraph]
	list := make([]string, 20)
	for i := range list {
		list[i] = fmt.Sprintf(`{"serialNumber":"%c"}`, 'A'+i)
	}
	answers := map[int]int{}
	for range 10 {
		text := `{"dryRun":true,"devices":[` + strings.Join(list, ",") + `]}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/unassign", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = keyed()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		answers[resp.StatusCode]++
	}
	walks := counts(cloud)[azuresim.StepGraph] - before
	t.Logf("10 lists of 20 short serial numbers: %d requests of Graph, responses %v, %v", walks, answers, measure(t, p))
	if answers[http.StatusTooManyRequests] < 7 || walks > 10 {
		t.Errorf("%d requests of Graph, responses %v", walks, answers)
	}
}

// raw is malformed HTTP, written as it is; the response, if there is one, is a refusal.
var raw = []string{
	"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"GET / HTTP/1.1\r\n\r\n",
	"POST /api/unassign HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"POST /api/unassign HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nzz\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"POST /api/unassign HTTP/9.9\r\nHost: a\r\n\r\n",
}

// warm makes the program fetch everything that it needs, which may take longer than a request on a busy machine.
func warm(t *testing.T, p *program) {
	t.Helper()
	for _, evidence := range []func() http.Header{keyed, signed} {
		status, text := p.unassign(t, evidence())
		for begun := time.Now(); status >= 500 && time.Since(begun) < time.Minute; {
			time.Sleep(time.Second)
			status, text = p.unassign(t, evidence())
		}
		if status != http.StatusNoContent {
			t.Fatalf("%d %s", status, text)
		}
	}
}

// honest sends a number of honest requests, each after its share of the hostile ones, and returns the slowest duration.
func honest(t *testing.T, p *program, number int, hostile func() float64) time.Duration {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 20 * time.Second}
	var slowest time.Duration
	for n := range number {
		for hostile() < float64(n)/float64(number) {
			time.Sleep(time.Millisecond)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/unassign", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header, req.Close = keyed(), true // a forwarding host closes each connection after a 204
		if n%2 == 0 {
			req.Header = signed()
		}
		begun := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("honest request %d: %v", n, err)
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("honest request %d: %s %s", n, resp.Status, text)
		}
		slowest = max(slowest, time.Since(begun))
	}
	return slowest
}

// TestHostile shows that hostile requests delay no honest request, cost no upstream request and leave no memory
// behind. The requests are shared out between the fronts.
func TestHostile(t *testing.T) {
	for front, begin := range fronts() {
		t.Run(front, func(t *testing.T) { sendHostile(t, front, begin) })
	}
}

func sendHostile(t *testing.T, front string, begin startFunc) {
	t.Helper()
	hostileRequests, honestRequests := int(hostileRequests*shareOf(front)), int(honestRequests*shareOf(front))
	alone, served := newCloud(t)
	quiet := begin(t, alone, served, nil, "REQUEST_TIMEOUT=25s") // its default
	warm(t, quiet)
	askedAlone := counts(alone)
	slowestAlone := honest(t, quiet, honestRequests, func() float64 { return 1 })
	time.Sleep(time.Second)
	quietFigures, quietGoroutines := measure(t, quiet), goroutines(t, quiet)
	t.Logf("%d honest requests alone: the slowest took %v; %v, %d goroutines", honestRequests, slowestAlone.Round(time.Millisecond), quietFigures, quietGoroutines)

	cloud, served := newCloud(t)
	p := begin(t, cloud, served, nil, "REQUEST_TIMEOUT=25s")
	warm(t, p)
	warmed, asked := time.Now(), counts(cloud)
	address := strings.TrimPrefix(p.url, "http://")
	kinds := attacks()
	var (
		sent, broken atomic.Int64
		answers      [600]atomic.Int64
		load         sync.WaitGroup
		begun        = time.Now()
		early        figures
	)
	ctx := t.Context()
	progress := func() float64 { return float64(sent.Load()) / float64(hostileRequests) }
	for sender := range senders {
		load.Go(func() {
			transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1}
			defer transport.CloseIdleConnections()
			client := http.Client{Transport: transport, Timeout: 20 * time.Second}
			for n := sender; n < hostileRequests && time.Since(begun) < loadLimit; n += senders {
				if n%(len(kinds)+1) == len(kinds) {
					if front == "direct" { // else the host's parser answers it
						sendRaw(ctx, t, address, raw[n/(len(kinds)+1)%len(raw)])
					}
					sent.Add(1)
					continue
				}
				kind := kinds[n%(len(kinds)+1)]
				method, target, h, text := kind.make(n / (len(kinds) + 1))
				req, err := http.NewRequestWithContext(ctx, method, p.url+target, strings.NewReader(text))
				if err != nil {
					t.Errorf("%s: %v", kind.name, err)
					return
				}
				req.Header = h
				resp, err := client.Do(req)
				sent.Add(1)
				if err != nil { // the server may close the connection while it is being written to
					broken.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				answers[resp.StatusCode].Add(1)
				if resp.StatusCode != kind.status && (front == "direct" || resp.StatusCode != hosted[kind.name]) {
					t.Errorf("%s: %s, want %d", kind.name, resp.Status, kind.status)
				}
			}
		})
	}
	for n := range slowConnections {
		load.Go(func() { slow(t, address, n, progress) })
	}
	load.Go(func() {
		for progress() < 0.2 && time.Since(begun) < loadLimit {
			time.Sleep(10 * time.Millisecond)
		}
		early = measure(t, p)
	})
	slowest := honest(t, p, honestRequests, func() float64 {
		if time.Since(begun) > loadLimit {
			return 1
		}
		return progress()
	})
	load.Wait()
	took := time.Since(begun)
	if int(sent.Load()) != hostileRequests {
		t.Errorf("only %d hostile requests were sent in %v", sent.Load(), took)
	}
	var settled figures
	for wait := time.Now(); time.Since(wait) < 15*time.Second; time.Sleep(100 * time.Millisecond) {
		if settled = measure(t, p); settled.files <= quietFigures.files+2 {
			break
		}
	}
	log := p.log() // the stacks of its end name functions of panics
	left := goroutines(t, p)
	t.Logf("%d hostile requests in %v, %d of them without an answer; the slowest honest one took %v", sent.Load(), took.Round(time.Millisecond), broken.Load(), slowest.Round(time.Millisecond))
	for status := range answers {
		if n := answers[status].Load(); n > 0 {
			t.Logf("  %d: %d", status, n)
		}
	}
	t.Logf("at a fifth of it: %v", early)
	t.Logf("afterwards: %v, %d goroutines", settled, left)
	t.Logf("the cloud was asked %v; by the honest ones alone %v", counts(cloud), counts(alone))

	// The keys are fetched in the last ten seconds of their minute. An unknown key may be a new one: each kind of evidence
	// causes one more fetch of its one secret in five minutes.
	fetches := map[azuresim.Step]int{azuresim.StepSecret: 4 + 2*int(time.Since(warmed)/(50*time.Second))}
	for step, n := range counts(cloud) {
		if most := counts(alone)[step] - askedAlone[step] + fetches[step]; n-asked[step] > most {
			t.Errorf("the step %s: %d requests, want at most %d", step, n-asked[step], most)
		}
	}
	if settled.rss > early.rss+16<<10 || settled.peak > quietFigures.peak+64<<10 {
		t.Errorf("memory grew: alone %v, at a fifth %v, afterwards %v", quietFigures, early, settled)
	}
	if settled.files > quietFigures.files+2 || left > quietGoroutines+4 {
		t.Errorf("%d files and %d goroutines are left; alone there were %d and %d", settled.files, left, quietFigures.files, quietGoroutines)
	}
	for _, secret := range []string{appSecret, apiKey, webhookKey, string(signingKey)} {
		if strings.Contains(p.log(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
	if _, panicked, ok := strings.Cut(log, "panic"); ok {
		t.Errorf("something panicked%.2000s", panicked)
	}
}

// sendRaw writes malformed HTTP and reads until the connection is closed.
func sendRaw(ctx context.Context, t *testing.T, address, text string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Errorf("dial: %v", err)
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, text)
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
	first, _ := bufio.NewReader(conn).ReadBytes('\n')
	if len(first) > 0 && !bytes.Contains(first, []byte(" 4")) && !bytes.Contains(first, []byte(" 505 ")) {
		t.Errorf("%q was answered with %q", text, first)
	}
}

// slow opens connections and leaves a request on each unfinished, in its head or in its body, until the server closes
// it.
func slow(t *testing.T, address string, n int, progress func() float64) {
	t.Helper()
	for progress() < 0.9 {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Errorf("dial: %v", err)
			return
		}
		text := "POST /api/unassign HTTP/1.1\r\nHost: a\r\nX-Slow: "
		if n%2 == 0 {
			text = "POST /api/unassign HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, text)
		if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
			t.Error("an unfinished request is waited for without an end")
		}
		_ = conn.Close()
	}
}
