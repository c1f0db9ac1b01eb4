package entra_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
)

// TestRenewal has a token near its end.
func TestRenewal(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		first := w.wantToken(c, "cold")
		time.Sleep(55 * time.Minute)
		w.wantToken(c, "with 5 min left")
		synctest.Wait()
		w.WantRequests("1 1 1 1 1", "with 5 min left")

		time.Sleep(time.Nanosecond)
		w.Cloud.Fail(azuresim.StepToken, 1, azuresim.Delay(2*time.Second))
		start := time.Now()
		for range 10 {
			if w.wantToken(c, "with less than 5 min left") != first || time.Since(start) > 0 {
				w.T.Fatalf("waited %v for another token", time.Since(start))
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.WantRequests("1 1 1 1 2", "renewed")
		second := w.wantToken(c, "renewed")
		if second == first {
			w.T.Error("the renewed token is not used")
		}

		time.Sleep(59*time.Minute + time.Second)
		w.Cloud.Fail(azuresim.StepToken, 1, azuresim.Delay(2*time.Second))
		start = time.Now()
		if w.wantToken(c, "in its last minute") == second || time.Since(start) != 2*time.Second {
			w.T.Errorf("waited %v for another token, want 2 s", time.Since(start))
		}
	})
}

// TestRenewalFails has Entra go down when a token is near its end. It is used to the last minute, and Entra left
// alone for five seconds after each try.
func TestRenewalFails(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		first := w.wantToken(c, "cold")
		w.Cloud.Fail(azuresim.StepToken, -1, azuresim.Status(503, "Retry-After", "3600"))
		time.Sleep(55*time.Minute + time.Nanosecond)
		for range 41 { // the last of them 1 min before the end
			if w.wantToken(c, "with Entra down") != first {
				w.T.Error("another token")
			}
			synctest.Wait()
			time.Sleep(5*time.Second + time.Nanosecond)
		}
		w.WantRequests("1 1 1 1 42", "with Entra down")
		time.Sleep(time.Minute)
		w.wantFailure(c, "identity: unavailable (503)", "in its last minute")
	})
}

// TestRefreshIn has Entra say that a token is to be renewed long before its end.
func TestRefreshIn(t *testing.T) {
	simulate(t, func(w *world) {
		w.Cloud.Fail(azuresim.StepToken, 1, azuresim.Body(200, "application/json",
			`{"access_token":"eyJ.first","token_type":"Bearer","expires_in":7200,"refresh_in":600}`))
		c := w.appSecret()
		w.wantToken(c, "cold")
		time.Sleep(10*time.Minute + time.Second)
		if w.wantToken(c, "after 10 min") != "eyJ.first" {
			w.T.Error("the token was not used while it is renewed")
		}
		synctest.Wait()
		w.WantRequests("1 1 1 1 2", "after 10 min")
		if w.wantToken(c, "renewed") == "eyJ.first" {
			w.T.Error("the renewed token is not used")
		}
	})
}

func TestExpire(t *testing.T) {
	eachKind(t, func(w *world, _ kind, c *entra.Credential, first string) {
		for _, other := range []string{"", "eyJ.other"} {
			c.Expire(other)
			if w.wantToken(c, fmt.Sprintf("%q expired", other)) != first {
				w.T.Errorf("Expire(%q) takes another token away", other)
			}
		}
		w.WantRequests("1 1 1 1 1", "others expired")
		c.Expire(first)
		second := w.wantToken(c, "expired")
		if second == first {
			w.T.Error("the same token again")
		}
		w.WantRequests("1 1 1 2 2", "expired")
		c.Expire(first)
		if w.wantToken(c, "an old one expired") != second {
			w.T.Error("the new token went with the old one")
		}
	})
}

// TestClaims asks for a token that satisfies Graph's claims, and keeps it.
func TestClaims(t *testing.T) {
	simulate(t, func(w *world) {
		c := w.appSecret()
		first := w.wantToken(c, "cold")
		claims := policy.TokenRequestOptions{
			Scopes: graphToken.Scopes,
			Claims: `{"access_token":{"nbf":{"essential":true,"value":"1"}}}`, EnableCAE: true,
		}
		second, err := c.GetToken(w.T.Context(), claims)
		if err != nil || second.Token == first {
			w.T.Errorf("a token that Graph has refused again, %v", err)
		}
		if requests := w.Cloud.Requests(azuresim.StepToken); len(requests) != 2 ||
			!strings.Contains(string(requests[1].Body), "nbf") {
			w.T.Errorf("%d requests for tokens, the last without the claims", len(requests))
		}
		if w.wantToken(c, "after that") != second.Token {
			w.T.Error("the token for the claims is not kept")
		}
	})
}
