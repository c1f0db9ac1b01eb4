package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

// program is the whole program in this process, on a cloud of its own.
type program struct {
	t       *testing.T
	cloud   *azuresim.Cloud
	handler *app.App
	timeout time.Duration
	log     *bytes.Buffer
}

// onCloud runs a test of the program in which time is not real. The settings are given as NAME=value; every caller is
// taken for authentic.
func onCloud(t *testing.T, settings []string, test func(p *program)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &program{t: t, cloud: newCloud(), log: &bytes.Buffer{}}
		p.rewire(settings)
		test(p)
		if found := leaks(canaries(p.cloud, nil), p.log.String()); len(found) > 0 {
			t.Errorf("leaked %q into the log", found)
		}
	})
}

// rewire starts the program anew, with nothing read.
func (p *program) rewire(settings []string) {
	p.t.Helper()
	p.handler, p.timeout = assemble(p.t, p.cloud, settings, p.log)
}

// assemble puts the program together on a cloud, and returns it and its time for a request.
func assemble(tb testing.TB, cloud *azuresim.Cloud, settings []string, log io.Writer) (*app.App, time.Duration) {
	tb.Helper()
	values := []string{"WEBHOOK_SECRET_NAMES", "", "AUTH", "platform"}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		values = append(values, name, value)
	}
	c := simulated.Load(tb, simulated.Settings(cloud, values...))
	return simulated.NewApp(tb, c, cloud, log), c.Timeout
}

// listAnswer is an answer to a request about a list of devices.
type listAnswer struct {
	status     int
	retryAfter string
	text       string
	Error      struct{ Code string }
	Outcome    string
	Summary    struct{ Total, Succeeded, Failed int }
	Results    []struct {
		Code, Verification, Outcome string
		Error                       struct{ Code string }
		Status                      int
		DeviceID, SerialNumber      string
		DeviceIDs                   []string
	}
}

// send sends a request, which must be answered in time.
func (p *program) send(body string) listAnswer {
	p.t.Helper()
	r := httptest.NewRequestWithContext(p.t.Context(), http.MethodPost, handler.RouteUnassign, strings.NewReader(body))
	w := httptest.NewRecorder()
	start := time.Now()
	p.handler.ServeHTTP(w, r)
	if took := time.Since(start); took > p.timeout {
		p.t.Errorf("the answer took %v of %v", took, p.timeout)
	}
	answer := listAnswer{status: w.Code, retryAfter: w.Header().Get("Retry-After"), text: w.Body.String()}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			p.t.Fatalf("%v in %s", err, w.Body)
		}
	}
	if found := leaks(canaries(p.cloud, nil), answer.text, fmt.Sprint(w.Header())); len(found) > 0 {
		p.t.Errorf("leaked %q in %s", found, answer.text)
	}
	return answer
}

// ends returns the result of each device: "unassigned 200", with the verification behind a comma.
func (a listAnswer) ends() string {
	words := make([]string, len(a.Results))
	for i, r := range a.Results {
		words[i] = fmt.Sprint(r.Code+r.Error.Code, " ", r.Status)
		if r.Verification != "" {
			words[i] += " " + r.Verification
		}
	}
	return strings.Join(words, ", ")
}

// write is a request to take an account off, alone or in a batch.
type write struct {
	id string
	at time.Time
}

// writes returns those that Graph was asked for.
func (p *program) writes() []write {
	var writes []write
	for _, step := range []azuresim.Step{azuresim.StepGraph, azuresim.StepItem} {
		for _, r := range p.cloud.Requests(step) {
			if id, ok := strings.CutSuffix(r.Path, "/unassignResourceAccountFromDevice"); ok {
				writes = append(writes, write{id[strings.LastIndex(id, "/")+1:], r.At})
			}
		}
	}
	slices.SortStableFunc(writes, func(a, b write) int { return a.at.Compare(b.at) })
	return writes
}

// records returns the lines of the log with that message.
func (p *program) records(message string) []map[string]any {
	p.t.Helper()
	var records []map[string]any
	for line := range strings.Lines(p.log.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			p.t.Fatalf("%v in %s", err, line)
		}
		if record["message"] == message {
			records = append(records, record)
		}
	}
	return records
}

