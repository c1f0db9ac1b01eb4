package functions

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// answered is the response that a caller gets.
type answered struct {
	status int
	header http.Header
	body   string
}

// send sends a request to the front door, with headers by name and value, on a connection of its own.
func send(t *testing.T, h *Host, method, target string, body io.Reader, headers ...string) (answered, error) {
	t.Helper()
	return sendWithin(t.Context(), h, method, target, body, headers...)
}

func sendWithin(ctx context.Context, h *Host, method, target string, body io.Reader, headers ...string) (answered, error) {
	req, err := http.NewRequestWithContext(ctx, method, h.URL+target, body)
	if err != nil {
		return answered{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answered{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answered{resp.StatusCode, resp.Header, string(text)}, err
}

// call sends a request that is answered.
func call(t *testing.T, h *Host, method, target, body string, headers ...string) answered {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	a, err := send(t, h, method, target, reader, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// seen returns the request as the worker reported it.
func (a answered) seen(t *testing.T) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return s
}

// unsized hides the length of a body, which is sent in chunks then.
type unsized struct{ io.Reader }

func TestResponsesWithoutTheWorker(t *testing.T) { // E7
	t.Parallel()
	const open = `{"bindings":[{"type":"httpTrigger","direction":"in","name":"req","authLevel":"anonymous","methods":["post"]},` + output + `]}`
	h := mustStart(t, "listens", Options{Keys: []string{"k", "host", "master"}, MaxBody: 100, AppDir: newApp(t, hostJSON(proxying), map[string]string{
		"open": open, "closed": strings.Replace(open, "anonymous", "function", 1), "unsaid": strings.Replace(open, `"authLevel":"anonymous",`, "", 1),
		"sweep": timerAlone,
	})})
	tooLong := strings.Repeat("x", 101)
	for name, test := range map[string]struct {
		method, target, body, header string
		want                         int
	}{
		"no such route":                 {"POST", "/api/other", "", "", 404},
		"a timer":                       {"POST", "/api/sweep", "", "", 404},
		"no prefix":                     {"POST", "/open", "", "", 404},
		"a method that is not listed":   {"GET", "/api/open", "", "", 404},
		"no key":                        {"POST", "/api/closed", "", "", 401},
		"no key, and no level is said":  {"POST", "/api/unsaid", "", "", 401},
		"a wrong key":                   {"POST", "/api/closed", "", "wrong", 401},
		"a wrong key in the query":      {"POST", "/api/closed?code=wrong", "", "", 401},
		"a body that is too long":       {"POST", "/api/open", tooLong, "", 413},
		"the key in a header":           {"POST", "/api/closed", "", "k", 200},
		"the key in the query":          {"POST", "/api/closed?code=k", "", "", 200},
		"the host's key":                {"POST", "/api/closed", "", "host", 200},
		"the master key":                {"POST", "/api/closed?code=master", "", "", 200},
		"an unknown method":             {"BREW", "/api/open", "", "", 404},
		"an admin's path":               {"POST", "/admin/functions/sweep", "", "", 401},
		"two slashes":                   {"POST", "//api/open", "", "", 404},
		"a long request line":           {"POST", "/api/open?" + strings.Repeat("x", 8<<10), "", "", 414},
		"a header that is not ASCII":    {"POST", "/api/open", "", "é", 400},
		"a path with dots":              {"POST", "/api/../api/open", "", "", 200},
		"the longest body":              {"POST", "/api/open", tooLong[1:], "", 200},
		"a wrong key where none is due": {"POST", "/api/open", "", "wrong", 200},
	} {
		asked := h.InvocationID()
		a := call(t, h, test.method, test.target, test.body, "X-Functions-Key", test.header)
		if a.status != test.want || (test.want != 200) != (a.body == "") || (test.want != 200) != (asked == h.InvocationID()) {
			t.Errorf("%s: %d %q; want %d, and the worker asked only for 200", name, a.status, a.body, test.want)
		}
	}
	if a, err := send(t, h, http.MethodPost, "/api/open", unsized{strings.NewReader(tooLong)}); err != nil || a.status != 413 {
		t.Errorf("a chunked body that is too long: %d, %v; want 413", a.status, err)
	}
	keyless := mustStart(t, "listens", Options{AppDir: newApp(t, hostJSON(proxying), map[string]string{"closed": strings.Replace(open, "anonymous", "function", 1)})})
	if a := call(t, keyless, http.MethodPost, "/api/closed", ""); a.status != 401 {
		t.Errorf("no key, and none is set: %d; want 401", a.status)
	}
}

func TestManyHeadersAreRefused(t *testing.T) { // E7
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	var headers []string
	for i := range 101 {
		headers = append(headers, fmt.Sprint("X-", i), "x")
	}
	if a := call(t, h, http.MethodPost, "/api/echo", "x", headers...); a.status != http.StatusRequestHeaderFieldsTooLarge || a.body != "" {
		t.Errorf("%d %q, want 431", a.status, a.body)
	}
	if a := call(t, h, http.MethodPost, "/api/echo", "x", headers[:180]...); a.status != http.StatusOK {
		t.Errorf("90 headers: %d", a.status)
	}
}

// B5: the host has a 429 of its own, which the double of before did not have.
func TestTooManyRequests(t *testing.T) { // E7
	t.Parallel()
	host := `{"version":"2.0","extensions":{"http":{"maxOutstandingRequests":4,"maxConcurrentRequests":2}},` + hostJSON(proxying)[1:]
	h := mustStart(t, "listens", Options{AppDir: newApp(t, host, map[string]string{"unassign": echoes})})
	statuses := make(chan answered, 6)
	var sent sync.WaitGroup
	for range 6 {
		sent.Go(func() {
			a, _ := send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"), "X-Do", "slowly")
			statuses <- a
		})
	}
	sent.Wait()
	close(statuses)
	count := map[int]int{}
	for a := range statuses {
		count[a.status]++
		if a.status == http.StatusTooManyRequests && (a.header.Get("X-Function-Scaleout") != "1" || a.header.Get("Retry-After") != "" || a.body != "") {
			t.Errorf("%+v", a)
		}
	}
	if count[http.StatusOK] != 4 || count[http.StatusTooManyRequests] != 2 {
		t.Errorf("statuses %v, want 4 of 200 and 2 of 429", count)
	}
}

// B10: the host itself responds to / with a success.
func TestHomepage(t *testing.T) { // E7
	t.Parallel()
	root := strings.Replace(echoes, `"echo"`, `"/"`, 1)
	host := `{"version":"2.0","extensions":{"http":{"routePrefix":""}},` + hostJSON(proxying)[1:]
	for name, test := range map[string]struct {
		dir    string
		env    []string
		status int
		media  string
	}{
		"the homepage":          {newApp(t, hostJSON(proxying), map[string]string{"unassign": echoes}), nil, 200, "text/html"},
		"a disabled homepage":   {newApp(t, hostJSON(proxying), map[string]string{"unassign": echoes}), []string{"AzureWebJobsDisableHomepage=true"}, 204, ""},
		"a function of its own": {newApp(t, host, map[string]string{"root": root}), []string{"AzureWebJobsDisableHomepage=true"}, 405, "text/plain; charset=utf-8"},
	} {
		h := mustStart(t, "listens", Options{AppDir: test.dir, Env: test.env})
		if a := call(t, h, http.MethodPost, "/", "x"); a.status != test.status || a.header.Get("Content-Type") != test.media {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
		if a := call(t, h, http.MethodPost, "/api", "x"); a.status != 404 || a.body != "" {
			t.Errorf("%s: /api: %d %q", name, a.status, a.body)
		}
	}
}

// B1, B2: hosts of today replace Host and X-Forwarded-*; earlier ones pass on the caller's.
func TestProxyPassesOnARequestAsItCame(t *testing.T) { // E8
	t.Parallel()
	for name, mode := range Modes() {
		if mode != Forwarding {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				proxiesAsItCame(t, mode)
			})
		}
	}
}

func proxiesAsItCame(t *testing.T, mode Mode) {
	t.Helper()
	h := mustStart(t, "listens", Options{Mode: mode})
	a := call(t, h, http.MethodPut, "/API/Echo?b=2&a=1&a=%20&code=c", "body",
		"Host", "front.example", "X-Own", "1", "X-Own", "2", "X-Functions-Key", "key", "Content-Encoding", "gzip", "Content-Type", "text/plain",
		"User-Agent", "caller/1", "X-Forwarded-For", "192.0.2.1", "Cookie", "a=1", "Cookie", "b=2",
		headerInvocationID, "spoof", headerHostVersion, "spoof", "X-Ms-Invocation-Id", "spoof",
		"Connection", "X-Named", "X-Named", "kept", "Keep-Alive", "timeout=5", "Te", "trailers", "Upgrade-Insecure-Requests", "1", "Proxy-Authorization", "x",
		"Alt-Svc", "h2")
	s := a.seen(t)
	host := "front.example"
	if mode == Proxying {
		host = fmt.Sprintf("127.0.0.1:%d", h.port)
	}
	if s.Method != http.MethodPut || s.URI != "/API/Echo?b=2&a=1&a=%20&code=c" || s.Host != host || s.Body != "body" || s.Length != 4 {
		t.Errorf("the worker has seen %+v", s)
	}
	id := h.InvocationID()
	want := http.Header{
		"X-Own": {"1, 2"}, "X-Functions-Key": {"key"}, "Content-Encoding": {"gzip"}, "Content-Type": {"text/plain"}, "User-Agent": {"caller/1"},
		"X-Forwarded-For": {"192.0.2.1"}, "Cookie": {"a=1; b=2"}, "X-Named": {"kept"}, "Content-Length": {"4"},
		headerInvocationID: {id}, headerHostVersion: {hostVersion}, "X-Ms-Invocation-Id": {id},
	}
	if mode == Proxying {
		want["X-Forwarded-For"], want["X-Forwarded-Host"], want["X-Forwarded-Proto"] = []string{"127.0.0.1"}, []string{"front.example"}, []string{"http"}
	}
	if !reflect.DeepEqual(s.Header, want) || !isGUID(id) {
		t.Errorf("the worker has seen the headers\n%v, want\n%v", s.Header, want)
	}
}

func TestProxyAddsNoHeaders(t *testing.T) { // E8: neither a User-Agent nor an Accept-Encoding, and an escaped path stays so
	t.Parallel()
	h := mustStart(t, "listens", Options{AppDir: newApp(t, hostJSON(proxying), map[string]string{"any": strings.Replace(echoes, `"echo"`, `"{*rest}"`, 1)})})
	s := call(t, h, http.MethodGet, "/api/a%2Fb%20c?", "", "User-Agent", "").seen(t)
	if s.URI != "/api/a%2Fb%20c?" || len(s.Header) != 6 || s.Length != 0 {
		t.Errorf("the worker has seen %+v; want six headers, all of the host's", s)
	}
}

func TestProxyStreamsAChunkedBody(t *testing.T) { // E8, E9
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	a, err := send(t, h, http.MethodPost, "/api/echo", unsized{strings.NewReader("chunked")})
	if err != nil {
		t.Fatal(err)
	}
	if s := a.seen(t); s.Body != "chunked" || s.Length != -1 {
		t.Errorf("the worker has seen %+v; want a body without a length", s)
	}
	// The worker responds to the first byte, and its response is read after the last one.
	r, w := io.Pipe()
	ended := make(chan time.Time, 1)
	go func() {
		_, _ = io.WriteString(w, "a")
		time.Sleep(200 * time.Millisecond)
		_, _ = io.WriteString(w, "bc")
		ended <- time.Now()
		_ = w.Close()
	}()
	a, err = send(t, h, http.MethodPost, "/api/echo", r, "X-Do", "stream")
	if at := time.Now(); err != nil || a.body != "abc" || at.Before(<-ended) {
		t.Errorf("%v, %v", a, err)
	}
}

func TestProxyHandsBackTheAnswerAsItCame(t *testing.T) { // E9
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "headers")
	a.header.Del("Date")
	if want := (http.Header{"X-Own": {"1", "2"}, "Content-Length": {"6"}}); a.status != http.StatusTeapot || !reflect.DeepEqual(a.header, want) || a.body != "<html>" {
		t.Errorf("%d %v %q; want 418 %v and no guess at a Content-Type", a.status, a.header, a.body, want)
	}
	a = call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "204")
	a.header.Del("Date")
	if want := (http.Header{"X-Own": {"1"}}); a.status != http.StatusNoContent || !reflect.DeepEqual(a.header, want) {
		t.Errorf("%d %v; want 204 %v without Content-Length", a.status, a.header, want)
	}
	if a = call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "redirect"); a.status != http.StatusFound || a.header.Get("Location") != "/api/elsewhere" {
		t.Errorf("%d %v; want the redirect itself", a.status, a.header)
	}
	if _, err := send(t, h, http.MethodPost, "/api/echo", strings.NewReader("x"), "X-Do", "break in the middle"); err == nil {
		t.Error("an answer that breaks off is whole for the caller")
	}
}

