// Autopilot Unassign on Azure Functions, in one resource group. docs/azure.md has the commands. azuredeploy.json is this file, compiled.
// No secret is a parameter or an output: callers' keys, and the Graph app's secret if it has one, are stored in the vault by hand.
targetScope = 'resourceGroup'

@description('Name of this deployment. azd finds its resources by it.')
@minLength(1)
@maxLength(64)
param environmentName string = 'unassign'

@description('Region. These regions offer the Flex Consumption plan.')
@allowed([
  'australiaeast'
  'australiasoutheast'
  'brazilsouth'
  'canadacentral'
  'centralindia'
  'centralus'
  'eastasia'
  'eastus'
  'eastus2'
  'francecentral'
  'germanywestcentral'
  'italynorth'
  'japaneast'
  'koreacentral'
  'northcentralus'
  'northeurope'
  'norwayeast'
  'southafricanorth'
  'southcentralus'
  'southeastasia'
  'southindia'
  'spaincentral'
  'swedencentral'
  'uaenorth'
  'uksouth'
  'ukwest'
  'westcentralus'
  'westeurope'
  'westus'
  'westus2'
  'westus3'
])
@metadata({ azd: { type: 'location' } })
param location string = any(resourceGroup().location)

@description('Repository whose release holds the package.')
@maxLength(256)
param repository string = loadJsonContent('release.json').repository

@description('URL of the package. Empty: the zip of this version\'s release. "none": the template deploys no package.')
@maxLength(2048)
param packageUri string = ''

@description('Deploy the queue, for more devices than a request takes.')
@allowed(['true', 'false'])
param enableQueue string = 'false'

@description('Name of the vault, unique in all of Azure. Empty: a generated name.')
@maxLength(24)
param keyVaultName string = ''

@description('Resource id of a vault that exists and uses roles (Azure RBAC). Empty: the template creates a vault.')
@maxLength(512)
param existingKeyVaultId string = ''

@description('Purge protection of the vault: nobody can remove a deleted vault or secret for 90 days. It cannot be switched off later.')
@allowed(['true', 'false'])
param vaultPurgeProtection string = 'true'

@description('Recover the vault of this name, which was deleted in the last 90 days, instead of creating it.')
@allowed(['true', 'false'])
param vaultRecover string = 'false'

@description('Give the deploying user the role that stores secrets in the vault.')
@allowed(['true', 'false'])
param grantDeployer string = 'true'

@description('Cloud of the tenant and the vault.')
@allowed(['public', 'usgov', 'usgov-dod', 'china'])
param azureCloud string = 'public'

@description('Tenant of the devices. Empty: the tenant of the subscription.')
@maxLength(36)
param graphTenantId string = ''

@description('Client id of the app that may call Graph. Empty: the managed identity itself has the permission.')
@maxLength(36)
param graphClientId string = ''

@description('Credential for Graph: identity (no secret; the default) or vault (the app\'s secret or certificate).')
@allowed(['identity', 'vault'])
param graphCredential string = 'identity'

@description('Name of the secret in the vault that holds the app\'s client secret.')
@maxLength(127)
param graphSecretName string = ''

@description('Name of the certificate in the vault that the app signs in with.')
@maxLength(127)
param graphCertificateName string = ''

@description('Names of the secrets in the vault that hold callers\' signing keys, separated by commas.')
@maxLength(2048)
param webhookSecretNames string = ''

@description('Names of the secrets in the vault that hold callers\' API keys, separated by commas.')
@maxLength(2048)
param apiKeySecretNames string = ''

@description('Audience of callers\' Entra tokens (App ID URI, client id or both), separated by commas.')
@maxLength(1024)
param entraAudience string = ''

@description('Tenants whose tokens are accepted, separated by commas. Empty: graphTenantId.')
@maxLength(1024)
param entraTenantId string = ''

@description('App role that every caller with a token must have. Empty: Device.Unassign.')
@maxLength(120)
param entraRole string = ''

