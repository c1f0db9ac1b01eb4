package graph

import (
	"encoding/json"
	"errors"
	"strings"

	"autopilot-unassign/internal/guid"
)

// DeviceID is the id of a windowsAutopilotDeviceIdentity: its ZTDID, which is neither the Entra device id nor the id of
// the managed device. Being 16 parsed bytes, it prints as exactly one harmless element of a path.
type DeviceID guid.GUID

// ErrDeviceID is the error of ParseDeviceID.
var ErrDeviceID = errors.New("not the id of an Autopilot device")

// ParseDeviceID reads a GUID in its 36-character form. It returns ErrDeviceID for any other text and for the all-zero
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

// MarshalText returns String.
func (id DeviceID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what ParseDeviceID reads.
func (id *DeviceID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseDeviceID(string(text))
	return err
}

// Device holds the properties of a windowsAutopilotDeviceIdentity that this program uses. Decoding drops all other
// properties, the deviceAccountPassword included. Requests never use $select: Graph has returned 500 to it on this
// collection (https://github.com/microsoftgraph/microsoft-graph-docs-contrib/issues/2756).
type Device struct {
	ID           DeviceID
	SerialNumber string
	GroupTag     string
	Account      Account
}

// Account is what a device shows of its resource account. No source says which of the three properties tell that one is
// assigned; they are the counterparts of the parameters of assignResourceAccountToDevice.
type Account struct {
	UserPrincipalName   string
	AddressableUserName string
	ResourceName        string
	// Unknown is set where Graph has left out all three properties, which it does not do for a device without an account.
	Unknown bool
}

// Assigned reports whether a resource account shows.
func (a Account) Assigned() bool {
	return a.UserPrincipalName != "" || a.AddressableUserName != "" || a.ResourceName != ""
}

// UnmarshalJSON reads the properties that a Device has. The error is ErrDeviceID where the id is none.
func (d *Device) UnmarshalJSON(text []byte) error {
	var raw struct {
		ID                                                   string
		SerialNumber, GroupTag                               *string
		UserPrincipalName, AddressableUserName, ResourceName property
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	id, err := ParseDeviceID(raw.ID)
	if err != nil {
		return err
	}
	*d = Device{ID: id, Account: Account{
		UserPrincipalName: raw.UserPrincipalName.value, AddressableUserName: raw.AddressableUserName.value, ResourceName: raw.ResourceName.value,
		Unknown: !raw.UserPrincipalName.present && !raw.AddressableUserName.present && !raw.ResourceName.present,
	}}
	if raw.SerialNumber != nil {
		d.SerialNumber = strings.TrimSpace(*raw.SerialNumber)
	}
	if raw.GroupTag != nil {
		d.GroupTag = *raw.GroupTag
	}
	return nil
}

// property is a string that may be null, or not be there at all.
type property struct {
	value   string
	present bool
}

func (p *property) UnmarshalJSON(text []byte) error {
	p.present = true
	return json.Unmarshal(text, &p.value) // which leaves it "" for null
}
