package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
)

// contractCase is a request and its result on every host.
type contractCase struct {
	prepare func(*azuresim.Cloud)
	env     []string
	request func() sent
	status  int
	code    string            // of the body, "" where there is none
	header  map[string]string // beside those that every answer has
}

const validBody = `{"deviceId":"` + someDevice + `","reference":"RITM0012345"}`

func valid() sent { return post(validBody) }

func fail(step azuresim.Step, f azuresim.Fault) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) { c.Fail(step, -1, f) }
}

// answers returns the case of a request on a healthy deployment. The response has a header, by its name and value.
func answers(request func() sent, status int, code string, header ...string) contractCase {
	test := contractCase{request: request, status: status, code: code}
	if len(header) > 0 {
		test.header = map[string]string{header[0]: header[1]}
	}
	return test
}

// body returns a request with that body.
func body(text string) func() sent { return func() sent { return post(text) } }

// with returns a valid request with changes.
func with(changes ...func(*sent)) func() sent {
	return func() sent { return post(validBody, changes...) }
}

var representation = header("Prefer", "return=representation")

// contractCases are every success, every refusal, and every fault of the services.
func contractCases() map[string]contractCase {
	challenge := []string{"WWW-Authenticate", `Webhook-Signature realm="unassign"`}
	// failing makes a case of a valid request while a step fails.
	failing := func(step azuresim.Step, f azuresim.Fault, status int, code string, retryAfter ...string) contractCase {
		test := contractCase{prepare: fail(step, f), request: valid, status: status, code: code}
		if len(retryAfter) > 0 {
			test.header = map[string]string{"Retry-After": retryAfter[0]}
		}
		return test
	}
	return map[string]contractCase{
		"done":                         answers(valid, 204, ""),
		"done, with a representation":  answers(with(representation), 200, "unassigned", "Preference-Applied", "return=representation"),
		"done, no Content-Type":        answers(with(header("Content-Type")), 204, ""),
		"done, by API key":             answers(with(unsigned, header("X-Api-Key", canaryAPIKey)), 204, ""),
		"done, a wrong key beside":     answers(with(header("X-Api-Key", "wrong")), 204, ""),
		"done, Graph says 200":         failing(azuresim.StepGraph, azuresim.Body(200, "application/json", `{"value":true}`), 204, ""),
		"a proxy says 200 and HTML":    failing(azuresim.StepGraph, azuresim.WrongType(), 502, "graph_bad_answer"),
		"done, the other shape of 2xx": failing(azuresim.StepGraph, azuresim.Status(202), 204, ""),

		"no evidence": answers(with(unsigned), 401, "unauthenticated", challenge...),
		"a signature by a stranger": answers(with(func(s *sent) {
			caller.Sign(s.Header, []byte("stranger-0123456789abcdefgh"), "msg_1", time.Now(), []byte(s.Body))
		}), 401, "unauthenticated", challenge...),
		"a signature of another body": answers(with(func(s *sent) { s.Body = strings.Replace(s.Body, "RITM", "RITN", 1) }), 401, "unauthenticated", challenge...),
		"a dot in the id":             answers(with(func(s *sent) { caller.Sign(s.Header, canaryKey, "msg.1", time.Now(), []byte(s.Body)) }), 401, "unauthenticated", challenge...),
		"two signatures headers":      answers(with(func(s *sent) { s.Header.Add("Webhook-Id", "msg_2") }), 401, "unauthenticated", challenge...),
		"too old": answers(with(func(s *sent) {
			caller.Sign(s.Header, canaryKey, "msg_1", time.Now().Add(-302*time.Second), []byte(s.Body))
		}), 401, "request_expired", challenge...),
		"too early": answers(with(func(s *sent) {
			caller.Sign(s.Header, canaryKey, "msg_1", time.Now().Add(303*time.Second), []byte(s.Body))
		}), 401, "request_expired", challenge...),
		"a wrong API key": answers(with(unsigned, header("X-Api-Key", canaryAPIKey+"x")), 401, "unauthenticated", challenge...),

		"GET":                  answers(with(func(s *sent) { s.Method, s.Body = http.MethodGet, "" }), 405, "method_not_allowed", "Allow", "POST"),
		"DELETE":               answers(with(func(s *sent) { s.Method = http.MethodDelete }), 405, "method_not_allowed", "Allow", "POST"),
		"a form":               answers(with(header("Content-Type", "application/x-www-form-urlencoded")), 415, "unsupported_media_type", "Accept-Post", "application/json"),
		"JSON in Latin-1":      answers(with(header("Content-Type", "application/json; charset=iso-8859-1")), 415, "unsupported_media_type", "Accept-Post", "application/json"),
		"an encoding":          answers(with(header("Content-Encoding", "gzip")), 415, "unsupported_media_type", "Accept-Post", "application/json"),
		"16 KiB":               answers(body(padded(16<<10)), 204, ""),
		"16 KiB and a byte":    answers(body(padded(16<<10+1)), 413, "body_too_large"),
		"1 MiB, not authentic": answers(func() sent { return post(padded(1<<20), unsigned) }, 401, "unauthenticated", challenge...),

		"no body":              answers(body(""), 400, "body_missing"),
		"no JSON":              answers(body("deviceId=1"), 400, "invalid_json"),
		"an unknown field":     answers(body(`{"deviceId":"`+someDevice+`","force":true}`), 400, "unknown_field"),
		"a field twice":        answers(body(`{"deviceId":"`+someDevice+`","deviceId":"`+someDevice+`"}`), 400, "duplicate_field"),
		"no device":            answers(body(`{}`), 400, "selector_missing"),
		"no id":                answers(body(`{"deviceId":"5CG1234ABC"}`), 400, "device_id_invalid"),
		"a number as ticket":   answers(body(`{"deviceId":"`+someDevice+`","reference":1}`), 400, "reference_invalid"),
		"a string as context":  answers(body(`{"deviceId":"`+someDevice+`","context":"x"}`), 400, "context_invalid"),
		"an empty key":         answers(with(unsigned, header("X-Api-Key", canaryAPIKey), header("Idempotency-Key", "")), 400, "idempotency_key_invalid"),
		"a problem, preferred": answers(func() sent { return post(`{}`, header("Accept", "application/problem+json, "+"*/*;q=0.1")) }, 400, "selector_missing", "Content-Type", "application/problem+json"),
		"a problem, refused":   answers(func() sent { return post(`{}`, header("Accept", "application/problem+json;q=0")) }, 400, "selector_missing"),

		"an unknown device":             answers(body(`{"deviceId":"6f1a9c0e-5b1d-4c55-9d3a-000000000000"}`), 404, "device_not_found"),
		"Graph 404":                     failing(azuresim.StepGraph, azuresim.GraphError(404, azuresim.Nested, 0), 404, "device_not_found"),
		"Graph 400":                     failing(azuresim.StepGraph, azuresim.GraphError(400, azuresim.Nested, 0), 422, "graph_rejected"),
		"Graph 400 with HTML in it":     failing(azuresim.StepGraph, azuresim.GraphError(400, azuresim.HTML, 0), 422, "graph_rejected"),
		"Graph 400 for the tenant":      failing(azuresim.StepGraph, azuresim.Body(400, "application/json", `{"error":{"code":"BadRequest","message":"Request not applicable to target tenant."}}`), 424, "tenant_not_enabled"),
		"Graph 400 that is a 500":       failing(azuresim.StepGraph, azuresim.Body(400, "application/json", `{"error":{"code":"InternalError","message":""}}`), 502, "graph_error"),
		"Graph 401":                     failing(azuresim.StepGraph, azuresim.GraphError(401, azuresim.DoublyNested, 0), 424, "graph_permission_missing"),
		"Graph 403":                     failing(azuresim.StepGraph, azuresim.GraphError(403, azuresim.Nested, 0), 424, "graph_permission_missing"),
		"no role in the token":          {prepare: func(c *azuresim.Cloud) { c.SetGraphRoles("Device.Read.All") }, request: valid, status: 424, code: "graph_permission_missing"},
		"Graph 409":                     failing(azuresim.StepGraph, azuresim.GraphError(409, azuresim.Plain, 0), 409, "graph_conflict"),
		"Graph 412":                     failing(azuresim.StepGraph, azuresim.GraphError(412, azuresim.Plain, 0), 409, "state_changed"),
		"Graph 423":                     failing(azuresim.StepGraph, azuresim.GraphError(423, azuresim.Plain, 0), 503, "device_locked", "30"),
		"Graph 429":                     failing(azuresim.StepGraph, azuresim.GraphError(429, azuresim.Plain, 0), 429, "graph_throttled", "30"),
		"Graph 429 that says when":      failing(azuresim.StepGraph, azuresim.Status(429, "Retry-After", "120"), 429, "graph_throttled", "120"),
		"Graph 429 that says it inside": failing(azuresim.StepGraph, azuresim.GraphError(429, azuresim.Nested, 77), 429, "graph_throttled", "77"),
		"Graph 429 once": {prepare: func(c *azuresim.Cloud) {
			c.Fail(azuresim.StepGraph, 1, azuresim.GraphError(429,
				azuresim.Plain, 0))
		}, request: valid, status: 204, code: ""},
		"Graph 500":                   failing(azuresim.StepGraph, azuresim.GraphError(500, azuresim.Nested, 0), 502, "graph_error"),
		"Graph 502 from an edge":      failing(azuresim.StepGraph, azuresim.GraphError(502, azuresim.NotJSON, 0), 502, "graph_error"),
		"Graph 503":                   failing(azuresim.StepGraph, azuresim.Status(503, "Retry-After", "45"), 503, "graph_unavailable", "45"),
		"Graph 504":                   failing(azuresim.StepGraph, azuresim.GraphError(504, azuresim.NotJSON, 0), 504, "graph_timeout"),
		"Graph hangs":                 failing(azuresim.StepGraph, azuresim.Hang(), 504, "graph_timeout"),
		"Graph breaks the connection": failing(azuresim.StepGraph, azuresim.Reset(), 502, "graph_bad_answer"),
		"Graph redirects":             failing(azuresim.StepGraph, azuresim.Redirect("https://127.0.0.1:1/"), 502, "graph_bad_answer"),
		"Graph is not there":          failing(azuresim.StepGraph, azuresim.Refused(), 503, "upstream_unreachable", "30"),

		"the vault says 403":         failing(azuresim.StepSecret, azuresim.Status(403), 424, "vault_forbidden"),
		"the vault says 401":         failing(azuresim.StepSecret, azuresim.Status(401), 424, "vault_forbidden"),
		"no key in the vault":        {prepare: func(c *azuresim.Cloud) { c.DeleteSecret("webhook-servicenow") }, request: valid, status: 424, code: "secret_not_found"},
		"no app secret in the vault": {prepare: func(c *azuresim.Cloud) { c.DeleteSecret("graph-client-secret") }, request: valid, status: 424, code: "secret_not_found"},
		"a disabled app secret": {prepare: func(c *azuresim.Cloud) {
			c.PutSecret("graph-client-secret", azuresim.Secret{Value: "x", Disabled: true})
		}, request: valid, status: 424, code: "secret_disabled"},
		"a key that is no key": {prepare: func(c *azuresim.Cloud) {
			c.PutSecret("webhook-servicenow",
				azuresim.Secret{Value: "whsec_short"})
		}, request: valid, status: 424, code: "secret_invalid"},
		"the vault says 429":           failing(azuresim.StepSecret, azuresim.Status(429, "Retry-After", "20"), 503, "vault_unavailable", "20"),
		"the vault says 500":           failing(azuresim.StepSecret, azuresim.Status(500), 503, "vault_unavailable", "10"),
		"the vault hangs":              failing(azuresim.StepSecret, azuresim.Hang(), 504, "vault_timeout"),
		"the vault challenges wrongly": failing(azuresim.StepChallenge, azuresim.MalformedChallenge(), 503, "vault_unavailable", "10"),
		"the vault is not there":       failing(azuresim.StepChallenge, azuresim.NoHost(), 503, "upstream_unreachable", "30"),
		"the vault is not trusted":     failing(azuresim.StepChallenge, azuresim.Untrusted(), 424, "upstream_tls"),

		"the identity says 400":            {env: []string{"AZURE_CLIENT_ID=00000000-1111-4222-8333-444444444444"}, request: valid, status: 424, code: "credential_rejected"},
		"the identity says 500":            failing(azuresim.StepIdentity, azuresim.Status(500), 503, "identity_unavailable", "30"),
		"the identity hangs":               failing(azuresim.StepIdentity, azuresim.Hang(), 504, "identity_timeout"),
		"Entra says the app is unknown":    {env: []string{"GRAPH_CLIENT_ID=00000000-1111-4222-8333-444444444444"}, request: valid, status: 424, code: "app_not_found"},
		"Entra says the tenant is unknown": {env: []string{"GRAPH_TENANT_ID=00000000-1111-4222-8333-444444444444"}, request: valid, status: 424, code: "tenant_not_found"},
		"Entra says the scope is unknown":  failing(azuresim.StepToken, azuresim.Body(400, "application/json", `{"error":"invalid_resource","error_description":"AADSTS500011: x","error_codes":[500011]}`), 424, "scope_invalid"),
		"Entra refuses the secret":         {prepare: func(c *azuresim.Cloud) { c.SetAppSecrets("another") }, request: valid, status: 424, code: "credential_rejected"},
		"Entra says the secret is expired": {prepare: func(c *azuresim.Cloud) { c.ExpireAppSecret(canarySecret) }, request: valid, status: 424, code: "credential_expired"},
		"Entra says 429":                   failing(azuresim.StepToken, azuresim.Status(429), 503, "identity_unavailable", "60"),
		"Entra says 503":                   failing(azuresim.StepToken, azuresim.Status(503), 503, "identity_unavailable", "30"),
		"Entra cuts the token off":         failing(azuresim.StepToken, azuresim.Truncated(), 503, "identity_unavailable", "30"),
		"Entra hangs":                      failing(azuresim.StepToken, azuresim.Hang(), 504, "identity_timeout"),
	}
}

