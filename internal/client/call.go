package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/upstream"
)

// The most of a file with a key or a token that call reads, in bytes.
const maxKeyFile = 64 << 10

// The routes of the function.
const (
	routeUnassign = "/api/unassign"
	routeDoctor   = "/api/doctor"
)

// UsageError is an error in the command line.
type UsageError string

func (e UsageError) Error() string { return string(e) }

// ExitCode returns the exit status of the process.
func (UsageError) ExitCode() int { return 2 }

// Program is the command line that runs the commands of this package.
type Program struct {
	Version        string
	HTTP           upstream.Doer // nil means upstream.NewClient
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// ResetSignals makes the next signal end the process. Call calls it when its context ends; nil does nothing.
	ResetSignals func()
}

// callFlags are the flags of call.
type callFlags struct {
	*flag.FlagSet
	address, secretFile, apiKeyFile, tokenFile string
	devices                                    []Target
	expect, reference                          string
	dryRun, verify, doctor                     bool
	csv, by, out                               string
	again, skipInvalid                         bool
	retries                                    int
	timeout                                    time.Duration
}

func newCallFlags(stderr io.Writer) *callFlags {
	f := &callFlags{FlagSet: flag.NewFlagSet("call", flag.ContinueOnError)}
	f.SetOutput(stderr)
	f.StringVar(&f.address, "url", "", "`address` of the deployment, such as https://contoso.azurewebsites.net")
	f.StringVar(&f.secretFile, "secret-file", "", "`file` with the signing key (whsec_… or base64); - reads standard input")
	f.StringVar(&f.apiKeyFile, "api-key-file", "", "`file` with the API key, instead of a signing key; - reads standard input")
	f.StringVar(&f.tokenFile, "token-file", "", "`file` with an access token of Entra ID, instead of a key; - reads standard input")
	f.Func("device", "`id` of an Autopilot device; may be repeated", func(id string) error {
		f.devices = append(f.devices, Target{DeviceID: id})
		return nil
	})
	f.Func("serial", "`serial` number of a device, instead of its id; may be repeated", func(serial string) error {
		f.devices = append(f.devices, Target{SerialNumber: serial})
		return nil
	})
	f.StringVar(&f.expect, "expect", "", "`account` that the device must still carry: a user principal name, or a resource name without @")
	f.BoolVar(&f.dryRun, "dry-run", false, "say what would happen, and change nothing")
	f.BoolVar(&f.verify, "verify", false, "read the device again after acting on it")
	f.BoolVar(&f.doctor, "doctor", false, "ask the deployment to examine itself, instead of asking for a device")
	f.StringVar(&f.reference, "reference", "", "`ticket` that the audit record shall name")
	f.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to wait for an answer, each time it is asked")
	f.IntVar(&f.retries, "retries", 3, "how `often` to ask again after 408, 429, 500, 502, 503, 504 or no answer")
	f.StringVar(&f.csv, "csv", "", "`file` with many devices, one a row; its header names the columns deviceId or serialNumber and, if you like, expected and reference")
	f.StringVar(&f.by, "by", "", "`column` that counts in the file where it has both: id or serial")
	f.StringVar(&f.out, "out", "", "`file` for the results, and to go on from; without it devices.results.csv for devices.csv, devices.dry-run.csv for a dry run")
	f.BoolVar(&f.again, "again", false, "send the rows again that the results show as refused")
	f.BoolVar(&f.skipInvalid, "skip-invalid", false, "send the valid rows of the file although others are not")
	f.Usage = func() {
		fmt.Fprint(stderr, "usage: unassign call -url ADDRESS (-secret-file | -api-key-file | -token-file) FILE (-device ID | -serial SERIAL | -csv FILE | -doctor) [flags]\n\n")
		f.PrintDefaults()
	}
	return f
}

// check returns a UsageError if the flags do not fit together.
func (f *callFlags) check() error {
	evidence := 0
	for _, file := range []string{f.secretFile, f.apiKeyFile, f.tokenFile} {
		if file != "" {
			evidence++
		}
	}
	switch {
	case f.NArg() > 0:
		return UsageError(fmt.Sprintf("call: %q is not a flag", f.Arg(0)))
	case evidence != 1:
		return UsageError("call: name one of -secret-file, -api-key-file and -token-file")
	case f.dryRun && f.verify:
		return UsageError("call: after -dry-run there is nothing to -verify")
	case f.retries < 0 || f.timeout <= 0:
		return UsageError("call: -retries must not be negative, and -timeout must be positive")
	case f.doctor && (f.csv != "" || len(f.devices) > 0 || f.expect != "" || f.dryRun || f.verify || f.reference != "" || f.by != "" || f.out != "" || f.again || f.skipInvalid):
		return UsageError("call: -doctor changes nothing, and takes no device and nothing that is said of one")
	case f.doctor:
		return nil
	case f.csv != "" && (len(f.devices) > 0 || f.expect != ""):
		return UsageError("call: with -csv the file names the devices and what is expected of them")
	case f.by != "" && f.by != "id" && f.by != "serial":
		return UsageError("call: -by is id or serial")
	case f.csv != "":
		return nil
	case f.by != "" || f.out != "" || f.again || f.skipInvalid:
		return UsageError("call: -by, -out, -again and -skip-invalid are for -csv")
	case len(f.devices) == 0:
		return UsageError("call: -device, -serial, -csv or -doctor is missing")
	case f.expect != "" && len(f.devices) > 1:
		return UsageError("call: -expect is for one device")
	}
	return nil
}

