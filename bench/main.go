// Command bench measures the function beside other programs that do the same job (read a device, then act), on a
// simulated cloud on loopback: a floor without any checks or records, and programs written with Microsoft's libraries
// in Go and for Node. Run it from the root of the project, by make bench.
//
// The contestants take turns, round by round, in a changing order. A figure is the median over the rounds. A ratio is
// the median of the ratios to the floor in the same round, so that a slow phase of the machine slows both.
package main

import (
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
		exitWith(serveCloud(os.Stdin, os.Stdout))
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how many rounds")
	flag.StringVar(&o.only, "only", "", "contestants, separated by commas (floor,ours,sdk,node; default: all)")
	flag.BoolVar(&o.write, "write", false, "write the tables to "+pageFile)
	flag.BoolVar(&o.limits, "limits", false, "fail if a limit is exceeded")
	flag.Parse()
	exitWith(run(os.Stdout, o))
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type options struct {
	rounds        int
	only          string
	write, limits bool
}

// delays are added to every response of the cloud.
var delays = []time.Duration{0, 50 * time.Millisecond} //nolint:gochecknoglobals // a constant table

func run(out io.Writer, o options) error {
	if o.rounds < 1 || flag.NArg() > 0 {
		return errors.New("usage: bench [-rounds n] [-only names] [-write] [-limits]")
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

	field, err := selectContestants(o.only)
	if err != nil {
		return err
	}
	for _, who := range field {
		if err := checkContestant(c, who); err != nil {
			return fmt.Errorf("%s on %s: %w", who.name, who.cloud, err)
		}
	}
	r := results{}
	for round := range o.rounds {
		order := append(slices.Clone(field[round%len(field):]), field[:round%len(field)]...)
		for _, who := range order {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s on %s\n", round+1, o.rounds, who.name, who.cloud)
			if err := measureRound(c, who, r); err != nil {
				return fmt.Errorf("%s on %s: %w", who.name, who.cloud, err)
			}
			select {
			case <-interrupted:
				return errors.New("interrupted")
			default:
			}
		}
	}
	text := formatReport(r, field, o.rounds)
	if _, err := io.WriteString(out, text); err != nil {
		return err
	}
	var broken error
	if o.limits {
		broken = checkLimits(out, r)
	}
	if o.write {
		return errors.Join(broken, writePage(text))
	}
	return broken
}

// figure is a measured quantity of a contestant.
type figure struct {
	who  contestantName
	what string
}

// results hold a value of each figure for each round.
type results map[figure][]float64

func (r results) add(who contestantName, what string, value float64) {
	f := figure{who, what}
	r[f] = append(r[f], value)
}

// median returns the median over the rounds, and whether there is one.
func (r results) median(who contestantName, what string) (float64, bool) {
	values := r[figure{who, what}]
	return median(values), len(values) > 0
}

// inSequence returns the round trips that a first response waits for in sequence: the delay lengthens it by one delay
// for each. Other work of the machine can only add to a time, so the shortest times of all rounds count.
func (r results) inSequence(who contestantName) float64 {
	fast, slow := r[figure{who, minFirst}], r[figure{who, minFirstSlow}]
	return (slices.Min(slow) - slices.Min(fast)) / (delays[1] - delays[0]).Seconds()
}

// ratio returns the median of the ratios to the floor's figure of the same round, and whether there is one.
func (r results) ratio(who contestantName, what string) (float64, bool) {
	values, others := r[figure{who, what}], r[figure{contestantName{floor, who.cloud}, what}]
	if len(values) == 0 || len(values) != len(others) {
		return 0, false
	}
	ratios := make([]float64, len(values))
	for i := range values {
		ratios[i] = values[i] / others[i]
	}
	return median(ratios), true
}

// median returns the middle value, or the mean of the two middle values.
func median[T float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// selectContestants returns the contestants with the names in only, all of them for "".
func selectContestants(only string) ([]contestant, error) {
	names := strings.Split(only, ",")
	var field []contestant
	for _, c := range allContestants() {
		if only == "" || slices.Contains(names, c.name) {
			field = append(field, c)
		}
	}
	if len(field) == 0 {
		return nil, fmt.Errorf("no contestant is named %q", only)
	}
	return field, nil
}
