using '../main.bicep'

param repository = 'https://github.com/contoso/autopilot-unassign'
param packageUri = 'none'
param graphClientId = '33333333-3333-4333-8333-333333333333'
param apiKeySecretNames = 'api-key-flow'
param operatorCallers = 'api-key-flow'
param callerPolicy = '{\'api-key-flow\': {\'groupTags\': [\'MTR-*\'], \'devicesPerHour\': 100}}'
