package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/hosttest/simulated"

	"github.com/aws/aws-lambda-go/events"
)

// pipes is a listener with connections in memory, so that their deadlines are in simulated time.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// onServer runs test with a connection to the server of every HTTP host, and with the channel that its handler sends
// errors to.
func onServer(
	t *testing.T, build func(errs chan<- error) http.Handler, timeout time.Duration, test func(t *testing.T, conn net.Conn, errs <-chan error),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		listener := pipes{make(chan net.Conn), make(chan struct{})}
		done, errs := make(chan error, 1), make(chan error, 1) // in the bubble: waiting for them lets time pass
		h := build(errs)
		go func() { done <- serveHTTP(ctx, listener, h, timeout, slog.New(slog.DiscardHandler)) }()
		client, server := net.Pipe()
		listener.accepted <- server
		test(t, client, errs)
		_ = client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// readBodyOf is a handler that reads the body and reports the error.
func readBodyOf(errs chan<- error) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		errs <- err
	})
}

// TestDeadlinesOfTheServer has each deadline of a connection alone hold back a sender or a reader that stops.
func TestDeadlinesOfTheServer(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	const head = "POST /api/unassign HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{"
	stalledBody := func(wrap func(http.Handler) http.Handler, want time.Duration) func(t *testing.T) {
		return func(t *testing.T) {
			t.Helper()
			build := func(errs chan<- error) http.Handler { return wrap(readBodyOf(errs)) }
			onServer(t, build, time.Minute, func(t *testing.T, conn net.Conn, errs <-chan error) {
				t.Helper()
				start := time.Now()
				_, _ = io.WriteString(conn, head)
				err := <-errs
				if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != want {
					t.Errorf("%v after %v, want the end of the deadline after %v", err, took, want)
				}
			})
		}
	}
	t.Run("of a body", stalledBody(func(h http.Handler) http.Handler { return withInvocation(h, config.Local, "") }, bodyTimeout))
	t.Run("of a request", stalledBody(func(h http.Handler) http.Handler { return h }, 2*bodyTimeout))
	t.Run("of a header", func(t *testing.T) {
		build := func(chan<- error) http.Handler { return http.NotFoundHandler() }
		onServer(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
			t.Helper()
			start := time.Now()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHo")
			_, _ = io.Copy(io.Discard, conn)
			if took := time.Since(start); took > bodyTimeout+time.Second {
				t.Errorf("the connection was closed after %v", took)
			}
		})
	})
	// A byte every 100 ms does not extend the deadline.
	t.Run("of a header that keeps coming", func(t *testing.T) {
		build := func(chan<- error) http.Handler { return http.NotFoundHandler() }
		onServer(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
			t.Helper()
			start := time.Now()
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nX-A: ")
			for err == nil && time.Since(start) < time.Minute {
				time.Sleep(100 * time.Millisecond)
				_, err = io.WriteString(conn, "a")
			}
			if took := time.Since(start); took < bodyTimeout || took > bodyTimeout+time.Second {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
	t.Run("of a response", func(t *testing.T) {
		build := func(errs chan<- error) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, err := io.WriteString(w, strings.Repeat("x", 1<<20))
				errs <- err
			})
		}
		onServer(t, build, time.Second, func(t *testing.T, conn net.Conn, errs <-chan error) {
			t.Helper()
			start := time.Now()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 16*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
}

// TestEarlyResponseAndLateBody has a response that needs no body arrive at a sender that reads it after its last byte,
// and at a sender that stops.
func TestEarlyResponseAndLateBody(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sent int
		want time.Duration
	}{"sends all": {1 << 20, 0}, "stops": {60, drainTimeout}} {
		build := func(chan<- error) http.Handler {
			refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) }
			return withInvocation(http.HandlerFunc(refuse), config.Local, "")
		}
		onServer(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
			t.Helper()
			start := time.Now()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 1<<20)
			if _, err := io.WriteString(conn, strings.Repeat("x", test.sent)); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || time.Since(start) != test.want {
				t.Errorf("%s: %v, %v after %v", name, resp, err, time.Since(start))
			}
		})
	}
}

// TestLateBodyIsNoRequest has a stranger send the body of a request after its response: it must not pass for the next
// request of the connection, which a host shares between its callers and uses for its own invocations.
func TestLateBodyIsNoRequest(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(io.Reader){
		"unread":   func(io.Reader) {},
		"a byte":   func(body io.Reader) { _, _ = body.Read(make([]byte, 1)) },
		"given up": func(body io.Reader) { _, _ = io.ReadAll(body) },
	} {
		build := func(chan<- error) http.Handler {
			return withInvocation(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/first" {
					t.Errorf("%s: %s was served", name, r.URL.Path)
				}
				read(r.Body)
				w.WriteHeader(http.StatusUnauthorized)
			}), config.Azure, azureInvocationID)
		}
		onServer(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
			t.Helper()
			const late = "POST /queue HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
			fmt.Fprintf(conn, "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nx", len(late)+1)
			responses := bufio.NewReader(conn)
			resp, err := http.ReadResponse(responses, nil)
			if err != nil || resp.StatusCode != http.StatusUnauthorized || !resp.Close {
				t.Errorf("%s: %v, %v", name, resp, err)
				return
			}
			_, _ = io.WriteString(conn, late)
			if _, err := responses.ReadByte(); err == nil {
				t.Errorf("%s: the late body has a response", name)
			}
		})
	}
}

// TestOptionsOfTheServer has the handler respond to OPTIONS * too: no address has a success that is not the function's.
func TestOptionsOfTheServer(t *testing.T) {
	t.Parallel()
	build := func(chan<- error) http.Handler { return withInvocation(http.NotFoundHandler(), config.Local, "") }
	onServer(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
		t.Helper()
		fmt.Fprint(conn, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%v, %v", resp, err)
		}
	})
}

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
			"a false key":   {"POST /api/unassign HTTP/1.1\r\nX-Api-Key: x\r\n", 408, requestTimeout / 2},
		} {
			build := func(chan<- error) http.Handler {
				_, h := adapt(t, newCloud(), host, nil, slog.New(slog.DiscardHandler))
				return h
			}
			onServer(t, build, requestTimeout, func(t *testing.T, conn net.Conn, _ <-chan error) {
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
	onServer(t, build, time.Second, func(t *testing.T, conn net.Conn, _ <-chan error) {
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
