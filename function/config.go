package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/vault"
)

// config is what the settings say. README has the table of them; a test holds it to loadConfig.
type config struct {
	getenv func(string) string // where they are from, for the doctor, who reads them anew
	host   string

	vaultURL        string // "" where nothing is kept in one
	vaultCredential string // managedIdentity, awsFederation, clientSecret or azureCLI
	azureTenantID   string // of the vault identity, for awsFederation and clientSecret
	azureClientID   string // likewise; for managedIdentity the user-assigned identity, "" being the system-assigned
	azureSecret     string
	role            awsRole // for awsFederation

	graphDirect     bool   // the identity itself signs in to Graph, or the app that trusts it
	tenantID        string // where the app is that may call Graph
	clientID        string // "" where a managed identity is that app
	secretName      string // exactly one of these two is set, unless graphDirect
	certificateName string

	cloud azureCloud

	webhookSecretNames []string
	apiKeySecretNames  []string
	entraAudiences     []string // none for no tokens
	entraTenants       []string
	entraRole          string
	entraScope         string
	platformAuth       bool
	tolerance          time.Duration

	groupTags []string // those that may be acted on, none for all; one may end in *
	rateLimit int      // devices that a caller may ask for in a minute, 0 for any number

	doctorCallers []string // who may ask for the doctor's report, as the audit record names them

	sweepGroupTag     string // "" for no sweep
	sweepMaxDevices   int
	sweepMinInventory int
	sweepApply        bool

	timeout  time.Duration
	logLevel slog.Level
}

// azureCloud is where a cloud's services are
// (https://learn.microsoft.com/graph/deployments; the authorities are azcore's). What tokens are issued by is not documented
// in one place: version 2 is by what the cloud's discovery document says, in China another host than the authority (MSAL has it
// in its table of endpoints); version 1 is by one host for all clouds but China.
type azureCloud struct {
	authority   string
	issuerV1    string // of tokens, as far as the tenant's id
	issuerV2    string
	graph       string
	vaultSuffix string // of the vault's host name; "" where any host may be one
	exchange    string // the audience of tokens that stand for a credential; of other clouds than the public one not documented in one place
	custom      bool
}

func clouds() map[string]azureCloud {
	const sts, stsChina = "https://sts.windows.net/", "https://sts.chinacloudapi.cn/"
	public, government, china := cloud.AzurePublic.ActiveDirectoryAuthorityHost, cloud.AzureGovernment.ActiveDirectoryAuthorityHost, cloud.AzureChina.ActiveDirectoryAuthorityHost
	return map[string]azureCloud{
		"public":    {authority: public, issuerV1: sts, issuerV2: public, graph: "https://graph.microsoft.com", vaultSuffix: ".vault.azure.net", exchange: "api://AzureADTokenExchange"},
		"usgov":     {authority: government, issuerV1: sts, issuerV2: government, graph: "https://graph.microsoft.us", vaultSuffix: ".vault.usgovcloudapi.net", exchange: "api://AzureADTokenExchangeUSGov"},
		"usgov-dod": {authority: government, issuerV1: sts, issuerV2: government, graph: "https://dod-graph.microsoft.us", vaultSuffix: ".vault.usgovcloudapi.net", exchange: "api://AzureADTokenExchangeUSGov"},
		"china":     {authority: china, issuerV1: stsChina, issuerV2: "https://login.partner.microsoftonline.cn/", graph: "https://microsoftgraph.chinacloudapi.cn", vaultSuffix: ".vault.azure.cn", exchange: "api://AzureADTokenExchangeChina"},
	}
}

// ours are the settings of which one is enough to say that a deployment is meant, not the simulation.
var ours = []string{ //nolint:gochecknoglobals // a list that nothing writes to
	"KEY_VAULT_URL", "VAULT_CREDENTIAL", "GRAPH_CREDENTIAL", "GRAPH_TENANT_ID", "GRAPH_CLIENT_ID", "GRAPH_SECRET_NAME", "GRAPH_CERTIFICATE_NAME",
	"WEBHOOK_SECRET_NAMES", "API_KEY_SECRET_NAMES", "ENTRA_AUDIENCE", "AUTH",
}

