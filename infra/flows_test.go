package infra_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"autopilot-unassign/internal/hosttest/flow"
)

// flows returns the packages of the flows, by name.
func flows(t *testing.T) map[string]*flow.Flow {
	t.Helper()
	dirs, err := filepath.Glob("power-automate/flows/*")
	if err != nil || len(dirs) != 3 {
		t.Fatalf("%v, flows %v", err, dirs)
	}
	all := map[string]*flow.Flow{}
	for _, dir := range dirs {
		flow, err := flow.Open(os.DirFS(dir))
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		all[filepath.Base(dir)] = flow
	}
	return all
}

// TestFlowPackages holds the packages to the form that the platform exports and imports, as public repositories have it.
func TestFlowPackages(t *testing.T) {
	guid := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	makefile := read(t, "../Makefile")
	ids := map[string]bool{}
	for name, f := range flows(t) {
		used := map[string]bool{}
		flow.All(f.Definition.Actions, func(_ string, a flow.Action, _ []string) {
			inputs, _ := a.Inputs.(map[string]any)
			if host, ok := inputs["host"].(map[string]any); ok {
				used[host["connectionName"].(string)] = true
				if host["apiId"] != "/providers/Microsoft.PowerApps/apis/"+host["connectionName"].(string) || inputs["authentication"] != "@parameters('$authentication')" {
					t.Errorf("%s: %v", name, inputs)
				}
			}
		})
		apis := slices.Sorted(maps.Keys(used))
		for what, keys := range map[string][]string{"connectionReferences": slices.Sorted(maps.Keys(f.References)), "apisMap": slices.Sorted(maps.Keys(f.APIs)), "connectionsMap": slices.Sorted(maps.Keys(f.Connections))} {
			if !slices.Equal(keys, apis) {
				t.Errorf("%s: %s has %v, the actions use %v", name, what, keys, apis)
			}
		}
		resources := f.Manifest.Resources
		root := resources[f.ID]
		if root.Type != "Microsoft.Flow/flows" || root.Hierarchy != "Root" || root.SuggestedCreationType != "New" || root.ConfigurableBy != "User" || root.Details.DisplayName != f.Manifest.Details.DisplayName {
			t.Errorf("%s: the flow is %+v", name, root)
		}
		var dependsOn []string
		for _, api := range apis {
			ref, of, connection := f.References[api], resources[f.APIs[api]], resources[f.Connections[api]]
			if ref.ID != "/providers/Microsoft.PowerApps/apis/"+api || ref.APIName != strings.TrimPrefix(api, "shared_") || ref.ConnectionName != "" || ref.Source != "Invoker" {
				t.Errorf("%s: the reference is %+v", name, ref)
			}
			if of.ID != ref.ID || of.Name != api || of.Type != "Microsoft.PowerApps/apis" || of.SuggestedCreationType != "Existing" || of.ConfigurableBy != "System" || len(of.DependsOn) > 0 {
				t.Errorf("%s: the connector is %+v", name, of)
			}
			if connection.Type != "Microsoft.PowerApps/apis/connections" || connection.SuggestedCreationType != "Existing" || connection.ConfigurableBy != "User" || !slices.Equal(connection.DependsOn, []string{f.APIs[api]}) {
				t.Errorf("%s: the connection is %+v", name, connection)
			}
			dependsOn = append(dependsOn, f.APIs[api], f.Connections[api])
		}
		if !slices.Equal(sorted(root.DependsOn), sorted(dependsOn)) || len(resources) != len(dependsOn)+1 {
			t.Errorf("%s: %d resources, depends on %v, want %v", name, len(resources), root.DependsOn, dependsOn)
		}
		for id := range resources {
			if !guid.MatchString(id) || ids[id] {
				t.Errorf("%s: resource %s", name, id)
			}
			ids[id] = true
		}
		if f.Manifest.Schema != "1.0" || f.Manifest.Details.Description == "" || !guid.MatchString(f.Manifest.Details.PackageTelemetryID) {
			t.Errorf("%s: the manifest is %+v", name, f.Manifest.Details)
		}
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(makefile) {
			t.Errorf("the Makefile does not pack %s", name)
		}
	}
}