func TestProxySendsARequestAgainOnlyWithoutABody(t *testing.T) { // E10
	t.Parallel()
	for name, test := range map[string]struct {
		body, do         string
		drops            int
		status, arrivals int
		least            time.Duration
	}{
		"no body, two connections lost":       {"", "slowly", 2, 200, 3, 150 * time.Millisecond},
		"no body, every connection lost":      {"", "break", 0, 500, 10, 1800 * time.Millisecond}, // 50, 100, 200 and six times 250 ms
		"a body, one connection lost":         {"x", "slowly", 1, 500, 1, 0},                      // it had been read
		"a body, the worker closes":           {"x", "break", 0, 500, 1, 0},
		"a body, and DropNext has used it up": {"x", "slowly", 0, 200, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := mustStart(t, "listens", Options{})
			h.DropNext(test.drops)
			begin := time.Now()
			a := call(t, h, http.MethodPost, "/api/echo", test.body, "X-Do", test.do)
			took := time.Since(begin)
			arrivals := func() int { return h.printed("asked") + h.printed("answered") }
			eventually(t, "the worker has printed it", func() bool { return arrivals() >= test.arrivals })
			if a.status != test.status || a.body != "" || arrivals() != test.arrivals || took < test.least {
				t.Errorf("%d %q after %d requests and %v; want %d after %d", a.status, a.body, arrivals(), took, test.status, test.arrivals)
			}
		})
	}
}

