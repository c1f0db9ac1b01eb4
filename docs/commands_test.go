package docs_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pageFiles are the files and folders/ that a page has the reader download or bring along.
var pageFiles = map[string][]string{
	"../README.md":  {"unassign", "unassign.exe"},
	"aws.md":        {"aws-sam/", "unassign", "unassign.exe"}, // make docs-commands has the real aws and sam check the commands of pages
	"azure.md":      {"grant.sh", "grant.ps1", "unassign", "unassign.exe", "azure-linux-amd64.zip"},
	"callers.md":    {"undo.csv"},
	"operations.md": {"policy.json"},
}

// pagesWithCommands returns the pages with commands. Their blocks run from top to bottom: each variable is set before it
// is used.
func pagesWithCommands(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	names = append(names, "../README.md", "../SECURITY.md", "../CONTRIBUTING.md")
	names = slices.DeleteFunc(names, func(name string) bool { return len(blocks(read(t, name), "sh")) == 0 })
	if len(names) < 9 {
		t.Fatalf("commands are on %v alone", names)
	}
	return names
}

// recordedPrograms are programs of which a double records the arguments.
var recordedPrograms = []string{
	"az", "azd", "aws", "sam", "unassign", "make", "git", "gh", "curl", "openssl", "sh", "node", "npm", "npx", "pac", "paconn", "pip", "sha256sum", "sleep", "tar", "unzip",
}

// realPrograms are those that POSIX has everywhere.
var realPrograms = []string{"cat", "cp", "cut", "date", "mkdir", "mv", "printf", "rm", "sed", "tr", "chmod"}

// recordArgs writes its own name and its arguments, and prints something that can be a GUID, a name or a file.
const recordArgs = `#!/bin/sh
separator=$(printf '\037')
record=${0##*/}
for arg; do record=$record$separator$arg; done
printf '%s\036' "$record" >> "$RECORD" # at once: the programs of a pipe run at the same time
previous=
for arg; do
	[ "$previous" != --file ] || [ -e "$arg" ] || echo stub > "$arg"
	previous=$arg
done
trap '' PIPE # the double on the other end of a pipe reads nothing
echo 11111111-1111-4111-8111-111111111111 2> /dev/null || :
`

// blocks returns the code blocks of a page in a shell's language. A block of sh that no block of powershell follows is for both.
func blocks(page, language string) []string {
	var found []string
	all := regexp.MustCompile("(?s)```(\\w*)\n(.*?)```").FindAllStringSubmatch(page, -1)
	for i, m := range all {
		both := language == "powershell" && m[1] == "sh" && (i+1 == len(all) || all[i+1][1] != "powershell")
		if m[1] == language || both {
			found = append(found, m[2])
		}
	}
	return found
}

// givenVariables returns the variables that the prose of a page introduces, as in `$OLD_KEY_ID`.
func givenVariables(page string) []string {
	var names []string
	for _, m := range regexp.MustCompile("`\\$([A-Z_]+)`").FindAllStringSubmatch(page, -1) {
		names = append(names, m[1])
	}
	return names
}

