package azuresim

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/internal/guid"
)

var graphService = service{ //nolint:gochecknoglobals // a table that nothing writes to
	name: "graph",
	step: func(r *http.Request) Step {
		if r.URL.Path == "/" {
			return StepConnect
		}
		return StepGraph
	},
	answer: (*Cloud).graph,
}

// Device is a windowsAutopilotDeviceIdentity, as far as the program may see of it.
type Device struct {
	ID                    string
	SerialNumber          string
	GroupTag              string
	UserPrincipalName     string
	AddressableUserName   string
	ResourceName          string
	Manufacturer          string
	Model                 string
	EnrollmentState       string
	DeviceAccountPassword string // which Graph really hands out
	Form                  Form
}

// Form is how Graph writes what a Device does not have.
type Form string

// The forms.
const (
	AsText  Form = ""         // as an empty text
	AsNull  Form = "as null"  // as null
	LeftOut Form = "left out" // the three properties of the account are left out, whatever they are
)

// MarshalJSON writes d as Graph does.
func (d Device) MarshalJSON() ([]byte, error) {
	text := func(s string) *string {
		if s == "" && d.Form == AsNull {
			return nil
		}
		return &s
	}
	type device struct {
		ID                    string  `json:"id"`
		SerialNumber          *string `json:"serialNumber"`
		GroupTag              *string `json:"groupTag"`
		Manufacturer          *string `json:"manufacturer"`
		Model                 *string `json:"model"`
		EnrollmentState       *string `json:"enrollmentState"`
		DeviceAccountPassword *string `json:"deviceAccountPassword"`
	}
	written := device{d.ID, text(d.SerialNumber), text(d.GroupTag), text(d.Manufacturer), text(d.Model), text(d.EnrollmentState), text(d.DeviceAccountPassword)}
	if d.Form == LeftOut {
		return json.Marshal(written)
	}
	return json.Marshal(struct {
		device
		UserPrincipalName   *string `json:"userPrincipalName"`
		AddressableUserName *string `json:"addressableUserName"`
		ResourceName        *string `json:"resourceName"`
	}{written, text(d.UserPrincipalName), text(d.AddressableUserName), text(d.ResourceName)})
}

// PutDevice stores d, in the place of the device with its ID if there is one.
func (c *Cloud) PutDevice(d Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.ID = strings.ToLower(d.ID)
	c.devices[d.ID] = d
	c.order = nil
}

// Device returns the device with that id, and whether there is one.
func (c *Cloud) Device(id string) (Device, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.devices[strings.ToLower(id)]
	return d, ok
}

// Devices returns all devices in the order in which Graph lists them: by serial number, then by id.
func (c *Cloud) Devices() []Device {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listed()
}

func (c *Cloud) listed() []Device {
	if c.order == nil {
		c.order = slices.SortedFunc(maps.Keys(c.devices), func(a, b string) int {
			return cmp.Or(strings.Compare(c.devices[a].SerialNumber, c.devices[b].SerialNumber), strings.Compare(a, b))
		})
	}
	list := make([]Device, len(c.order))
	for i, id := range c.order {
		list[i] = c.devices[id]
	}
	return list
}

// Throttle switches the published limit on writes on or off: 100 in 20 seconds for an app.
func (c *Cloud) Throttle(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limited, c.writes = on, nil
}

const (
	deviceCollection = "/beta/deviceManagement/windowsAutopilotDeviceIdentities"
	unassignAction   = "unassignResourceAccountFromDevice"
	stableCollection = "/v1.0/deviceManagement/windowsAutopilotDeviceIdentities"
	siblingAction    = "unassignUserFromDevice"
	pageSize         = 1000
)

func (c *Cloud) graph(r *http.Request, body []byte) answer {
	return c.graphHeaders(r, c.graphAnswer(r, body))
}

// graphHeaders returns a with the headers that every answer of Graph has.
func (c *Cloud) graphHeaders(r *http.Request, a answer) answer {
	if a.header == nil {
		a.header = http.Header{}
	}
	a.header.Set("request-id", guid.New().String())
	if id := r.Header.Get("client-request-id"); id != "" {
		a.header.Set("client-request-id", id)
	}
	a.header.Set("x-ms-ags-diagnostic", `{"ServerInfo":{"DataCenter":"Simulated","Slice":"E","Ring":"1","ScaleUnit":"000","RoleInstance":"SIM"}}`)
	return a
}

