# Runs the tests of the module against the program that UNASSIGN_PROGRAM names.
$ErrorActionPreference = 'Stop'
if (-not (Get-Module -ListAvailable Pester | Where-Object Version -ge '5.0')) {
    'Pester 5 or later is not installed: the PowerShell module was not tested'
    exit 0
}
Import-Module Pester
$result = Invoke-Pester -Path $PSScriptRoot -PassThru
exit $result.FailedCount
