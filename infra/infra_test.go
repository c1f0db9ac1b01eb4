// Package infra_test holds the files of a deployment to what the hosts demand, to the program, and to each other.
package infra_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(read(t, path)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestHostJSON(t *testing.T) {
	var host struct {
		Version         string
		FunctionTimeout string
		Logging         struct {
			LogLevel            map[string]string
			ApplicationInsights struct {
				SamplingSettings struct {
					IsEnabled     bool
					ExcludedTypes string
				}
			}
		}
		Extensions struct {
			HTTP struct {
				RoutePrefix                                   string
				MaxOutstandingRequests, MaxConcurrentRequests int
			}
		}
		CustomHandler struct {
			Description struct {
				DefaultExecutablePath, WorkingDirectory string
				Arguments                               []string
			}
			EnableProxyingHTTPRequest, EnableForwardingHTTPRequest bool
		}
	}
	// Unknown fields are an error here; the host would pass them over. A misspelt one, or a retry for all functions, which
	// the host would apply to requests as well, is found thereby.
	readJSON(t, "../host.json", &host)
	switch handler := host.CustomHandler; {
	case host.Version != "2.0":
		t.Errorf("version %q", host.Version)
	case host.Extensions.HTTP.RoutePrefix != "api":
		t.Errorf("routes begin with %q, those of the handler with api", host.Extensions.HTTP.RoutePrefix)
	case !handler.EnableProxyingHTTPRequest || !handler.EnableForwardingHTTPRequest:
		t.Error("requests do not reach the function as they came")
	case len(handler.Description.Arguments) > 0 || handler.Description.WorkingDirectory != "":
		t.Errorf("description %+v", handler.Description)
	case !strings.Contains(read(t, "../Makefile"), " "+handler.Description.DefaultExecutablePath+"=dist/azure/"):
		t.Errorf("the Makefile does not pack %s", handler.Description.DefaultExecutablePath)
	case !strings.Contains(host.Logging.ApplicationInsights.SamplingSettings.ExcludedTypes, "Request"):
		t.Error("requests are sampled")
	}
}

func TestFunctions(t *testing.T) {
	routes := map[string]bool{}
	files, err := filepath.Glob("azure/functions/*/function.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := filepath.Base(filepath.Dir(path))
		if !regexp.MustCompile(`^[a-z][a-z0-9_\-]{0,127}$`).MatchString(name) || name == "host" || name == "worker" {
			t.Errorf("%s is no name of a function", name)
		}
		var function struct {
			Bindings []struct {
				Type, Direction, Name, AuthLevel, Route string
				Methods                                 []string
			}
		}
		readJSON(t, path, &function)
		if len(function.Bindings) != 2 {
			t.Fatalf("%s: %d bindings; with another number than 2 the host does not hand on requests as they came", name, len(function.Bindings))
		}
		in, out := function.Bindings[0], function.Bindings[1]
		if in.Type != "httpTrigger" || in.Direction != "in" || out.Type != "http" || out.Direction != "out" || in.Name == out.Name {
			t.Errorf("%s: %+v", name, function.Bindings)
		}
		if in.AuthLevel != "anonymous" || len(in.Methods) != 7 || !slices.Contains(in.Methods, "post") {
			t.Errorf("%s: authLevel %s, methods %v", name, in.AuthLevel, in.Methods)
		}
		routes["/api/"+in.Route] = true
	}
	contract := read(t, "../handler/openapi.yaml")
	for _, m := range regexp.MustCompile(`(?m)^  (/api/\w+):$`).FindAllStringSubmatch(contract, -1) {
		if !routes[m[1]] {
			t.Errorf("there is no function for %s", m[1])
		}
		delete(routes, m[1])
	}
	if len(routes) > 0 {
		t.Errorf("openapi.yaml does not have %v", routes)
	}
}

// The sweep and the queue are packed when they are asked for, by the names that the program knows them by.
func TestOptionalFunctions(t *testing.T) {
	var sweep, queue struct {
		Bindings []struct {
			Type, Direction, Name, Schedule, QueueName, Connection string
			UseMonitor, RunOnStartup                               bool
		}
		Retry struct {
			Strategy, DelayInterval string
			MaxRetryCount           int
		}
	}
	readJSON(t, "azure/sweep/sweep/function.json", &sweep)
	readJSON(t, "azure/queue/queue/function.json", &queue)
	timer := sweep.Bindings[0]
	if len(sweep.Bindings) != 1 || timer.Type != "timerTrigger" || timer.Name != "timer" || timer.Schedule != "%SWEEP_SCHEDULE%" || timer.RunOnStartup || sweep.Retry.MaxRetryCount < 1 {
		t.Errorf("sweep: %+v", sweep)
	}
	in, out := queue.Bindings[0], queue.Bindings[1]
	if len(queue.Bindings) != 2 || in.Type != "queueTrigger" || in.Name != "message" || out.Type != "queue" || out.Direction != "out" || out.Name != "poison" || out.QueueName != in.QueueName+"-poison" {
		t.Errorf("queue: %+v", queue)
	}
	program := read(t, "../function/azure.go")
	for _, word := range []string{`= "/sweep"`, `= "/queue"`, `Outputs["poison"]`} {
		if !strings.Contains(program, word) {
			t.Errorf("azure.go does not have %s", word)
		}
	}
	// But for what the queue needs, the two are one.
	var plain, withQueue map[string]any
	readJSON(t, "../host.json", &plain)
	readJSON(t, "azure/queue/host.json", &withQueue)
	delete(withQueue, "extensionBundle")
	delete(withQueue["extensions"].(map[string]any), "queues")
	if !reflect.DeepEqual(plain, withQueue) {
		t.Errorf("host.json is %v\nwith a queue  %v", plain, withQueue)
	}
	if limit := regexp.MustCompile(`azureEventTime = 4\*time.Minute \+ 30\*time.Second`); plain["functionTimeout"] != "00:05:00" || !limit.MatchString(program) {
		t.Error("an event may take longer than functionTimeout")
	}
}

// template is as much of template.yaml as cfn-lint does not look into.
type template struct {
	Resources map[string]struct {
		Type       string            `yaml:"Type"`
		Metadata   map[string]string `yaml:"Metadata"`
		Properties struct {
			CodeURI       string   `yaml:"CodeUri"`
			Handler       string   `yaml:"Handler"`
			Runtime       string   `yaml:"Runtime"`
			Architectures []string `yaml:"Architectures"`
			Timeout       int      `yaml:"Timeout"`
			Environment   struct {
				Variables map[string]any `yaml:"Variables"`
			} `yaml:"Environment"`
			Events map[string]struct {
				Type       string `yaml:"Type"`
				Properties struct {
					Path, Method, PayloadFormatVersion string
					TimeoutInMillis                    int
				} `yaml:"Properties"`
			} `yaml:"Events"`
		} `yaml:"Properties"`
	} `yaml:"Resources"`
}

func TestTemplate(t *testing.T) {
	var parsed template
	// The form of the events is in the words of the template, not in Go's.
	text := regexp.MustCompile(`\b(Path|Method|PayloadFormatVersion|TimeoutInMillis):`).ReplaceAllStringFunc(read(t, "../template.yaml"), strings.ToLower)
	if err := yaml.Unmarshal([]byte(text), &parsed); err != nil {
		t.Fatal(err)
	}
	function := parsed.Resources["Function"]
	p := function.Properties
	if function.Metadata["BuildMethod"] != "makefile" || p.CodeURI != "." || p.Handler != "bootstrap" || p.Runtime != "provided.al2023" || !slices.Equal(p.Architectures, []string{"arm64"}) {
		t.Errorf("the function is %+v", function)
	}
	target := regexp.MustCompile(`(?m)^build-Function:\n\tGOOS=linux GOARCH=arm64 .*-o \$\(ARTIFACTS_DIR\)/bootstrap \./function$`)
	if !target.MatchString(read(t, "../Makefile")) {
		t.Error("the Makefile does not build the resource Function")
	}

	// Ours, then Lambda's, then the gateway's, which is 30 seconds at the most: so that the answer is ours.
	ours, err := time.ParseDuration(p.Environment.Variables["REQUEST_TIMEOUT"].(string))
	lambdas := time.Duration(p.Timeout) * time.Second
	if err != nil || ours+2*time.Second > lambdas {
		t.Errorf("REQUEST_TIMEOUT %v, Timeout %v", ours, lambdas)
	}
	routes := map[string]bool{}
	for name, event := range p.Events {
		e := event.Properties
		if event.Type != "HttpApi" {
			continue
		}
		if gateways := time.Duration(e.TimeoutInMillis) * time.Millisecond; gateways < lambdas || gateways > 30*time.Second {
			t.Errorf("%s: TimeoutInMillis %v, Timeout %v", name, gateways, lambdas)
		}
		if e.Method != "ANY" || e.PayloadFormatVersion != "2.0" {
			t.Errorf("%s: %+v", name, event)
		}
		routes[e.Path] = true
	}
	if len(routes) != 2 || !routes["/api/unassign"] || !routes["/api/health"] {
		t.Errorf("the routes are %v", routes)
	}

	documented := read(t, "../README.md")
	for name := range p.Environment.Variables {
		if !strings.Contains(documented, "| `"+name+"` |") {
			t.Errorf("the template sets %s, which is no setting", name)
		}
	}
	for name, value := range p.Environment.Variables {
		if text, ok := value.(string); ok && strings.HasSuffix(name, "_SECRET") && !strings.Contains(text, "{{resolve:secretsmanager:") {
			t.Errorf("%s is in the template", name)
		}
	}
}
