package doctor

import (
	"cmp"
	"context"
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
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
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
	dates  *dates
	log    *slog.Logger
	show   func(Finding)
	report Report

	scope string // of the vault's tokens
	roles []string
	// opaque reports that the roles in the token could not be read.
	opaque bool
}

// runChecks runs all checks. faults is the error of config.Load.
func (d *diagnosis) runChecks(ctx context.Context, faults error) {
	incomplete := d.runStep(ctx, d.settingsStep(faults))
	noVault := d.runStep(ctx, &step{
		blocked: incomplete, otherwise: "Key Vault was not reached", run: d.askVault,
		findings: []Finding{{Check: "vault", Tried: "ask the vault at KEY_VAULT_URL, without a token"}},
	})
	noAssertion := d.runStep(ctx, d.assertionStep(incomplete))
	noIdentity := d.runStep(ctx, d.identityStep(incomplete, noAssertion))

	unreadable := cmp.Or(noVault, noIdentity)
	credential := d.credentialStep(unreadable)
	signed := d.keySteps(unreadable, "webhook_key", "key of signatures", d.WebhookSecretNames, caller.DecodeSignatureKey)
	keyed := d.keySteps(unreadable, "api_key", "API key", d.APIKeySecretNames, caller.DecodeAPIKey)
	signing := d.signingSteps(incomplete)
	tryTogether(ctx, slices.Concat([]*step{credential}, signed, keyed, signing)...)
	forgiveOthers(signed)
	forgiveOthers(keyed)
	d.addSteps(slices.Concat([]*step{credential}, signed, keyed)...)

	noCredential := credential.blockReason()
	if d.GraphDirect {
		noCredential = noAssertion
	}
	noToken := d.runStep(ctx, d.tokenStep(noCredential))
	holder := d.graphIssuer()
	noRole := d.runStep(ctx, &step{
		blocked: noToken, otherwise: "the " + holder.graphHolder() + " does not have the permission for it",
		findings: []Finding{
			{Check: "graph_role", Tried: "check the permission in the token", issuer: holder},
			{Check: "graph_other_roles", Tried: "check for other permissions in the token", issuer: holder},
		},
		run: d.lookAtRoles,
	})
	d.runStep(ctx, &step{blocked: noRole, run: d.askGraph, findings: []Finding{{
		Check: "graph_devices", Tried: "read the first Autopilot device from Graph", issuer: holder,
	}}})
	d.runStep(ctx, &step{blocked: incomplete, run: d.compareClocks, findings: []Finding{{
		Check: "clock", Tried: "compare the clock with the cloud's",
	}}})
	d.runStep(ctx, &step{blocked: incomplete, run: d.readPolicy, findings: []Finding{
		{Check: "callers", Tried: "list the callers"},
		{Check: "policy", Tried: "list the limits of callers"},
		{Check: "sweep", Tried: "describe the sweep"},
	}})
	d.addSteps(signing...)
}

// runStep tries a step and reports it. It returns the reason not to try the steps that need it, "" for none.
func (d *diagnosis) runStep(ctx context.Context, s *step) string {
	s.tryStep(ctx)
	d.addSteps(s)
	return s.blockReason()
}

func (d *diagnosis) addSteps(steps ...*step) {
	for _, s := range steps {
		for _, f := range s.findings {
			d.report.addFinding(f)
			if d.show != nil {
				d.show(f)
			}
		}
	}
}

// settingsStep checks the settings: a finding for each fault.
func (d *diagnosis) settingsStep(loadError error) *step {
	s := &step{otherwise: "the settings are not complete"}
	tried := "read the settings, for the host " + d.Host
	faults, _ := errors.AsType[config.Error](loadError)
	for _, fault := range faults {
		s.findings = append(s.findings, Finding{Check: "settings", Tried: tried, Mark: Failed, Found: fault})
	}
	if len(faults) == 0 {
		s.findings = []Finding{{Check: "settings", Tried: tried}}
	}
	s.run = func(_ context.Context, f []Finding) {
		last := &f[len(f)-1]
		switch {
		case len(faults) > 0:
			last.Fix = d.fixOf(last, "settings")
		case (d.VaultCredential == config.ManagedIdentity || d.VaultCredential == config.AWSFederation) &&
			d.Getenv("AZURE_CLIENT_SECRET") != "":
			last.markWarning([]string{"remove AZURE_CLIENT_SECRET from the environment"}, "complete, but AZURE_CLIENT_SECRET is set "+
				"and not used: VAULT_CREDENTIAL is %s", d.VaultCredential)
		default:
			last.markOK("complete")
		}
	}
	return s
}

