package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/hosttest/functions"
	"autopilot-unassign/internal/hosttest/queue"
	"autopilot-unassign/internal/upstream"
)

// fixture returns a file of testdata/events. docs/schedules.md shows them as they are.
func fixture(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "events", name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// sentNow returns a fixture of a message with the present time: one as old as the page would be refused.
func sentNow(text string) string {
	now := time.Now()
	return strings.NewReplacer(
		`"InsertionTime": "2026-11-23T02:00:00+00:00"`, `"InsertionTime": "`+now.Format(time.RFC3339)+`"`,
		`"SentTimestamp": "1795399200000"`, fmt.Sprintf(`"SentTimestamp": "%d"`, now.UnixMilli()),
	).Replace(text)
}

// The page shows every fixture as it is, once, and no other payload.
func TestSchedulesPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/schedules.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]int{}
	for i, part := range strings.Split(string(text), "```") {
		if block, ok := strings.CutPrefix(part, "json\n"); ok && i%2 == 1 {
			shown[block]++
		}
	}
	files, err := os.ReadDir("testdata/events")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if n := shown[fixture(t, file.Name())]; n != 1 {
			t.Errorf("the page has %s %d times", file.Name(), n)
		}
		delete(shown, fixture(t, file.Name()))
	}
	for block := range shown {
		t.Errorf("the page has what is no fixture: %s", block)
	}
	var record map[string]any
	if err := json.Unmarshal([]byte(fixture(t, "sweep-record.json")), &record); err != nil {
		t.Fatal(err)
	}
	for name := range record {
		if name != "timestamp" && name != "message" && name != "group_tag" && !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("the page does not say what %s is", name)
		}
	}
}

// payload is an invocation by the Functions host.
type payload struct {
	Data, Metadata map[string]any
}

func decodePayload(tb testing.TB, text string) payload {
	tb.Helper()
	var p payload
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		tb.Fatal(err)
	}
	return p
}

// logged has a log.
type logged interface{ lines() []string }

// records returns the records of the log with a message, once there are n of them.
func records(t *testing.T, d logged, message string, n int) []map[string]any {
	t.Helper()
	return recordsWhere(t, d, "message", message, n)
}

// recordsWhere returns the records of the log with a member, once there are n of them.
func recordsWhere(t *testing.T, d logged, name, value string, n int) []map[string]any {
	t.Helper()
	for start := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		var found []map[string]any
		for _, line := range d.lines() {
			var record map[string]any
			if json.Unmarshal([]byte(line), &record) == nil && record[name] == value {
				found = append(found, record)
			}
		}
		if len(found) >= n {
			if len(found) > n {
				t.Errorf("%d records with %s %q, want %d: %v", len(found), name, value, n, found)
			}
			return found
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("%d records with %s %q, want %d:\n%s", len(found), name, value, n, strings.Join(d.lines(), "\n"))
		}
	}
}

// check compares members of a record, as fmt prints them, with their wanted values.
func check(t *testing.T, what string, record map[string]any, want map[string]string) {
	t.Helper()
	for name, value := range want {
		got := ""
		if record[name] != nil {
			got = fmt.Sprint(record[name])
		}
		if got != value {
			t.Errorf("%s: %s is %q, want %q, in %v", what, name, got, value, record)
		}
	}
}

