// Package demo runs the function on a simulated cloud: for a person who tries it, and for tests.
package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/text"
)

// Play plays the main job on the simulated cloud, over HTTP on this machine. Its error names the first result that is
// not as announced. It prints a summary of one screen, or with the argument -v every request, response and record.
func Play(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer, version string) error {
	verbose := len(args) == 1 && args[0] == "-v"
	if len(args) > 0 && !verbose {
		return text.UsageError("demo takes no argument but -v")
	}
	logs := &azuresim.Buffer{}
	s, err := New(getenv, logs, version)
	if err != nil {
		return err
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.App.ServeHTTP(w, r.WithContext(handler.WithInvocation(r.Context(), handler.Invocation{Host: config.Local})))
	}))
	defer server.Close()
	p := &play{
		Simulation: s,
		url:        server.URL + handler.RouteUnassign,
		logs:       logs,
		out:        stdout,
		verbose:    verbose,
		coloured:   text.IsTerminal(stdout) && getenv("NO_COLOR") == "",
	}
	if err := p.playScenes(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// play is a demo on its way.
type play struct {
	*Simulation
	url      string
	logs     *azuresim.Buffer
	out      io.Writer
	coloured bool
	verbose  bool
	scene    int
}

func (p *play) playScenes(ctx context.Context) error {
	fmt.Fprintf(p.out, "Autopilot Unassign %s on a simulated cloud: nothing leaves this process.\n", p.version)

	if p.verbose {
		p.printTitle("Seven devices, each with a resource account")
		p.printDevices(p.out)
	}

	for _, scene := range []struct {
		title, key, body string
		status           int
		result           string // as it is printed
		before           func()
		audit            bool   // the scene after it shows its record
		note             string // printed after it
	}{
		{
			title: "ServiceNow sends a signed webhook for the first", key: p.WebhookKey,
			body:   `{"deviceId":"` + Fjord + `","reference":"RITM0012345"}`,
			status: http.StatusOK, result: "unassigned", audit: true,
		},
		{
			title: "A stranger signs with another key",
			key:   "whsec_" + base64.StdEncoding.EncodeToString(randomKey()), body: `{"deviceId":"` + Skog + `"}`,
			status: http.StatusUnauthorized, result: "unauthenticated",
		},
		{
			title: "A device by its serial number, while the app's secret is rotated", key: p.WebhookKey,
			body:   `{"serialNumber":"PF3-0123-4567","expected":{"userPrincipalName":"kiosk.lobby@contoso.com"}}`,
			status: http.StatusOK, result: "unassigned", before: p.rotateSecret,
			note: "Entra ID refused the old secret. The new one was read from Key Vault inside this very request: nothing " +
				"was restarted.",
		},
		{
			title: "A serial number that two devices share is refused", key: p.WebhookKey,
			body:   `{"serialNumber":"Default string"}`,
			status: http.StatusConflict, result: "serial_number_ambiguous",
		},
		{
			title: "A list with an unknown device", key: p.WebhookKey,
			body:   `{"devices":[{"serialNumber":"5CG5678DEF"},{"serialNumber":"5CG0000XYZ"}],"verify":true}`,
			status: http.StatusMultiStatus, result: "1 succeeded, 1 failed",
		},
	} {
		p.printTitle(scene.title)
		if scene.before != nil {
			scene.before()
		}
		asked := p.Cloud.Count(azuresim.StepGraph)
		status, result, id, err := p.sendSigned(ctx, scene.key, scene.body)
		if err != nil {
			return err
		}
		refused := status == http.StatusUnauthorized
		if status != scene.status || result != scene.result || refused != (p.Cloud.Count(azuresim.StepGraph) == asked) {
			return fmt.Errorf("%s: the response is %d %s, want %d %s", scene.title, status, result, scene.status,
				scene.result)
		}
		if scene.note != "" {
			fmt.Fprintf(p.out, "  %s\n", scene.note)
		}
		if scene.audit {
			p.printTitle("The audit record of it")
			if err := p.printAudit(id); err != nil {
				return err
			}
		}
	}
	if after, _ := p.Cloud.Device(Fjord); after.UserPrincipalName != "" {
		return fmt.Errorf("the first device still has the account %q", after.UserPrincipalName)
	}

	if err := p.playSweeps(ctx); err != nil {
		return err
	}

	p.printTitle("The devices now")
	p.printDevices(p.out)
	if !p.verbose {
		fmt.Fprint(p.out, "\nunassign demo -v shows every request, response and record.\n")
	}
	return nil
}

// playSweeps cleans the devices with the group tag of retired rooms: first as a dry run, the default of SWEEP_APPLY, then
// for real.
func (p *play) playSweeps(ctx context.Context) error {
	for _, night := range []struct {
		title string
		apply bool
	}{
		{"At night: a sweep of the group tag Retired, which is a dry run until SWEEP_APPLY is true", false},
		{"The next night, with SWEEP_APPLY=true", true},
	} {
		p.printTitle(night.title)
		p.Config.Sweep.Apply = night.apply
		h, err := p.newApp()
		if err != nil {
			return err
		}
		invocation := handler.WithInvocation(ctx, handler.Invocation{Host: config.Local})
		_, err = h.Run(invocation, handler.SweepEvent(handler.SourceSchedule))
		if err != nil {
			return err
		}
		if err := p.printAudit(`"message":"sweep"`, fmt.Sprintf(`"dry_run":%t`, !night.apply), `"succeeded":2`); err != nil {
			return err
		}
		for _, d := range p.Cloud.Devices() {
			if d.GroupTag == "Retired" && (d.UserPrincipalName == "") != night.apply {
				return fmt.Errorf("after the sweep the device %s has the account %q", d.SerialNumber, d.UserPrincipalName)
			}
		}
	}
	return nil
}

// rotateSecret puts a new secret for the app into the vault, and makes Entra refuse the old one and Graph its tokens.
func (p *play) rotateSecret() {
	secret := base64.RawURLEncoding.EncodeToString(randomKey())
	p.Cloud.SetAppSecrets(secret)
	p.Cloud.PutSecret(AppSecretName, azuresim.Secret{Value: secret, Expires: time.Now().AddDate(0, 6, 0)})
	p.Cloud.RevokeTokens()
}

// sendSigned signs body with key (whsec_…), sends it, and prints it with its response. It returns the status of the
// response, its code or the counts of a list, and its request id.
func (p *play) sendSigned(ctx context.Context, key, body string) (status int, result, id string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	secret, err := caller.DecodeSignatureKey(key)
	if err != nil {
		return 0, "", "", err
	}
	caller.Sign(req.Header, secret, "msg_"+guid.New().String(), time.Now(), []byte(body))
	req.Header.Set("Prefer", "return=representation")
	req.Header.Set("User-Agent", "ServiceNow/1.0")
	if p.verbose {
		p.printRequest(req, body)
	} else {
		fmt.Fprintf(p.out, "  %s %s\n", p.dimText(">"), body)
	}

	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", "", err
	}
	var said struct {
		Code      string
		Error     struct{ Code string }
		RequestID string
		Summary   struct{ Succeeded, Failed int }
	}
	if err := json.Unmarshal(content, &said); err != nil {
		return 0, "", "", err
	}
	result = said.Code + said.Error.Code
	if said.Summary.Succeeded+said.Summary.Failed > 0 {
		result = fmt.Sprintf("%d succeeded, %d failed", said.Summary.Succeeded, said.Summary.Failed)
	}
	colour := text.Green
	if resp.StatusCode/100 != 2 {
		colour = text.Red
	}
	fmt.Fprintf(p.out, "  %s %s", p.dimText("<"), text.Paint(p.coloured, colour, resp.Status))
	if p.verbose {
		fmt.Fprintln(p.out)
		p.printJSON(p.dimText("<")+" ", content)
	} else {
		fmt.Fprintf(p.out, " %s\n", result)
	}
	return resp.StatusCode, result, said.RequestID, nil
}

