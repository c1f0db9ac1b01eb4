// Prose measures how the repository is written, prints the figures, and fails above the budgets.
//
//	prose [-v] [path ...]    # default: every file that git tracks
//
// It reads Go comments and strings, the comments of YAML, Bicep, shell, Python, JavaScript and Makefile sources, and
// pages of Markdown and text. It counts headless relatives (a clause that starts with "what" or "who" and has no noun before it)
// and refuses the words for which CONTRIBUTING.md names a replacement.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Budgets, from CONTRIBUTING.md.
const (
	maxHeadlessComments = 1.5  // per 1,000 words
	maxHeadlessTexts    = 3.0  // per 1,000 words of pages and strings
	maxLongLines        = 0.01 // share of Go lines above 120 columns, outside tests
	maxOneWordNames     = 0.35 // share of unexported functions whose name is a single word
)

func main() {
	verbose := flag.Bool("v", false, "print every finding")
	flag.Parse()
	if err := run(os.Stdout, *verbose, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

// run measures paths, or all tracked files where paths is empty, and returns an error that lists the budgets exceeded.
func run(w io.Writer, verbose bool, paths []string) error {
	if len(paths) == 0 {
		tracked, err := exec.Command("git", "ls-files").Output() //nolint:noctx // ends by itself
		if err != nil {
			return fmt.Errorf("git ls-files: %w", err)
		}
		paths = strings.Fields(string(tracked))
	}
	var total measurement
	for _, path := range paths {
		if isSkipped(path) {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := total.measureFile(path, source); err != nil {
			return err
		}
	}
	if verbose {
		for _, finding := range total.findings {
			fmt.Fprintln(w, finding)
		}
	}
	return total.report(w)
}

// isSkipped reports whether a path holds no prose of ours: locked dependencies, licences, recorded data, generated
// sources, and this package's own list of words.
func isSkipped(path string) bool {
	switch filepath.Base(path) {
	case "LICENSE", "package-lock.json", "requirements.txt":
		return true
	}
	slashed := "/" + filepath.ToSlash(path)
	return slices.ContainsFunc([]string{"/testdata/", "/generated/", "/cmd/prose/"}, func(part string) bool {
		return strings.Contains(slashed, part)
	})
}

// report prints the figures and returns an error that names each budget exceeded.
func (m *measurement) report(w io.Writer) error {
	var exceeded []string
	check := func(name string, value, limit float64, format string) {
		fmt.Fprintf(w, "%-46s "+format+" (limit "+format+")\n", name, value, limit)
		if value > limit {
			exceeded = append(exceeded, name)
		}
	}
	check("headless relatives per 1,000 words, comments", m.comments.perThousand(), maxHeadlessComments, "%.1f")
	check("headless relatives per 1,000 words, texts", m.texts.perThousand(), maxHeadlessTexts, "%.1f")
	check("Go lines above 120 columns, percent", 100*ratioOf(m.longLines, m.lines), 100*maxLongLines, "%.1f")
	check("unexported functions of one word, percent", 100*ratioOf(m.oneWord, m.functions), 100*maxOneWordNames, "%.0f")
	check("forbidden words", float64(m.forbidden), 0, "%.0f")
	if len(exceeded) > 0 {
		return fmt.Errorf("above the limit: %s; prose -v lists the places", strings.Join(exceeded, ", "))
	}
	return nil
}

func ratioOf(part, whole int) float64 { return float64(part) / float64(max(whole, 1)) }
