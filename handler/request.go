package handler

import (
	"bytes"
	"encoding/json"
	"unicode"
	"unicode/utf8"

	"autopilot-unassign/graph"
)

// The limits of a body.
const (
	maxBody           = 16 << 10 // bytes
	maxUnread         = 1 << 20  // bytes of a larger body that are taken in before it is refused
	maxReference      = 128      // characters
	maxContextEntries = 20
	maxContextName    = 64  // characters
	maxContextValue   = 256 // characters
)

// request is what a caller asks for.
type request struct {
	device    graph.DeviceID
	reference string            // the caller's ticket; may be empty
	context   map[string]string // the caller's own words for the log; may be nil
}

// decode reads a body. Unlike encoding/json alone it accepts each thing in one way only: it refuses unknown, repeated
// and differently spelt fields, anything behind the object, and invalid UTF-8. A field that is null counts as absent,
// since ServiceNow sends null for what is empty. Its error is a *refusal that names the field.
func decode(body []byte) (request, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return request{}, &refusal{code: bodyMissing}
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return request{}, &refusal{code: invalidJSON}
	}
	var (
		req   request
		named bool
	)
	fields := map[string]func(json.RawMessage) error{
		"deviceId": func(value json.RawMessage) error {
			text, ok := stringValue(value)
			id, err := graph.ParseDeviceID(text)
			if !ok || err != nil {
				return &refusal{deviceIDInvalid, "deviceId"}
			}
			req.device, named = id, true
			return nil
		},
		"reference": func(value json.RawMessage) error {
			text, ok := stringValue(value)
			if !ok || !printable(text, maxReference) {
				return &refusal{referenceInvalid, "reference"}
			}
			req.reference = text
			return nil
		},
		"context": func(value json.RawMessage) error {
			context, err := decodeContext(value)
			req.context = context
			return err
		},
	}
	err := object(body, &refusal{code: invalidJSON}, func(field string) func(json.RawMessage) error { return fields[field] })
	switch {
	case err != nil:
		return request{}, err
	case !named:
		return request{}, &refusal{code: selectorMissing}
	}
	return req, nil
}

func decodeContext(value json.RawMessage) (map[string]string, error) {
	context := map[string]string{}
	invalid := &refusal{contextInvalid, "context"}
	err := object(value, invalid, func(name string) func(json.RawMessage) error {
		return func(value json.RawMessage) error {
			text, ok := stringValue(value)
			if !ok || !plainName(name) || !printable(text, maxContextValue) || len(context) == maxContextEntries {
				return invalid
			}
			context[name] = text
			return nil
		}
	})
	return context, err
}

// object reads the JSON object in value, which must be valid JSON: for each field, in order, it gets a function from
// reader and calls it with the field's value unless that is null. It returns notObject if value is no object, and refuses
// a field for which reader has no function and one that comes twice.
func object(value []byte, notObject error, reader func(field string) func(json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(value))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return notObject
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		field, ok := token.(string)
		if err != nil || !ok {
			return notObject
		}
		if seen[field] {
			return &refusal{duplicateField, field}
		}
		seen[field] = true
		read := reader(field)
		if read == nil {
			return &refusal{unknownField, field}
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return notObject
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

// stringValue returns the string in a JSON value, and whether it is one.
func stringValue(value json.RawMessage) (string, bool) {
	var text string
	if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, &text) != nil {
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

// plainName reports whether s is the name of an entry of context: 1 to 64 ASCII letters, digits, '.', '-' or '_'.
func plainName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxContextName
}
