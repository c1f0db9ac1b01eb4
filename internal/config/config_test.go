package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/handler"
)

const (
	tenantID = "11111111-2222-4333-8444-555555555555"
	clientID = "66666666-7777-4888-8999-aaaaaaaaaaaa"
)

// complete returns the least settings of a deployment, changed as given by pairs of a name and a value.
func complete(changes ...string) func(string) string {
	values := map[string]string{
		"KEY_VAULT_URL":        "https://contoso.vault.azure.net",
		"GRAPH_TENANT_ID":      tenantID,
		"GRAPH_CLIENT_ID":      clientID,
		"GRAPH_SECRET_NAME":    "graph-client-secret",
		"WEBHOOK_SECRET_NAMES": "webhook-servicenow",
	}
	for i := 0; i < len(changes); i += 2 {
		values[changes[i]] = changes[i+1]
	}
	return func(name string) string { return values[name] }
}

func TestLoad(t *testing.T) {
	c, err := Load(complete(), Azure)
	want := Config{
		VaultURL: "https://contoso.vault.azure.net", VaultCredential: ManagedIdentity,
		TenantID: tenantID, ClientID: clientID, SecretName: "graph-client-secret",
		Cloud: Cloud{
			Authority: "https://login.microsoftonline.com/", IssuerV1: "https://sts.windows.net/",
			IssuerV2: "https://login.microsoftonline.com/",
			Graph:    "https://graph.microsoft.com", VaultSuffix: ".vault.azure.net",
			Exchange: "api://AzureADTokenExchange",
		},
		WebhookSecretNames: []string{"webhook-servicenow"},
		EntraTenants:       []string{tenantID}, EntraRole: "Device.Unassign", EntraScope: "user_impersonation",
		Sweep: handler.Sweep{MaxDevices: 10, MinInventory: 1}, Policy: handler.Policy{PerMinute: 60}, QueueMaxAge: 24 * time.Hour,
		Tolerance: 300 * time.Second, Timeout: 25 * time.Second,
	}
	if c.Host != Azure || c.Getenv("KEY_VAULT_URL") != want.VaultURL { // where the doctor reads them anew
		t.Errorf("Load = %+v", c)
	}
	c.Host, c.Getenv = "", nil // which cannot be compared
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("Load = %+v, %v\nwant %+v", c, err, want)
	}
	c, err = Load(complete(
		"AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "https://login.example/", "GRAPH_ENDPOINT", "https://graph.example",
		"KEY_VAULT_URL", "https://127.0.0.1:8443/", "VAULT_CREDENTIAL", "client-secret", "AZURE_TENANT_ID",
		strings.ToUpper(tenantID),
		"AZURE_CLIENT_ID", clientID, "AZURE_CLIENT_SECRET", "s", "GRAPH_SECRET_NAME", "", "GRAPH_CERTIFICATE_NAME",
		"graph-certificate",
		"API_KEY_SECRET_NAMES", " a, b ,", "SIGNATURE_TOLERANCE", "60s", "REQUEST_TIMEOUT", "1m", "LOG_LEVEL", "error"),
		Lambda)
	if err != nil {
		t.Fatal(err)
	}
	custom := Cloud{
		Authority: "https://login.example", IssuerV1: "https://sts.windows.net/", IssuerV2: "https://login.example/",
		Graph: "https://graph.example", Exchange: "api://AzureADTokenExchange", Custom: true,
	}
	if c.Cloud != custom || c.VaultURL != "https://127.0.0.1:8443" ||
		c.AzureTenantID != tenantID || c.CertificateName != "graph-certificate" || !slices.Equal(c.APIKeySecretNames,
		[]string{"a", "b"}) ||
		c.Tolerance != time.Minute || c.Timeout != time.Minute || c.LogLevel <= 0 {
		t.Errorf("Load = %+v", c)
	}
	c, err = Load(complete("ALLOWED_GROUP_TAGS", "MTR-*, Retired room", "RATE_LIMIT", "60", "SWEEP_GROUP_TAG",
		"MTR-Oslo", "SWEEP_MAX_DEVICES", "500", "SWEEP_MIN_INVENTORY", "100", "SWEEP_APPLY", "true"), Azure)
	if err != nil || !slices.Equal(c.Policy.GroupTags, []string{"MTR-*", "Retired room"}) || c.Policy.PerMinute != 60 ||
		c.Sweep.GroupTag != "MTR-Oslo" || c.Sweep.MaxDevices != 500 || c.Sweep.MinInventory != 100 || !c.Sweep.Apply {
		t.Errorf("Load = %+v, %v", c, err)
	}
	c, err = Load(complete(
		"WEBHOOK_SECRET_NAMES", "", "ENTRA_AUDIENCE", "api://contoso.com/unassign, "+strings.ToUpper(clientID),
		"ENTRA_TENANT_ID", strings.ToUpper(clientID)+","+tenantID,
		"ENTRA_ROLE", "Room.Clear", "ENTRA_SCOPE", "Room.Clear.User"), Azure)
	if err != nil || !slices.Equal(c.EntraAudiences, []string{"api://contoso.com/unassign", clientID}) ||
		!slices.Equal(c.EntraTenants, []string{clientID, tenantID}) || c.EntraRole != "Room.Clear" ||
		c.EntraScope != "Room.Clear.User" {
		t.Errorf("Load = %+v, %v", c, err)
	}
	for name, cloud := range listClouds() {
		c, err := Load(complete("AZURE_CLOUD", name, "KEY_VAULT_URL", "https://contoso"+cloud.VaultSuffix), Azure)
		if err != nil || c.Cloud != cloud {
			t.Errorf("AZURE_CLOUD=%s: %+v, %v", name, c.Cloud, err)
		}
	}
}