// padded returns a valid body of that many bytes.
func padded(size int) string {
	return validBody + strings.Repeat(" ", size-len(validBody))
}

// comparable are the headers that the contract speaks of.
var comparableHeaders = []string{
	"Content-Type", "Cache-Control", "X-Content-Type-Options", "X-Request-Id", "Retry-After", "WWW-Authenticate",
	"Allow", "Accept-Post", "Preference-Applied", "Idempotent-Replayed",
}

// TestContract sends the same requests to the adapters of all hosts, on a cloud in this process, and compares the
// results. TestContractOfProcesses has some of them go through the built program.
func TestContract(t *testing.T) {
	t.Parallel()
	route := unassignRoute(t)
	covered := map[string]bool{}
	cases := contractCases()
	maps.Copy(cases, deviceCases())
	maps.Copy(cases, tokenCases())
	for name, test := range cases {
		covered[test.code] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.compareHosts(t, route, func(t *testing.T, host string) (answer got) {
				t.Helper()
				synctest.Test(t, func(t *testing.T) {
					c := newCloud()
					if test.prepare != nil {
						test.prepare(c)
					}
					start := time.Now()
					answer = test.run(t, host, startInProcess(t, c, host, test.env), canaries(c, nil))
					if took := time.Since(start); took > requestTimeout {
						t.Errorf("%s: the answer took %v of %v", host, took, requestTimeout)
					}
					time.Sleep(requestTimeout) // which ends abandoned work
				})
				return answer
			})
		})
	}
	// The codes that cannot be had by one request through every host have tests of their own.
	for _, code := range []string{
		"", "unassigned", "route_not_found", "body_timeout", "internal_error", "rate_limited", "idempotency_key_reused",
		"in_progress", "operator_denied", "query_invalid",
		"admin_approval_required", "vault_version_unsupported",
	} {
		covered[code] = true
	}
	for _, code := range route.Spec.Components.Schemas["FailureError"].Value.Properties["code"].Value.Enum {
		if !covered[fmt.Sprint(code)] {
			t.Errorf("no request ends with %s", code)
		}
	}
}

