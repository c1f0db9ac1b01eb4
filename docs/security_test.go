// Package docs_test holds the pages to the code that they describe.
package docs_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// defined returns the names of all tests of the repository.
func defined(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	names := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != ".." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" || entry.Name() == "dist"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			names[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestThreatsHaveTests holds the table of threats to the list of controls: for each threat, the page names exactly the tests
// that `make mutants` runs without its controls.
func TestThreatsHaveTests(t *testing.T) {
	page, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("../internal/cmd/mutants/controls.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var controls []struct{ Threat, Test string }
	if err := yaml.Unmarshal(list, &controls); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]bool{}
	for _, c := range controls {
		if want[c.Threat] == nil {
			want[c.Threat] = map[string]bool{}
		}
		_, test, _ := strings.Cut(c.Test, " ")
		want[c.Threat][test] = true
	}
	row := regexp.MustCompile(`(?m)^\| (T\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$`)
	test := regexp.MustCompile("`(\\w+)`")
	rows := row.FindAllStringSubmatch(string(page), -1)
	if len(rows) != 21 || len(want) != 21 {
		t.Errorf("the page has %d threats, and the controls stand against %d", len(rows), len(want))
	}
	for _, m := range rows {
		got := map[string]bool{}
		for _, named := range test.FindAllStringSubmatch(m[4], -1) {
			got[named[1]] = true
		}
		if !maps.Equal(got, want[m[1]]) {
			t.Errorf("%s: the page names %v, and controls.yaml %v", m[1], slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want[m[1]])))
		}
	}
}

// The commands that the pages name are targets of the Makefile.
func TestTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("(?m)(?:^|`)make ([a-z][a-z-]*)")
	for _, page := range append(pages, "../README.md", "../CONTRIBUTING.md", "../SECURITY.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(string(makefile), "\n"+m[1]+":") {
				t.Errorf("%s: there is no target %s", page, m[1])
			}
		}
	}
}
