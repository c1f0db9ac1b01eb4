package app

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/vault"
)

// newIdentity returns the credential that reads the vault. role is the assertion of the Lambda function's role.
func newIdentity(c config.Config, role entra.Assertion, o azsdk.Options) (azcore.TokenCredential, error) {
	switch c.VaultCredential {
	case config.ManagedIdentity:
		return entra.ManagedIdentity(c.AzureClientID, o)
	case config.AWSFederation: // unused without a vault
		return entra.Federated(cmp.Or(c.AzureTenantID, c.TenantID), cmp.Or(c.AzureClientID, c.ClientID), role, o)
	case config.ClientSecret:
		return entra.ClientSecret(c.AzureTenantID, c.AzureClientID, c.AzureSecret, o)
	case config.AzureCLI:
		return entra.AzureCLI(o)
	}
	return nil, fmt.Errorf("no vault credential %q", c.VaultCredential)
}

// newGraphCredential returns the credential of the app that may call Graph: a secret or certificate in the vault, or
// no secret at all. Then the app trusts the function's role or managed identity, or that identity calls Graph itself.
func newGraphCredential(
	c config.Config, store *vault.Vault, identity azcore.TokenCredential, role entra.Assertion, o azsdk.Options,
) (azcore.TokenCredential, error) {
	switch {
	case c.GraphDirect:
		return entra.Direct(func() (azcore.TokenCredential, error) {
			switch {
			case c.VaultCredential == config.AWSFederation:
				return entra.Federated(c.TenantID, c.ClientID, role, o)
			case c.ClientID != "":
				return entra.Federated(c.TenantID, c.ClientID, entra.Asserted(identity, c.Cloud.Exchange), o)
			}
			return entra.ManagedIdentity(c.AzureClientID, o)
		}, o)
	case c.CertificateName != "":
		return entra.AppCertificate(c.TenantID, c.ClientID, c.CertificateName, store, o), nil
	}
	return entra.AppSecret(c.TenantID, c.ClientID, c.SecretName, store, o), nil
}

// entraTenants returns the tenants of the endpoints that the credentials of c need.
func entraTenants(c config.Config) []string {
	var tenants []string
	if !c.GraphDirect || c.ClientID != "" {
		tenants = append(tenants, c.TenantID)
	}
	if c.VaultURL != "" && (c.VaultCredential == config.AWSFederation || c.VaultCredential == config.ClientSecret) {
		tenants = append(tenants, cmp.Or(c.AzureTenantID, c.TenantID))
	}
	return slices.Compact(tenants)
}
