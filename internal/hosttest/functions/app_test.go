package functions

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestLoadRefusesWhatTheHostRefuses(t *testing.T) {
	t.Parallel()
	const (
		get = `{"type":"httpTrigger","direction":"in","name":"req"}`
		ok  = `{"bindings":[` + get + `,` + output + `]}`
	)
	for name, test := range map[string]struct {
		host      string
		functions map[string]string
		want      string
	}{
		"E1: no description":           {`{"customHandler":{}}`, nil, "host.json has no customHandler.description.defaultExecutablePath"},
		"E1: an empty path":            {`{"customHandler":{"description":{"defaultExecutablePath":""}}}`, nil, "host.json has no customHandler.description.defaultExecutablePath"},
		"E1: no JSON":                  {`{`, nil, "unexpected end of JSON input"},
		"E2: a name with a dot":        {hostJSON(""), map[string]string{"a.b": ok}, `"a.b" is no name of a function`},
		"E2: a name of 129 characters": {hostJSON(""), map[string]string{strings.Repeat("a", 129): ok}, "is no name of a function"},
		"E2: a digit at the start":     {hostJSON(""), map[string]string{"1a": ok}, `"1a" is no name of a function`},
		"E2: the name host":            {hostJSON(""), map[string]string{"Host": ok}, `"Host" is no name of a function`},
		"E2: no binding":               {hostJSON(""), map[string]string{"a": `{"bindings":[]}`}, "a has 0 triggers"},
		"E2: no trigger":               {hostJSON(""), map[string]string{"a": `{"bindings":[` + output + `]}`}, "a has 0 triggers"},
		"E2: two triggers":             {hostJSON(""), map[string]string{"a": `{"bindings":[` + get + `,` + timer + `]}`}, "a has 2 triggers"},
		"E2: a binding's name twice":   {hostJSON(""), map[string]string{"a": `{"bindings":[` + get + `,{"type":"http","direction":"out","name":"REQ"}]}`}, `a: "REQ" is no name of a binding, or is there twice`},
		"E2: a binding's name with _":  {hostJSON(""), map[string]string{"a": `{"bindings":[{"type":"httpTrigger","name":"r_q"}]}`}, `a: "r_q" is no name of a binding, or is there twice`},
		"E2: a binding without a name": {hostJSON(""), map[string]string{"a": `{"bindings":[{"type":"httpTrigger"}]}`}, `a: "" is no name of a binding, or is there twice`},
		"E2: no JSON":                  {hostJSON(""), map[string]string{"a": `[]`}, "cannot unmarshal"},
		"E2: routes beside functions":  {hostJSON(`,"http":{"routes":[]}`), map[string]string{"a": ok}, "both function.json files and customHandler.http.routes"},
		"E19: a retry of no strategy":  {hostJSON(""), map[string]string{"a": `{"retry":{"maxRetryCount":1,"delayInterval":"00:00:01"},"bindings":[` + timer + `]}`}, `a: retry: "" is no strategy`},
		"E19: a retry without a delay": {hostJSON(""), map[string]string{"a": `{"retry":{"strategy":"fixedDelay","maxRetryCount":1},"bindings":[` + timer + `]}`}, "a: retry: parsing time"},
		"E19: a back-off without one":  {hostJSON(""), map[string]string{"a": `{"retry":{"strategy":"exponentialBackoff","maxRetryCount":1,"minimumInterval":"00:00:01"},"bindings":[` + timer + `]}`}, "a: retry: parsing time"},
	} {
		if _, err := load(newApp(t, test.host, test.functions)); err == nil || !strings.HasPrefix(err.Error(), "functions host: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want …%s…", name, err, test.want)
		}
	}
	if _, err := load(t.TempDir()); err == nil || !os.IsNotExist(unwrap(err)) {
		t.Errorf("E1: no host.json: %v", err)
	}
}

func unwrap(err error) error {
	if inner, ok := err.(interface{ Unwrap() error }); ok {
		return inner.Unwrap()
	}
	return err
}

func TestLoadTakesWhatTheHostTakes(t *testing.T) {
	t.Parallel()
	dir := newApp(t, hostJSON(proxying+`,"http":null,"unknown":1`), map[string]string{
		"Un-assign_1": echoes, strings.Repeat("a", 128): timerAlone,
		"z": `{"bindings":[` + timer + `,{"type":"queue","direction":"out","name":"$return"}]}`,
	})
	if err := os.Mkdir(filepath.Join(dir, "1.not a function"), 0o700); err != nil { // E2: a folder without function.json is none
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "README"), "a file")
	a, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range a.functions {
		names = append(names, f.name)
	}
	if want := []string{"Un-assign_1", strings.Repeat("a", 128), "z"}; !reflect.DeepEqual(names, want) {
		t.Errorf("E2: functions %q, want %q", names, want)
	}
	if !a.proxying || !a.forwarding || a.prefix != "api" || a.executable != filepath.Join(dir, "worker") {
		t.Errorf("E1: %+v", a)
	}
	// E1: a name that is no file in the folder is left to PATH, and an absolute path is itself.
	for path, want := range map[string]string{"sh": "sh", filepath.Join(dir, "worker"): filepath.Join(dir, "worker")} {
		write(t, filepath.Join(dir, "host.json"), `{"customHandler":{"description":{"defaultExecutablePath":"`+path+`"}}}`)
		if a, err := load(dir); err != nil || a.executable != want {
			t.Errorf("E1: %s: %+v, %v; want %s", path, a, err, want)
		}
	}
}

