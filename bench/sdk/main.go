// The SDK's way takes Microsoft's library for each step: azidentity, azsecrets and msgraph-sdk-go. The last knows
// Graph 1.0 alone, which lacks the action; its sibling unassignUserFromDevice stands in, a POST to the same device.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	msgraph "github.com/microsoftgraph/msgraph-sdk-go"

	"autopilot-unassign/bench/webhook"
)

func main() {
	fmt.Fprintln(os.Stderr, run(context.Background()))
	os.Exit(1)
}

func run(ctx context.Context) error {
	identity, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: azidentity.ClientID(os.Getenv("AZURE_CLIENT_ID"))})
	if err != nil {
		return err
	}
	vault, err := azsecrets.NewClient(os.Getenv("KEY_VAULT_URL"), identity, &azsecrets.ClientOptions{DisableChallengeResourceVerification: true})
	if err != nil {
		return err
	}
	key, err := vault.GetSecret(ctx, os.Getenv("WEBHOOK_SECRET_NAMES"), "", nil)
	if err != nil {
		return err
	}
	endpoint, err := url.Parse(os.Getenv("GRAPH_ENDPOINT"))
	if err != nil {
		return err
	}
	graph, err := msgraph.NewGraphServiceClientWithCredentialsAndHosts(identity, []string{endpoint.String() + "/.default"}, []string{endpoint.Hostname()})
	if err != nil {
		return err
	}
	graph.GetAdapter().SetBaseUrl(endpoint.String() + "/v1.0")
	return webhook.Serve(*key.Value, func(ctx context.Context, id string) error {
		device := graph.DeviceManagement().WindowsAutopilotDeviceIdentities().ByWindowsAutopilotDeviceIdentityId(id)
		if _, err := device.Get(ctx, nil); err != nil {
			return err
		}
		return device.UnassignUserFromDevice().Post(ctx, nil)
	})
}
