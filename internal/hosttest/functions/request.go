package functions

import (
	"bytes"
	"context"
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

// drainTimeout limits the reading of a body after the response.
const drainTimeout = 5 * time.Second

// serve handles a caller's request. As Kestrel does, it reads the rest of a body after the response instead of
// closing the connection on a caller that still sends.
func (h *Host) serve(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		h.admit(w, r)
		return
	}
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // or nothing could be read after the response
	body := &requestBody{from: r.Body, control: control, begun: time.Now()}
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
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
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
	size    int // read so far
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
	f := h.app.findFunction(r.Method, path)
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
	w.Header()["Content-Type"] = nil // or the server would guess one
	if h.options.Mode == Forwarding {
		h.forwardRequest(w, r, path)
		return
	}
	h.proxy.ServeHTTP(w, r)
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

// newProxy returns a proxy that passes a request on, and the response back, both as they came (E8 to E11).
func (h *Host) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			id := h.newInvocation()
			target, _ := url.Parse(h.workerURL(encodePath(normalPath(r.In.URL.EscapedPath())))) // it is valid
			target.RawQuery, target.ForceQuery = r.In.URL.RawQuery, r.In.URL.ForceQuery
			r.Out.URL, r.Out.Body = target, r.In.Body // which send looks at
			r.Out.Header = outgoingHeader(r.In.Header, hopByHop)
			r.Out.Header.Set(headerHostVersion, hostVersion)
			r.Out.Header.Set(headerInvocationID, id)
			r.Out.Header.Set("X-Ms-Invocation-Id", id)
			if h.options.Mode == Proxying {
				peer, _, _ := net.SplitHostPort(r.In.RemoteAddr)
				r.Out.Host = target.Host
				r.Out.Header.Set("X-Forwarded-For", peer)
				r.Out.Header.Set("X-Forwarded-Host", r.In.Host)
				r.Out.Header.Set("X-Forwarded-Proto", "http")
			}
		},
		Transport:      transportFunc(h.send),
		FlushInterval:  -1,
		ModifyResponse: keepHeaders,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			respondEmpty(w, http.StatusInternalServerError)
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// send sends a request to the worker, and again if the connection breaks before the body has been read (E10).
func (h *Host) send(req *http.Request) (*http.Response, error) {
	body, ok := req.Body.(*requestBody)
	if ok {
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(body) // or the first attempt would close it
	}
	delay := 50 * time.Millisecond
	for attempt := 1; ; attempt++ {
		resp, err := h.sendOnce(req)
		if err == nil || attempt == 10 || ok && body.read.Load() {
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
	resp, body, err := h.exchangeAnew(r, path) //nolint:bodyclose // it is closed
	if err != nil {
		respondEmpty(w, http.StatusInternalServerError)
		return
	}
	_ = keepHeaders(resp)
	header := w.Header()
	maps.Copy(header, resp.Header)
	if resp.ContentLength < 0 {
		header.Set("Content-Length", strconv.Itoa(len(body))) // the body is buffered
	}
	if allowed := header.Get("Allow"); allowed != "" {
		header["Allow"] = strings.Split(allowed, ", ")
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body) //nolint:gosec // the worker's, for a test
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // closes the connection
	}
}

// exchangeAnew sends the worker a request built from r, and returns the response and its whole body.
func (h *Host) exchangeAnew(r *http.Request, path string) (*http.Response, []byte, error) {
	media := r.Header.Get("Content-Type")
	if _, _, err := mime.ParseMediaType(media); r.ContentLength < 0 || media != "" &&
		(err != nil || !strings.Contains(media, "/")) {
		return nil, nil, errors.New("a chunked body or an invalid Content-Type")
	}
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, nil, err
	}
	target := h.workerURL(encodePath(path))
	if query := forwardQuery(r.URL.RawQuery); query != "" {
		target += "?" + query
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, target, bytes.NewReader(sent))
	if err != nil {
		return nil, nil, err
	}
	in := r.Header.Clone()
	in.Add(headerHostVersion, hostVersion)
	in.Add(headerInvocationID, h.newInvocation())
	in.Add("User-Agent", "Azure-Functions-Host/"+hostVersion)
	req.Host, req.Header = r.Host, outgoingHeader(in, contentHeaders)
	resp, err := h.sendOnce(req)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, body, errors.Join(err, resp.Body.Close())
}