@description('Scope that a user\'s token must have as well. Empty: user_impersonation.')
@maxLength(120)
param entraScope string = ''

@description('Group tags of the devices that callers may change, separated by commas; a tag may end in *. Empty: all devices.')
@maxLength(4096)
param allowedGroupTags string = ''

@description('Devices per caller and minute, on each instance.')
@maxLength(5)
param rateLimit string = '60'

@description('Policy per caller: JSON, or the same with single quotes.')
@maxLength(8192)
param callerPolicy string = ''

@description('Callers of the doctor and of the device list, by caller_id of the audit record, separated by commas. Empty: no caller.')
@maxLength(4096)
param operatorCallers string = ''

@description('true: every request is a dry run. The switch to pull in an incident.')
@allowed(['true', 'false'])
param dryRun string = 'false'

@description('Age at which a queued message without "expected" is refused.')
@minLength(2)
@maxLength(8)
param queueMaxAge string = '24h'

@description('Group tag whose devices the sweep cleans. Empty: no sweep.')
@maxLength(512)
param sweepGroupTag string = ''

@description('Schedule of the sweep: six fields of NCRONTAB, in UTC.')
@minLength(11)
@maxLength(128)
param sweepSchedule string = '0 0 2 * * *'

@description('A sweep that finds more devices to clean does nothing.')
@minValue(1)
@maxValue(10000)
param sweepMaxDevices int = 10

@description('A sweep that finds fewer devices in Intune does nothing.')
@minValue(1)
@maxValue(1000000)
param sweepMinInventory int = 1

@description('true: sweeps change devices. false: sweeps are dry runs.')
@allowed(['true', 'false'])
param sweepApply string = 'false'

@description('Accepted difference of a signature\'s time, from 60s to 15m.')
@minLength(2)
@maxLength(8)
param signatureTolerance string = '300s'

@description('Time for one request, from 1s to 200s.')
@minLength(2)
@maxLength(8)
param requestTimeout string = '25s'

@description('Lowest level that is logged.')
@allowed(['info', 'warn', 'error'])
param logLevel string = 'info'

