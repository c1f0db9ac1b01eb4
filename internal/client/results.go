package client

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Result is what became of a row. It is found again by the row's selector and what it expects, wherever the row stands by
// then.
type Result struct {
	Line           int
	DeviceID       string
	SerialNumber   string // of a row that names its device so; else empty
	Status         int    // 0 if no answer came
	Code           string
	Message        string
	Outcome        string // done, not_done, unknown, or dry_run
	RequestID      string
	GraphRequestID string
	Time           string
	Deployment     string // that answered, as DeploymentOf names it; "" in a file that was written before there was such a column
	Expected       string // of the row that was answered
}

// The outcomes that are not words of the function.
const (
	outcomeDone   = "done"
	outcomeDryRun = "dry_run"
)

func (r Result) key() string { return key(r.DeviceID, r.SerialNumber) }

// standing is what a Result says of its row.
type standing int

// The standings.
const (
	open      standing = iota // it was not answered for good, and is asked for again
	succeeded                 // it is done
	refused                   // it was refused for good, and needs a person
)

// standing returns what r says of its row. 401 and 424 are no refusals of the device: once somebody has mended what is
// behind them, the row may go on.
func (r Result) standing() standing {
	switch {
	case r.Status/100 == 2:
		return succeeded
	case r.Status/100 != 4, Retryable(r.Status), r.Outcome == "unknown", r.Status == http.StatusUnauthorized, r.Status == http.StatusFailedDependency:
		return open
	}
	return refused
}

// resultColumns are the columns of a file of results, in order. The last one may be cut off where a process was killed: a
// device of which something else was expected is only asked for again.
var resultColumns = []string{ //nolint:gochecknoglobals // a table that nothing writes to
	"line", "deviceId", "serialNumber", "status", "code", "message", "outcome", "requestId", "graphRequestId", "time", "deployment", "expected",
}

// firstColumns is how many of them a file has that was written before there were the others.
const firstColumns = 10

// DeploymentOf returns the name by which results know the deployment at an address: the address, without what may be a key.
func DeploymentOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Scheme+"://"+u.Host) + strings.TrimRight(u.EscapedPath(), "/")
}

func (r Result) cells() []string {
	status := ""
	if r.Status != 0 {
		status = strconv.Itoa(r.Status)
	}
	cells := []string{strconv.Itoa(r.Line), r.DeviceID, r.SerialNumber, status, r.Code, r.Message, r.Outcome, r.RequestID, r.GraphRequestID, r.Time, r.Deployment, r.Expected}
	for i, cell := range cells {
		cells[i] = guarded(strings.ToValidUTF8(cell, "\ufffd"))
	}
	return cells
}

// resultOf reads what cells wrote.
func resultOf(cells []string) (Result, error) {
	for i, cell := range cells {
		cells[i] = unguarded(cell)
	}
	line, errLine := strconv.Atoi(cells[0])
	status, errStatus := strconv.Atoi(cmp.Or(cells[3], "0"))
	r := Result{
		Line: line, DeviceID: cells[1], SerialNumber: cells[2], Status: status, Code: cells[4], Message: cells[5],
		Outcome: cells[6], RequestID: cells[7], GraphRequestID: cells[8], Time: cells[9],
	}
	if len(cells) > firstColumns {
		r.Deployment, r.Expected = cells[10], cells[11]
	}
	if r.DeviceID == "" && r.SerialNumber == "" {
		return Result{}, errors.New("it names no device")
	}
	return r, errors.Join(errLine, errStatus)
}

// Results is a file of results. While a list is worked off, rows are put at its end, and are on the disk when Add returns;
// of several rows about one device the last counts. OpenResults and Close leave one for each.
type Results struct {
	path       string
	format     Format
	deployment string
	file       *os.File
	rows       map[string]Result
}

