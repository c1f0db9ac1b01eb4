package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/text"
)

// listeners starts the program on the two hosts where it listens itself, with no host in front of it.
func listeners(t *testing.T, env []string) map[string]*localDeployment {
	t.Helper()
	free, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	worker := &localDeployment{url: "http://" + address, process: exec.Command(binary), out: &text.Buffer{}}
	worker.process.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"FUNCTIONS_CUSTOMHANDLER_PORT=" + port,
	}, env...)
	worker.process.Stdout, worker.process.Stderr = worker.out, worker.out
	if err := worker.process.Start(); err != nil {
		t.Fatal(err)
	}
	worker.ended.Go(func() { _ = worker.process.Wait() })
	for start := time.Now(); !strings.Contains(worker.out.String(),
		`"message":"listening"`); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("it does not listen: %s", worker.out.String())
		}
	}
	local := startLocal(t, env).(*localDeployment)
	for _, d := range []*localDeployment{worker, local} {
		t.Cleanup(d.stop)
	}
	return map[string]*localDeployment{config.Azure: worker, config.Local: local}
}

// dial connects to a deployment.
func (d *localDeployment) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// raw sends text as it is, and ends the sending if half. It returns the answers, until there is none for a while.
func (d *localDeployment) raw(t *testing.T, text string, half bool) []got {
	t.Helper()
	conn := d.dial(t)
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, text) // it may be refused before its end
	if half {
		_ = conn.CloseWrite()
	}
	var answers []got
	patience := 5 * time.Second
	for r := bufio.NewReader(conn); ; patience = 200 * time.Millisecond {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return answers
		}
		body, _ := io.ReadAll(resp.Body)
		answers = append(answers, got{resp.StatusCode, resp.Header, string(body)})
	}
}

// TestAmbiguousLength sends malformed requests to the listeners of both hosts: bodies whose end two servers could
// see in two places, headers with more than a header in them, and too much. Only one request has an effect, as it
// was signed.
func TestAmbiguousLength(t *testing.T) {
	t.Parallel()
	c := newCloud()
	served, err := c.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(served.Close)
	deployments := listeners(t, environment(t, c, served, patient))
	var length, chunked, smuggled string
	length = fmt.Sprintf("Content-Length: %d\r\n", len(validBody))
	chunked = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(validBody), validBody)
	smuggled = "POST /api/unassign HTTP/1.1\r\nHost: unassign\r\nContent-Length: " + strconv.Itoa(len(validBody)) +
		"\r\n\r\n" + validBody
	for _, test := range []struct {
		name     string
		text     string // behind the headers of a request that is authentic
		half     bool
		statuses []int
	}{
		{"as it should be", length + "\r\n" + validBody, false, []int{204}},
		{"in chunks", "Transfer-Encoding: chunked\r\n\r\n" + chunked, false, []int{204}},
		{"two lengths", length + "Content-Length: 3\r\n\r\n" + validBody, false, []int{400}},
		{"two lengths in one", fmt.Sprintf("Content-Length: %d, 3\r\n\r\n%s", len(validBody), validBody), false, []int{400}},
		{"a length with a sign", "Content-Length: +5\r\n\r\n{}{}{", false, []int{400}},
		{"a length below nothing", "Content-Length: -5\r\n\r\n{}{}{", false, []int{400}},
		{"a length and chunks, and what the length would take in", fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: "+
			"chunked\r\n\r\n%s%s", len(chunked)+len(smuggled), chunked, smuggled), false, []int{204, 401}},
		{"chunks and a short length", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunked, false, []int{204}},
		{
			"chunks and another encoding", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked,
			false,
			[]int{501},
		},
		{"chunks in gzip", "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked, false, []int{501}},
		{"an encoding nobody knows", "Transfer-Encoding: xchunked\r\n\r\n" + chunked, false, []int{501}},
		{"16 KiB and a byte in chunks", "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n",
			16<<10+1, padded(16<<10+1)), false, []int{413}},
		{"less than its length", "Content-Length: 200\r\n\r\n" + validBody, true, []int{400}},
		{"a space behind a name", "X-Injected : b\r\n" + length + "\r\n" + validBody, false, []int{400}},
		{"a header after CR", "X-A: a\rX-Injected: b\r\n" + length + "\r\n" + validBody, false, []int{400}},
		{"a header in two lines", "X-Request-Id: a\r\n X-Injected: b\r\n" + length + "\r\n" + validBody, false, []int{204}},
		{"a NUL", "X-A: a\x00X-Injected: b\r\n" + length + "\r\n" + validBody, false, []int{400}},
		{
			"64 KiB of headers", "X-A: " + strings.Repeat("a", 64<<10) + "\r\n" + length + "\r\n" + validBody, false,
			[]int{431},
		},
	} {
		for host, d := range deployments {
			before, acts := c.Count(azuresim.StepGraph), 0
			var text strings.Builder
			text.WriteString("POST /api/unassign HTTP/1.1\r\nHost: unassign\r\n")
			for name, values := range post(validBody, header("X-Request-Id")).header {
				fmt.Fprintf(&text, "%s: %s\r\n", name, values[0])
			}
			answers := d.raw(t, text.String()+test.text, test.half)
			statuses := []int{}
			for _, a := range answers {
				statuses = append(statuses, a.status)
				if a.status == http.StatusNoContent {
					acts++
				}
				if seen := strings.ToLower(fmt.Sprint(a)); strings.Contains(seen, "injected") {
					t.Errorf("%s, %s: reflected in %s", host, test.name, seen)
				}
			}
			if fmt.Sprint(statuses) != fmt.Sprint(test.statuses) || c.Count(azuresim.StepGraph)-before != 2*acts {
				t.Errorf("%s, %s: %v, and Graph was asked %d times; want %v", host, test.name, answers,
					c.Count(azuresim.StepGraph)-before, test.statuses)
			}
		}
	}
	for host, d := range deployments {
		if log := d.out.String(); strings.Contains(log, "njected") {
			t.Errorf("%s: the log has %s", host, log)
		}
	}
}

