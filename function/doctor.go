package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/upstream"
)

// mark is how a finding of the doctor's is to be taken.
type mark string

// The marks. A warning is what works and should not stay so.
const (
	markOK       mark = "ok"
	markWarning  mark = "warning"
	markFailed   mark = "failed"
	markNotTried mark = "not_tried"
)

// finding is one line of the doctor's report. The names of its members are part of what docs/operations.md promises.
type finding struct {
	Check   string   `json:"check"`             // what was looked at, as one of the words of docs/operations.md
	Subject string   `json:"subject,omitempty"` // which one of several
	Mark    mark     `json:"mark"`
	Tried   string   `json:"tried"`
	Found   string   `json:"found"`
	Mend    []string `json:"mend,omitempty"` // sentences and commands, in the order in which they are to be followed
	Error   *fault   `json:"error,omitempty"`

	asked party // who gives the token that this is about
}

// party is who gives a token, which the services of an error do not tell apart: all of them are the identity there.
type party int

const (
	entra         party = iota // for a secret or a certificate, or for nothing
	entraTrusting              // for the word of somebody whom an app trusts
	awsSTS
	hostIdentity // the managed identity
	vaultReader  // whoever else reads the vault
)

// fault is what a service has said of a failure, as far as its support asks for it.
type fault struct {
	Service   upstream.Service `json:"service"`
	Reason    upstream.Reason  `json:"reason"`
	Status    int              `json:"status,omitempty"`
	Code      string           `json:"code,omitempty"`
	RequestID string           `json:"requestId,omitempty"`
}

func (f *finding) ok(format string, args ...any) {
	f.Mark, f.Found = markOK, fmt.Sprintf(format, args...)
}

func (f *finding) warn(mend []string, format string, args ...any) {
	f.Mark, f.Mend, f.Found = markWarning, mend, fmt.Sprintf(format, args...)
}

func (f *finding) fail(mend []string, format string, args ...any) {
	f.Mark, f.Mend, f.Found = markFailed, mend, fmt.Sprintf(format, args...)
}

func (f *finding) skip(because string) {
	f.Mark, f.Found = markNotTried, "because "+because
}

// failWith records that what was tried ended with err, explained. renew are the steps that make what is missing; they may be nil.
func (f *finding) failWith(err error, renew []string) {
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok { // which no room returns
		f.fail(nil, "an error that nobody foresaw, of type %T", err)
		return
	}
	found, mend := explain(f, failed, renew)
	if words := quote(failed); words != "" {
		found += " (" + words + ")"
	}
	f.fail(mend, "%s", found)
	f.Error = &fault{failed.Service, failed.Reason, failed.Status, failed.Code, failed.RequestID}
}

// quote returns what a service has said: its status, its code and the id of the request.
func quote(e *upstream.Error) string {
	var words []string
	if e.Status != 0 {
		words = append(words, fmt.Sprint(e.Status))
	}
	if e.Code != "" {
		words = append(words, e.Code)
	}
	if e.RequestID != "" {
		words = append(words, "request "+e.RequestID)
	}
	return strings.Join(words, " ")
}

// probe is one thing that the doctor tries, and the findings it has for it.
type probe struct {
	needs     []*probe // none of which may fail
	after     []*probe // which must have ended before, whatever came of them
	otherwise string   // what is not so if this fails, for those who need it
	findings  []finding
	run       func(ctx context.Context, f []finding)

	spoilt string // why those who need this cannot be tried; "" if they can
	done   chan struct{}
}

// do runs the probe when those before it have ended, unless one that it needs has failed.
func (c *probe) do(ctx context.Context) {
	defer close(c.done)
	for _, earlier := range slices.Concat(c.needs, c.after) {
		<-earlier.done
	}
	for _, need := range c.needs {
		if need.spoilt != "" {
			c.spoilt = need.spoilt
			for i := range c.findings {
				c.findings[i].skip(c.spoilt)
			}
			return
		}
	}
	c.try(ctx)
	for _, f := range c.findings {
		if f.Mark == markFailed {
			c.spoilt = c.otherwise
		}
	}
}

// try runs the probe. The process may be one that serves requests, so that a panic is a finding.
func (c *probe) try(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			for i := range c.findings {
				c.findings[i].fail(nil, "a fault of this program, of type %T: report it", p)
			}
		}
	}()
	c.run(ctx, c.findings)
}

// together calls do with the numbers below n at the same time. If one panics, so does the goroutine that has called this.
func together(n int, do func(i int)) {
	panics := make([]any, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			defer func() { panics[i] = recover() }()
			do(i)
		})
	}
	all.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p)
		}
	}
}

// report is what the doctor has found. The names of its members are part of what docs/operations.md promises.
type report struct {
	Version  string    `json:"version"`
	OK       bool      `json:"ok"` // nothing has failed
	Failed   int       `json:"failed"`
	Warnings int       `json:"warnings"`
	NotTried int       `json:"notTried"`
	Findings []finding `json:"findings"`
}

// err returns an error if anything has failed.
func (r report) err() error {
	if !r.OK {
		return fmt.Errorf("%d of %d checks failed", r.Failed, len(r.Findings))
	}
	return nil
}

// LogValue returns how much of it is not well.
func (r report) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("failed", r.Failed), slog.Int("warnings", r.Warnings), slog.Int("not_tried", r.NotTried))
}

