// Package config reads the settings. Load checks them all and reports every fault at once, by the name of the setting.
//
// One table (settings.txt) describes each setting; settings.go has the checks of their values. The help text and the
// tests of the docs use the same table.
package config

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
)

// The values of VAULT_CREDENTIAL.
const (
	ManagedIdentity = "managed-identity"
	AWSFederation   = "aws-federation"
	ClientSecret    = "client-secret"
	AzureCLI        = "azure-cli"
)

// The values of AUTH.
const (
	authVerify            = "verify"
	authPlatform          = "platform"
	authPlatformAnonymous = "platform-anonymous"
)

// customCloud is the value of AZURE_CLOUD for which the addresses are settings too.
const customCloud = "custom"

// Config is the content of the settings.
type Config struct {
	Host   string
	Getenv func(string) string // the source of the settings; the doctor reads them again

	VaultURL        string // "" if no secret is in a vault
	VaultCredential string
	AzureTenantID   string // of the identity that reads the vault, for AWSFederation and ClientSecret
	AzureClientID   string // likewise; for ManagedIdentity the user-assigned identity, "" for the system-assigned
	AzureSecret     string
	Role            AWSRole // for AWSFederation

	GraphDirect     bool   // the identity signs in to Graph itself, or an app that trusts the identity does
	TenantID        string // of the app that may call Graph
	ClientID        string // "" if a managed identity is that app
	SecretName      string // exactly one of these two is set, unless GraphDirect
	CertificateName string

	Cloud Cloud

	WebhookSecretNames []string
	APIKeySecretNames  []string
	EntraAudiences     []string // empty: tokens are not accepted
	EntraTenants       []string
	EntraRole          string
	EntraScope         string
	PlatformAuth       bool // the host authenticates callers
	PlatformAnonymous  bool // the operator confirms that an anonymous host is out of reach
	Tolerance          time.Duration

	Policy handler.Policy

	OperatorCallers []string // callers of the doctor and the list of devices, as in the audit record's caller_id

	Sweep       handler.Sweep
	QueueMaxAge time.Duration

	Timeout  time.Duration
	LogLevel slog.Level
}

// AWSRole is the role of a Lambda function. AWS STS exchanges its credentials for a token that Entra ID trusts.
type AWSRole struct {
	Region                 string
	Endpoint               string // of STS; "" for the region's own
	KeyID, Secret, Session string
}

// Error lists the faults of the settings, a sentence each.
type Error []string

// Error returns the faults, one on each line, and the names of the settings in the last line: the Functions host
// keeps only the last three lines of standard error.
func (e Error) Error() string {
	text := strings.Join(e, "\n  ")
	var names []string
	for _, s := range Settings() {
		if regexp.MustCompile(`\b` + s.Name + `\b`).MatchString(text) {
			names = append(names, s.Name)
		}
	}
	return "settings:\n  " + text + "\nset or correct: " + strings.Join(names, ", ")
}

// Load reads and checks the settings for host. It needs no network. Its error is an Error with every fault; no value
// of a setting that may be secret is in it.
func Load(getenv func(string) string, host string) (Config, error) {
	c := Config{Host: host, Getenv: getenv}
	s := &settings{set: map[string]bool{}}
	for _, one := range listSettings(&c, s) {
		s.readSetting(one, getenv(one.Name))
	}
	_ = c.LogLevel.UnmarshalText([]byte(s.level)) // one of its own words
	s.setCloud(&c)
	s.checkVault(&c)
	s.checkGraphApp(&c)
	s.checkSeparation(c)
	s.checkTokens(&c)
	s.checkAuth(&c)
	s.checkOperators(&c)
	s.checkPolicies(&c)
	s.checkSweep(c)
	return c, s.listFaults()
}

// checkVault checks the identity of this process and the address of the vault.
func (s *settings) checkVault(c *Config) {
	c.GraphDirect = s.graphCredential == "identity"
	keys := s.set["WEBHOOK_SECRET_NAMES"] || s.set["API_KEY_SECRET_NAMES"]
	if !c.GraphDirect || keys {
		s.requireValue(c.VaultURL, "KEY_VAULT_URL", "")
	}
	if c.VaultURL != "" && !strings.HasSuffix(c.VaultURL, c.Cloud.VaultSuffix) {
		s.addf("KEY_VAULT_URL must end in %s in AZURE_CLOUD=%s", c.Cloud.VaultSuffix, s.cloudName)
	}
	switch c.VaultCredential {
	case ManagedIdentity:
		c.AzureClientID = s.parseGUID("AZURE_CLIENT_ID", s.azureClientID)
	case AWSFederation:
		s.checkRole(c)
	case ClientSecret:
		s.checkVaultApp(c)
		c.AzureSecret = s.azureSecret
		s.requireValue(c.AzureSecret, "AZURE_CLIENT_SECRET", "VAULT_CREDENTIAL=client-secret")
	}
}

