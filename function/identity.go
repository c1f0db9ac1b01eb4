package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/vault"
)

// The values of VAULT_CREDENTIAL.
const (
	managedIdentity = "managed-identity"
	awsFederation   = "aws-federation"
	clientSecret    = "client-secret"
	azureCLI        = "azure-cli"
)

// awsRole is the role of a Lambda function: its credentials are in the environment, and say nothing to Azure. AWS STS gives it
// a token that does.
type awsRole struct {
	region                 string
	endpoint               string // of STS; "" for the region's own
	keyID, secret, session string
}

// identities reads who this process is to Azure, and what it signs in to Graph with.
func (s *settings) identities(c *config, cloud, host string) {
	c.vaultURL = s.getenv("KEY_VAULT_URL")
	c.graphDirect = s.oneOf("GRAPH_CREDENTIAL", "vault", "vault", "identity") == "identity"
	if c.vaultURL != "" || !c.graphDirect || len(c.webhookSecretNames)+len(c.apiKeySecretNames) > 0 {
		c.vaultURL = s.https("KEY_VAULT_URL", c.vaultURL)
	}
	if c.vaultURL != "" && !strings.HasSuffix(c.vaultURL, c.cloud.vaultSuffix) {
		s.wrong("KEY_VAULT_URL must end in %s in AZURE_CLOUD=%s", c.cloud.vaultSuffix, cloud)
	}
	standard := managedIdentity
	if host == hostLambda { // which has none
		standard = awsFederation
	}
	c.vaultCredential = s.oneOf("VAULT_CREDENTIAL", standard, managedIdentity, awsFederation, clientSecret, azureCLI)
	c.azureClientID = s.getenv("AZURE_CLIENT_ID")
	switch c.vaultCredential {
	case managedIdentity:
		if c.azureClientID != "" {
			s.guid("AZURE_CLIENT_ID")
		}
	case awsFederation:
		s.lambdaRole(c)
	case clientSecret:
		c.azureTenantID = s.guid("AZURE_TENANT_ID")
		c.azureClientID = s.guid("AZURE_CLIENT_ID")
		if c.azureSecret = s.getenv("AZURE_CLIENT_SECRET"); c.azureSecret == "" {
			s.wrong("AZURE_CLIENT_SECRET is not set, which VAULT_CREDENTIAL=client-secret needs")
		}
	}
	s.graphApp(c)
}

// lambdaRole reads the settings of aws-federation.
func (s *settings) lambdaRole(c *config) {
	if !withAWS {
		s.wrong("VAULT_CREDENTIAL=aws-federation is not in this package, which is for Azure")
	}
	c.role = awsRole{
		region: s.getenv("AWS_REGION"), endpoint: s.getenv("AWS_ENDPOINT_URL_STS"),
		keyID: s.getenv("AWS_ACCESS_KEY_ID"), secret: s.getenv("AWS_SECRET_ACCESS_KEY"), session: s.getenv("AWS_SESSION_TOKEN"),
	}
	if c.role.region == "" || c.role.keyID == "" || c.role.secret == "" {
		s.wrong("AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set, which VAULT_CREDENTIAL=aws-federation needs and Lambda sets")
	}
	switch {
	case c.role.endpoint != "" && !c.cloud.custom:
		s.wrong("AWS_ENDPOINT_URL_STS is only for AZURE_CLOUD=custom")
	case c.role.endpoint != "":
		c.role.endpoint = s.https("AWS_ENDPOINT_URL_STS", c.role.endpoint)
	}
	if c.vaultURL != "" {
		c.azureTenantID = s.guid("AZURE_TENANT_ID")
		c.azureClientID = s.guid("AZURE_CLIENT_ID")
	}
}

// graphApp reads which app may call Graph, and what it signs in with.
func (s *settings) graphApp(c *config) {
	c.tenantID = s.guid("GRAPH_TENANT_ID")
	c.secretName, c.certificateName = s.secretName("GRAPH_SECRET_NAME"), s.secretName("GRAPH_CERTIFICATE_NAME")
	if !c.graphDirect || c.vaultCredential == awsFederation || s.getenv("GRAPH_CLIENT_ID") != "" {
		c.clientID = s.guid("GRAPH_CLIENT_ID")
	}
	switch {
	case c.graphDirect && c.vaultCredential != managedIdentity && c.vaultCredential != awsFederation:
		s.wrong("GRAPH_CREDENTIAL=identity is only for VAULT_CREDENTIAL=managed-identity and aws-federation")
	case c.graphDirect && (c.secretName != "" || c.certificateName != ""):
		s.wrong("GRAPH_CREDENTIAL=identity needs no secret, so GRAPH_SECRET_NAME and GRAPH_CERTIFICATE_NAME must not be set beside it")
	case c.graphDirect:
	case c.secretName == "" && c.certificateName == "":
		s.wrong("GRAPH_SECRET_NAME or GRAPH_CERTIFICATE_NAME is not set")
	case c.secretName != "" && c.certificateName != "":
		s.wrong("GRAPH_SECRET_NAME and GRAPH_CERTIFICATE_NAME are both set: set one")
	}
}

// vaultIdentity returns what this process signs in to the vault with.
func vaultIdentity(c config, transport policy.Transporter, o vault.Options) (azcore.TokenCredential, error) {
	switch c.vaultCredential {
	case managedIdentity:
		return vault.ManagedIdentity(c.azureClientID, o)
	case awsFederation: // without a vault nobody asks it for anything
		return vault.Federated(cmp.Or(c.azureTenantID, c.tenantID), cmp.Or(c.azureClientID, c.clientID), roleAssertion(c.role, transport, c.cloud.exchange), o)
	case clientSecret:
		return vault.ClientSecret(c.azureTenantID, c.azureClientID, c.azureSecret, o)
	case azureCLI:
		return vault.AzureCLI(o)
	}
	return nil, fmt.Errorf("no vault credential %q", c.vaultCredential)
}

// graphCredential returns what the app signs in to Graph with: its secret or certificate in the vault, or no secret at all.
// Then it trusts the role, or the managed identity by a federated credential, or is the managed identity.
func graphCredential(c config, store *vault.Vault, identity azcore.TokenCredential, transport policy.Transporter, o vault.Options) (azcore.TokenCredential, error) {
	switch {
	case c.graphDirect && c.vaultCredential == awsFederation:
		return vault.Direct(func() (azcore.TokenCredential, error) {
			return vault.Federated(c.tenantID, c.clientID, roleAssertion(c.role, transport, c.cloud.exchange), o)
		}, o)
	case c.graphDirect && c.clientID != "":
		return vault.Direct(func() (azcore.TokenCredential, error) {
			return vault.Federated(c.tenantID, c.clientID, vault.Asserted(identity, c.cloud.exchange), o)
		}, o)
	case c.graphDirect:
		return vault.Direct(func() (azcore.TokenCredential, error) { return vault.ManagedIdentity(c.azureClientID, o) }, o)
	case c.certificateName != "":
		return store.AppCertificate(c.tenantID, c.clientID, c.certificateName), nil
	}
	return store.AppSecret(c.tenantID, c.clientID, c.secretName), nil
}
