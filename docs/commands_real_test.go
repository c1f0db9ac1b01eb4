//go:build templates

package docs_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// stubs take the place of every program that reaches a cloud, in PowerShell.
const stubs = `Set-StrictMode -Version 3
$ErrorActionPreference = 'Stop'
function Invoke-WebRequest {}
function Get-FileHash { [pscustomobject]@{ Hash = ''; Path = '' } }
function Select-String { $true }
function Expand-Archive {}
function Start-Sleep {}
function Unblock-File {}
`

// moduleStubs take the place of the PowerShell module. TestLoop runs the page's loop with the module itself.
const moduleStubs = `function Import-Module {}
function Read-Host {}
function Get-AutopilotResourceAccount { [pscustomobject]@{ DeviceId = 1; Code = 'would_unassign' } }
function Remove-AutopilotResourceAccount { $input }
function Get-ChildItem {}
function Get-Help {}
`

// The PowerShell blocks of a page run from top to bottom as the bash blocks do, with strict variables.
func TestPagesRunInPowerShell(t *testing.T) {
	pwsh := powershell(t)
	for _, name := range pagesWithCommands(t) {
		script := filepath.Join(t.TempDir(), "page.ps1")
		text := stubs + moduleStubs
		for _, variable := range givenVariables(read(t, name)) {
			text += "$" + variable + " = 'given'\n"
		}
		text += strings.Join(blocks(read(t, name), "powershell"), "\n")
		text = strings.ReplaceAll(text, "./grant.ps1", "sh grant.ps1") // recorded; TestGrantPowerShell runs it
		if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		commands := runPage(t, name, "", pwsh, "-NoProfile", "-NonInteractive", "-File", script)
		checkCommands(t, name, commands)
		bash, err := exec.LookPath("bash")
		if err != nil {
			continue
		}
		if got, want := shape(commands), shape(runInBash(t, name, bash)); !slices.Equal(got, want) {
			t.Errorf("%s: in PowerShell\n%s\nin bash\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// shape returns the az, azd and unassign commands without values: words up to the first option, and options. It leaves
// out the lists of unassign: in PowerShell the module sends them. The shapes are sorted, because the programs of a pipe
// run at the same time.
func shape(commands [][]string) []string {
	var shapes []string
	for _, command := range commands {
		if !slices.Contains([]string{"az", "azd", "unassign"}, command[0]) || slices.Contains(command, "-csv") {
			continue
		}
		line, options := command[0], false
		for _, word := range command[1:] {
			option := strings.HasPrefix(word, "-")
			options = options || option
			if option || !options {
				line += " " + word
			}
		}
		shapes = append(shapes, line)
	}
	slices.Sort(shapes)
	return shapes
}

func powershell(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"../../shared/tools/pwsh", "pwsh"} {
		if path, err := exec.LookPath(name); err == nil {
			if path, err = filepath.Abs(path); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Skip("no PowerShell")
	return ""
}

// The real az takes every az command of the pages, with its options.
func TestAzTakesEveryCommand(t *testing.T) {
	const python = "../.tools/az/bin/python"
	if _, err := os.Stat(python); err != nil {
		t.Skip("no az: make docs-az installs it")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	commands := [][]string{{"group", "create", "--nam", "planted"}}
	for _, name := range pagesWithCommands(t) {
		for _, command := range runInBash(t, name, bash) {
			if command[0] == "az" {
				commands = append(commands, command[1:])
			}
		}
		for _, m := range regexp.MustCompile("`az ([^`]* --[^`]*)`").FindAllStringSubmatch(read(t, name), -1) { // in a sentence
			commands = append(commands, strings.Fields(strings.ReplaceAll(m[1], `"`, "")))
		}
	}
	input, err := json.Marshal(commands)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), python, "check/az.py")
	command.Stdin = bytes.NewReader(input)
	command.Env = append(os.Environ(), "AZURE_CONFIG_DIR="+t.TempDir(), "AZURE_CORE_COLLECT_TELEMETRY=false")
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	planted := 0
	for line := range strings.Lines(string(output)) {
		if strings.HasPrefix(line, "az group create --nam planted: ") {
			planted++
			continue
		}
		t.Error(line)
	}
	if planted != 1 || len(commands) < 20 {
		t.Errorf("of %d commands az refuses\n%s", len(commands), output)
	}
}
