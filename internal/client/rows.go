package client

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"autopilot-unassign/internal/guid"
)

// The limits of a file.
const (
	maxRows   = 100_000
	maxRecord = 1 << 20  // bytes of one row, so that a quote that is not closed does not take in the whole file
	maxHeader = 64 << 10 // bytes of a line in which the separator is looked for
)

// Row is one device in a file, named by ID or, if that is "", by Serial.
type Row struct {
	Line      int
	ID        string // in lower case
	Serial    string
	Expected  string // the account that it must still carry; may be empty
	Reference string // may be empty
}

// key is the same for two rows that name a device in the same way, wherever they stand.
func (r Row) key() string { return key(r.ID, r.Serial) }

func key(id, serial string) string {
	if serial != "" {
		return "serial " + strings.ToUpper(serial)
	}
	return "id " + strings.ToLower(id)
}

// Table is what a file says.
type Table struct {
	Rows    []Row
	Invalid []string // what is wrong with the rows that are not in Rows, each with its line
	Notes   []string // what a person should know and nobody need mend
	Format  Format
}

// Format is how a file is written.
type Format struct {
	Comma rune
	BOM   bool
}

// columns are the names of the columns that count, reduced by plainName, and what each is for.
var columns = map[string]string{ //nolint:gochecknoglobals // a table that nothing writes to
	"deviceid": "id", "id": "id",
	"serialnumber": "serial", "serial": "serial", "deviceserialnumber": "serial",
	"expected": "expected", "expectedaccount": "expected", "userprincipalname": "expected",
	"reference": "reference",
}

// plainName reduces the name of a column to its letters and digits in lower case, so that serial_number is "Serial number".
func plainName(name string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return -1
		}
		return unicode.ToLower(c)
	}, name)
}

// rewritten is what a spreadsheet makes of a long number that it takes for one.
var rewritten = regexp.MustCompile(`^\d([.,]\d+)?E\+\d+$`)