@description('Days that the logs, and with them the audit record, are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 90

@description('Log volume in GB a day at which ingestion stops until the next day. -1: no cap.')
@minValue(-1)
@maxValue(1000)
param logDailyCapGb int = 5

@description('Memory of an instance in MB.')
@allowed([512, 2048, 4096])
param instanceMemoryMB int = 512

@description('Highest number of instances. Azure accepted 40 and more when this was written.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Addresses that may call, as IPv4 or IPv6 ranges (203.0.113.0/24), separated by commas. Empty: all addresses.')
@maxLength(4096)
param allowedAddresses string = ''

@description('Id (GUID) of an Azure Front Door profile. Set: only requests through it are accepted, beside allowedAddresses.')
@maxLength(36)
param frontDoorId string = ''

@description('true: a virtual network with private endpoints, and no public access to vault and storage.')
@allowed(['true', 'false'])
param privateNetwork string = 'false'

@description('Address that alerts are mailed to.')
@maxLength(254)
param alertEmail string = ''

@description('Resource id of an action group for alerts. Without it and alertEmail, alerts notify nobody.')
@maxLength(1024)
param actionGroupId string = ''

@description('Devices per caller and hour above which an alert is raised.')
@minValue(1)
@maxValue(1000000)
param alertDevicesPerHour int = 250

// Combinations that cannot work. Each resource name depends on this chain, so that a fault stops the deployment before it begins.
var hasSweep = !empty(sweepGroupTag)
var hasQueue = enableQueue == 'true'
var hasEvents = hasSweep || hasQueue
var isPrivate = privateNetwork == 'true'
var ownVault = !empty(existingKeyVaultId)
var noSecret = empty(graphSecretName) && empty(graphCertificateName)
var oneSecret = empty(graphSecretName) != empty(graphCertificateName)
var someCaller = !empty(webhookSecretNames) || !empty(apiKeySecretNames) || !empty(entraAudience)
var someAudience = !empty(entraAudience) || (empty(entraTenantId) && empty(entraRole) && empty(entraScope))
var knownPackage = !empty(packageUri) || !contains(repository, 'OWNER')
var vaultExclusive = !ownVault || (empty(keyVaultName) && vaultRecover == 'false')

var suffix = uniqueString(resourceGroup().id, environmentName)
var checkedIdentity = graphCredential == 'vault' || noSecret ? suffix : fail('graphSecretName and graphCertificateName are for graphCredential=vault: remove them, or set graphCredential.')
var checkedSecret = graphCredential == 'identity' || oneSecret ? checkedIdentity : fail('graphCredential=vault needs either graphSecretName or graphCertificateName.')
var checkedApp = graphCredential == 'identity' || !empty(graphClientId) ? checkedSecret : fail('graphCredential=vault needs graphClientId.')
var checkedTenant = !empty(graphClientId) || empty(graphTenantId) || graphTenantId == tenant().tenantId ? checkedApp : fail('graphTenantId is not the tenant of the subscription: a managed identity works in its own tenant alone. Set graphCredential=vault and graphClientId.')
var checkedCaller = someCaller ? checkedTenant : fail('No caller could be authenticated: set webhookSecretNames, apiKeySecretNames or entraAudience.')
var checkedAudience = someAudience ? checkedCaller : fail('entraTenantId, entraRole and entraScope need entraAudience.')
var checkedSweep = sweepApply == 'false' || hasSweep ? checkedAudience : fail('sweepApply=true needs sweepGroupTag.')
var checkedVault = vaultExclusive ? checkedSweep : fail('existingKeyVaultId excludes keyVaultName and vaultRecover.')
var token = knownPackage ? checkedVault : fail('The template does not know its repository: set repository or packageUri (or packageUri=none to deploy a package by hand).')

var package = packageUri == 'none' ? '' : (!empty(packageUri) ? packageUri : '${repository}/releases/download/${loadJsonContent('release.json').version}/azure-linux-amd64${hasEvents ? '-events' : ''}.zip')
var queueNames = ['unassign', 'unassign-poison'] // as in infra/azure/queue
var tags = { 'azd-env-name': environmentName }
var vaultName = ownVault ? last(split(existingKeyVaultId, '/')) : (empty(keyVaultName) ? 'kv-${token}' : keyVaultName)
var vaultAddress = 'https://${vaultName}${environment().suffixes.keyvaultDns}/'

// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
var roles = {
  keyVaultCertificatesOfficer: 'a4417e6f-fecd-4de8-b567-7b0420556985'
  keyVaultSecretsOfficer: 'b86a8fe4-44ce-4948-aee5-eccb2c155cd7'
  keyVaultSecretsUser: '4633458b-17de-408a-b874-0445c86b69e6'
  monitoringMetricsPublisher: '3913510d-42f4-4e42-8a64-420c390055eb'
  storageBlobDataContributor: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
  storageBlobDataOwner: 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  storageQueueDataContributor: '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
}

// The function's identity.
resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-unassign-${token}'
  location: location
  tags: tags
}

// The platform's identity for the package. Its id is in no setting of the function, and the function's identity has no right to the package.
resource packageIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-unassign-package-${token}'
  location: location
  tags: tags
}

// The logs, and with them the audit record.
resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: 'log-unassign-${token}'
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: logRetentionDays
    workspaceCapping: { dailyQuotaGb: logDailyCapGb }
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

// The host's storage: leases, the time of the last sweep, messages.
resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
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
    publicNetworkAccess: isPrivate ? 'Disabled' : 'Enabled'
    supportsHttpsTrafficOnly: true
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: isPrivate ? 'Deny' : 'Allow'
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

resource blobOwner 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, identity.id, roles.storageBlobDataOwner)
  scope: storage
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataOwner)
  }
}

