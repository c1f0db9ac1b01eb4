package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// The limits of a request with a list.
const (
	batchDevices = 20       // what one may name
	batchBytes   = 15 << 10 // of the 16 KiB that a body may have
)

// List works off the rows of a file. All its fields but the flags are needed.
type List struct {
	Client    *Client
	Results   *Results
	Reference string // of the rows that have none of their own; may be empty
	DryRun    bool
	Verify    bool
	Again     bool         // send what was refused before too
	Progress  func(Counts) // told after each answer
}

// Counts are how the rows of a list stand.
type Counts struct {
	Total           int
	Succeeded       int
	SucceededBefore int // of those: in a run before
	Refused         int // for good
	RefusedBefore   int // of those: in a run before
	Open            int // to be asked for again
	Unsent          int // in this run and before it
}

// Settled returns how many rows need no further request.
func (c Counts) Settled() int { return c.Succeeded + c.Refused }

// Work sends the rows that the results do not show as done or refused, up to 20 at a time and one request after another,
// and puts every answer into the results before it sends the next. Its error says why it stopped before the end.
//
// Where the function itself is what fails, for all the devices of a request, Work stops: the others would fare no better.
func (l *List) Work(ctx context.Context, rows []Row) (Counts, error) {
	var pending []Row
	c := Counts{Total: len(rows)}
	for _, row := range rows {
		before, ok := l.Results.Of(row)
		switch s := before.standing(); {
		case ok && s == succeeded:
			c.SucceededBefore++
		case ok && s == refused && !l.Again:
			c.RefusedBefore++
		default:
			pending = append(pending, row)
		}
	}
	l.count(&c, rows, 1)
	for len(pending) > 0 {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		n := l.batch(pending)
		l.count(&c, pending[:n], -1)
		err := l.sendBatch(ctx, pending[:n])
		l.count(&c, pending[:n], 1)
		l.Progress(c)
		if err != nil {
			return c, err
		}
		pending = pending[n:]
	}
	return c, nil
}

// count adds n to c for each of the rows, as it stands.
func (l *List) count(c *Counts, rows []Row, n int) {
	for _, row := range rows {
		result, ok := l.Results.Of(row)
		switch s := result.standing(); {
		case !ok:
			c.Unsent += n
		case s == succeeded:
			c.Succeeded += n
		case s == refused:
			c.Refused += n
		default:
			c.Open += n
		}
	}
}

// reference returns the reference of a row.
func (l *List) reference(row Row) string { return cmp.Or(row.Reference, l.Reference) }

// batch returns how many of the first rows go into one request, which has one reference.
func (l *List) batch(rows []Row) int {
	size := 256
	for n, row := range rows {
		text, _ := json.Marshal(target(row)) // is longer than encode writes it, at worst
		size += len(text) + 1
		if n == batchDevices || n > 0 && (size > batchBytes || l.reference(row) != l.reference(rows[0])) {
			return n
		}
	}
	return len(rows)
}

func target(row Row) Target {
	return Target{DeviceID: row.ID, SerialNumber: row.Serial, Expected: Expect(row.Expected)}
}

// sendBatch has rows done by one request, and by others for those of them that are to be asked for again. Its error is nil
// if it makes sense to go on with more rows.
func (l *List) sendBatch(ctx context.Context, rows []Row) error {
	all := len(rows)
	for tried := 0; ; tried++ {
		order := Order{DryRun: l.DryRun, Verify: l.Verify, Reference: l.reference(rows[0])}
		for _, row := range rows {
			order.Devices = append(order.Devices, target(row))
		}
		answer, failed := l.Client.send(ctx, order, hasResults)
		results, ended := l.results(rows, answer, failed)
		if err := l.Results.Add(results...); err != nil {
			return fmt.Errorf("the results cannot be written: %w", err)
		}
		if ended != nil {
			return ended
		}
		var again []Row
		var lasting []Result // of what is behind the function
		for i, result := range results {
			switch {
			case Retryable(result.Status):
				again = append(again, rows[i])
			case result.standing() == open:
				lasting = append(lasting, result)
			}
		}
		if len(lasting) > 0 && len(lasting)+len(again) == all {
			return fmt.Errorf("nothing can be done before this is mended: %s: %s", plainText(lasting[0].Code), plainText(lasting[0].Message))
		}
		if len(again) == 0 {
			return nil
		}
		why := fmt.Sprintf("to be asked for again: %d of %d", len(again), len(rows))
		if goOn, err := l.Client.wait(ctx, why, answer.retryAfter, tried); !goOn {
			if err == nil && len(again) == all {
				err = errors.New("nothing gets done for now; run it again later")
			}
			return err
		}
		rows = again
	}
}

