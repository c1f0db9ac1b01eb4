package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// prefix is the customisation prefix of the publisher.
const prefix = "apu"

// variable is an environment variable, which takes the place of a setting.
type variable struct {
	Schema, Name, Description, Default, setting string
}

// variables holds the environment variables. The import asks for each without a default.
var variables = []variable{ //nolint:gochecknoglobals // a table
	{
		prefix + "_FunctionUrl", "Function URL",
		"The https address of the function, with /api/unassign at the end.", "", "url",
	},
	{
		prefix + "_ApiKeySecret", "API key secret", "The name of the API key in Azure Key Vault.",
		"api-key-flow", "apiKeySecret",
	},
	{
		prefix + "_Approvers", "Approvers", "The mail addresses of the approvers, with semicolons between them.",
		"", "approvers",
	},
	{
		prefix + "_MailTo", "Mail to", "The mail addresses that receive reports, with semicolons between them.",
		"", "mailTo",
	},
	{prefix + "_Site", "SharePoint site", "The address of the SharePoint site with the list.", "", "site"},
	{prefix + "_List", "SharePoint list", "The title of the SharePoint list.", "Retired devices", "list"},
}

// parameterName returns the name under which a flow knows the variable.
func (v variable) parameterName() string { return v.Name + " (" + v.Schema + ")" }

//go:embed solution.xml
var solutionXML string

//go:embed customizations.xml
var customizationsXML string

//go:embed variable.xml
var variableXML string

// workflow is a flow as the templates need it.
type workflow struct{ ID, Name, File string }

// makeSolution returns the files of an unmanaged solution. Its flows are off.
func makeSolution(connectorDir string, flows map[string]*flow) (files, error) {
	read := map[string][]byte{}
	for _, name := range []string{"apiDefinition.swagger.json", "apiProperties.json", "icon.png"} {
		var err error
		if read[name], err = os.ReadFile(filepath.Join(connectorDir, name)); err != nil {
			return nil, err
		}
	}
	var swagger struct {
		Info struct{ Title, Description string }
	}
	var properties struct {
		Properties struct {
			ConnectionParameterSets json.RawMessage
			PolicyTemplateInstances json.RawMessage
			IconBrandColor          string
		}
	}
	var sets struct {
		Values []struct{ Parameters json.RawMessage }
	}
	for from, into := range map[string]any{"apiDefinition.swagger.json": &swagger, "apiProperties.json": &properties} {
		if err := json.Unmarshal(read[from], into); err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
	}
	if err := json.Unmarshal(properties.Properties.ConnectionParameterSets, &sets); err != nil {
		return nil, err
	}

	name := prefix + "_" + strings.ReplaceAll(strings.ToLower(swagger.Info.Title), " ", "-20")
	all, err := encodeJSON(map[string]any{
		// The parameters of the first set, as in exports.
		"Connector/" + name + "_connectionparameters.json":    sets.Values[0].Parameters,
		"Connector/" + name + "_connectionparametersets.json": properties.Properties.ConnectionParameterSets,
		"Connector/" + name + "_policytemplateinstances.json": properties.Properties.PolicyTemplateInstances,
	})
	if err != nil {
		return nil, err
	}
	all["Connector/"+name+"_openapidefinition.json"] = read["apiDefinition.swagger.json"]
	all["Connector/"+name+"_iconblob.Png"] = read["icon.png"]

	values := struct {
		Prefix, ConnectorID, ConnectorName, Title, Description, Colour string
		Workflows                                                      []workflow
		References                                                     map[string]string
		Variables                                                      []variable
	}{
		prefix, newID("connector"), name, swagger.Info.Title, swagger.Info.Description,
		properties.Properties.IconBrandColor, nil, connectors, variables,
	}
	for _, key := range slices.Sorted(maps.Keys(flows)) {
		f := flows[key]
		id := newID(key, "workflow")
		short := regexp.MustCompile(`[^A-Za-z0-9]`).ReplaceAllString(f.DisplayName, "")
		file := "Workflows/" + short + "-" + strings.ToUpper(id) + ".json"
		values.Workflows = append(values.Workflows, workflow{id, f.DisplayName, "/" + file})
		encoded, err := encodeJSON(map[string]any{file: inSolution(f)})
		if err != nil {
			return nil, err
		}
		maps.Copy(all, encoded)
	}
	for path, text := range map[string]string{
		"solution.xml": solutionXML, "customizations.xml": customizationsXML,
		"[Content_Types].xml": contentTypesXML,
	} {
		if all[path], err = fillTemplate(text, values); err != nil {
			return nil, err
		}
	}
	for _, v := range variables {
		path := "environmentvariabledefinitions/" + v.Schema + "/environmentvariabledefinition.xml"
		if all[path], err = fillTemplate(variableXML, v); err != nil {
			return nil, err
		}
	}
	return all, nil
}

const contentTypesXML = `<?xml version="1.0" encoding="utf-8"?>` +
	`<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">` +
	`<Default Extension="xml" ContentType="application/octet-stream" />` +
	`<Default Extension="json" ContentType="application/octet-stream" />` +
	`<Default Extension="Png" ContentType="application/octet-stream" /></Types>`

// fillTemplate returns a template with values. A function named x escapes a value for XML.
func fillTemplate(text string, values any) ([]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{"x": template.HTMLEscapeString}).Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, values)
	return b.Bytes(), err
}

// inSolution returns a flow as a solution has it: its connections are references, its settings are environment
// variables.
func inSolution(f *flow) object {
	definition := f.Definition
	definition.Actions, definition.Parameters = maps.Clone(definition.Actions), maps.Clone(definition.Parameters)
	settings := maps.Clone(definition.Actions["Settings"].(object))
	inputs := object{}
	for key, example := range settings["inputs"].(object) {
		v := variables[slices.IndexFunc(variables, func(v variable) bool { return v.setting == key })]
		inputs[key] = "@parameters('" + v.parameterName() + "')"
		definition.Parameters[v.parameterName()] = object{
			"defaultValue": example, "type": "String",
			"metadata": object{"schemaName": v.Schema, "description": v.Description},
		}
	}
	settings["inputs"], settings["description"] = inputs, "The environment variables of the solution."
	definition.Actions["Settings"] = settings
	references := object{}
	for _, api := range usedConnectors(f.Definition.Actions) {
		references[api] = object{
			"runtimeSource": "embedded",
			"connection":    object{"connectionReferenceLogicalName": prefix + "_" + api},
			"api":           object{"name": api},
		}
	}
	return object{
		"properties":    object{"connectionReferences": references, "definition": definition},
		"schemaVersion": "1.0.0.0",
	}
}
