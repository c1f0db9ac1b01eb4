// Package demo runs the function on a simulated cloud: for a person who tries it, and for tests.
package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
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
// not as announced. It prints a summary of one screen, or with verbose every request, response and record.
func Play(ctx context.Context, getenv func(string) string, stdout io.Writer, version string, verbose bool) error {
	logs := &text.Buffer{}
	s, err := New(getenv, logs, version)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request,
	) {
		s.App.ServeHTTP(w, r.WithContext(handler.WithInvocation(r.Context(), handler.Invocation{Host: config.Local})))
	})}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	p := &play{
		Simulation: s,
		url:        "http://" + listener.Addr().String() + handler.RouteUnassign,
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
	logs     *text.Buffer
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

	p.printTitle("ServiceNow sends a signed webhook for the first")
	a, err := p.sendSigned(ctx, p.WebhookKey, `{"deviceId":"`+Fjord+`","reference":"RITM0012345"}`)
	if err != nil {
		return err
	}
	after, _ := p.Cloud.Device(Fjord)
	if err := checkResult(a.status == http.StatusOK && a.Code == "unassigned" && after.UserPrincipalName == "",
		"the answer to the signed webhook is %d %s", a.status, a.Code); err != nil {
		return err
	}

	p.printTitle("The audit record of it")
	if err := p.printAudit(a.RequestID); err != nil {
		return err
	}

	p.printTitle("A stranger signs with another key")
	stranger := "whsec_" + base64.StdEncoding.EncodeToString(randomKey())
	before := p.Cloud.Count(azuresim.StepGraph)
	a, err = p.sendSigned(ctx, stranger, `{"deviceId":"`+Skog+`"}`)
	if err != nil {
		return err
	}
	untouched := p.Cloud.Count(azuresim.StepGraph) == before
	if err := checkResult(a.status == http.StatusUnauthorized && a.Error.Code == "unauthenticated" && untouched,
		"the answer to the wrong signature is %d %s", a.status, a.Error.Code); err != nil {
		return err
	}

	p.printTitle("A device by its serial number, while the app's secret is rotated")
	p.rotateSecret()
	a, err = p.sendSigned(ctx, p.WebhookKey,
		`{"serialNumber":"PF3-0123-4567","expected":{"userPrincipalName":"kiosk.lobby@contoso.com"}}`)
	if err != nil {
		return err
	}
	if err := checkResult(a.status == http.StatusOK && a.Code == "unassigned", "the answer after the rotation is %d %s",
		a.status, a.Code); err != nil {
		return err
	}
	p.printNote("Entra ID refused the old secret. The new one was read from Key Vault inside this very request: nothing was " +
		"restarted.")

	p.printTitle("A serial number that two devices share is refused")
	a, err = p.sendSigned(ctx, p.WebhookKey, `{"serialNumber":"Default string"}`)
	if err != nil {
		return err
	}
	if err := checkResult(a.status == http.StatusConflict && a.Error.Code == "serial_number_ambiguous",
		"the answer to the shared serial number is %d %s", a.status, a.Error.Code); err != nil {
		return err
	}

	p.printTitle("A list with an unknown device")
	a, err = p.sendSigned(ctx, p.WebhookKey,
		`{"devices":[{"serialNumber":"5CG5678DEF"},{"serialNumber":"5CG0000XYZ"}],"verify":true}`)
	if err != nil {
		return err
	}
	if err := checkResult(a.status == http.StatusMultiStatus && a.Summary.Succeeded == 1 && a.Summary.Failed == 1,
		"the answer to the list is %d %+v", a.status, a.Summary); err != nil {
		return err
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
		p.Config.SweepApply = night.apply
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
			if err := checkResult(d.GroupTag != "Retired" || (d.UserPrincipalName == "") == night.apply, "after the sweep the device "+
				"%s has the account %q", d.SerialNumber, d.UserPrincipalName); err != nil {
				return err
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

// answered has the parts of a response that the demo uses.
type answered struct {
	status    int
	Code      string
	Error     struct{ Code string }
	RequestID string
	Summary   struct{ Succeeded, Failed int }
}

// sendSigned signs body with key (whsec_…), sends it, and prints it with its answer.
func (p *play) sendSigned(ctx context.Context, key, body string) (answered, error) {
	var a answered
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	secret, err := caller.DecodeSignatureKey(key)
	if err != nil {
		return a, err
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
		return a, err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(content, &a); err != nil {
		return a, err
	}
	colour := text.Green
	if resp.StatusCode/100 != 2 {
		colour = text.Red
	}
	a.status = resp.StatusCode
	if p.verbose {
		fmt.Fprintf(p.out, "  %s %s\n", p.dimText("<"), p.paintText(colour, resp.Status))
		p.printJSON(p.dimText("<")+" ", content)
		return a, nil
	}
	result := a.Code + a.Error.Code
	if a.Summary.Succeeded+a.Summary.Failed > 0 {
		result = fmt.Sprintf("%d succeeded, %d failed", a.Summary.Succeeded, a.Summary.Failed)
	}
	fmt.Fprintf(p.out, "  %s %s %s\n", p.dimText("<"), p.paintText(colour, resp.Status), result)
	return a, nil
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

// checkResult returns an error with the given text unless the condition is true.
func checkResult(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func (p *play) paintText(colour, s string) string { return text.Paint(p.coloured, colour, s) }

func (p *play) dimText(s string) string { return p.paintText(text.Faint, s) }

func (p *play) printTitle(s string) {
	p.scene++
	fmt.Fprintf(p.out, "\n%s\n", p.paintText(text.Bold, fmt.Sprintf("%d. %s", p.scene, s)))
	if p.verbose {
		fmt.Fprintln(p.out)
	}
}

func (p *play) printNote(text string) { fmt.Fprintf(p.out, "  %s\n", text) }