func TestLoadNamesEveryFault(t *testing.T) {
	for name, test := range map[string]struct {
		getenv func(string) string
		host   string
		want   []string // the beginnings of the error's lines
	}{
		"nothing is set": {func(string) string { return "" }, Lambda, []string{
			"AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set",
			"GRAPH_CLIENT_ID is not set", "GRAPH_SECRET_NAME or GRAPH_CERTIFICATE_NAME is not set",
			"GRAPH_TENANT_ID is not set", "KEY_VAULT_URL is not set",
			"WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES or ENTRA_AUDIENCE is not set",
		}},
		"no verifier": {complete("WEBHOOK_SECRET_NAMES", ""), Azure, []string{"WEBHOOK_SECRET_NAMES, " +
			"API_KEY_SECRET_NAMES or ENTRA_AUDIENCE is not set"}},
		"platform beside tokens": {complete("AUTH", "platform", "WEBHOOK_SECRET_NAMES", "", "ENTRA_AUDIENCE",
			clientID), Azure, []string{"AUTH=platform accepts every request"}},
		"tokens for nobody": {complete("ENTRA_AUDIENCE", " , "), Azure, []string{"ENTRA_AUDIENCE has nothing in " +
			"it"}},
		"audiences that are none": {
			complete("ENTRA_AUDIENCE", "contoso.com,api://,API://x,api://a b,*"), Azure,
			[]string{"ENTRA_AUDIENCE must be"},
		},
		"tokens for Graph": {complete("ENTRA_AUDIENCE",
			"https://graph.microsoft.com/,00000003-0000-0000-C000-000000000000"), Azure, []string{"ENTRA_AUDIENCE is Graph's"}},
		"tenants that are none": {
			complete("ENTRA_AUDIENCE", clientID, "ENTRA_TENANT_ID", "common"), Azure,
			[]string{"ENTRA_TENANT_ID is not a GUID"},
		},
		"a list of no tenants": {
			complete("ENTRA_AUDIENCE", clientID, "ENTRA_TENANT_ID", ","), Azure,
			[]string{"ENTRA_TENANT_ID has nothing in it"},
		},
		"roles that are none": {complete("ENTRA_AUDIENCE", clientID, "ENTRA_ROLE", "A,B", "ENTRA_SCOPE",
			strings.Repeat("x", 121)), Azure, []string{"ENTRA_ROLE must be", "ENTRA_SCOPE must be"}},
		"a role without tokens": {
			complete("ENTRA_TENANT_ID", tenantID, "ENTRA_ROLE", "A", "ENTRA_SCOPE", "B"),
			Azure,
			[]string{"ENTRA_ROLE is set and", "ENTRA_SCOPE is set and", "ENTRA_TENANT_ID is set and"},
		},
		"one secret for two": {
			complete("API_KEY_SECRET_NAMES", "other,Graph-Client-Secret"), Azure,
			[]string{"GRAPH_SECRET_NAME and API_KEY_SECRET_NAMES name the same secret"},
		},
		"one key for two": {
			complete("API_KEY_SECRET_NAMES", "webhook-servicenow"), Azure,
			[]string{"WEBHOOK_SECRET_NAMES and API_KEY_SECRET_NAMES name the same secret"},
		},
		"platform beside a verifier": {complete("AUTH", "platform"), Azure, []string{"AUTH=platform accepts every " +
			"request"}},
		"a misspelt AUTH": {complete("AUTH", "none"), Azure, []string{"AUTH must be one of"}},
		"a vault by http": {
			complete("KEY_VAULT_URL", "http://contoso.vault.azure.net"), Azure,
			[]string{"KEY_VAULT_URL must be https"},
		},
		"a vault elsewhere": {
			complete("KEY_VAULT_URL", "https://vault.azure.net.example"), Azure,
			[]string{"KEY_VAULT_URL must end in .vault.azure.net"},
		},
		"a vault of another cloud": {complete("AZURE_CLOUD", "china"), Azure, []string{"KEY_VAULT_URL must end in " +
			".vault.azure.cn"}},
		"a vault with a path": {
			complete("KEY_VAULT_URL", "https://contoso.vault.azure.net/secrets/x"), Azure,
			[]string{"KEY_VAULT_URL must be https"},
		},
		"a vault with a user": {
			complete("KEY_VAULT_URL", "https://me@contoso.vault.azure.net"), Azure,
			[]string{"KEY_VAULT_URL must be https"},
		},
		"a cloud nobody knows": {complete("AZURE_CLOUD", "germany"), Azure, []string{"AZURE_CLOUD must be one of"}},
		"a custom cloud by http": {complete("AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "http://login.example",
			"GRAPH_ENDPOINT", "http://graph.example"), Azure, []string{
			"AZURE_AUTHORITY_HOST must be https",
			"GRAPH_ENDPOINT must be https",
		}},
		"a custom cloud without hosts": {complete("AZURE_CLOUD", "custom"), Azure, []string{"AZURE_AUTHORITY_HOST is not " +
			"set", "GRAPH_ENDPOINT is not set"}},
		"hosts without a custom cloud": {complete("AZURE_AUTHORITY_HOST", "https://login.example", "GRAPH_ENDPOINT",
			"https://graph.example"), Azure, []string{"AZURE_AUTHORITY_HOST is only for", "GRAPH_ENDPOINT is only for"}},
		"ids that are none": {complete("GRAPH_TENANT_ID", "contoso.com", "GRAPH_CLIENT_ID", "x",
			"AZURE_CLIENT_ID", "y"), Azure, []string{
			"AZURE_CLIENT_ID is not a GUID", "GRAPH_CLIENT_ID is not a GUID",
			"GRAPH_TENANT_ID is not a GUID",
		}},
		"secret and certificate": {complete("GRAPH_CERTIFICATE_NAME", "c"), Azure, []string{"GRAPH_SECRET_NAME and " +
			"GRAPH_CERTIFICATE_NAME are both set"}},
		"names that are none": {complete("GRAPH_SECRET_NAME", "../keys/x", "WEBHOOK_SECRET_NAMES", "a/b",
			"API_KEY_SECRET_NAMES", strings.Repeat("x", 128)), Azure, []string{
			"API_KEY_SECRET_NAMES must name secrets",
			"GRAPH_SECRET_NAME must name secrets", "WEBHOOK_SECRET_NAMES must name secrets",
		}},
		"a name twice": {complete("WEBHOOK_SECRET_NAMES", "a,a"), Azure, []string{"WEBHOOK_SECRET_NAMES has " +
			"a name twice"}},
		"a name twice, by case": {complete("WEBHOOK_SECRET_NAMES", "a,A"), Azure, []string{"WEBHOOK_SECRET_NAMES has " +
			"a name twice"}},
		"a client secret that is not": {
			complete("VAULT_CREDENTIAL", "client-secret"), Azure,
			[]string{"AZURE_CLIENT_ID is not set", "AZURE_CLIENT_SECRET is not set", "AZURE_TENANT_ID is not set"},
		},
		"times out of range": {
			complete("SIGNATURE_TOLERANCE", "59s", "REQUEST_TIMEOUT", "201s"), Azure,
			[]string{"REQUEST_TIMEOUT must be a time", "SIGNATURE_TOLERANCE must be a time"},
		},
		"times that are none": {
			complete("SIGNATURE_TOLERANCE", "300", "REQUEST_TIMEOUT", "soon"), Azure,
			[]string{"REQUEST_TIMEOUT must be a time", "SIGNATURE_TOLERANCE must be a time"},
		},
		"tags that are none": {
			complete("ALLOWED_GROUP_TAGS", " , ", "SWEEP_GROUP_TAG", "MTR-*"), Azure,
			[]string{"ALLOWED_GROUP_TAGS has nothing in it", "SWEEP_GROUP_TAG must be one"},
		},
		"any tag": {complete("ALLOWED_GROUP_TAGS", "*"), Azure, []string{"ALLOWED_GROUP_TAGS must be " +
			"group tags"}},
		"a star inside": {
			complete("ALLOWED_GROUP_TAGS", "MTR*Oslo"), Azure,
			[]string{"ALLOWED_GROUP_TAGS must be group tags"},
		},
		"a role without its settings": {complete("VAULT_CREDENTIAL", "aws-federation", "AWS_ENDPOINT_URL_STS",
			"https://sts.example"), Lambda, []string{"AWS_ENDPOINT_URL_STS is only for", "AWS_REGION, AWS_ACCESS_KEY_ID or " +
			"AWS_SECRET_ACCESS_KEY is not set", "AZURE_CLIENT_ID is not set", "AZURE_TENANT_ID is not set"}},
		"STS by plain http": {complete("AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "https://login.example",
			"GRAPH_ENDPOINT", "https://graph.example", "VAULT_CREDENTIAL", "aws-federation", "AWS_ENDPOINT_URL_STS",
			"http://sts.example", "AWS_REGION", "eu-west-1", "AWS_ACCESS_KEY_ID", "x", "AWS_SECRET_ACCESS_KEY", "y",
			"AZURE_TENANT_ID", tenantID, "AZURE_CLIENT_ID", clientID), Lambda, []string{"AWS_ENDPOINT_URL_STS must be " +
			"https://"}},
		"a secret beside no secret": {
			complete("GRAPH_CREDENTIAL", "identity"), Azure,
			[]string{"GRAPH_CREDENTIAL=identity needs no secret"},
		},
		"no secret of a secret": {complete("GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "",
			"VAULT_CREDENTIAL", "azure-cli"), Local, []string{"GRAPH_CREDENTIAL=identity needs VAULT_CREDENTIAL"}},
		"keys without a vault": {complete("GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "", "KEY_VAULT_URL",
			""), Azure, []string{"KEY_VAULT_URL is not set"}},
		"a sweep outside the policy": {
			complete("ALLOWED_GROUP_TAGS", "Kiosk", "SWEEP_GROUP_TAG", "MTR-Oslo"), Azure,
			[]string{"SWEEP_GROUP_TAG is not one of ALLOWED_GROUP_TAGS"},
		},
		"a sweep of nothing": {complete("SWEEP_APPLY", "true"), Azure, []string{"SWEEP_APPLY is true and " +
			"SWEEP_GROUP_TAG is not set"}},
		"a word for true": {
			complete("SWEEP_GROUP_TAG", "Kiosk", "SWEEP_APPLY", "yes"), Azure,
			[]string{"SWEEP_APPLY must be one of"},
		},
		"numbers that are none": {complete("RATE_LIMIT", "-1", "SWEEP_MAX_DEVICES", "many", "SWEEP_MIN_INVENTORY",
			"-1"), Azure, []string{
			"RATE_LIMIT must be a number", "SWEEP_MAX_DEVICES must be a number",
			"SWEEP_MIN_INVENTORY must be a number",
		}},
		"a level nobody knows": {complete("LOG_LEVEL", "loud"), Azure, []string{"LOG_LEVEL must be one of"}},
	} {
		_, err := Load(test.getenv, test.host)
		faults, _ := err.(Error) //nolint:errorlint // it is returned as it is
		ok := len(faults) == len(test.want)
		for i := range min(len(faults), len(test.want)) {
			ok = ok && strings.HasPrefix(faults[i], test.want[i])
		}
		if !ok {
			t.Errorf("%s: %v\nwant %q", name, err, test.want)
		}
	}
}

