package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

const (
	audienceURI   = simulated.AudienceURI
	audienceID    = simulated.AudienceID
	serviceNow    = simulated.ServiceNow
	powerAutomate = simulated.PowerAutomate
	someUser      = simulated.User
	role          = simulated.Role
)

// tokens is the whole program on a simulated cloud in this process, taking tokens.
type tokens struct {
	t       *testing.T
	cloud   *azuresim.Cloud
	handler *app.App
	log     azuresim.Buffer
}

func newTokens(t *testing.T, settings ...string) *tokens {
	t.Helper()
	p := &tokens{t: t, cloud: newCloud()}
	settings = append([]string{"WEBHOOK_SECRET_NAMES", "", "ENTRA_AUDIENCE", audienceURI + "," + audienceID}, settings...)
	p.handler = simulated.NewApp(t, simulated.Load(t, simulated.Settings(p.cloud, settings...)), p.cloud, &p.log)
	return p
}

// send sends a request with a token, and returns the status.
func (p *tokens) send(token string) int {
	return ask(p.t, p.handler, post(validBody, unsigned, header("Authorization", "Bearer "+token))).Code
}

// Signing keys are rotated while requests come: no request with a token of the old key or of the new one is refused.
func TestSigningKeyRotationUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newTokens(t)
		p.cloud.Fail(azuresim.StepKeys, -1, azuresim.Delay(300*time.Millisecond))
		var lost atomic.Int32
		var sending sync.WaitGroup
		for i := range 12 {
			sending.Go(func() {
				for range 10 {
					if status := p.send(p.cloud.Token(fromServiceNow(p.cloud), nil)); status != http.StatusNoContent {
						lost.Add(1)
						t.Errorf("sender %d: %d", i, status)
					}
					time.Sleep(time.Duration(150+i) * time.Millisecond)
				}
			})
		}
		time.Sleep(time.Second)
		p.cloud.RotateSigningKey()
		sending.Wait()
		if reads := p.cloud.Count(azuresim.StepKeys); reads != 2 || lost.Load() > 0 {
			t.Errorf("the keys were read %d times, want 2; %d requests were lost\n%s", reads, lost.Load(), p.log.String())
		}
	})
}

// A fault of Entra's keys is not the caller's: no token is refused for it. The response is in time, and its outcome is
// not_done.
func TestFaultsOfSigningKeys(t *testing.T) { //nolint:tparallel // the subtests share the time of one test
	t.Parallel()
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newTokens(t)
				token := p.cloud.Token(fromServiceNow(p.cloud), nil)
				p.cloud.Fail(azuresim.StepKeys, -1, fault)
				start := time.Now()
				status := p.send(token)
				took := time.Since(start)
				log := p.log.String()
				if name == "slow" {
					if status != http.StatusNoContent || took < 2*time.Second {
						t.Errorf("%d after %v\n%s", status, took, log)
					}
					return
				}
				switch status {
				case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusFailedDependency:
				default:
					t.Errorf("%d\n%s", status, log)
				}
				if lasting := name == "untrusted"; lasting != (status == http.StatusFailedDependency) {
					t.Errorf("%d\n%s", status, log)
				}
				if took > 5*time.Second || p.cloud.Count(azuresim.StepKeys) != 1 || p.cloud.Count(azuresim.StepSecret) > 0 ||
					!strings.Contains(log, `"outcome":"not_done"`) {
					t.Errorf("after %v and %d readings: %s", took, p.cloud.Count(azuresim.StepKeys), log)
				}
				if found := leaks(append(canaries(p.cloud, nil), "stranger.example"), log); len(found) > 0 {
					t.Errorf("leaked %q in %s", found, log)
				}
				p.cloud.Heal()
				time.Sleep(5 * time.Minute)
				if status := p.send(token); status != http.StatusNoContent {
					t.Errorf("after it was over: %d", status)
				}
			})
		})
	}
}

