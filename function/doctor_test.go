package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/doctor"
	"autopilot-unassign/internal/hosttest/lambda"
)

// The program itself, on a cloud that is served: its exit status, and the settings that only a process has.
func TestDoctorAsProcess(t *testing.T) {
	t.Parallel()
	c := newCloud()
	served := c.Serve()
	t.Cleanup(served.Close)
	// az is what the Azure CLI is to the program: it prints a token.
	az := t.TempDir()
	token := c.Token(c.AppClaims("1.0", "https://vault.azure.net",
		c.IdentityClientID).With(azuresim.Claims{"issued_ns": "0"}), nil)
	script := fmt.Sprintf("#!/bin/sh\necho '{\"accessToken\":%q,\"expires_on\":%d,\"tokenType\":\"Bearer\"}'\n", token,
		time.Now().Add(time.Hour).Unix())
	if err := os.WriteFile(filepath.Join(az, "az"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change []string
		args   []string
		code   int
		out    []string // of standard output
		err    string   // of standard error
	}{
		"all is well": {nil, nil, 0, []string{"ok         read the first Autopilot device from Graph: 1, and no " +
			"more\n", "Nothing was changed"}, ""},
		"as JSON": {nil, []string{"-json"}, 0, []string{`"ok": true`, `"check": "graph_devices"`}, ""},
		"signed in with az": {
			[]string{"VAULT_CREDENTIAL=azure-cli", "PATH=" + az + ":/bin:/usr/bin"},
			nil, 0,
			[]string{"by VAULT_CREDENTIAL=azure-cli: received"},
			"",
		},
		"without az": {
			[]string{"VAULT_CREDENTIAL=azure-cli", "PATH=" + t.TempDir()},
			nil, 1,
			[]string{"the Azure CLI gave no token: run az login"},
			"1 of ",
		},
		"a setting missing": {[]string{"GRAPH_TENANT_ID="}, nil, 1, []string{"GRAPH_TENANT_ID is not set"}, "1 of "},
		"nobody is trusted": {[]string{"SSL_CERT_FILE=/dev/null"}, nil, 1, []string{"the certificate of Key Vault is not " +
			"trusted"}, "1 of "},
		"another argument": {nil, []string{"now"}, 2, nil, "doctor takes no arguments"},
		"no settings":      {nil, nil, 2, nil, "no setting of a deployment is in the environment"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command := exec.Command(binary, append([]string{"doctor"}, test.args...)...)
			command.Env = []string{"PATH=/bin:/usr/bin", "HOME=" + t.TempDir()}
			if test.code != 2 {
				command.Env = environment(t, c, served, append(command.Env, test.change...)...)
			}
			var stdout, stderr bytes.Buffer
			command.Stdout, command.Stderr = &stdout, &stderr
			err := command.Run()
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			}
			if code != test.code || !strings.Contains(stderr.String(), test.err) {
				t.Errorf("exit status %d, want %d\n%s%s", code, test.code, &stdout, &stderr)
			}
			for _, words := range test.out {
				if !strings.Contains(stdout.String(), words) {
					t.Errorf("%q is not in\n%s%s", words, &stdout, &stderr)
				}
			}
			if found := leaks(append(canaries(c, served), token), stdout.String(),
				stderr.String()); len(found) > 0 {
				t.Errorf("leaked %q in\n%s%s", found, &stdout, &stderr)
			}
			if strings.Contains(stdout.String(), "\x1b") {
				t.Error("it is coloured although it is not on a terminal")
			}
		})
	}
}