// TestSlowHeader sends a header a byte at a time: the server gives it up after three seconds although bytes keep
// coming.
func TestSlowHeader(t *testing.T) {
	t.Parallel()
	c := newCloud()
	served, err := c.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(served.Close)
	var waiting sync.WaitGroup
	for host, d := range listeners(t, environment(t, c, served, patient)) {
		waiting.Go(func() {
			conn := d.dial(t)
			defer func() { _ = conn.Close() }()
			start := time.Now()
			fmt.Fprint(conn, "POST /api/unassign HTTP/1.1\r\nHost: unassign\r\nX-A: ")
			ended := make(chan error, 1)
			go func() {
				_, err := conn.Read(make([]byte, 1))
				ended <- err
			}()
			for {
				select {
				case err := <-ended:
					if took := time.Since(start); err == nil || took < 2*time.Second {
						t.Errorf("%s: %v after %v", host, err, took)
					}
					return
				case <-time.After(100 * time.Millisecond):
					fmt.Fprint(conn, "a")
				}
				if time.Since(start) > 12*time.Second {
					t.Errorf("%s: still waiting for the header after 12 s", host)
					return
				}
			}
		})
	}
	waiting.Wait()
}

// TestHeadersAreNotReflected has Lambda hand on a header that no connection could have carried, as every principal that may invoke
// the function can. It is in neither the answer nor the log.
func TestHeadersAreNotReflected(t *testing.T) {
	t.Parallel()
	d := deploy(t, newCloud(), config.Lambda, patient)
	for _, id := range []string{"a\r\nX-Injected: b", "a\nX-Injected: b", "a\u2028njected", "\u202enjected"} {
		answer, err := d.send(t.Context(), post(validBody, header("X-Request-Id", id)))
		if err != nil || answer.status != http.StatusNoContent || strings.Contains(fmt.Sprint(answer), "njected") ||
			len(answer.header.Get("X-Request-Id")) != 36 {
			t.Errorf("%q: %v, %v", id, answer, err)
		}
	}
	if log := strings.Join(d.lines(), "\n"); strings.Contains(log, "njected") {
		t.Errorf("the log has %s", log)
	}
}

