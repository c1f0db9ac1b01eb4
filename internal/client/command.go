package client

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/internal/text"
	"autopilot-unassign/internal/upstream"
)

// The routes of the function.
const (
	routeUnassign = "/api/unassign"
	routeDoctor   = "/api/doctor"
	routeDevices  = "/api/devices"
)

// Program is the command line that runs the commands of this package.
type Program struct {
	Version        string
	HTTP           upstream.Doer
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// ResetSignals makes the next signal end the process. It is called when the context of a command ends; nil
	// does nothing.
	ResetSignals func()

	interactive bool // a person can answer a question, although Stdin is not a terminal
}

// stoppedError is the end of a command by a signal.
type stoppedError struct{}

func (stoppedError) Error() string { return "stopped by a signal" }

// ExitCode returns the exit status of a process that Ctrl-C ended.
func (stoppedError) ExitCode() int { return 130 }

// connection holds the flags that say how to reach a deployment.
type connection struct {
	*flag.FlagSet
	help                                       string
	address, secretFile, apiKeyFile, tokenFile string
	functionKey, functionKeyFile               string
	json                                       bool
	retries                                    int
	timeout                                    time.Duration
}

func newConnection(command, help string) *connection {
	c := &connection{FlagSet: flag.NewFlagSet(command, flag.ContinueOnError), help: help}
	c.SetOutput(io.Discard)
	c.Usage = func() {}
	c.StringVar(&c.address, "url", "", "`address` of the deployment, such as https://contoso.azurewebsites.net")
	c.StringVar(&c.secretFile, "secret-file", "", "`file` with the signing key (whsec_… or base64); - reads standard input")
	c.StringVar(&c.apiKeyFile, "api-key-file", "", "`file` with the API key, instead of a signing key")
	c.StringVar(&c.tokenFile, "token-file", "", "`file` with an access token of Entra ID, instead of a key")
	c.StringVar(&c.functionKey, "function-key", "", "`key` of a function app whose host requires one; other users of this machine can see it, so prefer a file")
	c.StringVar(&c.functionKeyFile, "function-key-file", "", "`file` with that key")
	c.BoolVar(&c.json, "json", false, "print one JSON document on standard output")
	c.DurationVar(&c.timeout, "timeout", 30*time.Second, "`time` for each attempt of a request")
	c.IntVar(&c.retries, "retries", 3, "most retries of a request, after 408, 429, 500, 502, 503, 504 or no response")
	return c
}

// setLimit returns the setter of a flag that limits a command. An empty value, such as of an unset variable, is an error:
// it would lift the limit.
func setLimit(value *string) func(string) error {
	return func(text string) error {
		if strings.TrimSpace(text) == "" {
			return errors.New("must not be empty")
		}
		*value = text
		return nil
	}
}

func (c *connection) printHelp(w io.Writer) {
	fmt.Fprint(w, c.help, "\nFlags:\n")
	c.SetOutput(w)
	c.PrintDefaults()
	fmt.Fprint(w, `
Settings, used where no flag is given: UNASSIGN_URL, and one of UNASSIGN_SECRET_FILE,
UNASSIGN_API_KEY_FILE, UNASSIGN_TOKEN_FILE (files) or UNASSIGN_SECRET, UNASSIGN_API_KEY,
UNASSIGN_TOKEN (the values); UNASSIGN_FUNCTION_KEY_FILE or UNASSIGN_FUNCTION_KEY.
`)
}

// runParsed parses the arguments of a command and runs it, until ctx ends. It prints the help where that is asked for.
func (p Program) runParsed(ctx context.Context, c *connection, args []string, command func() error) error {
	err := c.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		c.printHelp(p.Stdout)
		return nil
	}
	switch {
	case err != nil:
		err = text.UsageError(err.Error())
	case c.NArg() > 0:
		err = text.UsageError(fmt.Sprintf("%q is not a flag", c.Arg(0)))
	case c.retries < 0 || c.timeout <= 0:
		err = text.UsageError("-retries must not be negative, and -timeout must be positive")
	default:
		// A request that was sent gets its response. The second signal ends the process at once.
		defer context.AfterFunc(ctx, func() {
			if p.ResetSignals != nil {
				p.ResetSignals()
			}
			fmt.Fprintln(p.Stderr, "stopping after the request under way; stop again to end at once")
		})()
		err = command()
	}
	if errors.Is(err, context.Canceled) {
		err = stoppedError{}
	}
	if _, usage := errors.AsType[text.UsageError](err); usage {
		return fmt.Errorf("%s: %w\nsee unassign %s -h", c.Name(), err, c.Name())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Name(), err)
	}
	return nil
}

