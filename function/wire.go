package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/jwks"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

// newLog returns the log of every host: one JSON object a line, with the keys that Lambda looks for.
func newLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(renaming{w}, &slog.HandlerOptions{Level: level}))
}

// renaming writes slog's records with timestamp and message in the place of time and msg. The handler writes a record at once, and
// these members first. Its ReplaceAttr would be asked about every member of every record, for a third of what a record costs.
type renaming struct{ io.Writer }

func (r renaming) Write(record []byte) (int, error) {
	start, rest, _ := bytes.Cut(record, []byte(`,"`+slog.MessageKey+`":`))
	line, _ := lines.Get().(*[]byte)
	defer lines.Put(line)
	*line = append((*line)[:0], `{"timestamp":`...)
	*line = append(*line, bytes.TrimPrefix(start, []byte(`{"`+slog.TimeKey+`":`))...)
	*line = append(append(*line, `,"message":`...), rest...)
	if _, err := r.Writer.Write(*line); err != nil {
		return 0, err
	}
	return len(record), nil
}

// lines are what records are written from.
var lines = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // a pool of nothing but memory

// connections are what speaks to the cloud.
type connections struct {
	identity   azcore.TokenCredential // that reads the vault
	store      *vault.Vault           // nil where nothing is kept in one
	credential azcore.TokenCredential // of the app that may call Graph
	client     *graph.Client
}

// connect makes what speaks to the cloud as c says, with transport between. It makes no request.
func connect(c config.Config, transport policy.Transporter, log *slog.Logger) (connections, error) {
	options := vaultOptions(c, transport, log)
	identity, err := vaultIdentity(c, transport, options)
	if err != nil {
		return connections{}, err
	}
	var store *vault.Vault
	if c.VaultURL != "" {
		if store, err = vault.New(c.VaultURL, identity, options); err != nil {
			return connections{}, err
		}
	}
	credential, err := graphCredential(c, store, identity, transport, options)
	if err != nil {
		return connections{}, err
	}
	client, err := graph.New(c.Cloud.Graph, credential, graph.Options{Transport: transport, Version: version})
	return connections{identity, store, credential, client}, err
}

func vaultOptions(c config.Config, transport policy.Transporter, log *slog.Logger) vault.Options {
	scope := "" // of a cloud of one's own nobody knows it, and az is asked once, with the tenant that the vault names
	if c.Cloud.VaultSuffix != "" && c.VaultCredential != config.AzureCLI {
		scope = "https://" + strings.TrimPrefix(c.Cloud.VaultSuffix, ".") + "/.default"
	}
	return vault.Options{
		ClientOptions: azcore.ClientOptions{
			Transport: vault.Remember(transport),
			Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: c.Cloud.Authority},
			Telemetry: policy.TelemetryOptions{Disabled: true},
		},
		Timeout: c.Timeout,
		Scope:   scope,
		Custom:  c.Cloud.Custom,
		Log:     log,
	}
}

// server is the rooms, put together.
type server struct {
	*handler.Handler
	warmUp warmUp
}

// wire puts the rooms together as c says, with transport between them and the cloud. It makes no request.
func wire(c config.Config, transport policy.Transporter, log *slog.Logger) (*server, error) {
	to, err := connect(c, transport, log)
	if err != nil {
		return nil, err
	}
	examine := func(ctx context.Context) (slog.LogValuer, error) {
		r, err := examineDeployment(ctx, c, transport)
		if err != nil {
			return nil, err
		}
		return r, nil
	}
	verifier, steps := verifier(c, to.store, transport, log)
	return &server{handler.New(handler.Options{
		Devices:   to.client,
		Verifier:  verifier,
		Policy:    handler.Policy{GroupTags: c.GroupTags, PerMinute: c.RateLimit},
		Sweep:     handler.Sweep{GroupTag: c.SweepGroupTag, MaxDevices: c.SweepMaxDevices, MinInventory: c.SweepMinInventory, Apply: c.SweepApply},
		Operators: c.OperatorCallers,
		Examine:   examine,
		Log:       log,
		Timeout:   c.Timeout,
		Window:    2 * c.Tolerance,
		Version:   version,
	}), warmUp{append(steps, to.client.Warm), log}}, nil
}

// verifier returns who tells whether a caller may call, and what reads the keys for it.
func verifier(c config.Config, store *vault.Vault, transport policy.Transporter, log *slog.Logger) (caller.Verifier, []func(context.Context) error) {
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
		verifiers = append(verifiers, &caller.Signature{Keys: keysIn(caller.DecodeSignatureKey, c.WebhookSecretNames), Tolerance: c.Tolerance})
	}
	if len(c.APIKeySecretNames) > 0 {
		verifiers = append(verifiers, &caller.APIKey{Keys: keysIn(caller.DecodeAPIKey, c.APIKeySecretNames)})
	}
	if len(c.EntraAudiences) > 0 {
		source := signingKeys(c, transport, log)
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

// signingKeys returns the keys that tokens of callers are signed with.
func signingKeys(c config.Config, transport policy.Transporter, log *slog.Logger) *jwks.Source {
	return jwks.New(transport, c.Cloud.Authority, c.Cloud.IssuerV2, log, c.EntraTenants...)
}

// keys are callers' keys in the vault as the verifiers want them.
type keys struct {
	inVault *vault.Keys
}

func (k keys) Current(ctx context.Context) ([]caller.Key, error) {
	return callerKeys(k.inVault.Current(ctx))
}

func (k keys) Refresh(ctx context.Context) ([]caller.Key, error) {
	return callerKeys(k.inVault.Refresh(ctx))
}

// callerKeys passes on the keys that there are. That others could not be read is only an error if they may be soon, or if
// there are none: a key that is named in the settings and not yet, or no longer, in the vault is part of every rotation.
func callerKeys(stored []vault.Key, err error) ([]caller.Key, error) {
	known := make([]caller.Key, len(stored))
	for i, key := range stored {
		known[i] = caller.Key(key)
	}
	if failed, ok := errors.AsType[*upstream.Error](err); ok && len(known) > 0 {
		switch failed.Reason {
		case upstream.NotFound, upstream.SecretDisabled, upstream.SecretInvalid:
			err = nil
		}
	}
	return known, err
}