// OPERATOR_CALLERS has names as in the audit record, and a name that no caller can have is a fault.
func TestOperatorCallers(t *testing.T) {
	const one, two = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
	byToken := func(changes ...string) []string {
		return append([]string{"API_KEY_SECRET_NAMES", "a,b", "ENTRA_AUDIENCE", clientID}, changes...)
	}
	tenants := byToken("ENTRA_TENANT_ID", tenantID+","+clientID)
	platform := []string{"AUTH", "platform", "WEBHOOK_SECRET_NAMES", ""}
	for name, test := range map[string]struct {
		callers  string
		settings []string
		want     []string
		wrong    []int // the places that the error names
	}{
		"nobody": {"", byToken(), nil, nil},
		"keys":   {" b , webhook-servicenow", byToken(), []string{"b", "webhook-servicenow"}, nil},
		"an app": {"app:" + strings.ToUpper(one), byToken(), []string{"app:" + one}, nil},
		"a user": {
			"user:" + one + ",app:" + two, byToken(),
			[]string{"user:" + one + ",app:" + two},
			nil,
		},
		"all of them": {"a,user:" + one + ", app:" + two + ",app:" + two + ",b", byToken(), []string{
			"a",
			"user:" + one + ",app:" + two, "app:" + two, "b",
		}, nil},
		"an app of a tenant": {"app:" + one + ",tenant:" + clientID + ",a", tenants, []string{"app:" + one +
			",tenant:" + clientID, "a"}, nil},
		"a user of a tenant": {"user:" + two + ",app:" + one + ",tenant:" + tenantID, tenants, []string{"user:" +
			two + ",app:" + one + ",tenant:" + tenantID}, nil},
		"the platform":                {"host", platform, []string{"host"}, nil},
		"the platform without it":     {"host", byToken(), nil, []int{1}},
		"a key on the platform":       {"webhook-servicenow", platform, nil, []int{1}},
		"a key that is not named":     {"a,c", byToken(), nil, []int{2}},
		"another case":                {"A", byToken(), nil, []int{1}},
		"the app's own secret":        {"graph-client-secret", byToken(), nil, []int{1}},
		"a kind":                      {"api_key:a", byToken(), nil, []int{1}},
		"an app without tokens":       {"app:" + one, nil, nil, []int{1}},
		"an app by its name":          {"app:ServiceNow", byToken(), nil, []int{1}},
		"a user without an app":       {"user:" + one + ",a", byToken(), nil, []int{1}},
		"a user at the end":           {"a,user:" + one, byToken(), nil, []int{2}},
		"users without an app":        {"user:" + one + ",user:" + two, byToken(), nil, []int{1, 2}},
		"a tenant too many":           {"app:" + one + ",tenant:" + tenantID, byToken(), nil, []int{2}},
		"no tenant":                   {"app:" + one, tenants, nil, []int{1}},
		"the tenant of somebody else": {"app:" + one + ",tenant:" + two, tenants, nil, []int{1, 2}},
		"a star":                      {"*", byToken(), nil, []int{1}},
	} {
		c, err := Load(complete(append(test.settings, "OPERATOR_CALLERS", test.callers)...), Azure)
		faults, _ := err.(Error) //nolint:errorlint // it is returned as it is
		if len(faults) != len(test.wrong) || len(test.wrong) == 0 && !slices.Equal(c.OperatorCallers, test.want) {
			t.Errorf("%s: %q, %v", name, c.OperatorCallers, err)
			continue
		}
		for i, place := range test.wrong {
			if !strings.HasPrefix(faults[i], fmt.Sprintf("OPERATOR_CALLERS entry %d matches no configured caller: use ",
				place)) {
				t.Errorf("%s: %s", name, faults[i])
			}
		}
	}
	if _, err := Load(complete("OPERATOR_CALLERS", " , "), Azure); err == nil ||
		err.Error() != "settings:\n  OPERATOR_CALLERS has nothing in it\nset or correct: OPERATOR_CALLERS" {
		t.Errorf("an empty list: %v", err)
	}
}

