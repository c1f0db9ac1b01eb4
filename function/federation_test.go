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
		asked    string // how often: STS, tokens, the vault with a token, the managed identity
	}{
		"for the vault": {
			func(c *azuresim.Cloud, role azuresim.Role) { c.SetTrust(c.IdentityClientID, trusting(role)) }, nil, valid(),
			"1 2 2 0",
		},
		"for the vault and for Graph": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, trusting(role))
				c.SetTrust(c.ClientID, trusting(role))
			},
			[]string{"GRAPH_CREDENTIAL=identity", "GRAPH_SECRET_NAME="},
			valid(), "1 2 1 0",
		},
		"for Graph, without a vault": {
			func(c *azuresim.Cloud, role azuresim.Role) { c.SetTrust(c.ClientID, trusting(role)) },
			[]string{
				"GRAPH_CREDENTIAL=identity", "GRAPH_SECRET_NAME=", "KEY_VAULT_URL=", "WEBHOOK_SECRET_NAMES=",
				"API_KEY_SECRET_NAMES=", "AUTH=platform-anonymous",
				"AZURE_TENANT_ID=", "AZURE_CLIENT_ID=",
			},
			post(validBody, unsigned), "1 1 0 0",
		},
	} {
		c := newCloud()
		served, err := c.Serve()
		if err != nil {
			t.Fatal(err)
		}
		role, env := onLambda(c, served)
		test.prepare(c, role)
		d := startLambda(t, environment(t, c, served, slices.Concat(env, []string{
			"REQUEST_TIMEOUT=20s",
			"API_KEY_SECRET_NAMES=",
		}, test.settings)...))
		for range 2 {
			test.request.header.Set("X-Request-Id", "request-1")
			if answer, err := d.send(t.Context(), test.request); err != nil || answer.status != http.StatusNoContent {
				t.Fatalf("%s: %d %s, %v\n%s", name, answer.status, answer.body, err, strings.Join(d.lines(), "\n"))
			}
		}
		// Concurrent calls share an assertion: whether the two of a cold start are concurrent is a matter of time.
		asked := fmt.Sprint(min(c.Count(azuresim.StepSTS), 1), c.Count(azuresim.StepToken), c.Count(azuresim.StepSecret),
			c.Count(azuresim.StepIdentity))
		if asked != test.asked {
			t.Errorf("%s: STS, Entra, the vault and the managed identity were asked %s times, want %s", name, asked, test.asked)
		}
		d.stop()
		if found := leaks(append(canaries(c, served), role.SecretAccessKey, role.SessionToken), strings.Join(d.lines(),
			"\n")); len(found) > 0 {
			t.Errorf("%s: leaked %q", name, found)
		}
		served.Close()
	}
}

