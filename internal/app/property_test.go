package app_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
)

// seed replays one case of the property tests: go test ./internal/app -run 'TestAny' -seed N.
var seed = flag.Uint64("seed", 0, "the one case of the property tests to run; 0 for many at random")

// eachSeed runs a test with the seeds that once failed and with many at random, and names the one that fails.
func eachSeed(t *testing.T, cases int, test func(t *testing.T, r *rand.Rand), failed ...uint64) {
	t.Helper()
	seeds := []uint64{*seed}
	if *seed == 0 {
		seeds = failed
		for range cases {
			seeds = append(seeds, rand.Uint64())
		}
	}
	for _, s := range seeds {
		if !t.Run(fmt.Sprint("seed ", s), func(t *testing.T) { test(t, rand.New(rand.NewPCG(s, 0))) }) {
			return
		}
	}
}

// anyFault returns a way to go wrong. None of them is a success that is not true: against that nothing helps but to
// verify.
func anyFault(r *rand.Rand) azuresim.Fault {
	shapes := []azuresim.Shape{
		azuresim.Plain, azuresim.Nested, azuresim.DoublyNested, azuresim.HTML, azuresim.NoRoute,
		azuresim.NotJSON,
	}
	statuses := []int{400, 401, 403, 404, 409, 412, 423, 429, 429, 429, 500, 500, 502, 503, 503, 504}
	switch r.IntN(10) {
	case 0:
		return azuresim.Hang()
	case 1:
		return azuresim.Delay(time.Duration(r.IntN(30_000)) * time.Millisecond)
	case 2:
		return azuresim.Reset()
	case 3:
		return []azuresim.Fault{azuresim.Truncated(), azuresim.ResetMidBody()}[r.IntN(2)]
	case 4:
		return []azuresim.Fault{
			azuresim.NoHost(), azuresim.Refused(),
			azuresim.Redirect("https://stranger.example/"),
		}[r.IntN(3)]
	case 5, 6:
		return azuresim.Done(azuresim.Status([]int{500, 502, 504}[r.IntN(3)]))
	case 7:
		return azuresim.Status(statuses[r.IntN(len(statuses))], "Retry-After", fmt.Sprint(1+r.IntN(40)))
	}
	return azuresim.GraphError(statuses[r.IntN(len(statuses))], shapes[r.IntN(len(shapes))], r.IntN(2)*r.IntN(20))
}

// plan makes a cloud go wrong in some ways, one after the other and with good answers between.
func plan(r *rand.Rand, c *azuresim.Cloud) {
	for _, step := range []azuresim.Step{azuresim.StepGraph, azuresim.StepItem} {
		for range r.IntN(6) {
			c.Fail(step, r.IntN(4)*r.IntN(8), azuresim.Delay(0))
			c.Fail(step, 1+r.IntN(3), anyFault(r))
		}
		if r.IntN(8) == 0 {
			c.Fail(step, -1, anyFault(r))
		}
	}
	if r.IntN(6) == 0 {
		step := []azuresim.Step{azuresim.StepIdentity, azuresim.StepSecret, azuresim.StepToken}[r.IntN(3)]
		c.Fail(step, 1+r.IntN(5), []azuresim.Fault{
			azuresim.Status(500), azuresim.Status(429), azuresim.Hang(),
			azuresim.Reset(), azuresim.Status(403),
		}[r.IntN(5)])
	}
	if r.IntN(4) == 0 {
		c.Throttle(azuresim.WriteLimit{Writes: azuresim.PublishedWrites, CountRefused: true})
	}
}

// changed returns the devices of a fleet whose account has been taken, by their ids.
func (p *program) changed(size int) map[string]bool {
	ids := map[string]bool{}
	for _, before := range azuresim.Fleet(size) {
		if now, _ := p.cloud.Device(before.ID); now != before {
			ids[before.ID] = true
		}
	}
	return ids
}

// carries reports whether a device has a resource account, whether it shows it or not.
func carries(d azuresim.Device) bool {
	return d.UserPrincipalName+d.AddressableUserName+d.ResourceName != ""
}