// hostile are characters that a line of a log, or the eye of its reader, can be misled by.
var hostile = map[string]string{
	"a line break": "\r\n", "a line feed": "\n", "an escape": "\x1b[31m", "a delete": "\x7f", "a C1 control": "\u0085",
	"a separator of lines": "\u2028", "a separator of paragraphs": "\u2029",
	"a change of direction": "\u202e", "an isolate": "\u2066", "no width": "\u200b", "a byte order mark": "\ufeff",
}

// alike are characters that are taken for others. A text for people may have them, a name of something may not.
var alike = map[string]string{
	"a digit from elsewhere": "\uff11", "a hyphen that is none": "\u2010",
	"a Cyrillic letter": "\u0430",
}

// TestLogIsPlain puts hostile characters into everything that a caller sends and the log has. The log has none of
// them, nor unused members.
func TestLogIsPlain(t *testing.T) {
	t.Parallel()
	cloud := newCloud()
	var log bytes.Buffer
	h := wired(t, cloud, &log, "API_KEY_SECRET_NAMES", "api-key-flow", "ALLOWED_GROUP_TAGS", "MTR-*")
	quoted := func(s string) string {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	fields := map[string]struct {
		request func(bad string) sent
		free    bool // look-alikes are allowed
		status  int
	}{
		"deviceId": {
			func(bad string) sent { return post(`{"deviceId":` + quoted(someDevice[:35]+bad) + `}`) }, false,
			400,
		},
		"serialNumber": {func(bad string) sent { return post(`{"serialNumber":` + quoted("5CG"+bad+"1") + `}`) }, false, 400},
		"reference": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","reference":` + quoted("R"+bad+"1") + `}`)
		}, true, 204},
		"context": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","context":{"room":` + quoted("R"+bad+"1") + `}}`)
		}, true, 204},
		"a name in context": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","context":{` + quoted("R"+bad+"1") + `:"x"}}`)
		}, false, 400},
		"expected": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","expected":{"resourceName":` + quoted("R"+bad+"1") + `}}`)
		}, true, 400},
		"a field": {func(bad string) sent { return post(`{` + quoted("R"+bad+"1") + `:1}`) }, false, 400},
		"Idempotency-Key": {func(bad string) sent {
			return post(validBody, byKey, header("Idempotency-Key",
				"R"+bad+"1"))
		}, false, 400},
		"webhook-id": {func(bad string) sent { return post(validBody, delivery("R"+bad+"1")) }, false, 401},
		"X-Request-Id": {
			func(bad string) sent { return post(validBody, header("X-Request-Id", "R"+bad+"1")) }, false,
			204,
		},
		"User-Agent": {
			func(bad string) sent { return post(validBody, header("User-Agent", "canary-agent"+bad)) },
			false, 204,
		},
		"x-api-key": {
			func(bad string) sent { return post(validBody, unsigned, header("X-Api-Key", "R"+bad+"1")) },
			false, 401,
		},
		"a path": {func(bad string) sent {
			return post(validBody, func(s *sent) { s.target = "/api/unassign/" + url.PathEscape(bad) })
		}, false, 404},
	}
	for name, field := range fields {
		for _, set := range []map[string]string{hostile, alike} {
			for kind, bad := range set {
				log.Reset()
				w := ask(t, h, field.request(bad))
				_, looksAlike := alike[kind]
				allowed := field.free && looksAlike // and is then in the log
				if (!allowed || w.Code >= 500) && w.Code != field.status {
					t.Errorf("%s with %s: %d %s, want %d", name, kind, w.Code, w.Body, field.status)
				}
				line, oneLine := strings.CutSuffix(log.String(), "\n")
				if field.status == http.StatusNotFound {
					oneLine = line == "" // a route that is none is not recorded
				}
				if !oneLine || strings.Contains(line, "\n") || !allowed && strings.Contains(line, bad) || strings.Contains(line,
					"canary-agent") {
					t.Errorf("%s with %s: the log has %q", name, kind, log.String())
				}
				if id := w.Header().Get("X-Request-Id"); strings.Contains(id, bad) {
					t.Errorf("%s with %s: the answer has the id %q", name, kind, id)
				}
			}
		}
	}
	// Other people than the callers write the texts in Intune.
	for kind, bad := range hostile {
		log.Reset()
		cloud.PutDevice(azuresim.Device{
			ID: someDevice, SerialNumber: "5CG" + bad + "1", GroupTag: "MTR-" + bad + "Oslo",
			UserPrincipalName: "room.fjord@contoso.com",
		})
		if w := ask(t, h, post(validBody)); w.Code != http.StatusNoContent {
			t.Errorf("a device with %s: %d %s", kind, w.Code, w.Body)
		}
		if line, _ := strings.CutSuffix(log.String(), "\n"); strings.Contains(line, "\n") || strings.Contains(line, bad) ||
			!strings.Contains(line, `"group_tag":"MTR-`) {
			t.Errorf("a device with %s: the log has %q", kind, log.String())
		}
	}
}

