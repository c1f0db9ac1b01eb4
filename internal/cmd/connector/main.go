// Connector generates the definition of the Power Automate connector (Swagger 2.0) from handler/openapi.yaml:
//
//	go generate ./internal/cmd/connector
//
// The contract has one operation for one device and for a list, with or without a dry run. Makers get an operation
// for each, with the fields that it needs. Types, limits, words and descriptions are the contract's; titles are made
// from the names.
package main

//go:generate go run . ../../../handler/openapi.yaml ../../../infra/power-automate/connector/apiDefinition.swagger.json

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

//go:embed base.yaml
var baseYAML []byte

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "connector:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: connector OPENAPI SWAGGER")
	}
	contract, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	swagger, err := generate(contract)
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], swagger, 0o644) //nolint:gosec // no secret
}

// object is a JSON object whose members keep their order, which is the order of the fields that a maker sees.
type object []member

type member struct {
	name  string
	value any
}

// get returns the value at a path, or nil.
func (o object) get(path ...string) any {
	var v any = o
	for _, name := range path {
		inner, _ := v.(object)
		v = nil
		for _, m := range inner {
			if m.name == name {
				v = m.value
			}
		}
	}
	return v
}

func (o object) text(path ...string) string {
	s, _ := o.get(path...).(string)
	return s
}

func (o object) object(path ...string) object {
	inner, _ := o.get(path...).(object)
	return inner
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	var err error
	for i, m := range o {
		b.WriteByte("{,"[min(i, 1)])
		err = errors.Join(err, e.Encode(m.name))
		b.WriteByte(':')
		err = errors.Join(err, e.Encode(m.value))
	}
	if len(o) == 0 {
		b.WriteByte('{')
	}
	b.WriteByte('}')
	return b.Bytes(), err
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (o *object) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return errors.New("not an object")
	}
	for i := 0; i < len(n.Content); i += 2 {
		v, err := toValue(n.Content[i+1])
		if err != nil {
			return err
		}
		*o = append(*o, member{n.Content[i].Value, v})
	}
	return nil
}

// toValue returns a YAML node as a value whose objects keep their order.
func toValue(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.MappingNode:
		o := object{}
		err := n.Decode(&o)
		return o, err
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, part := range n.Content {
			var err error
			if list[i], err = toValue(part); err != nil {
				return nil, err
			}
		}
		return list, nil
	default:
		var v any
		err := n.Decode(&v)
		return v, err
	}
}

// generator turns schemas of the contract into definitions.
type generator struct {
	schemas     object
	definitions object
}

func generate(contract []byte) ([]byte, error) {
	var source, base object
	if err := errors.Join(yaml.Unmarshal(contract, &source), yaml.Unmarshal(baseYAML, &base)); err != nil {
		return nil, err
	}
	g := &generator{schemas: source.object("components", "schemas")}
	paths := object{}
	for _, operation := range base.object("operations") {
		o, _ := operation.value.(object)
		made, err := g.makeOperation(source, operation.name, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", operation.name, err)
		}
		paths = append(paths, member{o.text("path"), object{{o.text("method"), made}}})
	}
	swagger := object{}
	for _, m := range base {
		switch m.name {
		case "operations":
			swagger = append(swagger, member{"paths", paths}, member{"definitions", g.definitions})
		default:
			swagger = append(swagger, m)
		}
	}
	encoded, err := json.MarshalIndent(swagger, "", "  ")
	return append(encoded, '\n'), err
}

