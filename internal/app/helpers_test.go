package app_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/hosttest/simulated"
)

const (
	canarySecret  = simulated.AppSecret
	canaryAPIKey  = simulated.APIKey
	someDevice    = simulated.DeviceID
	unknownDevice = "6f1a9c0e-5b1d-4c55-9d3a-000000000000"
	validBody     = `{"deviceId":"` + someDevice + `","reference":"RITM0012345"}`
	roleARN       = simulated.RoleARN
	exchange      = simulated.Exchange
	eventTime     = 29 * time.Minute // the time of an event on Azure
)

var (
	canaryKey = []byte(simulated.SigningKey)

	newCloud  = simulated.NewCloud
	canaries  = simulated.Canaries
	leaks     = simulated.Leaks
	encodeKey = simulated.EncodeKey
)

// sent is a request to the program.
type sent struct {
	method, target string
	header         http.Header
	body           string
}

// post returns a request that is authentic by its signature, a delivery of its own, changed by changes.
func post(body string, changes ...func(*sent)) sent {
	s := sent{http.MethodPost, "/api/unassign", http.Header{
		"X-Request-Id": {"request-1"},
		"Content-Type": {"application/json"},
	}, body}
	caller.Sign(s.header, canaryKey, "msg_"+guid.New().String(), time.Now(), []byte(body))
	for _, change := range changes {
		change(&s)
	}
	return s
}

func valid() sent { return post(validBody) }

// body returns a request with that body.
func body(text string) func() sent { return func() sent { return post(text) } }

// with returns a valid request with changes.
func with(changes ...func(*sent)) func() sent {
	return func() sent { return post(validBody, changes...) }
}

func header(name string, values ...string) func(*sent) {
	return func(s *sent) {
		delete(s.header, http.CanonicalHeaderKey(name))
		if len(values) > 0 {
			s.header[http.CanonicalHeaderKey(name)] = values
		}
	}
}

func unsigned(s *sent) {
	for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		s.header.Del(name)
	}
}

func byKey(s *sent) {
	unsigned(s)
	s.header.Set("X-Api-Key", canaryAPIKey)
}

// delivery returns an option that gives a request a delivery id, by its signature or, without one, by a header.
func delivery(id string) func(*sent) {
	return func(s *sent) {
		if s.header.Get("Webhook-Id") != "" {
			caller.Sign(s.header, canaryKey, id, time.Now(), []byte(s.body))
			return
		}
		s.header.Set("Idempotency-Key", id)
	}
}

// bearer puts a token of the cloud on a request.
func bearer(c *azuresim.Cloud, of func(*azuresim.Cloud) azuresim.Claims) func(*sent) {
	return header("Authorization", "Bearer "+c.Token(of(c), nil))
}

// wired returns the whole program in this process, on cloud, with settings changed by pairs of a name and a value.
func wired(t *testing.T, cloud *azuresim.Cloud, log *bytes.Buffer, changes ...string) *app.App {
	t.Helper()
	return simulated.NewApp(t, simulated.Load(t, simulated.Settings(cloud, changes...)), cloud, log)
}

// ask has h answer a request.
func ask(t *testing.T, h http.Handler, s sent) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), s.method, s.target, strings.NewReader(s.body))
	r.Header = s.header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
