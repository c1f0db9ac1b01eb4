package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/demo"
)

// A typical list of 45 rows is interrupted, and finished by the same command: each device is sent once, and again only
// after a transient failure.
func TestCallCSV(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(t)
		ids := fleet(s, 41)
		lines := []string{"Serial number,Device ID,Model"}
		for i := range 18 {
			lines = append(lines, fmt.Sprintf("sn-%d,,Hub %d", i+1, i))
		}
		lines = append(lines, "Default string,,none", ","+unknownDevice+",") // several; none
		for _, id := range ids[18:41] {
			lines = append(lines, ","+strings.ToUpper(id)+",")
		}
		lines = append(lines, "SN-1,,again", ","+ids[40]+",again") // duplicates
		if len(lines) != 46 {
			t.Fatal(len(lines))
		}
		file := writeFile(t, "devices.csv", lines...)
		results := strings.TrimSuffix(file, ".csv") + ".results.csv"

		ctx, interrupt := context.WithCancel(t.Context())
		start := time.Now()
		w := &loopback{}
		w.before = func(n int) *http.Response {
			switch n {
			case 2: // of the second twenty, three are locked
				s.Cloud.Fail(azuresim.StepItem, 3, azuresim.GraphError(503, azuresim.Nested, 77))
			case 3: // they are sent again, and the run is stopped meanwhile
				interrupt()
			}
			return nil
		}
		out, err := callList(ctx, t, s, w, file, "-placeholders")
		if !errors.Is(err, stoppedError{}) || !strings.Contains(out, "43 devices: 38 succeeded; 2 refused: 1 device_not_found, 1 "+
			"serial_number_ambiguous; 3 not sent. Results: "+results+". The same command goes on from there") {
			t.Errorf("interrupted: %v", err)
		}
		for _, want := range []string{
			"line 45 repeats the device of line 2", "line 46 repeats the device of line 44",
			"3 of 20 to retry; retrying in 1m17s (1 of 3)", "20 of 43: 18 succeeded, 2 refused",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("there is no %q in\n%s", want, out)
			}
		}
		if len(w.bodies) != 3 || strings.Count(w.bodies[2], "deviceId") != 3 || w.at[2].Sub(start) < 77*time.Second {
			t.Errorf("%d requests at %v; the last is %s", len(w.bodies), w.at, w.bodies[len(w.bodies)-1])
		}
		if len(readResults(t, results)) != 40 {
			t.Errorf("results after the interrupt: %v", readResults(t, results))
		}

		again := &loopback{}
		out, err = callList(t.Context(), t, s, again, file, "-placeholders")
		if err == nil || !strings.Contains(err.Error(), "43 devices: 41 succeeded (38 in an earlier run); 2 refused (2 in "+
			"an earlier run): 1 device_not_found, 1 serial_number_ambiguous. Results: ") {
			t.Errorf("the second run: %v\n%s", err, out)
		}
		if len(again.bodies) != 1 || strings.Count(again.bodies[0], "deviceId") != 3 {
			t.Errorf("the second run sends %q", again.bodies)
		}
		counts := acted(s.Cloud)
		for i, id := range ids {
			if d, _ := s.Cloud.Device(id); d.UserPrincipalName != "" || counts[id] != 1 {
				t.Errorf("device %d was acted on %d times, want once, and has %q", i, counts[id], d.UserPrincipalName)
			}
		}
		found := readResults(t, results)
		for name, want := range map[string]string{
			"Default string": "409 serial_number_ambiguous",
			unknownDevice:    "404 device_not_found", "sn-1": "200 unassigned", ids[18]: "200 unassigned",
		} {
			if found[name] != want {
				t.Errorf("the result of %s is %q, want %q", name, found[name], want)
			}
		}

		// Nothing is left to do, wherever the rows stand now.
		slices.Reverse(lines[1:])
		edited := filepath.Join(filepath.Dir(file), "edited.csv")
		if err := os.WriteFile(edited, []byte(strings.Join(lines, "\r\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		none := &loopback{}
		if _, err = callList(t.Context(), t, s, none, edited, "-placeholders", "-out", results); err == nil ||
			len(none.bodies) != 0 {
			t.Errorf("the rows in another order: %v, %d requests", err, len(none.bodies))
		}
		if _, err = callList(t.Context(), t, s, none, edited, "-placeholders", "-out", results, "-again"); err == nil ||
			!strings.Contains(err.Error(), "43 devices: 41 succeeded (41 in an earlier run); 2 refused: ") ||
			len(none.bodies) != 1 || !strings.Contains(none.bodies[0], "Default string") || strings.Contains(none.bodies[0],
			ids[18]) {
			t.Errorf("-again: %v, %q", err, none.bodies)
		}
	})
}

