// Package app builds the running function from a Config: credentials, vault, Graph client, handler, warm-up. It is
// the only package that knows the AWS SDK.
package app

import (
	"context"
	"log/slog"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/jwks"
	"autopilot-unassign/internal/vault"
)

// Parts are the credentials and clients that a Config describes.
type Parts struct {
	Identity   azcore.TokenCredential // reads the vault
	Vault      *vault.Vault           // nil if no secret is in a vault
	Credential azcore.TokenCredential // of the app that may call Graph
	Graph      *graph.Client
	Pace       *graph.Pace // of changes in the background

	tenants []string      // see entraTenants
	options azsdk.Options // of the clients above
}

// Connect returns the parts for c, with transport as the boundary to the cloud. It makes no request.
func Connect(c config.Config, transport policy.Transporter, log *slog.Logger, version string) (Parts, error) {
	options := SDKOptions(c, transport, log)
	var role entra.Assertion
	if c.VaultCredential == config.AWSFederation {
		role = entra.Shared(RoleAssertion(c.Role, transport, c.Cloud.Exchange), options)
	}
	identity, err := newIdentity(c, role, options)
	if err != nil {
		return Parts{}, err
	}
	var store *vault.Vault
	if c.VaultURL != "" {
		if store, err = vault.New(c.VaultURL, identity, options); err != nil {
			return Parts{}, err
		}
	}
	credential, err := newGraphCredential(c, store, identity, role, options)
	if err != nil {
		return Parts{}, err
	}
	pace := graph.NewPace()
	graphOptions := graph.Options{Transport: transport, Version: version, Pace: pace}
	client, err := graph.New(c.Cloud.Graph, credential, graphOptions)
	return Parts{identity, store, credential, client, pace, entraTenants(c), options}, err
}

// SDKOptions returns the options of the Azure SDK for c.
func SDKOptions(c config.Config, transport policy.Transporter, log *slog.Logger) azsdk.Options {
	// The scope of a custom cloud's vault is unknown. The Azure CLI is asked once, with the tenant that the vault
	// names.
	scope := ""
	if c.Cloud.VaultSuffix != "" && c.VaultCredential != config.AzureCLI {
		scope = "https://" + strings.TrimPrefix(c.Cloud.VaultSuffix, ".") + "/.default"
	}
	return azsdk.Options{
		ClientOptions: azcore.ClientOptions{
			Transport: azsdk.Remember(transport),
			Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: c.Cloud.Authority},
			Telemetry: policy.TelemetryOptions{Disabled: true},
		},
		Timeout: c.Timeout,
		Scope:   scope,
		Custom:  c.Cloud.Custom,
		Log:     log,
	}
}

// App is the running function, for every host.
type App struct {
	*handler.Handler
	warmUp []func(context.Context) error // the steps
	log    *slog.Logger
}

// Examine examines the deployment for the doctor.
type Examine func(ctx context.Context) (slog.LogValuer, error)

// New returns the App for c, with transport as the boundary to the cloud. It makes no request.
func New(
	c config.Config, transport policy.Transporter, examine Examine, log *slog.Logger, version string,
) (*App, error) {
	parts, err := Connect(c, transport, log, version)
	if err != nil {
		return nil, err
	}
	verifier, steps := newVerifier(c, parts.Vault, transport, log)
	return &App{handler.New(handler.Options{
		Devices:     parts.Graph,
		Background:  parts.Graph.Background(),
		Pace:        parts.Pace,
		Verifier:    verifier,
		Policy:      c.Policy,
		Sweep:       c.Sweep,
		Operators:   c.OperatorCallers,
		Examine:     examine,
		Log:         log,
		Timeout:     c.Timeout,
		QueueMaxAge: c.QueueMaxAge,
		Window:      2 * c.Tolerance,
		Version:     version,
	}), append(steps, parts.warmUpSteps()...), log}, nil
}

// newVerifier returns the verifier of callers, and the steps of the warm-up that read its keys.
func newVerifier(c config.Config, store *vault.Vault, transport policy.Transporter,
	log *slog.Logger,
) (caller.Verifier, []func(context.Context) error) {
	if c.PlatformAuth {
		return caller.Platform{}, nil
	}
	var (
		verifiers []caller.Verifier
		read      []func(context.Context) error
	)
	keysIn := func(decode func(string) ([]byte, error), names []string) keys {
		k := store.Keys(decode, names...)
		read = append(read, func(ctx context.Context) error {
			_, err := k.Current(ctx)
			return err
		})
		return keys{k}
	}
	if len(c.WebhookSecretNames) > 0 {
		verifiers = append(verifiers, &caller.Signature{
			Keys:      keysIn(caller.DecodeSignatureKey, c.WebhookSecretNames),
			Tolerance: c.Tolerance,
		})
	}
	if len(c.APIKeySecretNames) > 0 {
		verifiers = append(verifiers, &caller.APIKey{Keys: keysIn(caller.DecodeAPIKey, c.APIKeySecretNames)})
	}
	if len(c.EntraAudiences) > 0 {
		source := SigningKeys(c, transport, log)
		read = append(read, source.Warm)
		verifiers = append(verifiers, &caller.Token{
			Keys:      source,
			Tenants:   c.EntraTenants,
			Audiences: c.EntraAudiences,
			Role:      c.EntraRole,
			Scope:     c.EntraScope,
			IssuerV1:  c.Cloud.IssuerV1,
			IssuerV2:  c.Cloud.IssuerV2,
		})
	}
	return caller.Any(verifiers...), read
}

// SigningKeys returns the source of the keys that sign callers' tokens.
func SigningKeys(c config.Config, transport policy.Transporter, log *slog.Logger) *jwks.Source {
	return jwks.New(transport, c.Cloud.Authority, c.Cloud.IssuerV2, log, c.EntraTenants...)
}

// keys adapts callers' keys in the vault to the verifiers.
type keys struct {
	inVault *vault.Keys
}

func (k keys) Current(ctx context.Context) ([]caller.Key, error) {
	return callerKeys(k.inVault.Current(ctx))
}

func (k keys) Refresh(ctx context.Context) ([]caller.Key, error) {
	return callerKeys(k.inVault.Refresh(ctx))
}

// callerKeys converts keys. A permanently missing key is an error only if no other key was read: during a
// rotation the settings name a key that the vault does not have yet, or has no longer.
func callerKeys(stored []vault.Key, err error) ([]caller.Key, error) {
	known := make([]caller.Key, len(stored))
	for i, key := range stored {
		known[i] = caller.Key(key)
	}
	if len(known) > 0 && !vault.KeepsSecret(err) {
		err = nil
	}
	return known, err
}