// unset reports whether none of the settings that make a deployment is there.
func unset(getenv func(string) string) bool {
	return !slices.ContainsFunc(ours, func(name string) bool { return getenv(name) != "" })
}

// configError is everything that is missing or wrong in the settings, one message each.
type configError []string

func (e configError) Error() string { return "settings:\n  " + strings.Join(e, "\n  ") }

// loadConfig reads and checks the settings for host. It asks no network, and its error names everything that is missing
// or wrong, at once. No value of a setting that may be secret is in the error.
func loadConfig(getenv func(string) string, host string) (config, error) {
	s := &settings{getenv: getenv}
	c := config{getenv: getenv, host: host}

	kind := s.oneOf("AZURE_CLOUD", "public", "public", "usgov", "usgov-dod", "china", "custom")
	c.cloud = clouds()[kind]
	authority, endpoint := getenv("AZURE_AUTHORITY_HOST"), getenv("GRAPH_ENDPOINT")
	if kind == "custom" {
		c.cloud = azureCloud{custom: true, exchange: clouds()["public"].exchange}
		c.cloud.authority = s.https("AZURE_AUTHORITY_HOST", authority)
		c.cloud.graph = s.https("GRAPH_ENDPOINT", endpoint)
		c.cloud.issuerV1, c.cloud.issuerV2 = clouds()["public"].issuerV1, c.cloud.authority+"/"
	} else {
		for name, value := range map[string]string{"AZURE_AUTHORITY_HOST": authority, "GRAPH_ENDPOINT": endpoint} {
			if value != "" {
				s.wrong("%s is only for AZURE_CLOUD=custom", name)
			}
		}
	}

	c.webhookSecretNames = s.secretNames("WEBHOOK_SECRET_NAMES")
	c.apiKeySecretNames = s.secretNames("API_KEY_SECRET_NAMES")
	s.identities(&c, kind, host)
	s.separate(c)
	s.entra(&c)
	c.platformAuth = s.oneOf("AUTH", "verify", "verify", "platform") == "platform"
	verifiers := getenv("WEBHOOK_SECRET_NAMES") != "" || getenv("API_KEY_SECRET_NAMES") != "" || getenv("ENTRA_AUDIENCE") != ""
	switch {
	case c.platformAuth && verifiers:
		s.wrong("AUTH=platform accepts every request, so WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES and ENTRA_AUDIENCE must not be set beside it")
	case !c.platformAuth && !verifiers:
		s.wrong("WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES or ENTRA_AUDIENCE is not set: nobody could be authenticated")
	}
	c.groupTags = s.groupTags("ALLOWED_GROUP_TAGS")
	c.rateLimit = s.number("RATE_LIMIT", 0, 1, 10000)
	c.doctorCallers = s.doctorCallers(c)
	c.sweepGroupTag = getenv("SWEEP_GROUP_TAG")
	c.sweepMaxDevices = s.number("SWEEP_MAX_DEVICES", 10, 1, 10000)
	c.sweepMinInventory = s.number("SWEEP_MIN_INVENTORY", 1, 1, 1000000)
	c.sweepApply = s.oneOf("SWEEP_APPLY", "false", "false", "true") == "true"
	switch {
	case c.sweepGroupTag == "" && c.sweepApply:
		s.wrong("SWEEP_APPLY is true and SWEEP_GROUP_TAG is not set: no device is meant")
	case strings.Contains(c.sweepGroupTag, "*"):
		s.wrong("SWEEP_GROUP_TAG must be one group tag: a * stands for nothing here")
	case c.sweepGroupTag != "" && !(handler.Policy{GroupTags: c.groupTags}).Allows(c.sweepGroupTag):
		s.wrong("SWEEP_GROUP_TAG is not one of ALLOWED_GROUP_TAGS")
	}
	c.tolerance = s.duration("SIGNATURE_TOLERANCE", 300*time.Second, 60*time.Second, 900*time.Second)
	c.timeout = s.duration("REQUEST_TIMEOUT", 25*time.Second, time.Second, 200*time.Second)
	level := s.oneOf("LOG_LEVEL", "info", "info", "warn", "error")
	_ = c.logLevel.UnmarshalText([]byte(level)) // which fails for a word that has been named as wrong already
	return c, s.err()
}

