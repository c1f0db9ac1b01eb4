package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/demo"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

func TestCall(t *testing.T) {
	t.Parallel()
	s, url := serveSimulation(t)
	device := s.Cloud.Devices()[0].ID
	keyFile := writeFile(t, "key", s.WebhookKey)
	for _, test := range []struct{ stdin, args, out, err string }{ // a part of standard output, and the beginning of the error
		{"", "-secret-file " + keyFile + " -device " + device + " -reference RITM1", device + " (5CG1234ABC): 200 unassigned. Account: room.fjord@contoso.com. ", ""},
		{s.APIKey, "-api-key-file - -device " + device, ": 200 already_unassigned.", ""},
		{s.WebhookKey, "-secret-file - -serial PF3-0123-4567 -expect kiosk.lobby@contoso.com -dry-run", "PF3-0123-4567: 200 would_unassign. Account: kiosk.lobby@contoso.com. ", ""},
		{s.WebhookKey, "-secret-file - -serial PF3-0123-4567 -expect kiosk.cellar", "PF3-0123-4567: 409 state_changed. … Request: ", "call: 1 device: 0 succeeded; 1 refused: 1 state_changed"},
		{s.WebhookKey, "-secret-file - -serial PF3-0123-4567 -device " + device + " -serial PF3-0123-4567 -verify", "PF3-0123-4567: 200 unassigned. … Verification: cleared.", ""},
		{s.WebhookKey, "-secret-file - -device " + unknownDevice, unknownDevice + ": 404 device_not_found. ", "call: 1 device: 0 succeeded; 1 refused: 1 device_not_found"},
		{s.WebhookKey, "-secret-file - -serial R90A2B3C -device x -dry-run", "x: 400 device_id_invalid. … R90A2B3C: 200 would_unassign.", "call: 2 devices: 1 succeeded: 1 would_unassign; 1 refused: 1 device_id_invalid"},
		{s.WebhookKey, "-secret-file - -serial R90A2B3C -device " + unknownDevice + " -dry-run -json", `"ok": false … "accountBefore": "room.elv@contoso.com" … "device_not_found": 1`, "call: 2 devices: "},
	} {
		stdout, stderr, err := runCommand(t, test.stdin, strings.Fields("-url "+url+" "+test.args)...)
		if (err == nil) != (test.err == "") || err != nil && !strings.HasPrefix(err.Error(), test.err) ||
			!containsAll(stdout, strings.Split(test.out, " … ")...) {
			t.Errorf("%s: %v\n%s%s", test.args, err, stderr, stdout)
		}
	}
	if d, _ := s.Cloud.Device(device); d.UserPrincipalName != "" {
		t.Errorf("the device still has %s", d.UserPrincipalName)
	}
	stdout, stderr, err := runCommand(t, "", "-url", url+"/", "-api-key-file", writeFile(t, "key", s.APIKey),
		"-json", "-serial", "R90D4E5F")
	var document struct {
		Version string
		OK      bool
		Summary struct{ Total, Succeeded int }
		Results []struct{ SerialNumber, AccountBefore, Code string }
	}
	if json.Unmarshal([]byte(stdout), &document) != nil || err != nil || stderr != "" || !document.OK ||
		document.Summary.Succeeded != 1 || document.Results[0].AccountBefore != "room.dal@contoso.com" {
		t.Errorf("%v\n%s%s", err, stderr, stdout)
	}
}

