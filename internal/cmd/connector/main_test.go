package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

const contractFile, swaggerFile = "../../../handler/openapi.yaml", "../../../infra/power-automate/connector/apiDefinition.swagger.json"

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestDefinitionIsCurrent(t *testing.T) {
	t.Parallel()
	swagger, err := generate(readFile(t, contractFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(swagger, readFile(t, swaggerFile)) {
		t.Errorf("%s is not what handler/openapi.yaml gives; run: go generate ./internal/cmd/connector", swaggerFile)
	}
}

// TestDefinition holds the definition to the rules that published connectors keep.
func TestDefinition(t *testing.T) {
	t.Parallel()
	text := readFile(t, swaggerFile)
	var swagger openapi2.T
	if err := json.Unmarshal(text, &swagger); err != nil {
		t.Fatal(err)
	}
	converted, err := openapi2conv.ToV3(&swagger)
	if err != nil {
		t.Fatal(err)
	}
	if err := converted.Validate(t.Context(), openapi3.AllowExtraSiblingFields("description")); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(`"tags"`)) { // an update of a connector with tags fails on the platform
		t.Error("the definition has tags")
	}
	if info := swagger.Info; len(info.Title) > 30 || len(info.Description) < 30 || len(info.Description) > 500 {
		t.Errorf("info is %q, %q", info.Title, info.Description)
	}
	describe := func(where, description string) {
		if len(description) < 5 || !strings.HasSuffix(description, ".") || strings.TrimSpace(description) != description {
			t.Errorf("%s: description %q", where, description)
		}
	}
	label := func(where string, extensions map[string]any) {
		if title, _ := extensions["x-ms-summary"].(string); !regexp.MustCompile(`^[A-Z][A-Za-z]*( [A-Z][A-Za-z]*)*$`).MatchString(title) {
			t.Errorf("%s: x-ms-summary %q", where, title)
		}
	}
	show := func(where string, extensions map[string]any, required, hasDefault bool) {
		word, _ := extensions["x-ms-visibility"].(string)
		if !slices.Contains([]string{"important", "advanced", "internal"}, word) || word == "internal" && required && !hasDefault {
			t.Errorf("%s: x-ms-visibility %q, required %t, default %t", where, word, required, hasDefault)
		}
	}
	for path, item := range swagger.Paths {
		for method, operation := range item.Operations() {
			where := method + " " + path
			if !regexp.MustCompile(`^([A-Z][a-z]+)+$`).MatchString(operation.OperationID) || !regexp.MustCompile(`^[A-Z][a-z ]{4,79}$`).MatchString(operation.Summary) {
				t.Errorf("%s: %q, %q", where, operation.OperationID, operation.Summary)
			}
			describe(where, operation.Description)
			show(where, operation.Extensions, false, true)
			for _, p := range operation.Parameters {
				describe(where+" "+p.Name, p.Description)
				label(where+" "+p.Name, p.Extensions)
				if p.In != "body" {
					show(where+" "+p.Name, p.Extensions, p.Required, p.Default != nil)
				}
				if p.Name == "Prefer" && (p.Default != "return=representation" || p.Extensions["x-ms-visibility"] != "internal") {
					t.Errorf("%s: a 204 has no outputs, and Prefer is %+v", where, p)
				}
			}
			list := strings.HasSuffix(operation.OperationID, "s")
			if responses := operation.Responses; responses.Value("200") == nil || responses.Value("default") == nil || (responses.Value("207") != nil) != list || responses.Len() > 3 {
				t.Errorf("%s has the responses %v", where, responses.Map())
			}
			for status, response := range operation.Responses.Map() {
				describe(where+" "+status, response.Description)
				if response.Schema == nil || (status == "default") != (response.Schema.Ref == "#/definitions/Failure") {
					t.Errorf("%s: %s has the schema %+v", where, status, response.Schema)
				}
			}
		}
	}
	for name, definition := range swagger.Definitions {
		describe(name, definition.Value.Description)
		for property, of := range definition.Value.Properties {
			where := name + "." + property
			if of.Ref != "" {
				of = swagger.Definitions[strings.TrimPrefix(of.Ref, "#/definitions/")]
			}
			describe(where, of.Value.Description)
			label(where, of.Value.Extensions)
			if strings.HasSuffix(name, "Request") {
				show(where, of.Value.Extensions, slices.Contains(definition.Value.Required, property), of.Value.Default != nil)
			}
		}
	}
	for name, acts := range map[string]bool{"UnassignDevice": true, "UnassignDevices": true, "CheckDevice": false, "CheckDevices": false} {
		request := swagger.Definitions[name+"Request"].Value
		dryRun := request.Properties["dryRun"]
		if acts != (dryRun == nil) || !acts && (dryRun.Value.Default != true || dryRun.Value.Extensions["x-ms-visibility"] != "internal") {
			t.Errorf("%s has dryRun %+v", name, dryRun)
		}
		if list := strings.HasSuffix(name, "s"); list != slices.Contains(request.Required, "devices") || list != (request.Properties["serialNumber"] == nil) {
			t.Errorf("%s has %v, requires %v", name, request.Properties, request.Required)
		}
	}
	if swagger.Definitions["DeviceResponse"].Value.Properties["account"] == nil || swagger.Definitions["DevicesResponse"].Value.Properties["results"] == nil {
		t.Error("the responses lack the account or the results")
	}
}

func TestGenerateRefuses(t *testing.T) {
	t.Parallel()
	contract := string(readFile(t, contractFile))
	for name, changed := range map[string]string{
		"no YAML":         "a: [",
		"no route":        strings.Replace(contract, "  /api/health:", "  /api/well:", 1),
		"no schema":       strings.ReplaceAll(contract, "    GraphFailure:\n", "    GraphFault:\n"),
		"a choice":        strings.Replace(contract, "    Account:\n", "    Account:\n      oneOf: []\n", 1),
		"a missing value": "",
	} {
		if _, err := generate([]byte(changed)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
