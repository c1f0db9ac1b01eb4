package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/simulated"
)

// hostile are characters that a line of a log, or the eye of its reader, can be misled by.
var hostile = map[string]string{
	"a line break": "\r\n", "a line feed": "\n", "an escape": "\x1b[31m", "a delete": "\x7f", "a C1 control": "\u0085",
	"a separator of lines": "\u2028", "a separator of paragraphs": "\u2029",
	"a change of direction": "\u202e", "an isolate": "\u2066", "no width": "\u200b", "a byte order mark": "\ufeff",
}

// alike are characters that are taken for others. A text for people may have them, a name of something may not.
var alike = map[string]string{
	"a digit from elsewhere": "\uff11", "a hyphen that is none": "\u2010",
	"a Cyrillic letter": "\u0430",
}

// TestLogIsPlain puts hostile characters into everything that a caller sends and the log has. The log has none of
// them, nor unused members.
func TestLogIsPlain(t *testing.T) {
	t.Parallel()
	cloud := newCloud()
	var log bytes.Buffer
	h := wired(t, cloud, &log, "API_KEY_SECRET_NAMES", "api-key-flow", "ALLOWED_GROUP_TAGS", "MTR-*")
	quoted := func(s string) string {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	fields := map[string]struct {
		request func(bad string) sent
		free    bool // look-alikes are allowed
		status  int
	}{
		"deviceId": {
			func(bad string) sent { return post(`{"deviceId":` + quoted(someDevice[:35]+bad) + `}`) }, false,
			400,
		},
		"serialNumber": {func(bad string) sent { return post(`{"serialNumber":` + quoted("5CG"+bad+"1") + `}`) }, false, 400},
		"reference": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","reference":` + quoted("R"+bad+"1") + `}`)
		}, true, 204},
		"context": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","context":{"room":` + quoted("R"+bad+"1") + `}}`)
		}, true, 204},
		"a name in context": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","context":{` + quoted("R"+bad+"1") + `:"x"}}`)
		}, false, 400},
		"expected": {func(bad string) sent {
			return post(`{"deviceId":"` + someDevice + `","expected":{"resourceName":` + quoted("R"+bad+"1") + `}}`)
		}, true, 400},
		"a field": {func(bad string) sent { return post(`{` + quoted("R"+bad+"1") + `:1}`) }, false, 400},
		"Idempotency-Key": {func(bad string) sent {
			return post(validBody, byKey, header("Idempotency-Key",
				"R"+bad+"1"))
		}, false, 400},
		"webhook-id": {func(bad string) sent { return post(validBody, delivery("R"+bad+"1")) }, false, 401},
		"X-Request-Id": {
			func(bad string) sent { return post(validBody, header("X-Request-Id", "R"+bad+"1")) }, false,
			204,
		},
		"User-Agent": {
			func(bad string) sent { return post(validBody, header("User-Agent", "canary-agent"+bad)) },
			false, 204,
		},
		"x-api-key": {
			func(bad string) sent { return post(validBody, unsigned, header("X-Api-Key", "R"+bad+"1")) },
			false, 401,
		},
		"a path": {func(bad string) sent {
			return post(validBody, func(s *sent) { s.Target = "/api/unassign/" + url.PathEscape(bad) })
		}, false, 404},
	}
	for name, field := range fields {
		for _, set := range []map[string]string{hostile, alike} {
			for kind, bad := range set {
				log.Reset()
				w := ask(t, h, field.request(bad))
				_, looksAlike := alike[kind]
				allowed := field.free && looksAlike // and is then in the log
				if (!allowed || w.Code >= 500) && w.Code != field.status {
					t.Errorf("%s with %s: %d %s, want %d", name, kind, w.Code, w.Body, field.status)
				}
				line, oneLine := strings.CutSuffix(log.String(), "\n")
				if field.status == http.StatusNotFound {
					oneLine = line == "" // a route that is none is not recorded
				}
				if !oneLine || strings.Contains(line, "\n") || !allowed && strings.Contains(line, bad) || strings.Contains(line,
					"canary-agent") {
					t.Errorf("%s with %s: the log has %q", name, kind, log.String())
				}
				if id := w.Header().Get("X-Request-Id"); strings.Contains(id, bad) {
					t.Errorf("%s with %s: the answer has the id %q", name, kind, id)
				}
			}
		}
	}
	// Other people than the callers write the texts in Intune.
	for kind, bad := range hostile {
		log.Reset()
		cloud.PutDevice(azuresim.Device{
			ID: someDevice, SerialNumber: "5CG" + bad + "1", GroupTag: "MTR-" + bad + "Oslo",
			UserPrincipalName: "room.fjord@contoso.com",
		})
		if w := ask(t, h, post(validBody)); w.Code != http.StatusNoContent {
			t.Errorf("a device with %s: %d %s", kind, w.Code, w.Body)
		}
		if line, _ := strings.CutSuffix(log.String(), "\n"); strings.Contains(line, "\n") || strings.Contains(line, bad) ||
			!strings.Contains(line, `"group_tag":"MTR-`) {
			t.Errorf("a device with %s: the log has %q", kind, log.String())
		}
	}
}

