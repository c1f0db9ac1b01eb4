package client

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"autopilot-unassign/graph"
	"autopilot-unassign/internal/text"
)

// The limits of a file.
const (
	maxRows   = 100_000
	maxRecord = 1 << 20 // bytes of a row, so that a quote that is not closed does not take in the whole file
	maxShown  = 50      // columns that an error lists
)

// Row is a device in a file, named by ID or, if that is "", by Serial.
type Row struct {
	Line      int
	ID        string // in lower case
	Serial    string
	Expected  Expected // the account that the device must still carry; may be zero
	Reference string   // may be empty
}

// deviceKey is the same for two rows that name a device in the same way, wherever they stand.
func (r Row) deviceKey() string { return deviceKey(r.ID, r.Serial) }

func deviceKey(id, serial string) string {
	if serial != "" {
		return "serial " + strings.ToUpper(serial)
	}
	return "id " + strings.ToLower(id)
}

// Table is the content of a file.
type Table struct {
	Rows    []Row
	Invalid []string // why other rows are not in Rows, each with its line
	Notes   []string // how the file was read, as far as a person may not expect it
	Format  Format
}

// Format is how a file is written.
type Format struct {
	Comma rune
	BOM   bool
}

// ReadOptions say how to read a file.
type ReadOptions struct {
	By           string            // id or serial: which column counts where a file has both; "" prefers the id
	Columns      map[string]string // purpose (id, serial, expected, reference) → name of the column
	NoExpect     bool              // ignore the accounts that rows expect
	Placeholders bool              // accept serial numbers such as "Default string"
}

// rewritten is a long number as spreadsheets, pandas and Java write it: 1.23457E+11, 1.23457e+11, 1.23457E11,
// 123456789012.0.
var rewritten = regexp.MustCompile(`^(?i:\d([.,]\d+)?E\+\d+|\d[.,]\d+E\d+|\d+\.0)$`)

// tableRule is a line that separates the header of a formatted table from its rows.
var tableRule = regexp.MustCompile(`^[\s|+:=-]*[-=]{2,}[\s|+:=-]*$`)

// listProperty is a line of a formatted list: one property, not one device.
var listProperty = regexp.MustCompile(`^[A-Za-z][\w ]* : `)

// ReadRows reads a list of devices as administrators export it: a header row and rows with any columns, separated
// by commas, semicolons, tabs or |; a table as PowerShell prints it; or one serial number or id on each line,
// without a header. Of a file only the rows are kept, and of them only the columns that count.
//
// Its error is about the file as a whole. Faults of single rows are in the Table.
func ReadRows(r io.Reader, o ReadOptions) (*Table, error) {
	l, err := openLayout(r)
	if err != nil {
		return nil, err
	}
	c, err := l.findColumns(o)
	if err != nil {
		return nil, err
	}
	t := &tableReader{
		Table: Table{Format: l.format, Notes: l.notes}, columns: c, options: o, first: map[string]int{},
		leftOut: map[string]int{},
	}
	for row := range l.readRows {
		if row.err != nil {
			t.addInvalid(row.line, row.err.Error())
		} else if err := t.addRow(row.cells, row.line); err != nil {
			return nil, err
		}
		if len(t.Invalid) > maxRows {
			return nil, fmt.Errorf("more than %d of its rows are not valid; the first: %s", maxRows, t.Invalid[0])
		}
	}
	t.addNotes()
	return &t.Table, nil
}

type tableReader struct {
	Table
	columns columns
	options ReadOptions
	first   map[string]int // row key → index in Rows
	// Counts of rows: with both names of a device; with an expected account; left out, by the code of a dry run.
	both, expecting int
	leftOut         map[string]int
}

func (t *tableReader) addInvalid(number int, problem string) {
	t.Invalid = append(t.Invalid, fmt.Sprintf("line %d: %s", number, problem))
}

