package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/text"
)

const someDevice = "6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01"

func mustDevice(tb testing.TB, s string) graph.DeviceID {
	tb.Helper()
	id, err := graph.ParseDeviceID(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func TestDecodeAccepts(t *testing.T) {
	device := []target{{id: mustDevice(t, someDevice)}}
	for name, test := range map[string]struct {
		body string
		want request
	}{
		"a device":             {`{"deviceId":"` + someDevice + `"}`, request{targets: device}},
		"white space around":   {" \r\n{ \"deviceId\" : \"" + someDevice + "\" }\n", request{targets: device}},
		"upper case":           {`{"deviceId":"` + strings.ToUpper(someDevice) + `"}`, request{targets: device}},
		"escapes in a name":    {`{"\u0064eviceId":"` + someDevice + `"}`, request{targets: device}},
		"nulls, as ServiceNow": {`{"deviceId":"` + someDevice + `","reference":null,"context":null}`, request{targets: device}},
		"a null in context":    {`{"deviceId":"` + someDevice + `","context":{"room":null}}`, request{targets: device, context: map[string]string{}}},
		"an empty reference":   {`{"deviceId":"` + someDevice + `","reference":""}`, request{targets: device}},
		"all there is":         {`{"context":{"room":"Fjord – 3. Stock","run.id":"a_1"},"reference":"RITM0012345","deviceId":"` + someDevice + `"}`, request{targets: device, reference: "RITM0012345", context: map[string]string{"room": "Fjord – 3. Stock", "run.id": "a_1"}}},
		"a serial number":      {`{"serialNumber":"VMware-56 4d 8a"}`, request{targets: []target{{serial: "VMware-56 4d 8a"}}}},
		"an expected account":  {`{"deviceId":"` + someDevice + `","expected":{"userPrincipalName":"room@contoso.com","resourceName":null}}`, request{targets: []target{{id: device[0].id, expected: graph.Account{UserPrincipalName: "room@contoso.com"}}}}},
		"a dry run":            {`{"serialNumber":"O'Neil-1","dryRun":true,"verify":false}`, request{targets: []target{{serial: "O'Neil-1"}}, dryRun: true}},
		"with verify":          {`{"deviceId":"` + someDevice + `","verify":true}`, request{targets: device, verify: true}},
		"a list":               {`{"devices":[{"deviceId":"` + someDevice + `"},{"serialNumber":"5CG1","expected":{"resourceName":"room"}}],"deviceId":null}`, request{list: true, targets: []target{{id: device[0].id}, {serial: "5CG1", expected: graph.Account{ResourceName: "room"}}}}},
		"a list of one":        {`{"devices":[{"deviceId":"` + someDevice + `"}]}`, request{list: true, targets: device}},
		// Power Automate sends an empty value for an input that is not set.
		"an empty id beside a serial number": {`{"deviceId":"","serialNumber":"5CG1"}`, request{targets: []target{{serial: "5CG1"}}}},
		"a blank serial number beside an id": {`{"deviceId":"` + someDevice + `","serialNumber":" "}`, request{targets: device}},
		"an empty list beside an id":         {`{"deviceId":"` + someDevice + `","devices":[]}`, request{targets: device}},
		"an empty id in a list":              {`{"devices":[{"deviceId":"` + someDevice + `","serialNumber":""}],"deviceId":"","serialNumber":""}`, request{list: true, targets: device}},
		"an empty name beside another":       {`{"deviceId":"` + someDevice + `","expected":{"userPrincipalName":"","resourceName":"room"}}`, request{targets: []target{{id: device[0].id, expected: graph.Account{ResourceName: "room"}}}}},
		"a byte order mark":                  {"\ufeff" + `{"deviceId":"` + someDevice + `"}`, request{targets: device}},
		// A label never refuses a request by its characters.
		"U+3000 in reference":       {`{"deviceId":"` + someDevice + `","reference":"RITM　東京"}`, request{targets: device, reference: "RITM 東京"}},
		"NBSP in reference":         {`{"deviceId":"` + someDevice + `","reference":"RITM\u00a01"}`, request{targets: device, reference: "RITM 1"}},
		"U+200B in an asset tag":    {`{"deviceId":"` + someDevice + `","context":{"asset":"P1000\u200b479"}}`, request{targets: device, context: map[string]string{"asset": "P1000479"}}},
		"a line break in reference": {`{"deviceId":"` + someDevice + `","reference":"a\nb"}`, request{targets: device, reference: "a b"}},
		"an escape in reference":    {`{"deviceId":"` + someDevice + `","reference":"\u001b[31m"}`, request{targets: device, reference: "[31m"}},
		"a change of direction":     {`{"deviceId":"` + someDevice + `","reference":"\u202egnp"}`, request{targets: device, reference: "gnp"}},
		"129 characters":            {`{"deviceId":"` + someDevice + `","reference":"` + strings.Repeat("é", 129) + `"}`, request{targets: device, reference: strings.Repeat("é", 128)}},
		"a long value":              {`{"deviceId":"` + someDevice + `","context":{"a":"` + strings.Repeat("x", 257) + `"}}`, request{targets: device, context: map[string]string{"a": strings.Repeat("x", 256)}}},
		"128 characters":            {`{"deviceId":"` + someDevice + `","reference":"` + strings.Repeat("é", 128) + `"}`, request{targets: device, reference: strings.Repeat("é", 128)}},
	} {
		if got, err := decodeBody([]byte(test.body)); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: decode(%s) = %+v, %v; want %+v", name, test.body, got, err, test.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	id := `"deviceId":"` + someDevice + `"`
	entries := make([]string, 21)
	for i := range entries {
		entries[i] = fmt.Sprintf(`"k%d":"v"`, i)
	}
	for _, test := range []struct {
		name, body string
		code       Code
		field      string
	}{
		{"nothing", ``, bodyMissing, ""},
		{"white space", " \n\t", bodyMissing, ""},
		{"no JSON", `deviceId=1`, invalidJSON, ""},
		{"half an object", `{` + id, invalidJSON, ""},
		{"an object and more", `{` + id + `}{}`, invalidJSON, ""},
		{"an object and a word", `{` + id + `} true`, invalidJSON, ""},
		{"invalid UTF-8", "{" + id + ",\"reference\":\"\xff\"}", invalidJSON, ""},
		{"an array", `[{` + id + `}]`, invalidJSON, ""},
		{"a string", `"x"`, invalidJSON, ""},
		{"null", `null`, invalidJSON, ""},
		{"a comment", `{` + id + `/* */}`, invalidJSON, ""},
		{"a comma too many", `{` + id + `,}`, invalidJSON, ""},
		{"an empty object", `{}`, selectorMissing, ""},
		{"no device", `{"reference":"RITM1"}`, selectorMissing, ""},
		{"a null device", `{"deviceId":null}`, selectorMissing, ""},
		{"an unknown field", `{` + id + `,"force":true}`, unknownField, "force"},
		{"an unknown field that is null", `{` + id + `,"force":null}`, unknownField, "force"},
		{"another case", `{"DeviceId":"` + someDevice + `"}`, unknownField, "DeviceId"},
		{"a field twice", `{` + id + `,` + id + `}`, duplicateField, "deviceId"},
		{"a field twice, once null", `{` + id + `,"deviceId":null}`, duplicateField, "deviceId"},
		{"a field twice, once escaped", `{` + id + `,"device\u0049d":"` + someDevice + `"}`, duplicateField, "deviceId"},
		{"an empty id alone", `{"deviceId":""}`, selectorMissing, ""},
		{"an empty list alone", `{"devices":[]}`, devicesInvalid, "devices"},
		{"an empty id in a list", `{"devices":[{"deviceId":""}]}`, selectorMissing, "devices[0]"},
		{"a serial number as id", `{"deviceId":"5CG1234ABC"}`, deviceIDInvalid, "deviceId"},
		{"the all-zero id", `{"deviceId":"00000000-0000-0000-0000-000000000000"}`, deviceIDInvalid, "deviceId"},
		{"braces", `{"deviceId":"{` + someDevice + `}"}`, deviceIDInvalid, "deviceId"},
		{"a path", `{"deviceId":"` + someDevice[:33] + `/.."}`, deviceIDInvalid, "deviceId"},
		{"a GlideElement", `{"deviceId":{"value":"` + someDevice + `"}}`, deviceIDInvalid, "deviceId"},
		{"a number as id", `{"deviceId":1}`, deviceIDInvalid, "deviceId"},
		{"an id and a serial number", `{` + id + `,"serialNumber":"5CG1"}`, selectorAmbiguous, ""},
		{"an id and a list", `{` + id + `,"devices":[{` + id + `}]}`, selectorAmbiguous, ""},
		{"an expected account beside a list", `{"expected":{"resourceName":"x"},"devices":[{` + id + `}]}`, selectorAmbiguous, ""},
		{"an empty list", `{"devices":[]}`, devicesInvalid, "devices"},
		{"21 devices", `{"devices":[` + strings.Repeat(`{`+id+`},`, 20) + `{` + id + `}]}`, devicesInvalid, "devices"},
		{"no list", `{"devices":{` + id + `}}`, devicesInvalid, "devices"},
		{"a string in the list", `{"devices":["` + someDevice + `"]}`, devicesInvalid, "devices[0]"},
		{"no device in the list", `{"devices":[{` + id + `},{}]}`, selectorMissing, "devices[1]"},
		{"two names in the list", `{"devices":[{` + id + `,"serialNumber":"5CG1"}]}`, selectorAmbiguous, "devices[0]"},
		{"an unknown field in the list", `{"devices":[{` + id + `,"dryRun":true}]}`, unknownField, "devices[0].dryRun"},
		{"a bad id in the list", `{"devices":[{"deviceId":"x"}]}`, deviceIDInvalid, "devices[0].deviceId"},
		{"an empty serial number alone", `{"serialNumber":""}`, selectorMissing, ""},
		{"a space behind", `{"serialNumber":"5CG1 "}`, serialNumberInvalid, "serialNumber"},
		{"no letter and no digit", `{"serialNumber":"---"}`, serialNumberInvalid, "serialNumber"},
		{"a line break in it", `{"serialNumber":"5CG\n1"}`, serialNumberInvalid, "serialNumber"},
		{"a letter beyond ASCII", `{"serialNumber":"5CGé1"}`, serialNumberInvalid, "serialNumber"},
		{"129 characters of it", `{"serialNumber":"` + strings.Repeat("x", 129) + `"}`, serialNumberInvalid, "serialNumber"},
		{"a number as serial number", `{"serialNumber":12345}`, serialNumberInvalid, "serialNumber"},
		{"nothing expected", `{` + id + `,"expected":{}}`, expectedInvalid, "expected"},
		{"both names expected", `{` + id + `,"expected":{"userPrincipalName":"a","resourceName":"b"}}`, expectedInvalid, "expected"},
		{"an empty name expected", `{` + id + `,"expected":{"resourceName":""}}`, expectedInvalid, "expected"},
		{"a string expected", `{` + id + `,"expected":"room@contoso.com"}`, expectedInvalid, "expected"},
		{"another name expected", `{` + id + `,"expected":{"upn":"a"}}`, unknownField, "upn"},
		{"a string as dryRun", `{` + id + `,"dryRun":"true"}`, dryRunInvalid, "dryRun"},
		{"a number as verify", `{` + id + `,"verify":1}`, verifyInvalid, "verify"},
		{"a dry run to verify", `{` + id + `,"verify":true,"dryRun":true}`, verifyInvalid, "verify"},
		{"a number as reference", `{` + id + `,"reference":12345}`, referenceInvalid, "reference"},
		{"a string as context", `{` + id + `,"context":"x"}`, contextInvalid, "context"},
		{"an array as context", `{` + id + `,"context":[]}`, contextInvalid, "context"},
		{"a number in context", `{` + id + `,"context":{"a":1}}`, contextInvalid, "context"},
		{"an object in context", `{` + id + `,"context":{"a":{}}}`, contextInvalid, "context"},
		{"a name with a space", `{` + id + `,"context":{"a b":"x"}}`, contextInvalid, "context"},
		{"an empty name", `{` + id + `,"context":{"":"x"}}`, contextInvalid, "context"},
		{"21 entries", `{` + id + `,"context":{` + strings.Join(entries, ",") + `}}`, contextInvalid, "context"},
		{"a name twice", `{` + id + `,"context":{"a":"1","a":"2"}}`, duplicateField, "a"},
	} {
		_, err := decodeBody([]byte(test.body))
		refused, ok := errors.AsType[*refusal](err)
		if !ok || refused.code != test.code || refused.field != test.field {
			t.Errorf("%s: decode(%s) = %v; want %s of %q", test.name, test.body, err, test.code, test.field)
		}
	}
}

// encode returns the body that decode reads as req, in one form.
func encode(tb testing.TB, req request) []byte {
	tb.Helper()
	member := func(t target) map[string]any {
		m := map[string]any{}
		if t.serial != "" {
			m["serialNumber"] = t.serial
		} else {
			m["deviceId"] = t.id.String()
		}
		switch {
		case t.expected.UserPrincipalName != "":
			m["expected"] = map[string]string{"userPrincipalName": t.expected.UserPrincipalName}
		case t.expected.ResourceName != "":
			m["expected"] = map[string]string{"resourceName": t.expected.ResourceName}
		}
		return m
	}
	body := map[string]any{}
	if req.list {
		var list []any
		for _, t := range req.targets {
			list = append(list, member(t))
		}
		body["devices"] = list
	} else {
		body = member(req.targets[0])
	}
	body["dryRun"], body["verify"], body["reference"], body["context"] = req.dryRun, req.verify, req.reference, req.context
	text, err := json.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// FuzzDecode looks for a body that can be read in two ways. Properties:
//  1. decode does not panic, and its error is a *refusal with a row in the status table.
//  2. An accepted request is encoded to one body, which decodes to the same request.
//  3. encoding/json reads an accepted body the same, so that no other reader of the body sees another device.
//  4. An accepted request is within the limits, and breaks no line of a log.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"deviceId":"` + someDevice + `"}`,
		`{"deviceId":"` + someDevice + `","reference":"RITM0012345","context":{"a":"b"}}`,
		`{"deviceId":"` + someDevice + `","deviceId":"` + someDevice + `"}`,
		`{"deviceid":"` + someDevice + `"}`,
		`{"serialNumber":"VMware-56 4d","dryRun":true}`,
		`{"devices":[{"deviceId":"` + someDevice + `"},{"serialNumber":"5CG1","expected":{"resourceName":"r"}}],"verify":true}`,
		`{"deviceId":null}`,
		`{"deviceId":"` + someDevice + `"}{}`,
		`{"deviceId":"` + someDevice + `","reference":"\ud800"}`,
		`{"deviceId":"` + someDevice + `","context":{"a":"1","a":"2"}}`,
		`[[[[[[[[`,
		"\ufeff{}",
		``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeBody(body)
		if err != nil {
			refused, ok := errors.AsType[*refusal](err)
			if !ok || statusOf(refused.code).status == 0 {
				t.Fatalf("decode(%q): %v", body, err)
			}
			return
		}
		again, err := decodeBody(encode(t, req))
		if err != nil || !slices.Equal(again.targets, req.targets) || again.list != req.list || again.dryRun != req.dryRun || again.verify != req.verify ||
			again.reference != req.reference || !maps.Equal(again.context, req.context) {
			t.Fatalf("decode(%q) = %+v, written and read again %+v, %v", body, req, again, err)
		}
		type member struct{ DeviceID, SerialNumber string }
		var other struct {
			member
			Devices   []member
			Reference string
			DryRun    bool
		}
		err = json.Unmarshal(bytes.TrimPrefix(body, []byte("\ufeff")), &other)
		if !req.list {
			other.Devices = []member{other.member}
		}
		if err != nil || len(other.Devices) != len(req.targets) || other.DryRun != req.dryRun || cleanLabel(other.Reference, maxReference) != req.reference {
			t.Fatalf("decode(%q) = %+v, encoding/json reads %+v, %v", body, req, other, err)
		}
		for i, one := range req.targets {
			seen := other.Devices[i]
			if byID := one.id != (graph.DeviceID{}); byID == (one.serial != "") || byID != !isBlank(seen.DeviceID) || !isBlank(seen.SerialNumber) && seen.SerialNumber != one.serial || byID && !strings.EqualFold(seen.DeviceID, one.id.String()) {
				t.Fatalf("decode(%q) = %+v, encoding/json reads %+v", body, one, seen)
			}
		}
		if !isPrintable(req.reference, maxReference) || len(req.context) > maxContextEntries || len(req.targets) == 0 || len(req.targets) > maxDevices {
			t.Fatalf("decode(%q) = %+v", body, req)
		}
	})
}

// FuzzReadObject looks for an object that encoding/json reads differently: other members, other texts.
func FuzzReadObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, " { \"a\" : \"b\" , \"c\":{\"d\":[1,{\"e\":\"}\"}]}\n,\"f\":null\t}", `{"\u0061":"\"\\","b":-1.5e3,"c":true,"":"}"}`,
		`{"a":{"b":{}},"c":[[],[{}]]}`, `{"\\":"\\\\","\"":1}`, `[]`, `"{}"`, `null`, `{"\ud800":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		body, err := checkJSON(body, maxBody)
		if err != nil {
			return
		}
		got := map[string]string{}
		err = readObject(body, &refusal{code: invalidJSON}, func(field string) fieldReader {
			got[field] = "null" // which has no call
			return func(value json.RawMessage) error {
				got[field] = string(value)
				if member, ok := text.Unquote(value); ok {
					got[field] = member
				}
				return nil
			}
		})
		if refused, ok := errors.AsType[*refusal](err); ok && refused.code == duplicateField {
			return
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(body, &want) != nil || want == nil {
			if err == nil {
				t.Fatalf("%q is read as %q", body, got)
			}
			return
		}
		texts := map[string]string{}
		for name, value := range want {
			var text *string
			if texts[name] = string(value); json.Unmarshal(value, &text) == nil && text != nil {
				texts[name] = *text
			}
		}
		if err != nil || !maps.Equal(got, texts) {
			t.Fatalf("%q is read as %q, %v; want %q", body, got, err, texts)
		}
	})
}
