using '../main.bicep'

param repository = 'https://github.com/contoso/autopilot-unassign'
param keyVaultName = 'kv-unassign'
param vaultRecover = 'true'
param vaultPurgeProtection = 'false'
param webhookSecretNames = 'webhook-a'
