package azuresim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"autopilot-unassign/internal/azuresim"
)

const collection = "https://graph.microsoft.com/beta/deviceManagement/windowsAutopilotDeviceIdentities"

// caller calls a cloud's Graph with the token of the app.
type caller struct {
	t     *testing.T
	cloud *azuresim.Cloud
	token string
}

func newCaller(t *testing.T) *caller {
	t.Helper()
	c := &caller{t: t, cloud: azuresim.New()}
	c.cloud.SetAppSecrets("secret")
	c.signIn()
	return c
}

// signIn gets a new token.
func (c *caller) signIn() {
	c.t.Helper()
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {c.cloud.ClientID}, "client_secret": {"secret"}, "scope": {"https://graph.microsoft.com/.default"},
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	c.send(http.MethodPost, "https://login.microsoftonline.com/"+c.cloud.TenantID+"/oauth2/v2.0/token", form.Encode(), &token)
	if c.token = token.AccessToken; c.token == "" {
		c.t.Fatal("no token")
	}
}

// send sends a request and returns the status. The body, if it is JSON, goes into v.
func (c *caller) send(method, address, body string, v any) int {
	c.t.Helper()
	resp, err := c.try(c.t.Context(), method, address, body)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if v != nil && json.Unmarshal(text, v) != nil {
		c.t.Fatalf("%s %s: %d %s", method, address, resp.StatusCode, text)
	}
	return resp.StatusCode
}

func (c *caller) try(ctx context.Context, method, address, body string) (*http.Response, error) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return c.cloud.Do(req)
}

// page is an answer of the collection.
type page struct {
	Value    []map[string]any
	NextLink string `json:"@odata.nextLink"`
	Error    struct{ Code string }
}

func (p page) serials() string {
	var serials []string
	for _, device := range p.Value {
		serials = append(serials, fmt.Sprint(device["serialNumber"]))
	}
	return strings.Join(serials, ",")
}

// put stores devices with those serial numbers.
func (c *caller) put(serials ...string) {
	for i, serial := range serials {
		c.cloud.PutDevice(azuresim.Device{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1), SerialNumber: serial, ResourceName: "room"})
	}
}

func TestFleet(t *testing.T) {
	fleet := azuresim.Fleet(10_000)
	if !slices.Equal(fleet, azuresim.Fleet(10_000)) || !slices.Equal(fleet[:777], azuresim.Fleet(777)) {
		t.Error("two fleets differ")
	}
	ids, serials, tags := map[string]bool{}, map[string]int{}, map[string]int{}
	matching, unknown, forms := 0, 0, map[azuresim.Form]int{}
	for _, d := range fleet {
		ids[d.ID] = true
		serials[strings.ToLower(d.SerialNumber)]++
		tags[d.GroupTag]++
		forms[d.Form]++
		switch {
		case d.GroupTag != azuresim.FleetTag:
		case d.Form == azuresim.LeftOut:
			unknown++
		case d.UserPrincipalName+d.AddressableUserName+d.ResourceName != "":
			matching++
		}
	}
	if len(ids) != 10_000 || matching != 1000 || unknown != 500 || tags[azuresim.FleetTag] != 2000 || len(tags) < 6 || len(forms) != 3 {
		t.Errorf("%d ids, %d matching, %d unknown, tags %v, forms %v", len(ids), matching, unknown, tags, forms)
	}
	shared := 0
	for serial, n := range serials {
		switch serial {
		case "default string", "to be filled by o.e.m.", "", "system serial number":
			if n != 40 {
				t.Errorf("%d devices have the serial number %q", n, serial)
			}
			continue
		}
		if n == 2 {
			shared++
		} else if n > 2 {
			t.Errorf("%d devices have the serial number %q", n, serial)
		}
	}
	if shared != 20 {
		t.Errorf("%d serial numbers are of two devices", shared)
	}
	for _, odd := range []string{"VMware-56 4d ", "O'Brien-", "5CG", "PF"} {
		if !slices.ContainsFunc(fleet, func(d azuresim.Device) bool { return strings.HasPrefix(d.SerialNumber, odd) }) {
			t.Errorf("no serial number begins with %s", odd)
		}
	}
}

