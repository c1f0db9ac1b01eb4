package infra_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeAz is an az that records its arguments, separated by bars, and answers from the files of its folder, the directory of a tenant.
const fakeAz = `#!/bin/sh
cd "$(dirname "$0")" || exit 9
line=az
for arg; do case $arg in @*) arg=$(cat "${arg#@}") ;; esac; line="$line|$arg"; done
printf '%s\n' "$line" >> calls
fail() { echo "ERROR: $1" >&2; exit 1; }
show() { [ ! -e "$1" ] || cat "$1"; }
case "$*" in
"account show "*) [ -e signed-in ] || fail "Please run 'az login' to setup account."; echo 11111111-1111-4111-8111-111111111111 ;;
"cloud show --query endpoints.microsoftGraphResourceId "*) cat cloud ;;
"cloud show --query endpoints.activeDirectory "*) echo https://login.microsoftonline.com ;;
"ad sp list --filter appId eq '00000003-0000-0000-c000-000000000000' "*) echo 22222222-2222-4222-8222-222222222222 ;;
"ad sp list "*) show principal ;;
"ad sp show --id "*) show identity | grep -F "$(echo "$*" | cut -d' ' -f5)" || fail "does not exist" ;;
"ad app show "*) show application | grep . || fail "does not exist" ;;
"ad sp create "*) echo 33333333-3333-4333-8333-333333333333 > "$([ -e delay ] && echo coming || echo principal)"; echo '{"appId": "…"}' ;;
"ad app permission list "*) show listed ;;
"ad app permission add "*) echo listed > listed ;;
"rest --method GET "*) show granted ;;
"rest --method POST "*)
	[ ! -e forbidden ] || fail "Authorization_RequestDenied"
	[ ! -e delay ] || { rm delay; fail "Request_ResourceNotFound"; }
	echo granted > granted ;;
"ad app federated-credential list "*) show trusted ;;
"ad app federated-credential create "*) echo unassign > trusted ;;
*) fail "unknown: $*" ;;
esac
`

// fakeSleep lets a minute pass in the directory: a service principal that was created becomes visible.
const fakeSleep = `#!/bin/sh
cd "$(dirname "$0")" && { [ ! -e coming ] || mv coming principal; }
`

const (
	grantApp       = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"
	grantPrincipal = "33333333-3333-4333-8333-333333333333"
	grantMachine   = "44444444-4444-4444-8444-444444444444"
	grantRole      = "5ac13192-7ace-4fcf-b828-1a26f28068ee"
)

// tenant creates a folder with az in it, and returns a function that runs the script there. The function returns the output, the exit
// status and the calls of az that change something.
func tenant(t *testing.T, files map[string]string) (dir string, grant func(args ...string) (string, int, []string)) {
	t.Helper()
	script, err := filepath.Abs("azure/grant.sh")
	if err != nil {
		t.Fatal(err)
	}
	return tenantOf(t, files, "/bin/sh", script)
}

