package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

// The names of the checks.
const (
	checkSettings    = "settings"
	checkVault       = "vault"
	checkAssertion   = "assertion"
	checkIdentity    = "vault_identity"
	checkSecret      = "secret"
	checkCertificate = "certificate"
	checkWebhookKey  = "webhook_key"
	checkAPIKey      = "api_key"
	checkToken       = "graph_token"
	checkRole        = "graph_role"
	checkOtherRoles  = "graph_other_roles"
	checkDevices     = "graph_devices"
	checkClock       = "clock"
	checkCallers     = "callers"
	checkPolicy      = "policy"
	checkSweep       = "sweep"
	checkSigningKeys = "signing_keys"
)

const (
	graphStep     = 8 * time.Second
	assertionStep = 5 * time.Second
	soon          = 14 * 24 * time.Hour // before the expiry of a secret or a certificate
	skewWarning   = time.Minute
	skewFault     = 5 * time.Minute // the default of SIGNATURE_TOLERANCE
	manyDevices   = 100             // for one sweep
)

// graphRole is the application permission of Graph that the program needs: the action and the list of devices accept
// it. Microsoft's page of the action also lists DeviceManagementConfiguration.ReadWrite.All, which the list does not
// accept.
const graphRole = "DeviceManagementServiceConfig.ReadWrite.All"

// diagnosis is the state that the checks of one examination share.
type diagnosis struct {
	config.Config
	app.Parts
	dates *dates
	log   *slog.Logger

	scope string // of the vault's tokens
	roles []string
	// opaque reports that the roles in the token could not be read.
	opaque bool
}

// listProbes returns all checks in the order of the report. faults is the error of config.Load.
func (d *diagnosis) listProbes(faults error, getenv func(string) string) []*probe {
	settings := d.settingsProbe(faults, getenv)
	inVault := &probe{
		needs: []*probe{settings}, otherwise: "Key Vault was not reached",
		findings: []Finding{{Check: checkVault, Tried: "ask the vault at KEY_VAULT_URL, without a token"}},
		run:      d.askVault,
	}
	assertion := d.assertionProbe(settings)
	identity := &probe{
		needs: []*probe{settings}, after: []*probe{inVault}, otherwise: "there is no token for Key Vault",
		findings: []Finding{{Check: checkIdentity, Tried: "get a token for the vault by VAULT_CREDENTIAL=" +
			d.VaultCredential, issuer: d.vaultIssuer()}},
		run: d.askIdentity,
	}
	if d.VaultCredential == config.AWSFederation {
		identity.needs = append(identity.needs, assertion)
	}
	if d.withoutVault() {
		inVault.findings[0].Tried, inVault.run = "check for a vault", func(_ context.Context, f []Finding) {
			f[0].ok("not needed: KEY_VAULT_URL is not set")
		}
		identity.findings, identity.run = nil, func(context.Context, []Finding) {}
	}
	reading := []*probe{inVault, identity}
	credential := d.appCredential(reading)
	if d.GraphDirect {
		credential = assertion
	}
	all := []*probe{settings, inVault, assertion, identity}
	if !d.GraphDirect {
		all = append(all, credential)
	}
	all = append(all,
		d.keysProbe(checkWebhookKey, "key of signatures", d.WebhookSecretNames, caller.DecodeSignatureKey, reading),
		d.keysProbe(checkAPIKey, "API key", d.APIKeySecretNames, caller.DecodeAPIKey, reading))
	token := &probe{
		needs: []*probe{credential}, otherwise: "there is no token for Graph", pause: tokenRetryPause,
		findings: []Finding{d.graphToken()},
		run:      d.askEntra,
	}
	roles := &probe{
		needs: []*probe{token}, otherwise: "the " + d.graphHolder() + " does not have the permission for it",
		findings: []Finding{{Check: checkRole, Tried: "check the permission in the token"}, {
			Check: checkOtherRoles,
			Tried: "check for other permissions in the token",
		}},
		run: d.lookAtRoles,
	}
	devices := &probe{
		needs: []*probe{roles}, findings: []Finding{{Check: checkDevices, Tried: "read the first Autopilot device from " +
			"Graph", issuer: d.graphToken().issuer}}, run: d.askGraph,
	}
	keys := d.signingProbe(settings)
	clock := &probe{
		needs: []*probe{settings}, after: []*probe{inVault, assertion, token, devices, keys},
		findings: []Finding{{Check: checkClock, Tried: "compare the clock with the cloud's"}}, run: d.compareClocks,
	}
	words := &probe{
		needs: []*probe{settings},
		findings: []Finding{
			{Check: checkCallers, Tried: "list the callers"},
			{Check: checkPolicy, Tried: "list the limits of callers"},
			{Check: checkSweep, Tried: "describe the sweep"},
		},
		run: d.readPolicy,
	}
	return append(all, token, roles, devices, clock, words, keys)
}

