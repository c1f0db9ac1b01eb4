package graph

import (
	"encoding/json"
	"errors"
	"strings"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/text"
)

// DeviceID is the id of a windowsAutopilotDeviceIdentity: its ZTDID, which is neither the Entra device id nor the id of
// the managed device. Being 16 parsed bytes, it prints as exactly one safe element of a path.
type DeviceID guid.GUID

// ErrDeviceID is the error of ParseDeviceID.
var ErrDeviceID = errors.New("not the id of an Autopilot device")

// ParseDeviceID parses a GUID in its 36-character form. It returns ErrDeviceID for any other text and for the all-zero
// GUID, which Graph shows where it has no id.
func ParseDeviceID(s string) (DeviceID, error) {
	id, err := guid.Parse(s)
	if err != nil || id == (guid.GUID{}) {
		return DeviceID{}, ErrDeviceID
	}
	return DeviceID(id), nil
}

// String returns the id in lower case.
func (id DeviceID) String() string { return guid.GUID(id).String() }

// Device holds the properties of a windowsAutopilotDeviceIdentity that this program uses. Decoding drops all other
// properties, the deviceAccountPassword included. Requests never use $select: Graph has returned 500 to it on this
// collection (https://github.com/microsoftgraph/microsoft-graph-docs-contrib/issues/2756).
type Device struct {
	ID           DeviceID
	SerialNumber string
	GroupTag     string
	Account      Account
}

// Account holds the properties that show a device's resource account. No source says which of the three tell that an
// account is assigned; they are the counterparts of the parameters of assignResourceAccountToDevice.
type Account struct {
	UserPrincipalName   string
	AddressableUserName string
	ResourceName        string
	// Unknown means that the properties tell nothing: Graph left out all three, or sent no account and a value that is
	// neither a string nor null.
	Unknown bool
}

// Assigned reports whether the device shows a resource account.
func (a Account) Assigned() bool {
	return a.UserPrincipalName != "" || a.AddressableUserName != "" || a.ResourceName != ""
}

// UnmarshalJSON decodes a device. It never fails, since one odd row must not spoil a page: the ID is zero if the
// value has no valid id, and a property of another type is empty.
func (d *Device) UnmarshalJSON(text []byte) error {
	_ = d.decode(text)
	return nil
}

// decode is UnmarshalJSON with an error if text is not an object.
func (d *Device) decode(text []byte) error {
	var row struct {
		ID                  property `json:"id"`
		SerialNumber        property `json:"serialNumber"`
		GroupTag            property `json:"groupTag"`
		UserPrincipalName   property `json:"userPrincipalName"`
		AddressableUserName property `json:"addressableUserName"`
		ResourceName        property `json:"resourceName"`
	}
	*d = Device{}
	if err := json.Unmarshal(text, &row); err != nil {
		return err
	}
	d.ID, _ = ParseDeviceID(row.ID.value) // zero if it is invalid
	d.SerialNumber, d.GroupTag = strings.TrimSpace(row.SerialNumber.value), row.GroupTag.value
	d.Account = Account{
		UserPrincipalName:   row.UserPrincipalName.value,
		AddressableUserName: row.AddressableUserName.value,
		ResourceName:        row.ResourceName.value,
	}
	known, odd := false, false
	for _, p := range []property{row.UserPrincipalName, row.AddressableUserName, row.ResourceName} {
		known, odd = known || p.known, odd || p.odd
	}
	d.Account.Unknown = !d.Account.Assigned() && (odd || !known)
	return nil
}

// property is a string property of a device.
type property struct {
	value string
	known bool // a string or null
	odd   bool // of another type
}

// UnmarshalJSON never fails.
func (p *property) UnmarshalJSON(data []byte) error {
	value, ok := text.Unquote(data)
	ok = ok || string(data) == "null"
	*p = property{value: value, known: ok, odd: !ok}
	return nil
}
