package demo

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/doctor"
)

// The names of the secrets in the simulated vault.
const (
	AppSecretName  = "graph-client-secret"
	WebhookKeyName = "webhook-servicenow"
	APIKeyName     = "api-key-flow"
)

// Simulation is the whole function on a simulated cloud in this process. It is built like a deployment.
type Simulation struct {
	Cloud      *azuresim.Cloud
	Config     config.Config
	App        *app.App
	WebhookKey string // as Key Vault has it: whsec_…
	APIKey     string

	Log     *slog.Logger
	version string
}

// The ids of two simulated devices.
const (
	Fjord = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"
	Skog  = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"
)

// New returns a cloud with seven devices and the function on it, which logs to logs. It takes the settings that are
// not about the cloud from getenv.
func New(getenv func(string) string, logs io.Writer, version string) (*Simulation, error) {
	s := &Simulation{
		Cloud:      azuresim.New(),
		WebhookKey: "whsec_" + base64.StdEncoding.EncodeToString(randomKey()),
		APIKey:     base64.RawURLEncoding.EncodeToString(randomKey()),
	}
	appSecret := base64.RawURLEncoding.EncodeToString(randomKey())
	s.Cloud.SetAppSecrets(appSecret)
	s.Cloud.PutSecret(AppSecretName, azuresim.Secret{Value: appSecret, Expires: time.Now().AddDate(0, 6, 0)})
	s.Cloud.PutSecret(WebhookKeyName, azuresim.Secret{Value: s.WebhookKey})
	s.Cloud.PutSecret(APIKeyName, azuresim.Secret{Value: s.APIKey})
	for _, d := range []azuresim.Device{
		{
			ID: Fjord, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo", UserPrincipalName: "room.fjord@contoso.com",
			AddressableUserName: "Fjord Room", ResourceName: "room.fjord",
		},
		{
			ID: Skog, SerialNumber: "5CG5678DEF", GroupTag: "MTR-Oslo", UserPrincipalName: "room.skog@contoso.com",
			AddressableUserName: "Skog Room", ResourceName: "room.skog",
		},
		{
			ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a03", SerialNumber: "PF3-0123-4567", GroupTag: "Kiosk",
			UserPrincipalName: "kiosk.lobby@contoso.com", AddressableUserName: "Lobby Kiosk", ResourceName: "kiosk.lobby",
		},
		// The placeholder of a mainboard without a serial number. Many devices share it.
		{
			ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a04", SerialNumber: "Default string", GroupTag: "Kiosk",
			UserPrincipalName: "kiosk.north@contoso.com", AddressableUserName: "North Kiosk", ResourceName: "kiosk.north",
		},
		{
			ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a05", SerialNumber: "Default string", GroupTag: "Kiosk",
			UserPrincipalName: "kiosk.south@contoso.com", AddressableUserName: "South Kiosk", ResourceName: "kiosk.south",
		},
		{
			ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a06", SerialNumber: "R90A2B3C", GroupTag: "Retired",
			UserPrincipalName: "room.elv@contoso.com", AddressableUserName: "Elv Room", ResourceName: "room.elv",
		},
		{
			ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a07", SerialNumber: "R90D4E5F", GroupTag: "Retired",
			UserPrincipalName: "room.dal@contoso.com", AddressableUserName: "Dal Room", ResourceName: "room.dal",
		},
	} {
		s.Cloud.PutDevice(d)
	}
	c, err := config.Load(s.newSettings(getenv), config.Local)
	if err != nil {
		return nil, err
	}
	s.Config = c
	s.Log, s.version = app.NewLog(logs, c.LogLevel), version
	s.App, err = s.newApp()
	return s, err
}

// newApp returns the function under s.Config.
func (s *Simulation) newApp() (*app.App, error) {
	return app.New(s.Config, s.Cloud, doctor.ForApp(s.Config, s.Cloud, s.version), s.Log, s.version)
}

// newSettings are the settings of a deployment to the simulated cloud.
func (s *Simulation) newSettings(getenv func(string) string) func(string) string {
	values := map[string]string{
		"KEY_VAULT_URL":        s.Cloud.VaultURL,
		"AZURE_CLIENT_ID":      s.Cloud.IdentityClientID,
		"GRAPH_TENANT_ID":      s.Cloud.TenantID,
		"GRAPH_CLIENT_ID":      s.Cloud.ClientID,
		"GRAPH_SECRET_NAME":    AppSecretName,
		"WEBHOOK_SECRET_NAMES": WebhookKeyName,
		"API_KEY_SECRET_NAMES": APIKeyName,
		"SWEEP_GROUP_TAG":      "Retired",
		"OPERATOR_CALLERS":     WebhookKeyName + "," + APIKeyName,
	}
	for _, name := range []string{
		"LOG_LEVEL", "REQUEST_TIMEOUT", "SIGNATURE_TOLERANCE", "ALLOWED_GROUP_TAGS",
		"RATE_LIMIT", "OPERATOR_CALLERS",
	} {
		if value := getenv(name); value != "" {
			values[name] = value
		}
	}
	return func(name string) string { return values[name] }
}

func randomKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}

// Banner prints the devices and requests to try, for the function at address. program is the name of the executable.
func (s *Simulation) Banner(w io.Writer, program, address string) {
	fmt.Fprintf(w, "simulated: nothing leaves this process\n\n")
	s.printDevices(w)
	fmt.Fprintf(w, `
In another terminal, set the address and the key (in PowerShell: $env:UNASSIGN_URL = '...'):

  export UNASSIGN_URL=%[1]s UNASSIGN_SECRET=%[5]s

List devices, review the file, report the changes, make them, and keep undo.csv:

  %[6]s list -group-tag Retired -csv devices.csv
  %[6]s call -csv devices.csv -dry-run
  %[6]s call -csv devices.dry-run.csv -out undo.csv

Or remove the resource account of one device, as a script would:

  curl -i %[1]s%[2]s -H 'x-api-key: %[3]s' -H 'Prefer: return=representation' -H 'Content-Type: application/json' -d '{"deviceId":"%[4]s"}'

Stop with Ctrl-C; the next start begins anew. The log follows.

`, address, handler.RouteUnassign, s.APIKey, Fjord, s.WebhookKey, program)
}

// printDevices prints the devices as a table.
func (s *Simulation) printDevices(w io.Writer) {
	fmt.Fprintf(w, "  %-16s %-10s %-38s %s\n", "SERIAL NUMBER", "GROUP TAG", "DEVICE ID", "RESOURCE ACCOUNT")
	for _, d := range s.Cloud.Devices() {
		account := d.UserPrincipalName
		if account == "" {
			account = "-"
		}
		fmt.Fprintf(w, "  %-16s %-10s %-38s %s\n", d.SerialNumber, d.GroupTag, d.ID, account)
	}
}
