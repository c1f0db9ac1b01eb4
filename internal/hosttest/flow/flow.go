// Package flow plays Power Automate, for tests: it reads the package of a flow as an import does, and runs the flow as the
// platform is known to, with the headers, the repetitions and the duplicates that arrive from there. What stands in for the
// connectors is the test's; what the flow sends by HTTP really goes out.
//
// It knows as much of the workflow definition language as the flows of this project use, and refuses the rest. Nobody has
// compared it with the platform, but for what public captures and Microsoft's documentation say of that.
package flow

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Flow is the package of one flow.
type Flow struct {
	Manifest       Manifest
	ID             string // the name of its folder
	Definition     Definition
	References     map[string]Reference // to connections, by the names that actions use
	APIs           map[string]string    // resources of the manifest, by those names
	Connections    map[string]string
	DefinitionJSON []byte // of all of definition.json
}

// Manifest is what an import shows and asks.
type Manifest struct {
	Schema  string `json:"schema"`
	Details struct {
		DisplayName        string `json:"displayName"`
		Description        string `json:"description"`
		CreatedTime        string `json:"createdTime"`
		PackageTelemetryID string `json:"packageTelemetryId"`
		Creator            string `json:"creator"`
		SourceEnvironment  string `json:"sourceEnvironment"`
	} `json:"details"`
	Resources map[string]Resource `json:"resources"`
}

// Resource is a flow, a connector or a connection of a package.
type Resource struct {
	ID                    string   `json:"id"`
	Name                  string   `json:"name"`
	Type                  string   `json:"type"`
	SuggestedCreationType string   `json:"suggestedCreationType"`
	CreationType          string   `json:"creationType"`
	Details               Details  `json:"details"`
	ConfigurableBy        string   `json:"configurableBy"`
	Hierarchy             string   `json:"hierarchy"`
	DependsOn             []string `json:"dependsOn"`
}

// Details name a Resource for people.
type Details struct {
	DisplayName string `json:"displayName"`
}

// Reference is a connection that a flow uses.
type Reference struct {
	ConnectionName string `json:"connectionName"`
	Source         string `json:"source"`
	ID             string `json:"id"`
	Tier           string `json:"tier"`
	APIName        string `json:"apiName"`
}

// Definition is a workflow definition.
type Definition struct {
	Schema         string                     `json:"$schema"`
	ContentVersion string                     `json:"contentVersion"`
	Parameters     map[string]json.RawMessage `json:"parameters"`
	Triggers       map[string]Trigger         `json:"triggers"`
	Actions        map[string]Action          `json:"actions"`
}

// Trigger is what starts a flow.
type Trigger struct {
	Type                 string         `json:"type"`
	Kind                 string         `json:"kind,omitempty"`
	Inputs               map[string]any `json:"inputs,omitempty"`
	Recurrence           map[string]any `json:"recurrence,omitempty"`
	RuntimeConfiguration map[string]any `json:"runtimeConfiguration,omitempty"`
}

// Action is one step, with those inside it.
type Action struct {
	Type                 string              `json:"type"`
	Description          string              `json:"description,omitempty"`
	RunAfter             map[string][]string `json:"runAfter"`
	Inputs               any                 `json:"inputs,omitempty"`
	Actions              map[string]Action   `json:"actions,omitempty"`
	Else                 *Branch             `json:"else,omitempty"`
	Expression           map[string][]any    `json:"expression,omitempty"`
	Foreach              string              `json:"foreach,omitempty"`
	OperationOptions     string              `json:"operationOptions,omitempty"`
	RuntimeConfiguration map[string]any      `json:"runtimeConfiguration,omitempty"`
}

// Branch is the other side of a condition.
type Branch struct {
	Actions map[string]Action `json:"actions"`
}

// Open reads the package of a flow from the root of pkg. What an import would not know is an error.
func Open(pkg fs.FS) (*Flow, error) {
	f := &Flow{}
	var list struct {
		PackageSchemaVersion string `json:"packageSchemaVersion"`
		FlowAssets           struct {
			AssetPaths []string `json:"assetPaths"`
		} `json:"flowAssets"`
	}
	const flows = "Microsoft.Flow/flows"
	if err := decode(pkg, "manifest.json", &f.Manifest); err != nil {
		return nil, err
	}
	if err := decode(pkg, flows+"/manifest.json", &list); err != nil {
		return nil, err
	}
	if len(list.FlowAssets.AssetPaths) != 1 {
		return nil, fmt.Errorf("the package has the flows %v, want one", list.FlowAssets.AssetPaths)
	}
	f.ID = list.FlowAssets.AssetPaths[0]
	var envelope struct {
		Name       string `json:"name"`
		ID         string `json:"id"`
		Type       string `json:"type"`
		Properties struct {
			APIID                      string               `json:"apiId"`
			DisplayName                string               `json:"displayName"`
			Definition                 Definition           `json:"definition"`
			ConnectionReferences       map[string]Reference `json:"connectionReferences"`
			FlowFailureAlertSubscribed bool                 `json:"flowFailureAlertSubscribed"`
			IsManaged                  bool                 `json:"isManaged"`
		} `json:"properties"`
	}
	dir := path.Join(flows, f.ID)
	for name, into := range map[string]any{"definition.json": &envelope, "apisMap.json": &f.APIs, "connectionsMap.json": &f.Connections} {
		if err := decode(pkg, path.Join(dir, name), into); err != nil {
			return nil, err
		}
	}
	f.Definition, f.References = envelope.Properties.Definition, envelope.Properties.ConnectionReferences
	if envelope.Type != "Microsoft.Flow/flows" || envelope.Properties.APIID != "/providers/Microsoft.PowerApps/apis/shared_logicflows" ||
		!strings.HasSuffix(envelope.ID, "/"+envelope.Name) || envelope.Properties.DisplayName != f.Manifest.Details.DisplayName {
		return nil, fmt.Errorf("definition.json is of %s %s, %q", envelope.Type, envelope.ID, envelope.Properties.DisplayName)
	}
	var err error
	f.DefinitionJSON, err = fs.ReadFile(pkg, path.Join(dir, "definition.json"))
	return f, err
}

func decode(pkg fs.FS, name string, into any) error {
	file, err := pkg.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	d := json.NewDecoder(file)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// All calls visit with every action of actions and of those inside them, and with the names of the actions around it, from
// the outside in.
func All(actions map[string]Action, visit func(name string, action Action, around []string)) {
	all(actions, visit, nil)
}

func all(actions map[string]Action, visit func(string, Action, []string), around []string) {
	for name, action := range actions {
		visit(name, action, around)
		inside := append(append([]string{}, around...), name)
		all(action.Actions, visit, inside)
		if action.Else != nil {
			all(action.Else.Actions, visit, inside)
		}
	}
}

// Calls returns the calls of functions in the expressions of v, a part of a definition. An expression that cannot be read is
// an error.
func Calls(v any) ([]Call, error) {
	var found []Call
	switch v := v.(type) {
	case string:
		n, err := parse(v)
		if err != nil {
			return nil, err
		}
		return n.calls(nil), nil
	case []any:
		for _, part := range v {
			calls, err := Calls(part)
			if err != nil {
				return nil, err
			}
			found = append(found, calls...)
		}
	case map[string]any:
		for _, part := range v {
			calls, err := Calls(part)
			if err != nil {
				return nil, err
			}
			found = append(found, calls...)
		}
	}
	return found, nil
}
