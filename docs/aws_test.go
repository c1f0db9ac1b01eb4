package docs_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/aws.md agrees with the template and with the token exchange.
func TestAWSPage(t *testing.T) {
	page, template := read(t, "aws.md"), read(t, "../template.yaml")
	tests := defined(t)
	parameters, _, _ := strings.Cut(template, "\nRules:")
	for _, m := range regexp.MustCompile("`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`").FindAllStringSubmatch(page, -1) {
		name := m[1]
		if !strings.Contains(parameters, "\n  "+name+":\n") && !strings.Contains(template, "\n  "+name+":\n") && !strings.Contains(template, "Sid: "+name) && !elsewhere[name] && !tests[name] {
			t.Errorf("template.yaml has no %s", name)
		}
	}
	for _, required := range regexp.MustCompile(`(?m)^  (\w+):\n    Type: \w+\n    Description: [^\n]+\n    AllowedPattern`).FindAllStringSubmatch(parameters, -1) {
		if !strings.Contains(page, "`"+required[1]+"`") {
			t.Errorf("the page says nothing of %s, which must be given", required[1])
		}
	}
	for _, setting := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(read(t, "settings.md"), -1) {
		if !strings.Contains(template, "\n        "+setting[1]+": ") && !strings.Contains(page, "`"+setting[1]) {
			t.Errorf("neither the template nor the page has %s", setting[1])
		}
	}
	if alarms := fmt.Sprintf("The %d alarms", strings.Count(template, "Type: AWS::CloudWatch::Alarm")); !strings.Contains(page, alarms) {
		t.Errorf("the page does not say %q", alarms)
	}
	config := read(t, "../internal/config/cloud.go")
	for _, audience := range regexp.MustCompile("`(api://[A-Za-z]+)`").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(template, "Audience: "+audience[1]+" }") || !strings.Contains(config, `"`+audience[1]+`"`) {
			t.Errorf("%s is not in the template or in cloud.go", audience[1])
		}
	}
	policies := regexp.MustCompile(`policy (\w+) of template\.yaml`).FindAllStringSubmatch(read(t, "../internal/doctor/fixes.txt"), -1)
	if len(policies) != 1 || !strings.Contains(template, "Sid: "+policies[0][1]+" ") || !strings.Contains(page, "`"+policies[0][1]+"`") {
		t.Errorf("the template or the page has no policy of %v", policies)
	}
	log := read(t, "../internal/app/sts.go")
	for _, cause := range []string{"outbound web identity federation is not enabled in the account", "the role may not ask for this token"} {
		if !strings.Contains(page, "`"+cause+"`") || !strings.Contains(log, cause) {
			t.Errorf("the page or the program does not say %q", cause)
		}
	}
}

// elsewhere are words of AWS's own.
var elsewhere = map[string]bool{"IssuerIdentifier": true, "SignatureDoesNotMatch": true, "ExpiredToken": true, "HomePageUrl": true, "VpcConfig": true}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
