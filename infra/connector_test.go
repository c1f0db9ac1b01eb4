package infra_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"image/png"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

const connector = "power-automate/connector/"

// parts are the definitions of the connector that stand for a schema of the contract, each with a part of its properties. A
// maker sees of a device what a device has, and of a list what a list has.
var parts = map[string][]string{
	"Request": {"UnassignDeviceRequest", "UnassignDevicesRequest", "CheckDeviceRequest", "CheckDevicesRequest"},
	"Success": {"DeviceAnswer", "DevicesAnswer"},
	"Device":  {"Device"}, "Expected": {"Expected"}, "Account": {"Account"}, "Summary": {"Summary"}, "Result": {"Result"},
	"Failure": {"Failure"}, "FailureError": {"FailureError"}, "GraphFailure": {"GraphFailure"}, "Health": {"Health"},
}

// left are the schemas and the routes of the contract that the connector leaves out, since they are for whoever looks after the function.
// A maker's flow has no business with them.
var left = []string{"Report", "Finding", "Fault", "/api/doctor"}

// readConnector returns the definition of the connector, and the same as OpenAPI 3, both of which must be valid.
func readConnector(t *testing.T) (*openapi2.T, *openapi3.T) {
	t.Helper()
	var swagger openapi2.T
	if err := json.Unmarshal([]byte(read(t, connector+"apiDefinition.swagger.json")), &swagger); err != nil {
		t.Fatal(err)
	}
	converted, err := openapi2conv.ToV3(&swagger)
	if err != nil {
		t.Fatal(err)
	}
	if err := converted.Validate(t.Context(), openapi3.AllowExtraSiblingFields("description")); err != nil {
		t.Fatal(err)
	}
	return &swagger, converted
}

func readContract(t *testing.T) *openapi3.T {
	t.Helper()
	contract, err := openapi3.NewLoader().LoadFromFile("../handler/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return contract
}

// TestConnectorIsTheContract holds the connector to openapi.yaml: each type, limit, word and header of the one is the other's,
// and nothing is missing or more.
func TestConnectorIsTheContract(t *testing.T) {
	swagger, converted := readConnector(t)
	contract := readContract(t)

	described := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(contract.Components.Schemas)) {
		if slices.Contains(left, name) {
			continue // that it is missing is looked at below
		}
		schema := contract.Components.Schemas[name].Value
		properties := map[string]bool{}
		for _, part := range parts[name] {
			described[part] = true
			ref := converted.Components.Schemas[part]
			if ref == nil {
				t.Fatalf("the connector has no definition %s, for %s", part, name)
			}
			if a, b := limits(ref.Value), limits(schema); a != b {
				t.Errorf("%s is %s, %s is %s", part, a, name, b)
			}
			for property, of := range ref.Value.Properties {
				properties[property] = true
				want := schema.Properties[property]
				if want == nil {
					t.Errorf("%s has %s, %s does not", part, property, name)
					continue
				}
				same(t, part+"."+property, of, want)
			}
			required := slices.DeleteFunc(slices.Clone(ref.Value.Required), func(property string) bool {
				return name == "Request" && (property == "devices" || property == "dryRun") // what tells the operations apart
			})
			if slices.Sort(required); !slices.Equal(required, sorted(schema.Required)) {
				t.Errorf("%s requires %v, %s %v", part, required, name, schema.Required)
			}
		}
		if got, want := slices.Sorted(maps.Keys(properties)), slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(got, want) {
			t.Errorf("the connector has of %s the properties %v, want %v", name, got, want)
		}
	}
	if got, want := slices.Sorted(maps.Keys(swagger.Definitions)), slices.Sorted(maps.Keys(described)); !slices.Equal(got, want) {
		t.Errorf("the connector has the definitions %v, want %v", got, want)
	}

	reached := map[string]bool{}
	for path, item := range converted.Paths.Map() {
		for method, operation := range item.Operations() {
			route := route(t, operation.OperationID, path)
			reached[route] = true
			want := contract.Paths.Value(route)
			if want == nil || want.GetOperation(method) == nil {
				t.Errorf("%s goes to %s %s, which the contract does not have", operation.OperationID, method, route)
				continue
			}
			headers := map[string]string{}
			for _, p := range operation.Parameters {
				headers[p.Value.Name] = fmt.Sprint(p.Value.In, p.Value.Schema.Value.Type)
			}
			wanted := map[string]string{}
			for _, p := range want.GetOperation(method).Parameters {
				wanted[p.Value.Name] = fmt.Sprint(p.Value.In, p.Value.Schema.Value.Type)
			}
			if !maps.Equal(headers, wanted) {
				t.Errorf("%s has the headers %v, the contract %v", operation.OperationID, headers, wanted)
			}
		}
	}
	for path := range contract.Paths.Map() {
		if reached[path] == slices.Contains(left, path) {
			t.Errorf("the connector reaches %v, and leaves out %v", slices.Sorted(maps.Keys(reached)), left)
		}
	}
	if key := contract.Components.SecuritySchemes["apiKey"].Value; swagger.SecurityDefinitions["api_key"].Name != key.Name || swagger.SecurityDefinitions["api_key"].In != key.In {
		t.Errorf("the key is in the %s %s", swagger.SecurityDefinitions["api_key"].In, swagger.SecurityDefinitions["api_key"].Name)
	}
}

