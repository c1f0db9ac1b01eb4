package azuresim_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
)

// overWire calls a served cloud's Graph, and returns the protocol, whether the connection was reused, and the error.
func overWire(t *testing.T, client *http.Client, address string) (protocol string, reused bool, err error) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/beta/nothing", nil) // which is not sent again by itself
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", reused, err
	}
	_, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.Proto, reused, err
}

// Connections stay open until one side closes them or a fault breaks them, over both versions of HTTP.
func TestServedConnections(t *testing.T) {
	for protocol, serve := range map[string]func(*azuresim.Cloud) *azuresim.Served{
		"HTTP/1.1": (*azuresim.Cloud).Serve,
		"HTTP/2.0": (*azuresim.Cloud).ServeHTTP2,
	} {
		t.Run(protocol, func(t *testing.T) {
			cloud := azuresim.New()
			served := serve(cloud)
			defer served.Close()
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(served.CA)
			transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			ask := func(when string, want bool) {
				t.Helper()
				if got, reused, err := overWire(t, client, served.GraphEndpoint); err != nil || got != protocol || reused != want {
					t.Errorf("%s: %s, reused is %v, %v; want %s and %v", when, got, reused, err, protocol, want)
				}
			}
			ask("at first", false)
			ask("then", true)
			closed := false
			for start := time.Now(); !closed && time.Since(start) < 10*time.Second; {
				served.CloseIdle()                // the last request may be on its way out
				time.Sleep(50 * time.Millisecond) // for the client to hear of it
				_, reused, err := overWire(t, client, served.GraphEndpoint)
				closed = err == nil && !reused
			}
			if !closed {
				t.Error("idle connections stay open")
			}
			cloud.Fail(azuresim.StepGraph, 1, azuresim.Reset())
			if _, _, err := overWire(t, client, served.GraphEndpoint); err == nil {
				t.Error("a reset is no error")
			}
			ask("after a reset", false)
			cloud.Fail(azuresim.StepGraph, 1, azuresim.ResetMidBody())
			if got, _, err := overWire(t, client, served.GraphEndpoint); err == nil || got != protocol {
				t.Errorf("a reset in the body: %s, %v", got, err)
			}
			ask("after a reset in the body", false)
		})
	}
}