// TestStrangersCostNothing has strangers send a thousand requests: a cloud that has been warm is asked at most once
// for them.
func TestStrangersCostNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := newCloud()
		h := wired(t, cloud, &bytes.Buffer{})
		if w := ask(t, h, valid()); w.Code != http.StatusNoContent {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		steps := []azuresim.Step{
			azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret,
			azuresim.StepDiscovery, azuresim.StepToken, azuresim.StepGraph,
		}
		before := map[azuresim.Step]int{}
		for _, step := range steps {
			before[step] = cloud.Count(step)
		}
		bad := []func() sent{
			with(unsigned), with(delivery("a.b")), with(func(s *sent) { s.Method = http.MethodPut }),
			with(header("Content-Type", "text/plain")), body(validBody + strings.Repeat(" ", 17<<10)), body(`{`),
			with(func(s *sent) { s.Body += " " }), with(func(s *sent) { s.Target = "/api/other" }),
			with(header("Webhook-Timestamp", "1")),
			with(func(s *sent) {
				caller.Sign(s.Header, []byte("stranger-0123456789abcdefgh"), "msg_1", time.Now(), []byte(s.Body))
			}),
			with(func(s *sent) {
				caller.Sign(s.Header, canaryKey, "msg_1", time.Now().Add(-time.Hour), []byte(s.Body))
			}),
		}
		var asking sync.WaitGroup
		for i := range 1000 {
			asking.Go(func() {
				time.Sleep(time.Duration(i) * 250 * time.Millisecond) // for a little more than four minutes
				if w := ask(t, h, bad[i%len(bad)]()); w.Code < 400 || w.Code >= 500 {
					t.Errorf("request %d: %d %s", i, w.Code, w.Body)
				}
			})
		}
		asking.Wait()
		for _, step := range steps {
			most := 0
			if step == azuresim.StepSecret { // once a minute, and once because a new key may fit
				most = 5
			}
			if n := cloud.Count(step) - before[step]; n > most {
				t.Errorf("%d requests of the step %s, want at most %d", n, step, most)
			}
		}
	})
}

// TestRefusalsAreAlike has requests not be authentic in every way: the answers are the same to the byte, so that
// a stranger learns nothing from them.
func TestRefusalsAreAlike(t *testing.T) {
	t.Parallel()
	h := wired(t, newCloud(), &bytes.Buffer{}, "API_KEY_SECRET_NAMES", "api-key-flow")
	want := ""
	for name, request := range map[string]func() sent{
		"nothing": with(unsigned),
		"a stranger's signature": with(func(s *sent) {
			caller.Sign(s.Header, []byte("stranger-0123456789abcdefgh"), "msg_1", time.Now(), []byte(s.Body))
		}),
		"a stranger's, long ago": with(func(s *sent) {
			caller.Sign(s.Header, []byte("stranger-0123456789abcdefgh"), "msg_1", time.Unix(1, 0), []byte(s.Body))
		}),
		"another body":                with(func(s *sent) { s.Body += " " }),
		"another id":                  with(header("Webhook-Id", "msg_other")),
		"another time":                with(header("Webhook-Timestamp", strconv.FormatInt(time.Now().Unix()+60, 10))),
		"no id":                       with(header("Webhook-Id")),
		"no time":                     with(header("Webhook-Timestamp")),
		"no signature":                with(header("Webhook-Signature")),
		"two ids":                     with(header("Webhook-Id", "msg_1", "msg_1")),
		"a dot in the id":             with(delivery("a.b")),
		"no time at all":              with(header("Webhook-Timestamp", "now")),
		"no base64":                   with(header("Webhook-Signature", "v1,???")),
		"another version":             with(header("Webhook-Signature", "v2,AAAA")),
		"an empty API key":            with(unsigned, header("X-Api-Key", "")),
		"half an API key":             with(unsigned, header("X-Api-Key", canaryAPIKey[:16])),
		"an API key twice":            with(unsigned, header("X-Api-Key", canaryAPIKey, canaryAPIKey)),
		"a signing key as an API key": with(unsigned, header("X-Api-Key", encodeKey(canaryKey))),
		"both wrong":                  with(header("Webhook-Id", "msg_other"), header("X-Api-Key", "wrong")),
		"a token":                     with(unsigned, header("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")),
		"a name from the platform":    with(unsigned, header("X-Ms-Client-Principal-Name", "admin@contoso.com")),
		"no JSON":                     func() sent { return post("{", unsigned) },
		"an unknown device": func() sent {
			return post(strings.Replace(validBody, someDevice, unknownDevice, 1),
				unsigned)
		},
		"a malformed delivery id": with(unsigned, header("Idempotency-Key", "a b")),
	} {
		w := ask(t, h, request())
		var seen bytes.Buffer
		fmt.Fprintln(&seen, w.Code)
		_ = w.Header().Write(&seen)
		seen.Write(w.Body.Bytes())
		if want == "" {
			want = seen.String()
		}
		if seen.String() != want || w.Code != http.StatusUnauthorized || !strings.Contains(want, "request-1") {
			t.Errorf("%s: %s\nanother: %s", name, seen.String(), want)
		}
	}
}

