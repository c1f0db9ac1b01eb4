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

	"autopilot-unassign/internal/text"
)

// Result is the result of a row. The row's selector and expected account find it again, wherever the row stands by
// then.
type Result struct {
	Line           int    `json:"line,omitempty"`
	DeviceID       string `json:"deviceId,omitempty"`
	SerialNumber   string `json:"serialNumber,omitempty"`
	AccountBefore  string `json:"accountBefore,omitempty"` // its user principal name, else its resource name
	Status         int    `json:"status,omitempty"`        // 0 if there was no response
	Code           string `json:"code"`
	Message        string `json:"message,omitempty"`
	Outcome        string `json:"outcome"`                // done, not_done, unknown, or dry_run
	Verification   string `json:"verification,omitempty"` // cleared, pending or unknown after -verify; not in the file
	RequestID      string `json:"requestId,omitempty"`
	GraphRequestID string `json:"graphRequestId,omitempty"`
	ByID           bool   `json:"-"` // the row names its device by the id, although there is a serial number
	Time           string `json:"-"`
	Deployment     string `json:"-"` // as DeploymentOf names it
	Expected       string `json:"-"` // of the row
}

// The outcomes.
const (
	outcomeDone    = "done"
	outcomeNotDone = "not_done"
	outcomeUnknown = "unknown"
	outcomeDryRun  = "dry_run" // not a word of the function
)

// codeWouldUnassign is the code of a device that a dry run, of the request or of the deployment, left as it was.
const codeWouldUnassign = "would_unassign"

func (r Result) deviceKey() string {
	if r.ByID {
		return deviceKey(r.DeviceID, "")
	}
	return deviceKey(r.DeviceID, r.SerialNumber)
}

// standing tells whether a row needs another request.
type standing int

// The standings.
const (
	open      standing = iota // without a final response: it is sent again
	succeeded                 // done
	refused                   // refused permanently: it needs a person
)

// findStanding returns the standing of the row of r. 401 and 424 do not refuse the device: the row goes on once their
// cause is fixed.
func (r Result) findStanding() standing {
	switch {
	case r.Code == codeWouldUnassign && r.Outcome != outcomeDryRun: // the deployment has DRY_RUN=true
		return open
	case r.Status/100 == 2 && r.Outcome != outcomeUnknown:
		return succeeded
	case r.Status/100 != 4, Retryable(r.Status), r.Outcome == outcomeUnknown, r.Status == http.StatusUnauthorized,
		r.Status == http.StatusFailedDependency:
		return open
	}
	return refused
}

// resultHeader are the columns of a results file, in order. The last one may be cut off where a process was killed: the
// row is then sent again if it expects an account.
//
//nolint:gochecknoglobals // a table that nothing writes to
var resultHeader = strings.Fields("line deviceId serialNumber account_before status code message outcome requestId " +
	"graphRequestId time deployment named_by expected")

// DeploymentOf returns the name of the deployment at an address: the address without any part that may be a key.
func DeploymentOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Scheme+"://"+u.Host) + strings.TrimRight(u.EscapedPath(), "/")
}

// formatCells returns the cells of r below resultHeader.
func (r Result) formatCells() []string {
	cells := []string{
		strconv.Itoa(r.Line), r.DeviceID, r.SerialNumber, r.AccountBefore,
		strings.TrimLeft(strconv.Itoa(r.Status), "0"), // empty without a response
		r.Code, r.Message, r.Outcome, r.RequestID, r.GraphRequestID, r.Time, r.Deployment, "serial", r.Expected,
	}
	if r.ByID || r.SerialNumber == "" {
		cells[12] = "id" // named_by
	}
	return text.GuardCells(cells...)
}

// resultOf reads the cells of a results file whose columns are called names.
func resultOf(names, cells []string) (Result, error) {
	of := make(map[string]string, len(names))
	for i, name := range names {
		of[name] = text.UnguardCell(cells[i])
	}
	line, errLine := strconv.Atoi(of["line"])
	status, errStatus := strconv.Atoi(cmp.Or(of["status"], "0"))
	r := Result{
		Line: line, DeviceID: of["deviceId"], SerialNumber: of["serialNumber"], AccountBefore: of["account_before"],
		Status: status, Code: of["code"], Message: of["message"], Outcome: of["outcome"], RequestID: of["requestId"],
		GraphRequestID: of["graphRequestId"], Time: of["time"], Deployment: of["deployment"], Expected: of["expected"],
		ByID: of["named_by"] == "id" && of["serialNumber"] != "",
	}
	if r.DeviceID == "" && r.SerialNumber == "" {
		return Result{}, errors.New("it names no device")
	}
	return r, errors.Join(errLine, errStatus)
}