// TestStrangersCostNothing has strangers send a thousand requests: a cloud that has been warm is asked at most once
// for them.
func TestStrangersCostNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := newCloud()
		h := wired(t, cloud, &bytes.Buffer{})
		if w := ask(t, h, valid()); w.Code != http.StatusNoContent {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		steps := []azuresim.Step{
			azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret,
			azuresim.StepDiscovery, azuresim.StepToken, azuresim.StepGraph,
		}
		before := map[azuresim.Step]int{}
		for _, step := range steps {
			before[step] = cloud.Count(step)
		}
		bad := []func() sent{
			with(unsigned), with(delivery("a.b")), with(func(s *sent) { s.method = http.MethodPut }),
			with(header("Content-Type", "text/plain")), body(padded(17 << 10)), body(`{`),
			with(func(s *sent) { s.body += " " }), with(func(s *sent) { s.target = "/api/other" }),
			with(header("Webhook-Timestamp", "1")),
			with(func(s *sent) {
				caller.Sign(s.header, []byte("stranger-0123456789abcdefgh"), "msg_1", time.Now(), []byte(s.body))
			}),
			with(func(s *sent) {
				caller.Sign(s.header, canaryKey, "msg_1", time.Now().Add(-time.Hour), []byte(s.body))
			}),
		}
		var asking sync.WaitGroup
		for i := range 1000 {
			asking.Go(func() {
				time.Sleep(time.Duration(i) * 250 * time.Millisecond) // for a little more than four minutes
				if w := ask(t, h, bad[i%len(bad)]()); w.Code < 400 || w.Code >= 500 {
					t.Errorf("request %d: %d %s", i, w.Code, w.Body)
				}
			})
		}
		asking.Wait()
		for _, step := range steps {
			most := 0
			if step == azuresim.StepSecret { // once a minute, and once because a new key may fit
				most = 5
			}
			if n := cloud.Count(step) - before[step]; n > most {
				t.Errorf("%d requests of the step %s, want at most %d", n, step, most)
			}
		}
	})
}