// needsNoVault reports whether the deployment neither needs nor has a vault.
func (d *diagnosis) needsNoVault() bool {
	return d.VaultURL == "" && d.GraphDirect && len(d.WebhookSecretNames)+len(d.APIKeySecretNames) == 0
}

func (d *diagnosis) askVault(ctx context.Context, f []Finding) {
	if d.needsNoVault() {
		f[0].Tried = "check for a vault"
		f[0].markOK("not needed: KEY_VAULT_URL is not set")
		return
	}
	scope, err := vault.Scope(ctx, d.VaultURL, app.SDKOptions(d.Config, d.dates, d.log))
	if err != nil {
		d.failWith(&f[0], err)
		if d.Cloud.VaultSuffix != "" { // so that the identity can be checked all the same
			d.scope = "https://" + strings.TrimPrefix(d.Cloud.VaultSuffix, ".") + "/.default"
		}
		return
	}
	d.scope = scope
	f[0].markOK("it responds as a vault")
}

// assertionStep checks the token that identifies this process to an app with a federated credential. It has no finding
// without such an app.
func (d *diagnosis) assertionStep(blocked string) *step {
	s := &step{blocked: blocked, otherwise: "there is no token that identifies this process"}
	var request entra.Assertion
	switch {
	case d.VaultCredential == config.AWSFederation:
		s.findings = []Finding{{
			Check: "assertion", Tried: "get a token from AWS STS that names the function's role", issuer: awsSTS,
		}}
		request = app.RoleAssertion(d.Role, d.dates, d.Cloud.Exchange)
	case d.GraphDirect && d.ClientID != "":
		s.findings = []Finding{{
			Check: "assertion", Tried: "get a token that names the managed identity", issuer: hostIdentity,
		}}
		request = entra.Asserted(d.Identity, d.Cloud.Exchange)
	}
	s.run = func(ctx context.Context, f []Finding) {
		ctx, cancel := context.WithTimeout(ctx, assertionStep)
		defer cancel()
		if _, err := request(ctx); err != nil {
			d.failWith(&f[0], err)
			return
		}
		f[0].markOK("received")
	}
	return s
}

func (d *diagnosis) vaultIssuer() issuer {
	switch {
	case d.VaultCredential == config.AWSFederation:
		return trustingApp
	case d.VaultCredential == config.ManagedIdentity && d.GraphDirect: // which no az login replaces
		return hostIdentity
	}
	return vaultReader
}

func (d *diagnosis) identityStep(blocked, noAssertion string) *step {
	s := &step{blocked: blocked, otherwise: "there is no token for Key Vault", run: d.askIdentity}
	if d.VaultCredential == config.AWSFederation {
		s.blocked = cmp.Or(blocked, noAssertion)
	}
	if !d.needsNoVault() {
		s.findings = []Finding{{
			Check: "vault_identity", Tried: "get a token for the vault by VAULT_CREDENTIAL=" + d.VaultCredential,
			issuer: d.vaultIssuer(), renew: "trust-role",
		}}
	}
	return s
}

func (d *diagnosis) askIdentity(ctx context.Context, f []Finding) {
	if d.scope == "" {
		f[0].markSkipped("Key Vault was not reached, and the scope of its tokens is unknown")
	} else if _, err := d.Identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{d.scope}}); err != nil {
		d.failWith(&f[0], err)
	} else {
		f[0].markOK("received")
	}
}

// secretStep returns the step that reads a secret and, for a second finding, has examine look at its content. renew is
// the fix of a secret that is missing.
func (d *diagnosis) secretStep(blocked, name, renew string, read func(context.Context, string) (vault.Secret, error),
	content *Finding, examine func(*Finding, vault.Secret),
) *step {
	s := &step{blocked: blocked, findings: []Finding{{
		Check: "secret", Subject: name, Tried: "read the secret " + name, issuer: d.vaultIssuer(), renew: renew,
	}}}
	if content != nil {
		content.Subject, content.renew = name, renew
		s.findings = append(s.findings, *content)
	}
	s.run = func(ctx context.Context, f []Finding) {
		secret, err := read(ctx, name)
		if err != nil {
			d.failWith(&f[0], err)
			if content != nil {
				f[1].markSkipped("the secret could not be read")
			}
			return
		}
		version := "version " + secret.Version[:min(8, len(secret.Version))]
		if secret.Trimmed {
			version += " (without the invisible characters at its ends)"
		}
		d.recordExpiry(&f[0], version, "Key Vault serves it all the same", secret.Expires)
		if content != nil {
			examine(&f[1], secret)
		}
	}
	return s
}