// withoutVault reports whether the deployment needs no vault and has none.
func (d *diagnosis) withoutVault() bool {
	return d.VaultURL == "" && d.GraphDirect && len(d.WebhookSecretNames)+len(d.APIKeySecretNames) == 0
}

// vaultIssuer returns the issuer of the tokens for the vault.
func (d *diagnosis) vaultIssuer() party {
	switch {
	case d.VaultCredential == config.AWSFederation:
		return entraTrusting
	case d.VaultCredential == config.ManagedIdentity && d.GraphDirect: // which no az login replaces
		return hostIdentity
	}
	return vaultReader
}

// graphHolder returns the kind of principal that has the permission in Graph.
func (d *diagnosis) graphHolder() string {
	if d.graphToken().issuer == hostIdentity {
		return "managed identity"
	}
	return "app"
}

// graphToken returns the finding about the token for Graph, before the check.
func (d *diagnosis) graphToken() Finding {
	f := Finding{Check: checkToken, Subject: d.SecretName + d.CertificateName, Tried: "get a token for Graph from Entra " +
		"ID"}
	switch {
	case !d.GraphDirect:
	case d.VaultCredential == config.AWSFederation:
		f.Tried, f.issuer = f.Tried+", by the app that trusts the function's role", entraTrusting
	case d.ClientID != "":
		f.Tried, f.issuer = f.Tried+", by the app that trusts the managed identity", entraTrusting
	default:
		f.Tried, f.issuer = "get a token for Graph by the managed identity itself", hostIdentity
	}
	return f
}

// assertionProbe checks the token that identifies this process to an app with a federated credential. It has no finding
// without such an app.
func (d *diagnosis) assertionProbe(settings *probe) *probe {
	c := &probe{needs: []*probe{settings}, otherwise: "there is no token that identifies this process"}
	var ask entra.Assertion
	switch {
	case d.VaultCredential == config.AWSFederation:
		c.findings = []Finding{{
			Check: checkAssertion, Tried: "get a token from AWS STS that names the function's role",
			issuer: awsSTS,
		}}
		ask = app.RoleAssertion(d.Role, d.dates, d.Cloud.Exchange)
	case d.GraphDirect && d.ClientID != "":
		c.findings = []Finding{{
			Check: checkAssertion, Tried: "get a token that names the managed identity",
			issuer: hostIdentity,
		}}
		ask = entra.Asserted(d.Identity, d.Cloud.Exchange)
	}
	c.run = func(ctx context.Context, f []Finding) {
		if len(f) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, assertionStep)
		defer cancel()
		if _, err := ask(ctx); err != nil {
			f[0].failWith(err, nil)
			return
		}
		f[0].ok("received")
	}
	return c
}

// settingsProbe checks the settings: a finding for each fault.
func (d *diagnosis) settingsProbe(loadError error, getenv func(string) string) *probe {
	c := &probe{otherwise: "the settings are not complete"}
	tried := "read the settings, for the host " + d.Host
	faults, _ := errors.AsType[config.Error](loadError)
	for _, fault := range faults {
		c.findings = append(c.findings, Finding{Check: checkSettings, Tried: tried, Mark: Failed, Found: fault})
	}
	if len(faults) == 0 {
		c.findings = []Finding{{Check: checkSettings, Tried: tried}}
	}
	c.run = func(_ context.Context, f []Finding) {
		last := &f[len(f)-1]
		switch {
		case len(faults) > 0:
			last.Fix = []string{
				"docs/settings.md describes each setting; set it in the deployment:", setSetting,
				"on AWS: the parameters of template.yaml, by sam deploy --guided",
			}
		case (d.VaultCredential == config.ManagedIdentity || d.VaultCredential == config.AWSFederation) &&
			getenv("AZURE_CLIENT_SECRET") != "":
			last.warn([]string{"remove AZURE_CLIENT_SECRET from the environment"}, "complete, but AZURE_CLIENT_SECRET is set "+
				"and not used: VAULT_CREDENTIAL is %s", d.VaultCredential)
		default:
			last.ok("complete")
		}
	}
	return c
}

