"""Run the command blocks of a page, with the real AWS CLI and SAM CLI as their own judges:

    commands.py PAGE [PWSH]

All bash blocks run as one script under set -eu, all PowerShell blocks as one under strict mode, in an empty folder: a variable that the
page does not set before it is used, a wrong option and a wrong value are failures. The AWS CLI checks each command against its
model, as far as its first connection; the SAM CLI parses its options. Other programs are stand-ins.
"""

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
CMDLETS = ("Invoke-WebRequest", "Get-FileHash", "Expand-Archive", "Start-Sleep")


def blocks(page, language):
    """Return the blocks of a language as one script."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


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
    path, pwsh = pathlib.Path(sys.argv[1]), sys.argv[2:]
    page, good = path.read_text(encoding="utf-8"), True
    scripts = {"sh": (["bash", "-eu"], "page.sh", "")}
    if pwsh:
        stand_ins = "".join(f"function {name} {{}}\n" for name in CMDLETS)
        strict = "$ErrorActionPreference = 'Stop'; $PSNativeCommandUseErrorActionPreference = $true; Set-StrictMode -Version 3\n"
        scripts["powershell"] = ([*pwsh, "-NoProfile", "-File"], "page.ps1", strict + stand_ins)
    for language, (command, name, header) in scripts.items():
        with tempfile.TemporaryDirectory() as folder:
            script = pathlib.Path(folder, name)
            script.write_text(header + blocks(page, language), encoding="utf-8")
            ran = run([*command, script], script.parent)
        print(f"{path}: the {language} blocks {'run' if ran else 'FAIL'}", flush=True)
        good &= ran
    if not pwsh:
        print(f"{path}: PowerShell is not installed; its blocks were not run")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