// TestRefusalsAreAlike has requests not be authentic in every way: the answers are the same to the byte, so that
// a stranger learns nothing from them.
func TestRefusalsAreAlike(t *testing.T) {
	t.Parallel()
	h := wired(t, newCloud(), &bytes.Buffer{}, "API_KEY_SECRET_NAMES", "api-key-flow")
	want := ""
	for name, request := range map[string]func() sent{
		"nothing": with(unsigned),
		"a stranger's signature": with(func(s *sent) {
			caller.Sign(s.header, []byte("stranger-0123456789abcdefgh"), "msg_1", time.Now(), []byte(s.body))
		}),
		"a stranger's, long ago": with(func(s *sent) {
			caller.Sign(s.header, []byte("stranger-0123456789abcdefgh"), "msg_1", time.Unix(1, 0), []byte(s.body))
		}),
		"another body":                with(func(s *sent) { s.body += " " }),
		"another id":                  with(header("Webhook-Id", "msg_other")),
		"another time":                with(header("Webhook-Timestamp", strconv.FormatInt(time.Now().Unix()+60, 10))),
		"no id":                       with(header("Webhook-Id")),
		"no time":                     with(header("Webhook-Timestamp")),
		"no signature":                with(header("Webhook-Signature")),
		"two ids":                     with(header("Webhook-Id", "msg_1", "msg_1")),
		"a dot in the id":             with(delivery("a.b")),
		"no time at all":              with(header("Webhook-Timestamp", "now")),
		"no base64":                   with(header("Webhook-Signature", "v1,???")),
		"another version":             with(header("Webhook-Signature", "v2,AAAA")),
		"an empty API key":            with(unsigned, header("X-Api-Key", "")),
		"half an API key":             with(unsigned, header("X-Api-Key", canaryAPIKey[:16])),
		"an API key twice":            with(unsigned, header("X-Api-Key", canaryAPIKey, canaryAPIKey)),
		"a signing key as an API key": with(unsigned, header("X-Api-Key", encodeKey(canaryKey))),
		"both wrong":                  with(header("Webhook-Id", "msg_other"), header("X-Api-Key", "wrong")),
		"a token":                     with(unsigned, header("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")),
		"a name from the platform":    with(unsigned, header("X-Ms-Client-Principal-Name", "admin@contoso.com")),
		"no JSON":                     func() sent { return post("{", unsigned) },
		"an unknown device": func() sent {
			return post(strings.Replace(validBody, someDevice, unknownDevice, 1),
				unsigned)
		},
		"a malformed delivery id": with(unsigned, header("Idempotency-Key", "a b")),
	} {
		w := ask(t, h, request())
		var seen bytes.Buffer
		fmt.Fprintln(&seen, w.Code)
		_ = w.Header().Write(&seen)
		seen.Write(w.Body.Bytes())
		if want == "" {
			want = seen.String()
		}
		if seen.String() != want || w.Code != http.StatusUnauthorized || !strings.Contains(want, "request-1") {
			t.Errorf("%s: %s\nanother: %s", name, seen.String(), want)
		}
	}
}

// fallingOver are devices whose every method panics.
type fallingOver struct{}

func (fallingOver) Find(context.Context, ...graph.Selector) []graph.Found { panic("canary") }

func (fallingOver) Page(context.Context, string) ([]graph.Device, string, error) { panic("canary") }

func (fallingOver) All(context.Context) iter.Seq2[graph.Device, error] { panic("canary") }

func (fallingOver) UnassignResourceAccount(context.Context, ...graph.DeviceID) []graph.Result {
	panic("canary")
}

