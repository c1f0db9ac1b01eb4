package doctor

import (
	"fmt"
	"strings"
	"time"

	"autopilot-unassign/internal/upstream"
)

// The fixes for findings. The commands have the variables of docs/operations.md.

const setSetting = "on Azure: az functionapp config appsettings set --resource-group $GROUP --name $APP --settings " +
	"NAME=VALUE"

func grantRole() []string {
	return []string{
		"az ad app permission add --id $APP_ID --api 00000003-0000-0000-c000-000000000000 --api-permissions " +
			"5ac13192-7ace-4fcf-b828-1a26f28068ee=Role",
		"az ad app permission admin-consent --id $APP_ID",
		"then wait some minutes, and restart the processes: a token keeps the permissions it was issued with",
		"Microsoft's page of the action also lists DeviceManagementConfiguration.ReadWrite.All; it does not let the program " +
			"read devices",
	}
}

func removeRoles() []string {
	return []string{
		"az ad app permission list --id $APP_ID",
		"az ad app permission delete --id $APP_ID --api 00000003-0000-0000-c000-000000000000 --api-permissions " +
			"ID_OF_THE_OTHER",
		"then revoke the consent: Entra ID, Enterprise applications, the app, Permissions. No other app should share this " +
			"one",
	}
}

// principal is the step that shows the object id of the managed identity, which the commands call $PRINCIPAL_ID.
const principal = "az functionapp identity show --resource-group $GROUP --name $APP"

func grantIdentity() []string {
	return []string{
		principal,
		"infra/azure/grant.sh --identity $PRINCIPAL_ID --yes",
		"then wait: Azure keeps the tokens of a managed identity for up to a day, and those do not change",
	}
}

func removeFromIdentity(graph string) []string {
	list := graph + "/v1.0/servicePrincipals/$PRINCIPAL_ID/appRoleAssignments"
	return []string{
		"az rest --method GET --url " + list,
		"az rest --method DELETE --url " + list + "/ID_OF_THE_OTHER",
		"no other program should share this identity",
	}
}

// listTrust is the step that lists the federated credentials of an app.
func listTrust(app string) string {
	return "az ad app federated-credential list --id " + app + " --query '[].[issuer,subject,audiences]'"
}

// trustRole are the steps that let the app trust the role of a Lambda function.
func trustRole(app, audience string) []string {
	return []string{
		listTrust(app),
		"one of them must have, the IssuerIdentifier that the next command shows, the ARN of the function's role and " +
			audience,
		"aws iam get-outbound-web-identity-federation-info",
		"docs/aws.md, Let an app trust the role, has the command; a new credential takes some minutes",
	}
}

// trustIdentity are the steps that let the app that may call Graph trust the managed identity.
func trustIdentity() []string {
	return []string{
		principal,
		listTrust("$APP_ID"),
		"if none of them has $PRINCIPAL_ID as its subject:",
		"infra/azure/grant.sh --app $APP_ID --federate $PRINCIPAL_ID --yes",
		"if one has, its issuer or audience is wrong: delete it and run the command. A new credential takes some minutes",
	}
}

func setClock() []string {
	return []string{"timedatectl set-ntp true", "on Azure and Lambda the platform sets the clock: report a wrong clock " +
		"there"}
}

func grantVault() []string {
	return []string{
		`az role assignment create --role "Key Vault Secrets User" --assignee $IDENTITY --scope "$(az keyvault show --name $VAULT --query id --output tsv)"`,
		"$IDENTITY is the identity of VAULT_CREDENTIAL: the client or object id of the managed identity, AZURE_CLIENT_ID, " +
			"or the account of az. A new role takes some minutes",
	}
}

// storeStep is the step that makes the file the next version of a secret.
func storeStep(name, file, more string) string {
	return "az keyvault secret set --vault-name $VAULT --name " + name + " --file " + file + " --encoding utf-8 --output " +
		"none" + more
}

func newKey(kind, name string) []string {
	form := `printf 'whsec_%s' "$(openssl rand -base64 32)"`
	if kind == checkAPIKey {
		form = `printf '%s' "$(openssl rand -base64 32)"`
	}
	return []string{"umask 077; " + form + " > new-key", storeStep(name, "new-key", ""), "give it to the callers, then: rm " +
		"new-key"}
}

func newAppSecret(name string) []string {
	return []string{
		"umask 077; az ad app credential reset --id $APP_ID --append --years 1 --query password --output tsv | tr -d " +
			"'\\r\\n' > new-secret",
		storeStep(name, "new-secret", ` --expires "$(date -u -d '+1 year' +%FT%TZ)"`) + " && rm new-secret",
	}
}

