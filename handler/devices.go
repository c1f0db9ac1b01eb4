package handler

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// deviceQuery is a request for a page of the device list.
type deviceQuery struct {
	groupTag  string // a pattern as in Policy; "" for every device
	serial    string // "" for every device
	pageToken string // "" for the first page
}

// DevicePage is the body of the device list. A page may be empty and not the last.
type DevicePage struct {
	Devices       []ListedDevice `json:"devices"`
	NextPageToken string         `json:"nextPageToken,omitempty"` // "" at the end
}

// ListedDevice is a device that carries a resource account.
type ListedDevice struct {
	DeviceID     string   `json:"deviceId"`
	SerialNumber string   `json:"serialNumber,omitempty"`
	GroupTag     string   `json:"groupTag,omitempty"`
	Account      *Account `json:"account"`
}

// serveDevices serves GET /api/devices: the devices that carry a resource account and are within the policy, page by
// page, for operators. It only reads.
func (h *Handler) serveDevices(w http.ResponseWriter, r *http.Request, o *origin) response {
	var query deviceQuery
	var page DevicePage
	ctx := r.Context()
	ended := h.runOperation(w.Header(), r, o, 1, func() (err error) {
		if query, err = decodeQuery(r); err == nil {
			page, err = h.listDevices(ctx, o.caller.ID, query)
		}
		return err
	})
	h.writeRecord(ctx, operatorEntry(o, "devices", listed, ended,
		slog.String("group_tag", quoteUnprintable(query.groupTag)), slog.String("serial_number", query.serial),
		slog.Bool("first_page", query.pageToken == ""), slog.Int("devices", len(page.Devices)),
		slog.Int("attempts", o.trace.Tries())))
	if ended.failed() {
		return h.failRequest(w.Header(), r, o, ended)
	}
	w.Header().Set("Vary", "Accept")
	if csv := acceptQuality(r.Header, "text/csv"); csv > 0 && csv >= acceptQuality(r.Header, "application/json") {
		if page.NextPageToken != "" {
			w.Header().Set("X-Next-Page-Token", page.NextPageToken)
		}
		return response{http.StatusOK, "text/csv; charset=utf-8", page.encodeCSV()}
	}
	return jsonResponse(http.StatusOK, "application/json", page)
}

// decodeQuery decodes the query of the device list as strictly as a body. An empty parameter counts as absent.
func decodeQuery(r *http.Request) (deviceQuery, error) {
	var query deviceQuery
	parameters, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query, &refusal{code: queryInvalid}
	}
	for name, values := range parameters {
		value := values[0]
		valid := len(values) == 1
		switch name {
		case "groupTag":
			query.groupTag = value
			valid = valid && isPrintable(value, maxContextValue)
		case "serialNumber":
			query.serial = value
			valid = valid && (value == "" || graph.ValidSerialNumber(value))
		case "pageToken":
			query.pageToken = value // checked by Graph's client
		default:
			valid = false
		}
		if !valid {
			return deviceQuery{}, &refusal{queryInvalid, name}
		}
	}
	if query.serial != "" && query.pageToken != "" { // the devices of a serial number are one page
		return deviceQuery{}, &refusal{queryInvalid, "pageToken"}
	}
	return query, nil
}

func (h *Handler) listDevices(ctx context.Context, caller string, query deviceQuery) (DevicePage, error) {
	page := DevicePage{Devices: []ListedDevice{}}
	var devices []graph.Device
	var err error
	if query.serial != "" {
		devices, err = h.findSerial(ctx, query.serial)
	} else {
		devices, page.NextPageToken, err = h.Devices.Page(ctx, query.pageToken)
	}
	switch {
	case errors.Is(err, graph.ErrPageToken):
		return DevicePage{}, &refusal{queryInvalid, "pageToken"}
	case err != nil:
		return DevicePage{}, err
	}
	for _, d := range devices {
		wanted := query.groupTag == "" || matchTag(query.groupTag, d.GroupTag)
		if wanted && d.Account.Assigned() && h.Policy.AllowsCaller(caller, d.GroupTag) {
			account := &Account{d.Account.UserPrincipalName, d.Account.ResourceName}
			page.Devices = append(page.Devices, ListedDevice{d.ID.String(), d.SerialNumber, d.GroupTag, account})
		}
	}
	return page, nil
}

// findSerial returns the devices with a serial number, at most maxDevices.
func (h *Handler) findSerial(ctx context.Context, serial string) ([]graph.Device, error) {
	found := h.Devices.Find(ctx, graph.Selector{SerialNumber: serial})
	failed, ok := errors.AsType[*upstream.Error](found[0].Err)
	switch {
	case len(found[0].Candidates) > 0:
		return found[0].Candidates[:min(len(found[0].Candidates), maxDevices)], nil
	case found[0].Err == nil:
		return []graph.Device{found[0].Device}, nil
	case ok && failed.Service == upstream.Graph && failed.Reason == upstream.NotFound:
		return nil, nil
	}
	return nil, found[0].Err
}

// encodeCSV returns the page as CSV, with cells that no spreadsheet reads as a formula. Its columns are those that
// `unassign call -csv` reads; expected has one name, as in a body.
func (p DevicePage) encodeCSV() string {
	var b strings.Builder
	b.WriteString("deviceId,serialNumber,groupTag,expectedUserPrincipalName,expectedResourceName\r\n")
	for _, d := range p.Devices {
		resourceName := d.Account.ResourceName
		if d.Account.UserPrincipalName != "" {
			resourceName = ""
		}
		cells := text.GuardCells(d.DeviceID, d.SerialNumber, d.GroupTag, d.Account.UserPrincipalName, resourceName)
		for i, cell := range cells {
			cells[i] = `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
		}
		b.WriteString(strings.Join(cells, ",") + "\r\n")
	}
	return b.String()
}
