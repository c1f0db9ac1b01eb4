package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
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
			env:     []string{"ENTRA_AUDIENCE=" + simulated.Audiences},
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
		"a token with another role": without(accepted(withClaim("roles", []string{"Room.Clear"})),
			"ENTRA_ROLE=Room.Clear"),
		"a token and a wrong signature": on(func(c *azuresim.Cloud, s *sent) {
			bearer(c,
				fromServiceNow)(s)
			s.Header.Set("Webhook-Id", "msg_2")
		}, 204, "", ""),
		"a signature and a wrong token": on(func(_ *azuresim.Cloud, s *sent) {
			*s = post(validBody,
				header("Authorization", "Bearer x.y.z"))
		}, 204, "", ""),
		"a signature and a token without role": on(func(c *azuresim.Cloud, s *sent) {
			*s = post(validBody, bearer(c,
				withClaim("roles", nil)))
		}, 204, "", ""),
		"another app of the tenant": forbidden(withClaim("roles", nil)),
		"an app with another role":  forbidden(withClaim("roles", []string{"Device.Read"})),
		"a user without the role": forbidden(func(c *azuresim.Cloud) azuresim.Claims {
			return fromPowerAutomate(c).With(azuresim.Claims{"roles": nil})
		}),
		"a user with another scope": forbidden(func(c *azuresim.Cloud) azuresim.Claims {
			return fromPowerAutomate(c).With(azuresim.Claims{"scp": "email"})
		}),
		"an old signature, no role": on(func(c *azuresim.Cloud, s *sent) {
			caller.Sign(s.Header, canaryKey, "msg_1", time.Now().Add(-time.Hour), []byte(s.Body))
			bearer(c, withClaim("roles", nil))(s)
		}, 403, "forbidden", plain+`, error="insufficient_scope"`),
		"a token for Graph": denied(func(c *azuresim.Cloud) azuresim.Claims {
			return c.AppClaims("1.0", "https://graph.microsoft.com", serviceNow, role)
		}),
		"a token of another tenant": denied(withClaim("tid", elsewhere)),
		"a token by another issuer": denied(withClaim("iss", "https://login.microsoftonline.com/"+elsewhere+"/v2.0")),
		"a token that has expired": denied(func(c *azuresim.Cloud) azuresim.Claims {
			return fromServiceNow(c).With(azuresim.Claims{"exp": time.Now().Add(-2 * time.Minute).Unix()})
		}),
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
				withClaim("roles", nil))(s)
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
	s.Header.Set("X-Ms-Client-Principal",
		"eyJhdXRoX3R5cCI6ImFhZCIsImNsYWltcyI6W3sidHlwIjoicm9sZXMiLCJ2YWwiOiJEZXZpY2UuVW5hc3NpZ24ifV19")
	s.Header.Set("X-Ms-Client-Principal-Id", someUser)
	s.Header.Set("X-Ms-Client-Principal-Name", "kari@contoso.com")
	s.Header.Set("X-Ms-Client-Principal-Idp", "aad")
	s.Header.Set("X-Ms-Token-Aad-Access-Token", "x.y.z")
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
	d := deploy(t, c, config.Local, "ENTRA_AUDIENCE="+simulated.Audiences)
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
	d = deploy(t, c, config.Local, "ENTRA_AUDIENCE="+simulated.Audiences)
	if status := send(fromServiceNow(c), nil); status != http.StatusServiceUnavailable {
		t.Errorf("a redirect: %d", status)
	}
	_ = listener.Close()
	accepting.Wait()
	if n := connections.Load(); n > 0 {
		t.Errorf("there were %d connections", n)
	}
}
