package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/guid"
)

// demo plays the main job on the simulated cloud, over HTTP on this machine, so that a person sees it. Its error names
// the first thing that did not happen as it is told.
func demo(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	logs := &lockedBuffer{}
	s, err := newSimulation(getenv, logs)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- serveHTTP(ctx, listener, invoked(s.handler, hostLocal, ""), s.config.timeout, s.log) }()

	p := &play{
		simulation: s,
		url:        "http://" + listener.Addr().String() + handler.RouteUnassign,
		logs:       logs,
		out:        stdout,
		coloured:   isTerminal(stdout) && getenv("NO_COLOR") == "",
	}
	err = p.run(ctx)
	stop()
	if end := <-ended; err == nil {
		err = end
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// play is a demo on its way.
type play struct {
	*simulation
	url      string
	logs     *lockedBuffer
	out      io.Writer
	coloured bool
	scene    int
}

func (p *play) run(ctx context.Context) error {
	devices := p.cloud.Devices()
	fmt.Fprintf(p.out, "Autopilot Unassign %s on a simulated cloud: nothing leaves this process.\n", version)

	p.title("Three devices, each with a resource account")
	p.printDevices(p.out)

	p.title("ServiceNow sends a signed webhook for the first")
	status, answer, err := p.send(ctx, p.webhookKey, devices[0].ID, "RITM0012345")
	if err != nil {
		return err
	}
	if err := want(status == http.StatusOK && answer.Code == "unassigned", "the answer to the signed webhook is %d %s", status, answer.Code); err != nil {
		return err
	}
	after, _ := p.cloud.Device(devices[0].ID)
	if err := want(after.UserPrincipalName == "", "the device still has its resource account"); err != nil {
		return err
	}

	p.title("The audit record of it")
	if err := p.printAudit(answer.RequestID); err != nil {
		return err
	}

	p.title("Somebody signs with another key")
	stranger := "whsec_" + base64.StdEncoding.EncodeToString(randomKey())
	before := p.cloud.Count(azuresim.StepGraph)
	status, answer, err = p.send(ctx, stranger, devices[1].ID, "RITM0012346")
	if err != nil {
		return err
	}
	untouched := p.cloud.Count(azuresim.StepGraph) == before
	if err := want(status == http.StatusUnauthorized && answer.Error.Code == "unauthenticated" && untouched, "the answer to the wrong signature is %d %s", status, answer.Error.Code); err != nil {
		return err
	}

	p.title("The app's secret is rotated; Entra ID refuses the old one from now on")
	p.rotate()
	status, answer, err = p.send(ctx, p.webhookKey, devices[1].ID, "RITM0012347")
	if err != nil {
		return err
	}
	if err := want(status == http.StatusOK && answer.Code == "unassigned", "the answer after the rotation is %d %s", status, answer.Code); err != nil {
		return err
	}
	p.note("The new secret was read from Key Vault inside this very request. Nothing was restarted.")

	p.title("The devices now")
	p.printDevices(p.out)
	fmt.Fprintln(p.out)
	return nil
}

// rotate puts a new secret for the app into the vault, and makes Entra refuse the old one and Graph its tokens.
func (p *play) rotate() {
	secret := base64.RawURLEncoding.EncodeToString(randomKey())
	p.cloud.SetAppSecrets(secret)
	p.cloud.PutSecret(simulatedAppSecret, azuresim.Secret{Value: secret, Expires: time.Now().AddDate(0, 6, 0)})
	p.cloud.RevokeTokens()
}

// answered is what the demo looks at in an answer.
type answered struct {
	Code      string
	Error     struct{ Code string }
	RequestID string
}

// send signs a webhook for device with key (whsec_…), sends it, and prints it with its answer.
func (p *play) send(ctx context.Context, key, device, reference string) (int, answered, error) {
	body := fmt.Appendf(nil, `{"deviceId":%q,"reference":%q}`, device, reference)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return 0, answered{}, err
	}
	secret, err := caller.DecodeSignatureKey(key)
	if err != nil {
		return 0, answered{}, err
	}
	caller.Sign(req.Header, secret, "msg_"+guid.New().String(), time.Now(), body)
	req.Header.Set("Prefer", "return=representation")
	req.Header.Set("User-Agent", "ServiceNow/1.0")
	fmt.Fprintf(p.out, "  %s POST %s\n", p.dim(">"), req.URL.Path)
	for _, name := range []string{"User-Agent", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Prefer"} {
		fmt.Fprintf(p.out, "  %s %s: %s\n", p.dim(">"), strings.ToLower(name), req.Header.Get(name))
	}
	fmt.Fprintf(p.out, "  %s %s\n\n", p.dim(">"), body)

	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, answered{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, answered{}, err
	}
	colour := green
	if resp.StatusCode/100 != 2 {
		colour = red
	}
	fmt.Fprintf(p.out, "  %s %s\n", p.dim("<"), p.paint(colour, resp.Status))
	var a answered
	if err := json.Unmarshal(text, &a); err != nil {
		return 0, answered{}, err
	}
	p.printJSON(p.dim("<")+" ", text)
	return resp.StatusCode, a, nil
}

// printAudit prints the line of the log that is about the request of that id.
func (p *play) printAudit(requestID string) error {
	for line := range strings.Lines(p.logs.String()) {
		if strings.Contains(line, requestID) {
			p.printJSON("", []byte(line))
			return nil
		}
	}
	return errors.New("there is no audit record of the request")
}

func (p *play) printJSON(prefix string, text []byte) {
	var pretty bytes.Buffer
	if json.Indent(&pretty, bytes.TrimSpace(text), "  "+prefix, "  ") == nil {
		text = pretty.Bytes()
	}
	fmt.Fprintf(p.out, "  %s%s\n", prefix, text)
}

// want returns an error of the given text unless true is what it is.
func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// The colours of a terminal (ECMA-48, select graphic rendition).
const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
)

func (p *play) paint(colour, text string) string {
	if !p.coloured {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (p *play) dim(text string) string { return p.paint(faint, text) }

func (p *play) title(text string) {
	p.scene++
	fmt.Fprintf(p.out, "\n%s\n\n", p.paint(bold, fmt.Sprintf("%d. %s", p.scene, text)))
}

func (p *play) note(text string) { fmt.Fprintf(p.out, "\n  %s\n", text) }

// isTerminal reports whether w is a terminal, for colours.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// lockedBuffer is a buffer that the log may write to while the demo reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
