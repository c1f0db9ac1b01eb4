package app_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/azuresim"
)

// timer is the event of a timer.
var timer = handler.SweepEvent(handler.SourceTimer)

// command returns the event of a direct invocation with that payload.
func command(text string) handler.Event {
	return handler.CommandEvent([]byte(text))
}

// applied are the settings of a sweep that acts, on up to that many devices.
func applied(most int, more ...string) []string {
	return append([]string{"SWEEP_GROUP_TAG=" + azuresim.FleetTag, "SWEEP_APPLY=true", fmt.Sprint("SWEEP_MAX_DEVICES=",
		most)}, more...)
}

// swept returns how many devices of a fleet that were to be swept are without an account, and how many others.
func (p *program) swept(size int) (meant, others int) {
	for _, before := range azuresim.Fleet(size) {
		now, _ := p.cloud.Device(before.ID)
		switch changed := now != before; {
		case changed && before.GroupTag == azuresim.FleetTag && before.Form != azuresim.LeftOut:
			meant++
		case changed:
			others++
		}
	}
	return meant, others
}

// errorWords is an *EventError in words.
func errorWords(err *handler.EventError) string {
	if err == nil {
		return ""
	}
	words := string(err.Code)
	if err.Retryable {
		words += ", retryable"
	}
	if err.Throttled {
		words += ", throttled"
	}
	return words
}