// OpenResults opens the file of results of a deployment at path, or makes one in format. Results of dry runs do not stand
// beside others: a dry run begins anew, and neither takes a file of the other. Nor does a deployment take a file of
// another, where nothing may have been done yet; a file that does not say whose it is counts as its own.
func OpenResults(path string, format Format, deployment string, dryRun bool) (*Results, error) {
	r := &Results{path: path, format: format, deployment: deployment, rows: map[string]Result{}}
	f, err := os.Open(path)
	if err == nil {
		err = r.read(f)
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, row := range r.rows {
		if row.Deployment != "" && row.Deployment != deployment {
			return nil, fmt.Errorf("%s: its results are of another deployment, %s; name another file", path, shown(plainText(row.Deployment)))
		}
		if (row.Outcome == outcomeDryRun) != dryRun {
			return nil, fmt.Errorf("%s: its results are of another kind of run, a dry one or not; name another file", path)
		}
	}
	if dryRun {
		clear(r.rows)
	}
	if err := r.rewrite(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// read takes in what the file has. A last row that was not written to its end does not count.
func (r *Results) read(f io.Reader) error {
	limited := &recordReader{r: f}
	records, _, err := new(Table).open(limited)
	if err != nil {
		return err
	}
	names, err := records.Read()
	width := len(names)
	if err != nil && !errors.Is(err, io.EOF) || err == nil && !slices.Equal(names, resultColumns) && !slices.Equal(names, resultColumns[:firstColumns]) {
		return errors.New("it is there and is no file of results; move it away or name another")
	}
	for {
		limited.read = 0
		cells, err := records.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		_, torn := errors.AsType[*csv.ParseError](err)
		if torn || err == nil && len(cells) != width {
			if _, err := records.Read(); errors.Is(err, io.EOF) {
				return nil
			}
			err = errors.New("it has too few or too many cells")
		}
		var row Result
		if err == nil {
			row, err = resultOf(cells)
		}
		if err != nil {
			line, _ := records.FieldPos(0)
			return fmt.Errorf("line %d is no result: %w", line, err)
		}
		r.rows[row.key()] = row
	}
}

// Of returns the result of a row, if there is one. What was answered for a device while another account was expected of it
// is none: the row asks for something else.
func (r *Results) Of(row Row) (Result, bool) {
	result, ok := r.rows[row.key()]
	if !ok || !strings.EqualFold(result.Expected, row.Expected) {
		return Result{}, false
	}
	return result, true
}

// Add puts results at the end of the file.
func (r *Results) Add(results ...Result) error {
	var rows [][]string
	for _, result := range results {
		result.Deployment = r.deployment
		r.rows[result.key()] = result
		rows = append(rows, result.cells())
	}
	if err := r.write(r.file, rows); err != nil {
		return err
	}
	return r.file.Sync()
}

// Close leaves the file with one row for each device, in the order of the list.
func (r *Results) Close() error {
	if err := r.rewrite(); err != nil {
		return err
	}
	return r.file.Close()
}

// rewrite puts a file with one row for each device in the place of the present one, and opens it at its end.
func (r *Results) rewrite() error {
	fresh, err := os.CreateTemp(filepath.Dir(r.path), filepath.Base(r.path)+".*")
	if err != nil {
		return err
	}
	err = r.writeAll(fresh)
	if err == nil {
		err = fresh.Sync()
	}
	err = errors.Join(err, fresh.Close())
	if r.file != nil {
		_ = r.file.Close() // which was synced, and which Windows would not let be replaced
	}
	if err == nil {
		err = os.Rename(fresh.Name(), r.path)
	}
	if err != nil {
		_ = os.Remove(fresh.Name())
		return err
	}
	r.file, err = os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// writeAll writes the header and all rows.
func (r *Results) writeAll(w io.Writer) error {
	if r.format.BOM {
		if _, err := io.WriteString(w, "\ufeff"); err != nil {
			return err
		}
	}
	rows := slices.SortedFunc(maps.Values(r.rows), func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.key(), b.key()))
	})
	cells := [][]string{resultColumns}
	for _, row := range rows {
		cells = append(cells, row.cells())
	}
	return r.write(w, cells)
}

func (r *Results) write(w io.Writer, rows [][]string) error {
	records := csv.NewWriter(w)
	records.Comma = r.format.Comma
	return records.WriteAll(rows)
}