// ReadRows reads a file with a header row, as administrators export it: with any columns beside those that count, in any
// order, with or without a BOM, with commas, semicolons or tabs. by, which is id, serial or "", says which of the two
// counts where the file has both. Of a file only the rows are kept, and of them only what counts.
//
// Its error is about the file as a whole. What is wrong with a row is in the Table.
func ReadRows(r io.Reader, by string) (*Table, error) {
	t := &Table{}
	limited := &recordReader{r: r}
	records, skipped, err := t.open(limited)
	if err != nil {
		return nil, err
	}
	at, width, err := header(records, by)
	if err != nil {
		return nil, err
	}
	first := map[string]int{} // where in t.Rows a device is
	for {
		limited.read = 0
		cells, err := records.Read()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if parse, ok := errors.AsType[*csv.ParseError](err); ok {
			t.Invalid = append(t.Invalid, fmt.Sprintf("line %d: %v; the rows behind it cannot be read", parse.StartLine+skipped, parse.Err))
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := records.FieldPos(0)
		row, problem := readRow(cells, at, width)
		row.Line = line + skipped
		var before Row
		index, again := first[row.key()]
		if again {
			before = t.Rows[index]
		}
		switch {
		case row == (Row{Line: row.Line}) && problem == "":
			continue // a row of empty cells
		case problem == "" && again && before.Expected != "" && row.Expected != "" && !strings.EqualFold(before.Expected, row.Expected):
			problem = fmt.Sprintf("it names the device of line %d and expects another account", before.Line)
		case problem == "" && again:
			note := fmt.Sprintf("line %d names the device of line %d again; it is asked for once", row.Line, before.Line)
			if (before.Expected == "") != (row.Expected == "") {
				t.Rows[index].Expected = cmp.Or(before.Expected, row.Expected)
				note += ", with the account that one of them expects"
			}
			t.Notes = append(t.Notes, note)
			continue
		}
		if problem != "" {
			t.Invalid = append(t.Invalid, fmt.Sprintf("line %d: %s", row.Line, problem))
			continue
		}
		if len(t.Rows) == maxRows {
			return nil, fmt.Errorf("it has more than %d devices", maxRows)
		}
		first[row.key()] = len(t.Rows)
		t.Rows = append(t.Rows, row)
	}
}

// open finds out how the file is written. It returns what reads the rows from the header on, and the number of lines that
// stand before it: PowerShell writes #TYPE there, Excel sep=;.
func (t *Table) open(r io.Reader) (records *csv.Reader, skipped int, err error) {
	text := bufio.NewReaderSize(r, maxHeader)
	start, err := text.Peek(3)
	switch {
	case bytes.HasPrefix(start, []byte{0xff, 0xfe}), bytes.HasPrefix(start, []byte{0xfe, 0xff}):
		return nil, 0, errors.New("it is UTF-16; save it as CSV UTF-8")
	case bytes.Equal(start, []byte("\xef\xbb\xbf")):
		t.Format.BOM = true
		_, _ = text.Discard(len(start))
	case err != nil && !errors.Is(err, io.EOF):
		return nil, 0, err
	}
	for {
		line, err := text.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("its first line is no header: %w", err)
		}
		trimmed := strings.TrimSpace(string(line))
		separator, declared := strings.CutPrefix(strings.TrimRight(string(line), "\r\n"), "sep=")
		switch {
		case strings.HasPrefix(trimmed, "#TYPE"):
		case declared && (separator == "," || separator == ";" || separator == "\t"):
			t.Format.Comma = rune(separator[0])
		case trimmed == "" && len(line) > 0:
		default:
			if t.Format.Comma == 0 {
				t.Format.Comma = separatorOf(string(line))
			}
			records = csv.NewReader(io.MultiReader(strings.NewReader(string(line)), text))
			records.Comma, records.FieldsPerRecord, records.ReuseRecord = t.Format.Comma, -1, true
			return records, skipped, nil
		}
		skipped++
	}
}

// separatorOf returns the separator of which a header has most, outside of quotes.
func separatorOf(line string) rune {
	counts := map[rune]int{}
	quoted := false
	for _, c := range line {
		if c == '"' {
			quoted = !quoted
		}
		if !quoted {
			counts[c]++
		}
	}
	most := ','
	for _, c := range ";\t" {
		if counts[c] > counts[most] {
			most = c
		}
	}
	return most
}

// header reads the header row. It returns where each column that counts is, and how many columns there are.
func header(records *csv.Reader, by string) (at map[string]int, width int, err error) {
	cells, err := records.Read()
	if errors.Is(err, io.EOF) {
		return nil, 0, errors.New("it is empty; its first row must name the columns")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("its first row is no header: %w", err)
	}
	at = map[string]int{}
	names := slices.Clone(cells)
	for i, name := range names {
		purpose, known := columns[plainName(name)]
		if !known {
			continue
		}
		if other, twice := at[purpose]; twice {
			return nil, 0, fmt.Errorf("its columns %q and %q mean the same; keep one", shown(names[other]), shown(name))
		}
		at[purpose] = i
	}
	switch by {
	case "id":
		delete(at, "serial")
	case "serial":
		delete(at, "id")
	}
	_, id := at["id"]
	_, serial := at["serial"]
	if !id && !serial {
		wanted := map[string]string{"": "deviceId or serialNumber", "id": "deviceId", "serial": "serialNumber"}[by]
		for i, name := range names {
			names[i] = fmt.Sprintf("%q", shown(name))
		}
		more := ""
		if len(names) > 50 {
			more = fmt.Sprintf(" and %d more", len(names)-50)
			names = names[:50]
		}
		return nil, 0, fmt.Errorf("no column names a device; one must be called %s. Its columns are %s%s", wanted, strings.Join(names, ", "), more)
	}
	return at, len(cells), nil
}

