package app_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

// The log has the reason of a failure between AWS and Entra ID; the caller gets the text of the status table.
func TestFederationRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*azuresim.Cloud, azuresim.Role)
		setting []string
		status  int
		code    string
		log     string
	}{
		"the switch of the account is off": {
			func(c *azuresim.Cloud, _ azuresim.Role) { c.DisableFederation() }, nil, 424, "credential_rejected",
			"outbound web identity federation is not enabled in the account",
		},
		"the role may not": {
			func(c *azuresim.Cloud, _ azuresim.Role) {
				c.Fail(azuresim.StepSTS, -1, azuresim.Body(403, "text/xml",
					`<ErrorResponse><Error><Code>AccessDenied</Code><Message>canary</Message></Error></ErrorResponse>`))
			}, nil, 424, "credential_rejected", "the role may not ask for this token",
		},
		"the role's credentials are wrong": {
			nil,
			[]string{"AWS_SECRET_ACCESS_KEY", "another"},
			424, "credential_rejected",
			"SignatureDoesNotMatch",
		},
		"the role's session has ended": {
			nil,
			[]string{"AWS_SESSION_TOKEN", "another"},
			424, "credential_rejected",
			"SignatureDoesNotMatch",
		},
		"nobody is trusted": {
			func(c *azuresim.Cloud, _ azuresim.Role) { c.SetTrust(c.IdentityClientID) },
			nil, 424, "app_not_found", "AADSTS700016",
		},
		"another account is trusted": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, azuresim.Trust{
					Issuer:  "https://another.tokens.sts.global.api.aws",
					Subject: role.ARN, Audience: exchange,
				})
			}, nil, 424, "credential_rejected", "AADSTS700211",
		},
		"another role is trusted": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, azuresim.Trust{Issuer: role.Issuer, Subject: roleARN + "-2", Audience: exchange})
			}, nil, 424, "credential_rejected", "AADSTS700213",
		},
		"another audience is trusted": {
			func(c *azuresim.Cloud, role azuresim.Role) {
				c.SetTrust(c.IdentityClientID, azuresim.Trust{Issuer: role.Issuer, Subject: role.ARN, Audience: "api://another"})
			}, nil, 424, "credential_rejected", "AADSTS700212",
		},
		"STS throttles": {
			func(c *azuresim.Cloud, _ azuresim.Role) {
				c.Fail(azuresim.StepSTS, -1, azuresim.Body(400, "text/xml",
					`<ErrorResponse><Error><Code>Throttling</Code><Message>canary</Message></Error></ErrorResponse>`))
			}, nil, 503, "identity_unavailable", `"reason":"throttled"`,
		},
		"STS is down": {func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepSTS, -1,
				azuresim.Status(503))
		}, nil, 503, "identity_unavailable", `"reason":"unavailable"`},
		"STS hangs": {
			func(c *azuresim.Cloud, _ azuresim.Role) { c.Fail(azuresim.StepSTS, -1, azuresim.Hang()) },
			nil, 504, "identity_timeout", `"reason":"timeout"`,
		},
		"STS sends another type": {func(c *azuresim.Cloud, _ azuresim.Role) {
			c.Fail(azuresim.StepSTS, -1,
				azuresim.WrongType())
		}, nil, 503, "identity_unavailable", `"reason":"bad_answer"`},
		"STS is not there": {
			func(c *azuresim.Cloud, _ azuresim.Role) { c.Fail(azuresim.StepSTS, -1, azuresim.Refused()) },
			nil, 503, "upstream_unreachable", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCloud()
				role := c.PutRole(roleARN)
				c.SetTrust(c.IdentityClientID, simulated.Trusting(role))
				if test.prepare != nil {
					test.prepare(c, role)
				}
				settings := append([]string{
					"VAULT_CREDENTIAL", "aws-federation", "AZURE_TENANT_ID", c.TenantID, "AWS_REGION", role.Region,
					"AWS_ACCESS_KEY_ID", role.AccessKeyID, "AWS_SECRET_ACCESS_KEY", role.SecretAccessKey,
					"AWS_SESSION_TOKEN", role.SessionToken,
				}, test.setting...)
				var log bytes.Buffer
				w := ask(t, wired(t, c, &log, settings...), valid())
				if w.Code != test.status || !strings.Contains(w.Body.String(), `"code":"`+test.code+`"`) ||
					!strings.Contains(log.String(), test.log) {
					t.Errorf("%d %s; want %d %s\n%s", w.Code, w.Body, test.status, test.code, &log)
				}
				secrets := append(canaries(c, nil), role.SecretAccessKey, role.SessionToken, "canary")
				if found := leaks(secrets, log.String(), w.Body.String()); len(found) > 0 {
					t.Errorf("leaked %q in %s", found, &log)
				}
				time.Sleep(time.Minute) // which ends abandoned work
			})
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
			c.SetTrust(c.ClientID, simulated.TrustingIdentity(c))
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
			synctest.Test(t, func(t *testing.T) {
				c := newCloud()
				settings := withoutVault
				if !test.app {
					settings = append([]string{"GRAPH_CLIENT_ID", ""}, settings...)
				}
				test.prepare(c)
				var log bytes.Buffer
				w := ask(t, wired(t, c, &log, settings...), post(validBody, unsigned))
				if w.Code != test.status || !strings.Contains(w.Body.String(), test.code) {
					t.Errorf("%d %s; want %d %s\n%s", w.Code, w.Body, test.status, test.code, &log)
				}
				if n := c.Count(azuresim.StepChallenge); n > 0 {
					t.Errorf("the vault was asked %d times", n)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}
