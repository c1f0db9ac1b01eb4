package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/guid"
)

// acting is a cloud whose Graph acts at once and costs nothing, so that what is counted is this program's.
type acting struct{ *azuresim.Cloud }

func (a acting) Do(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodPost || req.URL.Host != "graph.microsoft.com" {
		return a.Cloud.Do(req)
	}
	return &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{"Request-Id": {"11111111-2222-4333-8444-555555555555"}}, Body: http.NoBody, Request: req}, nil
}

// warmCall returns what makes a request about one device, signed, recorded and limited, of a process that is warm.
func warmCall(tb testing.TB) func() {
	tb.Helper()
	cloud := newCloud()
	c, err := loadConfig(complete(
		"KEY_VAULT_URL", cloud.VaultURL, "AZURE_CLIENT_ID", cloud.IdentityClientID, "GRAPH_TENANT_ID", cloud.TenantID, "GRAPH_CLIENT_ID", cloud.ClientID,
		"RATE_LIMIT", "",
	), hostLocal)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := wire(c, acting{cloud}, newLog(io.Discard, c.logLevel))
	if err != nil {
		tb.Fatal(err)
	}
	s.warmUp.run(tb.Context())
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

// BenchmarkWarmCall is what a warm request costs beyond the network: with the making of the request, which takes some twenty allocations.
func BenchmarkWarmCall(b *testing.B) {
	call := warmCall(b)
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}

// mostAllocations is how many allocations a warm call may take, the making of the request included. The race detector has some
// more, since it throws away what is pooled.
const mostAllocations = 220

func TestWarmCallAllocates(t *testing.T) {
	if n := testing.AllocsPerRun(200, warmCall(t)); n > mostAllocations {
		t.Errorf("a warm call takes %.0f allocations, want %d at most", n, mostAllocations)
	}
}
