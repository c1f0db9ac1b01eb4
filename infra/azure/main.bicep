// Autopilot Unassign on Azure Functions, in one resource group. Build and deploy:
//
//   azd up
//
// or, without azd: az deployment group create --resource-group $GROUP --template-file infra/azure/main.bicep --parameters …
// and then make package-azure. docs/azure.md goes through it. No secret is a parameter, and none is an output: the credential
// of the app and the keys of the callers are put into the vault by hand.
targetScope = 'resourceGroup'

@description('What this deployment is called. azd finds its resources again by it.')
@minLength(1)
@maxLength(64)
param environmentName string = 'unassign'

@description('Where all of it is.')
param location string = resourceGroup().location

@description('The functions of the package beside unassign, doctor and health, as make package-azure takes them in WITH.')
@allowed(['', 'sweep', 'queue', 'sweep queue'])
param optionalFunctions string = ''

@description('The name of the vault that is made, which is unique in all of Azure. Empty means one that is made up.')
@maxLength(24)
param keyVaultName string = ''

@description('The cloud of the tenant and the vault.')
@allowed(['public', 'usgov', 'usgov-dod', 'china'])
param azureCloud string = 'public'

@description('The tenant whose devices are meant.')
@minLength(36)
@maxLength(36)
param graphTenantId string

@description('The app that may call Graph.')
@minLength(36)
@maxLength(36)
param graphClientId string

@description('What the app that may call Graph signs in with: its secret or certificate in the vault, or the managed identity, which it then trusts (identity).')
@allowed(['vault', 'identity'])
param graphCredential string = 'vault'

@description('The secret in the vault with that app\'s client secret. Leave it empty when there is a certificate.')
@maxLength(127)
param graphSecretName string = ''

@description('The certificate in the vault that that app signs in with. Leave it empty when there is a secret.')
@maxLength(127)
param graphCertificateName string = ''

@description('Secrets in the vault with signing keys of callers, with commas between their names.')
@maxLength(2048)
param webhookSecretNames string = ''

@description('Secrets in the vault with API keys of callers, with commas between their names.')
@maxLength(2048)
param apiKeySecretNames string = ''

@description('What names this function in Entra tokens of callers (App ID URI, client id or both), with commas between them.')
@maxLength(1024)
param entraAudience string = ''

@description('The tenants whose tokens are accepted, with commas between them. Empty means that of graphTenantId.')
@maxLength(1024)
param entraTenantId string = ''

@description('The app role that callers with a token must have. Empty means Device.Unassign.')
@maxLength(120)
param entraRole string = ''

@description('The scope that a token which acts for a user must have too. Empty means user_impersonation.')
@maxLength(120)
param entraScope string = ''

@description('The group tags of the devices that may be acted on, with commas between them; one may end in *. Empty means all devices.')
@maxLength(4096)
param allowedGroupTags string = ''

@description('For how many devices a caller may ask in a minute, on each instance. Empty means any number.')
@maxLength(5)
param rateLimit string = ''

@description('Who may ask for the report of the doctor (GET /api/doctor), by the names of the audit record, with commas between them. Empty means nobody.')
@maxLength(4096)
param operatorCallers string = ''

@description('The group tag whose devices the sweep cleans. Empty means no sweep.')
@maxLength(512)
param sweepGroupTag string = ''

@description('When the sweep runs, in the six fields of NCRONTAB, in UTC.')
@minLength(11)
@maxLength(128)
param sweepSchedule string = '0 0 2 * * *'

@description('A sweep that finds more devices to clean does nothing.')
@minValue(1)
@maxValue(10000)
param sweepMaxDevices int = 10

@description('A sweep that finds fewer devices in Intune in all does nothing.')
@minValue(1)
@maxValue(1000000)
param sweepMinInventory int = 1

@description('Whether sweeps act. Until then they are dry runs.')
@allowed(['true', 'false'])
param sweepApply string = 'false'

@description('How far the time of a signature may be off, from 60s to 15m.')
@minLength(2)
@maxLength(8)
param signatureTolerance string = '300s'

@description('The time for one request, from 1s to 200s.')
@minLength(2)
@maxLength(8)
param requestTimeout string = '25s'

@description('The least level of what is logged. The audit record of a success is info.')
@allowed(['info', 'warn', 'error'])
param logLevel string = 'info'

