package config

import (
	_ "embed"
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

// settingsTable has a line for each setting: its name, kind, default, when it is needed, and its meaning.
//
//go:embed settings.txt
var settingsTable string

// listSettings returns all settings. Their parse functions write to c and s.
func listSettings(c *Config, s *settings) []Setting {
	parsers := map[string]func(string) error{
		"KEY_VAULT_URL":          store(&c.VaultURL, parseAddress),
		"VAULT_CREDENTIAL":       store(&c.VaultCredential, oneOf(ManagedIdentity, AWSFederation, ClientSecret, AzureCLI)),
		"AZURE_CLIENT_ID":        store(&s.azureClientID, parseText),
		"AZURE_TENANT_ID":        store(&s.azureTenantID, parseText),
		"AZURE_CLIENT_SECRET":    store(&s.azureSecret, parseText),
		"GRAPH_CREDENTIAL":       store(&s.graphCredential, oneOf("vault", "identity")),
		"GRAPH_TENANT_ID":        store(&c.TenantID, parseID),
		"GRAPH_CLIENT_ID":        store(&c.ClientID, parseID),
		"GRAPH_SECRET_NAME":      store(&c.SecretName, parseSecretName),
		"GRAPH_CERTIFICATE_NAME": store(&c.CertificateName, parseSecretName),
		"WEBHOOK_SECRET_NAMES":   store(&c.WebhookSecretNames, listOf(parseSecretName)),
		"API_KEY_SECRET_NAMES":   store(&c.APIKeySecretNames, listOf(parseSecretName)),
		"ENTRA_AUDIENCE":         store(&c.EntraAudiences, listOf(parseAudience)),
		"ENTRA_TENANT_ID":        store(&s.entraTenants, listOf(parseID)),
		"ENTRA_ROLE":             store(&c.EntraRole, parseRole),
		"ENTRA_SCOPE":            store(&c.EntraScope, parseRole),
		"AUTH":                   store(&s.auth, oneOf(authVerify, authPlatform, authPlatformAnonymous)),
		"ALLOWED_GROUP_TAGS":     store(&c.Policy.GroupTags, listOf(parseGroupTag)),
		"CALLER_POLICY":          store(&s.policies, parseText),
		"RATE_LIMIT":             store(&c.Policy.PerMinute, numberIn(0, 10000)),
		"DRY_RUN":                store(&c.Policy.DryRun, parseBool),
		"OPERATOR_CALLERS":       store(&s.operators, parseText),
		"SWEEP_GROUP_TAG":        store(&c.Sweep.GroupTag, parseText),
		"SWEEP_MAX_DEVICES":      store(&c.Sweep.MaxDevices, numberIn(1, 10000)),
		"SWEEP_MIN_INVENTORY":    store(&c.Sweep.MinInventory, numberIn(1, 1000000)),
		"SWEEP_APPLY":            store(&c.Sweep.Apply, parseBool),
		"QUEUE_MAX_AGE":          store(&c.QueueMaxAge, durationIn(time.Minute, 14*24*time.Hour)),
		"SIGNATURE_TOLERANCE":    store(&c.Tolerance, durationIn(60*time.Second, 900*time.Second)),
		"REQUEST_TIMEOUT":        store(&c.Timeout, durationIn(time.Second, 200*time.Second)),
		"AZURE_CLOUD":            store(&s.cloudName, oneOf("public", "usgov", "usgov-dod", "china", customCloud)),
		"AZURE_AUTHORITY_HOST":   store(&s.authority, parseAddress),
		"GRAPH_ENDPOINT":         store(&s.graphEndpoint, parseAddress),
		"AWS_ENDPOINT_URL_STS":   store(&c.Role.Endpoint, parseAddress),
		"LOG_LEVEL":              store(&s.level, oneOf("info", "warn", "error")),
		"AWS_REGION":             store(&c.Role.Region, parseText),
		"AWS_ACCESS_KEY_ID":      store(&c.Role.KeyID, parseText),
		"AWS_SECRET_ACCESS_KEY":  store(&c.Role.Secret, parseText),
		"AWS_SESSION_TOKEN":      store(&c.Role.Session, parseText),
	}
	var all []Setting
	for line := range strings.Lines(settingsTable) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.SplitN(line, "|", 5)
		for i, cell := range cells {
			cells[i] = strings.TrimSpace(cell)
		}
		one := Setting{
			Name: cells[0], Deployment: cells[1] == "deployment", Platform: cells[1] == "platform", Default: cells[2],
			Needed: cells[3], Help: cells[4], parse: parsers[cells[0]],
		}
		if one.Name == "VAULT_CREDENTIAL" && c.Host == Lambda { // which has no managed identity
			one.Default = AWSFederation
		}
		all = append(all, one)
	}
	return all
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

// store returns a function that stores the value that parse reads.
func store[T any](dst *T, parse func(value string) (T, error)) func(value string) error {
	return func(value string) (err error) {
		*dst, err = parse(value)
		return err
	}
}

// The kinds of values. Their errors continue the name of the setting, and never have the value in them.

func parseText(value string) (string, error) { return value, nil }

// oneOf takes one of words, in any case.
func oneOf(words ...string) func(string) (string, error) {
	return func(value string) (string, error) {
		value = strings.ToLower(value)
		if !slices.Contains(words, value) {
			return "", errors.New("must be one of " + strings.Join(words, ", "))
		}
		return value, nil
	}
}

// parseBool takes true and false, in any case: Azure turns true into True.
func parseBool(value string) (bool, error) {
	word, err := oneOf("true", "false")(value)
	return word == "true", err
}

func parseID(value string) (string, error) {
	id, err := guid.Parse(value)
	if err != nil {
		return "", fmt.Errorf("is %w", err)
	}
	return id.String(), nil
}

// parseAddress takes https:// and a host, and nothing more.
func parseAddress(value string) (string, error) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("must be https:// and a host, without a path")
	}
	return "https://" + u.Host, nil
}