// runPage runs a script of a page in a shell, with doubles of every program that reaches a cloud, and returns the commands.
func runPage(t *testing.T, name, script string, shell ...string) [][]string {
	t.Helper()
	dir := t.TempDir()
	bin, work := filepath.Join(dir, "bin"), filepath.Join(dir, "work")
	for _, folder := range []string{bin, work} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range recordedPrograms {
		if err := os.WriteFile(filepath.Join(bin, program), []byte(recordArgs), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range realPrograms {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range pageFiles[name] {
		if folder, ok := strings.CutSuffix(file, "/"); ok {
			if err := os.Mkdir(filepath.Join(work, folder), 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(work, file), []byte(recordArgs), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	record := filepath.Join(dir, "record")
	command := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
	command.Dir = work
	command.Env = []string{"PATH=" + bin, "HOME=" + os.Getenv("HOME"), "RECORD=" + record}
	for _, variable := range givenVariables(read(t, name)) {
		command.Env = append(command.Env, variable+"=given")
	}
	command.Stdin = strings.NewReader(script)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, output)
	}
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	var commands [][]string
	for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\036"), "\036") {
		commands = append(commands, strings.Split(strings.Replace(line, ".exe\037", "\037", 1), "\037"))
	}
	return commands
}

// A reader who runs a page's blocks from top to bottom has every variable and every file.
func TestPagesRun(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	for _, name := range pagesWithCommands(t) {
		checkCommands(t, name, runInBash(t, name, bash))
	}
}

// runInBash runs the blocks of a page with strict variables, and returns the commands.
func runInBash(t *testing.T, name, bash string) [][]string {
	t.Helper()
	script := strings.Join(blocks(read(t, name), "sh"), "\n")
	if m := regexp.MustCompile(`\bdate [^|)]*-d|\bsed -i|\bgrep -P|\bbase64 -w|\breadlink -f|/dev/stdout`).FindString(script); m != "" {
		t.Errorf("%s: some systems do not have %q", name, m)
	}
	return runPage(t, name, script, bash, "--noprofile", "--norc", "-euo", "pipefail")
}

// checkCommands holds commands to the repository: flags, parameters and variables exist.
func checkCommands(t *testing.T, page string, commands [][]string) {
	t.Helper()
	var template struct{ Parameters, Outputs map[string]any }
	if err := json.Unmarshal([]byte(read(t, "../infra/azure/azuredeploy.json")), &template); err != nil {
		t.Fatal(err)
	}
	azd := read(t, "../infra/azure/main.parameters.json")
	targets := regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(read(t, "../Makefile"), -1)
	flags := map[string]bool{}
	files, err := filepath.Glob("../internal/client/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		for _, m := range regexp.MustCompile(`\.\w*(?:Var|Func|String|Bool|Int|Duration)\((?:&?\w+(?:\.\w+)?, )?"([a-z-]+)", `).FindAllStringSubmatch(read(t, path), -1) {
			flags["-"+m[1]] = true
		}
	}
	if len(flags) < 10 || len(template.Parameters) < 20 || len(template.Outputs) < 5 {
		t.Fatalf("%d flags, %d parameters, %d outputs", len(flags), len(template.Parameters), len(template.Outputs))
	}
	var first []string // the parameters of the first deployment; a later one without them takes them back
	for _, command := range commands {
		line := strings.Join(command, " ")
		switch command[0] {
		case "az":
			if strings.Contains(line, " deployment group create ") {
				at := slices.Index(command, "--parameters")
				if first == nil {
					first = command[at+1:]
				}
				for _, word := range first {
					if !slices.Contains(command, word) {
						t.Errorf("%s: a deployment without %s takes it back", page, word)
					}
				}
				for _, word := range command[at+1:] {
					if name, _, ok := strings.Cut(word, "="); at < 0 || ok && template.Parameters[name] == nil {
						t.Errorf("%s: the template has no parameter %s", page, name)
					}
				}
			}
			if m := regexp.MustCompile(`properties\.outputs\.(\w+)\.value`).FindStringSubmatch(line); len(m) == 2 && template.Outputs[m[1]] == nil {
				t.Errorf("%s: the template has no output %s", page, m[1])
			}
		case "azd":
			if len(command) > 3 && command[1] == "env" && command[2] == "set" && !strings.Contains(azd, "${"+command[3]) {
				t.Errorf("%s: main.parameters.json does not take %s", page, command[3])
			}
			if len(command) > 3 && command[2] == "get-value" && template.Outputs[command[3]] == nil {
				t.Errorf("%s: the template has no output %s", page, command[3])
			}
		case "unassign":
			for _, word := range command[2:] {
				if len(word) > 1 && word[0] == '-' && !flags[word] {
					t.Errorf("%s: unassign has no flag %s", page, word)
				}
			}
		case "make":
			if !slices.ContainsFunc(targets, func(m []string) bool { return m[1] == command[1] }) {
				t.Errorf("%s: make has no target %s", page, command[1])
			}
		}
	}
}

// Every parameter of the Azure template is on its page, by its name or by the name of its setting.
func TestAzureParametersAreDocumented(t *testing.T) {
	t.Parallel()
	var template struct{ Parameters map[string]any }
	if err := json.Unmarshal([]byte(read(t, "../infra/azure/azuredeploy.json")), &template); err != nil {
		t.Fatal(err)
	}
	page, settings := read(t, "azure.md"), read(t, "settings.md")
	for name := range template.Parameters {
		setting := strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(name, "${1}_$2"))
		if !strings.Contains(page, "`"+name) && !strings.Contains(settings, "`"+setting+"`") {
			t.Errorf("docs/azure.md says nothing of %s", name)
		}
	}
}