// row is the id of the device n of the rows below.
func row(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// putRows stores the devices of the rows below.
func (p *program) putRows() {
	for n, d := range []azuresim.Device{
		1: {SerialNumber: "S1", GroupTag: "MTR-Oslo", UserPrincipalName: "room.1@contoso.com"},
		2: {SerialNumber: "S2", GroupTag: "MTR-Oslo", UserPrincipalName: "room.2@contoso.com", ResourceName: "room.2"},
		3: {SerialNumber: "S3", GroupTag: "Kiosk", UserPrincipalName: "kiosk.3@contoso.com"},
		4: {SerialNumber: "S4", GroupTag: "MTR-Oslo"},
		5: {SerialNumber: "S5", GroupTag: "MTR-Oslo", UserPrincipalName: "room.5@contoso.com", Form: azuresim.LeftOut},
		6: {SerialNumber: "Default string", GroupTag: "MTR-Oslo", UserPrincipalName: "room.6@contoso.com"},
		7: {SerialNumber: "Default string", GroupTag: "MTR-Oslo", UserPrincipalName: "room.7@contoso.com"},
	} {
		if n > 0 {
			d.ID, d.DeviceAccountPassword = row(n), "canary-device-password"
			p.cloud.PutDevice(d)
		}
	}
}

// doneRows returns the numbers of the devices without an account.
func (p *program) doneRows() string {
	var numbers []string
	for _, n := range []int{1, 2, 3, 5, 6, 7} {
		if d, _ := p.cloud.Device(row(n)); d.UserPrincipalName == "" {
			numbers = append(numbers, fmt.Sprint(n))
		}
	}
	return strings.Join(numbers, ",")
}

// named is a device as a body names it: by the number of its row, or by its serial number.
func named(device any, expected ...string) string {
	body := fmt.Sprintf(`"serialNumber":%q`, device)
	if n, ok := device.(int); ok {
		body = fmt.Sprintf(`"deviceId":%q`, row(n))
	}
	if len(expected) > 0 {
		body += fmt.Sprintf(`,"expected":{"userPrincipalName":%q}`, expected[0])
	}
	return "{" + body + "}"
}

func TestLists(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	item := func(faults ...azuresim.Fault) func(*azuresim.Cloud) {
		return func(c *azuresim.Cloud) {
			for _, f := range faults {
				c.Fail(azuresim.StepItem, 1, f)
			}
		}
	}
	always := func(step azuresim.Step, f azuresim.Fault) func(*azuresim.Cloud) {
		return func(c *azuresim.Cloud) { c.Fail(step, -1, f) }
	}
	own, ok := azuresim.Delay(0), azuresim.Status(204)
	write := func(faults ...azuresim.Fault) func(*azuresim.Cloud) { // two devices are read before
		return item(append([]azuresim.Fault{own, own}, faults...)...)
	}
	onlyRooms := []string{"ALLOWED_GROUP_TAGS=MTR-*"}
	for _, test := range []struct {
		name     string
		settings []string
		prepare  func(*azuresim.Cloud)
		targets  []string
		more     string
		status   int
		ends     string
		done     string // the devices that have lost their account
		writes   int    // the changes sent to Graph
		retry    string // Retry-After
	}{
		{
			"in order, by whatever name", nil, nil,
			[]string{named(2), named("S1"), named(9), named("Default string"), named("S4"), named("nobody")},
			"", 207,
			"unassigned 200, unassigned 200, device_not_found 404, serial_number_ambiguous 409, already_unassigned 200, " +
				"device_not_found 404", "1,2", 3, "",
		},
		{
			"a device by two names, and twice", nil, nil,
			[]string{named(1), named("S1"), named("s1"), named(1)},
			"", 200,
			"unassigned 200, unassigned 200, unassigned 200, unassigned 200", "1", 1, "",
		},
		{
			"none can be done, for one reason", nil, nil,
			[]string{named(9), named("nobody")},
			"", 404,
			"device_not_found 404, device_not_found 404", "", 0, "",
		},
		{
			"none can be done, for two reasons", nil, nil,
			[]string{named("nobody"), named("Default string")},
			"", 207,
			"device_not_found 404, serial_number_ambiguous 409", "", 0, "",
		},
		{
			"one is in Graph's way", nil, write(azuresim.Status(409)),
			[]string{named(1), named(2)},
			"", 207,
			"graph_conflict 409, unassigned 200", "2", 2, "",
		},

		{
			"one is throttled once", nil, write(azuresim.Status(429)),
			[]string{named(1), named(2)},
			"", 200,
			"unassigned 200, unassigned 200", "1,2", 3, "",
		},
		{
			"one is throttled, and then again", nil, write(azuresim.Status(429, "Retry-After", "45"), azuresim.Status(409)),
			[]string{named(1), named(2)},
			"", 503,
			"graph_throttled 429, graph_conflict 409", "", 2, "45",
		},
		{"all are throttled", nil, func(c *azuresim.Cloud) {
			write()(c)
			c.Fail(azuresim.StepItem, -1, azuresim.Status(429))
		}, []string{named(1), named(2)}, "", 503, "graph_throttled 429, graph_throttled 429", "", 6, "30"},
		{
			"all reads are throttled", nil, always(azuresim.StepItem, azuresim.Status(429)),
			[]string{named(1), named(2)},
			"",
			503, "graph_throttled 429, graph_throttled 429", "", 0, "30",
		},
		{
			"one waits longer than the other", nil, write(azuresim.Status(429, "Retry-After", "45"), azuresim.Status(503,
				"Retry-After", "90")),
			[]string{named(1), named(2)},
			"", 503,
			"graph_throttled 429, graph_unavailable 503", "", 2, "90",
		},
		{
			"the batch is refused for now", nil, always(azuresim.StepGraph, azuresim.Status(503, "Retry-After", "60")),
			[]string{named(1), named(2)},
			"", 503, "graph_unavailable 503, graph_unavailable 503", "", 0, "60",
		},
		{"the batch is refused for good", nil, always(azuresim.StepGraph, azuresim.Status(403)), []string{
			named(1),
			named(2),
		}, "", 424, "graph_permission_missing 424, graph_permission_missing 424", "", 0, ""},
		{
			"Graph hangs", nil, always(azuresim.StepGraph, azuresim.Hang()),
			[]string{named(1), named(2)},
			"", 503,
			"graph_timeout 504, graph_timeout 504", "", 0, "10",
		},

		{
			"a dry run", nil, nil,
			[]string{named(1), named("S4"), named(5), named(9), named("Default string")},
			`,"dryRun":true`, 207,
			"would_unassign 200, already_unassigned 200, would_unassign 200, device_not_found 404, serial_number_ambiguous " +
				"409", "", 0, "",
		},
		{
			"verified", nil, nil,
			[]string{named(1), named("S4"), named(5), named("nobody")},
			`,"verify":true`, 207,
			"unassigned 200 cleared, already_unassigned 200 cleared, unassigned 200 unknown, device_not_found 404", "1,5", 3, "",
		},
		{
			"verified, and Intune is slow", nil, write(ok, own),
			[]string{named(1), named(2)},
			`,"verify":true`, 200,
			"unassigned 200 pending, unassigned 200 cleared", "2", 2, "",
		},
		{
			"verified, and it cannot be read", nil, write(own, own, azuresim.Status(409), own),
			[]string{named(1), named(2)},
			`,"verify":true`, 200, "unassigned 200 unknown, unassigned 200 cleared", "1,2", 2, "",
		},
		{
			"verified, and nothing can be read", nil, func(c *azuresim.Cloud) {
				c.Fail(azuresim.StepGraph, 2, own)
				c.Fail(azuresim.StepGraph, -1, azuresim.Hang())
			},
			[]string{named(1), named(2)},
			`,"verify":true`, 200, "unassigned 200 unknown, unassigned 200 unknown", "1,2", 2,
			"",
		},

		{
			"what was expected, and what was not", nil, nil,
			[]string{
				named(1, "ROOM.1@contoso.com"), named("S2", "room.1@contoso.com"), named(4, "room.4@contoso.com"),
				named(5, "room.5@contoso.com"),
			},
			"", 207,
			"unassigned 200, state_changed 409, already_unassigned 200, state_changed 409", "1", 1, "",
		},
		{"a dry run of what was expected", nil, nil, []string{named(1, "room.1@contoso.com"), named(2,
			"room.1@contoso.com")}, `,"dryRun":true`, 207, "would_unassign 200, state_changed 409", "", 0, ""},

		{
			"a device outside the policy", onlyRooms, nil,
			[]string{named(1), named(3), named("S3"), named("S2")},
			"", 207,
			"unassigned 200, policy_denied 403, policy_denied 403, unassigned 200", "1,2", 2, "",
		},
		{
			"all outside the policy", onlyRooms, nil,
			[]string{named(3), named("S3")},
			`,"verify":true`, 403,
			"policy_denied 403, policy_denied 403", "", 0, "",
		},
		{"within the policy, and it cannot be read", onlyRooms, item(azuresim.Status(409), own), []string{
			named(1),
			named(2),
		}, "", 207, "graph_conflict 409, unassigned 200", "2", 1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			onCloud(t, test.settings, func(p *program) {
				p.putRows()
				if test.prepare != nil {
					test.prepare(p.cloud)
				}
				a := p.send(`{"devices":[` + strings.Join(test.targets, ",") + `]` + test.more + `}`)
				if ends := a.ends(); a.status != test.status || ends != test.ends || a.retryAfter != test.retry {
					p.t.Errorf("%d: %s, Retry-After %q\nwant %d: %s, %q", a.status, ends, a.retryAfter, test.status, test.ends,
						test.retry)
				}
				failed := 0
				for _, r := range a.Results {
					if r.Status >= 400 {
						failed++
					}
				}
				if a.Summary.Total != len(test.targets) || a.Summary.Failed != failed ||
					a.Summary.Succeeded != len(test.targets)-failed {
					p.t.Errorf("the summary is %+v", a.Summary)
				}
				if done, writes := p.doneRows(), len(p.writes()); done != test.done || writes != test.writes {
					p.t.Errorf("done are %q by %d writes, want %q by %d", done, writes, test.done, test.writes)
				}
				records := p.records("unassign")
				if len(records) != len(test.targets) {
					p.t.Fatalf("%d records", len(records))
				}
				for i, r := range records {
					result := a.Results[i]
					if r["code"] != result.Code+result.Error.Code || r["status"] != float64(result.Status) {
						p.t.Errorf("the record is %v, the answer %+v", r, result)
					}
					if r["code"] == "policy_denied" && (r["level"] != "WARN" || r["device_id"] != row(3) ||
						r["serial_number"] != "S3" || r["group_tag"] != "Kiosk" || r["outcome"] != "not_done") {
						p.t.Errorf("the record of a refusal is %v", r)
					}
				}
			})
		})
	}
}