// credentialStep checks the client secret or the certificate of the app that may call Graph, where there is one.
func (d *diagnosis) credentialStep(blocked string) *step {
	s := &step{blocked: blocked}
	switch {
	case d.GraphDirect:
	case d.CertificateName != "":
		content := &Finding{Check: "certificate", Tried: "read the certificate in " + d.CertificateName}
		s = d.secretStep(blocked, d.CertificateName, "certificate", d.Vault.Certificate, content, d.recordCertificate)
	default:
		s = d.secretStep(blocked, d.SecretName, "app-secret", d.Vault.Secret, nil, nil)
	}
	s.otherwise = "the credential of the app cannot be used"
	return s
}

func (d *diagnosis) recordCertificate(f *Finding, s vault.Secret) {
	certs, _, err := s.KeyPair()
	if err != nil {
		f.markFailed(d.fixOf(f, f.renew), "it %v", err)
		return
	}
	d.recordExpiry(f, "an RSA key and its certificate", "Entra ID decides whether it is valid", certs[0].NotAfter)
}

// recordExpiry records the expiry of a secret or a certificate, which is zero if there is none. late says why an
// expired one is no failure.
func (d *diagnosis) recordExpiry(f *Finding, object, late string, end time.Time) {
	day := end.UTC().Format(time.DateOnly)
	switch left := time.Until(end); {
	case end.IsZero():
		f.markOK("%s, without an expiry", object)
	case left < 0:
		f.markWarning(d.fixOf(f, f.renew), "%s, expired on %s; %s", object, day, late)
	case left < soon:
		f.markWarning(d.fixOf(f, f.renew), "%s, expires in %s, on %s", object, text.Count(int(left/(24*time.Hour)), "day", "days"), day)
	default:
		f.markOK("%s, expires in %s, on %s", object, text.Count(int(left/(24*time.Hour)), "day", "days"), day)
	}
}

// keySteps checks callers' keys of one kind, with two findings for each name.
func (d *diagnosis) keySteps(blocked, kind, word string, names []string,
	decode func(string) ([]byte, error),
) (steps []*step) {
	record := func(f *Finding, s vault.Secret) {
		switch key, err := decode(s.Value()); {
		case err != nil:
			f.markFailed(d.fixOf(f, kind), "the %v", err)
		case !s.Expires.IsZero() && time.Now().After(s.Expires):
			f.markFailed(d.fixOf(f, kind), "the secret has expired, and with it the key")
		default:
			f.markOK("%d bytes, of which %d are enough", len(key), caller.MinKeySize)
		}
	}
	for _, name := range names {
		content := &Finding{Check: kind, Tried: "decode the " + word + " in " + name}
		steps = append(steps, d.secretStep(blocked, name, kind, d.Vault.Secret, content, record))
	}
	return steps
}

// forgiveOthers turns permanently missing keys into warnings if a key of the kind is valid: every rotation has such a
// time.
func forgiveOthers(steps []*step) {
	if !slices.ContainsFunc(steps, func(s *step) bool { return s.findings[1].Mark == OK }) {
		return
	}
	for _, s := range steps {
		for i := range s.findings {
			f := &s.findings[i]
			if f.Mark == Failed && (f.Error == nil || slices.Contains([]upstream.Reason{
				upstream.NotFound, upstream.SecretDisabled, upstream.SecretInvalid,
			}, f.Error.Reason)) {
				f.Mark = Warning
				f.Found += "; not a fault while another key of the kind is valid"
			}
		}
	}
}

func (d *diagnosis) tokenStep(blocked string) *step {
	f := Finding{
		Check: "graph_token", Subject: d.SecretName + d.CertificateName, Tried: "get a token for Graph from Entra ID",
		issuer: d.graphIssuer(), renew: "trust-identity",
	}
	switch {
	case d.GraphDirect && d.VaultCredential == config.AWSFederation:
		f.Tried, f.renew = f.Tried+", by the app that trusts the function's role", "trust-role"
	case f.issuer == trustingApp:
		f.Tried += ", by the app that trusts the managed identity"
	case f.issuer == hostIdentity:
		f.Tried = "get a token for Graph by the managed identity itself"
	}
	return &step{
		blocked: blocked, otherwise: "there is no token for Graph", findings: []Finding{f}, run: d.askEntra,
	}
}

func (d *diagnosis) graphIssuer() issuer {
	switch {
	case !d.GraphDirect:
		return entraID
	case d.VaultCredential == config.AWSFederation, d.ClientID != "":
		return trustingApp
	}
	return hostIdentity
}