// addRow adds a row, or the reason why it is not valid.
func (t *tableReader) addRow(cells []string, number int) error {
	if !slices.ContainsFunc(cells, func(cell string) bool { return strings.TrimSpace(cell) != "" }) {
		return nil
	}
	if t.columns.cellOf(cells, "outcome") == outcomeDryRun && t.columns.cellOf(cells, "code") != codeWouldUnassign {
		t.leftOut[t.columns.cellOf(cells, "code")]++
		return nil
	}
	row := t.columns.readRow(cells)
	row.Line = number
	if t.options.NoExpect {
		row.Expected = Expected{}
	}
	if row.ID != "" && row.Serial != "" {
		t.both++
		row.Serial = ""
	}
	if problem := t.findProblem(row, cells); problem != "" {
		t.addInvalid(number, problem)
		return nil
	}
	if index, again := t.first[row.deviceKey()]; again {
		t.addRepeat(&t.Rows[index], row)
		return nil
	}
	if len(t.Rows) == maxRows {
		return fmt.Errorf("it has more than %d devices", maxRows)
	}
	if row.Expected != (Expected{}) {
		t.expecting++
	}
	t.first[row.deviceKey()] = len(t.Rows)
	t.Rows = append(t.Rows, row)
	return nil
}

// addRepeat takes in a row that names the device of an earlier row.
func (t *tableReader) addRepeat(earlier *Row, row Row) {
	before, now := earlier.Expected.String(), row.Expected.String()
	if before != "" && now != "" && !strings.EqualFold(before, now) {
		t.addInvalid(row.Line, fmt.Sprintf("it names the device of line %d and expects another account", earlier.Line))
		return
	}
	note := fmt.Sprintf("line %d repeats the device of line %d; the device is sent once", row.Line, earlier.Line)
	if (before == "") != (now == "") {
		earlier.Expected = cmp.Or(earlier.Expected, row.Expected)
		note += ", with the account that one of the rows expects"
	}
	t.Notes = append(t.Notes, note)
}

// findProblem returns the reason why a row is not valid, "" if it is.
func (t *tableReader) findProblem(row Row, cells []string) string {
	extra := cells[min(len(cells), t.columns.width):]
	_, err := graph.ParseDeviceID(row.ID)
	switch {
	case slices.ContainsFunc(extra, func(cell string) bool { return strings.TrimSpace(cell) != "" }):
		return fmt.Sprintf("it has %d cells and the header %d", len(cells), t.columns.width)
	case row.ID == "" && row.Serial == "":
		return "it names no device"
	case row.ID != "" && err != nil:
		return fmt.Sprintf("%q is not the id of an Autopilot device, which is a GUID", shortenText(row.ID))
	case rewritten.MatchString(row.Serial):
		return fmt.Sprintf("%q is a long number that a spreadsheet or a script has rounded; export the column as text",
			shortenText(row.Serial))
	case strings.HasSuffix(row.Serial, "…") || strings.HasSuffix(row.Serial, "..."):
		return fmt.Sprintf("%q was cut off where the table was printed; use Export-Csv instead", shortenText(row.Serial))
	case row.Serial != "" && !graph.ValidSerialNumber(row.Serial):
		return fmt.Sprintf("%q is not a serial number: at most 128 printable ASCII characters, with a letter or a digit", shortenText(row.Serial))
	case row.Serial != "" && !t.options.Placeholders && isPlaceholder(row.Serial):
		return fmt.Sprintf("%q is a placeholder that many devices share, not a serial number; -placeholders sends it",
			shortenText(row.Serial))
	case !isPrintable(row.Expected.String(), 256):
		return fmt.Sprintf("%q is not an account: at most 256 printable characters", shortenText(row.Expected.String()))
	case !isPrintable(row.Reference, 128):
		return fmt.Sprintf("%q is not a reference: at most 128 printable characters", shortenText(row.Reference))
	}
	return ""
}

