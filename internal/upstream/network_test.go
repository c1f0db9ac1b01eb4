package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// listen accepts connections on loopback until the test ends, and handles each with serve.
func listen(t *testing.T, serve func(*net.TCPConn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			if serve != nil {
				go serve(conn.(*net.TCPConn))
			}
		}
	}()
	return l.Addr().String()
}

// closedPort returns an address on loopback that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// reset reads the beginning of a message and resets the connection.
func reset(conn *net.TCPConn) {
	_, _ = conn.Read(make([]byte, 16))
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// tunnel accepts a CONNECT request, and then resets the connection.
func tunnel(conn *net.TCPConn) {
	_, _ = conn.Read(make([]byte, 4096))
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	reset(conn)
}

// nameServer is a resolver whose server, on loopback, knows no name. With silent it never responds.
func nameServer(t *testing.T, silent bool) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		message := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(message)
			if err != nil {
				return
			}
			if !silent {
				message[2], message[3] = message[2]|0x80, 0x83 // a response: NXDOMAIN
				_, _ = server.WriteTo(message[:n], from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	silent := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	abrupt := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(abrupt.Close)
	refusing := func(status int) string {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(proxy.Close)
		return proxy.URL
	}
	plain := func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") }
	const graph = "https://graph.invalid/" // a proxy would resolve it
	for name, test := range map[string]struct {
		address, proxy string
		resolver       *net.Resolver
		trust          *httptest.Server
		want           Fault
	}{
		"connection refused":      {"https://" + closedPort(t), "", nil, nil, Fault{Unreachable, Connection, "connection refused", false}},
		"unknown name":            {graph, "", nameServer(t, false), nil, Fault{Unreachable, DNS, "no such host", false}},
		"name server is silent":   {graph, "", nameServer(t, true), nil, Fault{Unreachable, DNS, "name not resolved", false}},
		"proxy refuses":           {graph, "http://" + closedPort(t), nil, nil, Fault{Unreachable, Proxy, "proxy: connection refused", false}},
		"proxy has no name":       {graph, "http://proxy.invalid:3128", nameServer(t, false), nil, Fault{Unreachable, Proxy, "proxy: no such host", false}},
		"proxy wants credentials": {graph, refusing(407), nil, nil, Fault{Unreachable, Proxy, "proxy: answered CONNECT with 407", false}},
		"proxy forbids the host":  {graph, refusing(403), nil, nil, Fault{Unreachable, Proxy, "proxy: answered CONNECT with 403", false}},
		"proxy is silent":         {graph, "http://" + listen(t, nil), nil, nil, Fault{Unreachable, Proxy, "proxy: no connection in time", false}},
		"proxy resets":            {graph, "http://" + listen(t, reset), nil, nil, Fault{Unreachable, Proxy, "proxy: connection lost before the request was sent", false}},
		"handshake through proxy": {graph, "http://" + listen(t, tunnel), nil, nil, Fault{Unreachable, TLS, "proxy: TLS handshake: connection reset", false}},
		"handshake reset":         {"https://" + listen(t, reset), "", nil, nil, Fault{Unreachable, TLS, "TLS handshake: connection reset", false}},
		"handshake unanswered":    {"https://" + listen(t, nil), "", nil, nil, Fault{Unreachable, TLS, "TLS handshake: no answer in time", false}},
		"no TLS there":            {"https://" + listen(t, plain), "", nil, nil, Fault{Unreachable, TLS, "TLS handshake: the other side does not speak TLS", false}},
		"untrusted certificate":   {abrupt.URL, "", nil, nil, Fault{Untrusted, TLS, "certificate not trusted", false}},
		"never answers":           {silent.URL, "", nil, silent, Fault{Timeout, "", "no answer in time", true}},
		"closed after request":    {abrupt.URL, "", nil, abrupt, Fault{BadAnswer, "", "connection lost before the end of the response", true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var proxy *url.URL
			if test.proxy != "" {
				proxy, _ = url.Parse(test.proxy)
			}
			client := newClient(&net.Dialer{Resolver: test.resolver}, http.ProxyURL(proxy))
			if test.trust != nil {
				client.TLSClientConfig = test.trust.Client().Transport.(*http.Transport).TLSClientConfig
			}
			limit := time.Minute
			if strings.Contains(name, "silent") || strings.Contains(name, "unanswered") {
				limit = time.Second
			} else if test.trust == silent {
				limit = 5 * time.Second // the handshake needs some of it
			}
			err := post(t, client, limit, test.address)
			if got := Classify(err); got != test.want {
				t.Errorf("%v: %+v\nwant %+v", err, got, test.want)
			}
			if e := Transport(Graph, err); e.Reason != test.want.Reason || e.Barrier != test.want.Barrier || e.Cause != test.want.Cause || e.MaybeDone {
				t.Errorf("Transport: %+v", e)
			}
		})
	}
}

// post sends a request and returns its error.
func post(t *testing.T, client *direct, limit time.Duration, address string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Idempotency-Key"] = nil
	resp, err := client.Do(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	return err
}

// A kept connection may die after the server has the request. The refusal of the next connection does not make that undone.
func TestSentOnAKeptConnection(t *testing.T) {
	t.Parallel()
	requests := 0
	var server *httptest.Server
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests++; requests == 1 {
			return
		}
		_ = server.Listener.Close()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	}))
	server.StartTLS()
	t.Cleanup(server.Close)
	client := newClient(&net.Dialer{}, http.ProxyURL(nil))
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	client.TLSClientConfig = &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	if err := post(t, client, time.Minute, server.URL); err != nil {
		t.Fatal(err)
	}
	err := post(t, client, time.Minute, server.URL)
	if f := Classify(err); !f.Sent || f.Reason == Unreachable {
		t.Errorf("%v after %d requests: %+v, want it in doubt", err, requests, f)
	}
}

// The identity endpoint's header is a secret, and the endpoint itself has no TLS.
func TestIdentityEndpointHasNoProxy(t *testing.T) {
	t.Setenv("IDENTITY_ENDPOINT", "http://Identity.internal:8081/msi/token")
	client := newClient(&net.Dialer{}, http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:3128"}))
	for address, proxied := range map[string]bool{
		"https://graph.microsoft.com/beta":                               true,
		"https://identity.internal/":                                     true, // another port
		"http://10.0.0.4/":                                               true,
		"http://identity.internal:8081/msi/token?resource=x":             false,
		"http://169.254.169.254/metadata/identity/oauth2/token":          false,
		"http://169.254.130.2:8081/msi/token":                            false,
		"http://[fe80::1]:8081/msi/token":                                false,
		"http://[::ffff:169.254.169.254]/metadata/identity/oauth2/token": false,
		"http://127.0.0.1:41471/msi/token":                               false,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := client.Proxy(req); (u != nil) != proxied || err != nil {
			t.Errorf("%s: proxy %v, %v", address, u, err)
		}
	}
}
