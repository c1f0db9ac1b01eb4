# Pester tests of the module against the program (UNASSIGN_PROGRAM) on its simulated cloud, and against scripted responses.
# make powershell runs them.

BeforeAll {
    Import-Module (Join-Path $PSScriptRoot 'AutopilotUnassign/AutopilotUnassign.psd1') -Force
    foreach ($name in 'URL', 'SECRET', 'API_KEY', 'TOKEN', 'FUNCTION_KEY', 'SECRET_FILE', 'API_KEY_FILE', 'TOKEN_FILE', 'FUNCTION_KEY_FILE') {
        [Environment]::SetEnvironmentVariable('UNASSIGN_' + $name, $null)
    }

    function Get-FreePort {
        $socket = New-Object System.Net.Sockets.TcpListener([Net.IPAddress]::Loopback, 0)
        $socket.Start()
        $port = $socket.LocalEndpoint.Port
        $socket.Stop()
        return $port
    }

    # Start-Program starts the program on its simulated cloud, and returns its address and keys.
    function Start-Program {
        $port = Get-FreePort
        $out = Join-Path $TestDrive "out-$port.txt"
        $process = Start-Process -PassThru -FilePath $env:UNASSIGN_PROGRAM -ArgumentList 'serve', '-listen', "127.0.0.1:$port" -RedirectStandardOutput $out -RedirectStandardError "$out.err"
        $deadline = (Get-Date).AddSeconds(20)
        while ((Get-Date) -lt $deadline) {
            $text = Get-Content -Raw -ErrorAction SilentlyContinue $out
            if ($text -match 'Stop with Ctrl-C') { break }
            Start-Sleep -Milliseconds 50
        }
        $text -match 'whsec_\S+' | Should -BeTrue
        return @{ Process = $process; Uri = "http://127.0.0.1:$port"; Secret = (ConvertTo-SecureString $Matches[0] -AsPlainText -Force); Plain = $Matches[0]; Text = $text }
    }

    # Start-Script starts a server that answers by a list of scripted responses, and records the requests.
    function Start-Script([object[]]$Responses) {
        $port = Get-FreePort
        $listener = New-Object System.Net.HttpListener
        $listener.Prefixes.Add("http://127.0.0.1:$port/")
        $listener.Start()
        $requests = [System.Collections.ArrayList]::Synchronized((New-Object System.Collections.ArrayList))
        $shell = [powershell]::Create()
        [void]$shell.AddScript({
                param($listener, $responses, $requests)
                foreach ($response in $responses) {
                    $context = $listener.GetContext()
                    $reader = New-Object IO.StreamReader($context.Request.InputStream)
                    [void]$requests.Add(@{ Headers = $context.Request.Headers; Body = $reader.ReadToEnd(); Query = $context.Request.Url.Query; Path = $context.Request.Url.AbsolutePath })
                    $context.Response.StatusCode = $response.Status
                    foreach ($name in $response.Headers.Keys) { $context.Response.Headers[$name] = $response.Headers[$name] }
                    if ($response.Body) {
                        $bytes = [Text.Encoding]::UTF8.GetBytes($response.Body)
                        $context.Response.OutputStream.Write($bytes, 0, $bytes.Length)
                    }
                    $context.Response.Close()
                }
            }).AddArgument($listener).AddArgument($Responses).AddArgument($requests)
        [void]$shell.BeginInvoke()
        $script:listeners += $listener
        return @{ Uri = "http://127.0.0.1:$port"; Requests = $requests }
    }

    function New-Key([string]$Text) { ConvertTo-SecureString $Text -AsPlainText -Force }
    $key = New-Key ('k' * 24)
    $ours = @{ 'X-Request-ID' = 'x' }
    $script:listeners = @()
    $quick = @{ ApiKey = $key; TimeoutSec = 5 }
}

