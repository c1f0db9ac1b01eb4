package client

import (
	"fmt"
	"io"
	"strings"

	"autopilot-unassign/internal/text"
)

// maxLines is the number of lines about rows that are printed before the rest is counted.
const maxLines = 50

// printLines prints the first of many lines.
func printLines(w io.Writer, lines []string) {
	for i, line := range lines {
		if i == maxLines {
			fmt.Fprintf(w, "and %s more\n", text.Number(len(lines)-maxLines))
			return
		}
		fmt.Fprintln(w, line)
	}
}

// formatSummary returns the counts of a list for a person, each with its reasons.
func (c Counts) formatSummary() string {
	part := func(n, earlier int, word string, s standing) string {
		words := fmt.Sprintf("%s %s", text.Number(n), word)
		if earlier > 0 {
			words += fmt.Sprintf(" (%s in an earlier run)", text.Number(earlier))
		}
		if _, plain := c.Reasons[s]["unassigned"]; len(c.Reasons[s]) > 1 || len(c.Reasons[s]) == 1 && !plain {
			words += ": " + countReasons(c.Reasons[s])
		}
		return words
	}
	parts := []string{text.Count(c.Total, "device", "devices") + ": " + part(c.Succeeded, c.SucceededEarlier,
		"succeeded", succeeded)}
	if c.Refused > 0 {
		parts = append(parts, part(c.Refused, c.RefusedEarlier, "refused", refused))
	}
	if c.Open > 0 {
		parts = append(parts, part(c.Open, 0, "to retry", open))
	}
	if c.Unsent > 0 {
		parts = append(parts, text.Number(c.Unsent)+" not sent")
	}
	return strings.Join(parts, "; ")
}

// progress shows how far a list is: on a terminal a bar in one line, else a line after each response.
type progress struct {
	w        io.Writer
	terminal bool
	bar      string // on the terminal now; "" if there is none
}

// The width of the bar, and the sequence that clears a line of a terminal (ECMA-48, erase in line).
const (
	barWidth  = 30
	clearLine = "\r\x1b[K"
)

func (p *progress) showCounts(c Counts) {
	words := fmt.Sprintf("%s of %s: %s succeeded, %s refused", text.Number(c.Total-c.Unsent), text.Number(c.Total),
		text.Number(c.Succeeded), text.Number(c.Refused))
	if c.Open > 0 {
		words += fmt.Sprintf(", %s to retry", text.Number(c.Open))
	}
	if !p.terminal {
		if c.Total > batchDevices {
			fmt.Fprintln(p.w, words)
		}
		return
	}
	full := barWidth * c.Settled() / max(c.Total, 1)
	p.bar = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + words
	fmt.Fprint(p.w, clearLine+p.bar)
}

// showNote prints a line, above the bar where there is one.
func (p *progress) showNote(text string) {
	if p.bar == "" {
		fmt.Fprintln(p.w, text)
		return
	}
	fmt.Fprint(p.w, clearLine+text+"\n"+p.bar)
}

func (p *progress) endBar() {
	if p.bar != "" {
		fmt.Fprintln(p.w)
	}
}