// TestAnyFaultsOfAList sends lists to a Graph that fails in any way. Properties:
//
//  1. The response is in time, with one result for each device, in order, and the audit record agrees.
//  2. A reported change was made, and a change reported as not done was not made.
//  3. Nothing is done to a device that was not named, that policy refuses, or that a dry run looks at.
//  4. A response allows a retry exactly if a retry can help one of its devices.
func TestAnyFaultsOfAList(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	eachSeed(t, 80, func(t *testing.T, r *rand.Rand) {
		t.Helper()
		const size = 60
		var settings []string
		allowed := func(azuresim.Device) bool { return true }
		if r.IntN(2) == 0 {
			settings = []string{"ALLOWED_GROUP_TAGS=MTR-*,Kiosk"}
			allowed = func(d azuresim.Device) bool { return strings.HasPrefix(d.GroupTag, "MTR-") || d.GroupTag == "Kiosk" }
		}
		onFleet(t, size, settings, func(p *program) {
			fleet := azuresim.Fleet(size)
			var targets []string
			var meant []azuresim.Device      // by each target, the first of those that share a serial number
			for range max(1, r.IntN(28)-7) { // one alone is not asked for in a batch
				d := fleet[r.IntN(size)]
				if r.IntN(12) == 0 {
					d = azuresim.Device{ID: unknownDevice, SerialNumber: "UNKNOWN1"}
				}
				text := fmt.Sprintf(`{"deviceId":%q`, d.ID)
				if d.SerialNumber != "" && r.IntN(2) == 0 {
					text = fmt.Sprintf(`{"serialNumber":%q`, strings.ToUpper(d.SerialNumber))
				}
				if r.IntN(5) == 0 {
					text += fmt.Sprintf(`,"expected":{"resourceName":"room.%d"}`, r.IntN(size))
				}
				targets, meant = append(targets, text+"}"), append(meant, d)
			}
			more := []string{"", "", `,"verify":true`, `,"dryRun":true`}[r.IntN(4)]
			if r.IntN(2) == 0 { // with a cached token, every fault hits a request to Graph
				p.send(`{"deviceId":"` + unknownDevice + `"}`)
				p.log.Reset()
			}
			before := len(p.writes())
			plan(r, p.cloud)
			a := p.send(`{"devices":[` + strings.Join(targets, ",") + `]` + more + `}`)
			if len(a.Results) != len(targets) {
				p.t.Fatalf("%d results of %d devices: %s", len(a.Results), len(targets), a.text)
			}

			records, changed := p.records("unassign"), p.changed(size)
			open := map[string]bool{} // devices of which some result says that they are done, or may be
			again := false
			for i, result := range a.Results {
				code := result.Code + result.Error.Code
				if records[i]["code"] != code || records[i]["status"] != float64(result.Status) {
					p.t.Errorf("result %d is %+v, the audit says %v", i, result, records[i])
				}
				again = again || retryable(result.Status)
				switch now, _ := p.cloud.Device(result.DeviceID); {
				case result.DeviceID != "" && result.DeviceID != meant[i].ID && !strings.EqualFold(now.SerialNumber,
					meant[i].SerialNumber):
					p.t.Errorf("result %d is of %s, want %s", i, result.DeviceID, meant[i].ID)
				case result.Status != http.StatusOK && result.Code != "", result.Status == http.StatusOK &&
					result.Error.Code != "", len(records) != len(targets):
					p.t.Errorf("result %d is %+v", i, result)
				case result.Code == "unassigned" || result.Code == "already_unassigned":
					open[result.DeviceID] = true
					if carries(now) {
						p.t.Errorf("result %d is %s, and the device has its account", i, code)
					}
				case result.Outcome == "unknown":
					open[meant[i].ID] = true
				case result.Code == "" && result.Outcome != "not_done":
					p.t.Errorf("result %d has the outcome %q", i, result.Outcome)
				}
			}
			named := map[string]bool{}
			for _, d := range meant {
				named[d.ID] = true
			}
			for _, d := range fleet {
				switch {
				case !changed[d.ID]:
				case !named[d.ID], !allowed(d), more == `,"dryRun":true`:
					p.t.Errorf("%+v was acted on", d)
				case !open[d.ID]:
					p.t.Errorf("%s is done, and no result says so: %s", d.ID, a.text)
				}
			}
			for _, w := range p.writes()[before:] {
				if d, ok := p.cloud.Device(w.id); more == `,"dryRun":true` || ok && !allowed(d) || !named[w.id] {
					p.t.Errorf("Graph was asked to act on %+v", d)
				}
			}
			switch failed := a.Summary.Failed; {
			case again != (a.status == http.StatusServiceUnavailable), (failed == 0) != (a.status == http.StatusOK),
				again != (a.retryAfter != ""):
				p.t.Errorf("%d with Retry-After %q: %s", a.status, a.retryAfter, a.text)
			}
		})
	})
}

