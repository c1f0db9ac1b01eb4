package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func packages(t *testing.T) map[string]files {
	t.Helper()
	all, err := makePackages("../../../infra/power-automate")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func decode(t *testing.T, all files, name string) object {
	t.Helper()
	var v object
	if err := json.Unmarshal(all[name], &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// keys returns the member names of an object, sorted and with spaces between them.
func keys(v any) string {
	object, _ := v.(object)
	return strings.Join(slices.Sorted(maps.Keys(object)), " ")
}

// The members of each file are the members that the 21 legacy packages of pnp/powerautomate-samples have. Their connections are embedded.
func TestLegacyPackages(t *testing.T) {
	t.Parallel()
	ids := map[string]bool{}
	all := packages(t)
	if got := keys(toObject(all)); got != "approval.zip list-row.zip nightly.zip solution.zip" {
		t.Fatalf("the packages are %s", got)
	}
	delete(all, "solution.zip")
	for name, f := range all {
		list := decode(t, f, "Microsoft.Flow/flows/manifest.json")["flowAssets"].(object)["assetPaths"].([]any)
		dir := "Microsoft.Flow/flows/" + list[0].(string) + "/"
		manifest, definition := decode(t, f, "manifest.json"), decode(t, f, dir+"definition.json")
		apis, connections := decode(t, f, dir+"apisMap.json"), decode(t, f, dir+"connectionsMap.json")
		properties, resources := definition["properties"].(object), manifest["resources"].(object)
		references := properties["connectionReferences"].(object)
		for what, got := range map[string][2]string{
			"manifest":    {keys(manifest), "details resources schema"},
			"details":     {keys(manifest["details"]), "createdTime creator description displayName packageTelemetryId sourceEnvironment"},
			"definition":  {keys(definition), "id name properties type"},
			"properties":  {keys(properties), "apiId connectionReferences definition displayName flowFailureAlertSubscribed"},
			"apis":        {keys(apis), keys(references)},
			"connections": {keys(connections), keys(references)},
			"used":        {strings.Join(usedConnectors(properties["definition"]), " "), keys(references)},
			"root":        {keys(resources[list[0].(string)]), "configurableBy creationType dependsOn details hierarchy suggestedCreationType type"},
		} {
			if got[0] != got[1] {
				t.Errorf("%s: %s has %q, want %q", name, what, got[0], got[1])
			}
		}
		for api, reference := range references {
			reference := reference.(object)
			if keys(reference) != "connectionName id source tier" || reference["source"] != "Embedded" || reference["id"] != "/providers/Microsoft.PowerApps/apis/"+api ||
				!regexp.MustCompile(`^shared-[a-z0-9]{1,13}-[0-9a-f-]{36}$`).MatchString(reference["connectionName"].(string)) {
				t.Errorf("%s: the reference is %v", name, reference)
			}
			of, connection := resources[apis[api].(string)], resources[connections[api].(string)]
			if keys(of) != "configurableBy dependsOn details hierarchy id name suggestedCreationType type" || keys(connection) != "configurableBy creationType dependsOn details hierarchy suggestedCreationType type" {
				t.Errorf("%s: %v, %v", name, of, connection)
			}
			if connection.(object)["dependsOn"].([]any)[0] != apis[api] || connection.(object)["details"].(object)["displayName"] == "" {
				t.Errorf("%s: the connection is %v", name, connection)
			}
		}
		if n := len(resources[list[0].(string)].(object)["dependsOn"].([]any)); n != len(resources)-1 || n != 2*len(references) {
			t.Errorf("%s: the flow depends on %d of %d resources", name, n, len(resources))
		}
		for id := range resources {
			if !uuid.MatchString(id) || ids[id] {
				t.Errorf("%s: resource %s", name, id)
			}
			ids[id] = true
		}
	}
}

func toObject(all map[string]files) object {
	v := object{}
	for name := range all {
		v[name] = nil
	}
	return v
}

// element is an element of an XML file.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []element  `xml:",any"`
	Text     string     `xml:",chardata"`
}

func (e element) child(t *testing.T, names ...string) element {
	t.Helper()
	for _, name := range names {
		i := slices.IndexFunc(e.Children, func(c element) bool { return c.XMLName.Local == name })
		if i < 0 {
			t.Fatalf("%s has no %s", e.XMLName.Local, name)
		}
		e = e.Children[i]
	}
	return e
}

func (e element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// names returns the names of the children, in order, each once.
func (e element) names() string {
	var names []string
	for _, c := range e.Children {
		names = append(names, c.XMLName.Local)
	}
	return strings.Join(slices.Compact(names), " ")
}

func decodeXML(t *testing.T, all files, name string) element {
	t.Helper()
	var e element
	if err := xml.Unmarshal(all[name], &e); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return e
}

// Solutions that the platform has exported have these elements in this order (pnp/powerautomate-samples; the connector:
// public repositories with unpacked solutions).
func TestSolution(t *testing.T) {
	t.Parallel()
	all := packages(t)["solution.zip"]
	manifest := decodeXML(t, all, "solution.xml").child(t, "SolutionManifest")
	custom := decodeXML(t, all, "customizations.xml")
	types := decodeXML(t, all, "[Content_Types].xml")
	for what, got := range map[string][2]string{
		"manifest":   {manifest.names(), "UniqueName LocalizedNames Descriptions Version Managed Publisher RootComponents MissingDependencies"},
		"publisher":  {manifest.child(t, "Publisher").names(), "UniqueName LocalizedNames Descriptions EMailAddress SupportingWebsiteUrl CustomizationPrefix CustomizationOptionValuePrefix Addresses"},
		"custom":     {custom.names(), "Entities Roles Workflows FieldSecurityProfiles Templates EntityMaps EntityRelationships OrganizationSettings optionsets CustomControls EntityDataProviders Connectors connectionreferences Languages"},
		"workflow":   {custom.child(t, "Workflows", "Workflow").names(), "JsonFileName Type Subprocess Category Mode Scope OnDemand TriggerOnCreate TriggerOnDelete AsyncAutodelete SyncWorkflowLogOnFailure StateCode StatusCode RunAs IsTransacted IntroducedVersion IsCustomizable BusinessProcessType IsCustomProcessingStepAllowedForOtherPublishers PrimaryEntity LocalizedNames"},
		"connector":  {custom.child(t, "Connectors", "Connector").names(), "connectorid description displayname iconbrandcolor name connectortype openapidefinition connectionparameters connectionparametersets policytemplateinstances iconblob"},
		"reference":  {custom.child(t, "connectionreferences", "connectionreference").names(), "connectionreferencedisplayname connectorid iscustomizable statecode statuscode"},
		"publishing": {manifest.child(t, "Managed").Text, "0"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %s, want %s", what, got[0], got[1])
		}
	}

	components := map[string][]string{}
	for _, c := range manifest.child(t, "RootComponents").Children {
		components[c.attr("type")] = append(components[c.attr("type")], c.attr("id")+c.attr("schemaName"))
	}
	references := map[string]bool{}
	for _, r := range custom.child(t, "connectionreferences").Children {
		references[r.attr("connectionreferencelogicalname")] = true
	}
	if len(components["29"]) != 3 || len(components["372"]) != 1 || len(components["380"]) != len(variables) || len(references) != len(connectors) {
		t.Errorf("the components are %v, the references %v", components, references)
	}

	// Every flow is there and off.
	for i, w := range custom.child(t, "Workflows").Children {
		file := strings.TrimPrefix(w.child(t, "JsonFileName").Text, "/")
		if w.attr("WorkflowId") != components["29"][i] || !strings.HasSuffix(file, strings.ToUpper(strings.Trim(w.attr("WorkflowId"), "{}"))+".json") || w.child(t, "StateCode").Text != "0" || w.child(t, "StatusCode").Text != "1" {
			t.Errorf("the workflow is %v, %s", w.Attrs, file)
		}
		inSolution := decode(t, all, file)
		properties := inSolution["properties"].(object)
		if keys(inSolution) != "properties schemaVersion" || keys(properties) != "connectionReferences definition" {
			t.Errorf("%s has %s, %s", file, keys(inSolution), keys(properties))
		}
		definition := properties["definition"].(object)
		settings := definition["actions"].(object)["Settings"].(object)["inputs"].(object)
		for key, value := range settings {
			parameter := strings.TrimSuffix(strings.TrimPrefix(value.(string), "@parameters('"), "')")
			declared, _ := definition["parameters"].(object)[parameter].(object)
			schema, _ := declared["metadata"].(object)["schemaName"].(string)
			if all["environmentvariabledefinitions/"+schema+"/environmentvariabledefinition.xml"] == nil || !slices.Contains(components["380"], schema) || !strings.HasSuffix(parameter, "("+schema+")") {
				t.Errorf("%s: %s is %v", file, key, value)
			}
		}
		if got, want := keys(properties["connectionReferences"]), strings.Join(usedConnectors(definition), " "); got != want {
			t.Errorf("%s: the references are %s, want %s", file, got, want)
		}
		for api, r := range properties["connectionReferences"].(object) {
			r := r.(object)
			if name := r["connection"].(object)["connectionReferenceLogicalName"].(string); r["runtimeSource"] != "embedded" || r["api"].(object)["name"] != api || !references[name] {
				t.Errorf("%s: the reference is %v", file, r)
			}
		}
	}
	for _, f := range []string{"approval.zip", "list-row.zip", "nightly.zip"} {
		legacy := packages(t)[f]
		for name := range legacy {
			if path.Base(name) != "definition.json" {
				continue
			}
			properties := decode(t, legacy, name)["properties"].(object)
			actions := properties["definition"].(object)["actions"].(object)
			file := "Workflows/" + regexp.MustCompile(`[^A-Za-z]`).ReplaceAllString(properties["displayName"].(string), "") + "-" + strings.ToUpper(newID(strings.TrimSuffix(f, ".zip"), "workflow")) + ".json"
			others := decode(t, all, file)["properties"].(object)["definition"].(object)["actions"].(object)
			delete(actions, "Settings")
			delete(others, "Settings")
			a, _ := json.Marshal(actions)
			b, _ := json.Marshal(others)
			if !bytes.Equal(a, b) {
				t.Errorf("%s and %s differ", f, file)
			}
		}
	}

	for _, v := range variables {
		e := decodeXML(t, all, "environmentvariabledefinitions/"+v.Schema+"/environmentvariabledefinition.xml")
		if got := strings.TrimPrefix(e.names(), "defaultvalue "); got != "description displayname introducedversion iscustomizable isrequired secretstore type" || e.attr("schemaname") != v.Schema {
			t.Errorf("%s has %s", v.Schema, got)
		}
	}
	connector := custom.child(t, "Connectors", "Connector")
	for _, part := range connector.Children {
		if strings.HasPrefix(part.Text, "/") && len(all[part.Text[1:]]) == 0 {
			t.Errorf("there is no %s", part.Text)
		}
	}
	if !strings.HasPrefix(components["372"][0], "{"+connector.child(t, "connectorid").Text+"}"+connector.child(t, "name").Text) || !regexp.MustCompile(`^[a-z]{3}_[a-z0-9-]+$`).MatchString(connector.child(t, "name").Text) {
		t.Errorf("the connector is %v", components["372"])
	}
	for name := range all {
		if ext := strings.TrimPrefix(path.Ext(name), "."); !slices.ContainsFunc(types.Children, func(c element) bool { return c.attr("Extension") == ext }) {
			t.Errorf("no content type for %s", name)
		}
	}
}

func TestPackFiles(t *testing.T) {
	t.Parallel()
	all := files{"b": []byte("2"), "a": []byte("1")}
	first, err := packFiles(all)
	second, again := packFiles(maps.Clone(all))
	if err = errors.Join(err, again); err != nil || !bytes.Equal(first, second) {
		t.Errorf("two builds differ, %v", err)
	}
	r, err := zip.NewReader(bytes.NewReader(first), int64(len(first)))
	if err != nil || r.File[0].Name != "a" || r.File[0].Modified.Year() != 1980 {
		t.Fatalf("%v, %v", r, err)
	}
	part, err := r.File[1].Open()
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(part); string(text) != "2" {
		t.Errorf("%q, %v", text, err)
	}
}
