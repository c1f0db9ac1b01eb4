package functions

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The error of each has the text.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	trigger := func(route, level string) string {
		return `{"type":"httpTrigger","direction":"in","name":"req","authLevel":"` + level + `","route":"` + route + `"}`
	}
	for name, test := range map[string]struct {
		host, function, bindings string
		want                     string
	}{
		"E1: no description":                 {`{"customHandler":{}}`, "", "", "is not an executable"},
		"E1: a file without the run bit":     {strings.Replace(plainHost, `"worker"`, `"host.json"`, 1), "", "", "is not an executable"},
		"E1: no JSON":                        {`{`, "", "", "unexpected end of JSON input"},
		"E2: a name with a dot":              {plainHost, "a.b", timer, "a.b: this is no name of a function"},
		"E2: a name of 129 characters":       {plainHost, strings.Repeat("a", 129), timer, "this is no name of a function"},
		"E2: a digit at the start":           {plainHost, "1a", timer, "1a: this is no name of a function"},
		"E2: the name host":                  {plainHost, "Host", timer, "Host: this is no name of a function"},
		"E2: no binding":                     {plainHost, "a", "", "a: 0 triggers"},
		"E2: no trigger":                     {plainHost, "a", output, "a: 0 triggers"},
		"E2: two triggers":                   {plainHost, "a", trigger("a", "anonymous") + "," + timer, "a: 2 triggers"},
		"E2: a binding's name twice":         {plainHost, "a", trigger("a", "anonymous") + `,{"type":"http","direction":"out","name":"REQ"}`, `a: "REQ" is no name of a binding, or is there twice`},
		"E2: a binding's name with _":        {plainHost, "a", `{"type":"httpTrigger","name":"r_q"}`, `a: "r_q" is no name of a binding, or is there twice`},
		"E2: a binding without a name":       {plainHost, "a", `{"type":"httpTrigger"}`, `a: "" is no name of a binding, or is there twice`},
		"E2: no JSON in a function":          {plainHost, "a", "{", "invalid character"},
		"E2: routes beside functions":        {hostJSON(`,"http":{"routes":[]}`), "a", timer, "have no http.routes"},
		"E13: an HTTP function by JSON":      {plainHost, "a", trigger("a", "anonymous"), "no request by JSON"},
		"E19: a retry of another strategy":   {plainHost, "a", timer + `],"retry":{"strategy":"exponentialBackoff","maxRetryCount":1,"delayInterval":"00:00:01"},"x":[`, "a: retry: "},
		"E19: a retry without a delay":       {plainHost, "a", timer + `],"retry":{"strategy":"fixedDelay","maxRetryCount":1},"x":[`, "a: retry: "},
		"the double: neither way of passing": {`{"customHandler":{"description":{"defaultExecutablePath":"worker"}}}`, "", "", "must ask for proxying and for forwarding"},
		"the double: a key":                  {plainHost, "a", trigger("a", "function") + "," + output, "must be anonymous"},
		"the double: a parameter of a route": {plainHost, "a", trigger("a/{b}", "anonymous") + "," + output, `no route "a/{b}"`},
	} {
		functions := map[string]string{}
		if test.function != "" {
			functions[test.function] = `{"bindings":[` + test.bindings + `]}`
		}
		if _, err := load(newApp(t, test.host, functions)); err == nil || !strings.HasPrefix(err.Error(), "functions host: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want …%s…", name, err, test.want)
		}
	}
	if _, err := load(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("E1: no host.json: %v", err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := newApp(t, hostJSON(`,"unknown":1`), map[string]string{
		"Un-assign_1": echoes, strings.Repeat("a", 128): timerAlone,
		"z": `{"retry":{"strategy":"fixedDelay","maxRetryCount":3,"delayInterval":"01:02:03.5"},"bindings":[` + timer + `,{"type":"queue","direction":"out","name":"$return"}]}`,
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
	if want := []string{"Un-assign_1", strings.Repeat("a", 128), "z"}; !slices.Equal(names, want) {
		t.Errorf("E2: functions %q, want %q", names, want)
	}
	if f := a.functions[2]; a.prefix != "api" || a.executable != filepath.Join(dir, "worker") || f.retries != 3 || f.delay != 3723500*time.Millisecond {
		t.Errorf("E1, E19: %+v, %+v", a, f)
	}
}

func TestFindFunction(t *testing.T) { // E7
	t.Parallel()
	fn := func(name, route string, methods ...string) *function {
		return &function{name: name, route: route, trigger: binding{Type: "httptrigger", Methods: methods}}
	}
	a := &app{functions: []*function{
		fn("any", "{*path}", "PUT"), fn("Named", "api/Named", "post"), fn("root", ""), {name: "timer", trigger: binding{Type: "timerTrigger"}},
	}}
	for request, want := range map[string]string{ // measured
		"POST /api/named": "Named", "POST /api/named/": "Named", "POST /API/NAMED": "Named", "PUT /api/named": "any",
		"POST /named": "", "POST /api/named/x": "", "POST //api/named": "", "POST /api//named": "", "POST /api/named//": "",
		"GET /": "root", "PUT /": "root", "GET //": "", "PUT //": "", "PUT /x/y": "any", "GET /timer": "",
	} {
		got := ""
		method, path, _ := strings.Cut(request, " ")
		if f := a.findFunction(method, path); f != nil {
			got = f.name
		}
		if got != want {
			t.Errorf("%s: %q; want %q", request, got, want)
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
