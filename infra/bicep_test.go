package infra_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"autopilot-unassign/internal/config"
)

// bicep returns main.bicep.
func bicep(t *testing.T) string {
	t.Helper()
	return read(t, "azure/main.bicep")
}

// block returns what main.bicep says of a resource, by its symbol.
func block(t *testing.T, symbol string) string {
	t.Helper()
	_, found, ok := strings.Cut(bicep(t), "\nresource "+symbol+" ")
	found, _, end := strings.Cut(found, "\n}")
	if !ok || !end {
		t.Fatalf("there is no resource %s", symbol)
	}
	return found
}

// bicepParam is a parameter of main.bicep.
type bicepParam struct {
	decorators, kind, standard string
}

func bicepParams(t *testing.T) map[string]bicepParam {
	t.Helper()
	params := map[string]bicepParam{}
	for _, m := range regexp.MustCompile(`(?m)^((?:@.*\n)*)param (\w+) (\w+)(?: = (.*))?$`).FindAllStringSubmatch(bicep(t), -1) {
		params[m[2]] = bicepParam{m[1], m[3], strings.Trim(m[4], "'")}
	}
	if len(params) < 20 {
		t.Fatalf("there are %d parameters", len(params))
	}
	return params
}

// bicepSettings are the app settings that main.bicep gives, with the expressions of their values.
func bicepSettings(t *testing.T) map[string]string {
	t.Helper()
	settings := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ +\{ name: '([\w.]+)', value: (.*) \}$`).FindAllStringSubmatch(block(t, "site"), -1) {
		settings[m[1]] = m[2]
	}
	return settings
}

// Every kind of resource is of a version that is known to have what is asked of it.
func TestBicepVersions(t *testing.T) {
	want := map[string]string{
		"Microsoft.Authorization/roleAssignments":                   "2022-04-01",
		"Microsoft.Insights/actionGroups":                           "2023-01-01",
		"Microsoft.Insights/components":                             "2020-02-02",
		"Microsoft.Insights/diagnosticSettings":                     "2021-05-01-preview",
		"Microsoft.Insights/scheduledQueryRules":                    "2023-12-01",
		"Microsoft.KeyVault/vaults":                                 "2023-07-01",
		"Microsoft.ManagedIdentity/userAssignedIdentities":          "2023-01-31",
		"Microsoft.OperationalInsights/workspaces":                  "2023-09-01",
		"Microsoft.OperationalInsights/workspaces/savedSearches":    "2020-08-01",
		"Microsoft.Storage/storageAccounts":                         "2023-05-01",
		"Microsoft.Storage/storageAccounts/blobServices":            "2023-05-01",
		"Microsoft.Storage/storageAccounts/blobServices/containers": "2023-05-01",
		"Microsoft.Storage/storageAccounts/queueServices":           "2023-05-01",
		"Microsoft.Storage/storageAccounts/queueServices/queues":    "2023-05-01",
		"Microsoft.Web/serverfarms":                                 "2024-04-01",
		"Microsoft.Web/sites":                                       "2024-04-01",
		"Microsoft.Web/sites/basicPublishingCredentialsPolicies":    "2024-04-01",
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^resource \w+ '([\w./]+)@([\w-]+)'`).FindAllStringSubmatch(bicep(t), -1) {
		got[m[1]] = m[2]
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the resources are %v\nwant %v", got, want)
	}
}

