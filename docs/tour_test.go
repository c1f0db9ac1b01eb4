package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The functions that the tour names exist in the packages that it names, and so do its files.
func TestTourNamesExist(t *testing.T) {
	folders := map[string]string{
		"function": "../function", "handler": "../handler", "caller": "../handler/caller", "graph": "../graph",
		"config": "../internal/config", "app": "../internal/app", "entra": "../internal/entra",
		"azuresim": "../internal/azuresim", "server": "../internal/server", "doctor": "../internal/doctor",
	}
	page, names := read(t, "tour.md"), 0
	for _, m := range regexp.MustCompile("`([a-z]+)\\.(\\w+\\.)?(\\w+)`").FindAllStringSubmatch(page, -1) {
		folder, ok := folders[m[1]]
		if !ok {
			continue
		}
		names++
		receiver := ""
		if kind := strings.TrimSuffix(m[2], "."); kind != "" {
			receiver = `\((\w+ )?\*?` + kind + `\) `
		}
		function, found := regexp.MustCompile(`(?m)^func `+receiver+m[3]+`[\[(]`), false
		files, err := filepath.Glob(folder + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || function.Match(text)
		}
		if !found {
			t.Errorf("there is no %s", m[0])
		}
	}
	for _, m := range regexp.MustCompile("`((?:function|handler|graph|internal)/[a-z/.]*)`").FindAllStringSubmatch(page, -1) {
		names++
		if _, err := os.Stat("../" + m[1]); err != nil {
			t.Error(err)
		}
	}
	if names < 25 {
		t.Errorf("the tour names %d functions and files", names)
	}
}

// docs/design.md has every package below internal.
func TestDesignHasEveryPackage(t *testing.T) {
	page := read(t, "design.md")
	files, err := filepath.Glob("../internal/*/*.go")
	if err != nil || len(files) < 50 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		if folder := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(file)), "../"); !strings.Contains(page, "`"+folder+"`") {
			t.Errorf("docs/design.md does not have %s", folder)
		}
	}
}
