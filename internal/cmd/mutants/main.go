// Mutants removes each control of controls.yaml from the source, one at a time, and runs the test that the control
// names.
//
//	mutants [-only TEXT] [-changed REVISION] [-v]
//
// A control whose removal its test does not notice is a survivor, and a survivor is a failure. The removal is an
// overlay (go build -overlay), so the working tree never changes. docs/security.md names the same tests for the same
// threats.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1) //nolint:gocritic // the context ends with the process
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	only := flags.String("only", "", "run the controls whose threat, name, file or test contains `text`")
	changed := flags.String("changed", "", "run a control if its package, or the package of its test, differs from `revision`")
	verbose := flags.Bool("v", false, "print the output of each test")
	if err := flags.Parse(args); err != nil {
		return err
	}
	controls, err := loadControls("internal/cmd/mutants/controls.yaml")
	if err != nil {
		return err
	}
	if *changed != "" {
		folders, err := changedFolders(ctx, *changed)
		if err != nil {
			return err
		}
		controls = slices.DeleteFunc(controls, func(c control) bool {
			folder, _, _ := strings.Cut(c.Test, " ")
			return !folders[path.Dir(c.File)] && !folders[path.Clean(folder)]
		})
	}
	controls = slices.DeleteFunc(controls, func(c control) bool { return !c.matches(*only) })
	return runAll(ctx, out, controls, *verbose)
}

// changedFolders returns the folders with a file that differs between revision and the working tree.
func changedFolders(ctx context.Context, revision string) (map[string]bool, error) {
	if strings.HasPrefix(revision, "-") {
		return nil, fmt.Errorf("%q is not a revision", revision)
	}
	//nolint:gosec // checked above
	names, err := exec.CommandContext(ctx, "git", "diff", "--name-only", revision, "--").Output()
	if err != nil {
		return nil, fmt.Errorf("git diff %s: %w", revision, err)
	}
	folders := map[string]bool{}
	for name := range strings.FieldsSeq(string(names)) {
		folders[path.Dir(name)] = true
	}
	return folders, nil
}

// runAll runs the controls, several at a time, prints a line for each, and returns an error that counts the failures.
func runAll(ctx context.Context, out io.Writer, controls []control, verbose bool) error {
	var (
		failures int
		printing sync.Mutex
		running  sync.WaitGroup
	)
	check := baselines(controls)
	slots := make(chan struct{}, runtime.NumCPU())
	for _, c := range controls {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			begun := time.Now()
			verdict, output := "killed", []byte(nil)
			err := check(ctx, c.Test)
			if err == nil {
				output, err = c.runMutant(ctx)
			}
			printing.Lock()
			defer printing.Unlock()
			if ctx.Err() != nil {
				return // an interrupted test gives no verdict
			}
			if err != nil {
				failures++
				verdict = err.Error()
			}
			fmt.Fprintf(out, "%-4s %-60s %-8s %3.0fs %s\n", c.Threat, c.Name, verdict, time.Since(begun).Seconds(), c.Test)
			if verbose {
				fmt.Fprintf(out, "%s\n", output)
			}
		})
	}
	running.Wait()
	fmt.Fprintf(out, "%d controls removed, %d without a test that notices\n", len(controls), failures)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(controls) == 0:
		fmt.Fprintln(out, "no control is in the selection")
	case failures > 0:
		return errors.New("a control can be removed unseen")
	}
	return nil
}

// baselines returns a function that reports whether a test of the controls passes without a mutation: a test that
// fails, or does not exist, notices nothing. It runs the tests of a package together, once.
func baselines(controls []control) func(ctx context.Context, test string) error {
	names := map[string][]string{}
	for _, c := range controls {
		folder, name, _ := strings.Cut(c.Test, " ")
		if !slices.Contains(names[folder], name) {
			names[folder] = append(names[folder], name)
		}
	}
	var mu sync.Mutex
	outputs := map[string]func() []byte{}
	return func(ctx context.Context, test string) error {
		folder, name, _ := strings.Cut(test, " ")
		mu.Lock()
		output := outputs[folder]
		if output == nil {
			output = sync.OnceValue(func() []byte {
				text, _ := runTests(ctx, folder, names[folder], "")
				return text
			})
			outputs[folder] = output
		}
		mu.Unlock()
		text := output()
		switch {
		case bytes.Contains(text, []byte("--- PASS: "+name+" ")):
			return nil
		case !bytes.Contains(text, []byte("=== RUN   "+name+"\n")) && bytes.Contains(text, []byte("\nok ")):
			return errors.New("there is no such test")
		}
		return fmt.Errorf("the test fails without a mutation:\n%s", text)
	}
}
