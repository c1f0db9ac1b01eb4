package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// fakeGraph is a Graph whose devices are read and changed as its functions say. It counts the calls.
type fakeGraph struct {
	find   func(s graph.Selector) graph.Found
	change func(call int, id graph.DeviceID) error
	page   func(token string) ([]graph.Device, string, error)

	finds, changes int
	changed        []graph.DeviceID
}

func (f *fakeGraph) Find(_ context.Context, selectors ...graph.Selector) []graph.Found {
	f.finds++
	found := make([]graph.Found, len(selectors))
	for i, s := range selectors {
		found[i] = f.find(s)
	}
	return found
}

func (f *fakeGraph) UnassignResourceAccount(_ context.Context, ids ...graph.DeviceID) []graph.Result {
	f.changes++
	results := make([]graph.Result, len(ids))
	for i, id := range ids {
		results[i] = graph.Result{ID: id, RequestID: "graph-1"}
		if f.change != nil {
			results[i].Err = f.change(f.changes, id)
		}
		f.changed = append(f.changed, id)
	}
	return results
}

func (f *fakeGraph) Page(_ context.Context, token string) ([]graph.Device, string, error) {
	return f.page(token)
}

func (*fakeGraph) All(context.Context) iter.Seq2[graph.Device, error] {
	panic("no request reads the inventory")
}

var fjord = graph.Account{UserPrincipalName: "room.fjord@contoso.com", ResourceName: "room.fjord"}

// carrying returns a find function of devices with an account.
func carrying(account graph.Account) func(graph.Selector) graph.Found {
	return func(s graph.Selector) graph.Found {
		id := s.ID
		if id == (graph.DeviceID{}) {
			id, _ = graph.ParseDeviceID(someDevice)
		}
		return graph.Found{Device: graph.Device{ID: id, SerialNumber: "5CG1", GroupTag: "MTR-Oslo", Account: account}}
	}
}

// post sends a body that prefers a representation, and returns the response, its body and the first audit record.
func post(t *testing.T, o Options, body string) (*httptest.ResponseRecorder, map[string]any, map[string]any) {
	t.Helper()
	var log bytes.Buffer
	o.Log, o.Verifier = slog.New(slog.NewJSONHandler(&log, nil)), caller.Platform{}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, RouteUnassign, strings.NewReader(body))
	r.Header.Set("Prefer", "return=representation")
	w := httptest.NewRecorder()
	newHandler(o).ServeHTTP(w, r)
	var answer, record map[string]any
	line, _, _ := strings.Cut(log.String(), "\n")
	if err := errors.Join(json.Unmarshal(w.Body.Bytes(), &answer), json.Unmarshal([]byte(line), &record)); err != nil {
		t.Fatalf("%v: %s %s", err, w.Body, &log)
	}
	return w, answer, record
}

// The response and the audit record of a device that was read name the account that it carried.
func TestAccountIsOnRecord(t *testing.T) {
	other := `{"deviceId":"` + someDevice + `","expected":{"userPrincipalName":"room.other@contoso.com"}}`
	for name, test := range map[string]struct {
		body    string
		account graph.Account
		change  error
		status  int
		code    Code
		named   bool // the account is in the response
	}{
		"removed":             {someBody, fjord, nil, 200, Unassigned, true},
		"by serial number":    {`{"serialNumber":"5CG1"}`, fjord, nil, 200, Unassigned, true},
		"dry run":             {`{"deviceId":"` + someDevice + `","dryRun":true}`, fjord, nil, 200, WouldUnassign, true},
		"verified":            {`{"deviceId":"` + someDevice + `","verify":true}`, fjord, nil, 200, Unassigned, true},
		"another account":     {other, fjord, nil, 409, stateChanged, true},
		"the change fails":    {someBody, fjord, &upstream.Error{Service: upstream.Graph, Reason: upstream.Unavailable}, 503, "graph_unavailable", true},
		"changed meanwhile":   {someBody, fjord, &upstream.Error{Service: upstream.Graph, Reason: upstream.StateChanged}, 409, stateChanged, true},
		"carried none":        {someBody, graph.Account{}, nil, 200, AlreadyUnassigned, false},
		"none to refuse over": {someBody, graph.Account{}, &upstream.Error{Service: upstream.Graph, Reason: upstream.Rejected}, 200, AlreadyUnassigned, false},
		"does not show":       {someBody, graph.Account{Unknown: true}, nil, 200, Unassigned, false},
	} {
		fake := &fakeGraph{find: carrying(test.account), change: func(int, graph.DeviceID) error { return test.change }}
		w, body, record := post(t, Options{Devices: fake}, test.body)
		account, _ := body["account"].(map[string]any)
		if w.Code != test.status || record["code"] != string(test.code) || fake.finds == 0 {
			t.Errorf("%s: %d %v, %d reads", name, w.Code, body, fake.finds)
		}
		if named := account["userPrincipalName"] == fjord.UserPrincipalName && account["resourceName"] == fjord.ResourceName; named != test.named || (account == nil) == test.named {
			t.Errorf("%s: the account in the response is %v", name, account)
		}
		if named := record["account_user_principal_name"] == fjord.UserPrincipalName && record["account_resource_name"] == fjord.ResourceName; named != test.named {
			t.Errorf("%s: the record is %v", name, record)
		}
	}
}

