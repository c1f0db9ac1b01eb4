package app_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

// faults are the ways in which each step can go wrong, for ever, by the names that testdata/faults.txt has for them.
var faults = map[string]azuresim.Fault{
	"400":                 azuresim.Status(400),
	"401":                 azuresim.Status(401),
	"403":                 azuresim.Status(403),
	"404":                 azuresim.Status(404),
	"409":                 azuresim.Status(409),
	"429":                 azuresim.Status(429),
	"429 for 2 s":         azuresim.Status(429, "Retry-After", "2"),
	"429 for 2 min":       azuresim.Status(429, "Retry-After", "120"),
	"500":                 azuresim.Status(500),
	"502":                 azuresim.Status(502),
	"503":                 azuresim.Status(503),
	"503 for 1 h":         azuresim.Status(503, "Retry-After", "3600"),
	"504":                 azuresim.Status(504),
	"slow":                azuresim.Delay(2 * time.Second),
	"too slow":            azuresim.Delay(24 * time.Second),
	"hangs":               azuresim.Hang(),
	"truncated":           azuresim.Truncated(),
	"reset":               azuresim.Reset(),
	"reset in the body":   azuresim.ResetMidBody(),
	"wrong type":          azuresim.WrongType(),
	"oversize":            azuresim.Oversize(8 << 20),
	"redirect":            azuresim.Redirect("https://stranger.example/"),
	"malformed challenge": azuresim.MalformedChallenge(),
	"no host":             azuresim.NoHost(),
	"refused":             azuresim.Refused(),
	"untrusted":           azuresim.Untrusted(),
}

// The steps of a cold request. A key and the app's secret are read from the vault in the same way, and not by the
// same code.
var faultySteps = []string{"identity", "challenge", "key", "secret", "discovery", "token", "graph"}

// TestFaults fails every step in every way, and compares the result with testdata/faults.txt. The time is simulated, so
// that deadlines are exact and a leaked goroutine fails the test.
func TestFaults(t *testing.T) {
	t.Parallel()
	table, err := os.ReadFile("testdata/faults.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		columns := strings.Split(line, "|")
		for i := range columns {
			columns[i] = strings.TrimSpace(columns[i])
		}
		name, step, want := columns[0], columns[1], strings.Join(columns[2:], " | ")
		fault, known := faults[name]
		if !known {
			t.Fatalf("testdata/faults.txt has the fault %q", name)
		}
		seen[name+"|"+step] = true
		t.Run(name+" at "+step, func(t *testing.T) {
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
