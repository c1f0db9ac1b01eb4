package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The limits of a request.
const (
	batchDevices = 20
	batchBytes   = 15 << 10 // of the 16 KiB that a body may have
)

// List sends the rows of a list. The fields without a note are needed.
type List struct {
	Client    *Client
	Results   *Results
	Reference string // of the rows without one of their own; may be empty
	DryRun    bool
	Verify    bool
	Again     bool              // send the rows too that were refused in an earlier run
	Confirm   func([]Row) error // called once with the rows to be sent, before the first request; nil confirms
	Progress  func(Counts)      // called after each response
}

// Counts counts the rows of a list by their standing.
type Counts struct {
	Total            int                         `json:"total"`
	Succeeded        int                         `json:"succeeded"`
	SucceededEarlier int                         `json:"-"`       // of those: in an earlier run
	Refused          int                         `json:"refused"` // permanently
	RefusedEarlier   int                         `json:"-"`       // of those: in an earlier run
	Open             int                         `json:"open"`    // to be sent again
	Unsent           int                         `json:"unsent"`  // in this run and earlier ones
	Reasons          map[standing]map[string]int `json:"-"`
}

// Settled returns the number of rows that need no further request.
func (c Counts) Settled() int { return c.Succeeded + c.Refused }

// Work sends the rows that the results do not show as done or refused, up to 20 at a time and one request after
// another. It stores each response before it sends the next request. Its error is the reason why it stopped before
// the end.
//
// Work stops where the function itself fails for all the devices of a request: the other devices would fare no
// better.
func (l *List) Work(ctx context.Context, rows []Row) (Counts, error) {
	var pending []Row
	c := Counts{Total: len(rows), Reasons: map[standing]map[string]int{succeeded: {}, refused: {}, open: {}}}
	for _, row := range rows {
		earlier, ok := l.Results.Of(row)
		switch s := earlier.findStanding(); {
		case ok && s == succeeded:
			c.SucceededEarlier++
		case ok && s == refused && !l.Again:
			c.RefusedEarlier++
		default:
			pending = append(pending, row)
		}
	}
	l.addCounts(&c, rows, 1)
	if l.Confirm != nil && len(pending) > 0 {
		if err := l.Confirm(pending); err != nil {
			return c, err
		}
	}
	for len(pending) > 0 {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		n := l.batchSize(pending)
		l.addCounts(&c, pending[:n], -1)
		err := l.sendBatch(ctx, pending[:n])
		l.addCounts(&c, pending[:n], 1)
		l.Progress(c)
		if err != nil {
			return c, err
		}
		pending = pending[n:]
	}
	return c, nil
}

// addCounts adds n to c for each of the rows.
func (l *List) addCounts(c *Counts, rows []Row, n int) {
	for _, row := range rows {
		result, ok := l.Results.Of(row)
		if !ok {
			c.Unsent += n
			continue
		}
		s := result.findStanding()
		*map[standing]*int{succeeded: &c.Succeeded, refused: &c.Refused, open: &c.Open}[s] += n
		if c.Reasons[s][result.Code] += n; c.Reasons[s][result.Code] == 0 {
			maps.DeleteFunc(c.Reasons[s], func(_ string, n int) bool { return n == 0 })
		}
	}
}

func (l *List) referenceOf(row Row) string { return cmp.Or(row.Reference, l.Reference) }

// batchSize returns the number of rows that go into the next request. A request has one reference.
func (l *List) batchSize(rows []Row) int {
	size := 256
	for n, row := range rows {
		text, _ := json.Marshal(targetOf(row))
		size += len(text) + 1
		if n == batchDevices || n > 0 && (size > batchBytes || l.referenceOf(row) != l.referenceOf(rows[0])) {
			return n
		}
	}
	return len(rows)
}

func targetOf(row Row) Target {
	return Target{DeviceID: row.ID, SerialNumber: row.Serial, Expected: row.Expected}
}

