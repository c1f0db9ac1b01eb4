// A virtual network with private endpoints: the vault and the storage accounts are then closed to the internet. The function leaves
// through a NAT gateway, so that its outgoing address is fixed.

@description('Suffix of all names.')
param token string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Targets of the private endpoints: name, resource id, and the group of the resource type.')
param targets target[]

type target = { name: string, id: string, group: 'vault' | 'blob' | 'queue' }

var zones = {
  vault: 'privatelink.vaultcore.azure.net'
  blob: 'privatelink.blob.${environment().suffixes.storage}'
  queue: 'privatelink.queue.${environment().suffixes.storage}'
}
var groups = union(map(targets, target => target.group), []) // each group once

resource address 'Microsoft.Network/publicIPAddresses@2024-05-01' = {
  name: 'pip-unassign-${token}'
  location: location
  tags: tags
  sku: { name: 'Standard' }
  properties: { publicIPAllocationMethod: 'Static' }
}

resource gateway 'Microsoft.Network/natGateways@2024-05-01' = {
  name: 'ng-unassign-${token}'
  location: location
  tags: tags
  sku: { name: 'Standard' }
  properties: { publicIpAddresses: [{ id: address.id }] }
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'vnet-unassign-${token}'
  location: location
  tags: tags
  properties: {
    addressSpace: { addressPrefixes: ['10.71.0.0/24'] }
    subnets: [
      {
        name: 'function'
        properties: {
          addressPrefix: '10.71.0.0/25'
          natGateway: { id: gateway.id }
          delegations: [{ name: 'flex', properties: { serviceName: 'Microsoft.App/environments' } }]
        }
      }
      {
        name: 'endpoints'
        properties: { addressPrefix: '10.71.0.128/26' }
      }
    ]
  }
}

resource dnsZones 'Microsoft.Network/privateDnsZones@2024-06-01' = [for group in groups: {
  name: zones[group]
  location: 'global'
  tags: tags
}]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [for (group, i) in groups: {
  parent: dnsZones[i]
  name: 'unassign-${token}'
  location: 'global'
  tags: tags
  properties: {
    registrationEnabled: false
    virtualNetwork: { id: network.id }
  }
}]

resource endpoints 'Microsoft.Network/privateEndpoints@2024-05-01' = [for target in targets: {
  name: 'pe-${target.name}-${token}'
  location: location
  tags: tags
  properties: {
    subnet: { id: '${network.id}/subnets/endpoints' }
    privateLinkServiceConnections: [
      {
        name: target.name
        properties: {
          #disable-next-line use-resource-id-functions // main.bicep gives the id of a resource
          privateLinkServiceId: target.id
          groupIds: [target.group]
        }
      }
    ]
  }
}]

resource records 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = [for (target, i) in targets: {
  parent: endpoints[i]
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: target.group
        properties: { privateDnsZoneId: resourceId('Microsoft.Network/privateDnsZones', zones[target.group]) }
      }
    ]
  }
  dependsOn: [dnsZones]
}]

@description('Subnet of the function app.')
output functionSubnetId string = '${network.id}/subnets/function'
