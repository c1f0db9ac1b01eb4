package handler

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"autopilot-unassign/graph"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// loadContract returns openapi.yaml, which must be valid.
func loadContract(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return doc
}

func statusRows() map[Code]statusRow {
	rows, _ := statusTable()
	return rows
}

// statuses returns the codes of the status table by status, including a list's.
func statuses() map[int][]string {
	codes := map[int][]string{409: {string(devicesFailed)}, 424: {string(devicesFailed)}, 503: {string(devicesFailed)}}
	for code, row := range statusRows() {
		codes[row.status] = append(codes[row.status], string(code))
	}
	for _, list := range codes {
		slices.Sort(list)
	}
	return codes
}

// operatorStatuses returns the codes of a request for the doctor's report or the device list: every operator's request
// and the read of callers' keys have these, and more is added.
func operatorStatuses(more ...error) map[int][]string {
	codes := map[Code]bool{}
	for _, err := range append(more,
		caller.ErrDenied, caller.ErrExpired, caller.ErrForbidden, &rateLimitError{}, errors.New("a panic"),
		&refusal{code: methodNotAllowed}, &refusal{code: operatorDenied},
	) {
		codes[CodeOf(err)] = true
	}
	for service, reasons := range map[upstream.Service][]upstream.Reason{
		upstream.Vault: {upstream.SecretDisabled, upstream.SecretInvalid, upstream.VersionUnsupported},
		upstream.Identity: {
			upstream.CredentialRejected, upstream.CredentialExpired, upstream.AppNotFound, upstream.TenantNotFound, upstream.ScopeInvalid,
		},
	} {
		for _, reason := range append(reasons, upstream.Throttled, upstream.Unavailable, upstream.Internal, upstream.Timeout, upstream.Unreachable,
			upstream.Untrusted, upstream.BadAnswer, upstream.Forbidden, upstream.NotFound, upstream.Rejected) {
			codes[CodeOf(&upstream.Error{Service: service, Reason: reason})] = true
		}
	}
	list := map[int][]string{200: nil}
	for code := range codes {
		status := statusOf(code).status
		list[status] = append(list[status], string(code))
		slices.Sort(list[status])
	}
	return list
}

func TestContractHasEveryCode(t *testing.T) {
	doc := loadContract(t)
	if paths := slices.Sorted(maps.Keys(doc.Paths.Map())); !slices.Equal(paths, []string{RouteDevices, RouteDoctor, RouteHealth, RouteUnassign}) {
		t.Errorf("openapi.yaml has the routes %v", paths)
	}
	want := statuses()
	want[404] = slices.DeleteFunc(want[404], func(code string) bool { return code == string(routeNotFound) })  // of no route
	want[403] = slices.DeleteFunc(want[403], func(code string) bool { return code == string(operatorDenied) }) // of another
	want[400] = slices.DeleteFunc(want[400], func(code string) bool { return code == string(queryInvalid) })
	want[200], want[204], want[207] = nil, nil, nil
	list := []error{&refusal{code: queryInvalid}}
	for _, reason := range []upstream.Reason{
		upstream.Rejected, upstream.Forbidden, upstream.TenantNotEnabled, upstream.ApprovalRequired, upstream.Throttled, upstream.Internal,
		upstream.BadAnswer, upstream.Unavailable, upstream.Timeout,
	} {
		list = append(list, &upstream.Error{Service: upstream.Graph, Reason: reason})
	}
	for route, test := range map[string]struct {
		operation *openapi3.Operation
		want      map[int][]string
	}{
		RouteUnassign: {doc.Paths.Value(RouteUnassign).Post, want},
		RouteDoctor:   {doc.Paths.Value(RouteDoctor).Get, operatorStatuses(&refusal{code: inProgress})},
		RouteDevices:  {doc.Paths.Value(RouteDevices).Get, operatorStatuses(list...)},
	} {
		described := map[int][]string{}
		for status, response := range test.operation.Responses.Map() {
			n, err := strconv.Atoi(status)
			if err != nil {
				t.Fatal(err)
			}
			described[n] = nil
			list, _ := response.Value.Extensions["x-codes"].([]any)
			for _, code := range list {
				described[n] = append(described[n], fmt.Sprint(code))
			}
			slices.Sort(described[n])
		}
		for status := range maps.Keys(test.want) {
			if _, ok := described[status]; !ok {
				t.Errorf("%s: openapi.yaml has no response %d", route, status)
			}
		}
		for status, codes := range described {
			if !slices.Equal(codes, test.want[status]) {
				t.Errorf("%s, status %d: openapi.yaml has %v, the table %v", route, status, codes, test.want[status])
			}
		}
	}
	var enumerated []string
	for _, code := range doc.Components.Schemas["FailureError"].Value.Properties["code"].Value.Enum {
		enumerated = append(enumerated, fmt.Sprint(code))
	}
	slices.Sort(enumerated)
	all := []string{string(devicesFailed)}
	for code := range statusRows() {
		all = append(all, string(code))
	}
	slices.Sort(all)
	if !slices.Equal(enumerated, all) {
		t.Errorf("FailureError.code lists %v, the table has %v", enumerated, all)
	}
}