// TestPanicOnEveryHost has the handler panic under every host, for requests and events. Each answer is one that makes
// the caller or the host try again, and the next one is answered too.
func TestPanicOnEveryHost(t *testing.T) {
	t.Parallel()
	out := &text.Buffer{}
	log := app.NewLog(out, slog.LevelInfo)
	h := handler.New(handler.Options{
		Devices: fallingOver{}, Verifier: caller.Platform{}, Sweep: handler.Sweep{
			GroupTag: "MTR-Oslo", MaxDevices: 10,
			MinInventory: 1,
		}, Log: log, Timeout: time.Second,
	})
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	address := listener.Addr().String()
	serving.Go(func() {
		if err := serveHTTP(ctx, listener, withInvocation(&azureWorker{
			handler: h, address: address, coreTools: true,
			stop: ctx.Done(), log: log,
		}, config.Azure, azureInvocationID), time.Second, log); err != nil {
			t.Error(err)
		}
	})
	message, err := json.Marshal(validBody)
	if err != nil {
		t.Fatal(err)
	}
	failed := func(status int, answer string) bool {
		return status == http.StatusInternalServerError && strings.Contains(answer, `"code":"internal_error"`)
	}
	again := func(status int, _ string) bool { return status == http.StatusServiceUnavailable }
	for range 2 {
		for _, test := range []struct {
			target, body string
			want         func(status int, answer string) bool
		}{
			{"/api/unassign", validBody, failed},
			{"/sweep", `{"Data":{"timer":{}},"Metadata":{}}`, again},
			{"/queue", `{"Data":{"message":` + strconv.Quote(string(message)) + `},"Metadata":{}}`, again},
		} {
			answer, err := sendHTTP(t.Context(), "http://"+address, sent{http.MethodPost, test.target, http.Header{}, test.body})
			if err != nil || !test.want(answer.status, answer.body) {
				t.Errorf("%s: %v, %v", test.target, answer, err)
			}
		}
	}
	stop()
	serving.Wait()

	l := &lambdaHost{http: h, run: h.Run, settle: h.RunMessages, log: log}
	for _, test := range []struct{ payload, want string }{
		{`{"version":"2.0","rawPath":"/api/unassign","requestContext":{"http":{"method":"POST"}},"body":` +
			string(message) + `}`, `{"statusCode":500,`},
		{
			`{"Records":[{"eventSource":"aws:sqs","messageId":"m-1","body":` + string(message) + `}]}`,
			`{"batchItemFailures":[{"itemIdentifier":"m-1"}]}`,
		},
		{`{"command":"sweep"}`, "internal_error"},
	} {
		for range 2 {
			answer, err := l.Invoke(t.Context(), []byte(test.payload))
			got := string(answer)
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("%s: %s, want %s", test.payload, got, test.want)
			}
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, line := range lines {
		if !strings.Contains(line, `"code":"internal_error"`) || !strings.Contains(line, `"stack":"`) ||
			strings.Contains(line, "canary") {
			t.Errorf("the log has %s", line)
		}
	}
	if len(lines) != 12 {
		t.Errorf("the log has %d lines, want one for each of 12", len(lines))
	}
}

// tap is a transport that keeps every request and response.
type tap struct {
	cloud *azuresim.Cloud
	mu    sync.Mutex
	seen  bytes.Buffer
}

var _ policy.Transporter = (*tap)(nil)

func (p *tap) Do(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := p.cloud.Do(req)
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(&p.seen, req.URL, req.Header, string(body), err)
	if err != nil {
		return nil, err
	}
	answer, readErr := io.ReadAll(resp.Body)
	p.seen.Write(answer)
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(answer), broken{readErr}))
	return resp, nil
}

// broken ends as a body did that could not be read to its end.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) {
	if b.err == nil {
		return 0, io.EOF
	}
	return 0, b.err
}