func (d *diagnosis) askVault(ctx context.Context, f []Finding) {
	scope, err := vault.Scope(ctx, d.VaultURL, app.SDKOptions(d.Config, d.dates, d.log))
	if err != nil {
		f[0].failWith(err, nil)
		if d.Cloud.VaultSuffix != "" { // so that the identity can be checked all the same
			d.scope = "https://" + strings.TrimPrefix(d.Cloud.VaultSuffix, ".") + "/.default"
		}
		return
	}
	d.scope = scope
	f[0].ok("it responds as a vault")
}

func (d *diagnosis) askIdentity(ctx context.Context, f []Finding) {
	if d.scope == "" {
		f[0].skip("Key Vault was not reached, and the scope of its tokens is unknown")
		return
	}
	if _, err := d.Identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{d.scope}}); err != nil {
		f[0].failWith(err, trustRole("$AZURE_CLIENT_ID", d.Cloud.Exchange)) // for an app with a federated credential
		return
	}
	f[0].ok("received")
}

// appCredential checks the client secret or the certificate of the app that may call Graph.
func (d *diagnosis) appCredential(needs []*probe) *probe {
	c := &probe{needs: needs, otherwise: "the credential of the app cannot be used"}
	name := d.SecretName + d.CertificateName // one of them is ""
	c.findings = []Finding{{Check: checkSecret, Subject: name, Tried: "read the secret " + name, issuer: d.vaultIssuer()}}
	if d.CertificateName == "" {
		c.run = func(ctx context.Context, f []Finding) {
			if s, err := d.Vault.Secret(ctx, name); err != nil {
				f[0].failWith(err, newAppSecret(name))
			} else {
				f[0].recordVersion(s, newAppSecret(name))
			}
		}
		return c
	}
	c.findings = append(c.findings, Finding{Check: checkCertificate, Subject: name, Tried: "read the certificate in " +
		name})
	c.run = func(ctx context.Context, f []Finding) {
		s, err := d.Vault.Certificate(ctx, name)
		if err != nil {
			f[0].failWith(err, newCertificateSteps(name))
			f[1].skip("the secret could not be read")
			return
		}
		f[0].recordVersion(s, newCertificateSteps(name))
		cert, err := s.Certificate()
		if err != nil {
			f[1].fail(newCertificateSteps(name), "it %v", err)
			return
		}
		f[1].recordCertificate(cert)
	}
	return c
}

// recordVersion records the version of a secret and its expiry. Key Vault serves expired secrets too.
func (f *Finding) recordVersion(s vault.Secret, renew []string) {
	text := "version " + s.Version[:min(8, len(s.Version))]
	if s.Trimmed {
		text += " (without the invisible characters at its ends)"
	}
	switch left := time.Until(s.Expires); {
	case s.Expires.IsZero():
		f.ok("%s, without an expiry", text)
	case left < 0:
		f.warn(renew, "%s, expired on %s; Key Vault serves it all the same", text, s.Expires.UTC().Format(time.DateOnly))
	case left < soon:
		f.warn(renew, "%s, expires in %s, on %s", text, countDays(left), s.Expires.UTC().Format(time.DateOnly))
	default:
		f.ok("%s, expires in %s, on %s", text, countDays(left), s.Expires.UTC().Format(time.DateOnly))
	}
}

func (f *Finding) recordCertificate(cert *x509.Certificate) {
	renew, end := newCertificateSteps(f.Subject), cert.NotAfter.UTC().Format(time.DateOnly)
	switch left := time.Until(cert.NotAfter); {
	case left < 0:
		f.warn(renew, "an RSA key and its certificate, expired on %s; Entra ID decides whether it is valid", end)
	case left < soon:
		f.warn(renew, "an RSA key and its certificate, expires in %s, on %s", countDays(left), end)
	default:
		f.ok("an RSA key and its certificate, expires in %s, on %s", countDays(left), end)
	}
}

func countDays(left time.Duration) string {
	if n := int(left / (24 * time.Hour)); n != 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "1 day"
}

