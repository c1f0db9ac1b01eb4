package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
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

func TestLoadConfig(t *testing.T) {
	c, err := loadConfig(complete(), hostAzure)
	want := config{
		vaultURL: "https://contoso.vault.azure.net", vaultCredential: managedIdentity,
		tenantID: tenantID, clientID: clientID, secretName: "graph-client-secret",
		cloud: azureCloud{
			authority: "https://login.microsoftonline.com/", issuerV1: "https://sts.windows.net/", issuerV2: "https://login.microsoftonline.com/",
			graph: "https://graph.microsoft.com", vaultSuffix: ".vault.azure.net",
			exchange: "api://AzureADTokenExchange",
		},
		webhookSecretNames: []string{"webhook-servicenow"},
		entraTenants:       []string{tenantID}, entraRole: "Device.Unassign", entraScope: "user_impersonation",
		sweepMaxDevices: 10, sweepMinInventory: 1,
		tolerance: 300 * time.Second, timeout: 25 * time.Second,
	}
	if c.host != hostAzure || c.getenv("KEY_VAULT_URL") != want.vaultURL { // where the doctor reads them anew
		t.Errorf("loadConfig = %+v", c)
	}
	c.host, c.getenv = "", nil // which cannot be compared
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("loadConfig = %+v, %v\nwant %+v", c, err, want)
	}
	c, err = loadConfig(complete(
		"AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "https://login.example/", "GRAPH_ENDPOINT", "https://graph.example",
		"KEY_VAULT_URL", "https://127.0.0.1:8443/", "VAULT_CREDENTIAL", "client-secret", "AZURE_TENANT_ID", strings.ToUpper(tenantID),
		"AZURE_CLIENT_ID", clientID, "AZURE_CLIENT_SECRET", "s", "GRAPH_SECRET_NAME", "", "GRAPH_CERTIFICATE_NAME", "graph-certificate",
		"API_KEY_SECRET_NAMES", " a, b ,", "SIGNATURE_TOLERANCE", "60s", "REQUEST_TIMEOUT", "1m", "LOG_LEVEL", "error"), hostLambda)
	if err != nil {
		t.Fatal(err)
	}
	custom := azureCloud{
		authority: "https://login.example", issuerV1: "https://sts.windows.net/", issuerV2: "https://login.example/", graph: "https://graph.example", exchange: "api://AzureADTokenExchange", custom: true,
	}
	if c.cloud != custom || c.vaultURL != "https://127.0.0.1:8443" ||
		c.azureTenantID != tenantID || c.certificateName != "graph-certificate" || !slices.Equal(c.apiKeySecretNames, []string{"a", "b"}) ||
		c.tolerance != time.Minute || c.timeout != time.Minute || c.logLevel <= 0 {
		t.Errorf("loadConfig = %+v", c)
	}
	c, err = loadConfig(complete("ALLOWED_GROUP_TAGS", "MTR-*, Retired room", "RATE_LIMIT", "60", "SWEEP_GROUP_TAG", "MTR-Oslo", "SWEEP_MAX_DEVICES", "500", "SWEEP_MIN_INVENTORY", "100", "SWEEP_APPLY", "true"), hostAzure)
	if err != nil || !slices.Equal(c.groupTags, []string{"MTR-*", "Retired room"}) || c.rateLimit != 60 || c.sweepGroupTag != "MTR-Oslo" || c.sweepMaxDevices != 500 || c.sweepMinInventory != 100 || !c.sweepApply {
		t.Errorf("loadConfig = %+v, %v", c, err)
	}
	c, err = loadConfig(complete(
		"WEBHOOK_SECRET_NAMES", "", "ENTRA_AUDIENCE", "api://contoso.com/unassign, "+strings.ToUpper(clientID), "ENTRA_TENANT_ID", strings.ToUpper(clientID)+","+tenantID,
		"ENTRA_ROLE", "Room.Clear", "ENTRA_SCOPE", "Room.Clear.User"), hostAzure)
	if err != nil || !slices.Equal(c.entraAudiences, []string{"api://contoso.com/unassign", clientID}) || !slices.Equal(c.entraTenants, []string{clientID, tenantID}) || c.entraRole != "Room.Clear" || c.entraScope != "Room.Clear.User" {
		t.Errorf("loadConfig = %+v, %v", c, err)
	}
	for name, cloud := range clouds() {
		c, err := loadConfig(complete("AZURE_CLOUD", name, "KEY_VAULT_URL", "https://contoso"+cloud.vaultSuffix), hostAzure)
		if err != nil || c.cloud != cloud {
			t.Errorf("AZURE_CLOUD=%s: %+v, %v", name, c.cloud, err)
		}
	}
}