// TestFlowDefinitions holds the flows to the rules of the workflow definition language that its published schema and
// Microsoft's reference have, for what is in them.
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
			shape(t, name+": "+action, a)
			if a.Type == "InitializeVariable" {
				variables[action] = true
				if len(around) > 0 {
					t.Errorf("%s: %s is inside %v", name, action, around)
				}
			}
		})
		order(t, name, d.Actions, nil, nil, variables)
	}
}

// shape finds fault with what an action of its type has, or has not.
func shape(t *testing.T, where string, a flow.Action) {
	t.Helper()
	inputs, _ := a.Inputs.(map[string]any)
	has := func(keys ...string) bool {
		return slices.Equal(slices.Sorted(maps.Keys(inputs)), sorted(keys))
	}
	right := false
	switch a.Type {
	case "Scope":
		right = len(a.Actions) > 0 && a.Inputs == nil
	case "If":
		right = len(a.Expression) == 1 && a.Inputs == nil
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
		right = has("method", "uri", "headers", "body", "retryPolicy") && inputs["method"] == "POST" && policy(inputs["retryPolicy"].(map[string]any))
	}
	nested := len(a.Actions) > 0 || a.Else != nil
	if !right || nested && a.Type != "Scope" && a.Type != "If" && a.Type != "Foreach" {
		t.Errorf("%s is %+v", where, a)
	}
}

// policy reports whether a retry policy is one: 1 to 90 times, after 5 seconds to a day.
func policy(p map[string]any) bool {
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

// order holds actions, and those inside them, to what has happened when they begin: they run after actions beside them, and
// their expressions look at actions that have been, at the loops around them, and at variables that there are. earlier has been
// before all of them.
func order(t *testing.T, name string, actions map[string]flow.Action, loops, earlier []string, variables map[string]bool) {
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
		condition := []any{}
		for _, sides := range a.Expression {
			condition = append(condition, sides...)
		}
		calls, err := flow.Calls([]any{a.Inputs, a.Foreach, condition})
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
				t.Errorf("%s: %s looks at %s('%s')", name, action, call.Function, call.Literals[0])
			}
		}
		nested := slices.Clone(loops)
		if a.Type == "Foreach" {
			nested = append(nested, action)
		}
		if a.Type == "Terminate" && len(loops) > 0 {
			t.Errorf("%s: %s ends the flow inside a loop", name, action)
		}
		order(t, name, a.Actions, nested, been, variables)
		if a.Else != nil {
			order(t, name, a.Else.Actions, nested, been, variables)
		}
	}
}

// TestFlowRequests holds what the flows send to what this project asks of callers.
func TestFlowRequests(t *testing.T) {
	request := readContract(t).Components.Schemas["Request"].Value
	const run = "@{workflow()?['run']?['name']}"
	for name, f := range flows(t) {
		text := string(f.DefinitionJSON)
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
			if devices := strings.Contains(text, `"expected": {`); body["dryRun"] != true && (body["expected"] == nil && (body["devices"] == nil || !devices) || headers["Idempotency-Key"] == nil) {
				t.Errorf("%s: %s may act on another account than was meant, or more than once", name, action)
			}
			// What goes wrong is looked after, in the function's own words.
			scope := around[len(around)-1]
			after := false
			flow.All(f.Definition.Actions, func(_ string, b flow.Action, _ []string) {
				after = after || slices.Contains(b.RunAfter[scope], flow.Failed) && slices.Contains(b.RunAfter[scope], flow.TimedOut) && strings.Contains(fmt.Sprint(b.Inputs), "body('"+action+"')?['error']")
			})
			if !after {
				t.Errorf("%s: nobody looks after a failure of %s in %s", name, action, scope)
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

// The page for makers has every status, every action of the connector, every package, and its pictures.
func TestFlowPage(t *testing.T) {
	page := read(t, "../docs/power-automate.md")
	table := page[strings.Index(page, "## What a status means there"):strings.Index(page, "## What is repeated")]
	for status := range readContract(t).Paths.Value("/api/unassign").Post.Responses.Map() {
		row := regexp.MustCompile(`(?m)^\| [^|]*\b` + status + `\b[^|]* \|`)
		if !row.MatchString(table) && status != "204" && status != "405" { // which nobody sees there
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
	if definition, _ := readConnector(t); !strings.Contains(page, "`"+definition.Host+"`") {
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