// Outside the policy the response says nothing that the caller did not send, and the record says all.
func TestPolicyDeniedTellsNothing(t *testing.T) {
	fake := &fakeGraph{find: carrying(fjord)}
	w, body, record := post(t, Options{Devices: fake, Policy: Policy{GroupTags: []string{"Kiosk"}}}, `{"serialNumber":"5cg1"}`)
	if w.Code != 403 || body["account"] != nil || body["deviceId"] != nil || body["serialNumber"] != "5cg1" || fake.changes != 0 {
		t.Errorf("%d %v", w.Code, body)
	}
	if record["device_id"] != someDevice || record["account_user_principal_name"] != fjord.UserPrincipalName {
		t.Errorf("%v", record)
	}
}

// A read that fails without saying anything about the device does not stop a change that does not depend on it.
func TestFailedRead(t *testing.T) {
	byID, bySerial, expecting := someBody, `{"serialNumber":"5CG1"}`, `{"deviceId":"`+someDevice+`","expected":{"resourceName":"room"}}`
	for _, test := range []struct {
		reason  upstream.Reason
		service upstream.Service
		body    string
		policy  Policy
		code    Code
	}{
		{upstream.Internal, upstream.Graph, byID, Policy{}, Unassigned},
		{upstream.BadAnswer, upstream.Graph, byID, Policy{}, Unassigned},
		{upstream.Unavailable, upstream.Graph, byID, Policy{}, Unassigned},
		{upstream.Timeout, upstream.Graph, byID, Policy{}, Unassigned},
		{upstream.Rejected, upstream.Graph, byID, Policy{}, Unassigned},
		{upstream.NotFound, upstream.Graph, byID, Policy{}, "device_not_found"},
		{upstream.Forbidden, upstream.Graph, byID, Policy{}, "graph_permission_missing"},
		{upstream.ApprovalRequired, upstream.Graph, byID, Policy{}, "admin_approval_required"},
		{upstream.Throttled, upstream.Graph, byID, Policy{}, graphThrottled},
		{upstream.Unreachable, upstream.Graph, byID, Policy{}, "upstream_unreachable"},
		{upstream.CredentialExpired, upstream.Identity, byID, Policy{}, "credential_expired"},
		{upstream.VersionUnsupported, upstream.Vault, byID, Policy{}, "vault_version_unsupported"},
		{upstream.Internal, upstream.Graph, bySerial, Policy{}, "graph_error"},
		{upstream.Internal, upstream.Graph, expecting, Policy{}, "graph_error"},
		{upstream.Internal, upstream.Graph, byID, Policy{GroupTags: []string{"MTR-*"}}, "graph_error"},
		{upstream.Internal, upstream.Graph, `{"deviceId":"` + someDevice + `","dryRun":true}`, Policy{}, "graph_error"},
	} {
		fake := &fakeGraph{find: func(graph.Selector) graph.Found {
			return graph.Found{Err: &upstream.Error{Service: test.service, Reason: test.reason}}
		}}
		_, body, record := post(t, Options{Devices: fake, Policy: test.policy}, test.body)
		if record["code"] != string(test.code) || (fake.changes == 1) != (test.code == Unassigned) || body["account"] != nil {
			t.Errorf("%s of %s, %s: %v after %d changes", test.reason, test.service, test.body, record, fake.changes)
		}
	}
}

