"""Look over the templates of both clouds, without a network.

Every .bicep file of this folder must parse (Microsoft's own compiler is what knows the types: CI runs it as well), and
checkov must find nothing in any template that is not argued beside it. checkov leaves out what it cannot read, and so its
counts are looked at too.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from lark.exceptions import LarkError
from pycep import BicepParser

# What the parser does not know of the language yet, and what it is read as.
UNKNOWN = {"fail(": "string("}

# How many resources checkov must have read of each kind of template.
LEAST = {"bicep": 30, "cloudformation": 14}


def readable(path):
    """Return the text of a Bicep file as the parser takes it."""
    text = path.read_text(encoding="utf-8")
    for word, known in UNKNOWN.items():
        text = text.replace(word, known)
    return text


def scan(folder):
    """Run the checkov that is installed beside this Python over folder, and return its reports by the kind of template."""
    command = [sys.executable, pathlib.Path(sys.executable).with_name("checkov"), "--directory", folder, "--framework", *LEAST]
    options = ["--skip-download", "--compact", "--output", "json", "--soft-fail"]
    environment = os.environ | {"BC_API_KEY": "", "PRISMA_API_URL": "", "LOG_LEVEL": "ERROR"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=True)
    reports = json.loads(done.stdout)
    return {report["check_type"]: report for report in (reports if isinstance(reports, list) else [reports])}


def main():
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for path in map(pathlib.Path, sys.argv[1:]):
            text = readable(path) if path.suffix == ".bicep" else path.read_text(encoding="utf-8")
            pathlib.Path(folder, path.name).write_text(text, encoding="utf-8")
            if path.suffix == ".bicep":
                try:
                    BicepParser().parse(text=text)
                except LarkError as fault:
                    faults.append(f"{path}: {fault}")
        reports = scan(folder)
    for kind, least in LEAST.items():
        report = reports.get(kind, {"summary": {"resource_count": 0, "parsing_errors": 0}, "results": {"failed_checks": []}})
        count, summary = report["summary"]["resource_count"], report["summary"]
        if count < least or summary["parsing_errors"]:
            faults.append(f"checkov has read {count} resources of {kind}, with {summary['parsing_errors']} errors")
        for check in report["results"]["failed_checks"]:
            faults.append(f"{check['file_path'].lstrip('/')}: {check['resource']}: {check['check_id']} {check['check_name']}")
        print(f"{kind}: {count} resources, {summary.get('passed', 0)} checks passed, {summary.get('skipped', 0)} argued away")
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
