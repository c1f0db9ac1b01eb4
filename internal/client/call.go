package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"autopilot-unassign/internal/text"
)

// largeRun is the number of devices above which a real run needs a confirmation.
const largeRun = 50

const callHelp = `usage: unassign call [flags]

Removes the resource account from the devices of -device and -serial, or of a file.

  unassign call -url https://contoso.azurewebsites.net -secret-file key.txt -serial 5CG1234ABC -dry-run
  unassign call -url https://contoso.azurewebsites.net -api-key-file key.txt -device 6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01
  unassign call -csv devices.csv -dry-run      with the settings below in the environment
  unassign call -csv devices.csv -max 500      writes devices.results.csv, and goes on from there
  unassign call -doctor                        has the deployment examine itself

Exit status: 0 if all is done, 1 if not, 2 if the flags are wrong, 130 after Ctrl-C.
`

type callFlags struct {
	*connection
	rows                        []Row
	expect, reference           string
	dryRun, verify, doctor      bool
	ReadOptions                 // of the file csv
	csv, out                    string
	again, skipInvalid, confirm bool
	most                        int
}

func newCallFlags() *callFlags {
	f := &callFlags{connection: newConnection("call", callHelp), ReadOptions: ReadOptions{Columns: map[string]string{}}}
	f.Func("device", "`id` of an Autopilot device; may be repeated", func(id string) error {
		f.rows = append(f.rows, Row{ID: id})
		return nil
	})
	f.Func("serial", "`number`: the serial number of a device, instead of its id; may be repeated",
		func(serial string) error {
			f.rows = append(f.rows, Row{Serial: serial})
			return nil
		})
	f.Func("expect", "`account` that the device must still carry: a user principal name, or a resource name without @",
		setLimit(&f.expect))
	f.BoolVar(&f.dryRun, "dry-run", false, "report the changes, and make none")
	f.BoolVar(&f.verify, "verify", false, "read the device again after the change")
	f.BoolVar(&f.doctor, "doctor", false, "have the deployment examine itself, and print the report")
	f.StringVar(&f.reference, "reference", "", "`ticket` for the audit record")
	f.StringVar(&f.csv, "csv", "",
		"`file` with a list: CSV with a header, or one serial number on each line; - reads standard input")
	f.StringVar(&f.By, "by", "", "`id or serial`: the column that counts where a list has both (the id)")
	f.Func("column", "`purpose=NAME`: the column for the id, serial, expected or reference of a list; may be repeated",
		f.setColumn)
	f.Func("expect-column", "`NAME` of the column with the accounts that the devices must still carry",
		func(name string) error {
			return f.setColumn("expected=" + name)
		})
	f.BoolVar(&f.NoExpect, "no-expect", false, "ignore the accounts in the list")
	f.BoolVar(&f.Placeholders, "placeholders", false,
		`send serial numbers such as "Default string", that many devices share`)
	f.BoolVar(&f.skipInvalid, "skip-invalid", false, "send the valid rows of a list although others are not valid")
	f.StringVar(&f.out, "out", "",
		"`file` for the results; the same command continues from it ("+
			"devices.results.csv or devices.dry-run.csv for devices.csv)")
	f.BoolVar(&f.again, "again", false, "send the devices too that the results show as refused")
	f.BoolVar(&f.confirm, "yes", false, fmt.Sprintf("do not ask before a real run with more than %d devices", largeRun))
	f.IntVar(&f.most, "max", 0, "`number`: refuse a real run with more devices, and do not ask before one with fewer")
	return f
}

// setColumn takes purpose=NAME.
func (f *callFlags) setColumn(text string) error {
	purpose, name, ok := strings.Cut(text, "=")
	switch {
	case !ok || strings.TrimSpace(name) == "":
		return errors.New("must be purpose=NAME, such as serial=Tag")
	case purpose != "id" && purpose != "serial" && purpose != "expected" && purpose != "reference":
		return fmt.Errorf("%q is not id, serial, expected or reference", purpose)
	}
	f.Columns[purpose] = strings.TrimSpace(name)
	return nil
}

