package flow

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"autopilot-unassign/internal/guid"
)

// Call is a function call in an expression. Literals holds its literal strings, and "" for other arguments.
type Call struct {
	Function string
	Literals []string
}

// fault is an error in an expression. Reading and evaluating one panics with it.
type fault struct{ error }

func failf(format string, args ...any) { panic(fault{fmt.Errorf(format, args...)}) }

// catchFault calls f and returns its fault.
func catchFault(f func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case fault:
			err = p.error
		default:
			panic(p)
		}
	}()
	f()
	return nil
}

// expression is a part of a definition that was read.
type expression struct {
	value   func(e *environment) any
	literal string // of a literal string
	calls   []Call
}

func newLiteral(v any) expression {
	s, _ := v.(string)
	return expression{value: func(*environment) any { return v }, literal: s}
}

// asText returns v as a string: empty for null, JSON for other values.
func asText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	encoded, _ := json.Marshal(v) //nolint:errchkjson // what came from JSON
	return string(encoded)
}

// parseText reads a string of a definition: an expression, a text with expressions in it, or plain text.
func parseText(s string) expression {
	if known, ok := parsed.Load(s); ok {
		return known.(expression)
	}
	var x expression
	if err := catchFault(func() { x = parseWhole(s) }); err != nil {
		failf("%s: %w", s, err)
	}
	parsed.Store(s, x)
	return x
}

var parsed sync.Map //nolint:gochecknoglobals // a cache

func parseWhole(s string) expression {
	if strings.HasPrefix(s, "@@") {
		return newLiteral(s[1:])
	}
	if strings.HasPrefix(s, "@") && !strings.HasPrefix(s, "@{") {
		p := &parser{rest: s[1:]}
		x := p.parseExpression()
		if p.rest != "" {
			failf("%q is left over", p.rest)
		}
		x.calls = p.calls
		return x
	}
	p := &parser{}
	before, rest, found := strings.Cut(s, "@{")
	if !found {
		return newLiteral(s)
	}
	parts := []expression{newLiteral(before)}
	for found {
		p.rest = rest
		parts = append(parts, p.parseExpression())
		p.takeText("}")
		before, rest, found = strings.Cut(p.rest, "@{")
		parts = append(parts, newLiteral(before))
	}
	return expression{calls: p.calls, value: func(e *environment) any {
		var b strings.Builder
		for _, part := range parts {
			b.WriteString(asText(part.value(e)))
		}
		return b.String()
	}}
}

// parser reads expressions, and collects their calls: the arguments' before their function's.
type parser struct {
	rest  string
	calls []Call
}

func (p *parser) tryText(s string) (found bool) {
	p.rest, found = strings.CutPrefix(strings.TrimLeft(p.rest, " "), s)
	return found
}

func (p *parser) takeText(s string) {
	if !p.tryText(s) {
		failf("want %q at %q", s, p.rest)
	}
}

func (p *parser) parseExpression() expression {
	x := p.parseOperand()
	for {
		absent := p.tryText("?")
		if !p.tryText("[") {
			if absent {
				failf("want [ at %q", p.rest)
			}
			return x
		}
		of, key := x.value, p.parseExpression().value
		p.takeText("]")
		x = expression{value: func(e *environment) any { return memberOf(of(e), key(e), absent) }}
	}
}

// memberOf returns a member of an object or a list. Where it is missing, it is null if it may be absent.
func memberOf(of, key any, absent bool) any {
	switch of := of.(type) {
	case map[string]any:
		if v, ok := of[fmt.Sprint(key)]; ok || absent {
			return v
		}
	case []any:
		if i, ok := key.(float64); ok && i >= 0 && int(i) < len(of) {
			return of[int(i)]
		}
	case nil:
		if absent {
			return nil
		}
	}
	failf("there is no %v in a %T", key, of)
	return nil
}