// doctorLimit is the time for all checks together, if there is no less.
const doctorLimit = 28 * time.Second

// examine runs probes, those that need nothing of each other at the same time, and shows each finding in order as soon as
// it is there.
func examine(ctx context.Context, probes []*probe, show func(finding)) report {
	ctx, cancel := context.WithTimeout(ctx, doctorLimit)
	defer cancel()
	var running sync.WaitGroup
	for _, c := range probes {
		c.done = make(chan struct{})
	}
	for _, c := range probes {
		running.Go(func() { c.do(ctx) })
	}
	r := report{Version: version, OK: true}
	for _, c := range probes {
		<-c.done
		for _, f := range c.findings {
			show(f)
			r.Findings = append(r.Findings, f)
			switch f.Mark {
			case markFailed:
				r.OK = false
				r.Failed++
			case markWarning:
				r.Warnings++
			case markNotTried:
				r.NotTried++
			}
		}
	}
	running.Wait()
	return r
}

// diagnose examines the deployment that the settings describe, for host, and shows each finding. transport is between it and
// the cloud. It changes nothing anywhere, and is at its end when ctx is.
func diagnose(ctx context.Context, getenv func(string) string, host string, transport policy.Transporter, show func(finding)) (report, error) {
	c, wrong := config.Load(getenv, host)
	limit := doctorLimit
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end))
	}
	// What the steps of a check take their shares of (see vault.Options): of 28 seconds 20, so that all of them fit in, as a rule.
	c.Timeout = limit * 5 / 7
	watched := &dates{next: transport, seen: map[string]time.Duration{}}
	d := &diagnosis{Config: c, dates: watched, log: slog.New(slog.DiscardHandler)}
	if wrong == nil {
		var err error
		if d.connections, err = connect(c, watched, d.log); err != nil {
			return report{}, err
		}
	}
	return examine(ctx, d.checks(wrong, getenv), show), nil
}

// examine examines the deployment that serves with c, whose settings are read anew.
func examineDeployment(ctx context.Context, c config.Config, transport policy.Transporter) (report, error) {
	return diagnose(ctx, c.Getenv, c.Host, transport, func(finding) {})
}

// doctor is the command of that name.
func doctor(ctx context.Context, args []string, getenv func(string) string, transport policy.Transporter, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	asJSON := flags.Bool("json", false, "print the report as one JSON document")
	if err := flags.Parse(args); err != nil {
		return errors.Join(usageError("doctor"), err)
	}
	if flags.NArg() > 0 {
		return usageError("doctor takes no arguments: it reads the settings that serve reads")
	}
	host, err := config.DetectHost(getenv)
	if err != nil {
		return err
	}
	if host == config.Local && !config.HasDeployment(getenv) {
		return usageError("there is nothing to examine: no setting of a deployment is in the environment.\n" +
			"Set those that it runs with (README, Settings), and VAULT_CREDENTIAL=azure-cli to read the vault as who is signed in with az.\n" +
			"Without settings the program simulates a cloud, which is always well")
	}
	p := &printout{w: stdout, coloured: isTerminal(stdout) && getenv("NO_COLOR") == ""}
	show := p.finding
	if *asJSON {
		show = func(finding) {}
	}
	r, err := diagnose(ctx, getenv, host, transport, show)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return fmt.Errorf("doctor: %w", err)
		}
	} else {
		p.summary(r)
	}
	return r.err()
}

// printout prints a report for a person.
type printout struct {
	w        io.Writer
	coloured bool
	// A command has been printed that has one of the usual variables in it, or $PRINCIPAL_ID.
	letters, principal bool
}

// yellow is a colour beside those of the demo.
const yellow = "33"

// markWidth is the width of the column of marks.
const markWidth = len("not tried")

func (p *printout) finding(f finding) {
	word := fmt.Sprintf("%-*s", markWidth, strings.ReplaceAll(string(f.Mark), "_", " "))
	if p.coloured {
		colour := map[mark]string{markOK: green, markWarning: yellow, markFailed: red, markNotTried: faint}[f.Mark]
		word = "\x1b[" + colour + "m" + word + "\x1b[0m"
	}
	fmt.Fprintf(p.w, "%s  %s: %s\n", word, f.Tried, f.Found)
	for _, step := range f.Mend {
		p.letters = p.letters || strings.Contains(step, "$VAULT") || strings.Contains(step, "$APP")
		p.principal = p.principal || strings.Contains(step, "$PRINCIPAL_ID")
		fmt.Fprintf(p.w, "%*s> %s\n", markWidth+4, "", step)
	}
}

func (p *printout) summary(r report) {
	if p.letters || p.principal {
		fmt.Fprintln(p.w)
	}
	if p.letters {
		fmt.Fprint(p.w, "$VAULT is the name in KEY_VAULT_URL, $APP_ID is GRAPH_CLIENT_ID, $GROUP and $APP are the function app's.\n")
	}
	if p.principal {
		fmt.Fprint(p.w, "$PRINCIPAL_ID is the object id of the managed identity, as az functionapp identity show has it.\n")
	}
	fmt.Fprintf(p.w, "\n%d checks: %d failed, %d with a warning, %d not tried. Nothing was changed.\n", len(r.Findings), r.Failed, r.Warnings, r.NotTried)
}