// keysProbe checks callers' keys of one kind, with two findings for each name. A permanently missing key is a warning if
// another key is valid: every rotation has such a time.
func (d *diagnosis) keysProbe(kind, word string, names []string, decode func(string) ([]byte, error),
	needs []*probe,
) *probe {
	c := &probe{needs: needs}
	for _, name := range names {
		c.findings = append(c.findings,
			Finding{Check: checkSecret, Subject: name, Tried: "read the secret " + name, issuer: d.vaultIssuer()},
			Finding{Check: kind, Subject: name, Tried: "decode the " + word + " in " + name})
	}
	c.run = func(ctx context.Context, f []Finding) {
		errs := make([]error, len(names))
		runTogether(len(names), func(i int) { errs[i] = d.checkKey(ctx, f[2*i:2*i+2], names[i], kind, decode) })
		if !slices.Contains(errs, nil) {
			return
		}
		for i, err := range errs {
			failed, _ := errors.AsType[*upstream.Error](err)
			if err == nil || failed != nil && failed.Reason != upstream.NotFound &&
				failed.Reason != upstream.SecretDisabled && failed.Reason != upstream.SecretInvalid {
				continue
			}
			for j := range f[2*i : 2*i+2] {
				if one := &f[2*i+j]; one.Mark == Failed {
					one.Mark = Warning
					one.Found += "; not a fault while another key of the kind is valid"
				}
			}
		}
	}
	return c
}

// checkKey checks one key and returns the error that makes it unusable.
func (d *diagnosis) checkKey(ctx context.Context, f []Finding, name, kind string, decode func(string) ([]byte,
	error),
) error {
	s, err := d.Vault.Secret(ctx, name)
	if err != nil {
		f[0].failWith(err, newKey(kind, name))
		f[1].skip("the secret could not be read")
		return err
	}
	f[0].recordVersion(s, newKey(kind, name))
	key, err := decode(s.Value())
	if err != nil {
		f[1].fail(newKey(kind, name), "the %v", err)
		return err
	}
	if !s.Expires.IsZero() && time.Now().After(s.Expires) {
		f[1].fail(newKey(kind, name), "the secret has expired, and with it the key")
		return errors.New("expired")
	}
	f[1].ok("%d bytes, of which %d are enough", len(key), caller.MinKeySize)
	return nil
}

func (d *diagnosis) askEntra(ctx context.Context, f []Finding) {
	token, err := d.Credential.GetToken(ctx, policy.TokenRequestOptions{
		Scopes:    []string{d.Cloud.Graph + "/.default"},
		EnableCAE: true,
	})
	if err != nil {
		trust := trustIdentity()
		if d.VaultCredential == config.AWSFederation {
			trust = trustRole("$APP_ID", d.Cloud.Exchange)
		}
		f[0].failWith(err, trust) // for an app with a federated credential
		return
	}
	f[0].ok("received, valid for %.0f minutes", time.Until(token.ExpiresOn).Minutes())
	d.roles, err = rolesIn(token.Token)
	d.opaque = err != nil
}

// errOpaque is the error for a token that is not a JWT.
var errOpaque = errors.New("not a JWT")

// rolesIn returns the roles in a token for Graph. The form of such a token is Graph's own and may change, so that only
// the doctor looks into it.
func rolesIn(token string) ([]string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errOpaque
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errOpaque
	}
	var claims struct{ Roles []string }
	if json.Unmarshal(text, &claims) != nil {
		return nil, errOpaque
	}
	return claims.Roles, nil
}

func (d *diagnosis) lookAtRoles(_ context.Context, f []Finding) {
	if d.opaque {
		f[0].warn(nil, "the token cannot be parsed; the response of Graph decides")
		f[1].skip("the token cannot be parsed")
		return
	}
	others := slices.DeleteFunc(slices.Clone(d.roles), func(role string) bool { return role == graphRole })
	grant, remove, self := grantRole(), removeRoles(), d.graphHolder() != "app"
	if self {
		grant, remove = grantIdentity(), removeFromIdentity(d.Cloud.Graph)
	}
	switch {
	case len(others) < len(d.roles):
		f[0].ok("%s is there", graphRole)
	case self:
		f[0].fail(grant, "%s is missing: the managed identity was never given it, or got its token before", graphRole)
	default:
		f[0].fail(grant, "%s is missing: it was never added to the app as an application permission, has no admin consent, "+
			"or was granted some minutes ago", graphRole)
	}
	if len(others) == 0 {
		f[1].ok("there are none")
		return
	}
	f[1].warn(remove, "this %s has permissions that it does not need: %s", d.graphHolder(), quoteTexts(others))
}

