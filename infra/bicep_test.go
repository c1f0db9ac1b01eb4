package infra_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"autopilot-unassign/internal/config"
)

// snapshot is a deployment as Azure Resource Manager evaluates it from the template and one parameters file.
type snapshot struct {
	PredictedResources []resource
	Diagnostics        []any
}

type resource struct {
	ID, Type, Name, APIVersion, Kind string
	Sku                              struct{ Name, Tier string }
	Properties                       map[string]any
	text                             string // the resource in JSON
}

// at returns the value at a path of member names, or nil.
func (r resource) at(path ...string) any {
	var value any = r.Properties
	for _, name := range path {
		inside, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = inside[name]
	}
	return value
}

// of returns the resources of a type.
func (s snapshot) of(kind string) []resource {
	var found []resource
	for _, r := range s.PredictedResources {
		if r.Type == kind {
			found = append(found, r)
		}
	}
	return found
}

// settings returns the app settings of the function app.
func (s snapshot) settings() map[string]string {
	settings := map[string]string{}
	list, _ := s.of("Microsoft.Web/sites")[0].at("siteConfig", "appSettings").([]any)
	for _, item := range list {
		setting := item.(map[string]any)
		settings[setting["name"].(string)] = setting["value"].(string)
	}
	return settings
}

func parseSnapshot(t *testing.T, text string) snapshot {
	t.Helper()
	var s snapshot
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	var raw struct{ PredictedResources []json.RawMessage }
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatal(err)
	}
	for i := range s.PredictedResources {
		s.PredictedResources[i].text = string(raw.PredictedResources[i])
	}
	return s
}

// snapshots returns the committed snapshots by name. TestBicepSnapshots holds them to the template.
func snapshots(t *testing.T) map[string]snapshot {
	t.Helper()
	files, err := filepath.Glob("azure/snapshots/*.snapshot.json")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]snapshot{}
	for _, path := range files {
		name, _ := strings.CutSuffix(filepath.Base(path), ".snapshot.json")
		found[name] = parseSnapshot(t, read(t, path))
	}
	if len(found) != 9 {
		t.Fatalf("%d snapshots", len(found))
	}
	return found
}

// publishedRoles are Azure's built-in roles by id (https://learn.microsoft.com/azure/role-based-access-control/built-in-roles).
var publishedRoles = map[string]string{
	"a4417e6f-fecd-4de8-b567-7b0420556985": "Key Vault Certificates Officer",
	"b86a8fe4-44ce-4948-aee5-eccb2c155cd7": "Key Vault Secrets Officer",
	"4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
	"3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
	"ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
	"b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
	"974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
}

// publishedValues are values that the compiler accepts misspelt, as Azure's reference publishes them.
var publishedValues = []struct {
	kind string
	path string // of the value
	of   func(resource) any
	want []string
}{
	{"Microsoft.Storage/storageAccounts", "sku.name", func(r resource) any { return r.Sku.Name }, []string{"Standard_LRS", "Standard_ZRS", "Standard_GRS"}},
	{"Microsoft.Storage/storageAccounts", "kind", func(r resource) any { return r.Kind }, []string{"StorageV2"}},
	{"Microsoft.Web/serverfarms", "sku", func(r resource) any { return r.Sku.Name + " " + r.Sku.Tier }, []string{"FC1 FlexConsumption"}},
	{"Microsoft.Web/sites", "kind", func(r resource) any { return r.Kind }, []string{"functionapp,linux"}},
	{"Microsoft.Web/sites", "runtime", func(r resource) any { return r.at("functionAppConfig", "runtime") }, []string{"map[name:custom version:1.0]"}},
	{"Microsoft.Web/sites", "deployment storage", func(r resource) any { return r.at("functionAppConfig", "deployment", "storage", "type") }, []string{"blobContainer"}},
	{"Microsoft.Web/sites/extensions", "name", func(r resource) any { return r.Name[strings.LastIndex(r.Name, "/")+1:] }, []string{"onedeploy"}},
	{"Microsoft.Web/sites/extensions", "remoteBuild", func(r resource) any { return r.at("remoteBuild") }, []string{"false"}},
	{"Microsoft.OperationalInsights/workspaces", "sku", func(r resource) any { return r.at("sku", "name") }, []string{"PerGB2018"}},
	{"Microsoft.Insights/scheduledQueryRules", "windowSize", func(r resource) any { return r.at("windowSize") }, []string{"PT10M", "PT30M", "PT1H", "P1D"}},
	{"Microsoft.Insights/scheduledQueryRules", "evaluationFrequency", func(r resource) any { return r.at("evaluationFrequency") }, []string{"PT5M", "PT15M", "PT1H", "PT6H"}},
}

