package infra_test

import (
	"bytes"
	"fmt"
	"image/color"
	"image/png"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi3"
)

const connector = "power-automate/connector/"

// readConnector returns the definition of the connector.
func readConnector(t *testing.T) *openapi2.T {
	t.Helper()
	var swagger openapi2.T
	readJSON(t, connector+"apiDefinition.swagger.json", &swagger)
	return &swagger
}

func readContract(t *testing.T) *openapi3.T {
	t.Helper()
	contract, err := openapi3.NewLoader().LoadFromFile("../handler/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return contract
}

// properties is apiProperties.json.
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

// TestConnectorProperties holds the kinds of connection and the policies to the forms of published connectors.
func TestConnectorProperties(t *testing.T) {
	swagger := readConnector(t)
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
			if d := parameter.UIDefinition.Description; len(d) < 5 || !strings.HasSuffix(d, ".") {
				t.Errorf("%s: %s is described as %q", set.Name, name, d)
			}
		}
		if set.Parameters["host"].Type != "string" || set.Parameters["host"].UIDefinition.Constraints["required"] != "true" {
			t.Errorf("%s does not ask for the host", set.Name)
		}
		oauth := set.Parameters["token"].OAuthSettings
		// A redirect URI for each connector: Microsoft's reviewers ask for it, and new connectors get no other.
		if oauth.IdentityProvider != "" && (oauth.RedirectMode != "GlobalPerConnector" || oauth.RedirectURL != "" || oauth.Properties["AzureActiveDirectoryResourceId"] == "") {
			t.Errorf("%s: %+v", set.Name, oauth)
		}
		var grant, resource string
		for name, custom := range oauth.CustomParameters {
			switch strings.ToLower(name) {
			case "granttype":
				grant = custom.Value
			case "resourceuri":
				if resource = custom.Value; resource != oauth.Properties["AzureActiveDirectoryResourceId"] {
					t.Errorf("%s: the resources are %s and %v", set.Name, resource, oauth.Properties)
				}
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
				t.Errorf("%s names %v, which is no operation", policy.Title, name)
			}
		}
		for _, value := range policy.Parameters {
			for _, m := range regexp.MustCompile(`@connectionParameters\('([^']+)'`).FindAllStringSubmatch(fmt.Sprint(value), -1) {
				if !known[m[1]] {
					t.Errorf("%s reads %s, which no connection has", policy.Title, m[1])
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
