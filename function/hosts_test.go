package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/doctor"
	"autopilot-unassign/internal/hosttest/functions"
	"autopilot-unassign/internal/hosttest/lambda"
	"autopilot-unassign/internal/hosttest/simulated"
)

// binary is the program, built once for the tests that start it as a process.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "unassign")
	if err == nil {
		binary = filepath.Join(dir, "worker")
		err = exec.Command("go", "build", "-o", binary, ".").Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const (
	canarySecret = simulated.AppSecret
	canaryAPIKey = simulated.APIKey
	someDevice   = simulated.DeviceID
	tenantID     = simulated.TenantID
	clientID     = simulated.ClientID
)

var (
	canaryKey = []byte(simulated.SigningKey)

	newCloud  = simulated.NewCloud
	canaries  = simulated.Canaries
	leaks     = simulated.Leaks
	encodeKey = simulated.EncodeKey
	complete  = simulated.Minimal

	post      = simulated.Post
	header    = simulated.Header
	unsigned  = simulated.Unsigned
	byKey     = simulated.ByKey
	delivery  = simulated.Delivery
	bearer    = simulated.Bearer
	withClaim = simulated.WithClaim

	fromServiceNow    = simulated.FromServiceNow
	fromPowerAutomate = simulated.FromPowerAutomate
)

// sent is a request to the program.
type sent = simulated.Request

// newApp returns the function for c in this process.
func newApp(c config.Config, transport policy.Transporter, log *slog.Logger) (*app.App, error) {
	return app.New(c, transport, doctor.ForApp(c, transport, version), log, version)
}

// got is the answer to it.
type got struct {
	status int
	header http.Header
	body   string
}

// deployment is the program as a process under a host.
type deployment interface {
	send(ctx context.Context, s sent) (got, error)
	lines() []string
	stop()
}

// environment returns the settings of the program on a cloud that is served.
func environment(tb testing.TB, c *azuresim.Cloud, served *azuresim.Served, changes ...string) []string {
	tb.Helper()
	ca := filepath.Join(tb.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, served.CA, 0o600); err != nil {
		tb.Fatal(err)
	}
	return append([]string{
		"AZURE_CLOUD=custom", "AZURE_AUTHORITY_HOST=" + served.AuthorityHost, "GRAPH_ENDPOINT=" + served.GraphEndpoint,
		"KEY_VAULT_URL=" + served.VaultURL,
		"VAULT_CREDENTIAL=managed-identity", "IDENTITY_ENDPOINT=" + served.IdentityEndpoint, "IDENTITY_HEADER=" +
			served.IdentityHeader, "SSL_CERT_FILE=" + ca,
		"AZURE_CLIENT_ID=" + c.IdentityClientID, "GRAPH_TENANT_ID=" + c.TenantID, "GRAPH_CLIENT_ID=" + c.ClientID,
		"GRAPH_SECRET_NAME=graph-client-secret",
		// which a busy machine must not miss
		"WEBHOOK_SECRET_NAMES=webhook-servicenow", "API_KEY_SECRET_NAMES=api-key-flow", "RATE_LIMIT=0", "REQUEST_TIMEOUT=5s",
	}, changes...)
}

// hosts start the program under each of the hosts.
var hosts = map[string]func(t *testing.T, env []string) deployment{
	config.Azure:  startAzure,
	config.Lambda: startLambda,
	config.Local:  startLocal,
}

// azureDeployment is the package for Azure under the double of the Functions host.
type azureDeployment struct{ *functions.Host }

// stageAzure makes a folder with the content of the package for Azure.
func stageAzure(t *testing.T, parts ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := functions.Stage(dir, "..", binary, append(parts, "functions")...); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startAzure(t *testing.T, env []string) deployment {
	t.Helper()
	host, err := functions.Start(t.Context(), functions.Options{AppDir: stageAzure(t), Env: env})
	if err != nil {
		t.Fatal(err)
	}
	return azureDeployment{host}
}

func (d azureDeployment) send(ctx context.Context, s sent) (got, error) {
	return sendHTTP(ctx, d.URL, s)
}
func (d azureDeployment) stop() { d.Stop() }

func (d azureDeployment) lines() []string {
	var lines []string
	for _, line := range d.Lines() {
		lines = append(lines, line.Text)
	}
	return lines
}

// lambdaDeployment is the program under the double of Lambda, with an HTTP API in front.
type lambdaDeployment struct{ *lambda.Host }

func startLambda(t *testing.T, env []string) deployment {
	t.Helper()
	host, err := lambda.Start(t.Context(), lambda.Options{Binary: binary, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	return lambdaDeployment{host}
}

func (d lambdaDeployment) send(ctx context.Context, s sent) (got, error) {
	event, err := lambda.Event(s.Method, s.Target, s.Header, []byte(s.Body))
	if err != nil {
		return got{}, err
	}
	result, err := d.Invoke(ctx, event)
	if err != nil {
		return got{}, err
	}
	answer, err := lambda.ReadAnswer(result)
	return got{answer.Status, answer.Header, string(answer.Body)}, err
}

func (d lambdaDeployment) lines() []string { return d.Lines() }
func (d lambdaDeployment) stop()           { d.Stop() }

// localDeployment is the program in a terminal.
type localDeployment struct {
	url     string
	process *exec.Cmd
	out     *azuresim.Buffer
	ended   sync.WaitGroup
}

var listening = regexp.MustCompile(`"message":"listening".*"address":"([^"]+)"`)

func startLocal(t *testing.T, env []string) deployment {
	t.Helper()
	d := &localDeployment{process: exec.Command(binary, "serve", "-listen", "127.0.0.1:0"), out: &azuresim.Buffer{}}
	d.process.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	d.process.Stdout, d.process.Stderr = d.out, d.out
	if err := d.process.Start(); err != nil {
		t.Fatal(err)
	}
	d.ended.Go(func() { _ = d.process.Wait() })
	for start := time.Now(); d.url == ""; time.Sleep(2 * time.Millisecond) {
		if m := listening.FindStringSubmatch(d.out.String()); m != nil {
			d.url = "http://" + m[1]
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("it does not listen: %s", d.out.String())
		}
	}
	return d
}

func (d *localDeployment) send(ctx context.Context, s sent) (got, error) {
	return sendHTTP(ctx, d.url, s)
}

func (d *localDeployment) lines() []string {
	return strings.Split(strings.TrimSpace(d.out.String()), "\n")
}

func (d *localDeployment) stop() {
	_ = d.process.Process.Signal(os.Interrupt)
	d.ended.Wait()
}

// requestTimeout is the time of a request in process.
const requestTimeout = 5 * time.Second

// adapted is the program in this process, behind the adapter of a host.
type adapted struct {
	out    *azuresim.Buffer
	answer func(ctx context.Context, s sent) (got, error)
}

func (d adapted) send(ctx context.Context, s sent) (got, error) { return d.answer(ctx, s) }
func (d adapted) stop()                                         {}

func (d adapted) lines() []string { return strings.Split(strings.TrimSpace(d.out.String()), "\n") }

// adapt puts the program together on a cloud, behind the adapter of a host that serves HTTP, with settings given as
// NAME=value.
func adapt(t *testing.T, c *azuresim.Cloud, host string, settings []string, log *slog.Logger) (*app.App, http.Handler) {
	t.Helper()
	values := []string{
		"VAULT_CREDENTIAL", "managed-identity", "API_KEY_SECRET_NAMES", "api-key-flow", "REQUEST_TIMEOUT", requestTimeout.String(),
	}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		values = append(values, name, value)
	}
	loaded, err := config.Load(simulated.Settings(c, values...), host)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(loaded, c, log)
	if err != nil {
		t.Fatal(err)
	}
	if host == config.Azure {
		worker := &azureWorker{handler: a.Handler, address: "127.0.0.1:1", log: log}
		return a, withInvocation(worker, config.Azure, azureInvocationID)
	}
	return a, withInvocation(a, config.Local, "")
}

// startInProcess is adapt for all hosts, as a deployment.
func startInProcess(t *testing.T, c *azuresim.Cloud, host string, settings []string) deployment {
	t.Helper()
	d := adapted{out: &azuresim.Buffer{}}
	log := app.NewLog(d.out, slog.LevelInfo)
	a, h := adapt(t, c, host, settings, log)
	if host == config.Lambda {
		l := &lambdaHost{http: a, run: a.Run, settle: a.RunMessages, hide: a.MessageTime(), log: log}
		d.answer = func(ctx context.Context, s sent) (got, error) {
			event, err := lambda.Event(s.Method, s.Target, s.Header, []byte(s.Body))
			if err != nil {
				return got{}, err
			}
			ctx = lambdacontext.NewContext(ctx, &lambdacontext.LambdaContext{AwsRequestID: "invocation-1"})
			payload, err := l.Invoke(ctx, event)
			if err != nil {
				return got{}, err
			}
			answer, err := lambda.ReadAnswer(lambda.Result{Payload: payload})
			return got{answer.Status, answer.Header, string(answer.Body)}, err
		}
		return d
	}
	d.answer = func(ctx context.Context, s sent) (got, error) {
		r := httptest.NewRequestWithContext(ctx, s.Method, s.Target, strings.NewReader(s.Body))
		r.Header = s.Header.Clone()
		if host == config.Azure {
			r.Header.Set(azureInvocationID, "invocation-1")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return got{w.Code, w.Header(), w.Body.String()}, nil
	}
	return d
}

// sendHTTP sends a request to an address of this machine.
func sendHTTP(ctx context.Context, url string, s sent) (got, error) {
	req, err := http.NewRequestWithContext(ctx, s.Method, url+s.Target, strings.NewReader(s.Body))
	if err != nil {
		return got{}, err
	}
	req.Header = s.Header
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	resp, err := client.Do(req)
	if err != nil {
		return got{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return got{resp.StatusCode, resp.Header, string(body)}, err
}