// makeOperation returns an operation of the connector. Its request and response are parts of the contract's.
func (g *generator) makeOperation(source object, id string, o object) (object, error) {
	route := source.object("paths", o.text("route"), o.text("method"))
	if route == nil {
		return nil, fmt.Errorf("the contract has no %s %s", o.text("method"), o.text("route"))
	}
	parameters := []any{}
	given, _ := route.get("parameters").([]any)
	for _, p := range given {
		parameters = append(parameters, makeHeader(p.(object)))
	}
	if name := o.text("request"); name != "" {
		if err := g.addDefinition(name, "Request", o); err != nil {
			return nil, err
		}
		parameters = append(parameters, object{
			{"name", "body"},
			{"in", "body"},
			{"required", true},
			{"x-ms-summary", "Request"},
			{"description", "The request."},
			{"schema", referTo(name)},
		})
	}
	responses := object{}
	for _, m := range route.object("responses") {
		r, _ := m.value.(object)
		success := m.name == "200" || m.name == "207" && o.get("list") == true
		if !success {
			continue
		}
		schema := lastPart(r.text("content", "application/json", "schema", "$ref"))
		name := o.text("response")
		if name == "" {
			name = schema
		}
		if err := g.addDefinition(name, schema, o); err != nil {
			return nil, err
		}
		responses = append(responses, member{
			m.name, object{{"description", toSentence(r.text("description"))}, {"schema", referTo(name)}},
		})
	}
	if err := g.addDefinition("Failure", "Failure", nil); err != nil {
		return nil, err
	}
	responses = append(responses, member{
		"default",
		object{{"description", toSentence(g.schemas.text("Failure", "description"))}, {"schema", referTo("Failure")}},
	})
	made := object{
		{"operationId", id},
		{"summary", o.get("summary")},
		{"description", o.get("description")},
		{"x-ms-visibility", o.get("visibility")},
		{"parameters", parameters},
		{"responses", responses},
	}
	if security, ok := route.get("security").([]any); ok {
		made = append(made, member{"security", security})
	}
	return made, nil
}

// makeHeader returns a header of the contract as a parameter. Prefer has the value that brings a body, and is hidden.
func makeHeader(p object) object {
	name := p.text("name")
	made := object{
		{"name", name},
		{"in", p.get("in")},
		{"type", p.get("schema", "type")},
		{"required", name == "Prefer"},
		{"x-ms-summary", toTitle(name)},
		{"description", toSentence(p.text("description"))},
	}
	if name == "Prefer" {
		return append(made, member{"x-ms-visibility", "internal"}, member{"default", "return=representation"})
	}
	return append(made, member{"x-ms-visibility", "advanced"}, member{"x-example", p.get("example")})
}

// addDefinition adds a definition that has a part of a schema's properties: those that o does not leave out. With o
// nil it has all.
func (g *generator) addDefinition(name, schema string, o object) error {
	if g.definitions.get(name) != nil {
		return nil
	}
	s := g.schemas.object(schema)
	if s == nil {
		return fmt.Errorf("the contract has no schema %s", schema)
	}
	for _, m := range s {
		if slices.Contains([]string{"oneOf", "anyOf", "allOf", "not", "nullable"}, m.name) {
			return fmt.Errorf("%s has %s, which a connector cannot have", schema, m.name)
		}
	}
	request := schema == "Request" || schema == "Device" || schema == "Expected"
	words, _ := o.get("without").([]any)
	without := func(property string) bool { return slices.Contains(words, any(property)) && name != schema }
	required, _ := s.get("required").([]any)
	properties, nested := object{}, []string{}
	for _, m := range s.object("properties") {
		if without(m.name) {
			continue
		}
		p, _ := m.value.(object)
		made, used := g.makeProperty(schema, m.name, p, request)
		if schema == "Request" && m.name == "dryRun" {
			made = slices.DeleteFunc(made, func(m member) bool { return m.name == "x-ms-visibility" })
			made = append(made, member{"x-ms-visibility", "internal"}, member{"default", true})
			required = append(required, "dryRun")
		}
		if schema == "Request" && m.name == "devices" {
			required = append(required, "devices")
		}
		if m.name == "serialNumber" && request { // most makers have it
			properties = append(object{{m.name, made}}, properties...)
		} else {
			properties = append(properties, member{m.name, made})
		}
		nested = append(nested, used...)
	}
	description := s.text("description")
	if o != nil && name != schema {
		description = o.text("about", schema)
	}
	made := object{{"type", "object"}, {"x-ms-summary", toTitle(name)}, {"description", toSentence(description)}}
	if request {
		made = append(made, member{"x-ms-visibility", "important"})
	}
	if len(required) > 0 {
		made = append(made, member{"required", required})
	}
	for _, key := range []string{"additionalProperties", "minProperties", "maxProperties"} {
		if v := s.get(key); v != nil {
			made = append(made, member{key, v})
		}
	}
	g.definitions = append(g.definitions, member{name, append(made, member{"properties", properties})})
	for _, other := range nested {
		if err := g.addDefinition(other, other, nil); err != nil {
			return err
		}
	}
	return nil
}

