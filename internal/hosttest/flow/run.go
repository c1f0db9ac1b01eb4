package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/internal/guid"
)

// The ends of an action.
const (
	Succeeded = "Succeeded"
	Failed    = "Failed"
	TimedOut  = "TimedOut"
	Skipped   = "Skipped"
)

// Host runs flows.
type Host struct {
	// Client sends the requests of HTTP actions.
	Client *http.Client
	// Connect carries out an operation of a connector, and returns the body of its response.
	Connect func(operation string, parameters map[string]any) (any, error)
	// Wait is called with the delay before a retry, instead of waiting.
	Wait func(time.Duration)
	// Policy replaces the retry policies of the flow, if it is set.
	Policy map[string]any
	// Plain ignores the flow's retry policies and Policy: the platform's default policy applies.
	Plain bool
	// Twice sends every request of an HTTP action two times at once, as the platform sometimes does without any
	// retry. The first response is the action's.
	Twice bool
}

// Run is the history of one run of a flow.
type Run struct {
	ID            string
	Status        string
	Code, Message string            // of the Terminate action, if it ended the run
	Ends          map[string]string // how its actions ended, by name; in a loop, the last time
	Faults        []string          // errors in expressions; each failed its action
	Sent          []*http.Request   // by HTTP actions, without their bodies
	Bodies        []string          // those
}

// The workflow of all flows, as captures show such names.
const workflowID, workflowVersion = "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "08584542217612634418"

// environment holds the values that expressions read.
type environment struct {
	host      *Host
	run       *Run
	trigger   any
	outputs   map[string]map[string]any
	variables map[string]any
	items     map[string]any
	item      any
}

// errEnded reports that a Terminate action ended the run.
var errEnded = errors.New("the flow ended itself")

// Run runs a flow with the body of its trigger. An error reports a definition that the double does not know.
func (h *Host) Run(ctx context.Context, f *Flow, trigger map[string]any) (*Run, error) {
	id := "085" + strings.ReplaceAll(guid.New().String(), "-", "")[:25] + "CU01"
	e := &environment{
		host: h, run: &Run{ID: id, Ends: map[string]string{}}, trigger: trigger,
		outputs: map[string]map[string]any{}, variables: map[string]any{}, items: map[string]any{},
	}
	status, err := e.runAll(ctx, f.Definition.Actions)
	e.run.Status = status
	if errors.Is(err, errEnded) {
		e.run.Status, err = Failed, nil
	}
	return e.run, err
}

// runAll runs actions in the order of runAfter. It returns how the last ones ended; for a skipped one, how the action
// before it did.
func (e *environment) runAll(ctx context.Context, actions map[string]Action) (string, error) {
	ends := map[string]string{}
	for len(ends) < len(actions) {
		before := len(ends)
		for _, name := range slices.Sorted(maps.Keys(actions)) {
			if _, done := ends[name]; done {
				continue
			}
			ready, wanted := true, true
			for other, statuses := range actions[name].RunAfter {
				end, done := ends[other]
				ready, wanted = ready && done, wanted && slices.Contains(statuses, end)
			}
			if !ready {
				continue
			}
			end := Skipped
			if wanted {
				var err error
				if end, err = e.runOne(ctx, name, actions[name]); err != nil {
					return Failed, err
				}
			}
			ends[name], e.run.Ends[name] = end, end
		}
		if len(ends) == before {
			return Failed, fmt.Errorf("of %v none can begin", slices.Sorted(maps.Keys(actions)))
		}
	}
	followed := map[string]bool{}
	for _, action := range actions {
		for other := range action.RunAfter {
			followed[other] = true
		}
	}
	var decisive func(name string) string
	decisive = func(name string) string {
		if ends[name] != Skipped {
			return ends[name]
		}
		for other := range actions[name].RunAfter {
			if end := decisive(other); end != Succeeded {
				return end
			}
		}
		return Succeeded
	}
	for name := range actions {
		if end := decisive(name); !followed[name] && end != Succeeded {
			return end, nil
		}
	}
	return Succeeded, nil
}

// runOne runs an action and returns how it ended. A fault in an expression fails it, and the run goes on.
func (e *environment) runOne(ctx context.Context, name string, a Action) (end string, err error) {
	if faulty := catchFault(func() { end, err = e.runAction(ctx, name, a) }); faulty != nil {
		e.run.Faults = append(e.run.Faults, fmt.Sprintf("%s: %v", name, faulty))
		e.outputs[name] = nil
		return Failed, nil
	}
	return end, err
}

