package functions

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The headers that the host adds (E8).
const (
	hostVersion        = "4.1052.200.0"
	headerHostVersion  = "X-Azure-Functions-Hostversion"
	headerInvocationID = "X-Azure-Functions-Invocationid"
)

// What ends an invocation before the worker does.
var (
	errFunctionTimeout = errors.New("functions host: the function's time is up; the worker was killed")
	errActivityTimeout = errors.New("functions host: no byte for too long")
)

// newID returns a GUID.
func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// drainTimeout is how long the front door goes on reading a body after the answer.
const drainTimeout = 5 * time.Second

// serve is the server of the front door. As Kestrel does, it reads what is left of a request's body after the answer, in
// place of closing the connection on a caller who is still sending and would never see the answer.
func (h *Host) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	if h.closed && h.ctx.Err() != nil {
		h.mu.Unlock()
		return
	}
	h.running.Add(1)
	h.mu.Unlock()
	defer h.running.Done()

	if r.ContentLength == 0 {
		h.frontDoor(w, r)
		return
	}
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // or nothing could be read after the answer
	body := &requestBody{from: http.MaxBytesReader(nil, r.Body, h.options.MaxBody)}
	in := r.WithContext(r.Context())
	in.Body = body
	h.frontDoor(w, in)
	_ = body.Close()
	if r.Header.Get("Expect") != "" && !body.asked.Load() {
		return // the caller has not been told to send it
	}
	_ = control.Flush()
	_ = control.SetReadDeadline(time.Now().Add(drainTimeout))
	_, _ = io.CopyN(io.Discard, r.Body, h.options.MaxBody)
}

// requestBody is the body of a request as the worker gets it. Closing it ends that, and leaves the rest to be read.
type requestBody struct {
	from   io.Reader
	active func() // is called after each read, if it is set
	asked  atomic.Bool
	closed atomic.Bool
}

// Read reads what the caller sends.
func (b *requestBody) Read(p []byte) (int, error) {
	b.asked.Store(true)
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.from.Read(p)
	if b.active != nil {
		b.active()
	}
	return n, err
}

// Close makes every later Read fail.
func (b *requestBody) Close() error {
	b.closed.Store(true)
	return nil
}

// frontDoor is what callers reach (E7): routes, keys and the size of a body are looked at before the worker sees a request.
func (h *Host) frontDoor(w http.ResponseWriter, r *http.Request) {
	f, params := h.app.route(r.Method, r.URL.Path)
	switch {
	case h.Err() != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "Function host is not running.")
		return
	case f == nil:
		w.WriteHeader(http.StatusNotFound)
		return
	case !h.opens(r, f.trigger.AuthLevel):
		w.WriteHeader(http.StatusUnauthorized)
		return
	case r.ContentLength > h.options.MaxBody:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	switch {
	case !f.plainHTTP():
		h.byJSON(w, r, f, params)
	case h.app.proxying && !h.options.Forwarding:
		h.proxy(w, r)
	case h.app.forwarding || h.options.Forwarding:
		h.forward(w, r)
	default:
		h.byJSON(w, r, f, params)
	}
}

// opens tells whether a request has the key that a level asks for. The level of a function that names none is function.
func (h *Host) opens(r *http.Request, level string) bool {
	if strings.EqualFold(level, "anonymous") {
		return true
	}
	key := cmp.Or(r.Header.Get("X-Functions-Key"), r.URL.Query().Get("code"))
	return key != "" && key == h.options.Key
}

// hopByHop are the headers that are not handed on, in either direction (E8).
var hopByHop = []string{ //nolint:gochecknoglobals // a table that nothing writes to
	"Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authentication-Info",
	"Proxy-Authorization", "Proxy-Features", "Proxy-Instruction", "Security-Scheme", "Alpn", "Close", "Http2-Settings",
	"Upgrade-Insecure-Requests", "Te", "Alt-Svc",
}

// contentHeaders are lost by forwarding: of the headers that belong to a content, it copies two others (E12).
var contentHeaders = []string{ //nolint:gochecknoglobals // a table that nothing writes to
	"Allow", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location", "Content-Md5", "Content-Range", "Expires",
	"Last-Modified",
}

