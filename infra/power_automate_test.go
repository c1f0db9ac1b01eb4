package infra_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/azuresim"
	"autopilot-unassign/internal/hosttest/flow"
	"autopilot-unassign/internal/hosttest/simulated"
)

// office is the surroundings of a flow: the program on a simulated cloud, a list in SharePoint, an approver and a
// mailbox.
type office struct {
	t         *testing.T
	cloud     *azuresim.Cloud
	program   *httptest.Server
	log       azuresim.Buffer // of the program
	address   string          // of another server than the program
	host      flow.Host
	list      string // its title
	rows      []map[string]any
	changes   int           // of rows
	approve   func() string // the word of the approver
	asked     []string      // of the approver
	mails     []string      // subject and text
	waited    []time.Duration
	meanwhile func() // happens between two tries
}

// newOffice returns an office with the program, with these settings beside its own.
func newOffice(t *testing.T, settings ...string) *office {
	t.Helper()
	o := newOfficeAt(t, "")
	o.cloud = simulated.NewCloud()
	settings = append([]string{"API_KEY_SECRET_NAMES", "api-key-flow", "REQUEST_TIMEOUT", "20s"}, settings...)
	c := simulated.Load(t, simulated.Settings(o.cloud, settings...))
	o.program = httptest.NewServer(simulated.NewApp(t, c, o.cloud, &o.log))
	t.Cleanup(o.program.Close)
	return o
}

// newOfficeAt returns an office whose flows call address.
func newOfficeAt(t *testing.T, address string) *office {
	t.Helper()
	o := &office{
		t: t, address: address, list: "Retired devices", approve: func() string { return "Approve" },
		meanwhile: func() {},
	}
	o.host = flow.Host{
		Client:  &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		Connect: o.connect,
		Wait: func(d time.Duration) {
			o.waited = append(o.waited, d)
			o.meanwhile()
		},
	}
	return o
}

// connect stands in for the connectors.
func (o *office) connect(operation string, parameters map[string]any) (any, error) {
	text := func(key string) string { return fmt.Sprint(parameters[key]) }
	switch operation {
	case "GetSecret":
		if text("secretName") != "api-key-flow" {
			return nil, errors.New("no such secret")
		}
		return map[string]any{"value": simulated.APIKey}, nil
	case "StartAndWaitForAnApproval":
		o.asked = append(o.asked, text("WebhookApprovalCreationInput/details"))
		return map[string]any{"outcome": o.approve()}, nil
	case "SendEmailV2":
		o.mails = append(o.mails, text("emailMessage/Subject")+"\n"+text("emailMessage/Body"))
		return nil, nil //nolint:nilnil // a response without a body
	case "HttpRequest":
		return o.sharePoint(text("parameters/method"), text("parameters/uri"), text("parameters/body"))
	}
	return nil, fmt.Errorf("there is no %s of %v", operation, parameters)
}

// sharePoint reads rows of the list, or changes one. A list is known by its title in which apostrophes are doubled.
func (o *office) sharePoint(method, uri, body string) (any, error) {
	rest, found := strings.CutPrefix(uri, "_api/web/lists/getbytitle('"+strings.ReplaceAll(o.list, "'", "''")+"')/items")
	if !found {
		return nil, fmt.Errorf("no list at %s", uri)
	}
	if method == http.MethodPost {
		for _, row := range o.rows {
			if "("+fmt.Sprint(row["Id"])+")" == rest {
				o.changes++
				row["modified"] = o.changes
				return nil, json.Unmarshal([]byte(body), &row)
			}
		}
		return nil, fmt.Errorf("no row %s", rest)
	}
	query, err := url.ParseQuery(strings.TrimPrefix(rest, "?"))
	if err != nil {
		return nil, err
	}
	var rows []any
	for _, row := range slices.SortedStableFunc(slices.Values(o.rows), func(a, b map[string]any) int {
		return cmp.Or(map[bool]int{true: a["modified"].(int) - b["modified"].(int)}[query.Get("$orderby") == "Modified"],
			int(a["Id"].(float64)-b["Id"].(float64)))
	}) {
		keep := true
		for term := range strings.SplitSeq(query.Get("$filter"), " and ") {
			switch field, value, _ := strings.Cut(term, " "); value {
			case "eq 'Approved'", "eq 'Retired'":
				keep = keep && "eq '"+row[field].(string)+"'" == value
			case "ne null":
				keep = keep && row[field] != nil
			default:
				number, err := strconv.ParseFloat(strings.TrimPrefix(value, "gt "), 64)
				if err != nil {
					return nil, err
				}
				keep = keep && row[field].(float64) > number
			}
		}
		if top, _ := strconv.Atoi(query.Get("$top")); keep && len(rows) < top {
			rows = append(rows, row)
		}
	}
	return map[string]any{"value": append([]any{}, rows...)}, nil
}

