package client

import (
	"bufio"
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
	for {
		if len(t.Invalid) > maxRows {
			return nil, fmt.Errorf("more than %d of its rows are not valid; the first: %s", maxRows, t.Invalid[0])
		}
		cells, number, err := l.nextRow()
		switch _, invalid := errors.AsType[rowError](err); {
		case errors.Is(err, io.EOF):
			t.addNotes()
			return &t.Table, nil
		case invalid:
			t.addInvalid(number, err.Error())
			continue
		case err != nil:
			return nil, err
		}
		if err := t.addRow(cells, number); err != nil {
			return nil, err
		}
	}
}

// tableReader collects the rows of a file.
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
	if t.columns.cellOf(cells, "outcome") == outcomeDryRun && t.columns.cellOf(cells, "code") != "would_unassign" {
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
	case row.Serial != "" && !isSerialNumber(row.Serial):
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

// isSerialNumber is the rule of the function for a serial number without spaces at the ends.
func isSerialNumber(s string) bool {
	ascii := strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) < 0
	named := strings.ContainsFunc(s, func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) })
	return ascii && named && len(s) <= 128
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

// rowError is a fault of one row.
type rowError string

func (e rowError) Error() string { return string(e) }

// layout reads the rows of a file.
type layout struct {
	lines  *lineReader
	format Format
	header []string // its cells; nil in a list without a header
	fixed  []int    // where the columns of a formatted table begin, in characters; nil for separated cells
	ruled  bool     // the rows may have lines of dashes between them
	notes  []string
	text   bytes.Reader
	buffer *bufio.Reader
}

// openLayout finds out how a file is written and reads its header.
func openLayout(r io.Reader) (*layout, error) {
	text, bom, err := decodeText(r)
	if err != nil {
		return nil, err
	}
	l := &layout{
		lines: &lineReader{r: bufio.NewReader(text)}, format: Format{Comma: ',', BOM: bom},
		buffer: bufio.NewReader(nil),
	}
	declared := false
	for {
		first, err := l.lines.nextLine()
		if errors.Is(err, io.EOF) {
			return nil, errEmpty
		}
		if err != nil {
			return nil, err
		}
		// PowerShell writes #TYPE before the header, Excel sep=;, and a database a line of dashes.
		trimmed := strings.TrimSpace(first.text)
		switch separator, ok := strings.CutPrefix(first.text, "sep="); {
		case trimmed == "", strings.HasPrefix(trimmed, "#TYPE"):
			continue
		case ok && len(separator) == 1 && strings.IndexByte(",;\t|", separator[0]) >= 0:
			l.format.Comma, declared = rune(separator[0]), true
			continue
		case tableRule.MatchString(first.text):
			continue
		case strings.HasPrefix(trimmed, "PK\x03\x04"):
			return nil, errors.New("it is an Excel workbook; save it as CSV UTF-8")
		case trimmed[0] == '[' || trimmed[0] == '{':
			return nil, errors.New("it is JSON; write a CSV file instead")
		case listProperty.MatchString(first.text):
			return nil, errors.New("it is a list that PowerShell printed; write the objects with Export-Csv instead")
		}
		if !declared {
			l.format.Comma = separatorOf(first.text)
		}
		if err := l.readHeader(first); err != nil {
			return nil, err
		}
		return l, nil
	}
}

// readHeader reads the header and the line of dashes below it, if there is one.
func (l *layout) readHeader(first line) error {
	second, err := l.lines.nextLine()
	ruled := err == nil && tableRule.MatchString(second.text)
	if err == nil && !ruled {
		l.lines.pushBack(second)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	separated := strings.ContainsRune(first.text, l.format.Comma)
	if ruled {
		l.ruled = l.format.Comma == '|'
		l.notes = append(l.notes, "the file is a printed table; Export-Csv writes a list that nothing cuts off")
	}
	if ruled && !separated {
		rule := []rune(second.text)
		for i, c := range rule {
			if c != ' ' && (i == 0 || rule[i-1] == ' ') {
				l.fixed = append(l.fixed, i)
			}
		}
		if l.header, err = l.cutCells(first.text); err != nil {
			return fmt.Errorf("its first row is not a header: %w", err)
		}
		return nil
	}
	if !ruled && !separated && columnNames[plainName(first.text)].purpose == "" &&
		strings.ContainsAny(first.text, "0123456789") {
		l.lines.pushBack(first)
		l.notes = append(l.notes, "the file has no header: each line is read as a serial number, or as an id where it is a GUID")
		return nil
	}
	l.lines.pushBack(first)
	if l.header, _, err = l.nextRow(); err != nil {
		return fmt.Errorf("its first row is not a header: %w", err)
	}
	l.header = slices.Clone(l.header)
	return nil
}

// nextRow returns the cells of the next row, and the line on which it begins. Its error is io.EOF after the last row,
// and a rowError for a row that cannot be read, behind which others may follow.
func (l *layout) nextRow() ([]string, int, error) {
	for {
		first, err := l.lines.nextLine()
		if err != nil {
			return nil, 0, err
		}
		switch {
		case l.ruled && tableRule.MatchString(first.text):
			continue
		case l.fixed != nil:
			cells, err := l.cutCells(first.text)
			return cells, first.number, err
		}
		cells, err := l.readRecord(first)
		return cells, first.number, err
	}
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
			return nil, rowError("its cells do not stand below their headers; use Export-Csv instead")
		}
		cells = append(cells, strings.TrimSpace(string(row[min(start, len(row)):max(min(start, len(row)), end)])))
	}
	return cells, nil
}

// readRecord returns the cells of a row that begins with the line first. A quoted cell may go on over several lines;
// where its quote is not closed, the row is that line alone.
func (l *layout) readRecord(first line) ([]string, error) {
	if strings.TrimSpace(first.text) == "" {
		return nil, nil
	}
	text := []byte(first.text)
	cells, err := l.parseCells(text, false)
	if errors.Is(err, csv.ErrBareQuote) { // such as ="5CG1", or 12" of a screen
		cells, err = l.parseCells(text, true)
	}
	var more []line
	for open := bytes.Count(text, []byte(`"`))%2 == 1; open && errors.Is(err, csv.ErrQuote); {
		next, failed := l.lines.nextLine()
		if failed != nil {
			break
		}
		more = append(more, next)
		if len(text)+len(next.text) > maxRecord {
			break
		}
		text = append(append(text, '\n'), next.text...)
		if strings.Contains(next.text, `"`) {
			cells, err = l.parseCells(text, false)
			open = bytes.Count(text, []byte(`"`))%2 == 1
		}
	}
	if err != nil {
		l.lines.pushBack(more...)
		return nil, rowError("a quote stands inside a cell, or is not closed")
	}
	return cells, nil
}

// parseCells splits the text of a row into cells. A lazy parse takes a quote inside a cell as it is.
func (l *layout) parseCells(text []byte, lazy bool) ([]string, error) {
	l.text.Reset(text)
	l.buffer.Reset(&l.text)
	records := csv.NewReader(l.buffer)
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