@description('For how many days the logs, and so the audit record, are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 90

@description('The memory of an instance, in MB. The function itself needs little of it; the host needs the rest.')
@allowed([512, 2048, 4096])
param instanceMemoryMB int = 512

@description('How many instances there may be at the most.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Whom alerts are mailed to. Empty means nobody.')
@maxLength(254)
param alertEmail string = ''

@description('The resource id of an action group that alerts are sent to, beside alertEmail. Without either they are raised and sent to nobody.')
@maxLength(1024)
param actionGroupId string = ''

// What does not go together. Every name is made of this, so that nothing is deployed of it.
var someCaller = !empty(webhookSecretNames) || !empty(apiKeySecretNames) || !empty(entraAudience)
var someAudience = !empty(entraAudience) || (empty(entraTenantId) && empty(entraRole) && empty(entraScope))
var oneCredential = graphCredential == 'identity' ? empty(graphSecretName) && empty(graphCertificateName) : empty(graphSecretName) != empty(graphCertificateName)
var suffix = uniqueString(resourceGroup().id, environmentName)
var checkedCredential = oneCredential ? suffix : fail('Set either graphSecretName or graphCertificateName, or neither when graphCredential is identity.')
var checkedCaller = someCaller ? checkedCredential : fail('Set webhookSecretNames, apiKeySecretNames or entraAudience, or nobody could call.')
var checkedAudience = someAudience ? checkedCaller : fail('entraTenantId, entraRole and entraScope are of no use without entraAudience.')
var checkedSweep = empty(sweepGroupTag) || hasSweep ? checkedAudience : fail('sweepGroupTag is set and the function sweep is not packed: put it into optionalFunctions.')
var token = sweepApply == 'false' || !empty(sweepGroupTag) ? checkedSweep : fail('sweepApply is true and sweepGroupTag is not set: no device is meant.')

var hasSweep = contains(optionalFunctions, 'sweep')
var hasQueue = contains(optionalFunctions, 'queue')
var queueNames = ['unassign', 'unassign-poison'] // as infra/azure/queue has them
var tags = { 'azd-env-name': environmentName }

// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
var roles = {
  keyVaultSecretsUser: '4633458b-17de-408a-b874-0445c86b69e6'
  monitoringMetricsPublisher: '3913510d-42f4-4e42-8a64-420c390055eb'
  storageBlobDataOwner: 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  storageQueueDataContributor: '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-unassign-${token}'
  location: location
  tags: tags
}

// The logs, and so the audit record.
resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: 'log-unassign-${token}'
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: logRetentionDays
    features: {
      disableLocalAuth: true
      enableLogAccessUsingOnlyResourcePermissions: true
    }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-unassign-${token}'
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
    IngestionMode: 'LogAnalytics'
    DisableLocalAuth: true
  }
}

resource metricsPublisher 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, identity.id, roles.monitoringMetricsPublisher)
  scope: insights
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.monitoringMetricsPublisher)
  }
}

// What the host keeps: the package, leases, the time of the last sweep, messages. Nobody gets in by a key.
resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  // checkov:skip=CKV_AZURE_35:the plan has no fixed addresses without a virtual network (docs/azure.md, Private networking); Entra ID alone lets in
  // checkov:skip=CKV_AZURE_59:likewise
  // checkov:skip=CKV_AZURE_206:it is replicated within the region; what it holds for longer than a message takes is made again by a deployment
  // checkov:skip=CKV_AZURE_43:the name is made of lower case letters and digits, 23 of them, which checkov cannot work out
  name: 'stunassign${token}'
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    publicNetworkAccess: 'Enabled'
    supportsHttpsTrafficOnly: true
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: 'Allow'
    }
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: storage
  name: 'default'
  properties: {
    deleteRetentionPolicy: { enabled: true, days: 7 }
    containerDeleteRetentionPolicy: { enabled: true, days: 7 }
  }
}

resource packages 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'packages'
  properties: { publicAccess: 'None' }
}

resource blobOwner 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, identity.id, roles.storageBlobDataOwner)
  scope: storage
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataOwner)
  }
}

// For more devices than a request takes: each message is a body as the webhook takes it.
resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2023-05-01' = if (hasQueue) {
  parent: storage
  name: 'default'
}