func TestConfigErrorHasNoSecret(t *testing.T) {
	_, err := Load(complete("VAULT_CREDENTIAL", "client-secret", "AZURE_CLIENT_SECRET", "canary",
		"WEBHOOK_SECRET_NAMES", "whsec_canary==", "OPERATOR_CALLERS", "canary"), Azure)
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("the error is %v", err)
	}
}

// Tools and clouds add invisible characters and capitals to values: a CR (buildpacks/pack#2635), True for true
// (Azure), a byte order mark. Every setting is trimmed alike.
func TestSettingsFromTheWild(t *testing.T) {
	t.Parallel()
	values := map[string]string{}
	for _, one := range []string{
		"KEY_VAULT_URL", "GRAPH_TENANT_ID", "GRAPH_CLIENT_ID", "GRAPH_SECRET_NAME",
		"WEBHOOK_SECRET_NAMES",
	} {
		values[one] = "\ufeff" + complete()(one) + " \r\n"
	}
	values["SWEEP_GROUP_TAG"], values["SWEEP_APPLY"], values["LOG_LEVEL"], values["RATE_LIMIT"] = "MTR-Oslo\r", "True",
		"INFO\r", "5\u00a0"
	values["VAULT_CREDENTIAL"], values["AZURE_TENANT_ID"], values["AZURE_CLIENT_ID"],
		values["AZURE_CLIENT_SECRET"] = "client-secret", tenantID+"\n", clientID, "s3cret~\r\n"
	c, err := Load(func(name string) string { return values[name] }, Azure)
	if err != nil || c.Sweep.GroupTag != "MTR-Oslo" || !c.Sweep.Apply || c.Policy.PerMinute != 5 || c.AzureSecret != "s3cret~" ||
		c.AzureTenantID != tenantID || c.VaultURL != complete()("KEY_VAULT_URL") {
		t.Errorf("Load = %+v, %v", c, err)
	}
	_, err = Load(complete("SWEEP_GROUP_TAG", "MTR\x00Oslo"), Azure)
	if err == nil || !strings.Contains(err.Error(), "SWEEP_GROUP_TAG has a control character in it") {
		t.Errorf("a control character inside: %v", err)
	}
}

