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
	_, page, _ := strings.Cut(read(t, "operations.md"), "\n## Read the log\n")
	page, _, _ = strings.Cut(page, "\n## Alarms\n")
	written := regexp.MustCompile(`(?:\.(?:LogAttrs\(ctx, [\w.]+|(?:Info|Warn|Error)Context\(ctx), |entry\{(?:message: )?|operatorEntry\(o, )"([^"]+)"`)
	found := 0
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range written.FindAllStringSubmatch(string(text), -1) {
			found++
			message, _, _ := strings.Cut(m[1], ":")
			if !strings.Contains(page, "\n| `"+message) && !strings.Contains(page, `"message":"`+message+`"`) {
				t.Errorf("%s writes %q, which the page does not have", path, m[1])
			}
		}
		return err
	})
	if err != nil || found < 10 {
		t.Errorf("there are %d messages, %v", found, err)
	}
}

// The page has every member of the records that the handler writes; schedules.md may have the members of a sweep's record.
func TestOperationsHasEveryMember(t *testing.T) {
	pages := read(t, "operations.md") + read(t, "schedules.md")
	files, err := filepath.Glob("../handler/*.go")
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]bool{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`(?:slog\.[A-Z]\w+\(|milliseconds\(|\baddText\()"(\w+)"`).FindAllStringSubmatch(read(t, path), -1) {
			members[m[1]] = true
			if !strings.Contains(pages, "`"+m[1]+"`") {
				t.Errorf("%s writes %s, which no page has", path, m[1])
			}
		}
	}
	if len(members) < 30 {
		t.Errorf("there are %d members", len(members))
	}
}
