// Package infra_test holds the files of a deployment to the rules of the hosts, to the program, and to each other.
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
	case host.Extensions.HTTP.RoutePrefix != "": // a route of "/" must be the root, which the host answers itself with 200 or 204
		t.Errorf("routes begin with %q", host.Extensions.HTTP.RoutePrefix)
	case !handler.EnableProxyingHTTPRequest || !handler.EnableForwardingHTTPRequest:
		t.Error("requests do not reach the function as they came")
	case len(handler.Description.Arguments) > 0 || handler.Description.WorkingDirectory != "":
		t.Errorf("description %+v", handler.Description)
	case !strings.Contains(read(t, "../Makefile"), " "+handler.Description.DefaultExecutablePath+"=dist/azure/"):
		t.Errorf("the Makefile does not pack %s", handler.Description.DefaultExecutablePath)
	case host.Logging.ApplicationInsights.SamplingSettings.ExcludedTypes != "Request;Exception;Trace":
		t.Error("requests are sampled, or traces: a line of the log is a trace, and the audit record must not have gaps")
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
		if name == "root" {
			if in.Route != "/" || in.AuthLevel != "anonymous" || in.Methods != nil {
				t.Errorf("%s: %+v; the host answers the root with 200 or 204 for each request that no function takes", name, in)
			}
			continue
		}
		if in.AuthLevel != "anonymous" || len(in.Methods) != 7 || !slices.Contains(in.Methods, "post") {
			t.Errorf("%s: authLevel %s, methods %v", name, in.AuthLevel, in.Methods)
		}
		routes["/"+in.Route] = true
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

// A package for a host that asks for a function key has it ask at every route that is not for everybody.
func TestAuthLevel(t *testing.T) {
	if !strings.Contains(read(t, "../Makefile"), "@for f in $(filter-out health,$(notdir $(wildcard infra/azure/functions/*))); do") {
		t.Fatal("the Makefile does not set AUTHLEVEL")
	}
	asked := map[string]bool{}
	folders, err := filepath.Glob("azure/functions/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range folders {
		if name := filepath.Base(path); name != "health" {
			asked["/api/"+name] = true
		}
	}
	for path, item := range readContract(t).Paths.Map() {
		for _, operation := range item.Operations() {
			forEverybody := operation.Security != nil && len(*operation.Security) == 0
			if asked[path] == forEverybody {
				t.Errorf("%s is for everybody: %v, and asks for a key: %v", path, forEverybody, asked[path])
			}
		}
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
	// Messages that are requeued go back to where they came from.
	if again := queue.Bindings[len(queue.Bindings)-1]; len(queue.Bindings) != 3 || again.Name != "again" || again.Direction != "out" || again.QueueName != in.QueueName || again.Connection != in.Connection {
		t.Errorf("queue: %+v", queue)
	}
	if in.Type != "queueTrigger" || in.Name != "message" || out.Type != "queue" || out.Direction != "out" || out.Name != "poison" || out.QueueName != in.QueueName+"-poison" {
		t.Errorf("queue: %+v", queue)
	}
	// By identity: the host takes AzureWebJobsStorage__queueServiceUri and its like for this name.
	if in.Connection != "AzureWebJobsStorage" || out.Connection != in.Connection {
		t.Errorf("queue: connections %s and %s", in.Connection, out.Connection)
	}
	program := read(t, "../function/azure.go")
	for _, word := range []string{`= "/sweep"`, `= "/queue"`, `setOutput("poison"`} {
		if !strings.Contains(program, word) {
			t.Errorf("azure.go does not have %s", word)
		}
	}
	// Except for the queue's resources and the time of events, the two are one.
	var plain, withQueue map[string]any
	readJSON(t, "../host.json", &plain)
	readJSON(t, "azure/queue/host.json", &withQueue)
	// A message is delivered up to 20 times, then the host itself puts it into the poison queue; a text is a text, and not base64.
	queues := at(t, withQueue, "extensions", "queues")
	if at(t, queues, "maxDequeueCount") != 20.0 || at(t, queues, "messageEncoding") != "none" || at(t, withQueue, "extensionBundle", "id") != "Microsoft.Azure.Functions.ExtensionBundle" {
		t.Errorf("the host of the queue is %v", withQueue)
	}
	// The SDK of the storage extension logs each poll at Information.
	levels, _ := at(t, withQueue, "logging", "logLevel").(map[string]any)
	if levels["Azure.Core"] != "Warning" || at(t, queues, "maxPollingInterval") != "00:00:10" {
		t.Errorf("the host of the queue is %v", withQueue)
	}
	delete(levels, "Azure.Core")
	if limit := regexp.MustCompile(`azureEventTime = 29 \* time.Minute`); withQueue["functionTimeout"] != "00:30:00" || !limit.MatchString(program) {
		t.Error("an event may take longer than functionTimeout")
	}
	delete(withQueue, "functionTimeout")
	delete(plain, "functionTimeout")
	delete(withQueue, "extensionBundle")
	delete(withQueue["extensions"].(map[string]any), "queues")
	if !reflect.DeepEqual(plain, withQueue) {
		t.Errorf("host.json is %v\nwith a queue  %v", plain, withQueue)
	}
}

// at returns the value in from at a path of names.
func at(t *testing.T, from any, path ...string) any {
	t.Helper()
	for i, name := range path {
		inside, ok := from.(map[string]any)
		if !ok || inside[name] == nil {
			t.Fatalf("there is no %s", strings.Join(path[:i+1], "."))
		}
		from = inside[name]
	}
	return from
}
