"""Deploy and publish a SAM package with the real SAM CLI, as far as that goes without an account:

    deploy.py FOLDER

FOLDER holds template.yaml and samconfig.toml: the release's aws-sam.zip, unpacked, or a copy of the source, which sam build then
builds. moto stands in for CloudFormation, S3 and STS. It records the change set and does not create the resources, because it
knows neither SAM's transform nor all of the resource types; cfn-lint checks those. A server of this file stands in for the
Serverless Application Repository. sam deploy saves the answers in samconfig.toml, so give it a copy.
"""

import http.server
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

import boto3
from moto.cloudformation.models import ChangeSet
from moto.server import ThreadedMotoServer

# The answers to the prompts. Every other prompt gets Enter.
NAMES = {
    "GraphTenantId": "11111111-2222-4333-8444-555555555555",
    "GraphClientId": "66666666-7777-4888-8999-aaaaaaaaaaaa",
    "EntraAudience": "api://contoso.com/unassign",
}
# The bucket that sam would create for itself; moto cannot create it from sam's own template.
MANAGED = {
    "Resources": {"SamCliSourceBucket": {"Type": "AWS::S3::Bucket"}},
    "Outputs": {"SourceBucket": {"Value": {"Ref": "SamCliSourceBucket"}}},
}
SAM = pathlib.Path(sys.executable).with_name("sam")


class Repository(http.server.BaseHTTPRequestHandler):
    """The Serverless Application Repository: accepts each application and keeps it."""

    published = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.published.append(body)
        answer = json.dumps({"applicationId": "arn:aws:serverlessrepo:eu-west-1:123456789012:applications/x"}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def sam(folder, *arguments, answers=""):
    """Run sam in folder, print its command, and return its output. A failure ends the program."""
    print("\n$ sam", *arguments, flush=True)
    done = subprocess.run([SAM, *arguments], cwd=folder, input=answers, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{done.stdout}\nsam {arguments[0]} ended with {done.returncode}")
    return done.stdout


def parameter_names(template):
    """Return the names of the parameters, in the order of the prompts."""
    section = template.read_text(encoding="utf-8").partition("\nParameters:\n")[2].partition("\nRules:")[0]
    return re.findall(r"^  (\w+):$", section, re.MULTILINE)


def deploy(folder, template):
    """Answer every prompt of sam deploy --guided with Enter, but for the names, and return what CloudFormation was given."""
    applied = []

    def record(change_set):
        applied.append(change_set)
        change_set.stack.output_map = {}  # there are no resources that it could be read from

    ChangeSet.apply = record
    names = parameter_names(template)
    answers = ["", ""] + [NAMES.get(name, "") for name in names] + [""] * 20
    output = sam(folder, "deploy", "--guided", answers="\n".join(answers))
    print(f"  {len(names)} parameters, {len(NAMES)} of them given; {re.findall('Successfully.*', output)[-1]}")
    if "has no authentication" in output:
        sys.exit(f"{output}\nsam stops at a question whose default is no")
    if len(applied) != 1 or any(applied[0].parameters.get(name) != value for name, value in NAMES.items()):
        sys.exit(f"{output}\nCloudFormation was not given the parameters")
    return applied[0]


def publish(folder, template):
    """Package the template, and publish it as a fork's owner would."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="packages", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with tempfile.TemporaryDirectory() as out:
        packaged = pathlib.Path(out, "packaged.yaml")
        sam(folder, "package", "--template-file", template.resolve(), "--s3-bucket", "packages", "--output-template-file", packaged)
        text = packaged.read_text(encoding="utf-8")
        for word in ("CodeUri: s3://packages/", "LicenseUrl: s3://packages/", "ReadmeUrl: s3://packages/"):
            if word not in text:
                sys.exit(f"{text}\nthe packaged template does not have {word}")
        print(f"  {len(client.list_objects_v2(Bucket='packages')['Contents'])} objects uploaded")
        sam(folder, "publish", "--template", packaged)
    application = Repository.published[-1]
    print(f"  {application['name']} {application['semanticVersion']} by {application['author']}, {application['spdxLicenseId']}")


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    template = folder / "template.yaml"
    repository = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    threading.Thread(target=repository.serve_forever, daemon=True).start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    moto = ThreadedMotoServer("localhost", 0, verbose=False)
    moto.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://localhost:{moto.get_host_and_port()[1]}",
        "AWS_ENDPOINT_URL_SERVERLESSAPPLICATIONREPOSITORY": f"http://127.0.0.1:{repository.server_port}",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_MAX_ATTEMPTS": "1",
        "SAM_CLI_TELEMETRY": "0",
    }
    try:
        boto3.client("cloudformation").create_stack(
            StackName="aws-sam-cli-managed-default", TemplateBody=json.dumps(MANAGED), Tags=[{"Key": "ManagedStackSource", "Value": "AwsSamCli"}]
        )
        if (folder / "Makefile").exists():
            sam(folder, "build")
            template = folder / ".aws-sam" / "build" / "template.yaml"
        print(f"  {sam(folder, 'validate', '--lint', '--template-file', template).splitlines()[-1]}")
        deploy(folder, template)
        publish(folder, template)
    finally:
        moto.stop()
        repository.shutdown()
    print("\ndeployed and published as far as it goes without an account")


if __name__ == "__main__":
    main()
