// Package docs_test holds the pages to the code they tell of.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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

// Every threat has a control and tests, and every test that the page names exists.
func TestThreatsHaveTests(t *testing.T) {
	text, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	names := defined(t)
	row := regexp.MustCompile(`(?m)^\| (T\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$`)
	test := regexp.MustCompile("`(\\w+)`")
	rows := row.FindAllStringSubmatch(string(text), -1)
	if len(rows) != 21 {
		t.Errorf("there are %d threats", len(rows))
	}
	for _, m := range rows {
		tests := test.FindAllStringSubmatch(m[4], -1)
		if len(tests) == 0 {
			t.Errorf("%s has no tests", m[1])
		}
		for _, named := range tests {
			if !names[named[1]] {
				t.Errorf("%s names %s, which is no test", m[1], named[1])
			}
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