// A failure of all devices ends the run, and the next run continues from the results.
func TestCallCSVStops(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	for name, test := range map[string]struct {
		answer   func(*demo.Simulation) *http.Response
		want     string
		requests int
		results  string // of the first row; "" if it has none
		took     time.Duration
	}{
		"nobody answers": {
			func(*demo.Simulation) *http.Response { return says(0, "") },
			"no response from contoso.example (connection lost before the end of the response): the outcome is unknown", 4,
			" no_response", 14 * time.Second,
		},
		"a gateway is down": {
			func(*demo.Simulation) *http.Response { return says(503, "7") },
			"503 Service Unavailable without a body", 4, "503 ", 21 * time.Second,
		},
		"down for very long": {
			func(*demo.Simulation) *http.Response { return says(503, "86400") },
			"503 Service Unavailable without a body", 1, "503 ", 0,
		},
		"the key is not ours": {func(*demo.Simulation) *http.Response { return says(401, "") }, "401 Unauthorized without a " +
			"body", 1, "", 0},
		"not the function": {
			func(*demo.Simulation) *http.Response { return says(200, "") },
			"but not from the function", 1, " bad_response", 0,
		},
		"no permission": {func(s *demo.Simulation) *http.Response {
			s.Cloud.SetGraphRoles()
			return nil
		}, "before this is fixed: graph_permission_missing", 1, "424 graph_permission_missing", 0},
		"Graph is down": {func(s *demo.Simulation) *http.Response {
			s.Cloud.Fail(azuresim.StepGraph, 1, azuresim.GraphError(503, azuresim.Nested, 60))
			return nil
		}, "no device can be changed at present", 4, "503 graph_unavailable", 180 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSimulation(t)
				lines := slices.Concat([]string{"id"}, fleet(s, 45))
				file := writeFile(t, "devices.csv", lines...)
				start := time.Now()
				w := &loopback{before: func(int) *http.Response { return test.answer(s) }}
				out, err := callList(t.Context(), t, s, w, file)
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(out, "45 devices: 0 succeeded; ") {
					t.Errorf("%v\n%s", err, out)
				}
				if len(w.bodies) != test.requests || time.Since(start).Truncate(time.Second) != test.took {
					t.Errorf("%d requests in %s, want %d in %s\n%s", len(w.bodies), time.Since(start), test.requests, test.took, out)
				}
				if got := readResults(t, strings.TrimSuffix(file, ".csv")+".results.csv")[lines[1]]; got != test.results {
					t.Errorf("the first row has %q, want %q", got, test.results)
				}
				s.Cloud.Heal()
				s.Cloud.SetGraphRoles(azuresim.GraphRole)
				s.Cloud.RevokeTokens() // or the one without roles would be used on
				time.Sleep(time.Minute)
				next := &loopback{}
				if out, err := callList(t.Context(), t, s, next, file); err != nil || len(next.bodies) != 3 {
					t.Errorf("the next run: %v, %d requests\n%s", err, len(next.bodies), out)
				}
			})
		})
	}
}

// The rule for callers stands in docs/api.md.
func TestCallKnowsTheRule(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`\*\*Retry ([0-9, and]+);`).FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/api.md has no rule")
	}
	rule := strings.Fields(strings.NewReplacer(",", " ", "and", " ").Replace(string(m[1])))
	for status := 100; status < 600; status++ {
		if got, want := Retryable(status), slices.Contains(rule, fmt.Sprint(status)); got != want {
			t.Errorf("%d is to be retried: %t, docs/api.md says %t", status, got, want)
		}
	}
}

