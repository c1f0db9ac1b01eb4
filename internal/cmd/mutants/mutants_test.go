package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// writeModule makes a module with one guarded function, changes into it and returns.
func writeModule(t *testing.T, controls string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example\n\ngo 1.26\n",
		"door.go": "package door\n\nfunc open(key string) bool {\n\tif key == \"\" {\n\t\treturn false\n\t}\n\tif len(key) > 9 {\n\t\treturn false\n\t}\n\treturn true\n}\n",
		"door_test.go": "package door\n\nimport \"testing\"\n\nfunc TestEmptyKey(t *testing.T) {\n\tt.Run(\"empty\", func(t *testing.T) {\n" +
			"\t\tif open(\"\") || !open(\"k\") {\n\t\t\tt.Error(\"open\")\n\t\t}\n\t})\n}\n\nfunc TestBroken(t *testing.T) { t.Error(\"always\") }\n",
		"internal/cmd/mutants/controls.yaml": controls,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

const killed = `
- threat: T1
  name: an empty key opens nothing
  file: door.go
  old: 'if key == "" {'
  new: 'if false {'
  test: . TestEmptyKey
`

func TestKilled(t *testing.T) {
	writeModule(t, killed)
	var out bytes.Buffer
	if err := run(t.Context(), nil, &out); err != nil || !strings.Contains(out.String(), "1 controls removed, 0 without") {
		t.Errorf("%v\n%s", err, &out)
	}
	source, err := os.ReadFile("door.go")
	if err != nil || !strings.Contains(string(source), `key == ""`) {
		t.Errorf("the source is now\n%s", source)
	}
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct{ entry, want string }{
		"a survivor":               {strings.NewReplacer(`key == "" {`, "len(key) > 9 {").Replace(killed), "SURVIVED"},
		"a text that is not there": {strings.Replace(killed, `key == ""`, `key == nil`, 1), "occurs 0 times"},
		"a mutant without a build": {strings.Replace(killed, "if false {", "if nonsense {", 1), "does not build"},
		"no such test":             {strings.Replace(killed, "TestEmptyKey", "TestNothing", 1), "no such test"},
		"a test that always fails": {strings.Replace(killed, "TestEmptyKey", "TestBroken", 1), "fails without a mutation"},
	} {
		t.Run(name, func(t *testing.T) {
			writeModule(t, test.entry)
			var out bytes.Buffer
			if err := run(t.Context(), nil, &out); err == nil || !strings.Contains(out.String(), test.want) {
				t.Errorf("%v\n%s", err, &out)
			}
		})
	}
}

func TestIncompleteList(t *testing.T) {
	writeModule(t, killed+killed+"- threat: T2\n  name: half\n")
	err := run(t.Context(), nil, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), `two entries are called "an empty key opens nothing"`) || !strings.Contains(err.Error(), `"half" is incomplete`) {
		t.Error(err)
	}
}

func TestOnly(t *testing.T) {
	writeModule(t, killed)
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-only", "T2"}, &out); err != nil || !strings.Contains(out.String(), "no control is in the selection") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// -changed selects the controls of packages that differ from a revision.
func TestChanged(t *testing.T) {
	writeModule(t, killed)
	source, err := os.ReadFile("door.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false", "commit", "-qm", "x"}} {
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, want := range []string{"0 controls removed", "1 controls removed, 0 without"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"-changed", "HEAD"}, &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%v\n%s\nwant %s", err, &out, want)
		}
		if err := os.WriteFile("door.go", []byte(strings.Replace(string(source), "package door", "// Package door is.\npackage door", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestControlsApply has every control of the list stand in the source exactly once: a refactoring must carry it along.
func TestControlsApply(t *testing.T) {
	t.Chdir("../../..")
	controls, err := loadControls("internal/cmd/mutants/controls.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls {
		source, err := os.ReadFile(c.File)
		if count := strings.Count(string(source), c.Old); err != nil || count != 1 {
			t.Errorf("%s: its text occurs %d times in %s; %v", c.Name, count, c.File, err)
		}
	}
}