// The answer about a serial number that several devices share names them.
func TestAmbiguousNamesTheDevices(t *testing.T) {
	t.Parallel()
	onCloud(t, nil, func(p *program) {
		p.putRows()
		a := p.send(`{"devices":[` + named("default STRING") + `,` + named(1) + `]}`)
		if got := a.Results[0].DeviceIDs; !slices.Equal(got, []string{row(6), row(7)}) {
			p.t.Errorf("%v in %s", got, a.text)
		}
	})
}

// Twenty devices cost two requests: one to read them, one to change them.
func TestListCostsTwoRequests(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"deviceId": 2, "serialNumber": 2} {
		onCloud(t, nil, func(p *program) {
			var targets []string
			for i := range 20 {
				d := azuresim.Device{ID: row(100 + i), SerialNumber: fmt.Sprintf("PF-%04d", i), UserPrincipalName: "a"}
				p.cloud.PutDevice(d)
				targets = append(targets, fmt.Sprintf(`{%q:%q}`, name, map[string]string{
					"deviceId":     d.ID,
					"serialNumber": d.SerialNumber,
				}[name]))
			}
			a := p.send(`{"devices":[` + strings.Join(targets, ",") + `]}`)
			if asked := p.cloud.Count(azuresim.StepGraph); a.status != 200 || a.Summary.Succeeded != 20 || asked != want {
				p.t.Errorf("%s: %d %+v by %d requests, want %d", name, a.status, a.Summary, asked, want)
			}
		})
	}
}

