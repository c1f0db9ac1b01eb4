// The floor is the least work of a function like this one: net/http, a signature, and one request to Graph over a kept-alive
// connection, with a given token. No complete implementation can be much faster.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"autopilot-unassign/bench/webhook"
)

func main() {
	endpoint, token := os.Getenv("GRAPH_ENDPOINT"), os.Getenv("GRAPH_TOKEN")
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	fmt.Fprintln(os.Stderr, webhook.Serve(os.Getenv("SIGNING_KEY"), func(ctx context.Context, id string) error {
		target := endpoint + "/beta/deviceManagement/windowsAutopilotDeviceIdentities/" + url.PathEscape(id) + "/unassignResourceAccountFromDevice"
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil) //nolint:gosec // the host is the simulated Graph, and the id is escaped
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
		_ = resp.Body.Close()
		if resp.StatusCode >= 300 {
			return fmt.Errorf("graph: %s", resp.Status)
		}
		return nil
	}))
	os.Exit(1)
}