// printRequest prints a request with the headers that sign it.
func (p *play) printRequest(req *http.Request, body string) {
	fmt.Fprintf(p.out, "  %s POST %s\n", p.dimText(">"), req.URL.Path)
	for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Prefer"} {
		fmt.Fprintf(p.out, "  %s %s: %s\n", p.dimText(">"), strings.ToLower(name), req.Header.Get(name))
	}
	fmt.Fprintf(p.out, "  %s %s\n\n", p.dimText(">"), body)
}

// printAudit prints the first line of the log that has all of parts in it.
func (p *play) printAudit(parts ...string) error {
	for line := range strings.Lines(p.logs.String()) {
		missing := func(part string) bool { return !strings.Contains(line, part) }
		if !slices.ContainsFunc(parts, missing) {
			if p.verbose {
				p.printJSON("", []byte(line))
				return nil
			}
			return p.printRecord(line)
		}
	}
	return fmt.Errorf("no line of the log has %q", parts)
}

// printRecord prints the main members of a record.
func (p *play) printRecord(line string) error {
	var record map[string]any
	if err := json.Unmarshal([]byte(line), &record); err != nil {
		return err
	}
	var members []string
	for _, name := range []string{
		"code", "caller_id", "device_id", "account_user_principal_name", "reference", "matching",
		"succeeded", "dry_run",
	} {
		if value, ok := record[name]; ok {
			members = append(members, fmt.Sprintf("%s=%v", name, value))
		}
	}
	fmt.Fprintf(p.out, "  %s\n", strings.Join(members, " "))
	return nil
}

func (p *play) printJSON(prefix string, text []byte) {
	var pretty bytes.Buffer
	if json.Indent(&pretty, bytes.TrimSpace(text), "  "+prefix, "  ") == nil {
		text = pretty.Bytes()
	}
	fmt.Fprintf(p.out, "  %s%s\n", prefix, text)
}

func (p *play) dimText(s string) string { return text.Paint(p.coloured, text.Faint, s) }

func (p *play) printTitle(s string) {
	p.scene++
	fmt.Fprintf(p.out, "\n%s\n", text.Paint(p.coloured, text.Bold, fmt.Sprintf("%d. %s", p.scene, s)))
	if p.verbose {
		fmt.Fprintln(p.out)
	}
}
