package infra_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// recorded are the names that docs/operations.md says the audit record and the record of a sweep have.
func recorded(t *testing.T) map[string]bool {
	t.Helper()
	_, section, ok := strings.Cut(read(t, "../docs/operations.md"), "\n## Audit record\n")
	if !ok {
		t.Fatal("docs/operations.md has no section on the audit record")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(section, -1) {
		names[m[1]] = true
	}
	return names
}

// The queries of the dashboard go by members that the records have. TestBicepQueries does the same for Azure.
func TestDashboardQueries(t *testing.T) {
	var parsed struct {
		Resources struct {
			Dashboard struct {
				Properties struct {
					DashboardBody string `yaml:"DashboardBody"`
				} `yaml:"Properties"`
			} `yaml:"Dashboard"`
		} `yaml:"Resources"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../template.yaml")), &parsed); err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Widgets []struct {
			Type       string
			Properties struct{ Title, Query string }
		}
	}
	body := regexp.MustCompile(`\$\{[A-Za-z.:]+\}`).ReplaceAllString(parsed.Resources.Dashboard.Properties.DashboardBody, "x")
	if err := json.Unmarshal([]byte(body), &dashboard); err != nil {
		t.Fatalf("the body of the CloudWatch dashboard: %v", err)
	}
	queries := map[string]string{}
	for _, w := range dashboard.Widgets {
		if w.Type == "log" {
			queries["CloudWatch: "+w.Properties.Title] = w.Properties.Query
		}
	}
	if len(queries) < 5 {
		t.Errorf("there are %d queries: %v", len(queries), slices.Sorted(maps.Keys(queries)))
	}
	names := recorded(t)
	word := regexp.MustCompile(`\br\.([a-z_]+)|\b([a-z]+(?:_[a-z]+)+|code|status|outcome|reference|attempts|inventory|matching|succeeded|failed)\b`)
	own := []string{"parse_json", "message"} // KQL's, and the member that tells the records apart
	for title, query := range queries {
		found := 0
		for _, m := range word.FindAllStringSubmatch(query, -1) {
			name := m[1] + m[2]
			if slices.Contains(own, name) {
				continue
			}
			found++
			if !names[name] {
				t.Errorf("%s asks for %s, which no record has", title, name)
			}
		}
		if found == 0 {
			t.Errorf("%s asks for nothing: %s", title, query)
		}
	}
}
