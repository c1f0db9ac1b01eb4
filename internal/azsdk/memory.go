package azsdk

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/internal/singleflight"
	"autopilot-unassign/internal/upstream"
)

// Remember returns a Doer that passes requests to next, and sends two discovery requests once for all callers: for the
// endpoints of a tenant in Entra ID, and for the challenge of a vault. Every client of the SDK sends them first, and the
// response is the same each time. It keeps no other response, no failure, and nothing that does not look like one of
// them, such as the page of a proxy.
func Remember(next upstream.Doer) upstream.Doer {
	return &memory{next: next}
}

type memory struct {
	next   upstream.Doer
	asking singleflight.Group[remembered]
	known  sync.Map // a remembered for each name
}

// remembered is a response that has been read to its end.
type remembered struct {
	http.Response
	body  []byte
	until time.Time
}

// memoryTTL is how long a response is remembered.
const memoryTTL = time.Hour

// openIDConfiguration is the path of the document behind an authority, a tenant included.
const openIDConfiguration = "/v2.0/.well-known/openid-configuration"

// discoveryOf returns the name of the discovery request req and a check of its response, "" for another request.
func discoveryOf(req *http.Request) (name string, answered func(remembered) bool) {
	switch {
	case req.Method != http.MethodGet:
		return "", nil
	case strings.HasSuffix(req.URL.Path, openIDConfiguration):
		return strings.ToLower(req.URL.Host + req.URL.Path), remembered.hasEndpoints
	case strings.HasPrefix(req.URL.Path, "/secrets/") && req.Header.Get("Authorization") == "":
		return strings.ToLower(req.URL.Host), remembered.isChallenge
	}
	return "", nil
}

// hasEndpoints reports whether r is a document with the endpoints of a tenant.
func (r remembered) hasEndpoints() bool {
	var document struct {
		Issuer                string
		AuthorizationEndpoint string `json:"authorization_endpoint"`
		TokenEndpoint         string `json:"token_endpoint"`
	}
	return r.StatusCode == http.StatusOK && json.Unmarshal(r.body, &document) == nil &&
		document.Issuer != "" && document.AuthorizationEndpoint != "" && document.TokenEndpoint != ""
}

// isChallenge reports whether r says which tokens the vault takes, so that azsecrets can make something of it: by an
// authority with a tenant, and a scope under one of its names.
func (r remembered) isChallenge() bool {
	said := r.Header.Get("WWW-Authenticate")
	_, authority, _ := strings.Cut(said, `authorization="https://`)
	authority, _, _ = strings.Cut(authority, `"`)
	_, tenant, _ := strings.Cut(authority, "/")
	return r.StatusCode == http.StatusUnauthorized && tenant != "" &&
		(strings.Contains(said, `resource="https://`) || strings.Contains(said, `scope="https://`))
}

func (m *memory) Do(req *http.Request) (*http.Response, error) {
	name, answered := discoveryOf(req)
	if name == "" {
		resp, err := m.next.Do(req)
		if err == nil {
			m.forget(req, resp.StatusCode)
		}
		return resp, err
	}
	known, _ := m.known.Load(name)
	if a, ok := known.(remembered); ok && time.Now().Before(a.until) {
		return a.responseTo(req), nil
	}
	a, err := m.asking.Do(req.Context(), name, func(context.Context) (remembered, error) {
		a, err := m.send(req)
		if err == nil && answered(a) {
			a.until = time.Now().Add(memoryTTL)
			m.known.Store(name, a)
		}
		return a, err
	})
	if err != nil {
		return nil, err
	}
	return a.responseTo(req), nil
}

// forget drops the response that req relied on if the status refuses req: the tenant may have moved to other endpoints, the
// vault to another tenant.
func (m *memory) forget(req *http.Request, status int) {
	name := strings.ToLower(req.URL.Host)
	switch tenant, path, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/"); {
	case status == http.StatusUnauthorized && tenant == "secrets":
	case status/100 == 4 && status != http.StatusTooManyRequests && strings.HasPrefix(path, "oauth2/"):
		name += "/" + strings.ToLower(tenant) + openIDConfiguration
	default:
		return
	}
	m.known.Delete(name)
}

// send sends req for all callers that wait for its response, within the time of the first one.
func (m *memory) send(req *http.Request) (remembered, error) {
	ctx := upstream.Detached(req.Context())
	if deadline, ok := req.Context().Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	resp, err := m.next.Do(req.WithContext(ctx))
	if err != nil {
		return remembered{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxResponse))
	return remembered{Response: *resp, body: text}, err
}

func (r remembered) responseTo(req *http.Request) *http.Response {
	resp := r.Response
	resp.Request, resp.Header, resp.Body = req, r.Header.Clone(), io.NopCloser(bytes.NewReader(r.body))
	return &resp
}

// Discover fetches the endpoints of a tenant, which the Transport remembers for the next caller (see [Remember]).
func (o Options) Discover(ctx context.Context, tenantID string) {
	ctx, cancel := context.WithTimeout(ctx, FirstTry(o.Share(TokenShare))) // leaves a waiting caller time for a second try
	defer cancel()
	address := strings.TrimSuffix(o.Cloud.ActiveDirectoryAuthorityHost, "/") + "/" + tenantID + openIDConfiguration
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return
	}
	if resp, err := o.Transport.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}
