package doctor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/hosttest/simulated"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// sickness is a fault in a healthy deployment, with the findings that it causes.
type sickness struct {
	plant    func(*azuresim.Cloud)
	settings []string
	// want are the findings that are not ok, in order, with commas between them: mark, check and subject. A * at the end
	// stands for all that follow being not tried.
	want string
	says string // parts of the report, with … between them
	fix  string // a part of a step
}

// healthy are the settings of a deployment that leaves nothing to be wished for.
func healthy(c *azuresim.Cloud, changes ...string) func(string) string {
	return simulated.Minimal(append([]string{
		"KEY_VAULT_URL", c.VaultURL, "AZURE_CLIENT_ID", c.IdentityClientID, "GRAPH_TENANT_ID", c.TenantID,
		"GRAPH_CLIENT_ID", c.ClientID,
		"API_KEY_SECRET_NAMES", "api-key-flow", "ALLOWED_GROUP_TAGS", "MTR-*", "RATE_LIMIT", "60",
	}, changes...)...)
}

// The findings that are not tried after another one has failed.
const (
	noRoles      = ", not_tried graph_role, not_tried graph_other_roles, not_tried graph_devices"
	noGraph      = ", not_tried graph_token graph-client-secret" + noRoles
	noKeys       = ", not_tried secret webhook-servicenow, not_tried webhook_key webhook-servicenow" + noAPIKey
	noAPIKey     = ", not_tried secret api-key-flow, not_tried api_key api-key-flow"
	noVault      = ", not_tried secret graph-client-secret" + noKeys + noGraph
	nothingKnown = noVault + ", not_tried clock"
	// refused is every read by the vault.
	refused = "failed secret graph-client-secret, failed secret webhook-servicenow, not_tried webhook_key webhook-servicenow, " +
		"failed secret api-key-flow, not_tried api_key api-key-flow" + noGraph
)

// vaultSays is the refusal of Key Vault with the code of an inner error.
func vaultSays(code string) azuresim.Fault {
	return azuresim.Body(403, "application/json",
		`{"error":{"code":"Forbidden","message":"Client address 192.0.2.1 is not authorized.","innererror":{"code":"`+code+`"}}}`)
}

// entraSays is the response of Entra ID with an error number.
func entraSays(word string, number int) azuresim.Fault {
	return azuresim.Body(400, "application/json", fmt.Sprintf(
		`{"error":%q,"error_description":"AADSTS%d: canary. Trace ID: x","error_codes":[%[2]d]}`, word, number))
}

// stored replaces a secret.
func stored(name, value string) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) { c.PutSecret(name, azuresim.Secret{Value: value}) }
}

// ahead puts the cloud's clock ahead of ours.
func ahead(by time.Duration) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) { c.Now = func() time.Time { return time.Now().Add(by) } }
}

// withCertificate has the app sign in with a certificate that Entra ID knows.
func withCertificate(text func() (string, *x509.Certificate)) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) {
		value, cert := text()
		c.SetAppCertificates(cert)
		c.PutSecret("graph-certificate", azuresim.Secret{Value: value})
	}
}

// byCertificate are the settings for that.
var byCertificate = []string{"GRAPH_SECRET_NAME", "", "GRAPH_CERTIFICATE_NAME", "graph-certificate"}