// checkFlags returns a text.UsageError if the flags do not fit together.
func (f *callFlags) checkFlags() error {
	forList := len(f.Columns) > 0 || f.By != "" || f.NoExpect || f.Placeholders || f.skipInvalid
	switch {
	case f.dryRun && f.verify:
		return text.UsageError("-dry-run changes nothing, so there is nothing to -verify")
	case f.most < 0:
		return text.UsageError("-max must be positive")
	case f.doctor && (f.csv != "" || len(f.rows) > 0 || f.expect != "" || f.dryRun || f.verify || f.reference != "" ||
		f.out != "" || f.again || forList):
		return text.UsageError("-doctor changes nothing, and takes no device and no flag about devices")
	case f.doctor:
		return nil
	case f.csv != "" && (len(f.rows) > 0 || f.expect != ""):
		return text.UsageError("with -csv, the file names the devices and the accounts they must carry")
	case f.By != "" && f.By != "id" && f.By != "serial":
		return text.UsageError("-by is id or serial")
	case f.NoExpect && f.Columns["expected"] != "":
		return text.UsageError("use one of -no-expect and -expect-column")
	case f.csv == "-" && (f.secretFile == "-" || f.apiKeyFile == "-" || f.tokenFile == "-" || f.functionKeyFile == "-"):
		return text.UsageError("standard input holds the list, so the key must be in a file")
	case f.csv != "":
		return nil
	case forList || f.again:
		return text.UsageError("-by, -column, -expect-column, -no-expect, -placeholders, -again and -skip-invalid are for -csv")
	case len(f.rows) == 0:
		return text.UsageError("the device is missing: use -device, -serial or -csv")
	case f.expect != "" && len(f.rows) > 1:
		return text.UsageError("-expect is for one device; name the accounts of several in a -csv file")
	}
	return nil
}

// Call removes the resource account from the devices that the arguments name, and prints the results. It returns
// an error unless all of them succeeded.
func (p Program) Call(ctx context.Context, args []string) error {
	f := newCallFlags()
	return p.runParsed(ctx, f.connection, args, func() error {
		if err := f.checkFlags(); err != nil {
			return err
		}
		route := routeUnassign
		if f.doctor {
			route = routeDoctor
		}
		c, err := f.newClient(p, route)
		if err != nil {
			return err
		}
		if f.doctor {
			return p.callDoctor(ctx, f, c)
		}
		return p.callList(ctx, f, c)
	})
}

func (p Program) callList(ctx context.Context, f *callFlags, c *Client) error {
	table, err := f.readDevices(p)
	if err != nil {
		return err
	}
	printLines(p.Stderr, table.Notes)
	printLines(p.Stderr, table.Invalid)
	invalid := text.Count(len(table.Invalid), "row is", "rows are")
	switch {
	case len(table.Invalid) > 0 && !f.skipInvalid:
		return fmt.Errorf("%s not valid, so nothing was sent; correct %s, or send the other rows with -skip-invalid",
			invalid, f.csv)
	case len(table.Rows) == 0:
		return fmt.Errorf("%s has no device to send", f.csv)
	}
	results, err := f.openResults(table.Format, DeploymentOf(c.URL))
	if err != nil {
		return err
	}
	show := &progress{w: p.Stderr, terminal: text.IsTerminal(p.Stderr) && !f.json && len(table.Rows) > batchDevices}
	c.Note = show.showNote
	list := List{
		Client: c, Results: results, Reference: f.reference, DryRun: f.dryRun, Verify: f.verify, Again: f.again,
		Progress: show.showCounts,
		Confirm:  func(rows []Row) error { return p.confirmRun(f, c, rows) },
	}
	counts, stopped := list.Work(ctx, table.Rows)
	show.endBar()
	stopped = errors.Join(stopped, results.Close())
	if _, refused := errors.AsType[unconfirmedError](stopped); refused {
		return stopped
	}
	end := p.printSummary(f, counts, results.path, len(table.Invalid), stopped)
	unsent := errors.Is(stopped, ErrNotSent) && counts.Settled() == 0
	if f.json {
		return errors.Join(p.printResults(table, results, counts, end), end)
	}
	if f.csv == "" && !unsent {
		for _, row := range table.Rows {
			if result, ok := results.Of(row); ok {
				fmt.Fprintln(p.Stdout, result)
			}
		}
	}
	return end
}

