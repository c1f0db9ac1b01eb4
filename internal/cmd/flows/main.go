// Flows packs infra/power-automate for an import into Power Automate:
//
//	flows OUT
//
// It writes a legacy package for each flow and one solution with all flows and the connector. The same input makes
// the same bytes. Their form is the form of published exports; docs/power-automate.md says where it was never tried.
package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha1" //nolint:gosec // UUIDs of version 5 are SHA-1
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/internal/guid"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "flows:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: flows OUT")
	}
	packages, err := makePackages("infra/power-automate")
	if err != nil {
		return err
	}
	for name, files := range packages {
		packed, err := packFiles(files)
		if err != nil {
			return err
		}
		err = os.WriteFile(filepath.Join(args[0], name), packed, 0o644) //nolint:gosec // a package is no secret
		if err != nil {
			return err
		}
	}
	return nil
}

// files holds the files of a package, by name.
type files map[string][]byte

type object = map[string]any

// flow is the source of a flow.
type flow struct {
	DisplayName, Description string
	Definition               struct {
		Schema         string         `json:"$schema"`
		ContentVersion string         `json:"contentVersion"`
		Parameters     map[string]any `json:"parameters"`
		Triggers       map[string]any `json:"triggers"`
		Actions        map[string]any `json:"actions"`
	}
}

// makePackages returns the packages of a folder with connector/ and flows/, by their names.
func makePackages(dir string) (map[string]files, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "flows", "*.json"))
	if err != nil {
		return nil, err
	}
	packages, flows := map[string]files{}, map[string]*flow{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		source, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		flows[name] = &flow{}
		if err := json.Unmarshal(source, flows[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if packages[name+".zip"], err = makeLegacy(name, flows[name]); err != nil {
			return nil, err
		}
	}
	packages["solution.zip"], err = makeSolution(filepath.Join(dir, "connector"), flows)
	return packages, err
}

// connectors holds the connectors that the flows use, with their display names.
var connectors = map[string]string{ //nolint:gochecknoglobals // a table
	"shared_approvals": "Approvals", "shared_keyvault": "Azure Key Vault",
	"shared_office365": "Office 365 Outlook", "shared_sharepointonline": "SharePoint",
}

const apis = "/providers/Microsoft.PowerApps/apis/"

// usedConnectors returns the names of the connectors in a part of a definition, sorted.
func usedConnectors(part any) []string {
	var used []string
	switch part := part.(type) {
	case []any:
		for _, v := range part {
			used = append(used, usedConnectors(v)...)
		}
	case object:
		if name, ok := part["connectionName"].(string); ok {
			used = append(used, name)
		}
		for _, v := range part {
			used = append(used, usedConnectors(v)...)
		}
	}
	slices.Sort(used)
	return slices.Compact(used)
}

// makeLegacy returns the files of a legacy package. Every connection is embedded: the flow runs with the connections
// of its owner.
func makeLegacy(name string, f *flow) (files, error) {
	id, inner := newID(name, "package"), newID(name, "flow")
	resources, references, apisMap, connectionsMap, dependsOn := object{}, object{}, object{}, object{}, []string{}
	for _, api := range usedConnectors(f.Definition.Actions) {
		apiID, connection := newID(name, api), newID(name, api, "connection")
		details := object{"displayName": connectors[api]}
		resources[apiID] = object{
			"id": apis + api, "name": api, "type": "Microsoft.PowerApps/apis",
			"suggestedCreationType": "Existing", "details": details, "configurableBy": "System",
			"hierarchy": "Child", "dependsOn": []string{},
		}
		resources[connection] = object{
			"type": "Microsoft.PowerApps/apis/connections", "suggestedCreationType": "Existing",
			"creationType": "Existing", "details": details, "configurableBy": "User", "hierarchy": "Child",
			"dependsOn": []string{apiID},
		}
		prefix := strings.Replace(api, "_", "-", 1)
		references[api] = object{
			"connectionName": prefix[:min(20, len(prefix))] + "-" + connection, "source": "Embedded",
			"id": apis + api, "tier": "NotSpecified",
		}
		apisMap[api], connectionsMap[api], dependsOn = apiID, connection, append(dependsOn, apiID, connection)
	}
	resources[id] = object{
		"type": "Microsoft.Flow/flows", "suggestedCreationType": "New", "creationType": "Existing, New, Update",
		"details": object{"displayName": f.DisplayName}, "configurableBy": "User", "hierarchy": "Root",
		"dependsOn": dependsOn,
	}
	const dir = "Microsoft.Flow/flows/"
	return encodeJSON(map[string]any{
		"manifest.json": object{"schema": "1.0", "details": object{
			"displayName": f.DisplayName, "description": f.Description,
			"createdTime": "2026-01-01T00:00:00.0000000Z", "packageTelemetryId": newID(name, "telemetry"),
			"creator": "N/A", "sourceEnvironment": "",
		}, "resources": resources},
		dir + "manifest.json": object{
			"packageSchemaVersion": "1.0", "flowAssets": object{"assetPaths": []string{id}},
		},
		dir + id + "/apisMap.json":        apisMap,
		dir + id + "/connectionsMap.json": connectionsMap,
		dir + id + "/definition.json": object{
			"name": inner, "id": "/providers/Microsoft.Flow/flows/" + inner,
			"type": "Microsoft.Flow/flows", "properties": object{
				"apiId": apis + "shared_logicflows", "displayName": f.DisplayName, "definition": f.Definition,
				"connectionReferences": references, "flowFailureAlertSubscribed": false,
			},
		},
	})
}

// encodeJSON returns values as JSON files.
func encodeJSON(values map[string]any) (files, error) {
	all := files{}
	for name, value := range values {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(value); err != nil {
			return nil, err
		}
		all[name] = b.Bytes()
	}
	return all, nil
}

// newID returns an id that is the same in each build (a UUID of version 5).
func newID(parts ...string) string {
	sum := sha1.Sum([]byte("autopilot-unassign/power-automate/" + strings.Join(parts, "/"))) //nolint:gosec // as above
	g := guid.GUID(sum[:16])
	g[6], g[8] = g[6]&0x0f|0x50, g[8]&0x3f|0x80
	return g.String()
}

// packFiles returns a zip file with sorted names and one time.
func packFiles(all files) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		part, err := w.CreateHeader(&zip.FileHeader{
			Name: name, Method: zip.Deflate, Modified: time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC),
		})
		if err != nil {
			return nil, err
		}
		if _, err := part.Write(all[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