func (d *diagnosis) askEntra(ctx context.Context, f []Finding) {
	token, err := d.Credential.GetToken(ctx, policy.TokenRequestOptions{
		Scopes:    []string{d.Cloud.Graph + "/.default"},
		EnableCAE: true,
	})
	if err != nil {
		d.failWith(&f[0], err)
		if f[0].retryAfter > 0 {
			f[0].retryAfter = max(tokenRetryPause, f[0].retryAfter)
		}
		return
	}
	f[0].markOK("received, valid for %.0f minutes", time.Until(token.ExpiresOn).Minutes())
	d.roles, d.opaque = rolesIn(token.Token)
}

// rolesIn returns the roles in a token for Graph, and whether it is opaque. The form of such a token is Graph's own and
// may change, so that only the doctor looks into it.
func rolesIn(token string) (roles []string, opaque bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, true
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Roles []string }
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return nil, true
	}
	return claims.Roles, false
}

// graphHolder returns the kind of principal that has the permission in Graph.
func (i issuer) graphHolder() string {
	if i == hostIdentity {
		return "managed identity"
	}
	return "app"
}

func (d *diagnosis) lookAtRoles(_ context.Context, f []Finding) {
	if d.opaque {
		f[0].markWarning(nil, "the token cannot be parsed; the response of Graph decides")
		f[1].markSkipped("the token cannot be parsed")
		return
	}
	others := slices.DeleteFunc(slices.Clone(d.roles), func(role string) bool { return role == graphRole })
	grant := d.fixOf(&f[0], "grant")
	switch {
	case len(others) < len(d.roles):
		f[0].markOK("%s is there", graphRole)
	case f[0].issuer == hostIdentity:
		f[0].markFailed(grant, "%s is missing: the managed identity was never given it, or got its token before", graphRole)
	default:
		f[0].markFailed(grant, "%s is missing: it was never added to the app as an application permission, has no admin consent, "+
			"or was granted some minutes ago", graphRole)
	}
	if len(others) == 0 {
		f[1].markOK("there are none")
		return
	}
	f[1].markWarning(d.fixOf(&f[1], "remove-roles"), "this %s has permissions that it does not need: %s",
		f[1].issuer.graphHolder(), quoteTexts(others))
}

// quoteTexts returns a list of upstream texts in a form that is safe on a terminal.
func quoteTexts(texts []string) string {
	list := make([]string, len(texts))
	for i, s := range texts {
		if list[i] = s; upstream.PlainCode(s) == "" {
			list[i] = fmt.Sprintf("%q", s)
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
		d.failWith(&f[0], err)
	case seen == 0:
		f[0].markWarning([]string{"check that GRAPH_TENANT_ID is the right tenant: Intune, Devices, Enrollment, Windows Autopilot " +
			"devices"}, "Graph responds, and has no Autopilot device")
	case more:
		f[0].markOK("at least %d, and there are more", seen)
	default:
		f[0].markOK("%d, and no more", seen)
	}
}

// dates is a Transport that stores the clock difference to each host, by the Date header of its last response.
type dates struct {
	next policy.Transporter
	seen sync.Map // a time.Duration for each host
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
		d.seen.Store(req.URL.Host, at.Sub(middle))
	}
	return resp, nil
}

// clockAhead returns the time by which the clock at an address is ahead of this clock.
func (d *dates) clockAhead(address string) (time.Duration, bool) {
	u, err := url.Parse(address)
	if err != nil {
		return 0, false
	}
	by, _ := d.seen.Load(u.Host)
	ahead, ok := by.(time.Duration)
	return ahead, ok
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
		if by, ok := d.dates.clockAhead(service.address); ok {
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
		f[0].markSkipped("no service responded")
	case off > skewFault, off > d.Tolerance && len(d.WebhookSecretNames) > 0:
		f[0].markFailed(d.fixOf(&f[0], "clock"), "the clock of this machine is %v %s %s: signatures look too old or too early, tokens and "+
			"certificates not yet or no longer valid", off, direction, from)
	case off > skewWarning:
		f[0].markWarning(d.fixOf(&f[0], "clock"), "the clock of this machine is %v %s %s; from %v on signatures are refused", off, direction,
			from, d.Tolerance)
	case off <= time.Second:
		f[0].markOK("within a second of %s", from)
	default:
		f[0].markOK("%v %s %s", off, direction, from)
	}
}

