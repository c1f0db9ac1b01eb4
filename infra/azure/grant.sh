#!/bin/sh
# Gives an application or a managed identity the one permission of Microsoft Graph that this function needs:
#
#   grant.sh --app CLIENT_ID [--federate PRINCIPAL_ID] [--yes]
#   grant.sh --identity PRINCIPAL_ID [--yes]
#
# It says what is missing, and without --yes does nothing else. What is there already is left alone, so that it can be run again.
# --federate lets a managed identity sign in as the application, without a secret. It needs az, signed in to the tenant of the
# devices as somebody who may consent to application permissions: Privileged Role Administrator, or Global Administrator.
set -eu

graph_app=00000003-0000-0000-c000-000000000000
# The application permission DeviceManagementServiceConfig.ReadWrite.All; its id is the same in every tenant
# (https://learn.microsoft.com/graph/permissions-reference).
role=5ac13192-7ace-4fcf-b828-1a26f28068ee
role_name=DeviceManagementServiceConfig.ReadWrite.All

usage() {
	echo "usage: grant.sh --app CLIENT_ID [--federate PRINCIPAL_ID] [--yes]" >&2
	echo "       grant.sh --identity PRINCIPAL_ID [--yes]" >&2
	exit 2
}

die() {
	echo "grant.sh: $*" >&2
	exit 1
}

# Prints $2 if it is a GUID. $1 is what it was given as.
guid() {
	case $2 in
	*[!0-9A-Fa-f-]*) ;;
	????????-????-????-????-????????????)
		printf '%s\n' "$2"
		return
		;;
	esac
	die "$1 must be followed by a GUID"
}

app='' identity='' federate='' yes=''
while [ $# -gt 0 ]; do
	case $1 in
	--app | --identity | --federate)
		[ $# -ge 2 ] || usage
		value=$(guid "$1" "$2")
		case $1 in
		--app) app=$value ;;
		--identity) identity=$value ;;
		--federate) federate=$value ;;
		esac
		shift 2
		;;
	--yes)
		yes=1
		shift
		;;
	*) usage ;;
	esac
done
[ -n "$app$identity" ] || usage
[ -z "$app" ] || [ -z "$identity" ] || usage
[ -z "$federate" ] || [ -n "$app" ] || usage

command -v az >/dev/null || die "az is not there: https://learn.microsoft.com/cli/azure/install-azure-cli"
tenant=$(az account show --query tenantId --output tsv) || die "az is not signed in: az login"
cloud=$(az cloud show --query endpoints.microsoftGraphResourceId --output tsv)
cloud=${cloud%/}
echo "In the tenant $tenant:"

missing=0

# Says what is missing ($1), and does it with --yes: the rest is the command. Its output has nothing that is needed.
step() {
	what=$1
	shift
	missing=$((missing + 1))
	if [ -z "$yes" ]; then
		echo "  missing: $what"
		return
	fi
	echo "  now: $what"
	"$@" >/dev/null || die "this was refused. Who may do it is told at the head of this script, and what went wrong by az above"
}

graph=$(az ad sp list --filter "appId eq '$graph_app'" --query '[].id' --output tsv)
[ -n "$graph" ] || die "the tenant does not have Microsoft Graph"

if [ -n "$app" ]; then
	principal=$(az ad sp list --filter "appId eq '$app'" --query '[].id' --output tsv)
	if [ -z "$principal" ]; then
		az ad app show --id "$app" --query appId --output tsv >/dev/null || die "the tenant does not have the application $app"
		step "a service principal for the application $app" az ad sp create --id "$app"
		[ -z "$yes" ] || principal=$(az ad sp list --filter "appId eq '$app'" --query '[].id' --output tsv)
		[ -z "$yes" ] || [ -n "$principal" ] || die "the service principal cannot be seen yet: run this again in a minute"
	fi
	listed=$(az ad app permission list --id "$app" --query "[].resourceAccess[?id=='$role'].id[]" --output tsv)
	[ -n "$listed" ] || step "$role_name in the list of what the application asks for" \
		az ad app permission add --id "$app" --api $graph_app --api-permissions "$role=Role"
else
	principal=$identity
	az ad sp show --id "$identity" --query id --output tsv >/dev/null || die "the tenant does not have the identity $identity"
fi

granted=''
[ -z "$principal" ] || granted=$(az rest --method GET --url "$cloud/v1.0/servicePrincipals/$principal/appRoleAssignments" \
	--query "value[?appRoleId=='$role'].id" --output tsv)
[ -n "$granted" ] || step "the permission $role_name, with consent" \
	az rest --method POST --url "$cloud/v1.0/servicePrincipals/$graph/appRoleAssignedTo" --headers Content-Type=application/json \
	--body "{\"principalId\":\"$principal\",\"resourceId\":\"$graph\",\"appRoleId\":\"$role\"}"

if [ -n "$federate" ]; then
	trusted=$(az ad app federated-credential list --id "$app" --query "[?subject=='$federate'].name" --output tsv)
	if [ -z "$trusted" ]; then
		authority=$(az cloud show --query endpoints.activeDirectory --output tsv)
		case $cloud in
		*microsoft.us) audience=api://AzureADTokenExchangeUSGov ;;
		*chinacloudapi.cn) audience=api://AzureADTokenExchangeChina ;;
		*) audience=api://AzureADTokenExchange ;;
		esac
		step "trust in the managed identity $federate" az ad app federated-credential create --id "$app" \
			--parameters "{\"name\":\"unassign\",\"issuer\":\"${authority%/}/$tenant/v2.0\",\"subject\":\"$federate\",\"audiences\":[\"$audience\"]}"
	fi
fi

if [ $missing -eq 0 ]; then
	echo "  nothing is missing"
elif [ -z "$yes" ]; then
	echo "Nothing was changed. With --yes it is."
else
	echo "Done. Graph may need some minutes to see it, and a token that was issued before does not have it."
fi