resource queues 'Microsoft.Storage/storageAccounts/queueServices/queues@2023-05-01' = [for name in queueNames: if (hasQueue) {
  parent: queueService
  name: name
}]

resource queueContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (hasQueue) {
  name: guid(storage.id, identity.id, roles.storageQueueDataContributor)
  scope: storage
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageQueueDataContributor)
  }
}

// The host itself puts a message aside that has failed five times, and no record of ours tells of that: the log of the queues does.
resource queueLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (hasQueue) {
  name: 'writes'
  scope: queueService
  properties: {
    workspaceId: workspace.id
    logs: [
      { category: 'StorageWrite', enabled: true }
    ]
  }
}

// The credential of the app and the keys of the callers. The identity may read secrets, and nothing else.
resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  // checkov:skip=CKV_AZURE_109:the plan has no fixed addresses without a virtual network (docs/azure.md, Private networking); Entra ID alone lets in
  // checkov:skip=CKV_AZURE_189:likewise
  name: empty(keyVaultName) ? 'kv-${token}' : keyVaultName
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: { family: 'A', name: 'standard' }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    enabledForDeployment: false
    enabledForDiskEncryption: false
    enabledForTemplateDeployment: false
    publicNetworkAccess: 'Enabled'
    networkAcls: {
      bypass: 'None'
      defaultAction: 'Allow'
    }
  }
}

resource secretsUser 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, identity.id, roles.keyVaultSecretsUser)
  scope: vault
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsUser)
  }
}

// Who has read which secret, and who has tried.
resource vaultLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'audit'
  scope: vault
  properties: {
    workspaceId: workspace.id
    logs: [
      { categoryGroup: 'allLogs', enabled: true }
    ]
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  // checkov:skip=CKV_AZURE_225:not every region has it; a caller who meets an outage asks again
  name: 'plan-unassign-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: { reserved: true } // Linux
}

resource site 'Microsoft.Web/sites@2024-04-01' = {
  // checkov:skip=CKV_AZURE_222:it is a webhook: its callers are on the internet, and the function itself asks who they are
  // checkov:skip=CKV_AZURE_17:likewise; ServiceNow and Power Automate prove themselves by signature, key or token
  // checkov:skip=CKV_AZURE_212:the plan starts instances when there are requests, and keeps none otherwise
  // checkov:skip=CKV_AZURE_213:the plan starts and replaces instances by itself, and its host watches the function
  name: 'func-unassign-${token}'
  location: location
  tags: union(tags, { 'azd-service-name': 'api' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identity.id}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    publicNetworkAccess: 'Enabled'
    functionAppConfig: {
      runtime: {
        name: 'custom'
        version: '1.0'
      }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${packages.name}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
      }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      ftpsState: 'Disabled'
      http20Enabled: true
      remoteDebuggingEnabled: false
      // Names and addresses alone: what is secret is in the vault. AUTH is not among them, because the functions are anonymous to
      // the host and AUTH=platform would let in everybody.
      appSettings: [
        { name: 'AzureWebJobsStorage__blobServiceUri', value: storage.properties.primaryEndpoints.blob }
        { name: 'AzureWebJobsStorage__queueServiceUri', value: storage.properties.primaryEndpoints.queue }
        { name: 'AzureWebJobsStorage__credential', value: 'managedidentity' }
        { name: 'AzureWebJobsStorage__clientId', value: identity.properties.clientId }
        { name: 'APPLICATIONINSIGHTS_CONNECTION_STRING', value: insights.properties.ConnectionString }
        { name: 'APPLICATIONINSIGHTS_AUTHENTICATION_STRING', value: 'ClientId=${identity.properties.clientId};Authorization=AAD' }
        { name: 'AzureWebJobs.sweep.Disabled', value: hasSweep && !empty(sweepGroupTag) ? 'false' : 'true' }
        { name: 'SWEEP_SCHEDULE', value: sweepSchedule }
        { name: 'KEY_VAULT_URL', value: vault.properties.vaultUri }
        { name: 'VAULT_CREDENTIAL', value: 'managed-identity' }
        { name: 'AZURE_CLIENT_ID', value: identity.properties.clientId }
        { name: 'AZURE_CLOUD', value: azureCloud }
        { name: 'GRAPH_TENANT_ID', value: graphTenantId }
        { name: 'GRAPH_CLIENT_ID', value: graphClientId }
        { name: 'GRAPH_CREDENTIAL', value: graphCredential }
        { name: 'GRAPH_SECRET_NAME', value: graphSecretName }
        { name: 'GRAPH_CERTIFICATE_NAME', value: graphCertificateName }
        { name: 'WEBHOOK_SECRET_NAMES', value: webhookSecretNames }
        { name: 'API_KEY_SECRET_NAMES', value: apiKeySecretNames }
        { name: 'ENTRA_AUDIENCE', value: entraAudience }
        { name: 'ENTRA_TENANT_ID', value: entraTenantId }
        { name: 'ENTRA_ROLE', value: entraRole }
        { name: 'ENTRA_SCOPE', value: entraScope }
        { name: 'ALLOWED_GROUP_TAGS', value: allowedGroupTags }
        { name: 'RATE_LIMIT', value: rateLimit }
        { name: 'OPERATOR_CALLERS', value: operatorCallers }
        { name: 'SWEEP_GROUP_TAG', value: sweepGroupTag }
        { name: 'SWEEP_MAX_DEVICES', value: string(sweepMaxDevices) }
        { name: 'SWEEP_MIN_INVENTORY', value: string(sweepMinInventory) }
        { name: 'SWEEP_APPLY', value: sweepApply }
        { name: 'SIGNATURE_TOLERANCE', value: signatureTolerance }
        { name: 'REQUEST_TIMEOUT', value: requestTimeout }
        { name: 'LOG_LEVEL', value: logLevel }
      ]
    }
  }
  dependsOn: [
    blobOwner // without which the host does not start
    metricsPublisher
    secretsUser
  ]
}

