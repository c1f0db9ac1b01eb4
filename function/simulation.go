package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
)

// The names of the secrets in the simulated vault.
const (
	simulatedAppSecret  = "graph-client-secret"
	simulatedWebhookKey = "webhook-servicenow"
	simulatedAPIKey     = "api-key-flow"
)

// simulation is the whole program on a simulated cloud: the rooms are put together as for a deployment, and the requests
// that they make are answered in this process.
type simulation struct {
	cloud      *azuresim.Cloud
	config     config.Config
	handler    *server
	log        *slog.Logger
	webhookKey string // as Key Vault has it: whsec_…
	apiKey     string
}

// The ids of two simulated devices.
const (
	fjord = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"
	skog  = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"
)

// newSimulation makes a cloud with seven devices, and the program on it, which logs to logs. Of the environment only the
// settings count that are not about the cloud.
func newSimulation(getenv func(string) string, logs io.Writer) (*simulation, error) {
	s := &simulation{
		cloud:      azuresim.New(),
		webhookKey: "whsec_" + base64.StdEncoding.EncodeToString(randomKey()),
		apiKey:     base64.RawURLEncoding.EncodeToString(randomKey()),
	}
	appSecret := base64.RawURLEncoding.EncodeToString(randomKey())
	s.cloud.SetAppSecrets(appSecret)
	s.cloud.PutSecret(simulatedAppSecret, azuresim.Secret{Value: appSecret, Expires: time.Now().AddDate(0, 6, 0)})
	s.cloud.PutSecret(simulatedWebhookKey, azuresim.Secret{Value: s.webhookKey})
	s.cloud.PutSecret(simulatedAPIKey, azuresim.Secret{Value: s.apiKey})
	for _, d := range []azuresim.Device{
		{ID: fjord, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo", UserPrincipalName: "room.fjord@contoso.com", AddressableUserName: "Fjord Room", ResourceName: "room.fjord"},
		{ID: skog, SerialNumber: "5CG5678DEF", GroupTag: "MTR-Oslo", UserPrincipalName: "room.skog@contoso.com", AddressableUserName: "Skog Room", ResourceName: "room.skog"},
		{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a03", SerialNumber: "PF3-0123-4567", GroupTag: "Kiosk", UserPrincipalName: "kiosk.lobby@contoso.com", AddressableUserName: "Lobby Kiosk", ResourceName: "kiosk.lobby"},
		// What a mainboard is called that nobody has given a name. Such serial numbers are many devices'.
		{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a04", SerialNumber: "Default string", GroupTag: "Kiosk", UserPrincipalName: "kiosk.north@contoso.com", AddressableUserName: "North Kiosk", ResourceName: "kiosk.north"},
		{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a05", SerialNumber: "Default string", GroupTag: "Kiosk", UserPrincipalName: "kiosk.south@contoso.com", AddressableUserName: "South Kiosk", ResourceName: "kiosk.south"},
		{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a06", SerialNumber: "R90A2B3C", GroupTag: "Retired", UserPrincipalName: "room.elv@contoso.com", AddressableUserName: "Elv Room", ResourceName: "room.elv"},
		{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a07", SerialNumber: "R90D4E5F", GroupTag: "Retired", UserPrincipalName: "room.dal@contoso.com", AddressableUserName: "Dal Room", ResourceName: "room.dal"},
	} {
		s.cloud.PutDevice(d)
	}
	c, err := config.Load(s.settings(getenv), config.Local)
	if err != nil {
		return nil, err
	}
	s.config = c
	s.log = newLog(logs, c.LogLevel)
	s.handler, err = wire(c, s.cloud, s.log)
	return s, err
}

// settings are those of a deployment to the simulated cloud.
func (s *simulation) settings(getenv func(string) string) func(string) string {
	values := map[string]string{
		"KEY_VAULT_URL":        s.cloud.VaultURL,
		"AZURE_CLIENT_ID":      s.cloud.IdentityClientID,
		"GRAPH_TENANT_ID":      s.cloud.TenantID,
		"GRAPH_CLIENT_ID":      s.cloud.ClientID,
		"GRAPH_SECRET_NAME":    simulatedAppSecret,
		"WEBHOOK_SECRET_NAMES": simulatedWebhookKey,
		"API_KEY_SECRET_NAMES": simulatedAPIKey,
		"SWEEP_GROUP_TAG":      "Retired",
	}
	for _, name := range []string{"LOG_LEVEL", "REQUEST_TIMEOUT", "SIGNATURE_TOLERANCE", "ALLOWED_GROUP_TAGS", "RATE_LIMIT", "OPERATOR_CALLERS"} {
		values[name] = getenv(name)
	}
	return func(name string) string { return values[name] }
}

func randomKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}

// banner tells a person what is running at address and how to try it, also with the program by its name.
func (s *simulation) banner(w io.Writer, program, address string) {
	fmt.Fprintf(w, "simulated: nothing leaves this process\n\n")
	s.printDevices(w)
	fmt.Fprintf(w, `
Take the resource account off the first one:

  curl -i %[1]s%[2]s -H 'x-api-key: %[3]s' -H 'Prefer: return=representation' -d '{"deviceId":"%[4]s"}' -H 'Content-Type: application/json'

or, signed as ServiceNow does it, ask what would happen to two by their serial numbers:

  echo %[5]s | %[6]s call -url %[1]s -secret-file - -serial %[7]s -serial %[8]s -dry-run

Stop with Ctrl-C; the next start begins anew. The log follows.

`, address, handler.RouteUnassign, s.apiKey, fjord, s.webhookKey, program, s.cloud.Devices()[0].SerialNumber, s.cloud.Devices()[1].SerialNumber)
}

// printDevices prints the devices as a table.
func (s *simulation) printDevices(w io.Writer) {
	fmt.Fprintf(w, "  %-16s %-10s %-38s %s\n", "SERIAL NUMBER", "GROUP TAG", "DEVICE ID", "RESOURCE ACCOUNT")
	for _, d := range s.cloud.Devices() {
		account := d.UserPrincipalName
		if account == "" {
			account = "-"
		}
		fmt.Fprintf(w, "  %-16s %-10s %-38s %s\n", d.SerialNumber, d.GroupTag, d.ID, account)
	}
}
