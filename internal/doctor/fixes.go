package doctor

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/upstream"
)

//go:embed fixes.txt
var fixesText string

// remedies returns the entries of fixes.txt. Parsing them would delay every start.
var remedies = sync.OnceValue(func() map[string][]remedy { return parseFixes(fixesText) }) //nolint:gochecknoglobals // a constant

// remedy is a finding of fixes.txt: the meaning of a failure, and the steps of its fix.
type remedy struct {
	when  []string // the conditions, of which one must hold; without any it always holds
	found string
	steps []string
}

func parseFixes(text string) map[string][]remedy {
	table, name := map[string][]remedy{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch rest := line[min(1, len(line)):]; {
		case strings.HasPrefix(line, "## "):
			name = line[3:]
		case strings.HasPrefix(line, "["):
			when, found, _ := strings.Cut(rest, "]")
			table[name] = append(table[name], remedy{when: strings.Fields(when), found: strings.TrimSpace(found)})
		case strings.HasPrefix(line, ">"):
			last := &table[name][len(table[name])-1]
			last.steps = append(last.steps, rest[1:])
		}
	}
	return table
}

// issuer issues the tokens that a check needs. Errors have one service for all issuers, upstream.Identity.
type issuer string

const (
	entraID      issuer = ""             // for a client secret or a certificate
	trustingApp  issuer = "trusting-app" // Entra ID, for an assertion that an app trusts
	awsSTS       issuer = "aws-sts"
	hostIdentity issuer = "managed-identity"
	vaultReader  issuer = "vault-reader" // any other identity that reads the vault
)

// nameService returns the name of the service that e is about, and the settings with its address.
func (i issuer) nameService(e *upstream.Error) (name, where string) {
	switch {
	case e.Service == upstream.Graph:
		return "Graph", "AZURE_CLOUD, and GRAPH_ENDPOINT where that is custom"
	case e.Service == upstream.Vault:
		return "Key Vault", "KEY_VAULT_URL and AZURE_CLOUD"
	case i == awsSTS:
		return "AWS STS", "AWS_REGION"
	case i == hostIdentity:
		return "the managed identity", "VAULT_CREDENTIAL"
	case i == vaultReader:
		return "the identity that reads the vault", "VAULT_CREDENTIAL"
	}
	return "Entra ID", "AZURE_CLOUD, and AZURE_AUTHORITY_HOST where that is custom"
}

// explainer looks up remedies for one finding.
type explainer struct {
	facts []string // the words that hold in conditions
	renew string   // the entry that {renew} stands for
	fill  *strings.Replacer
}

// explainerOf returns the explainer of a finding with the error e, which may be empty.
func (d *diagnosis) explainerOf(f *Finding, e *upstream.Error) explainer {
	x := explainer{renew: f.renew, facts: []string{
		string(f.issuer), "at-" + f.Check, string(e.Service), string(e.Reason), string(e.Barrier), e.Code,
		fmt.Sprint(e.Status),
	}}
	if e.Cause != "" {
		x.facts = append(x.facts, "cause")
	}
	if e.Cause == "" || strings.HasSuffix(e.Cause, "has no value") {
		x.facts = append(x.facts, "empty")
	}
	wait := "a minute"
	if e.RetryAfter > 0 {
		wait = e.RetryAfter.Round(time.Second).String()
	}
	service, where := f.issuer.nameService(e)
	x.fill = strings.NewReplacer("{service}", service, "{where}", where, "{subject}", f.Subject, "{cause}", e.Cause,
		"{wait}", wait, "{reason}", strings.ReplaceAll(string(e.Reason), "_", " "),
		"{audience}", d.Cloud.Exchange, "{graph}", d.Cloud.Graph)
	return x
}

// findRemedy returns the first remedy of the entries with a condition that holds.
func (x explainer) findRemedy(entries ...string) remedy {
	holds := func(condition string) bool {
		return !slices.ContainsFunc(strings.Split(condition, "+"), func(word string) bool {
			return !slices.Contains(x.facts, word)
		})
	}
	for _, entry := range entries {
		for _, r := range remedies()[entry] {
			if len(r.when) == 0 || slices.ContainsFunc(r.when, holds) {
				return r
			}
		}
	}
	return remedy{}
}

// listSteps returns the steps of the first remedy of the entries with a condition that holds.
func (x explainer) listSteps(entries ...string) (steps []string) {
	for _, step := range x.findRemedy(entries...).steps {
		switch entry, isEntry := strings.CutPrefix(step, "{"); {
		case step == "{renew}":
			steps = append(steps, x.listSteps(x.renew)...)
		case isEntry && strings.HasSuffix(entry, "}"):
			steps = append(steps, x.listSteps(strings.TrimSuffix(entry, "}"))...)
		default:
			steps = append(steps, x.fill.Replace(step))
		}
	}
	return steps
}

// fixOf returns the steps of an entry for a finding.
func (d *diagnosis) fixOf(f *Finding, entry string) []string {
	return d.explainerOf(f, &upstream.Error{}).listSteps(entry)
}

// entriesFor returns the entries that explain e: by its code in the status table, or else by its service.
func entriesFor(e *upstream.Error) []string {
	others := map[upstream.Service]string{
		upstream.Graph: "graph_rejected", upstream.Identity: "credential_rejected", upstream.Vault: "vault_forbidden",
	}
	return []string{"transient", string(handler.CodeOf(e)), others[e.Service]}
}

// failWith records err with its explanation.
func (d *diagnosis) failWith(f *Finding, err error) {
	e, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		f.markFailed(nil, "an unexpected error, of type %T", err)
		return
	}
	x := d.explainerOf(f, e)
	found := x.fill.Replace(x.findRemedy(entriesFor(e)...).found)
	if words := quoteError(e); words != "" {
		found += " (" + words + ")"
	}
	f.markFailed(x.listSteps(entriesFor(e)...), "%s", found)
	if f.Error = e; e.Reason.Transient() {
		f.retryAfter = max(retryPause, e.RetryAfter)
	}
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
