package client

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"autopilot-unassign/internal/upstream"
)

// maxKeyFile is the largest file with a key or a token, in bytes.
const maxKeyFile = 64 << 10

const utf8BOM = "\xef\xbb\xbf"

// decodeText returns a reader of r as UTF-8 without a byte order mark. Windows PowerShell 5.1 writes UTF-16 or
// UTF-8 with the mark. bom reports whether r begins with the mark of UTF-8.
func decodeText(r io.Reader) (text io.Reader, bom bool, err error) {
	b := bufio.NewReaderSize(r, 64<<10)
	start, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	switch {
	case bytes.HasPrefix(start, []byte(utf8BOM)):
		_, _ = b.Discard(len(utf8BOM))
		return b, true, nil
	case bytes.HasPrefix(start, []byte{0xff, 0xfe}), len(start) == 4 && start[1] == 0 && start[3] == 0 && start[0] != 0:
		return &utf16Reader{r: b, order: binary.LittleEndian}, false, nil
	case bytes.HasPrefix(start, []byte{0xfe, 0xff}), len(start) == 4 && start[0] == 0 && start[2] == 0 && start[1] != 0:
		return &utf16Reader{r: b, order: binary.BigEndian}, false, nil
	}
	return b, false, nil
}

// utf16Reader reads UTF-16 as UTF-8, without byte order marks.
type utf16Reader struct {
	r     *bufio.Reader
	order binary.ByteOrder
	ready []byte
	half  rune // the first half of a surrogate pair, else 0
}

func (u *utf16Reader) Read(p []byte) (int, error) {
	for len(u.ready) < utf8.UTFMax {
		var unit [2]byte
		if _, err := io.ReadFull(u.r, unit[:]); err != nil {
			if len(u.ready) > 0 {
				break
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF
			}
			return 0, err
		}
		c := rune(u.order.Uint16(unit[:]))
		switch {
		case u.half != 0:
			c, u.half = utf16.DecodeRune(u.half, c), 0
		case 0xd800 <= c && c < 0xdc00:
			u.half = c
			continue
		case c == '\ufeff':
			continue
		}
		u.ready = utf8.AppendRune(u.ready, c)
	}
	n := copy(p, u.ready)
	u.ready = u.ready[n:]
	return n, nil
}

// readKey reads and decodes the key or token in a file, or on standard input if name is "-". It refuses a file
// that no header can carry, before any request is sent. Its errors never contain the text of the file.
func readKey[Key any](name string, stdin io.Reader, decode func(string) (Key, error)) (key Key, err error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return key, err
		}
		defer func() { _ = f.Close() }()
		stdin = f
	}
	return decodeKey(name, stdin, decode)
}

// decodeKey reads and decodes a key or token, whose source is called name.
func decodeKey[Key any](name string, source io.Reader, decode func(string) (Key, error)) (key Key, err error) {
	text, _, err := decodeText(source)
	if err != nil {
		return key, err
	}
	whole, err := io.ReadAll(upstream.Cap(io.NopCloser(text), maxKeyFile))
	switch {
	case errors.Is(err, upstream.ErrTooLarge):
		return key, fmt.Errorf("%s is larger than %d bytes, so it is not a key file", name, maxKeyFile)
	case err != nil:
		return key, err
	}
	value := strings.Trim(string(whole), "\x00\t\r\n ")
	switch {
	case value == "":
		return key, fmt.Errorf("%s is empty", name)
	case strings.ContainsAny(value, "\r\n"):
		return key, fmt.Errorf("%s has more than one line; keep the line with the key", name)
	case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }):
		return key, fmt.Errorf("%s has characters that no HTTP header can carry; save the key as plain text", name)
	}
	if key, err = decode(value); err != nil {
		return key, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// lineReader reads the lines of a text, however they end: \n, \r\n, or \r as Excel for Mac writes it.
type lineReader struct {
	r      *bufio.Reader
	read   int    // lines so far
	unread []line // to be read again, the first one first
	buffer []byte
}

// line is a line of a text without its end, with its number from 1.
type line struct {
	text   string
	number int
}

// nextLine returns the next line. Its error is io.EOF after the last one.
func (l *lineReader) nextLine() (line, error) {
	if len(l.unread) > 0 {
		first := l.unread[0]
		l.unread = l.unread[1:]
		return first, nil
	}
	l.buffer = l.buffer[:0]
	for {
		c, err := l.r.ReadByte()
		switch {
		case errors.Is(err, io.EOF) && len(l.buffer) > 0:
		case err != nil:
			return line{}, err
		case c == '\r':
			if after, _ := l.r.Peek(1); len(after) == 1 && after[0] == '\n' {
				_, _ = l.r.Discard(1)
			}
		case c == '\n':
		default:
			if l.buffer = append(l.buffer, c); len(l.buffer) > maxRecord {
				return line{}, fmt.Errorf("line %d is longer than %d bytes, so it is not a list", l.read+1, maxRecord)
			}
			continue
		}
		l.read++
		return line{string(l.buffer), l.read}, nil
	}
}

// pushBack makes lines the next ones.
func (l *lineReader) pushBack(lines ...line) { l.unread = append(lines, l.unread...) }
