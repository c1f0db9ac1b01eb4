package infra_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// Every manifest of dependencies has its folder in dependabot.yml.
func TestDependabotIsComplete(t *testing.T) {
	t.Parallel()
	var config struct {
		Updates []struct {
			Ecosystem   string   `yaml:"package-ecosystem"`
			Directories []string `yaml:"directories"`
		} `yaml:"updates"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../.github/dependabot.yml")), &config); err != nil {
		t.Fatal(err)
	}
	covered := map[string][]string{}
	for _, update := range config.Updates {
		covered[update.Ecosystem] = append(covered[update.Ecosystem], update.Directories...)
	}
	ecosystems := map[string]string{"go.mod": "gomod", "requirements.txt": "pip", "package-lock.json": "npm"}
	found := 0
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && name != ".." && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"node_modules", "dist", "testdata"}, entry.Name())) {
			return fs.SkipDir
		}
		if ecosystem := ecosystems[filepath.Base(name)]; err == nil && ecosystem != "" {
			found++
			if folder := path.Clean("/" + strings.TrimPrefix(filepath.ToSlash(filepath.Dir(name)), "..")); !slices.Contains(covered[ecosystem], folder) {
				t.Errorf("dependabot.yml has no %s for %s", ecosystem, folder)
			}
		}
		return err
	})
	if err != nil || found < 10 {
		t.Errorf("%d manifests, %v", found, err)
	}
}

// One version is in the tree, wherever it stands.
func TestOneVersion(t *testing.T) {
	t.Parallel()
	version := strings.TrimSpace(read(t, "../VERSION"))
	for name, pattern := range map[string]string{
		"azure/release.json": `"version": "v([^"]+)"`,
		"../CHANGELOG.md":    `(?m)^## (\S+)$`,
		"powershell/AutopilotUnassign/AutopilotUnassign.psd1": `ModuleVersion +=\s'([^']+)'`,
		"powershell/AutopilotUnassign/AutopilotUnassign.psm1": `\$script:Version = '([^']+)'`,
	} {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(read(t, name)); len(m) != 2 || m[1] != version {
			t.Errorf("VERSION is %s, %s has %q", version, name, m)
		}
	}
}

// The owners of code are named for folders and files that exist.
func TestCodeOwners(t *testing.T) {
	t.Parallel()
	for line := range strings.Lines(read(t, "../.github/CODEOWNERS")) {
		name, _, ok := strings.Cut(line, " ")
		if !ok || name == "#" || name == "*" {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", name)); err != nil {
			t.Errorf("CODEOWNERS: %v", err)
		}
	}
}

// Only Go builds the programs, in a job without npm and PyPI. Another job tests and rebuilds every published file.
func TestReleaseWorkflow(t *testing.T) {
	t.Parallel()
	var workflow struct {
		Jobs map[string]struct {
			Needs any                          `yaml:"needs"`
			Steps []struct{ Run, Uses string } `yaml:"steps"`
		} `yaml:"jobs"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../.github/workflows/release.yml")), &workflow); err != nil {
		t.Fatal(err)
	}
	commands := func(job string) (all []string) {
		for _, step := range workflow.Jobs[job].Steps {
			if step.Run != "" {
				all = append(all, strings.TrimSpace(step.Run))
			}
		}
		return all
	}
	const clean = `test -z "$(git status --porcelain)"`
	if got, want := commands("build"), []string{`make release-programs VERSION="$GITHUB_REF_NAME"`, clean}; !slices.Equal(got, want) {
		t.Errorf("the job build runs %q", got)
	}
	tested := commands("check")
	for _, want := range []string{".ci/run", `make release VERSION="$GITHUB_REF_NAME"`, "make release-try", clean} {
		if !slices.Contains(tested, want) {
			t.Errorf("the job check does not run %q", want)
		}
	}
	if !slices.ContainsFunc(tested, func(c string) bool { return strings.Contains(c, `cmp "$file"`) }) {
		t.Error("the job check does not compare the two builds")
	}
	if needs := asList(workflow.Jobs["publish"].Needs); !slices.Equal(needs, []any{"build", "check", "vulnerabilities"}) {
		t.Errorf("the job publish needs %v", needs)
	}
	// The recipes of release-programs and its prerequisites run no tool of npm or PyPI.
	recipes := regexp.MustCompile(`(?ms)^\.PHONY: (?:release-programs|package-azure|package-lambda)\n.*?\n\n`).FindAllString(read(t, "../Makefile"), -1)
	if len(recipes) != 3 {
		t.Fatalf("%d recipes", len(recipes))
	}
	for _, recipe := range recipes {
		if m := regexp.MustCompile(`\b(npm|node|pip|PYTHON|python3?)\b`).FindString(recipe); m != "" {
			t.Errorf("a recipe of release-programs runs %s", m)
		}
	}
}
