package main

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
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/client"
	"autopilot-unassign/internal/upstream"
)

// The most of a file with a key or a token that call reads, in bytes.
const maxKeyFile = 64 << 10

// callFlags are the flags of call.
type callFlags struct {
	*flag.FlagSet
	address, secretFile, apiKeyFile, tokenFile string
	devices                                    []client.Target
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
		f.devices = append(f.devices, client.Target{DeviceID: id})
		return nil
	})
	f.Func("serial", "`serial` number of a device, instead of its id; may be repeated", func(serial string) error {
		f.devices = append(f.devices, client.Target{SerialNumber: serial})
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

// check returns a usageError if the flags do not fit together.
func (f *callFlags) check() error {
	evidence := 0
	for _, file := range []string{f.secretFile, f.apiKeyFile, f.tokenFile} {
		if file != "" {
			evidence++
		}
	}
	switch {
	case f.NArg() > 0:
		return usageError(fmt.Sprintf("call: %q is not a flag", f.Arg(0)))
	case evidence != 1:
		return usageError("call: name one of -secret-file, -api-key-file and -token-file")
	case f.dryRun && f.verify:
		return usageError("call: after -dry-run there is nothing to -verify")
	case f.retries < 0 || f.timeout <= 0:
		return usageError("call: -retries must not be negative, and -timeout must be positive")
	case f.doctor && (f.csv != "" || len(f.devices) > 0 || f.expect != "" || f.dryRun || f.verify || f.reference != "" || f.by != "" || f.out != "" || f.again || f.skipInvalid):
		return usageError("call: -doctor changes nothing, and takes no device and nothing that is said of one")
	case f.doctor:
		return nil
	case f.csv != "" && (len(f.devices) > 0 || f.expect != ""):
		return usageError("call: with -csv the file names the devices and what is expected of them")
	case f.by != "" && f.by != "id" && f.by != "serial":
		return usageError("call: -by is id or serial")
	case f.csv != "":
		return nil
	case f.by != "" || f.out != "" || f.again || f.skipInvalid:
		return usageError("call: -by, -out, -again and -skip-invalid are for -csv")
	case len(f.devices) == 0:
		return usageError("call: -device, -serial, -csv or -doctor is missing")
	case f.expect != "" && len(f.devices) > 1:
		return usageError("call: -expect is for one device")
	}
	return nil
}

// evidence reads what shows who is asking.
func (f *callFlags) evidence(stdin io.Reader) (client.Evidence, error) {
	switch {
	case f.secretFile != "":
		key, err := readKey(f.secretFile, stdin, caller.DecodeSignatureKey)
		if err != nil {
			return nil, fmt.Errorf("call: -secret-file: %w", err)
		}
		return client.Signature(key), nil
	case f.apiKeyFile != "":
		key, err := readKey(f.apiKeyFile, stdin, caller.DecodeAPIKey)
		if err != nil {
			return nil, fmt.Errorf("call: -api-key-file: %w", err)
		}
		return client.APIKey(string(key)), nil
	}
	token, err := readKey(f.tokenFile, stdin, client.DecodeToken)
	if err != nil {
		return nil, fmt.Errorf("call: -token-file: %w", err)
	}
	return client.Token(token), nil
}

// call sends requests to a deployment, as a caller would, and tells what was answered. Its error is nil if all was done.
func call(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	flags := newCallFlags(stderr)
	if err := flags.Parse(args); err != nil {
		return errors.Join(usageError("call"), err)
	}
	route := handler.RouteUnassign
	if flags.doctor {
		route = handler.RouteDoctor
	}
	endpoint, err := callURL(flags.address, route)
	if err != nil {
		return err
	}
	if err := flags.check(); err != nil {
		return err
	}
	evidence, err := flags.evidence(stdin)
	if err != nil {
		return err
	}
	c := &client.Client{
		URL: endpoint, Evidence: evidence, HTTP: upstream.NewClient(), Agent: "unassign/" + version, Retries: flags.retries, Timeout: flags.timeout,
		Note: func(text string) { fmt.Fprintln(stderr, text) },
	}
	// What was sent gets its answer. Who does not want to wait for it stops a second time, and this time the process ends.
	defer context.AfterFunc(ctx, func() {
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		fmt.Fprintln(stderr, "stopping as soon as a request under way is answered; stop again to end at once")
	})()
	if flags.doctor {
		return callDoctor(ctx, c, stdout, stderr)
	}
	if flags.csv != "" {
		return callCSV(ctx, flags, c, stderr, isTerminal(stderr))
	}
	return callOnce(ctx, flags, c, stdout, stderr)
}

// callOnce sends the one request that the flags describe, and prints the answer.
func callOnce(ctx context.Context, flags *callFlags, c *client.Client, stdout, stderr io.Writer) error {
	order := client.Order{DryRun: flags.dryRun, Verify: flags.verify, Reference: flags.reference}
	flags.devices[0].Expected = client.Expect(flags.expect)
	if len(flags.devices) == 1 {
		order.Target = flags.devices[0]
	} else {
		order.Devices = flags.devices
	}
	answer, err := c.Send(ctx, order)
	return told(answer, err, stdout, stderr)
}

// callDoctor asks for the report on a deployment, and prints it. Its error is nil if all is well there.
func callDoctor(ctx context.Context, c *client.Client, stdout, stderr io.Writer) error {
	answer, err := c.Report(ctx)
	if err := told(answer, err, stdout, stderr); err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(answer.Body, &r); err != nil {
		return errors.New("call: the answer is no report")
	}
	return r.err()
}

// told prints an answer, and returns why it is none or no success.
func told(answer client.Answer, err error, stdout, stderr io.Writer) error {
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
		return "", usageError("call: -url is missing")
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", usageError("call: -url is not an address of the web")
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return "", usageError("call: -url must be https, since a key travels with the request")
	}
	if path := "/" + strings.Trim(u.Path, "/"); path == "/" || path == handler.RouteUnassign || path == handler.RouteDoctor {
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
