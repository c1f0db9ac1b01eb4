package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The contestants.
const (
	floor = "floor"
	ours  = "ours"
	sdk   = "sdk"
	node  = "node"
)

// The paths of the contestants that make bench builds, from the root of the project.
const (
	programs   = "bin/bench/"
	nodeFolder = ".tools/bench"
)

// contestant is a program that takes part.
type contestant struct {
	name    string
	command []string
	port    string // the variable that says where to listen
	disk    func() (int64, error)
}

func everybody() []contestant {
	compiled := func(name, port string) contestant {
		return contestant{name, []string{programs + name}, port, func() (int64, error) { return size(programs + name) }}
	}
	return []contestant{
		compiled(floor, "PORT"),
		compiled(ours, "FUNCTIONS_CUSTOMHANDLER_PORT"),
		compiled(sdk, "PORT"),
		{node, []string{"node", nodeFolder + "/server.mjs"}, "PORT", func() (int64, error) {
			program, err := exec.LookPath("node")
			if err != nil {
				return 0, err
			}
			return size(program, nodeFolder)
		}},
	}
}

// size returns how many bytes the files in paths have.
func size(paths ...string) (int64, error) {
	total := int64(0)
	for _, path := range paths {
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return 0, err
		}
		err = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				total += info.Size()
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// environment is a contestant's environment: the settings of a deployment on Azure, and a token for the floor, which gets
// none itself.
func environment(c *simulated, who contestant, port int) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, who.port + "=" + strconv.Itoa(port),
		"SSL_CERT_FILE=" + c.ca(), "SSL_CERT_DIR=" + filepath.Join(c.dir, "none"), "NODE_EXTRA_CA_CERTS=" + c.ca(),
	}
	if who.name == floor {
		_, key := signingKey()
		return append(env, "GRAPH_ENDPOINT="+c.GraphEndpoint, "GRAPH_TOKEN="+c.Token, "SIGNING_KEY="+key)
	}
	env = append(env,
		"AZURE_AUTHORITY_HOST="+c.AuthorityHost, "GRAPH_ENDPOINT="+c.GraphEndpoint, "KEY_VAULT_URL="+c.VaultURL,
		"IDENTITY_ENDPOINT="+c.IdentityEndpoint, "IDENTITY_HEADER="+c.IdentityHeader, "AZURE_CLIENT_ID="+c.IdentityClientID,
		"GRAPH_TENANT_ID="+c.TenantID, "GRAPH_CLIENT_ID="+c.ClientID, "GRAPH_SECRET_NAME="+secretName, "WEBHOOK_SECRET_NAMES="+keyName, "RATE_LIMIT=0",
	)
	if who.name == ours {
		// The limit is one that the requests of a round stay below: it is looked at, and refuses nothing.
		env = append(env, "AZURE_CLOUD=custom", "RATE_LIMIT=10000")
	}
	return env
}

// process is a contestant at work.
type process struct {
	command   *exec.Cmd
	address   string
	output    string // the file that it writes to: the audit log, in our case
	ended     chan struct{}
	began     time.Time
	listening time.Duration // from its start until the port accepts a connection
	conn      *connection   // that connection
}

// patience is how long a start or an answer may take.
const patience = 30 * time.Second

// start starts a contestant and returns as soon as its port accepts a connection.
func start(c *simulated, who contestant) (*process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed at once
	if err != nil {
		return nil, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		return nil, err
	}
	output, err := os.CreateTemp(c.dir, who.name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }()
	p := &process{address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), output: output.Name(), ended: make(chan struct{})}
	p.command = exec.Command(who.command[0], who.command[1:]...) //nolint:gosec,noctx // one of ours; stop ends it
	p.command.Env = environment(c, who, port)
	p.command.Stdout, p.command.Stderr = output, output
	p.began = time.Now()
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.command.Wait() // it is always killed
		close(p.ended)
	}()
	for {
		conn, err := net.Dial("tcp", p.address) //nolint:noctx // loopback says yes or no at once
		if err == nil {
			p.listening = time.Since(p.began)
			p.conn = newConnection(conn)
			return p, nil
		}
		select {
		case <-p.ended:
			return nil, p.fault(errors.New("it has ended"))
		default:
		}
		if time.Since(p.began) > patience {
			p.stop()
			return nil, p.fault(errors.New("it does not listen"))
		}
		pause()
	}
}

// pause sleeps for about 20 µs, as precisely as the kernel can. Go's Sleep takes more than a millisecond, the unit of epoll: a
// third of the time of a start.
func pause() {
	wait := syscall.NsecToTimespec(int64(20 * time.Microsecond))
	_ = syscall.Nanosleep(&wait, nil) // a signal may cut it short
}

// stop ends the process.
func (p *process) stop() {
	if p.conn != nil {
		p.conn.close()
	}
	_ = p.command.Process.Kill()
	<-p.ended
	_ = os.Remove(p.output)
}

// fault adds the last output of the process to err.
func (p *process) fault(err error) error {
	text, _ := os.ReadFile(p.output)
	return fmt.Errorf("%w; its last words: %s", err, text[max(0, len(text)-2000):])
}

// status returns a number from the kernel's account of the process, in kB.
func (p *process) status(name string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		}
	}
	return 0, fmt.Errorf("the kernel does not say %s", name)
}

// processorTime returns how long processors have worked for the process, to a hundredth of a second.
func (p *process) processorTime() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // the name before may have spaces
	if len(fields) < 13 {
		return 0, errors.New("the kernel does not say the time of the processors")
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// connection is a connection of a caller, which is kept.
type connection struct {
	conn   net.Conn
	reader *bufio.Reader
}

func newConnection(conn net.Conn) *connection { return &connection{conn, bufio.NewReader(conn)} }

func (p *process) dial() (*connection, error) {
	conn, err := net.Dial("tcp", p.address) //nolint:noctx // loopback says yes or no at once
	if err != nil {
		return nil, err
	}
	return newConnection(conn), nil
}

func (c *connection) close() { _ = c.conn.Close() }

// ask sends a request as it is and returns the status of the answer, which has been read.
func (c *connection) ask(request []byte) (int, error) {
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

// expect asks and returns an error unless the answer has that status.
func (c *connection) expect(status int, request []byte) error {
	got, err := c.ask(request)
	if err == nil && got != status {
		err = fmt.Errorf("the answer is %d and should be %d", got, status)
	}
	return err
}
