package graph

import (
	"errors"
	"strings"

	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/text"
)

// DeviceID is the id of a windowsAutopilotDeviceIdentity: its ZTDID, which is neither the Entra device id nor the id of
// the managed device. Being 16 parsed bytes, it prints as exactly one safe element of a path.
type DeviceID guid.GUID

// ParseDeviceID parses a GUID in its 36-character form. It returns an error for any other text and for the all-zero
// GUID, which Graph shows where it has no id.
func ParseDeviceID(s string) (DeviceID, error) {
	id, err := guid.Parse(s)
	if err != nil || id == (guid.GUID{}) {
		return DeviceID{}, errors.New("not the id of an Autopilot device")
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
	// Unknown means that the device shows no account, and may carry one: Graph left out one of the three properties, or
	// sent a value that is neither a string nor null.
	Unknown bool
}

// Assigned reports whether the device shows a resource account.
func (a Account) Assigned() bool {
	return a.UserPrincipalName != "" || a.AddressableUserName != "" || a.ResourceName != ""
}

// UnmarshalJSON decodes a device. It never fails, since one odd row must not spoil a page: the ID is zero if the
// value has no valid id, and a property of another type is empty.
func (d *Device) UnmarshalJSON(row []byte) error {
	_ = d.decode(row)
	return nil
}

var errNoDevice = errors.New("not a device: no object")

// decode is UnmarshalJSON with an error if row, which is valid JSON, is not an object.
func (d *Device) decode(row []byte) error {
	*d = Device{}
	if !text.IsObject(row) && string(row) != "null" {
		return errNoDevice
	}
	id, valid := "", [3]bool{} // whether each property of the account is a string or null
	for name, value := range text.Members(row) {
		field, at := &id, -1
		switch string(name) {
		case "id":
		case "serialNumber":
			field = &d.SerialNumber
		case "groupTag":
			field = &d.GroupTag
		case "userPrincipalName":
			field, at = &d.Account.UserPrincipalName, 0
		case "addressableUserName":
			field, at = &d.Account.AddressableUserName, 1
		case "resourceName":
			field, at = &d.Account.ResourceName, 2
		default:
			continue
		}
		content, ok := text.Unquote(value)
		*field = content
		if at >= 0 {
			valid[at] = ok || string(value) == "null"
		}
	}
	d.ID, _ = ParseDeviceID(id) // zero if it is invalid
	d.SerialNumber = strings.TrimSpace(d.SerialNumber)
	d.Account.Unknown = !d.Account.Assigned() && valid != [3]bool{true, true, true}
	return nil
}