// quoteTexts returns a list of upstream texts in a form that is safe on a terminal.
func quoteTexts(texts []string) string {
	list := make([]string, len(texts))
	for i, text := range texts {
		if list[i] = text; upstream.PlainCode(text) == "" {
			list[i] = fmt.Sprintf("%q", text)
		}
	}
	return strings.Join(list, ", ")
}

func (d *diagnosis) askGraph(ctx context.Context, f []Finding) {
	ctx, cancel := context.WithTimeout(ctx, graphStep)
	defer cancel()
	seen, more, err := d.Graph.Sample(ctx)
	switch {
	case err != nil:
		f[0].failWith(err, nil)
	case seen == 0:
		f[0].warn([]string{"check that GRAPH_TENANT_ID is the right tenant: Intune, Devices, Enrollment, Windows Autopilot " +
			"devices"}, "Graph responds, and has no Autopilot device")
	case more:
		f[0].ok("at least %d, and there are more", seen)
	default:
		f[0].ok("%d, and no more", seen)
	}
}

// dates is a Transport that stores the clock difference to each host, by the Date header of its last response.
type dates struct {
	next policy.Transporter

	mu   sync.Mutex
	seen map[string]time.Duration
}

func (d *dates) Do(req *http.Request) (*http.Response, error) {
	start := time.Now()
	resp, err := d.next.Do(req)
	if err != nil {
		return nil, err
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// A Date has whole seconds and was written during the request: its error is about a second.
		middle := start.Add(time.Since(start) / 2)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.seen[req.URL.Host] = at.Sub(middle)
	}
	return resp, nil
}

