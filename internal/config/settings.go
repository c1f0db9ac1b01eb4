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
		"KEY_VAULT_URL":          parseAddress(&c.VaultURL),
		"VAULT_CREDENTIAL":       parseWord(&c.VaultCredential, ManagedIdentity, AWSFederation, ClientSecret, AzureCLI),
		"AZURE_CLIENT_ID":        storeText(&s.azureClientID),
		"AZURE_TENANT_ID":        storeText(&s.azureTenantID),
		"AZURE_CLIENT_SECRET":    storeText(&s.azureSecret),
		"GRAPH_CREDENTIAL":       parseWord(&s.graphCredential, "vault", "identity"),
		"GRAPH_TENANT_ID":        parseID(&c.TenantID),
		"GRAPH_CLIENT_ID":        parseID(&c.ClientID),
		"GRAPH_SECRET_NAME":      parseSecretName(&c.SecretName),
		"GRAPH_CERTIFICATE_NAME": parseSecretName(&c.CertificateName),
		"WEBHOOK_SECRET_NAMES":   parseSecretNames(&c.WebhookSecretNames),
		"API_KEY_SECRET_NAMES":   parseSecretNames(&c.APIKeySecretNames),
		"ENTRA_AUDIENCE":         parseList(&c.EntraAudiences, parseAudience),
		"ENTRA_TENANT_ID":        parseList(&s.entraTenants, parseTenant),
		"ENTRA_ROLE":             parseRole(&c.EntraRole),
		"ENTRA_SCOPE":            parseRole(&c.EntraScope),
		"AUTH":                   parseWord(&s.auth, authVerify, authPlatform, authPlatformAnonymous),
		"ALLOWED_GROUP_TAGS":     parseList(&c.GroupTags, parseGroupTag),
		"CALLER_POLICY":          storeText(&s.policies),
		"RATE_LIMIT":             parseNumber(&c.RateLimit, 0, 10000),
		"DRY_RUN":                parseBool(&c.DryRun),
		"OPERATOR_CALLERS":       storeText(&s.operators),
		"SWEEP_GROUP_TAG":        storeText(&c.SweepGroupTag),
		"SWEEP_MAX_DEVICES":      parseNumber(&c.SweepMaxDevices, 1, 10000),
		"SWEEP_MIN_INVENTORY":    parseNumber(&c.SweepMinInventory, 1, 1000000),
		"SWEEP_APPLY":            parseBool(&c.SweepApply),
		"QUEUE_MAX_AGE":          parseDuration(&c.QueueMaxAge, time.Minute, 14*24*time.Hour),
		"SIGNATURE_TOLERANCE":    parseDuration(&c.Tolerance, 60*time.Second, 900*time.Second),
		"REQUEST_TIMEOUT":        parseDuration(&c.Timeout, time.Second, 200*time.Second),
		"AZURE_CLOUD":            parseWord(&s.cloudName, "public", "usgov", "usgov-dod", "china", customCloud),
		"AZURE_AUTHORITY_HOST":   parseAddress(&s.authority),
		"GRAPH_ENDPOINT":         parseAddress(&s.graphEndpoint),
		"AWS_ENDPOINT_URL_STS":   parseAddress(&c.Role.Endpoint),
		"LOG_LEVEL":              parseWord(&s.level, "info", "warn", "error"),
		"AWS_REGION":             storeText(&c.Role.Region),
		"AWS_ACCESS_KEY_ID":      storeText(&c.Role.KeyID),
		"AWS_SECRET_ACCESS_KEY":  storeText(&c.Role.Secret),
		"AWS_SESSION_TOKEN":      storeText(&c.Role.Session),
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
