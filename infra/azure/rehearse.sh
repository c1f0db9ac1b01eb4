#!/bin/sh
# Rehearses the deployment of a release's files without a cloud, and prints each step:
#
#   rehearse.sh FOLDER [BICEP]
#
# FOLDER holds azuredeploy.json and the packages of a release. Nothing but a POSIX system and the Bicep compiler is used: Azure Resource
# Manager's own engine evaluates the template, as the local part of what-if does.
set -eu

folder=$1
bicep=${2:-bicep}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() { printf '\n== %s\n' "$*"; }

step "The files of the release"
ls -l "$folder/azuredeploy.json" "$folder/azure-linux-amd64.zip" "$folder/azure-linux-amd64-events.zip" "$folder/grant.sh" "$folder/grant.ps1"

cp "$folder/azuredeploy.json" "$work/"
for queue in false true; do
	step "The template with enableQueue=$queue: resources and package"
	cat > "$work/rehearsal.bicepparam" <<END
using './azuredeploy.json'
param repository = 'https://github.com/contoso/autopilot-unassign'
param webhookSecretNames = 'webhook-a'
param enableQueue = '$queue'
END
	DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 "$bicep" snapshot "$work/rehearsal.bicepparam" --mode overwrite --resource-group rg-unassign \
		--location westeurope --subscription-id 11111111-1111-4111-8111-111111111111 --tenant-id 22222222-2222-4222-8222-222222222222
	sed -n 's/^      "type": "\(.*\)",$/\1/p' "$work/rehearsal.snapshot.json" | sort | uniq -c
	package=$(sed -n 's/.*"packageUri": "\(.*\)",*$/\1/p' "$work/rehearsal.snapshot.json")
	echo "package: $package"
	test -f "$folder/${package##*/}"
done

step "A template without a caller is refused"
printf "using './azuredeploy.json'\nparam packageUri = 'none'\n" > "$work/rehearsal.bicepparam"
if DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 "$bicep" snapshot "$work/rehearsal.bicepparam" --mode overwrite --resource-group rg-unassign \
	--location westeurope --subscription-id 11111111-1111-4111-8111-111111111111 --tenant-id 22222222-2222-4222-8222-222222222222 2> "$work/refused"; then
	echo "it was not refused" >&2
	exit 1
fi
grep -o "No caller could be authenticated[^']*" "$work/refused" | head -n 1