// tenantOf is tenant for the script that a command runs.
func tenantOf(t *testing.T, files map[string]string, script ...string) (dir string, grant func(args ...string) (string, int, []string)) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sleep"), []byte(fakeSleep), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "az"), []byte(fakeAz), 0o700); err != nil {
		t.Fatal(err)
	}
	standard := map[string]string{"signed-in": "", "cloud": "https://graph.microsoft.com/", "application": grantApp, "identity": grantMachine}
	for name, text := range standard {
		if _, ok := files[name]; !ok {
			put(t, dir, name, text)
		}
	}
	for name, text := range files {
		if text == "absent" {
			continue
		}
		put(t, dir, name, text)
	}
	return dir, func(args ...string) (string, int, []string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(dir, "calls")); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), script[0], append(script[1:len(script):len(script)], args...)...)
		command.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "HOME=" + os.Getenv("HOME"), "DIR=" + dir}
		output, err := command.CombinedOutput()
		status := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			status = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		calls, err := os.ReadFile(filepath.Join(dir, "calls"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var changes []string
		for call := range strings.Lines(string(calls)) {
			call = strings.TrimSpace(call)
			if strings.Contains(call, "|create|") || strings.Contains(call, "|add|") || strings.Contains(call, "|POST|") {
				changes = append(changes, call)
			}
		}
		return string(output), status, changes
	}
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantGrant returns the call that grants the permission, by the ids that it has in every tenant.
func wantGrant(host, principal string) string {
	return "az|rest|--method|POST|--url|" + host + "/v1.0/servicePrincipals/22222222-2222-4222-8222-222222222222/appRoleAssignedTo|--headers|Content-Type=application/json|--body|" +
		`{"principalId":"` + principal + `","resourceId":"22222222-2222-4222-8222-222222222222","appRoleId":"` + grantRole + `"}`
}

func TestGrant(t *testing.T) {
	create := "az|ad|sp|create|--id|" + grantApp
	list := "az|ad|app|permission|add|--id|" + grantApp + "|--api|00000003-0000-0000-c000-000000000000|--api-permissions|" + grantRole + "=Role"
	federate := func(audience string) string {
		return "az|ad|app|federated-credential|create|--id|" + grantApp + "|--parameters|" +
			`{"name":"unassign-` + grantMachine + `","issuer":"https://login.microsoftonline.com/11111111-1111-4111-8111-111111111111/v2.0","subject":"` + grantMachine + `","audiences":["` + audience + `"]}`
	}
	for name, test := range map[string]struct {
		files map[string]string
		args  []string
		want  []string
	}{
		"an application that is new":     {nil, []string{"--app", grantApp}, []string{create, list, wantGrant("https://graph.microsoft.com", grantPrincipal)}},
		"one that has asked and got not": {map[string]string{"principal": grantPrincipal, "listed": grantRole}, []string{"--app", grantApp}, []string{wantGrant("https://graph.microsoft.com", grantPrincipal)}},
		"one that others can sign in as": {
			map[string]string{"principal": grantPrincipal, "listed": grantRole, "granted": "an id"},
			[]string{"--app", grantApp, "--federate", grantMachine},
			[]string{federate("api://AzureADTokenExchange")},
		},
		"the same for the US government": {
			map[string]string{"principal": grantPrincipal, "listed": grantRole, "granted": "an id", "cloud": "https://graph.microsoft.us/"},
			[]string{"--app", grantApp, "--federate", grantMachine},
			[]string{federate("api://AzureADTokenExchangeUSGov")},
		},
		// The directory shows a new service principal late, and refuses the consent once.
		"an application that becomes visible late": {
			map[string]string{"delay": ""},
			[]string{"--app", grantApp},
			[]string{create, list, wantGrant("https://graph.microsoft.com", grantPrincipal), wantGrant("https://graph.microsoft.com", grantPrincipal)},
		},
		"an identity":          {nil, []string{"--identity", grantMachine}, []string{wantGrant("https://graph.microsoft.com", grantMachine)}},
		"an identity in China": {map[string]string{"cloud": "https://microsoftgraph.chinacloudapi.cn"}, []string{"--identity", grantMachine}, []string{wantGrant("https://microsoftgraph.chinacloudapi.cn", grantMachine)}},
	} {
		t.Run(name, func(t *testing.T) {
			_, grant := tenant(t, test.files)

			// Without --yes the script reports the missing steps.
			output, status, changes := grant(test.args...)
			if status != 0 || len(changes) > 0 || strings.Count(output, "\n  missing: ") != distinct(test.want) || !strings.Contains(output, "Nothing was changed") {
				t.Errorf("without --yes: %d, %v\n%s", status, changes, output)
			}
			// With --yes it takes them, and then finds nothing missing.
			output, status, changes = grant(append(test.args, "--yes")...)
			if status != 0 || !slices.Equal(changes, test.want) || strings.Count(output, "\n  now: ") != distinct(test.want) {
				t.Errorf("with --yes: %d\n%s\n%v\nwant %v", status, output, changes, test.want)
			}
			output, status, changes = grant(append(test.args, "--yes")...)
			if status != 0 || len(changes) > 0 || !strings.Contains(output, "nothing is missing") {
				t.Errorf("again: %d, %v\n%s", status, changes, output)
			}
		})
	}
}

// distinct returns the number of different calls: a repeated one is a retry.
func distinct(calls []string) int { return len(slices.Compact(slices.Clone(calls))) }

func TestGrantFails(t *testing.T) {
	for name, test := range map[string]struct {
		files  map[string]string
		args   []string
		status int
		says   string
	}{
		"nobody is signed in":           {map[string]string{"signed-in": "absent"}, []string{"--app", grantApp, "--yes"}, 1, "az is not signed in: az login"},
		"no such application":           {map[string]string{"application": "absent"}, []string{"--app", grantApp, "--yes"}, 1, "the tenant does not have the application " + grantApp},
		"an identity of another tenant": {map[string]string{"principal": grantPrincipal, "listed": grantRole, "granted": "an id", "identity": "absent"}, []string{"--app", grantApp, "--federate", grantMachine, "--yes"}, 1, "trusts managed identities of its own tenant alone"},
		"no such identity":              {map[string]string{"identity": "absent"}, []string{"--identity", grantMachine, "--yes"}, 1, "the tenant does not have the identity " + grantMachine},
		"nothing to give it to":         {nil, []string{"--yes"}, 2, "usage: "},
		"two to give it to":             {nil, []string{"--app", grantApp, "--identity", grantMachine}, 2, "usage: "},
		"trust without application":     {nil, []string{"--identity", grantMachine, "--federate", grantMachine}, 2, "usage: "},
		"an option without a value":     {nil, []string{"--app"}, 2, "usage: "},
		"an option that is none":        {nil, []string{"--app", grantApp, "--force"}, 2, "usage: "},
		"an id that is none":            {nil, []string{"--app", "https://contoso.example", "--yes"}, 1, "--app must be followed by a GUID"},
		"an id with more behind it":     {nil, []string{"--identity", grantMachine + "' or 'a", "--yes"}, 1, "--identity must be followed by a GUID"},
		"who signs in may not consent":  {map[string]string{"forbidden": ""}, []string{"--identity", grantMachine, "--yes"}, 1, "Authorization_RequestDenied"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, grant := tenant(t, test.files)
			output, status, changes := grant(test.args...)
			if status != test.status || !strings.Contains(output, test.says) {
				t.Errorf("%d\n%s", status, output)
			}
			if _, forbidden := test.files["forbidden"]; len(changes) > 0 != forbidden || strings.Contains(output, "Done.") {
				t.Errorf("changed %v\n%s", changes, output)
			}
			if _, err := os.Stat(filepath.Join(dir, "granted")); err == nil && test.files["granted"] == "" {
				t.Error("it was granted")
			}
		})
	}
}

// Without az the script says where to get it.
func TestGrantNeedsAz(t *testing.T) {
	script, err := filepath.Abs("azure/grant.sh")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "/bin/sh", script, "--app", grantApp)
	command.Env = []string{"PATH=" + t.TempDir()}
	output, err := command.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(output), "az is not installed: https://") {
		t.Errorf("%v: %s", err, output)
	}
}