// Graph writes empty properties in several forms, and returns a password.
func TestForms(t *testing.T) {
	c := newCaller(t)
	for form, want := range map[azuresim.Form]string{
		azuresim.AsText:  `map[addressableUserName: deviceAccountPassword:p groupTag: resourceName:r serialNumber:s userPrincipalName:]`,
		azuresim.AsNull:  `map[addressableUserName:<nil> deviceAccountPassword:p groupTag:<nil> resourceName:r serialNumber:s userPrincipalName:<nil>]`,
		azuresim.LeftOut: `map[deviceAccountPassword:p groupTag: serialNumber:s]`,
	} {
		id := "00000000-0000-4000-8000-000000000001"
		c.cloud.PutDevice(azuresim.Device{ID: id, SerialNumber: "s", ResourceName: "r", DeviceAccountPassword: "p", Form: form})
		var device map[string]any
		c.send(http.MethodGet, collection+"/"+id, "", &device)
		for _, other := range []string{"id", "manufacturer", "model", "enrollmentState"} {
			delete(device, other)
		}
		if got := fmt.Sprint(device); got != want {
			t.Errorf("%q: %s\nwant %s", form, got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	c := newCaller(t)
	c.put("5CG1234ABC", "X5CG1234ABCX", "PF3-0123-4567", "Default string", "O'Brien", "1234-5678-90ab")
	for _, test := range []struct {
		query, serials, code string
	}{
		{"$filter=contains(serialNumber,'5CG1234ABC')", "5CG1234ABC,X5CG1234ABCX", ""},
		{"$filter=contains(serialNumber,'5cg1234abc')", "5CG1234ABC,X5CG1234ABCX", ""},
		{"$filter=contains(serialNumber,'nowhere')", "", ""},
		{"$filter=contains(serialNumber,'PF3-0123')", "PF3-0123-4567", ""},
		{"$filter=contains(serialNumber,'1234-5678-90ab')", "", "BadRequest"}, // looks like a GUID
		{"$filter=contains(serialNumber,'Default string')", "", "BadRequest"},
		{"$filter=contains(serialNumber,'O''Brien')", "O'Brien", ""},
		{"$filter=contains(serialNumber,'O'Brien')", "", "BadRequest"},
		{"$filter=serialNumber eq '5CG1234ABC'", "", "BadRequest"},
		{"$filter=contains(serialNumber,'a') or 1 eq 1", "", "BadRequest"},
		{"$filter=contains(displayName,'a')", "", "BadRequest"},
		{"$select=serialNumber", "", "InternalServerError"},
	} {
		var got page
		c.send(http.MethodGet, collection+"?"+strings.ReplaceAll(test.query, " ", "%20"), "", &got)
		if got.serials() != test.serials || got.Error.Code != test.code {
			t.Errorf("%s: %s %s; want %s %s", test.query, got.serials(), got.Error.Code, test.serials, test.code)
		}
	}
}

// Two at a time make seven rows of five devices, one at a time never end, nor do those that share a serial number.
func TestPages(t *testing.T) {
	for _, test := range []struct {
		name, query string
		serials     []string
		want        string
	}{
		{"two at a time", "?$top=2", []string{"a", "b", "c", "d", "e"}, "a,b|b,c,d|d,e"},
		{"one at a time", "?$top=1", []string{"a", "b"}, "a|a|again"},
		{"three that share", "?$top=2", []string{"a", "b", "b", "b", "c"}, "a,b|b,b,b|again"},
		{"all", "", []string{"a", "b", "c"}, "a,b,c"},
		{"an empty serial number", "?$top=2", []string{"", "b", "c"}, ",b|b,c"},
	} {
		c := newCaller(t)
		c.put(test.serials...)
		var pages []string
		address := collection + test.query
		for address != "" && len(pages) < 9 {
			var p page
			c.send(http.MethodGet, address, "", &p)
			pages = append(pages, p.serials())
			if p.NextLink == address {
				pages = append(pages, "again")
				break
			}
			address = p.NextLink
		}
		if got := strings.Join(pages, "|"); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	c := newCaller(t)
	c.cloud.PutFleet(2500)
	rows, requests := map[any]bool{}, 0
	for address := collection; address != ""; requests++ {
		var p page
		c.send(http.MethodGet, address, "", &p)
		for _, device := range p.Value {
			rows[device["id"]] = true
		}
		address = p.NextLink
	}
	if len(rows) != 2500 || requests != 3 {
		t.Errorf("%d devices in %d pages", len(rows), requests)
	}
}

// post is a request inside a batch that takes the account off the device with that number.
func post(id string, device int) string {
	return fmt.Sprintf(`{"id":%q,"method":"POST","url":"/deviceManagement/windowsAutopilotDeviceIdentities/00000000-0000-4000-8000-%012d/unassignResourceAccountFromDevice","headers":{"Content-Type":"application/json"},"body":{}}`, id, device)
}

func TestBatch(t *testing.T) {
	get := `{"id":"g","method":"GET","url":"/deviceManagement/windowsAutopilotDeviceIdentities?$filter=contains(serialNumber,'a')"}`
	many := func(n int) string {
		var items []string
		for i := range n {
			items = append(items, post(fmt.Sprint(i), i+1))
		}
		return strings.Join(items, ",")
	}
	for _, test := range []struct {
		name, items string
		status      int
		ends        string
		faults      func(*azuresim.Cloud)
	}{
		{"each as it would be alone", post("x", 1) + "," + post("y", 99) + "," + get, 200, "g 200,x 204,y 400", nil},
		{"twenty", many(20), 200, "", nil},
		{"twenty-one", many(21), 400, "", nil},
		{"none", "", 400, "", nil},
		{"an id twice", post("x", 1) + "," + post("x", 2), 400, "", nil},
		{"no id", post("", 1), 400, "", nil},
		{"an absolute address", strings.Replace(get, "/deviceManagement", collection, 1), 400, "", nil},
		{"a POST without a body", strings.Replace(post("x", 1), `,"body":{}`, "", 1), 400, "", nil},
		{"a fault of one", post("x", 1) + "," + post("y", 2), 200, "x 429,y 204", func(c *azuresim.Cloud) { c.Fail(azuresim.StepItem, 1, azuresim.Status(429)) }},
		{"a fault of the whole", post("x", 1), 503, "", func(c *azuresim.Cloud) { c.Fail(azuresim.StepGraph, 1, azuresim.Status(503)) }},
	} {
		c := newCaller(t)
		c.put("a", "b")
		if test.faults != nil {
			test.faults(c.cloud)
		}
		var got struct {
			Responses []struct {
				ID      string
				Status  int
				Headers map[string]string
			}
		}
		status := c.send(http.MethodPost, "https://graph.microsoft.com/beta/$batch", `{"requests":[`+test.items+`]}`, &got)
		var ends []string
		for _, r := range got.Responses {
			ends = append(ends, fmt.Sprint(r.ID, " ", r.Status))
			if r.Headers["Request-Id"] == "" {
				t.Errorf("%s: no request-id in %v", test.name, r)
			}
		}
		slices.Sort(ends)
		if status != test.status || test.ends != "" && strings.Join(ends, ",") != test.ends {
			t.Errorf("%s: %d %v; want %d %s", test.name, status, ends, test.status, test.ends)
		}
		device, _ := c.cloud.Device("00000000-0000-4000-8000-000000000001")
		if done, want := device.ResourceName == "", strings.Contains(test.ends, "x 204") || test.name == "twenty"; done != want {
			t.Errorf("%s: done is %v", test.name, done)
		}
	}
}

// Graph 1.0 has unassignUserFromDevice, and not our action.
func TestUnassignUser(t *testing.T) {
	c := newCaller(t)
	c.cloud.PutDevice(azuresim.Device{ID: "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01", UserPrincipalName: "room@contoso.com", AddressableUserName: "Room", ResourceName: "room"})
	stable := strings.Replace(collection, "/beta/", "/v1.0/", 1)
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{http.MethodPost, "/6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01/unassignResourceAccountFromDevice", http.StatusBadRequest},
		{http.MethodGet, "/6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01/unassignUserFromDevice", http.StatusBadRequest},
		{http.MethodPost, "/6f1a9c0e-5b1d-4c55-9d3a-000000000000/unassignUserFromDevice", http.StatusBadRequest},
		{http.MethodPost, "/6F1A9C0E-5B1D-4C55-9D3A-1F0E7C2B4A01/unassignUserFromDevice", http.StatusNoContent},
	} {
		if d, _ := c.cloud.Device("6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"); d.UserPrincipalName == "" {
			t.Errorf("the user was gone before %s %s", test.method, test.path)
		}
		if got := c.send(test.method, stable+test.path, "", nil); got != test.want {
			t.Errorf("%s %s: %d, want %d", test.method, test.path, got, test.want)
		}
	}
	if d, _ := c.cloud.Device("6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"); d.UserPrincipalName+d.AddressableUserName != "" || d.ResourceName != "room" {
		t.Errorf("the device has %+v", d)
	}
}

// Graph accepts a hundred writes in twenty seconds, alone or in a batch. It does not count reads.
func TestWriteLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t)
		c.put("a")
		write := func() int {
			return c.send(http.MethodPost, collection+"/00000000-0000-4000-8000-000000000001/unassignResourceAccountFromDevice", "", nil)
		}
		c.cloud.Throttle(azuresim.WriteLimit{Writes: azuresim.PublishedWrites, CountRefused: true})
		for i := range 100 {
			if i == 50 {
				time.Sleep(10 * time.Second)
			}
			if status := write(); status != http.StatusNoContent {
				t.Fatalf("write %d: %d", i, status)
			}
			if status := c.send(http.MethodGet, collection, "", nil); status != http.StatusOK {
				t.Fatalf("read %d: %d", i, status)
			}
		}
		if status := write(); status != http.StatusTooManyRequests {
			t.Errorf("write 101: %d", status)
		}
		time.Sleep(11 * time.Second) // the first fifty have left the window
		if status := write(); status != http.StatusNoContent {
			t.Errorf("after the time: %d", status)
		}
		if items := c.cloud.Requests(azuresim.StepGraph); items[len(items)-1].At.Sub(items[0].At) != 21*time.Second {
			t.Errorf("the last request came at %v", items[len(items)-1].At)
		}
	})
}

