package graph_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/azsdk"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/entra"
	"autopilot-unassign/internal/upstream"
	"autopilot-unassign/internal/vault"
)

const (
	endpoint = "https://graph.microsoft.com"
	devices  = endpoint + "/beta/deviceManagement/windowsAutopilotDeviceIdentities"
)

// world is a Client on a cloud of its own, with the program's credential.
type world struct {
	t      *testing.T
	cloud  *azuresim.Cloud
	client *graph.Client
	pace   *graph.Pace
}

// simulate runs a test in simulated time.
func simulate(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, cloud: azuresim.New(), pace: graph.NewPace()}
		w.cloud.SetAppSecrets("canary-secret")
		w.cloud.PutSecret("app", azuresim.Secret{Value: "canary-secret"})
		options := azsdk.Options{ClientOptions: azcore.ClientOptions{Transport: w.cloud}, Timeout: 25 * time.Second, Log: slog.New(slog.DiscardHandler)}
		identity, err := entra.ManagedIdentity(w.cloud.IdentityClientID, options)
		if err != nil {
			t.Fatal(err)
		}
		store, err := vault.New(w.cloud.VaultURL, identity, options)
		if err != nil {
			t.Fatal(err)
		}
		w.client, err = graph.New(endpoint, entra.AppSecret(w.cloud.TenantID, w.cloud.ClientID, "app", store, options), graph.Options{Transport: w.cloud, Pace: w.pace})
		if err != nil {
			t.Fatal(err)
		}
		test(w)
	})
}

// device returns the id of the device with that number.
func device(n int) graph.DeviceID {
	id, err := graph.ParseDeviceID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
	if err != nil {
		panic(err)
	}
	return id
}

// number is the reverse of device.
func number(id graph.DeviceID) string {
	return strings.TrimLeft(id.String()[24:], "0")
}

// put stores devices with those serial numbers, numbered from 1. All carry an account and a password.
func (w *world) put(serials ...string) {
	for i, serial := range serials {
		w.cloud.PutDevice(azuresim.Device{
			ID: device(i + 1).String(), SerialNumber: serial, GroupTag: "MTR", UserPrincipalName: "room@contoso.com", DeviceAccountPassword: azuresim.FleetPassword,
		})
	}
}

// done returns the numbers of the first n devices without an account.
func (w *world) done(n int) string {
	var numbers []string
	for i := range n {
		if d, ok := w.cloud.Device(device(i + 1).String()); ok && d.UserPrincipalName == "" {
			numbers = append(numbers, strconv.Itoa(i+1))
		}
	}
	return strings.Join(numbers, ",")
}

// asked returns the requests that Graph got: "get", "post", "filter", "walk" for a page of all devices, "batch 20".
func (w *world) asked() string {
	w.t.Helper()
	var kinds []string
	for _, r := range w.cloud.Requests(azuresim.StepGraph) {
		switch {
		case strings.HasSuffix(r.Path, "/$batch"):
			var batch struct{ Requests []json.RawMessage }
			if err := json.Unmarshal(r.Body, &batch); err != nil {
				w.t.Fatalf("%v in %s", err, r.Body)
			}
			kinds = append(kinds, fmt.Sprint("batch ", len(batch.Requests)))
		case r.Method == "POST":
			kinds = append(kinds, "post")
		case strings.Contains(r.RawQuery, "filter"):
			kinds = append(kinds, "filter")
		case strings.HasSuffix(r.Path, "/windowsAutopilotDeviceIdentities"):
			kinds = append(kinds, "walk")
		default:
			kinds = append(kinds, "get")
		}
	}
	return strings.Join(kinds, ", ")
}

// ending returns err as a word: its reason, and "?" where Graph may have acted.
func ending(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return "done"
	}
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		t.Fatalf("an error of type %T: %v", err, err)
	}
	end := string(failed.Reason)
	if failed.MaybeDone {
		end += "?"
	}
	return end
}

// foundWords returns the results as text: the number of each device, or the reason and the candidates.
func foundWords(t *testing.T, found []graph.Found) string {
	t.Helper()
	words := make([]string, len(found))
	for i, f := range found {
		if words[i] = number(f.Device.ID); f.Err != nil {
			words[i] = ending(t, f.Err)
		}
		for _, candidate := range f.Candidates {
			words[i] += " " + number(candidate.ID)
		}
	}
	return strings.Join(words, ", ")
}

// wantNoPassword fails the test if v contains the password of a device.
func wantNoPassword(t *testing.T, v any) {
	t.Helper()
	if bytes.Contains(fmt.Appendf(nil, "%+v %#v", v, v), []byte("canary")) {
		t.Errorf("the password is in %+v", v)
	}
}
