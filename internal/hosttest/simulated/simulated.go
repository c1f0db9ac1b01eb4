// Package simulated holds a deployment on the simulated cloud, for tests in this process: its secrets, its settings,
// the function itself, and the search for leaks.
package simulated

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
)

// The canaries: secrets that no log and no response may contain.
const (
	AppSecret  = "canary-app-secret-6a5b"
	APIKey     = "canary-api-key-0123456789abcdef"
	SigningKey = "canary-signing-key-0123456789ab"

	devicePassword = "canary-device-password"
)

// DeviceID is the id of the device in a new cloud.
const DeviceID = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"

// Ids that no simulated cloud has.
const (
	TenantID = "11111111-2222-4333-8444-555555555555"
	ClientID = "66666666-7777-4888-8999-aaaaaaaaaaaa"
)

// Version is the version of the function in tests.
const Version = "dev"

// NewCloud returns a cloud with one device, and every secret of the deployment in its vault.
func NewCloud() *azuresim.Cloud {
	c := azuresim.New()
	c.SetAppSecrets(AppSecret)
	c.PutSecret("graph-client-secret", azuresim.Secret{Value: AppSecret})
	c.PutSecret("webhook-servicenow", azuresim.Secret{Value: EncodeKey([]byte(SigningKey))})
	c.PutSecret("api-key-flow", azuresim.Secret{Value: APIKey})
	c.PutDevice(azuresim.Device{
		ID: DeviceID, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo", UserPrincipalName: "room.fjord@contoso.com",
		AddressableUserName: "Fjord Room", ResourceName: "room.fjord", DeviceAccountPassword: devicePassword,
	})
	return c
}

// EncodeKey returns a signing key in the form of Key Vault: whsec_ and base64.
func EncodeKey(key []byte) string { return "whsec_" + base64.StdEncoding.EncodeToString(key) }

// Minimal returns the least settings of a deployment, changed by pairs of a name and a value. They have no rate limit.
func Minimal(changes ...string) func(string) string {
	values := map[string]string{
		"KEY_VAULT_URL":        "https://contoso.vault.azure.net",
		"GRAPH_TENANT_ID":      TenantID,
		"GRAPH_CLIENT_ID":      ClientID,
		"GRAPH_SECRET_NAME":    "graph-client-secret",
		"WEBHOOK_SECRET_NAMES": "webhook-servicenow",
		"RATE_LIMIT":           "0",
	}
	for i := 0; i < len(changes); i += 2 {
		values[changes[i]] = changes[i+1]
	}
	return func(name string) string { return values[name] }
}

// Settings returns the settings of a deployment on c, changed by pairs of a name and a value.
func Settings(c *azuresim.Cloud, changes ...string) func(string) string {
	return Minimal(append([]string{
		"KEY_VAULT_URL", c.VaultURL, "AZURE_CLIENT_ID", c.IdentityClientID, "GRAPH_TENANT_ID", c.TenantID,
		"GRAPH_CLIENT_ID", c.ClientID,
	}, changes...)...)
}

// Load returns the Config of settings on the local host.
func Load(tb testing.TB, getenv func(string) string) config.Config {
	tb.Helper()
	c, err := config.Load(getenv, config.Local)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// NewApp returns the function for c, which logs to log, with transport as its boundary to the cloud. It has no doctor.
func NewApp(tb testing.TB, c config.Config, transport policy.Transporter, log io.Writer) *app.App {
	tb.Helper()
	a, err := app.New(c, transport, nil, app.NewLog(log, c.LogLevel), Version)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// Canaries returns the texts that no log and no response may contain. served is nil if c is not served.
func Canaries(c *azuresim.Cloud, served *azuresim.Served) []string {
	list := []string{
		AppSecret, SigningKey, EncodeKey([]byte(SigningKey)), APIKey, devicePassword, c.TenantID, "eyJ", "fef.msub01",
		"manage.microsoft.com",
		"AADSTS7000215:", "Trace ID", "contains(serialNumber", "$filter", "simulated-vault",
		"simulated-identity-header",
	}
	if served != nil {
		for _, address := range []string{
			served.VaultURL, served.AuthorityHost, served.GraphEndpoint,
			served.IdentityEndpoint,
		} {
			list = append(list, strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://"))
		}
	}
	return list
}

// Leaks returns the canaries that any of the texts contains.
func Leaks(canaries []string, texts ...string) []string {
	var found []string
	for _, canary := range canaries {
		for _, text := range texts {
			if strings.Contains(text, canary) {
				found = append(found, canary)
			}
		}
	}
	return found
}

// NewCertificate returns a self-signed certificate with its key, valid at the start of a synctest bubble and today.
func NewCertificate() (*rsa.PrivateKey, *x509.Certificate) {
	return NewCertificateUntil(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC))
}

// NewCertificateUntil is NewCertificate for a certificate that expires at end.
func NewCertificateUntil(end time.Time) (*rsa.PrivateKey, *x509.Certificate) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "canary"},
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: end,
	}
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

// The role of a Lambda function, and the audience of federated tokens in the public cloud.
const (
	RoleARN  = "arn:aws:iam::111122223333:role/autopilot-unassign"
	Exchange = "api://AzureADTokenExchange"
)

// Trusting returns the trust of an app in a role.
func Trusting(role azuresim.Role) azuresim.Trust {
	return azuresim.Trust{Issuer: role.Issuer, Subject: role.ARN, Audience: Exchange}
}

// TrustingIdentity returns the trust of an app in the managed identity of c.
func TrustingIdentity(c *azuresim.Cloud) azuresim.Trust {
	return azuresim.Trust{Issuer: c.Issuer(), Subject: c.IdentityObjectID, Audience: Exchange}
}

// TrustAll lets both apps of c trust role, and the app that may call Graph trust the managed identity too. The identity
// may call Graph itself.
func TrustAll(c *azuresim.Cloud, role azuresim.Role) {
	c.SetTrust(c.IdentityClientID, Trusting(role))
	c.SetTrust(c.ClientID, Trusting(role), TrustingIdentity(c))
	c.SetIdentityRoles(azuresim.GraphRole)
}

// InPEM returns a certificate and a key in the form of Key Vault. Either may be nil.
func InPEM(key any, cert *x509.Certificate) string {
	var text []byte
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			panic(err)
		}
		text = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	if cert != nil {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return string(text)
}
