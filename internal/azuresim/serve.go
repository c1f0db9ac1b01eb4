package azuresim

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
)

// Served is a Cloud on loopback. A program reaches it with AZURE_CLOUD=custom and these addresses, the identity by App
// Service's variables IDENTITY_ENDPOINT and IDENTITY_HEADER, and trusts CA (SSL_CERT_FILE).
type Served struct {
	AuthorityHost, VaultURL, GraphEndpoint string // https
	STSEndpoint                            string // https, of AWS
	IdentityEndpoint, IdentityHeader       string // plain http, as on App Service
	CA                                     []byte // the certificate of the authority, in PEM

	servers []*httptest.Server
	stop    context.CancelFunc // ends all requests
	idle    sync.Map           // open connections without a request
}

// Serve serves the Cloud on loopback until the Served is closed, each service at an address of its own. Faults happen
// on the wire; NoHost, Refused and Untrusted break the connection instead.
func (c *Cloud) Serve() *Served { return c.serveOver(false) }

// ServeHTTP2 is Serve with HTTP/2 on offer, as the services do. A broken connection then fails all its requests.
func (c *Cloud) ServeHTTP2() *Served { return c.serveOver(true) }

func (c *Cloud) serveOver(http2 bool) *Served {
	ctx, stop := context.WithCancel(context.Background())
	s := &Served{IdentityHeader: identityHeader, stop: stop}
	start := func(service service) *httptest.Server {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			writeAnswer(c, service, w, r)
		}))
		server.EnableHTTP2 = http2
		server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
			if s.idle.Delete(conn); state == http.StateIdle {
				s.idle.Store(conn, true)
			}
		}
		server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
		server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		}
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.servers = append(s.servers, server)
		return server
	}
	for service, address := range map[*service]*string{
		&entraService: &s.AuthorityHost, &vaultService: &s.VaultURL, &graphService: &s.GraphEndpoint,
		&stsService: &s.STSEndpoint,
	} {
		server := start(*service)
		server.StartTLS()
		*address = server.URL
		s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}) // the same for all
	}
	identity := start(identityService)
	identity.Start()
	s.IdentityEndpoint = identity.URL + "/msi/token"
	c.changeLocked(func() { c.authority = s.AuthorityHost })
	return s
}

// Close stops serving. Requests in flight lose their connection.
func (s *Served) Close() {
	s.stop()
	for _, server := range s.servers {
		server.CloseClientConnections()
		server.Close()
	}
}

// CloseIdle closes the idle connections, as services do at any time.
func (s *Served) CloseIdle() {
	s.idle.Range(func(conn, _ any) bool {
		_ = conn.(net.Conn).Close()
		return true
	})
}

func writeAnswer(c *Cloud, service service, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a, fault := c.serveRequest(service, r, body)
	if fault.waitDelay(r.Context()) != nil {
		return
	}
	if fault.err != nil || fault.cut {
		if fault.cut {
			w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
			w.WriteHeader(a.status)
			_, _ = w.Write(a.body[:len(a.body)/2])
			_ = http.NewResponseController(w).Flush()
		}
		resetConnection(w, r)
		return
	}
	for name, values := range a.header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// connKey is the key of a request's connection.
type connKey struct{}

// resetConnection resets the connection of a request: the other side sees no orderly end.
func resetConnection(w http.ResponseWriter, r *http.Request) {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	raw := conn
	if t, ok := conn.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	// Over HTTP/1.1 this makes net/http leave the connection alone; over HTTP/2 net/http finds it closed.
	_, _, _ = http.NewResponseController(w).Hijack()
	_ = raw.Close()
}
