package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// lines are the rows of the tables, in order, with their units.
var lines = []struct { //nolint:gochecknoglobals // a constant table
	what string
	unit func(float64) string
}{
	{ready, formatMilliseconds},
	{first, formatMilliseconds},
	{firstSlow, formatMilliseconds},
	{inSequence, formatTenths},
	{coldRequests, formatCount},
	{warmRequests, formatCount},
	{p50, formatMilliseconds},
	{throughput, formatCount},
	{processor, formatMicroseconds},
	{memory, formatMebibytes},
	{disk, formatMebibytes},
}

func formatMilliseconds(v float64) string {
	if v >= 0.1 {
		return fmt.Sprintf("%.0f ms", v*1e3)
	}
	return fmt.Sprintf("%.2f ms", v*1e3)
}
func formatMicroseconds(v float64) string { return fmt.Sprintf("%.0f µs", v*1e6) }
func formatMebibytes(v float64) string    { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }
func formatCount(v float64) string        { return fmt.Sprintf("%.0f", v) }
func formatTenths(v float64) string       { return fmt.Sprintf("%.1f", v) }

// formatReport returns a table for each cloud, with the date and the machine.
func formatReport(r results, field []contestant, rounds int) string {
	var b strings.Builder
	date := time.Now().UTC().Format("2 January 2006")
	fmt.Fprintf(&b, "Measured on %s, %s, median of %d rounds.\n\n", date, describeMachine(), rounds)
	for _, cloud := range []string{azure, aws} {
		var names []contestantName
		for _, who := range field {
			if who.cloud == cloud {
				names = append(names, who.contestantName)
			}
		}
		if len(names) == 0 {
			continue
		}
		rows := [][]string{{cloud}}
		withFloor := slices.Contains(names, contestantName{floor, cloud})
		for _, who := range names {
			if rows[0] = append(rows[0], who.name); withFloor && who.name != floor {
				rows[0] = append(rows[0], "to floor")
			}
		}
		for _, line := range lines {
			row, known := []string{line.what}, false
			for _, who := range names {
				cell, ratio := "", ""
				if value, ok := r.median(who, line.what); ok {
					cell, known = line.unit(value), true
				}
				if line.what == inSequence {
					cell, known = line.unit(r.inSequence(who)), true
				}
				if value, ok := r.ratio(who, line.what); ok {
					ratio = fmt.Sprintf("%.2f", value)
				}
				if row = append(row, cell); withFloor && who.name != floor {
					row = append(row, ratio)
				}
			}
			if known {
				rows = append(rows, row)
			}
		}
		writeTable(&b, rows)
	}
	return b.String()
}

// writeTable writes rows as a table in Markdown, the first row being the heads.
func writeTable(out io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if cells[i] = padding + cell; i == 0 {
				cells[i] = cell + padding
			}
		}
		fmt.Fprintln(out, "| "+strings.Join(cells, " | ")+" |")
		if n == 0 {
			fmt.Fprintln(out, "| --- "+strings.Repeat("| ---: ", len(row)-1)+"|")
		}
	}
	fmt.Fprintln(out)
}

// describeMachine describes this machine.
func describeMachine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
			if name, value, ok := strings.Cut(scanner.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var name syscall.Utsname
	kernel := []byte{}
	if syscall.Uname(&name) == nil {
		for _, c := range name.Release {
			if c == 0 {
				break
			}
			kernel = append(kernel, byte(c)) //nolint:gosec // a character; int8 or uint8, by architecture
		}
	}
	return fmt.Sprintf("%d cores of %s, Linux %s, %s", runtime.NumCPU(), model, kernel, runtime.Version())
}

// The generated part of the page, from the root of the project.
const (
	pageFile  = "docs/performance.md"
	pageBegin = "<!-- make bench BENCH=-write: begin -->\n"
	pageEnd   = "<!-- make bench BENCH=-write: end -->\n"
)

// writePage replaces the generated part of the page with text.
func writePage(text string) error {
	page, err := os.ReadFile(pageFile)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(page), pageBegin)
	_, after, ok2 := strings.Cut(rest, pageEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s lacks the line %q or %q", pageFile, pageBegin, pageEnd)
	}
	page = []byte(before + pageBegin + "\n" + text + pageEnd + after)
	return os.WriteFile(pageFile, page, 0o644) //nolint:gosec // a page of the documentation
}

// maxBinary is the size that the program must stay below, in bytes. The Makefile holds the packages to the same limit.
const maxBinary = 10485760

// The round trips of a cold call in sequence: the shortest chain and one more. TestColdCall names the chains. The
// simulated vault is of a custom cloud, which takes one more.
const (
	maxInSequenceAzure = 4 + 1
	maxInSequenceAWS   = 5 + 1
)

// checkLimits prints each limit and whether it holds. Its error names the limits that do not hold.
func checkLimits(out io.Writer, r results) error {
	var broken []error
	hold := func(what string, got, limit float64, holds bool) {
		verdict := "holds"
		if !holds {
			verdict = "DOES NOT HOLD"
			broken = append(broken, fmt.Errorf("limit: %s: %.2f, the limit is %.2f", what, got, limit))
		}
		fmt.Fprintf(out, "limit: %-60s %12.2f of %12.2f: %s\n", what, got, limit, verdict)
	}
	onAzure, onAWS := contestantName{ours, azure}, contestantName{ours, aws}
	if _, ok := r.ratio(onAzure, p50); !ok {
		return errors.New("-limits compares ours with the floor: -only must name both")
	}
	toFloor := func(what string, limit float64) {
		ratio, _ := r.ratio(onAzure, what)
		hold(what+", times the floor's, at most", ratio, limit, ratio <= limit)
	}
	toFloor(p50, 1.20)
	ratio, _ := r.ratio(onAzure, throughput)
	hold(throughput+", times the floor's, at least", ratio, 0.85, ratio >= 0.85)
	toFloor(memory, 1.5)
	toFloor(ready, 1.4)
	size, _ := r.median(onAzure, disk) // make reproducible holds the package for Lambda, of another architecture
	hold(disk+", bytes, below", size, maxBinary, size < maxBinary)
	for who, limit := range map[contestantName]float64{onAzure: maxInSequenceAzure, onAWS: maxInSequenceAWS} {
		// The fraction is the difference between two processes.
		trips := r.inSequence(who)
		hold(inSequence+", "+who.cloud+", at most", math.Round(trips), limit, math.Round(trips) <= limit)
		requests, _ := r.median(who, warmRequests)
		hold(warmRequests+", "+who.cloud+", at most", requests, 2, requests <= 2)
	}
	return errors.Join(broken...)
}
