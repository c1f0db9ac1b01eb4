using '../main.bicep'

param repository = 'https://github.com/contoso/autopilot-unassign'
param packageUri = 'https://contoso.example/azure.zip'
param graphTenantId = '44444444-4444-4444-8444-444444444444'
param graphClientId = '33333333-3333-4333-8333-333333333333'
param graphCredential = 'vault'
param graphSecretName = 'graph-client-secret'
param entraAudience = 'api://33333333-3333-4333-8333-333333333333'
