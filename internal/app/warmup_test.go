package app_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
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
var withoutVault = []string{
	"GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "", "KEY_VAULT_URL", "",
	"WEBHOOK_SECRET_NAMES", "", "AUTH", "platform",
}

// TestColdCall counts the round trips that the first request waits for in sequence, if it comes with the start or a
// second later. It compares them with the shortest possible chain, and with the table in docs/performance.md.
func TestColdCall(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		chain    string // of requests that need each other
		settings []string
		prepare  func(*azuresim.Cloud)
		request  func(*azuresim.Cloud) sent
		sequence int    // of round trips, at once
		asked    string // requests, step by step
	}{
		"managed identity, keys in the vault (default on Azure)": {
			chain:    "identity token, key, read, act",
			settings: []string{"GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "", "GRAPH_CLIENT_ID", ""},
			sequence: 4, asked: "[0 2 1 1 0 0 0 1 2]",
		},
		"the default on Azure with `AZURE_CLOUD=custom`": {
			chain:    "identity token, key, read, act",
			settings: []string{"GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", "", "GRAPH_CLIENT_ID", "", "AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com", "GRAPH_ENDPOINT", "https://graph.microsoft.com"},
			sequence: 5, asked: "[0 2 1 1 0 0 0 1 2]",
		},
		"role of the function, keys in the vault (default on AWS)": {
			chain:    "assertion, vault token, key, read, act",
			settings: []string{"VAULT_CREDENTIAL", "aws-federation", "GRAPH_CREDENTIAL", "identity", "GRAPH_SECRET_NAME", ""},
			sequence: 5, asked: "[1 0 1 1 1 2 0 1 2]",
		},
		"managed identity, client secret in the vault": {
			chain:    "identity token, secret, app token, read, act",
			sequence: 5, asked: "[0 1 1 2 1 1 0 1 2]",
		},
		"managed identity, certificate in the vault": {
			chain:    "identity token, certificate, app token, read, act",
			settings: []string{"GRAPH_SECRET_NAME", "", "GRAPH_CERTIFICATE_NAME", "graph-certificate"},
			prepare: func(c *azuresim.Cloud) {
				key, cert := simulated.NewCertificateUntil(time.Now().Add(90 * 24 * time.Hour))
				c.SetAppCertificates(cert)
				c.PutSecret("graph-certificate", azuresim.Secret{Value: simulated.InPEM(key, cert)})
			},
			sequence: 5, asked: "[0 1 1 2 1 1 0 1 2]",
		},
		"managed identity, callers of all kinds": {
			chain:    "identity token, secret, app token, read, act",
			settings: []string{"WEBHOOK_SECRET_NAMES", "webhook-servicenow,webhook-next", "API_KEY_SECRET_NAMES", "api-key-flow", "ENTRA_AUDIENCE", audienceID},
			prepare: func(c *azuresim.Cloud) {
				c.PutSecret("webhook-next", azuresim.Secret{Value: encodeKey(bytes.Repeat([]byte("k"), 32))})
			},
			request:  func(c *azuresim.Cloud) sent { return post(validBody, unsigned, bearer(c, fromServiceNow)) },
			sequence: 5, asked: "[0 1 1 4 1 1 1 1 2]",
		},
		// The vault of such a cloud names the scope of its tokens in its challenge.
		"managed identity, client secret, `AZURE_CLOUD=custom`": {
			chain:    "identity token, secret, app token, read, act",
			settings: []string{"AZURE_CLOUD", "custom", "AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com", "GRAPH_ENDPOINT", "https://graph.microsoft.com"},
			sequence: 6, asked: "[0 1 1 2 1 1 0 1 2]",
		},
		"client secret for the vault, client secret in it": {
			chain:    "vault token, secret, app token, read, act",
			settings: []string{"VAULT_CREDENTIAL", "client-secret", "AZURE_CLIENT_SECRET", canarySecret},
			sequence: 6, asked: "[0 0 1 2 1 2 0 1 2]",
		},
		"role of the function, client secret in the vault": {
			chain:    "assertion, vault token, secret, app token, read, act",
			settings: []string{"VAULT_CREDENTIAL", "aws-federation"}, sequence: 6, asked: "[1 0 1 2 1 2 0 1 2]",
		},
		"role of the function, no vault": {
			chain:    "assertion, app token, read, act",
			settings: append([]string{"VAULT_CREDENTIAL", "aws-federation"}, withoutVault...),
			sequence: 4, asked: "[1 0 0 0 1 1 0 1 2]",
		},
		"managed identity, no vault": {
			chain:    "identity token, read, act",
			settings: append([]string{"GRAPH_CLIENT_ID", ""}, withoutVault...),
			sequence: 3, asked: "[0 1 0 0 0 0 0 1 2]",
		},
		"managed identity that an app trusts, no vault": {
			chain:    "identity token, app token, read, act",
			settings: withoutVault,
			sequence: 4, asked: "[0 1 0 0 1 1 0 1 2]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needed := strings.Count(test.chain, ",") + 1
			if test.sequence > needed+1 {
				t.Errorf("%d round trips in sequence, want %d at most", test.sequence, needed+1)
			}
			requests := 0
			for n := range strings.FieldsSeq(strings.Trim(test.asked, "[]")) {
				requests += int(n[0] - '0')
			}
			if row := fmt.Sprintf("| %s | %s | %d | %d |", name, test.chain, test.sequence, requests); !strings.Contains(string(page), row) {
				t.Errorf("docs/performance.md has no row\n%s", row)
			}
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
						t.Errorf("after %v it waited for %v, want %d round trips of %v", later, got, want, answerTime)
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

// TestQuietMinute has a request come after two minutes without one: it waits for the callers' keys, the read and the
// action. A request nearly a minute later has the keys read beside it.
func TestQuietMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud()
		var log bytes.Buffer
		s := wired(t, c, &log)
		s.WarmUp(t.Context())
		for _, step := range allSteps {
			c.Fail(step, -1, azuresim.Delay(answerTime))
		}
		for _, test := range []struct {
			quiet time.Duration
			trips time.Duration
			keys  int // times that they are read
		}{{2 * time.Minute, 3, 1}, {40 * time.Second, 2, 0}, {15 * time.Second, 2, 1}, {59 * time.Second, 2, 1}, {time.Hour / 2, 3, 1}} {
			time.Sleep(test.quiet)
			before, start := c.Count(azuresim.StepSecret), time.Now()
			if w := ask(t, s, post(validBody)); w.Code != http.StatusNoContent {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if got := time.Since(start); got != test.trips*answerTime {
				t.Errorf("after %v: waited for %v, want %d round trips of %v", test.quiet, got, test.trips, answerTime)
			}
			synctest.Wait()
			if got := c.Count(azuresim.StepSecret) - before; got != test.keys {
				t.Errorf("after %v: the keys were read %d times, want %d", test.quiet, got, test.keys)
			}
		}
	})
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
		append([]string{
			"VAULT_CREDENTIAL", "aws-federation", "AWS_REGION", role.Region, "AWS_ACCESS_KEY_ID",
			role.AccessKeyID, "AWS_SECRET_ACCESS_KEY", role.SecretAccessKey,
		}, withoutVault...),
	} {
		for _, but := range []string{"no address", "openid-configuration", "/secrets/", "sts."} {
			var log bytes.Buffer
			s := simulated.NewApp(t, simulated.Load(t, simulated.Settings(c, settings...)), stumbling{c, but}, &log)
			s.WarmUp(t.Context())
			if got := strings.Count(log.String(), "warm-up failed"); got == 0 || strings.Contains(log.String(),
				"warmed up") || strings.Contains(log.String(), "canary") {
				t.Errorf("%d steps have failed: %s", got, &log)
			}
		}
	}
}