// A dry run changes nothing, and nothing it finds counts as done.
func TestCallCSVDryRun(t *testing.T) {
	t.Parallel()
	s, url := serveSimulation(t)
	file := writeFile(t, "devices.csv", "serialNumber;expected;reference", "5CG1234ABC;room.fjord@contoso.com;RITM1",
		"5CG5678DEF;room.skog;RITM2")
	args := []string{"-url", url, "-api-key-file", "-", "-csv", file}
	if _, stderr, err := runCommand(t, s.APIKey, append(args, "-dry-run")...); err != nil || !strings.Contains(stderr,
		"2 devices: 2 succeeded: 2 would_unassign. Results: ") || len(acted(s.Cloud)) > 0 {
		t.Errorf("dry: %v\n%s", err, stderr)
	}
	dry := strings.TrimSuffix(file, ".csv") + ".dry-run.csv"
	if text, err := os.ReadFile(dry); err != nil || strings.Count(string(text), ";would_unassign;") != 2 ||
		strings.Count(string(text), ";dry_run;") != 2 {
		t.Errorf("%v\n%s", err, text)
	}
	if _, _, err := runCommand(t, s.APIKey, append(args, "-out", dry)...); err == nil || !strings.Contains(err.Error(),
		"holds the results of a dry run; use another -out file") {
		t.Errorf("results of a dry run are taken for those of another: %v", err)
	}
	if _, _, err := runCommand(t, s.APIKey, append(args, "-out", file)...); err == nil || !strings.Contains(err.Error(),
		"-out is the file with the devices") {
		t.Errorf("the list would be overwritten: %v", err)
	}
	if _, stderr, err := runCommand(t, s.APIKey, append(args, "-verify")...); err != nil || len(acted(s.Cloud)) != 2 {
		t.Errorf("verified: %v\n%s", err, stderr)
	}
	if _, stderr, err := runCommand(t, s.APIKey, append(args, "-dry-run")...); err != nil {
		t.Errorf("dry once more: %v\n%s", err, stderr)
	}
	if text, err := os.ReadFile(dry); err != nil || strings.Count(string(text), ";already_unassigned;") != 2 ||
		strings.Contains(string(text), "would_unassign") {
		t.Errorf("a dry run does not look anew: %v\n%s", err, text)
	}
}

