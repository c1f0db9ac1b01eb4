package infra_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"autopilot-unassign/internal/hosttest/flow"
)

// flows returns the sources of the flows, by name.
func flows(t *testing.T) map[string]*flow.Flow {
	t.Helper()
	paths, err := filepath.Glob("power-automate/flows/*.json")
	if err != nil || len(paths) != 3 {
		t.Fatalf("%v, flows %v", err, paths)
	}
	all := map[string]*flow.Flow{}
	for _, path := range paths {
		if all[strings.TrimSuffix(filepath.Base(path), ".json")], err = flow.Read(path); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestFlowDefinitions holds the flows to the rules of the workflow definition language, as its published schema and Microsoft's
// reference state them.
func TestFlowDefinitions(t *testing.T) {
	for name, f := range flows(t) {
		d := f.Definition
		if d.Schema != "https://schema.management.azure.com/providers/Microsoft.Logic/schemas/2016-06-01/workflowdefinition.json#" || !regexp.MustCompile(`^\d+(\.\d+){3}$`).MatchString(d.ContentVersion) || len(d.Triggers) != 1 {
			t.Errorf("%s: %s, version %s, %d triggers", name, d.Schema, d.ContentVersion, len(d.Triggers))
		}
		if got := slices.Sorted(maps.Keys(d.Parameters)); !slices.Equal(got, []string{"$authentication", "$connections"}) {
			t.Errorf("%s: parameters %v", name, got)
		}
		for trigger, of := range d.Triggers {
			frequencies := []any{"Minute", "Hour", "Day", "Week", "Month"}
			button := of.Type == "Request" && of.Kind == "Button" && of.Inputs["schema"] != nil
			interval, _ := of.Recurrence["interval"].(float64)
			if recurrence := of.Type == "Recurrence" && slices.Contains(frequencies, of.Recurrence["frequency"]) && interval >= 1; !button && !recurrence {
				t.Errorf("%s: %s is %+v", name, trigger, of)
			}
			if of.Type == "Recurrence" && fmt.Sprint(of.RuntimeConfiguration) != "map[concurrency:map[runs:1]]" {
				t.Errorf("%s: two runs may work at one list", name)
			}
		}
		seen, variables := map[string]bool{}, map[string]bool{}
		flow.All(d.Actions, func(action string, a flow.Action, around []string) {
			if seen[action] || !regexp.MustCompile(`^[A-Za-z0-9_]{1,80}$`).MatchString(action) {
				t.Errorf("%s: a second or an ill-named action %s", name, action)
			}
			seen[action] = true
			checkShape(t, name+": "+action, a)
			if a.Type == "InitializeVariable" {
				variables[action] = true
				if len(around) > 0 {
					t.Errorf("%s: %s is inside %v", name, action, around)
				}
			}
		})
		checkOrder(t, name, d.Actions, nil, nil, variables)
	}
}

// checkShape holds the members of an action to its type.
func checkShape(t *testing.T, where string, a flow.Action) {
	t.Helper()
	inputs, _ := a.Inputs.(map[string]any)
	has := func(keys ...string) bool {
		return slices.Equal(slices.Sorted(maps.Keys(inputs)), slices.Sorted(slices.Values(keys)))
	}
	right := false
	switch a.Type {
	case "Scope":
		right = len(a.Actions) > 0 && a.Inputs == nil
	case "If":
		condition, _ := a.Expression.(map[string]any)
		right = len(condition) == 1 && a.Inputs == nil
	case "Until":
		right = a.Expression != nil && a.Limit["count"] != nil && a.Limit["timeout"] != nil && a.Inputs == nil
	case "Foreach":
		right = len(a.Actions) > 0 && a.Foreach != "" && a.Inputs == nil && a.OperationOptions == "Sequential" // variables, and Graph's limits
	case "Compose":
		right = a.Inputs != nil
	case "InitializeVariable":
		right = has("variables")
	case "SetVariable":
		right = has("name", "value")
	case "Select":
		right = has("from", "select")
	case "Query":
		right = has("from", "where")
	case "Table":
		right = has("from", "format", "columns")
	case "Terminate":
		right = has("runStatus", "runError") && inputs["runStatus"] == "Failed"
	case "OpenApiConnection", "OpenApiConnectionWebhook":
		right = has("host", "parameters", "authentication")
	case "Http":
		right = has("method", "uri", "headers", "body", "retryPolicy") && inputs["method"] == "POST" && validPolicy(inputs["retryPolicy"].(map[string]any))
	}
	nested := len(a.Actions) > 0 || a.Else != nil
	if !right || nested && a.Type != "Scope" && a.Type != "If" && a.Type != "Foreach" && a.Type != "Until" {
		t.Errorf("%s is %+v", where, a)
	}
}

// validPolicy reports whether a retry policy is within the limits: 1 to 90 retries, delays of 5 seconds to a day.
func validPolicy(p map[string]any) bool {
	duration := regexp.MustCompile(`^PT([5-9]S|[1-9]\d+S|[1-9]\d*[MH])$`)
	for key, value := range p {
		switch key {
		case "type", "count":
		case "interval", "minimumInterval", "maximumInterval":
			if !duration.MatchString(fmt.Sprint(value)) {
				return false
			}
		default:
			return false
		}
	}
	count, _ := p["count"].(float64)
	switch p["type"] {
	case "none":
		return len(p) == 1
	case "fixed", "exponential":
		return count >= 1 && count <= 90 && p["interval"] != nil
	}
	return false
}

// checkOrder holds actions, and the actions inside them, to the order of a run: they run after actions beside them, and their
// expressions read actions that ran before, loops around them and declared variables. earlier ran before all of them.
func checkOrder(t *testing.T, name string, actions map[string]flow.Action, loops, earlier []string, variables map[string]bool) {
	t.Helper()
	var before func(action string, seen map[string]bool)
	before = func(action string, seen map[string]bool) {
		for other, statuses := range actions[action].RunAfter {
			if _, ok := actions[other]; !ok || other == action || len(statuses) == 0 {
				t.Errorf("%s: %s runs after %s", name, action, other)
			}
			for _, status := range statuses {
				if !slices.Contains([]string{flow.Succeeded, flow.Failed, flow.TimedOut, flow.Skipped}, status) {
					t.Errorf("%s: %s runs after %s has %s", name, action, other, status)
				}
			}
			if !seen[other] {
				seen[other] = true
				before(other, seen)
			}
		}
	}
	for action, a := range actions {
		seen := map[string]bool{}
		before(action, seen)
		if seen[action] {
			t.Errorf("%s: %s runs after itself", name, action)
		}
		been := slices.Clone(earlier)
		for other := range seen {
			been = append(been, other)
			flow.All(actions[other].Actions, func(inside string, _ flow.Action, _ []string) { been = append(been, inside) })
			if side := actions[other].Else; side != nil {
				flow.All(side.Actions, func(inside string, _ flow.Action, _ []string) { been = append(been, inside) })
			}
		}
		calls, err := flow.Calls([]any{a.Inputs, a.Foreach})
		if condition, untilErr := flow.Calls(a.Expression); a.Type == "If" {
			calls, err = append(calls, condition...), errors.Join(err, untilErr)
		}
		if err != nil {
			t.Errorf("%s: %s: %v", name, action, err)
		}
		for _, call := range calls {
			known := true
			switch call.Function {
			case "body", "outputs":
				known = slices.Contains(been, call.Literals[0])
			case "items":
				known = slices.Contains(loops, call.Literals[0])
			case "variables":
				known = variables[call.Literals[0]]
			case "parameters":
				known = call.Literals[0] == "$authentication"
			}
			if !known {
				t.Errorf("%s: %s reads %s('%s')", name, action, call.Function, call.Literals[0])
			}
		}
		nested := slices.Clone(loops)
		if a.Type == "Foreach" {
			nested = append(nested, action)
		}
		if a.Type == "Terminate" && len(loops) > 0 {
			t.Errorf("%s: %s ends the flow inside a loop", name, action)
		}
		checkOrder(t, name, a.Actions, nested, been, variables)
		if a.Else != nil {
			checkOrder(t, name, a.Else.Actions, nested, been, variables)
		}
	}
}

// TestFlowRequests holds the requests of the flows to the contract.
func TestFlowRequests(t *testing.T) {
	request := readContract(t).Components.Schemas["Request"].Value
	const run = "@{workflow()?['run']?['name']}"
	for name, f := range flows(t) {
		text := string(f.JSON)
		requests := 0
		flow.All(f.Definition.Actions, func(action string, a flow.Action, around []string) {
			if a.Type != "Http" {
				return
			}
			requests++
			inputs := a.Inputs.(map[string]any)
			headers, body := inputs["headers"].(map[string]any), inputs["body"].(map[string]any)
			if inputs["uri"] != "@outputs('Settings')?['url']" || headers["Content-Type"] != "application/json" || headers["Prefer"] != "return=representation" || !strings.HasPrefix(fmt.Sprint(headers["x-api-key"]), "@body('Get_API_key") {
				t.Errorf("%s: %s sends %v to %v", name, action, headers, inputs["uri"])
			}
			if fmt.Sprint(a.RuntimeConfiguration) != "map[secureData:map[properties:[inputs]]]" {
				t.Errorf("%s: the history of runs shows the key of %s", name, action)
			}
			for member := range body {
				if request.Properties[member] == nil {
					t.Errorf("%s: %s sends %s", name, action, member)
				}
			}
			if body["reference"] != run {
				t.Errorf("%s: %s has the reference %v", name, action, body["reference"])
			}
			if devices := strings.Contains(text, `"expected": "@if(contains(`); body["dryRun"] != true && (body["expected"] == nil && (body["devices"] == nil || !devices) || headers["Idempotency-Key"] == nil) {
				t.Errorf("%s: %s may act on another account than was meant, or more than once", name, action)
			}
			// One action reads the response, of any kind, and wants X-Request-Id.
			scope := around[len(around)-1]
			after := false
			flow.All(f.Definition.Actions, func(reader string, b flow.Action, _ []string) {
				text := fmt.Sprint(b.Inputs)
				reads := strings.Contains(text, "body('"+action+"')")
				good := slices.Equal(b.RunAfter[scope], []string{flow.Succeeded, flow.Failed, flow.TimedOut}) && strings.Contains(text, `"x-request-id":`)
				if after = after || reads && good; reads && !good && reader != action {
					t.Errorf("%s: %s reads the body of %s", name, reader, action)
				}
			})
			if !after {
				t.Errorf("%s: no action reads a failure of %s in %s", name, action, scope)
			}
		})
		if requests == 0 {
			t.Errorf("%s sends nothing", name)
		}
		flow.All(f.Definition.Actions, func(action string, a flow.Action, _ []string) {
			if strings.Contains(fmt.Sprint(a.Inputs), "operationId:GetSecret") && fmt.Sprint(a.RuntimeConfiguration) != "map[secureData:map[properties:[inputs outputs]]]" {
				t.Errorf("%s: the history of runs shows what %s has read", name, action)
			}
		})
	}
}

// The page has every status, every package, every kind of connection, and its pictures.
func TestFlowPage(t *testing.T) {
	page := read(t, "../docs/power-automate.md")
	table := page[strings.Index(page, "## Statuses in a flow"):strings.Index(page, "## Retries")]
	for status := range readContract(t).Paths.Value("/api/unassign").Post.Responses.Map() {
		row := regexp.MustCompile(`(?m)^\| [^|]*\b` + status + `\b[^|]* \|`)
		if !row.MatchString(table) && status != "204" && status != "405" { // no flow gets them
			t.Errorf("the page does not have the status %s", status)
		}
	}
	for name, f := range flows(t) {
		if !strings.Contains(page, "`"+name+".zip`") {
			t.Errorf("the page does not have %s", name)
		}
		settings := f.Definition.Actions["Settings"].Inputs.(map[string]any)
		if address := settings["url"].(string); !strings.HasSuffix(address, "/api/unassign") || !strings.Contains(page, "`"+settings["apiKeySecret"].(string)+"`") {
			t.Errorf("%s: the settings are %v", name, settings)
		}
	}
	if definition := readConnector(t); !strings.Contains(page, "`"+definition.Host+"`") {
		t.Errorf("the page does not say that %s is to be replaced", definition.Host)
	}
	for _, set := range readProperties(t).Properties.ConnectionParameterSets.Values {
		if !strings.Contains(page, "- *"+set.UIDefinition["displayName"]+"*: ") {
			t.Errorf("the page does not have the connection %s", set.UIDefinition["displayName"])
		}
	}
	pictures, err := filepath.Glob("../docs/pictures/power-automate*.svg")
	if err != nil || len(pictures) != strings.Count(page, "](pictures/") {
		t.Errorf("%v, the pictures are %v", err, pictures)
	}
	for _, picture := range pictures {
		if !strings.Contains(page, "](pictures/"+filepath.Base(picture)+")") {
			t.Errorf("the page does not show %s", picture)
		}
	}
}