// TestCanariesPassThrough is the premise of every search for leaks: each canary really passes through the program's
// hands, in a request of its own or in an answer, and the search would find it there. None of it is in the
// responses or the log.
func TestCanariesPassThrough(t *testing.T) {
	t.Setenv("IDENTITY_ENDPOINT", "http://169.254.169.254/msi/token")
	t.Setenv("IDENTITY_HEADER", "simulated-identity-header")
	cloud := newCloud()
	p := &tap{cloud: cloud}
	c, err := config.Load(complete("KEY_VAULT_URL", cloud.VaultURL, "AZURE_CLIENT_ID", cloud.IdentityClientID,
		"GRAPH_TENANT_ID", cloud.TenantID,
		"GRAPH_CLIENT_ID", cloud.ClientID, "API_KEY_SECRET_NAMES", "api-key-flow", "REQUEST_TIMEOUT", "1s"), config.Local)
	if err != nil {
		t.Fatal(err)
	}
	var log, told bytes.Buffer
	for _, fault := range []struct {
		step azuresim.Step
		azuresim.Fault
	}{
		{azuresim.StepGraph, azuresim.Fault{}},
		{azuresim.StepGraph, azuresim.GraphError(400, azuresim.Nested, 0)},
		{azuresim.StepToken, azuresim.Truncated()},
		{azuresim.StepToken, azuresim.Status(400)},
		{azuresim.StepSecret, azuresim.Status(403)},
		{azuresim.StepIdentity, azuresim.Reset()},
	} {
		h, err := newApp(c, p, app.NewLog(&log, c.LogLevel))
		if err != nil {
			t.Fatal(err)
		}
		cloud.Heal()
		cloud.Fail(fault.step, -1, fault.Fault)
		for _, request := range []sent{post(`{"serialNumber":"5CG1234ABC","dryRun":true}`), post(`{"deviceId":"` +
			someDevice + `","dryRun":true}`), post(validBody), post(validBody, byKey)} {
			w := ask(t, h, request)
			fmt.Fprintln(&told, w.Header(), w.Body)
		}
	}
	cloud.Heal()
	cloud.SetAppSecrets("another")
	h, err := newApp(c, p, app.NewLog(&log, c.LogLevel))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&told, ask(t, h, valid()).Body)
	for _, canary := range canaries(cloud, nil) {
		if canary == string(canaryKey) {
			continue // it is decoded in memory, from the next
		}
		if len(leaks([]string{canary}, p.seen.String())) == 0 {
			t.Errorf("%q does not pass through", canary)
		}
	}
	if found := leaks(canaries(cloud, nil), log.String(), told.String()); len(found) > 0 {
		t.Errorf("leaked %q", found)
	}
}

// TestWeakKeys has a key in the vault that is shorter than 24 bytes: it is no key.
func TestWeakKeys(t *testing.T) {
	t.Parallel()
	weak := strings.Repeat("k", caller.MinKeySize-1)
	for _, test := range []struct {
		setting, value string
		prove          func(*sent)
		status         int
	}{
		{"WEBHOOK_SECRET_NAMES", encodeKey([]byte(weak)), func(s *sent) {
			caller.Sign(s.header, []byte(weak), "msg_1",
				time.Now(), []byte(s.body))
		}, 424},
		{"WEBHOOK_SECRET_NAMES", encodeKey([]byte(weak + "k")), func(s *sent) {
			caller.Sign(s.header, []byte(weak+"k"),
				"msg_1", time.Now(), []byte(s.body))
		}, 204},
		{"API_KEY_SECRET_NAMES", weak, func(s *sent) { header("X-Api-Key", weak)(s); unsigned(s) }, 424},
		{"API_KEY_SECRET_NAMES", weak + "k", func(s *sent) { header("X-Api-Key", weak+"k")(s); unsigned(s) }, 204},
	} {
		cloud := newCloud()
		cloud.PutSecret("weak", azuresim.Secret{Value: test.value})
		var log bytes.Buffer
		w := ask(t, wired(t, cloud, &log, "WEBHOOK_SECRET_NAMES", "", test.setting, "weak"), post(validBody, test.prove))
		told := strings.Contains(w.Body.String(), `"code":"secret_invalid"`) && strings.Contains(log.String(),
			"secret weak is unusable: key is shorter than 24 bytes")
		if w.Code != test.status || told != (test.status == http.StatusFailedDependency) || strings.Contains(log.String(),
			weak) {
			t.Errorf("%s of %d characters: %d %s\n%s", test.setting, len(test.value), w.Code, w.Body, log.String())
		}
		// Beside a good one it is passed over, and opens nothing.
		cloud.PutSecret("good", azuresim.Secret{Value: encodeKey(canaryKey)})
		if test.setting == "API_KEY_SECRET_NAMES" {
			cloud.PutSecret("good", azuresim.Secret{Value: canaryAPIKey})
		}
		w = ask(t, wired(t, cloud, &log, "WEBHOOK_SECRET_NAMES", "", test.setting, "weak,good"), post(validBody, test.prove))
		if want := map[int]int{424: 401, 204: 204}[test.status]; w.Code != want {
			t.Errorf("%s of %d characters, beside a good one: %d %s, want %d", test.setting, len(test.value), w.Code, w.Body,
				want)
		}
	}
}