// A result counts for its request and its deployment: a row that expects another account is sent again, and the results
// of another deployment are refused.
func TestCallCSVOfSomethingElse(t *testing.T) {
	t.Parallel()
	s, url := serveSimulation(t)
	file := writeFile(t, "devices.csv", "serialNumber,expected", "5CG1234ABC,room.cellar@contoso.com", "PF3-0123-4567,")
	call := func(url string) (string, error) {
		t.Helper()
		_, stderr, err := runCommand(t, s.APIKey, "-url", url, "-api-key-file", "-", "-csv", file)
		return stderr, err
	}
	if _, err := call(url); err == nil || len(acted(s.Cloud)) != 1 {
		t.Errorf("the wrong account: %v, %v", err, acted(s.Cloud))
	}
	if err := os.WriteFile(file, []byte("serialNumber,expected\n5CG1234ABC,room.fjord@contoso.com\nPF3-0123-4567,\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	results := strings.TrimSuffix(file, ".csv") + ".results.csv"
	if stderr, err := call(url + "/api/unassign?code=c2VjcmV0"); err != nil || acted(s.Cloud)[demo.Fjord] != 1 ||
		readResults(t, results)["5CG1234ABC"] != "200 unassigned" {
		t.Errorf("the right one: %v, %v\n%s", err, acted(s.Cloud), stderr)
	}
	before, err := os.ReadFile(results)
	if err != nil || strings.Contains(string(before), "code=") {
		t.Errorf("the results keep a key: %v\n%s", err, before)
	}
	other, otherURL := serveSimulation(t)
	if _, err := call(otherURL); err == nil || !strings.Contains(err.Error(), " holds the results of another deployment, "+
		""+url+"/api/unassign; use another -out file") || len(acted(other.Cloud)) > 0 {
		t.Errorf("another deployment: %v", err)
	}
	if after, _ := os.ReadFile(results); !bytes.Equal(after, before) {
		t.Errorf("the results of another deployment were changed:\n%s", after)
	}
}

// Rows that are not valid are told, all at once, before anything is sent.
func TestCallCSVInvalidRows(t *testing.T) {
	t.Parallel()
	s, url := serveSimulation(t)
	file := writeFile(t, "devices.csv", "serialNumber,id", "5CG1234ABC,", ",5CG5678DEF", "1.2E+11,")
	args := []string{"-url", url, "-api-key-file", "-", "-csv", file}
	_, stderr, err := runCommand(t, s.APIKey, args...)
	if err == nil || !strings.Contains(err.Error(), "2 rows are not valid") || !strings.Contains(stderr, "line 3: ") ||
		!strings.Contains(stderr, "line 4: ") || len(acted(s.Cloud)) > 0 {
		t.Errorf("%v\n%s", err, stderr)
	}
	one := writeFile(t, "devices.csv", "serialNumber", "5CG1234ABC", "1.2E+11")
	if _, _, err := runCommand(t, s.APIKey, append(slices.Clone(args[:5]), one)...); err == nil ||
		!strings.Contains(err.Error(), "call: 1 row is not valid, so nothing was sent; correct ") {
		t.Errorf("one row: %v", err)
	}
	_, stderr, err = runCommand(t, s.APIKey, append(args, "-skip-invalid")...)
	if err == nil || !strings.Contains(err.Error(), "1 device: 1 succeeded; 2 rows are not valid. Results: ") ||
		!strings.Contains(err.Error(), "2 rows are not valid") || len(acted(s.Cloud)) != 1 {
		t.Errorf("-skip-invalid: %v\n%s", err, stderr)
	}
}

// Why the function refuses a whole list is told with the status.
func TestCallCSVRefused(t *testing.T) {
	t.Parallel()
	_, url := serveSimulation(t)
	file := writeFile(t, "devices.csv", "id", oneID)
	_, stderr, err := runCommand(t, strings.Repeat("k", 24), "-url", url, "-api-key-file", "-", "-csv", file)
	if err == nil || !strings.HasPrefix(err.Error(), "call: 401 Unauthorized unauthenticated: ") ||
		!strings.Contains(stderr, "1 device: 0 succeeded; 1 not sent. Results: ") {
		t.Error(err)
	}
}

// The client refuses the same serial numbers as the function, before it sends a request.
func TestCallCSVKnowsSerialNumbers(t *testing.T) {
	t.Parallel()
	s, url := serveSimulation(t)
	for _, serial := range []string{
		"5CG1234ABC", "PF3 0123", "-1", "#", "---", "a\u00e9", "a\tb", "a\x7f", "~a!", strings.Repeat("x", 128),
		strings.Repeat("x", 129), "\u0661", "a,b;c", `a"b`,
	} {
		table, err := ReadRows(strings.NewReader("serial,model\n\""+strings.ReplaceAll(serial, `"`, `""`)+"\",x\n"),
			ReadOptions{Placeholders: true})
		if err != nil {
			t.Fatal(err)
		}
		stdout, _, err := runCommand(t, s.APIKey, "-url", url, "-api-key-file", "-", "-serial", serial, "-dry-run")
		refused := strings.Contains(stdout, "serial_number_invalid")
		if refused != (len(table.Invalid) == 1) || refused != (len(table.Rows) == 0) {
			t.Errorf("%q: the file has %+v, the function says %v %s", serial, table, err, stdout)
		}
	}
}

// A hostile server reaches neither the terminal nor a spreadsheet with more than text.
func TestCallCSVHostileAnswer(t *testing.T) {
	t.Parallel()
	s := newSimulation(t)
	file := writeFile(t, "devices.csv", "id", oneID)
	for status, body := range map[int]string{
		400: `{"error":{"code":"\u001b[2J","message":"\u001b]0;x\u0007"}}`,
		207: `{"results":[{"status":404,"error":{"code":"=cmd|'/c calc'!A1","message":"@x\u001b"}}]}`,
		424: `{"results":[{"status":424,"error":{"code":"\u001b[2J","message":"\u001b]0;x\u0007"}}]}`,
	} {
		w := &loopback{before: func(int) *http.Response {
			resp := says(status, "")
			resp.Status = "\x1b[2J"
			resp.Body = io.NopCloser(strings.NewReader(body))
			return resp
		}}
		out, err := callList(t.Context(), t, s, w, file)
		if err == nil || strings.ContainsAny(out+err.Error(), "\x1b\x07") {
			t.Errorf("%d: %q, %q", status, out, err)
		}
		text, err := os.ReadFile(strings.TrimSuffix(file, ".csv") + ".results.csv")
		if err != nil || strings.Contains(string(text), ",=") || strings.Contains(string(text), ",@") ||
			strings.Contains(string(text), "\x1b") {
			t.Errorf("%d: %v\n%s", status, err, text)
		}
	}
}
