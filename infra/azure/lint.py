"""Run checkov over the templates of both clouds, without a network.

It must find nothing that is not argued: beside the resource in template.yaml, below for azuredeploy.json, which cannot hold comments.
checkov skips what it cannot read, so that its counts are checked too.
"""

import json
import os
import pathlib
import subprocess
import sys

# The least number of resources of each kind of template.
LEAST = {"arm": 30, "cloudformation": 14}

ARGUED = {
    "CKV_AZURE_17": "callers authenticate by signature, key or token, not by client certificates",
    "CKV_AZURE_35": "privateNetwork closes the accounts; without a network the plan has no fixed addresses",
    "CKV_AZURE_43": "checkov cannot work out the name: lower case letters and digits, at most 23",
    "CKV_AZURE_78": "Flex Consumption has no FTP, and newer regions refuse the property (error 51021)",
    "CKV_AZURE_206": "a deployment recreates everything that outlives a message",
    "CKV_AZURE_212": "the plan starts instances when requests arrive",
    "CKV_AZURE_213": "the plan starts and replaces instances, and its host watches the function",
    "CKV_AZURE_222": "a webhook: its callers are on the internet unless allowedAddresses or frontDoorId says otherwise",
    "CKV_AZURE_225": "not every region has zones; a caller who meets an outage retries",
}


def scan(paths):
    """Run the checkov beside this Python over files, and return its reports by the kind of template."""
    command = [sys.executable, pathlib.Path(sys.executable).with_name("checkov"), "--framework", *LEAST]
    for path in paths:
        command += ["--file", path]
    options = ["--skip-download", "--compact", "--output", "json", "--soft-fail"]
    environment = os.environ | {"BC_API_KEY": "", "PRISMA_API_URL": "", "LOG_LEVEL": "ERROR"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=True)
    reports = json.loads(done.stdout)
    return {report["check_type"]: report for report in (reports if isinstance(reports, list) else [reports])}


def main():
    faults, used = [], set()
    reports = scan(sys.argv[1:])
    for kind, least in LEAST.items():
        report = reports.get(kind, {"summary": {"resource_count": 0, "parsing_errors": 0}, "results": {"failed_checks": []}})
        count, summary = report["summary"]["resource_count"], report["summary"]
        if count < least or summary["parsing_errors"]:
            faults.append(f"checkov has read {count} resources of {kind}, with {summary['parsing_errors']} errors")
        for check in report["results"]["failed_checks"]:
            if kind == "arm" and check["check_id"] in ARGUED:
                used.add(check["check_id"])
            else:
                faults.append(f"{check['file_path'].lstrip('/')}: {check['resource']}: {check['check_id']} {check['check_name']}")
        print(f"{kind}: {count} resources, {summary.get('passed', 0)} checks passed")
    faults += [f"{check} is argued and not found" for check in sorted(ARGUED.keys() - used)]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