// Results are the results of a list, in a file or in memory. While the list is sent, results are appended to the
// file, and are on the disk when Add returns; of several rows about one device the last counts. OpenResults and
// Close leave one for each.
type Results struct {
	path       string // "" for results in memory
	format     Format
	deployment string
	file       *os.File
	rows       map[string]Result
}

// NewResults returns results in memory.
func NewResults(deployment string) *Results {
	return &Results{deployment: deployment, rows: map[string]Result{}}
}

// OpenResults opens the results file of a deployment at path, or makes one in format. A dry run begins anew. It
// refuses the results of another deployment, and results of a dry run for a real one and the other way round.
func OpenResults(path string, format Format, deployment string, dryRun bool) (*Results, error) {
	r := NewResults(deployment)
	r.path, r.format = path, format
	f, err := os.Open(path)
	if err == nil {
		err = r.readFile(f)
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, row := range r.rows {
		if row.Deployment != deployment {
			return nil, fmt.Errorf("%s holds the results of another deployment, %s; use another -out file", path,
				shortenText(plainText(row.Deployment)))
		}
		if dry := row.Outcome == outcomeDryRun; dry != dryRun {
			kind := map[bool]string{true: "a dry run", false: "a real run"}[dry]
			return nil, fmt.Errorf("%s holds the results of %s; use another -out file", path, kind)
		}
	}
	if dryRun {
		clear(r.rows)
	}
	if err := r.rewriteFile(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// readFile reads the file. A last row that was not written to its end does not count.
func (r *Results) readFile(f io.Reader) error {
	l, err := openLayout(f)
	if errors.Is(err, errEmpty) {
		return nil
	}
	if err != nil {
		return err
	}
	if !slices.Equal(l.header, resultHeader) {
		return errors.New("it exists and is not a results file; move it away or use another -out file")
	}
	for row := range l.readRows {
		var result Result
		err := row.err
		if err != nil || len(row.cells) != len(l.header) {
			if l.next == len(l.lines) {
				return nil
			}
			err = errors.New("it has too few or too many cells")
		}
		if err == nil {
			result, err = resultOf(l.header, row.cells)
		}
		if err != nil {
			return fmt.Errorf("line %d is not a result: %w", row.line, err)
		}
		r.rows[result.deviceKey()] = result
	}
	return nil
}

// Of returns the result of a row, if there is one. A result counts for the account that was expected then: a row
// that expects another one has none.
func (r *Results) Of(row Row) (Result, bool) {
	result, ok := r.rows[row.deviceKey()]
	if !ok || !strings.EqualFold(result.Expected, row.Expected.String()) {
		return Result{}, false
	}
	return result, true
}

// Add appends results. An account that was read earlier stays where a later attempt finds the device without one.
func (r *Results) Add(results ...Result) error {
	var rows [][]string
	for _, result := range results {
		result.Deployment = r.deployment
		result.AccountBefore = cmp.Or(result.AccountBefore, r.rows[result.deviceKey()].AccountBefore)
		r.rows[result.deviceKey()] = result
		rows = append(rows, result.formatCells())
	}
	if r.path == "" {
		return nil
	}
	if err := r.writeRows(r.file, rows); err != nil {
		return err
	}
	return r.file.Sync()
}

// Close leaves the file with one row for each device, in the order of the list.
func (r *Results) Close() error {
	if r.path == "" {
		return nil
	}
	if err := r.rewriteFile(); err != nil {
		return err
	}
	return r.file.Close()
}

// rewriteFile replaces the file by one with one row for each device, and opens it at its end.
func (r *Results) rewriteFile() error {
	if r.file != nil {
		_ = r.file.Close() // it was synced, and Windows does not replace an open file
	}
	if err := replaceFile(r.path, r.writeAll); err != nil {
		return err
	}
	var err error
	r.file, err = os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// replaceFile puts the text that write writes at path, as a whole or not at all.
func replaceFile(path string, write func(io.Writer) error) error {
	fresh, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = write(fresh)
	if err == nil {
		err = fresh.Sync()
	}
	if err = errors.Join(err, fresh.Close()); err == nil {
		err = os.Rename(fresh.Name(), path)
	}
	if err != nil {
		_ = os.Remove(fresh.Name())
	}
	return err
}

func (r *Results) writeAll(w io.Writer) error {
	if r.format.BOM {
		if _, err := io.WriteString(w, utf8BOM); err != nil {
			return err
		}
	}
	rows := slices.SortedFunc(maps.Values(r.rows), func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.deviceKey(), b.deviceKey()))
	})
	cells := [][]string{resultHeader}
	for _, row := range rows {
		cells = append(cells, row.formatCells())
	}
	return r.writeRows(w, cells)
}

func (r *Results) writeRows(w io.Writer, rows [][]string) error {
	records := csv.NewWriter(w)
	records.Comma = r.format.Comma
	return records.WriteAll(rows)
}
