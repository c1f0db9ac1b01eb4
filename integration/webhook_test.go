//go:build integration

package integration

import (
	"strings"
	"testing"
)

// The signature of the library of Standard Webhooks is valid on every way to the program: a host passes the bytes of
// the body and the headers of the signature on.
func TestSigningLibrary(t *testing.T) {
	t.Parallel()
	const device = `"deviceId":"` + someDevice + `"`
	for front, begin := range fronts() {
		t.Run(front, func(t *testing.T) {
			t.Parallel()
			c, served := newCloud(t)
			p := begin(t, c, served, nil)
			for name, test := range map[string]struct{ secret, body, want string }{
				"plain":        {webhookKey, `{` + device + `}`, "200 "},
				"UTF-8":        {webhookKey, `{` + device + `,"reference":"Møte i 会議室 🚪"}`, "200 "},
				"line breaks":  {webhookKey, "\r\n{\r\n\t" + device + " \r\n}\r\n", "200 "},
				"escapes":      {webhookKey, `{` + device + `,"reference":"M\u00f8te \/ %2F + &"}`, "200 "},
				"another key":  {"whsec_c3RyYW5nZXItMDEyMzQ1Njc4OWFiY2RlZg==", `{` + device + `}`, "401 "},
				"not a device": {webhookKey, `{"deviceId":"5CG1234ABC"}`, "400 "},
			} {
				sender := node(t, "webhook.mjs")
				sender.Env = append(sender.Env, "ADDRESS="+p.url+"/api/unassign", "SECRET="+test.secret, "BODY="+test.body)
				if out, err := sender.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), test.want) {
					t.Errorf("%s: %v, %s; want %s", name, err, out, test.want)
				}
			}
		})
	}
}
