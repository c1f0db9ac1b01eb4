// The workbook over the audit records, in the resource group of the function's Log Analytics workspace:
//
//   az deployment group create --resource-group $GROUP --template-file infra/azure/workbook.bicep --parameters workspaceId=$WORKSPACE_ID

@description('The resource id of the Log Analytics workspace that the function logs to.')
param workspaceId string

@description('Where the workbook is kept.')
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
