package doctor

import (
	"fmt"
	"strings"
	"time"

	"autopilot-unassign/internal/upstream"
)

// The steps that mend what the doctor finds. The commands have the variables of docs/operations.md.

const setSetting = "on Azure: az functionapp config appsettings set --resource-group $GROUP --name $APP --settings NAME=VALUE"

func grantRole() []string {
	return []string{
		"az ad app permission add --id $APP_ID --api 00000003-0000-0000-c000-000000000000 --api-permissions 5ac13192-7ace-4fcf-b828-1a26f28068ee=Role",
		"az ad app permission admin-consent --id $APP_ID",
		"then wait some minutes, and restart the processes: a token keeps the permissions it was issued with",
		"Microsoft's page of the action also lists DeviceManagementConfiguration.ReadWrite.All; it does not let the program read devices",
	}
}

func removeRoles() []string {
	return []string{
		"az ad app permission list --id $APP_ID",
		"az ad app permission delete --id $APP_ID --api 00000003-0000-0000-c000-000000000000 --api-permissions ID_OF_THE_OTHER",
		"and take back the consent: Entra ID, Enterprise applications, the app, Permissions. No other app should share this one",
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

// listTrust is the step that shows whom an app trusts.
func listTrust(app string) string {
	return "az ad app federated-credential list --id " + app + " --query '[].[issuer,subject,audiences]'"
}

// trustRole are the steps that let the app trust the role of a Lambda function.
func trustRole(app, audience string) []string {
	return []string{
		listTrust(app),
		"one of them must have, to the letter, the IssuerIdentifier that the next command shows, the ARN of the function's role and " + audience,
		"aws iam get-outbound-web-identity-federation-info",
		"docs/aws.md, Let an app trust the role, has the command that makes it; a new one takes some minutes",
	}
}

// trustIdentity are the steps that let the app that may call Graph trust the managed identity.
func trustIdentity() []string {
	return []string{
		principal,
		listTrust("$APP_ID"),
		"if none of them has $PRINCIPAL_ID as its subject:",
		"infra/azure/grant.sh --app $APP_ID --federate $PRINCIPAL_ID --yes",
		"if one has, its issuer or audience is wrong: delete it, and run that. A new one takes some minutes",
	}
}

func setClock() []string {
	return []string{"timedatectl set-ntp true", "on Azure and Lambda the platform sets the clock: report it there"}
}

func grantVault() []string {
	return []string{
		`az role assignment create --role "Key Vault Secrets User" --assignee $IDENTITY --scope "$(az keyvault show --name $VAULT --query id --output tsv)"`,
		"$IDENTITY is who VAULT_CREDENTIAL stands for: the client or object id of the managed identity, AZURE_CLIENT_ID, or who is signed in with az. A new role takes some minutes",
	}
}

// store is the step that makes the file the next version of a secret.
func store(name, file, more string) string {
	return "az keyvault secret set --vault-name $VAULT --name " + name + " --file " + file + " --encoding utf-8 --output none" + more
}

func newKey(kind, name string) []string {
	form := `printf 'whsec_%s' "$(openssl rand -base64 32)"`
	if kind == checkAPIKey {
		form = `printf '%s' "$(openssl rand -base64 32)"`
	}
	return []string{"umask 077; " + form + " > new-key", store(name, "new-key", ""), "give it to the callers, then: rm new-key"}
}

func newAppSecret(name string) []string {
	return []string{
		"umask 077; az ad app credential reset --id $APP_ID --append --years 1 --query password --output tsv | tr -d '\\r\\n' > new-secret",
		store(name, "new-secret", ` --expires "$(date -u -d '+1 year' +%FT%TZ)"`) + " && rm new-secret",
	}
}

func newCertificateSteps(name string) []string {
	return []string{
		"make a certificate whose key is RSA, alone in new.pem and with its key in new-with-key.pem",
		"az ad app credential reset --id $APP_ID --append --cert @new.pem",
		"az keyvault certificate import --vault-name $VAULT --name " + name + " --file new-with-key.pem",
	}
}

// serviceNames are what the services are called in sentences, with the settings that say where they are.
var serviceNames = map[upstream.Service]struct{ name, where string }{ //nolint:gochecknoglobals // a table that nothing writes to
	upstream.Graph:    {"Graph", "AZURE_CLOUD, and GRAPH_ENDPOINT where that is custom"},
	upstream.Identity: {"Entra ID", "AZURE_CLOUD, and AZURE_AUTHORITY_HOST where that is custom"},
	upstream.Vault:    {"Key Vault", "KEY_VAULT_URL and AZURE_CLOUD"},
}

// parties are likewise what those are called who give a token, where the service does not say it all.
var parties = map[party]struct{ name, where string }{ //nolint:gochecknoglobals // a table that nothing writes to
	awsSTS:       {"AWS STS", "AWS_REGION"},
	hostIdentity: {"the managed identity", "VAULT_CREDENTIAL"},
	vaultReader:  {"the identity that reads the vault", "VAULT_CREDENTIAL"},
}

// explain says in words what it means that what f is about has ended with e, and what to do. renew are the steps that make what
// is missing.
func explain(f *Finding, e *upstream.Error, renew []string) (found string, mend []string) {
	service, asked := serviceNames[e.Service], entraID
	if e.Service == upstream.Identity {
		if asked = f.asked; parties[asked].name != "" {
			service = parties[asked]
		}
	}
	switch e.Reason {
	case upstream.Unreachable:
		switch e.Barrier {
		case upstream.Proxy:
			return "the proxy on the way to " + service.name + " does not let the request pass (" + e.Cause + ")",
				[]string{"check HTTPS_PROXY and NO_PROXY, and let the proxy pass the host of " + service.name + "; after a 407 put its credentials into HTTPS_PROXY"}
		case upstream.TLS:
			return "the TLS handshake with " + service.name + " fails before a request is sent (" + e.Cause + ")",
				[]string{"a firewall or a proxy breaks the connection: let it pass the host of " + service.name + " without inspection, and check " + service.where}
		case upstream.DNS:
			return "the host name of " + service.name + " is not known to the DNS",
				[]string{"look at " + service.where + ", and resolve the host with nslookup; behind a private endpoint its DNS zone must be linked to the network of the host"}
		}
		return service.name + " does not take the connection", append(elsewhere(asked), "look at "+service.where+", the firewall and the proxy (HTTPS_PROXY) between this machine and it")
	case upstream.Untrusted:
		return "the certificate of " + service.name + " is not trusted: a proxy or somebody else answers in its place",
			[]string{"look at " + service.where + "; where a proxy of your own opens TLS, name its authority in SSL_CERT_FILE or let it pass this host through"}
	case upstream.Timeout:
		return service.name + " has not answered in time", append(elsewhere(asked), "look whether a firewall drops the packets, and at "+service.where+"; then try again")
	case upstream.Throttled:
		wait := "a minute"
		if e.RetryAfter > 0 {
			wait = e.RetryAfter.Round(time.Second).String()
		}
		return service.name + " is throttling", []string{"try again after " + wait + "; if it stays, see what else asks so much of it"}
	case upstream.Unavailable, upstream.Internal:
		status := "https://azure.status.microsoft"
		if asked == awsSTS {
			status = "https://health.aws.amazon.com"
		}
		return service.name + " is not well", append(elsewhere(asked), "try again in some minutes, and look at "+status)
	case upstream.BadAnswer:
		return "what came from " + service.name + " is no answer of its", []string{"look at " + service.where + ", and whether a proxy answers in its place; then try again"}
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
	return explainGraph(f.asked, e)
}

// elsewhere is the first step where an identity is not there, as on a machine that has none.
func elsewhere(asked party) []string {
	switch asked {
	case hostIdentity:
		return []string{"another machine than the deployment's has no such identity: run the doctor on the host. There, see that it has one:", principal}
	case vaultReader:
		return []string{"on another machine than the deployment's: az login, and VAULT_CREDENTIAL=azure-cli. On the host, see that it has the identity:", principal}
	}
	return nil
}

func explainVault(check, subject string, e *upstream.Error, renew []string) (found string, mend []string) {
	switch e.Reason {
	case upstream.NotFound:
		return "there is no secret " + subject + " in the vault, or it was deleted",
			append([]string{"az keyvault secret list --vault-name $VAULT --query '[].name'", "if it is there by another name, the setting is wrong; if it is not there at all:"}, renew...)
	case upstream.VersionUnsupported:
		return "the vault does not know the api-version of this program", []string{"look at KEY_VAULT_URL and AZURE_CLOUD; if they are right, report it with the cloud's name"}
	case upstream.SecretDisabled:
		return "the secret " + subject + " is disabled", []string{"az keyvault secret set-attributes --vault-name $VAULT --name " + subject + " --enabled true"}
	case upstream.SecretInvalid:
		if e.Cause != "" && !strings.HasSuffix(e.Cause, "has no value") {
			return "the " + e.Cause, renew
		}
		return "the secret " + subject + " is empty", renew
	}
	firewall := []string{"az keyvault network-rule add --name $VAULT --ip-address ADDRESS", "ADDRESS is that of this machine as the vault sees it; on a host without one of its own, take --subnet or a private endpoint"}
	switch e.Code {
	case "ForbiddenByFirewall":
		return "the firewall of the vault does not let this machine in", firewall
	case "ForbiddenByConnection":
		return "the vault takes no connection from the public network", []string{
			"reach it by a private endpoint in the network of the host, or switch public access on:",
			"az keyvault update --name $VAULT --public-network-access Enabled",
		}
	case "ForbiddenByPolicy":
		return "the access policies of the vault do not let the identity read secrets", []string{"az keyvault set-policy --name $VAULT --secret-permissions get --object-id $IDENTITY", "$IDENTITY is the object id of who VAULT_CREDENTIAL stands for; better still, change the vault to roles"}
	}
	if e.Status == 401 {
		return "the vault does not take the token of the identity: it is of another tenant or cloud than the vault's, or the clock is wrong",
			[]string{"az keyvault show --name $VAULT --query properties.tenantId", "see that who VAULT_CREDENTIAL stands for is in this tenant, and look at AZURE_CLOUD and the line about the clock"}
	}
	if check == checkVault {
		return "the vault refuses whoever asks", []string{"look at KEY_VAULT_URL, and at the networking of the vault"}
	}
	return "the identity may not read the secrets of the vault", grantVault()
}

// meanings are what numbers of Entra ID's errors mean, beyond their Reason
// (https://learn.microsoft.com/entra/identity-platform/reference-error-codes).
var meanings = map[string]struct{ found, mend string }{ //nolint:gochecknoglobals // a table that nothing writes to
	"AADSTS7000215": {"the client secret is wrong: often the secret's id was stored in the place of its value, or it was removed from the app", ""},
	"AADSTS700027":  {"the certificate is not one of the app's", ""},
	"AADSTS700024":  {"what was signed with the certificate is not of this time", "look at the line about the clock"},
	"AADSTS7000112": {"the app is disabled", "Entra ID, Enterprise applications, the app, Properties: enable sign-in"},
	"AADSTS53003":   {"Conditional Access blocks the app here", "look at the sign-in log of the app's service principal for the policy, and at the address that the host comes from"},
}

func explainIdentity(asked party, e *upstream.Error) (found string, mend []string) {
	switch {
	case e.Cause != "": // that of az
		return e.Cause, []string{"az login", "az account get-access-token --scope https://vault.azure.net/.default --output none"}
	case asked == hostIdentity:
		return "the managed identity gets no token: there is no such identity on this host",
			append(elsewhere(asked), "look at AZURE_CLIENT_ID, which names the user-assigned identity by its client id")
	}
	return "the identity that reads the vault gets no token: there is no such identity, or its credential is refused",
		append(elsewhere(asked), "look at AZURE_CLIENT_ID, which names the user-assigned identity or, with client-secret, the app; then also at AZURE_TENANT_ID and AZURE_CLIENT_SECRET")
}

func explainSTS(e *upstream.Error) (found string, mend []string) {
	switch e.Code {
	case "OutboundWebIdentityFederationDisabled", "OutboundWebIdentityFederationDisabledException":
		return "outbound web identity federation is not enabled in the account", []string{"aws iam enable-outbound-web-identity-federation"}
	case "AccessDenied":
		return "the role may not ask AWS STS for this token", []string{"see that the role has the policy SayWhoItIs of template.yaml, and that no boundary of the account forbids sts:GetWebIdentityToken"}
	}
	return "AWS STS does not take the credentials of the role", []string{
		"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN are set by Lambda: see that nobody else sets them, and look at the line about the clock",
		`elsewhere than on Lambda: aws lambda invoke --function-name $FUNCTION --cli-binary-format raw-in-base64-out --payload '{"command":"doctor"}' /dev/stdout`,
	}
}

// mismatches are what does not fit between an app and whom it is to trust.
var mismatches = map[string]string{ //nolint:gochecknoglobals // a table that nothing writes to
	"AADSTS70021":  "the app does not trust who this is, or does not yet",
	"AADSTS70025":  "the app trusts nobody",
	"AADSTS700211": "the app trusts another issuer, or does not trust this one yet",
	"AADSTS700212": "the app trusts tokens for another audience",
	"AADSTS700213": "the app trusts somebody else of this issuer",
}

// explainTrust explains why an app does not take the word of somebody. trust are the steps that make it.
func explainTrust(check string, e *upstream.Error, trust []string) (found string, mend []string) {
	if mismatch, ok := mismatches[e.Code]; ok {
		return mismatch, trust
	}
	switch {
	case e.Code == "AADSTS700024":
		return "the token that says who this is is not of this time", []string{"look at the line about the clock"}
	case check == checkIdentity && (e.Reason == upstream.AppNotFound || e.Reason == upstream.TenantNotFound):
		return "there is no such app that reads the vault", []string{"look at AZURE_CLIENT_ID, which is its Application (client) ID and not its object id, and at AZURE_TENANT_ID", "az ad app show --id $AZURE_CLIENT_ID --query displayName"}
	case e.Reason == upstream.CredentialRejected && meanings[e.Code].mend == "":
		return "Entra ID does not take the token that says who this is", trust
	}
	return explainEntra("", e)
}

func explainEntra(subject string, e *upstream.Error) (found string, mend []string) {
	if known, ok := meanings[e.Code]; ok {
		if known.mend != "" {
			return known.found, []string{known.mend}
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
		return "there is no such app in the tenant", []string{"look at GRAPH_CLIENT_ID, which is the app's Application (client) ID and not its object id, and at GRAPH_TENANT_ID", "az ad app show --id $APP_ID --query displayName"}
	case upstream.TenantNotFound:
		return "there is no such tenant in this cloud", []string{"az account show --query tenantId", "compare it with GRAPH_TENANT_ID and ENTRA_TENANT_ID, and look at AZURE_CLOUD"}
	case upstream.ScopeInvalid:
		return "Graph goes by another address in the cloud of this tenant", []string{"look at AZURE_CLOUD, and GRAPH_ENDPOINT where that is custom"}
	}
	return "Entra ID refuses the credential of the app", []string{"az ad app credential list --id $APP_ID --output table", "see that what is in the vault is one of these and has not ended; a certificate is listed with --cert"}
}

func explainGraph(asked party, e *upstream.Error) (found string, mend []string) {
	switch e.Reason {
	case upstream.Forbidden:
		if asked == hostIdentity {
			return "Graph does not let the managed identity read Autopilot devices, although the token is there", grantIdentity()
		}
		return "Graph does not let the app read Autopilot devices, although the token is there", grantRole()
	case upstream.TenantNotEnabled:
		return "the tenant has no Intune", []string{"look at GRAPH_TENANT_ID; the tenant needs an active Intune licence, and somebody must have opened Intune in it once"}
	}
	return fmt.Sprintf("Graph refuses to list devices: %s", strings.ReplaceAll(string(e.Reason), "_", " ")), []string{"look at AZURE_CLOUD and GRAPH_ENDPOINT; if they are right, give the request's id to Microsoft's support"}
}
