package config

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/vault"
)

// Setting describes a setting.
type Setting struct {
	Name    string
	Default string // "" if the setting has no default
	Needed  string // when the setting must have a value; "" if it never must
	Help    string
	// Deployment marks settings that only a deployment has: with none of them set, serve simulates the cloud.
	Deployment bool
	// Platform marks settings that the host sets; people do not.
	Platform bool

	parse func(value string) error // checks and stores a value, which is trimmed and not empty
}

// Settings returns the description of every setting.
func Settings() []Setting { return listSettings(&Config{}, &settings{}) }

// listSettings returns all settings. Their parse functions write to c and s.
func listSettings(c *Config, s *settings) []Setting {
	credential := ManagedIdentity
	if c.Host == Lambda { // which has no managed identity
		credential = AWSFederation
	}
	const vaultApp, oneKind, oneOfTwo = "with `client-secret`; with `aws-federation` and a vault", "at least one verifier",
		"one of the two, with `GRAPH_CREDENTIAL=vault`"
	return []Setting{
		{
			Name: "KEY_VAULT_URL", Needed: "if a secret is kept in a vault", Deployment: true, parse: parseAddress(&c.VaultURL),
			Help: "the vault: `https://contoso.vault.azure.net`",
		},
		{
			Name: "VAULT_CREDENTIAL", Default: credential, Deployment: true,
			parse: parseWord(&c.VaultCredential, ManagedIdentity, AWSFederation, ClientSecret, AzureCLI),
			Help: "how this process reads the vault: `managed-identity`, `aws-federation` (the default on Lambda: the " +
				"function's role, which an app trusts), `client-secret` or `azure-cli`",
		},
		{
			Name: "AZURE_CLIENT_ID", Needed: vaultApp, parse: storeText(&s.azureClientID),
			Help: "the client id of the user-assigned identity or, with `aws-federation` and `client-secret`, of the app that " +
				"reads the vault",
		},
		{Name: "AZURE_TENANT_ID", Needed: vaultApp, parse: storeText(&s.azureTenantID), Help: "the tenant of that app"},
		{
			Name: "AZURE_CLIENT_SECRET", Needed: "with `client-secret`", parse: storeText(&s.azureSecret),
			Help: "the secret of that app",
		},
		{
			Name: "GRAPH_CREDENTIAL", Default: "vault", Deployment: true, parse: parseWord(&s.graphCredential, "vault", "identity"),
			Help: "`vault`: the app's secret or certificate; `identity`: no secret at all. Then the app `GRAPH_CLIENT_ID` " +
				"trusts the managed identity or the function's role; without `GRAPH_CLIENT_ID` the managed identity itself has " +
				"the permission in Graph",
		},
		{
			Name: "GRAPH_TENANT_ID", Needed: "yes", Deployment: true, parse: parseID(&c.TenantID),
			Help: "the tenant of the devices",
		},
		{
			Name: "GRAPH_CLIENT_ID", Needed: "yes, except for a managed identity with `GRAPH_CREDENTIAL=identity`",
			Deployment: true, parse: parseID(&c.ClientID),
			Help: "the app that may call Graph",
		},
		{
			Name: "GRAPH_SECRET_NAME", Needed: oneOfTwo, Deployment: true, parse: parseSecretName(&c.SecretName),
			Help: "the secret in the vault that holds the client secret of that app",
		},
		{
			Name: "GRAPH_CERTIFICATE_NAME", Needed: oneOfTwo, Deployment: true, parse: parseSecretName(&c.CertificateName),
			Help: "the certificate in the vault with which that app signs in",
		},
		{
			Name: "WEBHOOK_SECRET_NAMES", Needed: oneKind, Deployment: true, parse: parseSecretNames(&c.WebhookSecretNames),
			Help: "secrets that hold signing keys, separated by commas",
		},
		{
			Name: "API_KEY_SECRET_NAMES", Needed: oneKind, Deployment: true, parse: parseSecretNames(&c.APIKeySecretNames),
			Help: "secrets that hold API keys, separated by commas",
		},
		{
			Name: "ENTRA_AUDIENCE", Needed: oneKind, Deployment: true, parse: parseList(&c.EntraAudiences, parseAudience),
			Help: "the audiences of accepted Entra tokens, exactly as in `aud`: App ID URI, client id or both, separated by " +
				"commas",
		},
		{
			Name: "ENTRA_TENANT_ID", parse: parseList(&s.entraTenants, parseTenant),
			Help: "the tenants whose tokens are accepted, separated by commas; default: `GRAPH_TENANT_ID`",
		},
		{Name: "ENTRA_ROLE", Default: "Device.Unassign", parse: parseRole(&c.EntraRole), Help: "the app role that every caller " +
			"with a token must have"},
		{
			Name: "ENTRA_SCOPE", Default: "user_impersonation", parse: parseRole(&c.EntraScope),
			Help: "the scope that a token on behalf of a user must have beside the role",
		},
		{
			Name: "AUTH", Default: authVerify, Needed: oneKind, Deployment: true, parse: parseWord(&s.auth, authVerify,
				authPlatform, authPlatformAnonymous),
			Help: "`verify`: authenticate callers here; `platform`: the host has authenticated them, in place of the three " +
				"kinds above; `platform-anonymous`: likewise, although the host authenticates no caller (private networks only)",
		},
		{
			Name: "ALLOWED_GROUP_TAGS", parse: parseList(&c.GroupTags, parseGroupTag),
			Help: "the group tags of devices that may be changed, separated by commas, exact or with a `*` at the end: " +
				"`MTR-*,Retired`; default: all devices",
		},
		{
			Name: "CALLER_POLICY", parse: storeText(&s.policies),
			Help: "limits for single callers, as JSON: " +
				"`{\"webhook-servicenow\":{\"groupTags\":[\"MTR-*\"],\"requireExpected\":true,\"devicesPerHour\":50}}`",
		},
		{
			Name: "RATE_LIMIT", Default: "60", parse: parseNumber(&c.RateLimit, 0, 10000),
			Help: "devices per caller and minute, on each instance; at least 20 at once, so that a whole list fits; `0` for no limit",
		},
		{Name: "DRY_RUN", Default: "false", parse: parseBool(&c.DryRun), Help: "`true`: requests and events report and change " +
			"nothing"},
		{
			Name: "OPERATOR_CALLERS", parse: storeText(&s.operators),
			Help: "the callers of `GET /api/doctor` and `GET /api/devices`, separated by commas: names from " +
				"`WEBHOOK_SECRET_NAMES` and `API_KEY_SECRET_NAMES`, and ids of apps and users as in `caller_id` of the audit " +
				"record; default: no caller",
		},
		{Name: "SWEEP_GROUP_TAG", Needed: "for a sweep", parse: storeText(&c.SweepGroupTag), Help: "the group tag of the " +
			"devices that a sweep cleans"},
		{
			Name: "SWEEP_MAX_DEVICES", Default: "10", parse: parseNumber(&c.SweepMaxDevices, 1, 10000),
			Help: "a sweep that finds more devices to clean does nothing; up to 10000",
		},
		{
			Name: "SWEEP_MIN_INVENTORY", Default: "1", parse: parseNumber(&c.SweepMinInventory, 1, 1000000),
			Help: "a sweep that finds fewer devices in Intune does nothing",
		},
		{Name: "SWEEP_APPLY", Default: "false", parse: parseBool(&c.SweepApply), Help: "`true`: sweeps act; `false`: sweeps " +
			"are dry runs"},
		{
			Name: "QUEUE_MAX_AGE", Default: "24h", parse: parseDuration(&c.QueueMaxAge, time.Minute, 14*24*time.Hour),
			Help: "older messages of a queue are refused, unless they name the expected account; from 1m to 336h",
		},
		{
			Name: "SIGNATURE_TOLERANCE", Default: "300s", parse: parseDuration(&c.Tolerance, 60*time.Second, 900*time.Second),
			Help: "the largest difference between the time of a signature and the clock; from 60s to 15m",
		},
		{
			Name: "REQUEST_TIMEOUT", Default: "25s", parse: parseDuration(&c.Timeout, time.Second, 200*time.Second),
			Help: "the time for one request; from 1s to 200s, below the host's own limit",
		},
		{
			Name: "AZURE_CLOUD", Default: "public", parse: parseWord(&s.cloudName, "public", "usgov", "usgov-dod", "china",
				customCloud),
			Help: "`public`, `usgov`, `usgov-dod`, `china` or `custom`",
		},
		{
			Name: "AZURE_AUTHORITY_HOST", Needed: "with `custom`", parse: parseAddress(&s.authority),
			Help: "the address that issues tokens",
		},
		{Name: "GRAPH_ENDPOINT", Needed: "with `custom`", parse: parseAddress(&s.graphEndpoint), Help: "the root of Graph"},
		{Name: "AWS_ENDPOINT_URL_STS", parse: parseAddress(&c.Role.Endpoint), Help: "with `custom` and `aws-federation`: the " +
			"address of AWS STS; default: the region's"},
		{
			Name: "LOG_LEVEL", Default: "info", parse: parseWord(&s.level, "info", "warn", "error"),
			Help: "`info`, `warn` or `error`; audit records are written at every level",
		},
		{Name: "AWS_REGION", Platform: true, parse: storeText(&c.Role.Region)},
		{Name: "AWS_ACCESS_KEY_ID", Platform: true, parse: storeText(&c.Role.KeyID)},
		{Name: "AWS_SECRET_ACCESS_KEY", Platform: true, parse: storeText(&c.Role.Secret)},
		{Name: "AWS_SESSION_TOKEN", Platform: true, parse: storeText(&c.Role.Session)},
	}
}

