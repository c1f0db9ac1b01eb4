package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/procfs"
)

// figure is a measured quantity of a contestant.
type figure struct {
	who  contestantName
	what string
}

// results hold a value of each figure for each turn.
type results map[figure][]float64

func (r results) add(who contestantName, what string, value float64) {
	f := figure{who, what}
	r[f] = append(r[f], value)
}

// ratios returns the ratios to the floor's figure of the same turn, none if one of the two was not measured.
func (r results) ratios(who contestantName, what string) []float64 {
	values, others := r[figure{who, what}], r[figure{contestantName{floor, who.cloud}, what}]
	if len(values) != len(others) {
		return nil
	}
	ratios := make([]float64, len(values))
	for i := range values {
		ratios[i] = values[i] / others[i]
	}
	return ratios
}

// median returns the middle value, or the mean of the two middle values.
func median[T float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// lines are the rows of the tables, in order: a figure, its format, and how many of the unit shown are one of the measured.
var lines = []struct { //nolint:gochecknoglobals // a constant table
	what, format string
	scale        float64
}{
	{ready, "%.2f ms", 1e3},
	{first, "%.2f ms", 1e3},
	{firstSlow, "%.0f ms", 1e3},
	{inSequence, "%.1f", 1},
	{coldRequests, "%.0f", 1},
	{warmRequests, "%.0f", 1},
	{p50, "%.2f ms", 1e3},
	{throughput, "%.0f", 1},
	{processor, "%.0f µs", 1e6},
	{memory, "%.1f MiB", 1.0 / (1 << 20)},
	{disk, "%.1f MiB", 1.0 / (1 << 20)},
}

// formatReport returns a table in Markdown for each cloud, with the date and the machine.
func formatReport(r results, field []contestant, rounds int) string {
	var b strings.Builder
	date := time.Now().UTC().Format("2 January 2006")
	fmt.Fprintf(&b, "Measured on %s, %s, median of %d rounds.\n", date, describeMachine(), rounds)
	for _, cloud := range []string{azure, aws} {
		heads, rule, rows := []string{cloud}, []string{"---"}, make([][]string, len(lines))
		for _, who := range field {
			if who.cloud != cloud {
				continue
			}
			heads, rule = append(heads, who.name), append(rule, "---:")
			if who.name != floor {
				heads, rule = append(heads, "to floor"), append(rule, "---:")
			}
			for i, line := range lines {
				value, ratio := "", ""
				if values := r[figure{who.contestantName, line.what}]; len(values) > 0 {
					value = fmt.Sprintf(line.format, median(values)*line.scale)
				}
				if ratios := r.ratios(who.contestantName, line.what); len(ratios) > 0 {
					ratio = fmt.Sprintf("%.2f", median(ratios))
				}
				if rows[i] = append(rows[i], value); who.name != floor {
					rows[i] = append(rows[i], ratio)
				}
			}
		}
		if len(heads) == 1 {
			continue
		}
		table := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
		for _, row := range [][]string{{}, heads, rule} {
			fmt.Fprintln(table, strings.Join(row, "\t| "))
		}
		for i, row := range rows {
			if strings.Join(row, "") != "" {
				fmt.Fprintln(table, lines[i].what+"\t| "+strings.Join(row, "\t| "))
			}
		}
		_ = table.Flush() // never fails into memory
	}
	return b.String() + "\n"
}

// describeMachine describes this machine.
func describeMachine() string {
	model := runtime.GOARCH
	if proc, err := procfs.NewDefaultFS(); err == nil {
		if cpus, err := proc.CPUInfo(); err == nil && len(cpus) > 0 {
			model = cpus[0].ModelName
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	kernel := strings.TrimSpace(string(release))
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
	return os.WriteFile(pageFile, []byte(before+pageBegin+"\n"+text+pageEnd+after), 0o644) //nolint:gosec // a page of the documentation
}

// The round trips of a cold call in sequence: the shortest chain and one more. TestColdCall names the chains. The
// simulated vault is of a custom cloud, which takes one more.
const (
	maxInSequenceAzure = 4 + 1
	maxInSequenceAWS   = 5 + 1
)

// maxBinary is the size that the program must stay below, in bytes. The Makefile holds the packages to the same limit.
const maxBinary = 10485760

// checkLimits prints each limit and whether it holds. Its error names the limits that do not hold.
func checkLimits(out io.Writer, r results) error {
	onAzure, onAWS := contestantName{ours, azure}, contestantName{ours, aws}
	ratio := func(what string) float64 { return median(r.ratios(onAzure, what)) }
	if ratio(p50) == 0 {
		return errors.New("-limits compares ours with the floor: -only must name both")
	}
	value := func(who contestantName, what string) float64 { return median(r[figure{who, what}]) }
	var broken []error
	for _, limit := range []struct {
		what      string
		got       float64
		direction string
		limit     float64
	}{
		{p50 + ", to floor", ratio(p50), "at most", 1.20},
		{throughput + ", to floor", ratio(throughput), "at least", 0.85},
		{memory + ", to floor", ratio(memory), "at most", 1.5},
		{ready + ", to floor", ratio(ready), "at most", 1.4},
		{disk + ", bytes", value(onAzure, disk), "at most", maxBinary - 1}, // make reproducible holds the package for Lambda
		// The fraction is the difference between two processes.
		{inSequence + ", Azure", math.Round(value(onAzure, inSequence)), "at most", maxInSequenceAzure},
		{inSequence + ", AWS", math.Round(value(onAWS, inSequence)), "at most", maxInSequenceAWS},
		{warmRequests + ", Azure", value(onAzure, warmRequests), "at most", 2},
		{warmRequests + ", AWS", value(onAWS, warmRequests), "at most", 2},
	} {
		verdict := "holds"
		if limit.direction == "at most" && limit.got > limit.limit || limit.direction == "at least" && limit.got < limit.limit {
			verdict = "DOES NOT HOLD"
			broken = append(broken, fmt.Errorf("limit: %s: %.2f, %s %.2f", limit.what, limit.got, limit.direction, limit.limit))
		}
		fmt.Fprintf(out, "limit: %-46s %12.2f, %s %11.2f: %s\n", limit.what, limit.got, limit.direction, limit.limit, verdict)
	}
	return errors.Join(broken...)
}
