package infra_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// loadTemplate returns a section of template.yaml. The tags of its functions are left out: !GetAtt Queue.Arn is the text Queue.Arn.
func loadTemplate(t *testing.T, section string) map[string]any {
	t.Helper()
	tag := regexp.MustCompile(`!(GetAtt|Ref|If|Not|And|Or|Equals|Sub|FindInMap|Condition) `)
	var parsed map[string]map[string]any
	var whole map[string]any
	text := tag.ReplaceAllString(read(t, "../template.yaml"), "")
	text = regexp.MustCompile(`!(If|Or|And)\n`).ReplaceAllString(text, "\n")
	if err := yaml.Unmarshal([]byte(text), &whole); err != nil {
		t.Fatal(err)
	}
	parsed = map[string]map[string]any{}
	for name, value := range whole {
		if m, ok := value.(map[string]any); ok {
			parsed[name] = m
		}
	}
	return parsed[section]
}

func TestTemplateFunctions(t *testing.T) {
	resources := loadTemplate(t, "Resources")
	globals := at(t, loadTemplate(t, "Globals"), "Function")
	for name, want := range map[string]any{
		"CodeUri": ".", "Handler": "bootstrap", "Runtime": "provided.al2023", "Architectures": []any{"arm64"},
	} {
		if got := at(t, globals, name); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	var functions []string
	for name, resource := range resources {
		if at(t, resource, "Type") == "AWS::Serverless::Function" {
			functions = append(functions, "build-"+name)
			if at(t, resource, "Metadata", "BuildMethod") != "makefile" || at(t, resource, "Properties", "Role") != "FunctionRole.Arn" {
				t.Errorf("%s: %v", name, resource)
			}
		}
	}
	slices.Sort(functions)
	target := strings.Join(functions, " ") + ":\n\t$(LAMBDA) -o $(ARTIFACTS_DIR)/bootstrap ./function\n"
	if len(functions) != 2 || !strings.Contains(read(t, "../Makefile"), target) {
		t.Errorf("the Makefile does not build %v", functions)
	}

	variables := at(t, globals, "Environment", "Variables").(map[string]any)
	documented := read(t, "../docs/settings.md")
	for name := range variables {
		if !strings.Contains(documented, "| `"+name+"` |") {
			t.Errorf("the template sets %s, which is no setting", name)
		}
	}

	// Ours, then Lambda's, then the gateway's, which is 30 seconds at the most: the response is ours.
	ours, err := time.ParseDuration(variables["REQUEST_TIMEOUT"].(string))
	lambdas := time.Duration(at(t, resources, "Function", "Properties", "Timeout").(int)) * time.Second
	gateways := time.Duration(at(t, resources, "Integration", "Properties", "TimeoutInMillis").(int)) * time.Millisecond
	if err != nil || ours+2*time.Second > lambdas || lambdas > gateways || gateways > 30*time.Second {
		t.Errorf("REQUEST_TIMEOUT %v, Timeout %v, TimeoutInMillis %v", ours, lambdas, gateways)
	}
}

// No address returns a success that is not the function's: routes alone reach it, with every method, and nothing answers in its place.
func TestTemplateRoutes(t *testing.T) {
	resources := loadTemplate(t, "Resources")
	routes := map[string]bool{}
	for name, resource := range resources {
		if at(t, resource, "Type") != "AWS::ApiGatewayV2::Route" {
			continue
		}
		route := at(t, resource, "Properties")
		routes[at(t, route, "RouteKey").(string)] = true
		if at(t, route, "Target") != "integrations/${Integration}" || !reflect.DeepEqual(at(t, route, "AuthorizationType"), []any{"HasAuthorizer", "CUSTOM", "NONE"}) {
			t.Errorf("%s: %v", name, route)
		}
	}
	contract := read(t, "../handler/openapi.yaml")
	for _, m := range regexp.MustCompile(`(?m)^  (/api/\w+):$`).FindAllStringSubmatch(contract, -1) {
		if !routes["ANY "+m[1]] {
			t.Errorf("there is no route for %s", m[1])
		}
		delete(routes, "ANY "+m[1])
	}
	if len(routes) > 0 {
		t.Errorf("openapi.yaml does not have %v", routes)
	}
	api := at(t, resources, "Api", "Properties").(map[string]any)
	for _, name := range []string{"CorsConfiguration", "Target", "Body"} {
		if api[name] != nil {
			t.Errorf("the API has %s, which answers requests that the function never sees", name)
		}
	}
	integration := at(t, resources, "Integration", "Properties")
	if at(t, integration, "PayloadFormatVersion") != "2.0" || at(t, integration, "IntegrationUri") != "Function.Arn" {
		t.Errorf("the integration is %v", integration)
	}
	// Honest load: 40 callers at the default of RATE_LIMIT, one request for each device, beside as much again.
	settings := at(t, resources, "Stage", "Properties", "RouteSettings", "ANY /api/unassign")
	if rate := at(t, settings, "ThrottlingRateLimit").(int); rate < 2*40*60/60 {
		t.Errorf("ThrottlingRateLimit %d", rate)
	}
}

// Events are retried, put aside and reported, each kind in the place where a person looks for it.
func TestTemplateEvents(t *testing.T) {
	resources := loadTemplate(t, "Resources")
	queue := at(t, resources, "QueueFunction", "Properties")
	timeout := at(t, queue, "Timeout").(int)
	for path, want := range map[string]any{
		"QueueFunction.Properties.Events.Messages.Properties.Queue":                            "Queue.Arn",
		"QueueFunction.Properties.Events.Messages.Properties.FunctionResponseTypes":            []any{"ReportBatchItemFailures"},
		"QueueFunction.Properties.Events.Messages.Properties.ScalingConfig.MaximumConcurrency": 2,
		"Queue.Properties.RedrivePolicy.deadLetterTargetArn":                                   "DeadLetters.Arn",
		"QueueFunction.Properties.EventInvokeConfig.DestinationConfig.OnFailure.Destination":   "Failures.Arn",
		"QueueFunction.Properties.EventInvokeConfig.MaximumRetryAttempts":                      2,
		"QueueFunction.Properties.Events.Sweep.Type":                                           "ScheduleV2",
		"QueueFunction.Properties.Events.Sweep.Properties.OmitName":                            true,
		"QueueFunction.Properties.Events.Sweep.Properties.State":                               []any{"HasSweep", "ENABLED", "DISABLED"},
		"QueueFunction.Properties.Events.Sweep.Properties.DeadLetterConfig.Arn":                "Failures.Arn",
	} {
		if got := at(t, resources, strings.Split(path, ".")...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if events := at(t, resources, "Function", "Properties").(map[string]any)["Events"]; events != nil {
		t.Errorf("the function for callers takes events: %v", events)
	}
	for _, name := range []string{"Queue", "DeadLetters", "Failures"} {
		statement := at(t, resources, name+"Policy", "Properties", "PolicyDocument", "Statement").([]any)[0]
		if at(t, resources, name, "Properties", "SqsManagedSseEnabled") != true || at(t, statement, "Effect") != "Deny" ||
			at(t, statement, "Resource") != name+".Arn" || at(t, statement, "Condition", "Bool", "aws:SecureTransport") != "false" {
			t.Errorf("%s can be used without encryption: %v", name, statement)
		}
	}
	visible := at(t, resources, "Queue", "Properties", "VisibilityTimeout").(int)
	if timeout > 900 || visible <= timeout {
		t.Errorf("VisibilityTimeout %d, Timeout %d", visible, timeout)
	}
	// All the tries together end before the message does.
	tries := at(t, resources, "Queue", "Properties", "RedrivePolicy", "maxReceiveCount").(int)
	if retention := at(t, resources, "Queue", "Properties", "MessageRetentionPeriod").(int); tries*visible > retention/2 {
		t.Errorf("%d tries of %d seconds, and a message is kept for %d", tries, visible, retention)
	}
	page := read(t, "../docs/schedules.md")
	for _, words := range []string{fmt.Sprintf("after two minutes, %d times in all", tries), fmt.Sprintf("The %d minutes of", timeout/60)} {
		if !strings.Contains(page, words) {
			t.Errorf("docs/schedules.md does not say %q", words)
		}
	}
	messages := at(t, queue, "Events", "Messages", "Properties").(map[string]any)
	if size := messages["BatchSize"].(int); size > 10 && messages["MaximumBatchingWindowInSeconds"] == nil {
		t.Errorf("BatchSize %d needs a window", size)
	}
	// The function refuses a sweep that is six hours late: no delivery and no retry needs to last longer.
	for _, config := range []any{at(t, queue, "EventInvokeConfig"), at(t, queue, "Events", "Sweep", "Properties", "RetryPolicy")} {
		if age := at(t, config, "MaximumEventAgeInSeconds").(int); age < 60 || age > 6*60*60 {
			t.Errorf("MaximumEventAgeInSeconds %d", age)
		}
	}
	// The tests of the program send this input.
	if input := at(t, queue, "Events", "Sweep", "Properties", "Input"); input != strings.TrimSpace(read(t, "../function/testdata/events/scheduler-input.json")) {
		t.Errorf("the schedule's input is %s", input)
	}
}

// Each alarm reads a metric that something writes, tells the topic, and is quiet while there is nothing to count.
func TestTemplateAlarms(t *testing.T) {
	resources := loadTemplate(t, "Resources")
	written := map[string]bool{ // by AWS
		"AWS/SQS ApproximateNumberOfMessagesVisible": true, "AWS/SQS ApproximateAgeOfOldestMessage": true, "AWS/SQS NumberOfMessagesDeleted": true,
		"AWS/Lambda Errors": true, "AWS/Lambda Throttles": true, "AWS/ApiGateway Latency": true, "AWS/Events MatchedEvents": true,
	}
	patterns := map[string]string{}
	for name, resource := range resources {
		if at(t, resource, "Type") == "AWS::Logs::MetricFilter" {
			metric := at(t, resource, "Properties", "MetricTransformations").([]any)[0]
			written[fmt.Sprint(at(t, metric, "MetricNamespace"), " ", at(t, metric, "MetricName"))] = true
			patterns[name] = at(t, resource, "Properties", "FilterPattern").(string)
		}
	}
	page, alarms := read(t, "../docs/operations.md"), 0
	for name, resource := range resources {
		if at(t, resource, "Type") != "AWS::CloudWatch::Alarm" {
			continue
		}
		alarms++
		alarm := at(t, resource, "Properties").(map[string]any)
		if alarm["TreatMissingData"] != "notBreaching" || alarm["ComparisonOperator"] != "GreaterThanThreshold" ||
			!reflect.DeepEqual(alarm["AlarmActions"], []any{"HasAlarmTopic", []any{"AlarmTopicArn"}, "AWS::NoValue"}) {
			t.Errorf("%s: %v", name, alarm)
		}
		var metrics []string
		if alarm["MetricName"] != nil {
			metrics = append(metrics, fmt.Sprint(alarm["Namespace"], " ", alarm["MetricName"]))
		}
		for _, query := range asList(alarm["Metrics"]) {
			if stat, ok := query.(map[string]any)["MetricStat"]; ok {
				metrics = append(metrics, fmt.Sprint(at(t, stat, "Metric", "Namespace"), " ", at(t, stat, "Metric", "MetricName")))
			} else if m := regexp.MustCompile(`^SELECT SUM\((\w+)\) FROM SCHEMA`).FindStringSubmatch(at(t, query, "Expression").(string)); m != nil {
				metrics = append(metrics, "AWS::StackName "+m[1])
			}
		}
		for _, metric := range metrics {
			if !written[metric] {
				t.Errorf("%s reads %s, which nothing writes", name, metric)
			}
		}
		if len(metrics) == 0 || !strings.Contains(page, "`"+name+"`") {
			t.Errorf("%s reads %v; or docs/operations.md does not have it", name, metrics)
		}
	}
	if alarms < 13 {
		t.Errorf("there are %d alarms", alarms)
	}
	for name, words := range map[string]map[string][]string{
		"FaultMetric":      {"../function/lambda.go": {`"event refused"`}},
		"ExpiryMetric":     {"../internal/vault/vault.go": {`"a secret is about to expire or has expired"`}},
		"DevicesMetric":    {"../docs/api.md": {"unassigned"}},
		"QueueMetric":      {"../handler/event.go": {`"sqs"`}},
		"ThrottlingMetric": {"../docs/errors.md": {"graph_throttled"}},
		"RefusalMetric":    {"../docs/api.md": {"401", "403"}},
	} {
		for path, texts := range words {
			for _, text := range texts {
				if !strings.Contains(read(t, path), text) || !strings.Contains(patterns[name], strings.Trim(text, "`\"")) && name != "FaultMetric" {
					t.Errorf("%s and %s do not both have %s", name, path, text)
				}
			}
		}
	}
	for _, message := range []string{"unassign", "sweep", "event", "doctor"} { // every record of a failure that the handler writes
		if !strings.Contains(patterns["FaultMetric"], `$.message = "`+message+`"`) || !strings.Contains(patterns["FaultMetric"], `$.level = "ERROR"`) {
			t.Errorf("the filter %s does not see %s", patterns["FaultMetric"], message)
		}
	}
}

func asList(value any) []any {
	list, _ := value.([]any)
	return list
}

// The role of the functions allows four things, each with one resource.
func TestTemplateRole(t *testing.T) {
	role := at(t, loadTemplate(t, "Resources"), "FunctionRole", "Properties")
	if _, ok := role.(map[string]any)["ManagedPolicyArns"]; ok {
		t.Error("the role has policies of another owner")
	}
	want := map[string][]any{
		"FunctionLogs.Arn": {"logs:CreateLogStream", "logs:PutLogEvents"},
		"Queue.Arn": {
			"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes", "sqs:SendMessage",
		},
		"Failures.Arn":    {"sqs:SendMessage"},
		"DeadLetters.Arn": {"sqs:SendMessage"},
		"*":               {"sts:GetWebIdentityToken"},
	}
	got := map[string][]any{}
	for _, policy := range at(t, role, "Policies").([]any) {
		for _, statement := range at(t, policy, "PolicyDocument", "Statement").([]any) {
			resource := at(t, statement, "Resource").(string)
			if at(t, statement, "Effect") != "Allow" || got[resource] != nil {
				t.Errorf("%v", statement)
			}
			got[resource] = at(t, statement, "Action").([]any)
			if resource != "*" {
				continue
			}
			condition := at(t, statement, "Condition")
			if at(t, condition, "Null", "sts:IdentityTokenAudience") != "false" || at(t, condition, "StringEquals", "sts:SigningAlgorithm") != "RS256" ||
				at(t, condition, "NumericLessThanEquals", "sts:DurationSeconds") != 300 {
				t.Errorf("the condition is %v", condition)
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the role allows %v, want %v", got, want)
	}
}
