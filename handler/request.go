package handler

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/text"
)

// The limits of a request.
const (
	maxBody           = 16 << 10 // bytes
	maxUnread         = 1 << 20  // bytes of a larger body that are discarded before the refusal
	maxDevices        = 20       // in a list: Graph's limit for a batch
	maxAccountName    = 256      // characters
	maxReference      = 128      // characters
	maxRequestID      = 64       // characters of X-Request-Id
	maxDeliveryID     = 128      // characters
	maxContextEntries = 20
	maxContextName    = 64  // characters
	maxContextValue   = 256 // characters
)

// request is a decoded body.
type request struct {
	targets   []target // at least one
	list      bool     // the body has devices, and the response has results
	dryRun    bool
	verify    bool
	reference string            // the caller's ticket; may be empty
	context   map[string]string // the caller's data for the log; may be nil
}

// target names a device: by id, or by serial number where the id is zero.
type target struct {
	id       graph.DeviceID
	serial   string
	expected graph.Account // the account that the device must still carry; zero for any
}

// checkPost returns a *refusal unless r is a POST of JSON.
func checkPost(header http.Header, r *http.Request) error {
	if r.Method != http.MethodPost {
		header.Set("Allow", http.MethodPost)
		return &refusal{code: methodNotAllowed}
	}
	if !isJSON(r.Header) {
		header.Set("Accept-Post", "application/json")
		return &refusal{code: unsupportedMediaType}
	}
	return nil
}

// readBody returns the body. Nothing is authenticated yet, so its checks are cheap.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	tooLarge := len(body) > maxBody
	if tooLarge {
		// Most callers read the response only after they have sent the whole body, and lose it if the connection closes
		// before.
		_, _ = io.CopyN(io.Discard, r.Body, maxUnread)
	}
	switch {
	case tooLarge:
		return nil, &refusal{code: bodyTooLarge}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &refusal{code: bodyTimeout}
	case err != nil:
		return nil, &refusal{code: invalidJSON}
	}
	return body, nil
}

// isJSON reports whether the headers declare plain JSON in UTF-8, or nothing: scripts in ServiceNow send no
// Content-Type by default. Gateways send an empty one, or repeat it.
func isJSON(h http.Header) bool {
	for _, encoding := range listMembers(h, "Content-Encoding") {
		if !strings.EqualFold(encoding, "identity") {
			return false
		}
	}
	for _, declared := range listMembers(h, "Content-Type") {
		media, params, err := mime.ParseMediaType(declared)
		charset, ok := params["charset"]
		utf8 := !ok || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
		if err != nil || media != "application/json" || !utf8 {
			return false
		}
	}
	return true
}

// listMembers returns the members of a header that is a comma-separated list, without empty ones and surrounding white
// space.
func listMembers(h http.Header, name string) []string {
	var members []string
	for _, value := range h.Values(name) {
		for member := range strings.SplitSeq(value, ",") {
			if member = strings.TrimSpace(member); member != "" {
				members = append(members, member)
			}
		}
	}
	return members
}

// deliveryID returns the id of a delivery: the id that the signature covers or, for callers that do not sign, the value
// of Idempotency-Key with or without quotes. It is "" if the caller sent none.
func deliveryID(h http.Header, from caller.Caller) (string, error) {
	keys := h.Values("Idempotency-Key")
	if from.Kind == caller.KindSignature || len(keys) == 0 {
		return from.Delivery, nil
	}
	key := keys[0]
	if len(key) > 1 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	if len(keys) > 1 || key == "" || len(key) > maxDeliveryID || !text.IsPrintableASCII(key) {
		return "", &refusal{code: deliveryIDInvalid}
	}
	return key, nil
}

// decodeBody decodes a body more strictly than encoding/json: it refuses unknown, duplicate and case-variant fields,
// trailing data and invalid UTF-8. A null field counts as absent, because ServiceNow sends null for empty values. Its
// error is a *refusal that names the field.
func decodeBody(body []byte) (request, error) {
	var d bodyDecoder
	return d.decode(body, maxBody, d.fieldReader)
}

type bodyDecoder struct {
	req    request
	single target // the device that the body names itself, outside devices
}

