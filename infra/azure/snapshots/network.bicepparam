using '../main.bicep'

param repository = 'https://github.com/contoso/autopilot-unassign'
param webhookSecretNames = 'webhook-a'
param enableQueue = 'true'
param privateNetwork = 'true'
param allowedAddresses = '203.0.113.0/24, 2001:db8::/32'
param frontDoorId = '55555555-5555-4555-8555-555555555555'
param actionGroupId = '/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/rg-alerts/providers/Microsoft.Insights/actionGroups/on-call'
