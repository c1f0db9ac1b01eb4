package docs_test

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// file returns a file of the repository.
func file(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// matches returns what the first group of a pattern stands for, wherever it is in a text.
func matches(pattern, text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return found
}

// commands returns the commands of a page, in its blocks and in its sentences, those inside others' arguments among them.
func commands(t *testing.T, page string) []string {
	t.Helper()
	var found []string
	add := func(script string) {
		script = strings.ReplaceAll(script, "\\\n", " ")
		for _, m := range regexp.MustCompile(`\$\(([^()]+)\)`).FindAllStringSubmatch(script, -1) {
			found = append(found, m[1])
		}
		for line := range strings.SplitSeq(script, "\n") {
			line = regexp.MustCompile(`^\w+=\$\(.*\)$`).ReplaceAllString(line, "") // which is taken above
			for part := range strings.SplitSeq(line, " | ") {
				if part = strings.TrimSpace(part); part != "" {
					found = append(found, part)
				}
			}
		}
	}
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(page, -1) {
		parse := exec.CommandContext(t.Context(), "/bin/sh", "-n")
		parse.Stdin = strings.NewReader(m[1])
		if output, err := parse.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, output, m[1])
		}
		add(m[1])
	}
	prose := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(page, "")
	for _, m := range regexp.MustCompile("`((?:az|azd|make|git|bin/unassign|unassign) [^`]+)`").FindAllStringSubmatch(prose, -1) {
		add(m[1])
	}
	return found
}

// Whoever follows the page finds that each command is there, with the options and the names that it is given.
func TestAzureCommandsExist(t *testing.T) {
	page := file(t, "docs/azure.md")
	bicep, program := file(t, "infra/azure/main.bicep"), file(t, "function/main.go")
	targets := matches(`(?m)^([a-z][a-z-]*):`, file(t, "Makefile"))
	flags := matches(`\.\w+\((?:&\w+\.\w+, )?"([a-z-]+)", `, file(t, "internal/client/call.go")+file(t, "internal/client/command.go"))
	options := matches(`(--[a-z]+)`, file(t, "infra/azure/grant.sh"))
	parameters, outputs := matches(`(?m)^param (\w+) `, bicep), matches(`(?m)^output (\w+) `, bicep)
	settings := matches(`\$\{([A-Z_]+)[=}]`, file(t, "infra/azure/main.parameters.json"))
	settings["AZURE_RESOURCE_GROUP"] = true // azd's own
	groups := []string{"account", "ad", "deployment", "functionapp", "group", "keyvault", "login", "role"}
	azd := []string{"auth login", "config set", "deploy", "down", "env get-value", "env new", "env set", "provision", "up"}
	others := []string{"git", "openssl", "printf", "rm", "tr", "umask", "date"}
	if len(targets) < 10 || len(flags) < 10 || len(parameters) < 20 || len(outputs) < 5 || len(settings) < 20 {
		t.Fatalf("%d targets, %d flags, %d parameters, %d outputs, %d settings", len(targets), len(flags), len(parameters), len(outputs), len(settings))
	}
	seen := map[string]int{}
	for _, command := range commands(t, page) {
		words := strings.Fields(command)
		seen[words[0]]++
		rest := strings.Join(words[1:], " ")
		switch words[0] {
		case "make":
			if !targets[words[1]] {
				t.Errorf("make has no target %s", words[1])
			}
		case "unassign", "bin/unassign":
			if !strings.Contains(program, "\n\tcase \""+words[1]+"\":") {
				t.Errorf("the program has no command %s", words[1])
			}
			for flag := range matches(` -([a-z-]+)`, " "+strings.Join(words[2:], " ")) {
				if !flags[flag] && !strings.Contains(flag, "value") {
					t.Errorf("%s has no flag -%s", words[1], flag)
				}
			}
		case "infra/azure/grant.sh":
			for _, word := range words[1:] {
				if strings.HasPrefix(word, "-") && !options[word] {
					t.Errorf("grant.sh has no option %s", word)
				}
			}
		case "azd":
			if !slices.ContainsFunc(azd, func(known string) bool { return rest == known || strings.HasPrefix(rest, known+" ") }) {
				t.Errorf("azd has no %s", rest)
			}
			if name := strings.TrimPrefix(rest, "env set "); name != rest && !settings[strings.Fields(name)[0]] {
				t.Errorf("%s sets what main.parameters.json does not take", command)
			}
			if name := strings.TrimPrefix(rest, "env get-value "); name != rest && !outputs[name] {
				t.Errorf("%s asks for what main.bicep does not put out", command)
			}
		case "az":
			if !slices.Contains(groups, words[1]) {
				t.Errorf("az has no group %s", words[1])
			}
			if _, given, ok := strings.Cut(rest, " --parameters "); ok {
				for name := range matches(`(\w+)=`, given) {
					if !parameters[name] {
						t.Errorf("main.bicep has no parameter %s", name)
					}
				}
			}
		default:
			if !slices.Contains(others, words[0]) {
				t.Errorf("nobody knows %s", command)
			}
		}
	}
	for _, word := range []string{"az", "azd", "make", "bin/unassign", "infra/azure/grant.sh"} {
		if seen[word] == 0 {
			t.Errorf("the page does not use %s, but %v", word, slices.Sorted(maps.Keys(seen)))
		}
	}
	// As few as the page is worth: to the command that deploys, fewer than ten.
	_, first, _ := strings.Cut(page, "\n## Deploy\n\n```sh\n")
	first, _, _ = strings.Cut(first, "```")
	if lines := strings.Split(strings.TrimSpace(first), "\n"); len(lines) >= 10 || lines[len(lines)-1] != "azd up" {
		t.Errorf("%d lines to %q", len(lines), lines[len(lines)-1])
	}
	// What azd can be told is in the page, or in settings.md.
	known := page + file(t, "docs/settings.md")
	for name := range settings {
		if !strings.Contains(known, "`"+name+"`") && name != "AZURE_ENV_NAME" {
			t.Errorf("nothing is said of %s", name)
		}
	}
}
