package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/hosttest/simulated"
)

// allSteps are the steps of the cloud that a request can wait for.
var allSteps = []azuresim.Step{
	azuresim.StepSTS, azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery,
	azuresim.StepToken, azuresim.StepKeys,
	azuresim.StepConnect, azuresim.StepGraph,
}

// asked returns how often the cloud has been asked, step by step.
func asked(c *azuresim.Cloud) string {
	var n []int
	for _, step := range allSteps {
		n = append(n, c.Count(step))
	}
	return fmt.Sprint(n)
}

// withoutVault are the settings of a deployment that has none.
var withoutVault = []string{"GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "", "KEY_VAULT_URL", "",
	"WEBHOOK_SECRET_NAMES", "", "AUTH", "platform"}

// TestColdCall counts how many answers the first request waits for, one after the other: when it comes with the
// start, and when it comes a second later.
func TestColdCall(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settings []string
		prepare  func(*azuresim.Cloud)
		request  func(*azuresim.Cloud) sent
		sequence int    // of answers, at once
		asked    string // how often, step by step
	}{
		// The vault's challenge, the identity's token and the tenant's endpoints; both secrets; the app's token; Graph's
		// read and change.
		"a secret": {sequence: 5, asked: "[0 1 1 2 1 1 0 1 2]"},
		"a certificate": {
			settings: []string{"GRAPH_SECRET_NAME", "", "GRAPH_CERTIFICATE_NAME", "graph-certificate"},
			prepare: func(c *azuresim.Cloud) {
				key, cert := newCertificateUntil(time.Now().Add(90 * 24 * time.Hour))
				c.SetAppCertificates(cert)
				c.PutSecret("graph-certificate", azuresim.Secret{Value: simulated.InPEM(key, cert)})
			},
			sequence: 5, asked: "[0 1 1 2 1 1 0 1 2]",
		},
		"callers of all kinds": {
			settings: []string{"WEBHOOK_SECRET_NAMES", "webhook-servicenow,webhook-next", "API_KEY_SECRET_NAMES",
				"api-key-flow", "ENTRA_AUDIENCE", audienceID},
			prepare: func(c *azuresim.Cloud) {
				c.PutSecret("webhook-next", azuresim.Secret{Value: encodeKey(bytes.Repeat([]byte("k"), 32))})
			},
			request:  func(c *azuresim.Cloud) sent { return post(validBody, unsigned, bearer(c, fromServiceNow)) },
			sequence: 5, asked: "[0 1 1 4 1 1 1 1 2]",
		},
		// The scope of such a cloud's vault is unknown before its first challenge.
		"a cloud of one's own": {
			settings: []string{"AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com",
				"GRAPH_ENDPOINT", "https://graph.microsoft.com"},
			sequence: 6, asked: "[0 1 1 2 1 1 0 1 2]",
		},
		// The identity has a tenant's endpoints to find as well, and a token to get.
		"a client secret for the vault": {
			settings: []string{"VAULT_CREDENTIAL", "client-secret", "AZURE_CLIENT_SECRET", canarySecret},
			sequence: 6, asked: "[0 0 1 2 1 2 0 1 2]",
		},
		"a role of AWS for the vault": {
			settings: []string{"VAULT_CREDENTIAL", "aws-federation"}, sequence: 6, asked: "[1 0 1 2 1 2 0 1 2]",
		},
		"a role of AWS for Graph": {
			settings: append([]string{"VAULT_CREDENTIAL", "aws-federation"}, withoutVault...),
			sequence: 4, asked: "[1 0 0 0 1 1 0 1 2]",
		},
		"a managed identity for Graph": {
			settings: append([]string{"GRAPH_CLIENT_ID", ""}, withoutVault...),
			sequence: 3, asked: "[0 1 0 0 0 0 0 1 2]",
		},
		"a managed identity that an app trusts": {
			settings: withoutVault,
			sequence: 4, asked: "[0 1 0 0 1 1 0 1 2]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for later, want := range map[time.Duration]int{0: test.sequence, time.Second: 2} {
				synctest.Test(t, func(t *testing.T) {
					c := newCloud()
					role := c.PutRole(roleARN)
					if test.prepare != nil {
						test.prepare(c)
					} else {
						simulated.TrustAll(c, role)
					}
					for _, step := range allSteps {
						c.Fail(step, -1, azuresim.Delay(answerTime))
					}
					var log bytes.Buffer
					s := wired(t, c, &log, append([]string{
						"AZURE_TENANT_ID", c.TenantID, "AWS_REGION", role.Region,
						"AWS_ACCESS_KEY_ID", role.AccessKeyID, "AWS_SECRET_ACCESS_KEY", role.SecretAccessKey, "AWS_SESSION_TOKEN",
						role.SessionToken,
					}, test.settings...)...)
					go s.WarmUp(t.Context())
					time.Sleep(later)
					request := post(validBody)
					if test.request != nil {
						request = test.request(c)
					}
					start := time.Now()
					if w := ask(t, s, request); w.Code != http.StatusNoContent {
						t.Fatalf("%d %s", w.Code, w.Body)
					}
					if got := time.Since(start); got != time.Duration(want)*answerTime {
						t.Errorf("after %v it waited for %v, want %d answers of %v", later, got, want, answerTime)
					}
					synctest.Wait()
					if got := asked(c); got != test.asked {
						t.Errorf("after %v: %v were asked %s times, want %s\n%s", later, allSteps, got, test.asked, &log)
					}
				})
			}
		})
	}
}

// stumbling is a cloud on which the program falls over at every step but one.
type stumbling struct {
	*azuresim.Cloud
	but string // in the address
}

func (f stumbling) Do(r *http.Request) (*http.Response, error) {
	if !strings.Contains(r.URL.String(), f.but) {
		panic("canary in a panic")
	}
	return f.Cloud.Do(r)
}

// A fault of this program in the warm-up ends no process: it would be started again, and end again.
func TestWarmUpThatPanics(t *testing.T) {
	t.Parallel()
	c := newCloud()
	role := c.PutRole(roleARN)
	simulated.TrustAll(c, role)
	for _, settings := range [][]string{
		{"API_KEY_SECRET_NAMES", "api-key-flow", "ENTRA_AUDIENCE", audienceID},
		append([]string{"VAULT_CREDENTIAL", "aws-federation", "AWS_REGION", role.Region, "AWS_ACCESS_KEY_ID",
			role.AccessKeyID, "AWS_SECRET_ACCESS_KEY", role.SecretAccessKey}, withoutVault...),
	} {
		for _, but := range []string{"no address", "openid-configuration", "/secrets/", "sts."} {
			deployed, err := config.Load(complete(append([]string{
				"KEY_VAULT_URL", c.VaultURL, "AZURE_CLIENT_ID", c.IdentityClientID, "GRAPH_TENANT_ID", c.TenantID,
				"GRAPH_CLIENT_ID", c.ClientID,
			}, settings...)...), config.Local)
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s, err := newApp(deployed, stumbling{c, but}, app.NewLog(&log, deployed.LogLevel))
			if err != nil {
				t.Fatal(err)
			}
			s.WarmUp(t.Context())
			if got := strings.Count(log.String(), "warm-up failed"); got == 0 || strings.Contains(log.String(),
				"warmed up") || strings.Contains(log.String(), "canary") {
				t.Errorf("%d steps have failed: %s", got, &log)
			}
		}
	}
}