// TestContractOfProcesses is TestContract for a request of every status, with the built program under each host.
func TestContractOfProcesses(t *testing.T) {
	t.Parallel()
	route := unassignRoute(t)
	all := contractCases()
	maps.Copy(all, deviceCases())
	maps.Copy(all, tokenCases())
	cases := map[string]contractCase{
		"no connection to Graph": {
			nil,
			[]string{"GRAPH_ENDPOINT=https://127.0.0.1:1"},
			valid, 503, "upstream_unreachable",
			map[string]string{"Retry-After": "30"},
		},
		"no certificate is trusted": {nil, []string{"SSL_CERT_FILE=/dev/null"}, valid, 424, "upstream_tls", nil},
	}
	for _, name := range []string{
		"done", "done, with a representation", "a list with an unknown", "no body", "too old", "a tag that is not",
		"an unknown device", "GET", "a shared serial number", "16 KiB and a byte", "a form", "Graph 400", "the vault says 403",
		"Graph 429 that says when", "Graph 500", "a list, throttled", "Graph hangs", "a token of Power Automate",
		"another app of the tenant", "a problem, preferred",
	} {
		cases[name] = all[name]
	}
	statuses := map[int]bool{}
	for name, test := range cases {
		statuses[test.status] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.compareHosts(t, route, func(t *testing.T, host string) got {
				t.Helper()
				c := newCloud()
				if test.prepare != nil {
					test.prepare(c)
				}
				served := c.Serve()
				defer served.Close()
				timeout := patient
				if test.status == http.StatusGatewayTimeout {
					timeout = "REQUEST_TIMEOUT=10s"
				}
				env := environment(t, c, served, append([]string{timeout}, test.env...)...)
				return test.run(t, host, hosts[host](t, env), canaries(c, served))
			})
		})
	}
	for status := range route.Operation.Responses.Map() {
		if n, err := strconv.Atoi(status); err == nil && !statuses[n] && n != 408 && n != 500 {
			t.Errorf("no request ends with %d", n)
		}
	}
}

