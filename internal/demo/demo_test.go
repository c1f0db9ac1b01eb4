package demo_test

import (
	"strings"
	"testing"

	"autopilot-unassign/internal/demo"
)

// The demo fits one screen, and -v shows every message. It has no colours unless it is on a terminal.
func TestPlay(t *testing.T) {
	t.Parallel()
	for verbose, want := range map[bool][]string{
		false: {
			"200 OK unassigned", "401 Unauthorized unauthenticated", "409 Conflict serial_number_ambiguous",
			"1 succeeded, 1 failed", "demo -v",
		},
		true: {
			"nothing leaves this process", "webhook-signature: v1,", "200 OK", `"code": "unassigned"`,
			`"message": "unassign"`, "401 Unauthorized", `"code": "serial_number_ambiguous"`, "207 Multi-Status",
			`"dry_run": true`, `"code": "swept"`, "The devices now",
		},
	} {
		var out strings.Builder
		var args []string
		if verbose {
			args = []string{"-v"}
		}
		err := demo.Play(t.Context(), args, func(string) string { return "" }, &out, "test")
		if lines := strings.Count(out.String(), "\n"); err != nil || !verbose && lines > 48 {
			t.Errorf("%d lines, %v:\n%s", lines, err, out.String())
		}
		for _, part := range append(want, "simulated cloud") {
			if !strings.Contains(out.String(), part) {
				t.Errorf("the demo does not show %q", part)
			}
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Error("the demo is coloured although it is not on a terminal")
		}
	}
}