// same holds a schema of the connector to one of the contract. Where they name another, that one is compared by itself.
func same(t *testing.T, where string, a, b *openapi3.SchemaRef) {
	t.Helper()
	name := func(ref string) string { return ref[strings.LastIndex(ref, "/")+1:] }
	if a.Ref != "" || b.Ref != "" {
		if !slices.Contains(parts[name(b.Ref)], name(a.Ref)) {
			t.Errorf("%s is a %q, in the contract a %q", where, name(a.Ref), name(b.Ref))
		}
		return
	}
	if got, want := limits(a.Value), limits(b.Value); got != want {
		t.Errorf("%s is %s, in the contract %s", where, got, want)
	}
	without := func(all, others []any) []any {
		return slices.DeleteFunc(slices.Clone(all), func(word any) bool { return slices.Contains(others, word) })
	}
	if missing, more := without(b.Value.Enum, a.Value.Enum), without(a.Value.Enum, b.Value.Enum); len(missing)+len(more) > 0 {
		t.Errorf("%s is missing the words %v and has more: %v", where, missing, more)
	}
	if (a.Value.Items == nil) != (b.Value.Items == nil) {
		t.Errorf("%s: only one of the two has items", where)
	} else if a.Value.Items != nil {
		same(t, where+"[]", a.Value.Items, b.Value.Items)
	}
	if (a.Value.AdditionalProperties.Schema == nil) != (b.Value.AdditionalProperties.Schema == nil) {
		t.Errorf("%s: only one of the two says what other properties are", where)
	} else if a.Value.AdditionalProperties.Schema != nil {
		same(t, where+"{}", a.Value.AdditionalProperties.Schema, b.Value.AdditionalProperties.Schema)
	}
	if len(a.Value.Properties)+len(b.Value.Properties) > 0 {
		t.Errorf("%s: an object inside another has a name of its own", where)
	}
}

