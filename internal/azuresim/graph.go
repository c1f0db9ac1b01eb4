package azuresim

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
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
	answer: (*Cloud).graphAnswer,
}

// Device is a windowsAutopilotDeviceIdentity.
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
	DeviceAccountPassword string // Graph returns it
	Form                  Form
}

// Form is the form of the empty properties of a Device.
type Form string

// The forms.
const (
	AsText  Form = ""         // as an empty string
	AsNull  Form = "as null"  // as null
	LeftOut Form = "left out" // without the three properties of the account, empty or not
)

// MarshalJSON writes d as Graph does.
func (d Device) MarshalJSON() ([]byte, error) {
	properties := map[string]any{
		"serialNumber": d.SerialNumber, "groupTag": d.GroupTag, "manufacturer": d.Manufacturer, "model": d.Model,
		"enrollmentState": d.EnrollmentState, "deviceAccountPassword": d.DeviceAccountPassword,
	}
	if d.Form != LeftOut {
		properties["userPrincipalName"], properties["resourceName"] = d.UserPrincipalName, d.ResourceName
		properties["addressableUserName"] = d.AddressableUserName
	}
	for name, value := range properties {
		if value == "" && d.Form == AsNull {
			properties[name] = nil
		}
	}
	properties["id"] = d.ID
	return json.Marshal(properties)
}

// PutDevice stores d, and replaces the device with its ID.
func (c *Cloud) PutDevice(d Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.ID = strings.ToLower(d.ID)
	c.devices[d.ID] = d
	c.order = nil
}

// Device returns the device with that id, and whether it exists.
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
	return c.sortedDevices()
}