Describe 'against the program' {
    BeforeAll { $program = Start-Program; $connection = @{ Uri = $program.Uri; Secret = $program.Secret } }
    AfterAll { $program.Process.Kill() }

    It 'reports what would happen with -WhatIf, and changes nothing' {
        foreach ($i in 1, 2) {
            $result = Remove-AutopilotResourceAccount @connection -SerialNumber 5CG1234ABC -WhatIf
            $result.Code | Should -Be 'would_unassign'
            $result.SerialNumber | Should -Be '5CG1234ABC'
            $result.UserPrincipalName | Should -Be 'room.fjord@contoso.com'
        }
    }

    It 'removes the account from piped objects, and returns one object for each' {
        $devices = [pscustomobject]@{ Id = '6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02'; SerialNumber = '5CG5678DEF'; UserPrincipalName = 'room.skog@contoso.com' },
        [pscustomobject]@{ Id = ''; 'Serial number' = 'PF3-0123-4567'; UserPrincipalName = $null }
        $results = @($devices | Remove-AutopilotResourceAccount @connection -Confirm:$false -Verify -Reference RITM1)
        $results.Code | Should -Be @('unassigned', 'unassigned')
        $results.UserPrincipalName | Should -Be @('room.skog@contoso.com', 'kiosk.lobby@contoso.com')
        $results[1].Verification | Should -Be 'cleared'
    }

    It 'has an error record for each refused device, with its code' {
        $csv = "deviceId,serialNumber,expectedUserPrincipalName`n,NO-SUCH,`nx,,`n,R90A2B3C,other@contoso.com`n,R90D4E5F,`n,Default string,`n" | ConvertFrom-Csv
        $results = @($csv | Remove-AutopilotResourceAccount @connection -Confirm:$false -ErrorAction SilentlyContinue -ErrorVariable refused)
        ($refused.FullyQualifiedErrorId | Sort-Object) -join ' ' | Should -Be (@('device_id_invalid', 'device_not_found', 'serial_number_placeholder', 'state_changed' | ForEach-Object { "$_,Remove-AutopilotResourceAccount" }) -join ' ')
        $results.Count | Should -Be 4
        ($results | Where-Object Code -eq 'unassigned').UserPrincipalName | Should -Be 'room.dal@contoso.com'
        ($results | Where-Object Code -eq 'state_changed').UserPrincipalName | Should -Be 'room.elv@contoso.com'
    }

    It 'lists the devices, and hands them on' {
        $devices = @(Get-AutopilotResourceAccount @connection -GroupTag Kiosk)
        $devices.SerialNumber | Should -Contain 'Default string'
        ($devices | Where-Object UserPrincipalName -eq 'kiosk.north@contoso.com').DeviceId | Should -Match '^6f1a'
        $again = @($devices | Remove-AutopilotResourceAccount @connection -WhatIf)
        $again.Code | Select-Object -Unique | Should -Be 'would_unassign'
    }

    It 'takes the file of unassign list' {
        $file = Join-Path $TestDrive 'devices.csv'
        & $env:UNASSIGN_PROGRAM list -url $program.Uri -secret-file (Set-Content -PassThru -Path (Join-Path $TestDrive key) $program.Plain | ForEach-Object { Join-Path $TestDrive key }) -csv $file 2>$null
        $results = @(Import-Csv $file | Remove-AutopilotResourceAccount @connection -WhatIf)
        $results.Count | Should -BeGreaterThan 2
        $results.Code | Select-Object -Unique | Should -Be 'would_unassign'
    }

    It 'expects the accounts that a dry run of unassign call has found' {
        $csv = "serialNumber,account_before,code,outcome,expected`nR90A2B3C,other@contoso.com,would_unassign,dry_run,`n5CG1234ABC,,would_unassign,dry_run,room.fjord@contoso.com" | ConvertFrom-Csv
        $results = @($csv | Remove-AutopilotResourceAccount @connection -WhatIf -ErrorAction SilentlyContinue)
        $results.Code | Should -Be @('state_changed', 'would_unassign')
    }

    It 'takes its settings from the environment' {
        $env:UNASSIGN_URL = " $($program.Uri)/api/unassign/`r`n"
        $file = Join-Path $TestDrive 'utf16.txt'
        [IO.File]::WriteAllText($file, $program.Plain + "`r`n", [Text.Encoding]::Unicode)
        try {
            foreach ($path in $file, 'utf16.txt') { # the second from the current location
                $env:UNASSIGN_SECRET_FILE = $path
                Push-Location $TestDrive
                (Remove-AutopilotResourceAccount -SerialNumber 5CG1234ABC -WhatIf).Code | Should -Be 'would_unassign'
                Pop-Location
            }
        }
        finally { $env:UNASSIGN_URL = ''; $env:UNASSIGN_SECRET_FILE = '' }
    }

    It 'examines the deployment' {
        $findings = @(Test-AutopilotUnassign @connection)
        $findings.Count | Should -BeGreaterThan 5
        $findings.Mark | Select-Object -Unique | Should -Be 'ok'
    }

    It 'ends in one error with a wrong key' {
        { Remove-AutopilotResourceAccount -Uri $program.Uri -ApiKey $key -SerialNumber 5CG1234ABC -WhatIf } | Should -Throw -ErrorId 'unauthenticated,Remove-AutopilotResourceAccount'
    }
}