// templateFaults returns the faults that the compiler accepts and Azure refuses or reads otherwise.
func templateFaults(s snapshot) []string {
	var faults []string
	for _, d := range s.Diagnostics {
		faults = append(faults, fmt.Sprint(d))
	}
	for _, rule := range publishedValues {
		for _, r := range s.of(rule.kind) {
			if got := fmt.Sprint(rule.of(r)); !slices.Contains(rule.want, got) {
				faults = append(faults, fmt.Sprintf("%s: %s is %s", r.Type, rule.path, got))
			}
		}
	}
	for _, r := range s.of("Microsoft.Authorization/roleAssignments") {
		id, _ := r.at("roleDefinitionId").(string)
		if publishedRoles[id[strings.LastIndex(id, "/")+1:]] == "" {
			faults = append(faults, "no built-in role has the id "+id)
		}
	}
	for _, r := range s.of("Microsoft.Web/sites") {
		if r.at("siteConfig", "ftpsState") != nil || r.at("siteConfig", "linuxFxVersion") != nil {
			faults = append(faults, "Flex Consumption refuses ftpsState and linuxFxVersion (error 51021)")
		}
	}
	for _, r := range s.of("Microsoft.OperationalInsights/workspaces/savedSearches") {
		if r.at("etag") != "*" {
			faults = append(faults, r.Name+": without an etag the second deployment ends with 409")
		}
	}
	return faults
}

