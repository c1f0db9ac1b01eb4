# Gives an application or a managed identity the Microsoft Graph permission of the function, as grant.sh does:
#
#   ./grant.ps1 -Identity PRINCIPAL_ID [-Yes]
#   ./grant.ps1 -App CLIENT_ID [-Federate PRINCIPAL_ID] [-Yes]
#
# Without -Yes it only reports. Repeating it is safe. It needs az, signed in to the tenant of the devices
# with a role that may consent to application permissions. It keeps to the language of Windows PowerShell 5.1; JSON goes to az in files,
# because az.cmd loses quotation marks.
[CmdletBinding()]
param(
    [ValidatePattern('^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$')][string]$App,
    [ValidatePattern('^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$')][string]$Identity,
    [ValidatePattern('^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$')][string]$Federate,
    [switch]$Yes
)

$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $false
$graphApp = '00000003-0000-0000-c000-000000000000'
$role = '5ac13192-7ace-4fcf-b828-1a26f28068ee' # the same in every tenant
$roleName = 'DeviceManagementServiceConfig.ReadWrite.All'
$script:missing = 0

function Stop-Grant([string]$text, [int]$status = 1) {
    [Console]::Error.WriteLine("grant.ps1: $text")
    exit $status
}

# Returns the output of az. $fault is the message of a failure; without it a failure returns nothing.
function Invoke-Az([string[]]$words, [string]$fault) {
    $ErrorActionPreference = 'Continue' # or Windows PowerShell 5.1 stops at the first warning of az
    $output = & az @words 2>&1
    if ($LASTEXITCODE -eq 0) { return ($output | Where-Object { $_ -isnot [Management.Automation.ErrorRecord] }) -join "`n" }
    [Console]::Error.WriteLine(($output -join "`n"))
    Stop-Grant $fault
}

# Reports a missing step. With -Yes it runs az, up to six times: a new object reaches all of Entra ID within a minute.
function Invoke-Step([string]$name, [string[]]$words, [string]$option, $json) {
    $script:missing++
    if (-not $Yes) { "  missing: $name"; return }
    "  now: $name"
    $file = $null
    if ($json) {
        $file = [IO.Path]::GetTempFileName()
        [IO.File]::WriteAllText($file, ($json | ConvertTo-Json -Compress))
        $words += @($option, "@$file")
    }
    $ErrorActionPreference = 'Continue' # as in Invoke-Az
    try {
        foreach ($attempt in 1..6) {
            $output = (& az @words 2>&1) -join "`n"
            if ($LASTEXITCODE -eq 0) { return }
            if ($output -match 'Authorization_RequestDenied|Insufficient privileges') { break }
            if ($attempt -lt 6) { Start-Sleep -Seconds 10 }
        }
    } finally {
        if ($file) { Remove-Item $file }
    }
    [Console]::Error.WriteLine($output)
    Stop-Grant 'Entra ID refused this step: sign in with the role Privileged Role Administrator, then run the script again'
}

function Get-ServicePrincipal([string]$id) {
    Invoke-Az @('ad', 'sp', 'list', '--filter', "appId eq '$id'", '--query', '[].id', '--output', 'tsv') 'the service principals could not be listed'
}

if ([bool]$App -eq [bool]$Identity -or ($Federate -and -not $App)) {
    Stop-Grant 'usage: grant.ps1 -Identity PRINCIPAL_ID [-Yes], or grant.ps1 -App CLIENT_ID [-Federate PRINCIPAL_ID] [-Yes]' 2
}
if (-not (Get-Command az -ErrorAction SilentlyContinue)) { Stop-Grant 'az is not installed: https://learn.microsoft.com/cli/azure/install-azure-cli' }
$tenant = Invoke-Az @('account', 'show', '--query', 'tenantId', '--output', 'tsv') 'az is not signed in: az login'
$cloud = (Invoke-Az @('cloud', 'show', '--query', 'endpoints.microsoftGraphResourceId', '--output', 'tsv') 'the cloud is unknown').TrimEnd('/')
"In the tenant ${tenant}:"

