package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"autopilot-unassign/internal/azuresim"
)

// The double of the cloud is a process of its own, the same for all, and gets its orders over a pipe: the client,
// the counters and the garbage collector of this process must not delay the cloud's responses. Both share the processors of the
// machine with the contestant, so that throughput ratios are closer to one than the ratios of the work alone. CPU per request
// has those.

// cloudCommand is the argument with which this program is the double.
const cloudCommand = "cloud"

// The secrets in the vault.
const (
	appSecret  = "bench-app-secret"
	secretName = "graph-client-secret"
	keyName    = "webhook-bench"
)

// signingKey returns the key that requests are signed with, and how the vault has it.
func signingKey() (key []byte, stored string) {
	key = []byte("bench-signing-key-0123456789abcdef")
	return key, "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// listLength is how many devices a list may have.
const listLength = 20

// deviceID and serialNumber name the devices of the cloud. Single requests name device 0, lists name devices 1 to
// listLength.
func deviceID(i int) string     { return fmt.Sprintf("6f1a9c0e-5b1d-4c55-9d3a-%012d", i) }
func serialNumber(i int) string { return fmt.Sprintf("5CG1234A%02d", i) }

// place holds the addresses of the double and the identities that it accepts.
type place struct {
	TenantID, ClientID, IdentityClientID        string
	AuthorityHost, VaultURL, GraphEndpoint      string
	IdentityEndpoint, IdentityHeader, CA, Token string
}

// order is a command to the double, which responds with a state.
type order struct {
	Delay    time.Duration // of every answer from now on
	Reassign bool          // gives the device 0 its account back
}

// state has the double's counters: the requests so far, the requests to Graph, and whether device 0 has a user.
type state struct {
	Requests, Graph int
	Assigned        bool
}

// steps returns the steps that are requests of their own.
func steps() []azuresim.Step {
	return []azuresim.Step{
		azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery, azuresim.StepToken, azuresim.StepKeys,
		azuresim.StepConnect, azuresim.StepGraph, azuresim.StepSTS,
	}
}

// serveCloud is the double: it says where it is, and carries out orders until there are no more.
func serveCloud(in io.Reader, out io.Writer) error {
	c := azuresim.New()
	_, stored := signingKey()
	c.SetAppSecrets(appSecret)
	c.PutSecret(secretName, azuresim.Secret{Value: appSecret})
	c.PutSecret(keyName, azuresim.Secret{Value: stored})
	device := func(i int) azuresim.Device {
		room := fmt.Sprintf("room.%d", i)
		return azuresim.Device{ID: deviceID(i), SerialNumber: serialNumber(i), GroupTag: "MTR-Oslo", UserPrincipalName: room + "@contoso.com", ResourceName: room}
	}
	for i := range listLength + 1 {
		c.PutDevice(device(i))
	}
	served, err := c.Serve()
	if err != nil {
		return err
	}
	defer served.Close()
	token := c.Token(c.AppClaims("1.0", served.GraphEndpoint, c.ClientID, azuresim.GraphRole), nil)
	encoder, decoder := json.NewEncoder(out), json.NewDecoder(in)
	err = encoder.Encode(place{
		c.TenantID, c.ClientID, c.IdentityClientID,
		served.AuthorityHost, served.VaultURL, served.GraphEndpoint,
		served.IdentityEndpoint, served.IdentityHeader, string(served.CA), token,
	})
	if err != nil {
		return err
	}
	for {
		var o order
		if err := decoder.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		c.Forget()
		c.Heal()
		var s state
		for _, step := range steps() {
			s.Requests += c.Count(step)
			if o.Delay > 0 {
				c.Fail(step, -1, azuresim.Delay(o.Delay))
			}
		}
		s.Graph = c.Count(azuresim.StepGraph)
		if o.Reassign {
			c.PutDevice(device(0))
		}
		d, _ := c.Device(deviceID(0))
		s.Assigned = d.UserPrincipalName != ""
		if err := encoder.Encode(s); err != nil {
			return err
		}
	}
}

// simulated is the double, as this process knows it.
type simulated struct {
	place
	dir     string // of the contestants' files
	process *exec.Cmd
	orders  *json.Encoder
	states  *json.Decoder
	hangUp  io.Closer
}

func startCloud(dir string) (*simulated, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process := exec.Command(program, cloudCommand) //nolint:gosec,noctx // this very program, which ends when nobody gives orders any more
	process.Stderr = os.Stderr
	in, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, err
	}
	c := &simulated{dir: dir, process: process, orders: json.NewEncoder(in), states: json.NewDecoder(bufio.NewReader(out)), hangUp: in}
	if err := c.states.Decode(&c.place); err != nil {
		c.stop()
		return nil, fmt.Errorf("the simulated cloud: %w", err)
	}
	return c, os.WriteFile(c.ca(), []byte(c.CA), 0o600)
}

// ca is the file of the certificate authority.
func (c *simulated) ca() string { return filepath.Join(c.dir, "ca.pem") }

func (c *simulated) stop() {
	_ = c.hangUp.Close()
	_ = c.process.Wait()
}

// do has an order carried out.
func (c *simulated) do(o order) (state, error) {
	var s state
	if err := c.orders.Encode(o); err != nil {
		return s, fmt.Errorf("the simulated cloud: %w", err)
	}
	if err := c.states.Decode(&s); err != nil {
		return s, fmt.Errorf("the simulated cloud: %w", err)
	}
	return s, nil
}
