package app_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

// faults are the ways in which each step can go wrong.
var faults = func() map[string]azuresim.Fault {
	all := simulated.Faults()
	all["409"], all["504"] = azuresim.Status(409), azuresim.Status(504)
	return all
}()

// The steps of a cold request. A key and the app's secret are read from the vault in the same way, and not by the
// same code.
var faultySteps = []string{"identity", "challenge", "key", "secret", "discovery", "token", "graph"}

// TestFaults fails every step in every way, and compares the result with testdata/faults.txt. The time is simulated, so
// that deadlines are exact and a leaked goroutine fails the test.
func TestFaults(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, columns := range simulated.ReadRows(t, "testdata/faults.txt") {
		name, step, want := columns[0], columns[1], strings.Join(columns[2:], " | ")
		fault, known := faults[name]
		if !known {
			t.Fatalf("testdata/faults.txt has the fault %q", name)
		}
		seen[name+"|"+step] = true
		t.Run(name+" at "+step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if got := endOf(t, step, fault); got != want {
					t.Errorf("%s\nwant %s", got, want)
				}
			})
		})
	}
	if len(seen) != len(faults)*len(faultySteps) {
		t.Errorf("testdata/faults.txt has %d rows, want %d faults of %d steps", len(seen), len(faults), len(faultySteps))
	}
}

// endOf sends a request with a failing step through the whole program, and returns the result: the status, the code,
// the outcome, Retry-After, and the number of calls of the step.
func endOf(t *testing.T, step string, fault azuresim.Fault) string {
	t.Helper()
	cloud := newCloud()
	var settings []string
	at := azuresim.Step(step)
	if step == "key" {
		at = azuresim.StepSecret
	} else { // nothing but the credential is read from the vault
		settings = []string{"WEBHOOK_SECRET_NAMES", "", "AUTH", "platform"}
	}
	c := simulated.Load(t, simulated.Settings(cloud, settings...))
	var log bytes.Buffer
	h := simulated.NewApp(t, c, cloud, &log)
	for _, other := range allSteps { // concurrent steps end in one order
		if other != at && other != azuresim.StepGraph {
			cloud.Fail(other, -1, azuresim.Delay(time.Duration(slices.Index(allSteps, other)+1)*time.Millisecond))
		}
	}
	cloud.Fail(at, -1, fault)
	defer time.Sleep(c.Timeout) // which ends abandoned work
	start := time.Now()
	w := ask(t, h, valid())
	if took := time.Since(start); took > c.Timeout {
		t.Errorf("the answer took %v of %v", took, c.Timeout)
	}
	if graph := cloud.Count(azuresim.StepGraph); w.Code >= 300 && step != "graph" && graph > 0 {
		t.Errorf("Graph was asked %d times", graph)
	}
	if found := leaks(canaries(cloud, nil), log.String(), w.Body.String(), fmt.Sprint(w.Header())); len(found) > 0 {
		t.Errorf("leaked %q in\n%s\n%s", found, log.String(), w.Body)
	}
	var body struct {
		Error   struct{ Code string }
		Outcome string
	}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Errorf("%v in %s", err, w.Body)
		}
	}
	return strings.Join([]string{
		fmt.Sprint(w.Code), cmp.Or(body.Error.Code, "-"), cmp.Or(body.Outcome, "done"),
		cmp.Or(w.Header().Get("Retry-After"), "-"), fmt.Sprint(cloud.Count(at)),
	}, " | ")
}
