package client

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"

	"autopilot-unassign/internal/text"
)

// The largest files with a list, and with a key or a token, in bytes.
const (
	maxFile    = 1 << 30
	maxKeyFile = 64 << 10
)

const utf8BOM = "\xef\xbb\xbf"

// decodeText returns a text as UTF-8 without byte order marks. Windows PowerShell 5.1 writes UTF-16, or UTF-8 with the
// mark. bom reports whether it begins with the mark of UTF-8.
func decodeText(b []byte) (text string, bom bool) {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(b, []byte(utf8BOM)):
		return string(b[len(utf8BOM):]), true
	case bytes.HasPrefix(b, []byte{0xff, 0xfe}), len(b) > 3 && b[1] == 0 && b[3] == 0 && b[0] != 0:
		order = binary.LittleEndian
	case bytes.HasPrefix(b, []byte{0xfe, 0xff}), len(b) > 3 && b[0] == 0 && b[2] == 0 && b[1] != 0:
		order = binary.BigEndian
	default:
		return string(b), false
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	return strings.ReplaceAll(string(utf16.Decode(units)), "\ufeff", ""), false
}

// readLines returns the lines of a text without their ends: \n, \r\n, or \r as Excel for Mac writes it.
func readLines(r io.Reader) (lines []string, bom bool, err error) {
	whole, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch {
	case err != nil:
		return nil, false, err
	case len(whole) > maxFile:
		return nil, false, fmt.Errorf("it is larger than %d bytes, so it is not a list", maxFile)
	}
	text, bom := decodeText(whole)
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	lines = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		if len(line) > maxRecord {
			return nil, false, fmt.Errorf("line %d is longer than %d bytes, so it is not a list", i+1, maxRecord)
		}
	}
	return lines, bom, nil
}

// source is a place that a key or token may come from: a flag or a setting, with the name of a file or with the value.
type source struct {
	name, file, value string
	decode            func(string) (Evidence, error)
}

// readKey reads a key or token, from standard input if the file is "-". It refuses a text that no header can carry,
// before any request is sent. Its errors never contain the text.
func (s source) readKey(stdin io.Reader) (string, error) {
	name, from := s.name, io.Reader(strings.NewReader(s.value))
	if s.file != "" {
		name, from = s.file, stdin
	}
	if s.file != "" && s.file != "-" {
		f, err := os.Open(s.file)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	whole, err := io.ReadAll(io.LimitReader(from, maxKeyFile+1))
	if err != nil {
		return "", err
	}
	key, _ := decodeText(whole)
	key = strings.Trim(key, "\x00\t\r\n ")
	switch {
	case len(whole) > maxKeyFile:
		return "", fmt.Errorf("%s is larger than %d bytes, so it is not a key file", name, maxKeyFile)
	case key == "":
		return "", fmt.Errorf("%s is empty", name)
	case strings.ContainsAny(key, "\r\n"):
		return "", fmt.Errorf("%s has more than one line; keep the line with the key", name)
	case !text.IsPrintableASCII(key):
		return "", fmt.Errorf("%s has characters that no HTTP header can carry; save the key as plain text", name)
	}
	return key, nil
}
