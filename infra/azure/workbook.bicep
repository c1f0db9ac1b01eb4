// Workbook of the audit record, in the Log Analytics workspace. main.bicep includes it; alone:
//
//   az deployment group create --resource-group $GROUP --template-file infra/azure/workbook.bicep --parameters workspaceId=$WORKSPACE_ID

@description('Resource id of the Log Analytics workspace.')
param workspaceId string

@description('Region of the workbook.')
param location string = resourceGroup().location

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, 'autopilot-unassign')
  location: location
  kind: 'shared'
  properties: {
    displayName: 'Autopilot Unassign'
    category: 'workbook'
    sourceId: workspaceId
    serializedData: loadTextContent('workbook.json')
  }
}