func TestLoadConfigNamesEveryFault(t *testing.T) {
	for name, test := range map[string]struct {
		getenv func(string) string
		host   string
		want   []string // what the lines of the error begin with
	}{
		"nothing is set": {func(string) string { return "" }, hostLambda, []string{
			"AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set",
			"GRAPH_CLIENT_ID is not set", "GRAPH_SECRET_NAME or GRAPH_CERTIFICATE_NAME is not set", "GRAPH_TENANT_ID is not set", "KEY_VAULT_URL is not set",
			"WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES or ENTRA_AUDIENCE is not set",
		}},
		"no verifier":                  {complete("WEBHOOK_SECRET_NAMES", ""), hostAzure, []string{"WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES or ENTRA_AUDIENCE is not set"}},
		"platform beside tokens":       {complete("AUTH", "platform", "WEBHOOK_SECRET_NAMES", "", "ENTRA_AUDIENCE", clientID), hostAzure, []string{"AUTH=platform accepts every request"}},
		"tokens for nobody":            {complete("ENTRA_AUDIENCE", " , "), hostAzure, []string{"ENTRA_AUDIENCE has nothing in it"}},
		"audiences that are none":      {complete("ENTRA_AUDIENCE", "contoso.com,api://,API://x,api://a b,*"), hostAzure, []string{"ENTRA_AUDIENCE must be", "ENTRA_AUDIENCE must be", "ENTRA_AUDIENCE must be", "ENTRA_AUDIENCE must be", "ENTRA_AUDIENCE must be"}},
		"tokens for Graph":             {complete("ENTRA_AUDIENCE", "https://graph.microsoft.com/,00000003-0000-0000-C000-000000000000"), hostAzure, []string{"ENTRA_AUDIENCE is Graph's", "ENTRA_AUDIENCE is Graph's"}},
		"tenants that are none":        {complete("ENTRA_AUDIENCE", clientID, "ENTRA_TENANT_ID", "common"), hostAzure, []string{"ENTRA_TENANT_ID has what is not a GUID"}},
		"a list of no tenants":         {complete("ENTRA_AUDIENCE", clientID, "ENTRA_TENANT_ID", ","), hostAzure, []string{"ENTRA_TENANT_ID has nothing in it"}},
		"roles that are none":          {complete("ENTRA_AUDIENCE", clientID, "ENTRA_ROLE", "A,B", "ENTRA_SCOPE", strings.Repeat("x", 121)), hostAzure, []string{"ENTRA_ROLE must be", "ENTRA_SCOPE must be"}},
		"a role without tokens":        {complete("ENTRA_TENANT_ID", tenantID, "ENTRA_ROLE", "A", "ENTRA_SCOPE", "B"), hostAzure, []string{"ENTRA_ROLE is set and", "ENTRA_SCOPE is set and", "ENTRA_TENANT_ID is set and"}},
		"one secret for two":           {complete("API_KEY_SECRET_NAMES", "other,Graph-Client-Secret"), hostAzure, []string{"GRAPH_SECRET_NAME and API_KEY_SECRET_NAMES name the same secret"}},
		"one key for two":              {complete("API_KEY_SECRET_NAMES", "webhook-servicenow"), hostAzure, []string{"WEBHOOK_SECRET_NAMES and API_KEY_SECRET_NAMES name the same secret"}},
		"platform beside a verifier":   {complete("AUTH", "platform"), hostAzure, []string{"AUTH=platform accepts every request"}},
		"a misspelt AUTH":              {complete("AUTH", "none"), hostAzure, []string{"AUTH must be one of"}},
		"a vault by http":              {complete("KEY_VAULT_URL", "http://contoso.vault.azure.net"), hostAzure, []string{"KEY_VAULT_URL must be https"}},
		"a vault elsewhere":            {complete("KEY_VAULT_URL", "https://vault.azure.net.example"), hostAzure, []string{"KEY_VAULT_URL must end in .vault.azure.net"}},
		"a vault of another cloud":     {complete("AZURE_CLOUD", "china"), hostAzure, []string{"KEY_VAULT_URL must end in .vault.azure.cn"}},
		"a vault with a path":          {complete("KEY_VAULT_URL", "https://contoso.vault.azure.net/secrets/x"), hostAzure, []string{"KEY_VAULT_URL must be https"}},
		"a vault with a user":          {complete("KEY_VAULT_URL", "https://me@contoso.vault.azure.net"), hostAzure, []string{"KEY_VAULT_URL must be https"}},
		"a cloud nobody knows":         {complete("AZURE_CLOUD", "germany"), hostAzure, []string{"AZURE_CLOUD must be one of"}},
		"a custom cloud by http":       {complete("AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "http://login.example", "GRAPH_ENDPOINT", "http://graph.example"), hostAzure, []string{"AZURE_AUTHORITY_HOST must be https", "GRAPH_ENDPOINT must be https"}},
		"a custom cloud without hosts": {complete("AZURE_CLOUD", "custom"), hostAzure, []string{"AZURE_AUTHORITY_HOST is not set", "GRAPH_ENDPOINT is not set"}},
		"hosts without a custom cloud": {complete("AZURE_AUTHORITY_HOST", "https://login.example", "GRAPH_ENDPOINT", "https://graph.example"), hostAzure, []string{"AZURE_AUTHORITY_HOST is only for", "GRAPH_ENDPOINT is only for"}},
		"ids that are none":            {complete("GRAPH_TENANT_ID", "contoso.com", "GRAPH_CLIENT_ID", "x", "AZURE_CLIENT_ID", "y"), hostAzure, []string{"AZURE_CLIENT_ID is not a GUID", "GRAPH_CLIENT_ID is not a GUID", "GRAPH_TENANT_ID is not a GUID"}},
		"secret and certificate":       {complete("GRAPH_CERTIFICATE_NAME", "c"), hostAzure, []string{"GRAPH_SECRET_NAME and GRAPH_CERTIFICATE_NAME are both set"}},
		"names that are none":          {complete("GRAPH_SECRET_NAME", "../keys/x", "WEBHOOK_SECRET_NAMES", "a/b", "API_KEY_SECRET_NAMES", strings.Repeat("x", 128)), hostAzure, []string{"API_KEY_SECRET_NAMES must be names", "GRAPH_SECRET_NAME must be the name", "WEBHOOK_SECRET_NAMES must be names"}},
		"a name twice":                 {complete("WEBHOOK_SECRET_NAMES", "a,a"), hostAzure, []string{"WEBHOOK_SECRET_NAMES has a name twice"}},
		"a client secret that is not":  {complete("VAULT_CREDENTIAL", "client-secret"), hostAzure, []string{"AZURE_CLIENT_ID is not set", "AZURE_CLIENT_SECRET is not set", "AZURE_TENANT_ID is not set"}},
		"times out of range":           {complete("SIGNATURE_TOLERANCE", "59s", "REQUEST_TIMEOUT", "201s"), hostAzure, []string{"REQUEST_TIMEOUT must be a time", "SIGNATURE_TOLERANCE must be a time"}},
		"times that are none":          {complete("SIGNATURE_TOLERANCE", "300", "REQUEST_TIMEOUT", "soon"), hostAzure, []string{"REQUEST_TIMEOUT must be a time", "SIGNATURE_TOLERANCE must be a time"}},
		"tags that are none":           {complete("ALLOWED_GROUP_TAGS", " , ", "SWEEP_GROUP_TAG", "MTR-*"), hostAzure, []string{"ALLOWED_GROUP_TAGS has no group tag", "SWEEP_GROUP_TAG must be one"}},
		"any tag":                      {complete("ALLOWED_GROUP_TAGS", "*"), hostAzure, []string{"ALLOWED_GROUP_TAGS must be group tags"}},
		"a star inside":                {complete("ALLOWED_GROUP_TAGS", "MTR*Oslo"), hostAzure, []string{"ALLOWED_GROUP_TAGS must be group tags"}},
		"a role without its settings":  {complete("VAULT_CREDENTIAL", "aws-federation", "AWS_ENDPOINT_URL_STS", "https://sts.example"), hostLambda, []string{"AWS_ENDPOINT_URL_STS is only for", "AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set", "AZURE_CLIENT_ID is not set", "AZURE_TENANT_ID is not set"}},
		"STS by plain http":            {complete("AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "https://login.example", "GRAPH_ENDPOINT", "https://graph.example", "VAULT_CREDENTIAL", "aws-federation", "AWS_ENDPOINT_URL_STS", "http://sts.example", "AWS_REGION", "eu-west-1", "AWS_ACCESS_KEY_ID", "x", "AWS_SECRET_ACCESS_KEY", "y", "AZURE_TENANT_ID", tenantID, "AZURE_CLIENT_ID", clientID), hostLambda, []string{"AWS_ENDPOINT_URL_STS must be https://"}},
		"a secret beside no secret":    {complete("GRAPH_CREDENTIAL", "identity"), hostAzure, []string{"GRAPH_CREDENTIAL=identity needs no secret"}},
		"no secret of a secret":        {complete("GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "", "VAULT_CREDENTIAL", "azure-cli"), hostLocal, []string{"GRAPH_CREDENTIAL=identity is only for"}},
		"keys without a vault":         {complete("GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "", "KEY_VAULT_URL", ""), hostAzure, []string{"KEY_VAULT_URL is not set"}},
		"a sweep outside the policy":   {complete("ALLOWED_GROUP_TAGS", "Kiosk", "SWEEP_GROUP_TAG", "MTR-Oslo"), hostAzure, []string{"SWEEP_GROUP_TAG is not one of ALLOWED_GROUP_TAGS"}},
		"a sweep of nothing":           {complete("SWEEP_APPLY", "true"), hostAzure, []string{"SWEEP_APPLY is true and SWEEP_GROUP_TAG is not set"}},
		"a word for true":              {complete("SWEEP_GROUP_TAG", "Kiosk", "SWEEP_APPLY", "yes"), hostAzure, []string{"SWEEP_APPLY must be one of"}},
		"numbers that are none":        {complete("RATE_LIMIT", "0", "SWEEP_MAX_DEVICES", "many", "SWEEP_MIN_INVENTORY", "-1"), hostAzure, []string{"RATE_LIMIT must be a number", "SWEEP_MAX_DEVICES must be a number", "SWEEP_MIN_INVENTORY must be a number"}},
		"a level nobody knows":         {complete("LOG_LEVEL", "loud"), hostAzure, []string{"LOG_LEVEL must be one of"}},
	} {
		_, err := loadConfig(test.getenv, test.host)
		faults, _ := err.(configError) //nolint:errorlint // it is returned as it is
		ok := len(faults) == len(test.want)
		for i := range min(len(faults), len(test.want)) {
			ok = ok && strings.HasPrefix(faults[i], test.want[i])
		}
		if !ok {
			t.Errorf("%s: %v\nwant %q", name, err, test.want)
		}
	}
}

// Who may ask for the doctor's report is written as the audit record has it, and one who could not call at all is a fault.
func TestDoctorCallers(t *testing.T) {
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
		"nobody":                      {"", byToken(), nil, nil},
		"keys":                        {" b , webhook-servicenow", byToken(), []string{"b", "webhook-servicenow"}, nil},
		"an app":                      {"app:" + strings.ToUpper(one), byToken(), []string{"app:" + one}, nil},
		"a user":                      {"user:" + one + ",app:" + two, byToken(), []string{"user:" + one + ",app:" + two}, nil},
		"all of them":                 {"a,user:" + one + ", app:" + two + ",app:" + two + ",b", byToken(), []string{"a", "user:" + one + ",app:" + two, "app:" + two, "b"}, nil},
		"an app of a tenant":          {"app:" + one + ",tenant:" + clientID + ",a", tenants, []string{"app:" + one + ",tenant:" + clientID, "a"}, nil},
		"a user of a tenant":          {"user:" + two + ",app:" + one + ",tenant:" + tenantID, tenants, []string{"user:" + two + ",app:" + one + ",tenant:" + tenantID}, nil},
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
		c, err := loadConfig(complete(append(test.settings, "DOCTOR_CALLERS", test.callers)...), hostAzure)
		faults, _ := err.(configError) //nolint:errorlint // it is returned as it is
		if len(faults) != len(test.wrong) || len(test.wrong) == 0 && !slices.Equal(c.doctorCallers, test.want) {
			t.Errorf("%s: %q, %v", name, c.doctorCallers, err)
			continue
		}
		for i, place := range test.wrong {
			if !strings.HasPrefix(faults[i], fmt.Sprintf("DOCTOR_CALLERS names nobody who could call, in place %d: ", place)) {
				t.Errorf("%s: %s", name, faults[i])
			}
		}
	}
	if _, err := loadConfig(complete("DOCTOR_CALLERS", " , "), hostAzure); err == nil || err.Error() != "settings:\n  DOCTOR_CALLERS has nothing in it" {
		t.Errorf("an empty list: %v", err)
	}
}

func TestConfigErrorHasNoSecret(t *testing.T) {
	_, err := loadConfig(complete("VAULT_CREDENTIAL", "client-secret", "AZURE_CLIENT_SECRET", "canary", "WEBHOOK_SECRET_NAMES", "whsec_canary==", "DOCTOR_CALLERS", "canary"), hostAzure)
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("the error is %v", err)
	}
}

// docs/settings.md lists the settings that loadConfig reads, and no others.
func TestPageHasEverySetting(t *testing.T) {
	text, err := os.ReadFile("../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	read := map[string]bool{}
	for _, credential := range []string{managedIdentity, awsFederation, clientSecret} {
		_, _ = loadConfig(func(name string) string {
			read[name] = true
			return map[string]string{"VAULT_CREDENTIAL": credential}[name]
		}, hostAzure)
	}
	for _, lambdas := range []string{"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} { // which nobody sets by hand
		delete(read, lambdas)
	}
	if !maps.Equal(documented, read) {
		t.Errorf("docs/settings.md has %v\nloadConfig reads %v", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(read)))
	}
}

func TestRecognise(t *testing.T) {
	for _, test := range []struct {
		azure, lambda, want string
		err                 error
	}{
		{"", "", hostLocal, nil},
		{"8080", "", hostAzure, nil},
		{"", "127.0.0.1:9001", hostLambda, nil},
		{"8080", "127.0.0.1:9001", "", errTwoHosts},
	} {
		host, err := recognise(func(name string) string {
			return map[string]string{"FUNCTIONS_CUSTOMHANDLER_PORT": test.azure, "AWS_LAMBDA_RUNTIME_API": test.lambda}[name]
		})
		if host != test.want || err != test.err { //nolint:errorlint // the very error
			t.Errorf("%+v: %q, %v", test, host, err)
		}
	}
}

// A client secret that has been left in the environment is not what signs in, and whoever looks at the log learns of it.
func TestUnusedSecretIsReported(t *testing.T) {
	for _, test := range []struct {
		getenv   func(string) string
		reported bool
	}{
		{complete("AZURE_CLIENT_SECRET", canarySecret), true},
		{complete(), false},
		{complete("VAULT_CREDENTIAL", "client-secret", "AZURE_CLIENT_SECRET", canarySecret, "AZURE_CLIENT_ID", clientID, "AZURE_TENANT_ID", tenantID), false},
	} {
		ctx, stop := context.WithCancel(t.Context())
		out := &lockedBuffer{}
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, []string{"unassign", "serve", "-listen", "127.0.0.1:0"}, test.getenv, nil, out, out)
		}()
		for !strings.Contains(out.String(), `"listening"`) {
			select {
			case err := <-ended:
				t.Fatal(err)
			case <-time.After(time.Millisecond):
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if reported := strings.Contains(out.String(), "AZURE_CLIENT_SECRET is set and not used"); reported != test.reported || strings.Contains(out.String(), canarySecret) {
			t.Errorf("the log is %s", out.String())
		}
	}
}
