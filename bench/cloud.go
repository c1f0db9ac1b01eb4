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

// The simulated cloud is a process of its own, shared by all contestants, and gets orders over a pipe: this program's
// work and its garbage collector must not delay the responses. Both share the machine's cores with the contestant,
// which draws ratios of throughput towards 1; the CPU time of a request shows the work alone.

// cloudCommand is the argument that makes this program the simulated cloud.
const cloudCommand = "cloud"

// The callers' key in the vault, and the device that the requests name.
const (
	keyName  = "webhook-bench"
	deviceID = "6f1a9c0e-5b1d-4c55-9d3a-000000000000"
	roleARN  = "arn:aws:iam::123456789012:role/unassign"
)

// signingKey returns the key of the requests' signatures, and its form in the vault.
func signingKey() (key []byte, stored string) {
	key = []byte("bench-signing-key-0123456789abcdef")
	return key, "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// place holds the addresses and identities of the cloud.
type place struct {
	*azuresim.Served
	azuresim.Role
	TenantID, ClientID, IdentityClientID, Token string
}

// order is a command for the cloud, which replies with its state.
type order struct {
	Delay    time.Duration // of every response from now on
	Reassign bool          // gives the device its account back
}

// state counts the requests so far, in all and for Graph. Assigned reports whether the device has a user.
type state struct {
	Requests, Graph int
	Assigned        bool
}

// steps are the requests of the cloud.
var steps = []azuresim.Step{ //nolint:gochecknoglobals // a constant table
	azuresim.StepIdentity, azuresim.StepChallenge, azuresim.StepSecret, azuresim.StepDiscovery, azuresim.StepToken, azuresim.StepKeys,
	azuresim.StepConnect, azuresim.StepGraph, azuresim.StepSTS,
}

// serveCloud is the simulated cloud: it writes its place, and carries out orders until there are no more.
func serveCloud(in io.Reader, out io.Writer) error {
	c := azuresim.New()
	_, stored := signingKey()
	c.PutSecret(keyName, azuresim.Secret{Value: stored})
	role := c.PutRole(roleARN)
	trust := azuresim.Trust{Issuer: role.Issuer, Subject: role.ARN, Audience: "api://AzureADTokenExchange"}
	c.SetTrust(c.ClientID, trust)
	c.SetTrust(c.IdentityClientID, trust) // the app that reads the vault
	c.SetIdentityRoles(azuresim.GraphRole)
	device := azuresim.Device{ID: deviceID, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo", UserPrincipalName: "room@contoso.com", ResourceName: "room"}
	c.PutDevice(device)
	served := c.Serve()
	defer served.Close()
	token := c.Token(c.AppClaims("1.0", served.GraphEndpoint, c.ClientID, azuresim.GraphRole), nil)
	encoder, decoder := json.NewEncoder(out), json.NewDecoder(in)
	err := encoder.Encode(place{served, role, c.TenantID, c.ClientID, c.IdentityClientID, token})
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
		for _, step := range steps {
			s.Requests += c.Count(step)
			if o.Delay > 0 {
				c.Fail(step, -1, azuresim.Delay(o.Delay))
			}
		}
		s.Graph = c.Count(azuresim.StepGraph)
		if o.Reassign {
			c.PutDevice(device)
		}
		d, _ := c.Device(deviceID)
		s.Assigned = d.UserPrincipalName != ""
		if err := encoder.Encode(s); err != nil {
			return err
		}
	}
}

// simulated is the simulated cloud's process.
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
	process := exec.Command(program, cloudCommand) //nolint:gosec,noctx // this program, which ends with its input
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
	return c, os.WriteFile(c.ca(), c.CA, 0o600)
}

// ca is the file of the certificate authority.
func (c *simulated) ca() string { return filepath.Join(c.dir, "ca.pem") }

func (c *simulated) stop() {
	_ = c.hangUp.Close()
	_ = c.process.Wait()
}

// do carries out an order.
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
