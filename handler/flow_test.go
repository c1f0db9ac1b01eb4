package handler

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
)

// The audit record has the plain headers of Power Automate, and drops the others.
func TestFlowOf(t *testing.T) {
	const run = "08584542217612634418212349876CU21"
	for name, test := range map[string]struct {
		sent http.Header
		want string
	}{
		"none": {http.Header{}, ""},
		"a flow": {
			http.Header{
				"X-Ms-Workflow-Run-Id": {run}, "X-Ms-Workflow-Operation-Name": {"Unassign_the_device"},
				"X-Ms-Action-Tracking-Id": {"2f1c8a4e-9f0b-4f5e-8a53-5d0d3c1b7a90"}, "X-Ms-Client-Tracking-Id": {run},
			},
			`{"run_id":"` + run + `","action":"Unassign_the_device","action_tracking_id":"2f1c8a4e-9f0b-4f5e-8a53-5d0d3c1b7a90","client_tracking_id":"` + run + `"}`,
		},
		"a part": {http.Header{"X-Ms-Client-Tracking-Id": {"INC0012345"}}, `{"client_tracking_id":"INC0012345"}`},
		"64 and 65 characters": {
			http.Header{"X-Ms-Workflow-Run-Id": {strings.Repeat("a", 64)}, "X-Ms-Action-Tracking-Id": {strings.Repeat("b", 65)}},
			`{"run_id":"` + strings.Repeat("a", 64) + `"}`,
		},
		"hostile": {
			http.Header{
				"X-Ms-Workflow-Run-Id": {"1\n{\"message\":\"unassign\",\"code\":\"forged\"}"}, "X-Ms-Workflow-Operation-Name": {"\x1b[2Jforged"},
				"X-Ms-Action-Tracking-Id": {"forged", "forged"}, "X-Ms-Client-Tracking-Id": {"<script>forged</script>"},
			},
			"",
		},
		"empty, far away, long": {
			http.Header{
				"X-Ms-Workflow-Run-Id": {""}, "X-Ms-Workflow-Operation-Name": {"Gerät_forged"}, "X-Ms-Action-Tracking-Id": {strings.Repeat("forged", 4000)},
				"X-Ms-Client-Tracking-Id": {`","forged":"`},
			},
			"",
		},
	} {
		for _, body := range []string{someBody, "refused"} {
			var log bytes.Buffer
			h := newHandler(Options{Devices: devicesFunc(done204), Verifier: caller.Platform{}, Log: slog.New(slog.NewJSONHandler(&log, nil)), Timeout: time.Second})
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, RouteUnassign, strings.NewReader(body))
			r.Header = test.sent
			h.ServeHTTP(httptest.NewRecorder(), r)
			var line struct{ Flow json.RawMessage }
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatalf("%s: %v in %s", name, err, log.String())
			}
			if string(line.Flow) != test.want || strings.Contains(log.String(), "forged") || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("%s: flow is %s, want %s, in %s", name, line.Flow, test.want, log.String())
			}
		}
	}
}
