#!/bin/sh
# Tries the release in $1 as a person would who has neither Go nor make nor Node: the demo runs in a root file system that holds
# nothing but the unpacked archive, and the real tools take the templates as far as they go without an account.
# $2 is a Python with infra/aws/requirements.txt, $3 a PowerShell or nothing. Where bicep is absent, that step says so.
set -eu

release=$(cd "$1" && pwd)
python=$2
pwsh=${3:-}
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() {
	printf '\n== %s\n' "$*"
}

step 'the checksums'
(cd "$release" && sha256sum --check --quiet --strict SHA256SUMS && wc -l <SHA256SUMS)

step "the pages' download commands, from this release"
"$python" "$source/infra/release/downloads.py" "$release" ${pwsh:+"$pwsh"}
test -n "$pwsh" || echo 'pwsh is not installed: the commands for PowerShell were not run'

step 'unassign demo, in an empty root file system'
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) echo "no archive for $(uname -m)" >&2 && exit 1 ;;
esac
mkdir "$work/root" && tar -xzf "$release/unassign-linux-$arch.tar.gz" -C "$work/root"
ls "$work/root"
if [ "$(id -u)" = 0 ]; then
	env -i "$(command -v chroot)" "$work/root" /unassign demo >"$work/demo.txt"
elif unshare --map-root-user true 2>/dev/null; then
	env -i "$(command -v unshare)" --map-root-user --root="$work/root" /unassign demo >"$work/demo.txt"
else # as on Ubuntu 24.04, which refuses user namespaces
	# shellcheck disable=SC2024 # the output is a file of ours
	sudo -n env -i /usr/sbin/chroot --userspec="$(id -u):$(id -g)" "$work/root" /unassign demo >"$work/demo.txt"
fi
tail -n 3 "$work/demo.txt"

step 'each other archive holds a program, LICENSE and README.txt'
for archive in "$release"/unassign-*.tar.gz "$release"/unassign-*.zip; do
	case $archive in
	*.zip) names=$("$python" -m zipfile --list "$archive" | awk 'NR > 1 { print $1 }') ;;
	*) names=$(tar -tzf "$archive") ;;
	esac
	printf '%s: %s\n' "${archive##*/}" "$(echo "$names" | sort | tr '\n' ' ')"
	test "$(echo "$names" | grep -c -e '^LICENSE$' -e '^README.txt$' -e '^unassign\(.exe\)*$')" = 3
done

step 'the SAM template: validate, deploy --guided, package, publish'
mkdir "$work/sam" && "$python" -m zipfile --extract "$release/aws-sam.zip" "$work/sam"
"$python" "$source/infra/aws/deploy.py" "$work/sam"

step 'the Azure template: compiled from the Bicep files of this version'
bicep=$source/../shared/tools/bicep/bicep
test -x "$bicep" || bicep=$(command -v bicep || true)
if [ -n "$bicep" ]; then
	DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 "$bicep" build "$source/infra/azure/main.bicep" --outfile "$work/azuredeploy.json"
	grep -v '"templateHash"\|"version": "[0-9.]*"$' "$work/azuredeploy.json" >"$work/compiled"
	grep -v '"templateHash"\|"version": "[0-9.]*"$' "$release/azuredeploy.json" | diff "$work/compiled" -
	echo 'the same but for the version of the compiler'
	env -i PATH=/usr/bin:/bin HOME="$HOME" sh "$source/infra/azure/rehearse.sh" "$release" "$bicep"
else
	"$python" -m json.tool "$release/azuredeploy.json" >/dev/null
	echo 'bicep is not installed: only read as JSON'
fi

step 'all of it is there and works as far as it goes without a cloud'
