package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/hosttest/pipe"
	"autopilot-unassign/internal/hosttest/simulated"

	"github.com/aws/aws-lambda-go/events"
)

// drainTimeout is the time that a response waits for the rest of a body.
const drainTimeout = 500 * time.Millisecond

// TestSlowSender has strangers send a few bytes and then nothing: none holds a request for longer than the time for a
// body.
func TestSlowSender(t *testing.T) {
	t.Parallel()
	for _, host := range []string{config.Azure, config.Local} {
		for name, test := range map[string]struct {
			head   string
			status int
			held   time.Duration
		}{
			"health":        {"GET /api/health HTTP/1.1\r\n", 200, drainTimeout},
			"no such route": {"GET /wp-login.php HTTP/1.1\r\n", 404, drainTimeout},
			"another type":  {"POST /api/unassign HTTP/1.1\r\nContent-Type: text/plain\r\n", 415, drainTimeout},
			"a method":      {"PUT /api/unassign HTTP/1.1\r\n", 405, drainTimeout},
			"no evidence":   {"POST /api/unassign HTTP/1.1\r\nContent-Type: application/json\r\n", 401, drainTimeout},
			"a false key":   {"POST /api/unassign HTTP/1.1\r\nX-Api-Key: x\r\n", 408, 3 * time.Second},
		} {
			build := func(chan<- error) http.Handler {
				_, h := adapt(t, newCloud(), host, nil, slog.New(slog.DiscardHandler))
				return h
			}
			pipe.Serve(t, build, requestTimeout, func(t *testing.T, conn net.Conn, _ <-chan error) {
				t.Helper()
				start := time.Now()
				fmt.Fprintf(conn, "%sHost: x\r\nContent-Length: 2\r\n\r\n{", test.head)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || resp.StatusCode != test.status || time.Since(start) != test.held {
					t.Errorf("%s, %s: %v, %v after %v", host, name, resp, err, time.Since(start))
				}
			})
		}
	}
}

// TestLongSweep has an event outlive the times that a request has: for its body, and to be written.
func TestLongSweep(t *testing.T) {
	t.Parallel()
	build := func(chan<- error) http.Handler {
		c := newCloud()
		c.Fail(azuresim.StepGraph, 1, azuresim.Delay(22*time.Second))
		settings := simulated.Settings(c, "SWEEP_GROUP_TAG", "MTR-Oslo", "SWEEP_APPLY", "true")
		a := simulated.NewApp(t, simulated.Load(t, settings), c, io.Discard)
		log := slog.New(slog.DiscardHandler)
		return withInvocation(&azureWorker{handler: a.Handler, address: "a", log: log}, config.Azure, azureInvocationID)
	}
	pipe.Serve(t, build, time.Second, func(t *testing.T, conn net.Conn, _ <-chan error) {
		t.Helper()
		start := time.Now()
		if _, err := io.WriteString(conn, invocationText(functionSweep, "a", `{"Data":{"timer":{}}}`)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusOK || time.Since(start) < 22*time.Second {
			t.Errorf("%v, %v after %v", resp, err, time.Since(start))
		}
	})
}

// TestMessageIDReachesTheLedger makes sure that both hosts take the id of a message for the id of its delivery.
func TestMessageIDReachesTheLedger(t *testing.T) {
	if m := sqsMessage(events.SQSMessage{MessageId: "m-1", Body: "{}"}); m.ID != "m-1" {
		t.Errorf("SQS: %+v", m)
	}
	in := invocation{Metadata: []byte(`{"Id":"m-2"}`)}
	in.Data.Message = []byte(`"{}"`)
	if m := storageMessage(in); m.ID != "m-2" {
		t.Errorf("a Storage queue: %+v", m)
	}
}
