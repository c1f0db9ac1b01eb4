package main

import (
	"cmp"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/vault"
)

// vaultIdentity returns what this process signs in to the vault with.
func vaultIdentity(c config.Config, transport policy.Transporter, o vault.Options) (azcore.TokenCredential, error) {
	switch c.VaultCredential {
	case config.ManagedIdentity:
		return vault.ManagedIdentity(c.AzureClientID, o)
	case config.AWSFederation: // without a vault nobody asks it for anything
		return vault.Federated(cmp.Or(c.AzureTenantID, c.TenantID), cmp.Or(c.AzureClientID, c.ClientID), roleAssertion(c.Role, transport, c.Cloud.Exchange), o)
	case config.ClientSecret:
		return vault.ClientSecret(c.AzureTenantID, c.AzureClientID, c.AzureSecret, o)
	case config.AzureCLI:
		return vault.AzureCLI(o)
	}
	return nil, fmt.Errorf("no vault credential %q", c.VaultCredential)
}

// graphCredential returns what the app signs in to Graph with: its secret or certificate in the vault, or no secret at all.
// Then it trusts the role, or the managed identity by a federated credential, or is the managed identity.
func graphCredential(c config.Config, store *vault.Vault, identity azcore.TokenCredential, transport policy.Transporter, o vault.Options) (azcore.TokenCredential, error) {
	switch {
	case c.GraphDirect && c.VaultCredential == config.AWSFederation:
		return vault.Direct(func() (azcore.TokenCredential, error) {
			return vault.Federated(c.TenantID, c.ClientID, roleAssertion(c.Role, transport, c.Cloud.Exchange), o)
		}, o)
	case c.GraphDirect && c.ClientID != "":
		return vault.Direct(func() (azcore.TokenCredential, error) {
			return vault.Federated(c.TenantID, c.ClientID, vault.Asserted(identity, c.Cloud.Exchange), o)
		}, o)
	case c.GraphDirect:
		return vault.Direct(func() (azcore.TokenCredential, error) { return vault.ManagedIdentity(c.AzureClientID, o) }, o)
	case c.CertificateName != "":
		return store.AppCertificate(c.TenantID, c.ClientID, c.CertificateName), nil
	}
	return store.AppSecret(c.TenantID, c.ClientID, c.SecretName), nil
}
