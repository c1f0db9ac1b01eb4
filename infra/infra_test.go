// Package infra_test holds the files of a deployment to what the hosts demand, to the program, and to each other.
package infra_test

import (
	"encoding/json"
	"fmt"
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

// A package for a host that asks for a function key has it ask at every route that is not for everybody.
func TestAuthLevel(t *testing.T) {
	recipe := regexp.MustCompile(`(?m)^\t@for f in ([a-z ]+); do sed 's/"anonymous"/"\$\(AUTHLEVEL\)"/' infra/azure/functions/\$\$f/function\.json >`).FindStringSubmatch(read(t, "../Makefile"))
	if recipe == nil {
		t.Fatal("the Makefile does not set AUTHLEVEL")
	}
	asked := map[string]bool{}
	for name := range strings.FieldsSeq(recipe[1]) {
		asked["/api/"+name] = true
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
	if len(queue.Bindings) != 2 || in.Type != "queueTrigger" || in.Name != "message" || out.Type != "queue" || out.Direction != "out" || out.Name != "poison" || out.QueueName != in.QueueName+"-poison" {
		t.Errorf("queue: %+v", queue)
	}
	// By identity: the host takes AzureWebJobsStorage__queueServiceUri and its like for this name.
	if in.Connection != "AzureWebJobsStorage" || out.Connection != in.Connection {
		t.Errorf("queue: connections %s and %s", in.Connection, out.Connection)
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
	// A message is tried five times, then the host itself puts it into the poison queue; a text is a text, and not base64.
	queues := at(t, withQueue, "extensions", "queues")
	if at(t, queues, "maxDequeueCount") != 5.0 || at(t, queues, "messageEncoding") != "none" || at(t, withQueue, "extensionBundle", "id") != "Microsoft.Azure.Functions.ExtensionBundle" {
		t.Errorf("the host of the queue is %v", withQueue)
	}
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
	if len(routes) != 3 || !routes["/api/unassign"] || !routes["/api/doctor"] || !routes["/api/health"] {
		t.Errorf("the routes are %v", routes)
	}

	documented := read(t, "../docs/settings.md")
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

// at returns what is in the template at a path of names.
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

func loadTemplate(t *testing.T) any {
	t.Helper()
	// Functions of the template are left out: !GetAtt Queue.Arn is the text Queue.Arn.
	var parsed map[string]any
	if err := yaml.Unmarshal([]byte(regexp.MustCompile(`!(GetAtt|Ref|If|Not|And|Or|Equals|Sub|FindInMap) `).ReplaceAllString(read(t, "../template.yaml"), "")), &parsed); err != nil {
		t.Fatal(err)
	}
	return parsed["Resources"]
}

// Events are tried again, put aside and reported, each kind in the place where a person looks for it.
func TestTemplateEvents(t *testing.T) {
	resources := loadTemplate(t)
	function := at(t, resources, "Function", "Properties")
	timeout := at(t, function, "Timeout").(int)
	for path, want := range map[string]any{
		"Function.Properties.Events.Messages.Properties.Queue":                            "Queue.Arn",
		"Function.Properties.Events.Messages.Properties.FunctionResponseTypes":            []any{"ReportBatchItemFailures"},
		"Function.Properties.Events.Messages.Properties.ScalingConfig.MaximumConcurrency": 2,
		"Queue.Properties.RedrivePolicy.deadLetterTargetArn":                              "DeadLetters.Arn",
		"Queue.Properties.RedrivePolicy.maxReceiveCount":                                  5,
		"Queue.Properties.SqsManagedSseEnabled":                                           true,
		"DeadLetters.Properties.SqsManagedSseEnabled":                                     true,
		"Failures.Properties.SqsManagedSseEnabled":                                        true,
		"Function.Properties.EventInvokeConfig.DestinationConfig.OnFailure.Destination":   "Failures.Arn",
		"Function.Properties.EventInvokeConfig.MaximumRetryAttempts":                      2,
		"Function.Properties.Events.Sweep.Type":                                           "ScheduleV2",
		"Function.Properties.Events.Sweep.Properties.OmitName":                            true,
		"Function.Properties.Events.Sweep.Properties.State":                               []any{"HasSweep", "ENABLED", "DISABLED"},
		"Function.Properties.Events.Sweep.Properties.DeadLetterConfig.Arn":                "Failures.Arn",
		"Function.Properties.Role":                                                        "FunctionRole.Arn",
		"DeadLetterAlarm.Properties.Dimensions":                                           []any{map[string]any{"Name": "QueueName", "Value": "DeadLetters.QueueName"}},
		"FailureAlarm.Properties.Dimensions":                                              []any{map[string]any{"Name": "QueueName", "Value": "Failures.QueueName"}},
		"ErrorAlarm.Properties.MetricName":                                                "Errors",
		"FaultAlarm.Properties.MetricName":                                                at(t, resources, "FaultMetric", "Properties", "MetricTransformations").([]any)[0].(map[string]any)["MetricName"],
		"FaultMetric.Properties.LogGroupName":                                             "FunctionLogs",
		"Function.Properties.LoggingConfig.LogFormat":                                     "JSON",
	} {
		if got := at(t, resources, strings.Split(path, ".")...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if visible := at(t, resources, "Queue", "Properties", "VisibilityTimeout").(int); visible < 6*timeout {
		t.Errorf("VisibilityTimeout %d, Timeout %d", visible, timeout)
	}
	page := read(t, "../docs/schedules.md")
	for _, words := range []string{
		fmt.Sprintf("shows again after %d seconds, five times in all", at(t, resources, "Queue", "Properties", "VisibilityTimeout")), fmt.Sprintf("The %d seconds of the function", timeout),
	} {
		if !strings.Contains(page, words) {
			t.Errorf("docs/schedules.md does not say %q", words)
		}
	}
	if size := at(t, function, "Events", "Messages", "Properties", "BatchSize").(int); size > 10 {
		t.Errorf("BatchSize %d needs a window", size)
	}
	// A sweep is refused when it is six hours late: no delivery and no retry need last longer.
	for _, config := range []any{at(t, function, "EventInvokeConfig"), at(t, function, "Events", "Sweep", "Properties", "RetryPolicy")} {
		if age := at(t, config, "MaximumEventAgeInSeconds").(int); age < 60 || age > 6*60*60 {
			t.Errorf("MaximumEventAgeInSeconds %d", age)
		}
	}
	for name, message := range map[string]string{"DeadLetterAlarm": "AWS/SQS", "FailureAlarm": "AWS/SQS", "ErrorAlarm": "AWS/Lambda"} {
		alarm := at(t, resources, name, "Properties")
		if at(t, alarm, "Namespace") != message || at(t, alarm, "Threshold") != 0 || at(t, alarm, "ComparisonOperator") != "GreaterThanThreshold" || at(t, alarm, "TreatMissingData") != "notBreaching" {
			t.Errorf("%s: %v", name, alarm)
		}
	}
	filter := at(t, resources, "FaultMetric", "Properties", "FilterPattern").(string)
	for _, message := range []string{"unassign", "sweep", "event", "doctor"} { // every record of a failure that the handler writes
		if !strings.Contains(filter, `$.message = "`+message+`"`) || !strings.Contains(filter, `$.level = "ERROR"`) {
			t.Errorf("the filter %s does not see %s", filter, message)
		}
	}
	// The input is that of the page, which the program is tried with.
	if input := at(t, function, "Events", "Sweep", "Properties", "Input"); input != strings.TrimSpace(read(t, "../function/testdata/events/scheduler-input.json")) {
		t.Errorf("the schedule's input is %s", input)
	}
}

// The function's role lets it do three things, each with one resource.
func TestTemplateRole(t *testing.T) {
	resources := loadTemplate(t)
	role := at(t, resources, "FunctionRole", "Properties")
	if _, ok := role.(map[string]any)["ManagedPolicyArns"]; ok {
		t.Error("the role has policies of somebody else's")
	}
	policies := at(t, role, "Policies").([]any)
	want := map[string][]any{
		"FunctionLogs.Arn": {"logs:CreateLogStream", "logs:PutLogEvents"},
		"Queue.Arn":        {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
		"Failures.Arn":     {"sqs:SendMessage"},
		"*":                {"sts:GetWebIdentityToken"},
	}
	got := map[string][]any{}
	for _, policy := range policies {
		for _, statement := range at(t, policy, "PolicyDocument", "Statement").([]any) {
			resource := at(t, statement, "Resource").(string)
			if at(t, statement, "Effect") != "Allow" || got[resource] != nil {
				t.Errorf("%v", statement)
			}
			got[resource] = at(t, statement, "Action").([]any)
			if resource != "*" {
				continue
			}
			// What the program asks for, and not a second more.
			condition := at(t, statement, "Condition")
			sts := read(t, "../function/sts.go")
			if at(t, condition, "Null", "sts:IdentityTokenAudience") != "false" || at(t, condition, "StringEquals", "sts:SigningAlgorithm") != "RS256" || !strings.Contains(sts, `new("RS256")`) ||
				!strings.Contains(sts, fmt.Sprintf("assertionLife = %v\n", at(t, condition, "NumericLessThanEquals", "sts:DurationSeconds"))) {
				t.Errorf("the condition is %v", condition)
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the role may %v, want %v", got, want)
	}
	// SAM gives its own policies to the roles that it makes itself.
	if function := at(t, resources, "Function", "Properties").(map[string]any); function["Policies"] != nil {
		t.Error("Policies beside a Role have no effect")
	}
}
