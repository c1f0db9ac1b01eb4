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
	"cmp"
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

// ordered is a JSON object whose members keep their order, which is the order of the fields that a maker sees.
type ordered[V any] []member[V]

type member[V any] struct {
	name  string
	value V
}

// get returns the member called name, or the zero value.
func (o ordered[V]) get(name string) (value V, found bool) {
	for _, m := range o {
		if m.name == name {
			return m.value, true
		}
	}
	return value, false
}

// MarshalJSON implements json.Marshaler.
func (o ordered[V]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, m := range o {
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(&b, "%q:", m.name)
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (o *ordered[V]) UnmarshalYAML(n *yaml.Node) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		m := member[V]{name: n.Content[i].Value}
		if err := n.Content[i+1].Decode(&m.value); err != nil {
			return err
		}
		*o = append(*o, m)
	}
	return nil
}

// schema is a schema of the contract, or a property of one, and becomes one of the connector. The two write it alike,
// but for the members of Microsoft's extensions.
type schema struct {
	Ref           string          `yaml:"$ref" json:"$ref,omitempty"`
	Type          string          `yaml:"type" json:"type,omitempty"`
	Title         string          `yaml:"-" json:"x-ms-summary,omitempty"`
	Description   string          `yaml:"description" json:"description,omitempty"`
	Visibility    string          `yaml:"-" json:"x-ms-visibility,omitempty"`
	Default       any             `yaml:"-" json:"default,omitempty"`
	Required      []string        `yaml:"required" json:"required,omitempty"`
	Additional    any             `yaml:"additionalProperties" json:"additionalProperties,omitempty"`
	MinProperties int             `yaml:"minProperties" json:"minProperties,omitempty"`
	MaxProperties int             `yaml:"maxProperties" json:"maxProperties,omitempty"`
	Enum          []any           `yaml:"enum" json:"enum,omitempty"`
	Pattern       string          `yaml:"pattern" json:"pattern,omitempty"`
	MinLength     int             `yaml:"minLength" json:"minLength,omitempty"`
	MaxLength     int             `yaml:"maxLength" json:"maxLength,omitempty"`
	MinItems      int             `yaml:"minItems" json:"minItems,omitempty"`
	MaxItems      int             `yaml:"maxItems" json:"maxItems,omitempty"`
	Items         *schema         `yaml:"items" json:"items,omitempty"`
	Example       any             `yaml:"example" json:"example,omitempty"`
	Properties    ordered[schema] `yaml:"properties" json:"properties,omitempty"`
	Others        map[string]any  `yaml:",inline" json:"-"`
}

// refersTo returns the name of the schema that s refers to, "" for none.
func (s schema) refersTo() string { return s.Ref[strings.LastIndex(s.Ref, "/")+1:] }

func referTo(name string) *schema { return &schema{Ref: "#/definitions/" + name} }

// contract is the part of handler/openapi.yaml that a connector has.
type contract struct {
	Paths map[string]map[string]struct {
		Parameters []struct {
			Name, In, Description, Example string
			Schema                         schema
		}
		Responses map[string]struct {
			Description string
			Content     map[string]struct{ Schema schema }
		}
		Security *[]any
	}
	Components struct{ Schemas ordered[schema] }
}

// operation is an operation of the connector in base.yaml. Its request and response are a part of the contract's.
type operation struct {
	Path, Method, Route, Summary, Description, Visibility string
	Request, Response                                     string
	List                                                  bool
	Without                                               []string
	About                                                 map[string]string
}

type object = map[string]any

// generator turns schemas of the contract into definitions.
type generator struct {
	contract

	definitions ordered[schema]
}

