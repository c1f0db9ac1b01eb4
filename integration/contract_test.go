//go:build integration

package integration

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// strict is openapi.yaml with the rules of its descriptions as schemas. The file omits them because ServiceNow's
// importer ignores or refuses them.
func strict(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../handler/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var contract map[string]any
	if err := yaml.Unmarshal(text, &contract); err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) map[string]any {
		node := contract
		for _, name := range path {
			next, ok := node[name].(map[string]any)
			if !ok {
				t.Fatalf("openapi.yaml has no %v", path)
			}
			node = next
		}
		return node
	}
	contract["openapi"] = "3.1.0" // which has null, and names of properties
	null := map[string]any{"type": "null"}
	schemas := []string{"components", "schemas"}
	for schema, names := range map[string][]string{
		"Request": {"deviceId", "serialNumber", "devices"}, "Device": {"deviceId", "serialNumber"}, "Expected": {"userPrincipalName", "resourceName"},
	} {
		s := at(append(schemas, schema)...)
		delete(s, "minProperties") // which say it where null is not looked at
		delete(s, "maxProperties")
		properties := at(append(schemas, schema, "properties")...)
		var alternatives []any
		for _, name := range names {
			members := map[string]any{}
			for _, other := range names {
				members[other] = null
			}
			members[name] = map[string]any{"not": null}
			if name == "devices" { // where it stands in each of them
				members["expected"] = null
			}
			alternatives = append(alternatives, map[string]any{"required": []any{name}, "properties": members})
		}
		s["oneOf"] = alternatives
		for name, property := range properties { // a member that is null counts as absent
			property, _ := property.(map[string]any)
			if reference, ok := property["$ref"]; ok {
				properties[name] = map[string]any{"anyOf": []any{map[string]any{"$ref": reference}, null}}
				continue
			}
			property["type"] = []any{property["type"], "null"}
		}
	}
	yes := map[string]any{"enum": []any{true}}
	at(append(schemas, "Request")...)["not"] = map[string]any{"required": []any{"dryRun", "verify"}, "properties": map[string]any{"dryRun": yes, "verify": yes}}
	context := at(append(schemas, "Request", "properties", "context")...)
	context["propertyNames"] = map[string]any{"pattern": "^[0-9A-Za-z._-]{1,64}$"}
	value := at(append(schemas, "Request", "properties", "context", "additionalProperties")...)
	value["type"] = []any{"string", "null"}
	for _, text := range []map[string]any{
		value, at(append(schemas, "Request", "properties", "reference")...),
		at(append(schemas, "Expected", "properties", "userPrincipalName")...), at(append(schemas, "Expected", "properties", "resourceName")...),
	} {
		text["pattern"] = printable
	}
	for _, schema := range []string{"Request", "Device"} {
		id := at(append(schemas, schema, "properties", "deviceId")...)
		id["not"] = map[string]any{"enum": []any{"00000000-0000-0000-0000-000000000000"}}
	}
	text, err = yaml.Marshal(contract)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "openapi.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// printable is a pattern for the printable characters of Latin-1; schemathesis.toml keeps generated values to it.
const printable = "^[ -~\u00a1-\u00ac\u00ae-\u00ff]*$"

// tested matches the number of requests in a report without a failure.
var tested = regexp.MustCompile(`(\d+) generated, (?:\d+) passed`)

// examination is a run of Schemathesis.
type examination struct {
	contract string
	front    string            // of fronts
	key      bool              // the requests are authentic
	settings map[string]string // replacements in schemathesis.toml
	options  []string
}

