package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxTold is how many lines about rows of a file are printed before the rest is counted.
const maxTold = 50

// callCSV works off the file that the flags name, and writes the results beside it. Its error is nil if all devices in the
// file are done, in this run or one before.
func callCSV(ctx context.Context, flags *callFlags, c *Client, stderr io.Writer, terminal bool) error {
	f, err := os.Open(flags.csv)
	if err != nil {
		return fmt.Errorf("call: -csv: %w", err)
	}
	table, err := ReadRows(f, flags.by)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("call: %s: %w", flags.csv, err)
	}
	tell(stderr, table.Notes)
	tell(stderr, table.Invalid)
	switch {
	case len(table.Invalid) > 0 && !flags.skipInvalid:
		return fmt.Errorf("call: %s: %s not valid, so nothing was sent; mend the list, or send the others with -skip-invalid", flags.csv, counted(len(table.Invalid), "row is", "rows are"))
	case len(table.Rows) == 0:
		return fmt.Errorf("call: %s names no device", flags.csv)
	}
	out := resultsPath(flags)
	if sameFile(flags.csv, out) {
		return UsageError("call: -out is the file with the devices")
	}
	results, err := OpenResults(out, table.Format, DeploymentOf(c.URL), flags.dryRun)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	show := &progress{w: stderr, terminal: terminal}
	c.Note = show.note
	list := List{
		Client: c, Results: results, Reference: flags.reference, DryRun: flags.dryRun, Verify: flags.verify, Again: flags.again, Progress: show.counts,
	}
	counts, stopped := list.Work(ctx, table.Rows)
	show.end()
	summary := summaryOf(counts, out)
	switch err := errors.Join(stopped, results.Close()); {
	case err != nil:
		return fmt.Errorf("call: %w\n%s", err, summary)
	case counts.Succeeded < counts.Total:
		return fmt.Errorf("call: %s", summary)
	case len(table.Invalid) > 0:
		return fmt.Errorf("call: %s; %s not valid", summary, counted(len(table.Invalid), "row is", "rows are"))
	}
	fmt.Fprintln(stderr, summary)
	return nil
}

// tell prints the first of many lines.
func tell(w io.Writer, lines []string) {
	for i, line := range lines {
		if i == maxTold {
			fmt.Fprintf(w, "and %d more\n", len(lines)-maxTold)
			return
		}
		fmt.Fprintln(w, line)
	}
}

// resultsPath returns the file for the results. A dry run has its own: what it finds must not count as done.
func resultsPath(flags *callFlags) string {
	if flags.out != "" {
		return flags.out
	}
	kind := ".results.csv"
	if flags.dryRun {
		kind = ".dry-run.csv"
	}
	return strings.TrimSuffix(flags.csv, filepath.Ext(flags.csv)) + kind
}

// sameFile reports whether two names are of one file that is there.
func sameFile(a, b string) bool {
	first, errFirst := os.Stat(a)
	second, errSecond := os.Stat(b)
	return errFirst == nil && errSecond == nil && os.SameFile(first, second)
}

func summaryOf(c Counts, out string) string {
	before := func(n int) string { return unlessNone(" (%d in a run before)", n) }
	text := fmt.Sprintf("%s: %d succeeded%s, %d refused%s", counted(c.Total, "device", "devices"), c.Succeeded, before(c.SucceededBefore), c.Refused, before(c.RefusedBefore))
	text += unlessNone(", %d to be asked for again", c.Open) + unlessNone(", %d not sent", c.Unsent)
	if c.Open+c.Unsent > 0 {
		text += "; the same command goes on from here"
	}
	return text + "; see " + out
}

// counted returns n with the word for one or for many.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// unlessNone returns n in its format, or nothing for 0.
func unlessNone(format string, n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, n)
}

// progress tells how far a list is: on a terminal by a bar in one line, else by a line for each answer.
type progress struct {
	w        io.Writer
	terminal bool
	bar      string // as it stands on the terminal; "" if none does
}

// The width of the bar, and what clears a line of a terminal (ECMA-48, erase in line).
const (
	barWidth  = 30
	clearLine = "\r\x1b[K"
)

// counts shows how the rows stand.
func (p *progress) counts(c Counts) {
	text := fmt.Sprintf("%d of %d: %d succeeded, %d refused", c.Total-c.Unsent, c.Total, c.Succeeded, c.Refused) + unlessNone(", %d to be asked for again", c.Open)
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	full := barWidth * c.Settled() / max(c.Total, 1)
	p.bar = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + text
	fmt.Fprint(p.w, clearLine+p.bar)
}

// note prints a line, above the bar where there is one.
func (p *progress) note(text string) {
	if p.bar == "" {
		fmt.Fprintln(p.w, text)
		return
	}
	fmt.Fprint(p.w, clearLine+text+"\n"+p.bar)
}

// end leaves the bar as it stands, and the rest of the line to nobody.
func (p *progress) end() {
	if p.bar != "" {
		fmt.Fprintln(p.w)
	}
}
