// The official way is an implementation in Go with Microsoft's library for each step: azidentity, azsecrets and
// msgraph-sdk-go. That library knows Graph 1.0 alone, which lacks our action; it is measured with the similar
// unassignUserFromDevice, one POST to the same device.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
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
	secret, err := vault.GetSecret(ctx, os.Getenv("GRAPH_SECRET_NAME"), "", nil)
	if err != nil {
		return err
	}
	key, err := vault.GetSecret(ctx, os.Getenv("WEBHOOK_SECRET_NAMES"), "", nil)
	if err != nil {
		return err
	}
	credential, err := azidentity.NewClientSecretCredential(os.Getenv("GRAPH_TENANT_ID"), os.Getenv("GRAPH_CLIENT_ID"), *secret.Value, &azidentity.ClientSecretCredentialOptions{
		ClientOptions:            azcore.ClientOptions{Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: os.Getenv("AZURE_AUTHORITY_HOST")}},
		DisableInstanceDiscovery: true, // as for any cloud that Microsoft's own does not know
	})
	if err != nil {
		return err
	}
	endpoint, err := url.Parse(os.Getenv("GRAPH_ENDPOINT"))
	if err != nil {
		return err
	}
	graph, err := msgraph.NewGraphServiceClientWithCredentialsAndHosts(credential, []string{endpoint.String() + "/.default"}, []string{endpoint.Hostname()})
	if err != nil {
		return err
	}
	graph.GetAdapter().SetBaseUrl(endpoint.String() + "/v1.0")
	return webhook.Serve(*key.Value, func(ctx context.Context, id string) error {
		return graph.DeviceManagement().WindowsAutopilotDeviceIdentities().ByWindowsAutopilotDeviceIdentityId(id).UnassignUserFromDevice().Post(ctx, nil)
	})
}
