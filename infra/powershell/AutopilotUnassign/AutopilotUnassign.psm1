# Calls an Autopilot Unassign deployment. It uses the language of Windows PowerShell 5.1, and runs in PowerShell 7 too.

Set-StrictMode -Version 2
Add-Type -AssemblyName System.Net.Http

$script:BatchSize = 20
$script:LongestRetry = 900 # seconds of a Retry-After that is waited for
$script:RetryStatus = @(0, 408, 429, 500, 502, 503, 504)
$script:Version = '0.1.0'

Update-TypeData -Force -TypeName AutopilotUnassign.Device -DefaultDisplayPropertySet SerialNumber, GroupTag, UserPrincipalName, ResourceName
Update-TypeData -Force -TypeName AutopilotUnassign.Result -DefaultDisplayPropertySet SerialNumber, Code, UserPrincipalName, Message
Update-TypeData -Force -TypeName AutopilotUnassign.Finding -DefaultDisplayPropertySet Mark, Tried, Found, Fix

# New-UnassignError returns an error record whose FullyQualifiedErrorId begins with a code.
function New-UnassignError([string]$Code, [string]$Message, $Target, [System.Management.Automation.ErrorCategory]$Category = 'InvalidResult') {
    $exception = New-Object System.InvalidOperationException($Message)
    New-Object System.Management.Automation.ErrorRecord($exception, $Code, $Category, $Target)
}

# Get-JsonMember returns a member of a JSON object, $null if it has none.
function Get-JsonMember($Object, [string]$Name) {
    if ($null -ne $Object -and $Object.PSObject.Properties[$Name]) { return $Object.PSObject.Properties[$Name].Value }
}

# ConvertTo-PlainKey returns a key as one line of text that an HTTP header can carry. Its errors never contain the key.
function ConvertTo-PlainKey($Key, [string]$Name) {
    if ($Key -is [securestring]) { $Key = (New-Object System.Net.NetworkCredential('', $Key)).Password }
    $plain = ([string]$Key).Trim([char[]]@(0xFEFF, 0, 9, 10, 13, 32))
    if (-not $plain) { throw (New-UnassignError 'key_invalid' "$Name is empty." $null 'InvalidArgument') }
    if ($plain -match '[\r\n]') { throw (New-UnassignError 'key_invalid' "$Name has more than one line." $null 'InvalidArgument') }
    if ($plain -match '[^\x20-\x7E]') { throw (New-UnassignError 'key_invalid' "$Name has characters that no HTTP header can carry." $null 'InvalidArgument') }
    return $plain
}

# Get-Setting returns the value of a setting of the environment, or of the file that the setting with _FILE names.
function Get-Setting([string]$Name) {
    $file = [Environment]::GetEnvironmentVariable($Name + '_FILE')
    # .NET resolves a relative path from the folder of the process, PowerShell from its current location.
    if ($file) { return [IO.File]::ReadAllText($ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($file.Trim())) }
    return [Environment]::GetEnvironmentVariable($Name)
}