func TestProxyGivesUpWithoutAByte(t *testing.T) { // E10
	t.Parallel()
	h := mustStart(t, "listens", Options{ActivityTimeout: time.Second})
	if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "hang"); a.status != 500 || a.body != "" || h.Restarts() != 0 {
		t.Errorf("%d %q, %d restarts; want 500 and the worker as it was", a.status, a.body, h.Restarts())
	}
	r, w := io.Pipe() // bytes now and then are enough
	go func() {
		for range 6 {
			time.Sleep(250 * time.Millisecond)
			_, _ = io.WriteString(w, "x")
		}
		_ = w.Close()
	}()
	if a, err := send(t, h, http.MethodPost, "/api/echo", r, "X-Do", "stream"); err != nil || a.body != "xxxxxx" {
		t.Errorf("%v, %v", a, err)
	}
}

func TestSlowBodyBreaksOff(t *testing.T) { // E7
	t.Parallel()
	for name, mode := range Modes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := mustStart(t, "listens", Options{Mode: mode})
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(h.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			begin := time.Now()
			_ = conn.SetDeadline(begin.Add(20 * time.Second))
			_, _ = io.WriteString(conn, "POST /api/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if took := time.Since(begin); err != nil || resp.StatusCode != http.StatusInternalServerError || took < bodyGrace {
				t.Errorf("%v, %v after %v", resp, err, took)
			}
		})
	}
}

