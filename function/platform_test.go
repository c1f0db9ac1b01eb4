package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The Functions host keeps the last three lines of standard error of a worker that ends.
func TestMissingSettingsAreInTheLastLines(t *testing.T) {
	t.Parallel()
	for _, variable := range []string{"FUNCTIONS_CUSTOMHANDLER_PORT=8080", "AWS_LAMBDA_RUNTIME_API=127.0.0.1:1"} {
		command := exec.CommandContext(t.Context(), binary)
		command.Env = []string{variable}
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		err := command.Run()
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		last := strings.Join(lines[max(0, len(lines)-3):], "\n")
		for _, name := range []string{
			"KEY_VAULT_URL", "GRAPH_TENANT_ID", "GRAPH_CLIENT_ID", "GRAPH_SECRET_NAME",
			"WEBHOOK_SECRET_NAMES",
		} {
			if !strings.Contains(last, name) {
				t.Errorf("%s: the last lines do not name %s:\n%s", variable, name, last)
			}
		}
		if err == nil || stdout.Len() > 0 {
			t.Errorf("%s: %v, %s", variable, err, &stdout)
		}
	}
}

// A deployed package has no simulated cloud: without settings it fails and names them.
func TestDeployedPackageDoesNotSimulate(t *testing.T) {
	t.Parallel()
	deployed := filepath.Join(t.TempDir(), "worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "nosim", "-o", deployed, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, args := range [][]string{nil, {"demo"}, {"call"}, {"list"}} {
		command := exec.CommandContext(t.Context(), deployed, args...)
		command.Env = []string{}
		out, err := command.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "has neither a simulated cloud nor the commands of callers") || args == nil &&
			!strings.Contains(string(out), "GRAPH_TENANT_ID") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "nosim", ".")
	out, err := list.Output()
	if err != nil || strings.Contains(string(out), "internal/azuresim") || strings.Contains(string(out), "internal/demo") ||
		strings.Contains(string(out), "internal/client") {
		t.Errorf("a deployed package holds the simulated cloud: %v", err)
	}
}

func TestVersionIsInTheTree(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../VERSION")
	if err != nil || strings.TrimSpace(string(text)) != version {
		t.Errorf("VERSION is %q, the program is %q, %v", text, version, err)
	}
}
