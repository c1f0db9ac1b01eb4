package functionshost

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The headers that the host adds (E8).
const (
	hostVersion        = "4.1052.200.0"
	headerHostVersion  = "X-Azure-Functions-Hostversion"
	headerInvocationID = "X-Azure-Functions-Invocationid"
	maxBody            = 104857600
)

// newID returns a GUID.
func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// frontDoor is what callers reach (E7): routes, keys and the size of a body are looked at before the worker sees a request.
func (h *Host) frontDoor(w http.ResponseWriter, r *http.Request) {
	if h.Err() != nil {
		http.Error(w, "Function host is not running.", http.StatusServiceUnavailable)
		return
	}
	f, trigger, ok := h.app.route(r.Method, r.URL.Path)
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		return
	case strings.EqualFold(trigger.AuthLevel, "function") && (h.options.Key == "" || (r.Header.Get("X-Functions-Key") != h.options.Key && r.URL.Query().Get("code") != h.options.Key)):
		w.WriteHeader(http.StatusUnauthorized)
		return
	case r.ContentLength > maxBody:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	id := newID()
	h.mu.Lock()
	h.last = id
	h.mu.Unlock()
	switch {
	case h.app.proxying && !h.options.Forwarding:
		h.proxy(w, r, id)
	case h.app.forwarding || h.options.Forwarding:
		h.forward(w, r, id)
	default:
		h.byJSON(w, r, f)
	}
}

// proxy hands a request on as it came, and the answer back as it came (E8, E9, E11).
func (h *Host) proxy(w http.ResponseWriter, r *http.Request, id string) {
	target, err := url.Parse(h.workerURL(""))
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = target.Scheme, target.Host
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			p.Out.Host = p.In.Host
			p.Out.Header.Set(headerHostVersion, hostVersion)
			p.Out.Header.Set(headerInvocationID, id)
			p.Out.Header.Set("X-Ms-Invocation-Id", id)
		},
		Transport: retrying{h},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode == http.StatusNoContent {
				resp.Header.Del("Content-Length")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusInternalServerError) },
	}
	proxy.ServeHTTP(w, r)
}

// retrying sends a request to the worker, and a request without a body again when the connection fails (E10).
type retrying struct{ host *Host }

func (t retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	delay := 50 * time.Millisecond
	for attempt := 1; ; attempt++ {
		resp, err := t.host.client.Transport.RoundTrip(req)
		if err == nil && t.host.dropped() {
			_ = resp.Body.Close()
			err = io.ErrUnexpectedEOF
		}
		bodyless := req.Body == nil || req.Body == http.NoBody
		if err == nil || !bodyless || attempt == 10 || req.Context().Err() != nil {
			return resp, err
		}
		time.Sleep(delay)
		delay = min(delay*2, 250*time.Millisecond)
	}
}

func (h *Host) dropped() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drops > 0 {
		h.drops--
		return true
	}
	return false
}

// forward builds the request anew, as hosts did before they could proxy (E12): the query from a dictionary, some headers of the
// content lost, a chunked body an error, the host's headers beside the caller's own, and no end when the caller goes away.
func (h *Host) forward(w http.ResponseWriter, r *http.Request, id string) {
	if r.ContentLength < 0 {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var body io.Reader
	if r.ContentLength > 0 {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		body = bytes.NewReader(sent)
	}
	query := url.Values{}
	for name, values := range r.URL.Query() {
		query.Set(name, strings.Join(values, ","))
	}
	target := h.workerURL(r.URL.EscapedPath())
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, target, body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	req.Host = r.Host
	for name, values := range r.Header {
		if strings.HasPrefix(name, "Content-") && name != "Content-Type" && name != "Content-Length" {
			continue
		}
		req.Header[name] = append([]string(nil), values...)
	}
	req.Header.Set("User-Agent", strings.TrimSpace(r.UserAgent()+" Azure-Functions-Host/"+hostVersion))
	req.Header.Add(headerHostVersion, hostVersion)
	req.Header.Add(headerInvocationID, id)
	resp, err := h.client.Do(req)
	if err == nil && h.dropped() {
		_ = resp.Body.Close()
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	if resp.StatusCode != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer)
}

// byJSON hands a request on as an invocation. The output must be an object of status and body; whatever else comes is a 500.
func (h *Host) byJSON(w http.ResponseWriter, r *http.Request, f *function) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	trigger, _ := f.http()
	result, err := h.Invoke(r.Context(), f.name, map[string]any{trigger.Name: map[string]any{
		"Url": "http://" + r.Host + r.URL.String(), "Method": r.Method, "Headers": r.Header, "Body": string(body),
	}})
	var out map[string]any
	for _, b := range f.bindings {
		if b.Direction == "out" {
			out, _ = result.Outputs[b.Name].(map[string]any)
		}
	}
	status, ok := out["statusCode"].(float64)
	if err != nil || !ok {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(int(status))
	text, _ := out["body"].(string)
	_, _ = io.WriteString(w, text)
}

// errHang is the end of an invocation that would never come.
var errHang = errors.New("functionshost: 2xx with no body or null: the invocation would hang until its time is up")
