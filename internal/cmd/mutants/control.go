package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// control is one protection in the source, and its removal.
type control struct {
	Threat string // T1 and so on, as docs/security.md numbers them
	Name   string // the protection, in words
	File   string
	Old    string // the text in File that carries the protection; it occurs once
	New    string // the text without the protection
	Test   string // package and test: "./handler TestName"
}

func (c control) matches(text string) bool {
	return strings.Contains(strings.Join([]string{c.Threat, c.Name, c.File, c.Test}, "\n"), text)
}

// loadControls reads the list and reports every incomplete entry.
func loadControls(name string) ([]control, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var controls []control
	if err := yaml.Unmarshal(text, &controls); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var faults []error
	names := map[string]bool{}
	for _, c := range controls {
		if slices.Contains([]string{c.Threat, c.Name, c.File, c.Old}, "") || c.Old == c.New ||
			len(strings.Fields(c.Test)) != 2 {
			faults = append(faults, fmt.Errorf("%s: the entry %q is incomplete", name, c.Name))
		}
		if names[c.Name] {
			faults = append(faults, fmt.Errorf("%s: two entries are called %q", name, c.Name))
		}
		names[c.Name] = true
	}
	return controls, errors.Join(faults...)
}

// errSurvived is the error of a control whose removal the test did not notice.
var errSurvived = errors.New("SURVIVED")

// runMutant removes the control in an overlay and runs its test. It returns nil if the test failed, as it must.
func (c control) runMutant(ctx context.Context) ([]byte, error) {
	source, err := os.ReadFile(c.File)
	if err != nil {
		return nil, err
	}
	if count := bytes.Count(source, []byte(c.Old)); count != 1 {
		return nil, fmt.Errorf("the text to remove occurs %d times in %s", count, c.File)
	}
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	mutant, overlay := filepath.Join(dir, filepath.Base(c.File)), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutant, bytes.Replace(source, []byte(c.Old), []byte(c.New), 1), 0o600); err != nil {
		return nil, err
	}
	original, err := filepath.Abs(c.File)
	if err != nil {
		return nil, err
	}
	mapping, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutant}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(overlay, mapping, 0o600); err != nil {
		return nil, err
	}
	folder, name, _ := strings.Cut(c.Test, " ")
	output, err := runTests(ctx, folder, []string{name}, overlay)
	switch {
	case err == nil:
		return output, errSurvived
	case bytes.Contains(output, []byte("panic: test timed out")):
		return output, errors.New("the test hangs without the control, which is no verdict")
	case !bytes.Contains(output, []byte("--- FAIL: ")) && !bytes.Contains(output, []byte("panic: ")):
		return output, fmt.Errorf("the mutant does not build or its test does not run:\n%s", output)
	}
	return output, nil
}

// runTests runs tests of the package in folder, with an overlay if there is one. GOFLAGS carries the overlay, so that a
// test which builds the program builds the mutant.
func runTests(ctx context.Context, folder string, names []string, overlay string) ([]byte, error) {
	pattern := "^(" + strings.Join(names, "|") + ")$"
	//nolint:gosec // from our own list
	command := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=5m", "-vet=off", "-v", "-run", pattern, folder)
	command.Env = os.Environ()
	if overlay != "" {
		command.Env = append(command.Env, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	}
	return command.CombinedOutput()
}