// item is what an answer says of one device, or of all of them.
type item struct {
	Code           string `json:"code"`
	Message        string `json:"message"`
	Status         int    `json:"status"`
	Outcome        string `json:"outcome"`
	DeviceID       string `json:"deviceId"`
	Field          string `json:"field"`
	RequestID      string `json:"requestId"`
	GraphRequestID string `json:"graphRequestId"`
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

// itemOf reads an answer. Whatever is not ours is the zero item.
func itemOf(answer Answer) item {
	var whole item
	if json.Unmarshal(answer.Body, &whole) != nil {
		return item{}
	}
	return whole
}

func hasResults(answer Answer) bool { return len(itemOf(answer).Results) > 0 }

// results returns what became of rows, given the answer to them or that there was none. Its error says that it is the
// request that failed, and not the devices; where it is lasting, nothing became of the rows that would be worth keeping.
func (l *List) results(rows []Row, answer Answer, failed error) ([]Result, error) {
	whole := itemOf(answer)
	now := time.Now().UTC().Format(time.RFC3339)
	items := whole.Results
	var ended error
	switch {
	case answer.Status == 0:
		ended = failed
		whole = item{Code: "no_answer", Message: "There was no answer, so it is not known what was done. Asking again is safe.", Outcome: "unknown"}
	case len(items) == len(rows):
	case Retryable(answer.Status):
		ended = cmp.Or(failed, fmt.Errorf("the answer is %s; run it again later", answer.StatusText))
		whole = item{
			Status: answer.Status, Code: whole.Error.Code, Message: whole.Error.Message, Outcome: cmp.Or(whole.Outcome, "unknown"), RequestID: whole.RequestID,
		}
	case answer.Succeeded():
		ended = fmt.Errorf("the answer is %s and has %d results for %d devices; is this the address of the function?", answer.StatusText, len(items), len(rows))
		whole = item{Code: "bad_answer", Message: "The answer is not one of the function, so it is not known what was done.", Outcome: "unknown"}
	default:
		return nil, fmt.Errorf("the answer is %s%s", answer.StatusText, told(whole))
	}
	results := make([]Result, len(rows))
	for i, row := range rows {
		one := whole
		if ended == nil {
			one = items[i]
			one.RequestID = whole.RequestID
		}
		results[i] = Result{
			Line: row.Line, DeviceID: cmp.Or(row.ID, plainText(one.DeviceID)), SerialNumber: row.Serial, Status: one.Status,
			Code: plainText(cmp.Or(one.Code, one.Error.Code)), Message: plainText(cmp.Or(one.Message, one.Error.Message)),
			Outcome: plainText(cmp.Or(one.Outcome, outcomeDone)), RequestID: plainText(one.RequestID),
			GraphRequestID: plainText(cmp.Or(one.GraphRequestID, one.Graph.RequestID)), Time: now, Expected: row.Expected,
		}
		if n := min(len(one.DeviceIDs), batchDevices); n > 0 {
			results[i].Message += " They are: " + plainText(strings.Join(one.DeviceIDs[:n], " "))
			if more := len(one.DeviceIDs) - n; more > 0 {
				results[i].Message += fmt.Sprintf(" and %d more", more)
			}
		}
		if l.DryRun {
			results[i].Outcome = outcomeDryRun
		}
	}
	return results, ended
}

// told returns what a failure says, for a person.
func told(whole item) string {
	if whole.Error.Code == "" {
		return ""
	}
	text := ", " + whole.Error.Code + ": " + whole.Error.Message
	if whole.Field != "" {
		text += " (" + whole.Field + ")"
	}
	return plainText(text)
}

// plainText returns what of a text a terminal only prints.
func plainText(text string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, text)
}