// Variables of other programs alone start the simulation, and choose no credential (T20).
func TestVariablesOfOtherProgramsSelectNothing(t *testing.T) {
	t.Parallel()
	others := []string{
		"AZURE_CLIENT_SECRET", "canary", "AZURE_TENANT_ID", tenantID, "AZURE_CLIENT_ID", clientID,
		"AWS_REGION", "eu-west-1", "AWS_ACCESS_KEY_ID", "x", "AWS_SECRET_ACCESS_KEY", "y",
	}
	if HasDeployment(func(name string) string {
		if i := slices.Index(others, name); i >= 0 && i%2 == 0 {
			return others[i+1]
		}
		return ""
	}) {
		t.Error("variables of other programs make a deployment")
	}
	for _, host := range []string{Azure, Local} {
		c, err := Load(complete(others...), host)
		if err != nil || c.VaultCredential != ManagedIdentity || c.AzureSecret != "" {
			t.Errorf("%s: %s, %q, %v", host, c.VaultCredential, c.AzureSecret, err)
		}
	}
}

func TestCallerPolicy(t *testing.T) {
	t.Parallel()
	c, err := Load(complete("CALLER_POLICY",
		`{"webhook-servicenow":{"groupTags":["MTR-*"],"requireExpected":true,"devicesPerHour":50}}`), Azure)
	want := map[string]handler.CallerPolicy{"webhook-servicenow": {
		GroupTags: []string{"MTR-*"}, RequireExpected: true,
		DevicesPerHour: 50,
	}}
	if err != nil || !reflect.DeepEqual(c.Policy.Callers, want) {
		t.Errorf("%+v, %v", c.Policy.Callers, err)
	}
	for policy, want := range map[string]string{
		`{"other":{}}`:                       "CALLER_POLICY names a caller that is not configured",
		`{"webhook-servicenow":{"tags":[]}}`: "CALLER_POLICY must be JSON",
		`[]`:                                 "CALLER_POLICY must be JSON",
		`{} {}`:                              "CALLER_POLICY must be JSON",
		`{"webhook-servicenow":{"groupTags":["*a"]}}`:  "CALLER_POLICY has a group tag",
		`{"webhook-servicenow":{"devicesPerHour":-1}}`: "CALLER_POLICY has a devicesPerHour below 1",
		`{"webhook-servicenow":{"devicesPerHour":0}}`:  "CALLER_POLICY has a devicesPerHour below 1",
		`{"webhook-servicenow":{"groupTags":[]}}`:      "groupTags without a tag",
	} {
		if _, err := Load(complete("CALLER_POLICY", policy), Azure); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", policy, err)
		}
	}
}

