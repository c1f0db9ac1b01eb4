package app_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
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

	post      = simulated.Post
	header    = simulated.Header
	unsigned  = simulated.Unsigned
	byKey     = simulated.ByKey
	delivery  = simulated.Delivery
	bearer    = simulated.Bearer
	withClaim = simulated.WithClaim

	fromServiceNow    = simulated.FromServiceNow
	fromPowerAutomate = simulated.FromPowerAutomate
)

type sent = simulated.Request

func valid() sent { return post(validBody) }

// body returns a request with that body.
func body(text string) func() sent { return func() sent { return post(text) } }

// with returns a valid request with changes.
func with(changes ...func(*sent)) func() sent {
	return func() sent { return post(validBody, changes...) }
}

// wired returns the whole program in this process, on cloud, with settings changed by pairs of a name and a value.
func wired(t *testing.T, cloud *azuresim.Cloud, log *bytes.Buffer, changes ...string) *app.App {
	t.Helper()
	return simulated.NewApp(t, simulated.Load(t, simulated.Settings(cloud, changes...)), cloud, log)
}

// ask has h answer a request.
func ask(t *testing.T, h http.Handler, s sent) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), s.Method, s.Target, strings.NewReader(s.Body))
	r.Header = s.Header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
