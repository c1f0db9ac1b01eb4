package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

const (
	roleARN  = simulated.RoleARN
	exchange = simulated.Exchange
)

// onLambda returns the additional environment of a function with a role, and the role of a cloud.
func onLambda(c *azuresim.Cloud, served *azuresim.Served) (azuresim.Role, []string) {
	role := c.PutRole(roleARN)
	return role, []string{
		"VAULT_CREDENTIAL=", "AZURE_TENANT_ID=" + c.TenantID, "AWS_ENDPOINT_URL_STS=" + served.STSEndpoint, "AWS_REGION=" +
			role.Region,
		"AWS_ACCESS_KEY_ID=" + role.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + role.SecretAccessKey, "AWS_SESSION_TOKEN=" +
			role.SessionToken,
	}
}

func trusting(role azuresim.Role) azuresim.Trust {
	return azuresim.Trust{Issuer: role.Issuer, Subject: role.ARN, Audience: exchange}
}

// A function on Lambda has no secret: its role's token opens the vault, or stands for the app itself. The signatures
// on both are looked at.
func TestFederation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare  func(*azuresim.Cloud, azuresim.Role)
		settings []string
		request  sent
		asked    string // how often: tokens, the vault with a token, the managed identity
		signIns  int    // that need an assertion in a cold start; those at the same time share one
	}{
		"for the vault": {
			func(c *azuresim.Cloud, role azuresim.Role) { c.SetTrust(c.IdentityClientID, trusting(role)) }, nil, valid(),
			"2 2 0", 1,
		},
		"for the vault and for Graph": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, trusting(role))
				c.SetTrust(c.ClientID, trusting(role))
			},
			[]string{"GRAPH_CREDENTIAL=identity", "GRAPH_SECRET_NAME="},
			valid(), "2 1 0", 2,
		},
		"for Graph, without a vault": {
			func(c *azuresim.Cloud, role azuresim.Role) { c.SetTrust(c.ClientID, trusting(role)) },
			[]string{
				"GRAPH_CREDENTIAL=identity", "GRAPH_SECRET_NAME=", "KEY_VAULT_URL=", "WEBHOOK_SECRET_NAMES=",
				"API_KEY_SECRET_NAMES=", "AUTH=platform-anonymous",
				"AZURE_TENANT_ID=", "AZURE_CLIENT_ID=",
			},
			post(validBody, unsigned), "1 0 0", 1,
		},
	} {
		c := newCloud()
		served := c.Serve()
		role, env := onLambda(c, served)
		test.prepare(c, role)
		d := startLambda(t, environment(t, c, served, slices.Concat(env, []string{
			"REQUEST_TIMEOUT=20s",
			"API_KEY_SECRET_NAMES=",
		}, test.settings)...))
		for range 2 {
			test.request.Header.Set("X-Request-Id", "request-1")
			if answer, err := d.send(t.Context(), test.request); err != nil || answer.status != http.StatusNoContent {
				t.Fatalf("%s: %d %s, %v\n%s", name, answer.status, answer.body, err, strings.Join(d.lines(), "\n"))
			}
		}
		asked := fmt.Sprint(c.Count(azuresim.StepToken), c.Count(azuresim.StepSecret), c.Count(azuresim.StepIdentity))
		if asked != test.asked {
			t.Errorf("%s: Entra, the vault and the managed identity were asked %s times, want %s", name, asked, test.asked)
		}
		if n := c.Count(azuresim.StepSTS); n < 1 || n > test.signIns {
			t.Errorf("%s: STS was asked %d times, want 1 to %d", name, n, test.signIns)
		}
		d.stop()
		if found := leaks(append(canaries(c, served), role.SecretAccessKey, role.SessionToken), strings.Join(d.lines(),
			"\n")); len(found) > 0 {
			t.Errorf("%s: leaked %q", name, found)
		}
		served.Close()
	}
}
