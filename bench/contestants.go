package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"autopilot-unassign/internal/hosttest/lambda"
)

// The contestants, and the clouds. A contestant runs in the default deployment of its cloud.
const (
	floor = "floor"
	ours  = "ours"
	sdk   = "sdk"
	node  = "node"

	azure = "Azure"
	aws   = "AWS"
)

// The folders that make bench fills, from the root of the project.
const (
	programs   = "bin/bench/"
	nodeFolder = ".tools/bench"
)

type contestantName struct{ name, cloud string }

// contestant is a program that takes part.
type contestant struct {
	contestantName
	command []string
	port    string   // the variable with the port to listen on; "" for a Lambda function
	files   []string // its size on disk
}

func allContestants() []contestant {
	compiled := func(name, cloud, program, port string) contestant {
		return contestant{contestantName{name, cloud}, []string{programs + program}, port, []string{programs + program}}
	}
	return []contestant{
		compiled(floor, azure, "floor", "PORT"),
		compiled(ours, azure, "ours", "FUNCTIONS_CUSTOMHANDLER_PORT"),
		compiled(sdk, azure, "sdk", "PORT"),
		{contestantName{node, azure}, []string{"node", nodeFolder + "/server.mjs"}, "PORT", []string{"node", nodeFolder}},
		compiled(floor, aws, "lambdafloor", ""),
		compiled(ours, aws, "ours-lambda", ""),
	}
}

// size returns the bytes of the contestant's files.
func (who contestant) size() (total float64, err error) {
	for _, path := range who.files {
		if program, err := exec.LookPath(path); err == nil {
			path = program
		}
		out, err := exec.Command("du", "--bytes", "--summarize", "--dereference-args", path).Output() //nolint:gosec,noctx // one of ours
		if err != nil {
			return 0, fmt.Errorf("du %s: %w", path, err)
		}
		bytes := 0.0
		if _, err := fmt.Sscan(string(out), &bytes); err != nil {
			return 0, err
		}
		total += bytes
	}
	return total, nil
}

// environment returns the settings of the default deployment of a contestant's cloud, with a key in the
// vault and no secret for Graph. The floor gets a key and a token instead.
func environment(c *simulated, who contestant) []string {
	env := []string{"SSL_CERT_FILE=" + c.ca(), "SSL_CERT_DIR=" + filepath.Join(c.dir, "none"), "NODE_EXTRA_CA_CERTS=" + c.ca(), "GRAPH_ENDPOINT=" + c.GraphEndpoint}
	if who.name == floor {
		_, key := signingKey()
		return append(env, "GRAPH_TOKEN="+c.Token, "SIGNING_KEY="+key)
	}
	// RATE_LIMIT is more than the requests of a round: it is checked, and refuses nothing.
	env = append(env, "AZURE_CLOUD=custom", "AZURE_AUTHORITY_HOST="+c.AuthorityHost, "KEY_VAULT_URL="+c.VaultURL, "GRAPH_TENANT_ID="+c.TenantID,
		"GRAPH_CREDENTIAL=identity", "WEBHOOK_SECRET_NAMES="+keyName, "RATE_LIMIT=10000")
	if who.cloud == azure {
		return append(env, "IDENTITY_ENDPOINT="+c.IdentityEndpoint, "IDENTITY_HEADER="+c.IdentityHeader, "AZURE_CLIENT_ID="+c.IdentityClientID)
	}
	return append(env, "GRAPH_CLIENT_ID="+c.ClientID, "AZURE_CLIENT_ID="+c.IdentityClientID, "AZURE_TENANT_ID="+c.TenantID, "AWS_REGION="+c.Region, "AWS_ENDPOINT_URL_STS="+c.STSEndpoint,
		"AWS_ACCESS_KEY_ID="+c.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+c.SecretAccessKey, "AWS_SESSION_TOKEN="+c.SessionToken)
}

// caller sends requests, one after the other.
type caller interface {
	send(request []byte) (status int, err error)
}

// process is a running contestant.
type process interface {
	caller
	dial() (caller, error)     // another connection
	startedAt() time.Time      // the start of the process
	readyAfter() time.Duration // from the start until it takes requests
	pid() int
	fault(err error) error // err with the last output
	stop()
}

// patience is the time for a start or a response.
const patience = 30 * time.Second

