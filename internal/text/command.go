package text

import (
	"encoding/json"
	"io"
	"os"
	"strconv"
)

// The colours of a terminal (ECMA-48, select graphic rendition).
const (
	Bold   = "1"
	Faint  = "2"
	Red    = "31"
	Green  = "32"
	Yellow = "33"
)

// Paint returns s in a colour if the output is coloured.
func Paint(coloured bool, colour, s string) string {
	if !coloured {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Count returns n with the word for one or for many.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Number(n) + " " + many
}

// Number returns n with a comma between thousands.
func Number(n int) string {
	digits := strconv.Itoa(n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// WriteJSON writes a document with indentation, and without escapes for HTML.
func WriteJSON(w io.Writer, document any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(document)
}

// UsageError is an error in the command line.
type UsageError string

func (e UsageError) Error() string { return string(e) }

// ExitCode returns the exit status of the process.
func (UsageError) ExitCode() int { return 2 }
