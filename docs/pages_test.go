package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

// A page introduces every variable and every file before its commands use them.
func TestPagesSetWhatTheyUse(t *testing.T) {
	for _, name := range []string{"aws.md", "operations.md", "schedules.md"} {
		page, used := read(t, name), 0
		given := map[string]bool{}
		for i, part := range strings.Split(page, "```") {
			if i%2 == 0 { // prose, which may introduce a variable
				for _, m := range regexp.MustCompile("`\\$([A-Z_]+)`").FindAllStringSubmatch(part, -1) {
					given[m[1]] = true
				}
				continue
			}
			script, ok := strings.CutPrefix(part, "sh\n")
			if !ok {
				continue
			}
			for _, m := range regexp.MustCompile(`(?m)^ *([A-Z_]+)=|# ([A-Z_]+) is |> ?(\S+)`).FindAllStringSubmatch(script, -1) {
				given[m[1]+m[2]+m[3]] = true
			}
			for _, m := range regexp.MustCompile(`\$\{?([A-Z_]+)|\$\(cat (\S+)\)|file://(\S+)|--policy @(\S+)`).FindAllStringSubmatch(script, -1) {
				used++
				if what := m[1] + m[2] + m[3] + m[4]; !given[what] {
					t.Errorf("%s uses %s without introducing it", name, what)
				}
			}
		}
		if used < 3 {
			t.Errorf("%s uses %d variables and files", name, used)
		}
	}
}

// A message or a command that a page has written into a file is one that it shows, and so one that the tests send.
func TestFilesOfPagesAreShown(t *testing.T) {
	page := read(t, "schedules.md")
	files := regexp.MustCompile(`(?s)cat > \S+ <<'END'\n(.*?)END\n`).FindAllStringSubmatch(page, -1)
	if len(files) != 3 {
		t.Errorf("the page has %d files written", len(files))
	}
	for _, m := range files {
		if !strings.Contains(page, "```json\n"+m[1]+"```") {
			t.Errorf("the page does not show %s", m[1])
		}
	}
}
