package functions

import (
	"cmp"
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
	runnable    bool // the file has the run bit, or is left to PATH
	arguments   []string
	proxying    bool
	forwarding  bool
	prefix      string
	outstanding int // requests that may run or wait; -1 means any number
	concurrent  int // requests that may run; -1 means any number
	functions   []*function
}

// function is a folder with a function.json.
type function struct {
	name     string
	bindings []binding
	trigger  binding
	retries  int                             // -1 means no limit
	delay    func(attempt int) time.Duration // before the attempt of that number, the first retry being 1
	alone    sync.Mutex                      // held by a run of a timer
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
			Description *struct {
				DefaultExecutablePath string
				Arguments             []string
			}
			EnableProxyingHTTPRequest, EnableForwardingHTTPRequest bool
			HTTP                                                   *struct{ Routes json.RawMessage }
		}
	}
	if err := readJSON(filepath.Join(dir, "host.json"), &host); err != nil {
		return nil, err
	}
	handler := host.CustomHandler
	if handler.Description == nil || handler.Description.DefaultExecutablePath == "" {
		return nil, errors.New("functions host: host.json has no customHandler.description.defaultExecutablePath")
	}
	a := &app{
		dir:        dir,
		executable: handler.Description.DefaultExecutablePath,
		arguments:  handler.Description.Arguments,
		runnable:   true,
		proxying:   handler.EnableProxyingHTTPRequest,
		forwarding: handler.EnableForwardingHTTPRequest,
		prefix:     "api",

		outstanding: cmp.Or(host.Extensions.HTTP.MaxOutstandingRequests, -1),
		concurrent:  cmp.Or(host.Extensions.HTTP.MaxConcurrentRequests, -1),
	}
	if host.Extensions.HTTP.RoutePrefix != nil {
		a.prefix = *host.Extensions.HTTP.RoutePrefix
	}
	path := a.executable
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if info, err := os.Stat(path); err == nil {
		a.runnable = info.Mode()&0o100 != 0
		a.executable = path
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("functions host: %w", err)
	}
	for _, entry := range entries {
		file := filepath.Join(dir, entry.Name(), "function.json")
		if _, err := os.Stat(file); err != nil {
			continue // a folder without that file, or a file, is no function
		}
		f, err := loadFunction(file)
		if err != nil {
			return nil, err
		}
		a.functions = append(a.functions, f)
	}
	if len(a.functions) > 0 && handler.HTTP != nil && handler.HTTP.Routes != nil {
		return nil, errors.New("functions host: both function.json files and customHandler.http.routes")
	}
	return a, nil
}

func loadFunction(file string) (*function, error) {
	f := &function{name: filepath.Base(filepath.Dir(file))}
	if !functionName.MatchString(f.name) || strings.EqualFold(f.name, "host") {
		return nil, fmt.Errorf("functions host: %q is no name of a function", f.name)
	}
	var parsed struct {
		Bindings []binding
		Retry    *struct {
			Strategy                                        string
			MaxRetryCount                                   int
			DelayInterval, MinimumInterval, MaximumInterval string
		}
	}
	if err := readJSON(file, &parsed); err != nil {
		return nil, err
	}
	f.bindings = parsed.Bindings
	triggers, names := 0, map[string]bool{}
	for _, b := range f.bindings {
		if strings.HasSuffix(strings.ToLower(b.Type), "trigger") {
			triggers++
			f.trigger = b
		}
		name := strings.ToLower(b.Name)
		if !bindingName.MatchString(b.Name) || names[name] {
			return nil, fmt.Errorf("functions host: %s: %q is no name of a binding, or is there twice", f.name, b.Name)
		}
		names[name] = true
	}
	if triggers != 1 {
		return nil, fmt.Errorf("functions host: %s has %d triggers", f.name, triggers)
	}
	if parsed.Retry == nil {
		return f, nil
	}
	f.retries = parsed.Retry.MaxRetryCount
	switch parsed.Retry.Strategy {
	case "exponentialBackoff":
		least, err1 := interval(parsed.Retry.MinimumInterval)
		most, err2 := interval(parsed.Retry.MaximumInterval)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("functions host: %s: retry: %w", f.name, err)
		}
		f.delay = func(attempt int) time.Duration { return min(least<<min(attempt-1, 20), most) }
	case "fixedDelay":
		fixed, err := interval(parsed.Retry.DelayInterval)
		if err != nil {
			return nil, fmt.Errorf("functions host: %s: retry: %w", f.name, err)
		}
		f.delay = func(int) time.Duration { return fixed }
	default:
		return nil, fmt.Errorf("functions host: %s: retry: %q is no strategy", f.name, parsed.Retry.Strategy)
	}
	return f, nil
}

// interval reads hours, minutes and seconds, as in 00:00:01.5.
func interval(text string) (time.Duration, error) {
	at, err := time.Parse("15:04:05", text)
	if err != nil {
		return 0, err
	}
	return at.Sub(at.Truncate(24 * time.Hour)), nil
}

// plainHTTP reports whether a function is one HTTP trigger and one HTTP output. Any other is invoked by JSON (E13).
func (f *function) plainHTTP() bool {
	return len(f.bindings) == 2 && strings.EqualFold(f.trigger.Type, "httpTrigger") &&
		slices.ContainsFunc(f.bindings, func(b binding) bool {
			return strings.EqualFold(b.Type, "http") && strings.EqualFold(b.Direction, "out")
		})
}

// route returns the function for a method and a path, and the parameters in the path (E7). A route without
// parameters comes before one with.
func (a *app) route(method, path string) (*function, map[string]string) {
	var found *function
	var params map[string]string
	for _, f := range a.functions {
		if !strings.EqualFold(f.trigger.Type, "httpTrigger") {
			continue
		}
		known := slices.ContainsFunc(f.trigger.Methods, func(m string) bool { return strings.EqualFold(m, method) })
		if !known && len(f.trigger.Methods) > 0 {
			continue
		}
		template := f.trigger.Route
		if template == "" {
			template = f.name
		}
		values, ok := match(strings.Trim(a.prefix+"/"+template, "/"), path)
		if ok && (found == nil || len(values) < len(params)) {
			found, params = f, values
		}
	}
	return found, params
}

// match holds a path to the template of a route, with the parameters {name}, {name?} and, for the rest of the path,
// {*name}. A constraint behind a colon is ignored.
func match(template, path string) (map[string]string, bool) {
	path = strings.TrimPrefix(path, "/")
	if path == "/" {
		return nil, false // an empty segment
	}
	path = strings.TrimSuffix(path, "/")
	values := map[string]string{}
	for part := range strings.SplitSeq(template, "/") {
		segment, rest, more := strings.Cut(path, "/")
		if segment == "" && more {
			return nil, false
		}
		inner, ok := strings.CutPrefix(part, "{")
		if !ok {
			if !strings.EqualFold(part, segment) {
				return nil, false
			}
			path = rest
			if more && rest == "" {
				return nil, false // two slashes at the end
			}
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(inner, "}"), ":")
		optional := strings.HasSuffix(inner, "?}")
		name = strings.TrimSuffix(name, "?")
		if all, ok := strings.CutPrefix(name, "*"); ok {
			values[all] = path
			return values, true
		}
		if segment == "" && !optional {
			return nil, false
		}
		values[name] = segment
		path = rest
	}
	return values, path == ""
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
