package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/lambda"
)

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// sweepPeak sweeps the devices of a tag with the program as a process of its own, in a dry run, and returns its
// peak memory as the kernel counts it.
func sweepPeak(t *testing.T, cloud *azuresim.Cloud, tag string, size, matching int) (bytes int) {
	t.Helper()
	served := cloud.Serve()
	defer served.Close()
	env := environment(t, cloud, served, "WEBHOOK_SECRET_NAMES=", "API_KEY_SECRET_NAMES=", "AUTH=platform-anonymous",
		"SWEEP_GROUP_TAG="+tag, "SWEEP_MAX_DEVICES=10000")
	host, err := lambda.Start(t.Context(), lambda.Options{Binary: binary, Env: env, Timeout: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Stop()
	result, err := host.Invoke(t.Context(), []byte(`{"command":"sweep"}`))
	if err != nil || result.Error != nil {
		t.Fatalf("%+v, %v", result, err)
	}
	var report handler.Report
	if err := json.Unmarshal(result.Payload, &report); err != nil || report.Inventory != size+1 ||
		report.Matching != matching || report.Succeeded != matching {
		t.Fatalf("%s, %v", result.Payload, err)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(host.PID()) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	m := highWater.FindStringSubmatch(string(status))
	if m == nil || !strings.Contains(string(status), "worker") {
		t.Fatalf("no high water mark of the program in %s", status)
	}
	kib, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// A sweep needs far less memory than the smallest function has, and no more for ten times as many devices: it keeps a
// page of them and those that it is to act on, of which there are ten thousand at most.
func TestSweepMemory(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	small, large := newCloud(), newCloud()
	small.PutFleet(2_000)
	large.PutFleet(20_000)
	few := sweepPeak(t, small, "Nobody", 2_000, 0)
	most := sweepPeak(t, large, azuresim.FleetTag, 20_000, 2_000)
	t.Logf("of 2,000 devices none: %.1f MiB; of 20,000 one in ten: %.1f MiB", float64(few)/mib, float64(most)/mib)
	if most-few > 4*mib || most > 36*mib {
		t.Errorf("%d MiB for 2,000 devices, %d to act on one in ten of 20,000", few/mib, most/mib)
	}
}