func numberIn(least, most int) func(string) (int, error) {
	return func(value string) (int, error) {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("must be a number from %d to %d", least, most)
		}
		return n, nil
	}
}

func durationIn(least, most time.Duration) func(string) (time.Duration, error) {
	return func(value string) (time.Duration, error) {
		d, err := time.ParseDuration(value)
		if err != nil || d < least || d > most {
			return 0, fmt.Errorf("must be a time from %v to %v, such as %v", least, most, max(least, most/2))
		}
		return d, nil
	}
}

func parseSecretName(name string) (string, error) {
	if !vault.ValidName(name) {
		return "", errors.New("must name secrets in Key Vault, by 1 to 127 letters, digits and hyphens each")
	}
	return name, nil
}

// listOf takes members separated by commas, each read by parse.
func listOf(parse func(string) (string, error)) func(string) ([]string, error) {
	return func(value string) ([]string, error) {
		members := splitList(value)
		if len(members) == 0 {
			return nil, errors.New("has nothing in it")
		}
		for i, member := range members {
			parsed, err := parse(member)
			if err != nil {
				return nil, err
			}
			members[i] = parsed
		}
		return members, nil
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

// The forms of app roles, scopes and App ID URIs, narrower than Entra ID's
// (https://learn.microsoft.com/entra/identity-platform/reference-app-manifest). The pattern is compiled on use and the length is
// checked beside it: compiling patterns, above all those that count, takes a good part of a cold start.
const (
	appPattern = `^[a-z][a-z0-9.+-]*://[0-9A-Za-z._~:/-]+$`
	maxRole    = 120 // bytes
	maxApp     = 240 // bytes behind ://
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
func parseRole(value string) (string, error) {
	if len(value) > maxRole || !strings.ContainsAny(value[:1], text.Alphanumeric) ||
		strings.Trim(value, text.Alphanumeric+"._:/-") != "" {
		return "", errors.New("must be the value of one app role or scope: up to 120 letters, digits and . _ : / -")
	}
	return value, nil
}