func TestRouteFollowsTemplates(t *testing.T) { // E7
	t.Parallel()
	fn := func(name, route string, methods ...string) *function {
		return &function{name: name, trigger: binding{Type: "httptrigger", Route: route, Methods: methods}}
	}
	a := &app{prefix: "api", functions: []*function{
		fn("any", "files/{*rest}"), fn("Named", ""), fn("device", "devices/{id:guid}", "get"), fn("literal", "devices/all"),
		fn("opt", "opt/{x?}"),
		{name: "timer", trigger: binding{Type: "timerTrigger"}},
	}}
	for name, test := range map[string]struct {
		method, path, want string
		params             map[string]string
	}{
		"no route: the name":             {"POST", "/api/named", "Named", map[string]string{}},
		"a slash at the end":             {"POST", "/api/named/", "Named", map[string]string{}},
		"another case":                   {"POST", "/API/NAMED", "Named", map[string]string{}},
		"no prefix":                      {"POST", "/named", "", nil},
		"more behind":                    {"POST", "/api/named/x", "", nil},
		"two slashes at the start":       {"POST", "//api/named", "", nil},
		"two slashes inside":             {"POST", "/api//named", "", nil},
		"two slashes at the end":         {"POST", "/api/named//", "", nil},
		"a parameter":                    {"GET", "/api/devices/7", "device", map[string]string{"id": "7"}},
		"a parameter, the wrong method":  {"POST", "/api/devices/7", "", nil},
		"a parameter that is left out":   {"GET", "/api/devices/", "", nil},
		"literal before parameter":       {"GET", "/api/devices/all", "literal", map[string]string{}},
		"all that is left":               {"PUT", "/api/files/a/b", "any", map[string]string{"rest": "a/b"}},
		"an optional one that is absent": {"GET", "/api/opt", "opt", map[string]string{"x": ""}},
		"a timer has no route":           {"GET", "/api/timer", "", nil},
	} {
		got := ""
		f, params := a.route(test.method, test.path)
		if f != nil {
			got = f.name
		}
		if got != test.want || !reflect.DeepEqual(params, test.params) {
			t.Errorf("%s: %q, %v; want %q, %v", name, got, params, test.want, test.params)
		}
	}
	a.prefix = ""
	if f, _ := a.route("GET", "/named"); f == nil || f.name != "Named" {
		t.Errorf("an empty prefix: %v", f)
	}
	for route, paths := range map[string]map[string]bool{ // measured
		"/":       {"/": true, "//": false, "/x": false},
		"{*path}": {"/": true, "//": false, "/x": true, "/x/y": true, "/queue": true},
	} {
		a.functions = []*function{fn("root", route)}
		for path, want := range paths {
			if f, _ := a.route("POST", path); (f != nil) != want {
				t.Errorf("route %s takes %s: %v", route, path, !want)
			}
		}
	}
}

func TestNormalPath(t *testing.T) { // E7
	t.Parallel()
	for escaped, want := range map[string]string{
		"/api/../api/unassign": "/api/unassign", "/./queue": "/queue", "/%71ueue": "/queue", "/api/%2e%2E/queue": "/queue", "/a/..": "/", "/a/.": "/a/",
		"/queue%2f": "/queue%2f", "/a%2Fb%20c": "/a%2Fb c", "/../..": "/", "//api": "//api", "/api/": "/api/", "/%zz": "/%zz", "/": "/",
		"/api%2f..%2fqueue": "/api%2f..%2fqueue",
	} {
		if got := normalPath(escaped); got != want {
			t.Errorf("%s: %s, want %s", escaped, got, want)
		}
	}
	if got := encodePath("/a%2Fb c/é"); got != "/a%2Fb%20c/%C3%A9" {
		t.Errorf("encoded: %s", got)
	}
}

func TestRetryDelays(t *testing.T) { // E19
	t.Parallel()
	for name, test := range map[string]struct {
		retry string
		want  []time.Duration
	}{
		"fixed":             {`{"strategy":"fixedDelay","maxRetryCount":3,"delayInterval":"01:02:03.5"}`, []time.Duration{3723500 * time.Millisecond, 3723500 * time.Millisecond}},
		"backing off, to 5": {`{"strategy":"exponentialBackoff","maxRetryCount":3,"minimumInterval":"00:00:01","maximumInterval":"00:00:05"}`, []time.Duration{1e9, 2e9, 4e9, 5e9, 5e9}},
	} {
		a, err := load(newApp(t, hostJSON(""), map[string]string{"a": `{"retry":` + test.retry + `,"bindings":[` + timer + `]}`}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, want := range test.want {
			if got := a.functions[0].delay(i + 1); got != want {
				t.Errorf("%s: %v before retry %d, want %v", name, got, i+1, want)
			}
		}
	}
}