# New-Connection returns the address and the caller's key of a deployment, from parameters or else from the environment.
function New-Connection([string]$Uri, $Secret, $ApiKey, $Token, $FunctionKey, [int]$RetryCount, [int]$TimeoutSec) {
    if (-not $Uri) { $Uri = [Environment]::GetEnvironmentVariable('UNASSIGN_URL') }
    $Uri = ([string]$Uri).Trim()
    if (-not $Uri) { throw (New-UnassignError 'uri_missing' 'The address of the deployment is missing: use -Uri or set UNASSIGN_URL.' $null 'InvalidArgument') }
    if ($Uri -notmatch '://') { throw (New-UnassignError 'uri_invalid' "-Uri '$Uri' lacks https://; use https://$Uri" $null 'InvalidArgument') }
    $address = $null
    if (-not [Uri]::TryCreate($Uri, [UriKind]::Absolute, [ref]$address) -or -not $address.Host) {
        throw (New-UnassignError 'uri_invalid' '-Uri is not an https:// address.' $null 'InvalidArgument')
    }
    if ($address.Scheme -ne 'https' -and -not ($address.Scheme -eq 'http' -and $address.IsLoopback)) {
        throw (New-UnassignError 'uri_invalid' '-Uri must begin with https://, since a key travels with the request.' $null 'InvalidArgument')
    }
    $given = @($Secret, $ApiKey, $Token | Where-Object { $_ })
    if ($given.Count -eq 0) {
        $Secret = Get-Setting 'UNASSIGN_SECRET'
        $ApiKey = Get-Setting 'UNASSIGN_API_KEY'
        $Token = Get-Setting 'UNASSIGN_TOKEN'
        $given = @($Secret, $ApiKey, $Token | Where-Object { $_ })
    }
    if (-not $FunctionKey) { $FunctionKey = Get-Setting 'UNASSIGN_FUNCTION_KEY' }
    if ($given.Count -gt 1 -or ($given.Count -eq 0 -and -not $FunctionKey)) {
        throw (New-UnassignError 'key_missing' 'Use one of -Secret, -ApiKey and -Token, or set one of UNASSIGN_SECRET, UNASSIGN_API_KEY and UNASSIGN_TOKEN.' $null 'InvalidArgument')
    }
    $connection = @{ Base = $address.GetLeftPart([UriPartial]::Authority); Query = $address.Query.TrimStart('?'); Key = $null; RetryCount = $RetryCount; Headers = @{}; Client = $null }
    $path = $address.AbsolutePath.TrimEnd('/')
    if ($path -and $path -notmatch '^/api(/(unassign|devices|doctor))?$') { $connection.Base += $path -replace '/api/(unassign|devices|doctor)$', '' }
    if ($Secret) {
        $plain = (ConvertTo-PlainKey $Secret 'The signing key') -replace '^whsec_', ''
        try { $connection.Key = [Convert]::FromBase64String($plain) }
        catch { throw (New-UnassignError 'key_invalid' 'The signing key is not base64; it looks like whsec_ and 32 or more letters, digits, + and /.' $null 'InvalidArgument') }
    }
    if ($ApiKey) { $connection.Headers['x-api-key'] = ConvertTo-PlainKey $ApiKey 'The API key' }
    if ($Token) { $connection.Headers['Authorization'] = 'Bearer ' + (ConvertTo-PlainKey $Token 'The token') }
    if ($FunctionKey) { $connection.Headers['x-functions-key'] = ConvertTo-PlainKey $FunctionKey 'The function key' }
    [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
    $handler = New-Object System.Net.Http.HttpClientHandler
    $handler.AllowAutoRedirect = $false
    $connection.Client = New-Object System.Net.Http.HttpClient($handler)
    $connection.Client.Timeout = [TimeSpan]::FromSeconds($TimeoutSec)
    return $connection
}

# Test-NotSent reports whether an exception of the HTTP client means that no connection was there, so that nothing was sent.
function Test-NotSent($Exception) {
    for ($e = $Exception; $null -ne $e; $e = $e.InnerException) {
        if ($e -is [System.Security.Authentication.AuthenticationException]) { return $true }
        if ($e -is [System.Net.Sockets.SocketException] -and
            @('ConnectionRefused', 'HostNotFound', 'NoData', 'TryAgain', 'HostUnreachable', 'NetworkUnreachable', 'AddressNotAvailable') -contains [string]$e.SocketErrorCode) { return $true }
        if ($e -is [System.Net.WebException] -and
            @('NameResolutionFailure', 'ConnectFailure', 'TrustFailure', 'SecureChannelFailure', 'ProxyNameResolutionFailure') -contains [string]$e.Status) { return $true }
        if ($e.PSObject.Properties['HttpRequestError'] -and
            @('NameResolutionError', 'ConnectionError', 'SecureConnectionError', 'ProxyTunnelError') -contains [string]$e.HttpRequestError) { return $true }
    }
    return $false
}

# Invoke-Attempt sends a request once and returns the response; of a request without one, Status is 0.
function Invoke-Attempt($Connection, [string]$Method, [string]$Route, [string]$Query, [string]$Id, [string]$Body) {
    $queries = @($Connection.Query, $Query | Where-Object { $_ }) -join '&'
    $address = $Connection.Base + $Route
    if ($queries) { $address += '?' + $queries }
    $request = New-Object System.Net.Http.HttpRequestMessage((New-Object System.Net.Http.HttpMethod($Method)), $address)
    if ($Method -eq 'POST') { $request.Content = New-Object System.Net.Http.StringContent($Body, [Text.Encoding]::UTF8, 'application/json') }
    $headers = @{ 'Accept' = 'application/json'; 'Prefer' = 'return=representation'; 'User-Agent' = 'AutopilotUnassign.psm1/' + $script:Version }
    foreach ($name in $Connection.Headers.Keys) { $headers[$name] = $Connection.Headers[$name] }
    if ($Connection.Key) {
        $timestamp = [DateTimeOffset]::UtcNow.ToUnixTimeSeconds().ToString()
        $hmac = New-Object System.Security.Cryptography.HMACSHA256
        $hmac.Key = $Connection.Key
        $mac = $hmac.ComputeHash([Text.Encoding]::UTF8.GetBytes("$Id.$timestamp.$Body"))
        $headers['webhook-id'] = $Id
        $headers['webhook-timestamp'] = $timestamp
        $headers['webhook-signature'] = 'v1,' + [Convert]::ToBase64String($mac)
    } else {
        $headers['Idempotency-Key'] = $Id
    }
    foreach ($name in $headers.Keys) { [void]$request.Headers.TryAddWithoutValidation($name, [string]$headers[$name]) }
    $result = @{ Status = 0; Sent = $true; FromFunction = $false; Body = $null; RetryAfter = 0; Text = '' }
    try {
        $response = $Connection.Client.SendAsync($request).GetAwaiter().GetResult()
        $text = $response.Content.ReadAsStringAsync().GetAwaiter().GetResult()
        $result.Status = [int]$response.StatusCode
        $result.FromFunction = $response.Headers.Contains('X-Request-ID')
        $after = $response.Headers.RetryAfter
        if ($after -and $null -ne $after.Delta) { $result.RetryAfter = [int]$after.Delta.TotalSeconds }
        elseif ($after -and $null -ne $after.Date) { $result.RetryAfter = [int][Math]::Max(1, ($after.Date - [DateTimeOffset]::UtcNow).TotalSeconds) }
        try { $result.Body = $text | ConvertFrom-Json } catch { $result.Body = $null }
    } catch {
        $inner = $_.Exception.GetBaseException()
        $result.Sent = -not (Test-NotSent $_.Exception)
        $result.Text = $inner.Message
    } finally {
        $request.Dispose()
    }
    return $result
}

# Wait-Retry waits before a retry, for as long as the response says or else a backoff. It returns $false where there is none.
function Wait-Retry($Connection, $Response, [int]$Tried, [string]$Why) {
    if ($Tried -ge $Connection.RetryCount) { return $false }
    $wait = $Response.RetryAfter
    if ($wait -le 0) { $wait = [Math]::Min(30, [Math]::Pow(2, $Tried + 1)) }
    if ($wait -gt $script:LongestRetry) {
        Write-Warning "$Why; Retry-After is $wait s; giving up (limit $($script:LongestRetry) s)"
        return $false
    }
    Write-Verbose "$Why; retrying in $wait s ($($Tried + 1) of $($Connection.RetryCount))"
    Start-Sleep -Seconds $wait
    return $true
}

# Invoke-Retried sends a request, and again by the rule for callers until a response has results or needs no retry. All attempts
# have one id.
function Invoke-Retried($Connection, [string]$Method, [string]$Route, [string]$Query, [string]$Body) {
    $id = 'msg_' + [guid]::NewGuid().ToString()
    $sent = $false
    for ($tried = 0; ; $tried++) {
        $response = Invoke-Attempt $Connection $Method $Route $Query $id $Body
        if ($script:RetryStatus -notcontains $response.Status -or (Get-JsonMember $response.Body 'results')) { return $response }
        if (-not $response.Sent -and -not $sent) { return $response }
        $sent = $response.Sent = $true # or an earlier attempt was
        $why = 'status ' + $response.Status
        if ($response.Status -eq 0) { $why = 'no response' }
        if (-not (Wait-Retry $Connection $response $tried $why)) { return $response }
    }
}

# Get-Failure returns the error of a response that is about the whole request, $null if there is none.
function Get-Failure($Connection, $Response) {
    $status = $Response.Status
    if ($status -eq 0 -and -not $Response.Sent) {
        return New-UnassignError 'not_sent' "No connection to $($Connection.Base), so nothing was sent: $($Response.Text)" $null 'ConnectionError'
    }
    if ($status -eq 0) {
        return New-UnassignError 'no_response' "No response from $($Connection.Base), so the outcome is unknown: $($Response.Text)" $null 'ConnectionError'
    }
    $failure = Get-JsonMember $Response.Body 'error'
    if ($failure -and (Get-JsonMember $failure 'code')) {
        $text = [string](Get-JsonMember $failure 'message')
        if (Get-JsonMember $Response.Body 'field') { $text += ' (' + $Response.Body.field + ')' }
        return New-UnassignError $failure.code "$status $($failure.code): $text" $Response.Body
    }
    if ($status -ge 200 -and $status -le 299 -and $Response.FromFunction) { return $null }
    $text = "The response $status is not from the function, but from the platform in front of it. Check -Uri."
    return New-UnassignError 'bad_response' $text $null 'ConnectionError'
}

function Get-AutopilotResourceAccount {
    <#
    .SYNOPSIS
    Lists the Windows Autopilot devices that carry a resource account.
    .DESCRIPTION
    Lists the devices from an Autopilot Unassign deployment, page by page. The caller must be named in OPERATOR_CALLERS of the
    deployment. The objects can be piped to Remove-AutopilotResourceAccount, which then refuses a device that carries another
    account by then.
    .PARAMETER GroupTag
    Lists the devices with this group tag.
    .PARAMETER SerialNumber
    Lists the devices with this serial number.
    .PARAMETER Uri
    The address of the deployment. Without it, the environment variable UNASSIGN_URL counts.
    .PARAMETER Secret
    The signing key, whsec_... Without a key or token, UNASSIGN_SECRET, UNASSIGN_API_KEY or UNASSIGN_TOKEN counts, or the file that
    one of them with _FILE at its end names.
    .PARAMETER ApiKey
    The API key, instead of a signing key.
    .PARAMETER Token
    An access token of Entra ID, instead of a key. It may be a SecureString, as Get-AzAccessToken returns it, or text.
    .PARAMETER FunctionKey
    The function key, where the host of the function app asks for one.
    .PARAMETER RetryCount
    The most retries of a request.
    .PARAMETER TimeoutSec
    The seconds for each attempt of a request.
    .EXAMPLE
    Get-AutopilotResourceAccount -Uri https://contoso.azurewebsites.net -Secret (Read-Host -AsSecureString) -GroupTag Retired

    Lists the devices with the group tag Retired.
    .EXAMPLE
    Get-AutopilotResourceAccount | Export-Csv devices.csv -NoTypeInformation

    Writes a list to review in a spreadsheet. The address and the key are in the environment.
    #>
    [CmdletBinding()]
    [OutputType('AutopilotUnassign.Device')]
    param(
        # An empty filter, such as of a variable that is not set, would list every device.
        [ValidateNotNullOrEmpty()][string]$GroupTag,
        [ValidateNotNullOrEmpty()][string]$SerialNumber,
        [Alias('Url')][string]$Uri,
        [securestring]$Secret,
        [securestring]$ApiKey,
        [object]$Token,
        [securestring]$FunctionKey,
        [ValidateRange(0, 100)][int]$RetryCount = 3,
        [ValidateRange(1, 3600)][int]$TimeoutSec = 30
    )
    try { $connection = New-Connection $Uri $Secret $ApiKey $Token $FunctionKey $RetryCount $TimeoutSec }
    catch { $PSCmdlet.ThrowTerminatingError($_) }
    try {
        $filter = @()
        if ($GroupTag) { $filter += 'groupTag=' + [Uri]::EscapeDataString($GroupTag) }
        if ($SerialNumber) { $filter += 'serialNumber=' + [Uri]::EscapeDataString($SerialNumber) }
        $next = $null
        do {
            $query = $filter
            if ($next) { $query += 'pageToken=' + [Uri]::EscapeDataString($next) }
            $response = Invoke-Retried $connection 'GET' '/api/devices' ($query -join '&') ''
            $failure = Get-Failure $connection $response
            if ($failure) { $PSCmdlet.ThrowTerminatingError($failure) }
            foreach ($device in @(Get-JsonMember $response.Body 'devices')) {
                if (-not $device) { continue }
                $account = Get-JsonMember $device 'account'
                [pscustomobject]@{
                    PSTypeName        = 'AutopilotUnassign.Device'
                    DeviceId          = Get-JsonMember $device 'deviceId'
                    SerialNumber      = Get-JsonMember $device 'serialNumber'
                    GroupTag          = Get-JsonMember $device 'groupTag'
                    UserPrincipalName = Get-JsonMember $account 'userPrincipalName'
                    ResourceName      = Get-JsonMember $account 'resourceName'
                }
            }
            $last = $next
            $next = Get-JsonMember $response.Body 'nextPageToken'
        } while ($next -and $next -ne $last)
    } finally {
        $connection.Client.Dispose()
    }
}

# New-Result returns the result of a device from its part of a response.
function New-Result($Device, $Item, $Whole, [int]$Status) {
    $failure = Get-JsonMember $Item 'error'
    $account = Get-JsonMember $Item 'account'
    $code = Get-JsonMember $Item 'code'
    if (-not $code) { $code = Get-JsonMember $failure 'code' }
    $message = Get-JsonMember $Item 'message'
    if (-not $message) { $message = Get-JsonMember $failure 'message' }
    $own = Get-JsonMember $Item 'status'
    if (-not $own) { $own = $Status }
    $outcome = Get-JsonMember $Item 'outcome'
    if (-not $outcome) { $outcome = 'done' }
    if ($code -eq 'would_unassign') { $outcome = 'not_done' }
    $deviceId = $Device.Selector['deviceId']
    if (-not $deviceId) { $deviceId = Get-JsonMember $Item 'deviceId' }
    $serial = Get-JsonMember $Item 'serialNumber'
    if (-not $serial) { $serial = $Device.SerialNumber }
    [pscustomobject]@{
        PSTypeName        = 'AutopilotUnassign.Result'
        DeviceId          = $deviceId
        SerialNumber      = $serial
        UserPrincipalName = Get-JsonMember $account 'userPrincipalName'
        ResourceName      = Get-JsonMember $account 'resourceName'
        Code              = $code
        Message           = $message
        Outcome           = $outcome
        Verification      = Get-JsonMember $Item 'verification'
        Status            = [int]$own
        RequestId         = Get-JsonMember $Whole 'requestId'
        GraphRequestId    = Get-JsonMember $Item 'graphRequestId'
    }
}

# Send-Batch sends up to 20 devices in one request, and again the devices that a retry may help. It returns a result for each
# device, with the error that ends the run in Failure if there is one.
function Send-Batch($Connection, $Devices, [bool]$DryRun, [bool]$Verify, [string]$Reference) {
    $results = @{}
    $pending = @($Devices)
    $failure = $null
    for ($tried = 0; $pending.Count -gt 0; $tried++) {
        $body = @{ devices = @($pending | ForEach-Object { $_.Selector }) }
        if ($DryRun) { $body['dryRun'] = $true }
        if ($Verify) { $body['verify'] = $true }
        if ($Reference) { $body['reference'] = $Reference }
        $response = Invoke-Retried $Connection 'POST' '/api/unassign' '' (ConvertTo-Json -InputObject $body -Depth 5 -Compress)
        $field = [string](Get-JsonMember $response.Body 'field')
        if ($response.Status -eq 400 -and $field -match '^devices\[(\d+)\]' -and [int]$Matches[1] -lt $pending.Count) {
            $refused = $pending[[int]$Matches[1]] # one odd device never spoils the others
            $results[$refused.Number] = New-Result $refused $response.Body $response.Body 400
            $pending = @($pending | Where-Object { $_.Number -ne $refused.Number })
            continue
        }
        $items = @(Get-JsonMember $response.Body 'results' | Where-Object { $_ })
        if (-not ($response.FromFunction -and $items.Count -eq $pending.Count)) {
            $failure = Get-Failure $Connection $response
            if (-not $failure) { $failure = New-UnassignError 'bad_response' 'The response has no result for each device, so the outcome is unknown.' $null }
            break
        }
        $again = @()
        $lasting = $null
        $lastingCount = 0
        for ($i = 0; $i -lt $items.Count; $i++) {
            $result = New-Result $pending[$i] $items[$i] $response.Body $response.Status
            $results[$pending[$i].Number] = $result
            if ($script:RetryStatus -contains $result.Status) { $again += $pending[$i] }
            elseif (@(401, 424) -contains $result.Status -or ($result.Code -eq 'would_unassign' -and -not $DryRun)) { $lasting = $result; $lastingCount++ }
        }
        if ($lasting -and $lastingCount + $again.Count -eq @($Devices).Count) {
            $failure = New-UnassignError $lasting.Code "No device can be changed before this is fixed: $($lasting.Message)" $lasting
            break
        }
        $pending = $again
        if ($pending.Count -gt 0 -and -not (Wait-Retry $Connection $response $tried "$($pending.Count) devices to retry")) { break }
    }
    return @{ Results = $results; Failure = $failure }
}

function Remove-AutopilotResourceAccount {
    <#
    .SYNOPSIS
    Removes the resource account from Windows Autopilot devices.
    .DESCRIPTION
    Has an Autopilot Unassign deployment remove the resource account from devices, twenty devices in a request. It returns one
    object for each device, with the account that the device carried: keep the objects, they are the undo list. Each refused device
    has an error record, whose FullyQualifiedErrorId begins with the code of the deployment, such as device_not_found.

    -WhatIf is a dry run on the server: it reads each device and returns what would happen, and changes nothing.

    Failures that pass are retried: after 408, 429, 500, 502, 503, 504 and no response, for the seconds in Retry-After.
    .PARAMETER DeviceId
    The id of the Autopilot device. It counts where an object has a serial number too.
    .PARAMETER SerialNumber
    The serial number of the device.
    .PARAMETER ExpectedUserPrincipalName
    The account that the device must still carry, by its user principal name. Objects of Get-AutopilotResourceAccount, of
    Import-Csv and of Graph PowerShell bring it along.
    .PARAMETER ExpectedResourceName
    The same, by the resource name. It counts where there is no user principal name.
    .PARAMETER NoExpect
    Ignores the accounts that piped objects bring along.
    .PARAMETER By
    The property that counts where an object has both: DeviceId (the default) or SerialNumber. Objects of Intune's managed devices
    have another id, so they need SerialNumber.
    .PARAMETER Verify
    Reads each device again after the change.
    .PARAMETER Reference
    The ticket for the audit record.
    .PARAMETER Uri
    The address of the deployment. Without it, the environment variable UNASSIGN_URL counts.
    .PARAMETER Secret
    The signing key, whsec_... Without a key or token, UNASSIGN_SECRET, UNASSIGN_API_KEY or UNASSIGN_TOKEN counts, or the file that
    one of them with _FILE at its end names.
    .PARAMETER ApiKey
    The API key, instead of a signing key.
    .PARAMETER Token
    An access token of Entra ID, instead of a key. It may be a SecureString, as Get-AzAccessToken returns it, or text.
    .PARAMETER FunctionKey
    The function key, where the host of the function app asks for one.
    .PARAMETER RetryCount
    The most retries of a request.
    .PARAMETER TimeoutSec
    The seconds for each attempt of a request.
    .EXAMPLE
    Remove-AutopilotResourceAccount -SerialNumber 5CG1234ABC -WhatIf

    Returns what would happen to one device. The address and the key are in the environment.
    .EXAMPLE
    Get-AutopilotResourceAccount -GroupTag Retired | Remove-AutopilotResourceAccount -Reference RITM0012345 | Export-Csv undo.csv -NoTypeInformation

    Removes the resource account from the devices with the group tag Retired, asks before each, and writes the undo list.
    .EXAMPLE
    Import-Csv devices.csv | Remove-AutopilotResourceAccount -Confirm:$false -ErrorVariable refused
    $refused | Group-Object FullyQualifiedErrorId

    Works off a list without questions, and counts the reasons of the refused devices.
    .EXAMPLE
    Get-MgDeviceManagementWindowsAutopilotDeviceIdentity -All | Where-Object GroupTag -eq 'Retired' | Remove-AutopilotResourceAccount

    Takes objects of Graph PowerShell.
    #>
    [CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
    [OutputType('AutopilotUnassign.Result')]
    param(
        [Parameter(ValueFromPipelineByPropertyName = $true)][Alias('Id', 'AutopilotId', 'Device ID')][AllowEmptyString()][string]$DeviceId,
        [Parameter(ValueFromPipelineByPropertyName = $true)][Alias('Serial', 'Serial number', 'Device Serial Number')][AllowEmptyString()][string]$SerialNumber,
        [Parameter(ValueFromPipelineByPropertyName = $true)][Alias('UserPrincipalName', 'expected', 'account_before')][AllowEmptyString()][string]$ExpectedUserPrincipalName,
        [Parameter(ValueFromPipelineByPropertyName = $true)][Alias('ResourceName')][AllowEmptyString()][string]$ExpectedResourceName,
        [switch]$NoExpect,
        [ValidateSet('DeviceId', 'SerialNumber')][string]$By = 'DeviceId',
        [switch]$Verify,
        [string]$Reference,
        [Alias('Url')][string]$Uri,
        [securestring]$Secret,
        [securestring]$ApiKey,
        [object]$Token,
        [securestring]$FunctionKey,
        [ValidateRange(0, 100)][int]$RetryCount = 3,
        [ValidateRange(1, 3600)][int]$TimeoutSec = 30
    )
    begin {
        # Serial numbers that firmware gives to many devices.
        $placeholders = '^(to be filled by o\.?e\.?m\.?|default string|system serial number|chassis serial number|not applicable|not specified|none|unknown|n/?a|null|0+)$'
        $dryRun = [bool]$WhatIfPreference
        if ($dryRun -and $Verify) {
            $PSCmdlet.ThrowTerminatingError((New-UnassignError 'verify_invalid' '-WhatIf changes nothing, so there is nothing to -Verify.' $null 'InvalidArgument'))
        }
        try { $connection = New-Connection $Uri $Secret $ApiKey $Token $FunctionKey $RetryCount $TimeoutSec }
        catch { $PSCmdlet.ThrowTerminatingError($_) }
        $waiting = New-Object System.Collections.ArrayList
        $counts = @{ Read = 0; Done = 0; Refused = 0 }

        # SendWaiting sends the devices that wait, and writes their objects and errors.
        $sendWaiting = {
            if ($waiting.Count -eq 0) { return }
            $devices = $waiting.ToArray()
            $waiting.Clear()
            Write-Progress -Activity 'Autopilot Unassign' -Status "$($counts.Done) done, $($counts.Refused) refused, $($devices.Count) under way"
            $sent = Send-Batch $connection $devices $dryRun ([bool]$Verify) $Reference
            foreach ($device in $devices) {
                $result = $sent.Results[$device.Number]
                if (-not $result) {
                    $outcome = 'not_done'
                    if (@('no_response', 'bad_response') -contains ($sent.Failure.FullyQualifiedErrorId -split ',')[0]) { $outcome = 'unknown' }
                    $result = New-Result $device ([pscustomobject]@{ code = ($sent.Failure.FullyQualifiedErrorId -split ',')[0]; message = $sent.Failure.Exception.Message; outcome = $outcome }) $null 0
                }
                $result
                if ($result.Status -ge 200 -and $result.Status -le 299) {
                    $counts.Done++
                } else {
                    $counts.Refused++
                    if (-not $sent.Failure) {
                        $name = $result.SerialNumber
                        if (-not $name) { $name = $result.DeviceId }
                        $PSCmdlet.WriteError((New-UnassignError ([string]$result.Code) "$name`: $($result.Status) $($result.Code). $($result.Message)" $result))
                    }
                }
            }
            if ($sent.Failure) { $PSCmdlet.ThrowTerminatingError($sent.Failure) }
        }
    }
    process {
        $serial = $SerialNumber.Trim()
        $selector = [ordered]@{}
        if ($DeviceId -and ($By -eq 'DeviceId' -or -not $serial)) { $selector['deviceId'] = $DeviceId.Trim() }
        elseif ($serial) { $selector['serialNumber'] = $serial }
        else {
            $PSCmdlet.WriteError((New-UnassignError 'selector_missing' 'An object has neither DeviceId nor SerialNumber.' $_ 'InvalidArgument'))
            return
        }
        if ($selector.Contains('serialNumber') -and $serial -match $placeholders) {
            $PSCmdlet.WriteError((New-UnassignError 'serial_number_placeholder' "'$serial' is a placeholder that many devices share, not a serial number." $_ 'InvalidArgument'))
            return
        }
        # Of an object with several of its names PowerShell binds one, even an empty one.
        foreach ($other in 'userPrincipalName', 'expected', 'account_before') {
            if ($PSCmdlet.MyInvocation.ExpectingInput -and -not $ExpectedUserPrincipalName -and -not $ExpectedResourceName) {
                $ExpectedUserPrincipalName = [string](Get-JsonMember $_ $other)
            }
        }
        $account = ''
        if (-not $NoExpect -and $ExpectedUserPrincipalName -match '@') { $selector['expected'] = @{ userPrincipalName = $ExpectedUserPrincipalName } }
        elseif (-not $NoExpect -and $ExpectedUserPrincipalName) { $selector['expected'] = @{ resourceName = $ExpectedUserPrincipalName } }
        elseif (-not $NoExpect -and $ExpectedResourceName) { $selector['expected'] = @{ resourceName = $ExpectedResourceName } }
        if ($selector.Contains('expected')) { $account = ' ' + $selector['expected'].Values }
        $name = $serial
        if (-not $name) { $name = $DeviceId }
        if (-not $dryRun -and -not $PSCmdlet.ShouldProcess("device $name", "Remove the resource account$account")) { return }
        $counts.Read++
        [void]$waiting.Add(@{ Number = $counts.Read; Selector = $selector; SerialNumber = $serial })
        if ($waiting.Count -ge $script:BatchSize) { . $sendWaiting }
    }
    end {
        try {
            . $sendWaiting
        } finally {
            Write-Progress -Activity 'Autopilot Unassign' -Completed
            $connection.Client.Dispose()
        }
    }
}

function Test-AutopilotUnassign {
    <#
    .SYNOPSIS
    Has an Autopilot Unassign deployment examine itself.
    .DESCRIPTION
    Returns one object for each check: Mark is ok, warning, failed or not_tried, and Fix has the steps that help. A failed check
    writes one error record. The caller must be named in OPERATOR_CALLERS of the deployment. Nothing is changed.
    .PARAMETER Uri
    The address of the deployment. Without it, the environment variable UNASSIGN_URL counts.
    .PARAMETER Secret
    The signing key, whsec_... Without a key or token, UNASSIGN_SECRET, UNASSIGN_API_KEY or UNASSIGN_TOKEN counts.
    .PARAMETER ApiKey
    The API key, instead of a signing key.
    .PARAMETER Token
    An access token of Entra ID, instead of a key.
    .PARAMETER FunctionKey
    The function key, where the host of the function app asks for one.
    .PARAMETER RetryCount
    The most retries of a request.
    .PARAMETER TimeoutSec
    The seconds for each attempt of a request.
    .EXAMPLE
    Test-AutopilotUnassign | Where-Object Mark -ne ok

    Returns the checks that need attention. The address and the key are in the environment.
    #>
    [CmdletBinding()]
    [OutputType('AutopilotUnassign.Finding')]
    param(
        [Alias('Url')][string]$Uri,
        [securestring]$Secret,
        [securestring]$ApiKey,
        [object]$Token,
        [securestring]$FunctionKey,
        [ValidateRange(0, 100)][int]$RetryCount = 3,
        [ValidateRange(1, 3600)][int]$TimeoutSec = 60
    )
    try { $connection = New-Connection $Uri $Secret $ApiKey $Token $FunctionKey $RetryCount $TimeoutSec }
    catch { $PSCmdlet.ThrowTerminatingError($_) }
    try {
        $response = Invoke-Retried $connection 'GET' '/api/doctor' '' ''
    } finally {
        $connection.Client.Dispose()
    }
    $failure = Get-Failure $connection $response
    if ($failure) { $PSCmdlet.ThrowTerminatingError($failure) }
    $findings = @(Get-JsonMember $response.Body 'findings' | Where-Object { $_ })
    foreach ($finding in $findings) {
        $fix = Get-JsonMember $finding 'fix'
        [pscustomobject]@{
            PSTypeName = 'AutopilotUnassign.Finding'
            Check      = Get-JsonMember $finding 'check'
            Subject    = Get-JsonMember $finding 'subject'
            Mark       = Get-JsonMember $finding 'mark'
            Tried      = Get-JsonMember $finding 'tried'
            Found      = Get-JsonMember $finding 'found'
            Fix        = $fix
        }
    }
    $failed = @($findings | Where-Object { $_.mark -eq 'failed' }).Count
    if ($failed -gt 0) { $PSCmdlet.WriteError((New-UnassignError 'checks_failed' "$failed of $($findings.Count) checks failed." $response.Body)) }
}

Export-ModuleMember -Function Get-AutopilotResourceAccount, Remove-AutopilotResourceAccount, Test-AutopilotUnassign
