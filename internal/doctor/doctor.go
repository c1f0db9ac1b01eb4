// Package doctor examines a deployment: settings, vault, tokens, permission, clock, policy. It changes nothing, and
// names the fix for each fault.
package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// Mark is the result of a check.
type Mark string

// The marks. A warning reports a part that works and needs attention.
const (
	OK       Mark = "ok"
	Warning  Mark = "warning"
	Failed   Mark = "failed"
	NotTried Mark = "not_tried"
)

// Finding is one line of the doctor's report. docs/operations.md documents its members.
type Finding struct {
	Check   string   `json:"check"`             // the name in docs/operations.md
	Subject string   `json:"subject,omitempty"` // the secret or tenant, if there are several
	Mark    Mark     `json:"mark"`
	Tried   string   `json:"tried"`
	Found   string   `json:"found"`
	Fix     []string `json:"fix,omitempty"` // sentences and commands, in order
	Error   *Fault   `json:"error,omitempty"`

	issuer     party // of the token that the check needs
	retryAfter time.Duration
}

// party is an issuer of tokens. Errors have one service for all of them, upstream.Identity.
type party int

const (
	entraID       party = iota // for a client secret or a certificate
	entraTrusting              // for an assertion that an app trusts
	awsSTS
	hostIdentity // the managed identity
	vaultReader  // any other identity that reads the vault
)

// Fault has the details of a service's error that its support needs.
type Fault struct {
	Service   upstream.Service `json:"service"`
	Reason    upstream.Reason  `json:"reason"`
	Status    int              `json:"status,omitempty"`
	Code      string           `json:"code,omitempty"`
	RequestID string           `json:"requestId,omitempty"`
}

func (f *Finding) ok(format string, args ...any) {
	f.Mark, f.Found = OK, fmt.Sprintf(format, args...)
}

func (f *Finding) warn(fix []string, format string, args ...any) {
	f.Mark, f.Fix, f.Found = Warning, fix, fmt.Sprintf(format, args...)
}

func (f *Finding) fail(fix []string, format string, args ...any) {
	f.Mark, f.Fix, f.Found = Failed, fix, fmt.Sprintf(format, args...)
}

func (f *Finding) skip(because string) {
	f.Mark, f.Found = NotTried, "because "+because
}

// failWith records err with its explanation. renew are the steps that create a missing secret or trust; they may be
// nil.
func (f *Finding) failWith(err error, renew []string) {
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		f.fail(nil, "an unexpected error, of type %T", err)
		return
	}
	found, fix := explainError(f, failed, renew)
	if words := quoteError(failed); words != "" {
		found += " (" + words + ")"
	}
	f.fail(fix, "%s", found)
	f.Error = &Fault{failed.Service, failed.Reason, failed.Status, failed.Code, failed.RequestID}
	f.retryAfter = failed.RetryAfter
}

// quoteError returns the status, the code and the request id of a service's error.
func quoteError(e *upstream.Error) string {
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

// probe is one step of the examination, with its findings.
type probe struct {
	needs     []*probe      // must have succeeded before
	after     []*probe      // must have ended before
	otherwise string        // the reason for probes that need this one and are not tried
	pause     time.Duration // before a retry, if longer than retryPause
	findings  []Finding
	run       func(ctx context.Context, f []Finding)

	spoilt string // the reason why probes that need this one cannot be tried; "" after a success
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
	template, start := slices.Clone(c.findings), time.Now()
	c.try(ctx)
	// A transient failure is retried once, if that fits into half of the remaining time.
	pause := max(retryPause, c.pause, c.retryAfter())
	if end, ok := ctx.Deadline(); ok && c.isTransient() && 2*(time.Since(start)+pause) < time.Until(end) {
		select {
		case <-time.After(pause):
			c.findings = template
			c.try(ctx)
		case <-ctx.Done():
		}
	}
	for _, f := range c.findings {
		if f.Mark == Failed {
			c.spoilt = c.otherwise
		}
	}
}

// The times before a retry. The credential for Graph keeps a failure for 5 seconds.
const (
	retryPause      = time.Second
	tokenRetryPause = 5*time.Second + 100*time.Millisecond
)

// isTransient reports whether a finding of the probe is a transient failure.
func (c *probe) isTransient() bool {
	return slices.ContainsFunc(c.findings, func(f Finding) bool {
		return f.Mark == Failed && f.Error != nil && slices.Contains([]upstream.Reason{
			upstream.Throttled, upstream.Unavailable, upstream.Internal, upstream.Timeout, upstream.BadAnswer,
			upstream.Unreachable,
		}, f.Error.Reason)
	})
}

// retryAfter returns the longest Retry-After of the failures.
func (c *probe) retryAfter() (longest time.Duration) {
	for _, f := range c.findings {
		longest = max(longest, f.retryAfter)
	}
	return longest
}

// try runs the probe. A panic becomes a finding: the process may serve requests.
func (c *probe) try(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			for i := range c.findings {
				c.findings[i].fail(nil, "a bug in this program, of type %T: report it", p)
			}
		}
	}()
	c.run(ctx, c.findings)
}

