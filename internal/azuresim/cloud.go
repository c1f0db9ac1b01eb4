// Package azuresim simulates the part of Azure that this program calls: the managed identity endpoint, Entra ID, Key
// Vault and Microsoft Graph. A [Cloud] serves requests by host name in this process, in place of the network, or over
// TLS on loopback ([Cloud.Serve]).
//
// It serves the default run, the demo and tests. Its state ends with the process, any code may change it, and it
// refuses unknown requests. It is faithful where the program depends on it, known defects included: the shapes of
// errors, the filter, the paging and the write limit of Graph, the challenge of Key Vault. It simulates no users,
// licences, consent or other resources of Graph. All its times come from the time package, so that it runs in a
// bubble of testing/synctest.
//
// [Cloud.Fail] makes a step fail as networks and services do.
package azuresim

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/internal/guid"
)

// Step is a kind of request to the cloud.
type Step string

// The steps, in the order of a cold call.
const (
	StepIdentity  Step = "identity"  // the managed identity's token
	StepChallenge Step = "challenge" // a request to the vault without a token
	StepSecret    Step = "secret"    // a request to the vault with a token
	StepDiscovery Step = "discovery" // Entra's discovery documents
	StepToken     Step = "token"     // Entra's token endpoint
	StepKeys      Step = "keys"      // Entra's signing keys
	StepConnect   Step = "connect"   // a request to Graph's root, which has no resource
	StepGraph     Step = "graph"     // any other request to Graph
	StepItem      Step = "item"      // a request inside a batch
	StepSTS       Step = "sts"       // a token of a role of AWS
)

// Request is a request as it arrived.
type Request struct {
	Method, Host, Path, RawQuery string
	Header                       http.Header
	Body                         []byte
	At                           time.Time // by the cloud's clock
}

// Cloud has one tenant, one app that may call Graph, one managed identity that may read one vault, and devices. It is
// safe for concurrent use.
type Cloud struct {
	TenantID         string
	ClientID         string // of the app that may call Graph
	IdentityClientID string // of the managed identity
	IdentityObjectID string // likewise, by which an app trusts it
	VaultURL         string
	Now              func() time.Time // the cloud's clock; set it before the first request

	mu       sync.Mutex
	secrets  map[string][]stored
	accepted map[string]bool // the app's client secrets: true is valid, false is expired
	certs    []*x509.Certificate
	roles    []string
	revoked  time.Time // tokens for Graph issued before are refused
	devices  map[string]Device
	order    []string    // their ids in Graph's order; nil until the first list
	writes   []time.Time // to Graph, for the limit
	limit    WriteLimit
	faults   map[Step][]*planned
	requests map[Step][]Request
	dropped  map[Step]int // requests that Forget has dropped
	issued   int          // tokens, to tell them apart
	life     time.Duration

	approval       int               // the status of a refusal for want of approval; 0 accepts the action
	oddRows        []json.RawMessage // in lists, beside the devices
	refuseItems    int               // batches left whose items are to be refused
	authority      string            // the issuer of version 2 tokens, less tenant and path
	oldest, newest int               // numbers of the listed signing keys
	genuine        map[string]token  // verified tokens, so that each is verified once

	identityRoles []string           // application permissions of the managed identity
	trust         map[string][]Trust // by the client id of the trusting app
	role          Role
	federationOff bool
}

// GraphRole is the application permission that the action needs, which the app has by default.
const GraphRole = "DeviceManagementServiceConfig.ReadWrite.All"

// New returns a Cloud with an empty vault and no devices. Its ids are random, since libraries cache tokens beyond the
// life of a Cloud.
func New() *Cloud {
	return &Cloud{
		TenantID:         guid.New().String(),
		ClientID:         guid.New().String(),
		IdentityClientID: guid.New().String(),
		IdentityObjectID: guid.New().String(),
		VaultURL:         "https://simulated-vault.vault.azure.net",
		authority:        "https://login.microsoftonline.com",
		Now:              time.Now,
		secrets:          map[string][]stored{},
		accepted:         map[string]bool{},
		roles:            []string{GraphRole},
		trust:            map[string][]Trust{},
		devices:          map[string]Device{},
		faults:           map[Step][]*planned{},
		requests:         map[Step][]Request{},
		dropped:          map[Step]int{},
		genuine:          map[string]token{},
		life:             tokenLife,
	}
}