// secondDevice puts a device beside the one that there is, and a third with another tag.
func secondDevice(c *azuresim.Cloud) {
	put("5CG5678DEF", "room.skog@contoso.com")(c)
	c.PutDevice(azuresim.Device{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a03", SerialNumber: "5CG9999XYZ", GroupTag: "Kiosk", UserPrincipalName: "kiosk@contoso.com"})
}

// carrying returns how many devices have an account.
func carrying(c *azuresim.Cloud) int {
	n := 0
	for _, d := range c.Devices() {
		if d.UserPrincipalName != "" {
			n++
		}
	}
	return n
}

// writes returns how many requests of Graph were not only to read.
func writes(c *azuresim.Cloud) int {
	n := 0
	for _, r := range c.Requests(azuresim.StepGraph) {
		if r.Method != http.MethodGet {
			n++
		}
	}
	return n
}

// eventsOnAzure is the package for Azure with the sweep and the queue, dist/azure-events.zip of `make package-azure`, but
// that a retry does not wait.
func eventsOnAzure(t *testing.T, c *azuresim.Cloud, o functions.Options, changes ...string) azureDeployment {
	t.Helper()
	return eventsOnAzureWith(t, c, o, func(string) {}, changes...)
}

// eventsOnAzureWith is eventsOnAzure with a change of the package.
func eventsOnAzureWith(t *testing.T, c *azuresim.Cloud, o functions.Options, change func(dir string), changes ...string) azureDeployment {
	t.Helper()
	served := c.Serve()
	t.Cleanup(served.Close)
	o.AppDir = stageAzure(t, "sweep", "queue")
	path := filepath.Join(o.AppDir, "sweep", "function.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	quick := bytes.Replace(text, []byte(`"00:00:30"`), []byte(`"00:00:00.020"`), 1)
	if bytes.Equal(text, quick) {
		t.Fatalf("%s has no delay of 30 seconds", path)
	}
	if err := os.WriteFile(path, quick, 0o600); err != nil {
		t.Fatal(err)
	}
	o.Env = environment(t, c, served, append([]string{"SWEEP_GROUP_TAG=MTR-Oslo", "REQUEST_TIMEOUT=20s"}, changes...)...)
	change(o.AppDir)
	host, err := functions.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Stop)
	d := azureDeployment{host}
	t.Cleanup(func() {
		if found := leaks(canaries(c, served), strings.Join(d.lines(), "\n")); len(found) > 0 {
			t.Errorf("the log has %q:\n%s", found, strings.Join(d.lines(), "\n"))
		}
	})
	return d
}

// worker returns the address that the worker listens on, which the host alone knows.
func worker(t *testing.T, d azureDeployment) string {
	t.Helper()
	return fmt.Sprint(records(t, d, "listening", 1)[0]["address"])
}

// said sends a request that is written as text and returns the response.
func said(t *testing.T, address, text string) (int, http.Header, string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	go func() { _, _ = io.WriteString(conn, text) }() // which a server need not read to its end
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", text, err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header, string(body)
}

// invocationText is the request of an invocation, as the host writes it.
func invocationText(path, address, body string) string {
	chunk := ""
	if body != "" {
		chunk = fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
	}
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json; charset=utf-8\r\nX-Azure-Functions-InvocationId: invocation-1\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n", path, address, chunk)
}

// Every form in which the host sends a timer ends as a success that looks and changes nothing, until SWEEP_APPLY is set.
func TestTimer(t *testing.T) {
	t.Parallel()
	for _, sized := range []bool{false, true} {
		c := newCloud()
		secondDevice(c)
		d := eventsOnAzure(t, c, functions.Options{CoreTools: sized})
		n := 0
		for name, timer := range map[string]string{
			"as the page shows it":         "",
			"no status":                    `{"Schedule":{"AdjustForDST":true},"ScheduleStatus":null,"IsPastDue":false}`,
			"past due":                     `{"ScheduleStatus":null,"IsPastDue":true}`,
			"before the first run":         `{"ScheduleStatus":{"Last":"0001-01-01T00:00:00","Next":"2026-11-23T02:00:00","LastUpdated":"0001-01-01T00:00:00"},"IsPastDue":false}`,
			"before it, with an offset":    `{"ScheduleStatus":{"Last":"0001-01-01T00:00:00+00:00","Next":"2026-11-23T02:00:00Z","LastUpdated":"0001-01-01T00:00:00+00:00"},"IsPastDue":false}`,
			"members that nobody knows":    `{"IsPastDue":false,"Unknown":{"a":[1,null]},"Schedule":null}`,
			"run by hand from the portal":  `{"Schedule":{"AdjustForDST":true},"ScheduleStatus":{"Last":"0001-01-01T00:00:00","Next":"0001-01-01T00:00:00","LastUpdated":"0001-01-01T00:00:00"},"IsPastDue":false}`,
			"nothing but that there is it": `{}`,
		} {
			p := decodePayload(t, fixture(t, "azure-timer.json"))
			if timer != "" {
				p.Data = decodePayload(t, `{"Data":{"timer":`+timer+`}}`).Data
			}
			p.Metadata["unknown"] = []any{1, "2"}
			result, err := d.InvokeWith(t.Context(), "sweep", p.Data, p.Metadata)
			if err != nil || result.Attempts != 1 || len(result.Outputs) != 0 {
				t.Errorf("%s: %+v, %v", name, result, err)
				continue
			}
			n++
			record := records(t, d, "sweep", n)[n-1]
			past := ""
			if name == "past due" {
				past = "map[isPastDue:true]"
			}
			check(t, name, record, map[string]string{
				"level": "INFO", "host": "azure", "invocation_id": d.InvocationID(), "caller_kind": "event", "caller_id": "timer", "code": "swept",
				"group_tag": "MTR-Oslo", "dry_run": "true", "inventory": "3", "tagged": "2", "matching": "2", "succeeded": "2", "handed_back": "0", "context": past,
			})
		}
		for _, record := range records(t, d, "unassign", 2*n) {
			check(t, "a device", record, map[string]string{"code": "would_unassign", "dry_run": "true", "outcome": "not_done", "caller_id": "timer", "group_tag": "MTR-Oslo"})
		}
		if carrying(c) != 3 || writes(c) != 0 {
			t.Errorf("%d devices carry an account; %d requests could have changed something", carrying(c), writes(c))
		}
	}
}

func TestTimerApplies(t *testing.T) {
	t.Parallel()
	c := newCloud()
	secondDevice(c)
	d := eventsOnAzure(t, c, functions.Options{}, "SWEEP_APPLY=true")
	for run, want := range []map[string]string{{"matching": "2", "succeeded": "2"}, {"matching": "0", "succeeded": "0"}} {
		if result, err := d.InvokeWith(t.Context(), "sweep", decodePayload(t, fixture(t, "azure-timer.json")).Data, nil); err != nil || result.Attempts != 1 {
			t.Fatalf("%+v, %v", result, err)
		}
		maps.Copy(want, map[string]string{"code": "swept", "dry_run": "false", "failed": "0", "level": "INFO"})
		check(t, fmt.Sprint("run ", run), records(t, d, "sweep", run+1)[run], want)
	}
	seen := map[string]bool{}
	for _, record := range records(t, d, "unassign", 2) {
		check(t, "a device", record, map[string]string{"code": "unassigned", "outcome": "done", "status": "200", "host": "azure", "caller_kind": "event", "caller_id": "timer", "dry_run": "false"})
		seen[fmt.Sprint(record["device_id"])] = record["graph_request_id"] != nil
	}
	if !seen[someDevice] || !seen[otherDevice] || carrying(c) != 1 {
		t.Errorf("the records are of %v, %d devices carry an account", seen, carrying(c))
	}
}

// A transient failure fails the invocation, and the host retries it. A permanent failure does not.
func TestTimerFails(t *testing.T) {
	t.Parallel()
	later := azuresim.Status(503, "Retry-After", "3600") // too long to wait for inside the invocation
	for name, test := range map[string]struct {
		prepare  func(*azuresim.Cloud)
		env      []string
		attempts int
		fails    bool
		codes    string // of the records, with their levels
	}{
		"Graph is not there, once": {func(c *azuresim.Cloud) { c.Fail(azuresim.StepGraph, 1, later) }, nil, 2, false, "graph_unavailable ERROR, swept INFO"},
		"the second page fails": {func(c *azuresim.Cloud) {
			for i := range 1001 {
				c.PutDevice(azuresim.Device{ID: fmt.Sprintf("6f1a9c0e-5b1d-4c55-9d3a-%012d", i), SerialNumber: fmt.Sprintf("A%05d", i), GroupTag: "Kiosk"})
			}
			c.Fail(azuresim.StepGraph, 1, azuresim.Delay(0))
			c.Fail(azuresim.StepGraph, 1, later)
		}, nil, 2, false, "graph_unavailable ERROR, swept INFO"},
		"a device is not done": {func(c *azuresim.Cloud) {
			c.Fail(azuresim.StepGraph, 1, azuresim.Delay(0))
			c.Fail(azuresim.StepGraph, 1, later)
		}, nil, 2, false, "sweep_incomplete WARN, swept INFO"},
		"Graph is not there": {func(c *azuresim.Cloud) { c.Fail(azuresim.StepGraph, -1, later) }, nil, 3, true, "graph_unavailable ERROR, graph_unavailable ERROR, graph_unavailable ERROR"},
		"no permission":      {func(c *azuresim.Cloud) { c.SetGraphRoles("Device.Read.All") }, nil, 1, false, "graph_permission_missing ERROR"},
		"too many devices":   {secondDevice, []string{"SWEEP_MAX_DEVICES=1"}, 1, false, "sweep_too_many ERROR"},
		"a small inventory":  {nil, []string{"SWEEP_MIN_INVENTORY=2"}, 1, false, "sweep_inventory_small ERROR"},
		"no group tag":       {nil, []string{"SWEEP_GROUP_TAG=", "SWEEP_APPLY=false"}, 1, false, "sweep_tag_missing ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			if test.prepare != nil {
				test.prepare(c)
			}
			d := eventsOnAzure(t, c, functions.Options{}, append([]string{"SWEEP_APPLY=true"}, test.env...)...)
			result, err := d.InvokeWith(t.Context(), "sweep", decodePayload(t, fixture(t, "azure-timer.json")).Data, nil)
			if (err != nil) != test.fails || result.Attempts != test.attempts {
				t.Fatalf("%d attempts, %v; want %d", result.Attempts, err, test.attempts)
			}
			var codes []string
			ids := map[any]bool{}
			for _, record := range records(t, d, "sweep", test.attempts) {
				codes = append(codes, fmt.Sprint(record["code"], " ", record["level"]))
				ids[record["invocation_id"]] = true
			}
			slices.Sort(codes) // the levels arrive by two streams
			if got := strings.Join(codes, ", "); got != test.codes || len(ids) != 1 {
				t.Errorf("%s with %d invocation ids; want %s with one", got, len(ids), test.codes)
			}
			if swept := strings.HasSuffix(test.codes, "swept INFO"); swept != (carrying(c) == 0) {
				t.Errorf("%d devices carry an account", carrying(c))
			}
		})
	}
}

