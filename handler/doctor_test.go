package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// someReport is the report of an examination.
type someReport struct {
	OK bool `json:"ok"`
}

func (someReport) LogValue() slog.Value { return slog.GroupValue(slog.Int("failed", 3)) }

// well is an examination that returns at once.
func well(context.Context) (slog.LogValuer, error) { return someReport{}, nil }

// as is a Verifier that returns the same caller for every request.
func as(kind caller.Kind, id string) verifierFunc {
	return func(*http.Request, []byte) (caller.Caller, error) { return caller.Caller{Kind: kind, ID: id}, nil }
}

func refuses(err error) verifierFunc {
	return func(*http.Request, []byte) (caller.Caller, error) {
		return caller.Caller{Kind: caller.KindToken, ID: "app:1"}, err
	}
}

// Only callers with exactly a configured name get a report, with any kind of evidence.
func TestDoctorIsForWhomItNames(t *testing.T) {
	const user = "user:1,app:2"
	for name, test := range map[string]struct {
		verifier caller.Verifier
		callers  []string
		status   int
		code     string
	}{
		"a key that is named":       {as(caller.KindAPIKey, "operations"), []string{"other", "operations"}, 200, "examined"},
		"a user that is named":      {as(caller.KindToken, user), []string{user}, 200, "examined"},
		"the platform, named":       {caller.Platform{}, []string{caller.PlatformID}, 200, "examined"},
		"nobody is named":           {as(caller.KindAPIKey, "operations"), nil, 403, "operator_denied"},
		"the platform, not named":   {caller.Platform{}, nil, 403, "operator_denied"},
		"another is named":          {as(caller.KindSignature, "webhook"), []string{"operations"}, 403, "operator_denied"},
		"another case":              {as(caller.KindAPIKey, "Operations"), []string{"operations"}, 403, "operator_denied"},
		"a beginning is named":      {as(caller.KindAPIKey, "operations-2"), []string{"operations"}, 403, "operator_denied"},
		"the app of a user":         {as(caller.KindToken, user), []string{"app:2", "user:1"}, 403, "operator_denied"},
		"the user of another app":   {as(caller.KindToken, "user:1,app:3"), []string{user}, 403, "operator_denied"},
		"a caller without a name":   {as(caller.KindAPIKey, ""), nil, 403, "operator_denied"},
		"not authentic":             {refuses(caller.ErrDenied), []string{"app:1"}, 401, "unauthenticated"},
		"too late":                  {refuses(caller.ErrExpired), []string{"app:1"}, 401, "request_expired"},
		"named and without a role":  {refuses(caller.ErrForbidden), []string{"app:1"}, 403, "forbidden"},
		"the keys cannot be read":   {refuses(&upstream.Error{Service: upstream.Vault, Reason: upstream.Forbidden}), []string{"app:1"}, 424, "vault_forbidden"},
		"the vault does not answer": {refuses(&upstream.Error{Service: upstream.Vault, Reason: upstream.Timeout}), []string{"app:1"}, 504, "vault_timeout"},
	} {
		asked := 0
		o := Options{Verifier: test.verifier, Operators: test.callers, Examine: func(context.Context) (slog.LogValuer, error) { asked++; return someReport{}, nil }}
		w, log := ask(t, o, http.MethodGet, RouteDoctor, "")
		var record struct {
			Message        string `json:"msg"`
			Code           string
			CallerID       string `json:"caller_id"`
			Status, Failed int
		}
		if err := json.Unmarshal([]byte(log), &record); err != nil {
			t.Fatalf("%s: %v in %s", name, err, log)
		}
		if w.Code != test.status || record.Message != "doctor" || record.Code != test.code || record.Status != test.status || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s\n%s", name, w.Code, w.Body, log)
		}
		if ok := test.status == http.StatusOK; (asked == 1) != ok || ok != (w.Body.String() == "{\"ok\":false}\n") || ok != (record.Failed == 3) {
			t.Errorf("%s: examined %d times: %s\n%s", name, asked, w.Body, log)
		}
		if who, _ := test.verifier.Verify(httptest.NewRequest(http.MethodGet, RouteDoctor, nil), nil); record.CallerID != who.ID {
			t.Errorf("%s: the record names %q", name, record.CallerID)
		}
	}
}