// unassignRoute returns the route of openapi.yaml.
func unassignRoute(t *testing.T) *routers.Route {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../handler/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	item := doc.Paths.Value("/api/unassign")
	return &routers.Route{Spec: doc, Path: "/api/unassign", PathItem: item, Method: http.MethodPost, Operation: item.Post}
}

// compareHosts has run send the request through every host, and holds the answers to openapi.yaml and to each other.
func (test contractCase) compareHosts(
	t *testing.T, route *routers.Route, run func(t *testing.T, host string) got,
) {
	t.Helper()
	answers := map[string]string{}
	for host := range hosts {
		answer := run(t, host)
		validate(t, route, host, answer)
		answers[host] = comparableAnswer(answer)
	}
	for host, answer := range answers {
		if answer != answers[config.Local] {
			t.Errorf("%s: %s\n%s: %s", config.Local, answers[config.Local], host, answer)
		}
	}
}

// run sends the request of a case through one host and checks the answer and the log.
func (test contractCase) run(t *testing.T, host string, d deployment, hidden []string) got {
	t.Helper()
	answer, err := d.send(t.Context(), test.request())
	d.stop()
	if err != nil {
		t.Fatalf("%s: %v\n%s", host, err, strings.Join(d.lines(), "\n"))
	}
	var parsed struct {
		Code    string
		Error   struct{ Code string }
		Results []struct {
			Code   string
			Error  struct{ Code string }
			Status int
		}
	}
	if answer.body != "" {
		if err := json.Unmarshal([]byte(answer.body), &parsed); err != nil {
			t.Fatalf("%s: %v in %s", host, err, answer.body)
		}
	}
	log := strings.Join(d.lines(), "\n")
	if answer.status != test.status || parsed.Code+parsed.Error.Code != test.code {
		t.Fatalf("%s: %d %s\n%s\nwant %d %s", host, answer.status, answer.body, log, test.status, test.code)
	}
	want := map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		"X-Request-Id": "request-1",
	}
	if answer.body != "" {
		want["Content-Type"] = "application/json"
	}
	maps.Copy(want, test.header)
	for _, name := range comparableHeaders {
		if answer.header.Get(name) != want[name] {
			t.Errorf("%s: %s is %q, want %q", host, name, answer.header.Get(name), want[name])
		}
	}
	ends := []end{{cmp.Or(test.code, "unassigned"), answer.status}}
	if parsed.Results != nil {
		ends = nil
	}
	for _, result := range parsed.Results {
		ends = append(ends, end{result.Code + result.Error.Code, result.Status})
	}
	checkAudit(t, host, d.lines(), ends)
	if found := leaks(hidden, log, answer.body, fmt.Sprint(answer.header)); len(found) > 0 {
		t.Errorf("%s: leaked %q in\n%s\n%s", host, found, log, answer.body)
	}
	return answer
}