Describe 'the rule for callers' {
    AfterEach {
        foreach ($listener in $script:listeners) { $listener.Abort() }
        $script:listeners = @()
    }
    BeforeAll { $done = '{"results":[{"status":200,"code":"unassigned","account":{"userPrincipalName":"room@x.com"}}]}' }

    It 'retries, with the same id' {
        $server = Start-Script @(@{ Status = 503; Headers = @{ 'Retry-After' = '1' } }, @{ Status = 502; Headers = @{} }, @{ Status = 200; Headers = $ours; Body = $done })
        (Remove-AutopilotResourceAccount -Uri $server.Uri @quick -SerialNumber A1 -Confirm:$false).Code | Should -Be 'unassigned'
        $server.Requests.Count | Should -Be 3
        $server.Requests[2].Headers['Idempotency-Key'] | Should -Be $server.Requests[0].Headers['Idempotency-Key']
    }

    It 'retries the devices of a list that need it' {
        $mixed = '{"results":[{"status":404,"error":{"code":"device_not_found"}},{"status":503,"error":{"code":"device_locked"}}]}'
        $server = Start-Script @(@{ Status = 503; Headers = @{ 'Retry-After' = '1'; 'X-Request-ID' = 'x' }; Body = $mixed }, @{ Status = 200; Headers = $ours; Body = $done })
        $results = @('A1', 'A2' | ForEach-Object { [pscustomobject]@{ SerialNumber = $_ } } | Remove-AutopilotResourceAccount -Uri $server.Uri @quick -Confirm:$false -ErrorAction SilentlyContinue)
        $results.Code | Should -Be @('device_not_found', 'unassigned')
        $server.Requests[1].Body | Should -Not -Match 'A1'
    }

    It 'sends twenty at a time, and spoils none for an odd one' {
        $twenty = '{"results":[' + (@('{"status":200,"code":"unassigned"}') * 20 -join ',') + ']}'
        $server = Start-Script @(@{ Status = 200; Headers = $ours; Body = $twenty }, @{ Status = 400; Headers = $ours; Body = '{"error":{"code":"serial_number_invalid","message":"m"},"field":"devices[0].serialNumber"}' }, @{ Status = 200; Headers = $ours; Body = $done })
        $results = @(1..22 | ForEach-Object { [pscustomobject]@{ SerialNumber = "S$_" } } | Remove-AutopilotResourceAccount -Uri $server.Uri @quick -Confirm:$false -ErrorAction SilentlyContinue -ErrorVariable refused)
        $results.Count | Should -Be 22
        $results[20].Code | Should -Be 'serial_number_invalid'
        $refused.Count | Should -Be 1
    }

    It 'takes no 2xx of the platform for a success' {
        foreach ($body in '<h1>Your Azure Function App is up and running.</h1>', $done) {
            $server = Start-Script @(@{ Status = 200; Headers = @{}; Body = $body })
            { Remove-AutopilotResourceAccount -Uri $server.Uri @quick -SerialNumber A1 -Confirm:$false } | Should -Throw -ErrorId 'bad_response,Remove-AutopilotResourceAccount'
            }
    }

    It 'stops where no device can be changed' {
        $server = Start-Script @(@{ Status = 424; Headers = $ours; Body = '{"results":[{"status":424,"error":{"code":"graph_permission_missing","message":"m"}}]}' })
        { Remove-AutopilotResourceAccount -Uri $server.Uri @quick -SerialNumber A1 -Confirm:$false } | Should -Throw -ErrorId 'graph_permission_missing,Remove-AutopilotResourceAccount'
    }

    It 'takes no dry run of the deployment for a success' {
        $server = Start-Script @(@{ Status = 200; Headers = $ours; Body = '{"results":[{"status":200,"code":"would_unassign","outcome":"not_done"}]}' })
        { Remove-AutopilotResourceAccount -Uri $server.Uri @quick -SerialNumber A1 -Confirm:$false } | Should -Throw -ErrorId 'would_unassign,Remove-AutopilotResourceAccount'
    }

    It 'lists nothing for an empty filter' {
        { Get-AutopilotResourceAccount -Uri 'http://127.0.0.1:1' -ApiKey $key -GroupTag '' } | Should -Throw -ErrorId 'ParameterArgumentValidationError,Get-AutopilotResourceAccount'
        { Get-AutopilotResourceAccount -Uri 'http://127.0.0.1:1' -ApiKey $key -SerialNumber $null } | Should -Throw -ErrorId 'ParameterArgumentValidationError,Get-AutopilotResourceAccount'
    }

    It 'does not say that nothing was sent after an attempt that was' {
        Mock -ModuleName AutopilotUnassign Start-Sleep { }
        $script:attempts = 0
        Mock -ModuleName AutopilotUnassign Invoke-Attempt { $script:attempts++; @{ Status = 0; Sent = ($script:attempts -eq 1); FromFunction = $false; Body = $null; RetryAfter = 0; Text = 'gone' } }
        { Remove-AutopilotResourceAccount -Uri 'http://127.0.0.1:1' @quick -SerialNumber A1 -Confirm:$false } | Should -Throw -ErrorId 'no_response,Remove-AutopilotResourceAccount'
    }

    It 'says that nothing was sent where no connection is there' {
        { Remove-AutopilotResourceAccount -Uri "http://127.0.0.1:$(Get-FreePort)" @quick -SerialNumber A1 -Confirm:$false } | Should -Throw -ErrorId 'not_sent,Remove-AutopilotResourceAccount'
        { Remove-AutopilotResourceAccount -Uri 'https://no-such-host.invalid' @quick -SerialNumber A1 -Confirm:$false } | Should -Throw '*nothing was sent*'
    }

    It 'goes through pages, and empty ones' {
        $page = '{"devices":[{"deviceId":"d","serialNumber":"A1","groupTag":"G","account":{"resourceName":"room"}}]'
        $server = Start-Script @(@{ Status = 200; Headers = $ours; Body = $page + ',"nextPageToken":"a&b"}' }, @{ Status = 200; Headers = $ours; Body = '{"devices":[],"nextPageToken":"c"}' }, @{ Status = 200; Headers = $ours; Body = $page + '}' })
        $devices = @(Get-AutopilotResourceAccount -Uri $server.Uri -Token 'eyJ.x.y' -GroupTag 'MTR Oslo' -TimeoutSec 5)
        $devices.ResourceName | Should -Be @('room', 'room')
        $server.Requests[1].Query | Should -Be '?groupTag=MTR%20Oslo&pageToken=a%26b'
        $server.Requests[0].Headers['Authorization'] | Should -Be 'Bearer eyJ.x.y'
    }
}