// tap is a transport that keeps every request and response.
type tap struct {
	cloud *azuresim.Cloud
	mu    sync.Mutex
	seen  bytes.Buffer
}

var _ policy.Transporter = (*tap)(nil)

func (p *tap) Do(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := p.cloud.Do(req)
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(&p.seen, req.URL, req.Header, string(body), err)
	if err != nil {
		return nil, err
	}
	answer, readErr := io.ReadAll(resp.Body)
	p.seen.Write(answer)
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(answer), broken{readErr}))
	return resp, nil
}

// broken ends as a body did that could not be read to its end.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) {
	if b.err == nil {
		return 0, io.EOF
	}
	return 0, b.err
}

// TestCanariesPassThrough is the premise of every search for leaks: each canary really passes through the program's
// hands, in a request of its own or in an answer, and the search would find it there. None of it is in the
// responses or the log.
func TestCanariesPassThrough(t *testing.T) {
	t.Setenv("IDENTITY_ENDPOINT", "http://169.254.169.254/msi/token")
	t.Setenv("IDENTITY_HEADER", "simulated-identity-header")
	cloud := newCloud()
	p := &tap{cloud: cloud}
	c := simulated.Load(t, simulated.Settings(cloud, "API_KEY_SECRET_NAMES", "api-key-flow", "REQUEST_TIMEOUT", "1s"))
	var log, told bytes.Buffer
	for _, fault := range []struct {
		step azuresim.Step
		azuresim.Fault
	}{
		{azuresim.StepGraph, azuresim.Fault{}},
		{azuresim.StepGraph, azuresim.GraphError(400, azuresim.Nested, 0)},
		{azuresim.StepToken, azuresim.Truncated()},
		{azuresim.StepToken, azuresim.Status(400)},
		{azuresim.StepSecret, azuresim.Status(403)},
		{azuresim.StepIdentity, azuresim.Reset()},
	} {
		h := simulated.NewApp(t, c, p, &log)
		cloud.Heal()
		cloud.Fail(fault.step, -1, fault.Fault)
		for _, request := range []sent{post(`{"serialNumber":"5CG1234ABC","dryRun":true}`), post(`{"deviceId":"` +
			someDevice + `","dryRun":true}`), post(validBody), post(validBody, byKey)} {
			w := ask(t, h, request)
			fmt.Fprintln(&told, w.Header(), w.Body)
		}
	}
	cloud.Heal()
	cloud.SetAppSecrets("another")
	h := simulated.NewApp(t, c, p, &log)
	fmt.Fprintln(&told, ask(t, h, valid()).Body)
	for _, canary := range canaries(cloud, nil) {
		if canary == string(canaryKey) {
			continue // it is decoded in memory, from the next
		}
		if len(leaks([]string{canary}, p.seen.String())) == 0 {
			t.Errorf("%q does not pass through", canary)
		}
	}
	if found := leaks(canaries(cloud, nil), log.String(), told.String()); len(found) > 0 {
		t.Errorf("leaked %q", found)
	}
}