// separate notes a secret that two settings name: the app's would be a caller's, or a signing key be sent as it is. The vault
// takes names without regard to case.
func (s *settings) separate(c config) {
	setting := map[string]string{}
	for _, named := range []struct {
		setting string
		secrets []string
	}{
		{"GRAPH_SECRET_NAME", []string{c.secretName}},
		{"GRAPH_CERTIFICATE_NAME", []string{c.certificateName}},
		{"WEBHOOK_SECRET_NAMES", c.webhookSecretNames},
		{"API_KEY_SECRET_NAMES", c.apiKeySecretNames},
	} {
		for _, secret := range named.secrets {
			secret = strings.ToLower(secret)
			if other := setting[secret]; secret != "" && other != "" && other != named.setting {
				s.wrong("%s and %s name the same secret: each has its own", other, named.setting)
			}
			setting[secret] = named.setting
		}
	}
}

// graphAppID is the client id of Graph, by which its tokens of version 2 name it in every cloud.
const graphAppID = "00000003-0000-0000-c000-000000000000"

// What app roles, scopes and App ID URIs may look like here: less than Entra ID lets them
// (https://learn.microsoft.com/entra/identity-platform/reference-app-manifest). They are compiled where they are needed, and the lengths
// looked at beside: patterns, and above all those that count, take a good part of the time that a process needs to start.
const (
	rolePattern = `^[0-9A-Za-z][0-9A-Za-z._:/-]*$`
	appPattern  = `^[a-z][a-z0-9.+-]*://[0-9A-Za-z._~:/-]+$`
)

// The longest of them, in bytes; of an App ID URI, what stands behind ://.
const (
	longestRole = 120
	longestApp  = 240
)

// entra reads who may call with a token.
func (s *settings) entra(c *config) {
	for _, audience := range s.list("ENTRA_AUDIENCE") {
		id, err := guid.Parse(audience)
		_, app, _ := strings.Cut(audience, "://")
		switch {
		case err == nil:
			audience = id.String()
		case len(app) > longestApp, !regexp.MustCompile(appPattern).MatchString(audience):
			s.wrong("ENTRA_AUDIENCE must be App ID URIs and client ids, with commas between them, such as api://contoso.com/unassign")
			continue
		}
		if audience == graphAppID || c.cloud.graph != "" && strings.HasPrefix(audience, c.cloud.graph) {
			s.wrong("ENTRA_AUDIENCE is Graph's: it must name the app that stands for this function")
		}
		c.entraAudiences = append(c.entraAudiences, audience)
	}
	for _, name := range []string{"ENTRA_TENANT_ID", "ENTRA_ROLE", "ENTRA_SCOPE"} {
		if s.getenv(name) != "" && s.getenv("ENTRA_AUDIENCE") == "" {
			s.wrong("%s is set and ENTRA_AUDIENCE is not: no token is accepted", name)
		}
	}
	c.entraTenants = []string{c.tenantID}
	if tenants := s.list("ENTRA_TENANT_ID"); len(tenants) > 0 {
		c.entraTenants = nil
		for _, tenant := range tenants {
			id, err := guid.Parse(tenant)
			if err != nil {
				s.wrong("ENTRA_TENANT_ID has what is %v", err)
			}
			c.entraTenants = append(c.entraTenants, id.String())
		}
	}
	c.entraRole, c.entraScope = s.role("ENTRA_ROLE", "Device.Unassign"), s.role("ENTRA_SCOPE", "user_impersonation")
}

