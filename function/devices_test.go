package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"autopilot-unassign/internal/azuresim"
)

const (
	otherDevice   = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a02"
	unknownDevice = "6f1a9c0e-5b1d-4c55-9d3a-000000000000"
)

// bySerial returns the body for a device by its serial number, with more members.
func bySerial(serial, more string) func() sent {
	return body(fmt.Sprintf(`{"serialNumber":%q,"reference":"RITM0012345"%s}`, serial, more))
}

// byID is bySerial for the device that there is.
func byID(more string) func() sent {
	return body(fmt.Sprintf(`{"deviceId":%q,"reference":"RITM0012345"%s}`, someDevice, more))
}

// list returns the body for a list of devices, given as JSON.
func list(devices ...string) func() sent {
	return body(`{"reference":"RITM0012345","devices":[` + strings.Join(devices, ",") + `]}`)
}

// put returns a function that adds a device to the existing one.
func put(serial, account string) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) {
		c.PutDevice(azuresim.Device{ID: otherDevice, SerialNumber: serial, GroupTag: "MTR-Oslo", UserPrincipalName: account})
	}
}

// emptied takes the account off the device that there is.
func emptied(c *azuresim.Cloud) {
	c.PutDevice(azuresim.Device{ID: someDevice, SerialNumber: "5CG1234ABC", GroupTag: "MTR-Oslo"})
}

// items has requests inside batches answered with a status of Graph.
func items(times, status int) func(*azuresim.Cloud) {
	return func(c *azuresim.Cloud) {
		c.Fail(azuresim.StepItem, times, azuresim.GraphError(status, azuresim.Nested, 0))
	}
}