// Refused writes count against the limit, or they do not.
func TestRefusedWritesCount(t *testing.T) {
	for _, counted := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCaller(t)
			c.put("a")
			c.cloud.Throttle(azuresim.WriteLimit{Writes: 3, CountRefused: counted, RetryAfter: 7})
			statuses := ""
			for range 12 { // a write each two seconds
				resp, err := c.try(t.Context(), http.MethodPost, collection+"/00000000-0000-4000-8000-000000000001/unassignResourceAccountFromDevice", "")
				if err != nil {
					t.Fatal(err)
				}
				if statuses += fmt.Sprint(resp.StatusCode / 100); resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "7" {
					t.Errorf("Retry-After is %q", resp.Header.Get("Retry-After"))
				}
				time.Sleep(2 * time.Second)
			}
			if want := map[bool]string{true: "222444444444", false: "222444444442"}[counted]; statuses != want {
				t.Errorf("refused writes count: %v: %s, want %s", counted, statuses, want)
			}
		})
	}
}

// Multi Admin Approval refuses the action and nothing else; odd rows stand in lists; the tokens of items can be refused.
func TestOddGraph(t *testing.T) {
	c := newCaller(t)
	c.put("a", "b")
	action := collection + "/00000000-0000-4000-8000-000000000001/unassignResourceAccountFromDevice"
	c.cloud.RequireApproval(http.StatusForbidden)
	if act, read := c.send(http.MethodPost, action, "", nil), c.send(http.MethodGet, collection, "", nil); act != 403 || read != 200 {
		t.Errorf("with approval required: %d to the action, %d to a read", act, read)
	}
	c.cloud.RequireApproval(0)
	c.cloud.PutOddRows(`null`, `{"id":7}`)
	var rows struct{ Value []json.RawMessage }
	if c.send(http.MethodGet, collection, "", &rows); len(rows.Value) != 4 || string(rows.Value[0]) != "null" {
		t.Errorf("rows %s", rows.Value)
	}
	c.cloud.RefuseItemTokens(1)
	for _, want := range []int{401, 204} {
		var batch struct{ Responses []struct{ Status int } }
		status := c.send(http.MethodPost, "https://graph.microsoft.com/beta/$batch", `{"requests":[`+post("x", 1)+`]}`, &batch)
		if status != http.StatusOK || len(batch.Responses) != 1 || batch.Responses[0].Status != want {
			t.Errorf("%d %+v, want %d", status, batch, want)
		}
		if d, _ := c.cloud.Device("00000000-0000-4000-8000-000000000001"); (d.ResourceName == "") != (want == 204) {
			t.Errorf("%d: the device has %+v", want, d)
		}
	}
}

