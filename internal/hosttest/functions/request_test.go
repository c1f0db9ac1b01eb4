package functions

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// answered is what a caller gets.
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

// seen returns what the worker has answered about the request.
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

func TestFrontDoorAnswersWithoutTheWorker(t *testing.T) { // E7
	t.Parallel()
	const open = `{"bindings":[{"type":"httpTrigger","direction":"in","name":"req","authLevel":"anonymous","methods":["post"]},` + output + `]}`
	h := mustStart(t, "listens", Options{Key: "k", MaxBody: 100, AppDir: newApp(t, hostJSON(proxying), map[string]string{
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

func TestProxyHandsOnARequestAsItCame(t *testing.T) { // E8
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	a := call(t, h, http.MethodPut, "/API/Echo?b=2&a=1&a=%20&code=c", "body",
		"Host", "front.example", "X-Own", "1", "X-Own", "2", "X-Functions-Key", "key", "Content-Encoding", "gzip", "Content-Type", "text/plain",
		"User-Agent", "caller/1", "X-Forwarded-For", "192.0.2.1", "Cookie", "a=1", "Cookie", "b=2",
		headerInvocationID, "spoof", headerHostVersion, "spoof", "X-Ms-Invocation-Id", "spoof",
		"Connection", "X-Named", "X-Named", "kept", "Keep-Alive", "timeout=5", "Te", "trailers", "Upgrade-Insecure-Requests", "1", "Proxy-Authorization", "x",
		"Alt-Svc", "h2")
	s := a.seen(t)
	if s.Method != http.MethodPut || s.URI != "/API/Echo?b=2&a=1&a=%20&code=c" || s.Host != "front.example" || s.Body != "body" || s.Length != 4 {
		t.Errorf("the worker has seen %+v", s)
	}
	id := h.InvocationID()
	want := http.Header{
		"X-Own": {"1, 2"}, "X-Functions-Key": {"key"}, "Content-Encoding": {"gzip"}, "Content-Type": {"text/plain"}, "User-Agent": {"caller/1"},
		"X-Forwarded-For": {"192.0.2.1"}, "Cookie": {"a=1; b=2"}, "X-Named": {"kept"}, "Host": nil, "Content-Length": {"4"},
		headerInvocationID: {id}, headerHostVersion: {hostVersion}, "X-Ms-Invocation-Id": {id},
	}
	delete(want, "Host")
	if !reflect.DeepEqual(s.Header, want) || !isGUID(id) {
		t.Errorf("the worker has seen the headers\n%v, want\n%v", s.Header, want)
	}
}

func TestProxyAddsNoHeaders(t *testing.T) { // E8: neither a User-Agent nor an Accept-Encoding, and an escaped path stays so
	t.Parallel()
	h := mustStart(t, "listens", Options{AppDir: newApp(t, hostJSON(proxying), map[string]string{"any": strings.Replace(echoes, `"echo"`, `"{*rest}"`, 1)})})
	s := call(t, h, http.MethodGet, "/api/a%2Fb%20c?", "", "User-Agent", "").seen(t)
	if s.URI != "/api/a%2Fb%20c?" || len(s.Header) != 3 || s.Length != 0 {
		t.Errorf("the worker has seen %+v; want three headers, all of the host's", s)
	}
}

func TestProxyStreamsAChunkedBodyAndTheAnswer(t *testing.T) { // E8, E9
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	a, err := send(t, h, http.MethodPost, "/api/echo", unsized{strings.NewReader("chunked")})
	if err != nil {
		t.Fatal(err)
	}
	if s := a.seen(t); s.Body != "chunked" || s.Length != -1 {
		t.Errorf("the worker has seen %+v; want a body without a length", s)
	}
	// Each byte is sent when the one before has been answered, so neither direction can wait for the end.
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+"/api/echo", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Do", "stream")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []byte("abc") {
		_, _ = w.Write([]byte{b})
		one := make([]byte, 1)
		if _, err := io.ReadFull(resp.Body, one); err != nil || one[0] != b {
			t.Fatalf("%q, %v; want %q", one, err, b)
		}
	}
	_ = w.Close()
	_ = resp.Body.Close()
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
		"a body, one connection lost":         {"x", "slowly", 1, 500, 1, 0},
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

func TestProxyCancelsWhenTheCallerGoesAway(t *testing.T) { // E11, and E12 does not
	t.Parallel()
	for _, forwarding := range []bool{false, true} {
		t.Run(fmt.Sprintf("forwarding %v", forwarding), func(t *testing.T) {
			t.Parallel()
			h := mustStart(t, "listens", Options{Forwarding: forwarding})
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
			if !forwarding {
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
	h := mustStart(t, "listens", Options{Forwarding: true})
	s := call(t, h, http.MethodPost, "/api/Echo?b=2&a=1&a=2", "body",
		"Host", "front.example", "X-Own", "1", "Content-Type", "text/plain", "Content-Encoding", "gzip", "Content-Language", "no", "Last-Modified", "x",
		"Content-Own", "kept", "User-Agent", "caller/1", headerInvocationID, "spoof", headerHostVersion, "spoof").seen(t)
	query, err := url.ParseQuery(strings.TrimPrefix(s.URI, "/api/Echo?"))
	if want := (url.Values{"a": {"1,2"}, "b": {"2"}}); err != nil || !reflect.DeepEqual(query, want) {
		t.Errorf("the worker has seen %s; want the query %v", s.URI, want)
	}
	delete(s.Header, "Connection") // of the caller, who closes
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
	if s := call(t, h, http.MethodGet, "/api/echo?a=1&a=2", "").seen(t); s.URI != "/api/echo?a=1%2C2" {
		t.Errorf("the worker has seen %s", s.URI)
	}
}

func TestFunctionTimeoutOfARequestEndsTheWorker(t *testing.T) { // E20
	t.Parallel()
	for _, forwarding := range []bool{false, true} {
		h := mustStart(t, "listens", Options{Forwarding: forwarding, FunctionTimeout: 300 * time.Millisecond})
		before := h.worker
		if a := call(t, h, http.MethodPost, "/api/echo", "x", "X-Do", "hang"); a.status != 500 || h.Restarts() != 1 {
			t.Errorf("forwarding %v: %d, %d restarts; want 500 and one", forwarding, a.status, h.Restarts())
		}
		<-before.ended
		if a := call(t, h, http.MethodPost, "/api/echo", "x"); a.status != 200 {
			t.Errorf("forwarding %v: the next request has %d", forwarding, a.status)
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

// An answer that comes before the body has been read reaches the caller, although the worker closes the connection to the
// host, which may fail a write before the answer is read; and although the caller writes to the end before it reads.
func TestEarlyAnswerAlwaysArrives(t *testing.T) { // E9
	const size = 1 << 20
	body := strings.Repeat("x", size)
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	h := mustStart(t, "listens", Options{})
	for _, procs := range []int{1, 2} {
		for what, rounds := range map[string]int{"413": 20, "413 and gone": 230} {
			runtime.GOMAXPROCS(procs)
			for i := range rounds {
				conn, err := net.Dial("tcp", strings.TrimPrefix(h.URL, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				_, err = fmt.Fprintf(conn, "POST /api/echo HTTP/1.1\r\nHost: h\r\nX-Do: %s\r\nContent-Length: %d\r\n\r\n%s", what, size, body)
				if err != nil {
					t.Fatalf("%s on %d, request %d: %v", what, procs, i, err)
				}
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatalf("%s on %d, request %d: %v", what, procs, i, err)
				}
				text, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || string(text) != "too large" {
					t.Fatalf("%s on %d, request %d: %d %q, %v", what, procs, i, resp.StatusCode, text, err)
				}
				_ = conn.Close()
			}
		}
	}
}

func TestFrontDoorReadsTheBodyAfterItsOwnAnswer(t *testing.T) { // E7: callers who write to the end before they read see it too
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