// HasDeployment reports whether any setting that only a deployment has is set. Without one, serve simulates the cloud.
//
// AZURE_CLIENT_SECRET and its like are not among them: they are in many environments for other programs.
func HasDeployment(getenv func(string) string) bool {
	return slices.ContainsFunc(Settings(), func(s Setting) bool { return s.Deployment && text.Trim(getenv(s.Name)) != "" })
}

// WriteHelp writes the settings as a table for a terminal.
func WriteHelp(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range Settings() {
		if !s.Platform {
			fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, s.Default, strings.ReplaceAll(s.Help, "`", ""))
		}
	}
	return t.Flush()
}

// readSetting trims and stores the value of a setting, or its default, and collects the fault if it has one.
func (s *settings) readSetting(one Setting, value string) {
	value = text.Trim(value)
	s.set[one.Name] = value != ""
	switch {
	case strings.ContainsFunc(value, unicode.IsControl):
		s.addf("%s has a control character in it: enter its value by hand", one.Name)
		return
	case value == "" && one.Default == "":
		return
	case value == "":
		value = one.Default
	}
	if err := one.parse(value); err != nil {
		s.addf("%s %v", one.Name, err)
	}
}

// The kinds of values. Each returns a function that checks a value and stores it in dst. Its error continues the name of the
// setting, and never has the value in it.

