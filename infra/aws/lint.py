"""Lint a SAM template: as it is written, and as SAM expands it.

cfn-lint looks into a resource only where it is plain CloudFormation. A wrong action in a policy, say, is found after the
expansion alone (rule W3037).
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from cfnlint.decode import cfn_yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator


def expand(path):
    """Return the template in path as SAM would deploy it, with the defaults of its parameters."""
    template = json.loads(json.dumps(cfn_yaml.load(path)))
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/key"  # which sam package would put there
            resource.pop("Metadata", None)
    defaults = {k: str(v.get("Default", "")) for k, v in template.get("Parameters", {}).items()}
    expanded = Translator({}, Parser()).translate(template, defaults)
    expanded.pop("Transform", None)
    return expanded


def lint(path, *options):
    """Run the cfn-lint that is installed beside this Python, and return its exit status."""
    return subprocess.run([pathlib.Path(sys.executable).with_name("cfn-lint"), *options, "--", path]).returncode


def main():
    path = sys.argv[1]
    os.environ["AWS_DEFAULT_REGION"] = "eu-west-1"  # the expansion wants to know one, and asks nobody
    failed = lint(path)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(expand(path), file)
        file.flush()
        failed |= lint(file.name)
    print(f"{path}: linted as written and as expanded")
    return failed


if __name__ == "__main__":
    sys.exit(main())