// important holds the fields that a maker sees first.
//
//nolint:gochecknoglobals // a table
var important = []string{"serialNumber", "deviceId", "devices", "userPrincipalName", "reference"}

// makeProperty returns a property of a definition, and the schemas that it names.
func (g *generator) makeProperty(schema, name string, p object, request bool) (object, []string) {
	if ref := lastPart(p.text("$ref")); ref != "" {
		return referTo(ref), []string{ref}
	}
	label := toTitle(name)
	if schema == "Expected" {
		label = "Expected " + label
	}
	made := object{
		{"type", p.get("type")},
		{"x-ms-summary", label},
		{"description", toSentence(g.descriptionOf(name, p, label))},
	}
	var used []string
	for _, m := range p {
		switch {
		case slices.Contains([]string{"type", "description", "example"}, m.name), strings.HasPrefix(m.name, "x-"):
		case m.name == "items":
			items := m.value.(object)
			if ref := lastPart(items.text("$ref")); ref != "" {
				items, used = referTo(ref), append(used, ref)
			}
			made = append(made, member{"items", items})
		default:
			made = append(made, m)
		}
	}
	if request {
		visibility := "advanced"
		if slices.Contains(important, name) {
			visibility = "important"
		}
		made = append(made, member{"x-ms-visibility", visibility})
		if name == "verify" {
			made = append(made, member{"default", false})
		}
	}
	if example := g.lookUp(name, p, "example"); example != nil {
		made = append(made, member{"example", example})
	}
	return made, used
}

// descriptionOf returns the description of a property, or the description that another schema has for its name.
func (g *generator) descriptionOf(name string, p object, label string) string {
	if s, _ := g.lookUp(name, p, "description").(string); len(s) > 4 {
		return s
	}
	return "The " + strings.ToLower(label[:1]) + label[1:]
}

func (g *generator) lookUp(name string, p object, key string) any {
	if v := p.get(key); v != nil {
		return v
	}
	for _, schema := range g.schemas {
		other := schema.value.(object).object("properties", name)
		if other.get("type") == p.get("type") && other.get(key) != nil {
			return other.get(key)
		}
	}
	return nil
}

func referTo(name string) object { return object{{"$ref", "#/definitions/" + name}} }

func lastPart(ref string) string { return ref[strings.LastIndex(ref, "/")+1:] }

// toSentence returns a text as one line that ends with a full stop.
func toSentence(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// toTitle returns a name in title case: Graph Request ID for graphRequestId, Idempotency Key for Idempotency-Key.
func toTitle(name string) string {
	var b strings.Builder
	name = strings.TrimPrefix(name, "X-")
	for i, c := range name {
		switch {
		case c == '-':
			continue
		case i == 0:
			c = unicode.ToUpper(c)
		case unicode.IsUpper(c) && (name[i-1] == '-' || !unicode.IsUpper(rune(name[i-1]))):
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	words := strings.Fields(b.String())
	for i, word := range words {
		switch word {
		case "Id":
			words[i] = "ID"
		case "Ids":
			words[i] = "IDs"
		}
	}
	return strings.Join(words, " ")
}