func TestSnapshotsUsePublishedValues(t *testing.T) {
	t.Parallel()
	for name, s := range snapshots(t) {
		for _, fault := range templateFaults(s) {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

// principalOf names the principal of a role assignment.
func principalOf(r resource) string {
	switch id, _ := r.at("principalId").(string); {
	case strings.Contains(id, "id-unassign-package-"):
		return "package identity"
	case strings.Contains(id, "id-unassign-"):
		return "function"
	case id == "[deployer().objectId]":
		return "deployer"
	default:
		return id
	}
}

// The function's identity has no right to the package, and reads the vault's secrets without writing them.
func TestSnapshotsGrantLeast(t *testing.T) {
	t.Parallel()
	always := []string{
		"function: Monitoring Metrics Publisher on components", "function: Storage Blob Data Owner on stunassign",
		"function: Key Vault Secrets User on vaults", "package identity: Storage Blob Data Contributor on containers",
	}
	deployer, queue := "deployer: Key Vault Secrets Officer on vaults", "function: Storage Queue Data Contributor on stunassign"
	extra := map[string][]string{
		"own-vault":   {},
		"queue":       {deployer, queue},
		"network":     {deployer, queue},
		"certificate": {deployer, "deployer: Key Vault Certificates Officer on vaults"},
	}
	scope := regexp.MustCompile(`/(components|vaults|containers|storageAccounts)/(stunassign|stpackage)?[^/]*[/']`)
	for name, s := range snapshots(t) {
		want := slices.Clone(always)
		if more, ok := extra[name]; ok {
			want = append(want, more...)
		} else {
			want = append(want, deployer)
		}
		var got []string
		for _, r := range s.of("Microsoft.Authorization/roleAssignments") {
			id := r.at("roleDefinitionId").(string)
			target, _, _ := strings.Cut(r.ID, "/providers/Microsoft.Authorization/")
			target = target[:min(len(target), strings.Index(target+"', 'Microsoft.Authorization", "', 'Microsoft.Authorization"))]
			matches := scope.FindAllStringSubmatch(target+"/", -1)
			last := matches[len(matches)-1]
			on := last[1]
			if on == "storageAccounts" {
				on = last[2]
			}
			got = append(got, principalOf(r)+": "+publishedRoles[id[strings.LastIndex(id, "/")+1:]]+" on "+on)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s grants\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// The package of a deployment has the functions that it switches on and no others, because each costs start-up time.
func TestSnapshotsDeployTheRightPackage(t *testing.T) {
	t.Parallel()
	released := "https://github.com/contoso/autopilot-unassign/releases/download/" + releaseOf(t).Version + "/azure-linux-amd64"
	want := map[string][3]string{ // package, sweep disabled, queue disabled
		"signature": {released + ".zip", "true", "true"}, "certificate": {released + ".zip", "true", "true"},
		"own-vault": {released + ".zip", "true", "true"}, "recover": {released + ".zip", "true", "true"},
		"sweep": {released + "-events.zip", "false", "true"}, "queue": {released + "-events.zip", "true", "false"},
		"network": {released + "-events.zip", "true", "false"}, "entra": {"https://contoso.example/azure.zip", "true", "true"},
		"api-key": {"", "true", "true"},
	}
	for name, s := range snapshots(t) {
		uri := ""
		if deployments := s.of("Microsoft.Web/sites/extensions"); len(deployments) == 1 {
			uri = deployments[0].at("packageUri").(string)
		}
		settings := s.settings()
		if got := [3]string{uri, settings["AzureWebJobs.sweep.Disabled"], settings["AzureWebJobs.queue.Disabled"]}; got != want[name] {
			t.Errorf("%s: %v, want %v", name, got, want[name])
		}
	}
}

// A snapshot exists because it differs: these are the values that make the difference.
func TestSnapshotsDiffer(t *testing.T) {
	t.Parallel()
	all := snapshots(t)
	vault := func(name string) resource { return all[name].of("Microsoft.KeyVault/vaults")[0] }
	site := func(name string) resource { return all[name].of("Microsoft.Web/sites")[0] }
	for what, values := range map[string][2]any{
		"the default credential":        {all["signature"].settings()["GRAPH_CREDENTIAL"], "identity"},
		"the default tenant":            {all["signature"].settings()["GRAPH_TENANT_ID"], "22222222-2222-4222-8222-222222222222"},
		"the policy in JSON":            {all["api-key"].settings()["CALLER_POLICY"], `{"api-key-flow": {"groupTags": ["MTR-*"], "devicesPerHour": 100}}`},
		"purge protection":              {vault("signature").at("enablePurgeProtection"), true},
		"no purge protection":           {vault("recover").at("enablePurgeProtection"), nil},
		"the mode to create":            {vault("signature").at("createMode"), "default"},
		"the mode to recover":           {vault("recover").at("createMode"), "recover"},
		"an own vault":                  {strings.Contains(all["own-vault"].settings()["KEY_VAULT_URL"], "'kv-contoso'"), true},
		"no vault beside it":            {len(all["own-vault"].of("Microsoft.KeyVault/vaults")), 0},
		"access by default":             {site("signature").at("siteConfig", "ipSecurityRestrictionsDefaultAction"), "Allow"},
		"access from addresses":         {site("network").at("siteConfig", "ipSecurityRestrictionsDefaultAction"), "Deny"},
		"rules":                         {len(site("network").at("siteConfig", "ipSecurityRestrictions").([]any)), 3},
		"a public vault":                {vault("signature").at("publicNetworkAccess"), "Enabled"},
		"a private vault":               {vault("network").at("publicNetworkAccess"), "Disabled"},
		"private endpoints":             {len(all["network"].of("Microsoft.Network/privateEndpoints")), 4},
		"no network by default":         {len(all["signature"].of("Microsoft.Network/virtualNetworks")), 0},
		"vault events with an address":  {len(all["certificate"].of("Microsoft.EventGrid/systemTopics/eventSubscriptions")), 1},
		"no vault events without one":   {len(all["signature"].of("Microsoft.EventGrid/systemTopics")), 0},
		"queues":                        {len(all["queue"].of("Microsoft.Storage/storageAccounts/queueServices/queues")), 2},
		"requests on one instance":      {site("signature").at("functionAppConfig", "scaleAndConcurrency", "triggers", "http", "perInstanceConcurrency"), hostRequests(t)},
		"the log's cap":                 {all["signature"].of("Microsoft.OperationalInsights/workspaces")[0].at("workspaceCapping", "dailyQuotaGb"), 5.0},
		"the location of the scm rule":  {strings.Contains(all["signature"].of("Microsoft.Web/sites/basicPublishingCredentialsPolicies")[0].text, `"location": "westeurope"`), true},
		"alerts without a queue":        {len(all["signature"].of("Microsoft.Insights/scheduledQueryRules")), 9},
		"alerts with a queue":           {len(all["queue"].of("Microsoft.Insights/scheduledQueryRules")), 11},
		"TLS alone":                     {all["signature"].of("Microsoft.Storage/storageAccounts")[0].at("supportsHttpsTrafficOnly"), true},
		"no keys of the storage":        {all["signature"].of("Microsoft.Storage/storageAccounts")[1].at("allowSharedKeyAccess"), false},
		"a mail address that is absent": {len(all["signature"].of("Microsoft.Insights/actionGroups")), 0},
	} {
		if values[0] != values[1] {
			t.Errorf("%s: %v, want %v", what, values[0], values[1])
		}
	}
}

// hostRequests returns the number of requests that host.json lets run at once.
func hostRequests(t *testing.T) float64 {
	t.Helper()
	var host struct {
		Extensions struct {
			HTTP struct{ MaxConcurrentRequests float64 }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "../host.json")), &host); err != nil {
		t.Fatal(err)
	}
	return host.Extensions.HTTP.MaxConcurrentRequests
}

// An alert's window is longer than its interval: logs arrive minutes late.
func TestSnapshotsAlertOnLateLogs(t *testing.T) {
	t.Parallel()
	minutes := map[string]int{"PT5M": 5, "PT10M": 10, "PT15M": 15, "PT30M": 30, "PT1H": 60, "PT6H": 360, "P1D": 1440}
	for _, r := range snapshots(t)["queue"].of("Microsoft.Insights/scheduledQueryRules") {
		if window, every := r.at("windowSize").(string), r.at("evaluationFrequency").(string); minutes[window] < 2*minutes[every] {
			t.Errorf("%s looks at %s every %s", r.Name, window, every)
		}
		text := fmt.Sprint(r.at("criteria"))
		if strings.Contains(text, "SeverityLevel") {
			t.Errorf("%s goes by the host's severity, which is Information for every record", r.Name)
		}
	}
}

// release is the one place that a fork's owner edits.
type release struct{ Repository, Version string }

func releaseOf(t *testing.T) release {
	t.Helper()
	var r release
	readJSON(t, "azure/release.json", &r)
	if !regexp.MustCompile(`^https://github\.com/[\w.-]+/[\w.-]+$`).MatchString(r.Repository) || !regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(r.Version) {
		t.Fatalf("release.json is %+v", r)
	}
	return r
}

// armParameter is a parameter of azuredeploy.json, which is main.bicep compiled.
type armParameter struct {
	Type          string
	DefaultValue  any
	AllowedValues []any
	MaxLength     *int
	MaxValue      *int
	Metadata      map[string]any
}

func parameters(t *testing.T) map[string]armParameter {
	t.Helper()
	var template struct{ Parameters map[string]armParameter }
	if err := json.Unmarshal([]byte(read(t, "azure/azuredeploy.json")), &template); err != nil {
		t.Fatal(err)
	}
	return template.Parameters
}

// Each documented setting is an app setting or left out with a reason, and each app setting is documented or the host's.
func TestBicepSettings(t *testing.T) {
	t.Parallel()
	left := map[string]string{
		"AUTH":                 "the functions are anonymous to the host: platform would accept every request",
		"AZURE_AUTHORITY_HOST": "for clouds that are not Microsoft's",
		"GRAPH_ENDPOINT":       "likewise",
		"AZURE_TENANT_ID":      "the managed identity needs neither a tenant nor a secret",
		"AZURE_CLIENT_SECRET":  "likewise",
		"AWS_ENDPOINT_URL_STS": "for AWS",
	}
	host := []string{
		"AzureWebJobsStorage__blobServiceUri", "AzureWebJobsStorage__queueServiceUri", "AzureWebJobsStorage__credential",
		"AzureWebJobsStorage__clientId", "APPLICATIONINSIGHTS_CONNECTION_STRING", "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
		"AzureWebJobs.sweep.Disabled", "AzureWebJobs.queue.Disabled", "SWEEP_SCHEDULE",
	}
	given := snapshots(t)["signature"].settings()
	documented := map[string]bool{}
	for _, setting := range config.Settings() {
		documented[setting.Name] = !setting.Platform
	}
	maps.DeleteFunc(documented, func(_ string, ours bool) bool { return !ours })
	for name := range documented {
		_, isGiven := given[name]
		if isGiven == (left[name] != "") {
			t.Errorf("%s: given %v, left out because %q", name, isGiven, left[name])
		}
	}
	for name := range given {
		if !documented[name] && !slices.Contains(host, name) {
			t.Errorf("%s is given and documented nowhere", name)
		}
	}
	params := parameters(t)
	ours := []string{"KEY_VAULT_URL", "VAULT_CREDENTIAL", "AZURE_CLIENT_ID"} // that the template sets by itself
	for name := range given {
		if !slices.Contains(host, name) && !slices.Contains(ours, name) && params[camel(name)].Type == "" {
			t.Errorf("%s has no parameter %s", name, camel(name))
		}
	}
	_, page, _ := strings.Cut(read(t, "../docs/azure.md"), "\n## Parameters\n")
	for _, name := range slices.AppendSeq(ours, maps.Keys(left)) {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/azure.md does not say that %s is no parameter", name)
		}
	}
	// On this plan functionAppConfig has these, and the host refuses them as settings.
	for _, name := range []string{"WEBSITE_RUN_FROM_PACKAGE", "FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION"} {
		if _, ok := given[name]; ok {
			t.Errorf("%s is set", name)
		}
	}
}

// camel returns a setting's name as a parameter: graphTenantId for GRAPH_TENANT_ID.
func camel(name string) string {
	words := strings.Split(strings.ToLower(name), "_")
	for i, word := range words[1:] {
		words[i+1] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}

// snake returns a parameter's name as a setting: GRAPH_TENANT_ID for graphTenantId.
func snake(name string) string {
	return strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(name, "${1}_$2"))
}

// azd takes each parameter from a variable with a prefix, because it resolves variables from the shell as well: LOG_LEVEL of a
// profile would be taken.
func TestAzdParameters(t *testing.T) {
	t.Parallel()
	var file struct {
		Schema         string `json:"$schema"`
		ContentVersion string
		Parameters     map[string]struct{ Value string }
	}
	readJSON(t, "azure/main.parameters.json", &file)
	params := parameters(t)
	azd := map[string]string{"environmentName": "${AZURE_ENV_NAME}"}
	secret := regexp.MustCompile(`(?i)(secret|key|password|certificate)s?$`)
	delete(params, "repository") // release.json is its one place
	delete(params, "location")   // the resource group's: azd would give an empty value where it knows no region
	for name, p := range params {
		want := azd[name]
		if want == "" {
			standard := ""
			if p.DefaultValue != nil && p.DefaultValue != "" {
				standard = "=" + fmt.Sprint(p.DefaultValue)
			}
			want = "${UNASSIGN_" + snake(name) + standard + "}"
		}
		if got := file.Parameters[name].Value; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		if p.Metadata["description"] == nil || p.Type == "string" && p.MaxLength == nil && p.AllowedValues == nil {
			t.Errorf("%s has no description or no bound", name)
		}
		if strings.HasPrefix(p.Type, "secure") || secret.MatchString(name) {
			t.Errorf("%s is a secret", name)
		}
	}
	if len(file.Parameters) != len(params) {
		t.Errorf("azd gives %d parameters of %d", len(file.Parameters), len(params))
	}
}

// An output that has the name of a variable that azd reads would overwrite it, and "azd down" would then delete it.
func TestAzdOutputs(t *testing.T) {
	t.Parallel()
	var template struct{ Outputs map[string]any }
	if err := json.Unmarshal([]byte(read(t, "azure/azuredeploy.json")), &template); err != nil {
		t.Fatal(err)
	}
	inputs := read(t, "azure/main.parameters.json")
	for name := range template.Outputs {
		if strings.Contains(inputs, "${"+name) {
			t.Errorf("%s is input and output", name)
		}
	}
	for _, name := range []string{"WEBHOOK_URL", "APP_URL", "APP_NAME", "VAULT_NAME", "IDENTITY_PRINCIPAL_ID", "WORKSPACE_ID"} {
		if template.Outputs[name] == nil {
			t.Errorf("there is no output %s", name)
		}
	}
}

// azd provisions and nothing else: no alpha feature, no build on the reader's machine.
func TestAzd(t *testing.T) {
	t.Parallel()
	var file struct {
		Name  string
		Infra struct{ Provider, Path, Module string }
		Rest  map[string]any `yaml:",inline"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../azure.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	if file.Name == "" || file.Infra.Provider != "bicep" || len(file.Rest) > 0 {
		t.Errorf("azure.yaml is %+v", file)
	}
	if _, err := os.Stat(filepath.Join("..", file.Infra.Path, file.Infra.Module+".bicep")); err != nil {
		t.Error(err)
	}
}

// Both clouds have the same parameters with the same defaults.
func TestBicepAsksLikeTheTemplate(t *testing.T) {
	t.Parallel()
	var template struct {
		Parameters map[string]struct {
			Default any `yaml:"Default"`
		} `yaml:"Parameters"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../template.yaml")), &template); err != nil {
		t.Fatal(err)
	}
	differs := []string{ // in the words of the host, or with another default for the reason that docs give
		"sweepSchedule", "logLevel", "graphCredential", "allowedAddresses", "rateLimit", "logRetentionDays", "alertEmail", "graphTenantId", "graphClientId",
	}
	params, common := parameters(t), 0
	for name, p := range template.Parameters {
		ours := strings.ToLower(name[:1]) + name[1:]
		if _, ok := params[ours]; !ok || slices.Contains(differs, ours) {
			continue
		}
		common++
		theirs := ""
		if p.Default != nil {
			theirs = fmt.Sprint(p.Default)
		}
		if got := fmt.Sprint(params[ours].DefaultValue); got != theirs {
			t.Errorf("%s is %q here and %q in template.yaml", ours, got, theirs)
		}
	}
	if common < 12 {
		t.Errorf("%d parameters are common", common)
	}
}

// The names of the queues and of the timer's setting are the same in the template and in the package.
func TestBicepFunctions(t *testing.T) {
	t.Parallel()
	var function struct {
		Bindings []struct{ QueueName string }
	}
	if err := json.Unmarshal([]byte(read(t, "azure/queue/queue/function.json")), &function); err != nil {
		t.Fatal(err)
	}
	s := snapshots(t)["queue"]
	for i, queue := range s.of("Microsoft.Storage/storageAccounts/queueServices/queues") {
		if !strings.HasSuffix(queue.Name, "/"+function.Bindings[i].QueueName) {
			t.Errorf("the template creates %s, the function takes %s", queue.Name, function.Bindings[i].QueueName)
		}
	}
	if !strings.Contains(read(t, "azure/sweep/sweep/function.json"), `"%SWEEP_SCHEDULE%"`) || s.settings()["SWEEP_SCHEDULE"] != "0 0 2 * * *" {
		t.Error("the timer does not get its schedule")
	}
}

// kqlQueries returns the queries of the alerts, the workspace and the workbook, by name.
func kqlQueries(t *testing.T) map[string]string {
	t.Helper()
	queries := map[string]string{}
	s := snapshots(t)["queue"]
	for _, r := range s.of("Microsoft.Insights/scheduledQueryRules") {
		criteria := r.at("criteria").(map[string]any)["allOf"].([]any)[0].(map[string]any)
		query := criteria["query"].(string)
		// Of one query only the deployment knows a part: [replace('QUERY', …)].
		if m := regexp.MustCompile(`^\[replace\('((?:[^']|'')*)'`).FindStringSubmatch(query); m != nil {
			query = strings.ReplaceAll(m[1], "''", "'")
		}
		queries["alert "+strings.Split(r.Name, "-")[1]] = query
	}
	for _, r := range s.of("Microsoft.OperationalInsights/workspaces/savedSearches") {
		queries["search "+r.Name[strings.LastIndex(r.Name, "-")+1:]] = r.at("query").(string)
	}
	var workbook struct {
		Items []struct {
			Name    string
			Content struct{ Query string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "azure/workbook.json")), &workbook); err != nil {
		t.Fatal(err)
	}
	for _, item := range workbook.Items {
		if item.Content.Query != "" {
			queries["workbook "+item.Name] = item.Content.Query
		}
	}
	return queries
}

// sources returns the program's Go files, without tests.
func sources(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, folder := range []string{"../function", "../handler", "../internal/vault", "../internal/entra"} {
		files, err := filepath.Glob(folder + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if !strings.HasSuffix(path, "_test.go") {
				text.WriteString(read(t, path))
			}
		}
	}
	return text.String()
}

// Queries go by members that the records have, and by words that the code writes.
func TestBicepQueries(t *testing.T) {
	t.Parallel()
	queries := kqlQueries(t)
	want := strings.Fields("backlog devices expiry faults latency logs package poison refusals throttling vault")
	var alerts []string
	for name := range queries {
		if alert, ok := strings.CutPrefix(name, "alert "); ok {
			alerts = append(alerts, alert)
		}
	}
	slices.Sort(alerts)
	if !slices.Equal(alerts, want) {
		t.Fatalf("the alerts are %v", alerts)
	}
	names := recorded(t)
	program := sources(t)
	maps.Copy(names, map[string]bool{"level": true, "message": true, "waited_ms": true})
	for title, query := range queries {
		for _, m := range regexp.MustCompile(`\br\.([a-z_]+)`).FindAllStringSubmatch(query, -1) {
			if !names[m[1]] {
				t.Errorf("%s goes by %s, which no record has", title, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\br\.(?:message|level|code|caller_id) (?:==|!=|in|startswith) (\(?(?:"[^"]+"(?:, )?)+)`).FindAllStringSubmatch(query, -1) {
			for _, word := range regexp.MustCompile(`"[^"]+"`).FindAllString(m[1], -1) {
				if word != `"ERROR"` && !strings.Contains(program, strings.TrimSuffix(word, `"`)) {
					t.Errorf("%s looks for %s, which the program does not write", title, word)
				}
			}
		}
	}
}

// The portal's form fills in parameters that exist, with values that they allow, and every field reaches the template.
func TestCreateUIDefinition(t *testing.T) {
	t.Parallel()
	type element struct {
		Name, Type, Label string
		DefaultValue      any
		Constraints       struct {
			Required, Regex any
			AllowedValues   []struct{ Label, Value string }
		}
	}
	var form struct {
		Handler, Version string
		Parameters       struct {
			Basics  []any
			Outputs map[string]string
			Steps   []struct {
				Name, Label string
				Elements    []element
			}
		}
	}
	if err := json.Unmarshal([]byte(read(t, "azure/createUiDefinition.json")), &form); err != nil {
		t.Fatal(err)
	}
	params, fields := parameters(t), map[string]element{}
	for _, step := range form.Parameters.Steps {
		for _, e := range step.Elements {
			if e.Type != "Microsoft.Common.TextBlock" {
				fields["[steps('"+step.Name+"')."+e.Name+"]"] = e
			}
		}
	}
	for name, value := range form.Parameters.Outputs {
		p, ok := params[name]
		field, isField := fields[value]
		if !ok || !isField && value != "[location()]" {
			t.Errorf("the output %s is %s", name, value)
		}
		delete(fields, value)
		for _, choice := range field.Constraints.AllowedValues {
			if !slices.Contains(p.AllowedValues, any(choice.Value)) {
				t.Errorf("%s does not allow %q", name, choice.Value)
			}
			if choice.Label == field.DefaultValue && choice.Value != p.DefaultValue {
				t.Errorf("%s is %q in the form and %v in the template", name, choice.Value, p.DefaultValue)
			}
		}
		if pattern, ok := field.Constraints.Regex.(string); ok {
			if _, err := regexp.Compile(pattern); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(fields) > 0 {
		t.Errorf("%d fields reach no parameter: %v", len(fields), slices.Sorted(maps.Keys(fields)))
	}
	for name, p := range params {
		if _, filled := form.Parameters.Outputs[name]; p.DefaultValue == nil && !filled {
			t.Errorf("the form does not ask for %s", name)
		}
	}
}

// buttonURL returns the address behind the deploy button: the portal, the template and the form of the release.
func buttonURL(r release) string {
	raw := strings.Replace(r.Repository, "https://github.com/", "https://raw.githubusercontent.com/", 1) + "/" + r.Version + "/infra/azure/"
	return "https://portal.azure.com/#create/Microsoft.Template/uri/" + url.QueryEscape(raw+"azuredeploy.json") +
		"/createUIDefinitionUri/" + url.QueryEscape(raw+"createUiDefinition.json")
}

// releasePages returns the pages that name a release. A fork's owner sets it once, in release.json.
func releasePages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	return append(pages, "../README.md", "../SECURITY.md", "release/README.txt")
}

// Every page names the release of release.json: by the button, by the commands, by the repository of an attestation.
func TestPagesNameTheRelease(t *testing.T) {
	t.Parallel()
	named := 0
	for _, name := range releasePages(t) {
		page := read(t, name)
		if page != withRelease(page, releaseOf(t)) {
			t.Errorf("%s names another release than release.json: make azuredeploy", name)
		}
		if page != withRelease(page, release{"https://github.com/contoso/other", "v9.9.9"}) {
			named++
		}
	}
	if named != 5 {
		t.Errorf("%d pages name the release", named)
	}
}

// withRelease returns a page with the addresses of a release.
func withRelease(page string, r release) string {
	page = regexp.MustCompile(`https://portal\.azure\.com/#create/Microsoft\.Template/uri/[^)\s]+`).ReplaceAllLiteralString(page, buttonURL(r))
	raw := strings.Replace(r.Repository, "https://github.com/", "https://raw.githubusercontent.com/", 1) + "/" + r.Version + "/infra/azure"
	page = regexp.MustCompile(`https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/v[\w.-]+/infra/azure`).ReplaceAllLiteralString(page, raw)
	repository := "--repo " + strings.TrimPrefix(r.Repository, "https://github.com/")
	page = regexp.MustCompile(`--repo [\w.-]+/[\w.-]+`).ReplaceAllLiteralString(page, repository)
	download := r.Repository + "/releases/download/" + r.Version
	return regexp.MustCompile(`https://github\.com/[\w.-]+/[\w.-]+/releases/download/v[\w.-]+`).ReplaceAllLiteralString(page, download)
}

// The platform stores the package with an identity whose role was assigned a moment ago: the template waits in between.
func TestTemplateWaitsForTheRole(t *testing.T) {
	t.Parallel()
	type deployed struct {
		Type, Name string
		Copy       struct{ Name, Count, Mode string }
		DependsOn  []string
	}
	var template struct{ Resources []deployed }
	if err := json.Unmarshal([]byte(read(t, "azure/azuredeploy.json")), &template); err != nil {
		t.Fatal(err)
	}
	find := func(is func(deployed) bool) deployed {
		i := slices.IndexFunc(template.Resources, is)
		if i < 0 {
			t.Fatal("a resource is missing")
		}
		return template.Resources[i]
	}
	wait := find(func(r deployed) bool { return r.Copy.Name == "roleWait" })
	onedeploy := find(func(r deployed) bool { return r.Type == "Microsoft.Web/sites/extensions" })
	role := regexp.MustCompile(`roleAssignments.*'stpackage\{0\}'.*storageBlobDataContributor`)
	if !slices.Contains(onedeploy.DependsOn, "roleWait") || !slices.ContainsFunc(wait.DependsOn, role.MatchString) {
		t.Errorf("the package depends on %v, the wait on %v", onedeploy.DependsOn, wait.DependsOn)
	}
	if wait.Copy.Mode != "serial" || !strings.Contains(wait.Copy.Count, "20") {
		t.Errorf("the wait is %+v", wait.Copy)
	}
}

// The page registers every resource provider of the template, and Microsoft.App, which the plan needs without a resource of it.
func TestProvidersAreRegistered(t *testing.T) {
	t.Parallel()
	m := regexp.MustCompile(`(?m)^for NAMESPACE in (.*); do$`).FindStringSubmatch(read(t, "../docs/azure.md"))
	if len(m) != 2 {
		t.Fatal("docs/azure.md registers no provider")
	}
	registered := strings.Fields(m[1])
	used := map[string]bool{"App": true}
	for _, s := range snapshots(t) {
		for _, r := range s.PredictedResources {
			name, _, _ := strings.Cut(strings.TrimPrefix(r.Type, "Microsoft."), "/")
			used[name] = true
		}
	}
	delete(used, "Authorization") // always registered
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, registered) {
		t.Errorf("the page registers %v, the template uses %v", registered, got)
	}
	if regions := parameters(t)["location"].AllowedValues; len(regions) < 25 || !slices.Contains(regions, any("westeurope")) {
		t.Errorf("the regions are %v", regions)
	}
}