func (f *callFlags) readDevices(p Program) (*Table, error) {
	if f.csv == "" {
		table := &Table{}
		known := map[string]bool{}
		for i, row := range f.rows {
			if row.Line = i + 1; !known[row.deviceKey()] {
				known[row.deviceKey()] = true
				row.Expected = parseAccount(f.expect)
				table.Rows = append(table.Rows, row)
			}
		}
		return table, nil
	}
	source := p.Stdin
	if f.csv != "-" {
		file, err := os.Open(f.csv)
		if err != nil {
			return nil, fmt.Errorf("-csv: %w", err)
		}
		defer func() { _ = file.Close() }()
		source = file
	}
	table, err := ReadRows(source, f.ReadOptions)
	if err != nil {
		return nil, fmt.Errorf("-csv %s: %w", f.csv, err)
	}
	return table, nil
}

// openResults opens the results of the run: a file for a list, else memory unless -out names a file.
func (f *callFlags) openResults(format Format, deployment string) (*Results, error) {
	path := f.out
	if path == "" && f.csv == "" {
		return NewResults(deployment), nil
	}
	if path == "" {
		kind := ".results.csv"
		if f.dryRun {
			kind = ".dry-run.csv"
		}
		base := strings.TrimSuffix(f.csv, filepath.Ext(f.csv))
		if f.csv == "-" {
			base = "devices"
		}
		path = base + kind
	}
	if f.csv != "" && sameFile(f.csv, path) {
		return nil, text.UsageError("-out is the file with the devices")
	}
	if format.Comma == 0 {
		format.Comma = ','
	}
	return OpenResults(path, format, deployment, f.dryRun)
}

// sameFile reports whether two names are of one file that exists.
func sameFile(a, b string) bool {
	first, errFirst := os.Stat(a)
	second, errSecond := os.Stat(b)
	return errFirst == nil && errSecond == nil && os.SameFile(first, second)
}

// unconfirmedError is the end of a run before its first request.
type unconfirmedError string

func (e unconfirmedError) Error() string { return string(e) }

// confirmRun asks before a large real run. Without a terminal it refuses one.
func (p Program) confirmRun(f *callFlags, c *Client, rows []Row) error {
	switch {
	case f.dryRun:
		return nil
	case f.most > 0 && len(rows) > f.most:
		return unconfirmedError(fmt.Sprintf("nothing was sent: %s, and -max is %s",
			text.Count(len(rows), "device", "devices"), text.Number(f.most)))
	case f.confirm || f.most > 0 || len(rows) <= largeRun:
		return nil
	}
	unconfirmed := unconfirmedError(fmt.Sprintf(
		"nothing was sent: a run with more than %d devices needs -yes or -max, and this one has %s",
		largeRun, text.Number(len(rows))))
	if !p.interactive && !text.IsTerminal(p.Stdin) {
		return unconfirmed
	}
	fmt.Fprintf(p.Stderr, "This removes the resource account from %s at %s:\n",
		text.Count(len(rows), "device", "devices"), DeploymentOf(c.URL))
	for _, row := range rows[:3] {
		name := row.ID + row.Serial
		if account := row.Expected.String(); account != "" {
			name += ", expected to carry " + account
		}
		fmt.Fprintln(p.Stderr, "  "+plainText(name))
	}
	fmt.Fprintf(p.Stderr, "  and %s more\nType yes to go on: ", text.Number(len(rows)-3))
	text, err := bufio.NewReader(p.Stdin).ReadString('\n')
	if errors.Is(err, io.EOF) && text == "" {
		fmt.Fprintln(p.Stderr)
		return unconfirmed
	}
	if word := strings.ToLower(strings.TrimSpace(text)); word != "yes" && word != "y" {
		return unconfirmedError("nothing was sent: the run was not confirmed")
	}
	return nil
}