// sicknesses are the faults.
func sicknesses() map[string]sickness {
	const noCertificate = ", not_tried graph_token graph-certificate" + noRoles
	return map[string]sickness{
		"a setting is missing": {
			nil,
			[]string{"GRAPH_CLIENT_ID", ""},
			"failed settings, not_tried vault*",
			"GRAPH_CLIENT_ID is not set … because the settings are not complete", "deploy the template again",
		},
		"three settings are wrong": {
			nil,
			[]string{"GRAPH_CLIENT_ID", "x", "RATE_LIMIT", "-1", "API_KEY_SECRET_NAMES", "a/b"},
			"failed settings, failed settings, failed settings, not_tried vault*",
			"GRAPH_CLIENT_ID is not a GUID … RATE_LIMIT must be … API_KEY_SECRET_NAMES must name", "docs/settings.md",
		},
		"the vault of another cloud": {
			nil,
			[]string{"KEY_VAULT_URL", "https://contoso.vault.azure.cn"},
			"failed settings, not_tried vault*",
			"KEY_VAULT_URL must end in .vault.azure.net", "docs/settings.md",
		},
		"a secret that nobody uses": {
			nil,
			[]string{"AZURE_CLIENT_SECRET", simulated.AppSecret},
			"warning settings",
			"AZURE_CLIENT_SECRET is set and not used", "remove AZURE_CLIENT_SECRET",
		},
		"the vault's name is not known": {
			failing(azuresim.StepChallenge, azuresim.NoHost()), nil, "failed vault" + nothingKnown,
			"has no address in the DNS … because Key Vault was not reached", "KEY_VAULT_URL",
		},
		"the vault takes no connection": {
			failing(azuresim.StepChallenge, azuresim.Refused()), nil, "failed vault" + nothingKnown,
			"Key Vault refuses the connection", "HTTPS_PROXY",
		},
		"a stranger answers": {
			failing(azuresim.StepChallenge, azuresim.Untrusted()), nil, "failed vault" + nothingKnown,
			"certificate of Key Vault is not trusted", "SSL_CERT_FILE",
		},
		"a proxy's page": {
			failing(azuresim.StepChallenge, azuresim.WrongType()), nil, "failed vault" + noVault,
			"unexpected response from", "proxy",
		},
		"a vault that hangs": {
			failing(azuresim.StepChallenge, azuresim.Hang()), nil, "failed vault" + nothingKnown,
			"Key Vault did not respond in time", "firewall",
		},
		"a vault that is down": {
			failing(azuresim.StepChallenge, azuresim.Status(503)), nil, "failed vault" + noVault,
			"Key Vault is unavailable (503", "azure.status.microsoft",
		},
		"a challenge that is none": {
			failing(azuresim.StepChallenge, azuresim.MalformedChallenge()), nil, "failed vault" + noVault,
			"unexpected response from", "KEY_VAULT_URL",
		},
		"the identity is down": {
			failing(azuresim.StepIdentity, azuresim.Status(500)), nil, "failed vault_identity" + noVault,
			"the identity that reads the vault is unavailable … because there is no token for Key Vault", "az functionapp identity show",
		},
		"a machine without an identity": {
			failing(azuresim.StepIdentity, azuresim.Refused()), nil, "failed vault_identity" + noVault,
			"the identity that reads the vault refuses the connection", "VAULT_CREDENTIAL=azure-cli",
		},
		"an identity that hangs": {
			failing(azuresim.StepIdentity, azuresim.Hang()), nil, "failed vault_identity" + noVault,
			"did not respond in time", "az login",
		},
		"another identity": {
			nil,
			[]string{"AZURE_CLIENT_ID", simulated.ClientID},
			"failed vault_identity" + noVault,
			"there is no such identity", "AZURE_CLIENT_ID",
		},
		"vault and identity are down": {
			func(c *azuresim.Cloud) {
				c.Fail(azuresim.StepChallenge, -1, azuresim.NoHost())
				c.Fail(azuresim.StepIdentity, -1, azuresim.Refused())
			}, nil, "failed vault, failed vault_identity" + nothingKnown,
			"has no address in the DNS … refuses the connection", "nslookup",
		},
		"an identity without the role": {
			failing(azuresim.StepSecret, vaultSays("ForbiddenByRbac")), nil, refused,
			"may not read the secrets of the vault (403 ForbiddenByRbac) … because the secret could not be read", `az role assignment create --role "Key Vault Secrets User"`,
		},
		"the vault's firewall": {
			failing(azuresim.StepSecret, vaultSays("ForbiddenByFirewall")), nil, refused,
			"firewall of the vault refuses this machine", "az keyvault network-rule add",
		},
		"a vault without public network": {
			failing(azuresim.StepSecret, vaultSays("ForbiddenByConnection")), nil, refused,
			"refuses connections from the public network", "private endpoint",
		},
		"an access policy": {
			failing(azuresim.StepSecret, vaultSays("ForbiddenByPolicy")), nil, refused,
			"access policies of the vault", "az keyvault set-policy",
		},
		"the vault of another tenant": {
			failing(azuresim.StepSecret, azuresim.Status(401)), nil, refused,
			"of another tenant or cloud", "properties.tenantId",
		},
		"a throttling vault": {
			failing(azuresim.StepSecret, azuresim.Status(429, "Retry-After", "60")), nil, refused,
			"Key Vault is throttling", "retry after 1m0s",
		},

		"the app's secret is missing": {
			func(c *azuresim.Cloud) { c.DeleteSecret("graph-client-secret") }, nil, "failed secret graph-client-secret" + noGraph,
			"there is no secret graph-client-secret in the vault … because the credential of the app cannot be used", "az ad app credential reset --id $APP_ID --append",
		},
		"the app's secret is disabled": {
			func(c *azuresim.Cloud) {
				c.PutSecret("graph-client-secret", azuresim.Secret{Value: "x", Disabled: true})
			}, nil, "failed secret graph-client-secret" + noGraph,
			"the secret graph-client-secret is disabled", "--enabled true",
		},
		"the app's secret is empty": {
			stored("graph-client-secret", ""), nil, "failed secret graph-client-secret" + noGraph,
			"the secret graph-client-secret is empty", "az keyvault secret set",
		},
		"a secret that ends in 9 days": {
			expiring(9*24*time.Hour + time.Hour), nil, "warning secret graph-client-secret",
			"expires in 9 days, on 2000-01-10", "credential reset",
		},
		"a secret that ends tomorrow": {
			expiring(25 * time.Hour), nil, "warning secret graph-client-secret",
			"expires in 1 day, on 2000-01-02", "credential reset",
		},
		"a secret past its end": {
			expiring(-48 * time.Hour), nil, "warning secret graph-client-secret",
			"expired on 1999-12-30; Key Vault serves it", "credential reset",
		},
		"a key that is missing": {
			func(c *azuresim.Cloud) { c.DeleteSecret("webhook-servicenow") }, nil, "failed secret webhook-servicenow, not_tried webhook_key webhook-servicenow",
			"there is no secret webhook-servicenow", "whsec_%s",
		},
		"one of two keys is missing": {
			nil,
			[]string{"WEBHOOK_SECRET_NAMES", "webhook-servicenow,webhook-next"},
			"warning secret webhook-next, not_tried webhook_key webhook-next",
			"there is no secret webhook-next … not a fault while another key of the kind is valid", "--name webhook-next --file new-key",
		},
		"one of two keys is weak": {
			stored("api-key-next", "short"),
			[]string{"API_KEY_SECRET_NAMES", "api-key-flow,api-key-next"},
			"warning api_key api-key-next",
			"the key is shorter than 24 bytes; not a fault while", "--name api-key-next",
		},
		"two keys are weak": {
			func(c *azuresim.Cloud) {
				stored("api-key-flow",
					"short")(c)
				stored("api-key-next", "short")(c)
			},
			[]string{"API_KEY_SECRET_NAMES", "api-key-flow,api-key-next"},
			"failed api_key api-key-flow, failed api_key api-key-next",
			"the key is shorter than 24 bytes", "--name api-key-next",
		},
		"a key that has expired": {
			func(c *azuresim.Cloud) {
				c.PutSecret("api-key-flow", azuresim.Secret{
					Value:   simulated.SigningKey + "-and-more-of-it",
					Expires: time.Now().Add(-time.Hour),
				})
			}, nil, "warning secret api-key-flow, failed api_key api-key-flow",
			"the secret has expired, and with it the key", "--name api-key-flow",
		},
		"a weak key of signatures": {
			stored("webhook-servicenow", "whsec_c2hvcnQ="), nil, "failed webhook_key webhook-servicenow",
			"the key is shorter than 24 bytes", "whsec_%s",
		},
		"a key that is not base64": {
			stored("webhook-servicenow", "whsec_not base64, and a canary-signing-key"), nil, "failed webhook_key webhook-servicenow",
			"the key is not base64", "openssl rand -base64 32",
		},
		"a weak API key": {
			stored("api-key-flow", "canary-api-key"), nil, "failed api_key api-key-flow",
			"the key is shorter than 24 bytes", `printf '%s' "$(openssl`,
		},
		"a disabled API key": {
			func(c *azuresim.Cloud) {
				c.PutSecret("api-key-flow", azuresim.Secret{
					Value:    "x",
					Disabled: true,
				})
			}, nil, "failed secret api-key-flow, not_tried api_key api-key-flow",
			"the secret api-key-flow is disabled", "set-attributes",
		},

		"a certificate without a key": {
			withCertificate(func() (string, *x509.Certificate) {
				_, cert := simulated.NewCertificate()
				return simulated.InPEM(nil, cert), cert
			}), byCertificate, "failed certificate graph-certificate" + noCertificate,
			"it has no private key", "az keyvault certificate import",
		},
		"an EC key": {
			withCertificate(func() (string, *x509.Certificate) {
				key, cert := ecCertificate()
				return simulated.InPEM(key, cert), cert
			}), byCertificate, "failed certificate graph-certificate" + noCertificate,
			"it has a key that is not RSA", "create an RSA certificate",
		},
		"the key of another certificate": {
			withCertificate(func() (string, *x509.Certificate) {
				key, _ := simulated.NewCertificate()
				_, cert := simulated.NewCertificate()
				return simulated.InPEM(key, cert), cert
			}), byCertificate, "failed certificate graph-certificate" + noCertificate,
			"it has no certificate that its key belongs to", "import",
		},
		"a certificate that ends soon": {
			withCertificate(until(5 * 24 * time.Hour)), byCertificate, "warning certificate graph-certificate",
			"expires in 5 days, on 2000-01-06", "--append --cert \"@new.pem\"",
		},
		"a certificate that has expired": {
			withCertificate(until(-30 * time.Minute)), byCertificate, "warning certificate graph-certificate",
			"expired on 1999-12-31; Entra ID decides", "--cert",
		},
		"a certificate unknown to Entra": {
			func(c *azuresim.Cloud) {
				withCertificate(until(90 * 24 * time.Hour))(
					c)
				c.SetAppCertificates()
			}, byCertificate, "failed graph_token graph-certificate" + noRoles,
			"the certificate is not one of the app's (401 AADSTS700027)", "--append --cert",
		},

		"a wrong client secret": {
			func(c *azuresim.Cloud) { c.SetAppSecrets("another") }, nil, "failed graph_token graph-client-secret" + noRoles,
			"the client secret is wrong: often the secret's id … AADSTS7000215 … because there is no token for Graph", "az ad app credential reset",
		},
		"an expired client secret": {
			func(c *azuresim.Cloud) { c.ExpireAppSecret(simulated.AppSecret) }, nil, "failed graph_token graph-client-secret" + noRoles,
			"the client secret has expired (401 AADSTS7000222", "az ad app credential reset",
		},
		"an unknown app": {
			nil,
			[]string{"GRAPH_CLIENT_ID", simulated.ClientID},
			"failed graph_token graph-client-secret" + noRoles,
			"there is no such app in the tenant (400 AADSTS700016", "GRAPH_CLIENT_ID",
		},
		"an unknown tenant": {
			nil,
			[]string{"GRAPH_TENANT_ID", simulated.TenantID},
			"failed graph_token graph-client-secret" + noRoles,
			"there is no such tenant in this cloud (400 AADSTS90002", "az account show",
		},
		"a wrong cloud": {
			failing(azuresim.StepToken, entraSays("invalid_resource", 500011)), nil, "failed graph_token graph-client-secret" + noRoles,
			"Graph goes by another address in the cloud of this tenant (400 AADSTS500011)", "AZURE_CLOUD",
		},
		"a disabled app": {
			failing(azuresim.StepToken, entraSays("unauthorized_client", 7000112)), nil, "failed graph_token graph-client-secret" + noRoles,
			"the app is disabled", "enable sign-in",
		},
		"Conditional Access": {
			failing(azuresim.StepToken, entraSays("access_denied", 53003)), nil, "failed graph_token graph-client-secret" + noRoles,
			"Conditional Access blocks the app", "sign-in log",
		},
		"another refusal of Entra": {
			failing(azuresim.StepToken, entraSays("invalid_client", 7000218)), nil, "failed graph_token graph-client-secret" + noRoles,
			"Entra ID refuses the credential of the app (400 AADSTS7000218)", "az ad app credential list",
		},
		"Entra is down": {
			failing(azuresim.StepToken, azuresim.Status(503)), nil, "failed graph_token graph-client-secret" + noRoles,
			"Entra ID is unavailable (503", "azure.status.microsoft",
		},
		"a token that breaks off": {
			failing(azuresim.StepToken, azuresim.Truncated()), nil, "failed graph_token graph-client-secret" + noRoles,
			"unexpected response from", "proxy",
		},
		"the permission is missing": {
			func(c *azuresim.Cloud) { c.SetGraphRoles() }, nil, "failed graph_role, not_tried graph_devices",
			"DeviceManagementServiceConfig.ReadWrite.All is missing … because the app does not have the permission for it", "=Role",
		},
		"another permission alone": {
			func(c *azuresim.Cloud) {
				c.SetGraphRoles(
					"DeviceManagementServiceConfig.Read.All")
			}, nil, "failed graph_role, warning graph_other_roles, not_tried graph_devices",
			"is missing … that it does not need: DeviceManagementServiceConfig.Read.All", "admin-consent",
		},
		"too many permissions": {
			func(c *azuresim.Cloud) {
				c.SetGraphRoles("Mail.Read", azuresim.GraphRole, "Directory.ReadWrite.All", "a\x1b[2J")
			}, nil, "warning graph_other_roles",
			`this app has permissions that it does not need: Mail.Read, Directory.ReadWrite.All, "a\x1b[2J"`, "az ad app permission delete",
		},
		"a token nobody can look into": {
			failing(azuresim.StepToken, azuresim.Body(200, "application/json", `{"access_token":"opaque","token_type":"Bearer","expires_in":3599}`)), nil, "warning graph_role, not_tried graph_other_roles, failed graph_devices",
			"the token cannot be parsed … Graph does not allow the app to read", "admin-consent",
		},
		"Graph refuses the list": {
			failing(azuresim.StepGraph, azuresim.GraphError(400, azuresim.Plain, 0)), nil, "failed graph_devices",
			"Graph refuses to list devices: rejected (400 SimulatedFault", "GRAPH_ENDPOINT",
		},
		"no Intune in the tenant": {
			failing(azuresim.StepGraph, azuresim.Body(400, "application/json", `{"error":{"code":"BadRequest","message":"Request not applicable to target tenant."}}`)), nil, "failed graph_devices",
			"the tenant has no Intune", "Intune licence",
		},
		"Graph refuses all the same": {
			failing(azuresim.StepGraph, azuresim.GraphError(403, azuresim.DoublyNested, 0)), nil, "failed graph_devices",
			"although there is a token (403", "restart the processes",
		},
		"Graph is throttling": {
			failing(azuresim.StepGraph, azuresim.Status(429, "Retry-After", "120")), nil, "failed graph_devices",
			"Graph is throttling (429", "retry after 2m0s",
		},
		"Graph is down": {
			failing(azuresim.StepGraph, azuresim.Status(503)), nil, "failed graph_devices",
			"Graph is unavailable (503", "azure.status.microsoft",
		},
		"Graph hangs": {
			failing(azuresim.StepGraph, azuresim.Hang()), nil, "failed graph_devices",
			"Graph did not respond in time", "firewall",
		},
		"a tenant without a device": {
			failing(azuresim.StepGraph, azuresim.Body(200, "application/json", `{"value":[]}`)), nil, "warning graph_devices",
			"has no Autopilot device", "GRAPH_TENANT_ID",
		},
		"a clock that is late": {
			ahead(10 * time.Minute), nil, "failed clock",
			"this machine is 10m0s behind Graph, Key Vault, Entra ID", "timedatectl",
		},
		"a clock that is early": {
			ahead(-10 * time.Minute), nil, "failed clock",
			"the clock of this machine is 10m0s ahead of", "timedatectl",
		},
		"a clock beyond the tolerance": {
			ahead(90 * time.Second),
			[]string{"SIGNATURE_TOLERANCE", "60s"},
			"failed clock",
			"this machine is 1m30s behind", "timedatectl",
		},
		"a clock that is a bit late": {
			ahead(90 * time.Second), nil, "warning clock",
			"this machine is 1m30s behind", "timedatectl",
		},
		"a clock that is a bit early": {
			ahead(-90 * time.Second), nil, "warning clock",
			"this machine is 1m30s ahead of … from 5m0s on signatures are refused", "timedatectl",
		},

		"a host that is trusted": {
			nil,
			[]string{"WEBHOOK_SECRET_NAMES", "", "API_KEY_SECRET_NAMES", "", "AUTH", "platform"},
			"warning callers",
			"AUTH=platform, this function checks nothing", "function key or IAM",
		},
		"a sweep of many": {
			nil,
			[]string{"SWEEP_GROUP_TAG", "MTR-Oslo", "SWEEP_APPLY", "true", "SWEEP_MAX_DEVICES", "5000"},
			"warning sweep",
			"it ACTS on the devices with the group tag MTR-Oslo, none if there are more than 5000", "SWEEP_MAX_DEVICES",
		},
		"signing keys are not there": {
			failing(azuresim.StepKeys, azuresim.Status(503)),
			[]string{"ENTRA_AUDIENCE", simulated.ClientID},
			"failed signing_keys tenant 1",
			"Entra ID is unavailable (503)", "azure.status.microsoft",
		},
		"signing keys of a stranger": {
			nil,
			[]string{"ENTRA_AUDIENCE", simulated.ClientID, "ENTRA_TENANT_ID", simulated.TenantID},
			"failed signing_keys tenant 1",
			"there is no such tenant in this cloud (400 AADSTS90002)", "ENTRA_TENANT_ID",
		},
	}
}