// docs/settings.md lists each setting with its default and when it is required, and no others.
func TestPageHasEverySetting(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults, required := map[string]string{}, map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|([^|]*)\\|([^|]*)\\|").FindAllStringSubmatch(string(
		page), -1) {
		required[m[1]], defaults[m[1]] = strings.TrimSpace(m[2]), m[3]
	}
	for _, one := range Settings() {
		text, documented := defaults[one.Name]
		if documented == one.Platform || one.Default != "" && !strings.Contains(text, "`"+one.Default+"`") {
			t.Errorf("%s: documented: %t, with the default %s, want %q", one.Name, documented, text, one.Default)
		}
		if required[one.Name] != one.Needed {
			t.Errorf("%s: required %q, want %q", one.Name, required[one.Name], one.Needed)
		}
		delete(defaults, one.Name)
	}
	if len(defaults) > 0 {
		t.Errorf("the page has settings that do not exist: %v", slices.Sorted(maps.Keys(defaults)))
	}
}

func TestDetectHost(t *testing.T) {
	for _, test := range []struct {
		azure, lambda, want string
	}{
		{"", "", Local},
		{"8080", "", Azure},
		{"", "127.0.0.1:9001", Lambda},
		{"8080", "127.0.0.1:9001", ""}, // an error that names both
	} {
		host, err := DetectHost(func(name string) string {
			return map[string]string{"FUNCTIONS_CUSTOMHANDLER_PORT": test.azure, "AWS_LAMBDA_RUNTIME_API": test.lambda}[name]
		})
		if test.want == "" && (err == nil || !strings.Contains(err.Error(), "PORT and AWS_LAMBDA_RUNTIME_API are both set")) {
			t.Errorf("%+v: %v", test, err)
		}
		if host != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%+v: %q, %v", test, host, err)
		}
	}
}

// TestGraphAudience has the audiences of Graph's own tokens, which every app of the tenant can get.
func TestGraphAudience(t *testing.T) {
	for _, audience := range []string{graphAppID, "https://graph.microsoft.com"} {
		if _, err := Load(complete("ENTRA_AUDIENCE", audience), Azure); err == nil || !strings.Contains(err.Error(), "ENTRA_AUDIENCE is Graph's") {
			t.Errorf("%s: %v", audience, err)
		}
	}
}
