package graph

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"
	"net/url"
	"slices"
	"strings"

	"autopilot-unassign/internal/upstream"
)

// maxPages bounds the pages of one list. Graph puts about a thousand devices on one.
const maxPages = 1000

type page struct {
	Value    []Device
	NextLink string `json:"@odata.nextLink"`
}

// UnmarshalJSON decodes a page. An object without a list of devices, not even an empty one, must not pass for the end
// of the inventory.
func (p *page) UnmarshalJSON(text []byte) error {
	type plain page
	var decoded plain
	if err := json.Unmarshal(text, &decoded); err != nil {
		return err
	}
	if decoded.Value == nil {
		return errors.New("not a page: it has no value")
	}
	*p = page(decoded)
	return nil
}

// All returns all Autopilot devices with a valid id, each once, as Graph returns them page by page. An error ends the
// sequence and means that the rest is unknown; it is an *upstream.Error.
//
// The cursor of this collection is a serial number, and inclusive: a page begins with the last device of the page
// before, and a serial number that fills a page makes the page link to itself. Such a list is an error, not an end.
func (c *Client) All(ctx context.Context) iter.Seq2[Device, error] {
	return func(yield func(Device, error) bool) {
		for page, err := range c.readPages(ctx, c.endpoint+devices) {
			if err != nil {
				yield(Device{}, err)
				return
			}
			for _, device := range page {
				if device.ID != (DeviceID{}) && !yield(device, nil) {
					return
				}
			}
		}
	}
}

// Sample reads as little of the inventory as Graph permits: a page of one device, or a default page where Graph
// refuses that. It returns the number of devices and whether there are more. The error is an *upstream.Error.
func (c *Client) Sample(ctx context.Context) (seen int, more bool, err error) {
	p, err := c.readPage(ctx, c.endpoint+devices+"?$top=1")
	switch reasonOf(err) {
	case upstream.Rejected, upstream.Internal, upstream.BadAnswer: // perhaps of this page alone
		p, err = c.readPage(ctx, c.endpoint+devices)
	}
	return len(p.Value), p.NextLink != "", err
}

// maxPageToken is the longest page token, in bytes.
const maxPageToken = 4 << 10

// ErrPageToken reports an invalid page token.
var ErrPageToken = errors.New("not a page token")

// Page returns one page of the inventory and the token of the next page, "" after the last one. The token of the first
// page is "". A page may be empty without being the last one.
//
// A token holds the paging parameters of Graph's link to the next page, never its host or path, and the id of the last
// device, since that device comes again at the start of the next page. The error is ErrPageToken or an *upstream.Error.
func (c *Client) Page(ctx context.Context, token string) (page []Device, next string, err error) {
	last, query, err := parsePageToken(token)
	if err != nil {
		return nil, "", err
	}
	address := c.endpoint + devices
	if query != "" {
		address += "?" + query
	}
	p, err := c.readPage(ctx, address)
	if err != nil {
		return nil, "", err
	}
	page, _ = newDevices(p.Value, map[DeviceID]bool{last: true})
	page = slices.DeleteFunc(page, func(d Device) bool { return d.ID == (DeviceID{}) })
	if len(page) > 0 {
		last = page[len(page)-1].ID
	}
	if p.NextLink == "" {
		return page, "", nil
	}
	link, err := url.Parse(p.NextLink)
	if err != nil || !strings.EqualFold(link.Path, devices) {
		return nil, "", badPage("the link to the next page leads elsewhere")
	}
	following := pagingQuery(link.RawQuery)
	next = base64.RawURLEncoding.EncodeToString(append(last[:], following...))
	if following == "" || following == query || len(next) > maxPageToken {
		return nil, "", badPage("the link to the next page leads nowhere")
	}
	return page, next, nil
}