func (d *diagnosis) readPolicy(_ context.Context, f []Finding) {
	callers, policy, sweep := &f[0], &f[1], &f[2]
	var kinds []string
	if n := len(d.WebhookSecretNames); n > 0 {
		kinds = append(kinds, fmt.Sprintf("signed with %s, within %v", text.Count(n, "key", "keys"), d.Tolerance))
	}
	if n := len(d.APIKeySecretNames); n > 0 {
		kinds = append(kinds, "with "+text.Count(n, "API key", "API keys"))
	}
	if n := len(d.EntraAudiences); n > 0 {
		kinds = append(kinds, fmt.Sprintf("with a token of Entra ID with the role %s, for %s, of %s", d.EntraRole,
			text.Count(n, "audience", "audiences"), text.Count(len(d.EntraTenants), "tenant", "tenants")))
	}
	if n := len(d.OperatorCallers); n > 0 {
		kinds = append(kinds, "operators: "+text.Count(n, "caller", "callers"))
	}
	callers.markOK("%s", strings.Join(kinds, "; "))
	if d.PlatformAuth {
		callers.markWarning([]string{"check that the host asks for a function key or IAM at every way in, or set " +
			"WEBHOOK_SECRET_NAMES, API_KEY_SECRET_NAMES or ENTRA_AUDIENCE in the place of AUTH"},
			"%s", strings.Join(append([]string{"every caller that the host authorises: AUTH=platform, this function checks " +
				"nothing"}, kinds...), "; "))
	}

	d.describePolicy(policy)

	limits := fmt.Sprintf("the devices with the group tag %s, none if there are more than %d to clean or fewer than %d "+
		"in Intune", quoteTexts([]string{d.Sweep.GroupTag}), d.Sweep.MaxDevices, d.Sweep.MinInventory)
	switch {
	case d.Sweep.GroupTag == "":
		sweep.markOK("none: SWEEP_GROUP_TAG is not set")
	case !d.Sweep.Apply || d.Policy.DryRun:
		sweep.markOK("a dry run on %s", limits)
	case d.Sweep.MaxDevices > manyDevices:
		sweep.markWarning([]string{fmt.Sprintf("set SWEEP_MAX_DEVICES to the number of a usual night, at most %d", manyDevices)},
			"it ACTS on %s: a wrong group tag removes as many accounts", limits)
	default:
		sweep.markOK("it ACTS on %s", limits)
	}
}

// describePolicy describes the limits of all callers and of single ones.
func (d *diagnosis) describePolicy(f *Finding) {
	limits := []string{"devices with any group tag", "without a rate limit"}
	if len(d.Policy.GroupTags) > 0 {
		limits[0] = "devices with the group tags " + quoteTexts(d.Policy.GroupTags)
	}
	if d.Policy.PerMinute > 0 {
		limits[1] = fmt.Sprintf("at most %d devices a minute for each caller and instance", d.Policy.PerMinute)
	}
	for _, id := range slices.Sorted(maps.Keys(d.Policy.Callers)) {
		limits = append(limits, d.callerName(id)+": "+describeCaller(d.Policy.Callers[id]))
	}
	switch all := strings.Join(limits, "; "); {
	case d.Policy.DryRun:
		f.markWarning([]string{"set DRY_RUN=false once the reports are as expected"},
			"DRY_RUN is true: requests and events change nothing; %s", all)
	case len(d.Policy.GroupTags) == 0:
		f.markOK("%s", all)
		f.Fix = []string{"hint: ALLOWED_GROUP_TAGS=MTR-*,Retired allows these group tags alone"}
	default:
		f.markOK("%s", all)
	}
}

// callerName returns the name of a caller in a report, which has no id of Entra ID.
func (d *diagnosis) callerName(id string) string {
	if len(d.EntraAudiences) > 0 && strings.Contains(id, ":") {
		return "a caller with a token of Entra ID"
	}
	return quoteTexts([]string{id})
}

// describeCaller returns the limits of one caller.
func describeCaller(p handler.CallerPolicy) string {
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

// signingSteps check the keys that sign callers' tokens. Each tenant has a list of its own.
func (d *diagnosis) signingSteps(blocked string) (steps []*step) {
	if len(d.EntraAudiences) == 0 {
		return nil
	}
	source := app.SigningKeys(d.Config, d.dates, d.log)
	for i, tenant := range d.EntraTenants {
		which := fmt.Sprintf("tenant %d", i+1) // the report has no id of a tenant
		steps = append(steps, &step{blocked: blocked, findings: []Finding{{
			Check: "signing_keys", Subject: which, Tried: "read the signing keys of " + which + " of ENTRA_TENANT_ID",
		}}, run: func(ctx context.Context, f []Finding) {
			if _, err := source.Keys(ctx, tenant, "any"); err != nil {
				d.failWith(&f[0], err)
				return
			}
			f[0].markOK("read")
		}})
	}
	return steps
}
