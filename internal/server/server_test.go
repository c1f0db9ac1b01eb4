package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/hosttest/pipe"
	"autopilot-unassign/internal/server"
)

const (
	readTimeout  = 3 * time.Second
	drainTimeout = 500 * time.Millisecond
)

// drained is next behind DrainBody.
func drained(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w, r.Body = server.DrainBody(w, r)
		next(w, r)
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
	t.Run("of a body", func(t *testing.T) {
		build := func(errs chan<- error) http.Handler { return drained(readBodyOf(errs).ServeHTTP) }
		pipe.Serve(t, build, time.Minute, func(t *testing.T, conn net.Conn, errs <-chan error) {
			t.Helper()
			start := time.Now()
			_, _ = io.WriteString(conn, "POST /api/unassign HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{")
			err := <-errs
			if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != readTimeout {
				t.Errorf("%v after %v, want the end of the deadline after %v", err, took, readTimeout)
			}
		})
	})
	t.Run("of a header", func(t *testing.T) {
		build := func(chan<- error) http.Handler { return http.NotFoundHandler() }
		pipe.Serve(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
			t.Helper()
			start := time.Now()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHo")
			_, _ = io.Copy(io.Discard, conn)
			if took := time.Since(start); took > readTimeout+time.Second {
				t.Errorf("the connection was closed after %v", took)
			}
		})
	})
	// A byte every 100 ms does not extend the deadline.
	t.Run("of a header that keeps coming", func(t *testing.T) {
		build := func(chan<- error) http.Handler { return http.NotFoundHandler() }
		pipe.Serve(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
			t.Helper()
			start := time.Now()
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nX-A: ")
			for err == nil && time.Since(start) < time.Minute {
				time.Sleep(100 * time.Millisecond)
				_, err = io.WriteString(conn, "a")
			}
			if took := time.Since(start); took < readTimeout || took > readTimeout+time.Second {
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
		pipe.Serve(t, build, time.Second, func(t *testing.T, conn net.Conn, errs <-chan error) {
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
			return drained(refuse)
		}
		pipe.Serve(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
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
			return drained(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/first" {
					t.Errorf("%s: %s was served", name, r.URL.Path)
				}
				read(r.Body)
				w.WriteHeader(http.StatusUnauthorized)
			})
		}
		pipe.Serve(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
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
	build := func(chan<- error) http.Handler { return drained(http.NotFound) }
	pipe.Serve(t, build, time.Minute, func(t *testing.T, conn net.Conn, _ <-chan error) {
		t.Helper()
		fmt.Fprint(conn, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%v, %v", resp, err)
		}
	})
}