func storeText(dst *string) func(string) error {
	return func(value string) error { *dst = value; return nil }
}

// parseWord takes one of words, in any case.
func parseWord(dst *string, words ...string) func(string) error {
	return func(value string) error {
		if *dst = strings.ToLower(value); !slices.Contains(words, *dst) {
			return errors.New("must be one of " + strings.Join(words, ", "))
		}
		return nil
	}
}

// parseBool takes true and false, in any case: Azure turns true into True.
func parseBool(dst *bool) func(string) error {
	return func(value string) error {
		*dst = strings.EqualFold(value, "true")
		if !*dst && !strings.EqualFold(value, "false") {
			return errors.New("must be one of true, false")
		}
		return nil
	}
}

func parseID(dst *string) func(string) error {
	return func(value string) error {
		parsed, err := guid.Parse(value)
		if err != nil {
			return fmt.Errorf("is %w", err)
		}
		*dst = parsed.String()
		return nil
	}
}

// parseAddress takes https:// and a host, and nothing more.
func parseAddress(dst *string) func(string) error {
	return func(value string) error {
		u, err := url.Parse(value)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("must be https:// and a host, without a path")
		}
		*dst = "https://" + u.Host
		return nil
	}
}

func parseNumber(dst *int, least, most int) func(string) error {
	return func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return fmt.Errorf("must be a number from %d to %d", least, most)
		}
		*dst = n
		return nil
	}
}