// sendBatch sends one request for rows, and others for the rows that a retry may help. Its error is nil if it
// makes sense to go on with more rows.
func (l *List) sendBatch(ctx context.Context, rows []Row) error {
	all := len(rows)
	for tried := 0; ; tried++ {
		order := Order{DryRun: l.DryRun, Verify: l.Verify, Reference: l.referenceOf(rows[0])}
		for _, row := range rows {
			order.Devices = append(order.Devices, targetOf(row))
		}
		response, failed := l.Client.sendOrder(ctx, order, hasResults)
		if at, ok := refusedRow(response, len(rows)); ok {
			if err := l.storeResults(l.resultOf(rows[at], itemOf(response), response)); err != nil {
				return err
			}
			if rows = append(rows[:at:at], rows[at+1:]...); len(rows) == 0 {
				return nil
			}
			continue
		}
		results, ended := l.resultsOf(rows, response, failed)
		if err := l.storeResults(results...); err != nil {
			return err
		}
		if ended != nil {
			return ended
		}
		var again []Row
		var lasting []Result // failures behind the function
		for i, result := range results {
			switch {
			case Retryable(result.Status):
				again = append(again, rows[i])
			case result.findStanding() == open:
				lasting = append(lasting, result)
			}
		}
		if len(lasting) > 0 && len(lasting)+len(again) == all {
			return fmt.Errorf("no device can be changed before this is fixed: %s: %s", lasting[0].Code,
				lasting[0].Message)
		}
		if len(again) == 0 {
			return nil
		}
		why := fmt.Sprintf("%d of %d to retry", len(again), len(rows))
		if goOn, err := l.Client.waitForRetry(ctx, why, response.retryAfter, tried); !goOn {
			if err == nil && len(again) == all {
				err = errors.New("no device can be changed at present; run the same command later")
			}
			return err
		}
		rows = again
	}
}

func (l *List) storeResults(results ...Result) error {
	if err := l.Results.Add(results...); err != nil {
		return fmt.Errorf("the results cannot be written: %w", err)
	}
	return nil
}

// item is the part of a response about one device, or about all of them.
type item struct {
	Code           string   `json:"code"`
	Message        string   `json:"message"`
	Status         int      `json:"status"`
	Outcome        string   `json:"outcome"`
	DeviceID       string   `json:"deviceId"`
	SerialNumber   string   `json:"serialNumber"`
	Field          string   `json:"field"`
	Verification   string   `json:"verification"`
	RequestID      string   `json:"requestId"`
	GraphRequestID string   `json:"graphRequestId"`
	Account        Expected `json:"account"`
	Error          struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	Graph struct {
		RequestID string `json:"requestId"`
	} `json:"graph"`
	DeviceIDs []string `json:"deviceIds"`
	Results   []item   `json:"results"`
}

// itemOf reads the body of a response. A body of another origin is the zero item.
func itemOf(r Response) item {
	var whole item
	if json.Unmarshal(r.Body, &whole) != nil {
		return item{}
	}
	return whole
}

func hasResults(r Response) bool { return len(itemOf(r).Results) > 0 }

// deviceField is the field of a refused device in a request.
var deviceField = regexp.MustCompile(`^devices\[(\d{1,2})\]`)

// refusedRow returns the index of the device for which the function refused a whole request.
func refusedRow(r Response, n int) (int, bool) {
	if r.Status != http.StatusBadRequest {
		return 0, false
	}
	m := deviceField.FindStringSubmatch(itemOf(r).Field)
	if m == nil {
		return 0, false
	}
	at, err := strconv.Atoi(m[1])
	return at, err == nil && at < n
}

