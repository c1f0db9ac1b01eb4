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
		"a serial number":               answers(bySerial("5CG1234ABC", ""), 204, ""),
		"a serial number in lower case": answers(bySerial("5cg1234abc", ""), 204, ""),
		"a part of a serial number":     answers(bySerial("5CG1234", ""), 404, "device_not_found"),
		"a serial number in Kelvin":     {prepare: put("5CG\u212a", "room.skog@contoso.com"), request: bySerial("5CGK", ""), status: 404, code: "device_not_found"},
		"a shared serial number":        {prepare: put("5cg1234ABC", ""), request: bySerial("5CG1234ABC", ""), status: 409, code: "serial_number_ambiguous"},
		"no serial number":              answers(bySerial("---", ""), 400, "serial_number_invalid"),
		"a serial number and an id":     answers(bySerial("5CG1234ABC", `,"deviceId":"`+someDevice+`"`), 400, "selector_ambiguous"),
		"the filter fails": {prepare: func(c *azuresim.Cloud) {
			c.Fail(azuresim.StepGraph, 1, azuresim.GraphError(400,
				azuresim.Nested, 0))
		}, request: bySerial("5CG1234ABC", ""), status: 204, code: ""},
		"a dry run":                      answers(byID(`,"dryRun":true`), 200, "would_unassign"),
		"a dry run, nothing to do":       {prepare: emptied, request: byID(`,"dryRun":true`), status: 200, code: "already_unassigned"},
		"a dry run, another says no":     answers(byID(`,"dryRun":true,"expected":{"resourceName":"room.skog"}`), 409, "state_changed"),
		"a dry run of words":             answers(byID(`,"dryRun":"yes"`), 400, "dry_run_invalid"),
		"verified":                       answers(byID(`,"verify":true`), 200, "unassigned"),
		"verified, with a dry run":       answers(byID(`,"verify":true,"dryRun":true`), 400, "verify_invalid"),
		"the account that was expected":  answers(byID(`,"expected":{"userPrincipalName":"Room.Fjord@contoso.com"}`), 204, ""),
		"another account than expected":  answers(byID(`,"expected":{"userPrincipalName":"room.skog@contoso.com"}`), 409, "state_changed"),
		"expected of nothing":            answers(byID(`,"expected":{}`), 400, "expected_invalid"),
		"nothing there any more":         {prepare: emptied, request: bySerial("5CG1234ABC", ""), status: 204, code: ""},
		"a tag that is allowed":          {env: []string{"ALLOWED_GROUP_TAGS=Kiosk,MTR-*"}, request: valid, status: 204, code: ""},
		"a tag that is not":              {env: []string{"ALLOWED_GROUP_TAGS=Kiosk,MTR"}, request: valid, status: 403, code: "policy_denied"},
		"a dry run of a tag that is not": {env: []string{"ALLOWED_GROUP_TAGS=Kiosk"}, request: byID(`,"dryRun":true`), status: 403, code: "policy_denied"},

		"a list":                        {prepare: second, request: list(one, other), status: 200, code: ""},
		"a list with a device twice":    answers(list(one, one, `{"serialNumber":"5CG1234ABC"}`), 200, ""),
		"a list with an unknown":        {prepare: second, request: list(one, unknown, other), status: 207, code: ""},
		"a list of unknowns":            answers(list(unknown, other), 404, "device_not_found"),
		"a list that fails in two ways": {prepare: put("5CG1234ABC", ""), request: list(`{"serialNumber":"5CG1234ABC"}`, `{"deviceId":"`+someDevice+`","expected":{"resourceName":"x"}}`), status: 409, code: "devices_failed"},
		"a list, outside the policy":    {env: []string{"ALLOWED_GROUP_TAGS=Kiosk"}, request: list(one, one), status: 403, code: "policy_denied"},
		"a list, throttled": {func(c *azuresim.Cloud) { second(c); items(-1, 429)(c) }, nil, list(one,
			`{"deviceId":"`+otherDevice+`"}`), 503, "devices_failed", retryIn("30")},
		"a list, throttled once": {prepare: func(c *azuresim.Cloud) { second(c); items(1, 429)(c) }, request: list(one, `{"deviceId":"`+otherDevice+`"}`), status: 200, code: ""},
		"a list, no permission":  {prepare: func(c *azuresim.Cloud) { second(c); items(-1, 403)(c) }, request: list(one, `{"deviceId":"`+otherDevice+`"}`), status: 424, code: "graph_permission_missing"},
		"a list, the batch is refused": {
			fail(azuresim.StepGraph, azuresim.GraphError(503, azuresim.NotJSON, 0)), nil,
			list(one, `{"deviceId":"`+otherDevice+`"}`), 503, "devices_failed", retryIn("30"),
		},
		"a dry run of a list":       {prepare: second, request: body(`{"dryRun":true,"devices":[` + one + `,` + other + `]}`), status: 200, code: ""},
		"a list of none":            answers(list(), 400, "devices_invalid"),
		"a list of 21":              answers(list(strings.Split(strings.Repeat(one+"|", 20)+one, "|")...), 400, "devices_invalid"),
		"a list of 20":              answers(list(strings.Split(strings.Repeat(one+"|", 19)+one, "|")...), 200, ""),
		"a list and an id":          answers(body(`{"deviceId":"`+someDevice+`","devices":[`+one+`]}`), 400, "selector_ambiguous"),
		"a list with a fault in it": answers(list(one, `{"deviceId":"x"}`), 400, "device_id_invalid"),
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
