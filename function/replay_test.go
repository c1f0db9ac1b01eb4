package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
)

// patient is the setting of a process that is not to fail because this machine is busy.
const patient = "REQUEST_TIMEOUT=20s"

// TestReplay sends deliveries again through all hosts, to one process each: in the order of the rows. Package handler has
// the tests of the results that are kept.
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
				request  sent
				status   int
				replayed bool
				graph    int // requests to Graph in all
			}{
				{"signed", post(validBody, delivery("msg_1")), 204, false, 2},
				{"signed, again and anew", post(validBody, delivery("msg_1")), 204, true, 2},
				{"signed, again with a preference", post(validBody, delivery("msg_1"), representation), 200, true, 2},
				{"signed, with another body", post(unknown, delivery("msg_1")), 422, false, 2},
				{"by key, with the same id", post(validBody, byKey, delivery("msg_1")), 204, false, 4},
				{"by key, again in quotes", post(validBody, byKey, delivery(`"msg_1"`)), 204, true, 4},
				{"by key, with another body", post(unknown, byKey, delivery("msg_1")), 422, false, 4},
				{"by key, without an id", post(validBody, byKey), 204, false, 6},
				{"by key, without an id, again", post(validBody, byKey), 204, false, 8},
				{"not authentic, with the id of another", post(validBody, unsigned, delivery("msg_1")), 401, false, 8},
				{"an unknown device", post(unknown, delivery("msg_2")), 404, false, 9},
				{"an unknown device, again", post(unknown, delivery("msg_2")), 404, true, 9},
			} {
				answer, err := d.send(t.Context(), test.request)
				if err != nil {
					t.Fatalf("%s: %v", test.name, err)
				}
				replayed := answer.header.Get("Idempotent-Replayed") == "true"
				if answer.status != test.status || replayed != test.replayed || c.Count(azuresim.StepGraph) != test.graph {
					t.Fatalf("%s: %d %s, replayed: %v, Graph was asked %d times\nwant %d, %v, %d\n%s", test.name, answer.status,
						answer.body, replayed, c.Count(azuresim.StepGraph),
						test.status, test.replayed, test.graph, strings.Join(d.lines(), "\n"))
				}
			}
			records := func() int { return strings.Count(strings.Join(d.lines(), "\n"), `"replayed":true`) }
			for start := time.Now(); records() < 4 && time.Since(start) < 5*time.Second; time.Sleep(5 * time.Millisecond) {
				// A record is written behind the answer.
			}
			if got := records(); got != 4 {
				t.Errorf("%d records of repetitions, want 4", got)
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