// A signature does not name its route: one for the unassign route must be invalid at the doctor's, and the reverse.
func TestDoctorReadsNoBody(t *testing.T) {
	key := []byte("key-of-the-doctor-0123456789")
	o := Options{
		Devices:   devicesFunc(done204),
		Verifier:  &caller.Signature{Keys: oneKey{key}, Tolerance: time.Minute},
		Operators: []string{"operations"}, Examine: well,
		Timeout: time.Second, Log: slog.New(slog.DiscardHandler),
	}
	for name, test := range map[string]struct {
		method, route, signed, body string
		status                      int
	}{
		"a report":                      {http.MethodGet, RouteDoctor, "", "", 200},
		"a report, with a body":         {http.MethodGet, RouteDoctor, "", "{}", 200},
		"HEAD":                          {http.MethodHead, RouteDoctor, "", "", 200},
		"a device":                      {http.MethodPost, RouteUnassign, someBody, someBody, 204},
		"a device's, for a report":      {http.MethodGet, RouteDoctor, someBody, someBody, 401},
		"a device's, without its body":  {http.MethodGet, RouteDoctor, someBody, "", 401},
		"a report's, for a device":      {http.MethodPost, RouteUnassign, "", someBody, 401},
		"a report's, without a body":    {http.MethodPost, RouteUnassign, "", "", 400},
		"a report by another method":    {http.MethodPost, RouteDoctor, "", "", 405},
		"a report by a method nobody's": {http.MethodDelete, RouteDoctor, "", "", 405},
	} {
		r := httptest.NewRequestWithContext(t.Context(), test.method, test.route, strings.NewReader(test.body))
		caller.Sign(r.Header, key, "msg_1", time.Now(), []byte(test.signed))
		w := httptest.NewRecorder()
		newHandler(o).ServeHTTP(w, r)
		if w.Code != test.status || (w.Code == http.StatusMethodNotAllowed) != (w.Header().Get("Allow") == "GET, HEAD") {
			t.Errorf("%s: %d %v %s", name, w.Code, w.Header(), w.Body)
		}
	}
}

// oneKey is a key that does not change.
type oneKey struct{ value []byte }

func (k oneKey) Current(context.Context) ([]caller.Key, error) {
	return []caller.Key{{Name: "operations", Value: k.value}}, nil
}
func (k oneKey) Refresh(ctx context.Context) ([]caller.Key, error) { return k.Current(ctx) }

// Concurrent requests share one examination, and each waits no longer than its own time.
func TestOneExaminationAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		var log bytes.Buffer
		h := newHandler(Options{
			Verifier: caller.Platform{}, Timeout: 20 * time.Second, Log: slog.New(slog.NewJSONHandler(&log, nil)),
			Operators: []string{caller.PlatformID}, Examine: func(ctx context.Context) (slog.LogValuer, error) {
				made++
				<-ctx.Done() // as slow as it may be
				return someReport{OK: made == 1}, nil
			},
		})
		get := func(ctx context.Context) (int, string, time.Duration) {
			start, w := time.Now(), httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, RouteDoctor, nil))
			return w.Code, w.Body.String(), time.Since(start)
		}
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				if code, body, took := get(t.Context()); code != 200 || !strings.Contains(body, `"ok":true`) || took > 19*time.Second-time.Duration(i)*time.Second {
					t.Errorf("%d: %d %s after %v", i, code, body, took)
				}
			})
		}
		all.Go(func() { // whose host gives it less time
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			time.Sleep(time.Second)
			if code, body, took := get(ctx); code != 503 || !strings.Contains(body, `"in_progress"`) || took != 4*time.Second {
				t.Errorf("less time: %d %s after %v", code, body, took)
			}
		})
		all.Wait()
		if made != 1 {
			t.Errorf("%d examinations", made)
		}
		if code, body, _ := get(t.Context()); code != 200 || !strings.Contains(body, `"ok":false`) || made != 2 {
			t.Errorf("afterwards: %d %s, %d examinations", code, body, made)
		}
	})
}

// An examination counts as a full list, and a device counts beside it.
func TestDoctorCountsAsAList(t *testing.T) {
	h := newHandler(Options{
		Devices: devicesFunc(done204), Verifier: caller.Platform{}, Policy: Policy{PerMinute: maxDevices + 1}, Timeout: time.Second,
		Log: slog.New(slog.DiscardHandler), Operators: []string{caller.PlatformID}, Examine: well,
	})
	for i, test := range []struct {
		method, route, body string
		status              int
	}{
		{http.MethodGet, RouteDoctor, "", 200}, {http.MethodGet, RouteDoctor, "", 429}, {http.MethodPost, RouteUnassign, someBody, 204}, {http.MethodPost, RouteUnassign, someBody, 429},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), test.method, test.route, strings.NewReader(test.body)))
		if w.Code != test.status || (w.Code == 429) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%d: %d %s", i, w.Code, w.Body)
		}
	}
}

// A failed examination is a response, and the next request starts another one.
func TestDoctorThatFails(t *testing.T) {
	for name, examine := range map[string]func(context.Context) (slog.LogValuer, error){
		"an error": func(context.Context) (slog.LogValuer, error) { return nil, errors.New("fails") },
		"a panic":  func(context.Context) (slog.LogValuer, error) { panic("canary") },
	} {
		var log bytes.Buffer
		h := newHandler(Options{Verifier: caller.Platform{}, Timeout: time.Second, Log: slog.New(slog.NewJSONHandler(&log, nil)), Operators: []string{caller.PlatformID}, Examine: examine})
		for range 2 {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, RouteDoctor, nil))
			if w.Code != 500 || !strings.Contains(w.Body.String(), `"internal_error"`) {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		if text := log.String(); strings.Count(text, `"level":"ERROR","msg":"doctor"`) != 2 || strings.Contains(text, "canary") || (name == "a panic") != strings.Contains(text, `"stack":"`) {
			t.Errorf("%s: the log has %s", name, text)
		}
	}
}