// The worker fails every malformed invocation at once: the host waits until its timeout for a success without a body.
func TestInvocationsThatAreNone(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnAzure(t, c, functions.Options{}, "SWEEP_APPLY=true")
	address := worker(t, d)
	n := 0
	for name, test := range map[string]struct{ path, body, reason string }{
		"nothing":                        {"/sweep", ``, "the invocation is not valid JSON"},
		"half of it":                     {"/sweep", fixture(t, "azure-timer.json")[:100], "the invocation is not valid JSON"},
		"null":                           {"/sweep", `null`, "the invocation has no timer"},
		"a list":                         {"/sweep", `[]`, "the invocation is not valid JSON"},
		"no data":                        {"/sweep", `{"Data":null,"Metadata":{}}`, "the invocation has no timer"},
		"another trigger":                {"/sweep", `{"Data":{"message":"\"{}\""}}`, "the invocation has no timer"},
		"a timer that is a text":         {"/sweep", `{"Data":{"timer":"now"}}`, "the invocation is not valid JSON"},
		"IsPastDue that is a text":       {"/sweep", `{"Data":{"timer":{"IsPastDue":"False"}}}`, "the invocation is not valid JSON"},
		"more than 1 MiB":                {"/sweep", `{"Data":{"timer":{"x":"` + strings.Repeat("x", 1<<20) + `"}}}`, "the invocation is larger than 1 MiB"},
		"no message":                     {"/queue", `{"Data":{"timer":{}}}`, "the invocation has no message"},
		"a message that is null":         {"/queue", `{"Data":{"message":null}}`, "the invocation has no message"},
		"a message of more than it may":  {"/queue", `{"Data":{"message":"` + strings.Repeat("x", 1<<20) + `"}}`, "the invocation is larger than 1 MiB"},
		"a queue's, at the timer's path": {"/sweep", fixture(t, "azure-queue.json"), "the invocation has no timer"},
	} {
		status, _, body := said(t, address, invocationText(test.path, address, test.body))
		if status != http.StatusBadRequest || body != "" {
			t.Errorf("%s: %d %q", name, status, body)
			continue
		}
		n++
		check(t, name, records(t, d, "event refused", n)[n-1], map[string]string{"level": "ERROR", "host": "azure", "invocation_id": "invocation-1", "reason": test.reason})
	}
	// The same path accepts the invocations of the host.
	retried := strings.Replace(fixture(t, "azure-timer.json"), `"Exception": null`, `"Exception": {"ClassName": "System.Net.Http.HttpRequestException", "Message": "503", "StackTraceString": "at …", "Data": {"a": [1]}, "HResult": -2146233088}`, 1)
	for name, test := range map[string]struct{ path, body string }{
		"a timer":                        {"/sweep", fixture(t, "azure-timer.json")},
		"a timer that has failed before": {"/sweep", retried},
		"a message":                      {"/queue", strings.ReplaceAll(fixture(t, "azure-queue.json"), "2026-11-23", time.Now().UTC().Format(time.DateOnly))},
	} {
		status, header, body := said(t, address, invocationText(test.path, address, test.body))
		if status != http.StatusOK || header.Get("Content-Type") != "application/json" || body != fixture(t, "azure-reply.json") {
			t.Errorf("%s: %d %v %q", name, status, header, body)
		}
	}
	if carrying(c) != 0 {
		t.Errorf("%d devices carry an account", carrying(c))
	}
}