func newCertificateSteps(name string) []string {
	return []string{
		"create an RSA certificate: alone in new.pem, with its key in new-with-key.pem",
		"az ad app credential reset --id $APP_ID --append --cert @new.pem",
		"az keyvault certificate import --vault-name $VAULT --name " + name + " --file new-with-key.pem",
	}
}

// serviceNames holds the names of services in sentences, and the settings with their addresses.
var serviceNames = map[upstream.Service]struct{ name, where string }{ //nolint:gochecknoglobals // a table that nothing writes to
	upstream.Graph:    {"Graph", "AZURE_CLOUD, and GRAPH_ENDPOINT where that is custom"},
	upstream.Identity: {"Entra ID", "AZURE_CLOUD, and AZURE_AUTHORITY_HOST where that is custom"},
	upstream.Vault:    {"Key Vault", "KEY_VAULT_URL and AZURE_CLOUD"},
}

// parties holds the same for the issuers of tokens that upstream.Identity stands for.
var parties = map[party]struct{ name, where string }{ //nolint:gochecknoglobals // a table that nothing writes to
	awsSTS:       {"AWS STS", "AWS_REGION"},
	hostIdentity: {"the managed identity", "VAULT_CREDENTIAL"},
	vaultReader:  {"the identity that reads the vault", "VAULT_CREDENTIAL"},
}

// explainError returns the meaning of e for the check of f, and the fix. renew are the steps that create a missing secret or
// trust.
func explainError(f *Finding, e *upstream.Error, renew []string) (found string, fix []string) {
	service, asked := serviceNames[e.Service], entraID
	if e.Service == upstream.Identity {
		if asked = f.issuer; parties[asked].name != "" {
			service = parties[asked]
		}
	}
	switch e.Reason {
	case upstream.Unreachable:
		switch e.Barrier {
		case upstream.Proxy:
			return "the proxy on the way to " + service.name + " refuses the request (" + e.Cause + ")",
				[]string{"check HTTPS_PROXY and NO_PROXY, and allow the host of " + service.name + " in the proxy; after a 407 " +
					"add the proxy's credentials to HTTPS_PROXY"}
		case upstream.TLS:
			return "the TLS handshake with " + service.name + " fails before a request is sent (" + e.Cause + ")",
				[]string{"a firewall or a proxy breaks the connection: allow the host of " + service.name +
					" without inspection, and check " + service.where}
		case upstream.DNS:
			return "the host name of " + service.name + " has no address in the DNS",
				[]string{"check " + service.where + ", and resolve the host with nslookup; behind a private endpoint its DNS zone " +
					"must be linked to the network of the host"}
		}
		return service.name + " refuses the connection", append(identityFix(asked),
			"check "+service.where+", the firewall and the proxy (HTTPS_PROXY) between this machine and it")
	case upstream.Untrusted:
		return "the certificate of " + service.name + " is not trusted: a proxy or another host responds in its place",
			[]string{"check " + service.where + "; where your own proxy inspects TLS, set SSL_CERT_FILE to its authority or " +
				"exempt this host"}
	case upstream.Timeout:
		return service.name + " did not respond in time", append(identityFix(asked), "check whether a firewall drops the "+
			"packets, and at "+service.where+"; then retry")
	case upstream.Throttled:
		wait := "a minute"
		if e.RetryAfter > 0 {
			wait = e.RetryAfter.Round(time.Second).String()
		}
		return service.name + " is throttling", []string{"retry after " + wait + "; if it persists, find the other clients " +
			"that call it"}
	case upstream.Unavailable, upstream.Internal:
		status := "https://azure.status.microsoft"
		if asked == awsSTS {
			status = "https://health.aws.amazon.com"
		}
		return service.name + " is unavailable", append(identityFix(asked), "retry in some minutes, and check "+status)
	case upstream.BadAnswer:
		return "unexpected response from " + service.name, []string{"check " + service.where +
			", and whether a proxy responds in its place; then retry"}
	}
	switch e.Service {
	case upstream.Vault:
		return explainVault(f.Check, f.Subject, e, renew)
	case upstream.Identity:
		switch asked {
		case awsSTS:
			return explainSTS(e)
		case hostIdentity, vaultReader:
			return explainIdentity(asked, e)
		case entraTrusting:
			return explainTrust(f.Check, e, renew)
		}
		return explainEntra(f.Subject, e)
	}
	return explainGraph(f.issuer, e)
}