// outgoing returns the headers of a request as .NET writes them: the values of one name in one line.
func outgoing(in http.Header, without []string) http.Header {
	out := http.Header{"User-Agent": {""}} // and so none, if the caller has none
	for name, values := range in {
		separator := ", "
		switch name {
		case "Cookie":
			separator = "; "
		case "User-Agent":
			separator = " "
		}
		if !slices.Contains(without, name) {
			out[name] = []string{strings.Join(values, separator)}
		}
	}
	return out
}

// answer copies the status and headers of the worker's answer (E9).
func answer(w http.ResponseWriter, resp *http.Response) {
	header := w.Header()
	maps.Copy(header, resp.Header)
	for _, name := range hopByHop {
		header.Del(name)
	}
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusResetContent {
		header.Del("Content-Length")
	}
	if header["Content-Type"] == nil {
		header["Content-Type"] = nil // or the server would guess one
	}
	w.WriteHeader(resp.StatusCode)
}

// proxy hands a request on as it came, and the answer back as it came (E8, E9, E11).
func (h *Host) proxy(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	ctx, end := context.WithTimeoutCause(ctx, h.options.FunctionTimeout, errFunctionTimeout)
	defer end()
	idle := time.AfterFunc(h.options.ActivityTimeout, func() { cancel(errActivityTimeout) })
	defer idle.Stop()
	active := func() { idle.Reset(h.options.ActivityTimeout) }

	worker, err := h.await(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	id := h.newInvocation()
	out := (&http.Request{
		Method: r.Method, Host: r.Host, Header: outgoing(r.Header, hopByHop), ContentLength: r.ContentLength, Body: http.NoBody,
		URL: &url.URL{
			Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(h.port),
			Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery,
		},
	}).WithContext(ctx)
	if body, ok := r.Body.(*requestBody); ok {
		body.active = active
		out.Body = body
	}
	out.Header.Set(headerHostVersion, hostVersion)
	out.Header.Set(headerInvocationID, id)
	out.Header.Set("X-Ms-Invocation-Id", id)
	resp, err := h.send(out)
	if err == nil {
		active()
		answer(w, resp)
		err = errors.Join(stream(w, resp.Body, active), resp.Body.Close())
		if err == nil {
			return
		}
	}
	if errors.Is(context.Cause(ctx), errFunctionTimeout) {
		h.kill(worker)
	}
	if resp != nil {
		panic(http.ErrAbortHandler) // the caller sees an answer that breaks off
	}
	fail(w, err)
}

// fail answers a request that the worker has given no answer to.
func fail(w http.ResponseWriter, err error) {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	w.WriteHeader(http.StatusInternalServerError)
}

// stream copies an answer as it comes, the headers that have been written before it first.
func stream(w http.ResponseWriter, from io.Reader, active func()) error {
	buffer := make([]byte, 32<<10)
	control := http.NewResponseController(w)
	if err := control.Flush(); err != nil {
		return err
	}
	for {
		n, err := from.Read(buffer)
		active()
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			if err := control.Flush(); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// send sends a request to the worker, and a request without a body again when the connection fails (E10).
func (h *Host) send(req *http.Request) (*http.Response, error) {
	delay := 50 * time.Millisecond
	for attempt := 1; ; attempt++ {
		resp, err := h.once(req)
		if err == nil || req.Body != http.NoBody || attempt == 10 {
			return resp, err
		}
		select {
		case <-time.After(delay):
		case <-req.Context().Done():
			return nil, err
		}
		delay = min(delay*2, 250*time.Millisecond)
	}
}

// once sends a request, and loses the answer if DropNext says so.
func (h *Host) once(req *http.Request) (*http.Response, error) {
	resp, err := h.client.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	drop := h.drops > 0
	if drop {
		h.drops--
	}
	h.mu.Unlock()
	if drop {
		return nil, errors.Join(io.ErrUnexpectedEOF, resp.Body.Close())
	}
	return resp, nil
}

// forward builds the request anew, as hosts did before they could proxy (E12): the query from a dictionary, some headers of the
// content lost, a chunked body an error, the host's headers beside the caller's own, and no end when the caller goes away.
func (h *Host) forward(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 {
		fail(w, nil)
		return
	}
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		fail(w, err)
		return
	}
	query := url.Values{}
	for name, values := range r.URL.Query() {
		query.Set(name, strings.Join(values, ","))
	}
	target := h.workerURL(r.URL.EscapedPath())
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	ctx, end := context.WithTimeoutCause(context.WithoutCancel(r.Context()), h.options.FunctionTimeout, errFunctionTimeout)
	defer end()
	worker, err := h.await(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(sent))
	if err != nil {
		fail(w, err)
		return
	}
	id := h.newInvocation()
	in := r.Header.Clone()
	in.Add(headerHostVersion, hostVersion)
	in.Add(headerInvocationID, id)
	in.Add("User-Agent", "Azure-Functions-Host/"+hostVersion)
	req.Host, req.Header = r.Host, outgoing(in, contentHeaders)
	resp, err := h.once(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errFunctionTimeout) {
			h.kill(worker)
		}
		fail(w, err)
		return
	}
	if resp.ContentLength < 0 {
		resp.Header.Set("Content-Length", strconv.Itoa(len(text))) // it is in a buffer by now
	}
	answer(w, resp)
	_, _ = w.Write(text)
}

// byJSON hands a request on as an invocation (E13). The output must be an object with a status, headers and a body, each of which
// may be left out; whatever else comes is a 500.
func (h *Host) byJSON(w http.ResponseWriter, r *http.Request, f *function, params map[string]string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fail(w, err)
		return
	}
	query := map[string]string{}
	for name, values := range r.URL.Query() {
		query[name] = strings.Join(values, ",")
	}
	request := map[string]any{
		"Url": "http://" + r.Host + r.URL.String(), "Method": r.Method, "Query": query, "Headers": r.Header, "Params": params, "Identities": []any{},
	}
	if r.ContentLength > 0 {
		request["Body"] = string(body)
		media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if media == "application/octet-stream" || strings.HasPrefix(media, "multipart/") {
			request["Body"] = base64.StdEncoding.EncodeToString(body)
		}
	}
	result, err := h.Invoke(r.Context(), f.name, map[string]any{f.trigger.Name: request})
	if err != nil {
		fail(w, err)
		return
	}
	var out map[string]any
	for _, b := range f.bindings {
		if strings.EqualFold(b.Type, "http") && strings.EqualFold(b.Direction, "out") {
			out, _ = result.Outputs[b.Name].(map[string]any)
		}
	}
	if out == nil {
		fail(w, err)
		return
	}
	status := http.StatusOK
	for _, name := range []string{"status", "statusCode"} {
		switch value := out[name].(type) {
		case float64:
			status = int(value)
		case string:
			status, _ = strconv.Atoi(value)
		}
	}
	if status < 200 || status > 599 {
		fail(w, err)
		return
	}
	headers, _ := out["headers"].(map[string]any)
	for name, value := range headers {
		if text, ok := value.(string); ok {
			w.Header().Set(name, text)
		}
	}
	text, ok := out["body"].(string)
	if object := out["body"]; !ok && object != nil {
		encoded, err := json.Marshal(object)
		if err != nil {
			fail(w, err)
			return
		}
		text = string(encoded)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// dial connects to the worker.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: conn, closed: make(chan struct{})}, nil
}

// patientConn keeps a failed write back until the connection is closed. A worker may answer before it has read the whole body,
// and close the connection: http.Transport takes the first of a failed write and an answer, and would lose an answer that has
// arrived. So it gets to read first; a connection that is broken indeed fails the read as well.
type patientConn struct {
	net.Conn

	once   sync.Once
	closed chan struct{}
}

// Write writes, and returns an error when no answer can come any more.
func (c *patientConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		<-c.closed
	}
	return n, err
}

// Close closes the connection.
func (c *patientConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
