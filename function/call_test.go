package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"autopilot-unassign/internal/client"
	"autopilot-unassign/internal/config"
)

func noEnv(string) string { return "" }

// runCommand runs the program with arguments and standard input, and returns what it printed.
func runCommand(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), append([]string{"unassign"}, args...), noEnv, strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), err
}

// serveSimulation serves a simulated cloud until the test ends, and returns it with its address.
func serveSimulation(t *testing.T) (*simulation, string) {
	t.Helper()
	s, err := newSimulation(noEnv, &lockedBuffer{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.handler)
	t.Cleanup(server.Close)
	return s, server.URL
}

func TestCall(t *testing.T) {
	s, url := serveSimulation(t)
	device := s.cloud.Devices()[0].ID
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(s.webhookKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	stdout, stderr, err := runCommand(t, "", "call", "-url", url, "-secret-file", keyFile, "-device", device, "-reference", "RITM1")
	if err != nil || stderr != "200 OK\n" || !strings.Contains(stdout, `"code": "unassigned"`) || !strings.Contains(stdout, `"reference": "RITM1"`) {
		t.Errorf("signed: %v\n%s%s", err, stderr, stdout)
	}
	if d, _ := s.cloud.Device(device); d.UserPrincipalName != "" {
		t.Errorf("the device still has %s", d.UserPrincipalName)
	}
	stdout, stderr, err = runCommand(t, s.apiKey, "call", "-url", url+"/api/unassign/", "-api-key-file", "-", "-device", device)
	if err != nil || stderr != "200 OK\n" {
		t.Errorf("with an API key: %v\n%s%s", err, stderr, stdout)
	}
	stdout, stderr, err = runCommand(t, s.webhookKey, "call", "-url", url, "-secret-file", "-", "-serial", "PF3-0123-4567", "-expect", "kiosk.lobby@contoso.com", "-dry-run")
	if err != nil || stderr != "200 OK\n" || !strings.Contains(stdout, `"code": "would_unassign"`) {
		t.Errorf("a dry run by serial number: %v\n%s%s", err, stderr, stdout)
	}
	stdout, stderr, err = runCommand(t, s.webhookKey, "call", "-url", url, "-secret-file", "-", "-serial", "PF3-0123-4567", "-expect", "kiosk.cellar")
	if err == nil || stderr != "409 Conflict\n" || !strings.Contains(stdout, `"code": "state_changed"`) {
		t.Errorf("another account: %v\n%s%s", err, stderr, stdout)
	}
	stdout, stderr, err = runCommand(t, s.webhookKey, "call", "-url", url, "-secret-file", "-", "-serial", "PF3-0123-4567", "-device", device, "-verify")
	if err != nil || stderr != "200 OK\n" || !strings.Contains(stdout, `"succeeded": 2`) || strings.Count(stdout, `"verification": "cleared"`) != 2 {
		t.Errorf("two devices: %v\n%s%s", err, stderr, stdout)
	}
	stdout, stderr, err = runCommand(t, s.webhookKey, "call", "-url", url, "-secret-file", "-", "-device", "6f1a9c0e-5b1d-4c55-9d3a-000000000000")
	if err == nil || stderr != "404 Not Found\n" || !strings.Contains(stdout, `"code": "device_not_found"`) {
		t.Errorf("an unknown device: %v\n%s%s", err, stderr, stdout)
	}
}

// A deployment examines itself for whoever may have it so. The exit status is that of the command that examines.
func TestCallDoctor(t *testing.T) {
	s, err := newSimulation(func(name string) string {
		return map[string]string{"OPERATOR_CALLERS": simulatedAPIKey, "RATE_LIMIT": "0"}[name]
	}, &lockedBuffer{})
	if err != nil {
		t.Fatal(err)
	}
	var asked []*http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r)
		s.handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<h1>hello</h1>") }))
	defer strange.Close()
	byKey := []string{"-api-key-file", "-"}
	for _, test := range []struct {
		name, key, url string
		prepare        func()
		args           []string
		status, out    string
		err            string // what the error has, "" for none
	}{
		{"well", s.apiKey, server.URL, nil, byKey, "200 OK\n", `"ok": true`, ""},
		{"the route", s.apiKey, server.URL + "/api/doctor", nil, byKey, "200 OK\n", `"ok": true`, ""},
		{"the other route", s.apiKey, server.URL + "/api/unassign", nil, byKey, "200 OK\n", `"ok": true`, ""},
		{"signed", s.webhookKey, server.URL, nil, []string{"-secret-file", "-"}, "403 Forbidden\n", `"code": "doctor_denied"`, "call: the answer is 403 Forbidden"},
		{"nobody", strings.Repeat("k", 24), server.URL, nil, byKey, "401 Unauthorized\n", `"code": "unauthenticated"`, "call: the answer is 401 Unauthorized"},
		{"not well", s.apiKey, server.URL, func() { s.cloud.SetGraphRoles("Mail.Read") }, byKey, "200 OK\n", `"mark": "failed"`, " checks failed"},
		{"somebody else", s.apiKey, strange.URL, nil, byKey, "200 OK\n", "<h1>hello</h1>", "call: the response is no report"},
	} {
		if test.prepare != nil {
			test.prepare()
		}
		stdout, stderr, err := runCommand(t, test.key, slices.Concat([]string{"call", "-doctor", "-url", test.url}, test.args)...)
		if stderr != test.status || !strings.Contains(stdout, test.out) || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v\n%s%s", test.name, err, stderr, stdout)
		}
	}
	for _, r := range asked {
		if r.Method != http.MethodGet || r.ContentLength != 0 || r.Header.Get("Content-Type") != "" {
			t.Errorf("it sent %s, %d bytes, %v", r.Method, r.ContentLength, r.Header)
		}
	}
}