// Each code has its own message.
func TestMessageFitsCode(t *testing.T) {
	for code, test := range map[Code]struct {
		carries graph.Account
		members string
		want    string
	}{
		Unassigned:        {fjord, `,"verify":true`, "Graph removed the resource account."},
		AlreadyUnassigned: {graph.Account{}, `,"verify":true`, "The device had no resource account when it was read."},
		WouldUnassign:     {fjord, `,"dryRun":true`, "nothing was changed."},
	} {
		fake := &fakeGraph{find: carrying(test.carries)}
		_, body, _ := post(t, Options{Devices: fake}, `{"deviceId":"`+someDevice+`"`+test.members+`}`)
		if message := fmt.Sprint(body["message"]); body["code"] != string(code) || !strings.Contains(message, test.want) {
			t.Errorf("%v, want %s: %s", body["code"], code, message)
		}
	}
}

// A message never contradicts the verification.
func TestMessageFitsVerification(t *testing.T) {
	for after, want := range map[graph.Account]string{
		{}:              "shows none now",
		fjord:           "still shows one",
		{Unknown: true}: "could not be read again",
	} {
		reads := 0
		fake := &fakeGraph{}
		fake.find = func(s graph.Selector) graph.Found {
			if reads++; reads == 1 {
				return carrying(fjord)(s)
			}
			return carrying(after)(s)
		}
		_, body, _ := post(t, Options{Devices: fake}, `{"deviceId":"`+someDevice+`","verify":true}`)
		if message := fmt.Sprint(body["message"]); !strings.Contains(message, want) || strings.Contains(message, "any more") {
			t.Errorf("%v: %s", body["verification"], message)
		}
	}
}

// TestThrottledList has a list meet Graph's limit: the throttled devices are retried while the request has time for
// Retry-After.
func TestThrottledList(t *testing.T) {
	var list []string
	var ids []graph.DeviceID
	for i := range maxDevices {
		id := fmt.Sprintf("%s%02d", someDevice[:34], i+10)
		ids, list = append(ids, mustDevice(t, id)), append(list, `{"deviceId":"`+id+`"}`)
	}
	body := `{"devices":[` + strings.Join(list, ",") + `]}`
	for _, test := range []struct {
		name       string
		retryAfter time.Duration
		throttled  int // calls that are throttled for the second half of the list
		status     int
		left       int // devices without success
		took       time.Duration
	}{
		{"done after a wait", 8 * time.Second, 1, 200, 0, 8 * time.Second},
		{"done after two waits", 5 * time.Second, 2, 200, 0, 10 * time.Second},
		{"no time for the wait", 18 * time.Second, 1, 503, 10, 0},
		{"no time for the second wait", 10 * time.Second, 2, 503, 10, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			fake := &fakeGraph{find: carrying(fjord), change: func(call int, id graph.DeviceID) error {
				if call <= test.throttled && slices.Index(ids, id) >= 10 {
					return &upstream.Error{Service: upstream.Graph, Reason: upstream.Throttled, RetryAfter: test.retryAfter}
				}
				return nil
			}}
			start := time.Now()
			w, answer, _ := post(t, Options{Devices: fake}, body)
			results, _ := answer["results"].([]any)
			left := 0
			for _, r := range results {
				if r, _ := r.(map[string]any); r["status"] != 200.0 {
					left++
					if r["status"] != 429.0 || r["outcome"] != "not_done" {
						t.Errorf("%s: %v", test.name, r)
					}
				}
			}
			if took := time.Since(start); w.Code != test.status || left != test.left || len(results) != maxDevices || took != test.took || fake.finds != 1 {
				t.Errorf("%s: %d with %d left after %v and %d reads", test.name, w.Code, left, took, fake.finds)
			}
			if want := maxDevices + 10*(fake.changes-1); len(fake.changed) != want {
				t.Errorf("%s: %d changes were sent, want %d", test.name, len(fake.changed), want)
			}
		})
	}
}

// A list whose devices failed for one reason has the title of that reason.
func TestTitleOfAList(t *testing.T) {
	for second, want := range map[upstream.Reason]string{
		upstream.Conflict: statusOf("graph_conflict").title, upstream.StateChanged: "Devices failed",
	} {
		fake := &fakeGraph{find: carrying(fjord), change: func(_ int, id graph.DeviceID) error {
			reason := upstream.Conflict
			if id.String() != someDevice {
				reason = second
			}
			return &upstream.Error{Service: upstream.Graph, Reason: reason}
		}}
		other := someDevice[:34] + "02"
		w, answer, _ := post(t, Options{Devices: fake}, `{"devices":[{"deviceId":"`+someDevice+`"},{"deviceId":"`+other+`"}]}`)
		if w.Code != http.StatusConflict || want == "" || answer["title"] != want {
			t.Errorf("%s: %d %v, want %q", second, w.Code, answer["title"], want)
		}
	}
}

