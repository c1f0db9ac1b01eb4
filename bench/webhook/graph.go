package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
)

// NewGraph returns a function that reads a device and removes its account, with the endpoint and the token in the
// environment.
func NewGraph() Unassign {
	endpoint, token := os.Getenv("GRAPH_ENDPOINT"), os.Getenv("GRAPH_TOKEN")
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	send := func(ctx context.Context, method, address string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, method, address, nil) //nolint:gosec // the host is the simulated Graph
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode >= 300 {
			return nil, fmt.Errorf("graph: %s", resp.Status)
		}
		return body, err
	}
	return func(ctx context.Context, id string) error {
		address := endpoint + "/beta/deviceManagement/windowsAutopilotDeviceIdentities/" + url.PathEscape(id)
		body, err := send(ctx, http.MethodGet, address)
		if err != nil {
			return err
		}
		var device struct{ ID, UserPrincipalName, ResourceName string }
		if json.Unmarshal(body, &device) != nil || device.ID != id {
			return errors.New("graph: not the device")
		}
		_, err = send(ctx, http.MethodPost, address+"/unassignResourceAccountFromDevice")
		return err
	}
}
