package graph_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/graph"
)

// anyToken is a credential with one token.
type anyToken struct{}

func (anyToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "token", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// doer serves requests in place of the network.
type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// FuzzDeviceID holds ids in paths to these properties:
//  1. An accepted id is a GUID of 36 ASCII characters, and not of zeros alone.
//  2. It is exactly one element of the action's path.
//  3. The request has no query, no body and no other host.
func FuzzDeviceID(f *testing.F) {
	const id = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"
	for _, seed := range []string{
		id, strings.ToUpper(id), "{" + id + "}", id + "\r\n", "..", ".", "%2e%2e", "a/b", "../" + id, id[:33] + "/..", id[:33] + "%2f", id[:35] + "?",
		"00000000-0000-0000-0000-000000000000", "６f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01", "6f1a9c0e\u20105b1d-4c55-9d3a-1f0e7c2b4a01", "",
	} {
		f.Add(seed)
	}
	var asked *http.Request
	client, err := graph.New("https://graph.microsoft.com", anyToken{}, graph.Options{Pace: graph.NewPace(), Transport: doer(func(r *http.Request) (*http.Response, error) {
		asked = r
		return &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{"Request-Id": {"r-1"}}, Body: http.NoBody, Request: r}, nil
	})})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		accepted, err := graph.ParseDeviceID(text)
		if err != nil {
			return
		}
		if len(text) != 36 || !strings.EqualFold(accepted.String(), text) || strings.Trim(text, "0-") == "" {
			t.Fatalf("%q is accepted as %v", text, accepted)
		}
		result := client.UnassignResourceAccount(t.Context(), accepted)[0]
		want := "https://graph.microsoft.com/beta/deviceManagement/windowsAutopilotDeviceIdentities/" + strings.ToLower(text) + "/unassignResourceAccountFromDevice"
		if result.Err != nil || asked.URL.String() != want || asked.Method != http.MethodPost || asked.ContentLength != 0 {
			t.Fatalf("%q: %v, %s %s with %d bytes", text, result.Err, asked.Method, asked.URL, asked.ContentLength)
		}
	})
}
