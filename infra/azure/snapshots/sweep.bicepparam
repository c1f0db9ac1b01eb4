using '../main.bicep'

param repository = 'https://github.com/contoso/autopilot-unassign'
param webhookSecretNames = 'webhook-a'
param allowedGroupTags = 'MTR-*,Retired'
param sweepGroupTag = 'Retired'
param sweepApply = 'true'