// identityFix is the first step where an identity is not there, as on a machine that has none.
func identityFix(asked party) []string {
	switch asked {
	case hostIdentity:
		return []string{"another machine than the deployment's has no such identity: run the doctor on the host. There, " +
			"check that it has one:", principal}
	case vaultReader:
		return []string{"on another machine than the deployment's: az login, and VAULT_CREDENTIAL=azure-cli. On the host, " +
			"check that it has the identity:", principal}
	}
	return nil
}

func explainVault(check, subject string, e *upstream.Error, renew []string) (found string, fix []string) {
	switch e.Reason {
	case upstream.NotFound:
		return "there is no secret " + subject + " in the vault, or it was deleted",
			append([]string{"az keyvault secret list --vault-name $VAULT --query '[].name'", "if it has another name, change " +
				"the setting; if it is absent:"}, renew...)
	case upstream.VersionUnsupported:
		return "the vault does not know the api-version of this program", []string{"check KEY_VAULT_URL and AZURE_CLOUD; if " +
			"they are right, report it with the cloud's name"}
	case upstream.SecretDisabled:
		return "the secret " + subject + " is disabled", []string{"az keyvault secret set-attributes --vault-name $VAULT " +
			"--name " + subject + " --enabled true"}
	case upstream.SecretInvalid:
		if e.Cause != "" && !strings.HasSuffix(e.Cause, "has no value") {
			return "the " + e.Cause, renew
		}
		return "the secret " + subject + " is empty", renew
	}
	firewall := []string{"az keyvault network-rule add --name $VAULT --ip-address ADDRESS", "ADDRESS is the address of " +
		"this machine as the vault sees it; a host without an address of its own needs --subnet or a private endpoint"}
	switch e.Code {
	case "ForbiddenByFirewall":
		return "the firewall of the vault refuses this machine", firewall
	case "ForbiddenByConnection":
		return "the vault refuses connections from the public network", []string{
			"reach it by a private endpoint in the network of the host, or switch public access on:",
			"az keyvault update --name $VAULT --public-network-access Enabled",
		}
	case "ForbiddenByPolicy":
		return "the access policies of the vault do not allow the identity to read secrets",
			[]string{
				"az keyvault set-policy --name $VAULT --secret-permissions get --object-id $IDENTITY",
				"$IDENTITY is the object id of the identity of VAULT_CREDENTIAL; better still, change the vault to roles",
			}
	}
	if e.Status == 401 {
		return "the vault refuses the token of the identity: it is of another tenant or cloud than the vault's, or the " +
				"clock is wrong",
			[]string{"az keyvault show --name $VAULT --query properties.tenantId", "check that the identity of " +
				"VAULT_CREDENTIAL is in this tenant, and check AZURE_CLOUD and the line about the clock"}
	}
	if check == checkVault {
		return "the vault refuses every request", []string{"check KEY_VAULT_URL, and at the networking of the vault"}
	}
	return "the identity may not read the secrets of the vault", grantVault()
}

// meanings holds the meaning of Entra ID's error numbers, beyond their Reason
// (https://learn.microsoft.com/entra/identity-platform/reference-error-codes).
var meanings = map[string]struct{ found, fix string }{ //nolint:gochecknoglobals // a table that nothing writes to
	"AADSTS7000215": {"the client secret is wrong: often the secret's id was stored in the place of its value, or it was " +
		"removed from the app", ""},
	"AADSTS700027":  {"the certificate is not one of the app's", ""},
	"AADSTS700024":  {"the assertion is outside its validity period", "check the line about the clock"},
	"AADSTS7000112": {"the app is disabled", "Entra ID, Enterprise applications, the app, Properties: enable sign-in"},
	"AADSTS53003": {"Conditional Access blocks the app here", "check the sign-in log of the app's service principal " +
		"for the policy, and at the address that the host comes from"},
}

func explainIdentity(asked party, e *upstream.Error) (found string, fix []string) {
	switch {
	case e.Cause != "": // the message of az
		return e.Cause, []string{"az login", "az account get-access-token --scope https://vault.azure.net/.default --output " +
			"none"}
	case asked == hostIdentity:
		return "the managed identity gets no token: there is no such identity on this host",
			append(identityFix(asked), "check AZURE_CLIENT_ID, which names the user-assigned identity by its client id")
	}
	return "the identity that reads the vault gets no token: there is no such identity, or its credential is refused",
		append(identityFix(asked), "check AZURE_CLIENT_ID, which names the user-assigned identity or, with client-secret, the "+
			"app; then also at AZURE_TENANT_ID and AZURE_CLIENT_SECRET")
}

