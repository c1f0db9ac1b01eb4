package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/text"
)

const (
	audienceURI = "api://contoso.com/unassign"
	audienceID  = "cccccccc-0000-4000-8000-000000000003"
	audiences   = "ENTRA_AUDIENCE=" + audienceURI + "," + audienceID

	serviceNow = "aaaaaaaa-0000-4000-8000-000000000001" // an app of the tenant
	// The app of HTTP with Microsoft Entra ID, the same in every tenant.
	powerAutomate = "d2ebd3a9-1ada-4480-8b2d-eac162716601"
	someUser      = "bbbbbbbb-0000-4000-8000-000000000002"
	role          = "Device.Unassign"
)

// The tokens of the callers there are. ServiceNow gets its own with the credentials of an app; a flow gets one for
// the user whose connection it has.
func fromServiceNow(c *azuresim.Cloud) azuresim.Claims {
	return c.AppClaims("2.0", audienceID, serviceNow, role)
}

func fromPowerAutomate(c *azuresim.Cloud) azuresim.Claims {
	return c.UserClaims("1.0", audienceURI, powerAutomate, someUser, "user_impersonation", role)
}

// claims returns fromServiceNow with a change.
func claims(name string, value any) func(*azuresim.Cloud) azuresim.Claims {
	return func(c *azuresim.Cloud) azuresim.Claims {
		return fromServiceNow(c).With(azuresim.Claims{name: value})
	}
}

// bearer puts a token of the cloud on a request.
func bearer(c *azuresim.Cloud, of func(*azuresim.Cloud) azuresim.Claims) func(*sent) {
	return header("Authorization", "Bearer "+c.Token(of(c), nil))
}