// delivered is how the host hands over a message: as JSON of the text, in a string of JSON.
func delivered(t *testing.T, text string) string {
	t.Helper()
	inner, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(inner)
}

// deliver hands the message of the page over with another id and other data, for the nth time.
func deliver(t *testing.T, d azureDeployment, id string, message any, dequeued int) (functions.Result, error) {
	t.Helper()
	p := decodePayload(t, sentNow(fixture(t, "azure-queue.json")))
	p.Metadata["Id"] = id
	p.Metadata["DequeueCount"] = fmt.Sprint(dequeued)
	if message != nil {
		p.Data["message"] = message
	}
	return d.InvokeWith(t.Context(), "queue", p.Data, p.Metadata)
}

const (
	messageID      = "800ae4b3-bdd2-4c08-badd-f08e5a34b865"
	messageContext = "map[dequeueCount:%d messageId:%s%s]"
)

func TestStorageQueue(t *testing.T) {
	t.Parallel()
	text := strings.TrimSpace(fixture(t, "message.json"))
	if page := decodePayload(t, sentNow(fixture(t, "azure-queue.json"))).Data["message"]; page != delivered(t, text) {
		t.Fatalf("the page has the message %q, want that of message.json", page)
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	for i, message := range []any{nil, object, text} {
		c := newCloud()
		d := eventsOnAzure(t, c, functions.Options{}) // each its own, which has not had the message before
		c.PutDevice(azuresim.Device{ID: someDevice, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo", UserPrincipalName: "room.fjord@contoso.com"})
		result, err := deliver(t, d, messageID, message, 1)
		if err != nil || len(result.Outputs) != 0 || carrying(c) != 0 {
			t.Errorf("form %d: %+v, %v; %d devices carry an account", i, result, err, carrying(c))
		}
		check(t, fmt.Sprint("form ", i), records(t, d, "unassign", 1)[0], map[string]string{
			"level": "INFO", "host": "azure", "invocation_id": d.InvocationID(), "caller_kind": "event", "caller_id": "storage_queue", "code": "unassigned", "outcome": "done",
			"device_id": someDevice, "serial_number": "5CG1234ABC", "group_tag": "MTR-Oslo", "reference": "RITM0012345", "context": fmt.Sprintf(messageContext, 1, messageID, " room:Fjord"),
		})
	}
}

// A permanent failure sends the message to the poison queue: as it came if it is malformed, else with its devices and the
// code. The host counts no failure.
func TestPoison(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnAzure(t, c, functions.Options{}, "ALLOWED_GROUP_TAGS=MTR-Oslo")
	secondDevice(c)
	events, devices := 0, 0
	for name, test := range map[string]struct{ message, code string }{
		"no JSON":                          {"5CG1234ABC", "invalid_json"},
		"base64 by chance":                 {"abcd", "invalid_json"},
		"a number, and base64":             {"12345678", "invalid_json"},
		"base64 of no object":              {"WyI1Q0cxMjM0QUJDIl0=", "invalid_json"},
		"a sender's own base64":            {"eyJzZXJpYWwiOiI1Q0cxMjM0QUJDIn0=", "unknown_field"}, // the poison is the message as it came
		"a list of JSON":                   {`["abcd","efgh"]`, "invalid_json"},
		"a text of JSON":                   {`"abcd"`, "invalid_json"},
		"line breaks, quotes and the rest": {"{\r\n\t\"x\": \"\\\"é\\u202e\",\n\"<&>\":\u2028\U0001f600}", "invalid_json"},
		"nothing":                          {"", "body_missing"},
		"white space":                      {" \n", "body_missing"},
		"a command":                        {`{"command":"sweep"}`, "unknown_field"},
		"no id":                            {`{"deviceId":"5CG1234ABC"}`, "device_id_invalid"},
		"an unknown device":                {`{"deviceId":"` + unknownDevice + `"}`, "device_not_found"},
		"another tag":                      {`{"serialNumber":"5CG9999XYZ"}`, "policy_denied"},
	} {
		id := guid.New().String()
		result, err := deliver(t, d, id, delivered(t, test.message), 3)
		poison, ok := result.Outputs["poison"].([]byte)
		if test.code == "device_not_found" || test.code == "policy_denied" {
			devices, rest, _ := strings.Cut(string(poison), `,"queue":{`)
			ok = ok && devices == `{"devices":[`+test.message+`]` && strings.HasSuffix(rest, `"tries":3,"code":"`+test.code+`"}}`)
		} else {
			ok = ok && string(poison) == test.message
		}
		if err != nil || !ok || len(result.Outputs) != 1 {
			t.Errorf("%s: %+v, %v; want the poison %q", name, result, err, test.message)
			continue
		}
		want := map[string]string{
			"level": "ERROR", "host": "azure", "invocation_id": d.InvocationID(), "caller_kind": "event", "caller_id": "storage_queue", "code": test.code,
			"context": fmt.Sprintf(messageContext, 3, id, ""),
		}
		if test.code == "device_not_found" || test.code == "policy_denied" {
			devices++
			check(t, name, records(t, d, "unassign", devices)[devices-1], want)
		} else {
			events++
			check(t, name, records(t, d, "event", events)[events-1], want)
		}
	}
	if writes(c) != 0 || carrying(c) != 3 {
		t.Errorf("%d writes, %d devices carry an account", writes(c), carrying(c))
	}
	address := worker(t, d)
	body := `{"Data":{"message":"\"{\\\"deviceId\\\":\\\"5CG1234ABC\\\"}\""}}`
	if _, _, reply := said(t, address, invocationText("/queue", address, body)); reply != fixture(t, "azure-reply-poison.json") {
		t.Errorf("%s, want that of the page", reply)
	}
}

// A message with a transient failure stays in the queue, and is done by its next delivery.
func TestStorageQueueIsAskedAgain(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnAzure(t, c, functions.Options{})
	c.Fail(azuresim.StepGraph, 1, azuresim.Status(503, "Retry-After", "3600"))
	message := delivered(t, `{"deviceId":"`+someDevice+`"}`)
	if result, err := deliver(t, d, messageID, message, 1); err == nil || len(result.Outputs) > 0 {
		t.Fatalf("%+v, %v; want a failure", result, err)
	}
	if result, err := deliver(t, d, messageID, message, 2); err != nil || len(result.Outputs) > 0 || carrying(c) != 0 {
		t.Errorf("%+v, %v; %d devices carry an account", result, err, carrying(c))
	}
	var codes []string
	for _, record := range records(t, d, "unassign", 2) {
		context, _ := record["context"].(map[string]any)
		codes = append(codes, fmt.Sprint(record["code"], " ", context["dequeueCount"]))
	}
	slices.Sort(codes) // the levels arrive by two streams
	if got := strings.Join(codes, ", "); got != "graph_unavailable 1, unassigned 2" {
		t.Error(got)
	}
}

// A sender's members of a message are in the metadata, and reach the log as neither id nor count.
func TestMetadataIsNotTrusted(t *testing.T) {
	t.Parallel()
	d := eventsOnAzure(t, newCloud(), functions.Options{})
	for i, test := range []struct {
		id, count any
		want      string
	}{
		{"800ae4b3", "1", "map[dequeueCount:1 messageId:800ae4b3]"},
		{"800ae4b3", 2, "map[dequeueCount:2 messageId:800ae4b3]"},
		{"x\"}\n{\u202e", map[string]any{"a": 1}, ""},
		{[]any{"a"}, strings.Repeat("1", 65), ""},
		{nil, nil, ""},
	} {
		p := decodePayload(t, sentNow(fixture(t, "azure-queue.json")))
		p.Data["message"] = `"x"`
		p.Metadata["Id"], p.Metadata["DequeueCount"] = test.id, test.count
		if result, err := d.InvokeWith(t.Context(), "queue", p.Data, p.Metadata); err != nil || result.Outputs["poison"] == nil {
			t.Errorf("%v: %+v, %v", test.id, result, err)
		}
		check(t, fmt.Sprint(test.id), records(t, d, "event", i+1)[i], map[string]string{"code": "invalid_json", "context": test.want})
	}
}

// A number of deliveries that no queue counts must not make a message immortal, or its rest unreadable.
func TestDeliveriesOfAMessage(t *testing.T) {
	t.Parallel()
	for count, want := range map[string]int{"": 1, "x": 1, "-7": 1, "0": 1, "3": 3, "9223372036854775807": math.MaxUint16} {
		if got := newMessage(nil, "", "dequeueCount", count).Deliveries; got != want {
			t.Errorf("%q: %d deliveries, want %d", count, got, want)
		}
	}
}

// A host that closes the connection does not stop a running sweep.
func TestHostThatGoesAway(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnAzure(t, c, functions.Options{}, "SWEEP_APPLY=true")
	address := worker(t, d)
	c.Fail(azuresim.StepGraph, 1, azuresim.Delay(300*time.Millisecond))
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, invocationText("/sweep", address, fixture(t, "azure-timer.json"))); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); c.Count(azuresim.StepGraph) == 0 && time.Since(start) < 5*time.Second; {
		time.Sleep(time.Millisecond)
	}
	_ = conn.Close()
	check(t, "the sweep", records(t, d, "sweep", 1)[0], map[string]string{"code": "swept", "succeeded": "1"})
}

// A caller can write any path, any Host and any header, and cause no event: by the routes, and by the check of the worker, which a
// route that takes every path puts to the test on hosts of every kind.
func TestForgedInvocations(t *testing.T) {
	t.Parallel()
	for name, mode := range functions.Modes() {
		for _, catchAll := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, catch-all %v", name, catchAll), func(t *testing.T) {
				t.Parallel()
				forgeInvocations(t, mode, catchAll)
			})
		}
	}
	t.Run("marks", func(t *testing.T) {
		t.Parallel()
		forgeMarks(t)
	})
}