// TestSweep sweeps a fleet of 200, of which 40 have the tag: 20 carry an account, and 10 do not show whether they do.
func TestSweep(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	item := func(times int, f azuresim.Fault) func(*azuresim.Cloud) {
		return func(c *azuresim.Cloud) { c.Fail(azuresim.StepItem, times, f) }
	}
	all := handler.Report{GroupTag: azuresim.FleetTag, Inventory: 200, Tagged: 40, Unknown: 10, Matching: 20}
	with := func(change func(*handler.Report)) handler.Report {
		r := all
		change(&r)
		return r
	}
	done := with(func(r *handler.Report) { r.Code, r.Succeeded = "swept", 20 })
	dry := with(func(r *handler.Report) { r.Code, r.Succeeded, r.DryRun = "swept", 20, true })
	refused := func(code handler.Code) handler.Report {
		return with(func(r *handler.Report) { r.Code, r.HandedBack = code, 20 })
	}
	for _, test := range []struct {
		name     string
		settings []string
		event    handler.Event
		prepare  func(*azuresim.Cloud)
		report   handler.Report
		err      string
		level    string
		records  int // of devices
		done     int
	}{
		{"it acts", applied(20), timer, nil, done, "", "INFO", 20, 20},
		{
			"it is a dry run until told otherwise",
			[]string{"SWEEP_GROUP_TAG=" + azuresim.FleetTag, "SWEEP_MAX_DEVICES=20"},
			timer, nil, dry, "", "INFO", 20, 0,
		},
		{
			"it is a dry run where the command says so", applied(20), command(`{"command":"sweep","dryRun":true}`), nil, dry,
			"", "INFO", 20, 0,
		},
		{
			"a command cannot make it act",
			[]string{"SWEEP_MAX_DEVICES=20"},
			command(`{"command":"sweep","dryRun":false,"groupTag":"Retired"}`), nil, dry, "", "INFO", 20, 0,
		},
		{
			"more devices than it may act on", applied(19), timer, nil, refused("sweep_too_many"), "sweep_too_many", "ERROR",
			0, 0,
		},
		{
			"more than it may act on, in a dry run",
			[]string{"SWEEP_GROUP_TAG=" + azuresim.FleetTag, "SWEEP_MAX_DEVICES=19"},
			timer, nil, with(func(r *handler.Report) { r.Code, r.HandedBack, r.DryRun = "sweep_too_many", 20, true }),
			"sweep_too_many", "ERROR", 0, 0,
		},
		{"more than the ten it may act on by default", []string{
			"SWEEP_GROUP_TAG=" + azuresim.FleetTag,
			"SWEEP_APPLY=true",
		}, timer, nil, refused("sweep_too_many"), "sweep_too_many", "ERROR", 0, 0},
		{
			"an inventory that is too small", applied(20, "SWEEP_MIN_INVENTORY=201"), timer, nil,
			refused("sweep_inventory_small"), "sweep_inventory_small", "ERROR", 0, 0,
		},
		{
			"an inventory that is just large enough", applied(20, "SWEEP_MIN_INVENTORY=200"), timer, nil, done, "", "INFO",
			20, 20,
		},
		{
			"a tag that nobody has", applied(20), command(`{"command":"sweep","groupTag":"Nobody"}`), nil,
			handler.Report{Code: "swept", GroupTag: "Nobody", Inventory: 200},
			"", "INFO", 0, 0,
		},
		{
			"a tag outside the policy", applied(20, "ALLOWED_GROUP_TAGS=Retired,MTR-*"),
			command(`{"command":"sweep","groupTag":"Kiosk"}`), nil,
			handler.Report{Code: "policy_denied", GroupTag: "Kiosk"},
			"policy_denied", "ERROR", 0, 0,
		},
		{
			"a tag that is a part of what is allowed", applied(20, "ALLOWED_GROUP_TAGS=Retired,MTR-*"),
			command(`{"command":"sweep","groupTag":"MTR"}`), nil,
			handler.Report{Code: "policy_denied", GroupTag: "MTR"},
			"policy_denied", "ERROR", 0, 0,
		},
		{
			"no tag at all", nil, timer, nil,
			handler.Report{Code: "sweep_tag_missing", DryRun: true},
			"sweep_tag_missing",
			"ERROR", 0, 0,
		},

		{
			"one device is in Graph's way", applied(20), timer, item(1, azuresim.Status(409)),
			with(func(r *handler.Report) { r.Code, r.Succeeded, r.Failed = "swept", 19, 1 }), "", "ERROR", 20, 19,
		},
		{"one device is locked", applied(20), timer, item(1, azuresim.Status(423)), with(func(r *handler.Report) {
			r.Code,
				r.Succeeded, r.HandedBack = "sweep_incomplete", 19, 1
		}), "sweep_incomplete, retryable", "WARN", 20, 19},
		{"one device is throttled once", applied(20), timer, item(1, azuresim.Status(429)), done, "", "INFO", 20, 20},
		{"every device fails", applied(20), timer, item(-1, azuresim.Status(500)), with(func(r *handler.Report) {
			r.Code,
				r.HandedBack = "sweep_incomplete", 20
		}), "sweep_incomplete, retryable", "WARN", 20, 0},
		{
			"every device is throttled", applied(20), timer, item(-1, azuresim.Status(429)),
			with(func(r *handler.Report) { r.Code, r.HandedBack = "sweep_incomplete", 20 }), "sweep_incomplete, retryable, " +
				"throttled", "WARN", 0, 0,
		},
		{
			"every device is forbidden", applied(20), timer, item(-1, azuresim.Status(403)),
			with(func(r *handler.Report) { r.Code, r.Failed = "graph_permission_missing", 20 }), "graph_permission_missing",
			"ERROR", 20, 0,
		},
		{
			"nothing is permitted", applied(20), timer, func(c *azuresim.Cloud) { c.SetGraphRoles() },
			handler.Report{Code: "graph_permission_missing", GroupTag: azuresim.FleetTag},
			"graph_permission_missing",
			"ERROR", 0, 0,
		},
		{
			"there is no credential", applied(20), timer, func(c *azuresim.Cloud) { c.DeleteSecret("graph-client-secret") },
			handler.Report{Code: "secret_not_found", GroupTag: azuresim.FleetTag},
			"secret_not_found", "ERROR", 0, 0,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			onFleet(t, 200, test.settings, func(p *program) {
				if test.prepare != nil {
					test.prepare(p.cloud)
				}
				report, err := p.run(3*time.Minute, test.event)
				if report != test.report || errorWords(err) != test.err {
					p.t.Errorf("%+v, %q\nwant %+v, %q", report, errorWords(err), test.report, test.err)
				}
				if meant, others := p.swept(200); meant != test.done || others != 0 {
					p.t.Errorf("%d devices are done, and %d others; want %d", meant, others, test.done)
				}
				if records := p.records("unassign"); len(records) != test.records {
					p.t.Errorf("%d records of devices, want %d", len(records), test.records)
				}
				p.wantSummary(report, test.level)
			})
		})
	}
}