// checkVaultApp checks the ids of the app that reads the vault.
func (s *settings) checkVaultApp(c *Config) {
	needs := "VAULT_CREDENTIAL=" + c.VaultCredential
	s.requireValue(s.azureTenantID, "AZURE_TENANT_ID", needs)
	s.requireValue(s.azureClientID, "AZURE_CLIENT_ID", needs)
	c.AzureTenantID = s.parseGUID("AZURE_TENANT_ID", s.azureTenantID)
	c.AzureClientID = s.parseGUID("AZURE_CLIENT_ID", s.azureClientID)
}

// checkRole checks the settings of aws-federation.
func (s *settings) checkRole(c *Config) {
	if !withAWS {
		s.addf("VAULT_CREDENTIAL=aws-federation is not in this package, which is built for Azure")
	}
	if c.Role.Region == "" || c.Role.KeyID == "" || c.Role.Secret == "" {
		s.addf("AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set, " +
			"which VAULT_CREDENTIAL=aws-federation needs and Lambda sets")
	}
	if !c.Cloud.Custom {
		s.refuseValue(c.Role.Endpoint, "AWS_ENDPOINT_URL_STS", "AZURE_CLOUD=custom")
	}
	if c.VaultURL != "" {
		s.checkVaultApp(c)
	}
}

// checkGraphApp checks the app that may call Graph, and its credential.
func (s *settings) checkGraphApp(c *Config) {
	s.requireValue(c.TenantID, "GRAPH_TENANT_ID", "")
	if !c.GraphDirect || c.VaultCredential == AWSFederation {
		s.requireValue(c.ClientID, "GRAPH_CLIENT_ID", "")
	}
	switch secret, certificate := s.set["GRAPH_SECRET_NAME"], s.set["GRAPH_CERTIFICATE_NAME"]; {
	case c.GraphDirect && c.VaultCredential != ManagedIdentity && c.VaultCredential != AWSFederation:
		s.addf("GRAPH_CREDENTIAL=identity needs VAULT_CREDENTIAL=managed-identity or aws-federation")
	case c.GraphDirect && (secret || certificate):
		s.addf("GRAPH_CREDENTIAL=identity needs no secret: remove GRAPH_SECRET_NAME and GRAPH_CERTIFICATE_NAME")
	case c.GraphDirect:
	case !secret && !certificate:
		s.addf("GRAPH_SECRET_NAME or GRAPH_CERTIFICATE_NAME is not set")
	case secret && certificate:
		s.addf("GRAPH_SECRET_NAME and GRAPH_CERTIFICATE_NAME are both set: set one")
	}
}

// checkSeparation reports a secret that the settings name twice: a caller would hold the app's secret, or a signing key
// would be sent as an API key. Key Vault ignores the case of names.
func (s *settings) checkSeparation(c Config) {
	setting := map[string]string{}
	for _, named := range []struct {
		setting string
		secrets []string
	}{
		{"GRAPH_SECRET_NAME", []string{c.SecretName}},
		{"GRAPH_CERTIFICATE_NAME", []string{c.CertificateName}},
		{"WEBHOOK_SECRET_NAMES", c.WebhookSecretNames},
		{"API_KEY_SECRET_NAMES", c.APIKeySecretNames},
	} {
		for _, secret := range named.secrets {
			secret = strings.ToLower(secret)
			switch other := setting[secret]; {
			case secret == "" || other == "":
			case other == named.setting:
				s.addf("%s has a name twice; Key Vault ignores case", other)
			default:
				s.addf("%s and %s name the same secret: use one secret for each", other, named.setting)
			}
			setting[secret] = named.setting
		}
	}
}

// graphAppID is the client id of Graph; version 2 tokens for Graph have it as their audience in every cloud.
const graphAppID = "00000003-0000-0000-c000-000000000000"

// checkTokens checks the settings of callers' tokens.
func (s *settings) checkTokens(c *Config) {
	for _, audience := range c.EntraAudiences {
		if audience == graphAppID || c.Cloud.Graph != "" && strings.HasPrefix(audience, c.Cloud.Graph) {
			s.addf("ENTRA_AUDIENCE is Graph's: name the app that stands for this function")
		}
	}
	for _, name := range []string{"ENTRA_TENANT_ID", "ENTRA_ROLE", "ENTRA_SCOPE"} {
		if s.set[name] && !s.set["ENTRA_AUDIENCE"] {
			s.addf("%s is set and ENTRA_AUDIENCE is not: no token would be accepted", name)
		}
	}
	c.EntraTenants = s.entraTenants
	if len(c.EntraTenants) == 0 {
		c.EntraTenants = []string{c.TenantID}
	}
}

// checkAuth checks that callers are authenticated, here or by the host.
func (s *settings) checkAuth(c *Config) {
	c.PlatformAnonymous = s.auth == authPlatformAnonymous
	c.PlatformAuth = s.auth == authPlatform || c.PlatformAnonymous
	verifiers := s.set["WEBHOOK_SECRET_NAMES"] || s.set["API_KEY_SECRET_NAMES"] || s.set["ENTRA_AUDIENCE"]
	switch {
	case c.PlatformAuth && verifiers:
		s.addf("AUTH=%s accepts every request: remove WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES and ENTRA_AUDIENCE, or "+
			"AUTH", s.auth)
	case !c.PlatformAuth && !verifiers:
		s.addf("WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES or ENTRA_AUDIENCE is not set: no caller could be authenticated")
	}
}