// Packages are deployed by Entra ID alone.
resource scmCredentials 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = {
  parent: site
  name: 'scm'
  properties: { allow: false }
}

resource ftpCredentials 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = {
  parent: site
  name: 'ftp'
  properties: { allow: false }
}

// The records as the function writes them, a line of JSON each.
var records = 'AppTraces | where Message startswith "{" | extend r = parse_json(Message)'

// Each alert is raised by any row that its query finds.
var recordAlerts = [
  {
    name: 'faults'
    description: 'A request failed with 424 or 5xx, or a sweep or a message failed for good. The record has the code; docs/errors.md says what to do.'
    severity: 1
    window: 'PT5M'
    every: 'PT5M'
    query: '${records} | where r.level == "ERROR" and r.message in ("unassign", "sweep", "event", "doctor", "event refused")'
  }
  {
    name: 'throttling'
    description: 'Graph has asked to be left alone more than ten times within a quarter of an hour. Somebody uses up the limit of the tenant.'
    severity: 3
    window: 'PT15M'
    every: 'PT15M'
    query: '${records} | where r.code == "graph_throttled" | summarize devices = count() | where devices > 10'
  }
  {
    name: 'latency'
    description: 'One request in twenty took longer than ten seconds. The record says where the time went.'
    severity: 3
    window: 'PT15M'
    every: 'PT15M'
    query: '${records} | where r.message == "unassign" | summarize slow = percentile(todouble(r.total_ms), 95), devices = count() | where devices >= 5 and slow > 10000'
  }
  {
    name: 'expiry'
    description: 'A secret in the vault has less than two weeks left. docs/operations.md says how to replace it.'
    severity: 2
    window: 'P1D'
    every: 'PT6H'
    query: '${records} | where r.message == "a secret is about to expire or has expired"'
  }
]
var queueAlerts = [
  {
    name: 'poison'
    description: 'A message could not be done and needs a person. It is in the queue unassign-poison.'
    severity: 2
    window: 'PT15M'
    every: 'PT15M'
    query: 'StorageQueueLogs | where OperationName == "PutMessage" and Uri contains "/${queueNames[1]}/"'
  }
]

resource mail 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(alertEmail)) {
  name: 'ag-unassign-${token}'
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'unassign'
    emailReceivers: [
      { name: 'mail', emailAddress: alertEmail, useCommonAlertSchema: true }
    ]
  }
}