// smuggleInvocation sends an invocation as the body of a request that the worker has already responded to: it must not
// pass for the host's next request on that connection.
func smuggleInvocation(t *testing.T, door, invocation string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", door)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "POST /api/health HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(invocation))
	time.Sleep(2 * drainTimeout)
	_, _ = io.WriteString(conn, invocation)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode/100 == 2 {
		t.Errorf("%v, %v", resp, err)
	}
	time.Sleep(drainTimeout) // for the event, if it is one
}

// forgeMarks sends the worker invocations with a single mark of a caller's request.
func forgeMarks(t *testing.T) {
	t.Helper()
	c := newCloud()
	d := eventsOnAzure(t, c, functions.Options{})
	address := worker(t, d)
	text := strings.ReplaceAll(fixture(t, "azure-queue.json"), "2026-11-23", time.Now().UTC().Format(time.DateOnly))
	invocation := invocationText("/queue", address, text)
	head, _, _ := strings.Cut(invocation, "\r\n\r\n")
	marked := map[string]string{
		"another Host":   strings.Replace(invocation, address, "contoso.azurewebsites.net", 1),
		"a length":       strings.Replace(head, "Transfer-Encoding: chunked", fmt.Sprintf("Content-Length: %d", len(text)), 1) + "\r\n\r\n" + text,
		"another method": strings.Replace(invocation, "POST", "PUT", 1),
	}
	for _, name := range proxyHeaders {
		marked[name] = strings.Replace(invocation, "Transfer-Encoding", name+": x\r\nTransfer-Encoding", 1)
	}
	for name, request := range marked {
		if status, _, response := said(t, address, request); status != http.StatusNotFound || !strings.Contains(response, `"route_not_found"`) {
			t.Errorf("%s: %d %s", name, status, response)
		}
	}
	if carrying(c) != 1 {
		t.Error("an account was removed")
	}
	if status, _, response := said(t, address, invocation); status != http.StatusOK || carrying(c) != 0 {
		t.Errorf("without a mark: %d %s", status, response)
	}
}