func TestProxyCancelsWhenTheCallerGoesAway(t *testing.T) { // E11, and E12 does not
	t.Parallel()
	for name, mode := range Modes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := mustStart(t, "listens", Options{Mode: mode})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for h.printed("asked") == 0 {
					time.Sleep(time.Millisecond)
				}
				cancel()
			}()
			if _, err := sendWithin(ctx, h, http.MethodPost, "/api/echo", strings.NewReader("x"), "X-Do", "hang"); err == nil {
				t.Fatal("it was answered")
			}
			if mode != Forwarding {
				eventually(t, "the worker's request is canceled", func() bool { return h.printed("canceled") == 1 })
				return
			}
			time.Sleep(200 * time.Millisecond)
			if h.printed("canceled") != 0 {
				t.Error("the worker was told")
			}
		})
	}
}

func TestForwardingBuildsTheRequestAnew(t *testing.T) { // E12
	t.Parallel()
	h := mustStart(t, "listens", Options{Mode: Forwarding})
	s := call(t, h, http.MethodPost, "/api/Echo?b=2&a=1&a=2&c=%20+", "body",
		"Host", "front.example", "X-Own", "1", "Content-Type", "text/plain", "Content-Encoding", "gzip", "Content-Language", "no", "Last-Modified", "x",
		"Content-Own", "kept", "User-Agent", "caller/1", headerInvocationID, "spoof", headerHostVersion, "spoof").seen(t)
	if want := "/api/Echo?b=2&a=1,2&c=%20%20"; s.URI != want {
		t.Errorf("the worker has seen %s, want %s", s.URI, want)
	}
	delete(s.Header, "Connection") // the caller's; it closes
	want := http.Header{
		"X-Own": {"1"}, "Content-Type": {"text/plain"}, "Content-Own": {"kept"}, "Content-Length": {"4"}, "User-Agent": {"caller/1 Azure-Functions-Host/" + hostVersion},
		headerInvocationID: {"spoof, " + h.InvocationID()}, headerHostVersion: {"spoof, " + hostVersion},
	}
	if !reflect.DeepEqual(s.Header, want) || s.Host != "front.example" || s.Body != "body" {
		t.Errorf("the worker has seen %+v, want\n%v", s, want)
	}
	if s := call(t, h, http.MethodGet, "/api/echo", "", "User-Agent", "").seen(t); s.Header.Get("User-Agent") != "Azure-Functions-Host/"+hostVersion || s.URI != "/api/echo" {
		t.Errorf("the worker has seen %+v", s)
	}
	asked := h.InvocationID()
	if a, err := send(t, h, http.MethodPost, "/api/echo", unsized{strings.NewReader("x")}); err != nil || a.status != 500 || a.body != "" || h.InvocationID() != asked {
		t.Errorf("a chunked body: %v, %v; want 500, and the worker not asked", a, err)
	}
	if a := call(t, h, http.MethodPost, "/api/echo", "x", "Content-Type", "json"); a.status != 500 || h.InvocationID() != asked {
		t.Errorf("an invalid Content-Type: %d", a.status)
	}
	if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "405"); !reflect.DeepEqual(a.header["Allow"], []string{"GET", "HEAD"}) {
		t.Errorf("Allow comes back as %q", a.header["Allow"])
	}
	if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "redirect"); a.status != http.StatusFound {
		t.Errorf("%d; want the redirect itself", a.status)
	}
	if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "204"); a.status != 204 || a.header.Get("Content-Length") != "" || a.header.Get("X-Own") != "1" {
		t.Errorf("%v; want 204 without Content-Length", a)
	}
	if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "headers"); a.status != http.StatusTeapot || a.header.Get("Keep-Alive") != "" || a.body != "<html>" {
		t.Errorf("%v; want 418", a)
	}
	if a, err := send(t, h, http.MethodGet, "/api/echo", nil, "X-Do", "break"); err != nil || a.status != 500 || h.printed("asked") != 1 {
		t.Errorf("a connection lost: %v, %v, %d requests; want 500 after one", a, err, h.printed("asked"))
	}
	h.DropNext(1)
	if a := call(t, h, http.MethodGet, "/api/echo", ""); a.status != 500 {
		t.Errorf("an answer lost: %d, want 500", a.status)
	}
}

