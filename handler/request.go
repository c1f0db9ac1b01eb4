package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"autopilot-unassign/graph"
)

// The limits of a body.
const (
	maxBody           = 16 << 10 // bytes
	maxUnread         = 1 << 20  // bytes of a larger body that are taken in before it is refused
	maxDevices        = 20       // in a list: what Graph takes in one batch
	maxSerialNumber   = 128      // characters
	maxAccountName    = 256      // characters
	maxReference      = 128      // characters
	maxRequestID      = 64       // characters of the caller's id for a request
	maxContextEntries = 20
	maxContextName    = 64  // characters
	maxContextValue   = 256 // characters
)

// request is what a caller asks for.
type request struct {
	targets   []target // at least one
	several   bool     // they came as a list, and are answered as one
	dryRun    bool
	verify    bool
	reference string            // the caller's ticket; may be empty
	context   map[string]string // the caller's own words for the log; may be nil
}

// target is one device, as a caller names it: by its id, or by serial if that is zero.
type target struct {
	id       graph.DeviceID
	serial   string
	expected graph.Account // what it must still carry; zero if the caller does not say
}

// decode reads a body. Unlike encoding/json alone it accepts each thing in one way only: it refuses unknown, repeated
// and differently spelt fields, anything behind the object, and invalid UTF-8. A field that is null counts as absent,
// since ServiceNow sends null for what is empty. Its error is a *refusal that names the field.
func decode(body []byte) (request, error) { return decodeWith(body, nil) }

// decodeWith is decode for a body that may have more fields, each with what reads it.
func decodeWith(body []byte, more map[string]func(json.RawMessage) error) (request, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return request{}, &refusal{code: bodyMissing}
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return request{}, &refusal{code: invalidJSON}
	}
	var (
		req request
		one target
	)
	err := object(body, &refusal{code: invalidJSON}, func(field string) func(json.RawMessage) error {
		switch field {
		case "devices":
			return func(value json.RawMessage) (err error) {
				req.several = true
				req.targets, err = decodeTargets(value)
				return err
			}
		case "dryRun":
			return flag(&req.dryRun, &refusal{dryRunInvalid, field})
		case "verify":
			return flag(&req.verify, &refusal{verifyInvalid, field})
		case "reference":
			return func(value json.RawMessage) error {
				text, ok := stringValue(value)
				if !ok || !printable(text, maxReference) {
					return &refusal{referenceInvalid, field}
				}
				req.reference = text
				return nil
			}
		case "context":
			return func(value json.RawMessage) (err error) {
				req.context, err = decodeContext(value)
				return err
			}
		}
		if read := one.field(field); read != nil {
			return read
		}
		return more[field]
	})
	if err != nil {
		return request{}, err
	}
	switch {
	case req.several && one != (target{}):
		return request{}, &refusal{code: selectorAmbiguous}
	case req.dryRun && req.verify:
		return request{}, &refusal{verifyInvalid, "verify"}
	case !req.several:
		if err := one.check(""); err != nil {
			return request{}, err
		}
		req.targets = []target{one}
	}
	return req, nil
}

// decodeTargets reads a list of devices.
func decodeTargets(value json.RawMessage) ([]target, error) {
	var list []json.RawMessage
	if json.Unmarshal(value, &list) != nil || len(list) == 0 || len(list) > maxDevices {
		return nil, &refusal{devicesInvalid, "devices"}
	}
	targets := make([]target, len(list))
	for i, item := range list {
		at := fmt.Sprintf("devices[%d]", i)
		err := object(item, &refusal{devicesInvalid, at}, targets[i].field)
		if refused, ok := errors.AsType[*refusal](err); ok && refused.field != at {
			return nil, &refusal{refused.code, at + "." + refused.field}
		}
		if err == nil {
			err = targets[i].check(at)
		}
		if err != nil {
			return nil, err
		}
	}
	return targets, nil
}

// field returns what reads a field of a device into t, nil if a device has no such field.
func (t *target) field(name string) func(json.RawMessage) error {
	switch name {
	case "deviceId":
		return func(value json.RawMessage) error {
			text, ok := stringValue(value)
			id, err := graph.ParseDeviceID(text)
			if !ok || err != nil {
				return &refusal{deviceIDInvalid, name}
			}
			t.id = id
			return nil
		}
	case "serialNumber":
		return func(value json.RawMessage) error {
			text, ok := stringValue(value)
			if !ok || !serialNumber(text) {
				return &refusal{serialNumberInvalid, name}
			}
			t.serial = text
			return nil
		}
	case "expected":
		return func(value json.RawMessage) (err error) {
			t.expected, err = decodeExpected(value)
			return err
		}
	}
	return nil
}