$graph = Get-ServicePrincipal $graphApp
if (-not $graph) { Stop-Grant 'the tenant has no service principal of Microsoft Graph' }
if ($App) {
    $principal = Get-ServicePrincipal $App
    if (-not $principal) {
        $null = Invoke-Az @('ad', 'app', 'show', '--id', "$App", '--query', 'appId', '--output', 'tsv') "the tenant does not have the application $App"
        Invoke-Step "a service principal for the application $App" @('ad', 'sp', 'create', '--id', "$App")
        foreach ($attempt in 1..6) {
            if ($Yes -and -not $principal) { $principal = Get-ServicePrincipal $App }
            if ($Yes -and -not $principal -and $attempt -lt 6) { Start-Sleep -Seconds 10 }
        }
        if ($Yes -and -not $principal) { Stop-Grant 'the service principal is not visible yet: run the script again in a minute' }
    }
    $listed = Invoke-Az @('ad', 'app', 'permission', 'list', '--id', "$App", '--query', "[].resourceAccess[?id=='$role'].id[]", '--output', 'tsv') 'the permissions could not be listed'
    if (-not $listed) {
        Invoke-Step "$roleName in the permissions that the application requests" @('ad', 'app', 'permission', 'add', '--id', "$App", '--api', $graphApp, '--api-permissions', "$role=Role")
    }
} else {
    $principal = "$Identity"
    $null = Invoke-Az @('ad', 'sp', 'show', '--id', $principal, '--query', 'id', '--output', 'tsv') "the tenant does not have the identity $Identity"
}

$granted = $null
if ($principal) {
    $granted = Invoke-Az @('rest', '--method', 'GET', '--url', "$cloud/v1.0/servicePrincipals/$principal/appRoleAssignments", '--query', "value[?appRoleId=='$role'].id", '--output', 'tsv') 'the granted permissions could not be listed'
}
if (-not $granted) {
    Invoke-Step "the permission $roleName, with consent" @('rest', '--method', 'POST', '--url', "$cloud/v1.0/servicePrincipals/$graph/appRoleAssignedTo", '--headers', 'Content-Type=application/json') '--body' ([ordered]@{ principalId = $principal; resourceId = $graph; appRoleId = $role })
}

if ($Federate) {
    $null = Invoke-Az @('ad', 'sp', 'show', '--id', "$Federate", '--query', 'id', '--output', 'tsv') "the identity $Federate is not in this tenant: an application trusts managed identities of its own tenant alone. Use a client secret or a certificate"
    $trusted = Invoke-Az @('ad', 'app', 'federated-credential', 'list', '--id', "$App", '--query', "[?subject=='$Federate'].name", '--output', 'tsv') 'the federated credentials could not be listed'
    if (-not $trusted) {
        $authority = (Invoke-Az @('cloud', 'show', '--query', 'endpoints.activeDirectory', '--output', 'tsv') 'the cloud is unknown').TrimEnd('/')
        $audience = 'api://AzureADTokenExchange'
        if ($cloud -like '*microsoft.us') { $audience = 'api://AzureADTokenExchangeUSGov' }
        if ($cloud -like '*chinacloudapi.cn') { $audience = 'api://AzureADTokenExchangeChina' }
        Invoke-Step "trust in the managed identity $Federate" @('ad', 'app', 'federated-credential', 'create', '--id', "$App") '--parameters' ([ordered]@{ name = "unassign-$Federate"; issuer = "$authority/$tenant/v2.0"; subject = "$Federate"; audiences = @($audience) })
    }
}

if ($script:missing -eq 0) { '  nothing is missing' }
elseif (-not $Yes) { 'Nothing was changed. Run the script with -Yes to change it.' }
else { 'Done. Graph may need some minutes to apply it, and tokens that were issued before do not have it.' }