// What a resource must say for itself. checkov looks for most of it as well, and not for all.
func TestBicepResources(t *testing.T) {
	for symbol, words := range map[string][]string{
		"plan": {"name: 'FC1'", "tier: 'FlexConsumption'", "reserved: true"},
		"site": {
			"kind: 'functionapp,linux'", "{ 'azd-service-name': 'api' }", "name: 'custom'", "version: '1.0'", "type: 'blobContainer'", "type: 'UserAssignedIdentity'",
			"httpsOnly: true", "minTlsVersion: '1.2'", "scmMinTlsVersion: '1.2'", "ftpsState: 'Disabled'", "remoteDebuggingEnabled: false",
			"instanceMemoryMB: instanceMemoryMB", "maximumInstanceCount: maximumInstanceCount",
		},
		"scmCredentials": {"name: 'scm'", "allow: false"},
		"ftpCredentials": {"name: 'ftp'", "allow: false"},
		"storage":        {"allowSharedKeyAccess: false", "allowBlobPublicAccess: false", "minimumTlsVersion: 'TLS1_2'", "supportsHttpsTrafficOnly: true"},
		"packages":       {"publicAccess: 'None'"},
		"vault":          {"enableRbacAuthorization: true", "enableSoftDelete: true", "enablePurgeProtection: true"},
		"vaultLogs":      {"scope: vault", "workspaceId: workspace.id", "categoryGroup: 'allLogs'"},
		"insights":       {"WorkspaceResourceId: workspace.id", "DisableLocalAuth: true"},
		"alerts":         {"scopes: [workspace.id]", "windowSize: alert.window", "threshold: 0", "empty(alertEmail) ? [] : [mail.id]", "empty(actionGroupId) ? [] : [actionGroupId]"},
		"mail":           {"if (!empty(alertEmail))", "emailAddress: alertEmail"},
		"queueService":   {"if (hasQueue)"},
		"queues":         {"if (hasQueue)", "for name in queueNames"},
		"queueLogs":      {"if (hasQueue)", "scope: queueService", "category: 'StorageWrite'"},
	} {
		text := block(t, symbol)
		for _, word := range words {
			if !strings.Contains(text, word) {
				t.Errorf("%s does not have %s", symbol, word)
			}
		}
	}
	// The host takes these from functionAppConfig on this plan, and refuses them as settings.
	for _, name := range []string{"WEBSITE_RUN_FROM_PACKAGE", "FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION"} {
		if _, ok := bicepSettings(t)[name]; ok {
			t.Errorf("%s is set", name)
		}
	}
	if strings.Contains(bicep(t), "br/public:") || strings.Contains(bicep(t), "listKeys") {
		t.Error("main.bicep needs a registry, or reads keys")
	}
}

