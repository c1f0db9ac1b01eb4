package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
)

// patient is the setting of a process that is not to fail because this machine is busy.
const patient = "REQUEST_TIMEOUT=20s"

// TestReplay sends deliveries again through all hosts, to one process each: in the order of the rows.
func TestReplay(t *testing.T) {
	t.Parallel()
	unknown := strings.Replace(validBody, someDevice, unknownDevice, 1)
	for _, host := range []string{config.Azure, config.Lambda, config.Local} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			d := deploy(t, c, host, patient)
			for _, test := range []struct {
				name     string
				fail     azuresim.Fault // of Graph, if this is asked for it
				request  sent
				status   int
				code     string
				replayed bool
				graph    int // requests to Graph in all
			}{
				{"signed", azuresim.Fault{}, post(validBody, delivery("msg_1")), 204, "", false, 2},
				{"signed, again and anew", azuresim.Fault{}, post(validBody, delivery("msg_1")), 204, "", true, 2},
				{
					"signed, again with a preference",
					azuresim.Fault{},
					post(validBody, delivery("msg_1"), representation), 200,
					"unassigned", true, 2,
				},
				{
					"signed, with another body",
					azuresim.Fault{},
					post(unknown, delivery("msg_1")), 422, "idempotency_key_reused",
					false, 2,
				},
				{"by key, with the same id", azuresim.Fault{}, post(validBody, byKey, delivery("msg_1")), 204, "", false, 4},
				{"by key, again in quotes", azuresim.Fault{}, post(validBody, byKey, delivery(`"msg_1"`)), 204, "", true, 4},
				{
					"by key, with another body",
					azuresim.Fault{},
					post(unknown, byKey, delivery("msg_1")), 422,
					"idempotency_key_reused", false, 4,
				},
				{"by key, without an id", azuresim.Fault{}, post(validBody, byKey), 204, "", false, 6},
				{"by key, without an id, again", azuresim.Fault{}, post(validBody, byKey), 204, "", false, 8},
				{
					"not authentic, with the id of another",
					azuresim.Fault{},
					post(validBody, unsigned, delivery("msg_1")), 401,
					"unauthenticated", false, 8,
				},
				{"an unknown device", azuresim.Fault{}, post(unknown, delivery("msg_2")), 404, "device_not_found", false, 9},
				{"an unknown device, again", azuresim.Fault{}, post(unknown, delivery("msg_2")), 404, "device_not_found", true, 9},
				{
					"throttled", azuresim.Status(429, "Retry-After", "60"), post(validBody, delivery("msg_3")), 429,
					"graph_throttled", false, 10,
				},
				{"throttled, again", azuresim.Fault{}, post(validBody, delivery("msg_3")), 204, "", false, 12},
				{
					"no permission", azuresim.GraphError(403, azuresim.Nested, 0), post(validBody, delivery("msg_4")), 424,
					"graph_permission_missing", false, 13,
				},
				{"permission, again", azuresim.Fault{}, post(validBody, delivery("msg_4")), 204, "", false, 15},
				{"permission, a third time", azuresim.Fault{}, post(validBody, delivery("msg_4")), 204, "", true, 15},
			} {
				c.Heal()
				c.Fail(azuresim.StepGraph, 1, test.fail)
				answer, err := d.send(t.Context(), test.request)
				if err != nil {
					t.Fatalf("%s: %v", test.name, err)
				}
				var body struct {
					Code  string
					Error struct{ Code string }
				}
				_ = json.Unmarshal([]byte(answer.body), &body) // of a 204 there is none
				replayed := answer.header.Get("Idempotent-Replayed") == "true"
				if answer.status != test.status || body.Code+body.Error.Code != test.code || replayed != test.replayed ||
					c.Count(azuresim.StepGraph) != test.graph {
					t.Fatalf("%s: %d %s, replayed: %v, Graph was asked %d times\nwant %d %s, %v, %d\n%s", test.name, answer.status,
						answer.body, replayed, c.Count(azuresim.StepGraph),
						test.status, test.code, test.replayed, test.graph, strings.Join(d.lines(), "\n"))
				}
			}
			records := func() int { return strings.Count(strings.Join(d.lines(), "\n"), `"replayed":true`) }
			for start := time.Now(); records() < 5 && time.Since(start) < 5*time.Second; time.Sleep(5 * time.Millisecond) {
				// A record is written behind the answer.
			}
			if got := records(); got != 5 {
				t.Errorf("%d records of repetitions, want 5", got)
			}
		})
	}
}

// TestReplayAfterALostAnswer has the Functions host lose the response to a request: the caller gets it by a retry,
// without another request to Graph.
func TestReplayAfterALostAnswer(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := deploy(t, c, config.Azure, patient).(azureDeployment)
	d.DropNext(1)
	if answer, err := d.send(t.Context(), post(validBody, delivery("msg_1"))); err != nil ||
		answer.status != http.StatusInternalServerError {
		t.Fatalf("%d %s, %v", answer.status, answer.body, err)
	}
	answer, err := d.send(t.Context(), post(validBody, delivery("msg_1")))
	if err != nil || answer.status != http.StatusNoContent || answer.header.Get("Idempotent-Replayed") != "true" ||
		c.Count(azuresim.StepGraph) != 2 {
		t.Errorf("%d %v %s, %v; Graph was asked %d times", answer.status, answer.header, answer.body, err,
			c.Count(azuresim.StepGraph))
	}
}

// TestReplayWithinARefusal has the state that a delivery was refused for change: it stays refused, and another is not.
func TestReplayWithinARefusal(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := deploy(t, c, config.Local, patient, "ALLOWED_GROUP_TAGS=MTR-*")
	expecting := `{"deviceId":"` + someDevice + `","expected":{"userPrincipalName":"room.skog@contoso.com"}}`
	for _, test := range []struct {
		id     string
		device azuresim.Device
		status int
	}{
		{"msg_1", azuresim.Device{GroupTag: "MTR-Oslo", UserPrincipalName: "room.fjord@contoso.com"}, 409},
		{"msg_1", azuresim.Device{GroupTag: "MTR-Oslo", UserPrincipalName: "room.skog@contoso.com"}, 409},
		{"msg_2", azuresim.Device{GroupTag: "Kiosk", UserPrincipalName: "room.skog@contoso.com"}, 403},
		{"msg_2", azuresim.Device{GroupTag: "MTR-Oslo", UserPrincipalName: "room.skog@contoso.com"}, 403},
		{"msg_3", azuresim.Device{GroupTag: "MTR-Oslo", UserPrincipalName: "room.skog@contoso.com"}, 204},
		// the same room again, a newer assignment
		{"msg_3", azuresim.Device{GroupTag: "MTR-Oslo", UserPrincipalName: "room.skog@contoso.com"}, 204},
	} {
		test.device.ID = someDevice
		c.PutDevice(test.device)
		answer, err := d.send(t.Context(), post(expecting, delivery(test.id)))
		if err != nil || answer.status != test.status {
			t.Fatalf("%+v: %d %s, %v", test, answer.status, answer.body, err)
		}
	}
	if device, _ := c.Device(someDevice); device.UserPrincipalName == "" {
		t.Error("a delivery that came again took the account off that was assigned after the first")
	}
}