func forgeInvocations(t *testing.T, mode functions.Mode, catchAll bool) {
	t.Helper()
	const spoofed = "X-Azure-Functions-InvocationId: 00000000-0000-4000-8000-000000000000\r\nX-Azure-Functions-HostVersion: 4.1052.200.0\r\n" +
		"User-Agent: Azure-Functions-Host/4.1052.200.0\r\nX-Original-Url: /sweep\r\nContent-Type: application/json; charset=utf-8\r\n"
	c := newCloud()
	d := eventsOnAzureWith(t, c, functions.Options{Mode: mode}, func(dir string) {
		if catchAll {
			path := filepath.Join(dir, "root", "function.json")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, bytes.Replace(text, []byte(`"/"`), []byte(`"{*path}"`), 1), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}, "SWEEP_APPLY=true")
	address := worker(t, d)
	door := strings.TrimPrefix(d.URL, "http://")
	body := decodePayload(t, sentNow(fixture(t, "azure-queue.json")))
	body.Data["timer"] = map[string]any{"IsPastDue": false}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	for _, chunked := range []bool{false, true} {
		for _, host := range []string{door, address} {
			for _, target := range []string{
				"/sweep", "/queue", "/Sweep", "//sweep", "/sweep/", "/./queue", "/%71ueue", "/queue;x", "/queue%2f", "/sweep?x=/api/unassign", "/api/sweep",
				"/api/../sweep", "/api/unassign/../../queue", "/api/%2e%2e/sweep", "/api/unassign%2f..%2f..%2fsweep", `/api\..\sweep`,
				"http://" + address + "/sweep", "http://" + address + "/api/../queue",
			} {
				request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n%s", target, host, spoofed)
				if chunked {
					request += fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(text), text)
				} else {
					request += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(text), text)
				}
				status, _, response := said(t, door, request)
				ours := strings.Contains(response, `"route_not_found"`)
				refused := status == http.StatusInternalServerError && chunked && mode == functions.Forwarding // by the host
				if status != http.StatusNotFound && !refused || ours && !catchAll {
					t.Errorf("%s of %s, chunked %v: %d %s", target, host, chunked, status, response)
				}
			}
		}
	}
	smuggleInvocation(t, door, invocationText("/queue", address, string(text)))
	for _, message := range []string{"sweep", "unassign", "event", "event refused"} {
		records(t, d, message, 0)
	}
	if c.Count(azuresim.StepGraph) != 0 || carrying(c) != 1 {
		t.Errorf("Graph was asked %d times", c.Count(azuresim.StepGraph))
	}
	// The host itself gets in.
	if _, err := d.Deliver(t.Context(), "queue", functions.Message{ID: messageID, Body: validBody, Sent: time.Now(), Receives: 1}); err != nil || carrying(c) != 0 {
		t.Errorf("%v; %d devices carry an account", err, carrying(c))
	}
}

// No address of either cloud responds with a success that is not the function's (B10).
func TestRootOfTheHost(t *testing.T) {
	t.Parallel()
	for name, mode := range functions.Modes() {
		for _, homepage := range []string{"AzureWebJobsDisableHomepage=false", "AzureWebJobsDisableHomepage=true"} {
			c := newCloud()
			d := eventsOnAzure(t, c, functions.Options{Mode: mode}, homepage)
			for _, target := range []string{"/", "/api", "/api/", "//", "/api//unassign", "/nowhere", "/admin/functions/sweep", "/?x=1"} {
				for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodOptions} {
					answer, err := d.send(t.Context(), post(validBody, func(s *sent) { s.Method, s.Target = method, target }))
					if err != nil || answer.status/100 != 4 || strings.HasPrefix(target, "/?") && answer.header.Get("X-Request-Id") == "" {
						t.Errorf("%s, %s: %s %s: %d %s, %v", name, homepage, method, target, answer.status, answer.body, err)
					}
				}
			}
			if carrying(c) != 1 {
				t.Error("an account was taken off")
			}
		}
	}
}

