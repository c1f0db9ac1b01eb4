package client

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxLines is the number of lines about rows that are printed before the rest is counted.
const maxLines = 50

// printLines prints the first of many lines.
func printLines(w io.Writer, lines []string) {
	for i, line := range lines {
		if i == maxLines {
			fmt.Fprintf(w, "and %s more\n", formatNumber(len(lines)-maxLines))
			return
		}
		fmt.Fprintln(w, line)
	}
}

// summary returns the counts of a list for a person, each with its reasons.
func (c Counts) summary() string {
	part := func(n, earlier int, word string, s standing) string {
		text := fmt.Sprintf("%s %s", formatNumber(n), word)
		if earlier > 0 {
			text += fmt.Sprintf(" (%s in an earlier run)", formatNumber(earlier))
		}
		if _, plain := c.Reasons[s]["unassigned"]; len(c.Reasons[s]) > 1 || len(c.Reasons[s]) == 1 && !plain {
			text += ": " + countReasons(c.Reasons[s])
		}
		return text
	}
	parts := []string{formatCount(c.Total, "device", "devices") + ": " + part(c.Succeeded, c.SucceededEarlier,
		"succeeded", succeeded)}
	if c.Refused > 0 {
		parts = append(parts, part(c.Refused, c.RefusedEarlier, "refused", refused))
	}
	if c.Open > 0 {
		parts = append(parts, part(c.Open, 0, "to retry", open))
	}
	if c.Unsent > 0 {
		parts = append(parts, formatNumber(c.Unsent)+" not sent")
	}
	return strings.Join(parts, "; ")
}

// formatCount returns n with the word for one or for many.
func formatCount(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return formatNumber(n) + " " + many
}

// formatNumber returns n with a comma between thousands.
func formatNumber(n int) string {
	text := strconv.Itoa(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
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

// counts shows the counts of the rows.
func (p *progress) counts(c Counts) {
	text := fmt.Sprintf("%s of %s: %s succeeded, %s refused", formatNumber(c.Total-c.Unsent), formatNumber(c.Total),
		formatNumber(c.Succeeded), formatNumber(c.Refused))
	if c.Open > 0 {
		text += fmt.Sprintf(", %s to retry", formatNumber(c.Open))
	}
	if !p.terminal {
		if c.Total > batchDevices {
			fmt.Fprintln(p.w, text)
		}
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

// end ends the line of the bar.
func (p *progress) end() {
	if p.bar != "" {
		fmt.Fprintln(p.w)
	}
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