// newEmptyCloud returns a cloud as newCloud does, without its device.
func newEmptyCloud() *azuresim.Cloud {
	c := azuresim.New()
	c.SetAppSecrets(canarySecret)
	c.PutSecret("graph-client-secret", azuresim.Secret{Value: canarySecret})
	return c
}

// onFleet is onCloud with a fleet.
func onFleet(t *testing.T, size int, settings []string, test func(p *program)) {
	t.Helper()
	onCloud(t, settings, func(p *program) {
		p.cloud = newEmptyCloud()
		p.rewire(settings)
		p.handler.Pace = groups(20)
		p.cloud.PutFleet(size)
		test(p)
	})
}

// wantSummary looks for the last record of a sweep, which has the counts of its report; and these add up.
func (p *program) wantSummary(report handler.Report, level string) {
	p.t.Helper()
	records := p.records("sweep")
	if len(records) == 0 {
		p.t.Fatalf("no record of a sweep in %s", p.log)
	}
	r := records[len(records)-1]
	got := fmt.Sprint(r["code"], r["group_tag"], r["dry_run"], r["inventory"], r["tagged"], r["unknown"], r["matching"],
		r["succeeded"], r["failed"], r["handed_back"])
	want := fmt.Sprint(report.Code, report.GroupTag, report.DryRun, report.Inventory, report.Tagged, report.Unknown,
		report.Matching, report.Succeeded, report.Failed, report.HandedBack)
	if got != want || r["level"] != level {
		p.t.Errorf("the record is %v, want %s at %s", r, want, level)
	}
	if report.Matching != report.Succeeded+report.Failed+report.HandedBack {
		p.t.Errorf("the counts do not add up: %+v", report)
	}
}

// An event of a schedule is carried out until six hours after its time, and not after that: the one of the next day
// is near.
func TestScheduleIsLate(t *testing.T) {
	t.Parallel()
	for late, code := range map[time.Duration]string{
		0: "swept", 5 * time.Hour: "swept", 6*time.Hour - time.Second: "swept", 6*time.Hour + time.Second: "event_late",
		48 * time.Hour: "event_late", -time.Hour: "swept",
	} {
		for _, named := range []string{"by the host", "by the command"} {
			onFleet(t, 200, applied(20), func(p *program) {
				event := handler.SweepEvent(handler.SourceSchedule)
				event.Due = time.Now().Add(-late)
				if named == "by the command" {
					event = command(`{"command":"sweep","scheduledTime":"` + time.Now().Add(-late).UTC().Format(time.RFC3339) + `"}`)
				}
				report, err := p.run(eventTime, event)
				if got := string(report.Code) + errorWords(err); got != code {
					p.t.Errorf("%v late %s: %q, want %q", late, named, got, code)
				}
				if meant, _ := p.swept(200); meant != map[bool]int{true: 20, false: 0}[code == "swept"] {
					p.t.Errorf("%v late %s: %d devices are done", late, named, meant)
				}
			})
		}
	}
}

