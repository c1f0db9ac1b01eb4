package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"autopilot-unassign/internal/demo"
)

// snippets are the scripts in docs/callers.md, by their language.
func snippets(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/callers.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)\n```([a-z]+)\n(.*?\n)```\n").FindAllStringSubmatch(string(text), -1) {
		if m[1] != "sh" {
			found[m[1]] = m[2]
		}
	}
	return found
}

// interpreters say what each script needs: the programs, of which the first runs it, and the name of its file.
var interpreters = map[string]struct {
	programs []string
	file     string
}{
	"bash":       {[]string{"bash", "curl", "openssl"}, "unassign.sh"},
	"python":     {[]string{"python3"}, "unassign.py"},
	"javascript": {[]string{"node"}, "unassign.mjs"},
	"powershell": {[]string{"pwsh"}, "unassign.ps1"},
}

// Every script in docs/callers.md does what it says, with each kind of evidence: it takes the account off the device,
// asks again as it is told to, with the same id and a signature of its own, and not after a refusal.
func TestSnippets(t *testing.T) {
	t.Parallel()
	found := snippets(t)
	if len(found) != len(interpreters) {
		t.Errorf("docs/callers.md has %d scripts, want %d", len(found), len(interpreters))
	}
	for language, script := range found {
		missing := slices.IndexFunc(interpreters[language].programs, func(program string) bool {
			_, err := exec.LookPath(program)
			return err != nil
		})
		if missing >= 0 {
			t.Logf("%s is not there: the script for %s was not run", interpreters[language].programs[missing], language)
			continue
		}
		path := filepath.Join(t.TempDir(), interpreters[language].file)
		if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, setting := range []string{"UNASSIGN_SECRET", "UNASSIGN_API_KEY", "UNASSIGN_TOKEN"} {
			t.Run(language+" with "+setting, func(t *testing.T) {
				t.Parallel()
				runSnippet(t, interpreters[language].programs[0], path, setting)
			})
		}
		t.Run(language+" without a setting", func(t *testing.T) {
			t.Parallel()
			runSnippetWithout(t, interpreters[language].programs[0], path)
		})
	}
}

func runSnippet(t *testing.T, program, path, setting string) {
	t.Helper()
	const token = "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl"
	s, err := demo.New(noEnv, io.Discard, version)
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu      sync.Mutex
		headers []http.Header
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		headers = append(headers, r.Header.Clone())
		n := len(headers)
		mu.Unlock()
		if r.Header.Get("Authorization") == "Bearer "+token { // the simulation has no callers with tokens
			r.Header.Set("X-Api-Key", s.APIKey)
		}
		switch {
		case n == 1 && setting == "UNASSIGN_TOKEN":
			panic(http.ErrAbortHandler) // no answer
		case n == 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			s.App.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	seen := func() []http.Header {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(headers)
	}
	send := func(serial, route string) (string, int) {
		command := exec.CommandContext(t.Context(), program, path)
		command.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "UNASSIGN_URL=" + server.URL + route, "UNASSIGN_SERIAL=" + serial,
			setting + "=" + map[string]string{"UNASSIGN_SECRET": s.WebhookKey, "UNASSIGN_API_KEY": s.APIKey, "UNASSIGN_TOKEN": token}[setting],
		}
		out, _ := command.CombinedOutput()
		return string(out), command.ProcessState.ExitCode()
	}
	out, code := send("5CG1234ABC", map[string]string{"UNASSIGN_API_KEY": "/", "UNASSIGN_TOKEN": "/api/unassign"}[setting])
	if d, _ := s.Cloud.Device(demo.Fjord); code != 0 || d.UserPrincipalName != "" || !strings.Contains(out, `"code":"unassigned"`) || !strings.Contains(out, "asking again in") {
		t.Errorf("exit code %d, the device has %q\n%s", code, d.UserPrincipalName, out)
	}
	requests := seen()
	if len(requests) != 2 {
		t.Fatalf("%d requests\n%s", len(requests), out)
	}
	first, second := requests[0], requests[1]
	id := "Idempotency-Key"
	if setting == "UNASSIGN_SECRET" {
		id = "Webhook-Id"
		if first.Get("Webhook-Timestamp") == second.Get("Webhook-Timestamp") || first.Get("Webhook-Signature") == second.Get("Webhook-Signature") {
			t.Errorf("the second attempt was signed like the first: %v", second)
		}
	}
	if first.Get(id) == "" || first.Get(id) != second.Get(id) {
		t.Errorf("%s was %q and became %q", id, first.Get(id), second.Get(id))
	}
	out, code = send("NO-SUCH-DEVICE", "/api/unassign/")
	requests = seen()
	if code != 1 || len(requests) != 3 || !strings.Contains(out, `"code":"device_not_found"`) || !strings.Contains(out, "the answer is 404") {
		t.Errorf("an unknown device: exit code %d after %d requests\n%s", code, len(requests)-2, out)
	}
	if len(requests) > 2 && requests[2].Get(id) == first.Get(id) {
		t.Errorf("another request has the same %s", id)
	}
}

