package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// anchorsOf returns the anchors of a page's headings, as GitHub makes them.
func anchorsOf(t *testing.T, path string) []string {
	t.Helper()
	prose := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(read(t, path), "")
	var anchors []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(prose, -1) {
		anchors = append(anchors, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return anchors
}

// Every file and every heading that a page links to, or that the source, a template or a message names, exists.
func TestLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s:]*?)(#[^)\s]*)?\)`)
	name := regexp.MustCompile(`\b(docs/[\w-]+\.md)(#[\w-]+)?`)
	named := 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path != ".." && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"node_modules", "dist", "snapshots"}, entry.Name())) {
				return filepath.SkipDir
			}
			return nil
		}
		page := strings.HasSuffix(path, ".md")
		if !page && !slices.Contains([]string{".go", ".txt", ".yaml", ".bicep", ".ts", ".js", ".sh", ".ps1", ".psm1"}, filepath.Ext(path)) ||
			strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pattern, folder := name, ".."
		if page {
			pattern, folder = link, filepath.Dir(path)
			text = regexp.MustCompile("(?s)```.*?```").ReplaceAll(text, nil)
		}
		for _, m := range pattern.FindAllStringSubmatch(string(text), -1) {
			named++
			target := filepath.Join(folder, m[1])
			if m[1] == "" {
				target = path
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if m[2] != "" && strings.HasSuffix(target, ".md") && !slices.Contains(anchorsOf(t, target), m[2][1:]) {
				t.Errorf("%s: %s has no heading %s", path, target, m[2])
			}
		}
		return nil
	})
	if err != nil || named < 150 {
		t.Errorf("%d links, %v", named, err)
	}
}
