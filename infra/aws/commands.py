"""Run the command blocks of pages, with the real AWS CLI and SAM CLI as their own judges:

    commands.py [--pwsh PWSH] PAGE...

All bash blocks run as one script under set -eu, all PowerShell blocks as one under strict mode, in an empty folder: a variable that the
page does not set before it is used, a wrong option and a wrong value are failures. A block of sh that no block of powershell follows is for both. The AWS CLI checks each command against its
model, as far as its first connection; the SAM CLI parses its options. Other programs are stand-ins.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

TOOLS = pathlib.Path(sys.executable).parent
# Output of other programs that a command reads.
GUID = "11111111-2222-4333-8444-555555555555"
STAND_INS = {
    # It checks the command, and then meets a closed port.
    "aws": f"""said=$("{TOOLS}/aws" --endpoint-url http://127.0.0.1:1 "$@" 2>&1)
case $said in *'Could not connect to the endpoint URL'*) echo sample ;; *) echo "aws $*: $said" >&2; exit 1 ;; esac""",
    "sam": f'touch packaged.yaml; exec "{TOOLS}/sam" "$@" --help >/dev/null',
    "az": f"echo {GUID}",
    "unassign": ":",
    "curl": ":",
    "sha256sum": ":",
    "sleep": ":",
    "tar": ":",
    "unzip": ":",
}
# PowerShell finds the programs above in PATH; these are its own commands.
CMDLETS = """
function Invoke-WebRequest {}
function Get-FileHash { [pscustomobject]@{ Hash = ''; Path = '' } }
function Select-String { $true }
function Expand-Archive {}
function Unblock-File {}
function Start-Sleep {}
"""


def script(page, language):
    """Return the blocks of a language as one script, after the variables that the page's prose introduces."""
    given = re.findall(r"`\$([A-Z_]+)`", page)
    lines = [f"{name}=given" if language == "sh" else f"${name} = 'given'" for name in given]
    fences = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    for (kind, text), (following, _) in zip(fences, [*fences[1:], ("", "")]):
        if kind == language or language == "powershell" and kind == "sh" and following != "powershell":
            lines.append(text)
    return "\n".join(lines)


def run(command, folder):
    """Run command in a folder below folder, and return whether it succeeded."""
    for name in ("bin", "work/aws-sam"):
        (folder / name).mkdir(parents=True)
    for name, text in STAND_INS.items():
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        program.chmod(0o755)
    for name in ("unassign", "unassign.exe"):
        (folder / "work" / name).symlink_to("../bin/unassign")
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", str(folder)),
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "SAM_CLI_TELEMETRY": "0",
    }
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=folder / "work", env=environment, **streams)
    if done.returncode:
        print(done.stdout)
    return done.returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pwsh", default="")
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    options, good = parser.parse_args(), True
    shells = {"sh": (["bash", "-eu"], "page.sh", "")}
    if options.pwsh:
        strict = "$ErrorActionPreference = 'Stop'; $PSNativeCommandUseErrorActionPreference = $true; Set-StrictMode -Version 3\n"
        shells["powershell"] = ([options.pwsh, "-NoProfile", "-File"], "page.ps1", strict + CMDLETS)
    else:
        print("PowerShell is not installed; its blocks were not run")
    for path in options.pages:
        page = path.read_text(encoding="utf-8")
        for language, (command, name, header) in shells.items():
            with tempfile.TemporaryDirectory() as folder:
                file = pathlib.Path(folder, name)
                file.write_text(header + script(page, language), encoding="utf-8")
                ran = run([*command, file], file.parent)
            print(f"{path}: the {language} blocks {'run' if ran else 'FAIL'}", flush=True)
            good &= ran
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