// A failure of any page of the inventory changes nothing, and the event may be retried.
func TestSweepOfAPartOfTheInventory(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]azuresim.Fault{
		"says 500": azuresim.Status(500), "says 429": azuresim.Status(429), "says 503": azuresim.Status(503),
		"hangs": azuresim.Hang(), "breaks off": azuresim.ResetMidBody(),
		"is cut off": azuresim.Truncated(), "is for people": azuresim.WrongType(), "is null": azuresim.Body(200,
			"application/json", "null"), "is no page": azuresim.Body(200, "application/json", "{}"),
		"leads to itself": azuresim.Body(200, "application/json",
			`{"value":[{"id":"`+someDevice+`"}],"@odata.nextLink":"https://graph.microsoft.com/beta/deviceManagement/windowsAutopilotDeviceIdentities"}`),
	} {
		for failing := range 3 {
			if failing != 1 && name != "says 500" { // the first and the last page go wrong in one way
				continue
			}
			onFleet(t, 2500, applied(1000), func(p *program) {
				p.cloud.Fail(azuresim.StepGraph, failing, azuresim.Delay(0))
				p.cloud.Fail(azuresim.StepGraph, -1, fault)
				report, err := p.run(eventTime, timer)
				if err == nil || !err.Retryable || report.Succeeded+report.Failed != 0 {
					p.t.Errorf("page %d %s: %+v, %q", failing, name, report, errorWords(err))
				}
				if report.Inventory > failing*1000+1 || report.Inventory < failing*1000 {
					p.t.Errorf("page %d %s: %d devices were looked at", failing, name, report.Inventory)
				}
				if writes := len(p.writes()); writes != 0 {
					p.t.Errorf("page %d %s: %d writes", failing, name, writes)
				}
				p.wantSummary(report, "ERROR")
			})
		}
	}
}

// groups is a pace that grants so many permits after a second.
type groups int

func (g groups) Take(ctx context.Context, want int) int {
	select {
	case <-time.After(time.Second):
		return min(want, int(g))
	case <-ctx.Done():
		return 0
	}
}

func (groups) Return(int, time.Time) {}

func (g groups) Capacity(d time.Duration) int { return int(g) * int(d.Seconds()) }

func (groups) Rate() float64 { return 0 }

func (groups) Learn(float64) {}

// A thousand devices of ten thousand are done in one run, at the pace of Graph's published limit and without one
// refusal. While another app takes half of the limit it takes longer, and still all are done.
func TestSweepOfAFleet(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	for name, test := range map[string]struct {
		limit, size, refused int
		atMost               time.Duration
	}{
		"the published limit": {azuresim.PublishedWrites, 10_000, 0, 6 * time.Minute},
		"half of it":          {azuresim.PublishedWrites / 2, 2000, 30, 150 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			matching := test.size / 10
			onFleet(t, test.size, applied(matching), func(p *program) {
				p.rewire(applied(matching)) // with the pace of the program
				p.cloud.Throttle(azuresim.WriteLimit{Writes: test.limit, CountRefused: true, RetryAfter: 10})
				start := time.Now()
				report, err := p.run(eventTime, timer)
				want := handler.Report{
					Code: "swept", GroupTag: azuresim.FleetTag, Inventory: test.size, Tagged: 2 * matching,
					Unknown: matching / 2, Matching: matching, Succeeded: matching,
				}
				if report != want || err != nil {
					p.t.Errorf("%+v, %q", report, errorWords(err))
				}
				if meant, others := p.swept(test.size); meant != matching || others != 0 {
					p.t.Errorf("%d devices are done, and %d others", meant, others)
				}
				if took := time.Since(start); took > test.atMost {
					p.t.Errorf("it took %v", took)
				}
				if refused := len(p.writes()) - matching; refused > test.refused {
					p.t.Errorf("%d writes were refused", refused)
				}
				p.wantSummary(report, "INFO")
				if records := p.records("unassign"); len(records) != matching {
					p.t.Errorf("%d records of devices", len(records))
				}
			})
		})
	}
}

// Near the end of its time a sweep starts no change, and the next run continues with the remaining devices.
func TestSweepEndsInTime(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]azuresim.Fault{
		"as ever": azuresim.Delay(0),
		"slowly":  azuresim.Delay(3 * time.Second), "too slowly": azuresim.Delay(24 * time.Second),
	} {
		onFleet(t, 1000, applied(100), func(p *program) {
			p.handler.Pace = groups(2)
			p.cloud.Fail(azuresim.StepGraph, 1, azuresim.Delay(0)) // the inventory
			p.cloud.Fail(azuresim.StepGraph, -1, fault)
			start := time.Now()
			first, err := p.run(time.Minute, timer)
			if errorWords(err) != "sweep_incomplete, retryable" || (first.Succeeded == 0) != (name == "too slowly") ||
				first.HandedBack == 0 || first.Failed != 0 {
				p.t.Errorf("%s: %+v, %q", name, first, errorWords(err))
			}
			for _, w := range p.writes() {
				if begun := w.at.Sub(start); name == "as ever" && begun > 45*time.Second {
					p.t.Errorf("%s: a write began after %v", name, begun)
				}
			}
			p.wantSummary(first, "WARN")
			p.cloud.Heal()
			second, err := p.run(eventTime, timer)
			if meant, others := p.swept(1000); meant != 100 || others != 0 || err != nil ||
				second.Matching > first.HandedBack {
				p.t.Errorf("%s: %+v, %q; %d devices are done, and %d others", name, second, errorWords(err), meant, others)
			}
		})
	}
}