// expiring has the app's secret end after left.
func expiring(left time.Duration) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) {
		c.PutSecret("graph-client-secret", azuresim.Secret{Value: simulated.AppSecret, Expires: time.Now().Add(left)})
	}
}

// until makes a certificate that ends after left.
func until(left time.Duration) func() (string, *x509.Certificate) {
	return func() (string, *x509.Certificate) {
		key, cert := simulated.NewCertificateUntil(time.Now().Add(left))
		return simulated.InPEM(key, cert), cert
	}
}

func ecCertificate() (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0,
		0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return key, cert
}

// diagnosed examines a deployment in this process, and returns its report in both forms. The examination must change
// nothing and leak nothing.
func diagnosed(t *testing.T, c *azuresim.Cloud, getenv func(string) string) (r Report, printed string) {
	t.Helper()
	start, before := time.Now(), c.Devices()
	var asText, asJSON, stderr bytes.Buffer
	err := Command(t.Context(), nil, getenv, c, simulated.Version, &asText, &stderr)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if failed := Command(t.Context(), []string{"-json"}, getenv, c, simulated.Version, &asJSON,
		&stderr); fmt.Sprint(failed) != fmt.Sprint(err) || stderr.Len() > 0 {
		t.Errorf("with -json the end is %v, without %v; %s", failed, err, stderr.String())
	}
	d := json.NewDecoder(&asJSON)
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.OK != (err == nil) || err != nil && err.Error() != fmt.Sprintf("%d of %d checks failed", r.Failed,
		len(r.Findings)) {
		t.Errorf("%v although ok is %v", err, r.OK)
	}
	// the terminal shows the vault's name
	if found := simulated.Leaks(simulated.Canaries(c, nil), strings.ReplaceAll(asText.String(), "simulated-vault",
		"$VAULT"), fmt.Sprintf("%+v %v", r, err)); len(found) > 0 {
		t.Errorf("leaked %q in\n%s", found, asText.String())
	}
	if !slices.Equal(before, c.Devices()) {
		t.Error("a device has changed")
	}
	if deployed, err := config.Load(getenv, config.Local); err == nil {
		if got, want := notWell(served(t, c, deployed)), notWell(r); !slices.Equal(got, want) {
			t.Errorf("over HTTP found %q, want %q", got, want)
		}
	}
	for _, request := range c.Requests(azuresim.StepGraph) {
		if request.Method != "GET" {
			t.Errorf("Graph was asked to %s", request.Method)
		}
	}
	return r, asText.String()
}

