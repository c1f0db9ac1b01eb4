package functions

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Headers that the host sets.
const (
	hostVersion        = "4.1052.200.0"
	headerHostVersion  = "X-Azure-Functions-Hostversion"
	headerInvocationID = "X-Azure-Functions-Invocationid"
)

// Causes of a context that ends before the worker responds.
var (
	errFunctionTimeout = errors.New("functions host: the function's time is up; the worker was killed")
	errActivityTimeout = errors.New("functions host: no byte for too long")
)

// drainTimeout limits the reading of a body after the response.
const drainTimeout = 5 * time.Second

// serve handles a caller's request. As Kestrel does, it reads the rest of a body after the response instead of
// closing the connection on a caller that still sends.
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
		h.admit(w, r)
		return
	}
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // or nothing could be read after the response
	body := &requestBody{from: http.MaxBytesReader(nil, r.Body, h.options.MaxBody), control: control, begun: time.Now()}
	body.extend(0)
	in := r.WithContext(r.Context())
	in.Body = body
	h.admit(w, in)
	_ = body.Close()
	if r.Header.Get("Expect") != "" && !body.read.Load() {
		return // the caller was not told to send it
	}
	_ = control.Flush()
	_ = control.SetReadDeadline(time.Now().Add(drainTimeout))
	if _, err := io.CopyN(io.Discard, r.Body, h.options.MaxBody); err != nil && !errors.Is(err, io.EOF) {
		panic(http.ErrAbortHandler) // closes the connection
	}
}

// The least rate of a body, and the time before it counts (E7).
const (
	bodyRate  = 240 // bytes a second
	bodyGrace = 5 * time.Second
)

// requestBody is the body of a request for the worker. After Close the rest can be read from its source.
type requestBody struct {
	from    io.Reader
	control *http.ResponseController
	begun   time.Time
	size    int    // read so far
	active  func() // called after each read; may be nil
	read    atomic.Bool
	closed  atomic.Bool
}

// extend sets the deadline for the bytes that follow.
func (b *requestBody) extend(n int) {
	b.size += n
	_ = b.control.SetReadDeadline(b.begun.Add(bodyGrace + time.Duration(b.size)*time.Second/bodyRate))
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.from.Read(p)
	b.extend(n)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{}) // or it would end the request's context
	}
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

// Limits of a request's head (E7).
const (
	maxRequestLine = 8 << 10
	maxHeaders     = 100
	maxHeaderBytes = 32 << 10
)

// refuseHead returns the status for a head that the host does not take, 0 for none (E7).
func refuseHead(r *http.Request) int {
	if len(r.Method)+len(r.RequestURI)+len("  HTTP/1.1\r\n") > maxRequestLine {
		return http.StatusRequestURITooLong
	}
	count, size, plain := 1, 0, true // 1 for Host
	for name, values := range r.Header {
		for _, value := range values {
			count++
			size += len(name) + len(value)
			plain = plain && !strings.ContainsFunc(value, func(c rune) bool { return c > 0x7e })
		}
	}
	switch {
	case count > maxHeaders, size > maxHeaderBytes:
		return http.StatusRequestHeaderFieldsTooLarge
	case !plain:
		return http.StatusBadRequest
	case !slices.Contains(methods, r.Method):
		return http.StatusNotFound
	}
	return 0
}

var methods = []string{ //nolint:gochecknoglobals // a constant table
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodOptions, http.MethodTrace,
}

// homepage is the body of the root's response (E7). The host's own has 149 KB.
const homepage = "<!DOCTYPE html><html><body>Your Azure Function App is up and running.</body></html>"

// respondEmpty responds without a body.
func respondEmpty(w http.ResponseWriter, status int) {
	if status != http.StatusNoContent {
		w.Header().Set("Content-Length", "0")
	}
	w.WriteHeader(status)
}

// admit responds to a request that the worker does not see, and passes on any other (E7).
func (h *Host) admit(w http.ResponseWriter, r *http.Request) {
	if status := refuseHead(r); status != 0 {
		respondEmpty(w, status)
		return
	}
	path := normalPath(r.URL.EscapedPath())
	f, params := h.app.route(r.Method, path)
	switch {
	case strings.HasPrefix(strings.ToLower(path), "/admin/"):
		respondEmpty(w, http.StatusUnauthorized)
		return
	case f == nil && path == "/" && slices.Contains(h.options.Env, "AzureWebJobsDisableHomepage=true"):
		respondEmpty(w, http.StatusNoContent)
		return
	case f == nil && path == "/":
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, homepage)
		return
	case f == nil:
		respondEmpty(w, http.StatusNotFound)
		return
	case !h.acceptsKey(r, f.trigger.AuthLevel):
		respondEmpty(w, http.StatusUnauthorized)
		return
	case r.ContentLength > h.options.MaxBody:
		respondEmpty(w, http.StatusRequestEntityTooLarge)
		return
	}
	defer h.outstanding.Add(-1)
	if n := h.outstanding.Add(1); h.app.outstanding > 0 && n > int64(h.app.outstanding) {
		w.Header().Set("X-Function-Scaleout", "1")
		respondEmpty(w, http.StatusTooManyRequests)
		return
	}
	if h.places != nil {
		h.places <- struct{}{}
		defer func() { <-h.places }()
	}
	switch {
	case !f.plainHTTP():
		h.byJSON(w, r, f, params)
	case h.app.proxying && h.options.Mode != Forwarding:
		h.proxyRequest(w, r, path)
	case h.app.forwarding || h.options.Mode == Forwarding:
		h.forwardRequest(w, r, path)
	default:
		h.byJSON(w, r, f, params)
	}
}

