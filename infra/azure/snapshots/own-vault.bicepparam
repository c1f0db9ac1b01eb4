using '../main.bicep'

param repository = 'https://github.com/contoso/autopilot-unassign'
param existingKeyVaultId = '/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/rg-vaults/providers/Microsoft.KeyVault/vaults/kv-contoso'
param grantDeployer = 'false'
param webhookSecretNames = 'webhook-a'