// decode decodes a body of at most limit bytes. fieldReader returns the reader of a field: d.fieldReader for the fields of a
// request.
func (d *bodyDecoder) decode(body []byte, limit int, fieldReader func(field string) fieldReader) (request, error) {
	body, err := checkJSON(body, limit)
	if err == nil {
		err = readObject(body, &refusal{code: invalidJSON}, fieldReader)
	}
	if err != nil {
		return request{}, err
	}
	return d.finish()
}

// fieldReader returns the reader of a field, nil for an unknown field.
func (d *bodyDecoder) fieldReader(field string) fieldReader {
	switch field {
	case "devices":
		return func(value json.RawMessage) (err error) {
			d.req.list = true
			d.req.targets, err = decodeTargets(value)
			return err
		}
	case "dryRun":
		return boolField(&d.req.dryRun, &refusal{dryRunInvalid, field})
	case "verify":
		return boolField(&d.req.verify, &refusal{verifyInvalid, field})
	case "reference":
		return stringField(&refusal{referenceInvalid, field}, func(text string) bool {
			d.req.reference = cleanLabel(text, maxReference)
			return true
		})
	case "context":
		return func(value json.RawMessage) (err error) {
			d.req.context, err = decodeContext(value)
			return err
		}
	}
	return d.single.fieldReader(field)
}

// finish returns the request, or a *refusal if its fields do not fit together.
func (d *bodyDecoder) finish() (request, error) {
	// Power Automate sends an empty value for an input that is not set.
	if len(d.req.targets) == 0 && (d.single.id != (graph.DeviceID{}) || d.single.serial != "") {
		d.req.list = false
	}
	switch {
	case d.req.list && len(d.req.targets) == 0:
		return request{}, &refusal{devicesInvalid, "devices"}
	case d.req.list && d.single != (target{}):
		return request{}, &refusal{code: selectorAmbiguous}
	case d.req.dryRun && d.req.verify:
		return request{}, &refusal{verifyInvalid, "verify"}
	case !d.req.list:
		if err := d.single.checkSelector(""); err != nil {
			return request{}, err
		}
		d.req.targets = []target{d.single}
	}
	return d.req, nil
}

// checkJSON returns a body without its byte order mark. Its error is a *refusal of a body that is empty, larger than limit
// or not JSON.
func checkJSON(body []byte, limit int) ([]byte, error) {
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return nil, &refusal{code: bodyMissing}
	case len(body) > limit:
		return nil, &refusal{code: bodyTooLarge}
	case !utf8.Valid(body) || !json.Valid(body):
		return nil, &refusal{code: invalidJSON}
	}
	return body, nil
}

// decodeMessage returns the text of a queue message: as it is, or decoded from base64, the default encoding of older
// SDKs.
func decodeMessage(text []byte) []byte {
	plain := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	if n, err := base64.StdEncoding.Decode(plain, bytes.TrimSpace(text)); err == nil && n > 0 {
		return plain[:n]
	}
	return text
}

// decodeTargets decodes devices. An empty list is no error here.
func decodeTargets(value json.RawMessage) ([]target, error) {
	var list []json.RawMessage
	if json.Unmarshal(value, &list) != nil || len(list) > maxDevices {
		return nil, &refusal{devicesInvalid, "devices"}
	}
	targets := make([]target, len(list))
	for i, item := range list {
		path := fmt.Sprintf("devices[%d]", i)
		err := readObject(item, &refusal{devicesInvalid, path}, targets[i].fieldReader)
		if refused, ok := errors.AsType[*refusal](err); ok && refused.field != path {
			return nil, &refusal{refused.code, path + "." + refused.field}
		}
		if err == nil {
			err = targets[i].checkSelector(path)
		}
		if err != nil {
			return nil, err
		}
	}
	return targets, nil
}

// fieldReader decodes the value of one field.
type fieldReader func(json.RawMessage) error

// fieldReader returns the reader of a device's field, nil for an unknown field. An empty selector counts as absent.
func (t *target) fieldReader(name string) fieldReader {
	switch name {
	case "deviceId":
		return stringField(&refusal{deviceIDInvalid, name}, func(text string) bool {
			id, err := graph.ParseDeviceID(text)
			t.id = id
			return err == nil || isBlank(text)
		})
	case "serialNumber":
		return stringField(&refusal{serialNumberInvalid, name}, func(text string) bool {
			if isBlank(text) {
				return true
			}
			t.serial = text
			return graph.ValidSerialNumber(text)
		})
	case "expected":
		return func(value json.RawMessage) (err error) {
			t.expected, err = decodeExpected(value)
			return err
		}
	}
	return nil
}