// limits are the type and the limits of a schema, in words.
func limits(s *openapi3.Schema) string {
	pointer := func(n *uint64) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	closed := s.AdditionalProperties.Has != nil && !*s.AdditionalProperties.Has
	return fmt.Sprintf("%v like %q, length %d to %s, items %d to %s, properties %d to %s, closed %t, from %v to %v",
		*s.Type, s.Pattern, s.MinLength, pointer(s.MaxLength), s.MinItems, pointer(s.MaxItems), s.MinProps, pointer(s.MaxProps), closed, s.Min, s.Max)
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// properties are as much of apiProperties.json as there is.
type properties struct {
	Properties struct {
		ConnectionParameterSets struct {
			UIDefinition map[string]string
			Values       []struct {
				Name         string
				UIDefinition map[string]string
				Metadata     map[string]bool
				Parameters   map[string]struct {
					Type          string
					Metadata      map[string]string
					OAuthSettings struct {
						IdentityProvider, ClientID, RedirectMode, RedirectURL string
						Scopes                                                []string
						Properties                                            map[string]string
						CustomParameters                                      map[string]struct{ Value string }
					}
					UIDefinition struct {
						DisplayName, Description, Tooltip string
						Constraints                       map[string]any
					}
				}
			}
		}
		IconBrandColor          string
		Capabilities            []string
		PolicyTemplateInstances []struct {
			TemplateID, Title string
			Parameters        map[string]any
		}
		Publisher, StackOwner string
	}
}

func readProperties(t *testing.T) properties {
	t.Helper()
	var p properties
	readJSON(t, connector+"apiProperties.json", &p)
	return p
}

const parameter = "x-ms-apimTemplateParameter."

// route returns the path that an operation goes to: its own, unless a policy says another.
func route(t *testing.T, operation, path string) string {
	t.Helper()
	for _, policy := range readProperties(t).Properties.PolicyTemplateInstances {
		names, _ := policy.Parameters["x-ms-apimTemplate-operationName"].([]any)
		if policy.TemplateID == "routerequesttoendpoint" && slices.Contains(names, any(operation)) {
			return policy.Parameters[parameter+"newPath"].(string)
		}
	}
	return path
}

// TestConnectorForMakers holds the connector to the rules that published ones keep, by which a maker reads it.
func TestConnectorForMakers(t *testing.T) {
	swagger, _ := readConnector(t)
	text := read(t, connector+"apiDefinition.swagger.json")
	for _, word := range []string{`"oneOf"`, `"anyOf"`, `"allOf"`, `"x-nullable"`, `"not"`} {
		if strings.Contains(text, word) {
			t.Errorf("the definition has %s", word)
		}
	}
	if info := swagger.Info; len(info.Title) > 30 || len(info.Description) < 30 || len(info.Description) > 500 || regexp.MustCompile(`(?i)\b(api|connector|power)`).MatchString(info.Title) {
		t.Errorf("info is %q, %q", info.Title, info.Description)
	}
	if swagger.Swagger != "2.0" || !slices.Equal(swagger.Schemes, []string{"https"}) {
		t.Errorf("Swagger %s over %v", swagger.Swagger, swagger.Schemes)
	}
	ids := map[string]bool{}
	for path, item := range swagger.Paths {
		for method, operation := range item.Operations() {
			where := method + " " + path
			if !regexp.MustCompile(`^([A-Z][a-z]+)+$`).MatchString(operation.OperationID) || ids[operation.OperationID] {
				t.Errorf("%s: operationId %q", where, operation.OperationID)
			}
			ids[operation.OperationID] = true
			if !regexp.MustCompile(`^[A-Z][a-z ]{4,79}$`).MatchString(operation.Summary) {
				t.Errorf("%s: summary %q", where, operation.Summary)
			}
			sentences(t, where, operation.Description)
			visibility(t, where, operation.Extensions, false, true)
			bodies := 0
			for _, p := range operation.Parameters {
				where := where + " " + p.Name
				sentences(t, where, p.Description)
				titled(t, where, p.Extensions)
				if p.In == "body" {
					bodies++
					continue
				}
				visibility(t, where, p.Extensions, p.Required, p.Default != nil)
			}
			if bodies != map[string]int{"GET": 0, "POST": 1}[method] {
				t.Errorf("%s has %d bodies", where, bodies)
			}
			want := []string{"200", "default"}
			if strings.HasSuffix(operation.OperationID, "s") { // of a list some may fail
				want = []string{"200", "207", "default"}
			}
			if got := slices.Sorted(maps.Keys(operation.Responses.Map())); !slices.Equal(got, want) {
				t.Errorf("%s answers %v, want %v", where, got, want)
			}
			for status, response := range operation.Responses.Map() {
				if response.Schema == nil || response.Schema.Ref == "" || (status == "default") != (response.Schema.Ref == "#/definitions/Failure") {
					t.Errorf("%s: %s has the schema %+v", where, status, response.Schema)
				}
				sentences(t, where+" "+status, response.Description)
			}
			if method != "POST" {
				continue
			}
			prefer := operation.Parameters[slices.IndexFunc(operation.Parameters, func(p *openapi2.Parameter) bool { return p.Name == "Prefer" })]
			if prefer.Default != "return=representation" || !prefer.Required || prefer.Extensions["x-ms-visibility"] != "internal" {
				t.Errorf("%s: a 204 has no outputs, and Prefer is %+v", where, prefer)
			}
		}
	}
	for name, definition := range swagger.Definitions {
		sentences(t, name, definition.Value.Description)
		for property, of := range definition.Value.Properties {
			where := name + "." + property
			if of.Ref != "" {
				of = swagger.Definitions[strings.TrimPrefix(of.Ref, "#/definitions/")]
			}
			sentences(t, where, of.Value.Description)
			titled(t, where, of.Value.Extensions)
			if !strings.HasSuffix(name, "Request") && name != "Device" && name != "Expected" {
				continue
			}
			visibility(t, where, of.Value.Extensions, slices.Contains(definition.Value.Required, property), of.Value.Default != nil)
			if plain := of.Value.Type.Is("string"); plain && of.Value.Example == nil {
				t.Errorf("%s has no sample", where)
			}
		}
	}
	for _, name := range []string{"CheckDeviceRequest", "CheckDevicesRequest"} {
		if of := swagger.Definitions[name].Value.Properties["dryRun"].Value; of.Default != true || of.Extensions["x-ms-visibility"] != "internal" {
			t.Errorf("%s can act", name)
		}
	}
	for _, name := range []string{"UnassignDeviceRequest", "UnassignDevicesRequest"} {
		if swagger.Definitions[name].Value.Properties["dryRun"] != nil {
			t.Errorf("%s may not act", name)
		}
	}
}

// sentences finds fault with a text that is none.
func sentences(t *testing.T, where, text string) {
	t.Helper()
	if len(text) < 5 || !strings.HasSuffix(text, ".") || strings.TrimSpace(text) != text {
		t.Errorf("%s: description %q", where, text)
	}
}

// titled finds fault with an x-ms-summary that is not in title case.
func titled(t *testing.T, where string, extensions map[string]any) {
	t.Helper()
	if title, _ := extensions["x-ms-summary"].(string); !regexp.MustCompile(`^[A-Z][A-Za-z]*( [A-Z][A-Za-z]*)*$`).MatchString(title) {
		t.Errorf("%s: x-ms-summary %q", where, title)
	}
}

// visibility finds fault with an x-ms-visibility that there is not, and with what is hidden, required, and has no value.
func visibility(t *testing.T, where string, extensions map[string]any, required, hasDefault bool) {
	t.Helper()
	word, _ := extensions["x-ms-visibility"].(string)
	if !slices.Contains([]string{"important", "advanced", "internal"}, word) || word == "internal" && required && !hasDefault {
		t.Errorf("%s: x-ms-visibility %q, required %t, default %t", where, word, required, hasDefault)
	}
}

func TestConnectorProperties(t *testing.T) {
	swagger, _ := readConnector(t)
	p := readProperties(t).Properties
	operations := map[string]bool{}
	for _, item := range swagger.Paths {
		for _, operation := range item.Operations() {
			operations[operation.OperationID] = true
		}
	}
	var sets []string
	known := map[string]bool{}
	for _, set := range p.ConnectionParameterSets.Values {
		sets = append(sets, set.Name)
		for name, parameter := range set.Parameters {
			known[name] = true
			secret := strings.Contains(strings.ToLower(name), "secret") || strings.Contains(name, "key")
			if (parameter.Type == "securestring") != secret {
				t.Errorf("%s: %s is a %s", set.Name, name, parameter.Type)
			}
			sentences(t, set.Name+" "+name, parameter.UIDefinition.Description)
		}
		if set.Parameters["host"].Type != "string" || set.Parameters["host"].UIDefinition.Constraints["required"] != "true" {
			t.Errorf("%s does not ask for the host", set.Name)
		}
		oauth := set.Parameters["token"].OAuthSettings
		var grant, resource string
		for name, custom := range oauth.CustomParameters {
			switch strings.ToLower(name) {
			case "granttype":
				grant = custom.Value
			case "resourceuri":
				resource = custom.Value
			}
		}
		asks := set.Parameters["token:clientId"].Type + " " + set.Parameters["token:clientSecret"].Type + " " + set.Parameters["token:TenantId"].Metadata["sourceType"]
		switch set.Name {
		case "entraUser":
			if oauth.IdentityProvider != "aad" || grant != "" || !strings.HasPrefix(resource, "api://") || set.Metadata["allowSharing"] {
				t.Errorf("%s: %+v", set.Name, set)
			}
		case "entraServicePrincipal":
			if oauth.IdentityProvider != "aad" || grant != "client_credentials" || !strings.HasPrefix(resource, "api://") || asks != "string securestring AzureActiveDirectoryTenant" {
				t.Errorf("%s: %+v", set.Name, set)
			}
		case "apiKey":
			if set.Parameters["token"].Type != "" || set.Parameters["api_key"].Type != "securestring" {
				t.Errorf("%s: %+v", set.Name, set)
			}
		}
	}
	if !slices.Equal(sets, []string{"entraUser", "entraServicePrincipal", "apiKey"}) {
		t.Errorf("the ways to authenticate are %v", sets)
	}
	policies := map[string]int{}
	for _, policy := range p.PolicyTemplateInstances {
		policies[policy.TemplateID]++
		names, some := policy.Parameters["x-ms-apimTemplate-operationName"].([]any)
		for _, name := range names {
			if !operations[name.(string)] {
				t.Errorf("%s is for %v, which is no operation", policy.Title, name)
			}
		}
		for _, value := range policy.Parameters {
			for _, m := range regexp.MustCompile(`@connectionParameters\('([^']+)'`).FindAllStringSubmatch(fmt.Sprint(value), -1) {
				if !known[m[1]] {
					t.Errorf("%s looks at %s, which no connection has", policy.Title, m[1])
				}
			}
		}
		switch policy.TemplateID {
		case "dynamichosturl":
			if some || policy.Parameters[parameter+"urlTemplate"] != "https://@connectionParameters('host')" {
				t.Errorf("%s: %v", policy.Title, policy.Parameters)
			}
		case "setheader":
			if some || policy.Parameters[parameter+"name"] != swagger.SecurityDefinitions["api_key"].Name || policy.Parameters[parameter+"value"] != "@connectionParameters('api_key','')" {
				t.Errorf("%s: %v", policy.Title, policy.Parameters)
			}
		}
	}
	if policies["dynamichosturl"] != 1 || policies["setheader"] != 1 || policies["routerequesttoendpoint"] != 1 || len(policies) != 3 {
		t.Errorf("the policies are %v", policies)
	}

	icon, err := png.Decode(bytes.NewReader([]byte(read(t, connector+"icon.png"))))
	if err != nil {
		t.Fatal(err)
	}
	if size := icon.Bounds().Size(); size.X != 230 || size.Y != 230 {
		t.Errorf("the icon has %v", size)
	}
	r, g, b, a := icon.At(0, 0).RGBA()
	if c := fmt.Sprintf("#%02X%02X%02X", uint8(r>>8), uint8(g>>8), uint8(b>>8)); c != p.IconBrandColor || a != 0xffff || c == "#007EE5" || c == "#FFFFFF" {
		t.Errorf("the icon is on %s, the brand colour is %s", c, p.IconBrandColor)
	}
	drawn := map[color.Color]bool{}
	for x := range 230 {
		drawn[icon.At(x, 97)] = true
	}
	if len(drawn) < 3 || !strings.Contains(read(t, connector+"icon.svg"), `fill="`+p.IconBrandColor+`"`) {
		t.Errorf("the icon shows %d colours", len(drawn))
	}
}