Describe 'before anything is sent' {
    It 'refuses a key that is <why>' -ForEach @(
        @{ Why = 'not base64'; Text = 'whsec_canary!'; Want = 'The signing key is not base64*' }
        @{ Why = 'two lines'; Text = "canary`ncanary"; Want = 'The signing key has more than one line.' }
        @{ Why = 'not ASCII'; Text = "canary$([char]0x00e9)"; Want = '*no HTTP header can carry.' }
    ) {
        $caught = $null
        try { Remove-AutopilotResourceAccount -Uri 'http://127.0.0.1:1' -Secret (New-Key $Text) -SerialNumber A1 -WhatIf } catch { $caught = $_ }
        $caught.FullyQualifiedErrorId | Should -Be 'key_invalid,Remove-AutopilotResourceAccount'
        $caught.Exception.Message | Should -BeLike $Want
        ($caught | Out-String) | Should -Not -Match 'canary[!\n\u00e9]'
    }

    It 'refuses the address <uri>' -ForEach @(
        @{ Uri = 'contoso.azurewebsites.net'; Want = '*lacks https://; use https://contoso.azurewebsites.net' }
        @{ Uri = 'http://contoso.azurewebsites.net'; Want = '*must begin with https://*' }
        @{ Uri = ''; Want = '*use -Uri or set UNASSIGN_URL*' }
    ) {
        { Get-AutopilotResourceAccount -Uri $Uri -ApiKey $key } | Should -Throw $Want
    }

    It 'asks for a key' {
        { Get-AutopilotResourceAccount -Uri 'https://contoso.azurewebsites.net' } | Should -Throw -ErrorId 'key_missing,Get-AutopilotResourceAccount'
    }
}