// tokenCases are the contractCases of callers with tokens.
func tokenCases() map[string]contractCase {
	const (
		webhook = `Webhook-Signature realm="unassign"`
		plain   = `Bearer realm="unassign"`
	)
	// on makes a case that puts a token on a request. The cloud exists only while the case runs.
	on := func(change func(c *azuresim.Cloud, s *sent), status int, code string, challenge string) contractCase {
		var cloud *azuresim.Cloud
		test := contractCase{
			prepare: func(c *azuresim.Cloud) { cloud = c },
			env:     []string{audiences},
			request: func() sent { return post(validBody, unsigned, func(s *sent) { change(cloud, s) }) },
			status:  status, code: code,
		}
		if challenge != "" {
			test.header = map[string]string{"WWW-Authenticate": challenge}
		}
		return test
	}
	accepted := func(of func(*azuresim.Cloud) azuresim.Claims) contractCase {
		return on(func(c *azuresim.Cloud, s *sent) { bearer(c, of)(s) }, 204, "", "")
	}
	forbidden := func(of func(*azuresim.Cloud) azuresim.Claims) contractCase {
		return on(func(c *azuresim.Cloud, s *sent) { bearer(c, of)(s) }, 403, "forbidden",
			plain+`, error="insufficient_scope"`)
	}
	denied := func(of func(*azuresim.Cloud) azuresim.Claims) contractCase {
		return on(func(c *azuresim.Cloud, s *sent) { bearer(c, of)(s) }, 401, "unauthenticated",
			webhook+", "+plain+`, error="invalid_token"`)
	}
	malformed := func(change func(token string) []string) contractCase {
		return on(func(c *azuresim.Cloud, s *sent) {
			header("Authorization", change(c.Token(fromServiceNow(c), nil))...)(s)
		}, 401, "unauthenticated", webhook+", "+plain+`, error="invalid_token"`)
	}
	without := func(test contractCase, env ...string) contractCase {
		test.env = append(append([]string{}, test.env...), env...)
		return test
	}
	failing := func(f azuresim.Fault, status int, code, retry string) contractCase {
		test := on(func(c *azuresim.Cloud, s *sent) { bearer(c, fromServiceNow)(s) }, status, code, "")
		remember := test.prepare
		test.prepare = func(c *azuresim.Cloud) {
			remember(c)
			c.Fail(azuresim.StepKeys, -1, f)
		}
		if retry != "" {
			test.header = map[string]string{"Retry-After": retry}
		}
		return test
	}
	const elsewhere = "00000000-1111-4222-8333-444444444444"
	return map[string]contractCase{
		"a token of ServiceNow": accepted(fromServiceNow),
		"a token of ServiceNow, version 1": accepted(func(c *azuresim.Cloud) azuresim.Claims {
			return c.AppClaims("1.0",
				audienceURI, serviceNow, role)
		}),
		"a token of Power Automate": accepted(fromPowerAutomate),
		"a token of Power Automate, version 2": accepted(func(c *azuresim.Cloud) azuresim.Claims {
			return c.UserClaims("2.0", audienceID, powerAutomate, someUser, "user_impersonation", role)
		}),
		"a token in other words": on(func(c *azuresim.Cloud, s *sent) {
			header("Authorization", "bearer "+c.Token(fromServiceNow(c), nil))(s)
		}, 204, "", ""),
		"a token with another role": without(accepted(claims("roles", []string{"Room.Clear"})),
			"ENTRA_ROLE=Room.Clear"),
		"a token and a wrong signature": on(func(c *azuresim.Cloud, s *sent) {
			bearer(c,
				fromServiceNow)(s)
			s.header.Set("Webhook-Id", "msg_2")
		}, 204, "", ""),
		"a signature and a wrong token": on(func(_ *azuresim.Cloud, s *sent) {
			*s = post(validBody,
				header("Authorization", "Bearer x.y.z"))
		}, 204, "", ""),
		"a signature and a token without role": on(func(c *azuresim.Cloud, s *sent) {
			*s = post(validBody, bearer(c,
				claims("roles", nil)))
		}, 204, "", ""),
		"another app of the tenant": forbidden(claims("roles", nil)),
		"an app with another role":  forbidden(claims("roles", []string{"Device.Read"})),
		"a user without the role": forbidden(func(c *azuresim.Cloud) azuresim.Claims {
			return fromPowerAutomate(c).With(azuresim.Claims{"roles": nil})
		}),
		"a user with another scope": forbidden(func(c *azuresim.Cloud) azuresim.Claims {
			return fromPowerAutomate(c).With(azuresim.Claims{"scp": "email"})
		}),
		"an old signature, no role": on(func(c *azuresim.Cloud, s *sent) {
			caller.Sign(s.header, canaryKey, "msg_1", time.Now().Add(-time.Hour), []byte(s.body))
			bearer(c, claims("roles", nil))(s)
		}, 403, "forbidden", plain+`, error="insufficient_scope"`),
		"a token for Graph": denied(func(c *azuresim.Cloud) azuresim.Claims {
			return c.AppClaims("1.0", "https://graph.microsoft.com", serviceNow, role)
		}),
		"a token of another tenant": denied(claims("tid", elsewhere)),
		"a token by another issuer": denied(claims("iss", "https://login.microsoftonline.com/"+elsewhere+"/v2.0")),
		"a token that has expired":  denied(claims("exp", time.Now().Add(-2*time.Minute).Unix())),
		"an unknown key": on(func(c *azuresim.Cloud, s *sent) {
			header("Authorization", "Bearer "+c.Token(fromServiceNow(c), map[string]any{"kid": "stranger"}))(s)
		}, 401, "unauthenticated", webhook+", "+plain+`, error="invalid_token"`),
		"a token that was changed": malformed(func(token string) []string {
			return []string{"Bearer " +
				token[:len(token)-8] + "AAAAAAAA"}
		}),
		"a token twice": malformed(func(token string) []string {
			return []string{
				"Bearer " + token,
				"Bearer " + token,
			}
		}),
		"a token of 9 KiB": malformed(func(token string) []string {
			return []string{"Bearer " +
				token + strings.Repeat("A", 9<<10)}
		}),
		"a token with a part more": malformed(func(token string) []string {
			return []string{"Bearer " +
				token + ".e30"}
		}),
		"a token with no scheme": on(func(c *azuresim.Cloud, s *sent) {
			header("Authorization",
				c.Token(fromServiceNow(c), nil))(s)
		}, 401, "unauthenticated", webhook+", "+plain),
		"a password": on(func(_ *azuresim.Cloud, s *sent) {
			header("Authorization",
				"Basic Y2FuYXJ5OmNhbmFyeQ==")(s)
		}, 401, "unauthenticated", webhook+", "+plain),
		"no evidence, not even a token": on(func(*azuresim.Cloud, *sent) {}, 401, "unauthenticated",
			webhook+", "+plain),
		"no evidence, where only tokens count": without(on(func(*azuresim.Cloud, *sent) {}, 401, "unauthenticated",
			plain), "WEBHOOK_SECRET_NAMES=", "API_KEY_SECRET_NAMES="),
		"a token, where only tokens count": without(accepted(fromServiceNow), "WEBHOOK_SECRET_NAMES=",
			"API_KEY_SECRET_NAMES="),
		"a token, where none counts": {nil, nil, func() sent {
			return post(validBody, unsigned,
				header("Authorization", "Bearer x.y.z"))
		}, 401, "unauthenticated", map[string]string{"WWW-Authenticate": webhook}},
		"a principal that the platform may set": on(func(_ *azuresim.Cloud, s *sent) { setPrincipal(s) }, 401,
			"unauthenticated", webhook+", "+plain),
		"a principal beside a token, no role": on(func(c *azuresim.Cloud, s *sent) {
			setPrincipal(s)
			bearer(c,
				claims("roles", nil))(s)
		}, 403, "forbidden", plain+`, error="insufficient_scope"`),

		"the keys fail":          failing(azuresim.Status(500), 503, "identity_unavailable", "30"),
		"the keys are throttled": failing(azuresim.Status(429, "Retry-After", "45"), 503, "identity_unavailable", "45"),
		"the keys are none": failing(azuresim.Body(200, "application/json", `{"keys":[]}`), 503,
			"identity_unavailable", "30"),
		"the keys are a page":    failing(azuresim.WrongType(), 503, "identity_unavailable", "30"),
		"the keys are elsewhere": failing(azuresim.Redirect("https://127.0.0.1:1/keys"), 503, "identity_unavailable", "30"),
		"the keys are 10 MiB":    failing(azuresim.Oversize(10<<20), 503, "identity_unavailable", "30"),
		"the keys are cut off":   failing(azuresim.ResetMidBody(), 503, "identity_unavailable", "30"),
		"the keys do not come":   failing(azuresim.Hang(), 504, "identity_timeout", ""),
		"the keys of a tenant that there is not": without(on(func(c *azuresim.Cloud, s *sent) {
			claims := fromServiceNow(c)
			for _, name := range []string{"tid", "iss"} {
				claims[name] = strings.ReplaceAll(fmt.Sprint(claims[name]), c.TenantID, elsewhere)
			}
			header("Authorization", "Bearer "+c.Token(claims, nil))(s)
		}, 424, "tenant_not_found", ""), "ENTRA_TENANT_ID="+elsewhere),
	}
}

