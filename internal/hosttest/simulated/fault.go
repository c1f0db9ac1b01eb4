package simulated

import (
	"os"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
)

// Faults returns the ways in which a step can go wrong, for ever, by the names of testdata/faults.txt.
func Faults() map[string]azuresim.Fault {
	return map[string]azuresim.Fault{
		"400":                 azuresim.Status(400),
		"401":                 azuresim.Status(401),
		"403":                 azuresim.Status(403),
		"404":                 azuresim.Status(404),
		"429":                 azuresim.Status(429),
		"429 for 2 s":         azuresim.Status(429, "Retry-After", "2"),
		"429 for 2 min":       azuresim.Status(429, "Retry-After", "120"),
		"500":                 azuresim.Status(500),
		"502":                 azuresim.Status(502, "X-Ms-Request-Id", "request-7"),
		"503":                 azuresim.Status(503),
		"503 for 1 h":         azuresim.Status(503, "Retry-After", "3600"),
		"slow":                azuresim.Delay(2 * time.Second),
		"too slow":            azuresim.Delay(24 * time.Second),
		"hangs":               azuresim.Hang(),
		"truncated":           azuresim.Truncated(),
		"reset":               azuresim.Reset(),
		"reset in the body":   azuresim.ResetMidBody(),
		"wrong type":          azuresim.WrongType(),
		"oversize":            azuresim.Oversize(8 << 20),
		"redirect":            azuresim.Redirect("https://canary.example/"),
		"malformed challenge": azuresim.MalformedChallenge(),
		"no host":             azuresim.NoHost(),
		"refused":             azuresim.Refused(),
		"untrusted":           azuresim.Untrusted(),
	}
}

// ReadRows returns the rows of a table in a file: columns between |, trimmed, without comments and empty lines.
func ReadRows(tb testing.TB, path string) [][]string {
	tb.Helper()
	table, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(table)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		columns := strings.Split(line, "|")
		for i := range columns {
			columns[i] = strings.TrimSpace(columns[i])
		}
		rows = append(rows, columns)
	}
	return rows
}
