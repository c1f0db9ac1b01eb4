package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The page has every message that the program logs, up to the first colon.
func TestOperationsHasEveryMessage(t *testing.T) {
	page, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	written := regexp.MustCompile(`\.(?:LogAttrs\(ctx, [\w.]+|(?:Info|Warn|Error)Context\(ctx), "([^"]+)"`)
	found := 0
	err = filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range written.FindAllStringSubmatch(string(text), -1) {
			found++
			message, _, _ := strings.Cut(m[1], ":")
			if !strings.Contains(string(page), "`"+message) && !strings.Contains(string(page), `"message":"`+message+`"`) {
				t.Errorf("%s writes %q, which the page does not have", path, m[1])
			}
		}
		return err
	})
	if err != nil || found < 10 {
		t.Errorf("there are %d messages, %v", found, err)
	}
}