// check returns a *refusal unless t names a device in exactly one way. Its field is at.
func (t *target) check(at string) error {
	switch {
	case t.id == (graph.DeviceID{}) && t.serial == "":
		return &refusal{selectorMissing, at}
	case t.id != (graph.DeviceID{}) && t.serial != "":
		return &refusal{selectorAmbiguous, at}
	}
	return nil
}

// decodeExpected reads the account that a device must still carry, by one of its names.
func decodeExpected(value json.RawMessage) (graph.Account, error) {
	var account graph.Account
	invalid := &refusal{expectedInvalid, "expected"}
	name := func(into *string) func(json.RawMessage) error {
		return func(value json.RawMessage) error {
			text, ok := stringValue(value)
			if !ok || text == "" || !printable(text, maxAccountName) {
				return invalid
			}
			*into = text
			return nil
		}
	}
	fields := map[string]func(json.RawMessage) error{"userPrincipalName": name(&account.UserPrincipalName), "resourceName": name(&account.ResourceName)}
	err := object(value, invalid, func(field string) func(json.RawMessage) error { return fields[field] })
	if err == nil && (account.UserPrincipalName == "") == (account.ResourceName == "") {
		err = invalid
	}
	return account, err
}

// flag returns what reads true or false into a flag.
func flag(into *bool, invalid error) func(json.RawMessage) error {
	return func(value json.RawMessage) error {
		if json.Unmarshal(value, into) != nil {
			return invalid
		}
		return nil
	}
}

// serialNumber reports whether s can be a serial number: up to 128 printable ASCII characters, no space at an end, and a
// letter or a digit among them, which the search in Graph needs.
func serialNumber(s string) bool {
	alphanumeric := false
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
		alphanumeric = alphanumeric || ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9')
	}
	return alphanumeric && len(s) <= maxSerialNumber && strings.TrimSpace(s) == s
}

func decodeContext(value json.RawMessage) (map[string]string, error) {
	context := map[string]string{}
	invalid := &refusal{contextInvalid, "context"}
	err := object(value, invalid, func(name string) func(json.RawMessage) error {
		return func(value json.RawMessage) error {
			text, ok := stringValue(value)
			if !ok || !plain(name, maxContextName) || !printable(text, maxContextValue) || len(context) == maxContextEntries {
				return invalid
			}
			context[name] = text
			return nil
		}
	})
	return context, err
}

// object reads the JSON object in value, which must be valid JSON in UTF-8: for each field, in order, it gets a function from
// reader and calls it with the field's value unless that is null. It returns notObject if value is no object, and refuses
// a field for which reader has no function and one that comes twice.
func object(value []byte, notObject error, reader func(field string) func(json.RawMessage) error) error {
	text := bytes.TrimSpace(value)
	if len(text) == 0 || text[0] != '{' {
		return notObject
	}
	var seen []string
	for text[0] != '}' {
		name, rest := next(text[1:])
		if len(name) == 0 { // of an empty object
			return nil
		}
		var value json.RawMessage
		value, text = next(rest[1:])
		field, _ := stringValue(name)
		if slices.Contains(seen, field) {
			return &refusal{duplicateField, field}
		}
		seen = append(seen, field)
		read := reader(field)
		if read == nil {
			return &refusal{unknownField, field}
		}
		if string(value) == "null" {
			continue
		}
		if err := read(value); err != nil {
			return err
		}
	}
	return nil
}

// next returns the name or value that text begins with, in the middle of an object of valid JSON, and the rest from the colon, comma or
// brace on that ends it.
func next(text []byte) (value, rest []byte) {
	depth, quoted, end := 0, false, 0
	for ; depth > 0 || quoted || strings.IndexByte(":,}", text[end]) < 0; end++ {
		switch c := text[end]; {
		case quoted && c == '\\':
			end++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			depth--
		}
	}
	return bytes.TrimSpace(text[:end]), text[end:]
}

// stringValue returns the string in a JSON value, and whether it is one.
func stringValue(value json.RawMessage) (string, bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	if !bytes.ContainsRune(value, '\\') { // as nearly all are
		return string(value[1 : len(value)-1]), true
	}
	var text string
	if json.Unmarshal(value, &text) != nil {
		return "", false
	}
	return text, true
}

// printable reports whether s has at most limit characters, none of them a control or an invisible one, which could
// break a line of a log or turn its direction.
func printable(s string, limit int) bool {
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return utf8.RuneCountInString(s) <= limit
}

// plain reports whether s has 1 to limit characters, all of them ASCII letters, digits, '.', '-' or '_'.
func plain(s string, limit int) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= limit
}
