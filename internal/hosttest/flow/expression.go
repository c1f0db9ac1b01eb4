package flow

import (
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Call is a function call in an expression. Literals holds its literal strings, and "" for other arguments.
type Call struct {
	Function string
	Literals []string
}

// node is a part of an expression.
type node interface {
	valueIn(e *environment) (any, error)
	addCalls(found []Call) []Call
}

type (
	literal struct{ of any }
	call    struct {
		function string
		args     []node
	}
	member struct {
		of, key node
		absent  bool // ?[…]: null where the member is missing
	}
	text []node // "a @{b} c"
)

func (l literal) valueIn(*environment) (any, error) { return l.of, nil }
func (literal) addCalls(found []Call) []Call        { return found }

func (c call) addCalls(found []Call) []Call {
	this := Call{Function: c.function}
	for _, arg := range c.args {
		word, _ := arg.(literal)
		s, _ := word.of.(string)
		this.Literals = append(this.Literals, s)
		found = arg.addCalls(found)
	}
	return append(found, this)
}

func (c call) valueIn(e *environment) (any, error) {
	args := make([]any, len(c.args))
	for i, arg := range c.args {
		var err error
		if args[i], err = arg.valueIn(e); err != nil {
			return nil, err
		}
	}
	v, err := e.callFunction(c.function, args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.function, err)
	}
	return v, nil
}

func (m member) addCalls(found []Call) []Call { return m.key.addCalls(m.of.addCalls(found)) }

func (m member) valueIn(e *environment) (any, error) {
	of, err := m.of.valueIn(e)
	if err != nil {
		return nil, err
	}
	key, err := m.key.valueIn(e)
	if err != nil {
		return nil, err
	}
	switch of := of.(type) {
	case map[string]any:
		if v, ok := of[fmt.Sprint(key)]; ok || m.absent {
			return v, nil
		}
	case []any:
		if i, ok := key.(float64); ok && i >= 0 && int(i) < len(of) {
			return of[int(i)], nil
		}
	}
	if of == nil && m.absent {
		return nil, nil //nolint:nilnil // null is the value
	}
	return nil, fmt.Errorf("there is no %v in a %T", key, of)
}

func (t text) addCalls(found []Call) []Call {
	for _, part := range t {
		found = part.addCalls(found)
	}
	return found
}