func TestCallRefusesToBeMisused(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no address":          {[]string{"-secret-file", "-", "-device", "x"}, "-url is missing"},
		"a key in the clear":  {[]string{"-url", "http://contoso.example", "-secret-file", "-", "-device", "x"}, "-url must be https"},
		"no address at all":   {[]string{"-url", "contoso", "-secret-file", "-", "-device", "x"}, "-url is not an address"},
		"no key":              {[]string{"-url", "https://contoso.example", "-device", "x"}, "name one of -secret-file, -api-key-file and -token-file"},
		"two keys":            {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-api-key-file", "-", "-device", "x"}, "name one of -secret-file, -api-key-file and -token-file"},
		"no device":           {[]string{"-url", "https://contoso.example", "-secret-file", "-"}, "-device, -serial, -csv or -doctor is missing"},
		"expected of two":     {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-device", "x", "-serial", "y", "-expect", "z"}, "-expect is for one device"},
		"a dry run verified":  {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-device", "x", "-dry-run", "-verify"}, "nothing to -verify"},
		"three keys":          {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-api-key-file", "-", "-token-file", "-", "-device", "x"}, "name one of"},
		"a file and a device": {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-device", "x", "-csv", "y"}, "the file names the devices"},
		"a file and expected": {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-expect", "x", "-csv", "y"}, "the file names the devices"},
		"no file and -out":    {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-device", "x", "-out", "y"}, "are for -csv"},
		"by something else":   {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-csv", "x", "-by", "name"}, "-by is id or serial"},
		"a doctor's device":   {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-doctor", "-device", "x"}, "-doctor changes nothing"},
		"a doctor's list":     {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-doctor", "-csv", "x"}, "-doctor changes nothing"},
		"a doctor's dry run":  {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-doctor", "-dry-run"}, "-doctor changes nothing"},
		"fewer than none":     {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-device", "x", "-retries", "-1"}, "must not be negative"},
		"something more":      {[]string{"-url", "https://contoso.example", "-secret-file", "-", "-device", "x", "y"}, `"y" is not a flag`},
		"a flag nobody knows": {[]string{"-force"}, "flag provided but not defined: -force"},
	} {
		stdout, _, err := runCommand(t, "", append([]string{"call"}, test.args...)...)
		if _, ok := errors.AsType[client.UsageError](err); !ok || !strings.Contains(err.Error(), test.want) || stdout != "" {
			t.Errorf("%s: %v, %q; want a UsageError with %q", name, err, stdout, test.want)
		}
	}
	for flag, weak := range map[string]string{"-secret-file": "weak", "-api-key-file": "weak", "-token-file": "two words"} {
		_, _, err := runCommand(t, weak, "call", "-url", "https://contoso.example", flag, "-", "-device", "x")
		if err == nil || !strings.Contains(err.Error(), flag) || strings.Contains(err.Error(), weak) {
			t.Errorf("%s %q: %v", flag, weak, err)
		}
	}
}

func TestCallReportsNoAnswer(t *testing.T) {
	lost := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer lost.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	defer untrusted.Close()
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	file := writeFile(t, "devices.csv", "id", someDevice)
	for name, address := range map[string]string{"a lost connection": lost.URL, "no connection": gone.URL, "nobody to be trusted": untrusted.URL} {
		for _, device := range [][]string{{"-device", "x"}, {"-csv", file, "-out", filepath.Join(t.TempDir(), "out.csv")}} {
			args := slices.Concat([]string{"call", "-url", address + "?code=c2VjcmV0", "-api-key-file", "-", "-retries", "0"}, device)
			_, stderr, err := runCommand(t, strings.Repeat("k", 24), args...)
			if err == nil || !strings.Contains(err.Error(), "not known what was done") {
				t.Errorf("%s: %v", name, err)
			}
			if told := fmt.Sprint(stderr, err); strings.Contains(told, "code=") || strings.Contains(told, "c2VjcmV0") {
				t.Errorf("%s: the key in the address is told: %s", name, told)
			}
		}
	}
}

// Who answers does no more to a terminal than to print on it.
func TestCallPrintsAnyAnswer(t *testing.T) {
	for body, want := range map[string]string{
		"<h1>\x1b]0;x\a\x1b[2JB\u00e4d\u202e</h1>\r\n\there\xff\x9b\x00": "<h1>]0;x[2JB\u00e4d</h1>\n\there\ufffd\ufffd\n",
		`{"a":"\u001b[2J` + "\u009b" + `"}`:                              "{\n  \"a\": \"\\u001b[2J\"\n}\n",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, body)
		}))
		stdout, _, err := runCommand(t, strings.Repeat("k", 24), "call", "-url", server.URL, "-api-key-file", "-", "-device", "x")
		server.Close()
		if err == nil || stdout != want {
			t.Errorf("%v\n%q, want\n%q", err, stdout, want)
		}
	}
}

// Who has a token sends it as it is in the file, without the line's end.
func TestCallWithAToken(t *testing.T) {
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.WriteHeader(http.StatusNoContent)
	}))
	token := strings.Repeat("eyJ.", 3000) // longer than a key ever is
	_, stderr, err := runCommand(t, token+"\r\n", "call", "-url", server.URL, "-token-file", "-", "-device", someDevice)
	server.Close()
	if err != nil || stderr != "204 No Content\n" || got.Get("Authorization") != "Bearer "+token || got.Get("Idempotency-Key") == "" || got.Get("X-Api-Key")+got.Get("Webhook-Id") != "" {
		t.Errorf("%v\n%s%.300v", err, stderr, got)
	}
}

// A certificate that is not trusted will not be at the next attempt.
func TestCallDoesNotRepeatWhatIsNotTrusted(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	_, stderr, err := runCommand(t, strings.Repeat("k", 24), "call", "-url", server.URL, "-api-key-file", "-", "-device", "x")
	if err == nil || strings.Contains(stderr, "asking again") {
		t.Errorf("%v, %s", err, stderr)
	}
}

func TestRun(t *testing.T) {
	if stdout, _, err := runCommand(t, "", "version"); err != nil || stdout != version+"\n" {
		t.Errorf("version: %q, %v", stdout, err)
	}
	if stdout, _, err := runCommand(t, "", "help"); err != nil || stdout != usage {
		t.Errorf("help: %q, %v", stdout, err)
	}
	for _, args := range [][]string{{"sing"}, {"demo", "-fast"}, {"serve", "-port", "1"}} {
		if _, _, err := runCommand(t, "", args...); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}

func TestDemo(t *testing.T) {
	stdout, stderr, err := runCommand(t, "", "demo")
	if err != nil || stderr != "" {
		t.Fatalf("demo: %v\n%s", err, stderr)
	}
	for _, want := range []string{"nothing leaves this process", "webhook-signature: v1,", "200 OK", `"code": "unassigned"`, `"message": "unassign"`, "401 Unauthorized", `"code": "serial_number_ambiguous"`, "207 Multi-Status", `"dry_run": true`, `"code": "swept"`, "The devices now"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	if strings.Contains(stdout, "\x1b") {
		t.Error("the demo is coloured although it is not on a terminal")
	}
}

func TestServeSimulated(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out := &lockedBuffer{}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"unassign", "serve", "-listen", "127.0.0.1:0"}, noEnv, nil, out, out)
	}()
	for !strings.Contains(out.String(), "Stop with Ctrl-C") {
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopped: %v", err)
	}
	if first, _, _ := strings.Cut(out.String(), "\n"); first != "simulated: nothing leaves this process" {
		t.Errorf("the first line is %q", first)
	}
}

func TestOnlyTheLocalHostSimulates(t *testing.T) {
	for _, variable := range []string{"FUNCTIONS_CUSTOMHANDLER_PORT", "AWS_LAMBDA_RUNTIME_API"} {
		var out bytes.Buffer
		err := run(t.Context(), []string{"unassign"}, func(name string) string {
			return map[string]string{variable: "8080"}[name]
		}, nil, &out, &out)
		if _, ok := errors.AsType[config.Error](err); !ok || !strings.Contains(err.Error(), "KEY_VAULT_URL") || out.Len() > 0 {
			t.Errorf("%s with no settings: %v, %q", variable, err, out.String())
		}
	}
}