// checkSelector returns a *refusal unless t names a device in exactly one way.
func (t *target) checkSelector(path string) error {
	switch {
	case t.id == (graph.DeviceID{}) && t.serial == "":
		return &refusal{selectorMissing, path}
	case t.id != (graph.DeviceID{}) && t.serial != "":
		return &refusal{selectorAmbiguous, path}
	}
	return nil
}

// decodeExpected decodes the account that a device must still carry. An empty name counts as absent beside the other
// name.
func decodeExpected(value json.RawMessage) (graph.Account, error) {
	var account graph.Account
	invalid := &refusal{expectedInvalid, "expected"}
	nameField := func(name *string) fieldReader {
		return stringField(invalid, func(text string) bool {
			*name = text
			return isPrintable(text, maxAccountName)
		})
	}
	fields := map[string]fieldReader{
		"userPrincipalName": nameField(&account.UserPrincipalName), "resourceName": nameField(&account.ResourceName),
	}
	err := readObject(value, invalid, func(field string) fieldReader { return fields[field] })
	if err == nil && (account.UserPrincipalName == "") == (account.ResourceName == "") {
		err = invalid
	}
	return account, err
}

// decodeContext decodes the caller's data for the log.
func decodeContext(value json.RawMessage) (map[string]string, error) {
	invalid := &refusal{contextInvalid, "context"}
	context := map[string]string{}
	count := 0 // null entries count too
	err := readObject(value, invalid, func(name string) fieldReader {
		count++
		return stringField(invalid, func(text string) bool {
			context[name] = cleanLabel(text, maxContextValue)
			return isPlain(name, maxContextName)
		})
	})
	if err == nil && count > maxContextEntries {
		err = invalid
	}
	return context, err
}

// stringField returns the reader of a string. set stores the string, and returns false if it is invalid.
func stringField(invalid error, set func(text string) bool) fieldReader {
	return func(value json.RawMessage) error {
		if content, ok := text.Unquote(value); !ok || !set(content) {
			return invalid
		}
		return nil
	}
}

func boolField(into *bool, invalid error) fieldReader {
	return func(value json.RawMessage) error {
		if json.Unmarshal(value, into) != nil {
			return invalid
		}
		return nil
	}
}

// cleanLabel returns a text for people and the log in a form that breaks no line and changes no direction: each space
// of any script becomes a plain one, invisible characters and controls are dropped, and the rest is cut to limit
// characters. A label never refuses a request by its characters.
func cleanLabel(s string, limit int) string {
	if isPrintable(s, limit) {
		return s
	}
	s = strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return ' '
		case !unicode.IsPrint(c):
			return -1
		}
		return c
	}, s)
	count := 0
	for i := range s {
		if count++; count > limit {
			return s[:i]
		}
	}
	return s
}

// readObject calls the reader that fieldReader returns for each member of the JSON object in value, in order and unless
// the member is null. It returns notObject if value is no object, and refuses unknown and duplicate fields. value is
// valid JSON.
func readObject(value []byte, notObject error, fieldReader func(field string) fieldReader) error {
	if !text.IsObject(value) {
		return notObject
	}
	seen := map[string]bool{}
	for name, member := range text.Members(value) {
		field := string(name)
		if seen[field] {
			return &refusal{duplicateField, field}
		}
		seen[field] = true
		read := fieldReader(field)
		if read == nil {
			return &refusal{unknownField, field}
		}
		if string(member) == "null" {
			continue
		}
		if err := read(member); err != nil {
			return err
		}
	}
	return nil
}

// isBlank reports whether s has no character but spaces.
func isBlank(s string) bool { return strings.TrimSpace(s) == "" }

// isPrintable reports whether s has at most limit characters, and neither a control nor an invisible one.
func isPrintable(s string, limit int) bool {
	return utf8.RuneCountInString(s) <= limit && !strings.ContainsFunc(s,
		func(c rune) bool { return !unicode.IsPrint(c) })
}

// isPlain reports whether s has 1 to limit characters, all of them ASCII letters, digits, '.', '-' or '_'.
func isPlain(s string, limit int) bool {
	return s != "" && len(s) <= limit && strings.Trim(s, text.Alphanumeric+".-_") == ""
}