// evidence reads what shows who is asking.
func (f *callFlags) evidence(stdin io.Reader) (Evidence, error) {
	switch {
	case f.secretFile != "":
		key, err := readKey(f.secretFile, stdin, caller.DecodeSignatureKey)
		if err != nil {
			return nil, fmt.Errorf("call: -secret-file: %w", err)
		}
		return Signature(key), nil
	case f.apiKeyFile != "":
		key, err := readKey(f.apiKeyFile, stdin, caller.DecodeAPIKey)
		if err != nil {
			return nil, fmt.Errorf("call: -api-key-file: %w", err)
		}
		return APIKey(string(key)), nil
	}
	token, err := readKey(f.tokenFile, stdin, DecodeToken)
	if err != nil {
		return nil, fmt.Errorf("call: -token-file: %w", err)
	}
	return Token(token), nil
}

// Call sends one request, or a list of devices, to a deployment and prints the responses. It returns an error unless every
// device succeeded.
func (p Program) Call(ctx context.Context, args []string) error {
	flags := newCallFlags(p.Stderr)
	if err := flags.Parse(args); err != nil {
		return errors.Join(UsageError("call"), err)
	}
	route := routeUnassign
	if flags.doctor {
		route = routeDoctor
	}
	endpoint, err := callURL(flags.address, route)
	if err != nil {
		return err
	}
	if err := flags.check(); err != nil {
		return err
	}
	evidence, err := flags.evidence(p.Stdin)
	if err != nil {
		return err
	}
	c := &Client{
		URL: endpoint, Evidence: evidence, HTTP: p.http(), Agent: "unassign/" + p.Version, Retries: flags.retries, Timeout: flags.timeout,
		Note: func(text string) { fmt.Fprintln(p.Stderr, text) },
	}
	// A request that was sent gets its response. The second signal ends the process at once.
	defer context.AfterFunc(ctx, func() {
		if p.ResetSignals != nil {
			p.ResetSignals()
		}
		fmt.Fprintln(p.Stderr, "stopping as soon as a request under way is answered; stop again to end at once")
	})()
	if flags.doctor {
		return callDoctor(ctx, c, p.Stdout, p.Stderr)
	}
	if flags.csv != "" {
		return callCSV(ctx, flags, c, p.Stderr, isTerminal(p.Stderr))
	}
	return callOnce(ctx, flags, c, p.Stdout, p.Stderr)
}

// http returns the HTTP client of the commands.
func (p Program) http() upstream.Doer {
	if p.HTTP == nil {
		return upstream.NewClient()
	}
	return p.HTTP
}

// callOnce sends the one request that the flags describe, and prints the answer.
func callOnce(ctx context.Context, flags *callFlags, c *Client, stdout, stderr io.Writer) error {
	order := Order{DryRun: flags.dryRun, Verify: flags.verify, Reference: flags.reference}
	flags.devices[0].Expected = Expect(flags.expect)
	if len(flags.devices) == 1 {
		order.Target = flags.devices[0]
	} else {
		order.Devices = flags.devices
	}
	answer, err := c.Send(ctx, order)
	return printAnswer(answer, err, stdout, stderr)
}

// callDoctor asks for the report on a deployment, and prints it. Its error is nil if all is well there.
func callDoctor(ctx context.Context, c *Client, stdout, stderr io.Writer) error {
	answer, err := c.Report(ctx)
	if err := printAnswer(answer, err, stdout, stderr); err != nil {
		return err
	}
	var report struct {
		OK       bool              `json:"ok"`
		Failed   int               `json:"failed"`
		Findings []json.RawMessage `json:"findings"`
	}
	if err := json.Unmarshal(answer.Body, &report); err != nil {
		return errors.New("call: the response is no report")
	}
	if !report.OK {
		return fmt.Errorf("%d of %d checks failed", report.Failed, len(report.Findings))
	}
	return nil
}

// printAnswer prints a response. It returns an error unless the response is a success.
func printAnswer(answer Answer, err error, stdout, stderr io.Writer) error {
	if answer.Status != 0 {
		fmt.Fprintln(stderr, answer.StatusText)
		printJSON(stdout, answer.Body)
	}
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	if !answer.Succeeded() {
		return fmt.Errorf("call: the answer is %s", answer.StatusText)
	}
	return nil
}

// callURL returns the address of a route, given that of the deployment or of one of its routes. A key must not
// travel in the clear, so that plain http is for this machine alone.
func callURL(target, route string) (string, error) {
	u, err := url.Parse(target)
	switch {
	case target == "":
		return "", UsageError("call: -url is missing")
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", UsageError("call: -url is not an address of the web")
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return "", UsageError("call: -url must be https, since a key travels with the request")
	}
	if path := "/" + strings.Trim(u.Path, "/"); path == "/" || path == routeUnassign || path == routeDoctor {
		u.Path = route
	}
	return u.String(), nil
}

// readKey reads and decodes the key in a file.
func readKey[Key any](name string, stdin io.Reader, decode func(string) (Key, error)) (key Key, err error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return key, err
		}
		defer func() { _ = f.Close() }()
		stdin = f
	}
	text, err := io.ReadAll(upstream.Cap(io.NopCloser(stdin), maxKeyFile))
	if err != nil {
		return key, err
	}
	return decode(string(text))
}

// printJSON prints an answer with one member a line, or as it is if it is no JSON. What a terminal would not only print is
// left out: the answer may be of anybody.
func printJSON(w io.Writer, answer []byte) {
	var pretty bytes.Buffer
	if json.Indent(&pretty, answer, "", "  ") == nil {
		answer = pretty.Bytes()
	}
	answer = bytes.Map(func(c rune) rune {
		if !unicode.IsPrint(c) && c != '\t' && c != '\n' {
			return -1
		}
		return c
	}, answer)
	if answer = bytes.TrimSpace(answer); len(answer) > 0 {
		fmt.Fprintf(w, "%s\n", answer)
	}
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