// run tests the program against the contract, and returns the log of the program.
func (e examination) run(t *testing.T) string {
	t.Helper()
	c, served := newCloud(t)
	p := fronts()[e.front](t, c, served, nil, "OPERATOR_CALLERS=api-key-flow")
	text, err := os.ReadFile("schemathesis.toml")
	if err != nil {
		t.Fatal(err)
	}
	settings := string(text)
	if e.front != "direct" { // the same program: fewer requests show the changes by a host
		settings = strings.NewReplacer("max-examples = 800", "max-examples = 100",
			// A host refuses a header value that is not ASCII with 400 (E7), and leaves bodies alone.
			`"latin-1"`, `"ascii"`,
			// It responds 404 to a method that the route does not list (E7), and no route lists TRACE.
			"[checks]\n", "[phases.coverage]\nunexpected-methods = [\"GET\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\", \"OPTIONS\"]\n\n[checks]\n",
		).Replace(settings)
	}
	for old, changed := range e.settings {
		settings = strings.Replace(settings, old, changed, 1)
	}
	options := slices.Clone(e.options)
	switch {
	case e.key && strings.HasSuffix(e.contract, ".json"): // which names its schemes otherwise
		options = append(options, "--header", "x-api-key: "+apiKey)
	case e.key:
		settings += fmt.Sprintf("\n[auth.openapi.apiKey]\napi_key = %q\n", apiKey)
	}
	contract, err := filepath.Abs(e.contract)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // its memory of failures would change the next run
	file := filepath.Join(dir, "schemathesis.toml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tool(t, "integration", "bin", "schemathesis"),
		slices.Concat([]string{"--config-file", file, "--no-color", "run", "--continue-on-failure", "--url", p.url}, options, []string{contract})...)
	cmd.Dir = dir
	report, err := cmd.CombinedOutput()
	ran := tested.FindSubmatch(report)
	if err != nil || ran == nil {
		t.Fatalf("%v: %s", err, report)
	}
	t.Logf("%s requests", ran[1])
	return p.log()
}

func TestContract(t *testing.T) {
	t.Parallel()
	contract := strict(t)
	for front := range fronts() {
		t.Run(front, func(t *testing.T) {
			t.Parallel()
			codes := codesOf(t, examination{contract: contract, front: front, key: true}.run(t))
			if !codes["unassigned"] || !codes["already_unassigned"] || !codes["device_not_found"] || !codes["examined"] || len(codes) < 15 {
				t.Error("what it sent came to little")
			}
		})
	}
}

// codesOf returns the codes in a log.
func codesOf(t *testing.T, log string) map[string]bool {
	t.Helper()
	codes := map[string]bool{}
	for _, m := range regexp.MustCompile(`"code":"([a-z_]+)"`).FindAllStringSubmatch(log, -1) {
		codes[m[1]] = true
	}
	t.Logf("it came to %v", slices.Sorted(maps.Keys(codes)))
	return codes
}

// Without credentials the program changes nothing, and every response follows the contract.
func TestContractForStrangers(t *testing.T) {
	t.Parallel()
	for front := range fronts() {
		t.Run(front, func(t *testing.T) {
			t.Parallel()
			log := examination{contract: "../handler/openapi.yaml", front: front}.run(t)
			if strings.Contains(log, `"code":"unassigned"`) || strings.Contains(log, `"code":"examined"`) || !strings.Contains(log, `"code":"unauthenticated"`) {
				t.Error("a stranger was served, or nobody was refused")
			}
		})
	}
}

// The program does as the Power Automate connector promises. The connector's other paths exist in the connector
// alone. It cannot express two rules: that one of two names is required, so a body that it takes for valid may be
// refused; and that a header which it always sends is optional. TestContract shows that a host changes no response.
func TestConnectorContract(t *testing.T) {
	t.Parallel()
	log := examination{
		contract: "../infra/power-automate/connector/apiDefinition.swagger.json", front: "direct", key: true,
		settings: map[string]string{"[checks.positive_data_acceptance]\n": "[checks.positive_data_acceptance]\nenabled = false\n"},
		options:  []string{"--include-path", "/api/unassign", "--include-path", "/api/health", "--header", "Prefer: return=representation"},
	}.run(t)
	if codes := codesOf(t, log); !codes["unassigned"] || len(codes) < 12 {
		t.Error("what it sent came to little")
	}
}