// row adds a row to the list.
func (o *office) row(serial, account, status string) {
	o.rows = append(o.rows, map[string]any{
		"Id": float64(len(o.rows) + 1), "Title": serial, "ExpectedAccount": account,
		"Status": status, "modified": 0,
	})
}

// run runs a flow with the settings of this office. The URL is the program's unless address is set.
func (o *office) run(name string, trigger map[string]any) *flow.Run {
	o.t.Helper()
	read, err := flow.Read("power-automate/flows/" + name + ".json")
	if err != nil {
		o.t.Fatal(err)
	}
	settings := read.Definition.Actions["Settings"].Inputs.(map[string]any)
	settings["list"], settings["url"] = o.list, o.address
	if o.address == "" {
		settings["url"] = o.program.URL + "/api/unassign"
	}
	run, err := o.host.Run(o.t.Context(), read, trigger)
	if err != nil {
		o.t.Fatal(err)
	}
	if len(run.Faults) > 0 && o.address == "" {
		o.t.Errorf("errors in expressions: %q", run.Faults)
	}
	return run
}

// audit returns the records of a run, and checks that they name it.
func (o *office) audit(run *flow.Run) []map[string]any {
	o.t.Helper()
	o.program.Close()
	var records []map[string]any
	for line := range strings.Lines(o.log.String()) {
		var record map[string]any
		if json.Unmarshal([]byte(line), &record) != nil || record["message"] != "unassign" {
			continue
		}
		flow, _ := record["flow"].(map[string]any)
		if flow["run_id"] != run.ID || flow["client_tracking_id"] != run.ID || flow["action_tracking_id"] == nil ||
			record["reference"] != run.ID || record["caller_id"] != "api-key-flow" {
			o.t.Errorf("the audit record does not name the run %s: %v", run.ID, record)
		}
		record["action"] = flow["action"]
		records = append(records, record)
	}
	if found := simulated.Leaks(simulated.Canaries(o.cloud, nil), o.log.String()); len(found) > 0 {
		o.t.Errorf("leaked %q", found)
	}
	return records
}

// account returns the account that the one device carries.
func (o *office) account() string {
	device, _ := o.cloud.Device(simulated.DeviceID)
	return cmp.Or(device.UserPrincipalName, device.ResourceName)
}

const stateChangedSentence = "The device carries another account than expected, or changed during the request. " +
	"account is the account found. Check the device before you retry."

var button = map[string]any{"text": " 5CG1234ABC ", "text_1": "INC0012345"}

// reassign gives the device another account.
func reassign(c *azuresim.Cloud) {
	c.PutDevice(azuresim.Device{
		ID: simulated.DeviceID, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo",
		UserPrincipalName: "room.elv@contoso.com",
	})
}