// Every response of Graph has a request-id, also after a fault. A proxy's response has none.
func TestRequestID(t *testing.T) {
	c := newCaller(t)
	for name, test := range map[string]struct {
		fault azuresim.Fault
		has   bool
	}{
		"a success":     {azuresim.Delay(0), true},
		"a status":      {azuresim.Status(404), true},
		"a body":        {azuresim.Body(200, "application/json", `{}`), true},
		"an error":      {azuresim.GraphError(400, azuresim.Nested, 0), true},
		"a proxy":       {azuresim.Foreign(azuresim.Status(404)), false},
		"its HTML page": {azuresim.WrongType(), false},
	} {
		c.cloud.Fail(azuresim.StepGraph, 1, test.fault)
		resp, err := c.try(t.Context(), http.MethodGet, collection, "")
		if err != nil || (resp.Header.Get("request-id") != "") != test.has {
			t.Errorf("%s: %v, %v", name, resp.Header, err)
		}
	}
}

// Each fault applies as often as Fail says, and the request has its effect or not.
func TestFaults(t *testing.T) {
	for name, test := range map[string]struct {
		fault azuresim.Fault
		end   string
		done  bool
	}{
		"a status":                {azuresim.Status(429, "Retry-After", "7"), "429 7", false},
		"nothing but time":        {azuresim.Delay(time.Second), "204", true},
		"more time than there is": {azuresim.Delay(time.Minute), "deadline", true},
		"it hangs":                {azuresim.Hang(), "deadline", false},
		"a reset":                 {azuresim.Reset(), "error", false},
		"a reset in the body":     {azuresim.ResetMidBody(), "204 cut", true},
		"no connection":           {azuresim.Refused(), "error", false},
		"a status, and done":      {azuresim.Done(azuresim.Status(500)), "500", true},
		"a proxy's page":          {azuresim.WrongType(), "200", false},
		"a redirect":              {azuresim.Redirect("https://stranger.example"), "307", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCaller(t)
			c.put("a")
			c.cloud.Fail(azuresim.StepGraph, 1, test.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			act := func() string {
				resp, err := c.try(ctx, http.MethodPost, collection+"/00000000-0000-4000-8000-000000000001/unassignResourceAccountFromDevice", "")
				switch {
				case errors.Is(err, context.DeadlineExceeded):
					return "deadline"
				case err != nil:
					return "error"
				}
				end := strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Retry-After")))
				if _, err := io.ReadAll(resp.Body); err != nil {
					end += " cut"
				}
				return end
			}
			end := act()
			device, _ := c.cloud.Device("00000000-0000-4000-8000-000000000001")
			if done := device.ResourceName == ""; end != test.end || done != test.done {
				t.Errorf("%s: %s, done is %v; want %s and %v", name, end, done, test.end, test.done)
			}
			if end == "deadline" {
				ctx = t.Context()
			}
			if end := act(); end != "204" {
				t.Errorf("%s: the next request ends with %s", name, end)
			}
		})
	}
}

