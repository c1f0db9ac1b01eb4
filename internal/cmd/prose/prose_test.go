package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Sentences that once stood in this repository. Each of them fails the check.
var oldSentences = []string{
	"level returns how loud what ended is, and who is told.",
	"ours are the settings of which one is enough to say what is meant.",
	"Kept is what ended for good: what was done, and the refusals that are the device's own.",
	"A dry run, a verified request and a list are always answered with a body; that of a list is one.",
	"whose end was set to 2026-01-10; whether it is still valid, those say who check it.",
	"It goes to whoever may read the log.",
	"Nobody else is told.",
	"The one seam to the cloud.",
	"Graph failed. Ask again.",
	"The doctor says how to mend it.",
}

func TestOldSentencesFail(t *testing.T) {
	t.Parallel()
	for _, sentence := range oldSentences {
		var m measurement
		if err := m.measureFile("page.md", []byte(sentence+"\n")); err != nil {
			t.Fatal(err)
		}
		if m.texts.headless+m.forbidden == 0 {
			t.Errorf("%q passes", sentence)
		}
		if err := m.report(&bytes.Buffer{}); err == nil {
			t.Errorf("%q is within the budgets", sentence)
		}
	}
}

// Sentences that follow the rules. None of them counts.
func TestPlainSentencesPass(t *testing.T) {
	t.Parallel()
	for _, sentence := range []string{
		"level returns the log level for a status.",
		"The caller who signs the request names the device.",
		"Who may call?",
		"| question | What happens when Entra refuses the secret? |",
		"The ledger stores final outcomes: successes, and refusals caused by the device.",
		"Run `what` and read https://example.com/who-what.",
		"```\nwhat who nobody\n```",
		"Meeting rooms have resource accounts.",
	} {
		var m measurement
		if err := m.measureFile("page.md", []byte(sentence+"\n")); err != nil {
			t.Fatal(err)
		}
		if m.texts.headless+m.forbidden != 0 {
			t.Errorf("%q counts: %v", sentence, m.findings)
		}
	}
}

func TestGoIsMeasured(t *testing.T) {
	t.Parallel()
	source := "package p\n\n// read returns what is read.\nfunc read() {}\n\nfunc readBody() string { return \"this is what somebody reads\" }\n\n// " + strings.Repeat("x", 130) + "\nvar _ = 1\n"
	var m measurement
	if err := m.measureFile("p.go", []byte(source)); err != nil {
		t.Fatal(err)
	}
	if m.comments.headless != 1 || m.texts.headless != 2 || m.longLines != 1 || m.functions != 2 || m.oneWord != 1 {
		t.Errorf("%+v", m)
	}
	var tests measurement
	if err := tests.measureFile("p_test.go", []byte(source)); err != nil {
		t.Fatal(err)
	}
	if tests.functions != 0 || tests.texts.words != 0 || tests.comments.headless != 1 {
		t.Errorf("a test file: %+v", tests)
	}
}

func TestCommentsOfOtherSources(t *testing.T) {
	t.Parallel()
	for path, source := range map[string]string{
		"a.yaml": "a: what # kept\n# what is kept\n", "a.sh": "echo what\n# what is kept\n", "a.bicep": "var what = 1\n// what is kept\n", "Makefile": "a:\n\techo what\n# what is kept\n",
	} {
		var m measurement
		if err := m.measureFile(path, []byte(source)); err != nil {
			t.Fatal(err)
		}
		if m.comments.headless != 1 {
			t.Errorf("%s: %v", path, m.findings)
		}
	}
}

func TestRunNamesTheBudget(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("What is kept is what ended.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := run(&out, true, []string{page})
	if err == nil || !strings.Contains(err.Error(), "texts") || !strings.Contains(out.String(), page+":1: headless:") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// The tables of text are measured like pages.
func TestTextIsMeasured(t *testing.T) {
	t.Parallel()
	var m measurement
	if err := m.measureFile("fixes.txt", []byte("[x] what is kept\n")); err != nil || m.texts.headless != 1 {
		t.Errorf("%v: %v", err, m.findings)
	}
}