func TestFlowApproval(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare  func(*office)
		trigger  map[string]any
		asked    string // a part of the text for the approver, "" without an approval
		mail     string // a part of it, "" if none is sent
		code     string // of the run, "" if it succeeds
		keeps    bool   // the device has an account in the end
		actions  []string
		contains string // the audit record's context
	}{
		"approved": {
			nil, button, "`room.fjord@contoso.com` from the device `5CG1234ABC`",
			"Account removed: room.fjord@contoso.com", "", false,
			[]string{"Check", "Unassign"},
			"INC0012345",
		},
		"no ticket": {
			nil,
			map[string]any{"text": "5cg1234abc"},
			"Ticket: `none`", "Unassigned: 5CG1234ABC", "",
			false,
			[]string{"Check", "Unassign"},
			"none",
		},
		"a ticket with markup": {nil, map[string]any{"text": "5CG1234ABC", "text_1": "`](http://evil)\r\n<b>"}, "Ticket: ` ](http://evil)   b>`.", "Unassigned: 5CG1234ABC", "", false, []string{"Check", "Unassign"}, "evil"},
		"rejected":             {func(o *office) { o.approve = func() string { return "Reject" } }, button, "room.fjord@contoso.com", "Rejected: 5CG1234ABC\n<p>The approver rejected the request. Nothing was changed: the device keeps the account room.fjord@contoso.com.</p><p>Ticket INC0012345", "", true, []string{"Check"}, "INC0012345"},
		"an account with a resource name alone": {func(o *office) {
			o.cloud.PutDevice(azuresim.Device{ID: simulated.DeviceID, SerialNumber: "5CG1234ABC", ResourceName: "room.fjord"})
		}, button, "room.fjord", "Account removed: room.fjord<", "", false, []string{"Check", "Unassign"}, "INC0012345"},
		"an account that Graph does not show": {func(o *office) {
			o.cloud.PutDevice(azuresim.Device{ID: simulated.DeviceID, SerialNumber: "5CG1234ABC", UserPrincipalName: "room.fjord@contoso.com", Form: azuresim.LeftOut})
		}, button, "", "Not unassigned: 5CG1234ABC\n<p>Graph does not show which account", "account_unknown", true, []string{"Check"}, "INC0012345"},
		"another account after the approval": {func(o *office) {
			o.approve = func() string { reassign(o.cloud); return "Approve" }
		}, button, "room.fjord@contoso.com", "Not unassigned: 5CG1234ABC\n<p>" + stateChangedSentence, "state_changed", true, []string{"Check", "Unassign"}, "INC0012345"},
		"another device with the serial number after the approval": {func(o *office) {
			o.approve = func() string {
				o.cloud.PutDevice(azuresim.Device{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4aff", SerialNumber: "5CG1234ABC", UserPrincipalName: "room.fjord@contoso.com"})
				return "Approve"
			}
		}, button, "room.fjord@contoso.com", "Unassigned: 5CG1234ABC", "", false, []string{"Check", "Unassign"}, "INC0012345"},
		"no account any more": {func(o *office) {
			o.cloud.PutDevice(azuresim.Device{ID: simulated.DeviceID, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo"})
		}, button, "", "Nothing to do: 5CG1234ABC", "", false, []string{"Check"}, "INC0012345"},
		"an unknown device": {nil, map[string]any{"text": "5CG0000XYZ"}, "", "", "device_not_found", true, []string{"Check"}, "none"},
		"a wrong key": {func(o *office) {
			o.cloud.PutSecret("api-key-flow", azuresim.Secret{Value: "another-key-0123456789abcdefghij"})
		}, button, "", "", "unauthenticated", true, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			if test.prepare != nil {
				test.prepare(o)
			}
			run := o.run("approval", test.trigger)
			if (run.Status == flow.Succeeded) != (test.code == "") || run.Code != test.code || (run.Message == "") != (test.code == "") {
				t.Errorf("the run ended as %s, %s: %s", run.Status, run.Code, run.Message)
			}
			if test.code == "state_changed" && run.Message != stateChangedSentence {
				t.Errorf("the run says %q", run.Message)
			}
			if asked := strings.Join(o.asked, "\n"); (asked == "") != (test.asked == "") || !strings.Contains(asked, test.asked) {
				t.Errorf("the approver reads %q", asked)
			}
			if mails := strings.Join(o.mails, "\n"); (mails == "") != (test.mail == "") || !strings.Contains(mails, test.mail) {
				t.Errorf("the mails are %q", mails)
			}
			if account := o.account(); (account != "") != test.keeps {
				t.Errorf("the device has the account %q", account)
			}
			if len(o.waited) > 0 {
				t.Errorf("it was repeated after %v", o.waited)
			}
			if test.actions == nil {
				return
			}
			var actions []string
			for _, record := range o.audit(run) {
				actions = append(actions, fmt.Sprint(record["action"]))
				if text := fmt.Sprint(record["context"]); !strings.Contains(text, test.contains) {
					t.Errorf("the context is %s", text)
				}
			}
			if !slices.Equal(actions, test.actions) {
				t.Errorf("the audit has %v", actions)
			}
		})
	}
}

// A row that may succeed later stays as it is and is found again by the next run; one that cannot is for a person.
func TestFlowListRow(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.row(" 5CG1234ABC", "room.fjord@contoso.com ", "Approved")
	o.row("5CG0000XYZ", "room.fjord@contoso.com", "Approved")
	o.row("5CG1234ABC", "room.fjord@contoso.com", "Requested")
	status := func() string {
		return fmt.Sprint(o.rows[0]["Status"], ", ", o.rows[1]["Status"], ", ", o.rows[2]["Status"])
	}

	o.cloud.Fail(azuresim.StepGraph, -1, azuresim.Status(503, "Retry-After", "120"))
	if run := o.run("list-row", nil); run.Status != flow.Succeeded || status() != "Approved, Approved, Requested" || len(run.Sent) != 2 {
		t.Errorf("while Graph is down: %s, %s, %d requests", run.Status, status(), len(run.Sent))
	}
	if result := fmt.Sprint(o.rows[0]["Result"]); !strings.HasPrefix(result, "graph_unavailable, request ") {
		t.Errorf("the row says %q", result)
	}
	o.cloud.Heal()
	if run := o.run("list-row", nil); run.Status != flow.Succeeded || status() != "Done, Needs a person, Requested" || o.account() != "" {
		t.Errorf("with Graph back: %s, %s, account %q", run.Status, status(), o.account())
	}
	for i, want := range []string{"unassigned, account room.fjord@contoso.com, request ", "device_not_found, request "} {
		if result := fmt.Sprint(o.rows[i]["Result"]); !strings.HasPrefix(result, want) {
			t.Errorf("the row says %q", result)
		}
	}
	if run := o.run("list-row", nil); run.Status != flow.Succeeded || len(run.Sent) != 0 {
		t.Errorf("with nothing to do: %s, %d requests", run.Status, len(run.Sent))
	}
	o.program.Close()
	o.rows[0]["Status"] = "Approved"
	if run := o.run("list-row", nil); run.Status != flow.Succeeded || status() != "Approved, Needs a person, Requested" || len(o.waited) != 0 {
		t.Errorf("with the function down: %s, %s, repeated after %v", run.Status, status(), o.waited)
	}
	if result := fmt.Sprint(o.rows[0]["Result"]); result != "no_answer, request unknown. No response. Retrying is safe." {
		t.Errorf("the row says %q", result)
	}
}

func TestFlowNightly(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.list = "The room's devices"
	for i := range 25 {
		serial, account := fmt.Sprintf("5CGNIGHT%02d", i), fmt.Sprintf("room.%02d@contoso.com", i)
		device := azuresim.Device{ID: fmt.Sprintf("6f1a9c0e-5b1d-4c55-9d3a-0000000000%02d", i), SerialNumber: serial, GroupTag: "Retired", UserPrincipalName: account}
		switch i {
		case 3: // assigned anew since the row was written
			account = "room.former@contoso.com"
		case 4: // known by its resource name alone
			account, device.UserPrincipalName, device.ResourceName = "room.04", "", "room.04"
		case 24:
			serial = "5CG0000XYZ"
		}
		o.cloud.PutDevice(device)
		o.row(" "+serial, account+" ", "Retired")
	}
	o.row("5CG1234ABC", "room.fjord@contoso.com", "In use")
	o.row(" ", "room.fjord@contoso.com", "Retired")
	o.row("5CG1234ABC", "", "Retired")
	o.row("5CGNÆRØ", "room.fjord@contoso.com", "Retired")
	o.row("5CG-=(%E)", "room.fjord@contoso.com", "Retired")                           // odd, and a serial number
	o.cloud.Fail(azuresim.StepItem, 6, azuresim.GraphError(429, azuresim.Nested, 77)) // longer than a request may take
	o.meanwhile = o.cloud.Heal

	run := o.run("nightly", nil)
	if run.Status != flow.Succeeded || !slices.Equal(o.waited, []time.Duration{time.Minute}) {
		t.Errorf("the run ended as %s, retried after %v", run.Status, o.waited)
	}
	mails := strings.Join(o.mails, "")
	if !strings.HasPrefix(mails, "Autopilot Unassign: 23 done, 6 not\n") || len(o.mails) != 1 {
		t.Errorf("the mail is %s", mails)
	}
	for _, part := range []string{
		"<td>state_changed</td><td>" + stateChangedSentence, "<td>25</td><td>5CG0000XYZ</td><td></td><td>device_not_found</td>", "<td>24</td><td>5CGNIGHT23</td><td>room.23@contoso.com</td><td>unassigned</td>", "<td>5</td><td>5CGNIGHT04</td><td>room.04</td>", "<td>4</td><td>5CGNIGHT03</td><td>room.03@contoso.com</td><td>state_changed</td>",
		"<td>27</td><td> </td><td></td><td>not_sent</td>", "<td>28</td><td>5CG1234ABC</td><td></td><td>not_sent</td>", "<td>29</td><td>5CGNÆRØ</td><td></td><td>not_sent</td>", "<td>30</td><td>5CG-=(%E)</td><td></td><td>device_not_found</td>",
	} {
		if !strings.Contains(mails, part) {
			t.Errorf("the mail does not have %s: %s", part, mails)
		}
	}
	left := ""
	for _, device := range o.cloud.Devices() {
		if device.UserPrincipalName+device.ResourceName != "" {
			left += device.SerialNumber + " "
		}
	}
	if fields := strings.Fields(left); !slices.Equal(slices.Sorted(slices.Values(fields)), []string{"5CG1234ABC", "5CGNIGHT03", "5CGNIGHT24"}) {
		t.Errorf("these still have an account: %s", left)
	}
	// Another night finds nothing left to do. Only the failures are in the table.
	o.mails = nil
	if o.run("nightly", nil); !strings.Contains(strings.Join(o.mails, ""), "23 done, 6 not") || strings.Count(strings.Join(o.mails, ""), "<tr>") != 6 {
		t.Errorf("the next mail is %s", o.mails)
	}
	// A failure of the whole request stands for each of its devices.
	o.program.Close()
	o.mails = nil
	if o.run("nightly", nil); !strings.Contains(strings.Join(o.mails, ""), "0 done, 29 not") || strings.Count(strings.Join(o.mails, ""), "<td>no_answer</td>") != 26 {
		t.Errorf("the mail without a function is %s", o.mails)
	}
}

// answering returns the address of a server that answers with respond.
func answering(t *testing.T, respond func(w http.ResponseWriter, body map[string]any)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		respond(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// unassigned answers as the function does when all goes well.
func unassigned(w http.ResponseWriter, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Request-Id", "r-1")
	devices, list := body["devices"].([]any)
	response := map[string]any{"code": "unassigned", "message": "Done.", "requestId": "r-1"}
	if list {
		results := make([]any, len(devices))
		for i := range results {
			results[i] = map[string]any{"status": 200, "code": "unassigned", "message": "Done.", "account": map[string]any{"userPrincipalName": "room.fjord@contoso.com"}}
		}
		response = map[string]any{"results": results, "requestId": "r-1"}
	} else if body["dryRun"] == true {
		response["code"], response["serialNumber"], response["deviceId"] = "would_unassign", "5CG1234ABC", simulated.DeviceID
		response["account"] = map[string]any{"userPrincipalName": "room.fjord@contoso.com"}
	}
	_ = json.NewEncoder(w).Encode(response)
}

// However many rows keep their status, each gets its turn: in one night, or within some runs of list-row.
func TestFlowReachesEveryRow(t *testing.T) {
	t.Parallel()
	const rows = 503
	var sent int
	o := newOfficeAt(t, answering(t, func(w http.ResponseWriter, body map[string]any) {
		devices, _ := body["devices"].([]any)
		sent += len(devices)
		unassigned(w, body)
	}))
	for range rows {
		o.row("5CG1234ABC", "room.fjord@contoso.com", "Retired")
	}
	if run := o.run("nightly", nil); run.Status != flow.Succeeded || sent != rows || !strings.HasPrefix(o.mails[0], "Autopilot Unassign: 503 done, 0 not\n") || !strings.Contains(o.mails[0], "<td>room.fjord@contoso.com</td>") || len(run.Faults) > 0 {
		t.Errorf("%s, %d devices, %.300s, %q", run.Status, sent, o.mails[0], run.Faults)
	}

	seen := map[any]bool{}
	o = newOfficeAt(t, answering(t, func(w http.ResponseWriter, body map[string]any) {
		seen[body["context"].(map[string]any)["row"]] = true
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	for range 120 {
		o.row("5CG1234ABC", "room.fjord@contoso.com", "Approved")
	}
	for range 3 {
		o.run("list-row", nil)
	}
	if len(seen) != 120 {
		t.Errorf("list-row has tried %d rows", len(seen))
	}
}

// A page that cannot be read ends the night, and the mail says so.
func TestFlowNightlyWithoutItsList(t *testing.T) {
	t.Parallel()
	o := newOfficeAt(t, answering(t, unassigned))
	connect := o.host.Connect
	o.host.Connect = func(operation string, parameters map[string]any) (any, error) {
		if strings.Contains(fmt.Sprint(parameters["parameters/uri"]), "Id gt 500") {
			return nil, errors.New("the list view threshold")
		}
		return connect(operation, parameters)
	}
	for range 520 {
		o.row("5CG1234ABC", "room.fjord@contoso.com", "Retired")
	}
	if run := o.run("nightly", nil); run.Status != flow.Succeeded || !strings.HasPrefix(o.mails[0], "Autopilot Unassign: 500 done, 0 not, list not read to its end\n") {
		t.Errorf("%s, %.300s", run.Status, o.mails)
	}
}

// No flow takes the response of another server for a success, loses a row, or ends without a word.
func TestFlowResponses(t *testing.T) {
	t.Parallel()
	const page = "<!DOCTYPE html><html><body>Your app is up and running</body></html>"
	const ours = `{"code":"unassigned","message":"Done.","requestId":"r-1","account":{},"results":[{"status":200,"code":"unassigned"}]}`
	for name, test := range map[string]struct {
		status       int
		kind, body   string
		code, rowEnd string
	}{
		"a page that is down":        {503, "text/html", page, "no_function_answer", "Approved"},
		"a gateway":                  {502, "text/html; charset=utf-8", page, "no_function_answer", "Approved"},
		"a homepage":                 {200, "text/html", page, "no_function_answer", "Needs a person"},
		"no homepage":                {204, "", "", "no_function_answer", "Needs a person"},
		"the host is full":           {429, "", "", "no_function_answer", "Approved"},
		"the host failed":            {500, "", "", "no_function_answer", "Approved"},
		"not found":                  {404, "", "", "no_function_answer", "Needs a person"},
		"a long URI":                 {414, "", "", "no_function_answer", "Needs a person"},
		"many headers":               {431, "", "", "no_function_answer", "Needs a person"},
		"a bad header":               {400, "", "", "no_function_answer", "Needs a person"},
		"plain text":                 {503, "text/plain", "Function host is not running.", "no_function_answer", "Approved"},
		"text like an object":        {503, "text/plain", `{"error":{"code"`, "no_function_answer", "Approved"},
		"cut short":                  {200, "application/json", `{"code":"unass`, "no_answer", "Approved"},
		"nothing of JSON":            {200, "application/json", ``, "no_function_answer", "Needs a person"},
		"an empty object":            {200, "application/json", `{}`, "no_function_answer", "Needs a person"},
		"a list":                     {200, "application/json", `[{"code":"unassigned"}]`, "no_function_answer", "Needs a person"},
		"null":                       {200, "application/json", `null`, "no_function_answer", "Needs a person"},
		"a text of JSON":             {503, "application/json", `"no"`, "no_function_answer", "Approved"},
		"another kind":               {503, "application/octet-stream", "\x00\x01", "no_function_answer", "Approved"},
		"ours, but no X-Request-Id":  {200, "application/json", ours, "no_function_answer", "Needs a person"},
		"an error of something else": {401, "application/json", `{"error":{"code":"AccessDenied","message":"No."}}`, "no_function_answer", "Needs a person"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			respond := func(w http.ResponseWriter, _ map[string]any) {
				w.Header()["Content-Type"] = nil
				if test.kind != "" {
					w.Header().Set("Content-Type", test.kind)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}
			odd := answering(t, respond)
			later := answering(t, func(w http.ResponseWriter, body map[string]any) {
				if body["dryRun"] == true {
					unassigned(w, body)
				} else {
					respond(w, body)
				}
			})

			o := newOfficeAt(t, odd)
			if run := o.run("approval", button); run.Status != flow.Failed || run.Code != test.code || len(run.Message) < 10 || len(o.asked)+len(o.mails) > 0 {
				t.Errorf("approval ended as %s %s %q, asked %q, mails %q", run.Status, run.Code, run.Message, o.asked, o.mails)
			}
			o = newOfficeAt(t, later)
			if run := o.run("approval", button); run.Status != flow.Failed || run.Code != test.code || len(o.asked) != 1 || len(o.mails) != 1 || !strings.Contains(o.mails[0], "Code "+test.code) {
				t.Errorf("approval ended as %s %s, mails %q", run.Status, run.Code, o.mails)
			}
			o = newOfficeAt(t, odd)
			o.row("5CG1234ABC", "room.fjord@contoso.com", "Approved")
			if run := o.run("list-row", nil); run.Status != flow.Succeeded || o.rows[0]["Status"] != test.rowEnd || !strings.HasPrefix(fmt.Sprint(o.rows[0]["Result"]), test.code+", ") {
				t.Errorf("list-row ended as %s, %v", run.Status, o.rows)
			}
			o = newOfficeAt(t, odd)
			o.row("5CG1234ABC", "room.fjord@contoso.com", "Retired")
			if run := o.run("nightly", nil); run.Status != flow.Succeeded || len(o.mails) != 1 || !strings.HasPrefix(o.mails[0], "Autopilot Unassign: 0 done, 1 not\n") || !strings.Contains(o.mails[0], "<td>"+test.code+"</td>") {
				t.Errorf("nightly ended as %s, %q", run.Status, o.mails)
			}
		})
	}
}

// The flows bear the platform's retries, late and double, with any policy of a maker.
func TestFlowRepetitions(t *testing.T) {
	t.Parallel()
	minutes := func(m ...time.Duration) []time.Duration {
		for i := range m {
			m[i] *= time.Minute
		}
		return m
	}
	late := func(o *office) { // Graph does it, and its answer comes too late
		o.cloud.Fail(azuresim.StepGraph, 1, azuresim.Delay(0)) // the device is read
		o.cloud.Fail(azuresim.StepGraph, -1, azuresim.Delay(time.Hour))
	}
	healed := func(o *office) { o.cloud.Heal() }
	down := func(o *office) { o.cloud.Fail(azuresim.StepGraph, -1, azuresim.GraphError(500, azuresim.Nested, 0)) }
	none, low := map[string]any{"type": "none"}, map[string]any(nil)
	for name, test := range map[string]struct {
		policy    map[string]any
		twice     bool
		prepare   func(*office)
		meanwhile func(*office)
		waited    []time.Duration
		status    string
		code      string // in the answer that the row ends with
		account   string // of the device in the end
	}{
		"done at once":       {low, false, nil, nil, nil, "Done", "unassigned", ""},
		"done, and not told": {low, false, late, healed, minutes(5), "Done", "already_unassigned", ""},
		"done, not told, and assigned anew before the late repetition": {
			low, false, late, func(o *office) { healed(o); reassign(o.cloud) }, minutes(5), "Needs a person", "state_changed", "room.elv@contoso.com",
		},
		"not done, and assigned anew before the last repetition": {low, false, down, func(o *office) {
			if len(o.waited) == 2 {
				o.cloud.Heal()
				reassign(o.cloud)
			}
		}, minutes(5, 10), "Needs a person", "state_changed", "room.elv@contoso.com"},
		"down for good":                       {low, false, down, nil, minutes(5, 10), "Approved", "graph_error", "room.fjord@contoso.com"},
		"not repeated, and sent twice":        {none, true, nil, nil, nil, "Done", "", ""},
		"not repeated, failed and sent twice": {none, true, down, nil, nil, "Approved", "graph_error", "room.fjord@contoso.com"},
		"lasting":                             {low, false, func(o *office) { o.cloud.SetGraphRoles("Device.Read.All") }, nil, nil, "Needs a person", "graph_permission_missing", "room.fjord@contoso.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, "REQUEST_TIMEOUT", "8s")
			o.row("5CG1234ABC", "room.fjord@contoso.com", "Approved")
			if test.prepare != nil {
				test.prepare(o)
			}
			if test.meanwhile != nil {
				o.meanwhile = func() { test.meanwhile(o) }
			}
			o.host.Plain, o.host.Policy, o.host.Twice = test.policy == nil, test.policy, test.twice
			flow := o.run("list-row", nil)
			if !slices.Equal(o.waited, test.waited) || o.rows[0]["Status"] != test.status || !strings.HasPrefix(fmt.Sprint(o.rows[0]["Result"]), test.code) {
				t.Errorf("waited %v, row %v", o.waited, o.rows[0])
			}
			if account := o.account(); account != test.account {
				t.Errorf("the device has the account %q", account)
			}
			// All tries of an action are one action, with one body.
			actions := map[any]bool{}
			for _, record := range o.audit(flow) {
				actions[record["flow"].(map[string]any)["action_tracking_id"]] = true
			}
			if len(actions) != 1 || len(slices.Compact(flow.Bodies)) != 1 {
				t.Errorf("%d actions, bodies %q", len(actions), flow.Bodies)
			}
		})
	}
}

// TestConnector sends the requests of the custom connector: with the route, headers and hidden values of its definition and
// policies. The responses are those that it declares.
func TestConnector(t *testing.T) {
	t.Parallel()
	const dir = "power-automate/connector/"
	var swagger openapi2.T
	var properties struct {
		Properties struct {
			PolicyTemplateInstances []struct {
				TemplateID string
				Parameters map[string]any
			}
		}
	}
	for name, into := range map[string]any{"apiDefinition.swagger.json": &swagger, "apiProperties.json": &properties} {
		text, err := os.ReadFile(dir + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	definition, err := openapi2conv.ToV3(&swagger)
	if err != nil {
		t.Fatal(err)
	}
	serial, unknown := `{"serialNumber":"5CG1234ABC"}`, `{"serialNumber":"5CG0000XYZ"}`
	for name, test := range map[string]struct {
		operation, body string
		status          int
		code            string
		signed          bool // by another kind of connection: the key is empty then
	}{
		"one":                   {"UnassignDevice", `{"serialNumber":"5CG1234ABC","expected":{"userPrincipalName":"room.fjord@contoso.com"},"verify":true,"reference":"RITM1","context":{"room":"Fjord"}}`, 200, "unassigned", false},
		"one by id":             {"UnassignDevice", `{"deviceId":"` + simulated.DeviceID + `","verify":false}`, 200, "unassigned", false},
		"one, without a key":    {"UnassignDevice", serial, 200, "unassigned", true},
		"none":                  {"UnassignDevice", `{}`, 400, "selector_missing", false},
		"an unknown one":        {"UnassignDevice", unknown, 404, "device_not_found", false},
		"one to look at":        {"CheckDevice", serial, 200, "would_unassign", false},
		"a list":                {"UnassignDevices", `{"devices":[` + serial + `],"reference":"RITM1"}`, 200, "", false},
		"a list in part":        {"UnassignDevices", `{"devices":[` + serial + `,` + unknown + `]}`, 207, "", false},
		"a list of unknown":     {"UnassignDevices", `{"devices":[` + unknown + `]}`, 404, "device_not_found", false},
		"a list to look at":     {"CheckDevices", `{"devices":[` + serial + `]}`, 200, "", false},
		"whether it is there":   {"GetHealth", ``, 200, "", false},
		"too many in one list":  {"CheckDevices", `{"devices":[` + serial + strings.Repeat(`,`+serial, 20) + `]}`, 400, "devices_invalid", false},
		"an empty expectation":  {"UnassignDevice", `{"serialNumber":"5CG1234ABC","expected":{}}`, 400, "expected_invalid", false},
		"one with empty fields": {"UnassignDevice", `{"serialNumber":"5CG1234ABC","deviceId":null,"expected":null,"context":null}`, 200, "unassigned", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			for path, item := range definition.Paths.Map() {
				for method, operation := range item.Operations() {
					if operation.OperationID != test.operation {
						continue
					}
					target, header, sent := path, http.Header{}, test.body
					for _, p := range operation.Parameters {
						if value := p.Value.Schema.Value.Default; value != nil {
							header.Set(p.Value.Name, fmt.Sprint(value))
						}
					}
					if method == http.MethodPost {
						header.Set("Content-Type", "application/json; charset=utf-8")
						var body map[string]any
						if err := json.Unmarshal([]byte(test.body), &body); err != nil {
							t.Fatal(err)
						}
						for member, schema := range operation.RequestBody.Value.Content["application/json"].Schema.Value.Properties {
							if body[member] == nil && schema.Value.Default != nil {
								body[member] = schema.Value.Default
							}
						}
						whole, err := json.Marshal(body)
						if err != nil {
							t.Fatal(err)
						}
						sent = string(whole)
					}
					for _, policy := range properties.Properties.PolicyTemplateInstances {
						parameter := func(name string) string { return fmt.Sprint(policy.Parameters["x-ms-apimTemplateParameter."+name]) }
						names, some := policy.Parameters["x-ms-apimTemplate-operationName"].([]any)
						switch {
						case some && !slices.Contains(names, any(test.operation)):
						case policy.TemplateID == "routerequesttoendpoint":
							target = parameter("newPath")
						case policy.TemplateID == "setheader" && test.signed:
							header.Set(parameter("name"), "")
							caller.Sign(header, []byte(simulated.SigningKey), "msg_1", time.Now(), []byte(sent))
						case policy.TemplateID == "setheader":
							header.Set(parameter("name"), simulated.APIKey)
						}
					}
					req, err := http.NewRequestWithContext(t.Context(), method, o.program.URL+target, strings.NewReader(sent))
					if err != nil {
						t.Fatal(err)
					}
					req.Header = header
					answer, err := o.host.Client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(answer.Body)
					_ = answer.Body.Close()
					if err != nil {
						t.Fatal(err)
					}
					declared := operation.Responses.Status(answer.StatusCode)
					if declared == nil {
						declared = operation.Responses.Default()
					}
					checkDeclared(t, declared.Value.Content["application/json"].Schema, text)
					var body struct {
						Code  string
						Error struct{ Code string }
					}
					if err := json.Unmarshal(text, &body); err != nil || answer.StatusCode != test.status || body.Code+body.Error.Code != test.code {
						t.Errorf("%v, %d %s, want %d %s", err, answer.StatusCode, text, test.status, test.code)
					}
					return
				}
			}
			t.Errorf("there is no operation %s", test.operation)
		})
	}
}

// checkDeclared holds an answer to a schema that must have all of its members.
func checkDeclared(t *testing.T, schema *openapi3.SchemaRef, body []byte) {
	t.Helper()
	var answer map[string]any
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if err := schema.Value.VisitJSON(answer); err != nil {
		t.Errorf("%v in %s", err, body)
	}
	for member := range answer {
		if schema.Value.Properties[member] == nil {
			t.Errorf("%s is not declared, in %s", member, body)
		}
	}
}