func (c *Cloud) graphAnswer(r *http.Request, body []byte) answer {
	if refused, ok := c.authorised(r); !ok {
		return refused
	}
	if r.URL.Path == batchPath && r.Method == http.MethodPost {
		return c.batch(r, body)
	}
	if path, ok := strings.CutPrefix(r.URL.Path, stableCollection+"/"); ok {
		return c.sibling(r, path)
	}
	path, ok := strings.CutPrefix(r.URL.Path, deviceCollection)
	if !ok {
		return graphError(http.StatusBadRequest, NoRoute, "", "", 0)
	}
	if path == "" {
		if r.Method != http.MethodGet {
			return graphError(http.StatusBadRequest, NoRoute, "", "", 0)
		}
		return c.list(r)
	}
	id, action, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	device, known := c.devices[strings.ToLower(id)]
	action = strings.TrimPrefix(action, "microsoft.graph.")
	switch {
	case action == "" && r.Method == http.MethodGet && r.URL.Query().Has("$select"):
		return graphError(http.StatusInternalServerError, Nested, "InternalServerError", "An error has occurred", 0)
	case action == "" && r.Method == http.MethodGet && known:
		return jsonAnswer(http.StatusOK, device)
	case action == "" && r.Method == http.MethodGet:
		return graphError(http.StatusNotFound, Nested, "ResourceNotFound", "An error has occurred", 0)
	case action != unassignAction || r.Method != http.MethodPost:
		return graphError(http.StatusBadRequest, NoRoute, "", "", 0)
	case c.overLimit():
		return graphError(http.StatusTooManyRequests, Plain, "TooManyRequests", "Too many requests.", 0)
	case !known:
		return graphError(http.StatusBadRequest, Nested, "ResourceNotFound", "An error has occurred", 0)
	}
	device.UserPrincipalName, device.AddressableUserName, device.ResourceName = "", "", ""
	c.devices[device.ID] = device
	return answer{status: http.StatusNoContent}
}

// sibling answers a request for the action that takes the user off a device. It is in Graph 1.0, where ours is not, for programs
// whose library knows no beta; nothing else of Graph 1.0 is here.
func (c *Cloud) sibling(r *http.Request, path string) answer {
	id, action, _ := strings.Cut(path, "/")
	device, known := c.devices[strings.ToLower(id)]
	switch {
	case strings.TrimPrefix(action, "microsoft.graph.") != siblingAction || r.Method != http.MethodPost:
		return graphError(http.StatusBadRequest, NoRoute, "", "", 0)
	case c.overLimit():
		return graphError(http.StatusTooManyRequests, Plain, "TooManyRequests", "Too many requests.", 0)
	case !known:
		return graphError(http.StatusBadRequest, Nested, "ResourceNotFound", "An error has occurred", 0)
	}
	device.UserPrincipalName, device.AddressableUserName = "", ""
	c.devices[device.ID] = device
	return answer{status: http.StatusNoContent}
}

// authorised returns the refusal of a request whose token Graph does not accept.
func (c *Cloud) authorised(r *http.Request) (answer, bool) {
	claims, ok := c.claimsOf(r)
	issued, _ := strconv.ParseInt(asString(claims["issued_ns"]), 10, 64)
	switch {
	case !ok, claims["aud"] != "https://"+r.Host, issued < c.revoked.UnixNano() && !c.revoked.IsZero():
		return graphError(http.StatusUnauthorized, Plain, "InvalidAuthenticationToken", "Access token is empty or not valid.", 0), false
	case c.claims != "" && !strings.Contains(asString(claims["xms_claims"]), c.claims):
		a := graphError(http.StatusUnauthorized, Plain, "InvalidAuthenticationToken", "Continuous access evaluation resulted in challenge.", 0)
		a.header.Set("WWW-Authenticate", `Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", client_id="00000003-0000-0000-c000-000000000000", error="insufficient_claims", claims="`+
			base64.StdEncoding.EncodeToString([]byte(c.claims))+`"`)
		return a, false
	}
	roles, _ := claims["roles"].([]any)
	if !slices.Contains(roles, any(GraphRole)) {
		return graphError(http.StatusForbidden, Nested, "Forbidden", "Application is not authorized to perform this operation. Application must have one of the following scopes: "+GraphRole, 0), false
	}
	return answer{}, true
}