resource alerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for alert in concat(recordAlerts, hasQueue ? queueAlerts : []): {
  name: 'unassign-${alert.name}-${token}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: 'Autopilot Unassign: ${alert.name}'
    description: alert.description
    severity: alert.severity
    enabled: true
    autoMitigate: true
    scopes: [workspace.id]
    windowSize: alert.window
    evaluationFrequency: alert.every
    skipQueryValidation: true // a new workspace has no table of a kind that nothing has been written to
    criteria: {
      allOf: [
        {
          query: alert.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
        }
      ]
    }
    actions: { actionGroups: concat(empty(alertEmail) ? [] : [mail.id], empty(actionGroupId) ? [] : [actionGroupId]) }
  }
}]

// What one asks of the records, in the workspace under Queries.
var searches = [
  {
    name: 'failures'
    title: 'Failures, the latest first'
    query: '${records} | where toint(r.status) >= 400 | project TimeGenerated, status = toint(r.status), code = tostring(r.code), outcome = tostring(r.outcome), caller = tostring(r.caller_id), reference = tostring(r.reference), device = tostring(r.device_id), serial = tostring(r.serial_number), request = tostring(r.request_id), graph = tostring(r.graph_request_id) | order by TimeGenerated desc'
  }
  {
    name: 'refusals'
    title: 'Who was refused, and why'
    query: '${records} | where toint(r.status) in (401, 403) | project TimeGenerated, status = toint(r.status), code = tostring(r.code), kind = tostring(r.caller_kind), caller = tostring(r.caller_id), reason = tostring(r.error), request = tostring(r.request_id) | order by TimeGenerated desc'
  }
  {
    name: 'device'
    title: 'What was done to a device: put its serial number in'
    query: '${records} | where r.message == "unassign" and r.serial_number =~ "5CG1234ABC" | project TimeGenerated, code = tostring(r.code), outcome = tostring(r.outcome), dry = tobool(r.dry_run), caller = tostring(r.caller_id), reference = tostring(r.reference), device = tostring(r.device_id), request = tostring(r.request_id) | order by TimeGenerated desc'
  }
  {
    name: 'callers'
    title: 'Devices by caller'
    query: '${records} | where r.message == "unassign" | summarize devices = count(), refused = countif(toint(r.status) >= 400) by kind = tostring(r.caller_kind), caller = tostring(r.caller_id)'
  }
  {
    name: 'sweeps'
    title: 'Sweeps'
    query: '${records} | where r.message == "sweep" | project TimeGenerated, code = tostring(r.code), tag = tostring(r.group_tag), dry = tobool(r.dry_run), inventory = toint(r.inventory), matching = toint(r.matching), succeeded = toint(r.succeeded), failed = toint(r.failed), handedBack = toint(r.handed_back) | order by TimeGenerated desc'
  }
]

resource savedSearches 'Microsoft.OperationalInsights/workspaces/savedSearches@2020-08-01' = [for search in searches: {
  parent: workspace
  name: 'unassign-${search.name}'
  properties: {
    category: 'Autopilot Unassign'
    displayName: search.title
    query: search.query
    version: 2
  }
}]

module workbook 'workbook.bicep' = {
  name: 'unassign-workbook'
  params: {
    workspaceId: workspace.id
    location: location
  }
}

@description('Where to send requests.')
output WEBHOOK_URL string = 'https://${site.properties.defaultHostName}/api/unassign'

@description('The address for unassign call -url.')
output APP_URL string = 'https://${site.properties.defaultHostName}'

@description('The function app.')
output APP_NAME string = site.name

@description('The vault that the secrets go into.')
output KEY_VAULT_NAME string = vault.name

@description('The managed identity, for infra/azure/grant.sh --identity and for roles.')
output IDENTITY_PRINCIPAL_ID string = identity.properties.principalId

@description('The Log Analytics workspace with the audit record.')
output WORKSPACE_ID string = workspace.id

@description('What is left to do. docs/azure.md explains it.')
output NEXT_COMMANDS array = [
  'infra/azure/grant.sh --app ${graphClientId} --yes'
  'az role assignment create --role "Key Vault Secrets Officer" --assignee "$(az ad signed-in-user show --query id --output tsv)" --scope ${vault.id}'
  'az keyvault secret set --vault-name ${vault.name} --name NAME --file FILE --encoding utf-8 --output none'
  'unassign call -url https://${site.properties.defaultHostName} -secret-file FILE -serial SERIAL -dry-run'
]