func TestOldHostForwardsWhereProxyingIsNotAskedFor(t *testing.T) { // E12
	t.Parallel()
	h := mustStart(t, "listens", Options{AppDir: newApp(t, hostJSON(`,"enableForwardingHttpRequest":true`), map[string]string{"a": echoes})})
	if s := call(t, h, http.MethodGet, "/api/echo?a=1&a=2", "").seen(t); s.URI != "/api/echo?a=1,2" {
		t.Errorf("the worker has seen %s", s.URI)
	}
}

func TestFunctionTimeoutOfARequestEndsTheWorker(t *testing.T) { // E20
	t.Parallel()
	for name, mode := range Modes() {
		h := mustStart(t, "listens", Options{Mode: mode, FunctionTimeout: 200 * time.Millisecond, Grace: 300 * time.Millisecond})
		begin := time.Now()
		before := h.worker
		if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "hang"); a.status != 500 || h.Restarts() != 1 || time.Since(begin) < 500*time.Millisecond {
			t.Errorf("%s: %d, %d restarts, after %v; want 500 and one", name, a.status, h.Restarts(), time.Since(begin))
		}
		<-before.ended
		if a := call(t, h, http.MethodPost, "/api/echo", "x"); a.status != 200 {
			t.Errorf("%s: the next request has %d", name, a.status)
		}
	}
}

func TestConnectionsToTheWorkerAreKept(t *testing.T) { // E23
	t.Parallel()
	h := mustStart(t, "listens", Options{IdleTimeout: 200 * time.Millisecond})
	first := call(t, h, http.MethodPost, "/api/echo", "x").seen(t).Remote
	if second := call(t, h, http.MethodPost, "/api/echo", "x").seen(t).Remote; second != first {
		t.Errorf("a connection from %s, then from %s; want one", first, second)
	}
	time.Sleep(400 * time.Millisecond)
	if third := call(t, h, http.MethodPost, "/api/echo", "x").seen(t).Remote; third == first {
		t.Error("a connection that was idle for too long was used again")
	}
}

