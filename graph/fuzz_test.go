package graph_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/graph"
)

// recorder serves requests with its answers in turn, the last one for all that follow, and keeps the requests.
type recorder struct {
	answers  []string
	requests []*http.Request
	bodies   []string
}

func (r *recorder) Do(req *http.Request) (*http.Response, error) {
	body := ""
	if req.Body != nil {
		text, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		body = string(text)
	}
	answer := r.answers[min(len(r.requests), len(r.answers)-1)]
	r.requests, r.bodies = append(r.requests, req), append(r.bodies, body)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Request-Id": {"r-1"}}, Body: io.NopCloser(strings.NewReader(answer)), Request: req}, nil
}

// GetToken makes a recorder a credential.
func (r *recorder) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "token", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func (r *recorder) client(t *testing.T) *graph.Client {
	t.Helper()
	client, err := graph.New(endpoint, r, graph.Options{Transport: r, Pace: graph.NewPace()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

var oneFilter = regexp.MustCompile(`^\$filter=contains\(serialNumber,'([A-Za-z0-9]{4,})'\)$`)

var fourInARow = regexp.MustCompile(`[A-Za-z0-9]{4}`)

// FuzzSerialFilter holds the request for a serial number, alone and in a batch, to these properties:
//
//  1. The path is the collection, and the query is one filter and nothing else.
//  2. The filter is a part of the serial number, of ASCII letters and digits alone.
func FuzzSerialFilter(f *testing.F) {
	for _, serial := range []string{
		"5CG1234ABC", "Default string", "VMware-56 4d 2b 3c-4d 5e", "1234-5678-9012-3456", "O'Brien", "x') or contains(serialNumber,'", "a&$top=1", "a#b", "a%27b", "../../users",
		"a\r\nHost: x", "é-1234", "\u202e9999", "0", "ſ7890", "Kelvin\u212a",
	} {
		f.Add(serial)
	}
	f.Fuzz(func(t *testing.T, serial string) {
		if !fourInARow.MatchString(serial) {
			return // the filter does not serve it
		}
		check := func(path, query string) {
			m := oneFilter.FindStringSubmatch(query)
			if path != "/beta/deviceManagement/windowsAutopilotDeviceIdentities" || m == nil || !strings.Contains(serial, m[1]) {
				t.Fatalf("%q: %s?%s", serial, path, query)
			}
		}
		alone := &recorder{answers: []string{`{"value":[]}`}}
		found := alone.client(t).Find(t.Context(), graph.Selector{SerialNumber: serial})
		if len(alone.requests) != 1 || ending(t, found[0].Err) != "not_found" {
			t.Fatalf("%q: %d requests, %v", serial, len(alone.requests), found[0].Err)
		}
		u := alone.requests[0].URL
		check(u.EscapedPath(), u.RawQuery)
		if u.Fragment != "" || u.Scheme+"://"+u.Host != endpoint {
			t.Fatalf("%q: %s", serial, u)
		}

		batch := &recorder{answers: []string{`{"responses":[{"id":"0","status":200,"body":{"value":[]}},{"id":"1","status":200,"body":{"value":[]}}]}`}}
		batch.client(t).Find(t.Context(), graph.Selector{SerialNumber: "xxxx"}, graph.Selector{SerialNumber: serial})
		var sent struct {
			Requests []struct{ Method, URL string }
		}
		if err := json.Unmarshal([]byte(batch.bodies[0]), &sent); err != nil || len(batch.requests) != 1 || len(sent.Requests) != 2 || sent.Requests[1].Method != http.MethodGet {
			t.Fatalf("%q: %v in %s", serial, err, batch.bodies[0])
		}
		path, query, _ := strings.Cut(sent.Requests[1].URL, "?")
		check("/beta"+path, query)
	})
}

// FuzzPage holds the devices of any page to these properties:
//
//  1. Each device has an id, and comes once.
//  2. A body that is not a page is an error, not the end of the list.
//  3. The token travels to Graph alone, by https.
//  4. Unused properties are dropped.
func FuzzPage(f *testing.F) {
	const id = "00000000-0000-4000-8000-000000000001"
	for _, body := range []string{
		`{"value":[]}`, `{"value":[{"id":"` + id + `"}]}`, `{"value":[{"id":"` + id + `","serialNumber":null,"groupTag":null,"userPrincipalName":null}]}`,
		`{"value":[{"id":"` + id + `","serialNumber":" 5CG ","deviceAccountPassword":"canary"}],"@odata.nextLink":"` + devices + `?$skiptoken=1"}`,
		`{"value":[{"id":"` + id + `"},{"id":"` + strings.ToUpper(id) + `"}]}`, `{"value":[],"@odata.nextLink":"https://stranger.example/"}`,
		`{"value":[{"id":"` + id + `"}],"@odata.nextLink":"http://graph.microsoft.com/"}`, `{"value":[{"id":"` + id + `"}],"@odata.nextLink":"https://graph.microsoft.com@stranger.example/"}`,
		`{"value":[{"id":"` + id + `"}],"@odata.nextLink":"https://graph.microsoft.com\\@stranger.example/"}`,
		`{"value":[{"id":"00000000-0000-0000-0000-000000000000"}]}`, `{"value":[null]}`, `{"value":[{}]}`, `{"value":[{"id":7}]}`, `{"value":null}`, `{}`, `null`, `[]`, ``, `{"value":[{"id":"` + id + `","serialNumber":[1]}]}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := &recorder{answers: []string{body, `{"value":[]}`}}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // too short for a retry
		defer cancel()
		seen := map[graph.DeviceID]bool{}
		var end error
		for d, err := range r.client(t).All(ctx) {
			if end = err; err != nil {
				continue
			}
			if d.ID == (graph.DeviceID{}) || seen[d.ID] {
				t.Fatalf("%q: %v", body, d.ID)
			}
			seen[d.ID] = true
		}
		var is struct{ Value []json.RawMessage }
		if err := json.Unmarshal([]byte(body), &is); (err != nil || is.Value == nil) && end == nil {
			t.Fatalf("%q passes for a page", body)
		}
		for _, req := range r.requests {
			if req.URL.Scheme+"://"+req.URL.Host != endpoint || req.URL.User != nil || req.Host != "" && req.Host != "graph.microsoft.com" {
				t.Fatalf("%q: a request to %s", body, req.URL)
			}
		}

		var device graph.Device
		text := `{"id":"` + id + `","deviceAccountPassword":"canary","serialNumber":` + string(mustJSON(body)) + `}`
		if err := json.Unmarshal([]byte(text), &device); err != nil || strings.ToValidUTF8(strings.TrimSpace(body), "\ufffd") != device.SerialNumber && !strings.Contains(device.SerialNumber, "\ufffd") {
			t.Fatalf("%q: %v, %q", text, err, device.SerialNumber)
		}
		if !strings.Contains(body, "canary") {
			wantNoPassword(t, device)
		}
	})
}

func mustJSON(s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return text
}