func (c *connection) newClient(p Program, route string) (*Client, error) {
	endpoint, err := endpointOf(cmp.Or(c.address, strings.TrimSpace(p.Getenv("UNASSIGN_URL"))), route)
	if err != nil {
		return nil, err
	}
	functionKey, err := c.readFunctionKey(p)
	if err != nil {
		return nil, err
	}
	evidence, err := c.readEvidence(p, functionKey != "")
	if err != nil {
		return nil, err
	}
	return &Client{
		URL: endpoint, Evidence: evidence, FunctionKey: functionKey, HTTP: p.HTTP, Agent: "unassign/" + p.Version,
		Retries: c.retries,
		Timeout: c.timeout, Note: func(text string) { fmt.Fprintln(p.Stderr, text) },
	}, nil
}

// chooseSource returns the flag that is set or, without one, the setting: nil for none, and an error for several.
func chooseSource(flags, settings []source) (*source, error) {
	for _, all := range [][]source{flags, settings} {
		var names []string
		var found source
		for _, s := range all {
			if s.file != "" || strings.TrimSpace(s.value) != "" {
				names, found = append(names, s.name), s
			}
		}
		switch len(names) {
		case 0:
		case 1:
			return &found, nil
		default:
			return nil, text.UsageError("use one of " + strings.Join(names, ", "))
		}
	}
	return nil, nil //nolint:nilnil // none
}

// settingsOf returns the sources of a setting: the name of a file, and the value.
func (p Program) settingsOf(name string, decode func(string) (Evidence, error)) []source {
	return []source{
		{name + "_FILE", strings.TrimSpace(p.Getenv(name + "_FILE")), "", decode},
		{name, "", p.Getenv(name), decode},
	}
}

func (c *connection) readFunctionKey(p Program) (string, error) {
	settings := p.settingsOf("UNASSIGN_FUNCTION_KEY", nil)
	if settings[0].file != "" {
		settings = settings[:1] // the file counts
	}
	from, err := chooseSource([]source{
		{"-function-key", "", c.functionKey, nil}, {"-function-key-file", c.functionKeyFile, "", nil},
	}, settings)
	if from == nil {
		return "", err
	}
	return from.readKey(p.Stdin)
}

// readEvidence reads the key or token of the caller, from a flag or else from the environment. With a function key
// there may be none.
func (c *connection) readEvidence(p Program, optional bool) (Evidence, error) {
	from, err := chooseSource([]source{
		{"-secret-file", c.secretFile, "", decodeSignature},
		{"-api-key-file", c.apiKeyFile, "", decodeAPIKey},
		{"-token-file", c.tokenFile, "", decodeToken},
	}, slices.Concat(p.settingsOf("UNASSIGN_SECRET", decodeSignature),
		p.settingsOf("UNASSIGN_API_KEY", decodeAPIKey), p.settingsOf("UNASSIGN_TOKEN", decodeToken)))
	switch {
	case err != nil:
		return nil, err
	case from == nil && optional:
		return func(h http.Header, id string, _ []byte) { h.Set("Idempotency-Key", id) }, nil
	case from == nil:
		return nil, text.UsageError("the key or token is missing: use one of -secret-file, -api-key-file and -token-file")
	}
	key, err := from.readKey(p.Stdin)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from.name, err)
	}
	evidence, err := from.decode(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", from.name, cmp.Or(from.file, from.name), err)
	}
	return evidence, nil
}

// endpointOf returns the address of a route, given the address of the deployment or of one of its routes. A key must
// not travel in the clear, so plain http is for this machine alone.
func endpointOf(address, route string) (string, error) {
	if address == "" {
		return "", text.UsageError("-url is missing")
	}
	u, err := url.Parse(address)
	if err == nil && !strings.Contains(address, "://") {
		return "", text.UsageError(fmt.Sprintf("-url %q lacks https://; use https://%s", shortenText(plainText(address)),
			shortenText(plainText(address))))
	}
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", text.UsageError("-url is not an https:// address")
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return "", text.UsageError("-url must begin with https://, since a key travels with the request; http:// is for this machine alone")
	}
	if path := "/" + strings.Trim(u.Path, "/"); path == "/" || path == "/api" || path == routeUnassign ||
		path == routeDoctor || path == routeDevices {
		u.Path, u.RawPath = route, ""
	}
	return u.String(), nil
}

// jsonHead begins each JSON document of the commands.
type jsonHead struct {
	Version string `json:"version"`
	OK      bool   `json:"ok"`
	Error   struct {
		Message string `json:"message"`
	} `json:"error,omitzero"` // the reason why the command failed
}

func (p Program) newHead(err error) jsonHead {
	h := jsonHead{Version: p.Version, OK: err == nil}
	if err != nil {
		h.Error.Message = err.Error()
	}
	return h
}
