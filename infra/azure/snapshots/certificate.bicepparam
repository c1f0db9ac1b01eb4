using '../main.bicep'

param repository = 'https://github.com/contoso/autopilot-unassign'
param graphClientId = '33333333-3333-4333-8333-333333333333'
param graphCredential = 'vault'
param graphCertificateName = 'graph-certificate'
param webhookSecretNames = 'webhook-a'
param alertEmail = 'endpoint-team@contoso.com'