func (p *parser) parseOperand() expression {
	if p.tryText("'") {
		var b strings.Builder
		for {
			before, after, found := strings.Cut(p.rest, "'")
			if !found {
				failf("no end of '%s", p.rest)
			}
			b.WriteString(before)
			p.rest = after
			if !strings.HasPrefix(after, "'") {
				return newLiteral(b.String())
			}
			b.WriteString("'")
			p.rest = after[1:]
		}
	}
	after := strings.TrimLeft(p.rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
	word := p.rest[:len(p.rest)-len(after)]
	p.rest = after
	if p.tryText("(") {
		return p.parseCall(word)
	}
	switch word {
	case "true", "false":
		return newLiteral(word == "true")
	case "null":
		return newLiteral(nil)
	}
	number, err := strconv.ParseFloat(word, 64)
	if err != nil {
		failf("%q is no value", word)
	}
	return newLiteral(number)
}

// parseCall reads the arguments of a call.
func (p *parser) parseCall(function string) expression {
	found := Call{Function: function}
	var args []expression
	for !p.tryText(")") {
		if len(args) > 0 {
			p.takeText(",")
		}
		arg := p.parseExpression()
		args, found.Literals = append(args, arg), append(found.Literals, arg.literal)
	}
	named := !slices.Contains([]string{"item", "triggerBody", "workflow", "guid"}, function)
	switch look := contextual[function]; {
	case look != nil && named != (len(args) == 1), look != nil && len(args) > 1:
		failf("%s has %d arguments", function, len(args))
	case look == nil && functions[function] == nil:
		failf("there is no function %s here", function)
	}
	p.calls = append(p.calls, found)
	return expression{value: func(e *environment) any {
		values := make([]any, len(args))
		for i, arg := range args {
			values[i] = arg.value(e)
		}
		if look := contextual[function]; look != nil {
			return look(e, asText(append(values, nil)[0]))
		}
		return functions[function](values)
	}}
}

// contextual holds the functions that look at the run. Some have the name of an action or a variable.
var contextual = map[string]func(e *environment, name string) any{ //nolint:gochecknoglobals // a table
	"outputs": func(e *environment, name string) any {
		if composed, ok := e.outputs[name][""]; ok {
			return composed
		}
		if e.outputs[name] == nil {
			return nil
		}
		return e.outputs[name]
	},
	"body":        func(e *environment, name string) any { return e.outputs[name]["body"] },
	"items":       func(e *environment, name string) any { return e.items[name] },
	"item":        func(e *environment, _ string) any { return e.item },
	"variables":   func(e *environment, name string) any { return e.variables[name] },
	"parameters":  func(*environment, string) any { return nil }, // the connections, which nothing looks at
	"triggerBody": func(e *environment, _ string) any { return e.trigger },
	"workflow": func(e *environment, _ string) any {
		return map[string]any{"run": map[string]any{"name": e.run.ID}}
	},
	"guid": func(*environment, string) any { return guid.New().String() },
}

// functions holds the other functions that the flows use.
var functions = map[string]func(args []any) any{ //nolint:gochecknoglobals // a table
	"string": func(a []any) any { return asText(a[0]) },
	"empty":  func(a []any) any { return sizeOf(a[0]) == 0 },
	"length": func(a []any) any { return float64(sizeOf(a[0])) },
	"equals": func(a []any) any { return reflect.DeepEqual(a[0], a[1]) },
	"not":    func(a []any) any { return a[0] != true },
	"or":     func(a []any) any { return slices.Contains(a, any(true)) },
	"and":    func(a []any) any { return !slices.ContainsFunc(a, func(v any) bool { return v != true }) },

	"createArray": func(a []any) any { return a },
	"concat": func(a []any) any {
		var b strings.Builder
		for _, v := range a {
			b.WriteString(asText(v))
		}
		return b.String()
	},
	"trim":    func(a []any) any { return strings.TrimSpace(arg[string](a, 0)) },
	"toLower": func(a []any) any { return strings.ToLower(arg[string](a, 0)) },
	"startsWith": func(a []any) any {
		return strings.HasPrefix(strings.ToLower(arg[string](a, 0)), strings.ToLower(arg[string](a, 1)))
	},
	"replace": func(a []any) any {
		return strings.ReplaceAll(arg[string](a, 0), arg[string](a, 1), arg[string](a, 2))
	},
	"uriComponent": func(a []any) any {
		return strings.ReplaceAll(url.QueryEscape(arg[string](a, 0)), "+", "%20")
	},
	"decodeUriComponent": func(a []any) any {
		s, err := url.PathUnescape(asText(a[0]))
		if err != nil {
			panic(fault{err})
		}
		return s
	},
	"contains": func(a []any) any {
		if s, ok := a[0].(string); ok {
			return strings.Contains(s, asText(a[1]))
		}
		return slices.Contains(arg[[]any](a, 0), a[1])
	},
	"take": func(a []any) any {
		n := int(arg[float64](a, 1))
		if s, ok := a[0].(string); ok {
			return string([]rune(s)[:min(n, len([]rune(s)))])
		}
		list := arg[[]any](a, 0)
		return list[:min(n, len(list))]
	},
	"last": func(a []any) any {
		list := append([]any{nil}, arg[[]any](a, 0)...)
		return list[len(list)-1]
	},
	"range": func(a []any) any {
		from, n := arg[float64](a, 0), arg[float64](a, 1)
		if n < 1 {
			failf("no range of %v from %v", n, from)
		}
		list := make([]any, int(n))
		for i := range list {
			list[i] = from + float64(i)
		}
		return list
	},
	"lessOrEquals": func(a []any) any { return arg[float64](a, 0) <= arg[float64](a, 1) },
	"sub":          func(a []any) any { return arg[float64](a, 0) - arg[float64](a, 1) },
	"coalesce": func(a []any) any {
		for _, v := range a {
			if v != nil {
				return v
			}
		}
		return nil
	},
	"if": func(a []any) any {
		if a[0] == true {
			return a[1]
		}
		return a[2]
	},
	"json": func(a []any) (v any) {
		if err := json.Unmarshal([]byte(asText(a[0])), &v); err != nil {
			panic(fault{err})
		}
		return v
	},
	"setProperty": func(a []any) any {
		changed := maps.Clone(arg[map[string]any](a, 0))
		changed[asText(a[1])] = a[2]
		return changed
	},
	"chunk": func(a []any) any {
		chunks := []any{}
		for chunk := range slices.Chunk(arg[[]any](a, 0), int(arg[float64](a, 1))) {
			chunks = append(chunks, chunk)
		}
		return chunks
	},
	"union": func(a []any) any {
		united, known := []any{}, map[string]bool{}
		for i := range a {
			for _, v := range arg[[]any](a, i) {
				if key := asText([]any{v}); !known[key] {
					known[key], united = true, append(united, v)
				}
			}
		}
		return united
	},
}

// arg returns an argument of a type. Null is another type, as it is there.
func arg[T any](args []any, i int) T {
	v, ok := args[i].(T)
	if !ok {
		failf("%T is no %T", args[i], v)
	}
	return v
}

func sizeOf(v any) int {
	switch of := reflect.ValueOf(v); of.Kind() {
	case reflect.Invalid:
		return 0
	case reflect.String, reflect.Slice, reflect.Map:
		return of.Len()
	}
	failf("%T has no length", v)
	return 0
}