// served asks for the report over HTTP, which must come in time and leak nothing.
func served(t *testing.T, cloud *azuresim.Cloud, c config.Config) (r Report) {
	t.Helper()
	c.WebhookSecretNames, c.APIKeySecretNames, c.EntraAudiences, c.PlatformAuth, c.OperatorCallers = nil, nil, nil,
		true, []string{caller.PlatformID}
	var log bytes.Buffer
	h, err := app.New(c, cloud, ForApp(c, cloud, simulated.Version), app.NewLog(&log, c.LogLevel), simulated.Version)
	if err != nil {
		t.Fatal(err)
	}
	start, w := time.Now(), httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/doctor", nil))
	if took := time.Since(start); took > c.Timeout {
		t.Errorf("over HTTP it took %v of %v", took, c.Timeout)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %v: %s", w.Code, err, w.Body)
	}
	if found := simulated.Leaks(simulated.Canaries(cloud, nil), w.Body.String(), fmt.Sprint(w.Header()),
		log.String()); len(found) > 0 {
		t.Errorf("leaked %q in\n%s\n%s", found, w.Body, log.String())
	}
	return r
}

// notWell returns the findings of r that are not ok: mark, check and subject.
func notWell(r Report) []string {
	var list []string
	for _, f := range r.Findings {
		if f.Mark != OK {
			list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Mark, f.Check, f.Subject)))
		}
	}
	return list
}

// Every fault is found, named and explained. No other check fails; checks that need the failed one are not tried.
func TestDoctorFinds(t *testing.T) {
	for name, test := range sicknesses() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := simulated.NewCloud()
				if test.plant != nil {
					test.plant(c)
				}
				r, printed := diagnosed(t, c, healthy(c, test.settings...))
				test.isFound(t, r, printed)
			})
		})
	}
}

// isFound looks for the sickness in a report.
func (test sickness) isFound(t *testing.T, r Report, printed string) {
	t.Helper()
	got := notWell(r)
	var want []string
	if test.want != "" {
		want = strings.Split(test.want, ", ")
	}
	if n := len(want); n > 0 && strings.HasSuffix(want[n-1], "*") {
		want = append(slices.Clone(want[:n-1]), strings.TrimSuffix(want[n-1], "*"))
		for _, more := range got[min(len(got), len(want)):] {
			if !strings.HasPrefix(more, string(NotTried)) {
				t.Errorf("%s", more)
			}
		}
		got = got[:min(len(got), len(want))]
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q\nwant %q\n%s", got, want, printed)
	}
	for words := range strings.SplitSeq(test.says, " … ") {
		if !strings.Contains(printed, words) {
			t.Errorf("%q is not in\n%s", words, printed)
		}
	}
	mended := false
	for _, f := range r.Findings {
		mended = mended || strings.Contains(strings.Join(f.Fix, "\n"), test.fix)
		// Of a failure the request's id differs from run to run.
		if words, _, _ := strings.Cut(f.Found, " request "); f.Mark != NotTried && !strings.Contains(printed,
			f.Tried+": "+words) {
			t.Errorf("%q is not printed:\n%s", words, printed)
		}
	}
	if !mended {
		t.Errorf("%q fixes nothing:\n%s", test.fix, printed)
	}
}

// A healthy deployment of every kind has no mark but ok.
func TestDoctorIsSilent(t *testing.T) {
	for name, test := range map[string]struct {
		plant    func(*azuresim.Cloud)
		settings []string
		says     []string
	}{
		"a secret": {nil, nil, []string{"without an expiry", "1, and no more", "devices with the group tags \"MTR-*\"; " +
			"at most 60 devices a minute for each caller", "none: SWEEP_GROUP_TAG is not set", "signed with 1 key, within " +
			"5m0s; with 1 API key\n"}},
		"an end": {expiring(100*24*time.Hour + time.Hour), nil, []string{"expires in 100 days, on 2000-04-10"}},
		"certificate": {
			withCertificate(until(400*24*time.Hour + time.Hour)), byCertificate,
			[]string{"an RSA key and its certificate, expires in 400 days, on 2001-02-04"},
		},
		"tokens": {nil, []string{
			"WEBHOOK_SECRET_NAMES", "", "API_KEY_SECRET_NAMES", "", "ENTRA_AUDIENCE",
			simulated.ClientID + ",api://unassign",
		}, []string{
			"with the role Device.Unassign, for 2 audiences, of 1 tenant\n",
			"tenant 1 of ENTRA_TENANT_ID: read",
		}},
		"two keys": {
			stored("webhook-next", simulated.EncodeKey([]byte("next-signing-key-0123456789abc"))),
			[]string{"WEBHOOK_SECRET_NAMES", "webhook-servicenow,webhook-next"},
			[]string{"signed with 2 keys"},
		},
		"all tags": {nil, []string{"ALLOWED_GROUP_TAGS", "", "RATE_LIMIT", "0"}, []string{"devices with any group tag; " +
			"without a rate limit", "> hint: ALLOWED_GROUP_TAGS="}},
		"a dry sweep": {
			nil,
			[]string{"SWEEP_GROUP_TAG", "MTR-Oslo", "SWEEP_MAX_DEVICES", "5000"},
			[]string{"a dry run on the devices with the group tag MTR-Oslo"},
		},
		"a sweep": {
			nil,
			[]string{"SWEEP_GROUP_TAG", "MTR-Oslo", "SWEEP_APPLY", "true"},
			[]string{"it ACTS on the devices with the group tag MTR-Oslo, none if there are more than 10 to clean or fewer " +
				"than 1 in Intune"},
		},
		"a late clock": {ahead(30 * time.Second), nil, []string{"30s behind Graph, Key Vault, Entra ID"}},
		"many devices": {func(c *azuresim.Cloud) { c.PutFleet(50) }, nil, []string{"at least 1, and there are more"}},
		// One page of one device is not made, and the first page is.
		"no small page": {func(c *azuresim.Cloud) {
			c.PutFleet(50)
			c.Fail(azuresim.StepGraph, 1, azuresim.GraphError(400, azuresim.HTML, 0))
		}, nil, []string{"51, and no more"}},
		"a slow cloud": {func(c *azuresim.Cloud) {
			for _, step := range []azuresim.Step{
				azuresim.StepChallenge, azuresim.StepIdentity, azuresim.StepSecret,
				azuresim.StepToken, azuresim.StepGraph,
			} {
				c.Fail(step, -1, azuresim.Delay(time.Second))
			}
		}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := simulated.NewCloud()
				if test.plant != nil {
					test.plant(c)
				}
				r, printed := diagnosed(t, c, healthy(c, test.settings...))
				if got := notWell(r); len(got) > 0 || !r.OK || r.Failed+r.Warnings+r.NotTried > 0 {
					t.Errorf("found %q:\n%s", got, printed)
				}
				for _, words := range test.says {
					if !strings.Contains(printed, words) {
						t.Errorf("%q is not in\n%s", words, printed)
					}
				}
			})
		})
	}
}

