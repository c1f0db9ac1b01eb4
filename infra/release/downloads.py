"""Run the download commands of the pages against a release that this machine serves:

    downloads.py RELEASE [PWSH]

Each page's commands run as they stand, in an empty folder with a bare PATH, but for the address: bash downloads, verifies, unpacks and
starts the program; PowerShell does the same and cannot start the Windows program. Then a file is damaged, and the commands must stop.
"""

import functools
import http.server
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The page, and the files that its commands leave.
PAGES = {
    "README.md": {"sh": ["unassign"], "powershell": ["unassign.exe"]},
    "docs/azure.md": {"sh": ["unassign", "grant.sh"], "powershell": ["unassign.exe", "grant.ps1"]},
    "docs/aws.md": {"sh": ["unassign", "aws-sam/template.yaml"], "powershell": ["unassign.exe", "aws-sam/template.yaml"]},
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line for each request."""

    def log_message(self, *_):
        pass


def downloads(page, language, address):
    """Return the page's blocks that download, for another address."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    script = "\n".join(block for block in blocks if "/releases/download/" in block)
    script = re.sub(r"https://github\.com/\S+/releases/download/[\w.]+", address, script)
    if language == "powershell":  # these two are Windows' alone
        script = re.sub(r"(?m)^(Unblock-File|\.\\unassign\.exe) .*\n", "", script)
        script = "$ErrorActionPreference = 'Stop'\n" + script
    return script


def run(command, script):
    """Run a script in an empty folder. Return its exit status, its output, and the names of the files that it left."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "script.ps1")
        path.write_text(script, encoding="utf-8")
        # A PowerShell without the data of cultures loads Expand-Archive with the third setting alone.
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(pathlib.Path.home()), "DOTNET_SYSTEM_GLOBALIZATION_PREDEFINED_CULTURES_ONLY": "false"}
        done = subprocess.run([*command, path], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        files = {str(file.relative_to(folder)) for file in pathlib.Path(folder).rglob("*")}
        return done.returncode, done.stdout, files


def main():
    shells = {"sh": ["bash", "-eu"]}
    if len(sys.argv) > 2:
        shells["powershell"] = [sys.argv[2], "-NoProfile", "-NonInteractive", "-File"]
    good = True
    with tempfile.TemporaryDirectory() as folder:
        served = pathlib.Path(folder, "release")
        shutil.copytree(sys.argv[1], served)
        handler = functools.partial(Quiet, directory=served)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for damaged in (False, True):
            if damaged:
                for archive in served.glob("unassign-*"):
                    archive.write_bytes(archive.read_bytes() + b"\n")
            for name, wanted in PAGES.items():
                page = (ROOT / name).read_text(encoding="utf-8")
                for language, command in shells.items():
                    status, output, files = run(command, downloads(page, language, address))
                    missing = [file for file in wanted[language] if file not in files]
                    if damaged:
                        right, result = status != 0 and "unassign" not in files and "unassign.exe" not in files, "refuses a damaged file"
                    else:
                        right, result = status == 0 and not missing, "downloads, verifies and unpacks"
                    print(f"{name}, {language}: {result}" if right else f"{name}, {language}: FAILED ({status}, {missing})\n{output}", flush=True)
                    good &= right
        server.shutdown()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
