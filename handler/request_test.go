package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"autopilot-unassign/graph"
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
	device := mustDevice(t, someDevice)
	for name, test := range map[string]struct {
		body string
		want request
	}{
		"a device":             {`{"deviceId":"` + someDevice + `"}`, request{device: device}},
		"white space around":   {" \r\n{ \"deviceId\" : \"" + someDevice + "\" }\n", request{device: device}},
		"upper case":           {`{"deviceId":"` + strings.ToUpper(someDevice) + `"}`, request{device: device}},
		"escapes in a name":    {`{"\u0064eviceId":"` + someDevice + `"}`, request{device: device}},
		"nulls, as ServiceNow": {`{"deviceId":"` + someDevice + `","reference":null,"context":null}`, request{device: device}},
		"a null in context":    {`{"deviceId":"` + someDevice + `","context":{"room":null}}`, request{device: device, context: map[string]string{}}},
		"an empty reference":   {`{"deviceId":"` + someDevice + `","reference":""}`, request{device: device}},
		"all there is":         {`{"context":{"room":"Fjord – 3. Stock","run.id":"a_1"},"reference":"RITM0012345","deviceId":"` + someDevice + `"}`, request{device, "RITM0012345", map[string]string{"room": "Fjord – 3. Stock", "run.id": "a_1"}}},
		"128 characters":       {`{"deviceId":"` + someDevice + `","reference":"` + strings.Repeat("é", 128) + `"}`, request{device: device, reference: strings.Repeat("é", 128)}},
	} {
		if got, err := decode([]byte(test.body)); err != nil || !reflect.DeepEqual(got, test.want) {
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
		{"a byte order mark", "\ufeff{" + id + `}`, invalidJSON, ""},
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
		{"an empty id", `{"deviceId":""}`, deviceIDInvalid, "deviceId"},
		{"a serial number as id", `{"deviceId":"5CG1234ABC"}`, deviceIDInvalid, "deviceId"},
		{"the all-zero id", `{"deviceId":"00000000-0000-0000-0000-000000000000"}`, deviceIDInvalid, "deviceId"},
		{"braces", `{"deviceId":"{` + someDevice + `}"}`, deviceIDInvalid, "deviceId"},
		{"a path", `{"deviceId":"` + someDevice[:33] + `/.."}`, deviceIDInvalid, "deviceId"},
		{"a GlideElement", `{"deviceId":{"value":"` + someDevice + `"}}`, deviceIDInvalid, "deviceId"},
		{"a number as id", `{"deviceId":1}`, deviceIDInvalid, "deviceId"},
		{"a number as reference", `{` + id + `,"reference":12345}`, referenceInvalid, "reference"},
		{"129 characters", `{` + id + `,"reference":"` + strings.Repeat("é", 129) + `"}`, referenceInvalid, "reference"},
		{"a line break in reference", `{` + id + `,"reference":"a\nb"}`, referenceInvalid, "reference"},
		{"an escape character", `{` + id + `,"reference":"\u001b[31m"}`, referenceInvalid, "reference"},
		{"a change of direction", `{` + id + `,"reference":"\u202egnp"}`, referenceInvalid, "reference"},
		{"a string as context", `{` + id + `,"context":"x"}`, contextInvalid, "context"},
		{"an array as context", `{` + id + `,"context":[]}`, contextInvalid, "context"},
		{"a number in context", `{` + id + `,"context":{"a":1}}`, contextInvalid, "context"},
		{"an object in context", `{` + id + `,"context":{"a":{}}}`, contextInvalid, "context"},
		{"a name with a space", `{` + id + `,"context":{"a b":"x"}}`, contextInvalid, "context"},
		{"an empty name", `{` + id + `,"context":{"":"x"}}`, contextInvalid, "context"},
		{"a long value", `{` + id + `,"context":{"a":"` + strings.Repeat("x", 257) + `"}}`, contextInvalid, "context"},
		{"21 entries", `{` + id + `,"context":{` + strings.Join(entries, ",") + `}}`, contextInvalid, "context"},
		{"a name twice", `{` + id + `,"context":{"a":"1","a":"2"}}`, duplicateField, "a"},
	} {
		_, err := decode([]byte(test.body))
		refused, ok := errors.AsType[*refusal](err)
		if !ok || refused.code != test.code || refused.field != test.field {
			t.Errorf("%s: decode(%s) = %v; want %s of %q", test.name, test.body, err, test.code, test.field)
		}
	}
}

// encode returns the body that decode reads as req, in one form.
func encode(tb testing.TB, req request) []byte {
	tb.Helper()
	body, err := json.Marshal(struct {
		DeviceID  string            `json:"deviceId"`
		Reference string            `json:"reference,omitempty"`
		Context   map[string]string `json:"context,omitempty"`
	}{req.device.String(), req.reference, req.context})
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// FuzzDecode looks for a body that can be read in two ways. Properties:
//  1. decode does not panic, and its error is a *refusal with a row in the status table.
//  2. What is accepted is written back to one body, which is read as the same request.
//  3. What is accepted is read the same by encoding/json, so that no other reader of the body sees another device.
//  4. What is accepted holds the limits, and breaks no line of a log.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"deviceId":"` + someDevice + `"}`,
		`{"deviceId":"` + someDevice + `","reference":"RITM0012345","context":{"a":"b"}}`,
		`{"deviceId":"` + someDevice + `","deviceId":"` + someDevice + `"}`,
		`{"deviceid":"` + someDevice + `"}`,
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
		req, err := decode(body)
		if err != nil {
			refused, ok := errors.AsType[*refusal](err)
			if _, known := rows[refused.code]; !ok || !known {
				t.Fatalf("decode(%q): %v", body, err)
			}
			return
		}
		again, err := decode(encode(t, req))
		if err != nil || again.device != req.device || again.reference != req.reference || !maps.Equal(again.context, req.context) {
			t.Fatalf("decode(%q) = %+v, written and read again %+v, %v", body, req, again, err)
		}
		var other struct{ DeviceID, Reference string }
		if err := json.Unmarshal(body, &other); err != nil || !strings.EqualFold(other.DeviceID, req.device.String()) || other.Reference != req.reference {
			t.Fatalf("decode(%q) = %+v, encoding/json reads %+v, %v", body, req, other, err)
		}
		if !printable(req.reference, maxReference) || len(req.context) > maxContextEntries || req.device == (graph.DeviceID{}) {
			t.Fatalf("decode(%q) = %+v", body, req)
		}
	})
}