// withoutASecret are the settings of a deployment that stores none for Graph. It keeps a vault for the callers' keys.
var withoutASecret = []string{"GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", ""}

// keepingNothing are the settings of a deployment without a vault.
var keepingNothing = append(slices.Clone(withoutASecret), "KEY_VAULT_URL", "", "WEBHOOK_SECRET_NAMES", "",
	"API_KEY_SECRET_NAMES", "", "ENTRA_AUDIENCE", simulated.ClientID)

// asItself are the settings of a deployment with the permission of Graph on its managed identity.
var asItself = append(slices.Clone(keepingNothing), "GRAPH_CLIENT_ID", "")

// onAWS are the settings of a function with a role.
func onAWS(c *azuresim.Cloud, role azuresim.Role) []string {
	return []string{
		"VAULT_CREDENTIAL", "aws-federation", "AZURE_TENANT_ID", c.TenantID, "AWS_REGION", role.Region,
		"AWS_ACCESS_KEY_ID", role.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY", role.SecretAccessKey, "AWS_SESSION_TOKEN", role.SessionToken,
	}
}

// A deployment that signs in without a secret is examined for the parts that it has.
func TestDoctorWithoutASecret(t *testing.T) {
	const itself, byIdentity, byRole = "get a token for Graph by the managed identity itself: received",
		"by the app that trusts the managed identity: received", "by the app that trusts the function's role: received"
	const nothingKept = "check for a vault: not needed: KEY_VAULT_URL is not set"
	const noToken = ", not_tried graph_token" + noRoles
	for name, test := range map[string]struct {
		aws     bool
		prepare func(*azuresim.Cloud, azuresim.Role)
		sickness
	}{
		"the identity itself": {false, nil, sickness{
			settings: asItself,
			says:     nothingKept + " … " + itself + " … " + "within a second of Graph, Entra ID",
		}},
		"an app that trusts the identity": {false, nil, sickness{
			settings: keepingNothing,
			says:     nothingKept + " … " + "names the managed identity: received" + " … " + byIdentity,
		}},
		"the identity, and a vault": {false, nil, sickness{
			settings: withoutASecret,
			says:     "by VAULT_CREDENTIAL=managed-identity: received" + " … " + byIdentity + " … " + "with 1 API key",
		}},
		"a role": {true, nil, sickness{
			settings: keepingNothing,
			says:     nothingKept + " … " + "names the function's role: received" + " … " + byRole + " … " + "AWS STS",
		}},
		"a role, and a vault":            {true, nil, sickness{settings: withoutASecret, says: "by VAULT_CREDENTIAL=aws-federation: received" + " … " + byRole}},
		"a role, and a secret for Graph": {true, nil, sickness{says: "by VAULT_CREDENTIAL=aws-federation: received … get a token for Graph from Entra ID: received"}},
		"a setting is missing": {false, nil, sickness{
			settings: append(slices.Clone(keepingNothing), "GRAPH_TENANT_ID", ""), want: "failed settings, not_tried vault*",
			says: "GRAPH_TENANT_ID is not set", fix: "docs/settings.md",
		}},
		"somebody who has signed in with az": {false, nil, sickness{
			settings: append(slices.Clone(keepingNothing), "VAULT_CREDENTIAL", "azure-cli"), want: "failed settings, not_tried vault*",
			says: "GRAPH_CREDENTIAL=identity needs VAULT_CREDENTIAL", fix: "docs/settings.md",
		}},
		"a secret that nobody uses": {true, nil, sickness{
			settings: append(slices.Clone(keepingNothing), "AZURE_CLIENT_SECRET", simulated.AppSecret), want: "warning settings",
			says: "not used: VAULT_CREDENTIAL is aws-federation", fix: "remove AZURE_CLIENT_SECRET",
		}},

		"the identity lacks the permission": {
			false, func(c *azuresim.Cloud, _ azuresim.Role) { c.SetIdentityRoles() },
			sickness{
				settings: asItself, want: "failed graph_role, not_tried graph_devices",
				says: "is missing: the managed identity was never given it … because the managed identity does not have the permission … $PRINCIPAL_ID is the object id", fix: "grant.sh --identity $PRINCIPAL_ID --yes",
			},
		},
		"the identity has too many": {false, func(c *azuresim.Cloud,
			_ azuresim.Role,
		) {
			c.SetIdentityRoles(azuresim.GraphRole, "Mail.Read")
		}, sickness{
			settings: asItself, want: "warning graph_other_roles",
			says: "this managed identity has permissions that it does not need: Mail.Read", fix: "https://graph.microsoft.com/v1.0/servicePrincipals/$PRINCIPAL_ID/appRoleAssignments/ID_OF_THE_OTHER",
		}},
		"Graph refuses the identity": {false, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepGraph, -1, azuresim.GraphError(403, azuresim.Nested, 0))
		}, sickness{
			settings: asItself, want: "failed graph_devices",
			says: "Graph does not allow the managed identity to read", fix: "grant.sh --identity",
		}},
		"another identity": {false, nil, sickness{
			settings: append(slices.Clone(asItself), "AZURE_CLIENT_ID", simulated.ClientID), want: "failed graph_token" + noRoles,
			says: "the managed identity gets no token: there is no such identity on this host (400 invalid_request", fix: "AZURE_CLIENT_ID",
		}},
		"a machine without an identity": {false, unreachable, sickness{
			settings: asItself, want: "failed graph_token" + noRoles,
			says: "the managed identity refuses the connection", fix: "run the doctor on the host",
		}},
		"a machine without an identity, for an app": {false, unreachable, sickness{
			settings: keepingNothing, want: "failed assertion" + noToken,
			says: "the managed identity refuses the connection … because there is no token that identifies this process", fix: "run the doctor on the host",
		}},
		"the app trusts another identity": {false, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.SetTrust(c.ClientID, azuresim.Trust{Issuer: c.Issuer(), Subject: "another", Audience: simulated.Exchange})
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "the app trusts another subject of this issuer (401 AADSTS700213", fix: "grant.sh --app $APP_ID --federate $PRINCIPAL_ID --yes",
		}},
		"the app has no federated credential": {false, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepToken, -1, entraSays("invalid_client", 70025))
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "the app has no federated credential (400 AADSTS70025", fix: "az ad app federated-credential list --id $APP_ID",
		}},
		"the app that trusts lacks the permission": {
			false, func(c *azuresim.Cloud, _ azuresim.Role) { c.SetGraphRoles() },
			sickness{
				settings: keepingNothing, want: "failed graph_role, not_tried graph_devices",
				says: "it was never added to the app", fix: "admin-consent --id $APP_ID",
			},
		},
		"the app that trusts is disabled": {false, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepToken, -1, entraSays("unauthorized_client", 7000112))
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "the app is disabled", fix: "enable sign-in",
		}},
		"no app that trusts": {false, nil, sickness{
			settings: append(slices.Clone(keepingNothing), "GRAPH_CLIENT_ID", simulated.ClientID), want: "failed graph_token" + noRoles,
			says: "there is no such app in the tenant (400 AADSTS700016", fix: "GRAPH_CLIENT_ID",
		}},

		"the account's switch is off": {
			true, func(c *azuresim.Cloud, _ azuresim.Role) { c.DisableFederation() },
			sickness{
				settings: keepingNothing, want: "failed assertion" + noToken,
				says: "outbound web identity federation is not enabled in the account (403", fix: "aws iam enable-outbound-web-identity-federation",
			},
		},
		"the role may not ask": {true, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepSTS, -1, azuresim.Body(403, "text/xml",
				`<ErrorResponse><Error><Code>AccessDenied</Code><Message>canary</Message></Error></ErrorResponse>`))
		}, sickness{
			settings: keepingNothing, want: "failed assertion" + noToken,
			says: "the role may not ask AWS STS for this token (403 AccessDenied", fix: "RequestIdentityToken",
		}},
		"credentials that are not the role's": {true, nil, sickness{
			settings: append(slices.Clone(keepingNothing), "AWS_SESSION_TOKEN", "another"), want: "failed assertion" + noToken,
			says: "AWS STS refuses the credentials of the role (403 SignatureDoesNotMatch", fix: "are set by Lambda",
		}},
		"STS is down": {true, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepSTS,
				-1, azuresim.Status(503))
		}, sickness{
			settings: keepingNothing, want: "failed assertion" + noToken,
			says: "AWS STS is unavailable (503", fix: "https://health.aws.amazon.com",
		}},
		"STS hangs": {true, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepSTS,
				-1, azuresim.Hang())
		}, sickness{
			settings: keepingNothing, want: "failed assertion" + noToken,
			says: "AWS STS did not respond in time", fix: "AWS_REGION",
		}},
		"no role for the vault and for Graph": {
			true, func(c *azuresim.Cloud, _ azuresim.Role) { c.DisableFederation() },
			sickness{
				settings: withoutASecret, want: "failed assertion, not_tried vault_identity" + noKeys + noToken,
				says: "because there is no token that identifies this process", fix: "enable-outbound",
			},
		},
		"another issuer is trusted": {true, func(c *azuresim.Cloud, role azuresim.Role) {
			c.SetTrust(c.ClientID, azuresim.Trust{
				Issuer: "https://another.tokens.sts.global.api.aws", Subject: role.ARN,
				Audience: simulated.Exchange,
			})
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "the app trusts another issuer, or does not trust this one yet (401 AADSTS700211", fix: "aws iam get-outbound-web-identity-federation-info",
		}},
		"another role is trusted": {true, func(c *azuresim.Cloud, role azuresim.Role) {
			c.SetTrust(c.ClientID, azuresim.Trust{Issuer: role.Issuer, Subject: role.ARN + "-2", Audience: simulated.Exchange})
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "the app trusts another subject of this issuer (401 AADSTS700213", fix: "az ad app federated-credential list --id $APP_ID",
		}},
		"no match at all": {true, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepToken, -1, entraSays("invalid_request", 70021))
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "the app does not trust this process, or does not yet (400 AADSTS70021", fix: simulated.Exchange,
		}},
		"a signature that Entra does not take": {true, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepToken, -1, entraSays("invalid_client", 50013))
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "Entra ID refuses the token that identifies this process (400 AADSTS50013", fix: "docs/aws.md",
		}},
		"a token of another time": {true, func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepToken, -1, entraSays("invalid_client", 700024))
		}, sickness{
			settings: keepingNothing, want: "failed graph_token" + noRoles,
			says: "is outside its validity period", fix: "the line about the clock",
		}},
		"the vault's app trusts another audience": {true, func(c *azuresim.Cloud, role azuresim.Role) {
			c.SetTrust(c.IdentityClientID, azuresim.Trust{Issuer: role.Issuer, Subject: role.ARN, Audience: "api://another"})
		}, sickness{
			settings: withoutASecret, want: "failed vault_identity" + noKeys,
			says: "the app trusts tokens for another audience (401 AADSTS700212", fix: "federated-credential list --id $AZURE_CLIENT_ID",
		}},
		"no app for the vault": {true, nil, sickness{
			settings: append(slices.Clone(withoutASecret), "AZURE_CLIENT_ID", simulated.ClientID), want: "failed vault_identity" + noKeys,
			says: "there is no app with this AZURE_CLIENT_ID (400 AADSTS700016", fix: "AZURE_TENANT_ID",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := simulated.NewCloud()
				role := c.PutRole(simulated.RoleARN)
				simulated.TrustAll(c, role)
				if test.prepare != nil {
					test.prepare(c, role)
				}
				var settings []string
				if test.aws {
					settings = onAWS(c, role)
				}
				settings = append(settings, test.settings...)
				r, printed := diagnosed(t, c, healthy(c, settings...))
				test.isFound(t, r, printed)
				if found := simulated.Leaks([]string{
					role.SecretAccessKey, role.SessionToken, role.Issuer, role.ARN,
					c.IdentityObjectID,
				}, printed, fmt.Sprintf("%+v", r)); len(found) > 0 {
					t.Errorf("leaked %q in\n%s", found, printed)
				}
				if !slices.Contains(test.settings, "KEY_VAULT_URL") {
					return
				}
				if n := c.Count(azuresim.StepChallenge) + c.Count(azuresim.StepSecret); n > 0 {
					t.Errorf("a vault was asked %d times, where there is none", n)
				}
			})
		})
	}
}

