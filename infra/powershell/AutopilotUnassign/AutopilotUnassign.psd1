@{
    RootModule           = 'AutopilotUnassign.psm1'
    ModuleVersion        = '0.1.0'
    GUID                 = '5d0f8a52-8c1c-4a0e-9a53-2f4a1c6f9b77'
    Author               = 'The authors of Autopilot Unassign'
    Copyright            = 'See the file LICENSE'
    Description          = 'Lists and removes the resource accounts of Windows Autopilot devices through an Autopilot Unassign deployment.'
    PowerShellVersion    = '5.1'
    CompatiblePSEditions = @('Desktop', 'Core')
    FunctionsToExport    = @('Get-AutopilotResourceAccount', 'Remove-AutopilotResourceAccount', 'Test-AutopilotUnassign')
    CmdletsToExport      = @()
    VariablesToExport    = @()
    AliasesToExport      = @()
    PrivateData          = @{ PSData = @{ Tags = @('Intune', 'Autopilot', 'Windows') } }
}
