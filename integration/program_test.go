//go:build integration || hostile || soak

package integration

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/hosttest/functions"
)

// binary is the program: the one that UNASSIGN_PROGRAM names by its absolute path, else built once.
var binary = os.Getenv("UNASSIGN_PROGRAM")

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "unassign")
	if err == nil && binary == "" {
		binary = filepath.Join(dir, "unassign")
		err = exec.Command("go", "build", "-o", binary, "../function").Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// The secrets in the vault. They must appear in no response and no log.
const (
	appSecret  = "canary-app-secret-6a5b"
	apiKey     = "canary-api-key-0123456789abcdef"
	someDevice = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"
)

var (
	signingKey = []byte("canary-signing-key-0123456789ab")
	webhookKey = "whsec_" + base64.StdEncoding.EncodeToString(signingKey)
)

// newCloud returns a cloud with one device, and serves it until the test ends.
func newCloud(t *testing.T) (*azuresim.Cloud, *azuresim.Served) {
	t.Helper()
	c := azuresim.New()
	c.SetAppSecrets(appSecret)
	c.PutSecret("graph-client-secret", azuresim.Secret{Value: appSecret})
	c.PutSecret("webhook-servicenow", azuresim.Secret{Value: webhookKey})
	c.PutSecret("api-key-flow", azuresim.Secret{Value: apiKey})
	c.PutDevice(azuresim.Device{ID: someDevice, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo", UserPrincipalName: "room.fjord@contoso.com", ResourceName: "room.fjord"})
	served := c.Serve()
	t.Cleanup(served.Close)
	return c, served
}

// program is the binary, running in a terminal or behind the double of the Functions host.
type program struct {
	url     string
	process *exec.Cmd // in a terminal
	out     output
	host    *functions.Host
}

// log returns the output of the program.
func (p *program) log() string {
	if p.host == nil {
		return p.out.String()
	}
	var lines strings.Builder
	for _, line := range p.host.Lines() {
		lines.WriteString(line.Text + "\n")
	}
	return lines.String()
}

// startFunc starts the program on a served cloud until the test ends. settings replace the cloud's; certificates are
// further trusted authorities.
type startFunc func(t *testing.T, c *azuresim.Cloud, served *azuresim.Served, certificates [][]byte, settings ...string) *program

// fronts are the ways by which a request reaches the program: directly, and through each kind of Functions host.
func fronts() map[string]startFunc {
	all := map[string]startFunc{"direct": start}
	for name, mode := range functions.Modes() {
		all[name] = behind(mode, "functions")
	}
	return all
}

// behind starts a package of parts of infra/azure behind the double of a host.
func behind(mode functions.Mode, parts ...string) startFunc {
	return func(t *testing.T, c *azuresim.Cloud, served *azuresim.Served, certificates [][]byte, settings ...string) *program {
		t.Helper()
		dir := t.TempDir()
		if err := functions.Stage(dir, "..", binary, parts...); err != nil {
			t.Fatal(err)
		}
		host, err := functions.Start(t.Context(), functions.Options{AppDir: dir, Env: environment(t, c, served, certificates, settings...), Mode: mode, IdleTimeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(host.Stop)
		return &program{url: host.URL, host: host}
	}
}

// output collects the output of a process.
type output struct {
	take func(line []byte) bool // if set, receives each line; accepted lines are not kept

	mu      sync.Mutex
	text    bytes.Buffer
	partial []byte // of a line, where take is set
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.take == nil {
		return o.text.Write(p)
	}
	o.partial = append(o.partial, p...)
	for {
		end := bytes.IndexByte(o.partial, '\n') + 1
		if end == 0 {
			return len(p), nil
		}
		if line := o.partial[:end]; !o.take(line) {
			o.text.Write(line)
		}
		o.partial = o.partial[:copy(o.partial, o.partial[end:])]
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var listening = regexp.MustCompile(`"message":"listening".*"address":"([^"]+)"`)

// start starts the program in a terminal.
func start(t *testing.T, c *azuresim.Cloud, served *azuresim.Served, certificates [][]byte, settings ...string) *program {
	t.Helper()
	p := prepare(t, c, served, certificates, settings...)
	p.listen(t)
	return p
}

// prepare returns the program in a terminal without starting it.
func prepare(t *testing.T, c *azuresim.Cloud, served *azuresim.Served, certificates [][]byte, settings ...string) *program {
	t.Helper()
	p := &program{process: exec.Command(binary, "serve", "-listen", "127.0.0.1:0")}
	p.process.Env = environment(t, c, served, certificates, settings...)
	return p
}

// environment returns the environment of the program on a served cloud.
func environment(t *testing.T, c *azuresim.Cloud, served *azuresim.Served, certificates [][]byte, settings ...string) []string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, bytes.Join(append([][]byte{served.CA}, certificates...), nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "SSL_CERT_FILE=" + ca, "SSL_CERT_DIR=" + t.TempDir(),
		"AZURE_CLOUD=custom", "AZURE_AUTHORITY_HOST=" + served.AuthorityHost, "GRAPH_ENDPOINT=" + served.GraphEndpoint, "KEY_VAULT_URL=" + served.VaultURL,
		"IDENTITY_ENDPOINT=" + served.IdentityEndpoint, "IDENTITY_HEADER=" + served.IdentityHeader, "AZURE_CLIENT_ID=" + c.IdentityClientID,
		"GRAPH_TENANT_ID=" + c.TenantID, "GRAPH_CLIENT_ID=" + c.ClientID, "GRAPH_SECRET_NAME=graph-client-secret",
		"WEBHOOK_SECRET_NAMES=webhook-servicenow", "API_KEY_SECRET_NAMES=api-key-flow", "RATE_LIMIT=0", "REQUEST_TIMEOUT=5s",
	}, settings...)
}

// listen starts the program and waits until it accepts requests.
func (p *program) listen(t *testing.T) {
	t.Helper()
	p.run(t)
	p.url = "http://" + await(t, &p.out, listening)[1]
}

// run starts the process, and stops it when the test ends.
func (p *program) run(t *testing.T) {
	t.Helper()
	p.process.Stdout, p.process.Stderr = &p.out, &p.out
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.process.Process.Signal(os.Interrupt)
		_ = p.process.Wait()
	})
}

// await returns the first match of a pattern in the output of a process.
func await(t *testing.T, out *output, pattern *regexp.Regexp) []string {
	t.Helper()
	for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(5 * time.Millisecond) {
		if m := pattern.FindStringSubmatch(out.String()); m != nil {
			return m
		}
	}
	t.Fatalf("%v is not in %s", pattern, out.String())
	return nil
}

const body = `{"deviceId":"` + someDevice + `","reference":"RITM0012345"}`

// signed and keyed return the headers of a request with body, authenticated by a signature and by an API key.
func signed() http.Header {
	h := http.Header{"Content-Type": {"application/json"}}
	caller.Sign(h, signingKey, "msg_"+guid.New().String(), time.Now(), []byte(body))
	return h
}

func keyed() http.Header {
	return http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {apiKey}}
}

// unassign sends a request for the one device and returns status and body. It fails the test if the body contains a
// secret.
func (p *program) unassign(t *testing.T, h http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/unassign", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header, req.Close = h, true // a forwarding host closes the connection after a 204 without saying so
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{appSecret, apiKey, webhookKey, "eyJ"} {
		if strings.Contains(string(text)+p.log(), secret) {
			t.Errorf("%q is in the answer or the log", secret)
		}
	}
	return resp.StatusCode, string(text)
}