// end is the result of a request, or of one device of a list.
type end struct {
	code   string
	status int
}

// checkAudit looks for exactly the records of those ends, in order.
func checkAudit(t *testing.T, host string, lines []string, ends []end) {
	t.Helper()
	var records []map[string]any
	for _, line := range lines {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Errorf("%s: the log has a line that is not JSON: %s", host, line)
		}
		if record["message"] == "unassign" {
			records = append(records, record)
		}
	}
	if len(records) != len(ends) {
		t.Fatalf("%s: %d audit records, want %d, in %s", host, len(records), len(ends), strings.Join(lines, "\n"))
	}
	for i, r := range records {
		code, status := ends[i].code, ends[i].status
		// An answer without a body does not tell that there was nothing to do. The record does.
		if r["code"] == "already_unassigned" && status == http.StatusNoContent {
			code = "already_unassigned"
		}
		if r["request_id"] != "request-1" || r["host"] != host || r["code"] != code || r["status"] != float64(status) ||
			r["timestamp"] == nil || r["level"] == nil {
			t.Errorf("%s: the audit record is %v, want %s and %d", host, r, code, status)
		}
		if host != config.Local && r["invocation_id"] == nil {
			t.Errorf("%s: the audit record has no invocation_id: %v", host, r)
		}
		if status < 300 && (r["caller_id"] == nil || r["device_id"] == nil || r["attempts"] == float64(0)) {
			t.Errorf("%s: the audit record is %v", host, r)
		}
		if code == "unassigned" && (r["reference"] != "RITM0012345" || r["graph_client_request_id"] == nil ||
			r["dry_run"] != false) {
			t.Errorf("%s: the audit record is %v", host, r)
		}
		if status >= 400 && r["error"] == nil {
			t.Errorf("%s: the audit record has no error: %v", host, r)
		}
	}
}