// Paths are served in any case and with a slash at the end, as the hosts match their routes (H8).
func TestPathsInAnyForm(t *testing.T) {
	t.Parallel()
	for host := range hosts {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			c := newCloud()
			d := deploy(t, c, host)
			for target, want := range map[string]int{
				"/API/Unassign": 204, "/api/UNASSIGN": 204, "/api/unassign/": 204, "/api/unassign//": 404, "/api/unassign/x": 404, "/api/Health/": 405,
			} {
				answer, err := d.send(t.Context(), post(validBody, func(s *sent) { s.Target = target }))
				if err != nil || answer.status != want {
					t.Errorf("%s: %d %s, %v; want %d", target, answer.status, answer.body, err, want)
				}
			}
		})
	}
}

// A body that is far too large is refused with 413, in well under a second, on hosts of every kind (B3).
func TestLargeBody(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 2<<20)
	for name, mode := range functions.Modes() {
		d := eventsOnAzure(t, newCloud(), functions.Options{Mode: mode})
		for what, request := range map[string]struct {
			sent   sent
			status int
		}{
			"no evidence":      {post(large, unsigned), http.StatusUnauthorized},
			"signed":           {post(large), http.StatusRequestEntityTooLarge},
			"another type":     {post(large, header("Content-Type", "text/plain")), http.StatusUnsupportedMediaType},
			"another method":   {post(large, func(s *sent) { s.Method = http.MethodPut }), http.StatusMethodNotAllowed},
			"no such route":    {post(large, func(s *sent) { s.Target = "/" }), http.StatusNotFound},
			"health, by a PUT": {post(large, func(s *sent) { s.Method, s.Target = http.MethodPut, "/api/health" }), http.StatusMethodNotAllowed},
		} {
			begun := time.Now()
			answer, err := d.send(t.Context(), request.sent)
			if err != nil || answer.status != request.status || !strings.Contains(answer.body, `"error":{"code":"`) || time.Since(begun) > time.Second {
				t.Errorf("%s, %s: %d %.100s, %v after %v; want %d", name, what, answer.status, answer.body, err, time.Since(begun), request.status)
			}
		}
	}
}

// A queue behind the double of the host: dequeue counts, retries and the poison queue.
func TestStorageQueueWithRetries(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnAzure(t, c, functions.Options{})
	c.Fail(azuresim.StepGraph, 1, azuresim.Status(503, "Retry-After", "3600"))
	var q *queue.Storage
	q = queue.NewStorage(queue.StorageOptions{VisibilityTimeout: 50 * time.Millisecond, MaxPollingInterval: 20 * time.Millisecond, Start: func() queue.Worker {
		return func(ctx context.Context, batch []queue.Message) ([]string, error) {
			result, err := d.Deliver(ctx, "queue", functions.Message{ID: batch[0].ID, Body: batch[0].Body, Sent: batch[0].Sent, Receives: batch[0].Receives})
			if poison, ok := result.Outputs["poison"].([]byte); ok {
				q.DeadLetter(string(poison))
			}
			return nil, err
		}
	}})
	q.Send(validBody, "no JSON", base64.StdEncoding.EncodeToString([]byte(validBody)))
	q.Run(t.Context())
	stats := q.Stats()
	if stats.Done != 3 || len(stats.Dead) != 1 || stats.Dead[0].Body != "no JSON" || stats.Deliveries != 4 || carrying(c) != 0 {
		t.Errorf("%+v; %d devices carry an account", stats, carrying(c))
	}
}

// On this machine nothing invokes, and the paths are nothing.
func TestLocalHostTakesNoInvocations(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := deploy(t, c, config.Local, "SWEEP_GROUP_TAG=MTR-Oslo", "SWEEP_APPLY=true").(*localDeployment)
	address := strings.TrimPrefix(d.url, "http://")
	for _, path := range []string{"/sweep", "/queue"} {
		status, _, answer := said(t, address, invocationText(path, address, fixture(t, "azure-timer.json")))
		if status != http.StatusNotFound || !strings.Contains(answer, `"route_not_found"`) {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	if n := c.Count(azuresim.StepGraph); n != 0 {
		t.Errorf("Graph was asked %d times", n)
	}
}

// oneDevice is Graph with a single device, for fuzz tests.
type oneDevice struct{}

func (oneDevice) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	found := make([]graph.Found, len(selectors))
	for i, s := range selectors {
		found[i].Device = graph.Device{ID: s.ID, SerialNumber: s.SerialNumber}
	}
	return found
}

func (oneDevice) Page(context.Context, string) ([]graph.Device, string, error) { return nil, "", nil }

func (oneDevice) All(context.Context) iter.Seq2[graph.Device, error] {
	return func(yield func(graph.Device, error) bool) { yield(graph.Device{GroupTag: "MTR-Oslo"}, nil) }
}

func (oneDevice) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	results := make([]graph.Result, len(ids))
	for i, id := range ids {
		results[i].ID = id
	}
	return results
}

// slowDevice is a Graph that responds after the end of the context.
type slowDevice struct {
	oneDevice
	asked chan struct{}
}

func (s slowDevice) All(context.Context) iter.Seq2[graph.Device, error] {
	return func(yield func(graph.Device, error) bool) {
		yield(graph.Device{GroupTag: "MTR-Oslo", Account: graph.Account{UserPrincipalName: "room.fjord@contoso.com"}}, nil)
	}
}

func (s slowDevice) UnassignResourceAccount(ctx context.Context, ids ...graph.DeviceID) []graph.Result {
	close(s.asked)
	<-ctx.Done()
	results := s.oneDevice.UnassignResourceAccount(ctx, ids...)
	for i := range results {
		results[i].Err = &upstream.Error{Service: upstream.Graph, Reason: upstream.Timeout, MaybeDone: true}
	}
	return results
}

// unlimited is a pace without a limit.
type unlimited struct{}

