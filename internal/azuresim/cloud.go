// Package azuresim is a double of the part of Azure that this program speaks to: the managed identity endpoint, Entra ID,
// Key Vault and Microsoft Graph. A [Cloud] answers requests by host name in this process, where the network would be, or
// over TLS on loopback ([Cloud.Serve]).
//
// It is for the default run, the demo and tests, and is no production service: its state ends with the process, anybody
// may change it, and whatever it does not know it refuses. It is faithful where the program depends on it, including the
// known defects: the shapes of errors, the filter and the paging of Graph, the challenge of Key Vault. It does not do
// users, licences, consent, other resources of Graph, or any rate limit but the one on writes.
//
// [Cloud.Fail] makes a step go wrong in every way a network and a service can.
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
	StepSecret    Step = "secret"    // a request to the vault with one
	StepDiscovery Step = "discovery" // Entra's discovery documents
	StepToken     Step = "token"     // Entra's token endpoint
	StepKeys      Step = "keys"      // Entra's signing keys
	StepConnect   Step = "connect"   // a request to Graph's root, which it knows nothing of
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

// Cloud is a cloud with one tenant, one app in it that may call Graph, one managed identity that may read one vault, and
// devices. It is safe for concurrent use.
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
	claims   string    // what tokens for Graph must have been asked for with; "" for nothing
	devices  map[string]Device
	order    []string    // their ids as Graph lists them; nil until somebody asks
	writes   []time.Time // to Graph, for the limit
	limited  bool
	faults   map[Step][]*planned
	requests map[Step][]Request
	dropped  map[Step]int // requests that are not kept any more
	issued   int          // tokens, to tell them apart
	life     time.Duration

	authority      string // where tokens of version 2 say they come from
	oldest, newest int    // numbers of the signing keys that are listed

	identityRoles []string           // application permissions of the managed identity
	trust         map[string][]Trust // by the client id of the app that trusts
	role          Role
	federationOff bool
}

// GraphRole is the application permission that the action needs, which the app has unless SetGraphRoles says otherwise.
const GraphRole = "DeviceManagementServiceConfig.ReadWrite.All"

// New returns a Cloud with an empty vault and no devices. Its ids are random, since libraries keep tokens for longer than
// a Cloud lives.
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
		life:             tokenLife,
	}
}

// service is one of the services, as a host serves it.
type service struct {
	name   string
	step   func(*http.Request) Step
	answer func(*Cloud, *http.Request, []byte) answer
}

// answer is what a service says.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// serviceOf returns the service that has a host name in one of Azure's clouds.
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

// Do answers req as the host it is for would, in this process. It has the form of azcore's policy.Transporter. A host that
// the Cloud does not know is an error, and nothing is dialled.
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
	a, fault := c.serve(service, r, body)
	if err := fault.wait(req.Context()); err != nil {
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

// brokenReader is what is left of a body whose connection has been lost.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// serve records r and returns the answer to it, with the fault it is to be sent with. An answer that a fault replaces has
// had no effect, unless the fault is Done.
func (c *Cloud) serve(s service, r *http.Request, body []byte) (answer, Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	step := s.step(r)
	c.requests[step] = append(c.requests[step], Request{r.Method, r.Host, r.URL.Path, r.URL.RawQuery, r.Header.Clone(), body, c.Now()})
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
	a.header.Set("Date", c.Now().UTC().Format(http.TimeFormat))
	if fault.shorten && len(a.body) > 0 {
		a.body = a.body[:len(a.body)-len(a.body)/8-1]
	}
	return a, fault
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

// Forget drops the requests that are recorded, so that a Cloud that answers millions does not grow. Count goes on counting them.
func (c *Cloud) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for step, requests := range c.requests {
		c.dropped[step] += len(requests)
	}
	clear(c.requests)
}

// jsonAnswer returns an answer whose body is v as JSON.
func jsonAnswer(status int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("azuresim: %v", err)) // the values are all of this package
	}
	return answer{status, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, body}
}