func generate(openAPI []byte) ([]byte, error) {
	g := &generator{}
	var base struct {
		Operations ordered[operation]
		Rest       object `yaml:",inline"`
	}
	if err := errors.Join(yaml.Unmarshal(openAPI, &g.contract), yaml.Unmarshal(baseYAML, &base)); err != nil {
		return nil, err
	}
	var paths ordered[object]
	for _, o := range base.Operations {
		made, err := g.makeOperation(o.name, o.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
		paths = append(paths, member[object]{o.value.Path, object{o.value.Method: made}})
	}
	base.Rest["paths"], base.Rest["definitions"] = paths, g.definitions
	encoded, err := json.MarshalIndent(base.Rest, "", "  ")
	return append(encoded, '\n'), err
}

// makeOperation returns an operation of the connector.
func (g *generator) makeOperation(id string, o operation) (object, error) {
	route, ok := g.Paths[o.Route][o.Method]
	if !ok {
		return nil, fmt.Errorf("the contract has no %s %s", o.Method, o.Route)
	}
	parameters := []any{}
	for _, p := range route.Parameters {
		made := object{
			"name": p.Name, "in": p.In, "type": p.Schema.Type, "required": false, "x-ms-summary": toTitle(p.Name),
			"description": toSentence(p.Description), "x-ms-visibility": "advanced", "x-example": p.Example,
		}
		if p.Name == "Prefer" { // with the value that brings a body
			made["required"], made["x-ms-visibility"], made["default"] = true, "internal", "return=representation"
			delete(made, "x-example")
		}
		parameters = append(parameters, made)
	}
	if o.Request != "" {
		if err := g.addDefinition(o.Request, "Request", o); err != nil {
			return nil, err
		}
		parameters = append(parameters, object{
			"name": "body", "in": "body", "required": true, "x-ms-summary": "Request", "description": "The request.",
			"schema": referTo(o.Request),
		})
	}
	responses := object{}
	for status, r := range route.Responses {
		if status != "200" && (status != "207" || !o.List) {
			continue
		}
		of := r.Content["application/json"].Schema.refersTo()
		name := cmp.Or(o.Response, of)
		if err := g.addDefinition(name, of, o); err != nil {
			return nil, err
		}
		responses[status] = object{"description": toSentence(r.Description), "schema": referTo(name)}
	}
	if err := g.addDefinition("Failure", "Failure", operation{}); err != nil {
		return nil, err
	}
	failure, _ := g.definitions.get("Failure")
	responses["default"] = object{"description": failure.Description, "schema": referTo("Failure")}
	made := object{
		"operationId": id, "summary": o.Summary, "description": o.Description, "x-ms-visibility": o.Visibility,
		"parameters": parameters, "responses": responses,
	}
	if route.Security != nil {
		made["security"] = route.Security
	}
	return made, nil
}

// addDefinition adds the definition called name: the schema called of or, where that has another name, a part of it
// as o tells. It adds the definitions to which it refers too.
func (g *generator) addDefinition(name, of string, o operation) error {
	if _, known := g.definitions.get(name); known {
		return nil
	}
	s, ok := g.Components.Schemas.get(of)
	if !ok {
		return fmt.Errorf("the contract has no schema %s", of)
	}
	properties := s.Properties
	s.Title, s.Properties = toTitle(name), nil
	if name != of {
		s.Description = o.About[of]
	}
	s.Description = toSentence(s.Description)
	request := of == "Request" || of == "Device" || of == "Expected"
	if request {
		s.Visibility = "important"
	}
	var nested []string
	for _, p := range properties {
		if name != of && slices.Contains(o.Without, p.name) {
			continue
		}
		made, refersTo, err := g.makeProperty(of, p.name, p.value, request)
		if err != nil {
			return err
		}
		if refersTo != "" {
			nested = append(nested, refersTo)
		}
		if of == "Request" && (p.name == "devices" || p.name == "dryRun") {
			s.Required = append(s.Required, p.name)
		}
		at := len(s.Properties)
		if p.name == "serialNumber" && request {
			at = 0 // most makers have it
		}
		s.Properties = slices.Insert(s.Properties, at, member[schema]{p.name, made})
	}
	if err := s.checkMembers(of); err != nil {
		return err
	}
	g.definitions = append(g.definitions, member[schema]{name, s})
	for _, other := range nested {
		if err := g.addDefinition(other, other, operation{}); err != nil {
			return err
		}
	}
	return nil
}

// checkMembers returns an error for a member that a connector cannot have, such as oneOf.
func (s schema) checkMembers(name string) error {
	for other := range s.Others {
		if !strings.HasPrefix(other, "x-") {
			return fmt.Errorf("%s has %s, which a connector cannot have", name, other)
		}
	}
	return nil
}

// important holds the fields that a maker sees first.
//
//nolint:gochecknoglobals // a table
var important = []string{"serialNumber", "deviceId", "devices", "userPrincipalName", "reference"}

// makeProperty returns a property of a definition, and the name of the schema to which it refers.
func (g *generator) makeProperty(of, name string, p schema, request bool) (schema, string, error) {
	if ref := p.refersTo(); ref != "" {
		return *referTo(ref), ref, nil
	}
	p.Title = toTitle(name)
	if of == "Expected" {
		p.Title = "Expected " + p.Title
	}
	p.Description, p.Example = g.borrow(name, p)
	if len(p.Description) < 5 { // less than the rules of connectors ask for
		p.Description = "The " + strings.ToLower(p.Title[:1]) + p.Title[1:]
	}
	p.Description = toSentence(p.Description)
	refersTo := ""
	if p.Items != nil {
		if refersTo = p.Items.refersTo(); refersTo != "" {
			p.Items = referTo(refersTo)
		}
	}
	if request {
		p.Visibility = "advanced"
		switch {
		case slices.Contains(important, name):
			p.Visibility = "important"
		case name == "dryRun":
			p.Visibility, p.Default = "internal", true
		case name == "verify":
			p.Default = false
		}
	}
	return p, refersTo, p.checkMembers(of + "." + name)
}

// borrow returns the description and the example of a property or, where it has none, of its namesakes in other schemas.
func (g *generator) borrow(name string, p schema) (description string, example any) {
	description, example = p.Description, p.Example
	for _, s := range g.Components.Schemas {
		other, _ := s.value.Properties.get(name)
		if len(description) < 5 && other.Type == p.Type {
			description = other.Description
		}
		if example == nil && other.Type == p.Type {
			example = other.Example
		}
	}
	return description, example
}

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
