package main

import (
	"context"
	"errors"
	"fmt"
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

// instantGraph is a cloud with a Graph that responds at once and costs next to nothing, so that the counts are of this
// program.
type instantGraph struct{ *azuresim.Cloud }

// deviceJSON is the device as Graph sends it.
var deviceJSON = fmt.Sprintf(
	`{"@odata.context":"https://graph.microsoft.com/beta/$metadata#deviceManagement/windowsAutopilotDeviceIdentities/$entity",`+
		`"id":%q,"groupTag":"MTR-Oslo","purchaseOrderIdentifier":"","serialNumber":"5CG1234ABC","productKey":"","manufacturer":"HP","model":"HP",`+
		`"enrollmentState":"enrolled","lastContactedDateTime":"2026-01-01T00:00:00Z","addressableUserName":"Room","userPrincipalName":"room@contoso.com",`+
		`"resourceName":"room","skuNumber":"","systemFamily":"","azureActiveDirectoryDeviceId":"00000000-0000-0000-0000-000000000000",`+
		`"managedDeviceId":"00000000-0000-0000-0000-000000000000","displayName":"","deviceAccountUpn":"","deviceAccountPassword":"","deviceFriendlyName":""}`,
	someDevice)

func (g instantGraph) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Host != "graph.microsoft.com" || req.Method == http.MethodHead {
		return g.Cloud.Do(req)
	}
	resp := &http.Response{
		StatusCode: http.StatusNoContent, Header: http.Header{"Request-Id": {"11111111-2222-4333-8444-555555555555"}},
		Body: http.NoBody, Request: req,
	}
	if req.Method == http.MethodGet {
		resp.StatusCode, resp.Body = http.StatusOK, io.NopCloser(strings.NewReader(deviceJSON))
		resp.Header["Content-Type"] = []string{"application/json"}
	}
	return resp, nil
}

// warmCall returns a function that sends one signed request for a device to a warm process with audit and limits.
func warmCall(tb testing.TB) func() {
	tb.Helper()
	cloud := newCloud()
	c, err := config.Load(complete(
		"KEY_VAULT_URL", cloud.VaultURL, "AZURE_CLIENT_ID", cloud.IdentityClientID, "GRAPH_TENANT_ID", cloud.TenantID, "GRAPH_CLIENT_ID", cloud.ClientID,
		"RATE_LIMIT", "10000", // refuses nothing here
	), config.Local)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := newApp(c, instantGraph{cloud}, app.NewLog(io.Discard, c.LogLevel))
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
		if w.Code != http.StatusNoContent {
			tb.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}

// BenchmarkWarmCall measures a warm request without the network. Run it with -benchtime 5000x: the limit of requests
// is 10,000 a minute.
func BenchmarkWarmCall(b *testing.B) {
	call := warmCall(b)
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}

// BenchmarkServing has the whole program serve sixteen callers on Azure's port, with a cloud that responds over TLS,
// all in this process. It is for profiles (-cpuprofile).
func BenchmarkServing(b *testing.B) {
	c := newCloud()
	served := c.Serve()
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

// mostAllocations limits the allocations of a warm call. Some 50 of them are the test's: the request, its signature,
// Graph's responses. The race detector adds a few, because it drops pooled objects.
const mostAllocations = 180

func TestWarmCallAllocates(t *testing.T) {
	if n := testing.AllocsPerRun(200, warmCall(t)); n > mostAllocations {
		t.Errorf("a warm call takes %.0f allocations, want %d at most", n, mostAllocations)
	}
}