// setPrincipal puts the headers of Easy Auth on s. Any caller can send them where Easy Auth is off.
func setPrincipal(s *sent) {
	s.header.Set("X-Ms-Client-Principal",
		"eyJhdXRoX3R5cCI6ImFhZCIsImNsYWltcyI6W3sidHlwIjoicm9sZXMiLCJ2YWwiOiJEZXZpY2UuVW5hc3NpZ24ifV19")
	s.header.Set("X-Ms-Client-Principal-Id", someUser)
	s.header.Set("X-Ms-Client-Principal-Name", "kari@contoso.com")
	s.header.Set("X-Ms-Client-Principal-Idp", "aad")
	s.header.Set("X-Ms-Token-Aad-Access-Token", "x.y.z")
}

// tokens is the whole program on a simulated cloud in this process, taking tokens.
type tokens struct {
	t       *testing.T
	cloud   *azuresim.Cloud
	handler *app.App
	log     text.Buffer
}

func newTokens(t *testing.T, settings ...string) *tokens {
	t.Helper()
	p := &tokens{t: t, cloud: newCloud()}
	c, err := config.Load(complete(append([]string{
		"KEY_VAULT_URL", p.cloud.VaultURL, "AZURE_CLIENT_ID", p.cloud.IdentityClientID, "GRAPH_TENANT_ID",
		p.cloud.TenantID, "GRAPH_CLIENT_ID", p.cloud.ClientID,
		"WEBHOOK_SECRET_NAMES", "", "ENTRA_AUDIENCE", audienceURI + "," + audienceID,
	}, settings...)...), config.Local)
	if err != nil {
		t.Fatal(err)
	}
	if p.handler, err = newApp(c, p.cloud, app.NewLog(&p.log, c.LogLevel)); err != nil {
		t.Fatal(err)
	}
	return p
}