// start starts a contestant.
func start(c *simulated, who contestant) (process, error) {
	if who.port != "" {
		return startServer(c, who)
	}
	host, err := lambda.Start(context.Background(), lambda.Options{Binary: who.command[0], Env: environment(c, who)})
	if err != nil {
		return nil, err
	}
	return &lambdaFunction{host, time.Now()}, nil // the first event starts the process
}

// lambdaFunction is a contestant under the double of Lambda.
type lambdaFunction struct {
	host  *lambda.Host
	began time.Time
}

func (f *lambdaFunction) send(event []byte) (int, error) {
	result, err := f.host.Invoke(context.Background(), event)
	if err != nil {
		return 0, err
	}
	answer, err := lambda.ReadAnswer(result)
	return answer.Status, err
}

func (f *lambdaFunction) dial() (caller, error)     { return f, nil }
func (f *lambdaFunction) startedAt() time.Time      { return f.began }
func (f *lambdaFunction) readyAfter() time.Duration { return f.host.FirstNext() }
func (f *lambdaFunction) pid() int                  { return f.host.PID() }
func (f *lambdaFunction) stop()                     { f.host.Stop() }

func (f *lambdaFunction) fault(err error) error {
	lines := f.host.Lines()
	return fmt.Errorf("%w; its last lines: %q", err, lines[max(0, len(lines)-5):])
}

// server is a contestant that listens on a port.
type server struct {
	*connection // the one that found the port open

	command   *exec.Cmd
	address   string
	output    tail
	ended     chan struct{}
	began     time.Time
	listening time.Duration
}

// startServer starts a contestant and returns as soon as its port accepts a connection.
func startServer(c *simulated, who contestant) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed at once
	if err != nil {
		return nil, err
	}
	address := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil {
		return nil, err
	}
	s := &server{address: address.String(), ended: make(chan struct{})}
	s.command = exec.Command(who.command[0], who.command[1:]...) //nolint:gosec,noctx // one of ours; stop ends it
	s.command.Env = append(environment(c, who), "PATH="+os.Getenv("PATH"), "HOME="+c.dir, who.port+"="+strconv.Itoa(address.Port))
	s.command.Stdout, s.command.Stderr = &s.output, &s.output // a pipe, as hosts take it
	s.began = time.Now()
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.command.Wait() // it is always killed
		close(s.ended)
	}()
	for {
		conn, err := net.Dial("tcp", s.address) //nolint:noctx // loopback responds at once
		if err == nil {
			s.listening = time.Since(s.began)
			s.connection = newConnection(conn)
			return s, nil
		}
		select {
		case <-s.ended:
			return nil, s.fault(errors.New("it has ended"))
		default:
		}
		if time.Since(s.began) > patience {
			s.stop()
			return nil, s.fault(errors.New("it does not listen"))
		}
		pause()
	}
}

// pause waits for 20 µs and a little. Go's Sleep would take more than a millisecond, a third of a start.
func pause() {
	wait := syscall.NsecToTimespec(int64(20 * time.Microsecond))
	_ = syscall.Nanosleep(&wait, nil) // a signal may cut it short
}

func (s *server) startedAt() time.Time      { return s.began }
func (s *server) readyAfter() time.Duration { return s.listening }
func (s *server) pid() int                  { return s.command.Process.Pid }

func (s *server) stop() {
	if s.connection != nil {
		_ = s.conn.Close()
	}
	_ = s.command.Process.Kill()
	<-s.ended
}

func (s *server) fault(err error) error {
	return fmt.Errorf("%w; its last output: %s", err, s.output.read())
}

// tail keeps the last bytes written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const kept = 2000
	t.text = append(t.text, p...)
	t.text = slices.Delete(t.text, 0, max(0, len(t.text)-kept))
	return len(p), nil
}

func (t *tail) read() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// dial opens a connection, which ends with the process.
func (s *server) dial() (caller, error) {
	conn, err := net.Dial("tcp", s.address) //nolint:noctx // loopback responds at once
	if err != nil {
		return nil, err
	}
	return newConnection(conn), nil
}

// connection is a kept connection of a caller.
type connection struct {
	conn   net.Conn
	reader *bufio.Reader
}

func newConnection(conn net.Conn) *connection { return &connection{conn, bufio.NewReader(conn)} }

// send sends the bytes of a request and returns the status of the response, read to its end.
func (c *connection) send(request []byte) (int, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// expect sends a request and returns an error unless the response has that status.
func expect(c caller, status int, request []byte) error {
	got, err := c.send(request)
	if err == nil && got != status {
		err = fmt.Errorf("status %d, want %d", got, status)
	}
	return err
}