Describe 'the module' {
    It 'has help with an example for <_>' -ForEach 'Get-AutopilotResourceAccount', 'Remove-AutopilotResourceAccount', 'Test-AutopilotUnassign' {
        $help = Get-Help $_ -Full
        @($help.Examples.Example).Count | Should -BeGreaterThan 0
        foreach ($parameter in $help.Parameters.Parameter) {
            if ('WhatIf', 'Confirm' -notcontains $parameter.Name) { $parameter.Description | Should -Not -BeNullOrEmpty -Because $parameter.Name }
        }
    }

    It 'asks before a change' {
        $command = Get-Command Remove-AutopilotResourceAccount
        $command.Parameters.Keys | Should -Contain 'WhatIf'
        $attribute = $command.ScriptBlock.Attributes | Where-Object { $_ -is [System.Management.Automation.CmdletBindingAttribute] }
        $attribute.ConfirmImpact | Should -Be 'High'
    }

    It 'keeps to the language of Windows PowerShell 5.1, in ASCII' {
        $path = Join-Path $PSScriptRoot 'AutopilotUnassign/AutopilotUnassign.psm1'
        $tokens = $errors = $null
        [void][System.Management.Automation.Language.Parser]::ParseFile($path, [ref]$tokens, [ref]$errors)
        $errors | Should -BeNullOrEmpty
        $newer = 'QuestionMark', 'QuestionQuestion', 'QuestionQuestionEquals', 'QuestionDot', 'QuestionLBracket', 'AndAnd', 'OrOr', 'Clean'
        ($tokens | Where-Object { $newer -contains $_.Kind }).Text | Should -BeNullOrEmpty
        [IO.File]::ReadAllText($path) | Should -Not -Match '[^\x00-\x7F]|SkipHttpErrorCheck|-AsHashtable'
        (Test-ModuleManifest (Join-Path $PSScriptRoot 'AutopilotUnassign/AutopilotUnassign.psd1')).PowerShellVersion | Should -Be '5.1'
    }
}
