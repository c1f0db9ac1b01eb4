package flow

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
)

// Flow is the source of one flow.
type Flow struct {
	DisplayName string     `json:"displayName"`
	Description string     `json:"description"`
	Definition  Definition `json:"definition"`

	JSON []byte `json:"-"`
}

// Definition is a workflow definition.
type Definition struct {
	Schema         string                     `json:"$schema"`
	ContentVersion string                     `json:"contentVersion"`
	Parameters     map[string]json.RawMessage `json:"parameters"`
	Triggers       map[string]Trigger         `json:"triggers"`
	Actions        map[string]Action          `json:"actions"`
}

// Trigger starts a flow.
type Trigger struct {
	Type                 string         `json:"type"`
	Kind                 string         `json:"kind,omitempty"`
	Inputs               map[string]any `json:"inputs,omitempty"`
	Recurrence           map[string]any `json:"recurrence,omitempty"`
	RuntimeConfiguration map[string]any `json:"runtimeConfiguration,omitempty"`
}

// Action is one step, with the steps inside it.
type Action struct {
	Type                 string              `json:"type"`
	Description          string              `json:"description,omitempty"`
	RunAfter             map[string][]string `json:"runAfter"`
	Inputs               any                 `json:"inputs,omitempty"`
	Actions              map[string]Action   `json:"actions,omitempty"`
	Else                 *Branch             `json:"else,omitempty"`
	Expression           any                 `json:"expression,omitempty"`
	Foreach              string              `json:"foreach,omitempty"`
	Limit                map[string]any      `json:"limit,omitempty"`
	OperationOptions     string              `json:"operationOptions,omitempty"`
	RuntimeConfiguration map[string]any      `json:"runtimeConfiguration,omitempty"`
}

// Branch is the other side of a condition.
type Branch struct {
	Actions map[string]Action `json:"actions"`
}

// Read reads the source of a flow. A member that it does not know is an error.
func Read(path string) (*Flow, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &Flow{JSON: source}
	d := json.NewDecoder(bytes.NewReader(source))
	d.DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// All calls visit with every action of actions and of the actions inside them, and with the names of the actions
// around it, outermost first.
func All(actions map[string]Action, visit func(name string, action Action, around []string)) {
	visitAll(actions, visit, nil)
}

func visitAll(actions map[string]Action, visit func(string, Action, []string), around []string) {
	for name, action := range actions {
		visit(name, action, around)
		inside := append(append([]string{}, around...), name)
		visitAll(action.Actions, visit, inside)
		if action.Else != nil {
			visitAll(action.Else.Actions, visit, inside)
		}
	}
}

// Calls returns the function calls in the expressions of v, a part of a definition. An expression that does not parse
// is an error.
func Calls(v any) (found []Call, err error) {
	err = catchFault(func() { found = callsIn(v) })
	return found, err
}

func callsIn(v any) (found []Call) {
	switch v := v.(type) {
	case string:
		return parseText(v).calls
	case []any:
		for _, part := range v {
			found = append(found, callsIn(part)...)
		}
	case map[string]any:
		for _, part := range v {
			found = append(found, callsIn(part)...)
		}
	}
	return found
}
