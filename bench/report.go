package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// table is a printed table: rows of cells, of which the first is the header.
type table struct {
	title string
	rows  [][]string
}

// print writes t in columns, or as Markdown, which is in columns too.
func (t table) print(out io.Writer, markdown bool) {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintf(out, "%s\n\n", t.title)
	for n, row := range t.rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if cells[i] = padding + cell; i == 0 {
				cells[i] = cell + padding
			}
		}
		line := strings.TrimRight(strings.Join(cells, "   "), " ")
		if markdown {
			line = "| " + strings.Join(cells, " | ") + " |"
		}
		fmt.Fprintln(out, line)
		if n == 0 && markdown {
			fmt.Fprintln(out, "| --- "+strings.Repeat("| ---: ", len(row)-1)+"|")
		}
	}
	fmt.Fprintln(out)
}

// unit is how a figure is written.
type unit func(float64) string

func milliseconds(v float64) string {
	if v >= 0.1 {
		return fmt.Sprintf("%.0f ms", v*1e3)
	}
	return fmt.Sprintf("%.2f ms", v*1e3)
}
func microseconds(v float64) string { return fmt.Sprintf("%.0f µs", v*1e6) }
func mebibytes(v float64) string    { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }
func rate(v float64) string         { return fmt.Sprintf("%.0f", v) }
func count(v float64) string        { return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00") }
func tenths(v float64) string       { return fmt.Sprintf("%.1f", v) }

// tables returns the figures for people.
func tables(r results, field []contestant) []table {
	lines := []struct {
		what  string
		unit  unit
		ratio bool
	}{
		{listening, milliseconds, true},
		{firstAtOnce, milliseconds, true},
		{firstLater, milliseconds, true},
		{p50, milliseconds, true},
		{p99, milliseconds, true},
		{throughput, rate, true},
		{processor, microseconds, true},
		{memory, mebibytes, true},
		{disk, mebibytes, true},
		{coldAtOnce, count, false},
		{coldLater, count, false},
		{warm, count, false},
		{inSequence, tenths, false},
		{inSequence1, tenths, false},
	}
	var all []table
	for _, delay := range delays() {
		heads := []string{""}
		for _, who := range field {
			if heads = append(heads, who.name); who.name != floor && has(field, floor) {
				heads = append(heads, "to floor")
			}
		}
		t := table{fmt.Sprintf("With %v added to every upstream answer:", delay), [][]string{heads}}
		for _, line := range lines {
			row, known := []string{line.what}, false
			for _, who := range field {
				value, ok := r.median(who.name, delay, line.what)
				cell := ""
				if ok {
					cell, known = line.unit(value), true
				}
				if row = append(row, cell); who.name == floor || !has(field, floor) {
					continue
				}
				cell = ""
				if ratio, ok := r.ratio(who.name, floor, delay, line.what); ok && line.ratio {
					cell = fmt.Sprintf("%.2f", ratio)
				}
				row = append(row, cell)
			}
			if known {
				t.rows = append(t.rows, row)
			}
		}
		all = append(all, t)
	}
	if has(field, ours) {
		all = append(all, listTable(r))
	}
	return all
}

func listTable(r results) table {
	t := table{"Lists, ours alone:", [][]string{{"", "upstream requests"}}}
	for _, delay := range delays() {
		t.rows[0] = append(t.rows[0], fmt.Sprintf("time, %v added", delay))
	}
	for _, way := range []string{listOfIDs, singlesByID, listOfSerials, singlesBySN} {
		requests, _ := r.median(ours, 0, way+asUpstream)
		row := []string{way, count(requests)}
		for _, delay := range delays() {
			took, _ := r.median(ours, delay, way+asTime)
			row = append(row, milliseconds(took))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// maxBinary is the limit for our program, in bytes. The Makefile holds the packages to it, too.
const maxBinary = 10485760

// checkLimits says of every limit whether it holds, and returns an error that names those that do not.
func checkLimits(out io.Writer, r results, withSDK bool) error {
	var broken []error
	hold := func(what string, got, limit float64, holds bool) {
		verdict := "holds"
		if !holds {
			verdict = "DOES NOT HOLD"
			broken = append(broken, fmt.Errorf("limit: %s: %.2f, the limit is %.2f", what, got, limit))
		}
		fmt.Fprintf(out, "limit: %-70s %12.2f of %12.2f: %s\n", what, got, limit, verdict)
	}
	atMost := func(what string, got, limit float64) { hold(what, got, limit, got <= limit) }
	slow := delays()[1]
	toFloor := func(what string) float64 {
		ratio, _ := r.ratio(ours, floor, 0, what)
		return ratio
	}
	value := func(what string, delay time.Duration) float64 {
		v, _ := r.median(ours, delay, what)
		return v
	}
	atMost(p50+", at most so many times the floor's", toFloor(p50), 1.25)
	hold(throughput+", at least so many times the floor's", toFloor(throughput), 0.80, toFloor(throughput) >= 0.80)
	if withSDK {
		ratio, _ := r.ratio(ours, sdk, 0, throughput)
		hold(throughput+", more than so many times the SDK's", ratio, 1, ratio > 1)
	}
	atMost(memory+", at most so many times the floor's", toFloor(memory), 1.6)
	hold("binary, below so many bytes", value(disk, 0), maxBinary, value(disk, 0) < maxBinary)
	atMost(listening+", at most so many times the floor's", toFloor(listening), 1.5)
	// A round trip is whole; the rest is of two processes that did not take the same time.
	atMost(inSequence, math.Round(value(inSequence, slow)), 5)
	atMost(inSequence1, math.Round(value(inSequence1, slow)), 1)
	for _, way := range []string{listOfIDs, listOfSerials} {
		atMost(way+asUpstream, value(way+asUpstream, 0), 2)
	}
	return errors.Join(broken...)
}