// acceptsKey reports whether a request has a key for a level. A function that names no level has the level function.
func (h *Host) acceptsKey(r *http.Request, level string) bool {
	if strings.EqualFold(level, "anonymous") {
		return true
	}
	return slices.Contains(h.options.Keys, cmp.Or(r.Header.Get("X-Functions-Key"), r.URL.Query().Get("code")))
}

// hopByHop are the headers that are not passed on, in either direction (E8).
var hopByHop = []string{ //nolint:gochecknoglobals // a constant table
	"Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade", "Proxy-Connection", "Proxy-Authenticate",
	"Proxy-Authentication-Info",
	"Proxy-Authorization", "Proxy-Features", "Proxy-Instruction", "Security-Scheme", "Alpn", "Close", "Http2-Settings",
	"Upgrade-Insecure-Requests", "Te", "Alt-Svc",
}

// contentHeaders are lost by forwarding (E12).
var contentHeaders = []string{ //nolint:gochecknoglobals // a constant table
	"Allow", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location", "Content-Md5",
	"Content-Range", "Expires",
	"Last-Modified",
}

// outgoingHeader returns the headers of a request as .NET writes them, with the values of one name in one line.
func outgoingHeader(in http.Header, without []string) http.Header {
	out := http.Header{"User-Agent": {""}} // none, if the caller has none
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

// keepHeaders removes the headers of a response that do not come back (E9).
func keepHeaders(resp *http.Response) error {
	for _, name := range hopByHop {
		resp.Header.Del(name)
	}
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusResetContent {
		resp.Header.Del("Content-Length")
	}
	return nil
}

// limitTime returns a context that ends when the function's time is up (E20).
func (h *Host) limitTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, h.options.FunctionTimeout+h.options.Grace, errFunctionTimeout)
}

// proxyRequest passes a request on, and the response back, both as they came (E8 to E11).
func (h *Host) proxyRequest(w http.ResponseWriter, r *http.Request, path string) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	ctx, end := h.limitTime(ctx)
	defer end()
	idle := time.AfterFunc(h.options.ActivityTimeout, func() { cancel(errActivityTimeout) })
	defer idle.Stop()
	active := func() { idle.Reset(h.options.ActivityTimeout) }
	worker, err := h.await(ctx)
	target, invalid := url.Parse(h.workerURL(encodePath(path)))
	if err = errors.Join(err, invalid); err != nil {
		respondFailure(w, err)
		return
	}
	defer func() {
		if errors.Is(context.Cause(ctx), errFunctionTimeout) {
			h.kill(worker)
		}
	}()
	if body, ok := r.Body.(*requestBody); ok {
		body.active = active
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { h.rewriteRequest(p, target) },
		Transport: roundTripper(func(out *http.Request) (*http.Response, error) {
			resp, err := h.send(out, r.Body)
			if err == nil {
				active()
				resp.Body = activeBody{resp.Body, active}
			}
			return resp, err
		}),
		FlushInterval:  -1,
		ModifyResponse: keepHeaders,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, err error) { respondFailure(w, err) },
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	w.Header()["Content-Type"] = nil // or the server would guess one
	proxy.ServeHTTP(w, r.WithContext(ctx))
}

