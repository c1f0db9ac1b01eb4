package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/guid"
)

// acting is a cloud whose Graph acts at once and costs nothing, so that only this program is measured.
type acting struct{ *azuresim.Cloud }

func (a acting) Do(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodPost || req.URL.Host != "graph.microsoft.com" {
		return a.Cloud.Do(req)
	}
	return &http.Response{StatusCode: http.StatusNoContent,
		Header: http.Header{"Request-Id": {"11111111-2222-4333-8444-555555555555"}}, Body: http.NoBody, Request: req}, nil
}

// warmCall returns a function that sends one signed request for a device to a warm process with audit and limits.
func warmCall(tb testing.TB) func() {
	tb.Helper()
	cloud := newCloud()
	c, err := config.Load(complete(
		"KEY_VAULT_URL", cloud.VaultURL, "AZURE_CLIENT_ID", cloud.IdentityClientID, "GRAPH_TENANT_ID", cloud.TenantID,
		"GRAPH_CLIENT_ID", cloud.ClientID,
		"RATE_LIMIT", "",
	), config.Local)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := newApp(c, acting{cloud}, app.NewLog(io.Discard, c.LogLevel))
	if err != nil {
		tb.Fatal(err)
	}
	s.WarmUp(tb.Context())
	return func() {
		r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/api/unassign", strings.NewReader(validBody))
		r.Header.Set("Content-Type", "application/json")
		caller.Sign(r.Header, canaryKey, guid.New().String(), time.Now(), []byte(validBody))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusNoContent && w.Code != http.StatusTooManyRequests {
			tb.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}

// BenchmarkWarmCall measures a warm request without the network. Building the request takes some twenty allocations.
func BenchmarkWarmCall(b *testing.B) {
	call := warmCall(b)
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}

// BenchmarkServing has the whole program serve sixteen callers, on Azure's port and on a cloud that answers over TLS,
// all in this process: for a profile (-cpuprofile) of where the time goes.
func BenchmarkServing(b *testing.B) {
	c := newCloud()
	served, err := c.Serve()
	if err != nil {
		b.Fatal(err)
	}
	defer served.Close()
	listener, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close() // another process could take it now
	_, port, _ := net.SplitHostPort(address)
	settings := map[string]string{}
	for _, setting := range append(environment(b, c, served), "FUNCTIONS_CUSTOMHANDLER_PORT="+port) {
		name, value, _ := strings.Cut(setting, "=")
		settings[name] = value
		b.Setenv(name, value) // for the libraries, and before there is a certificate to look at
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"unassign"}, func(name string) string { return settings[name] }, nil, io.Discard,
			io.Discard)
	}()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	call := func() error {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+address+"/api/unassign",
			strings.NewReader(validBody))
		if err != nil {
			return err
		}
		caller.Sign(r.Header, canaryKey, guid.New().String(), time.Now(), []byte(validBody))
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			return errors.New(resp.Status)
		}
		return nil
	}
	for start := time.Now(); call() != nil; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			b.Fatal(call())
		}
	}
	b.Run("signed", func(b *testing.B) { // which is started several times, and the program once
		b.SetParallelism(8) // times GOMAXPROCS
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for n := 0; pb.Next(); n++ {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				if n%100 == 0 {
					c.Forget()
				}
			}
		})
	})
	transport.CloseIdleConnections()
	stop()
	if err := <-ended; err == nil || err.Error() != "stopped by a signal" {
		b.Error(err)
	}
}

// mostAllocations limits the allocations of a warm call, including the building of the request. The race detector has
// more, because it drops pooled objects.
const mostAllocations = 340

func TestWarmCallAllocates(t *testing.T) {
	if n := testing.AllocsPerRun(200, warmCall(t)); n > mostAllocations {
		t.Errorf("a warm call takes %.0f allocations, want %d at most", n, mostAllocations)
	}
}