func (e *environment) runAction(ctx context.Context, name string, a Action) (string, error) {
	switch a.Type {
	case "Scope":
		return e.runAll(ctx, a.Actions)
	case "If":
		return e.runIf(ctx, name, a)
	case "Foreach":
		return e.runForeach(ctx, name, a)
	case "Until":
		return e.runUntil(ctx, a)
	case "Select", "Query", "Table":
		e.outputs[name] = map[string]any{"body": e.runData(a.Type, a.Inputs.(map[string]any))}
		return Succeeded, nil
	}
	value := e.valueOf(a.Inputs)
	inputs, _ := value.(map[string]any)
	switch a.Type {
	case "Compose":
		e.outputs[name] = map[string]any{"": value}
	case "InitializeVariable":
		for _, v := range inputs["variables"].([]any) {
			e.variables[v.(map[string]any)["name"].(string)] = v.(map[string]any)["value"]
		}
	case "SetVariable":
		e.variables[inputs["name"].(string)] = inputs["value"]
	case "Terminate":
		failure := inputs["runError"].(map[string]any)
		e.run.Code, e.run.Message = asText(failure["code"]), asText(failure["message"])
		return Failed, errEnded
	case "OpenApiConnection", "OpenApiConnectionWebhook":
		operation := inputs["host"].(map[string]any)["operationId"].(string)
		body, err := e.host.Connect(operation, inputs["parameters"].(map[string]any))
		e.outputs[name] = map[string]any{"body": body}
		if err != nil {
			return Failed, nil //nolint:nilerr // the action's, which the flow may look after
		}
	case "Http":
		return e.runHTTP(ctx, name, inputs)
	default:
		return Failed, fmt.Errorf("%s: there is no action of the type %s here", name, a.Type)
	}
	return Succeeded, nil
}

func (e *environment) runIf(ctx context.Context, name string, a Action) (string, error) {
	condition, _ := a.Expression.(map[string]any)
	sides, ok := condition["equals"].([]any)
	if !ok || len(sides) != 2 {
		return Failed, fmt.Errorf("%s: there is no condition %v here", name, a.Expression)
	}
	pair := e.valueOf(sides).([]any)
	branch, other := a.Actions, map[string]Action{}
	if a.Else != nil {
		other = a.Else.Actions
	}
	if pair[0] != pair[1] {
		branch, other = other, branch
	}
	for name := range other {
		e.run.Ends[name] = Skipped
	}
	return e.runAll(ctx, branch)
}

func (e *environment) runUntil(ctx context.Context, a Action) (string, error) {
	count, _ := a.Limit["count"].(float64)
	for range int(count) {
		end, err := e.runAll(ctx, a.Actions)
		if err != nil || e.valueOf(a.Expression) == true {
			return end, err
		}
	}
	return Succeeded, nil
}

func (e *environment) runForeach(ctx context.Context, name string, a Action) (string, error) {
	status := Succeeded
	for _, item := range arg[[]any]([]any{e.valueOf(a.Foreach)}, 0) {
		e.items[name] = item
		end, err := e.runAll(ctx, a.Actions)
		if err != nil {
			return Failed, err
		}
		if end != Succeeded {
			status = end
		}
	}
	delete(e.items, name)
	return status, nil
}

// runData carries out a data operation on a list.
func (e *environment) runData(kind string, inputs map[string]any) any {
	from := arg[[]any]([]any{e.valueOf(inputs["from"])}, 0)
	defer func() { e.item = nil }()
	result, table := []any{}, "<table>"
	for _, e.item = range from {
		switch kind {
		case "Select":
			result = append(result, e.valueOf(inputs["select"]))
		case "Query":
			if e.valueOf(inputs["where"]) == true {
				result = append(result, e.item)
			}
		case "Table":
			table += "<tr>"
			for _, column := range inputs["columns"].([]any) {
				cell := e.valueOf(column.(map[string]any)["value"])
				table += "<td>" + html.EscapeString(asText(cell)) + "</td>"
			}
			table += "</tr>"
		}
	}
	if kind == "Table" {
		return table + "</table>"
	}
	return result
}

// runHTTP sends the request of an HTTP action, retries it by its policy, and returns how the action ended.
func (e *environment) runHTTP(ctx context.Context, name string, inputs map[string]any) (string, error) {
	policy, _ := inputs["retryPolicy"].(map[string]any)
	if e.host.Policy != nil {
		policy = e.host.Policy
	}
	if e.host.Plain {
		policy = nil
	}
	waits, err := retryDelays(policy)
	if err != nil {
		return Failed, fmt.Errorf("%s: %w", name, err)
	}
	action := guid.New().String()
	for try := 0; ; try++ {
		answer, err := e.sendOnce(ctx, name, action, inputs)
		if err != nil && ctx.Err() != nil {
			return Failed, err
		}
		e.outputs[name] = answer
		status, _ := answer["statusCode"].(float64)
		switch {
		case status >= 200 && status < 300:
			return Succeeded, nil
		case err == nil && status != 408 && status != 429 && status < 500, try == len(waits):
			return Failed, nil
		}
		e.host.Wait(waits[try])
	}
}

