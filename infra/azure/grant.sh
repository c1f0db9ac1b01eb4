#!/bin/sh
# Gives an application or a managed identity the Microsoft Graph permission of the function:
#
#   grant.sh --identity PRINCIPAL_ID [--yes]
#   grant.sh --app CLIENT_ID [--federate PRINCIPAL_ID] [--yes]
#
# Without --yes it only reports. Repeating it is safe. --federate lets a managed identity sign in as the
# application, without a secret. It needs az, signed in to the tenant of the devices with a role that may consent to application
# permissions: Privileged Role Administrator or Global Administrator. grant.ps1 does the same in PowerShell.
set -eu

graph_app=00000003-0000-0000-c000-000000000000
# DeviceManagementServiceConfig.ReadWrite.All as an application permission: the id is the same in every tenant
# (https://learn.microsoft.com/graph/permissions-reference).
role=5ac13192-7ace-4fcf-b828-1a26f28068ee
role_name=DeviceManagementServiceConfig.ReadWrite.All

usage() {
	echo "usage: grant.sh --identity PRINCIPAL_ID [--yes]" >&2
	echo "       grant.sh --app CLIENT_ID [--federate PRINCIPAL_ID] [--yes]" >&2
	exit 2
}

die() {
	echo "grant.sh: $*" >&2
	exit 1
}

# Prints $2 if it is a GUID. $1 is the option it belongs to.
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

command -v az >/dev/null || die "az is not installed: https://learn.microsoft.com/cli/azure/install-azure-cli"
tenant=$(az account show --query tenantId --output tsv) || die "az is not signed in: az login"
cloud=$(az cloud show --query endpoints.microsoftGraphResourceId --output tsv)
cloud=${cloud%/}
echo "In the tenant $tenant:"

missing=0

# Reports a missing step ($1). With --yes it runs the command in the other arguments, up to six times: a new object reaches all of
# Entra ID within a minute, and until then the next step is refused.
step() {
	name=$1
	shift
	missing=$((missing + 1))
	if [ -z "$yes" ]; then
		echo "  missing: $name"
		return
	fi
	echo "  now: $name"
	for attempt in 1 2 3 4 5 6; do
		if output=$("$@" 2>&1); then
			return
		fi
		case $output in
		*Authorization_RequestDenied* | *"Insufficient privileges"*) break ;;
		esac
		[ "$attempt" = 6 ] || sleep 10
	done
	printf '%s\n' "$output" >&2
	die "Entra ID refused this step: sign in with the role Privileged Role Administrator, then run the script again"
}

# Prints the object id of the application's service principal, or nothing.
service_principal() {
	az ad sp list --filter "appId eq '$1'" --query '[].id' --output tsv
}

graph=$(service_principal "$graph_app")
[ -n "$graph" ] || die "the tenant has no service principal of Microsoft Graph"

if [ -n "$app" ]; then
	principal=$(service_principal "$app")
	if [ -z "$principal" ]; then
		az ad app show --id "$app" --query appId --output tsv >/dev/null || die "the tenant does not have the application $app"
		step "a service principal for the application $app" az ad sp create --id "$app"
		for attempt in 1 2 3 4 5 6; do
			[ -z "$yes" ] || [ -n "$principal" ] || principal=$(service_principal "$app")
			[ -z "$yes" ] || [ -n "$principal" ] || [ "$attempt" = 6 ] || sleep 10
		done
		[ -z "$yes" ] || [ -n "$principal" ] || die "the service principal is not visible yet: run the script again in a minute"
	fi
	listed=$(az ad app permission list --id "$app" --query "[].resourceAccess[?id=='$role'].id[]" --output tsv)
	[ -n "$listed" ] || step "$role_name in the permissions that the application requests" \
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
	az ad sp show --id "$federate" --query id --output tsv >/dev/null ||
		die "the identity $federate is not in this tenant: an application trusts managed identities of its own tenant alone. Use a client secret or a certificate"
	trusted=$(az ad app federated-credential list --id "$app" --query "[?subject=='$federate'].name" --output tsv)
	if [ -z "$trusted" ]; then
		authority=$(az cloud show --query endpoints.activeDirectory --output tsv)
		case $cloud in
		*microsoft.us) audience=api://AzureADTokenExchangeUSGov ;;
		*chinacloudapi.cn) audience=api://AzureADTokenExchangeChina ;;
		*) audience=api://AzureADTokenExchange ;;
		esac
		step "trust in the managed identity $federate" az ad app federated-credential create --id "$app" \
			--parameters "{\"name\":\"unassign-$federate\",\"issuer\":\"${authority%/}/$tenant/v2.0\",\"subject\":\"$federate\",\"audiences\":[\"$audience\"]}"
	fi
fi

if [ $missing -eq 0 ]; then
	echo "  nothing is missing"
elif [ -z "$yes" ]; then
	echo "Nothing was changed. Run the script with --yes to change it."
else
	echo "Done. Graph may need some minutes to apply it, and tokens that were issued before do not have it."
fi
