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
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"autopilot-unassign/handler"
	"autopilot-unassign/handler/caller"
	"autopilot-unassign/internal/guid"
	"autopilot-unassign/internal/upstream"
)

// maxAnswer is as much of an answer as call reads, in bytes.
const maxAnswer = 64 << 10

// call sends one request to a deployment, as a caller would, and prints the answer. Its error is nil for a 2xx alone.
func call(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	flags.SetOutput(stderr)
	address := flags.String("url", "", "`address` of the deployment, such as https://contoso.azurewebsites.net")
	secretFile := flags.String("secret-file", "", "`file` with the signing key (whsec_… or base64); - reads standard input")
	apiKeyFile := flags.String("api-key-file", "", "`file` with the API key, instead of a signing key; - reads standard input")
	var devices []target
	flags.Func("device", "`id` of an Autopilot device; may be repeated", func(id string) error {
		devices = append(devices, target{DeviceID: id})
		return nil
	})
	flags.Func("serial", "`serial` number of a device, instead of its id; may be repeated", func(serial string) error {
		devices = append(devices, target{SerialNumber: serial})
		return nil
	})
	expect := flags.String("expect", "", "`account` that the device must still carry: a user principal name, or a resource name without @")
	dryRun := flags.Bool("dry-run", false, "say what would happen, and change nothing")
	verify := flags.Bool("verify", false, "read the device again after acting on it")
	reference := flags.String("reference", "", "`ticket` that the audit record shall name")
	timeout := flags.Duration("timeout", 30*time.Second, "how long to wait for the answer")
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: unassign call -url ADDRESS (-secret-file FILE | -api-key-file FILE) (-device ID | -serial SERIAL) [flags]\n\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return errors.Join(usageError("call"), err)
	}
	endpoint, err := callURL(*address)
	switch {
	case err != nil:
		return err
	case flags.NArg() > 0:
		return usageError(fmt.Sprintf("call: %q is not a flag", flags.Arg(0)))
	case (*secretFile == "") == (*apiKeyFile == ""):
		return usageError("call: name either -secret-file or -api-key-file")
	case len(devices) == 0:
		return usageError("call: -device or -serial is missing")
	case *expect != "" && len(devices) > 1:
		return usageError("call: -expect is for one device")
	}
	if *expect != "" {
		devices[0].Expected = &expected{ResourceName: *expect}
		if strings.Contains(*expect, "@") {
			devices[0].Expected = &expected{UserPrincipalName: *expect}
		}
	}
	order := order{DryRun: *dryRun, Verify: *verify, Reference: *reference}
	if len(devices) == 1 {
		order.target = devices[0]
	} else {
		order.Devices = devices
	}
	body, err := json.Marshal(order)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Prefer", "return=representation")
	req.Header.Set("User-Agent", "unassign/"+version)
	if *secretFile != "" {
		key, err := readKey(*secretFile, stdin, caller.DecodeSignatureKey)
		if err != nil {
			return fmt.Errorf("call: -secret-file: %w", err)
		}
		caller.Sign(req.Header, key, "msg_"+guid.New().String(), time.Now(), body)
	} else {
		key, err := readKey(*apiKeyFile, stdin, caller.DecodeAPIKey)
		if err != nil {
			return fmt.Errorf("call: -api-key-file: %w", err)
		}
		req.Header.Set("X-Api-Key", string(key))
	}
	resp, err := upstream.NewClient().Do(req)
	if err != nil {
		return fmt.Errorf("call: no answer, so it is not known what was done: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(upstream.Cap(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("call: %s, and the answer broke off: %w", resp.Status, err)
	}
	fmt.Fprintln(stderr, resp.Status)
	printJSON(stdout, answer)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("call: the answer is %s", resp.Status)
	}
	return nil
}

// order is the body of a request.
type order struct {
	target
	Devices   []target `json:"devices,omitempty"`
	DryRun    bool     `json:"dryRun,omitempty"`
	Verify    bool     `json:"verify,omitempty"`
	Reference string   `json:"reference,omitempty"`
}

type target struct {
	DeviceID     string    `json:"deviceId,omitempty"`
	SerialNumber string    `json:"serialNumber,omitempty"`
	Expected     *expected `json:"expected,omitempty"`
}

type expected struct {
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	ResourceName      string `json:"resourceName,omitempty"`
}

// callURL returns the address to send a request to, given the address of a deployment or of its route. A key must not
// travel in the clear, so that plain http is for this machine alone.
func callURL(target string) (string, error) {
	u, err := url.Parse(target)
	switch {
	case target == "":
		return "", usageError("call: -url is missing")
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", usageError("call: -url is not an address of the web")
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return "", usageError("call: -url must be https, since a key travels with the request")
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = handler.RouteUnassign
	}
	return u.String(), nil
}

// readKey reads and decodes the key in a file.
func readKey(name string, stdin io.Reader, decode func(string) ([]byte, error)) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, 4096))
	if err != nil {
		return nil, err
	}
	return decode(string(text))
}

// printJSON prints an answer with one member a line, or as it is if it is no JSON.
func printJSON(w io.Writer, answer []byte) {
	var pretty bytes.Buffer
	if json.Indent(&pretty, answer, "", "  ") == nil {
		answer = pretty.Bytes()
	}
	if answer = bytes.TrimSpace(answer); len(answer) > 0 {
		fmt.Fprintf(w, "%s\n", answer)
	}
}