// ahead returns the time by which the clock at an address is ahead of this clock.
func (d *dates) ahead(address string) (time.Duration, bool) {
	u, err := url.Parse(address)
	if err != nil {
		return 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	by, ok := d.seen[u.Host]
	return by, ok
}

func (d *diagnosis) compareClocks(_ context.Context, f []Finding) {
	var worst time.Duration
	var asked []string
	sts := cmp.Or(d.Role.Endpoint, "https://sts."+d.Role.Region+".amazonaws.com")
	for _, service := range []struct{ name, address string }{
		{"Graph", d.Cloud.Graph},
		{"Key Vault", d.VaultURL},
		{"Entra ID", d.Cloud.Authority},
		{"AWS STS", sts},
	} {
		if by, ok := d.dates.ahead(service.address); ok {
			asked = append(asked, service.name)
			if by.Abs() > worst.Abs() {
				worst = by
			}
		}
	}
	direction := "ahead of"
	if worst > 0 {
		direction = "behind"
	}
	off := worst.Abs().Round(time.Second)
	from := strings.Join(asked, ", ")
	switch {
	case len(asked) == 0:
		f[0].skip("no service responded")
	case off > skewFault, off > d.Tolerance && len(d.WebhookSecretNames) > 0:
		f[0].fail(setClock(), "the clock of this machine is %v %s %s: signatures look too old or too early, tokens and "+
			"certificates not yet or no longer valid", off, direction, from)
	case off > skewWarning:
		f[0].warn(setClock(), "the clock of this machine is %v %s %s; from %v on signatures are refused", off, direction,
			from, d.Tolerance)
	case off <= time.Second:
		f[0].ok("within a second of %s", from)
	default:
		f[0].ok("%v %s %s", off, direction, from)
	}
}

func (d *diagnosis) readPolicy(_ context.Context, f []Finding) {
	callers, policy, sweep := &f[0], &f[1], &f[2]
	var kinds []string
	if n := len(d.WebhookSecretNames); n > 0 {
		kinds = append(kinds, fmt.Sprintf("signed with %s, within %v", countOf(n, "key"), d.Tolerance))
	}
	if n := len(d.APIKeySecretNames); n > 0 {
		kinds = append(kinds, "with "+countOf(n, "API key"))
	}
	if n := len(d.EntraAudiences); n > 0 {
		kinds = append(kinds, fmt.Sprintf("with a token of Entra ID with the role %s, for %s, of %s", d.EntraRole,
			countOf(n, "audience"), countOf(len(d.EntraTenants), "tenant")))
	}
	if n := len(d.OperatorCallers); n > 0 {
		kinds = append(kinds, "operators: "+countOf(n, "caller"))
	}
	callers.ok("%s", strings.Join(kinds, "; "))
	if d.PlatformAuth {
		callers.warn([]string{"check that the host asks for a function key or IAM at every way in, or set " +
			"WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES or ENTRA_AUDIENCE in the place of AUTH"},
			"%s", strings.Join(append([]string{"every caller that the host authorises: AUTH=platform, this function checks " +
				"nothing"}, kinds...), "; "))
	}

	d.checkPolicy(policy)

	limits := fmt.Sprintf("the devices with the group tag %s, none if there are more than %d to clean or fewer than %d "+
		"in Intune", quoteTexts([]string{d.SweepGroupTag}), d.SweepMaxDevices, d.SweepMinInventory)
	switch {
	case d.SweepGroupTag == "":
		sweep.ok("none: SWEEP_GROUP_TAG is not set")
	case !d.SweepApply || d.DryRun:
		sweep.ok("a dry run on %s", limits)
	case d.SweepMaxDevices > manyDevices:
		sweep.warn([]string{fmt.Sprintf("set SWEEP_MAX_DEVICES to the number of a usual night, at most %d", manyDevices)},
			"it ACTS on %s: a wrong group tag removes as many accounts", limits)
	default:
		sweep.ok("it ACTS on %s", limits)
	}
}

// checkPolicy describes the limits of all callers and of single ones.
func (d *diagnosis) checkPolicy(f *Finding) {
	limits := []string{"devices with any group tag", "without a rate limit"}
	if len(d.GroupTags) > 0 {
		limits[0] = "devices with the group tags " + quoteTexts(d.GroupTags)
	}
	if d.RateLimit > 0 {
		limits[1] = fmt.Sprintf("at most %d devices a minute for each caller and instance", d.RateLimit)
	}
	for _, id := range slices.Sorted(maps.Keys(d.CallerPolicies)) {
		limits = append(limits, d.callerName(id)+": "+describePolicy(d.CallerPolicies[id]))
	}
	switch text := strings.Join(limits, "; "); {
	case d.DryRun:
		f.warn([]string{"set DRY_RUN=false once the reports are as expected"},
			"DRY_RUN is true: requests and events change nothing; %s", text)
	case len(d.GroupTags) == 0:
		f.ok("%s", text)
		f.Fix = []string{"hint: ALLOWED_GROUP_TAGS=MTR-*,Retired allows these group tags alone"}
	default:
		f.ok("%s", text)
	}
}

// callerName returns the name of a caller in a report, which has no id of Entra ID.
func (d *diagnosis) callerName(id string) string {
	if len(d.EntraAudiences) > 0 && strings.Contains(id, ":") {
		return "a caller with a token of Entra ID"
	}
	return quoteTexts([]string{id})
}

// describePolicy returns the limits of one caller.
func describePolicy(p handler.CallerPolicy) string {
	var limits []string
	if len(p.GroupTags) > 0 {
		limits = append(limits, "the group tags "+quoteTexts(p.GroupTags))
	}
	if p.RequireExpected {
		limits = append(limits, "expected is required")
	}
	if p.DevicesPerHour > 0 {
		limits = append(limits, fmt.Sprintf("at most %d devices an hour", p.DevicesPerHour))
	}
	if len(limits) == 0 {
		return "no limit of its own"
	}
	return strings.Join(limits, ", ")
}

func countOf(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// signingProbe checks the keys that sign callers' tokens. Each tenant has a list of its own.
func (d *diagnosis) signingProbe(settings *probe) *probe {
	c := &probe{needs: []*probe{settings}}
	if len(d.EntraAudiences) == 0 {
		c.run = func(context.Context, []Finding) {}
		return c
	}
	for i := range d.EntraTenants {
		which := fmt.Sprintf("tenant %d", i+1) // the report has no id of a tenant
		c.findings = append(c.findings, Finding{Check: checkSigningKeys, Subject: which, Tried: "read the signing keys of " +
			"" + which + " of ENTRA_TENANT_ID"})
	}
	c.run = func(ctx context.Context, f []Finding) {
		source := app.SigningKeys(d.Config, d.dates, d.log)
		runTogether(len(d.EntraTenants), func(i int) {
			if _, err := source.Keys(ctx, d.EntraTenants[i], "any"); err != nil {
				f[i].failWith(err, nil)
				return
			}
			f[i].ok("read")
		})
	}
	return c
}