// A fault of this function would fail every device: the sweep stops at once.
func TestSweepStopsWhenForbidden(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		step azuresim.Step
		pass int // requests of that step that are answered as ever
		fail azuresim.Fault
		code string
		done int
		bad  int
	}{
		"in the middle of a batch": {azuresim.StepItem, 45, azuresim.Status(403), "graph_permission_missing", 45, 15},
		"a batch":                  {azuresim.StepGraph, 4, azuresim.Status(403), "graph_permission_missing", 40, 20},
		"the tenant": {
			azuresim.StepItem, 40, azuresim.Body(400, "application/json",
				`{"error":{"code":"BadRequest","message":"Request not applicable to target tenant."}}`), "tenant_not_enabled", 40,
			20,
		},
	} {
		onFleet(t, 2000, applied(200), func(p *program) {
			p.cloud.Fail(test.step, test.pass, azuresim.Delay(0))
			p.cloud.Fail(test.step, -1, test.fail)
			report, err := p.run(eventTime, timer)
			if errorWords(err) != test.code || report.Succeeded != test.done || report.Failed != test.bad ||
				report.HandedBack != 200-test.done-test.bad {
				p.t.Errorf("%s: %+v, %q", name, report, errorWords(err))
			}
			if asked := p.cloud.Count(azuresim.StepGraph); asked != 5 {
				p.t.Errorf("%s: %d requests", name, asked)
			}
			p.wantSummary(report, "ERROR")
		})
	}
}

// An event about devices has a record and a result for each, and fails where a retry helps.
func TestRunActsOnDevices(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	for _, test := range []struct {
		name    string
		event   handler.Event
		prepare func(*azuresim.Cloud)
		err     string
		codes   string
		done    string
	}{
		{"a command", command(`{"command":"unassign","deviceId":"` + row(1) + `"}`), nil, "", "unassigned", "1"},
		{
			"one that is not there", command(`{"command":"unassign","devices":[` + named(1) + `,` + named("nobody") + `]}`),
			nil, "device_not_found", "unassigned,device_not_found", "1",
		},
		{
			"one that is throttled beside one that is not there",
			command(`{"command":"unassign","devices":[` + named(9) + `,` + named(1) + `]}`),
			func(c *azuresim.Cloud) {
				c.Fail(azuresim.StepItem, 1, azuresim.Delay(0))
				c.Fail(azuresim.StepItem, -1, azuresim.Status(429))
			}, "graph_throttled, retryable, throttled", "device_not_found,graph_throttled", "",
		},
		{"a command that is none", command(`{"command":"dance"}`), nil, "event_invalid", "", ""},
		{"a sweep with a device", command(`{"command":"sweep","deviceId":"` + row(1) + `"}`), nil, "unknown_field", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			onCloud(t, nil, func(p *program) {
				p.putRows()
				if test.prepare != nil {
					test.prepare(p.cloud)
				}
				if _, err := p.run(eventTime, test.event); errorWords(err) != test.err {
					p.t.Errorf("%q, want %q", errorWords(err), test.err)
				}
				var codes []string
				for _, r := range p.records("unassign") {
					codes = append(codes, fmt.Sprint(r["code"]))
				}
				if got := strings.Join(codes, ","); got != test.codes || p.doneRows() != test.done {
					p.t.Errorf("the records say %s, and done are %q; want %s and %q", got, p.doneRows(), test.codes, test.done)
				}
				if events := p.records("event"); (len(events) == 1) != (test.codes == "") {
					p.t.Errorf("records of events: %v", events)
				}
			})
		})
	}
}