// runTogether calls do with each number below n, concurrently. A panic of do reaches the caller of runTogether.
func runTogether(n int, do func(i int)) {
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

// Report has the findings of an examination. docs/operations.md documents its members.
type Report struct {
	Version  string    `json:"version"`
	OK       bool      `json:"ok"` // nothing has failed
	Failed   int       `json:"failed"`
	Warnings int       `json:"warnings"`
	NotTried int       `json:"notTried"`
	Findings []Finding `json:"findings"`
}

// Err returns an error if anything has failed.
func (r Report) Err() error {
	if !r.OK {
		return fmt.Errorf("%d of %d checks failed", r.Failed, len(r.Findings))
	}
	return nil
}

// LogValue returns the number of findings for each mark but ok.
func (r Report) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("failed", r.Failed), slog.Int("warnings", r.Warnings), slog.Int("not_tried",
		r.NotTried))
}

// doctorLimit is the time limit for all checks together.
const doctorLimit = 28 * time.Second

// runProbes runs independent probes concurrently, and shows each finding in the order of the probes.
func runProbes(ctx context.Context, probes []*probe, show func(Finding)) Report {
	ctx, cancel := context.WithTimeout(ctx, doctorLimit)
	defer cancel()
	var running sync.WaitGroup
	for _, c := range probes {
		c.done = make(chan struct{})
	}
	for _, c := range probes {
		running.Go(func() { c.do(ctx) })
	}
	r := Report{OK: true}
	for _, c := range probes {
		<-c.done
		for _, f := range c.findings {
			show(f)
			r.Findings = append(r.Findings, f)
			switch f.Mark {
			case Failed:
				r.OK = false
				r.Failed++
			case Warning:
				r.Warnings++
			case NotTried:
				r.NotTried++
			}
		}
	}
	running.Wait()
	return r
}

// Examination describes an examination of a deployment. It changes nothing anywhere.
type Examination struct {
	Getenv    func(string) string
	Host      string
	Transport policy.Transporter // the boundary to the cloud
	Version   string
	Show      func(Finding) // called for each finding, in order; may be nil
}

// Run examines the deployment that the settings describe. It returns before ctx ends.
func (e Examination) Run(ctx context.Context) (Report, error) {
	c, faults := config.Load(e.Getenv, e.Host)
	limit := doctorLimit
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end))
	}
	// The steps take shares of this time (see azsdk.Options). Together they usually fit into the limit.
	c.Timeout = limit * 5 / 7
	watched := &dates{next: e.Transport, seen: map[string]time.Duration{}}
	d := &diagnosis{Config: c, dates: watched, log: slog.New(slog.DiscardHandler)}
	if faults == nil {
		var err error
		if d.Parts, err = app.Connect(c, watched, d.log, e.Version); err != nil {
			return Report{}, err
		}
	}
	show := e.Show
	if show == nil {
		show = func(Finding) {}
	}
	r := runProbes(ctx, d.listProbes(faults, e.Getenv), show)
	r.Version = e.Version
	return r, nil
}

// ForApp returns the Examine of an app that runs with c. It reads the settings again.
func ForApp(c config.Config, transport policy.Transporter, version string) app.Examine {
	return func(ctx context.Context) (slog.LogValuer, error) {
		r, err := Examination{Getenv: c.Getenv, Host: c.Host, Transport: transport, Version: version}.Run(ctx)
		if err != nil {
			return nil, err
		}
		return r, nil
	}
}

// UsageError is an error in the command line.
type UsageError string

func (e UsageError) Error() string { return string(e) }

// ExitCode returns the exit status of the process.
func (UsageError) ExitCode() int { return 2 }

// Command runs the command doctor.
func Command(ctx context.Context, args []string, getenv func(string) string, transport policy.Transporter,
	version string, stdout, stderr io.Writer,
) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	asJSON := flags.Bool("json", false, "print the report as one JSON document")
	if err := flags.Parse(args); err != nil {
		return errors.Join(UsageError("doctor"), err)
	}
	if flags.NArg() > 0 {
		return UsageError("doctor takes no arguments: it reads the settings that serve reads")
	}
	p := &printout{w: stdout, coloured: text.IsTerminal(stdout) && getenv("NO_COLOR") == ""}
	r, err := runCommand(ctx, getenv, transport, version, p, *asJSON)
	if *asJSON {
		if err != nil { // the report has it too: programs read JSON after every failure
			f := Finding{Check: checkSettings, Tried: "prepare the examination"}
			f.fail(nil, "%s", err)
			r = Report{Version: version, Failed: 1, Findings: []Finding{f}}
		}
		encoder := json.NewEncoder(stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(r); err != nil {
			return fmt.Errorf("doctor: %w", err)
		}
	} else if err == nil {
		p.printSummary(r)
	}
	if err != nil {
		return err
	}
	return r.Err()
}