// addNotes adds the notes that count rows.
func (t *tableReader) addNotes() {
	var notes []string
	if t.both > 0 {
		notes = append(notes, fmt.Sprintf("%s both an id and a serial number: the id in column %q counts. "+
			"If it is not the id of the Autopilot device, use -by serial",
			text.Count(t.both, "row has", "rows have"), shortenText(t.columns.names[t.columns.at["id"]])))
	}
	if t.expecting > 0 && t.columns.implied != "" {
		notes = append(notes, fmt.Sprintf("%s to carry the account in column %q, and any other account is refused. "+
			"-no-expect ignores the column", text.Count(t.expecting, "device is expected",
			"devices are expected"), shortenText(t.columns.implied)))
	}
	if len(t.leftOut) > 0 {
		total := 0
		for _, n := range t.leftOut {
			total += n
		}
		notes = append(notes, fmt.Sprintf("%s left out, since the dry run did not report would_unassign: %s",
			text.Count(total, "row is", "rows are"), countReasons(t.leftOut)))
	}
	t.Notes = append(notes, t.Notes...)
}

// countReasons lists reasons with their counts, the most frequent first.
func countReasons(counts map[string]int) string {
	reasons := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%s %s", text.Number(counts[reason]), plainText(cmp.Or(reason, "no_code")))
	}
	return strings.Join(reasons, ", ")
}

// placeholders are serial numbers, reduced by plainName, that firmware and inventories give to devices without one.
const placeholders = " tobefilledbyoem tobefilled filledbyoem oem defaultstring default systemserialnumber " +
	"chassisserialnumber baseboardserialnumber serialnumber serial notapplicable notavailable notspecified notdefined " +
	"unspecified na null none nil nan unknown undefined empty invalid tbd ref name value 123456789 0123456789 " +
	"1234567890 12345678 "

// isPlaceholder reports whether a serial number is one that devices without a serial number share.
func isPlaceholder(serial string) bool {
	plain := plainName(serial)
	return strings.Contains(placeholders, " "+plain+" ") || strings.Trim(plain, "0") == "" ||
		len(plain) > 2 && strings.Trim(plain, plain[:1]) == ""
}