// unreachable is a machine that has no managed identity.
func unreachable(c *azuresim.Cloud, _ azuresim.Role) {
	c.Fail(azuresim.StepIdentity, -1, azuresim.Refused())
}

// The report comes in time while every service is slow, and names the services that did not respond.
func TestDoctorIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := simulated.NewCloud()
		for step, takes := range map[azuresim.Step]time.Duration{
			azuresim.StepChallenge: 3 * time.Second, azuresim.StepIdentity: 2500 * time.Millisecond,
			azuresim.StepSecret:    3 * time.Second,
			azuresim.StepDiscovery: 2500 * time.Millisecond, azuresim.StepToken: 3 * time.Second,
			azuresim.StepGraph: 7 * time.Second, azuresim.StepKeys: 4 * time.Second,
		} {
			c.Fail(step, -1, azuresim.Delay(takes))
		}
		r, printed := diagnosed(t, c, healthy(c, "ENTRA_AUDIENCE", simulated.ClientID)) // which looks at the time
		if r.OK || !strings.Contains(printed, "did not respond in time") {
			t.Errorf("the report says nothing of it:\n%s", printed)
		}
	})
}

// On a terminal the marks are coloured, and nothing else.
func TestDoctorColours(t *testing.T) {
	var out bytes.Buffer
	p := &printout{w: &out, coloured: true}
	for _, m := range []Mark{OK, Warning, Failed} {
		p.printFinding(Finding{Mark: m, Tried: "try", Found: "found"})
	}
	if got, want := out.String(), "\x1b[32mok       \x1b[0m  try: found\n\x1b[33mwarning  \x1b[0m  try: "+
		"found\n\x1b[31mfailed   \x1b[0m  try: found\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// With little time a step that hangs is told by the report, in time, and nothing else is blamed for it.
func TestDoctorRouteWithLittleTime(t *testing.T) {
	for step, want := range map[azuresim.Step]string{
		azuresim.StepChallenge: "failed vault", azuresim.StepIdentity: "failed vault_identity",
		azuresim.StepSecret: "failed secret graph-client-secret",
		azuresim.StepToken:  "failed graph_token graph-client-secret", azuresim.StepGraph: "failed graph_devices",
		azuresim.StepKeys: "failed signing_keys tenant 1",
	} {
		t.Run(string(step), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := simulated.NewCloud()
				cloud.Fail(step, -1, azuresim.Hang())
				c, err := config.Load(healthy(cloud, "REQUEST_TIMEOUT", "2s", "ENTRA_AUDIENCE", simulated.ClientID,
					"WEBHOOK_SECRET_NAMES", ""), config.Local)
				if err != nil {
					t.Fatal(err)
				}
				r := served(t, cloud, c)
				got := slices.DeleteFunc(notWell(r), func(f string) bool { return strings.HasPrefix(f, string(NotTried)) })
				if want := append([]string{want},
					map[azuresim.Step][]string{azuresim.StepSecret: {"failed secret api-key-flow"}}[step]...); !slices.Equal(got,
					want) {
					t.Errorf("found %q, want %q", got, want)
				}
			})
		})
	}
}