// resultsOf returns the results of rows, given the response or that there was none. Its error says that the request
// failed, and not the devices; where the failure is lasting, there are no results worth keeping.
func (l *List) resultsOf(rows []Row, r Response, failed error) ([]Result, error) {
	whole := itemOf(r)
	items := whole.Results
	var ended error
	forAll := func(code, outcome, message string) item { return item{Code: code, Outcome: outcome, Message: message} }
	switch {
	case r.Status == 0 && errors.Is(failed, ErrNotSent):
		ended = failed
		whole = forAll("not_sent", outcomeNotDone, "There was no connection, so nothing was sent.")
	case r.Status == 0:
		ended = failed
		whole = forAll("no_response", outcomeUnknown,
			"There was no response, so the outcome is unknown. A retry is safe.")
	case r.Status/100 == 2 && (r.RequestID == "" || len(items) != len(rows)):
		ended = fmt.Errorf("%s, but not from the function: it has no X-Request-ID or no result for each device; check -url", r.statusText())
		whole = forAll("bad_response", outcomeUnknown,
			"The response is not from the function, so the outcome is unknown.")
	case len(items) == len(rows):
	case Retryable(r.Status):
		ended = cmp.Or(failed, fmt.Errorf("%s; run the same command later", describeResponse(r, whole)))
		whole = item{
			Status: r.Status, Code: whole.Error.Code, Message: whole.Error.Message,
			Outcome: cmp.Or(whole.Outcome, outcomeUnknown), RequestID: whole.RequestID,
		}
	default:
		return nil, errors.New(describeResponse(r, whole))
	}
	results := make([]Result, len(rows))
	for i, row := range rows {
		one := whole
		if ended == nil {
			one = items[i]
			one.RequestID = whole.RequestID
		}
		results[i] = l.resultOf(row, one, r)
		if earlier, ok := l.Results.Of(row); ok && earlier.Outcome == outcomeUnknown && errors.Is(ended, ErrNotSent) {
			results[i] = earlier // an attempt that was never sent does not tell how the one before it ended
		}
	}
	return results, ended
}

// resultOf returns the result of a row from its part of a response.
func (l *List) resultOf(row Row, one item, r Response) Result {
	if one.Status == 0 && one.Error.Code != "" {
		one.Status = r.Status
	}
	result := Result{
		Line: row.Line, DeviceID: cmp.Or(row.ID, plainText(one.DeviceID)),
		SerialNumber: cmp.Or(row.Serial, plainText(one.SerialNumber)), Status: one.Status,
		AccountBefore: plainText(one.Account.String()),
		Code:          plainText(cmp.Or(one.Code, one.Error.Code)),
		Message:       plainText(cmp.Or(one.Message, one.Error.Message)),
		Outcome:       plainText(cmp.Or(one.Outcome, outcomeDone)), RequestID: plainText(one.RequestID),
		Verification:   plainText(one.Verification),
		GraphRequestID: plainText(cmp.Or(one.GraphRequestID, one.Graph.RequestID)),
		Time:           time.Now().UTC().Format(time.RFC3339), Expected: row.Expected.String(),
	}
	if n := min(len(one.DeviceIDs), batchDevices); n > 0 {
		result.Message += " They are: " + plainText(strings.Join(one.DeviceIDs[:n], " "))
		if more := len(one.DeviceIDs) - n; more > 0 {
			result.Message += fmt.Sprintf(" and %d more", more)
		}
	}
	result.ByID = row.ID != "" && result.SerialNumber != ""
	if l.DryRun {
		result.Outcome = outcomeDryRun
	} else if result.Code == codeWouldUnassign {
		result.Message = "The deployment has DRY_RUN=true, so nothing was changed."
	}
	return result
}

// describeResponse returns a failed response for a person.
func describeResponse(r Response, whole item) string {
	if whole.Error.Code == "" {
		text := r.statusText() + " without a body of the function, so the platform in front of it refused the request"
		if !Retryable(r.Status) {
			text += "; check -url"
		}
		return text
	}
	text := r.statusText() + " " + whole.Error.Code + ": " + whole.Error.Message
	if whole.Field != "" {
		text += " (" + whole.Field + ")"
	}
	return plainText(text)
}

// plainText returns the characters of a text that a terminal only prints.
func plainText(text string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, text)
}
