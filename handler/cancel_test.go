package handler

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
)

// cancelledGraph is a Graph that loses the caller while a device is read.
type cancelledGraph struct {
	*fakeGraph

	leave context.CancelFunc
	err   error // of the context when the change came
}

func (g *cancelledGraph) Find(ctx context.Context, selectors ...graph.Selector) []graph.Found {
	g.leave()
	return g.fakeGraph.Find(ctx, selectors...)
}

func (g *cancelledGraph) UnassignResourceAccount(ctx context.Context, ids ...graph.DeviceID) []graph.Result {
	g.err = ctx.Err()
	return g.fakeGraph.UnassignResourceAccount(ctx, ids...)
}

// TestContextOutlivesTheCaller has a caller go away between the read and the change. The change has its whole time.
func TestContextOutlivesTheCaller(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	g := &cancelledGraph{fakeGraph: &fakeGraph{find: carrying(fjord)}, leave: leave}
	h := newHandler(Options{Devices: g, Verifier: caller.Platform{}, Log: slog.New(slog.DiscardHandler), Timeout: time.Minute})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, RouteUnassign, strings.NewReader(someBody)))
	if g.changes != 1 || g.err != nil {
		t.Errorf("%d changes, in a context with %v", g.changes, g.err)
	}
}

// TestFieldIsQuoted has a body with a field of 8 KiB and characters that change the direction of a text.
func TestFieldIsQuoted(t *testing.T) {
	w, log := ask(t, Options{Devices: devicesFunc(done204)}, http.MethodPost, RouteUnassign, `{"\u202e\u0007`+strings.Repeat("x", 8<<10)+`":1}`)
	for name, text := range map[string]string{"response": w.Body.String(), "log": log} {
		if w.Code != http.StatusBadRequest || len(text) > 2<<10 || strings.ContainsAny(text, "\u202e\u0007") || !strings.Contains(text, "u202e") {
			t.Errorf("the %s has %d bytes: %d %s", name, len(text), w.Code, text)
		}
	}
}