// The package has an account of its own, so that the function cannot replace it.
resource packageStorage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: 'stpackage${token}'
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
    publicNetworkAccess: isPrivate ? 'Disabled' : 'Enabled'
    supportsHttpsTrafficOnly: true
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: isPrivate ? 'Deny' : 'Allow'
    }
  }
}

resource packageBlobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: packageStorage
  name: 'default'
  properties: {
    deleteRetentionPolicy: { enabled: true, days: 7 }
    containerDeleteRetentionPolicy: { enabled: true, days: 7 }
  }
}

resource packages 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: packageBlobs
  name: 'packages'
  properties: { publicAccess: 'None' }
}

resource packageContributor 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(packages.id, packageIdentity.id, roles.storageBlobDataContributor)
  scope: packages
  properties: {
    principalId: packageIdentity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
  }
}

// Every change of the package, for the alert "package".
resource packageLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'changes'
  scope: packageBlobs
  properties: {
    workspaceId: workspace.id
    logs: [
      { category: 'StorageWrite', enabled: true }
      { category: 'StorageDelete', enabled: true }
    ]
  }
}

// Each message is a body as the webhook takes it.
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

// The host itself moves a message to the poison queue after maxDequeueCount deliveries, without a record of ours; this log shows it, and the
// backlog.
resource queueLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (hasQueue) {
  name: 'changes'
  scope: queueService
  properties: {
    workspaceId: workspace.id
    logs: [
      { category: 'StorageWrite', enabled: true }
      { category: 'StorageDelete', enabled: true }
    ]
  }
}

// Callers' keys, and the Graph app's secret or certificate if it has one.
resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = if (!ownVault) {
  name: vaultName
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    createMode: vaultRecover == 'true' ? 'recover' : 'default'
    sku: { family: 'A', name: 'standard' }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: vaultPurgeProtection == 'true' ? true : null // Azure refuses false
    enabledForDeployment: false
    enabledForDiskEncryption: false
    enabledForTemplateDeployment: false
    publicNetworkAccess: isPrivate ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'None'
      defaultAction: isPrivate ? 'Deny' : 'Allow'
    }
  }
}

// The function reads secrets and nothing else. The deployer stores them.
module vaultRoles 'vaultroles.bicep' = {
  name: 'unassign-vault-roles'
  scope: resourceGroup(ownVault ? split(existingKeyVaultId, '/')[2] : subscription().subscriptionId, ownVault ? split(existingKeyVaultId, '/')[4] : resourceGroup().name)
  params: {
    vaultName: ownVault ? vaultName : vault.name
    grants: concat(
      [{ principalId: identity.properties.principalId, roleId: roles.keyVaultSecretsUser, service: true }],
      grantDeployer == 'true' ? [{ principalId: deployer().objectId, roleId: roles.keyVaultSecretsOfficer, service: false }] : [],
      grantDeployer == 'true' && !empty(graphCertificateName) ? [{ principalId: deployer().objectId, roleId: roles.keyVaultCertificatesOfficer, service: false }] : []
    )
  }
}

// Each read and each refused attempt, for the alert "vault".
resource vaultLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!ownVault) {
  name: 'audit'
  scope: vault
  properties: {
    workspaceId: workspace.id
    logs: [
      { categoryGroup: 'allLogs', enabled: true }
    ]
  }
}