// deviceCases are the contractCases of serial numbers, lists and further options.
func deviceCases() map[string]contractCase {
	one, other, unknown := `{"deviceId":"`+someDevice+`"}`, `{"serialNumber":"5CG5678DEF"}`,
		`{"deviceId":"`+unknownDevice+`"}`
	second := put("5CG5678DEF", "room.skog@contoso.com")
	retryIn := func(seconds string) map[string]string { return map[string]string{"Retry-After": seconds} }
	return map[string]contractCase{
		"a serial number":               {nil, nil, bySerial("5CG1234ABC", ""), 204, "", nil},
		"a serial number in lower case": {nil, nil, bySerial("5cg1234abc", ""), 204, "", nil},
		"a part of a serial number":     {nil, nil, bySerial("5CG1234", ""), 404, "device_not_found", nil},
		"a serial number in Kelvin": {
			put("5CG\u212a", "room.skog@contoso.com"), nil, bySerial("5CGK", ""), 404,
			"device_not_found", nil,
		},
		"a shared serial number": {
			put("5cg1234ABC", ""), nil, bySerial("5CG1234ABC", ""), 409,
			"serial_number_ambiguous", nil,
		},
		"no serial number": {nil, nil, bySerial("---", ""), 400, "serial_number_invalid", nil},
		"a serial number and an id": {
			nil, nil, bySerial("5CG1234ABC", `,"deviceId":"`+someDevice+`"`), 400,
			"selector_ambiguous", nil,
		},
		"the filter fails": {func(c *azuresim.Cloud) {
			c.Fail(azuresim.StepGraph, 1, azuresim.GraphError(400,
				azuresim.Nested, 0))
		}, nil, bySerial("5CG1234ABC", ""), 204, "", nil},
		"a dry run":                {nil, nil, byID(`,"dryRun":true`), 200, "would_unassign", nil},
		"a dry run, nothing to do": {emptied, nil, byID(`,"dryRun":true`), 200, "already_unassigned", nil},
		"a dry run, another says no": {
			nil, nil, byID(`,"dryRun":true,"expected":{"resourceName":"room.skog"}`), 409,
			"state_changed", nil,
		},
		"a dry run of words":       {nil, nil, byID(`,"dryRun":"yes"`), 400, "dry_run_invalid", nil},
		"verified":                 {nil, nil, byID(`,"verify":true`), 200, "unassigned", nil},
		"verified, with a dry run": {nil, nil, byID(`,"verify":true,"dryRun":true`), 400, "verify_invalid", nil},
		"the account that was expected": {
			nil, nil, byID(`,"expected":{"userPrincipalName":"Room.Fjord@contoso.com"}`),
			204, "", nil,
		},
		"another account than expected": {
			nil, nil, byID(`,"expected":{"userPrincipalName":"room.skog@contoso.com"}`),
			409, "state_changed", nil,
		},
		"expected of nothing":    {nil, nil, byID(`,"expected":{}`), 400, "expected_invalid", nil},
		"nothing there any more": {emptied, nil, bySerial("5CG1234ABC", ""), 204, "", nil},
		"a tag that is allowed":  {nil, []string{"ALLOWED_GROUP_TAGS=Kiosk,MTR-*"}, valid, 204, "", nil},
		"a tag that is not":      {nil, []string{"ALLOWED_GROUP_TAGS=Kiosk,MTR"}, valid, 403, "policy_denied", nil},
		"a dry run of a tag that is not": {
			nil,
			[]string{"ALLOWED_GROUP_TAGS=Kiosk"},
			byID(`,"dryRun":true`), 403,
			"policy_denied", nil,
		},

		"a list":                     {second, nil, list(one, other), 200, "", nil},
		"a list with a device twice": {nil, nil, list(one, one, `{"serialNumber":"5CG1234ABC"}`), 200, "", nil},
		"a list with an unknown":     {second, nil, list(one, unknown, other), 207, "", nil},
		"a list of unknowns":         {nil, nil, list(unknown, other), 404, "device_not_found", nil},
		"a list that fails in two ways": {put("5CG1234ABC", ""), nil, list(`{"serialNumber":"5CG1234ABC"}`,
			`{"deviceId":"`+someDevice+`","expected":{"resourceName":"x"}}`), 409, "devices_failed", nil},
		"a list, outside the policy": {
			nil,
			[]string{"ALLOWED_GROUP_TAGS=Kiosk"},
			list(one, one), 403, "policy_denied",
			nil,
		},
		"a list, throttled": {func(c *azuresim.Cloud) { second(c); items(-1, 429)(c) }, nil, list(one,
			`{"deviceId":"`+otherDevice+`"}`), 503, "devices_failed", retryIn("30")},
		"a list, throttled once": {func(c *azuresim.Cloud) { second(c); items(1, 429)(c) }, nil, list(one,
			`{"deviceId":"`+otherDevice+`"}`), 200, "", nil},
		"a list, no permission": {func(c *azuresim.Cloud) { second(c); items(-1, 403)(c) }, nil, list(one,
			`{"deviceId":"`+otherDevice+`"}`), 424, "graph_permission_missing", nil},
		"a list, the batch is refused": {
			fail(azuresim.StepGraph, azuresim.GraphError(503, azuresim.NotJSON, 0)), nil,
			list(one, `{"deviceId":"`+otherDevice+`"}`), 503, "devices_failed", retryIn("30"),
		},
		"a dry run of a list": {
			second, nil, body(`{"dryRun":true,"devices":[` + one + `,` + other + `]}`), 200,
			"", nil,
		},
		"a list of none": {nil, nil, list(), 400, "devices_invalid", nil},
		"a list of 21": {
			nil, nil, list(strings.Split(strings.Repeat(one+"|", 20)+one, "|")...), 400,
			"devices_invalid", nil,
		},
		"a list of 20": {
			nil, nil, list(strings.Split(strings.Repeat(one+"|", 19)+one, "|")...), 200, "",
			nil,
		},
		"a list and an id": {
			nil, nil, body(`{"deviceId":"` + someDevice + `","devices":[` + one + `]}`), 400,
			"selector_ambiguous", nil,
		},
		"a list with a fault in it": {nil, nil, list(one, `{"deviceId":"x"}`), 400, "device_id_invalid", nil},
	}
}

// A caller may ask for a full list at once, and then for no more than the limit. The others are not concerned.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	for host := range hosts {
		d := deploy(t, newCloud(), host, "RATE_LIMIT=20")
		full := deviceCases()["a list of 20"].request
		for _, test := range []struct {
			request sent
			status  int
		}{
			{full(), http.StatusOK},
			{full(), http.StatusTooManyRequests},
			{post(validBody, unsigned, header("X-Api-Key", canaryAPIKey)), http.StatusNoContent},
		} {
			answer, err := d.send(t.Context(), test.request)
			if err != nil || answer.status != test.status {
				t.Fatalf("%s: %d %s, %v; want %d", host, answer.status, answer.body, err, test.status)
			}
			if limited := strings.Contains(answer.body, `"code":"rate_limited"`) &&
				answer.header.Get("Retry-After") == "60"; limited != (test.status == http.StatusTooManyRequests) {
				t.Errorf("%s: %s %v", host, answer.body, answer.header)
			}
		}
	}
}