// doctorCallers reads who may ask for the doctor's report. One who could not call at all is told by his place in the list, and not
// by what stands there, which may be a key.
func (s *settings) doctorCallers(c config) []string {
	members := s.list("DOCTOR_CALLERS")
	var callers []string
	for i := 0; i < len(members); {
		name, n := c.callerID(members[i:])
		if n == 0 {
			n = 1
			switch {
			case c.platformAuth:
				s.wrong("DOCTOR_CALLERS names nobody who could call, in place %d: with AUTH=platform the one caller is host", i+1)
			case len(c.entraTenants) > 1:
				s.wrong("DOCTOR_CALLERS names nobody who could call, in place %d: it must be a name of WEBHOOK_SECRET_NAMES or API_KEY_SECRET_NAMES or, with several in ENTRA_TENANT_ID, app:GUID,tenant:GUID or user:GUID,app:GUID,tenant:GUID", i+1)
			default:
				s.wrong("DOCTOR_CALLERS names nobody who could call, in place %d: it must be a name of WEBHOOK_SECRET_NAMES or API_KEY_SECRET_NAMES or, with ENTRA_AUDIENCE, app:GUID or user:GUID,app:GUID", i+1)
			}
		}
		callers = append(callers, name)
		i += n
	}
	return callers
}

// callerID returns the caller.Caller.ID that a list begins with, and how many members of the list it has, 0 if it begins with none
// that a caller could have. The commas in an ID are those of the list: an ID of a token begins with its user or, where it is
// an app's own, with the app.
func (c *config) callerID(members []string) (id string, n int) {
	if c.platformAuth && members[0] == caller.PlatformID || slices.Contains(c.webhookSecretNames, members[0]) || slices.Contains(c.apiKeySecretNames, members[0]) {
		return members[0], 1
	}
	kinds := []string{"app"}
	if strings.HasPrefix(members[0], "user:") {
		kinds = []string{"user", "app"}
	}
	if len(c.entraTenants) > 1 {
		kinds = append(kinds, "tenant")
	}
	if len(c.entraAudiences) == 0 || len(members) < len(kinds) {
		return "", 0
	}
	parts := make([]string, len(kinds))
	for i, kind := range kinds {
		value, ok := strings.CutPrefix(members[i], kind+":")
		parsed, err := guid.Parse(value)
		if !ok || err != nil || kind == "tenant" && !slices.Contains(c.entraTenants, parsed.String()) {
			return "", 0
		}
		parts[i] = kind + ":" + parsed.String()
	}
	return strings.Join(parts, ","), len(kinds)
}

// role returns a setting that is the value of an app role or a scope.
func (s *settings) role(name, standard string) string {
	value := s.getenv(name)
	if value == "" {
		return standard
	}
	if len(value) > longestRole || !regexp.MustCompile(rolePattern).MatchString(value) {
		s.wrong("%s must be the value of one app role or scope: up to 120 letters, digits and . _ : / -", name)
	}
	return value
}

// list returns what is in a setting that has commas between its members.
func (s *settings) list(name string) []string {
	var members []string
	for member := range strings.SplitSeq(s.getenv(name), ",") {
		if member = strings.TrimSpace(member); member != "" {
			members = append(members, member)
		}
	}
	if len(members) == 0 && s.getenv(name) != "" {
		s.wrong("%s has nothing in it", name)
	}
	return members
}

// settings reads settings and collects what is wrong with them.
type settings struct {
	getenv func(string) string
	faults configError
}

