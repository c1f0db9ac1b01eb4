// Roles on the vault, which may be in another resource group than the function.

@description('Name of the vault.')
param vaultName string

@description('Principals and the ids of their roles.')
param grants grant[]

type grant = { principalId: string, roleId: string, service: bool }

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = {
  name: vaultName
}

resource assignments 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for grant in grants: {
  name: guid(vault.id, grant.principalId, grant.roleId)
  scope: vault
  properties: {
    principalId: grant.principalId
    ...(grant.service ? { principalType: 'ServicePrincipal' } : {}) // a deployer is a user or a service principal
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', grant.roleId)
  }
}]
