package azuresim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Properties of the devices of a fleet.
const (
	FleetTag      = "Retired"                // the group tag of every fifth device
	FleetPassword = "canary-device-password" // of every device; it must never leave graph
)

// PutFleet stores the devices of Fleet(n).
func (c *Cloud) PutFleet(n int) {
	for _, d := range Fleet(n) {
		c.PutDevice(d)
	}
}

// Fleet returns n devices of a large organisation, always the same: a larger fleet begins with a smaller one.
//
// Of twenty devices, four have FleetTag: two carry an account, one carries none, and one does not show whether it
// does. The others have the tags of meeting rooms, or none. Serial numbers are unique with two exceptions: of five
// hundred devices, two share one but for its case; and some of the first ten thousand have the placeholders of
// factories.
func Fleet(n int) []Device {
	makers := []string{"HP", "LENOVO", "Dell Inc.", "Microsoft Corporation", "VMware, Inc."}
	models := []string{"Elite Mini 800 G9", "ThinkSmart Core", "OptiPlex 7010", "Virtual Machine", "VMware20,1"}
	devices := make([]Device, n)
	for i := range devices {
		d := Device{
			ID: fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x",
				scatterNumber(i, 1<<32), i>>16, i%4096, i/4096%4096, i),
			SerialNumber:    serialNumber(i),
			Manufacturer:    makers[i/20%5],
			Model:           models[i/20%5],
			EnrollmentState: "enrolled", DeviceAccountPassword: FleetPassword,
		}
		account := func() {
			room := "room." + strconv.Itoa(i)
			d.UserPrincipalName, d.AddressableUserName = room+"@contoso.com", "Room "+strconv.Itoa(i)
			d.ResourceName = room
		}
		switch i % 20 {
		case 0:
			d.GroupTag = FleetTag
			account()
		case 1: // one property alone
			d.GroupTag, d.ResourceName, d.Form = FleetTag, "room."+strconv.Itoa(i), AsNull
		case 2:
			d.GroupTag = FleetTag
			if i%40 == 2 {
				d.Form = AsNull
			}
		case 3:
			d.GroupTag, d.Form = FleetTag, LeftOut
		case 4, 5, 6, 7, 8:
			d.GroupTag = "MTR-Oslo"
			account()
		case 9, 10, 11:
			d.GroupTag = "MTR-Bergen"
			account()
		case 12:
			d.GroupTag = "MTR-Bergen"
		case 13:
			d.GroupTag = strings.ToLower(FleetTag) // another tag
			account()
		case 14:
			d.GroupTag = "Kiosk"
			account()
		case 15:
			d.Form = AsNull
		case 16:
			d.Form = LeftOut
		}
		devices[i] = d
	}
	return devices
}

// serialNumber returns the serial number of device i of a fleet.
func serialNumber(i int) string {
	if i < 10_000 {
		switch i % 250 {
		case 40:
			return "Default string"
		case 41:
			return "To be filled by O.E.M."
		case 42:
			return ""
		case 43:
			return "System Serial Number"
		}
	}
	if i%500 == 499 {
		return strings.ToLower(serialNumber(i - 1))
	}
	hash := uint64(i) * 0x9e3779b97f4a7c15 //nolint:gosec // it wraps; the factor is odd, so that no two are the same
	hex := fmt.Sprintf("%016x", hash)
	switch i / 20 % 5 {
	case 0:
		return "5CG" + base36(scatterNumber(i, 78_364_164_096), 7)
	case 1:
		return "PF" + base36(scatterNumber(i, 2_176_782_336), 6)
	case 2:
		if i%200 == 57 {
			return "O'Brien-" + strconv.Itoa(i)
		}
		return base36(scatterNumber(i, 78_364_164_096), 7)
	case 3: // Hyper-V, which numbers its machines like this and some like a GUID
		if i%2 == 0 {
			return fmt.Sprintf("%s-%s-4%s-8%s-%012d", hex[:8], hex[8:12], hex[12:15], hex[13:16], i)
		}
		digits := fmt.Sprintf("%026d", scatterNumber(i, 1<<40))
		var groups []string
		for group := range slices.Chunk([]byte(digits), 4) {
			groups = append(groups, string(group))
		}
		return strings.Join(groups, "-")
	}
	pairs := make([]string, 0, 8)
	for at := 0; at < len(hex); at += 2 {
		pairs = append(pairs, hex[at:at+2])
	}
	return "VMware-56 4d " + strings.Join(pairs[:4], " ") + "-" + strings.Join(pairs[4:], " ")
}

// scatterNumber maps each i below limit to another number below limit. The factor is a prime that divides no limit.
func scatterNumber(i, limit int) int { return i * 2_654_435_761 % limit }

// base36 returns n in capital letters and digits, padded to width.
func base36(n, width int) string {
	text := strings.ToUpper(strconv.FormatInt(int64(n), 36))
	return strings.Repeat("0", max(0, width-len(text))) + text
}