func TestDeviceList(t *testing.T) {
	device := func(n int, tag string, account graph.Account) graph.Device {
		return graph.Device{ID: mustDevice(t, fmt.Sprintf("%s%02d", someDevice[:34], n)), SerialNumber: fmt.Sprint("S", n), GroupTag: tag, Account: account}
	}
	resource := graph.Account{ResourceName: "=cmd|'/C calc'!A0"}
	pages := map[string][]graph.Device{
		"":   {device(1, "MTR-Oslo", fjord), device(2, "MTR-Oslo", graph.Account{}), device(3, "MTR-Bergen", resource)},
		"t1": {device(4, "Kiosk", fjord), device(5, "MTR-Oslo", graph.Account{Unknown: true})},
	}
	fake := &fakeGraph{
		page: func(token string) ([]graph.Device, string, error) {
			switch devices, ok := pages[token]; {
			case !ok:
				return nil, "", graph.ErrPageToken
			case token == "":
				return devices, "t1", nil
			default:
				return devices, "", nil
			}
		},
		find: func(s graph.Selector) graph.Found {
			switch s.SerialNumber {
			case "S1":
				return graph.Found{Device: pages[""][0]}
			case "twice":
				return graph.Found{
					Err:        &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous},
					Candidates: []graph.Device{pages[""][0], pages[""][2]},
				}
			case "many":
				return graph.Found{
					Err:        &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous},
					Candidates: slices.Repeat(pages[""][:1], 30),
				}
			case "":
				for _, d := range pages[""] {
					if d.ID == s.ID {
						return graph.Found{Device: d}
					}
				}
			case "down":
				return graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.Unavailable}}
			}
			return graph.Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.NotFound}}
		},
	}
	oslo := `{"deviceId":"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01","serialNumber":"S1","groupTag":"MTR-Oslo","account":{"userPrincipalName":"room.fjord@contoso.com","resourceName":"room.fjord"}}`
	bergen := `{"deviceId":"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a03","serialNumber":"S3","groupTag":"MTR-Bergen","account":{"resourceName":"=cmd|'/C calc'!A0"}}`
	const header = "deviceId,serialNumber,groupTag,expectedUserPrincipalName,expectedResourceName\r\n"
	for name, test := range map[string]struct {
		query, accept string
		operators     []string
		status        int
		body, next    string
	}{
		"the first page":        {"", "", nil, 200, `{"devices":[` + oslo + `,` + bergen + `],"nextPageToken":"t1"}`, ""},
		"the last page":         {"?pageToken=t1", "application/json", nil, 200, `{"devices":[]}`, ""},
		"a group tag":           {"?groupTag=MTR-Oslo&serialNumber=", "", nil, 200, `{"devices":[` + oslo + `],"nextPageToken":"t1"}`, ""},
		"group tags":            {"?groupTag=MTR-B*", "*/*", nil, 200, `{"devices":[` + bergen + `],"nextPageToken":"t1"}`, ""},
		"a serial number":       {"?serialNumber=S1", "", nil, 200, `{"devices":[` + oslo + `]}`, ""},
		"a shared serial":       {"?serialNumber=twice", "", nil, 200, `{"devices":[` + oslo + `,` + bergen + `]}`, ""},
		"a serial of thirty":    {"?serialNumber=many", "", nil, 200, `{"devices":[` + strings.Repeat(oslo+",", maxDevices-1) + oslo + `]}`, ""},
		"an unknown serial":     {"?serialNumber=none", "", nil, 200, `{"devices":[]}`, ""},
		"Graph is down":         {"?serialNumber=down", "", nil, 503, `"graph_unavailable"`, ""},
		"CSV":                   {"", "text/csv", nil, 200, header + "\"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01\",\"S1\",\"MTR-Oslo\",\"room.fjord@contoso.com\",\"\"\r\n\"6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a03\",\"S3\",\"MTR-Bergen\",\"\",\"'=cmd|''/C calc'!A0\"\r\n", "t1"},
		"CSV at the end":        {"?pageToken=t1", "text/csv", nil, 200, header, ""},
		"CSV is worse":          {"?pageToken=t1", "text/csv;q=0.5, application/json", nil, 200, `{"devices":[]}`, ""},
		"no operator":           {"", "", []string{"other"}, 403, `"operator_denied"`, ""},
		"an unknown parameter":  {"?filter=x", "", nil, 400, `"field":"filter"`, ""},
		"a repeated parameter":  {"?groupTag=a&groupTag=b", "", nil, 400, `"field":"groupTag"`, ""},
		"an invalid token":      {"?pageToken=x", "", nil, 400, `"field":"pageToken"`, ""},
		"an invalid serial":     {"?serialNumber=%00", "", nil, 400, `"field":"serialNumber"`, ""},
		"a serial and a token":  {"?serialNumber=S1&pageToken=t1", "", nil, 400, `"field":"pageToken"`, ""},
		"a query that is wrong": {"?groupTag=%zz&pageToken=t1", "", nil, 400, `"query_invalid"`, ""},
	} {
		var log bytes.Buffer
		if test.operators == nil {
			test.operators = []string{caller.PlatformID}
		}
		h := newHandler(Options{
			Devices: fake, Verifier: caller.Platform{}, Operators: test.operators, Policy: Policy{GroupTags: []string{"MTR-*"}, PerMinute: 1},
			Timeout: time.Second, Log: slog.New(slog.NewJSONHandler(&log, nil)),
		})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, RouteDevices+test.query, nil)
		if test.accept != "" {
			r.Header.Set("Accept", test.accept)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		got := w.Body.String()
		if exact := test.status == 200; w.Code != test.status || exact && strings.TrimSuffix(got, "\n") != strings.TrimSuffix(test.body, "\n") || !strings.Contains(got, strings.TrimSpace(test.body)) ||
			w.Header().Get("X-Next-Page-Token") != test.next || strings.HasPrefix(w.Header().Get("Content-Type"), "text/csv") != strings.HasPrefix(test.body, header) {
			t.Errorf("%s: %d %v\n%q, want\n%q", name, w.Code, w.Header(), got, test.body)
		}
		if want := fmt.Sprintf(`"status":%d`, test.status); strings.Count(log.String(), `"msg":"devices"`) != 1 || !strings.Contains(log.String(), want) || !strings.Contains(log.String(), `"caller_id":"host"`) {
			t.Errorf("%s: the log has %s", name, &log)
		}
		if test.status != 200 {
			continue
		}
		for range maxDevices { // each page counts as one device
			w = httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, RouteDevices, nil))
		}
		if w.Code != http.StatusTooManyRequests {
			t.Errorf("%s: %d over the limit", name, w.Code)
		}
	}
}

