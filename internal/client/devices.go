package client

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"

	"autopilot-unassign/internal/text"
)

const listHelp = `usage: unassign list [flags]

Lists the devices that carry a resource account. The caller must be named in OPERATOR_CALLERS of the deployment.

  unassign list -url https://contoso.azurewebsites.net -secret-file key.txt -group-tag Retired
  unassign list -csv devices.csv      writes a list for unassign call -csv, with the settings below in the environment

From the list to the change: list, review the file, dry run, run. The results of the run name the account that each
device carried.

  unassign list -group-tag Retired -csv devices.csv
  unassign call -csv devices.csv -dry-run
  unassign call -csv devices.csv
`

// Device is a device that carries a resource account.
type Device struct {
	DeviceID     string   `json:"deviceId"`
	SerialNumber string   `json:"serialNumber"`
	GroupTag     string   `json:"groupTag"`
	Account      Expected `json:"account"`
}

// maxPages bounds the pages of a list.
const maxPages = 100_000

type listFlags struct {
	*connection
	groupTag, serial, csv string
}

func newListFlags() *listFlags {
	f := &listFlags{connection: newConnection("list", listHelp)}
	f.Func("group-tag", "`tag`: list the devices with this group tag", setLimit(&f.groupTag))
	f.Func("serial", "`number`: list the devices with this serial number", setLimit(&f.serial))
	f.StringVar(&f.csv, "csv", "", "`file` to write, as unassign call -csv reads it; - writes standard output")
	return f
}

// List prints the devices that carry a resource account, or writes them into a file for call.
func (p Program) List(ctx context.Context, args []string) error {
	f := newListFlags()
	return p.runParsed(ctx, f.connection, args, func() error {
		if f.json && f.csv != "" {
			return text.UsageError("use one of -csv and -json")
		}
		c, err := f.newClient(p, routeDevices)
		if err != nil {
			return err
		}
		query := url.Values{}
		for name, value := range map[string]string{"groupTag": f.groupTag, "serialNumber": f.serial} {
			if value != "" {
				query.Set(name, value)
			}
		}
		switch {
		case f.csv == "-":
			_, err := c.writeDevices(ctx, query, p.Stdout)
			return err
		case f.csv != "":
			count := 0
			err := replaceFile(f.csv, func(w io.Writer) (err error) {
				count, err = c.writeDevices(ctx, query, w)
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(p.Stderr, "%s with a resource account. List: %s\n", text.Count(count, "device", "devices"),
				f.csv)
			return nil
		case f.json:
			devices := []Device{}
			err := c.fetchDevices(ctx, query, func(d Device) error {
				devices = append(devices, d)
				return nil
			})
			return errors.Join(text.WriteJSON(p.Stdout, struct {
				jsonHead
				Devices []Device `json:"devices"`
			}{p.newHead(err), devices}), err)
		}
		return p.printDevices(ctx, c, query)
	})
}

// printDevices prints the devices as a table.
func (p Program) printDevices(ctx context.Context, c *Client, query url.Values) error {
	const format = "%-20s  %-16s  %-36s  %s\n"
	count := 0
	err := c.fetchDevices(ctx, query, func(d Device) error {
		if count == 0 {
			fmt.Fprintf(p.Stdout, format, "SERIAL NUMBER", "GROUP TAG", "DEVICE ID", "RESOURCE ACCOUNT")
		}
		count++
		fmt.Fprintf(p.Stdout, format, plainText(d.SerialNumber), plainText(d.GroupTag), plainText(d.DeviceID),
			plainText(d.Account.String()))
		return nil
	})
	if err == nil {
		fmt.Fprintf(p.Stderr, "%s with a resource account\n", text.Count(count, "device", "devices"))
	}
	return err
}

// writeDevices writes the devices as CSV, and returns their number.
func (c *Client) writeDevices(ctx context.Context, query url.Values, w io.Writer) (count int, err error) {
	records := csv.NewWriter(w)
	if err := records.Write([]string{
		"deviceId", "serialNumber", "groupTag", "expectedUserPrincipalName",
		"expectedResourceName",
	}); err != nil {
		return 0, err
	}
	err = c.fetchDevices(ctx, query, func(d Device) error {
		count++
		return records.Write(text.GuardCells(d.DeviceID, d.SerialNumber, d.GroupTag, d.Account.UserPrincipalName,
			d.Account.ResourceName))
	})
	records.Flush()
	return count, errors.Join(err, records.Error())
}

// fetchDevices fetches the devices page by page and passes on each.
func (c *Client) fetchDevices(ctx context.Context, query url.Values, add func(Device) error) error {
	seen := map[string]bool{}
	for range maxPages {
		response, err := c.sendGet(ctx, query)
		if err != nil {
			return err
		}
		var page struct {
			Devices       []Device `json:"devices"`
			NextPageToken string   `json:"nextPageToken"`
		}
		switch {
		case response.Status/100 != 2:
			return errors.New(describeResponse(response, itemOf(response)))
		case !response.Succeeded(), json.Unmarshal(response.Body, &page) != nil, page.Devices == nil:
			return fmt.Errorf("%s, but not a list of devices from the function; check -url", response.statusText())
		}
		for _, d := range page.Devices {
			if err := add(d); err != nil {
				return err
			}
		}
		if page.NextPageToken == "" {
			return nil
		}
		if seen[page.NextPageToken] {
			break
		}
		seen[page.NextPageToken] = true
		query.Set("pageToken", page.NextPageToken)
	}
	return errors.New("the pages of the list do not end; report this")
}
