// Package server serves HTTP with limits for everything that a stranger sends: the time of a header, of a body and of a
// response, and the size of a header.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Serve serves the requests of listener until ctx ends, then lets running requests finish. A request may take
// timeout.
func Serve(ctx context.Context, listener net.Listener, h http.Handler, timeout time.Duration,
	log *slog.Logger,
) error {
	server := &http.Server{
		Handler:        h,
		ReadTimeout:    3 * time.Second, // for the headers and the body
		WriteTimeout:   timeout + 15*time.Second,
		IdleTimeout:    120 * time.Second, // longer than the Functions host keeps an idle connection
		MaxHeaderBytes: 32 << 10,
		// or net/http would respond to OPTIONS * with 200, without the handler
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Limits of the rest of a body, once the response is known.
const (
	drainTimeout = 500 * time.Millisecond
	maxDrain     = 16 << 20 // bytes
)

// DrainBody returns a writer and a body for r: the first write of a response reads the rest of the body and discards
// it, up to maxDrain and drainTimeout. Without it net/http holds a response for as long as the body takes; and a
// host that is still sending when the connection closes reports 500 instead of the response.
//
// The connection closes after a response to an unfinished body: a stranger could write the next request into its late
// bytes. net/http does not close it in full duplex.
func DrainBody(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, io.ReadCloser) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // or net/http reads the rest itself, until its own deadline
	body := &requestBody{ReadCloser: r.Body, control: control, awaited: r.Header.Get("Expect") != ""}
	return &drainingWriter{ResponseWriter: w, body: body}, body
}

// requestBody is a body that knows whether it has ended.
type requestBody struct {
	io.ReadCloser

	control  *http.ResponseController
	awaited  bool // the caller sends nothing until the first Read
	ended    bool // no more can be read
	complete bool // it was read to its end
}

// Read reads the body. At its end the deadline is lifted: it would end the request's context.
func (b *requestBody) Read(p []byte) (int, error) {
	b.awaited = false
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended = true
	}
	if errors.Is(err, io.EOF) {
		b.complete = true
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// drainingWriter drains the body before the first write.
type drainingWriter struct {
	http.ResponseWriter

	body    *requestBody
	drained bool
}

func (w *drainingWriter) drain() {
	if w.drained {
		return
	}
	w.drained = true
	if !w.body.ended && !w.body.awaited {
		_ = w.body.control.SetReadDeadline(time.Now().Add(drainTimeout))
		_, _ = io.CopyN(io.Discard, w.body, maxDrain)
	}
	if !w.body.complete {
		w.Header().Set("Connection", "close")
	}
}

// WriteHeader implements http.ResponseWriter.
func (w *drainingWriter) WriteHeader(status int) {
	w.drain()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *drainingWriter) Write(p []byte) (int, error) {
	w.drain()
	return w.ResponseWriter.Write(p)
}

// Unwrap returns the writer for http.ResponseController.
func (w *drainingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
