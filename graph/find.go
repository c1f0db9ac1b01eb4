package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"autopilot-unassign/internal/upstream"
)

// Selector names a device: by its id, or by its serial number where the id is zero.
type Selector struct {
	ID           DeviceID
	SerialNumber string
}

// Found is what was found of a Selector.
type Found struct {
	Device Device
	// Err is nil when there is exactly one such device. Else it is an *upstream.Error; its reason is NotFound or Ambiguous
	// when Graph has said for sure that there is none or more than one.
	Err error
	// Candidates are the devices that share the serial number, when they are several.
	Candidates []DeviceID

	unfiltered bool // the filter has failed for the serial number
}

// Find looks the devices up and returns one Found for each Selector, in order: with one request for a single one, and with
// one for each twenty else.
//
// A serial number fits when it is equal but for upper and lower case. Graph's only filter finds what contains a text, and
// fails for some texts; where it does, all devices are looked through.
func (c *Client) Find(ctx context.Context, selectors ...Selector) []Found {
	found := make([]Found, len(selectors))
	if len(selectors) == 1 {
		found[0] = c.find(ctx, selectors[0])
	} else {
		for start := 0; start < len(selectors); start += maxBatch {
			end := min(start+maxBatch, len(selectors))
			copy(found[start:end], c.findBatch(ctx, selectors[start:end]))
		}
	}
	c.walk(ctx, selectors, found)
	return found
}

// find looks one device up by a request of its own.
func (c *Client) find(ctx context.Context, s Selector) Found {
	if s.ID == (DeviceID{}) {
		return c.filtered(ctx, s.SerialNumber, c.endpoint+root+s.path())
	}
	var device Device
	if err := c.read(ctx, c.endpoint+root+s.path(), &device); err != nil {
		return Found{Err: err}
	}
	return s.found(device)
}

// refused reports whether err may mean that Graph does not accept the filter. Graph has been seen to return 400 and 500 to some.
func refused(err error) bool {
	failed, ok := errors.AsType[*upstream.Error](err)
	return ok && failed.Service == upstream.Graph && (failed.Reason == upstream.Rejected || failed.Reason == upstream.Internal)
}

// filtered looks a serial number up in the list at address, which the filter has shortened.
func (c *Client) filtered(ctx context.Context, serial, address string) Found {
	var matches []Device
	for device, err := range c.pages(ctx, address) {
		if err != nil {
			return either(matches, filterFailed(err))
		}
		if sameSerial(device.SerialNumber, serial) {
			matches = append(matches, device)
		}
	}
	return single(matches)
}

// filterFailed returns what was found where the filter ended with err, which may mean that it does not take the text.
func filterFailed(err error) Found {
	return Found{Err: err, unfiltered: refused(err)}
}

// findBatch looks up to twenty devices up by one request.
func (c *Client) findBatch(ctx context.Context, selectors []Selector) []Found {
	requests := make([]batchRequest, len(selectors))
	for i, s := range selectors {
		requests[i] = batchRequest{Method: http.MethodGet, URL: s.path()}
	}
	found := make([]Found, len(selectors))
	for i, reply := range c.batch(ctx, requests) {
		if failed, ok := errors.AsType[*upstream.Error](reply.err); ok {
			failed.MaybeDone = false
		}
		s := selectors[i]
		switch {
		case reply.err != nil && s.ID == (DeviceID{}):
			found[i] = filterFailed(unlisted(reply.err))
			found[i].unfiltered = found[i].unfiltered && !reply.whole
		case reply.err != nil:
			found[i].Err = reply.err
		case s.ID == (DeviceID{}):
			found[i] = c.firstPage(ctx, s, reply.body)
		default:
			var device Device
			if err := json.Unmarshal(reply.body, &device); err != nil {
				found[i].Err = badAnswer(http.Header{}, err)
				continue
			}
			found[i] = s.found(device)
		}
	}
	return found
}

// firstPage finds s in the first page of a shortened list, and by requests of their own in the others where there are any.
func (c *Client) firstPage(ctx context.Context, s Selector, body []byte) Found {
	var p page
	if err := json.Unmarshal(body, &p); err != nil {
		return Found{Err: badAnswer(http.Header{}, err)}
	}
	if p.NextLink != "" {
		return c.filtered(ctx, s.SerialNumber, c.endpoint+root+s.path())
	}
	var matches []Device
	seen := map[DeviceID]bool{}
	for _, device := range p.Value {
		if sameSerial(device.SerialNumber, s.SerialNumber) && !seen[device.ID] {
			seen[device.ID] = true
			matches = append(matches, device)
		}
	}
	return single(matches)
}

// walk looks through all devices, once, for the serial numbers that the filter has failed for.
func (c *Client) walk(ctx context.Context, selectors []Selector, found []Found) {
	matches := map[int][]Device{}
	for i := range found {
		if found[i].unfiltered {
			matches[i] = nil
		}
	}
	if len(matches) == 0 {
		return
	}
	for device, err := range c.All(ctx) {
		for i := range matches {
			if err != nil {
				found[i] = either(matches[i], Found{Err: err})
			} else if sameSerial(device.SerialNumber, selectors[i].SerialNumber) {
				matches[i] = append(matches[i], device)
			}
		}
		if err != nil {
			return
		}
	}
	for i, devices := range matches {
		found[i] = single(devices)
	}
}

// found returns device as what was found by its id.
func (s Selector) found(device Device) Found {
	if device.ID != s.ID {
		return Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.BadAnswer, Cause: "another device than the one asked for"}}
	}
	return Found{Device: device}
}

// single returns the one device of a list, or why it is none.
func single(devices []Device) Found {
	switch len(devices) {
	case 0:
		return Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.NotFound, Cause: "no device has the serial number"}}
	case 1:
		return Found{Device: devices[0]}
	}
	ambiguous := Found{Err: &upstream.Error{Service: upstream.Graph, Reason: upstream.Ambiguous, Cause: fmt.Sprintf("%d devices have the serial number", len(devices))}}
	for _, device := range devices {
		ambiguous.Candidates = append(ambiguous.Candidates, device.ID)
	}
	return ambiguous
}

// either returns the devices of a list that has broken off, if they are several: what is missing does not change that. Else
// it returns broken.
func either(devices []Device, broken Found) Found {
	if len(devices) > 1 {
		return single(devices)
	}
	return broken
}

// sameSerial reports whether two serial numbers are equal but for the case of ASCII letters: those of other alphabets that fold
// to one are longer.
func sameSerial(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// path returns where the device is, below the root: itself, or the list that has it if the filter works.
func (s Selector) path() string {
	if s.ID != (DeviceID{}) {
		return collection + "/" + s.ID.String()
	}
	return collection + "?$filter=contains(serialNumber,'" + longestRun(s.SerialNumber) + "')"
}

// longestRun returns the longest part of serial that is ASCII letters and digits alone. The filter fails for some with
// spaces or hyphens in them, and what is shorter finds more, not less.
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
