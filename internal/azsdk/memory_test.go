package azsdk

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/upstream"
)

// get sends a request and returns the status and the body of the answer.
func get(ctx context.Context, t *testing.T, d upstream.Doer, url string, header ...string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := d.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestRemember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := azuresim.New()
		d := Remember(c)
		tenant := "https://login.microsoftonline.com/" + c.TenantID + openIDConfiguration
		for _, question := range []struct {
			step        azuresim.Step
			urls        []string // which ask for the same
			status      int
			other       string // asks for another thing
			otherHeader []string
		}{
			{azuresim.StepDiscovery, []string{tenant, tenant}, 200, "https://login.microsoftonline.com/other" +
				openIDConfiguration, nil},
			{azuresim.StepChallenge, []string{c.VaultURL + "/secrets/a", c.VaultURL + "/secrets/b"}, 401, c.VaultURL +
				"/secrets/a", []string{"Authorization", "Bearer x"}},
		} {
			asked := func() int { return c.Count(question.step) }
			// Neither a failure nor an invalid response is kept.
			for _, none := range []azuresim.Fault{azuresim.WrongType(), azuresim.MalformedChallenge(), azuresim.Body(200,
				"application/json",
				`{"issuer":"https://login.microsoftonline.com/x/v2.0","token_endpoint":"https://login.microsoftonline.com/x/token"}`), azuresim.Status(401, "WWW-Authenticate", "Bearer")} {
				c.Fail(question.step, 1, none)
				if _, _, err := get(t.Context(), t, d, question.urls[0]); err != nil {
					t.Error(err)
				}
			}
			c.Fail(question.step, 1, azuresim.Status(503))
			if status, _, err := get(t.Context(), t, d, question.urls[0]); status != 503 || err != nil {
				t.Errorf("%d, %v", status, err)
			}
			c.Fail(question.step, 1, azuresim.ResetMidBody())
			if _, _, err := get(t.Context(), t, d, question.urls[0]); err == nil {
				t.Error("an answer that breaks off is whole")
			}
			// Many who ask at once ask once, and each has the whole answer.
			c.Fail(question.step, 1, azuresim.Delay(time.Second))
			before := asked()
			var asking sync.WaitGroup
			for i := range 20 {
				asking.Go(func() {
					status, body, err := get(t.Context(), t, d, question.urls[i%2])
					if status != question.status || !strings.HasSuffix(body, "}") || err != nil {
						t.Errorf("%d %s, %v", status, body, err)
					}
				})
			}
			asking.Wait()
			if n := asked() - before; n != 1 {
				t.Errorf("%s was asked %d times", question.step, n)
			}
			// An hour later the request is repeated, and another question has another response.
			time.Sleep(memoryTTL)
			if _, _, err := get(t.Context(), t, d, question.urls[0]); err != nil || asked()-before != 2 {
				t.Errorf("an hour later: %v, asked %d times", err, asked()-before)
			}
			total := len(c.Requests(question.step)) + len(c.Requests(azuresim.StepSecret))
			_, _, err := get(t.Context(), t, d, question.other, question.otherHeader...)
			if n := len(c.Requests(question.step)) + len(c.Requests(azuresim.StepSecret)); n != total+1 || err != nil {
				t.Errorf("%s: it was not asked, %v", question.other, err)
			}
		}
	})
}

// A waiting caller has its own deadline, and the request has the deadline of its sender.
func TestRememberInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := azuresim.New()
		c.Fail(azuresim.StepChallenge, 1, azuresim.Hang())
		d := Remember(c)
		var asking sync.WaitGroup
		for _, limit := range []time.Duration{2 * time.Second, time.Second, 3 * time.Second} {
			asking.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				start := time.Now()
				_, _, err := get(ctx, t, d, c.VaultURL+"/secrets/a")
				if spent := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || spent > limit {
					t.Errorf("%v after %v of %v", err, spent, limit)
				}
			})
		}
		asking.Wait()
		time.Sleep(time.Millisecond) // lets work complete that ended at this moment
		if status, _, err := get(t.Context(), t, d, c.VaultURL+"/secrets/a"); status != http.StatusUnauthorized ||
			err != nil {
			t.Errorf("%d, %v", status, err)
		}
	})
}

// A refusal drops the answer that the refused request relied on. A throttled request, or one of another tenant, drops
// none.
func TestForget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := azuresim.New()
		d := Remember(c)
		const authority = "https://login.microsoftonline.com/"
		for name, test := range map[string]struct {
			step             azuresim.Step // of the answer that is kept
			question, method string
			used             string // the address that relies on the answer
			status           int
			kept             bool
		}{
			"a token of a vault": {azuresim.StepChallenge, c.VaultURL + "/secrets/a", http.MethodGet, c.VaultURL +
				"/secrets/a", 401, false},
			"no role": {azuresim.StepChallenge, c.VaultURL + "/secrets/a", http.MethodGet, c.VaultURL +
				"/secrets/a", 403, true},
			"a moved tenant": {
				azuresim.StepDiscovery, authority + c.TenantID + openIDConfiguration, http.MethodPost,
				authority + c.TenantID + "/oauth2/v2.0/token", 404, false,
			},
			"a throttled tenant": {
				azuresim.StepDiscovery, authority + c.TenantID + openIDConfiguration, http.MethodPost,
				authority + c.TenantID + "/oauth2/v2.0/token", 429, true,
			},
			"another tenant": {
				azuresim.StepDiscovery, authority + c.TenantID + openIDConfiguration, http.MethodPost,
				authority + "other/oauth2/v2.0/token", 400, true,
			},
		} {
			c.Heal()
			if _, _, err := get(t.Context(), t, d, test.question); err != nil {
				t.Fatal(err)
			}
			before := c.Count(test.step)
			for _, step := range []azuresim.Step{azuresim.StepSecret, azuresim.StepToken} {
				c.Fail(step, 1, azuresim.Status(test.status))
			}
			req, err := http.NewRequestWithContext(t.Context(), test.method, test.used, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer x")
			if resp, err := d.Do(req); err != nil || resp.StatusCode != test.status {
				t.Fatalf("%s: %v, %v", name, resp, err)
			}
			if _, _, err := get(t.Context(), t, d, test.question); err != nil {
				t.Fatal(err)
			}
			if kept := c.Count(test.step) == before; kept != test.kept {
				t.Errorf("%s: the answer is kept: %t", name, kept)
			}
		}
	})
}