// ServiceNow's importer ignores these keywords, or refuses the file.
func TestContractIsFlat(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"oneOf:", "anyOf:", "allOf:", "not:", "nullable:", "discriminator:"} {
		if strings.Contains(string(text), word) {
			t.Errorf("openapi.yaml has %s", word)
		}
	}
}

func TestDocsHaveEveryCode(t *testing.T) {
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	entry := regexp.MustCompile(`(?m)^## (\w+)\n\n\*\*(\d{3}), (retry|do not retry)\.\*\* \S`)
	documented := map[Code]string{}
	requests, _, _ := strings.Cut(string(text), "\n# Events\n") // which has a test of its own
	for _, m := range entry.FindAllStringSubmatch(requests, -1) {
		documented[Code(m[1])] = m[2] + ", " + m[3]
	}
	for code, row := range statusRows() {
		want := fmt.Sprintf("%d, do not retry", row.status)
		if retryable(row.status) {
			want = fmt.Sprintf("%d, retry", row.status)
		}
		if documented[code] != want {
			t.Errorf("docs/errors.md has %q for %s, want %q", documented[code], code, want)
		}
	}
	if headings := strings.Count(requests, "\n## "); headings != len(statusRows())+1 || !strings.Contains(requests, "\n## devices_failed\n") {
		t.Errorf("docs/errors.md has %d entries, the table %d and devices_failed", headings, len(statusRows()))
	}
}

// entryOf returns the text below a heading of docs/errors.md.
func entryOf(t *testing.T, code Code) string {
	t.Helper()
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, entry, _ := strings.Cut(string(text), "\n## "+string(code)+"\n")
	entry, _, _ = strings.Cut(entry, "\n#")
	return strings.Join(strings.Fields(entry), " ") // in one line
}

// The page says of each code whether its outcome can be unknown, and how long to wait where no service says.
func TestDocsHaveOutcomesAndWaits(t *testing.T) {
	doubtful := []Code{internalError, inProgress}
	for _, reason := range []upstream.Reason{upstream.Internal, upstream.Timeout, upstream.BadAnswer} { // as graph decides
		err := &upstream.Error{Service: upstream.Graph, Reason: reason, MaybeDone: true}
		doubtful = append(doubtful, classify(err).code)
	}
	for code := range statusRows() {
		if tells := strings.Contains(entryOf(t, code), "`outcome` is `unknown`"); tells != slices.Contains(doubtful, code) {
			t.Errorf("docs/errors.md, %s: an unknown outcome: %t", code, tells)
		}
	}
	if wait := fmt.Sprintf("%.0f seconds", statusOf("graph_unavailable").retryAfter.Seconds()); !strings.Contains(entryOf(t, "graph_unavailable"), wait) {
		t.Errorf("docs/errors.md, graph_unavailable: the wait is %s", wait)
	}
}

// The pages have the limits of the code.
func TestDocsHaveTheLimits(t *testing.T) {
	words := strings.Fields("zero one two three four five six seven eight nine ten")
	for code, limits := range map[Code][]string{
		bodyTimeout:         {"three seconds"}, // of package server
		bodyTooLarge:        {fmt.Sprintf("%d KiB", maxBody>>10)},
		devicesInvalid:      {fmt.Sprintf("1 to %d", maxDevices)},
		referenceInvalid:    {fmt.Sprintf("%d", maxReference)},
		contextInvalid:      {fmt.Sprintf("%d strings", maxContextEntries), fmt.Sprintf("1 to %d", maxContextName), fmt.Sprintf("%d characters", maxContextValue)},
		deliveryIDReused:    {words[int(ledgerTTL.Minutes())] + " minutes"},
		eventLate:           {words[int(maxLateness.Hours())] + " hours"},
		serialNumberInvalid: {fmt.Sprintf("%d printable", graph.MaxSerialNumber)},
	} {
		for _, limit := range limits {
			if !strings.Contains(entryOf(t, code), limit) {
				t.Errorf("docs/errors.md, %s: there is no %q", code, limit)
			}
		}
	}
	text, err := os.ReadFile("../docs/schedules.md")
	if reserve := fmt.Sprintf("%.0f seconds before the end", sweepReserve.Seconds()); err != nil || !strings.Contains(string(text), reserve) {
		t.Errorf("docs/schedules.md has no %q, %v", reserve, err)
	}
}

