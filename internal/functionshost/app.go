package functionshost

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	retries  int
	delay    time.Duration
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
		return nil, errors.New("functionshost: host.json has no customHandler.description.defaultExecutablePath")
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
	if path := filepath.Join(dir, a.executable); !filepath.IsAbs(a.executable) {
		if info, err := os.Stat(path); err == nil {
			if info.Mode()&0o100 == 0 {
				return nil, fmt.Errorf("functionshost: %s is not executable", a.executable)
			}
			a.executable = path
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "function.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		f, err := loadFunction(file)
		if err != nil {
			return nil, err
		}
		a.functions = append(a.functions, f)
	}
	if len(files) > 0 && handler.HTTP != nil && handler.HTTP.Routes != nil {
		return nil, errors.New("functionshost: both function.json files and customHandler.http.routes")
	}
	return a, nil
}

func loadFunction(file string) (*function, error) {
	f := &function{name: filepath.Base(filepath.Dir(file))}
	if !functionName.MatchString(f.name) || strings.EqualFold(f.name, "host") {
		return nil, fmt.Errorf("functionshost: %q is no name of a function", f.name)
	}
	var parsed struct {
		Bindings []binding
		Retry    *struct {
			MaxRetryCount int
			DelayInterval string
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
		}
		if !bindingName.MatchString(b.Name) || names[b.Name] {
			return nil, fmt.Errorf("functionshost: %s: %q is no name of a binding, or is there twice", f.name, b.Name)
		}
		names[b.Name] = true
	}
	if triggers != 1 {
		return nil, fmt.Errorf("functionshost: %s has %d triggers", f.name, triggers)
	}
	if parsed.Retry != nil {
		f.retries = parsed.Retry.MaxRetryCount
		at, err := time.Parse("15:04:05", parsed.Retry.DelayInterval)
		if err != nil {
			return nil, fmt.Errorf("functionshost: %s: delayInterval: %w", f.name, err)
		}
		f.delay = time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute + time.Duration(at.Second())*time.Second
	}
	return f, nil
}

// http returns the trigger of a function that has exactly one of HTTP and one HTTP output, and whether it is one. Any other
// function is invoked by JSON, whatever host.json says.
func (f *function) http() (binding, bool) {
	if len(f.bindings) != 2 {
		return binding{}, false
	}
	in, out := f.bindings[0], f.bindings[1]
	if in.Direction != "in" {
		in, out = out, in
	}
	return in, in.Type == "httpTrigger" && out.Type == "http" && out.Direction == "out"
}

// route finds the function that a path and method belong to (E7).
func (a *app) route(method, path string) (*function, binding, bool) {
	for _, f := range a.functions {
		trigger, ok := f.http()
		if !ok {
			continue
		}
		name := trigger.Route
		if name == "" {
			name = f.name
		}
		full := "/" + strings.Trim(a.prefix+"/"+name, "/")
		known := slices.ContainsFunc(trigger.Methods, func(m string) bool { return strings.EqualFold(m, method) })
		if strings.EqualFold(full, path) && (known || len(trigger.Methods) == 0) {
			return f, trigger, true
		}
	}
	return nil, binding{}, false
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("functionshost: %s: %w", file, err)
	}
	return nil
}
