package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"autopilot-unassign/internal/text"
)

// deployment is a function that changes every device, and lists pages of devices.
type deployment struct {
	pages   []string // bodies of GET /api/devices
	queries []string
	sizes   []int // devices in each request
	dry     bool  // of the last request
	dryOnly bool  // DRY_RUN=true
	bodies  []string
}

func (d *deployment) Do(r *http.Request) (*http.Response, error) {
	body := `{"results":[`
	if r.Method == http.MethodGet {
		body = d.pages[min(len(d.queries), len(d.pages)-1)]
		d.queries = append(d.queries, r.URL.RawQuery)
	} else {
		var order Order
		sent, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(sent, &order) != nil {
			return nil, errors.New("not an order")
		}
		d.sizes, d.dry, d.bodies = append(d.sizes, len(order.Devices)), order.DryRun, append(d.bodies, string(sent))
		code := map[bool]string{true: "would_unassign", false: "unassigned"}[order.DryRun || d.dryOnly]
		outcome := map[bool]string{true: "not_done", false: "done"}[order.DryRun || d.dryOnly]
		body += strings.TrimSuffix(strings.Repeat(`{"status":200,"code":"`+code+`","outcome":"`+outcome+`","account":{"userPrincipalName":"room@x.com"}},`, len(order.Devices)), ",") + "]}"
	}
	return &http.Response{StatusCode: 200, Header: http.Header{"X-Request-Id": {"x"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// runProgram runs a command against d, with input as the standard input of a terminal if interactive.
func runProgram(t *testing.T, d *deployment, interactive bool, input, command string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	p := Program{
		Version: "test", HTTP: d, Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs, interactive: interactive,
		Getenv: func(name string) string {
			return map[string]string{"UNASSIGN_URL": "https://contoso.example", "UNASSIGN_API_KEY": strings.Repeat("k", 24)}[name]
		},
	}
	run := map[string]func() error{"call": func() error { return p.Call(t.Context(), args) }, "list": func() error { return p.List(t.Context(), args) }}[command]
	err = run()
	return out.String(), errs.String(), err
}

// A large real run is confirmed by a person, or by a flag.
func TestCallConfirms(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "devices.csv")
	if err := os.WriteFile(file, []byte("serial,expected\n"+strings.ReplaceAll(manySerials(60), "\n", ",room@x.com\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		interactive bool
		input       string
		args        []string
		err         string // "" for a run
	}{
		"no terminal":         {false, "", nil, "call: nothing was sent: a run with more than 50 devices needs -yes or -max, and this one has 60"},
		"-yes":                {false, "", []string{"-yes"}, ""},
		"-max":                {false, "", []string{"-max", "60"}, ""},
		"more than -max":      {false, "", []string{"-max", "59", "-yes"}, "call: nothing was sent: 60 devices, and -max is 59"},
		"a dry run":           {false, "", []string{"-dry-run"}, ""},
		"the answer yes":      {true, "yes\n", nil, ""},
		"the answer no":       {true, "\n", nil, "call: nothing was sent: the run was not confirmed"},
		"no answer":           {true, "", nil, "call: nothing was sent: a run with more than 50 devices needs -yes or -max, and this one has 60"},
		"-yes on a terminal":  {true, "", []string{"-yes"}, ""},
		"-json on a terminal": {true, "yes\n", []string{"-json"}, ""},
	} {
		d := &deployment{}
		out := filepath.Join(t.TempDir(), "out.csv")
		_, stderr, err := runProgram(t, d, test.interactive, test.input, "call", append(test.args, "-csv", file, "-out", out)...)
		if test.err == "" && (err != nil || !slices.Equal(d.sizes, []int{20, 20, 20})) || test.err != "" && (err == nil || err.Error() != test.err || len(d.sizes) > 0) {
			t.Errorf("%s: %v, %v\n%s", name, err, d.sizes, stderr)
		}
		asked := strings.Contains(stderr, "This removes the resource account from 60 devices at https://contoso.example/api/unassign:\n  SN-0, expected to carry room@x.com\n  SN-1, expected to carry room@x.com\n  SN-2, expected to carry room@x.com\n  and 57 more\nType yes to go on: ")
		if asked != (test.interactive && !slices.Contains(test.args, "-yes")) {
			t.Errorf("%s: it asked: %t\n%s", name, asked, stderr)
		}
	}
}

// A deployment with DRY_RUN=true changes nothing. A real run is no success then, and sends its devices again later.
func TestCallOfDryDeployment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "devices.csv")
	if err := os.WriteFile(file, []byte("serial\n"+manySerials(30)), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &deployment{dryOnly: true}
	_, stderr, err := runProgram(t, d, false, "", "call", "-csv", file)
	if err == nil || err.Error() != "call: no device can be changed before this is fixed: would_unassign: The deployment has DRY_RUN=true, so nothing was changed." || !strings.Contains(stderr, "0 succeeded; 20 to retry: 20 would_unassign; 10 not sent") {
		t.Errorf("%v\n%s", err, stderr)
	}
	d = &deployment{}
	if _, stderr, err := runProgram(t, d, false, "", "call", "-csv", file); err != nil || !slices.Equal(d.sizes, []int{20, 10}) {
		t.Errorf("%v, %v\n%s", err, d.sizes, stderr)
	}
}

// A variable that is not set does not lift a limit.
func TestEmptyLimits(t *testing.T) {
	t.Parallel()
	for flag, args := range map[string][]string{
		"-group-tag": {"list", "-group-tag", ""}, "-serial": {"list", "-serial", " "}, "-expect": {"call", "-serial", "5CG1", "-expect", ""},
	} {
		d := &deployment{pages: []string{`{"devices":[]}`}}
		_, _, err := runProgram(t, d, false, "", args[0], args[1:]...)
		_, usage := errors.AsType[text.UsageError](err)
		if !usage || !strings.Contains(err.Error(), "for flag "+flag+": must not be empty") || len(d.queries)+len(d.sizes) > 0 {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// More than 20 devices on the command line are several requests.
func TestCallSplits(t *testing.T) {
	t.Parallel()
	var args []string
	for i := range 45 {
		args = append(args, "-serial", fmt.Sprintf("SN-%d", i))
	}
	d := &deployment{}
	stdout, stderr, err := runProgram(t, d, false, "", "call", args...)
	if err != nil || !slices.Equal(d.sizes, []int{20, 20, 5}) || strings.Count(stdout, ": 200 unassigned. Account: room@x.com.\n") != 45 || !strings.HasSuffix(stderr, "45 devices: 45 succeeded\n") {
		t.Errorf("%v, %v\n%s%s", err, d.sizes, stderr, stdout)
	}
}

// The summary counts the reasons, the most frequent first.
func TestSummaryCountsReasons(t *testing.T) {
	t.Parallel()
	c := Counts{
		Total: 4000, Succeeded: 2, Refused: 3998,
		Reasons: map[standing]map[string]int{succeeded: {"unassigned": 2}, refused: {"policy_denied": 8, "device_not_found": 3990}},
	}
	if got, want := c.formatSummary(), "4,000 devices: 2 succeeded; 3,998 refused: 3,990 device_not_found, 8 policy_denied"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A list comes from standard input. The results of a dry run are a list of the devices that it would change.
func TestCallFromStandardInput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := &deployment{}
	dry := filepath.Join(dir, "dry.csv")
	if _, stderr, err := runProgram(t, d, false, "5CG1\r\n5CG2\r\n", "call", "-csv", "-", "-dry-run", "-out", dry); err != nil || !d.dry || !strings.Contains(stderr, "the file has no header") || !strings.Contains(stderr, "2 devices: 2 succeeded: 2 would_unassign. Results: "+dry) {
		t.Errorf("%v\n%s", err, stderr)
	}
	undo := filepath.Join(dir, "undo.csv")
	if _, stderr, err := runProgram(t, d, false, "", "call", "-csv", dry, "-out", undo); err != nil || d.dry || !strings.Contains(d.bodies[1], `{"serialNumber":"5CG1","expected":{"userPrincipalName":"room@x.com"}}`) {
		t.Errorf("%v, %v\n%s", err, d.bodies, stderr)
	}
	if text, err := os.ReadFile(undo); err != nil || strings.Count(string(text), ",room@x.com,200,unassigned,") != 2 {
		t.Errorf("%v\n%s", err, text)
	}
}

const (
	firstPage  = `{"devices":[{"deviceId":"` + oneID + `","serialNumber":"=1+1","groupTag":"X;=1","account":{"userPrincipalName":"room@x.com","resourceName":"room"}}],"nextPageToken":"a&b"}`
	emptyPage  = `{"devices":[],"nextPageToken":"c"}`
	secondPage = `{"devices":[{"deviceId":"` + otherID + `","serialNumber":"5CG2","groupTag":"","account":{"resourceName":"hub"}}]}`
)

// A list has all pages, and call takes its file as it is.
func TestList(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "devices.csv")
	d := &deployment{pages: []string{firstPage, emptyPage, secondPage}}
	if _, stderr, err := runProgram(t, d, false, "", "list", "-csv", file, "-group-tag", "MTR Oslo"); err != nil || stderr != "2 devices with a resource account. List: "+file+"\n" {
		t.Errorf("%v\n%s", err, stderr)
	}
	if !slices.Equal(d.queries, []string{"groupTag=MTR+Oslo", "groupTag=MTR+Oslo&pageToken=a%26b", "groupTag=MTR+Oslo&pageToken=c"}) {
		t.Errorf("%q", d.queries)
	}
	want := "deviceId,serialNumber,groupTag,expectedUserPrincipalName,expectedResourceName\n" + oneID + ",'=1+1,X;'=1,room@x.com,room\n" + otherID + ",5CG2,,,hub\n"
	if text, err := os.ReadFile(file); err != nil || string(text) != want {
		t.Errorf("%v\n%s", err, text)
	}
	if _, stderr, err := runProgram(t, d, false, "", "call", "-csv", file); err != nil || !strings.Contains(d.bodies[0], `{"deviceId":"`+oneID+`","expected":{"userPrincipalName":"room@x.com"}},{"deviceId":"`+otherID+`","expected":{"resourceName":"hub"}}`) {
		t.Errorf("%v, %v\n%s", err, d.bodies, stderr)
	}
	for _, args := range [][]string{nil, {"-json"}, {"-csv", "-"}} {
		stdout, _, err := runProgram(t, &deployment{pages: []string{firstPage, secondPage}}, false, "", "list", args...)
		if err != nil || !strings.Contains(stdout, otherID) || !strings.Contains(stdout, "room@x.com") || slices.Equal(args, []string{"-json"}) && !json.Valid([]byte(stdout)) {
			t.Errorf("%v: %v\n%s", args, err, stdout)
		}
	}
}

// A list that fails leaves no half file, and says why.
func TestListFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pages []string
		want  string
	}{
		"pages without end": {[]string{firstPage}, "list: the pages of the list do not end"},
		"another service":   {[]string{"<h1>hello</h1>"}, "list: 200 OK, but not a list of devices from the function; check -url"},
	} {
		file := filepath.Join(t.TempDir(), "devices.csv")
		if _, _, err := runProgram(t, &deployment{pages: test.pages}, false, "", "list", "-csv", file); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) > 0 {
			t.Errorf("%s: there is %v", name, entries)
		}
	}
	if _, _, err := runProgram(t, &deployment{}, false, "", "list", "-json", "-csv", "x"); err == nil || !strings.HasSuffix(err.Error(), "\nsee unassign list -h") {
		t.Error(err)
	}
}