// Examples have the messages that the function sends.
func TestExamplesHaveTheMessages(t *testing.T) {
	found := 0
	for _, page := range []string{"../README.md", "../docs/api.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"code":"(\w+)","message":"([^"…]+?)(?: …)?"`).FindAllStringSubmatch(string(text), -1) {
			found++
			want := statusOf(Code(m[1])).message
			if want == "" {
				want = successMessage(Code(m[1]), "")
			}
			if !strings.HasPrefix(want, m[2]) {
				t.Errorf("%s: %s has the message %q, and the function sends %q", page, m[1], m[2], want)
			}
		}
	}
	if found != 3 {
		t.Errorf("the pages have %d examples", found)
	}
}

// The table of docs/api.md has the columns event, status and codes.
func TestPageHasTheTable(t *testing.T) {
	text, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^\| [^|]+ \| (\d{3})[^|]* \| ([^|]+) \|$`)
	code := regexp.MustCompile("`(\\w+)`")
	shown := map[int][]string{}
	for _, m := range line.FindAllStringSubmatch(string(text), -1) {
		status, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range code.FindAllStringSubmatch(m[2], -1) {
			shown[status] = append(shown[status], c[1])
		}
		slices.Sort(shown[status])
	}
	want := statuses()
	want[204], want[207] = []string{string(Unassigned)}, nil
	want[200] = []string{string(AlreadyUnassigned), string(Unassigned), string(WouldUnassign)}
	for status := range want {
		if !slices.Equal(shown[status], want[status]) {
			t.Errorf("status %d: docs/api.md has %v, the table %v", status, shown[status], want[status])
		}
	}
	for status := range shown {
		if _, ok := want[status]; !ok {
			t.Errorf("docs/api.md has status %d, the table does not", status)
		}
	}
}

// Every code and failure in the source has a row, and no two rows have the same code.
func TestStatusTable(t *testing.T) {
	rows, codes := statusTable()
	lines := 0
	for line := range strings.Lines(statusText) {
		if strings.Contains(line, " | ") && !strings.HasPrefix(line, "#") {
			lines++
		}
	}
	if lines != len(rows) {
		t.Errorf("status.txt has %d lines, the table %d rows", lines, len(rows))
	}
	for code, row := range rows {
		switch {
		case row.status < 400 || row.title == "" || row.message == "" || len(row.message) > 300:
			t.Errorf("%s: status %d, title %q, message of %d bytes", code, row.status, row.title, len(row.message))
		case (row.retryAfter > 0) != (row.status == 429 || row.status == 503):
			t.Errorf("%s: status %d with Retry-After %v", code, row.status, row.retryAfter)
		case !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(string(code)):
			t.Errorf("%s is no word in snake case", code)
		}
	}
	constants := readConstants(t, "status.go", "Code")
	for _, code := range constants[slices.Index(constants, string(invalidJSON)):] {
		if rows[Code(code)].status == 0 {
			t.Errorf("status.txt has no row for %s", code)
		}
	}
	services := append(readConstants(t, "../internal/upstream/upstream.go", "Service"), "any")
	reasons := readConstants(t, "../internal/upstream/upstream.go", "Reason")
	for failure := range codes {
		service, reason, _ := strings.Cut(failure, ":")
		if !slices.Contains(services, service) || !slices.Contains(reasons, reason) {
			t.Errorf("status.txt has a row for %s, which no package reports", failure)
		}
	}
	for _, reason := range reasons {
		if !slices.ContainsFunc(services, func(service string) bool { return codes[service+":"+reason] != "" }) {
			t.Errorf("status.txt has no row for the reason %s", reason)
		}
	}
}

// readConstants returns the constants of a type in a source file, in order.
func readConstants(t *testing.T, file, kind string) (values []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t\w+ +`+kind+` += "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
		values = append(values, m[1])
	}
	return values
}