// sendOnce sends a request once, or twice at once, with the headers that the platform adds.
func (e *environment) sendOnce(
	ctx context.Context, name, action string, inputs map[string]any,
) (map[string]any, error) {
	body, err := json.Marshal(inputs["body"])
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, asText(inputs["method"]), asText(inputs["uri"]), nil)
	if err != nil {
		return nil, err
	}
	tracking := guid.New().String()
	for key, value := range map[string]string{
		"User-Agent":       "azure-logic-apps/1.0,(workflow " + workflowID + "; version " + workflowVersion + ")",
		"Accept-Language":  "en",
		"X-Ms-Workflow-Id": workflowID, "X-Ms-Workflow-Version": workflowVersion,
		"X-Ms-Workflow-Run-Id":          e.run.ID,
		"X-Ms-Workflow-Run-Tracking-Id": guid.New().String(), "X-Ms-Workflow-Operation-Name": name,
		"X-Ms-Execution-Location": "westeurope",
		"X-Ms-Tracking-Id":        tracking, "X-Ms-Correlation-Id": tracking, "X-Ms-Client-Request-Id": tracking,
		"X-Ms-Client-Tracking-Id": e.run.ID, "X-Ms-Action-Tracking-Id": action,
		"X-Ms-Activity-Vector": "IN.01.IN.18.IN.03",
	} {
		r.Header.Set(key, value)
	}
	headers, _ := inputs["headers"].(map[string]any)
	for key, value := range headers {
		if !isDropped(key) {
			r.Header.Set(key, asText(value))
		}
	}
	times := 1
	if e.host.Twice {
		times = 2
	}
	type end struct {
		answer map[string]any
		err    error
	}
	ends := make(chan end, times)
	for range times {
		sent := r.Clone(ctx)
		sent.Body, sent.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		e.run.Sent, e.run.Bodies = append(e.run.Sent, r), append(e.run.Bodies, string(body))
		go func() {
			answer, err := outputsOf(e.host.Client, sent)
			ends <- end{answer, err}
		}()
	}
	first := <-ends
	for range times - 1 {
		<-ends
	}
	return first.answer, first.err
}

// isDropped reports whether the platform leaves a header of an HTTP action out.
func isDropped(key string) bool {
	key = strings.ToLower(key)
	kept := []string{"content-disposition", "content-encoding", "content-type"}
	content := strings.HasPrefix(key, "content-") && !slices.Contains(kept, key)
	return content || strings.HasPrefix(key, "accept-") || slices.Contains([]string{
		"allow", "cookie", "expires", "host", "last-modified", "origin", "set-cookie", "transfer-encoding",
	}, key)
}

// outputsOf sends r and returns the outputs of its action, or nil without a response.
func outputsOf(client *http.Client, r *http.Request) (map[string]any, error) {
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	headers := map[string]any{}
	for name := range resp.Header {
		headers[name] = resp.Header.Get(name)
	}
	outputs := map[string]any{"statusCode": float64(resp.StatusCode), "headers": headers}
	var body any
	switch kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); {
	case len(text) == 0:
	case kind == "application/json":
		if err := json.Unmarshal(text, &body); err != nil {
			return nil, err
		}
	case strings.HasPrefix(kind, "text/"):
		body = string(text)
	default:
		body = map[string]any{"$content-type": kind, "$content": text}
	}
	outputs["body"] = body
	return outputs, nil
}

// retryDelays returns the delays before the retries of a policy. Without one, the plan with the fewest and latest
// retries applies.
func retryDelays(policy map[string]any) ([]time.Duration, error) {
	if policy == nil {
		return []time.Duration{5 * time.Minute, 10 * time.Minute}, nil
	}
	kind := asText(policy["type"])
	if kind == "none" {
		return nil, nil
	}
	duration := func(key string, otherwise time.Duration) (time.Duration, error) {
		if policy[key] == nil {
			return otherwise, nil
		}
		return time.ParseDuration(strings.ToLower(strings.TrimPrefix(asText(policy[key]), "PT")))
	}
	interval, err := duration("interval", 0)
	least, errLeast := duration("minimumInterval", 5*time.Second)
	most, errMost := duration("maximumInterval", time.Hour)
	count, ok := policy["count"].(float64)
	known := kind == "fixed" || kind == "exponential"
	if err = errors.Join(err, errLeast, errMost); err != nil || !ok || interval <= 0 || !known {
		return nil, fmt.Errorf("the retry policy %v: %w", policy, errors.Join(err, errors.New("not of this host")))
	}
	waits := make([]time.Duration, int(count))
	for i := range waits {
		waits[i] = interval
		if kind == "exponential" {
			waits[i] = min(max(interval<<i, least), most)
		}
	}
	return waits, nil
}

// valueOf evaluates the expressions in a part of a definition.
func (e *environment) valueOf(v any) any {
	switch v := v.(type) {
	case string:
		return parseText(v).value(e)
	case []any:
		list := make([]any, len(v))
		for i, part := range v {
			list[i] = e.valueOf(part)
		}
		return list
	case map[string]any:
		object := map[string]any{}
		for key, part := range v {
			object[key] = e.valueOf(part)
		}
		return object
	}
	return v
}