// Without one of its settings a script sends nothing and says in one line which that is.
func runSnippetWithout(t *testing.T, program, path string) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	settings := []string{"UNASSIGN_URL=" + server.URL, "UNASSIGN_SERIAL=5CG1234ABC", "UNASSIGN_API_KEY=" + strings.Repeat("k", 24)}
	for i, want := range []string{"UNASSIGN_URL is not set", "UNASSIGN_SERIAL is not set", "none of UNASSIGN_SECRET, UNASSIGN_API_KEY and UNASSIGN_TOKEN is set"} {
		name, _, _ := strings.Cut(settings[i], "=")
		for how, rest := range map[string][]string{"missing": slices.Delete(slices.Clone(settings), i, i+1), "empty": append(slices.Clone(settings), name+"=")} {
			command := exec.CommandContext(t.Context(), program, path)
			command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, rest...)
			out, _ := command.CombinedOutput()
			if code := command.ProcessState.ExitCode(); code != 1 || strings.TrimSpace(string(out)) != want {
				t.Errorf("%s %s: exit code %d\n%s", name, how, code, out)
			}
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// All scripts keep the same rule. It is looked for as text, so that it also holds for those that cannot be run here.
func TestSnippetsKnowTheRule(t *testing.T) {
	list := regexp.MustCompile(`0+[ ,|]+408[ ,|]+429[ ,|]+500[ ,|]+502[ ,|]+503[ ,|]+504\b`)
	for language, script := range snippets(t) {
		if !list.MatchString(script) {
			t.Errorf("%s does not ask again after no answer, 408, 429, 500, 502, 503 and 504", language)
		}
		for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature", "x-api-key", "idempotency-key", "authorization", "UNASSIGN_URL", "UNASSIGN_SERIAL", "UNASSIGN_SECRET", "UNASSIGN_TOKEN", " is not set", "none of UNASSIGN_SECRET, UNASSIGN_API_KEY and UNASSIGN_TOKEN is set"} {
			if !strings.Contains(strings.ToLower(script), strings.ToLower(name)) {
				t.Errorf("%s has no %s", language, name)
			}
		}
	}
}

// PowerShell is seldom where the tests are. Its script is held to the vectors by what can be read off it: that its quotes
// and brackets are closed, what it puts together to be signed, and with which key.
func TestPowerShellSnippet(t *testing.T) {
	script := snippets(t)["powershell"]
	if err := balanced(script); err != nil {
		t.Error(err)
	}
	m := regexp.MustCompile(`(?s)function Get-Signature\(\[string\]\$Secret, \[string\]\$Id, \[string\]\$Timestamp, \[string\]\$Body\) \{
    \$hmac = New-Object System\.Security\.Cryptography\.HMACSHA256
    \$hmac\.Key = \[Convert\]::FromBase64String\(\(\$Secret -replace '([^']*)', ''\)\)
    \$message = ([^\n]*)
    return '([^']*)' \+ \[Convert\]::ToBase64String\(\$hmac\.ComputeHash\(\[Text\.Encoding\]::UTF8\.GetBytes\(\$message\)\)\)
\}`).FindStringSubmatch(script)
	if m == nil {
		t.Fatal("the function that signs is not the one that this test can read")
	}
	prefix, message, version := regexp.MustCompile(m[1]), m[2], m[3]
	text, err := os.ReadFile("../handler/caller/testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, Key, ID, Body, Signature string
		Timestamp                      int64
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) == 0 {
		t.Fatal(err, len(vectors))
	}
	for _, v := range vectors {
		key, err := base64.StdEncoding.DecodeString(prefix.ReplaceAllString(v.Key, ""))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		mac := hmac.New(sha256.New, key)
		for operand := range strings.SplitSeq(message, " + ") {
			value, ok := map[string]string{"$Id": v.ID, "$Timestamp": fmt.Sprint(v.Timestamp), "$Body": v.Body, "'.'": "."}[operand]
			if !ok {
				t.Fatalf("the message has the operand %s", operand)
			}
			_, _ = io.WriteString(mac, value)
		}
		if got := version + base64.StdEncoding.EncodeToString(mac.Sum(nil)); !slices.Contains(strings.Fields(v.Signature), got) {
			t.Errorf("%s: it signs %s", v.Name, got)
		}
	}
	for _, broken := range []string{strings.Replace(script, "})", "}", 1), strings.Replace(script, "'", "", 1), strings.TrimSuffix(script, "}\n"), script + "}"} {
		if broken != script && balanced(broken) == nil {
			t.Error("a broken script is taken for a whole one")
		}
	}
}

// balanced returns an error unless the quotes and brackets of a PowerShell script are closed in order, each string in its line.
func balanced(script string) error {
	closing := map[byte]byte{'(': ')', '[': ']', '{': '}'}
	for n, line := range bytes.Split([]byte(script), []byte("\n")) {
		quote := byte(0)
		for _, c := range line {
			switch {
			case quote == 0 && (c == '\'' || c == '"'):
				quote = c
			case c == quote:
				quote = 0
			}
		}
		if quote != 0 {
			return fmt.Errorf("line %d: a string is not closed", n+1)
		}
	}
	bare := regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(script, "")
	var open []byte
	for _, c := range []byte(bare) {
		if closing[c] != 0 {
			open = append(open, closing[c])
		} else if strings.IndexByte(")]}", c) >= 0 {
			if len(open) == 0 || open[len(open)-1] != c {
				return fmt.Errorf("a %c closes nothing", c)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("%q is missing", open)
	}
	return nil
}
