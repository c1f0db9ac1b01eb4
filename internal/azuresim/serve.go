package azuresim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Served is a Cloud on loopback. A program reaches it with AZURE_CLOUD=custom and these addresses, the identity by App
// Service's variables IDENTITY_ENDPOINT and IDENTITY_HEADER, and trusts CA (SSL_CERT_FILE).
type Served struct {
	AuthorityHost, VaultURL, GraphEndpoint string // https
	STSEndpoint                            string // https, of AWS
	IdentityEndpoint, IdentityHeader       string // plain http, as on App Service
	CA                                     []byte // the certificate of the authority, in PEM

	servers []*http.Server
	running sync.WaitGroup
	stop    context.CancelFunc // ends all requests
	idle    sync.Map           // open connections without a request
}

// Serve serves the Cloud on loopback until the Served is closed, each service at an address of its own. Faults happen
// on the wire; NoHost, Refused and Untrusted break the connection instead.
func (c *Cloud) Serve() (*Served, error) { return c.serveOver("http/1.1") }

// ServeHTTP2 is Serve with HTTP/2 on offer, as the services do. A broken connection then fails all its requests.
func (c *Cloud) ServeHTTP2() (*Served, error) { return c.serveOver("h2", "http/1.1") }

func (c *Cloud) serveOver(protocols ...string) (*Served, error) {
	ca, certificate, err := selfSigned()
	if err != nil {
		return nil, fmt.Errorf("azuresim: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Served{CA: ca, IdentityHeader: identityHeader, stop: stop}
	for _, part := range []struct {
		service service
		address *string
		scheme  string
		path    string
	}{
		{entraService, &s.AuthorityHost, "https", ""},
		{vaultService, &s.VaultURL, "https", ""},
		{graphService, &s.GraphEndpoint, "https", ""},
		{stsService, &s.STSEndpoint, "https", ""},
		{identityService, &s.IdentityEndpoint, "http", "/msi/token"},
	} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("azuresim: %w", err)
		}
		*part.address = part.scheme + "://" + listener.Addr().String() + part.path
		if part.scheme == "https" {
			listener = tls.NewListener(listener, &tls.Config{
				Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: protocols,
			})
		}
		server := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				writeAnswer(c, part.service, w, r)
			}),
			ReadHeaderTimeout: 10 * time.Second,
			ConnState: func(conn net.Conn, state http.ConnState) {
				if s.idle.Delete(conn); state == http.StateIdle {
					s.idle.Store(conn, true)
				}
			},
			BaseContext: func(net.Listener) context.Context { return ctx },
			ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
				return context.WithValue(ctx, connKey{}, conn)
			},
			ErrorLog: log.New(io.Discard, "", 0),
		}
		s.servers = append(s.servers, server)
		s.running.Go(func() { _ = server.Serve(listener) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.authority = s.AuthorityHost
	return s, nil
}

// Close stops serving. Requests in flight lose their connection.
func (s *Served) Close() {
	s.stop()
	for _, server := range s.servers {
		_ = server.Close()
	}
	s.running.Wait()
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

// selfSigned returns a new certificate for 127.0.0.1 that is its own authority, valid for a day.
func selfSigned() ([]byte, tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "simulated cloud"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return authority, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
