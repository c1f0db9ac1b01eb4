//go:build templates

package infra_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// powershell returns the path of PowerShell, or skips the test.
func powershell(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"../../shared/tools/pwsh", "pwsh"} {
		if path, err := exec.LookPath(name); err == nil {
			absolute, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			if name == "pwsh" {
				return path
			}
			return absolute
		}
	}
	t.Skip("no PowerShell")
	return ""
}

// grant.ps1 makes the same calls as grant.sh.
func TestGrantPowerShell(t *testing.T) {
	pwsh := powershell(t)
	script, err := filepath.Abs("azure/grant.ps1")
	if err != nil {
		t.Fatal(err)
	}
	// -Yes and the others follow the command; a function takes the place of the command that sleeps.
	wrapper := "$words = @{}; for ($i = 0; $i -lt $args.Count; $i++) { if ($args[$i] -eq '-Yes') { $words.Yes = $true } else { $words[$args[$i].TrimStart('-')] = $args[$i + 1]; $i++ } }; " +
		"function global:Start-Sleep { & sleep 10 }; & '" + script + "' @words; exit $LASTEXITCODE"
	file := filepath.Join(t.TempDir(), "run.ps1")
	put(t, filepath.Dir(file), "run.ps1", wrapper)
	for name, test := range map[string]struct {
		files map[string]string
		args  []string // of grant.sh
		fails string
	}{
		"an identity":                   {nil, []string{"--identity", grantMachine, "--yes"}, ""},
		"two to give it to":             {nil, []string{"--app", grantApp, "--identity", grantMachine}, "usage: "},
		"a report":                      {nil, []string{"--app", grantApp}, ""},
		"an application, late":          {map[string]string{"delay": ""}, []string{"--app", grantApp, "--federate", grantMachine, "--yes"}, ""},
		"another cloud":                 {map[string]string{"cloud": "https://graph.microsoft.us/"}, []string{"--app", grantApp, "--federate", grantMachine, "--yes"}, ""},
		"a role that may not consent":   {map[string]string{"forbidden": ""}, []string{"--identity", grantMachine, "--yes"}, "Privileged Role Administrator"},
		"an identity of another tenant": {map[string]string{"identity": "absent"}, []string{"--app", grantApp, "--federate", grantMachine, "--yes"}, "its own tenant alone"},
	} {
		t.Run(name, func(t *testing.T) {
			_, shell := tenant(t, test.files)
			_, status, want := shell(test.args...)
			_, grant := tenantOf(t, test.files, pwsh, "-NoProfile", "-NonInteractive", "-File", file)
			var args []string
			for _, arg := range test.args {
				if option, ok := strings.CutPrefix(arg, "--"); ok {
					arg = "-" + strings.ToUpper(option[:1]) + option[1:]
				}
				args = append(args, arg)
			}
			output, got, changes := grant(args...)
			if got != status || !slices.Equal(changes, want) || !strings.Contains(output, test.fails) {
				t.Errorf("%d, want %d\n%s\n%q\nwant %q", got, status, output, changes, want)
			}
		})
	}
}