func (c *Cloud) sortedDevices() []Device {
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

// WriteLimit is a limit on the writes of the app in 20 seconds. The zero value is no limit.
type WriteLimit struct {
	Writes int
	// CountRefused counts refused writes against the limit too. Microsoft's guidance says that all attempts count
	// (https://learn.microsoft.com/graph/throttling); callers have seen both.
	CountRefused bool
	// RetryAfter is the Retry-After header of a refusal, in seconds; 0 sends none, as Intune often does
	// (https://github.com/almenscorner/IntuneCD/issues/217).
	RetryAfter int
}

const (
	// PublishedWrites is Intune's published limit for enrolment devices: writes of an app in a tenant in 20 seconds
	// (https://learn.microsoft.com/graph/throttling-limits).
	PublishedWrites = 100
	writeWindow     = 20 * time.Second
)

// Throttle sets the limit on writes, and forgets earlier writes.
func (c *Cloud) Throttle(limit WriteLimit) { c.changeLocked(func() { c.limit, c.writes = limit, nil }) }

// RequireApproval makes the action subject to Multi Admin Approval: Graph refuses it with that status. Microsoft
// documents 400; 403 has been announced (https://github.com/Microsoft365DSC/Microsoft365DSC/issues/7236).
func (c *Cloud) RequireApproval(status int) { c.changeLocked(func() { c.approval = status }) }

// PutOddRows adds values to the first page of each list that are not devices, or not as documented.
func (c *Cloud) PutOddRows(rows ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, row := range rows {
		c.oddRows = append(c.oddRows, json.RawMessage(row))
	}
}

// RefuseItemTokens makes Graph accept the next n batches and refuse the token of each item in them
// (https://github.com/microsoftgraph/msgraph-sdk-dotnet/issues/2660).
func (c *Cloud) RefuseItemTokens(n int) { c.changeLocked(func() { c.refuseItems = n }) }

const (
	deviceCollection = "/beta/deviceManagement/windowsAutopilotDeviceIdentities"
	unassignAction   = "unassignResourceAccountFromDevice"
	stableCollection = "/v1.0/deviceManagement/windowsAutopilotDeviceIdentities"
	siblingAction    = "unassignUserFromDevice"
	pageSize         = 1000
)

// graphHeaders returns a with the headers of every response of Graph.
func (c *Cloud) graphHeaders(r *http.Request, a answer) answer {
	if a.header == nil {
		a.header = http.Header{}
	}
	if a.header.Get("request-id") == "" {
		a.header.Set("request-id", guid.New().String())
	}
	if id := r.Header.Get("client-request-id"); id != "" {
		a.header.Set("client-request-id", id)
	}
	a.header.Set("x-ms-ags-diagnostic",
		`{"ServerInfo":{"DataCenter":"Simulated","Slice":"E","Ring":"1","ScaleUnit":"000","RoleInstance":"SIM"}}`)
	return a
}

func (c *Cloud) graphAnswer(r *http.Request, body []byte) answer {
	if refused, ok := c.checkToken(r); !ok {
		return refused
	}
	if r.URL.Path == batchPath && r.Method == http.MethodPost {
		return c.serveBatch(r, body)
	}
	path, beta := strings.CutPrefix(r.URL.Path, deviceCollection)
	stable := false
	if !beta {
		path, stable = strings.CutPrefix(r.URL.Path, stableCollection+"/")
	}
	if beta && path == "" && r.Method == http.MethodGet {
		return c.listDevices(r)
	}
	if !beta && !stable || path == "" {
		return graphError(http.StatusBadRequest, NoRoute, "", "", 0)
	}
	id, action, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	device, known := c.devices[strings.ToLower(id)]
	action = strings.TrimPrefix(action, "microsoft.graph.")
	read := action == "" && r.Method == http.MethodGet
	// Graph 1.0 lacks our action and has its sibling, which removes the user; some libraries lack beta.
	acts := r.Method == http.MethodPost && (beta && action == unassignAction || stable && action == siblingAction)
	switch {
	case read && beta && r.URL.Query().Has("$select"):
		return graphError(http.StatusInternalServerError, Nested, "InternalServerError", "An error has occurred", 0)
	case read && known:
		return jsonAnswer(http.StatusOK, device)
	case read:
		return graphError(http.StatusNotFound, Nested, "ResourceNotFound", "An error has occurred", 0)
	case !acts:
		return graphError(http.StatusBadRequest, NoRoute, "", "", 0)
	case c.overLimit():
		return c.refuseWrite()
	case c.approval != 0 && beta:
		message := "Header 'x-msft-approval-justification' is required to request approval"
		return graphError(c.approval, Nested, "BadRequest", message, 0)
	case !known:
		return graphError(http.StatusBadRequest, Nested, "ResourceNotFound", "An error has occurred", 0)
	}
	device.UserPrincipalName, device.AddressableUserName = "", ""
	if beta {
		device.ResourceName = ""
	}
	c.devices[device.ID] = device
	return answer{status: http.StatusNoContent}
}

// checkToken returns the refusal of a request whose token Graph does not accept.
func (c *Cloud) checkToken(r *http.Request) (answer, bool) {
	claims, ok := c.claimsOf(r)
	issued, _ := strconv.ParseInt(asString(claims["issued_ns"]), 10, 64)
	if !ok || claims["aud"] != "https://"+r.Host || issued < c.revoked.UnixNano() && !c.revoked.IsZero() {
		return refusedToken(), false
	}
	roles, _ := claims["roles"].([]any)
	if !slices.Contains(roles, any(GraphRole)) {
		message := "Application is not authorized to perform this operation. " +
			"Application must have one of the following scopes: " + GraphRole
		return graphError(http.StatusForbidden, Nested, "Forbidden", message, 0), false
	}
	return answer{}, true
}

// refusedToken returns Graph's refusal of a token.
func refusedToken() answer {
	return graphError(http.StatusUnauthorized, Plain, "InvalidAuthenticationToken", "Access token is empty or not valid.", 0)
}

func asString(v any) string {
	s, _ := v.(string)
	return s
}

// overLimit counts a write, and reports whether it is above the limit.
func (c *Cloud) overLimit() bool {
	if c.limit.Writes == 0 {
		return false
	}
	now := c.Now()
	c.writes = slices.DeleteFunc(c.writes, func(at time.Time) bool { return now.Sub(at) > writeWindow })
	over := len(c.writes) >= c.limit.Writes
	if !over || c.limit.CountRefused {
		c.writes = append(c.writes, now)
	}
	return over
}

// refuseWrite returns the refusal of a write above the limit.
func (c *Cloud) refuseWrite() answer {
	a := graphError(http.StatusTooManyRequests, Plain, "TooManyRequests", "Too many requests.", 0)
	if c.limit.RetryAfter > 0 {
		a.header.Set("Retry-After", strconv.Itoa(c.limit.RetryAfter))
	}
	return a
}

var (
	containsFilter = regexp.MustCompile(`^contains\(serialNumber,\s*'((?:[^']|'')*)'\)$`)
	hyphenated     = regexp.MustCompile(`^[0-9A-Fa-f]{4,}(-[0-9A-Fa-f]{2,})+$`)
	skipToken      = regexp.MustCompile(`^LastSerialNumber='(.*)'$`)
)

// listDevices serves the collection, with Graph's defects there:
//   - only the filter contains() works, and it fails for texts with spaces
//     (https://github.com/andrew-s-taylor/WindowsAutopilotInfo/issues/1) and for texts like a GUID
//     (https://github.com/microsoftgraph/msgraph-sdk-powershell/issues/2464);
//   - $select is a 500 (https://github.com/microsoftgraph/microsoft-graph-docs-contrib/issues/2756);
//   - a page begins with the last device of the page before: with $top=2 five devices take seven rows, and devices
//     that share a serial number can fill a page that links to itself (https://github.com/fleetdm/fleet, msgraph.go).
func (c *Cloud) listDevices(r *http.Request) answer {
	query := r.URL.Query()
	if query.Has("$select") {
		return graphError(http.StatusInternalServerError, Nested, "InternalServerError", "An error has occurred", 0)
	}
	devices := c.sortedDevices()
	if filter := query.Get("$filter"); filter != "" {
		m := containsFilter.FindStringSubmatch(filter)
		if len(m) == 0 || strings.Contains(m[1], " ") || hyphenated.MatchString(m[1]) {
			return graphError(http.StatusBadRequest, Nested, "BadRequest", "An error has occurred", 0)
		}
		part := strings.ToLower(strings.ReplaceAll(m[1], "''", "'"))
		devices = slices.DeleteFunc(devices, func(d Device) bool {
			return !strings.Contains(strings.ToLower(d.SerialNumber), part)
		})
	}
	size := pageSize
	if top, err := strconv.Atoi(query.Get("$top")); err == nil && top > 0 && top < pageSize {
		size = top
	}
	if m := skipToken.FindStringSubmatch(query.Get("$skiptoken")); m != nil {
		from := slices.IndexFunc(devices, func(d Device) bool { return d.SerialNumber >= m[1] })
		if from < 0 {
			from = len(devices)
		}
		devices = devices[from:]
		if size > 1 {
			size++ // for the repeated device
		}
	}
	page := map[string]any{
		"@odata.context": "https://" + r.Host + "/beta/$metadata#deviceManagement/windowsAutopilotDeviceIdentities",
	}
	if len(devices) > size {
		devices = devices[:size]
		query.Set("$skiptoken", "LastSerialNumber='"+devices[size-1].SerialNumber+"'")
		page["@odata.nextLink"] = "https://" + r.Host + deviceCollection + "?" + encodeQuery(query)
	}
	rows := make([]any, 0, len(devices)+len(c.oddRows))
	if !query.Has("$skiptoken") {
		for _, row := range c.oddRows {
			rows = append(rows, row)
		}
	}
	for _, d := range devices {
		rows = append(rows, d)
	}
	page["value"] = rows
	return jsonAnswer(http.StatusOK, page)
}

// encodeQuery encodes a query as Graph does, with plain dollar signs.
func encodeQuery(query url.Values) string {
	return strings.ReplaceAll(query.Encode(), "%24", "$")
}
