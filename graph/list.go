package graph

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"
	"net/url"
	"strings"

	"autopilot-unassign/internal/upstream"
)

// maxPages is as many pages as are read of one list. Graph puts about a thousand devices on one.
const maxPages = 1000

// page is a page of the collection.
type page struct {
	Value    []Device
	NextLink string `json:"@odata.nextLink"`
}

var errNoPage = errors.New("not a page: it has no value")

// UnmarshalJSON reads a page. What has no list of devices in it, not even an empty one, must not pass for the end of all.
func (p *page) UnmarshalJSON(text []byte) error {
	type plain page
	var read plain
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	if read.Value == nil {
		return errNoPage
	}
	*p = page(read)
	return nil
}

// All returns all Autopilot devices, each once, as Graph hands them out page by page. An error ends them and says that
// the rest is not known: an *upstream.Error.
//
// The cursor of this collection is a serial number, and inclusive: a page begins with the last device of the page before,
// and a serial number that many devices share makes a page that leads to itself. Such a list is an error, not an end.
func (c *Client) All(ctx context.Context) iter.Seq2[Device, error] {
	return c.pages(ctx, c.endpoint+devices)
}

// Sample reads as little of the list of devices as Graph lets one, and returns how many it has seen and whether there are
// more. A page of one device is the least; a Graph that does not make such a page is asked for one of its own. The error is
// an *upstream.Error.
func (c *Client) Sample(ctx context.Context) (seen int, more bool, err error) {
	p, err := c.page(ctx, c.endpoint+devices+"?$top=1")
	if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.Service == upstream.Graph {
		switch failed.Reason {
		case upstream.Rejected, upstream.Internal, upstream.BadAnswer: // of this page, perhaps
			p, err = c.page(ctx, c.endpoint+devices)
		}
	}
	return len(p.Value), p.NextLink != "", err
}

// maxPageToken is the longest page token, in bytes.
const maxPageToken = 4 << 10

// ErrPageToken reports a page token that Page did not return.
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
	p, err := c.page(ctx, address)
	if err != nil {
		return nil, "", err
	}
	seen := map[DeviceID]bool{last: true}
	for _, device := range p.Value {
		if !seen[device.ID] {
			page = append(page, device)
		}
		seen[device.ID], last = true, device.ID
	}
	if p.NextLink == "" {
		return page, "", nil
	}
	link, err := url.Parse(p.NextLink)
	if err != nil || !strings.EqualFold(link.Path, devices) {
		return nil, "", endless("the link to the next page leads elsewhere")
	}
	following := pagingQuery(link.RawQuery)
	next = base64.RawURLEncoding.EncodeToString(append(last[:], following...))
	if following == "" || following == query || len(next) > maxPageToken {
		return nil, "", endless("the link to the next page leads nowhere")
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
	if pagingQuery(query) != query || strings.ContainsFunc(query, func(c rune) bool { return c <= ' ' || c > '~' || c == '#' }) {
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

// pages returns the devices of a list, from the page at address on.
func (c *Client) pages(ctx context.Context, address string) iter.Seq2[Device, error] {
	return func(yield func(Device, error) bool) {
		last := map[DeviceID]bool{} // of the page before: no others are repeated
		visited := map[string]bool{}
		for address != "" {
			if visited[address] || len(visited) == maxPages {
				yield(Device{}, endless("the list leads to itself or has no end"))
				return
			}
			visited[address] = true
			page, err := c.page(ctx, address)
			if err != nil {
				yield(Device{}, err)
				return
			}
			seen := make(map[DeviceID]bool, len(page.Value))
			fresh := 0
			for _, device := range page.Value {
				if last[device.ID] || seen[device.ID] {
					seen[device.ID] = true
					continue
				}
				seen[device.ID] = true
				fresh++
				if !yield(device, nil) {
					return
				}
			}
			if fresh == 0 && page.NextLink != "" {
				yield(Device{}, endless("a page has nothing new and is not the last"))
				return
			}
			last, address = seen, page.NextLink
		}
	}
}

func endless(cause string) *upstream.Error {
	return &upstream.Error{Service: upstream.Graph, Reason: upstream.BadAnswer, Cause: cause}
}

// page reads the page at address, whose link to the next one is "" or leads to Graph: the token travels there.
func (c *Client) page(ctx context.Context, address string) (page, error) {
	var p page
	if err := c.read(ctx, address, &p); err != nil {
		return p, unlisted(err)
	}
	if p.NextLink != "" && !c.own(p.NextLink) {
		return p, endless("the link to the next page leads elsewhere")
	}
	return p, nil
}

// own reports whether address is on the Graph that the Client speaks to.
func (c *Client) own(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.User == nil && u.Scheme+"://"+u.Host == c.endpoint
}

// unlisted returns err, of a request for a list. That the list is not found says nothing of a device.
func unlisted(err error) error {
	if failed, ok := errors.AsType[*upstream.Error](err); ok && failed.Service == upstream.Graph && failed.Reason == upstream.NotFound {
		failed.Reason = upstream.Rejected
	}
	return err
}
