package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// devicesFunc is a Devices that unassigns with a function.
type devicesFunc func(ids []graph.DeviceID) []graph.Result

func (f devicesFunc) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	return f(ids)
}

// Find reads devices by their ids. Each carries an account.
func (devicesFunc) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	found := make([]graph.Found, len(selectors))
	for i, s := range selectors {
		found[i].Device = graph.Device{ID: s.ID, Account: graph.Account{UserPrincipalName: "room.fjord@contoso.com"}}
	}
	return found
}

func (devicesFunc) Page(context.Context, string) ([]graph.Device, string, error) {
	panic("no request lists devices")
}

func (devicesFunc) All(context.Context) iter.Seq2[graph.Device, error] {
	panic("no request needs the inventory")
}

// verifierFunc is a Verifier made of a function.
type verifierFunc func(*http.Request, []byte) (caller.Caller, error)

func (f verifierFunc) Verify(r *http.Request, body []byte) (caller.Caller, error) { return f(r, body) }

func done204(ids []graph.DeviceID) []graph.Result {
	results := make([]graph.Result, len(ids))
	for i, id := range ids {
		results[i] = graph.Result{ID: id, RequestID: "graph-1"}
	}
	return results
}

// newHandler returns a Handler. Without a Background or a Pace in o, events use Devices, and an unlimited pace.
func newHandler(o Options) *Handler {
	if o.Background == nil {
		o.Background = o.Devices
	}
	if o.Pace == nil {
		o.Pace = unlimited{}
	}
	return New(o)
}

// ask sends a request to a handler made of o, and returns the response and the log.
func ask(t *testing.T, o Options, method, target, body string) (*httptest.ResponseRecorder, string) {
	t.Helper()
	var log bytes.Buffer
	o.Log = slog.New(slog.NewJSONHandler(&log, nil))
	if o.Verifier == nil {
		o.Verifier = caller.Platform{}
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	w := httptest.NewRecorder()
	newHandler(o).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body)))
	return w, log.String()
}

const someBody = `{"deviceId":"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"}`

func TestPanicIsAnAnswer(t *testing.T) {
	for name, o := range map[string]Options{
		"while acting":         {Devices: devicesFunc(func([]graph.DeviceID) []graph.Result { panic("canary") })},
		"while authenticating": {Verifier: verifierFunc(func(*http.Request, []byte) (caller.Caller, error) { panic(errors.New("canary")) })},
	} {
		w, log := ask(t, o, http.MethodPost, RouteUnassign, someBody)
		var failure Failure
		if err := json.Unmarshal(w.Body.Bytes(), &failure); err != nil {
			t.Fatalf("%s: %v in %s", name, err, w.Body)
		}
		if w.Code != http.StatusInternalServerError || failure.Error.Code != internalError || failure.Outcome != OutcomeUnknown || !failure.Retryable {
			t.Errorf("%s: %d %+v", name, w.Code, failure)
		}
		if strings.Count(log, "\n") != 1 || !strings.Contains(log, `"stack":"`) || !strings.Contains(log, `"code":"internal_error"`) || strings.Contains(log, "canary") {
			t.Errorf("%s: the log has %s", name, log)
		}
	}
}

func TestRoutes(t *testing.T) {
	o := Options{Devices: devicesFunc(done204), Version: "v1.2.3"}
	for _, test := range []struct {
		method, target string
		status         int
		body, allow    string
	}{
		{http.MethodPost, "/api/unassign", 204, "", ""},
		{http.MethodPost, "/api/unassign?deviceId=1", 204, "", ""},
		{http.MethodPut, "/api/unassign", 405, `"code":"method_not_allowed"`, "POST"},
		{http.MethodPost, "/api/unassign/", 204, "", ""},
		{http.MethodPost, "/API/Unassign", 204, "", ""},
		{http.MethodPost, "/api/unassign//", 404, `"code":"route_not_found"`, ""},
		{http.MethodPost, "/api/%75nassign", 204, "", ""},
		{http.MethodPost, "/api/unassign/../health", 404, `"code":"route_not_found"`, ""},
		{http.MethodGet, "/", 404, `"code":"route_not_found"`, ""},
		{http.MethodGet, "/api/health", 200, `{"status":"ok","version":"v1.2.3"}`, ""},
		{http.MethodHead, "/api/health", 200, "", ""},
		{http.MethodPost, "/api/health", 405, `"code":"method_not_allowed"`, "GET, HEAD"},
	} {
		w, _ := ask(t, o, test.method, test.target, someBody)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.body) || w.Header().Get("Allow") != test.allow {
			t.Errorf("%s %s: %d %q %s", test.method, test.target, w.Code, w.Header().Get("Allow"), w.Body)
		}
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("X-Request-Id") == "" {
			t.Errorf("%s %s: the headers are %v", test.method, test.target, w.Header())
		}
	}
}

