// Package doctor examines a deployment: settings, vault, tokens, permission, clock, policy. It changes nothing, and
// names the fix for each fault.
package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/app"
	"autopilot-unassign/internal/config"
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
	Check   string          `json:"check"`             // the name in docs/operations.md
	Subject string          `json:"subject,omitempty"` // the secret or tenant, if there are several
	Mark    Mark            `json:"mark"`
	Tried   string          `json:"tried"`
	Found   string          `json:"found"`
	Fix     []string        `json:"fix,omitempty"` // sentences and commands, in order
	Error   *upstream.Error `json:"error,omitempty"`

	issuer     issuer        // of the token that the check needs
	renew      string        // the entry of fixes.txt that creates a missing secret or trust
	retryAfter time.Duration // 0 after a success or a permanent failure
}

func (f *Finding) markOK(format string, args ...any) {
	f.Mark, f.Found = OK, fmt.Sprintf(format, args...)
}

func (f *Finding) markWarning(fix []string, format string, args ...any) {
	f.Mark, f.Fix, f.Found = Warning, fix, fmt.Sprintf(format, args...)
}

func (f *Finding) markFailed(fix []string, format string, args ...any) {
	f.Mark, f.Fix, f.Found = Failed, fix, fmt.Sprintf(format, args...)
}

func (f *Finding) markSkipped(because string) {
	f.Mark, f.Found = NotTried, "because "+because
}

// step is one step of the examination, with its findings.
type step struct {
	blocked   string // the reason not to try it; "" tries it
	otherwise string // the reason not to try the steps that need this one, after a failure
	findings  []Finding
	run       func(ctx context.Context, f []Finding)
}

// The times before a retry. The credential for Graph keeps a failure for 5 seconds.
const (
	retryPause      = time.Second
	tokenRetryPause = 5*time.Second + 100*time.Millisecond
)

// tryStep runs the step unless it is blocked. A transient failure is retried once, if that fits into half of the remaining
// time.
func (s *step) tryStep(ctx context.Context) {
	if len(s.findings) == 0 {
		return
	}
	if s.blocked != "" {
		for i := range s.findings {
			s.findings[i].markSkipped(s.blocked)
		}
		return
	}
	before, start := slices.Clone(s.findings), time.Now()
	s.runOnce(ctx)
	var pause time.Duration
	for _, f := range s.findings {
		pause = max(pause, f.retryAfter)
	}
	end, ok := ctx.Deadline()
	fits := ok && pause > 0 && 2*(time.Since(start)+pause) < time.Until(end)
	if fits && upstream.Sleep(ctx, pause) {
		s.findings = before
		s.runOnce(ctx)
	}
}

// runOnce runs the step. A panic becomes a finding: the process may serve requests.
func (s *step) runOnce(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			for i := range s.findings {
				s.findings[i].markFailed(nil, "a bug in this program, of type %T: report it", p)
			}
		}
	}()
	s.run(ctx, s.findings)
}

// blockReason returns the reason not to try the steps that need this one, "" for none.
func (s *step) blockReason() string {
	if s.blocked == "" && slices.ContainsFunc(s.findings, func(f Finding) bool { return f.Mark == Failed }) {
		return s.otherwise
	}
	return s.blocked
}

// tryTogether runs independent steps.
func tryTogether(ctx context.Context, steps ...*step) {
	var all sync.WaitGroup
	for _, s := range steps {
		all.Go(func() { s.tryStep(ctx) })
	}
	all.Wait()
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

func (r *Report) addFinding(f Finding) {
	r.Findings = append(r.Findings, f)
	switch f.Mark {
	case Failed:
		r.Failed++
	case Warning:
		r.Warnings++
	case NotTried:
		r.NotTried++
	}
	r.OK = r.Failed == 0
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
	ctx, cancel := context.WithTimeout(ctx, doctorLimit)
	defer cancel()
	end, _ := ctx.Deadline()
	// The steps take shares of this time (see azsdk.Options). Together they usually fit into the limit.
	c.Timeout = time.Until(end) * 5 / 7
	d := &diagnosis{
		Config: c, dates: &dates{next: e.Transport},
		log: slog.New(slog.DiscardHandler), show: e.Show, report: Report{Version: e.Version},
	}
	if faults == nil {
		var err error
		if d.Parts, err = app.Connect(c, d.dates, d.log, e.Version); err != nil {
			return Report{}, err
		}
	}
	d.runChecks(ctx, faults)
	return d.report, nil
}

// ForApp returns the Examine of an app that runs with c. It reads the settings again.
func ForApp(c config.Config, transport policy.Transporter, version string) app.Examine {
	return func(ctx context.Context) (slog.LogValuer, error) {
		return Examination{Getenv: c.Getenv, Host: c.Host, Transport: transport, Version: version}.Run(ctx)
	}
}