module network 'network.bicep' = if (isPrivate) {
  name: 'unassign-network'
  params: {
    token: token
    location: location
    tags: tags
    targets: concat(
      ownVault ? [] : [{ name: 'vault', id: vault.id, group: 'vault' }],
      [
        { name: 'host', id: storage.id, group: 'blob' }
        { name: 'package', id: packageStorage.id, group: 'blob' }
      ],
      hasQueue ? [{ name: 'queue', id: storage.id, group: 'queue' }] : []
    )
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
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

var addressRules = [for (range, i) in empty(allowedAddresses) ? [] : split(allowedAddresses, ','): {
  name: 'address-${i}'
  action: 'Allow'
  priority: 200 + i
  ipAddress: trim(range)
}]
var frontDoorRules = empty(frontDoorId) ? [] : [
  {
    name: 'front-door'
    action: 'Allow'
    priority: 100
    tag: 'ServiceTag'
    ipAddress: 'AzureFrontDoor.Backend'
    headers: { 'x-azure-fdid': [frontDoorId] }
  }
]

resource site 'Microsoft.Web/sites@2024-04-01' = {
  name: 'func-unassign-${token}'
  location: location
  tags: tags
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
      '${packageIdentity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    publicNetworkAccess: 'Enabled'
    #disable-next-line BCP318 // the condition is the module's own
    virtualNetworkSubnetId: isPrivate ? network.outputs.functionSubnetId : null
    functionAppConfig: {
      runtime: {
        name: 'custom'
        version: '1.0'
      }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${packageStorage.properties.primaryEndpoints.blob}${packages.name}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: packageIdentity.id
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        // As maxConcurrentRequests of host.json. The plan's own default is 4 at 512 MB: the fifth request would start another instance.
        triggers: { http: { perInstanceConcurrency: 50 } }
      }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      remoteDebuggingEnabled: false
      ipSecurityRestrictionsDefaultAction: empty(addressRules) && empty(frontDoorRules) ? 'Allow' : 'Deny'
      ipSecurityRestrictions: concat(frontDoorRules, addressRules)
      scmIpSecurityRestrictionsUseMain: false
      // Names and addresses alone: secrets are in the vault. AUTH is not set: the functions are anonymous to the host, and
      // AUTH=platform would accept every request.
      appSettings: [
        { name: 'AzureWebJobsStorage__blobServiceUri', value: storage.properties.primaryEndpoints.blob }
        { name: 'AzureWebJobsStorage__queueServiceUri', value: storage.properties.primaryEndpoints.queue }
        { name: 'AzureWebJobsStorage__credential', value: 'managedidentity' }
        { name: 'AzureWebJobsStorage__clientId', value: identity.properties.clientId }
        { name: 'APPLICATIONINSIGHTS_CONNECTION_STRING', value: insights.properties.ConnectionString }
        { name: 'APPLICATIONINSIGHTS_AUTHENTICATION_STRING', value: 'ClientId=${identity.properties.clientId};Authorization=AAD' }
        { name: 'AzureWebJobs.sweep.Disabled', value: hasSweep ? 'false' : 'true' }
        { name: 'AzureWebJobs.queue.Disabled', value: hasQueue ? 'false' : 'true' }
        { name: 'SWEEP_SCHEDULE', value: sweepSchedule }
        { name: 'KEY_VAULT_URL', value: vaultAddress }
        { name: 'VAULT_CREDENTIAL', value: 'managed-identity' }
        { name: 'AZURE_CLIENT_ID', value: identity.properties.clientId }
        { name: 'AZURE_CLOUD', value: azureCloud }
        { name: 'GRAPH_TENANT_ID', value: empty(graphTenantId) ? tenant().tenantId : graphTenantId }
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
        { name: 'CALLER_POLICY', value: contains(callerPolicy, '"') ? callerPolicy : replace(callerPolicy, '\'', '"') }
        { name: 'OPERATOR_CALLERS', value: operatorCallers }
        { name: 'DRY_RUN', value: dryRun }
        { name: 'QUEUE_MAX_AGE', value: queueMaxAge }
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
    blobOwner // without this role the host does not start
    metricsPublisher
    packageContributor
    vaultRoles
  ]
}

// Packages are deployed with Entra ID alone.
resource scmCredentials 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = {
  parent: site
  name: 'scm'
  #disable-next-line BCP187 // missing in the published type; some regions refuse the resource without it
  location: location
  properties: { allow: false }
}

resource ftpCredentials 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = {
  parent: site
  name: 'ftp'
  #disable-next-line BCP187 // likewise
  location: location
  properties: { allow: false }
}

// A new role takes up to some minutes to apply, and the platform stores the package with packageIdentity: without this wait the first
// deployment ends with 403. The chain runs while the app is created.
@batchSize(1)
module roleWait 'wait.bicep' = [for i in range(0, empty(package) ? 0 : 20): {
  name: 'unassign-wait-${i}'
  dependsOn: [packageContributor]
}]

resource deployment 'Microsoft.Web/sites/extensions@2022-09-01' = if (!empty(package)) {
  parent: site
  name: 'onedeploy'
  #disable-next-line BCP187 // missing in the published type; Microsoft documents it for this plan
  properties: {
    packageUri: package
    remoteBuild: false
  }
  dependsOn: [
    roleWait
    scmCredentials
    ftpCredentials
  ]
}

// The records as the function writes them, one line of JSON each. The host logs them all as Information: alerts go by r.level.
var records = 'AppTraces | where Message startswith "{" | extend r = parse_json(Message)'

// Each alert is raised by any row of its query. Windows are twice the interval, because logs arrive minutes late.
var recordAlerts = [
  {
    name: 'faults'
    description: 'A request ended with 424 or 5xx, or a sweep or a message failed permanently. The record has the code; docs/errors.md has the fix.'
    severity: 1
    window: 'PT10M'
    every: 'PT5M'
    query: '${records} | where r.level == "ERROR" and r.message in ("unassign", "sweep", "event", "doctor", "event refused")'
  }
  {
    name: 'throttling'
    description: 'Graph throttled more than twenty devices in half an hour. Some app uses up the limit of the tenant.'
    severity: 3
    window: 'PT30M'
    every: 'PT15M'
    query: '${records} | where r.code == "graph_throttled" | summarize devices = count() | where devices > 20'
  }
  {
    name: 'latency'
    description: 'One request in twenty took longer than ten seconds. The record has the time of each step.'
    severity: 3
    window: 'PT30M'
    every: 'PT15M'
    query: '${records} | where r.message == "unassign" and r.caller_id != "storage_queue" | summarize slow = percentile(todouble(r.total_ms), 95), devices = count() | where devices >= 5 and slow > 10000'
  }
  {
    name: 'expiry'
    description: 'A secret or certificate in the vault expires within two weeks, or Entra ID does not know its newest version. docs/operations.md has the fix.'
    severity: 2
    window: 'P1D'
    every: 'PT6H'
    query: '${records} | where r.message == "a secret is about to expire or has expired" or r.message startswith "Entra ID refuses the newest version"'
  }
  {
    name: 'devices'
    description: 'A caller unassigned more than ${alertDevicesPerHour} devices in an hour. If that is not intended, set dryRun=true and disable the caller\'s key (docs/operations.md).'
    severity: 1
    window: 'PT1H'
    every: 'PT15M'
    query: '${records} | where r.message == "unassign" and r.code == "unassigned" | summarize devices = count() by caller_kind = tostring(r.caller_kind), caller_id = tostring(r.caller_id) | where devices > ${alertDevicesPerHour}'
  }
  {
    name: 'refusals'
    description: 'More than a hundred requests were refused with 401 or 403 in an hour: a caller with an old key, or a stranger who tries.'
    severity: 2
    window: 'PT1H'
    every: 'PT15M'
    query: '${records} | where toint(r.status) in (401, 403) | summarize refused = count() | where refused > 100'
  }
  {
    name: 'package'
    description: 'The package of the function was changed. Expected after a deployment alone.'
    severity: 2
    window: 'PT30M'
    every: 'PT15M'
    query: 'StorageBlobLogs | where Category in ("StorageWrite", "StorageDelete") and Uri has "/${packages.name}/" | project TimeGenerated, OperationName, CallerIpAddress, RequesterObjectId'
  }
  {
    name: 'logs'
    description: 'Half of the daily log volume is used up, or ingestion has stopped. Without ingestion there is no audit record.'
    severity: 1
    window: 'P1D'
    every: 'PT1H'
    query: 'union isfuzzy=true (_LogOperation | where Category =~ "Ingestion" and Detail has "OverQuota" | project gb = 1000000.0), (Usage | where IsBillable == true | summarize gb = sum(Quantity) / 1000.0) | where gb > ${logDailyCapGb < 0 ? 1000 : logDailyCapGb} / 2.0'
  }
]
var vaultAlerts = [
  {
    name: 'vault'
    description: 'A principal other than the function read a secret in the vault.'
    severity: 1
    window: 'PT30M'
    every: 'PT15M'
    query: 'union isfuzzy=true (AzureDiagnostics | where ResourceProvider == "MICROSOFT.KEYVAULT" | project TimeGenerated, OperationName, ResultType, reader = column_ifexists("identity_claim_oid_g", "")), (AZKVAuditLogs | project TimeGenerated, OperationName, ResultType, reader = tostring(Identity)) | where OperationName in ("SecretGet", "SecretBackup") and ResultType == "Success" and not(reader has "FUNCTION")'
  }
]
var queueAlerts = [
  {
    name: 'poison'
    description: 'A message failed permanently and is in the queue unassign-poison. It expires there after seven days.'
    severity: 2
    window: 'PT30M'
    every: 'PT15M'
    query: 'StorageQueueLogs | where OperationName == "PutMessage" and Uri has "/${queueNames[1]}/"'
  }
  {
    name: 'backlog'
    description: 'Messages wait in the queue, and no device of them was finished for an hour. A backlog that drains raises no alert.'
    severity: 2
    window: 'P1D'
    every: 'PT15M'
    query: 'let finishedAt = coalesce(toscalar(${records} | where r.message == "event" or r.message == "unassign" and r.caller_id == "storage_queue" | summarize max(TimeGenerated)), datetime(2000-01-01)); StorageQueueLogs | where Uri has "/${queueNames[0]}/" | summarize added = countif(OperationName == "PutMessage"), finished = countif(OperationName == "DeleteMessage"), waiting = countif(OperationName == "PutMessage" and TimeGenerated > finishedAt and TimeGenerated < ago(1h)) | where added > finished and waiting > 0'
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

var actionGroups = concat(empty(alertEmail) ? [] : [mail.id], empty(actionGroupId) ? [] : [actionGroupId])

resource alerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for alert in concat(recordAlerts, ownVault ? [] : vaultAlerts, hasQueue ? queueAlerts : []): {
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
    skipQueryValidation: true // a new workspace has no table before its first row
    criteria: {
      allOf: [
        {
          query: alert.name == 'vault' ? replace(alert.query, '"FUNCTION"', '"${identity.properties.principalId}"') : alert.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
        }
      ]
    }
    actions: { actionGroups: actionGroups }
  }
}]

// The vault's own events. Entra ID does not know a version that the vault renews by itself: the alert leaves the time to upload it.
var watchesVault = !ownVault && !empty(actionGroups)

resource vaultEvents 'Microsoft.EventGrid/systemTopics@2025-02-15' = if (watchesVault) {
  name: 'egst-unassign-${token}'
  location: location
  tags: tags
  properties: {
    source: vault.id
    topicType: 'Microsoft.KeyVault.vaults'
  }
}

resource vaultEventAlert 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2025-02-15' = if (watchesVault) {
  parent: vaultEvents
  name: 'expiry'
  properties: {
    eventDeliverySchema: 'CloudEventSchemaV1_0'
    filter: {
      includedEventTypes: [
        'Microsoft.KeyVault.CertificateNewVersionCreated'
        'Microsoft.KeyVault.CertificateNearExpiry'
        'Microsoft.KeyVault.SecretNearExpiry'
      ]
    }
    destination: {
      endpointType: 'MonitorAlert'
      properties: {
        severity: 'Sev1'
        description: 'The vault has a new certificate version, or a secret or certificate expires soon. Upload the new version to the app in Entra ID now (docs/operations.md).'
        actionGroups: actionGroups
      }
    }
  }
}

// Queries in the workspace, under Queries.
var searches = [
  {
    name: 'failures'
    title: 'Failures, the latest first'
    query: '${records} | where toint(r.status) >= 400 | project TimeGenerated, status = toint(r.status), code = tostring(r.code), outcome = tostring(r.outcome), caller = tostring(r.caller_id), reference = tostring(r.reference), device = tostring(r.device_id), serial = tostring(r.serial_number), request = tostring(r.request_id), graph = tostring(r.graph_request_id) | order by TimeGenerated desc'
  }
  {
    name: 'refusals'
    title: 'Refused callers and the reasons'
    query: '${records} | where toint(r.status) in (401, 403) | project TimeGenerated, status = toint(r.status), code = tostring(r.code), caller_kind = tostring(r.caller_kind), caller = tostring(r.caller_id), reason = tostring(r.error), request = tostring(r.request_id) | order by TimeGenerated desc'
  }
  {
    name: 'device'
    title: 'History of a device: replace the serial number'
    query: '${records} | where r.message == "unassign" and r.serial_number =~ "5CG1234ABC" | project TimeGenerated, code = tostring(r.code), outcome = tostring(r.outcome), dry = tobool(r.dry_run), account = tostring(r.account_user_principal_name), caller = tostring(r.caller_id), reference = tostring(r.reference), device = tostring(r.device_id), request = tostring(r.request_id) | order by TimeGenerated desc'
  }
  {
    name: 'undo'
    title: 'Accounts that were removed'
    query: '${records} | where r.message == "unassign" and r.code == "unassigned" | project TimeGenerated, device = tostring(r.device_id), serial = tostring(r.serial_number), account = tostring(r.account_user_principal_name), resource = tostring(r.account_resource_name), caller = tostring(r.caller_id), reference = tostring(r.reference) | order by TimeGenerated desc'
  }
  {
    name: 'callers'
    title: 'Devices by caller'
    query: '${records} | where r.message == "unassign" | summarize devices = count(), refused = countif(toint(r.status) >= 400) by caller_kind = tostring(r.caller_kind), caller = tostring(r.caller_id)'
  }
  {
    name: 'sweeps'
    title: 'Sweeps'
    query: '${records} | where r.message == "sweep" | project TimeGenerated, code = tostring(r.code), group_tag = tostring(r.group_tag), dry = tobool(r.dry_run), inventory = toint(r.inventory), matching = toint(r.matching), succeeded = toint(r.succeeded), failed = toint(r.failed), handed_back = toint(r.handed_back) | order by TimeGenerated desc'
  }
]

// An existing saved search answers a PUT without an etag with 409, and several PUTs at once now and then too.
@batchSize(1)
resource savedSearches 'Microsoft.OperationalInsights/workspaces/savedSearches@2020-08-01' = [for search in searches: {
  parent: workspace
  name: 'unassign-${search.name}'
  properties: {
    category: 'Autopilot Unassign'
    displayName: search.title
    query: search.query
    version: 2
    #disable-next-line BCP037 // the service takes it here, and refuses it where the published type has it
    etag: '*'
  }
}]

module workbook 'workbook.bicep' = {
  name: 'unassign-workbook'
  params: {
    workspaceId: workspace.id
    location: location
  }
}

@description('Address for requests.')
output WEBHOOK_URL string = 'https://${site.properties.defaultHostName}/api/unassign'

@description('Address for unassign call -url.')
output APP_URL string = 'https://${site.properties.defaultHostName}'

@description('Name of the function app.')
output APP_NAME string = site.name

@description('Name of the vault.')
output VAULT_NAME string = vaultName

@description('Object id of the managed identity, for the grant script.')
output IDENTITY_PRINCIPAL_ID string = identity.properties.principalId

@description('Log Analytics workspace with the audit record.')
output WORKSPACE_ID string = workspace.id

@description('Package that was deployed; empty if none was.')
output PACKAGE_URI string = package