// The identity may do four things, each with one resource, and in the vault it may read secrets alone.
func TestBicepRoles(t *testing.T) {
	ids := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^  (\w+): '([0-9a-f-]{36})'$`).FindAllStringSubmatch(bicep(t), -1) {
		ids[m[1]] = m[2]
	}
	want := map[string]string{ // https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
		"vault":    "4633458b-17de-408a-b874-0445c86b69e6", // Key Vault Secrets User
		"insights": "3913510d-42f4-4e42-8a64-420c390055eb", // Monitoring Metrics Publisher
		"storage":  "b7e6dc6d-f1e8-4753-8033-0f276bb0955b", // Storage Blob Data Owner
		"queue":    "974c5e8b-45b9-4653-ba55-5f855dd0fb88", // Storage Queue Data Contributor
	}
	got := map[string]string{}
	assignment := regexp.MustCompile(`(?m)^resource (\w+) 'Microsoft.Authorization/roleAssignments@[\d-]+' = (if \(hasQueue\) )?\{\n  name: guid\((\w+)\.id, identity\.id, roles\.(\w+)\)\n  scope: (\w+)\n`)
	for _, m := range assignment.FindAllStringSubmatch(bicep(t), -1) {
		symbol, queue, named, role, scope := m[1], m[2], m[3], m[4], m[5]
		text := block(t, symbol)
		if named != scope || !strings.Contains(text, "principalId: identity.properties.principalId") || !strings.Contains(text, "principalType: 'ServicePrincipal'") ||
			!strings.Contains(text, "subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles."+role+")") {
			t.Errorf("%s is %s", symbol, text)
		}
		if queue != "" {
			scope = "queue"
		}
		got[scope] += ids[role]
	}
	if !reflect.DeepEqual(got, want) || strings.Count(bicep(t), "roleAssignments@") != len(want) {
		t.Errorf("the identity may %v\nwant %v", got, want)
	}
}

// Each setting that the program knows is given, or there is a reason; and what is given is known to the program or to the host.
func TestBicepSettings(t *testing.T) {
	left := map[string]string{
		"AUTH":                 "the functions are anonymous to the host: platform would let in everybody",
		"AZURE_AUTHORITY_HOST": "only for a cloud that is none of Microsoft's, where none of this is",
		"GRAPH_ENDPOINT":       "likewise",
		"AZURE_TENANT_ID":      "the managed identity needs neither this nor a secret",
		"AZURE_CLIENT_SECRET":  "likewise",
		"AWS_ENDPOINT_URL_STS": "there is no AWS here",
		"CALLER_POLICY":        "optional: set as an application setting",
		"DRY_RUN":              "likewise",
		"QUEUE_MAX_AGE":        "likewise",
	}
	host := []string{
		"AzureWebJobsStorage__blobServiceUri", "AzureWebJobsStorage__queueServiceUri", "AzureWebJobsStorage__credential", "AzureWebJobsStorage__clientId",
		"APPLICATIONINSIGHTS_CONNECTION_STRING", "APPLICATIONINSIGHTS_AUTHENTICATION_STRING", "AzureWebJobs.sweep.Disabled", "SWEEP_SCHEDULE",
	}
	given := bicepSettings(t)
	known := map[string]bool{}
	for _, setting := range config.Settings() {
		if !setting.Platform {
			known[setting.Name] = true
		}
	}
	if len(known) < 25 {
		t.Fatalf("the settings are %v", slices.Sorted(maps.Keys(known)))
	}
	for name := range known {
		_, isGiven := given[name]
		_, isLeft := left[name]
		if isGiven == isLeft {
			t.Errorf("%s: given %v, left out %v", name, isGiven, isLeft)
		}
	}
	for name := range given {
		if !known[name] && !slices.Contains(host, name) {
			t.Errorf("%s is given, and nobody knows it", name)
		}
	}
	for _, name := range host {
		if given[name] == "" {
			t.Errorf("%s is not given", name)
		}
	}
	for name := range left {
		if !known[name] {
			t.Errorf("%s is left out, and is no setting", name)
		}
	}
	// A setting that a parameter gives has its name.
	for name, value := range given {
		parameter := regexp.MustCompile(`^(?:string\((\w+)\)|(\w+))$`).FindStringSubmatch(value)
		if len(parameter) == 3 && upper(parameter[1]+parameter[2]) != name {
			t.Errorf("%s is %s", name, value)
		}
	}
	for name, want := range map[string]string{
		"VAULT_CREDENTIAL": "'managed-identity'", "AZURE_CLIENT_ID": "identity.properties.clientId", "KEY_VAULT_URL": "vault.properties.vaultUri",
		"AzureWebJobsStorage__clientId": "identity.properties.clientId", "AzureWebJobsStorage__credential": "'managedidentity'",
		"APPLICATIONINSIGHTS_AUTHENTICATION_STRING": "'ClientId=${identity.properties.clientId};Authorization=AAD'",
		"AzureWebJobs.sweep.Disabled":               "hasSweep && !empty(sweepGroupTag) ? 'false' : 'true'",
	} {
		if given[name] != want {
			t.Errorf("%s is %s, want %s", name, given[name], want)
		}
	}
}

// upper returns the name of a parameter as that of a setting: GRAPH_TENANT_ID for graphTenantId.
func upper(name string) string {
	return strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(name, "${1}_$2"))
}

func TestBicepParameters(t *testing.T) {
	params := bicepParams(t)
	var file struct {
		Schema         string `json:"$schema"`
		ContentVersion string
		Parameters     map[string]struct{ Value string }
	}
	readJSON(t, "azure/main.parameters.json", &file)
	variables := map[string]string{"environmentName": "AZURE_ENV_NAME", "optionalFunctions": "WITH"}
	secret := regexp.MustCompile(`(?i)(secret|key|password|token|certificate)s?$`)
	for name, p := range params {
		if !strings.HasPrefix(p.decorators, "@description('") {
			t.Errorf("%s has no description", name)
		}
		if !regexp.MustCompile(`@(allowed|maxLength|maxValue)\(`).MatchString(p.decorators) && name != "location" {
			t.Errorf("%s may be anything", name)
		}
		if strings.Contains(p.decorators, "@secure") || secret.MatchString(name) {
			t.Errorf("%s is a secret", name)
		}
		// azd gives each under the name of its setting. An empty text would take the place of a default: that of the location is the
		// resource group's.
		if name == "location" {
			continue
		}
		variable, special := variables[name]
		if !special {
			variable = upper(name)
		}
		want := "${" + variable
		if p.standard != "" && name != "environmentName" {
			want += "=" + p.standard
		}
		if got := file.Parameters[name].Value; got != want+"}" {
			t.Errorf("%s is given as %s, want %s}", name, got, want)
		}
	}
	if len(file.Parameters) != len(params)-1 {
		t.Errorf("azd gives %d parameters of %d", len(file.Parameters), len(params))
	}
}

// Both clouds are asked for the same, under the same names and with the same defaults.
func TestBicepAsksLikeTheTemplate(t *testing.T) {
	var template struct {
		Parameters map[string]struct {
			Default any `yaml:"Default"`
		} `yaml:"Parameters"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../template.yaml")), &template); err != nil {
		t.Fatal(err)
	}
	other := map[string]string{
		"KeyVaultUrl":   "the vault is made here",
		"VaultTenantId": "the managed identity reads it",
		"VaultClientId": "likewise",
		"RoleName":      "likewise",
		"AlarmTopicArn": "alertEmail and actionGroupId",

		"ReservedConcurrency": "maximumInstanceCount",
		"AllowedAddresses":    "the authorizer of API Gateway",
		"WebAclArn":           "CloudFront",
		"AlarmDevicesPerHour": "the threshold of an alarm of CloudWatch",
		"AlarmRefusals":       "likewise",
		"GraphCredential":     "each template says what its cloud does best",
	}
	differs := map[string]string{"sweepSchedule": "0 0 2 * * *", "logLevel": "info"} // in the words of the host, and of the program
	params := bicepParams(t)
	for name, p := range template.Parameters {
		if other[name] != "" {
			continue
		}
		ours := strings.ToLower(name[:1]) + name[1:]
		standard := ""
		if p.Default != nil {
			text, err := json.Marshal(p.Default)
			if err != nil {
				t.Fatal(err)
			}
			standard = strings.Trim(string(text), `"`)
		}
		if want, ok := differs[ours]; ok {
			standard = want
		}
		if got, ok := params[ours]; !ok || got.standard != standard {
			t.Errorf("%s is %q here and %s %q there", ours, got.standard, name, standard)
		}
	}
}

// The functions that can be chosen are those that can be packed, and what is made for them has the names that they ask for.
func TestBicepFunctions(t *testing.T) {
	var folders []string
	err := filepath.WalkDir("azure", func(path string, _ fs.DirEntry, err error) error {
		if parts := strings.Split(filepath.ToSlash(path), "/"); len(parts) == 4 && parts[3] == "function.json" && parts[1] != "functions" {
			folders = append(folders, parts[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	allowed := regexp.MustCompile(`@allowed\(\[(.*)\]\)`).FindStringSubmatch(bicepParams(t)["optionalFunctions"].decorators)
	chosen := map[string]bool{}
	for word := range strings.FieldsSeq(strings.NewReplacer("'", " ", ",", " ").Replace(allowed[1])) {
		chosen[word] = true
	}
	slices.Sort(folders)
	if got := slices.Sorted(maps.Keys(chosen)); !slices.Equal(got, folders) {
		t.Errorf("there are %v, and %v can be chosen", folders, got)
	}
	var function struct {
		Bindings []struct{ QueueName string }
	}
	if err := json.Unmarshal([]byte(read(t, "azure/queue/queue/function.json")), &function); err != nil {
		t.Fatal(err)
	}
	if want := "var queueNames = ['" + function.Bindings[0].QueueName + "', '" + function.Bindings[1].QueueName + "']"; !strings.Contains(bicep(t), want) {
		t.Errorf("main.bicep does not have %s", want)
	}
	if !strings.Contains(read(t, "azure/sweep/sweep/function.json"), `"%SWEEP_SCHEDULE%"`) || bicepSettings(t)["SWEEP_SCHEDULE"] != "sweepSchedule" {
		t.Error("the timer does not get its schedule")
	}
}

// azd finds the package that the Makefile makes, with the functions that main.bicep is told of.
func TestAzd(t *testing.T) {
	var file struct {
		Name  string
		Infra struct{ Provider, Path, Module string }
		Hooks map[string]struct{ Shell, Run string }
		// By its name.
		Services map[string]struct {
			Project, Language, Host, Dist string
			Hooks                         map[string]struct{ Shell, Run string }
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "../azure.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	api := file.Services["api"]
	if len(file.Services) != 1 || api.Project != "." || api.Language != "custom" || api.Host != "function" {
		t.Errorf("the services are %+v", file.Services)
	}
	if file.Infra.Provider != "bicep" {
		t.Errorf("infra is %+v", file.Infra)
	}
	if _, err := os.Stat(filepath.Join("..", file.Infra.Path, file.Infra.Module+".bicep")); err != nil {
		t.Error(err)
	}
	if hook := api.Hooks["prepackage"]; hook.Shell != "sh" || hook.Run != `make package-azure WITH="$WITH"` {
		t.Errorf("prepackage is %+v", hook)
	}
	if recipe := regexp.MustCompile(`(?m)^package-azure:.*\n(?:\t.*\n)*\t@\$\(GO\) run \./internal/cmd/pack (\S+) `).FindStringSubmatch(read(t, "../Makefile")); len(recipe) != 2 || recipe[1] != api.Dist {
		t.Errorf("the Makefile makes %v, azd takes %s", recipe, api.Dist)
	}
	// What a hook shows is an output of main.bicep.
	for _, hook := range file.Hooks {
		for _, m := range regexp.MustCompile(`\$([A-Z_]+)`).FindAllStringSubmatch(hook.Run, -1) {
			if !strings.Contains(bicep(t), "\noutput "+m[1]+" string = ") {
				t.Errorf("main.bicep does not put out %s", m[1])
			}
		}
	}
	for _, output := range []string{"WEBHOOK_URL", "KEY_VAULT_NAME", "IDENTITY_PRINCIPAL_ID", "NEXT_COMMANDS"} {
		if !strings.Contains(bicep(t), "\noutput "+output+" ") {
			t.Errorf("main.bicep does not put out %s", output)
		}
	}
}

// The queries of the alerts and of those that are kept ask for what is recorded, in words that somebody writes.
func TestBicepQueries(t *testing.T) {
	queries := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^    name: '(\w+)'\n(?:    \w+: .*\n)*?    query: '(.*)'$`).FindAllStringSubmatch(bicep(t), -1) {
		queries[m[1]] = m[2]
	}
	if want := []string{"callers", "device", "expiry", "failures", "faults", "latency", "poison", "refusals", "sweeps", "throttling"}; !slices.Equal(slices.Sorted(maps.Keys(queries)), want) {
		t.Fatalf("the queries are %v", slices.Sorted(maps.Keys(queries)))
	}
	if want := "var records = 'AppTraces | where Message startswith \"{\" | extend r = parse_json(Message)'"; !strings.Contains(bicep(t), want) {
		t.Errorf("main.bicep does not have %s", want)
	}
	// The workbook reads the records in the same way, and they are written by these names (what every line has is not in README).
	if !strings.Contains(read(t, "azure/workbook.json"), `AppTraces\n| where Message startswith \"{\"\n| extend r = parse_json(Message)`) {
		t.Error("the workbook reads other records")
	}
	names := recorded(t)
	names["level"], names["message"] = true, true
	for title, query := range queries {
		if title == "poison" {
			continue
		}
		members := regexp.MustCompile(`\br\.([a-z_]+)`).FindAllStringSubmatch(query, -1)
		if !strings.HasPrefix(query, "${records} | ") || len(members) == 0 {
			t.Errorf("%s asks for nothing: %s", title, query)
		}
		for _, m := range members {
			if !names[m[1]] {
				t.Errorf("%s asks for %s, which no record has", title, m[1])
			}
		}
	}
	for title, files := range map[string]map[string][]string{
		"faults":     {"../template.yaml": {`$.message = "unassign"`, `$.message = "sweep"`, `$.message = "event"`, `$.message = "doctor"`}, "../function/azure.go": {`"event refused"`}},
		"throttling": {"../handler/outcome.go": {`"graph_throttled"`}},
		"expiry":     {"../internal/vault/vault.go": {`"a secret is about to expire or has expired"`}},
	} {
		for path, words := range files {
			for _, word := range words {
				quoted := regexp.MustCompile(`"[^"]+"`).FindString(word)
				if !strings.Contains(read(t, path), word) || !strings.Contains(queries[title], quoted) {
					t.Errorf("%s and %s do not both have %s", title, path, quoted)
				}
			}
		}
	}
	if !strings.Contains(queries["faults"], `r.level == "ERROR"`) {
		t.Errorf("faults asks for %s", queries["faults"])
	}
	if want := `StorageQueueLogs | where OperationName == "PutMessage" and Uri contains "/${queueNames[1]}/"`; queries["poison"] != want {
		t.Errorf("poison asks for %s", queries["poison"])
	}
}