// A fault of this program is a finding, and no end of a process that serves requests.
func TestDoctorPanics(t *testing.T) {
	first := &step{
		otherwise: "it panics", findings: []Finding{{Check: "vault"}, {Check: "vault_identity"}},
		run: func(context.Context, []Finding) { panic(errors.New("canary")) },
	}
	tryTogether(t.Context(), first)
	second := &step{blocked: first.blockReason(), findings: []Finding{{Check: "graph_token"}}}
	second.tryStep(t.Context())
	var r Report
	for _, f := range slices.Concat(first.findings, second.findings) {
		r.addFinding(f)
	}
	if got, want := notWell(r), []string{
		"failed vault", "failed vault_identity",
		"not_tried graph_token",
	}; !slices.Equal(got, want) || strings.Contains(fmt.Sprint(r), "canary") {
		t.Errorf("found %q, want %q: %v", got, want, r)
	}
}

// inExample is the deployment whose report docs/operations.md shows.
func inExample(c *azuresim.Cloud) func(string) string {
	expiring(9*24*time.Hour + time.Hour)(c)
	c.SetGraphRoles("Directory.Read.All")
	return healthy(c, "WEBHOOK_SECRET_NAMES", "webhook-servicenow,webhook-b", "SWEEP_GROUP_TAG", "MTR-Oslo")
}

// The page shows a real report, and has every word and member that a program may look at.
func TestDoctorPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(text), "\n## Doctor\n")
	page, _, _ = strings.Cut(page, "\n## ")
	synctest.Test(t, func(t *testing.T) {
		c := simulated.NewCloud()
		r, printed := diagnosed(t, c, inExample(c))
		printed = regexp.MustCompile(`version [0-9a-f]{8}`).ReplaceAllString(printed, "version 5f0c9a1e")
		printed = strings.NewReplacer(c.ClientID, simulated.ClientID, "simulated-vault", "contoso").Replace(printed)
		if !strings.Contains(page, "\n```\n"+printed+"```\n") {
			t.Errorf("the page does not show this report:\n%s", printed)
		}
		words := []string{
			"settings", "vault", "assertion", "vault_identity", "secret", "certificate", "webhook_key",
			"api_key", "graph_token", "graph_role",
			"graph_other_roles", "graph_devices", "clock", "callers", "policy", "sweep", "signing_keys",
		}
		for _, m := range []Mark{OK, Warning, Failed, NotTried} {
			words = append(words, string(m))
		}
		contract, err := openapi3.NewLoader().LoadFromFile("../../handler/openapi.yaml")
		if err != nil {
			t.Fatal(err)
		}
		var listed []string
		for _, name := range []string{"check", "mark"} {
			for _, word := range contract.Components.Schemas["Finding"].Value.Properties[name].Value.Enum {
				listed = append(listed, fmt.Sprint(word))
			}
		}
		if !slices.Equal(listed, words) {
			t.Errorf("openapi.yaml lists %v, want %v", listed, words)
		}
		r.Findings[0].Error, r.Findings[0].Subject, r.Findings[0].Fix = &upstream.Error{Status: 1, Code: "x", RequestID: "x"}, "x",
			[]string{"x"}
		encoded, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(string(encoded), -1) {
			words = append(words, m[1])
		}
		for _, word := range words {
			if !strings.Contains(page, "`"+word+"`") {
				t.Errorf("the page says nothing of `%s`", word)
			}
		}
	})
}

// failing lets a step of the cloud fail.
func failing(step azuresim.Step, f azuresim.Fault) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) { c.Fail(step, -1, f) }
}

// A transient failure is retried once. A permanent one is not.
func TestDoctorRetries(t *testing.T) {
	for name, test := range map[string]struct {
		step     azuresim.Step
		times    int // attempts of all probes that meet the fault
		fault    azuresim.Fault
		requests int // 0: as many as a healthy deployment causes, and the faults
		failed   bool
	}{
		"the vault":           {azuresim.StepChallenge, 3, azuresim.Status(503), 0, false},
		"the identity":        {azuresim.StepIdentity, 3, azuresim.Status(500), 0, false},
		"secrets":             {azuresim.StepSecret, 9, azuresim.Status(503), 0, false},
		"Entra ID":            {azuresim.StepToken, 3, azuresim.Status(503), 0, false},
		"a refusal":           {azuresim.StepToken, 1, azuresim.Status(401), 1, true},
		"a long throttling":   {azuresim.StepSecret, 9, azuresim.Status(429, "Retry-After", "60"), 0, true},
		"a vault that is not": {azuresim.StepChallenge, -1, azuresim.Refused(), 6, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := simulated.NewCloud()
				c.Fail(test.step, test.times, test.fault)
				var out bytes.Buffer
				err := Command(t.Context(), nil, healthy(c), c, simulated.Version, &out, &out)
				if (err != nil) != test.failed {
					t.Errorf("%v\n%s", err, out.String())
				}
				if n := c.Count(test.step); test.requests > 0 && n != test.requests {
					t.Errorf("%d requests, want %d", n, test.requests)
				}
			})
		})
	}
}

