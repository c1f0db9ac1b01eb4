// Command bench measures the function beside other programs that do the same job (read a device, then act), on a
// simulated cloud on loopback: a floor without any checks or records, and programs written with Microsoft's libraries
// in Go and for Node. Run it from the root of the project, by make bench.
//
// The contestants take turns, many times in a round and in a changing order. A figure is the median over the turns. A
// ratio is the median of the ratios to the floor in the same turn, so that a slow phase of the machine slows both.
package main

import (
	"errors"
	"flag"
	"fmt"
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
	rounds := flag.Int("rounds", 5, "how many rounds")
	only := flag.String("only", "", "contestants, separated by commas (floor,ours,sdk,node; default: all)")
	write := flag.Bool("write", false, "write the tables to "+pageFile)
	limits := flag.Bool("limits", false, "fail if a limit is exceeded")
	flag.Parse()
	if *rounds < 1 || flag.NArg() > 0 {
		exitWith(errors.New("usage: bench [-rounds n] [-only names] [-write] [-limits]"))
	}
	r, field, err := run(*rounds, *only)
	if err != nil {
		exitWith(err)
	}
	text := formatReport(r, field, *rounds)
	fmt.Print(text)
	if *limits {
		err = checkLimits(os.Stdout, r)
	}
	if *write {
		err = errors.Join(err, writePage(text))
	}
	exitWith(err)
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// delays are added to every response of the cloud.
var delays = []time.Duration{0, 50 * time.Millisecond} //nolint:gochecknoglobals // a constant table

// run measures the contestants that only names in as many rounds, and returns their figures.
func run(rounds int, only string) (results, []contestant, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := startCloud(dir)
	if err != nil {
		return nil, nil, err
	}
	defer c.stop()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)

	field, err := selectContestants(only)
	if err != nil {
		return nil, nil, err
	}
	for _, who := range field {
		if err := checkContestant(c, who); err != nil {
			return nil, nil, fmt.Errorf("%s on %s: %w", who.name, who.cloud, err)
		}
	}
	r := results{}
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
		if err := measureRound(c, field, round, r); err != nil {
			return nil, nil, err
		}
		if len(interrupted) > 0 {
			return nil, nil, errors.New("interrupted")
		}
	}
	return r, field, nil
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
