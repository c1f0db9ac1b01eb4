package flow

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestExpressions(t *testing.T) {
	e := &environment{
		run:     &Run{ID: "0858"},
		trigger: map[string]any{"text": " a "},
		outputs: map[string]map[string]any{
			"Send": {"statusCode": 404.0, "body": map[string]any{"error": map[string]any{"message": "It's gone."}, "list": []any{1.0, 2.0, 3.0}}}, "Nothing": nil, "Made": {"": "x"}, "Page": {"statusCode": 503.0, "body": "<html>", "headers": map[string]any{"X-Request-Id": "r"}},
		},
		variables: map[string]any{"v": []any{}},
		items:     map[string]any{"Loop": map[string]any{"Id": 7.0}},
	}
	for text, want := range map[string]any{
		"plain":                                                  "plain",
		"@@plain":                                                "@plain",
		"@trim(triggerBody()?['text'])":                          "a",
		"<@{triggerBody()?['none']}>":                            "<>",
		"@body('Send')?['error']?['message']":                    "It's gone.",
		"@body('Nothing')?['error']?['message']":                 nil,
		"@body('Send')['error']['message']":                      "It's gone.",
		"@outputs('Send')?['statusCode']":                        404.0,
		"@outputs('Made')":                                       "x",
		"@coalesce(body('Nothing'), 'it''s off')":                "it's off",
		"@{workflow()?['run']?['name']}-@{items('Loop')?['Id']}": "0858-7",
		"@chunk(body('Send')?['list'], 2)":                       []any{[]any{1.0, 2.0}, []any{3.0}},
		"@union(variables('v'), createArray('a', 'a', null))":    []any{"a", nil},
		"@if(empty(variables('v')), true, false)":                true,
		"@not(or(equals(1, 2), equals('a', null)))":              true,
		"@setProperty(json('{\"a\":1}'), 'b', sub(length(body('Send')?['list']), 1))": map[string]any{"a": 1.0, "b": 2.0},
		"@range(0, 2)":              []any{0.0, 1.0},
		"@body('Send')?['list'][1]": 2.0,
		"@last(createArray())":      nil,
		"@take('abc', 2)":           "ab",
		"@take(createArray(1), 2)":  []any{1.0},
		"@uriComponent('a Å')":      "a%20%C3%85",
		"@contains(toLower(string(outputs('Page')?['headers'])), '\"x-request-id\":')": true,
		"@contains(createArray(0, 429), 429)":                                          true,
		"@and(startsWith('Ab', 'ab'), lessOrEquals(1, 1))":                             true,
		"@replace(concat('a', 'b'), decodeUriComponent('b'), '')":                      "a",
		"@string(json('{\"a\":\"\\\"\"}'))":                                            `{"a":"\""}`,
	} {
		var got any
		if err := catchFault(func() { got = e.valueOf(text) }); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"@", "@body('Send'", "@body('Send')?", "@body('Send').x", "@nosuch(1)", "@{body('Send')", "@'open", "@body('Send')['none']", "@body()", "@chunk('a', 2)", "@json('{')", "@1x", "@body('Page')?['error']", "@trim(null)", "@empty(1)", "@range(0, 0)", "@body('Send')?['list'][3]"} {
		var got any
		if err := catchFault(func() { got = e.valueOf(text) }); err == nil {
			t.Errorf("%s is %v", text, got)
		}
	}
}

func TestRetryDelays(t *testing.T) {
	for name, test := range map[string]struct {
		policy map[string]any
		want   []time.Duration
	}{
		"the platform's": {nil, []time.Duration{5 * time.Minute, 10 * time.Minute}},
		"none":           {map[string]any{"type": "none"}, nil},
		"fixed":          {map[string]any{"type": "fixed", "count": 2.0, "interval": "PT1M"}, []time.Duration{time.Minute, time.Minute}},
		"exponential": {
			map[string]any{"type": "exponential", "count": 4.0, "interval": "PT20S", "minimumInterval": "PT30S", "maximumInterval": "PT1M"},
			[]time.Duration{30 * time.Second, 40 * time.Second, time.Minute, time.Minute},
		},
	} {
		if got, err := retryDelays(test.policy); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, test.want)
		}
	}
	for _, policy := range []map[string]any{{}, {"type": "fixed", "interval": "PT1M"}, {"type": "fixed", "count": 2.0}, {"type": "linear", "count": 2.0, "interval": "PT1M"}, {"type": "fixed", "count": 2.0, "interval": "soon"}} {
		if got, err := retryDelays(policy); err == nil {
			t.Errorf("%v: %v", policy, got)
		}
	}
}

// A skipped branch ends as the action before it. The platform counts such a flow as failed, and switches flows off that fail for
// two weeks.
func TestEnds(t *testing.T) {
	fails := Action{Type: "OpenApiConnection", Inputs: map[string]any{"host": map[string]any{"operationId": "x"}, "parameters": map[string]any{}}}
	after := func(name string, statuses ...string) Action {
		return Action{Type: "Compose", Inputs: "x", RunAfter: map[string][]string{name: statuses}}
	}
	for name, test := range map[string]struct {
		actions map[string]Action
		want    string
		last    string // the end of Last
	}{
		"not looked after":         {map[string]Action{"Try": fails}, Failed, ""},
		"looked after":             {map[string]Action{"Try": fails, "Last": after("Try", Failed, TimedOut)}, Succeeded, Succeeded},
		"another branch left over": {map[string]Action{"Try": fails, "Last": after("Try", Failed), "Good": after("Try", Succeeded)}, Failed, Succeeded},
		"nothing to look after":    {map[string]Action{"Try": {Type: "Compose", Inputs: "x"}, "Last": after("Try", Failed)}, Succeeded, Skipped},
		"inside a scope":           {map[string]Action{"Scope": {Type: "Scope", Actions: map[string]Action{"Try": fails}}, "Last": after("Scope", Failed)}, Succeeded, Succeeded},
	} {
		h := &Host{Connect: func(string, map[string]any) (any, error) { return nil, errEnded }}
		run, err := h.Run(t.Context(), &Flow{Definition: Definition{Actions: test.actions}}, nil)
		if err != nil || run.Status != test.want || run.Ends["Last"] != test.last {
			t.Errorf("%s: %+v (%v), want %s", name, run, err, test.want)
		}
	}
	h := &Host{}
	if run, err := h.Run(t.Context(), &Flow{Definition: Definition{Actions: map[string]Action{"A": after("B", Succeeded), "B": after("A", Succeeded)}}}, nil); err == nil {
		t.Errorf("a circle ended as %+v", run)
	}
}