// send sends a request with a token, and returns the status.
func (p *tokens) send(token string) int {
	s := post(validBody, unsigned, header("Authorization", "Bearer "+token))
	r := httptest.NewRequestWithContext(p.t.Context(), s.method, s.target, strings.NewReader(s.body))
	r.Header = s.header
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	return w.Code
}

// Signing keys are rotated while requests come: no request with a token of the old key or of the new one is refused.
func TestSigningKeyRotationUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newTokens(t)
		p.cloud.Fail(azuresim.StepKeys, -1, azuresim.Delay(300*time.Millisecond))
		var lost atomic.Int32
		var sending sync.WaitGroup
		for i := range 40 {
			sending.Go(func() {
				for range 10 {
					if status := p.send(p.cloud.Token(fromServiceNow(p.cloud), nil)); status != http.StatusNoContent {
						lost.Add(1)
						t.Errorf("sender %d: %d", i, status)
					}
					time.Sleep(time.Duration(50+i) * time.Millisecond)
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

// Strangers' keys cost at most one refresh, and cost other callers nothing.
func TestManyStrangersCauseOneReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newTokens(t)
		if status := p.send(p.cloud.Token(fromServiceNow(p.cloud), nil)); status != http.StatusNoContent {
			t.Fatalf("%d\n%s", status, p.log.String())
		}
		p.cloud.Fail(azuresim.StepKeys, -1, azuresim.Delay(2*time.Second))
		var sending sync.WaitGroup
		for i := range 200 {
			sending.Go(func() {
				if status := p.send(p.cloud.Token(fromServiceNow(p.cloud), map[string]any{"kid": fmt.Sprint("stranger-",
					i)})); status != http.StatusUnauthorized {
					t.Errorf("a stranger: %d", status)
				}
			})
		}
		sending.Go(func() {
			start := time.Now()
			if status := p.send(p.cloud.Token(fromPowerAutomate(p.cloud), nil)); status != http.StatusNoContent ||
				time.Since(start) > 0 {
				t.Errorf("a caller: %d after %v", status, time.Since(start))
			}
		})
		sending.Wait()
		if reads := p.cloud.Count(azuresim.StepKeys); reads != 2 {
			t.Errorf("the keys were read %d times, want 2", reads)
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
			{claims("roles", nil), 403, "app:" + serviceNow, "token: authentic, but not allowed to call: it lacks the app role"},
			{claims("aud", "api://canary"), 401, "", "token: not authentic: it is for another audience"},
			{claims("iss", "https://canary.example"), 401, "", "token: not authentic: its issuer does not match its tenant " +
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

// The function never connects to an address from a token or from Entra's response.
func TestNoAddressIsTakenFromAToken(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections atomic.Int32
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = conn.Close()
		}
	})
	trap := "http://" + listener.Addr().String()
	c := newCloud()
	d := deploy(t, c, config.Local, audiences)
	send := func(claims azuresim.Claims, head map[string]any) int {
		answer, err := d.send(t.Context(), post(validBody, unsigned, header("Authorization", "Bearer "+c.Token(claims,
			head))))
		if err != nil {
			t.Fatal(err)
		}
		return answer.status
	}
	good := fromServiceNow(c)
	for name, status := range map[string]int{
		"iss": send(good.With(azuresim.Claims{"iss": trap + "/" + c.TenantID + "/v2.0"}), nil),
		"tid": send(good.With(azuresim.Claims{"tid": trap}), nil),
		"aud": send(good.With(azuresim.Claims{"aud": trap}), nil),
		"jku": send(good, map[string]any{"jku": trap + "/keys"}),
		"x5u": send(good, map[string]any{"x5u": trap + "/cert"}),
		"kid": send(good, map[string]any{"kid": trap + "/key"}),
	} {
		if status != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, status)
		}
	}
	c.Fail(azuresim.StepKeys, -1, azuresim.Redirect(trap+"/keys"))
	d = deploy(t, c, config.Local, audiences)
	if status := send(fromServiceNow(c), nil); status != http.StatusServiceUnavailable {
		t.Errorf("a redirect: %d", status)
	}
	_ = listener.Close()
	accepting.Wait()
	if n := connections.Load(); n > 0 {
		t.Errorf("there were %d connections", n)
	}
}