// printSummary prints the summary of a run unless it is the error, and returns the error of the run.
func (p Program) printSummary(f *callFlags, counts Counts, path string, invalid int, stopped error) error {
	summary := counts.formatSummary()
	if invalid > 0 {
		summary += "; " + text.Count(invalid, "row is", "rows are") + " not valid"
	}
	if path != "" {
		summary += ". Results: " + path
		if counts.Open+counts.Unsent > 0 {
			summary += ". The same command goes on from there"
		}
	}
	switch {
	case errors.Is(stopped, ErrNotSent) && counts.Settled() == 0:
		return stopped
	case stopped != nil:
		fmt.Fprintln(p.Stderr, summary)
		return stopped
	case counts.Succeeded < counts.Total || invalid > 0:
		return errors.New(summary)
	case f.csv != "" || counts.Total > 1:
		fmt.Fprintln(p.Stderr, summary)
	}
	return nil
}

// String returns the result for a person, in one line.
func (r Result) String() string {
	name := r.SerialNumber
	switch {
	case name == "":
		name = r.DeviceID
	case r.ByID:
		name = r.DeviceID + " (" + name + ")"
	}
	text := plainText(name) + ": "
	if r.Status != 0 {
		text += fmt.Sprint(r.Status, " ")
	}
	text += r.Code + "."
	if r.AccountBefore != "" {
		text += " Account: " + r.AccountBefore + "."
	}
	if r.Message != "" {
		text += " " + r.Message
	}
	if r.Verification != "" {
		text += " Verification: " + r.Verification + "."
	}
	if r.findStanding() != succeeded && r.RequestID != "" {
		text += " Request: " + r.RequestID + "."
	}
	return text
}

// printResults prints the results of the rows as a JSON document.
func (p Program) printResults(table *Table, results *Results, counts Counts, end error) error {
	document := struct {
		jsonHead
		Summary struct {
			Counts
			Reasons map[string]int `json:"refusedReasons,omitempty"`
		} `json:"summary"`
		File    string   `json:"resultsFile,omitempty"`
		Results []Result `json:"results"`
	}{jsonHead: p.newHead(end), File: results.path, Results: []Result{}}
	document.Summary.Counts, document.Summary.Reasons = counts, counts.Reasons[refused]
	for _, row := range table.Rows {
		if r, ok := results.Of(row); ok {
			r.Line = row.Line
			document.Results = append(document.Results, r)
		}
	}
	return text.WriteJSON(p.Stdout, document)
}

// callDoctor fetches the report on a deployment and prints it. It returns an error if a check failed.
func (p Program) callDoctor(ctx context.Context, f *callFlags, c *Client) error {
	response, err := c.sendGet(ctx, nil)
	if err != nil {
		return err
	}
	if !response.Succeeded() {
		return errors.New(describeResponse(response, itemOf(response)))
	}
	var report struct {
		OK       bool `json:"ok"`
		Failed   int  `json:"failed"`
		Findings []struct {
			Mark  string   `json:"mark"`
			Tried string   `json:"tried"`
			Found string   `json:"found"`
			Fix   []string `json:"fix"`
		} `json:"findings"`
	}
	if json.Unmarshal(response.Body, &report) != nil || report.Findings == nil {
		return errors.New("the response is not a report of the doctor")
	}
	if f.json {
		if err := text.WriteJSON(p.Stdout, json.RawMessage(response.Body)); err != nil {
			return err
		}
	} else {
		for _, finding := range report.Findings {
			fmt.Fprintln(p.Stdout, plainText(fmt.Sprintf("%-9s  %s: %s", strings.ReplaceAll(finding.Mark, "_", " "),
				finding.Tried, finding.Found)))
			for _, step := range finding.Fix {
				fmt.Fprintln(p.Stdout, "             > "+plainText(step))
			}
		}
	}
	if !report.OK {
		return fmt.Errorf("%d of %d checks failed", report.Failed, len(report.Findings))
	}
	return nil
}