// The environment has the settings that the scripts of the documentation use. Flags come first.
func TestCallSettings(t *testing.T) {
	t.Parallel()
	s, url := serveSimulation(t)
	key, secret, wrong := writeFile(t, "key", s.APIKey), writeFile(t, "secret", s.WebhookKey), writeFile(t, "wrong",
		strings.Repeat("k", 24))
	for name, test := range map[string]struct {
		env  map[string]string
		args []string
		err  string
	}{
		"files": {
			map[string]string{"UNASSIGN_URL": url + "/api/unassign/", "UNASSIGN_SECRET_FILE": secret},
			nil, "",
		},
		"a value": {
			map[string]string{"UNASSIGN_URL": " " + url + "\r\n", "UNASSIGN_API_KEY": s.APIKey + "\r\n"},
			nil, "",
		},
		"a signing key": {map[string]string{"UNASSIGN_URL": url, "UNASSIGN_SECRET": s.WebhookKey}, nil, ""},
		"the flag counts": {
			map[string]string{"UNASSIGN_URL": "https://127.0.0.1:1", "UNASSIGN_API_KEY_FILE": wrong},
			[]string{"-url", url, "-api-key-file", key},
			"",
		},
		"the flag's kind": {
			map[string]string{"UNASSIGN_URL": url, "UNASSIGN_API_KEY_FILE": wrong},
			[]string{"-secret-file", secret},
			"",
		},
		"two settings": {
			map[string]string{"UNASSIGN_URL": url, "UNASSIGN_API_KEY_FILE": key, "UNASSIGN_SECRET": "x"},
			nil, "use one of UNASSIGN_SECRET, UNASSIGN_API_KEY_FILE",
		},
		"no setting": {map[string]string{"UNASSIGN_URL": url}, nil, "the key or token is missing"},
		"a key that is not": {
			map[string]string{"UNASSIGN_URL": url, "UNASSIGN_SECRET": "canary!"},
			nil,
			"call: UNASSIGN_SECRET: UNASSIGN_SECRET: ",
		},
	} {
		var errs bytes.Buffer
		p := Program{
			HTTP: upstream.NewClient(), Getenv: func(name string) string { return test.env[name] },
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &errs,
		}
		err := p.Call(t.Context(), slices.Concat([]string{"-device", demo.Fjord, "-dry-run"}, test.args))
		if (err == nil) != (test.err == "") || err != nil && (!strings.Contains(err.Error(), test.err) ||
			strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v\n%s", name, err, errs.String())
		}
	}
}

// A host in front may ask for a key of its own.
func TestCallFunctionKey(t *testing.T) {
	t.Parallel()
	s := newSimulation(t)
	w := &loopback{handler: s.App}
	for _, args := range [][]string{{"-function-key", "a-function-key"}, {"-function-key-file", writeFile(t, "key",
		"a-function-key")}} {
		p := Program{HTTP: w, Getenv: noEnv, Stdin: strings.NewReader(s.APIKey), Stdout: io.Discard, Stderr: io.Discard}
		if err := p.Call(t.Context(), slices.Concat([]string{
			"-url", "https://contoso.example", "-api-key-file", "-",
			"-device", demo.Fjord,
		}, args)); err != nil {
			t.Error(err)
		}
	}
	for _, h := range w.headers {
		if h.Get("X-Functions-Key") != "a-function-key" {
			t.Errorf("it sent %v", h)
		}
	}
}