// parsePageToken returns the id of the last device and the paging query that a page token holds.
func parsePageToken(token string) (last DeviceID, query string, err error) {
	if token == "" {
		return DeviceID{}, "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(token) > maxPageToken || len(raw) <= len(last) {
		return DeviceID{}, "", ErrPageToken
	}
	query = string(raw[copy(last[:], raw):])
	unsafe := func(c rune) bool { return c <= ' ' || c > '~' || c == '#' }
	if pagingQuery(query) != query || strings.ContainsFunc(query, unsafe) {
		return DeviceID{}, "", ErrPageToken
	}
	return last, query, nil
}

// pagingQuery returns the parameters of query that select a page, as they are encoded there: Graph refuses a link that
// has been encoded again.
func pagingQuery(query string) string {
	var kept []string
	for parameter := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(parameter, "=")
		if name, err := url.QueryUnescape(name); err == nil {
			switch strings.ToLower(name) {
			case "$skiptoken", "$skip", "$top":
				kept = append(kept, parameter)
			}
		}
	}
	return strings.Join(kept, "&")
}

// readPages returns the pages of a list, from the page at address on, without the devices of the page before.
//
// A page may be empty without being the last. It fails if the list links back to
// itself or to a page without new devices.
func (c *Client) readPages(ctx context.Context, address string) iter.Seq2[[]Device, error] {
	return func(yield func([]Device, error) bool) {
		last := map[DeviceID]bool{} // of the page before: no others are repeated
		visited := map[string]bool{}
		for address != "" {
			if visited[address] || len(visited) == maxPages {
				yield(nil, badPage("the list leads to itself or has no end"))
				return
			}
			visited[address] = true
			p, err := c.readPage(ctx, address)
			if err != nil {
				yield(nil, err)
				return
			}
			fresh, ids := newDevices(p.Value, last)
			if len(p.Value) > 0 && len(fresh) == 0 && p.NextLink != "" {
				yield(nil, badPage("a page has nothing new and is not the last"))
				return
			}
			if !yield(fresh, nil) {
				return
			}
			if address = p.NextLink; len(ids) > 0 {
				last = ids
			}
		}
	}
}

// newDevices returns the devices of a page that are not in last, each once, and the ids of all. Devices without an id
// count as new.
func newDevices(page []Device, last map[DeviceID]bool) (fresh []Device, ids map[DeviceID]bool) {
	ids = make(map[DeviceID]bool, len(page))
	for _, device := range page {
		if device.ID == (DeviceID{}) || !last[device.ID] && !ids[device.ID] {
			fresh = append(fresh, device)
		}
		if device.ID != (DeviceID{}) {
			ids[device.ID] = true
		}
	}
	return fresh, ids
}

// badPage reports a response of Graph that contradicts itself or the request.
func badPage(cause string) *upstream.Error {
	return &upstream.Error{Service: upstream.Graph, Reason: upstream.BadAnswer, Cause: cause}
}

// readPage returns the page at address. Its link to the next page is "" or leads to Graph, since the token travels
// there.
func (c *Client) readPage(ctx context.Context, address string) (page, error) {
	var p page
	if err := c.getJSON(ctx, address, &p); err != nil {
		if failure, ok := errors.AsType[*upstream.Error](err); ok {
			err = notOfDevice(failure)
		}
		return p, err
	}
	if p.NextLink != "" && !c.ownAddress(p.NextLink) {
		return p, badPage("the link to the next page leads elsewhere")
	}
	return p, nil
}

// ownAddress reports whether address is on the Graph of the Client.
func (c *Client) ownAddress(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.User == nil && u.Scheme+"://"+u.Host == c.endpoint
}

// notOfDevice returns the failure of a request that names no device: "not found" says nothing about one.
func notOfDevice(failure *upstream.Error) *upstream.Error {
	if failure.Service == upstream.Graph && failure.Reason == upstream.NotFound {
		failure.Reason = upstream.Rejected
	}
	return failure
}

// reasonOf returns the reason of an error of Graph, "" for other errors.
func reasonOf(err error) upstream.Reason {
	if failure, ok := errors.AsType[*upstream.Error](err); ok && failure.Service == upstream.Graph {
		return failure.Reason
	}
	return ""
}
