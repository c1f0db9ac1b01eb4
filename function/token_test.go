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

// tokenCases are the contractCases of callers with tokens. Package caller has the tests of every claim and form, package
// jwks the tests of every failure of the keys.
func tokenCases() map[string]contractCase {
	const (
		webhook      = `Webhook-Signature realm="unassign"`
		plain        = `Bearer realm="unassign"`
		invalid      = webhook + ", " + plain + `, error="invalid_token"`
		insufficient = plain + `, error="insufficient_scope"`
		elsewhere    = "00000000-1111-4222-8333-444444444444"
	)
	// on makes a case that changes a request without evidence. The cloud exists only while the case runs.
	on := func(change func(c *azuresim.Cloud, s *sent), status int, code, challenge string, env ...string) contractCase {
		var cloud *azuresim.Cloud
		test := contractCase{
			prepare: func(c *azuresim.Cloud) { cloud = c },
			env:     append([]string{"ENTRA_AUDIENCE=" + simulated.Audiences}, env...),
			request: func() sent { return post(validBody, unsigned, func(s *sent) { change(cloud, s) }) },
			status:  status, code: code,
		}
		if challenge != "" {
			test.header = map[string]string{"WWW-Authenticate": challenge}
		}
		return test
	}
	with := func(of func(*azuresim.Cloud) azuresim.Claims) func(*azuresim.Cloud, *sent) {
		return func(c *azuresim.Cloud, s *sent) { bearer(c, of)(s) }
	}
	without := func(*azuresim.Cloud, *sent) {}
	failing := func(f azuresim.Fault, status int, code, retryAfter string) contractCase {
		test := on(with(fromServiceNow), status, code, "")
		remember := test.prepare
		test.prepare = func(c *azuresim.Cloud) {
			remember(c)
			c.Fail(azuresim.StepKeys, -1, f)
		}
		if retryAfter != "" {
			test.header = map[string]string{"Retry-After": retryAfter}
		}
		return test
	}
	onlyTokens := []string{"WEBHOOK_SECRET_NAMES=", "API_KEY_SECRET_NAMES="}
	return map[string]contractCase{
		"a token of ServiceNow":     on(with(fromServiceNow), 204, "", ""),
		"a token of Power Automate": on(with(fromPowerAutomate), 204, "", ""),
		"a token with another role": on(with(withClaim("roles", []string{"Room.Clear"})), 204, "", "", "ENTRA_ROLE=Room.Clear"),
		"a signature and a wrong token": on(func(_ *azuresim.Cloud, s *sent) {
			*s = post(validBody, header("Authorization", "Bearer x.y.z"))
		}, 204, "", ""),
		"a token and a wrong signature": on(func(c *azuresim.Cloud, s *sent) {
			bearer(c, fromServiceNow)(s)
			s.Header.Set("Webhook-Id", "msg_2")
		}, 204, "", ""),
		"another app of the tenant": on(with(withClaim("roles", nil)), 403, "forbidden", insufficient),
		"a token of another tenant": on(with(withClaim("tid", elsewhere)), 401, "unauthenticated", invalid),
		"a token twice": on(func(c *azuresim.Cloud, s *sent) {
			bearer(c, fromServiceNow)(s)
			s.Header.Add("Authorization", s.Header.Get("Authorization"))
		}, 401, "unauthenticated", invalid),
		"an old signature, no role": on(func(c *azuresim.Cloud, s *sent) {
			caller.Sign(s.Header, canaryKey, "msg_1", time.Now().Add(-time.Hour), []byte(s.Body))
			bearer(c, withClaim("roles", nil))(s)
		}, 403, "forbidden", insufficient),
		"no evidence, not even a token":        on(without, 401, "unauthenticated", webhook+", "+plain),
		"no evidence, where only tokens count": on(without, 401, "unauthenticated", plain, onlyTokens...),
		"a token, where only tokens count":     on(with(fromServiceNow), 204, "", "", onlyTokens...),
		"a token, where none counts":           on(with(fromServiceNow), 401, "unauthenticated", webhook, "ENTRA_AUDIENCE="),
		"a principal that the platform may set": on(func(_ *azuresim.Cloud, s *sent) { setPrincipal(s) }, 401,
			"unauthenticated", webhook+", "+plain),
		"a principal beside a token, no role": on(func(c *azuresim.Cloud, s *sent) {
			setPrincipal(s)
			bearer(c, withClaim("roles", nil))(s)
		}, 403, "forbidden", insufficient),

		"the keys fail":          failing(azuresim.Status(500), 503, "identity_unavailable", "30"),
		"the keys are throttled": failing(azuresim.Status(429, "Retry-After", "45"), 503, "identity_unavailable", "45"),
		"the keys do not come":   failing(azuresim.Hang(), 504, "identity_timeout", ""),
		"the keys of a tenant that there is not": on(with(func(c *azuresim.Cloud) azuresim.Claims {
			claims := fromServiceNow(c)
			for _, name := range []string{"tid", "iss"} {
				claims[name] = strings.ReplaceAll(fmt.Sprint(claims[name]), c.TenantID, elsewhere)
			}
			return claims
		}), 424, "tenant_not_found", "", "ENTRA_TENANT_ID="+elsewhere),
	}
}

// setPrincipal puts the headers of Easy Auth on s. Any caller can send them where Easy Auth is off.
func setPrincipal(s *sent) {
	s.Header.Set("X-Ms-Client-Principal",
		"eyJhdXRoX3R5cCI6ImFhZCIsImNsYWltcyI6W3sidHlwIjoicm9sZXMiLCJ2YWwiOiJEZXZpY2UuVW5hc3NpZ24ifV19")
	s.Header.Set("X-Ms-Client-Principal-Id", simulated.User)
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