func (t text) valueIn(e *environment) (any, error) {
	var b strings.Builder
	for _, part := range t {
		v, err := part.valueIn(e)
		if err != nil {
			return nil, err
		}
		b.WriteString(asText(v))
	}
	return b.String(), nil
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
func parseText(s string) (node, error) {
	if known, ok := parsed.Load(s); ok {
		return known.(node), nil
	}
	n, err := parseWhole(s)
	if err == nil {
		parsed.Store(s, n)
	}
	return n, err
}

var parsed sync.Map //nolint:gochecknoglobals // a cache

func parseWhole(s string) (node, error) {
	if strings.HasPrefix(s, "@@") {
		return literal{s[1:]}, nil
	}
	if strings.HasPrefix(s, "@") && !strings.HasPrefix(s, "@{") {
		p := &parser{rest: s[1:]}
		n, err := p.parseExpression()
		if err == nil && p.rest != "" {
			err = fmt.Errorf("%q is left over", p.rest)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		return n, nil
	}
	var t text
	for rest := s; ; {
		before, after, found := strings.Cut(rest, "@{")
		t = append(t, literal{before})
		if !found {
			break
		}
		p := &parser{rest: after}
		n, err := p.parseExpression()
		if err == nil {
			err = p.takeText("}")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		t, rest = append(t, n), p.rest
	}
	if len(t) == 1 {
		return t[0], nil
	}
	return t, nil
}

type parser struct{ rest string }

func (p *parser) takeText(s string) error {
	p.rest = strings.TrimLeft(p.rest, " ")
	if !strings.HasPrefix(p.rest, s) {
		return fmt.Errorf("want %q at %q", s, p.rest)
	}
	p.rest = p.rest[len(s):]
	return nil
}

func (p *parser) tryText(s string) bool { return p.takeText(s) == nil }

func (p *parser) takeWord() string {
	end := strings.IndexFunc(p.rest, func(c rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-", c)
	})
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word
}

func (p *parser) parseExpression() (node, error) {
	n, err := p.parseOperand()
	for err == nil {
		absent := p.tryText("?")
		if !p.tryText("[") {
			if absent {
				err = fmt.Errorf("want [ at %q", p.rest)
			}
			return n, err
		}
		var key node
		if key, err = p.parseExpression(); err == nil {
			n, err = member{n, key, absent}, p.takeText("]")
		}
	}
	return nil, err
}

func (p *parser) parseOperand() (node, error) {
	if p.tryText("'") {
		var b strings.Builder
		for {
			before, after, found := strings.Cut(p.rest, "'")
			if !found {
				return nil, fmt.Errorf("no end of '%s", p.rest)
			}
			b.WriteString(before)
			p.rest = after
			if !strings.HasPrefix(after, "'") {
				return literal{b.String()}, nil
			}
			b.WriteString("'")
			p.rest = after[1:]
		}
	}
	word := p.takeWord()
	if !p.tryText("(") {
		switch word {
		case "true", "false":
			return literal{word == "true"}, nil
		case "null":
			return literal{nil}, nil
		}
		number, err := strconv.ParseFloat(word, 64)
		return literal{number}, err
	}
	c := call{function: word}
	for !p.tryText(")") {
		if len(c.args) > 0 {
			if err := p.takeText(","); err != nil {
				return nil, err
			}
		}
		arg, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		c.args = append(c.args, arg)
	}
	if functions[word] == nil && contextual[word] == 0 {
		return nil, fmt.Errorf("there is no function %s here", word)
	}
	return c, nil
}

// contextual holds the functions that look at the run, with the number of their arguments plus one.
var contextual = map[string]int{ //nolint:gochecknoglobals // a table
	"body": 2, "outputs": 2, "items": 2, "variables": 2, "parameters": 2, "item": 1, "triggerBody": 1,
	"workflow": 1, "guid": 1,
}

// functions holds the other functions that the flows use.
var functions = map[string]func(args []any) (any, error){ //nolint:gochecknoglobals // a table
	"string": func(a []any) (any, error) { return asText(a[0]), nil },
	"empty":  func(a []any) (any, error) { n, err := sizeOf(a[0]); return n == 0, err },
	"length": func(a []any) (any, error) { n, err := sizeOf(a[0]); return float64(n), err },
	"equals": func(a []any) (any, error) { return reflect.DeepEqual(a[0], a[1]), nil },
	"not":    func(a []any) (any, error) { return a[0] != true, nil },
	"or":     func(a []any) (any, error) { return slices.Contains(a, any(true)), nil },
	"and": func(a []any) (any, error) {
		return !slices.ContainsFunc(a, func(v any) bool { return v != true }), nil
	},
	"createArray": func(a []any) (any, error) { return a, nil },
	"concat": func(a []any) (any, error) {
		var b strings.Builder
		for _, v := range a {
			b.WriteString(asText(v))
		}
		return b.String(), nil
	},
	"trim":    onText(func(a []string) any { return strings.TrimSpace(a[0]) }),
	"toLower": onText(func(a []string) any { return strings.ToLower(a[0]) }),
	"startsWith": onText(func(a []string) any {
		return strings.HasPrefix(strings.ToLower(a[0]), strings.ToLower(a[1]))
	}),
	"replace": onText(func(a []string) any { return strings.ReplaceAll(a[0], a[1], a[2]) }),
	"uriComponent": onText(func(a []string) any {
		return strings.ReplaceAll(url.QueryEscape(a[0]), "+", "%20")
	}),
	"decodeUriComponent": func(a []any) (any, error) { return url.PathUnescape(asText(a[0])) },
	"contains": func(a []any) (any, error) {
		switch of := a[0].(type) {
		case string:
			return strings.Contains(of, asText(a[1])), nil
		case []any:
			return slices.Contains(of, a[1]), nil
		}
		return nil, fmt.Errorf("%T contains nothing", a[0])
	},
	"take": func(a []any) (any, error) {
		n, _ := a[1].(float64)
		switch of := a[0].(type) {
		case string:
			return string([]rune(of)[:min(int(n), len([]rune(of)))]), nil
		case []any:
			return of[:min(int(n), len(of))], nil
		}
		return nil, fmt.Errorf("%T has no first elements", a[0])
	},
	"last": func(a []any) (any, error) {
		list, ok := a[0].([]any)
		if !ok {
			return nil, fmt.Errorf("%T has no last element", a[0])
		}
		if len(list) == 0 {
			return nil, nil //nolint:nilnil // null is the value
		}
		return list[len(list)-1], nil
	},
	"range": func(a []any) (any, error) {
		from, isFrom := a[0].(float64)
		n, isNumber := a[1].(float64)
		if !isFrom || !isNumber || n < 1 {
			return nil, fmt.Errorf("no range of %v from %v", a[1], a[0])
		}
		list := make([]any, int(n))
		for i := range list {
			list[i] = from + float64(i)
		}
		return list, nil
	},
	"lessOrEquals": func(a []any) (any, error) {
		x, isX := a[0].(float64)
		y, isY := a[1].(float64)
		if !isX || !isY {
			return nil, fmt.Errorf("%T and %T are no numbers", a[0], a[1])
		}
		return x <= y, nil
	},
	"coalesce": func(a []any) (any, error) {
		for _, v := range a {
			if v != nil {
				return v, nil
			}
		}
		return nil, nil //nolint:nilnil // null is the value
	},
	"if": func(a []any) (any, error) {
		if a[0] == true {
			return a[1], nil
		}
		return a[2], nil
	},
	"json": func(a []any) (v any, err error) {
		err = json.Unmarshal([]byte(asText(a[0])), &v)
		return v, err
	},
	"setProperty": func(a []any) (any, error) {
		object, ok := a[0].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%T is no object", a[0])
		}
		changed := map[string]any{asText(a[1]): a[2]}
		for k, v := range object {
			if k != a[1] {
				changed[k] = v
			}
		}
		return changed, nil
	},
	"sub": func(a []any) (any, error) {
		x, isX := a[0].(float64)
		y, isY := a[1].(float64)
		if !isX || !isY {
			return nil, fmt.Errorf("%T and %T are no numbers", a[0], a[1])
		}
		return x - y, nil
	},
	"chunk": func(a []any) (any, error) {
		list, isList := a[0].([]any)
		n, isNumber := a[1].(float64)
		if !isList || !isNumber {
			return nil, fmt.Errorf("%T and %T are no list and no number", a[0], a[1])
		}
		chunks := []any{}
		for len(list) > 0 {
			first := list[:min(int(n), len(list))]
			chunks, list = append(chunks, first), list[len(first):]
		}
		return chunks, nil
	},
	"union": func(a []any) (any, error) {
		united, known := []any{}, map[string]bool{}
		for _, arg := range a {
			list, ok := arg.([]any)
			if !ok {
				return nil, fmt.Errorf("%T is no list", arg)
			}
			for _, v := range list {
				encoded, err := json.Marshal(v)
				if err != nil {
					return nil, err
				}
				if !known[string(encoded)] {
					known[string(encoded)], united = true, append(united, v)
				}
			}
		}
		return united, nil
	},
}

// onText returns a function of strings. Null is an error, as it is there.
func onText(f func(args []string) any) func([]any) (any, error) {
	return func(args []any) (any, error) {
		texts := make([]string, len(args))
		for i, arg := range args {
			text, ok := arg.(string)
			if !ok {
				return nil, fmt.Errorf("%T is no string", arg)
			}
			texts[i] = text
		}
		return f(texts), nil
	}
}

func sizeOf(v any) (int, error) {
	switch v := v.(type) {
	case nil:
		return 0, nil
	case string:
		return len(v), nil
	case []any:
		return len(v), nil
	case map[string]any:
		return len(v), nil
	}
	return 0, fmt.Errorf("%T has no length", v)
}
