package doctor

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// Command runs the command doctor.
func Command(ctx context.Context, args []string, getenv func(string) string, transport policy.Transporter,
	version string, stdout, stderr io.Writer,
) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	asJSON := flags.Bool("json", false, "print the report as one JSON document")
	if err := flags.Parse(args); err != nil {
		return errors.Join(text.UsageError("doctor"), err)
	}
	if flags.NArg() > 0 {
		return text.UsageError("doctor takes no arguments: it reads the settings that serve reads")
	}
	p := &printout{w: stdout, coloured: text.IsTerminal(stdout) && getenv("NO_COLOR") == ""}
	r, err := runCommand(ctx, getenv, transport, version, p, *asJSON)
	if *asJSON {
		if err != nil { // the report has it too: programs read JSON after every failure
			f := Finding{Check: "settings", Tried: "prepare the examination"}
			f.markFailed(nil, "%s", err)
			r = Report{Version: version, Failed: 1, Findings: []Finding{f}}
		}
		if err := text.WriteJSON(stdout, r); err != nil {
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
		return Report{}, text.UsageError("there is nothing to examine: no setting of a deployment is in the environment.\n" +
			"Set the settings that it runs with (docs/settings.md), and VAULT_CREDENTIAL=azure-cli to read the vault as the account " +
			"of az. With GRAPH_CREDENTIAL=identity run the doctor on the host instead (docs/operations.md#doctor).\n" +
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

type printout struct {
	w        io.Writer
	coloured bool
	names    *strings.Replacer
	// A printed command has a variable for a name that the program does not know.
	letters, principal bool
	skipped            map[string]int // checks that were not tried, by the reason
}

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
	colour := map[Mark]string{OK: text.Green, Warning: text.Yellow, Failed: text.Red, NotTried: text.Faint}[m]
	return text.Paint(p.coloured, colour, fmt.Sprintf("%-*s", markWidth, strings.ReplaceAll(string(m), "_", " ")))
}

func (p *printout) printSummary(r Report) {
	for _, reason := range slices.Sorted(maps.Keys(p.skipped)) {
		fmt.Fprintf(p.w, "%s  %s, %s\n", p.markText(NotTried), text.Count(p.skipped[reason], "check", "checks"), reason)
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
