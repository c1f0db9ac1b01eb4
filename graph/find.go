package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

const (
	minFilter     = 4  // the shortest text worth filtering by: shorter ones match much of the inventory
	maxCandidates = 20 // the most candidates of a Found
)

// Selector names a device: by its id, or by its serial number where the id is zero.
type Selector struct {
	ID           DeviceID
	SerialNumber string
}

// Found is the device of a Selector.
type Found struct {
	Device Device
	// Err is nil when exactly one device matches. Else it is an *upstream.Error; its reason is NotFound or Ambiguous
	// only when Graph's response proves that.
	Err error
	// Candidates are devices that share the serial number, when several do: at most twenty. Sharing counts all of
	// them that were read; more may exist.
	Candidates []Device
	Sharing    int
	// walk marks a serial number that the filter cannot find.
	walk bool
}

// Find returns one Found for each Selector, in order. It sends one request for one device id, and one for each twenty
// otherwise.
//
// Serial numbers match regardless of case. Graph's only filter finds the serial numbers that contain a
// text, and fails for some texts. For serial numbers that the filter cannot find, one walk through the inventory
// serves all.
func (c *Client) Find(ctx context.Context, selectors ...Selector) []Found {
	found := make([]Found, len(selectors))
	var requested []int
	for i, s := range selectors {
		if found[i].walk = s.ID == (DeviceID{}) && len(longestRun(s.SerialNumber)) < minFilter; !found[i].walk {
			requested = append(requested, i)
		}
	}
	if len(requested) == 1 {
		found[requested[0]] = c.findOne(ctx, selectors[requested[0]])
	} else {
		for chunk := range slices.Chunk(requested, maxBatch) {
			c.findBatch(ctx, selectors, chunk, found)
		}
	}
	c.walkInventory(ctx, selectors, found)
	return found
}

// findOne finds a device by its id, or in the pages that the filter returns.
func (c *Client) findOne(ctx context.Context, s Selector) Found {
	if s.ID == (DeviceID{}) {
		found := []Found{{walk: true}}
		c.searchPages(ctx, c.endpoint+root+s.path(), []Selector{s}, found)
		return found[0]
	}
	var device Device
	if err := c.getJSON(ctx, c.endpoint+root+s.path(), &device); err != nil {
		return Found{Err: err}
	}
	return s.checkID(device)
}

// findBatch finds the devices of a chunk of the selectors by one request.
func (c *Client) findBatch(ctx context.Context, selectors []Selector, chunk []int, found []Found) {
	requests := make([]batchRequest, len(chunk))
	for i, at := range chunk {
		requests[i] = batchRequest{Method: http.MethodGet, URL: selectors[at].path()}
	}
	for i, reply := range c.sendBatch(ctx, requests) {
		found[chunk[i]] = selectors[chunk[i]].decodeReply(reply)
	}
}

// decodeReply returns the device in a reply. A serial number whose filter has more than one page is left to the walk: a
// page for each serial number of a list could cost more than the inventory.
func (s Selector) decodeReply(reply batchReply) Found {
	switch {
	case reply.failure != nil && s.ID != (DeviceID{}):
		return Found{Err: reply.failure}
	case reply.failure != nil:
		failure := notOfDevice(reply.failure)
		return Found{Err: failure, walk: filterRefused(failure) && !reply.whole}
	case s.ID != (DeviceID{}):
		var device Device
		_ = json.Unmarshal(reply.body, &device) // a device without an id does not pass checkID
		return s.checkID(device)
	}
	var p page
	if err := json.Unmarshal(reply.body, &p); err != nil {
		return Found{Err: badPage("not the expected JSON")}
	}
	var m matches
	page, _ := newDevices(p.Value, nil)
	m.addPage(page, s.SerialNumber)
	if m.count < 2 && p.NextLink != "" {
		return Found{walk: true}
	}
	return m.result()
}