// The log has the reason of a failure between AWS and Entra ID; the caller gets the text of the status table.
func TestFederationRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*azuresim.Cloud, azuresim.Role)
		setting string
		status  int
		code    string
		log     string
	}{
		"the switch of the account is off": {
			func(c *azuresim.Cloud, _ azuresim.Role) { c.DisableFederation() }, "", 424, "credential_rejected",
			"outbound web identity federation is not enabled in the account",
		},
		"the role may not": {
			func(c *azuresim.Cloud, _ azuresim.Role) {
				c.Fail(azuresim.StepSTS, -1, azuresim.Body(403, "text/xml",
					`<ErrorResponse><Error><Code>AccessDenied</Code><Message>canary</Message></Error></ErrorResponse>`))
			}, "", 424, "credential_rejected", "the role may not ask for this token",
		},
		"the role's credentials are wrong": {
			nil, "AWS_SECRET_ACCESS_KEY=another", 424, "credential_rejected",
			"SignatureDoesNotMatch",
		},
		"the role's session has ended": {
			nil, "AWS_SESSION_TOKEN=another", 424, "credential_rejected",
			"SignatureDoesNotMatch",
		},
		"nobody is trusted": {
			func(c *azuresim.Cloud, _ azuresim.Role) { c.SetTrust(c.IdentityClientID) },
			"", 424, "app_not_found", "AADSTS700016",
		},
		"another account is trusted": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, azuresim.Trust{
					Issuer:  "https://another.tokens.sts.global.api.aws",
					Subject: role.ARN, Audience: exchange,
				})
			}, "", 424, "credential_rejected", "AADSTS700211",
		},
		"another role is trusted": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, azuresim.Trust{Issuer: role.Issuer, Subject: roleARN + "-2", Audience: exchange})
			}, "", 424, "credential_rejected", "AADSTS700213",
		},
		"another audience is trusted": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, azuresim.Trust{Issuer: role.Issuer, Subject: role.ARN, Audience: "api://another"})
			}, "", 424, "credential_rejected", "AADSTS700212",
		},
		"STS throttles": {
			func(c *azuresim.Cloud, _ azuresim.Role) {
				c.Fail(azuresim.StepSTS, -1, azuresim.Body(400, "text/xml",
					`<ErrorResponse><Error><Code>Throttling</Code><Message>canary</Message></Error></ErrorResponse>`))
			}, "", 503, "identity_unavailable", `"reason":"throttled"`,
		},
		"STS is down": {func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepSTS, -1,
				azuresim.Status(503))
		}, "", 503, "identity_unavailable", `"reason":"unavailable"`},
		"STS hangs": {
			func(c *azuresim.Cloud, _ azuresim.Role) { c.Fail(azuresim.StepSTS, -1, azuresim.Hang()) },
			"", 504, "identity_timeout", `"reason":"timeout"`,
		},
		"STS answers nothing": {func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepSTS, -1,
				azuresim.WrongType())
		}, "", 503, "identity_unavailable", `"reason":"bad_answer"`},
		"STS is not there": {nil, "AWS_ENDPOINT_URL_STS=https://127.0.0.1:1", 503, "upstream_unreachable", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			served, err := c.Serve()
			if err != nil {
				t.Fatal(err)
			}
			defer served.Close()
			role, env := onLambda(c, served)
			c.SetTrust(c.IdentityClientID, trusting(role))
			if test.prepare != nil {
				test.prepare(c, role)
			}
			if test.setting != "" {
				env = append(env, test.setting)
			}
			d := startLambda(t, environment(t, c, served, env...))
			answer, err := d.send(t.Context(), valid())
			d.stop()
			log := strings.Join(d.lines(), "\n")
			if err != nil || answer.status != test.status || !strings.Contains(answer.body, `"code":"`+test.code+`"`) ||
				!strings.Contains(log, test.log) {
				t.Errorf("%d %s, %v; want %d %s\n%s", answer.status, answer.body, err, test.status, test.code, log)
			}
			if found := leaks(append(canaries(c, served), role.SecretAccessKey, role.SessionToken, "canary"), log,
				answer.body); len(found) > 0 {
				t.Errorf("leaked %q in %s", found, log)
			}
		})
	}
}

// On Azure the managed identity has the permission in Graph itself, or an app that has it trusts the managed identity.
func TestGraphWithoutASecret(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*azuresim.Cloud)
		app     bool
		status  int
		code    string
	}{
		"the identity has the permission": {
			func(c *azuresim.Cloud) { c.SetIdentityRoles(azuresim.GraphRole) }, false, 204,
			"",
		},
		"the identity has it not": {func(*azuresim.Cloud) {}, false, 424, "graph_permission_missing"},
		"the app trusts the identity": {func(c *azuresim.Cloud) {
			c.SetTrust(c.ClientID, azuresim.Trust{Issuer: c.Issuer(), Subject: c.IdentityObjectID, Audience: exchange})
		}, true, 204, ""},
		"the app trusts another": {func(c *azuresim.Cloud) {
			c.SetTrust(c.ClientID, azuresim.Trust{Issuer: c.Issuer(), Subject: "another", Audience: exchange})
		}, true, 424, "credential_rejected"},
		"the app trusts nobody": {func(*azuresim.Cloud) {}, true, 424, "credential_rejected"},
		"the identity is not there, for both": {func(c *azuresim.Cloud) {
			c.Fail(azuresim.StepIdentity, -1,
				azuresim.Status(500))
		}, true, 503, "identity_unavailable"},
		"the identity is not there, for Graph": {func(c *azuresim.Cloud) {
			c.Fail(azuresim.StepIdentity, -1,
				azuresim.Status(500))
		}, false, 503, "identity_unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			settings := []string{
				"GRAPH_CREDENTIAL=identity", "GRAPH_SECRET_NAME=", "KEY_VAULT_URL=", "WEBHOOK_SECRET_NAMES=",
				"API_KEY_SECRET_NAMES=", "AUTH=platform-anonymous",
			}
			if !test.app {
				settings = append(settings, "GRAPH_CLIENT_ID=")
			}
			served, err := c.Serve()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(served.Close)
			test.prepare(c)
			d := startAzure(t, environment(t, c, served, settings...))
			t.Cleanup(d.stop)
			answer, err := d.send(t.Context(), post(validBody, unsigned))
			if err != nil || answer.status != test.status || !strings.Contains(answer.body, test.code) {
				t.Errorf("%d %s, %v; want %d %s\n%s", answer.status, answer.body, err, test.status, test.code,
					strings.Join(d.lines(), "\n"))
			}
			if n := c.Count(azuresim.StepChallenge); n > 0 {
				t.Errorf("the vault was asked %d times", n)
			}
		})
	}
}