func retryable(status int) bool {
	switch status {
	case 408, 429, 500, 502, 503, 504:
		return true
	}
	return false
}

// TestAnyFaultsOfASweep sweeps a fleet while Graph fails in any way. Properties:
//
//  1. It ends in time, and every device that it found is done, has failed or is handed back, in exactly one of these ways.
//  2. A reported change was made. A change that is not reported, or reported as not done, was not made.
//  3. Nothing is done to any other device.
//  4. The next run, without faults, changes the remaining devices.
func TestAnyFaultsOfASweep(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	eachSeed(t, 12, func(t *testing.T, r *rand.Rand) {
		t.Helper()
		size := 200 * (1 + r.IntN(4))
		onFleet(t, size, applied(size), func(p *program) {
			matching := map[string]bool{}
			for _, d := range azuresim.Fleet(size) {
				if d.GroupTag == azuresim.FleetTag && carries(d) && d.Form != azuresim.LeftOut {
					matching[d.ID] = true
				}
			}
			plan(r, p.cloud)
			within := 20*time.Second + time.Duration(r.IntN(240))*time.Second
			report, err := p.run(within, timer)
			if report.Matching != report.Succeeded+report.Failed+report.HandedBack {
				p.t.Errorf("the counts do not add up: %+v", report)
			}
			if report.Inventory == size && report.Matching != len(matching) {
				p.t.Errorf("%d devices are matching: %+v", len(matching), report)
			}
			if whole := report.Code == "swept" && report.HandedBack == 0; whole != (err == nil) || whole != (err == nil &&
				report.Inventory == size) {
				p.t.Errorf("%+v, %q", report, errorWords(err))
			}
			changed := p.changed(size)
			open, seen, ends := map[string]bool{}, map[string]bool{}, map[string]int{}
			for _, record := range p.records("unassign") {
				id := fmt.Sprint(record["device_id"])
				if seen[id] || !matching[id] {
					p.t.Errorf("a record too many: %v", record)
				}
				seen[id] = true
				status, _ := record["status"].(float64)
				switch {
				case record["code"] == "unassigned":
					ends["succeeded"]++
					if !changed[id] {
						p.t.Errorf("%s is not done: %v", id, record)
					}
				case retryable(int(status)):
					ends["handed back"]++
				default:
					ends["failed"]++
				}
				open[id] = record["outcome"] != "not_done"
			}
			if ends["succeeded"] != report.Succeeded || ends["failed"] != report.Failed ||
				ends["handed back"] > report.HandedBack {
				p.t.Errorf("%v in the records, %+v", ends, report)
			}
			for id := range changed {
				if !matching[id] || !open[id] {
					p.t.Errorf("%s is done, and nothing says so: %+v", id, report)
				}
			}

			p.cloud.Heal()
			p.cloud.Throttle(azuresim.WriteLimit{})
			time.Sleep(time.Minute)
			report, err = p.run(15*time.Minute, timer)
			if err != nil || report.Succeeded != len(matching)-len(changed) || report.Matching != report.Succeeded {
				p.t.Errorf("the next run: %+v, %q, want %d", report, errorWords(err), len(matching)-len(changed))
			}
			if got := p.changed(size); !maps.Equal(got, matching) {
				p.t.Errorf("%d devices are done, want %d", len(got), len(matching))
			}
		})
	}, 4791217166082575150) // a change in doubt, then throttled, then a refusal of all
}