// The limit counts devices, not requests, and refills with time.
func TestRateLimitRefills(t *testing.T) {
	t.Parallel()
	onCloud(t, []string{"RATE_LIMIT=30"}, func(p *program) {
		p.putRows()
		list := func(n int) string {
			return `{"dryRun":true,"devices":[` + strings.Join(slices.Repeat([]string{named(1)}, n), ",") + `]}`
		}
		for _, test := range []struct {
			wait    time.Duration
			devices int
			status  int
			retry   string
		}{
			{0, 20, 200, ""},
			{0, 10, 200, ""},
			{0, 1, 429, "2"},
			{0, 20, 429, "40"}, // a refused request is not counted
			{2 * time.Second, 1, 200, ""},
			{0, 1, 429, "2"},
			{39 * time.Second, 20, 429, "1"},
			{time.Second, 20, 200, ""},
			{time.Hour, 20, 200, ""},
			{0, 11, 429, "2"}, // no caller saves more than a minute's worth
			{0, 10, 200, ""},
		} {
			time.Sleep(test.wait)
			if a := p.send(list(test.devices)); a.status != test.status || a.retryAfter != test.retry {
				p.t.Errorf("after %v, %d devices: %d, Retry-After %q; want %d, %q", test.wait, test.devices, a.status,
					a.retryAfter, test.status, test.retry)
			}
		}
	})
}

// run has the program carry out an event within a time, 0 for any, and returns the report of a sweep.
func (p *program) run(within time.Duration, e handler.Event) (handler.Report, *handler.EventError) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	if within > 0 {
		ctx, cancel = context.WithTimeout(p.t.Context(), within)
	}
	defer cancel()
	start := time.Now()
	report, err := p.handler.Run(ctx, e)
	if took := time.Since(start); within > 0 && took > within {
		p.t.Errorf("it took %v of %v", took, within)
	}
	failed, ok := errors.AsType[*handler.EventError](err)
	if err != nil && !ok {
		p.t.Fatalf("an error of type %T", err)
	}
	if text, err := json.Marshal(report); err != nil || len(leaks(canaries(p.cloud, nil), string(text))) > 0 {
		p.t.Errorf("the report is %s, %v", text, err)
	}
	sweep, _ := report.(handler.Report)
	return sweep, failed
}