func (unlimited) Take(_ context.Context, want int) int { return want }
func (unlimited) Return(int, time.Time)                {}
func (unlimited) Capacity(time.Duration) int           { return math.MaxInt32 }
func (unlimited) Rate() float64                        { return 0 }
func (unlimited) Learn(float64)                        {}

// A signal ends a running sweep in time for its records and for a retry by the host.
func TestSweepEndsWithTheProcess(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := app.NewLog(&log, slog.LevelInfo)
	asked, stop := make(chan struct{}), make(chan struct{})
	w := &azureWorker{handler: handler.New(handler.Options{
		Background: slowDevice{asked: asked}, Devices: slowDevice{asked: asked}, Pace: unlimited{}, Verifier: caller.Platform{}, Log: logger, Timeout: time.Hour,
		Sweep: handler.Sweep{GroupTag: "MTR-Oslo", MaxDevices: 10, Apply: true},
	}), address: "127.0.0.1:1", coreTools: true, stop: stop, log: logger}
	go func() {
		<-asked
		close(stop)
	}()
	answer := httptest.NewRecorder()
	w.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:1"+functionSweep, strings.NewReader(fixture(t, "azure-timer.json"))))
	if answer.Code != http.StatusServiceUnavailable || !strings.Contains(log.String(), `"code":"graph_timeout"`) || !strings.Contains(log.String(), `"outcome":"unknown"`) {
		t.Errorf("%d, and the log has %s", answer.Code, &log)
	}
}

// FuzzInvocation throws bodies at the paths of invocations. Properties:
//  1. It does not panic.
//  2. There is always an answer that ends the invocation: a status other than 2xx, or an object of JSON that says it is JSON.
//  3. A message that is not carried out goes to the poison queue or is a failure, and a timer puts nothing there.
func FuzzInvocation(f *testing.F) {
	for _, seed := range []string{
		fixture(f, "azure-timer.json"), fixture(f, "azure-queue.json"), ``, `null`, `[]`, `{}`, `{"Data":{"timer":{}}}`, `{"Data":{"timer":{"IsPastDue":true}},"Metadata":null}`,
		`{"Data":{"message":"abcd"}}`, `{"Data":{"message":"\"abcd\""}}`, `{"Data":{"message":null}}`, `{"Data":{"message":{"deviceId":"` + someDevice + `"}},"Metadata":[1]}`,
		`{"Data":{"message":"\"{\\\"deviceId\\\":\\\"` + someDevice + `\\\"}\""},"Metadata":{"Id":{},"DequeueCount":1e3}}`, `{"data":{"TIMER":{"ispastdue":null}}}`, "{\"Data\":{\"message\":\"\xff\"}}",
	} {
		f.Add(true, []byte(seed))
		f.Add(false, []byte(seed))
	}
	var log bytes.Buffer
	logger := app.NewLog(&log, slog.LevelInfo)
	w := &azureWorker{handler: handler.New(handler.Options{
		Background: oneDevice{}, Devices: oneDevice{}, Pace: unlimited{}, Verifier: caller.Platform{}, Sweep: handler.Sweep{GroupTag: "MTR-Oslo", MaxDevices: 10}, Log: logger, Timeout: time.Second,
	}), address: "127.0.0.1:1", coreTools: true, log: logger}
	f.Fuzz(func(t *testing.T, timer bool, body []byte) {
		log.Reset()
		path := functionQueue
		if timer {
			path = functionSweep
		}
		answer := httptest.NewRecorder()
		w.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:1"+path, bytes.NewReader(body)))
		if answer.Code/100 != 2 {
			if !strings.Contains(log.String(), `"level":"ERROR"`) {
				t.Fatalf("%q: %d, and the log has %s", body, answer.Code, &log)
			}
			return
		}
		var result *struct {
			Outputs map[string][]byte
			Logs    []string
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &result); err != nil || result == nil || answer.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("%q: %d %v %s", body, answer.Code, answer.Header(), answer.Body)
		}
		_, poisoned := result.Outputs["poison"]
		done := strings.Contains(log.String(), `unassigned"`) || strings.Contains(log.String(), `"code":"would_unassign"`)
		if timer && poisoned || !timer && poisoned == done {
			t.Fatalf("%q at %s: %s, and the log has %s", body, path, answer.Body, &log)
		}
	})
}

// A message that failed in part: a permanent failure goes to the poison queue at once, with its code, and a transient one back
// to the queue. The message itself is done.
func TestStorageQueueFailsInPart(t *testing.T) {
	t.Parallel()
	c := newCloud()
	d := eventsOnAzure(t, c, functions.Options{})
	c.Fail(azuresim.StepGraph, 2, azuresim.Delay(0)) // the reads of both devices
	c.Fail(azuresim.StepGraph, -1, azuresim.Status(503, "Retry-After", "3600"))
	result, err := deliver(t, d, "m-1", delivered(t, `{"devices":[{"deviceId":"`+unknownDevice+`"},{"deviceId":"`+someDevice+`"}]}`), 2)
	poison, _ := result.Outputs["poison"].([]byte)
	again, _ := result.Outputs["again"].([]byte)
	if err != nil || !strings.Contains(string(poison), `"code":"device_not_found"`) || !strings.Contains(string(poison), unknownDevice) {
		t.Errorf("poison is %s, %v", poison, err)
	}
	if !strings.Contains(string(again), `"tries":2`) || !strings.Contains(string(again), someDevice) || strings.Contains(string(again), unknownDevice) {
		t.Errorf("again is %s", again)
	}
	c.Heal()
	if _, err := deliver(t, d, "m-2", delivered(t, string(again)), 1); err != nil || carrying(c) != 0 {
		t.Errorf("%v; %d devices carry an account", err, carrying(c))
	}
}
