package functions

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stage lays out an app in dir as `make package-azure` does, with the worker and the parts of infra/azure below root:
// "functions", and for events "sweep" and "queue".
func Stage(dir, root, worker string, parts ...string) error {
	failures := []error{os.Link(worker, filepath.Join(dir, "worker"))}
	for _, part := range parts {
		failures = append(failures, os.CopyFS(dir, os.DirFS(filepath.Join(root, "infra", "azure", part))))
	}
	if !slices.Contains(parts, "queue") { // which has its own
		text, err := os.ReadFile(filepath.Join(root, "host.json"))
		failures = append(failures, err, os.WriteFile(filepath.Join(dir, "host.json"), text, 0o600))
	}
	return errors.Join(failures...)
}

// app is the content of an app's folder.
type app struct {
	dir         string
	executable  string
	arguments   []string
	prefix      string
	outstanding int // requests that may run or wait; 0 means any number
	concurrent  int // requests that may run; 0 means any number
	functions   []*function
}

// function is a folder with a function.json.
type function struct {
	name     string
	bindings []binding
	trigger  binding
	route    string // of an HTTP function: with the prefix, without slashes around it
	retries  int
	delay    time.Duration // before each retry
	alone    sync.Mutex    // held by a run of a timer
}

type binding struct {
	Type, Direction, Name, AuthLevel, Route string
	Methods                                 []string
}