// checkOperators resolves OPERATOR_CALLERS. A fault names the place in the list and not its text, which may be a key.
func (s *settings) checkOperators(c *Config) {
	members := splitList(s.operators)
	if len(members) == 0 && s.operators != "" {
		s.addf("OPERATOR_CALLERS has nothing in it")
	}
	for i := 0; i < len(members); {
		name, n := c.callerID(members[i:])
		if n == 0 {
			n = 1
			s.addf("OPERATOR_CALLERS entry %d matches no configured caller: use %s", i+1, c.callerForms())
		}
		c.OperatorCallers = append(c.OperatorCallers, name)
		i += n
	}
}

// callerForms returns the forms of a caller's id under these settings, for a message.
func (c *Config) callerForms() string {
	const keys = "a name from WEBHOOK_SECRET_NAMES or API_KEY_SECRET_NAMES"
	switch {
	case c.PlatformAuth:
		return "host, the one caller with AUTH=platform"
	case len(c.EntraTenants) > 1:
		return keys + " or, with several in ENTRA_TENANT_ID, app:GUID,tenant:GUID or user:GUID,app:GUID,tenant:GUID"
	}
	return keys + " or, with ENTRA_AUDIENCE, app:GUID or user:GUID,app:GUID"
}

// callerID returns the caller.Caller.ID at the start of members and the number of members it spans, 0 if no configured
// caller has such an id. The id of a token has commas of its own: [user:GUID,]app:GUID[,tenant:GUID].
func (c *Config) callerID(members []string) (id string, n int) {
	if c.PlatformAuth && members[0] == caller.PlatformID ||
		slices.Contains(c.WebhookSecretNames, members[0]) || slices.Contains(c.APIKeySecretNames, members[0]) {
		return members[0], 1
	}
	kinds := []string{"app"}
	if strings.HasPrefix(members[0], "user:") {
		kinds = []string{"user", "app"}
	}
	if len(c.EntraTenants) > 1 {
		kinds = append(kinds, "tenant")
	}
	if len(c.EntraAudiences) == 0 || len(members) < len(kinds) {
		return "", 0
	}
	parts := make([]string, len(kinds))
	for i, kind := range kinds {
		value, ok := strings.CutPrefix(members[i], kind+":")
		parsed, err := guid.Parse(value)
		if !ok || err != nil || kind == "tenant" && !slices.Contains(c.EntraTenants, parsed.String()) {
			return "", 0
		}
		parts[i] = kind + ":" + parsed.String()
	}
	return strings.Join(parts, ","), len(kinds)
}

// checkSweep checks the settings of sweeps against each other and the policy.
func (s *settings) checkSweep(c Config) {
	switch {
	case c.Sweep.GroupTag == "" && c.Sweep.Apply:
		s.addf("SWEEP_APPLY is true and SWEEP_GROUP_TAG is not set: name the group tag to clean")
	case strings.Contains(c.Sweep.GroupTag, "*"):
		s.addf("SWEEP_GROUP_TAG must be one group tag, without *")
	case c.Sweep.GroupTag != "" && !c.Policy.Allows(c.Sweep.GroupTag):
		s.addf("SWEEP_GROUP_TAG is not one of ALLOWED_GROUP_TAGS")
	}
}

// settings collects the faults of the settings.
type settings struct {
	set    map[string]bool // settings with a value, valid or not
	faults Error

	// Texts that need other settings to be understood.
	cloudName, authority, graphEndpoint       string
	azureTenantID, azureClientID, azureSecret string
	graphCredential, auth                     string
	operators, policies                       string
	entraTenants                              []string
	level                                     string
}

func (s *settings) addf(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

func (s *settings) listFaults() error {
	if len(s.faults) == 0 {
		return nil
	}
	slices.Sort(s.faults)
	return slices.Compact(s.faults)
}

// requireValue reports a setting without a value. because names the setting that needs it, "" if it is always needed.
func (s *settings) requireValue(value, name, because string) {
	switch {
	case value != "" || s.set[name]:
	case because == "":
		s.addf("%s is not set", name)
	default:
		s.addf("%s is not set, which %s needs", name, because)
	}
}

// refuseValue reports a setting that has a meaning only beside another.
func (s *settings) refuseValue(value, name, beside string) {
	if value != "" {
		s.addf("%s is only for %s", name, beside)
	}
}

// parseGUID returns the GUID in value, or reports a fault. "" is no fault.
func (s *settings) parseGUID(name, value string) string {
	if value == "" {
		return ""
	}
	id, err := guid.Parse(value)
	if err != nil {
		s.addf("%s is %v", name, err)
	}
	return id.String()
}
