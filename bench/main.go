// Command bench measures the function beside alternatives, on a simulated cloud on loopback: a floor with the least possible
// work, and implementations with Microsoft's libraries, in Go and for Node. make bench runs it from the root of the project.
//
// The contestants take turns in rounds, in a random order. A figure is the median over the rounds. A ratio is the median of the
// ratios to the floor in the same round, so that a machine that is slow for a while is slow for both.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == cloudCommand {
		exit(serveCloud(os.Stdin, os.Stdout))
	}
	rounds := flag.Int("rounds", 5, "how many rounds")
	only := flag.String("only", "", "the contestants, with commas between them (floor,ours,sdk,node; all)")
	markdown := flag.Bool("markdown", false, "print the tables as Markdown, as docs/performance.md has them")
	limits := flag.Bool("limits", false, "fail where a limit does not hold")
	flag.Parse()
	exit(run(os.Stdout, *rounds, *only, *markdown, *limits))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// delays are added to every response of the cloud.
func delays() []time.Duration { return []time.Duration{0, 50 * time.Millisecond} }

func run(out io.Writer, rounds int, only string, markdown, limits bool) error {
	if rounds < 1 || flag.NArg() > 0 {
		return errors.New("usage: bench [-rounds n] [-only names] [-markdown] [-limits]")
	}
	field, err := contestants(only)
	if err != nil {
		return err
	}
	if limits && (!has(field, floor) || !has(field, ours)) {
		return errors.New("-limits is about ours beside the floor: -only must name both")
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := startCloud(dir)
	if err != nil {
		return err
	}
	defer c.stop()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)

	for _, who := range field {
		if err := check(c, who); err != nil {
			return fmt.Errorf("%s: %w", who.name, err)
		}
	}
	r := results{}
	for round := range rounds {
		order := append(slices.Clone(field[round%len(field):]), field[:round%len(field)]...)
		for _, who := range order {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, who.name)
			if err := measure(c, who, r); err != nil {
				return fmt.Errorf("%s: %w", who.name, err)
			}
			select {
			case <-interrupted:
				return errors.New("interrupted")
			default:
			}
		}
	}
	for _, t := range tables(r, field) {
		t.print(out, markdown)
	}
	if limits {
		return checkLimits(out, r, has(field, sdk))
	}
	return nil
}

// figure is something that is measured, of one contestant, with one delay.
type figure struct {
	who   string
	delay time.Duration
	what  string
}

// results are figures, a value for each round.
type results map[figure][]float64

func (r results) add(who string, delay time.Duration, what string, value float64) {
	f := figure{who, delay, what}
	r[f] = append(r[f], value)
}

// median returns the median over the rounds, and whether there is one.
func (r results) median(who string, delay time.Duration, what string) (float64, bool) {
	values := r[figure{who, delay, what}]
	return median(values), len(values) > 0
}

// ratio returns the median of the ratios to another's figure of the same round, and whether there is one.
func (r results) ratio(who, to string, delay time.Duration, what string) (float64, bool) {
	values, others := r[figure{who, delay, what}], r[figure{to, delay, what}]
	if len(values) == 0 || len(values) != len(others) {
		return 0, false
	}
	ratios := make([]float64, len(values))
	for i := range values {
		ratios[i] = values[i] / others[i]
	}
	return median(ratios), true
}

// median returns the value in the middle, or the mean of the two there.
func median[T float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// percentile returns the least value that p of a hundred do not exceed.
func percentile[T cmp.Ordered](values []T, p int) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)*p+99)/100-1]
}

func has(field []contestant, name string) bool {
	return slices.ContainsFunc(field, func(c contestant) bool { return c.name == name })
}

// contestants returns those that are named, in the order of the tables; all for "".
func contestants(only string) ([]contestant, error) {
	all := everybody()
	if only == "" {
		return all, nil
	}
	var field []contestant
	names := strings.Split(only, ",")
	for _, name := range names {
		if !has(all, name) {
			return nil, fmt.Errorf("there is no contestant %q", name)
		}
	}
	for _, c := range all {
		if slices.Contains(names, c.name) {
			field = append(field, c)
		}
	}
	return field, nil
}