// comparableAnswer is a response without the parts that differ between equal ones.
func comparableAnswer(a got) string {
	text := fmt.Sprint(a.status)
	for _, name := range comparableHeaders {
		text += "\n" + name + ": " + a.header.Get(name)
	}
	var body map[string]any
	if a.body != "" && json.Unmarshal([]byte(a.body), &body) == nil {
		results, _ := body["results"].([]any)
		for _, part := range append(results, body) {
			if part, ok := part.(map[string]any); ok {
				delete(part, "graphRequestId")
				if graph, ok := part["graph"].(map[string]any); ok {
					delete(graph, "requestId")
				}
			}
		}
	}
	return text + "\n" + fmt.Sprint(body)
}

// validate holds an answer to openapi.yaml.
func validate(t *testing.T, route *routers.Route, host string, a got) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), route.Method, route.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, Route: route},
		Status:                 a.status,
		Header:                 a.header,
		Body:                   io.NopCloser(strings.NewReader(a.body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if err := openapi3filter.ValidateResponse(context.WithoutCancel(t.Context()), input); err != nil {
		t.Errorf("%s: openapi.yaml: %v", host, err)
	}
	var failure struct{ Error struct{ Code string } }
	if a.status < 400 || json.Unmarshal([]byte(a.body), &failure) != nil {
		return
	}
	codes, _ := route.Operation.Responses.Value(fmt.Sprint(a.status)).Value.Extensions["x-codes"].([]any)
	if !slices.Contains(codes, any(failure.Error.Code)) {
		t.Errorf("%s: openapi.yaml does not have %s at %d", host, failure.Error.Code, a.status)
	}
}
