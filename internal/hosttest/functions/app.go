package functions

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// app is what the host reads in an app's folder.
type app struct {
	dir        string
	executable string
	arguments  []string
	proxying   bool
	forwarding bool
	prefix     string
	functions  []*function
}

// function is one folder with a function.json.
type function struct {
	name     string
	bindings []binding
	trigger  binding
	retries  int                             // -1 means without end
	delay    func(attempt int) time.Duration // before the attempt of that number, the first retry being 1
	alone    sync.Mutex                      // held by the run of a timer
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

// load reads the app in dir by rules E1 and E2.
func load(dir string) (*app, error) {
	var host struct {
		Extensions    struct{ HTTP struct{ RoutePrefix *string } }
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
		proxying:   handler.EnableProxyingHTTPRequest,
		forwarding: handler.EnableForwardingHTTPRequest,
		prefix:     "api",
	}
	if host.Extensions.HTTP.RoutePrefix != nil {
		a.prefix = *host.Extensions.HTTP.RoutePrefix
	}
	// A relative path is one in the folder if there is such a file, and else a name for PATH.
	path := a.executable
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if info, err := os.Stat(path); err == nil {
		if info.Mode()&0o100 == 0 {
			return nil, fmt.Errorf("functions host: %s is not executable", a.executable)
		}
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

// plainHTTP tells whether a function has one HTTP trigger and one HTTP output and nothing else. Any other function is invoked
// by JSON, whatever host.json says.
func (f *function) plainHTTP() bool {
	return len(f.bindings) == 2 && strings.EqualFold(f.trigger.Type, "httpTrigger") &&
		slices.ContainsFunc(f.bindings, func(b binding) bool {
			return strings.EqualFold(b.Type, "http") && strings.EqualFold(b.Direction, "out")
		})
}

// route finds the function that a path and method belong to, and the parameters in the path (E7). A route without parameters
// comes before one with.
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
		values, ok := match(strings.Trim(a.prefix+"/"+template, "/"), strings.Trim(path, "/"))
		if ok && (found == nil || len(values) < len(params)) {
			found, params = f, values
		}
	}
	return found, params
}

// match holds a path to the template of a route, whose parameters are {name}, {name?} and, for all that is left, {*name}. What
// follows a colon, a constraint, is not looked at.
func match(template, path string) (map[string]string, bool) {
	values := map[string]string{}
	for part := range strings.SplitSeq(template, "/") {
		segment, rest, _ := strings.Cut(path, "/")
		inner, ok := strings.CutPrefix(part, "{")
		if !ok {
			if !strings.EqualFold(part, segment) {
				return nil, false
			}
			path = rest
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
