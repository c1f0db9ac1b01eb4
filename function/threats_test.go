package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/server"
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
	worker := &localDeployment{url: "http://" + address, process: exec.Command(binary), out: &azuresim.Buffer{}}
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

// TestAmbiguousLength sends malformed requests to the listeners of both hosts: bodies with an end that two servers could
// see in two places, headers with more than a header in them, and too much. Only one request has an effect, as it
// was signed.
func TestAmbiguousLength(t *testing.T) {
	t.Parallel()
	c := newCloud()
	served := c.Serve()
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
			for name, values := range post(validBody, header("X-Request-Id")).Header {
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

// fallingOver panics in every method.
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
	out := &azuresim.Buffer{}
	log := app.NewLog(out, slog.LevelInfo)
	h := handler.New(handler.Options{
		Background: fallingOver{}, Devices: fallingOver{}, Pace: unlimited{}, Verifier: caller.Platform{}, Sweep: handler.Sweep{
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
		if err := server.Serve(ctx, listener, withInvocation(&azureWorker{
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
			answer, err := sendHTTP(t.Context(), "http://"+address, sent{Method: http.MethodPost, Target: test.target, Header: http.Header{}, Body: test.body})
			if err != nil || !test.want(answer.status, answer.body) {
				t.Errorf("%s: %v, %v", test.target, answer, err)
			}
		}
	}
	stop()
	serving.Wait()

	l := &lambdaHost{http: h, run: h.Run, settle: h.RunMessages, hide: h.MessageTime(), log: log}
	for _, test := range []struct{ payload, want string }{
		{`{"version":"2.0","rawPath":"/api/unassign","requestContext":{"http":{"method":"POST"}},"body":` +
			string(message) + `}`, `{"statusCode":500,`},
		{
			`{"Records":[{"eventSource":"aws:sqs","messageId":"m-1","body":` + string(message) + `},` +
				`{"eventSource":"aws:sqs","messageId":"m-2","body":` + string(message) + `}]}`,
			`{"batchItemFailures":[{"itemIdentifier":"m-1"},{"itemIdentifier":"m-2"}]}`,
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
	if len(lines) != 14 {
		t.Errorf("the log has %d lines, want one for each of 14", len(lines))
	}
}