// Names that the host accepts (E2).
var (
	functionName = regexp.MustCompile(`(?i)^[a-z][a-z0-9_\-]{0,127}$`)
	bindingName  = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9]{0,127}|\$return)$`)
)

// load reads the app in dir (E1, E2).
func load(dir string) (*app, error) {
	var host struct {
		Extensions struct {
			HTTP struct {
				RoutePrefix                                   *string
				MaxOutstandingRequests, MaxConcurrentRequests int
			}
		}
		CustomHandler struct {
			Description struct {
				DefaultExecutablePath string
				Arguments             []string
			}
			EnableProxyingHTTPRequest, EnableForwardingHTTPRequest bool
			HTTP                                                   json.RawMessage
		}
	}
	if err := readJSON(filepath.Join(dir, "host.json"), &host); err != nil {
		return nil, err
	}
	handler, limits := host.CustomHandler, host.Extensions.HTTP
	a := &app{
		dir: dir, executable: filepath.Join(dir, handler.Description.DefaultExecutablePath),
		arguments: handler.Description.Arguments, prefix: "api",
		outstanding: limits.MaxOutstandingRequests, concurrent: limits.MaxConcurrentRequests,
	}
	if limits.RoutePrefix != nil {
		a.prefix = *limits.RoutePrefix
	}
	switch info, err := os.Stat(a.executable); {
	case err != nil, info.IsDir(), info.Mode()&0o100 == 0:
		return nil, fmt.Errorf("functions host: %s is not an executable (customHandler.description)", a.executable)
	case !handler.EnableProxyingHTTPRequest || !handler.EnableForwardingHTTPRequest || handler.HTTP != nil:
		return nil, errors.New("functions host: host.json must ask for proxying and for forwarding, and have no http.routes")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "function.json"))
	if err != nil {
		return nil, fmt.Errorf("functions host: %w", err)
	}
	for _, file := range files {
		f, err := loadFunction(file, a.prefix)
		if err != nil {
			return nil, fmt.Errorf("functions host: %s: %w", filepath.Base(filepath.Dir(file)), err)
		}
		a.functions = append(a.functions, f)
	}
	return a, nil
}

func loadFunction(file, prefix string) (*function, error) {
	f := &function{name: filepath.Base(filepath.Dir(file))}
	if !functionName.MatchString(f.name) || strings.EqualFold(f.name, "host") {
		return nil, errors.New("this is no name of a function")
	}
	var parsed struct {
		Bindings []binding
		Retry    struct {
			Strategy      string
			MaxRetryCount int
			DelayInterval string
		}
	}
	if err := readJSON(file, &parsed); err != nil {
		return nil, err
	}
	f.bindings, f.retries = parsed.Bindings, parsed.Retry.MaxRetryCount
	triggers, names := 0, map[string]bool{}
	for _, b := range f.bindings {
		if strings.HasSuffix(strings.ToLower(b.Type), "trigger") {
			triggers++
			f.trigger = b
		}
		name := strings.ToLower(b.Name)
		if !bindingName.MatchString(b.Name) || names[name] {
			return nil, fmt.Errorf("%q is no name of a binding, or is there twice", b.Name)
		}
		names[name] = true
	}
	if triggers != 1 {
		return nil, fmt.Errorf("%d triggers", triggers)
	}
	if f.byHTTP() {
		f.route = strings.Trim(prefix+"/"+f.trigger.Route, "/")
		output := slices.IndexFunc(f.bindings, func(b binding) bool { return b.Type == "http" && b.Direction == "out" })
		switch parameter := strings.Index(f.route, "{"); {
		case len(f.bindings) != 2 || output < 0:
			return nil, errors.New("this double sends no request by JSON: an httpTrigger has one other binding, an http output")
		case f.trigger.AuthLevel != "anonymous":
			return nil, errors.New("this double has no keys: the authLevel must be anonymous")
		case f.trigger.Route == "", parameter > 0, parameter == 0 && !strings.HasPrefix(f.route, "{*"):
			return nil, fmt.Errorf("this double has no route %q", f.trigger.Route)
		}
	}
	if f.retries == 0 {
		return f, nil
	}
	var err error
	if f.delay, err = parseInterval(parsed.Retry.DelayInterval); err != nil || parsed.Retry.Strategy != "fixedDelay" {
		return nil, fmt.Errorf("retry: this double knows the strategy fixedDelay alone: %+v, %w", parsed.Retry, err)
	}
	return f, nil
}

func (f *function) byHTTP() bool { return strings.EqualFold(f.trigger.Type, "httpTrigger") }

// parseInterval reads hours, minutes and seconds, as in 00:00:01.5.
func parseInterval(text string) (time.Duration, error) {
	at, err := time.Parse("15:04:05", text)
	return at.Sub(at.Truncate(24 * time.Hour)), err
}

// findFunction returns the function for a method and a path, nil if there is none (E7). A route for every path comes
// last.
func (a *app) findFunction(method, path string) (found *function) {
	for _, f := range a.functions {
		known := slices.ContainsFunc(f.trigger.Methods, func(m string) bool { return strings.EqualFold(m, method) })
		if f.byHTTP() && f.takesPath(path) && (known || len(f.trigger.Methods) == 0) &&
			(found == nil || strings.HasPrefix(found.route, "{*")) {
			found = f
		}
	}
	return found
}

// takesPath reports whether the route of a function matches a path: in any case, with or without a slash at its end, or
// any path for the route {*name}. An empty segment at the start matches none.
func (f *function) takesPath(path string) bool {
	path = strings.TrimPrefix(path, "/")
	if strings.HasPrefix(path, "/") {
		return false
	}
	return strings.HasPrefix(f.route, "{*") || strings.EqualFold(strings.TrimSuffix(path, "/"), f.route)
}

// An encoded slash of a path stays encoded (E7).
var (
	keepSlashes    = strings.NewReplacer("%2f", "%252f", "%2F", "%252F") //nolint:gochecknoglobals // a constant
	restoreSlashes = strings.NewReplacer("%252f", "%2f", "%252F", "%2F") //nolint:gochecknoglobals // a constant
)

// normalPath returns a path as the host sees it: decoded but for encoded slashes, without dot segments (E7).
func normalPath(escaped string) string {
	var segments []string
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, part := range parts {
		segment, err := url.PathUnescape(keepSlashes.Replace(part))
		if err != nil {
			segment = part
		}
		if segment != "." && segment != ".." {
			segments = append(segments, segment)
			continue
		}
		if segment == ".." && len(segments) > 0 {
			segments = segments[:len(segments)-1]
		}
		if i == len(parts)-1 {
			segments = append(segments, "")
		}
	}
	return "/" + strings.Join(segments, "/")
}

// encodePath is the inverse of normalPath.
func encodePath(path string) string {
	return restoreSlashes.Replace((&url.URL{Path: path}).EscapedPath())
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("functions host: %w", err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("functions host: %s: %w", file, err)
	}
	return nil
}
