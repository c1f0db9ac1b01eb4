package client

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/demo"
	"autopilot-unassign/internal/upstream"
)

const unknownDevice = "6f1a9c0e-5b1d-4c55-9d3a-000000000000"

func noEnv(string) string { return "" }

// runCommand runs call with arguments and standard input, and returns its output.
func runCommand(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	p := Program{
		Version: "test", HTTP: upstream.NewClient(), Getenv: noEnv, Stdin: strings.NewReader(stdin), Stdout: &out,
		Stderr: &errs,
	}
	err = p.Call(t.Context(), args)
	return out.String(), errs.String(), err
}

// newSimulation returns a simulated deployment.
func newSimulation(t *testing.T) *demo.Simulation {
	t.Helper()
	s, err := demo.New(noEnv, io.Discard, "test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serveSimulation serves a simulated deployment until the test ends, and returns it with its address.
func serveSimulation(t *testing.T) (*demo.Simulation, string) {
	t.Helper()
	s := newSimulation(t)
	server := httptest.NewServer(s.App)
	t.Cleanup(server.Close)
	return s, server.URL
}

// containsAll reports whether a text has all of parts.
func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// loopback passes requests to a handler without a network, so that they run in a synctest bubble. It keeps the
// requests.
type loopback struct {
	handler http.Handler
	before  func(n int) *http.Response // responds to the nth request instead of handler, unless it returns nil
	headers []http.Header
	bodies  []string
	at      []time.Time
}

func (w *loopback) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w.headers, w.bodies, w.at = append(w.headers, r.Header), append(w.bodies, string(body)), append(w.at, time.Now())
	if w.before != nil {
		if resp := w.before(len(w.bodies)); resp != nil && resp.StatusCode == 0 {
			return nil, io.ErrUnexpectedEOF
		} else if resp != nil {
			return resp, nil
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	resp := recorder.Result()
	resp.Status = fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	return resp, nil
}

// says is an answer in the place of the function's. Status 0 is none.
func says(status int, retryAfter string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)),
		Header: http.Header{}, Body: http.NoBody,
	}
	if retryAfter != "" {
		resp.Header.Set("Retry-After", retryAfter)
	}
	return resp
}

// fleet puts n devices into a simulation, and returns their ids. The serial number of the ith is SN-i.
func fleet(s *demo.Simulation, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("0aa00000-0000-4000-8000-%012d", i+1)
		s.Cloud.PutDevice(azuresim.Device{
			ID: ids[i], SerialNumber: fmt.Sprintf("SN-%d", i+1),
			UserPrincipalName: fmt.Sprintf("room.%d@contoso.com", i+1),
		})
	}
	return ids
}

// acted counts how often Graph was asked to act on each device.
func acted(c *azuresim.Cloud) map[string]int {
	counts := map[string]int{}
	path := regexp.MustCompile(`/([0-9a-f-]{36})/unassign`)
	for _, r := range slices.Concat(c.Requests(azuresim.StepGraph), c.Requests(azuresim.StepItem)) {
		if m := path.FindStringSubmatch(r.Path); m != nil && r.Method == http.MethodPost {
			counts[m[1]]++
		}
	}
	return counts
}

// callList sends the devices of a file by way of w, and returns the printed text.
func callList(ctx context.Context, t *testing.T, s *demo.Simulation, w *loopback, file string,
	args ...string,
) (string, error) {
	t.Helper()
	var stderr azuresim.Buffer
	w.handler = s.App
	program := Program{
		Version: "test", HTTP: w, Getenv: noEnv, Stdin: strings.NewReader(s.APIKey), Stdout: io.Discard,
		Stderr: &stderr,
	}
	err := program.Call(ctx, append([]string{"-url", "https://contoso.example", "-csv", file, "-api-key-file", "-"},
		args...))
	return stderr.String(), err
}

// writeFile writes a file for a test.
func writeFile(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// readResults reads a file of results: for each device, as it is named, its status and code.
func readResults(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	found := map[string]string{}
	for _, row := range rows[1:] {
		name := row[1]
		if row[12] == "serial" {
			name = row[2]
		}
		if before, twice := found[name]; twice {
			t.Errorf("%s has two results, %s and %s", name, before, row[5])
		}
		found[name] = row[4] + " " + row[5]
	}
	return found
}
