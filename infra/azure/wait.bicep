// An empty deployment. A chain of them gives Azure the time to apply a new role assignment; ARM has no wait of its own.
targetScope = 'resourceGroup'