// The audit record names the caller, accepted or refused, and has no personal data.
func TestAuditNamesTheHolderOfAToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			claims func(*azuresim.Cloud) azuresim.Claims
			status int
			id     string
			reason string
		}{
			{fromServiceNow, 204, "app:" + serviceNow, ""},
			{fromPowerAutomate, 204, "user:" + someUser + ",app:" + powerAutomate, ""},
			{withClaim("roles", nil), 403, "app:" + serviceNow, "token: authentic, but not allowed to call: it lacks the app role"},
			{withClaim("aud", "api://canary"), 401, "", "token: not authentic: it is for another audience"},
			{withClaim("iss", "https://canary.example"), 401, "", "token: not authentic: its issuer does not match its tenant " +
				"and version"},
		} {
			p := newTokens(t)
			if status := p.send(p.cloud.Token(test.claims(p.cloud), nil)); status != test.status {
				t.Errorf("%s: %d", test.id, status)
			}
			log := p.log.String()
			var record map[string]any
			if err := json.Unmarshal([]byte(log), &record); err != nil {
				t.Fatal(err)
			}
			kind := ""
			if test.id != "" {
				kind = "token"
			}
			if fmt.Sprint(record["caller_kind"], record["caller_id"], record["error"]) != fmt.Sprint(orNil(kind),
				orNil(test.id), orNil(test.reason)) {
				t.Errorf("the record is %s", log)
			}
			if found := leaks(append(canaries(p.cloud, nil), "Kari", "canary", "sts.windows.net"), log); len(found) > 0 {
				t.Errorf("leaked %q in %s", found, log)
			}
		}
	})
}

// orNil returns text as it is in a record, which leaves out empty values.
func orNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// Each cloud has issuers of its own, and rejects tokens of another cloud.
func TestIssuersOfClouds(t *testing.T) {
	t.Parallel()
	for cloud, test := range map[string]struct {
		v1, v2           string // as far as the tenant
		authority, vault string
	}{
		"public": {
			"https://sts.windows.net/", "https://login.microsoftonline.com/", "login.microsoftonline.com",
			"vault.azure.net",
		},
		"usgov": {
			"https://sts.windows.net/", "https://login.microsoftonline.us/", "login.microsoftonline.us",
			"vault.usgovcloudapi.net",
		},
		"usgov-dod": {
			"https://sts.windows.net/", "https://login.microsoftonline.us/", "login.microsoftonline.us",
			"vault.usgovcloudapi.net",
		},
		"china": {
			"https://sts.chinacloudapi.cn/", "https://login.partner.microsoftonline.cn/",
			"login.chinacloudapi.cn", "vault.azure.cn",
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newTokens(t, "AZURE_CLOUD", cloud, "KEY_VAULT_URL", "https://contoso."+test.vault)
			v1 := p.cloud.AppClaims("1.0", audienceURI, serviceNow).With(azuresim.Claims{"iss": test.v1 + p.cloud.TenantID +
				"/"})
			v2 := p.cloud.AppClaims("2.0", audienceID, serviceNow).With(azuresim.Claims{"iss": test.v2 + p.cloud.TenantID +
				"/v2.0"})
			for _, claims := range []azuresim.Claims{v1, v2} { // without the role, so that no more than the token is looked at
				if status := p.send(p.cloud.Token(claims, nil)); status != http.StatusForbidden {
					t.Errorf("%s: a token by %s: %d", cloud, claims["iss"], status)
				}
				claims["iss"] = "https://login.microsoftonline.de/" + p.cloud.TenantID + "/v2.0"
				if status := p.send(p.cloud.Token(claims, nil)); status != http.StatusUnauthorized {
					t.Errorf("%s: a token by another cloud: %d", cloud, status)
				}
			}
			if requests := p.cloud.Requests(azuresim.StepKeys); len(requests) != 1 || requests[0].Host != test.authority {
				t.Errorf("%s: the keys were asked for as %+v", cloud, requests)
			}
		})
	}
}