func parseDuration(dst *time.Duration, least, most time.Duration) func(string) error {
	return func(value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < least || d > most {
			return fmt.Errorf("must be a time from %v to %v, such as %v", least, most, max(least, most/2))
		}
		*dst = d
		return nil
	}
}

const secretNameForm = "1 to 127 letters, digits and hyphens"

func parseSecretName(dst *string) func(string) error {
	return func(value string) error {
		if !vault.ValidName(value) {
			return errors.New("must be the name of a secret in Key Vault: " + secretNameForm)
		}
		*dst = value
		return nil
	}
}

// parseSecretNames takes names of secrets. Key Vault ignores the case of names, so two that differ in case alone are one secret.
func parseSecretNames(dst *[]string) func(string) error {
	seen := map[string]bool{}
	return parseList(dst, func(name string) (string, error) {
		switch lower := strings.ToLower(name); {
		case !vault.ValidName(name):
			return "", errors.New("must be names of secrets in Key Vault, separated by commas: " + secretNameForm + " each")
		case seen[lower]:
			return "", errors.New("has a name twice; Key Vault ignores case")
		default:
			seen[lower] = true
			return name, nil
		}
	})
}

// parseList takes members separated by commas, each checked by parse.
func parseList(dst *[]string, parse func(string) (string, error)) func(string) error {
	return func(value string) error {
		members := splitList(value)
		if len(members) == 0 {
			return errors.New("has nothing in it")
		}
		for _, member := range members {
			parsed, err := parse(member)
			if err != nil {
				*dst = nil
				return err
			}
			*dst = append(*dst, parsed)
		}
		return nil
	}
}

// splitList returns the members of a list, without those that are empty.
func splitList(value string) []string {
	var members []string
	for member := range strings.SplitSeq(value, ",") {
		if member = text.Trim(member); member != "" {
			members = append(members, member)
		}
	}
	return members
}

func parseGroupTag(tag string) (string, error) {
	if strings.Contains(strings.TrimSuffix(tag, "*"), "*") || tag == "*" {
		return "", errors.New("must be group tags, separated by commas: a * may stand only at the end of one")
	}
	return tag, nil
}

func parseTenant(tenant string) (string, error) {
	id, err := guid.Parse(tenant)
	if err != nil {
		return "", errors.New("must be GUIDs, separated by commas")
	}
	return id.String(), nil
}

// The forms of app roles, scopes and App ID URIs, narrower than Entra ID's
// (https://learn.microsoft.com/entra/identity-platform/reference-app-manifest). They are compiled on use and lengths are checked
// beside them: compiling patterns, above all those that count, takes a good part of a cold start.
const (
	rolePattern = `^[0-9A-Za-z][0-9A-Za-z._:/-]*$`
	appPattern  = `^[a-z][a-z0-9.+-]*://[0-9A-Za-z._~:/-]+$`
	maxRole     = 120 // bytes
	maxApp      = 240 // bytes behind ://
)

func parseAudience(audience string) (string, error) {
	if id, err := guid.Parse(audience); err == nil {
		return id.String(), nil
	}
	if _, app, _ := strings.Cut(audience, "://"); len(app) > maxApp || !regexp.MustCompile(appPattern).MatchString(audience) {
		return "", errors.New("must be App ID URIs and client ids, separated by commas, such as api://contoso.com/unassign")
	}
	return audience, nil
}

// parseRole takes the value of an app role or a scope.
func parseRole(dst *string) func(string) error {
	return func(value string) error {
		// The defaults are valid.
		if value != "Device.Unassign" && value != "user_impersonation" && (len(value) > maxRole || !regexp.MustCompile(rolePattern).MatchString(value)) {
			return errors.New("must be the value of one app role or scope: up to 120 letters, digits and . _ : / -")
		}
		*dst = value
		return nil
	}
}
