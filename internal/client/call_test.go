package client

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"autopilot-unassign/internal/text"
)

// On a terminal there is one line that is drawn anew, elsewhere a line for each answer.
func TestProgress(t *testing.T) {
	show := func(terminal bool) string {
		var b bytes.Buffer
		p := &progress{w: &b, terminal: terminal}
		p.showNote("first")
		p.showCounts(Counts{Total: 40, Succeeded: 20, Unsent: 20})
		p.showNote("waiting")
		p.showCounts(Counts{Total: 40, Succeeded: 38, Refused: 1, Open: 1})
		p.endBar()
		return b.String()
	}
	half := "[###############...............] 20 of 40: 20 succeeded, 0 refused"
	full := "[#############################.] 40 of 40: 38 succeeded, 1 refused, 1 to retry"
	if got, want := show(true), "first\n"+clearLine+half+clearLine+"waiting\n"+half+clearLine+full+"\n"; got != want {
		t.Errorf("on a terminal:\n%q\n%q", got, want)
	}
	if got := show(false); strings.ContainsAny(got, "\x1b\r[") || strings.Count(got, "\n") != 4 {
		t.Errorf("in a pipe: %q", got)
	}
	if text.IsTerminal(&bytes.Buffer{}) {
		t.Error("a buffer is taken for a terminal")
	}
}

// The flags that the documentation names are flags.
func TestCallFlagsAreDocumented(t *testing.T) {
	flags, list := newCallFlags(), newListFlags()
	named := regexp.MustCompile("(?:^|[\\s`(])-([a-z]+(?:-[a-z]+)*)")
	for _, file := range []string{"../../docs/api.md", "../../docs/callers.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		prose, fenced := "", false
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			} else if !fenced || strings.Contains(line, "unassign call") {
				prose += line
			}
		}
		found := 0
		for sentence := range strings.SplitSeq(prose, "`") {
			if !strings.HasPrefix(sentence, "-") && !strings.HasPrefix(sentence, "unassign call") && !strings.Contains(sentence, "bin/unassign call") {
				continue
			}
			for _, m := range named.FindAllStringSubmatch(sentence, -1) {
				if found++; flags.Lookup(m[1]) == nil && list.Lookup(m[1]) == nil {
					t.Errorf("%s names -%s, which is no flag of call or list", file, m[1])
				}
			}
		}
		if file == "../../docs/callers.md" {
			flags.VisitAll(func(f *flag.Flag) {
				if !strings.Contains(prose, "-"+f.Name) {
					t.Errorf("%s does not name -%s", file, f.Name)
				}
			})
		}
		if found == 0 {
			t.Errorf("%s names no flag of call", file)
		}
	}
}