// No cell of the device list is a formula, whichever separator a spreadsheet expects.
func TestNoCellIsAFormula(t *testing.T) {
	for _, text := range []string{"=1", "X;=1+cmd|'/C calc'!A0;", "X,@A,y", "a\t+1", "'=1", "a;'=1", "a|-1", "a\r\n=1"} {
		page := DevicePage{Devices: []ListedDevice{{DeviceID: "x", SerialNumber: text, Account: &Account{}}}}
		for _, separator := range ",;|\t\n" {
			for cell := range strings.FieldsFuncSeq(page.encodeCSV(), func(c rune) bool { return c == separator || c == '\r' }) {
				if cell != "" && strings.ContainsRune("=+-@", rune(cell[0])) {
					t.Errorf("%q is a formula where %q separates cells", cell, separator)
				}
			}
		}
	}
}

// Gateways and generated clients write headers in more ways than one.
func TestHeaderForms(t *testing.T) {
	for name, test := range map[string]struct {
		header http.Header
		status int
	}{
		"an empty Content-Type":      {http.Header{"Content-Type": {""}}, 204},
		"a doubled Content-Type":     {http.Header{"Content-Type": {"application/json", "application/json"}}, 204},
		"a joined Content-Type":      {http.Header{"Content-Type": {"application/json, application/json; charset=utf-8"}}, 204},
		"two Content-Types":          {http.Header{"Content-Type": {"application/json", "text/plain"}}, 415},
		"another charset":            {http.Header{"Content-Type": {"application/json; charset=utf-16"}}, 415},
		"an encoding":                {http.Header{"Content-Encoding": {"gzip"}}, 415},
		"Prefer with a parameter":    {http.Header{"Prefer": {"return=representation; foo=bar"}}, 200},
		"Prefer with a wait":         {http.Header{"Prefer": {`wait=10, return="representation";foo`}}, 200},
		"another preference":         {http.Header{"Prefer": {"return=minimal; return=representation"}}, 204},
		"an Idempotency-Key in full": {http.Header{"Idempotency-Key": {"08585-HTTP_(2)"}}, 204},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, RouteUnassign, strings.NewReader(someBody))
		r.Header = test.header
		w := httptest.NewRecorder()
		newHandler(Options{Devices: devicesFunc(done204), Verifier: caller.Platform{}, Timeout: time.Second, Log: slog.New(slog.DiscardHandler)}).ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}
