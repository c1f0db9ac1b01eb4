package graph

import (
	"errors"

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
