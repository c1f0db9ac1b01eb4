package client

import (
	"context"
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
	"time"

	"autopilot-unassign/internal/demo"
)

// snippets are the scripts in docs/callers.md, by their language.
func snippets(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/callers.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)\n```([a-z]+)\n(.*?\n)```\n").FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains([]string{"sh", "powershell", "http"}, m[1]) {
			found[m[1]] = m[2]
		}
	}
	return found
}

// interpreters are the programs that each script needs, of which the first runs it, and the name of its file.
var interpreters = map[string]struct {
	programs []string
	file     string
}{
	"bash":       {[]string{"bash", "curl", "openssl"}, "unassign.sh"},
	"python":     {[]string{"python3"}, "unassign.py"},
	"javascript": {[]string{"node"}, "unassign.mjs"},
}

// Every script in docs/callers.md works with each kind of evidence: it removes the account, retries after Retry-After
// with the same id and a new signature, and does not retry a refusal.
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
	s := newSimulation(t)
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
			"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "UNASSIGN_URL=" + server.URL + route, "UNASSIGN_SERIAL=" +
				serial,
			setting + "=" + map[string]string{
				"UNASSIGN_SECRET": s.WebhookKey, "UNASSIGN_API_KEY": s.APIKey,
				"UNASSIGN_TOKEN": token,
			}[setting] + "\r\n",
		}
		out, _ := command.CombinedOutput()
		return string(out), command.ProcessState.ExitCode()
	}
	out, code := send("5CG1234ABC", map[string]string{"UNASSIGN_API_KEY": "/", "UNASSIGN_TOKEN": "/api/unassign"}[setting])
	if d, _ := s.Cloud.Device(demo.Fjord); code != 0 || d.UserPrincipalName != "" || !strings.Contains(out,
		`"code":"unassigned"`) || !strings.Contains(out, "retrying in") {
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
		if first.Get("Webhook-Timestamp") == second.Get("Webhook-Timestamp") ||
			first.Get("Webhook-Signature") == second.Get("Webhook-Signature") {
			t.Errorf("the second attempt was signed like the first: %v", second)
		}
	}
	if first.Get(id) == "" || first.Get(id) != second.Get(id) {
		t.Errorf("%s was %q and became %q", id, first.Get(id), second.Get(id))
	}
	out, code = send("NO-SUCH-DEVICE", "/api/unassign/")
	requests = seen()
	if code != 1 || len(requests) != 3 || !strings.Contains(out, `"code":"device_not_found"`) || !strings.Contains(out,
		"the response is 404") {
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
	settings := []string{"UNASSIGN_URL=" + server.URL, "UNASSIGN_SERIAL=5CG1234ABC", "UNASSIGN_API_KEY=" +
		strings.Repeat("k", 24)}
	for i, want := range []string{"UNASSIGN_URL is not set", "UNASSIGN_SERIAL is not set", "none of UNASSIGN_SECRET, " +
		"UNASSIGN_API_KEY and UNASSIGN_TOKEN is set"} {
		name, _, _ := strings.Cut(settings[i], "=")
		for how, rest := range map[string][]string{
			"missing": slices.Delete(slices.Clone(settings), i, i+1),
			"empty":   append(slices.Clone(settings), name+"="),
		} {
			command := exec.CommandContext(t.Context(), program, path)
			command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, rest...)
			out, _ := command.CombinedOutput()
			if code := command.ProcessState.ExitCode(); code != 1 || strings.TrimSpace(string(out)) != want {
				t.Errorf("%s %s: exit code %d\n%s", name, how, code, out)
			}
		}
	}
	for want, wrong := range map[string]string{
		"UNASSIGN_URL must begin with https://": "UNASSIGN_URL=http://contoso.example",
		"UNASSIGN_SECRET is not base64":         "UNASSIGN_SECRET=whsec_canary!canary!canary!canary!canary",
	} {
		command := exec.CommandContext(t.Context(), program, path)
		command.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, settings, []string{wrong})
		out, _ := command.CombinedOutput()
		if text := string(out); command.ProcessState.ExitCode() != 1 || !strings.HasPrefix(text, want) ||
			strings.Count(text, "\n") != 1 || strings.Contains(text, "canary") {
			t.Errorf("%s: exit code %d\n%s", wrong, command.ProcessState.ExitCode(), out)
		}
	}
	for _, odd := range []string{"UNASSIGN_API_KEY=canary\ncanary\u00f8", "UNASSIGN_TOKEN=canary\ncanary\u00f8"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // a script may retry
		command := exec.CommandContext(ctx, program, path)
		command.Env = append([]string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
			"UNASSIGN_URL=http://127.0.0.1:1", settings[1],
		}, odd)
		out, _ := command.CombinedOutput()
		cancel()
		if strings.Contains(string(out), "canary") {
			t.Errorf("the key is told:\n%s", out)
		}
	}
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request,
	) {
		w.WriteHeader(http.StatusNoContent)
	}))
	defer platform.Close()
	command := exec.CommandContext(t.Context(), program, path)
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "UNASSIGN_URL=" + platform.URL,
		settings[1], settings[2],
	}
	if out, _ := command.CombinedOutput(); command.ProcessState.ExitCode() != 1 || !strings.Contains(string(out),
		"the response is 204, but not from the function") {
		t.Errorf("a 2xx of the platform: exit code %d\n%s", command.ProcessState.ExitCode(), out)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// All scripts keep the same rule. It is looked for as text, so that it also holds for those that cannot be run here.
func TestSnippetsKnowTheRule(t *testing.T) {
	t.Parallel()
	list := regexp.MustCompile(`0+[ ,|]+408[ ,|]+429[ ,|]+500[ ,|]+502[ ,|]+503[ ,|]+504\b`)
	for language, script := range snippets(t) {
		if !list.MatchString(script) {
			t.Errorf("%s does not ask again after no answer, 408, 429, 500, 502, 503 and 504", language)
		}
		for _, name := range []string{
			"webhook-id", "webhook-timestamp", "webhook-signature", "x-api-key",
			"idempotency-key", "authorization", "UNASSIGN_URL", "UNASSIGN_SERIAL", "UNASSIGN_SECRET", "UNASSIGN_TOKEN",
			" is not set", "none of UNASSIGN_SECRET, UNASSIGN_API_KEY and UNASSIGN_TOKEN is set",
		} {
			if !strings.Contains(strings.ToLower(script), strings.ToLower(name)) {
				t.Errorf("%s has no %s", language, name)
			}
		}
	}
}