// askDoctor asks a deployment for its report with those headers, and holds the answer to openapi.yaml.
func askDoctor(t *testing.T, host string, d deployment, changes ...func(*sent)) got {
	t.Helper()
	s := post("", append([]func(*sent){
		func(s *sent) { s.Method, s.Target = http.MethodGet, "/api/doctor" },
		header("Content-Type"),
	}, changes...)...)
	answer, err := d.send(t.Context(), s)
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	doc, err := openapi3.NewLoader().LoadFromFile("../handler/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	item := doc.Paths.Value("/api/doctor")
	if s.Method != http.MethodHead {
		validate(t, &routers.Route{
			Spec: doc, Path: "/api/doctor", PathItem: item, Method: http.MethodGet,
			Operation: item.Get,
		}, host, answer)
	}
	return answer
}

// On every host an operator gets the report, and a stranger does not.
func TestDoctorRoute(t *testing.T) {
	t.Parallel()
	for host := range hosts {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			served := c.Serve()
			defer served.Close()
			d := hosts[host](t, environment(t, c, served, "OPERATOR_CALLERS=api-key-flow"))
			defer d.stop()
			byKey, before := header("X-Api-Key", canaryAPIKey), c.Devices()
			var log []map[string]string // the expected records, in order
			for _, test := range []struct {
				name       string
				prepare    func()
				changes    []func(*sent)
				status     int
				code, id   string
				bad        []string // the findings of the report that are not ok
				body, head string   // something in the answer, and one of its headers
			}{
				{
					"a key", nil,
					[]func(*sent){unsigned, byKey},
					200, "examined", "api-key-flow", nil,
					`"check":"graph_devices","mark":"ok"`, "Content-Type: application/json",
				},
				{
					"HEAD", nil,
					[]func(*sent){unsigned, byKey, func(s *sent) { s.Method = http.MethodHead }},
					200, "examined",
					"api-key-flow", nil, "", "Content-Type: application/json",
				},
				{
					"a stranger", nil,
					[]func(*sent){unsigned},
					401, "unauthenticated", "", nil, "",
					`WWW-Authenticate: Webhook-Signature realm="unassign"`,
				},
				{
					"POST", nil,
					[]func(*sent){unsigned, byKey, func(s *sent) { s.Method, s.Body = http.MethodPost, validBody }},
					405, "method_not_allowed", "", nil, "", "Allow: GET, HEAD",
				},
				{
					"a vault that refuses", func() {
						c.Fail(azuresim.StepSecret, -1, azuresim.Body(403, "application/json",
							`{"error":{"code":"Forbidden","innererror":{"code":"ForbiddenByFirewall"}}}`))
					},
					[]func(*sent){unsigned, byKey},
					200, "examined", "api-key-flow",
					vaultRefused(), `"code":"ForbiddenByFirewall"`, "",
				},
			} {
				if test.prepare != nil {
					test.prepare()
				}
				answer := askDoctor(t, host, d, test.changes...)
				if answer.status != test.status || !strings.Contains(answer.body, test.body) ||
					answer.header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: %d %s", test.name, answer.status, answer.body)
				}
				if name, value, ok := strings.Cut(test.head, ": "); ok && answer.header.Get(name) != value {
					t.Errorf("%s: %s is %q", test.name, name, answer.header.Get(name))
				}
				var r doctor.Report
				if test.code == "examined" && test.name != "HEAD" {
					reader := json.NewDecoder(strings.NewReader(answer.body))
					reader.DisallowUnknownFields()
					if err := reader.Decode(&r); err != nil || !slices.Equal(notWell(r), test.bad) || r.OK != (test.bad == nil) {
						t.Errorf("%s: %v, found %q", test.name, err, notWell(r))
					}
				}
				want := map[string]string{
					"caller_id": test.id, "code": test.code, "status": fmt.Sprint(test.status),
					"host": host, "request_id": "request-1",
				}
				if test.code == "examined" {
					want["failed"], want["warnings"], want["not_tried"] = fmt.Sprint(r.Failed), fmt.Sprint(r.Warnings),
						fmt.Sprint(r.NotTried)
				}
				log = append(log, want)
				if found := leaks(canaries(c, served), answer.body, fmt.Sprint(answer.header)); len(found) > 0 {
					t.Errorf("%s: leaked %q in %s", test.name, found, answer.body)
				}
			}
			for i, record := range records(t, d, "doctor", len(log)) {
				check(t, host, record, log[i])
			}
			if found := leaks(canaries(c, served), d.lines()...); len(found) > 0 {
				t.Errorf("leaked %q in %s", found, strings.Join(d.lines(), "\n"))
			}
			if !slices.Equal(before, c.Devices()) {
				t.Error("a device has changed")
			}
		})
	}
}

// A principal that may invoke the Lambda function can have it examine itself. It is a success also where
// something is wrong, and takes nothing beside it.
func TestLambdaDoctor(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnLambda(t, c, lambda.Options{})
	c.SetGraphRoles("Mail.Read") // before there is a token
	for event, want := range map[string]string{
		`{"command":"doctor"}`:                 "",
		`{"command":"doctor","dryRun":true}`:   "the command doctor takes nothing beside it",
		`{"Command":"doctor"}`:                 "the command doctor takes nothing beside it",
		`{"command":"doctor","Records":[]}`:    "the event is of no kind that is served",
		`{"command":["doctor"]}`:               "",
		`{"command":"doctor ","dryRun":false}`: "",
	} {
		answer, failure, id := invoke(t, d, c, event)
		if failure != want {
			t.Errorf("%s: %q, want %q", event, failure, want)
		}
		if event != `{"command":"doctor"}` {
			if strings.Contains(answer, "findings") {
				t.Errorf("%s: %s", event, answer)
			}
			continue
		}
		var r doctor.Report
		if err := json.Unmarshal([]byte(answer), &r); err != nil {
			t.Fatal(err)
		}
		if got, want := notWell(r), []string{
			"failed graph_role", "warning graph_other_roles",
			"not_tried graph_devices",
		}; r.OK || !slices.Equal(got, want) {
			t.Errorf("found %q, want %q", got, want)
		}
		check(t, event, records(t, d, "doctor", 1)[0], map[string]string{
			"level": "INFO", "invocation_id": id,
			"failed": "1", "warnings": "1", "not_tried": "1",
		})
	}
}

// notWell returns the findings of r that are not ok: mark, check and subject.
func notWell(r doctor.Report) []string {
	var list []string
	for _, f := range r.Findings {
		if f.Mark != doctor.OK {
			list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Mark, f.Check, f.Subject)))
		}
	}
	return list
}

// vaultRefused returns the findings if the vault refuses to read any secret.
func vaultRefused() []string {
	return []string{
		"failed secret graph-client-secret", "failed secret webhook-servicenow", "not_tried webhook_key webhook-servicenow",
		"failed secret api-key-flow", "not_tried api_key api-key-flow",
		"not_tried graph_token graph-client-secret", "not_tried graph_role", "not_tried graph_other_roles",
		"not_tried graph_devices",
	}
}