// A response says nothing of the text of a service, which is for the log.
func TestResponseHasNoCause(t *testing.T) {
	for _, reason := range []upstream.Reason{upstream.Rejected, upstream.NotFound, upstream.Forbidden, upstream.Unavailable} {
		failing := devicesFunc(func(ids []graph.DeviceID) []graph.Result {
			return []graph.Result{{ID: ids[0], Err: &upstream.Error{Service: upstream.Graph, Reason: reason, Status: 400, Cause: "canary"}}}
		})
		w, _ := ask(t, Options{Devices: failing}, http.MethodPost, RouteUnassign, someBody)
		if w.Code < 400 || strings.Contains(w.Body.String(), "canary") {
			t.Errorf("%s: %d %s", reason, w.Code, w.Body)
		}
	}
}

// A started request completes after its caller disconnects.
func TestCallerWhoGoesAwayStopsNothing(t *testing.T) {
	var log bytes.Buffer
	gone, leave := context.WithCancel(t.Context())
	acted := false
	h := newHandler(Options{
		Devices: devicesFunc(func(ids []graph.DeviceID) []graph.Result {
			leave()
			acted = true
			return done204(ids)
		}),
		Verifier: caller.Platform{}, Log: slog.New(slog.NewJSONHandler(&log, nil)), Timeout: time.Second,
	})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, http.MethodPost, RouteUnassign, strings.NewReader(someBody)))
	if !acted || !strings.Contains(log.String(), `"code":"unassigned"`) {
		t.Errorf("acted: %v, log: %s", acted, log.String())
	}
}

func TestRequestID(t *testing.T) {
	for name, test := range map[string]struct {
		sent []string
		kept bool
	}{
		"plain":                  {[]string{"RITM0012345.retry-2_a"}, true},
		"64 characters":          {[]string{strings.Repeat("a", 64)}, true},
		"65 characters":          {[]string{strings.Repeat("a", 65)}, false},
		"none":                   {nil, false},
		"empty":                  {[]string{""}, false},
		"two":                    {[]string{"a", "b"}, false},
		"with a space":           {[]string{"a b"}, false},
		"with a line feed":       {[]string{"a\nb"}, false},
		"with an escape":         {[]string{"\x1b[2J"}, false},
		"with a letter far away": {[]string{"é"}, false},
	} {
		id := requestID(http.Header{"X-Request-Id": test.sent})
		if kept := len(test.sent) > 0 && id == test.sent[0]; kept != test.kept || id == "" {
			t.Errorf("%s: %q", name, id)
		}
	}
}

// found are devices with one match for every search.
type found struct {
	devicesFunc
	device graph.Device
}

func (f found) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	all := make([]graph.Found, len(selectors))
	for i := range all {
		all[i].Device = f.device
	}
	return all
}

// Texts from Intune are untrusted: the log quotes them where they could mislead a reader.
func TestTextOfIntuneInTheLog(t *testing.T) {
	device := graph.Device{ID: mustDevice(t, someDevice), SerialNumber: "5CG\u202e1", GroupTag: "MTR\u2066 Ålesund"}
	_, log := ask(t, Options{Devices: found{done204, device}}, http.MethodPost, RouteUnassign, `{"serialNumber":"5CG1"}`)
	if !strings.Contains(log, `"serial_number":"5CG\\u202e1"`) || !strings.Contains(log, `"group_tag":"MTR\\u2066 \\u00c5lesund"`) {
		t.Errorf("the log has %s", log)
	}
	device.GroupTag = "MTR – Ålesund"
	if _, log = ask(t, Options{Devices: found{done204, device}}, http.MethodPost, RouteUnassign, `{"serialNumber":"5CG1"}`); !strings.Contains(log, `"group_tag":"MTR – Ålesund"`) {
		t.Errorf("the log has %s", log)
	}
}

// A body has the caller's own words as they are. The name of an unknown field is cut.
func TestWordsOfTheCaller(t *testing.T) {
	body := strings.Replace(someBody, "{", `{"verify":true,"reference":"R&D <1>",`, 1)
	w, _ := ask(t, Options{Devices: devicesFunc(done204)}, http.MethodPost, RouteUnassign, body)
	if !strings.Contains(w.Body.String(), `"reference":"R&D <1>"`) {
		t.Errorf("the body is %s", w.Body)
	}
	longest := strings.Repeat("a", 64)
	for field, want := range map[string]string{longest: longest, longest + "a": longest + `\u2026`} {
		if got := quoteField(field); got != want {
			t.Errorf("a field of %d characters is quoted as %s", len(field), got)
		}
	}
}

// Each success has its own message.
func TestSuccessMessages(t *testing.T) {
	for code, want := range map[Code]string{
		Unassigned:        "Graph removed the resource account. The device shows none now.",
		AlreadyUnassigned: "The device had no resource account when it was read. The device shows none now.",
	} {
		if got := successMessage(code, verifiedCleared); got != want {
			t.Errorf("%s: %q", code, got)
		}
	}
}