// readRow returns what a row says, or what is wrong with it. A row of empty cells is the zero Row.
func readRow(cells []string, at map[string]int, width int) (row Row, problem string) {
	cell := func(purpose string) string {
		i, ok := at[purpose]
		if !ok || i >= len(cells) {
			return ""
		}
		return strings.Clone(unguarded(strings.TrimSpace(cells[i]))) // the rest of the row is not kept
	}
	row = Row{ID: strings.ToLower(cell("id")), Serial: cell("serial"), Expected: cell("expected"), Reference: cell("reference")}
	switch {
	case !slices.ContainsFunc(cells, func(cell string) bool { return strings.TrimSpace(cell) != "" }):
		return Row{}, ""
	case len(cells) > width:
		return row, fmt.Sprintf("it has %d cells and the header %d", len(cells), width)
	case row.ID == "" && row.Serial == "":
		return row, "it names no device"
	case row.ID != "" && row.Serial != "":
		return row, "it has an id and a serial number; -by id or -by serial says which counts"
	case row.ID != "" && !isGUID(row.ID):
		return row, fmt.Sprintf("%q is not the id of an Autopilot device, which is a GUID", shown(row.ID))
	case rewritten.MatchString(row.Serial):
		return row, fmt.Sprintf("%q is what a spreadsheet makes of a long number; export it as text", shown(row.Serial))
	case row.Serial != "" && !isSerialNumber(row.Serial):
		return row, fmt.Sprintf("%q is no serial number: at most 128 printable ASCII characters, a letter or digit among them", shown(row.Serial))
	case !printable(row.Expected, 256):
		return row, fmt.Sprintf("%q is no account: at most 256 printable characters", shown(row.Expected))
	case !printable(row.Reference, 128):
		return row, fmt.Sprintf("%q is no reference: at most 128 printable characters", shown(row.Reference))
	}
	return row, ""
}

func isGUID(s string) bool {
	_, err := guid.Parse(s)
	return err == nil
}

// isSerialNumber is the rule of the function for a serial number, without that for spaces at the ends.
func isSerialNumber(s string) bool {
	ascii := strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) < 0
	named := strings.ContainsFunc(s, func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) })
	return ascii && named && len(s) <= 128
}

// printable is the rule of the function for a text of at most limit characters.
func printable(s string, limit int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= limit && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// shown returns a text of a file for a terminal, cut.
func shown(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if utf8.RuneCountInString(s) > 64 {
		s = string([]rune(s)[:64]) + "…"
	}
	return s
}

// formulaStarts are the characters with which a spreadsheet takes a cell for a formula.
const formulaStarts = "=+-@\t\r\n"

// guarded returns a text as a cell that no spreadsheet takes for a formula: with an apostrophe before it where it could be
// one, or where it begins with such an apostrophe itself. unguarded takes it off.
func guarded(s string) string {
	if s != "" && strings.ContainsRune(formulaStarts+"'", rune(s[0])) {
		return "'" + s
	}
	return s
}

// unguarded undoes guarded. It also unwraps ="text", which is how some exports keep a spreadsheet from reading numbers.
func unguarded(s string) string {
	if len(s) >= 2 && s[0] == '\'' && strings.ContainsRune(formulaStarts+"'", rune(s[1])) {
		return s[1:]
	}
	if inner, ok := strings.CutPrefix(s, `="`); ok && strings.HasSuffix(inner, `"`) {
		return strings.TrimSpace(strings.TrimSuffix(inner, `"`))
	}
	return s
}

// recordReader refuses to read more than maxRecord bytes between two records.
type recordReader struct {
	r    io.Reader
	read int
}

func (r *recordReader) Read(p []byte) (int, error) {
	if r.read > maxRecord {
		return 0, fmt.Errorf("a row has more than %d bytes; is a quote not closed?", maxRecord)
	}
	n, err := r.r.Read(p)
	r.read += n
	return n, err
}