func asString(v any) string {
	s, _ := v.(string)
	return s
}

// overLimit counts a write, and reports whether it is one too many.
func (c *Cloud) overLimit() bool {
	if !c.limited {
		return false
	}
	now := c.Now()
	c.writes = slices.DeleteFunc(c.writes, func(at time.Time) bool { return now.Sub(at) > 20*time.Second })
	c.writes = append(c.writes, now)
	return len(c.writes) > 100
}

// The patterns are compiled when there is a cloud, of which a deployment has none.
var (
	containsFilter = sync.OnceValue(func() *regexp.Regexp { //nolint:gochecknoglobals // that nothing writes to
		return regexp.MustCompile(`^contains\(serialNumber,\s*'((?:[^']|'')*)'\)$`)
	})
	hyphenated = sync.OnceValue(func() *regexp.Regexp { //nolint:gochecknoglobals // likewise
		return regexp.MustCompile(`^[0-9A-Fa-f]{4,}(-[0-9A-Fa-f]{2,})+$`)
	})
	skipToken = sync.OnceValue(func() *regexp.Regexp { //nolint:gochecknoglobals // likewise
		return regexp.MustCompile(`^LastSerialNumber='(.*)'$`)
	})
)

// list answers a request for the collection, with the defects that Graph has there: one filter works and it fails on spaces
// and on what looks like a GUID; a selection of the serial number is an error; and a page begins with the last device of
// the page before, so that devices of one serial number can fill a page for ever. What has been seen of the size of such a
// page is that two at a time make seven rows of five devices, and one at a time never end.
func (c *Cloud) list(r *http.Request) answer {
	query := r.URL.Query()
	if query.Has("$select") {
		return graphError(http.StatusInternalServerError, Nested, "InternalServerError", "An error has occurred", 0)
	}
	devices := c.listed()
	if filter := query.Get("$filter"); filter != "" {
		m := containsFilter().FindStringSubmatch(filter)
		if len(m) == 0 || strings.Contains(m[1], " ") || hyphenated().MatchString(m[1]) {
			return graphError(http.StatusBadRequest, Nested, "BadRequest", "An error has occurred", 0)
		}
		part := strings.ToLower(strings.ReplaceAll(m[1], "''", "'"))
		devices = slices.DeleteFunc(devices, func(d Device) bool { return !strings.Contains(strings.ToLower(d.SerialNumber), part) })
	}
	size := pageSize
	if top, err := strconv.Atoi(query.Get("$top")); err == nil && top > 0 && top < pageSize {
		size = top
	}
	if m := skipToken().FindStringSubmatch(query.Get("$skiptoken")); m != nil {
		from := slices.IndexFunc(devices, func(d Device) bool { return d.SerialNumber >= m[1] })
		if from < 0 {
			from = len(devices)
		}
		devices = devices[from:]
		if size > 1 {
			size++ // the one that is repeated
		}
	}
	page := map[string]any{"@odata.context": "https://" + r.Host + "/beta/$metadata#deviceManagement/windowsAutopilotDeviceIdentities"}
	if len(devices) > size {
		devices = devices[:size]
		query.Set("$skiptoken", "LastSerialNumber='"+devices[size-1].SerialNumber+"'")
		page["@odata.nextLink"] = "https://" + r.Host + deviceCollection + "?" + encodeQuery(query)
	}
	page["value"] = devices
	return jsonAnswer(http.StatusOK, page)
}

// encodeQuery encodes a query as Graph writes it, with the dollar signs of OData as they are.
func encodeQuery(query url.Values) string {
	return strings.ReplaceAll(query.Encode(), "%24", "$")
}