func explainSTS(e *upstream.Error) (found string, fix []string) {
	switch e.Code {
	case "OutboundWebIdentityFederationDisabled", "OutboundWebIdentityFederationDisabledException":
		return "outbound web identity federation is not enabled in the account",
			[]string{"aws iam enable-outbound-web-identity-federation"}
	case "AccessDenied":
		return "the role may not ask AWS STS for this token", []string{"check that the role has the policy SayWhoItIs of " +
			"template.yaml, and that no boundary of the account forbids sts:GetWebIdentityToken"}
	}
	return "AWS STS refuses the credentials of the role", []string{
		"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN are set by Lambda: check that no setting overwrites " +
			"them, and check the line about the clock",
		`elsewhere than on Lambda: aws lambda invoke --function-name $FUNCTION --cli-binary-format raw-in-base64-out --payload '{"command":"doctor"}' /dev/stdout`,
	}
}

// mismatches holds the reasons for which an app rejects an assertion.
var mismatches = map[string]string{ //nolint:gochecknoglobals // a table that nothing writes to
	"AADSTS70021":  "the app does not trust this process, or does not yet",
	"AADSTS70025":  "the app has no federated credential",
	"AADSTS700211": "the app trusts another issuer, or does not trust this one yet",
	"AADSTS700212": "the app trusts tokens for another audience",
	"AADSTS700213": "the app trusts another subject of this issuer",
}

// explainTrust explains why an app rejects an assertion. trust are the steps that create the trust.
func explainTrust(check string, e *upstream.Error, trust []string) (found string, fix []string) {
	if mismatch, ok := mismatches[e.Code]; ok {
		return mismatch, trust
	}
	switch {
	case e.Code == "AADSTS700024":
		return "the token that identifies this process is outside its validity period", []string{"check the line about the " +
			"clock"}
	case check == checkIdentity && (e.Reason == upstream.AppNotFound || e.Reason == upstream.TenantNotFound):
		return "there is no app with this AZURE_CLIENT_ID", []string{"check AZURE_CLIENT_ID, which is its Application " +
			"(client) ID and not its object id, and at AZURE_TENANT_ID", "az ad app show --id $AZURE_CLIENT_ID --query " +
			"displayName"}
	case e.Reason == upstream.CredentialRejected && meanings[e.Code].fix == "":
		return "Entra ID refuses the token that identifies this process", trust
	}
	return explainEntra("", e)
}

func explainEntra(subject string, e *upstream.Error) (found string, fix []string) {
	if known, ok := meanings[e.Code]; ok {
		if known.fix != "" {
			return known.found, []string{known.fix}
		}
		if e.Code == "AADSTS700027" {
			return known.found, newCertificateSteps(subject)
		}
		return known.found, newAppSecret(subject)
	}
	switch e.Reason {
	case upstream.CredentialExpired:
		return "the client secret has expired", newAppSecret(subject)
	case upstream.AppNotFound:
		return "there is no such app in the tenant", []string{"check GRAPH_CLIENT_ID, which is the app's Application " +
			"(client) ID and not its object id, and at GRAPH_TENANT_ID", "az ad app show --id $APP_ID --query displayName"}
	case upstream.TenantNotFound:
		return "there is no such tenant in this cloud", []string{
			"az account show --query tenantId",
			"compare it with GRAPH_TENANT_ID and ENTRA_TENANT_ID, and check AZURE_CLOUD",
		}
	case upstream.ScopeInvalid:
		return "Graph goes by another address in the cloud of this tenant", []string{"check AZURE_CLOUD, and GRAPH_ENDPOINT " +
			"where that is custom"}
	}
	return "Entra ID refuses the credential of the app", []string{"az ad app credential list --id $APP_ID --output " +
		"table", "check that the secret in the vault is one of these and has not expired; a certificate is listed with --cert"}
}

func explainGraph(asked party, e *upstream.Error) (found string, fix []string) {
	switch e.Reason {
	case upstream.Forbidden:
		if asked == hostIdentity {
			return "Graph does not allow the managed identity to read Autopilot devices, although there is a token",
				grantIdentity()
		}
		return "Graph does not allow the app to read Autopilot devices, although there is a token", grantRole()
	case upstream.TenantNotEnabled:
		return "the tenant has no Intune", []string{"check GRAPH_TENANT_ID; the tenant needs an active Intune licence, and " +
			"an administrator must have opened Intune once"}
	}
	return fmt.Sprintf("Graph refuses to list devices: %s", strings.ReplaceAll(string(e.Reason), "_", " ")),
		[]string{"check AZURE_CLOUD and GRAPH_ENDPOINT; if they are right, give the request's id to Microsoft's support"}
}