// changeLocked changes the cloud.
func (c *Cloud) changeLocked(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// service is a service of the cloud.
type service struct {
	name   string
	step   func(*http.Request) Step
	answer func(*Cloud, *http.Request, []byte) answer
}

// answer is the response of a service.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// serviceOf returns the service with that host name in one of Azure's clouds.
func serviceOf(host string) (service, bool) {
	switch host {
	case "169.254.169.254":
		return identityService, true
	case "login.microsoftonline.com", "login.microsoftonline.us", "login.chinacloudapi.cn":
		return entraService, true
	case "graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us", "microsoftgraph.chinacloudapi.cn":
		return graphService, true
	}
	for _, suffix := range vaultSuffixes {
		if strings.HasSuffix(host, "."+suffix) {
			return vaultService, true
		}
	}
	if strings.HasPrefix(host, "sts.") && strings.HasSuffix(host, ".amazonaws.com") {
		return stsService, true
	}
	return service{}, false
}

// Do returns the response of the host in req, in this process. It has the form of azcore's policy.Transporter. For an
// unknown host it returns an error, and opens no connection.
func (c *Cloud) Do(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, &url.Error{Op: req.Method, URL: req.URL.String(), Err: err}
	}
	service, ok := serviceOf(req.URL.Hostname())
	if !ok {
		return nil, fmt.Errorf("azuresim: there is no host %q in the simulated cloud", req.URL.Hostname())
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
	}
	r := req.Clone(req.Context())
	r.Host = req.URL.Host
	a, fault := c.serveRequest(service, r, body)
	if err := fault.waitDelay(req.Context()); err != nil {
		return nil, &url.Error{Op: req.Method, URL: req.URL.String(), Err: err}
	}
	if fault.err != nil {
		return nil, &url.Error{Op: req.Method, URL: req.URL.String(), Err: fault.err}
	}
	resp := &http.Response{
		Status:        fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)),
		StatusCode:    a.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        a.header,
		Body:          io.NopCloser(bytes.NewReader(a.body)),
		ContentLength: int64(len(a.body)),
		Request:       req,
	}
	if fault.cut {
		resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(a.body[:len(a.body)/2]), brokenReader{}))
	}
	return resp, nil
}

// brokenReader fails as the body of a lost connection does.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// serveRequest records r and returns the response to it and its fault. A response that a fault replaces has no effect,
// unless the fault is Done.
func (c *Cloud) serveRequest(s service, r *http.Request, body []byte) (answer, Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	step := s.step(r)
	c.recordRequest(step, r, r.Header.Clone(), body)
	fault := c.nextFault(step)
	if fault.err != nil || fault.hang {
		return answer{}, fault
	}
	var a answer
	if fault.answer == nil || fault.acts {
		a = s.answer(c, r, body)
	}
	if fault.answer != nil {
		a = *fault.answer
	}
	if a.header == nil {
		a.header = http.Header{}
	}
	a.header = a.header.Clone()
	if s.name == graphService.name && !fault.foreign {
		a = c.graphHeaders(r, a)
	}
	a.header.Set("Date", c.Now().UTC().Format(http.TimeFormat))
	if fault.shorten && len(a.body) > 0 {
		a.body = a.body[:len(a.body)-len(a.body)/8-1]
	}
	return a, fault
}

// recordRequest adds a request to the requests of its step.
func (c *Cloud) recordRequest(step Step, r *http.Request, header http.Header, body []byte) {
	c.requests[step] = append(c.requests[step], Request{
		r.Method, r.Host, r.URL.Path, r.URL.RawQuery, header, body, c.Now(),
	})
}

// Requests returns the requests of a step so far, or since Forget.
func (c *Cloud) Requests(step Step) []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests[step])
}

// Count returns how many requests of a step there were so far.
func (c *Cloud) Count(step Step) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped[step] + len(c.requests[step])
}

// Forget drops the recorded requests, so that a Cloud does not grow with millions of them. Count still counts them.
func (c *Cloud) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for step, requests := range c.requests {
		c.dropped[step] += len(requests)
	}
	clear(c.requests)
}

// jsonAnswer returns a response whose body is v as JSON.
func jsonAnswer(status int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("azuresim: %v", err)) // the values are all of this package
	}
	return answer{status, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, body}
}