// rewriteRequest sets the headers of a request for the worker (E8).
func (h *Host) rewriteRequest(p *httputil.ProxyRequest, target *url.URL) {
	id := h.newInvocation()
	target.RawQuery, target.ForceQuery = p.In.URL.RawQuery, p.In.URL.ForceQuery
	p.Out.URL, p.Out.Header = target, outgoingHeader(p.In.Header, hopByHop)
	if body, ok := p.In.Body.(*requestBody); ok {
		p.Out.Body = io.NopCloser(body) // or the first attempt would close it
	}
	p.Out.Header.Set(headerHostVersion, hostVersion)
	p.Out.Header.Set(headerInvocationID, id)
	p.Out.Header.Set("X-Ms-Invocation-Id", id)
	if h.options.Mode == Proxying {
		peer, _, _ := net.SplitHostPort(p.In.RemoteAddr)
		p.Out.Host = target.Host
		p.Out.Header.Set("X-Forwarded-For", peer)
		p.Out.Header.Set("X-Forwarded-Host", p.In.Host)
		p.Out.Header.Set("X-Forwarded-Proto", "http")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// activeBody calls active after each read.
type activeBody struct {
	io.ReadCloser

	active func()
}

// Read implements io.Reader.
func (b activeBody) Read(p []byte) (int, error) {
	defer b.active()
	return b.ReadCloser.Read(p)
}

// respondFailure responds to a request that has no response of the worker.
func respondFailure(w http.ResponseWriter, err error) {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		respondEmpty(w, http.StatusRequestEntityTooLarge)
		return
	}
	respondEmpty(w, http.StatusInternalServerError)
}

// send sends a request to the worker, and again if the connection breaks before the body has been read (E10).
func (h *Host) send(req *http.Request, body io.Reader) (*http.Response, error) {
	delay := 50 * time.Millisecond
	for attempt := 1; ; attempt++ {
		resp, err := h.sendOnce(req)
		if b, ok := body.(*requestBody); err == nil || attempt == 10 || ok && b.read.Load() {
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

// sendOnce sends a request, and reads the response when the body is sent (E9). It loses the response if DropNext wants
// it, or if the worker closes the connection before.
func (h *Host) sendOnce(req *http.Request) (*http.Response, error) {
	wrote := make(chan error, 1)
	trace := &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) {
		select {
		case wrote <- info.Err:
		default:
		}
	}}
	resp, err := h.client.Transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
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
	select {
	case err = <-wrote:
	case <-req.Context().Done():
		err = context.Cause(req.Context())
	}
	if err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp, nil
}

// forwardQuery rebuilds a query (E12).
func forwardQuery(raw string) string {
	var names []string
	values := map[string][]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil || name == "" {
			continue
		}
		if values[name] == nil {
			names = append(names, name)
		}
		values[name] = append(values[name], value)
	}
	escape := func(s string) string {
		return strings.NewReplacer("+", "%20", "%2C", ",").Replace(url.QueryEscape(s))
	}
	for i, name := range names {
		names[i] = escape(name) + "=" + escape(strings.Join(values[name], ","))
	}
	return strings.Join(names, "&")
}

// forwardRequest builds the request anew, as hosts before 2025 do (E12).
func (h *Host) forwardRequest(w http.ResponseWriter, r *http.Request, path string) {
	media := r.Header.Get("Content-Type")
	if _, _, err := mime.ParseMediaType(media); r.ContentLength < 0 || media != "" &&
		(err != nil || !strings.Contains(media, "/")) {
		respondFailure(w, nil)
		return
	}
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		respondFailure(w, err)
		return
	}
	target := h.workerURL(encodePath(path))
	if query := forwardQuery(r.URL.RawQuery); query != "" {
		target += "?" + query
	}
	ctx, end := h.limitTime(context.WithoutCancel(r.Context()))
	defer end()
	worker, err := h.await(ctx)
	if err != nil {
		respondFailure(w, err)
		return
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(sent))
	if err != nil {
		respondFailure(w, err)
		return
	}
	id := h.newInvocation()
	in := r.Header.Clone()
	in.Add(headerHostVersion, hostVersion)
	in.Add(headerInvocationID, id)
	in.Add("User-Agent", "Azure-Functions-Host/"+hostVersion)
	req.Host, req.Header = r.Host, outgoingHeader(in, contentHeaders)
	resp, err := h.sendOnce(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errFunctionTimeout) {
			h.kill(worker)
		}
		respondFailure(w, err)
		return
	}
	if resp.ContentLength < 0 {
		resp.Header.Set("Content-Length", strconv.Itoa(len(text))) // the body is buffered
	}
	if allowed := resp.Header.Get("Allow"); allowed != "" {
		resp.Header["Allow"] = strings.Split(allowed, ", ")
	}
	_ = keepHeaders(resp)
	w.Header()["Content-Type"] = nil // as above
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(text)
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // closes the connection
	}
}

// byJSON passes a request on as an invocation (E13). The output must be an object with a status, headers and a body,
// all of them optional; anything else is a 500.
func (h *Host) byJSON(w http.ResponseWriter, r *http.Request, f *function, params map[string]string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		respondFailure(w, err)
		return
	}
	query := map[string]string{}
	for name, values := range r.URL.Query() {
		query[name] = strings.Join(values, ",")
	}
	request := map[string]any{
		"Url": "http://" + r.Host + r.URL.String(), "Method": r.Method, "Query": query, "Headers": r.Header,
		"Params": params, "Identities": []any{},
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
		respondFailure(w, err)
		return
	}
	var out map[string]any
	for _, b := range f.bindings {
		if strings.EqualFold(b.Type, "http") && strings.EqualFold(b.Direction, "out") {
			out, _ = result.Outputs[b.Name].(map[string]any)
		}
	}
	if out == nil {
		respondFailure(w, err)
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
		respondFailure(w, err)
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
			respondFailure(w, err)
			return
		}
		text = string(encoded)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}