// isPrintable is the rule of the function for a text of at most limit characters.
func isPrintable(s string, limit int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= limit &&
		!strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// shortenText returns a text of a file for a terminal, cut.
func shortenText(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if utf8.RuneCountInString(s) > 64 {
		s = string([]rune(s)[:64]) + "…"
	}
	return s
}

// errEmpty is the error of a file without a line.
var errEmpty = errors.New("it is empty; its first row must name the columns")

// layout reads the rows of a file.
type layout struct {
	lines  []string
	next   int // the index of the line behind the last row
	format Format
	header []string // its cells; nil in a list without a header
	fixed  []int    // where the columns of a formatted table begin, in characters; nil for separated cells
	ruled  bool     // the rows may have lines of dashes between them
	notes  []string
}

type record struct {
	line  int // on which it begins
	cells []string
	err   error // the reason why it has no cells
}

// openLayout finds out how a file is written and reads its header.
func openLayout(r io.Reader) (*layout, error) {
	lines, bom, err := readLines(r)
	if err != nil {
		return nil, err
	}
	l := &layout{lines: lines, format: Format{BOM: bom}}
	for i, line := range lines {
		// PowerShell writes #TYPE before the header, Excel sep=;, and a database a line of dashes.
		trimmed := strings.TrimSpace(line)
		switch separator, ok := strings.CutPrefix(line, "sep="); {
		case trimmed == "", strings.HasPrefix(trimmed, "#TYPE"), tableRule.MatchString(line):
			continue
		case ok && len(separator) == 1 && strings.ContainsAny(separator, ",;\t|"):
			l.format.Comma = rune(separator[0])
			continue
		case strings.HasPrefix(trimmed, "PK\x03\x04"):
			return nil, errors.New("it is an Excel workbook; save it as CSV UTF-8")
		case trimmed[0] == '[' || trimmed[0] == '{':
			return nil, errors.New("it is JSON; write a CSV file instead")
		case listProperty.MatchString(line):
			return nil, errors.New("it is a list that PowerShell printed; write the objects with Export-Csv instead")
		}
		l.next = i
		if err := l.readHeader(line); err != nil {
			return nil, fmt.Errorf("its first row is not a header: %w", err)
		}
		return l, nil
	}
	return nil, errEmpty
}

// readHeader reads the header, which begins with the line first, and the line of dashes below it, if there is one.
func (l *layout) readHeader(first string) error {
	if l.format.Comma == 0 {
		l.format.Comma = separatorOf(first)
	}
	separated := strings.ContainsRune(first, l.format.Comma)
	ruled := l.next+1 < len(l.lines) && tableRule.MatchString(l.lines[l.next+1])
	switch {
	case ruled:
		l.ruled = separated
		l.notes = append(l.notes, "the file is a printed table; Export-Csv writes a list that nothing cuts off")
		rule := []rune(l.lines[l.next+1])
		for i, c := range rule {
			if !separated && c != ' ' && (i == 0 || rule[i-1] == ' ') {
				l.fixed = append(l.fixed, i)
			}
		}
	case !separated && columnNames[plainName(first)].purpose == "" && strings.ContainsAny(first, "0123456789"):
		l.notes = append(l.notes, "the file has no header: each line is read as a serial number, or as an id where it is a GUID")
		return nil
	}
	header := l.readRow()
	if l.header = header.cells; ruled {
		l.next++
	}
	return header.err
}

// readRows passes the rows behind the last one to yield.
func (l *layout) readRows(yield func(record) bool) {
	for l.next < len(l.lines) {
		if l.ruled && tableRule.MatchString(l.lines[l.next]) {
			l.next++
		} else if !yield(l.readRow()) {
			return
		}
	}
}

func (l *layout) readRow() record {
	first := l.lines[l.next]
	l.next++
	row := record{line: l.next}
	if l.fixed != nil {
		row.cells, row.err = l.cutCells(first)
	} else if strings.TrimSpace(first) != "" {
		row.cells, row.err = l.splitCells(first)
	}
	return row
}

// cutCells returns the cells of a row of a formatted table.
func (l *layout) cutCells(text string) ([]string, error) {
	row := []rune(text)
	var cells []string
	for i, start := range l.fixed {
		end := len(row)
		if i+1 < len(l.fixed) {
			end = min(end, l.fixed[i+1])
		}
		if start > 0 && start < len(row) && row[start-1] != ' ' {
			return nil, errors.New("its cells do not stand below their headers; use Export-Csv instead")
		}
		cells = append(cells, strings.TrimSpace(string(row[min(start, len(row)):max(min(start, len(row)), end)])))
	}
	return cells, nil
}

// splitCells returns the cells of a row that begins with the line first. A quoted cell may go on over the next lines;
// where its quote is not closed, the row is that line alone.
func (l *layout) splitCells(first string) ([]string, error) {
	text := []byte(first)
	cells, err := l.parseCells(text, false)
	if errors.Is(err, csv.ErrBareQuote) { // such as ="5CG1", or 12" of a screen
		cells, err = l.parseCells(text, true)
	}
	end := l.next
	for open := strings.Count(first, `"`)%2 == 1; open && errors.Is(err, csv.ErrQuote) && end < len(l.lines); end++ {
		next := l.lines[end]
		if text = append(append(text, '\n'), next...); len(text) > maxRecord {
			break
		}
		if strings.Contains(next, `"`) {
			cells, err = l.parseCells(text, false)
			open = bytes.Count(text, []byte(`"`))%2 == 1
		}
	}
	if err != nil {
		return nil, errors.New("a quote stands inside a cell, or is not closed")
	}
	l.next = end
	return cells, nil
}

// parseCells splits the text of a row into cells. A lazy parse takes a quote inside a cell as it is.
func (l *layout) parseCells(text []byte, lazy bool) ([]string, error) {
	records := csv.NewReader(bytes.NewReader(text))
	records.Comma, records.LazyQuotes = l.format.Comma, lazy
	return records.Read()
}

// separatorOf returns the separator of which a header has most outside of quotes.
func separatorOf(text string) rune {
	counts := map[rune]int{}
	quoted := false
	for _, c := range text {
		if c == '"' {
			quoted = !quoted
		}
		if !quoted {
			counts[c]++
		}
	}
	most := ','
	for _, c := range ";\t|" {
		if counts[c] > counts[most] {
			most = c
		}
	}
	return most
}