func (s *settings) wrong(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

func (s *settings) err() error {
	if len(s.faults) == 0 {
		return nil
	}
	slices.Sort(s.faults)
	return s.faults
}

// oneOf returns a setting that is one of a few words. It may be unset if standard is not "".
func (s *settings) oneOf(name, standard string, words ...string) string {
	value := s.getenv(name)
	switch {
	case value == "" && standard == "":
		s.wrong("%s is not set: it must be one of %s", name, strings.Join(words, ", "))
	case value == "":
		return standard
	case !slices.Contains(words, value):
		s.wrong("%s must be one of %s", name, strings.Join(words, ", "))
	}
	return value
}

// guid returns a setting that must be a GUID.
func (s *settings) guid(name string) string {
	value := s.getenv(name)
	if value == "" {
		s.wrong("%s is not set", name)
		return ""
	}
	id, err := guid.Parse(value)
	if err != nil {
		s.wrong("%s is %v", name, err)
	}
	return id.String()
}

// https returns value, which must be the address of a host and nothing more.
func (s *settings) https(name, value string) string {
	u, err := url.Parse(value)
	switch {
	case value == "":
		s.wrong("%s is not set", name)
		return ""
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		s.wrong("%s must be https:// and a host, with nothing behind it", name)
		return ""
	}
	return "https://" + u.Host
}

// secretName returns a setting that is the name of a secret, "" if it is not set.
func (s *settings) secretName(name string) string {
	value := s.getenv(name)
	if value != "" && !vault.ValidName(value) {
		s.wrong("%s must be the name of a secret in Key Vault: 1 to 127 letters, digits and hyphens", name)
	}
	return value
}

// secretNames returns a setting that lists names of secrets, with commas between them.
func (s *settings) secretNames(name string) []string {
	var names []string
	for item := range strings.SplitSeq(s.getenv(name), ",") {
		item = strings.TrimSpace(item)
		switch {
		case item == "":
		case !vault.ValidName(item):
			s.wrong("%s must be names of secrets in Key Vault, with commas between them: 1 to 127 letters, digits and hyphens each", name)
			return nil
		case slices.Contains(names, item):
			s.wrong("%s has a name twice", name)
		default:
			names = append(names, item)
		}
	}
	if len(names) == 0 && s.getenv(name) != "" {
		s.wrong("%s has no name in it", name)
	}
	return names
}

// groupTags returns a setting that lists group tags, with commas between them. One may have a * at its end.
func (s *settings) groupTags(name string) []string {
	var tags []string
	for item := range strings.SplitSeq(s.getenv(name), ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		if strings.Contains(strings.TrimSuffix(item, "*"), "*") || item == "*" {
			s.wrong("%s must be group tags, with commas between them: a * may only stand behind the beginning of one", name)
			return nil
		}
		tags = append(tags, item)
	}
	if len(tags) == 0 && s.getenv(name) != "" {
		s.wrong("%s has no group tag in it", name)
	}
	return tags
}

// number returns a setting that is a whole number from least to most.
func (s *settings) number(name string, standard, least, most int) int {
	value := s.getenv(name)
	if value == "" {
		return standard
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		s.wrong("%s must be a number from %d to %d", name, least, most)
	}
	return n
}

// duration returns a setting that is a time such as 300s or 5m, from least to most.
func (s *settings) duration(name string, standard, least, most time.Duration) time.Duration {
	value := s.getenv(name)
	if value == "" {
		return standard
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < least || d > most {
		s.wrong("%s must be a time from %v to %v, such as %v", name, least, most, standard)
	}
	return d
}

var errTwoHosts = errors.New("FUNCTIONS_CUSTOMHANDLER_PORT and AWS_LAMBDA_RUNTIME_API are both set: a process has one host")

// The hosts.
const (
	hostAzure  = "azure"
	hostLambda = "lambda"
	hostLocal  = "local"
)

// recognise tells the host by what it puts into the environment.
func recognise(getenv func(string) string) (string, error) {
	azure, lambda := getenv("FUNCTIONS_CUSTOMHANDLER_PORT") != "", getenv("AWS_LAMBDA_RUNTIME_API") != ""
	switch {
	case azure && lambda:
		return "", errTwoHosts
	case azure:
		return hostAzure, nil
	case lambda:
		return hostLambda, nil
	}
	return hostLocal, nil
}