// B3: a worker that responds and closes the connection before it has read a large body breaks the host's write. One that reads
// the body first, or in part and keeps reading after, does not.
func TestEarlyResponseToALargeBody(t *testing.T) { // E9
	t.Parallel()
	body := strings.Repeat("x", 10<<20)
	for name, mode := range Modes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := mustStart(t, "listens", Options{Mode: mode})
			for do, want := range map[string]int{"413": 500, "413 and gone": 500, "413 in the end": 413} {
				begin := time.Now()
				a := call(t, h, http.MethodPost, "/api/echo", body, "X-Do", do)
				if a.status != want || (want == 500) != (a.body == "") || time.Since(begin) > 2*time.Second {
					t.Errorf("%s: %d %q after %v, want %d", do, a.status, a.body, time.Since(begin), want)
				}
			}
			if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "413"); a.status != 413 || a.body != "too large" {
				t.Errorf("a short body: %d %q", a.status, a.body)
			}
		})
	}
}

// B4: a forwarding host closes the caller's connection after a 204, and its headers do not say so.
func TestForwardingClosesAfter204(t *testing.T) { // E12
	t.Parallel()
	for name, mode := range Modes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := mustStart(t, "listens", Options{Mode: mode})
			conn, err := net.Dial("tcp", strings.TrimPrefix(h.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			in := bufio.NewReader(conn)
			ask := func(do string) (*http.Response, error) {
				_, _ = fmt.Fprintf(conn, "POST /api/echo HTTP/1.1\r\nHost: h\r\nX-Do: %s\r\nContent-Length: 1\r\n\r\nx", do)
				return http.ReadResponse(in, nil)
			}
			resp, err := ask("204")
			if err != nil || resp.StatusCode != http.StatusNoContent || resp.Close {
				t.Fatalf("%v, %v", resp, err)
			}
			if _, err = ask("redirect"); (err != nil) != (mode == Forwarding) {
				t.Errorf("the next request on the connection: %v", err)
			}
		})
	}
}

func TestHostReadsTheBodyAfterItsOwnResponse(t *testing.T) { // E7: callers who write to the end before they read see it too
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	const size = 8 << 20
	for i := range 2 { // and the connection can be used again
		if _, err := fmt.Fprintf(conn, "POST /api/nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusNotFound {
			t.Fatalf("request %d: %v, %v", i, resp, err)
		}
		_ = resp.Body.Close()
	}
	// A caller who waits to be asked for the body is not asked after the answer.
	if _, err := fmt.Fprintf(conn, "POST /api/nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%v, %v; want 404 at once", resp, err)
	}
	_ = resp.Body.Close()
}

func TestRequestByJSON(t *testing.T) { // E13: a function with more than the two bindings, and any one without proxying and forwarding
	t.Parallel()
	more := strings.Replace(echoes, "]}", `,{"type":"queue","direction":"out","name":"out"}]}`, 1)
	for name, test := range map[string]struct {
		host, function string
	}{
		"a mixed function":                    {hostJSON(proxying), more},
		"neither proxying nor forwarding":     {hostJSON(""), echoes},
		"an HTTP function that has no output": {hostJSON(proxying), strings.Replace(echoes, ","+output, "", 1)},
	} {
		h := mustStart(t, "listens", Options{AppDir: newApp(t, test.host, map[string]string{"byJSON": test.function})})
		a := call(t, h, http.MethodPut, "/api/echo?a=1&a=2&do=echo%20request", "body", "Content-Type", "text/plain", "X-Own", "1")
		if strings.Contains(name, "no output") {
			if a.status != 500 || h.InvocationID() == "" {
				t.Errorf("%s: %v; want 500, as nothing can be answered", name, a)
			}
			continue
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 201 || a.header.Get("X-Answer") != "1" {
			t.Fatalf("%s: %v, %v", name, a, err)
		}
		headers, _ := got["Headers"].(map[string]any)
		if got["Method"] != "PUT" || got["Body"] != "body" || !strings.HasSuffix(fmt.Sprint(got["Url"]), "/api/echo?a=1&a=2&do=echo%20request") ||
			!reflect.DeepEqual(got["Query"], map[string]any{"a": "1,2", "do": "echo request"}) || !reflect.DeepEqual(headers["X-Own"], []any{"1"}) {
			t.Errorf("%s: the worker has seen %v", name, got)
		}
		if a := call(t, h, http.MethodPost, "/api/echo?do=500", "x"); a.status != 500 || a.body != "" {
			t.Errorf("%s: the worker refuses: %v; want 500 without its body", name, a)
		}
	}
}