// walkInventory reads the inventory once for all serial numbers that the filter cannot find.
func (c *Client) walkInventory(ctx context.Context, selectors []Selector, found []Found) {
	if !slices.ContainsFunc(found, func(f Found) bool { return f.walk }) {
		return
	}
	select {
	case c.walks <- struct{}{}:
		defer func() { <-c.walks }()
		c.searchPages(ctx, c.endpoint+devices, selectors, found)
	case <-ctx.Done():
		for i := range found {
			if found[i].walk {
				found[i] = Found{Err: noTime()}
			}
		}
	}
}

// searchPages finds the selectors with walk in the pages from address on, up to the page that decides all.
func (c *Client) searchPages(ctx context.Context, address string, selectors []Selector, found []Found) {
	wanted := map[int]*matches{}
	for i := range found {
		if found[i].walk {
			wanted[i] = &matches{}
		}
	}
	var broken error
	for page, err := range c.readPages(ctx, address) {
		broken = err
		undecided := 0
		for i, m := range wanted {
			if m.addPage(page, selectors[i].SerialNumber); m.count < 2 {
				undecided++
			}
		}
		if undecided == 0 {
			break
		}
	}
	for i, m := range wanted {
		if found[i] = m.result(); broken != nil && m.count < 2 { // missing pages do not matter once several devices match
			found[i] = Found{Err: broken, walk: filterRefused(broken)}
		}
	}
}

// matches collects the devices with a serial number.
type matches struct {
	devices []Device // the first maxCandidates
	count   int
}

func (m *matches) addPage(page []Device, serial string) {
	for _, device := range page {
		again := func(known Device) bool { return known.ID == device.ID && known.ID != (DeviceID{}) }
		if !sameSerial(device.SerialNumber, serial) || slices.ContainsFunc(m.devices, again) {
			continue
		}
		if m.count++; len(m.devices) < maxCandidates {
			m.devices = append(m.devices, device)
		}
	}
}

// result returns the one device, or the reason why there is not one.
func (m *matches) result() Found {
	switch {
	case m.count == 0:
		cause := "no device has the serial number"
		return Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.NotFound, Cause: cause}}
	case m.count > 1:
		cause := fmt.Sprintf("%d devices have the serial number", m.count)
		f := Found{
			Err:     &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous, Cause: cause},
			Sharing: m.count,
		}
		for _, device := range m.devices {
			if device.ID != (DeviceID{}) {
				f.Candidates = append(f.Candidates, device)
			}
		}
		return f
	case m.devices[0].ID == (DeviceID{}):
		return Found{Err: badPage("the device with the serial number has no valid id")}
	}
	return Found{Device: m.devices[0]}
}

// filterRefused reports whether err may mean that Graph does not accept the filter. It has returned 400 and 500 to
// some.
func filterRefused(err error) bool {
	reason := reasonOf(err)
	return reason == upstream.Rejected || reason == upstream.Internal
}

// checkID returns device as the one of the selector's id.
func (s Selector) checkID(device Device) Found {
	if device.ID != s.ID {
		return Found{Err: badPage("another device than the requested one")}
	}
	return Found{Device: device}
}

// sameSerial reports whether two serial numbers are equal regardless of ASCII case. The length check rejects other
// letters that fold to an ASCII letter.
func sameSerial(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// MaxSerialNumber is the longest serial number, in characters.
const MaxSerialNumber = 128

// ValidSerialNumber reports whether s can be a serial number: up to 128 printable ASCII characters, no space at either
// end, and a letter or digit, which the search needs.
func ValidSerialNumber(s string) bool {
	return text.IsPrintableASCII(s) && len(s) <= MaxSerialNumber && strings.TrimSpace(s) == s && longestRun(s) != ""
}

// path returns the path of the device below the root, or the path of the filtered list that contains it.
func (s Selector) path() string {
	if s.ID != (DeviceID{}) {
		return collection + "/" + s.ID.String()
	}
	return collection + "?$filter=contains(serialNumber,'" + longestRun(s.SerialNumber) + "')"
}

// longestRun returns the longest part of serial that is ASCII letters and digits alone. The filter fails for some
// texts with spaces or hyphens, and a shorter text finds more, not less.
func longestRun(serial string) string {
	longest := ""
	for run := range strings.FieldsFuncSeq(serial, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9')
	}) {
		if len(run) > len(longest) {
			longest = run
		}
	}
	return longest
}