// Forgotten requests still count.
func TestForget(t *testing.T) {
	c := newCaller(t)
	for n := range 3 {
		c.send(http.MethodGet, collection, "", nil)
		if kept, all := len(c.cloud.Requests(azuresim.StepGraph)), c.cloud.Count(azuresim.StepGraph); kept != 1 || all != n+1 {
			t.Errorf("%d requests of %d are kept, want 1 of %d", kept, all, n+1)
		}
		c.cloud.Forget()
	}
	if kept, all := len(c.cloud.Requests(azuresim.StepGraph)), c.cloud.Count(azuresim.StepGraph); kept != 0 || all != 3 {
		t.Errorf("%d requests of %d are kept, want 0 of 3", kept, all)
	}
}

// A token is valid for the lifetime of its issue.
func TestTokenLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := newCaller(t)
		for _, test := range []struct {
			life   time.Duration
			status int
		}{{6 * time.Minute, 200}, {2 * time.Minute, 401}} {
			c := &caller{t: t, cloud: long.cloud}
			c.cloud.SetTokenLife(test.life)
			c.signIn()
			time.Sleep(3 * time.Minute)
			if status := c.send(http.MethodGet, collection, "", nil); status != test.status {
				t.Errorf("three minutes later, with a token for %v: %d, want %d", test.life, status, test.status)
			}
		}
		if status := long.send(http.MethodGet, collection, "", nil); status != http.StatusOK {
			t.Errorf("with a token from before: %d", status)
		}
	})
}