// The policy shows a dry run of everything and the limits of single callers, and no id of Entra ID.
func TestDoctorShowsPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := simulated.NewCloud()
		app := "app:" + simulated.ClientID
		_, printed := diagnosed(t, c, healthy(c, "DRY_RUN", "true", "ENTRA_AUDIENCE", simulated.ClientID,
			"SWEEP_GROUP_TAG", "MTR-Oslo",
			"SWEEP_APPLY", "true", "CALLER_POLICY",
			`{"api-key-flow":{"groupTags":["MTR-*"],"requireExpected":true,"devicesPerHour":50},"`+app+`":{}}`))
		for _, want := range []string{
			"warning    list the limits of callers: DRY_RUN is true: requests and events change nothing; ",
			`; api-key-flow: the group tags "MTR-*", expected is required, at most 50 devices an hour; a caller with a token of Entra ID: no limit of its own`,
			"> set DRY_RUN=false once the reports are as expected", "describe the sweep: a dry run on the devices with the " +
				"group tag MTR-Oslo",
		} {
			if !strings.Contains(printed, want) {
				t.Errorf("%q is not in\n%s", want, printed)
			}
		}
	})
}

// A finding names the part of the network that stops a request, and a fix for it.
func TestBarriers(t *testing.T) {
	t.Parallel()
	for barrier, want := range map[upstream.Barrier][2]string{
		upstream.Proxy:      {"the proxy on the way to Key Vault refuses the request (407)", "HTTPS_PROXY and NO_PROXY"},
		upstream.TLS:        {"the TLS handshake with Key Vault fails before a request is sent (407)", "without inspection"},
		upstream.DNS:        {"the host name of Key Vault has no address in the DNS", "nslookup"},
		upstream.Connection: {"Key Vault refuses the connection", "the firewall and the proxy (HTTPS_PROXY)"},
	} {
		f := Finding{Check: "vault"}
		new(diagnosis).failWith(&f, &upstream.Error{
			Service: upstream.Vault, Reason: upstream.Unreachable, Barrier: barrier, Cause: "407",
		})
		if f.Found != want[0] || !strings.Contains(strings.Join(f.Fix, "\n"), want[1]) {
			t.Errorf("%s: %q, %q; want %q", barrier, f.Found, f.Fix, want)
		}
	}
}

// An app that reads the vault with a client secret needs the role for it.
func TestDoctorWithAClientSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := simulated.NewCloud()
		r, printed := diagnosed(t, c, healthy(c, "VAULT_CREDENTIAL", "client-secret", "AZURE_TENANT_ID", c.TenantID,
			"AZURE_CLIENT_ID", c.ClientID, "AZURE_CLIENT_SECRET", simulated.AppSecret))
		sickness{
			want: refused, says: "may not read the secrets of the vault (403 ForbiddenByRbac", fix: "Key Vault Secrets User",
		}.isFound(t, r, printed)
	})
}

// The doctor examines the settings for the host that the environment shows, and refuses other arguments.
func TestCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := simulated.NewCloud()
		var out bytes.Buffer
		err := Command(t.Context(), nil, healthy(c, "FUNCTIONS_CUSTOMHANDLER_PORT", "1"), c, simulated.Version, &out, &out)
		if err != nil || !strings.Contains(out.String(), "for the host azure: complete") {
			t.Errorf("%v\n%s", err, out.String())
		}
		for _, argument := range []string{"now", "-x"} {
			err := Command(t.Context(), []string{argument}, healthy(c), c, simulated.Version, &out, &out)
			if _, ok := errors.AsType[text.UsageError](err); !ok {
				t.Errorf("%s: %v", argument, err)
			}
		}
	})
}

// With -json the output is JSON whatever fails before the examination.
func TestDoctorPrintsJSONAlways(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ settings, want string }{
		"nothing set":         {"", "no setting of a deployment is in the environment"},
		"two hosts":           {"FUNCTIONS_CUSTOMHANDLER_PORT=1 AWS_LAMBDA_RUNTIME_API=x", "are both set"},
		"a setting is absent": {"KEY_VAULT_URL=https://contoso.vault.azure.net", "GRAPH_TENANT_ID is not set"},
	} {
		getenv := func(name string) string {
			for setting := range strings.FieldsSeq(test.settings) {
				if value, ok := strings.CutPrefix(setting, name+"="); ok {
					return value
				}
			}
			return ""
		}
		var stdout, stderr bytes.Buffer
		err := Command(t.Context(), []string{"-json"}, getenv, simulated.NewCloud(), simulated.Version, &stdout, &stderr)
		var r Report
		if jsonErr := json.Unmarshal(stdout.Bytes(), &r); jsonErr != nil || err == nil || r.OK || r.Failed == 0 {
			t.Errorf("%s: %v, %v\n%s", name, err, jsonErr, stdout.String())
		}
		if !strings.Contains(stdout.String(), test.want) {
			t.Errorf("%s: %q is not in\n%s", name, test.want, stdout.String())
		}
	}
}

var update = flag.Bool("update", false, "write the fixes into docs/errors.md")

// fixesBlock is the end of an entry of docs/errors.md.
var fixesBlock = regexp.MustCompile("(?s)\nThe doctor's findings, each with its fix:\n\n```\n.*?```\n")

// docs/errors.md has the fixes of every code that the doctor explains, from fixes.txt. Every permanent failure of a
// service is explained, and every entry that a step names is there.
func TestErrorsPageHasTheFixes(t *testing.T) {
	t.Parallel()
	const path = "../../docs/errors.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, reason := range []upstream.Reason{
		upstream.Forbidden, upstream.TenantNotEnabled, upstream.CredentialRejected, upstream.CredentialExpired,
		upstream.AppNotFound, upstream.TenantNotFound, upstream.ScopeInvalid, upstream.NotFound, upstream.SecretDisabled,
		upstream.SecretInvalid, upstream.VersionUnsupported, upstream.Untrusted, upstream.Unreachable,
	} {
		for _, service := range []upstream.Service{upstream.Graph, upstream.Identity, upstream.Vault} {
			code := string(handler.CodeOf(&upstream.Error{Service: service, Reason: reason}))
			if code != "internal_error" && code != "device_not_found" && remedies()[code] == nil {
				t.Errorf("fixes.txt explains no %s", code)
			}
		}
	}
	x := explainer{fill: strings.NewReplacer("{service}", "SERVICE", "{where}", "the settings with its address",
		"{subject}", "NAME", "{cause}", "REASON", "{reason}", "REASON", "{audience}", simulated.Exchange,
		"{renew}", "create it anew, with the commands that the doctor prints")}
	for entry, list := range remedies() {
		var block strings.Builder
		for _, r := range list {
			fmt.Fprintln(&block, x.fill.Replace(r.found))
			for _, step := range r.steps {
				steps := []string{x.fill.Replace(step)}
				if name, ok := strings.CutPrefix(step, "{"); ok && step != "{renew}" {
					name = strings.TrimSuffix(name, "}")
					if remedies()[name] == nil {
						t.Errorf("fixes.txt has no entry %s", name)
					}
					x.facts = slices.Concat(r.when, []string{"identity"})
					steps = x.listSteps(name)
				}
				for _, step := range steps {
					fmt.Fprintln(&block, "> "+step)
				}
			}
		}
		heading := "\n## " + entry + "\n"
		before, rest, ok := strings.Cut(page, heading)
		if !ok {
			continue
		}
		section, after, _ := strings.Cut(rest, "\n## ")
		want := "\nThe doctor's findings, each with its fix:\n\n```\n" + block.String() + "```\n"
		if !strings.HasSuffix(section, want) && !*update {
			t.Errorf("the entry %s of docs/errors.md does not end with%s", entry, want)
		}
		page = before + heading + fixesBlock.ReplaceAllString(section, "") + want + "\n## " + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