// runCommand examines the deployment that the environment describes.
func runCommand(ctx context.Context, getenv func(string) string, transport policy.Transporter, version string,
	p *printout, asJSON bool,
) (Report, error) {
	host, err := config.DetectHost(getenv)
	if err != nil {
		return Report{}, err
	}
	if host == config.Local && !config.HasDeployment(getenv) {
		return Report{}, UsageError("there is nothing to examine: no setting of a deployment is in the environment.\n" +
			"Set those that it runs with (docs/settings.md), and VAULT_CREDENTIAL=azure-cli to read the vault as the account " +
			"of az.\n" +
			"Without settings the program simulates a cloud, which is always healthy")
	}
	e := Examination{Getenv: getenv, Host: host, Transport: transport, Version: version}
	if !asJSON {
		p.names = knownNames(getenv)
		e.Show = p.printFinding
	}
	return e.Run(ctx)
}

// knownNames returns the names of this deployment in the place of the variables of fixes.
func knownNames(getenv func(string) string) *strings.Replacer {
	pairs := []string{"$AZURE_CLIENT_ID", cmp.Or(text.Trim(getenv("AZURE_CLIENT_ID")), "$AZURE_CLIENT_ID")}
	if id := text.Trim(getenv("GRAPH_CLIENT_ID")); upstream.PlainCode(id) != "" {
		pairs = append(pairs, "$APP_ID", id)
	}
	host := strings.TrimPrefix(text.Trim(getenv("KEY_VAULT_URL")), "https://")
	if name, _, ok := strings.Cut(host, "."); ok && upstream.PlainCode(name) != "" {
		pairs = append(pairs, "$VAULT", name)
	}
	return strings.NewReplacer(pairs...)
}

// printout prints a report for a person.
type printout struct {
	w        io.Writer
	coloured bool
	names    *strings.Replacer
	// A printed command has a variable for a name that the program does not know.
	letters, principal bool
	skipped            map[string]int // checks that were not tried, by the reason
}

// The colours of marks (ECMA-48, select graphic rendition).
const (
	faint  = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// markWidth is the width of the column of marks.
const markWidth = len("not tried")

func (p *printout) printFinding(f Finding) {
	if f.Mark == NotTried { // one line for each reason, at the end
		if p.skipped == nil {
			p.skipped = map[string]int{}
		}
		p.skipped[f.Found]++
		return
	}
	fmt.Fprintf(p.w, "%s  %s: %s\n", p.markText(f.Mark), f.Tried, f.Found)
	for _, step := range f.Fix {
		if p.names != nil {
			step = p.names.Replace(step)
		}
		p.letters = p.letters || strings.Contains(step, "$VAULT") || strings.Contains(step, "$APP") ||
			strings.Contains(step, "$GROUP")
		p.principal = p.principal || strings.Contains(step, "$PRINCIPAL_ID")
		fmt.Fprintf(p.w, "%*s> %s\n", markWidth+4, "", step)
	}
}

// markText returns the text of m, in its colour on a terminal.
func (p *printout) markText(m Mark) string {
	word := fmt.Sprintf("%-*s", markWidth, strings.ReplaceAll(string(m), "_", " "))
	if p.coloured {
		colour := map[Mark]string{OK: green, Warning: yellow, Failed: red, NotTried: faint}[m]
		word = "\x1b[" + colour + "m" + word + "\x1b[0m"
	}
	return word
}

func (p *printout) printSummary(r Report) {
	for _, reason := range slices.Sorted(maps.Keys(p.skipped)) {
		fmt.Fprintf(p.w, "%s  %s, %s\n", p.markText(NotTried), countOf(p.skipped[reason], "check"), reason)
	}
	if p.letters || p.principal {
		fmt.Fprintln(p.w)
	}
	if p.letters {
		fmt.Fprint(p.w, "$GROUP and $APP are the resource group and the name of the function app.\n")
	}
	if p.principal {
		fmt.Fprint(p.w, "$PRINCIPAL_ID is the object id of the managed identity, as az functionapp identity show has it.\n")
	}
	fmt.Fprintf(p.w, "\n%d checks: %d failed, %d with a warning, %d not tried. Nothing was changed.\n", len(r.Findings),
		r.Failed, r.Warnings, r.NotTried)
}