// A deployment examines itself for operators. The exit status is the doctor's.
func TestCallDoctor(t *testing.T) {
	t.Parallel()
	s, err := demo.New(func(name string) string {
		return map[string]string{"OPERATOR_CALLERS": demo.APIKeyName, "RATE_LIMIT": "0"}[name]
	}, &azuresim.Buffer{}, "test")
	if err != nil {
		t.Fatal(err)
	}
	var asked []*http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r)
		s.App.ServeHTTP(w, r)
	}))
	defer server.Close()
	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "x")
		_, _ = io.WriteString(w, "<h1>hello</h1>")
	}))
	defer strange.Close()
	byKey := []string{"-api-key-file", "-"}
	for _, test := range []struct {
		name, key, url string
		prepare        func()
		args           []string
		out            string
		err            string // a part of the error, "" for none
	}{
		{"well", s.APIKey, server.URL, nil, byKey, "ok         ", ""},
		{"as JSON", s.APIKey, server.URL, nil, append([]string{"-json"}, byKey...), `"ok": true`, ""},
		{"the route", s.APIKey, server.URL + "/api/doctor", nil, byKey, "ok         ", ""},
		{"the other route", s.APIKey, server.URL + "/api/unassign", nil, byKey, "ok         ", ""},
		{"signed", s.WebhookKey, server.URL, nil, []string{"-secret-file", "-"}, "", "call: 403 Forbidden operator_denied: "},
		{"nobody", strings.Repeat("k", 24), server.URL, nil, byKey, "", "call: 401 Unauthorized unauthenticated: "},
		{
			"not well", s.APIKey, server.URL, func() { s.Cloud.SetGraphRoles("Mail.Read") }, byKey, "failed     ",
			" checks failed",
		},
		{"somebody else", s.APIKey, strange.URL, nil, byKey, "", "call: the response is not a report of the doctor"},
	} {
		if test.prepare != nil {
			test.prepare()
		}
		stdout, stderr, err := runCommand(t, test.key, slices.Concat([]string{"-doctor", "-url", test.url},
			test.args)...)
		if stderr != "" || !strings.Contains(stdout, test.out) || (err == nil) != (test.err == "") || err != nil &&
			!strings.Contains(err.Error(), test.err) {
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
	t.Parallel()
	const at, keyed = "-url https://contoso.example ", "-url https://contoso.example -secret-file - "
	for args, want := range map[string]string{
		"-secret-file - -device x":                             "-url is missing",
		"-url http://contoso.example -secret-file - -device x": "-url must begin with https://",
		"-url contoso.example -secret-file - -device x":        `-url "contoso.example" lacks https://; use https://contoso.example`,
		"-url ftp://contoso -secret-file - -device x":          "-url is not an https:// address",
		at + "-device x":                                         "use one of -secret-file, -api-key-file and -token-file",
		keyed + "-api-key-file - -device x":                      "use one of -secret-file, -api-key-file",
		keyed:                                                    "the device is missing: use -device, -serial or -csv",
		keyed + "-device x -serial y -expect z":                  "-expect is for one device",
		keyed + "-device x -dry-run -verify":                     "nothing to -verify",
		keyed + "-device x -csv y":                               "the file names the devices",
		keyed + "-expect x -csv y":                               "the file names the devices",
		keyed + "-csv -":                                         "standard input holds the list",
		keyed + "-device x -again":                               "are for -csv",
		keyed + "-csv x -by name":                                "-by is id or serial",
		keyed + "-csv x -column tag=Tag":                         `"tag" is not id, serial, expected or reference`,
		keyed + "-csv x -column Tag":                             "must be purpose=NAME",
		keyed + "-csv x -no-expect -expect-column y":             "use one of -no-expect and -expect-column",
		keyed + "-device x -max -1":                              "-max must be positive",
		keyed + "-doctor -device x":                              "-doctor changes nothing",
		keyed + "-doctor -csv x":                                 "-doctor changes nothing",
		keyed + "-device x -retries -1":                          "must not be negative",
		keyed + "-device x -function-key a -function-key-file b": "use one of -function-key, -function-key-file",
		keyed + "-device x y":                                    `"y" is not a flag`,
		"-force":                                                 "flag provided but not defined: -force",
	} {
		stdout, stderr, err := runCommand(t, "", strings.Fields(args)...)
		_, usage := errors.AsType[text.UsageError](err)
		if !usage || !strings.Contains(err.Error(), want) || stdout+stderr != "" || strings.Count(err.Error(),
			"\n") != 1 || !strings.HasSuffix(err.Error(), "\nsee unassign call -h") {
			t.Errorf("%s: %v, %q; want a UsageError with %q", args, err, stdout+stderr, want)
		}
	}
}

// A file with a key is read as any system writes it. A key that no header can carry is refused before a request.
func TestCallKeyFiles(t *testing.T) {
	t.Parallel()
	s, url := serveSimulation(t)
	utf16 := func(text string, bom ...byte) string {
		for _, c := range []byte(text) {
			bom = append(bom, c, 0)
		}
		return string(bom)
	}
	for name, test := range map[string]struct{ flag, text, err string }{
		"PowerShell 5.1 >":                {"-api-key-file", utf16(s.APIKey+"\r\n", 0xff, 0xfe), ""},
		"UTF-16 without a mark":           {"-api-key-file", utf16(s.APIKey + "\r\n"), ""},
		"PowerShell 5.1 -Encoding utf8":   {"-api-key-file", "\ufeff" + s.APIKey + "\r\n", ""},
		"a signing key of PowerShell 5.1": {"-secret-file", utf16(s.WebhookKey+"\r\n", 0xff, 0xfe), ""},
		"line ends":                       {"-secret-file", s.WebhookKey + "\r\n\r\n", ""},
		"two lines":                       {"-api-key-file", s.APIKey + "\n" + s.APIKey, "has more than one line"},
		"two lines of a signing key":      {"-secret-file", s.WebhookKey + "\n" + s.WebhookKey, "has more than one line"},
		"two lines of a token":            {"-token-file", "canary.a.b\ncanary.a.b", "has more than one line"},
		"two words of a token":            {"-token-file", "canary.a.b canary.a.b", "not an access token"},
		"a NUL": {
			"-api-key-file", "canary-canary\x00canary-canary",
			"characters that no HTTP header can carry",
		},
		"not ASCII": {
			"-api-key-file", "canary-canary-canary-canary-\u00f8",
			"characters that no HTTP header can carry",
		},
		"empty":     {"-api-key-file", "\ufeff\r\n", "is empty"},
		"very long": {"-token-file", strings.Repeat("canary", 1<<15), "is larger than"},
		"weak":      {"-secret-file", "canary", "key"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := s.Cloud.Count(azuresim.StepGraph)
		_, stderr, err := runCommand(t, "", "-url", url, test.flag, path, "-device", demo.Fjord, "-dry-run")
		if (err == nil) != (test.err == "") || err != nil && (!strings.Contains(err.Error(), test.err) ||
			strings.Contains(err.Error(), "\n") || s.Cloud.Count(azuresim.StepGraph) != before) {
			t.Errorf("%s: %v\n%s", name, err, stderr)
		}
		if strings.Contains(fmt.Sprint(stderr, err), "canary") {
			t.Errorf("%s: the key is told: %v", name, err)
		}
	}
}

// A request that no connection took is not done, at once and in one line. Without a response the outcome is unknown.
func TestCallReportsNoResponse(t *testing.T) {
	t.Parallel()
	lost := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer lost.Close()
	lost.Config.ErrorLog = log.New(io.Discard, "", 0)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	defer untrusted.Close()
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	reset, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reset.Close() }()
	go func() {
		for {
			conn, err := reset.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	file := writeFile(t, "devices.csv", "id", oneID)
	for name, test := range map[string]struct{ address, want, result string }{
		"a lost connection": {lost.URL, "the outcome is unknown", "no_response,There was no response, so the outcome is " +
			"unknown. A retry is safe.,unknown"},
		"connection refused":    {gone.URL, "(connection refused): nothing was sent", "not_sent"},
		"an unknown host":       {"https://no-such-host.invalid", "nothing was sent", "not_sent"},
		"an untrusted host":     {untrusted.URL, "(certificate not trusted): nothing was sent", "not_sent"},
		"a handshake that ends": {"https://" + reset.Addr().String(), "nothing was sent", "not_sent"},
	} {
		retries := "3"
		if name == "a lost connection" {
			retries = "0"
		}
		out := filepath.Join(t.TempDir(), "out.csv")
		_, stderr, err := runCommand(t, strings.Repeat("k", 24), "-url", test.address+"?code=c2VjcmV0",
			"-api-key-file", "-", "-retries", retries, "-csv", file, "-out", out)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") ||
			strings.Contains(stderr, "retrying") || stderr != "" && test.result == "not_sent" {
			t.Errorf("%s: %v\n%s", name, err, stderr)
		}
		if told := fmt.Sprint(stderr, err); strings.Contains(told, "code=") || strings.Contains(told, "c2VjcmV0") {
			t.Errorf("%s: the key in the address is told: %s", name, told)
		}
		text, err := os.ReadFile(out)
		outcome := map[bool]string{true: ",not_done,", false: ",unknown,"}[test.result == "not_sent"]
		if err != nil || !containsAll(string(text), strings.Split(test.result, ",")[0], outcome) {
			t.Errorf("%s: the results are\n%s", name, text)
		}
	}
}

// The platform in front of a function has responses of its own, most of them without a body.
func TestCallKnowsThePlatform(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status   int
		id, body string
		want     string
		requests int
	}{
		"the homepage": {200, "", "<h1>Your Azure Function App is up and running.</h1>", "200 OK, but not from the " +
			"function", 1},
		"no homepage": {204, "", "", "204 No Content, but not from the function", 1},
		"results": {200, "", `{"results":[{"status":200,"code":"unassigned"}]}`, "200 OK, but not from the " +
			"function", 1},
		"too many":        {429, "", "", "429 Too Many Requests without a body of the function", 2},
		"a broken worker": {500, "", "", "500 Internal Server Error without a body of the function", 2},
		"a long line": {414, "", "", "414 Request URI Too Long without a body of the function, so the platform in front " +
			"of it refused the request; check -url", 1},
		"many headers":    {431, "", "", "431 Request Header Fields Too Large without a body", 1},
		"an odd header":   {400, "", "", "400 Bad Request without a body", 1},
		"another address": {404, "", "", "404 Not Found without a body", 1},
		"by the function": {400, "x", `{"error":{"code":"invalid_json","message":"Bad."}}`, "400 Bad Request invalid_json: " +
			"Bad.", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &loopback{before: func(int) *http.Response {
				resp := says(test.status, "")
				resp.Header.Set("X-Request-Id", test.id)
				resp.Body = io.NopCloser(strings.NewReader(test.body))
				return resp
			}}
			var stdout, stderr bytes.Buffer
			key := strings.NewReader(strings.Repeat("k", 24))
			p := Program{HTTP: w, Getenv: noEnv, Stdin: key, Stdout: &stdout, Stderr: &stderr}
			err := p.Call(t.Context(), []string{
				"-url", "https://contoso.example", "-api-key-file", "-", "-device",
				oneID, "-retries", "1",
			})
			if err == nil || !strings.Contains(err.Error(), test.want) || len(w.bodies) != test.requests ||
				strings.Contains(stdout.String(), "unassigned") {
				t.Errorf("%s: %v after %d requests\n%s%s", name, err, len(w.bodies), stdout.String(), stderr.String())
			}
		})
	}
}

// A response does no more to a terminal than to print on it.
func TestCallPrintsAnyResponse(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"error":{"code":"\u001b[2J","message":"\u001b]0;x\u0007B\u00e4d\u202e\u009b"}}`: "call: 403 Forbidden [2J: " +
			"]0;xB\u00e4d",
		"<h1>\x1b]0;x\a\x1b[2JB\u00e4d\u202e</h1>\r\n\there\xff\x9b\x00": "call: 403 Forbidden without a " +
			"body of the function, so the platform in front of it refused the request; check -url",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, body)
		}))
		stdout, _, err := runCommand(t, strings.Repeat("k", 24), "-url", server.URL, "-api-key-file", "-",
			"-device", "x")
		server.Close()
		if err == nil || err.Error() != want || stdout != "" {
			t.Errorf("%q\n%q, want\n%q", err, stdout, want)
		}
	}
}

// A token is sent as it is in the file, without the line's end.
func TestCallWithAToken(t *testing.T) {
	t.Parallel()
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Header().Set("X-Request-Id", "x")
		_, _ = io.WriteString(w, `{"results":[{"status":200,"code":"unassigned","deviceId":"`+oneID+`"}]}`)
	}))
	token := strings.Repeat("eyJ.", 3000) // longer than a key ever is
	stdout, stderr, err := runCommand(t, token+"\r\n", "-url", server.URL, "-token-file", "-", "-device",
		oneID)
	server.Close()
	if err != nil || stderr != "" || stdout != oneID+": 200 unassigned.\n" ||
		got.Get("Authorization") != "Bearer "+token || got.Get("Idempotency-Key") == "" ||
		got.Get("X-Api-Key")+got.Get("Webhook-Id") != "" {
		t.Errorf("%v\n%s%s%.300v", err, stdout, stderr, got)
	}
}
