package lambda

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain plays the function when this binary is started as one.
func TestMain(m *testing.M) {
	if api := os.Getenv("AWS_LAMBDA_RUNTIME_API"); api != "" {
		work("http://" + api)
	}
	os.Exit(m.Run())
}

// work is a runtime that fetches events and executes them, for ever.
func work(api string) {
	const runtimePath = "/2018-06-01/runtime/"
	post := func(path, body string) int {
		resp, err := http.Post(api+path, "application/json", strings.NewReader(body))
		if err != nil {
			os.Exit(9)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	switch os.Getenv("START") {
	case "cannot":
		fmt.Println("init/error:", post(runtimePath+"init/error", `{"errorType":"Init","errorMessage":"no settings"}`))
		if os.Getenv("STAYS") == "" {
			os.Exit(1)
		}
		select {}
	case "exits":
		os.Exit(1)
	case "hangs":
		select {}
	case "late":
		time.Sleep(300 * time.Millisecond)
	case "extension":
		resp, err := http.Post(api+"/2020-01-01/extension/register", "application/json", strings.NewReader(`{"events":[]}`))
		if err != nil {
			os.Exit(9)
		}
		fmt.Println("registered:", resp.StatusCode, resp.Header.Get("Lambda-Extension-Identifier") != "")
		go func() {
			_, _ = http.Get(api + "/2020-01-01/extension/event/next")
			fmt.Println("an event for the extension")
		}()
	}
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	for {
		resp, err := http.Get(api + runtimePath + "invocation/next")
		if err != nil {
			os.Exit(9)
		}
		event, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		id := resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
		answer := func(body string) int { return post(runtimePath+"invocation/"+id+"/response", body) }
		switch text := string(event); text {
		case `"see"`:
			deadline, _ := strconv.ParseInt(resp.Header.Get("Lambda-Runtime-Deadline-Ms"), 10, 64)
			left := time.Until(time.UnixMilli(deadline))
			seen, _ := json.Marshal(map[string]any{
				"ID": id, "Left": left, "ARN": resp.Header.Get("Lambda-Runtime-Invoked-Function-Arn"), "Trace": resp.Header.Get("Lambda-Runtime-Trace-Id"),
				"PID": os.Getpid(), "Env": os.Environ(),
			})
			answer(string(seen))
		case `"fail"`:
			post(runtimePath+"invocation/"+id+"/error", `{"errorType":"errorString","errorMessage":"it cannot be"}`)
		case `"fail without words"`:
			post(runtimePath+"invocation/"+id+"/error", `it cannot be`)
		case `"panic"`:
			post(runtimePath+"invocation/"+id+"/error", `{"errorType":"panic","errorMessage":"oh"}`)
			os.Exit(2)
		case `"answer and exit"`:
			answer(`"done"`)
			time.Sleep(20 * time.Millisecond)
			os.Exit(0)
		case `"answer twice"`:
			fmt.Println("answers:", answer(`"one"`), answer(`"two"`), post(runtimePath+"invocation/other/response", `"x"`), post(runtimePath+"init/error", `{}`))
		case `"exit"`:
			os.Exit(1)
		case `"hang"`:
			select {}
		case `"print"`:
			fmt.Println(strings.Repeat("x", 2<<20))
			answer(`"printed"`)
		default:
			answer(text)
		}
	}
}

func start(t *testing.T, o Options) *Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Binary = self
	h, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Stop)
	return h
}

func invoke(t *testing.T, h *Host, payload string) Result {
	t.Helper()
	r, err := h.Invoke(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestInvocationHasTheHeadersOfTheRuntimeAPI(t *testing.T) {
	t.Setenv("OF_THE_PARENT", "1")
	h := start(t, Options{Timeout: 20 * time.Second, Env: []string{"OWN=1", "START=late"}})
	if h.ColdStarts() != 0 || h.FirstNext() != 0 {
		t.Errorf("%d processes before the first invocation", h.ColdStarts())
	}
	ids := map[string]bool{}
	for range 3 {
		r := invoke(t, h, `"see"`)
		var seen struct {
			ID, ARN, Trace string
			Left           time.Duration
			PID            int
			Env            []string
		}
		if err := json.Unmarshal(r.Payload, &seen); err != nil {
			t.Fatal(err)
		}
		// The start, of 300 ms, does not count.
		if seen.ID != r.RequestID || seen.Left < 19800*time.Millisecond || seen.Left > 20*time.Second || !strings.HasPrefix(seen.ARN, "arn:aws:lambda:") || !strings.HasPrefix(seen.Trace, "Root=") {
			t.Errorf("the function has seen %+v of %+v", seen, r)
		}
		env := "\n" + strings.Join(seen.Env, "\n") + "\n"
		if !strings.Contains(env, "\nOWN=1\n") || !strings.Contains(env, "\nAWS_REGION=eu-west-1\n") || strings.Contains(env, "OF_THE_PARENT") {
			t.Errorf("the function has the environment %s", env)
		}
		ids[r.RequestID] = true
	}
	if len(ids) != 3 || h.ColdStarts() != 1 || h.FirstNext() < 300*time.Millisecond {
		t.Errorf("ids %v, %d cold starts, the first question after %v; want three, one and 300 ms", ids, h.ColdStarts(), h.FirstNext())
	}
}

func TestInvocationEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env, payload string
		want         Result
		coldStarts   int // when there has been an invocation after it
	}{
		"with an answer":                            {"", `{"a":1}`, Result{Payload: []byte(`{"a":1}`)}, 1},
		"with an error":                             {"", `"fail"`, Result{Error: &Error{"errorString", "it cannot be"}}, 1},
		"with an error that is no JSON":             {"", `"fail without words"`, Result{Error: &Error{}}, 1},
		"with an error and the process":             {"", `"panic"`, Result{Error: &Error{"panic", "oh"}}, 2},
		"with an answer, and then the process":      {"", `"answer and exit"`, Result{Payload: []byte(`"done"`)}, 2},
		"with the process":                          {"", `"exit"`, Result{Exited: true}, 2},
		"by time, and the process is killed":        {"", `"hang"`, Result{TimedOut: true}, 2},
		"with a start that ends the process":        {"START=exits", `1`, Result{Exited: true}, 2},
		"with a start that takes too long":          {"START=hangs", `1`, Result{TimedOut: true}, 2},
		"with init/error":                           {"START=cannot", `1`, Result{Error: &Error{"Init", "no settings"}, Exited: true}, 2},
		"with init/error of a process that remains": {"START=cannot STAYS=1", `1`, Result{Error: &Error{"Init", "no settings"}, Exited: true}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, Options{Timeout: 400 * time.Millisecond, Init: 3 * time.Second, Env: strings.Fields(test.env)})
			r := invoke(t, h, test.payload)
			test.want.RequestID = r.RequestID
			if r.RequestID == "" || !reflect.DeepEqual(r, test.want) {
				t.Errorf("%+v, want %+v", r, test.want)
			}
			if r := invoke(t, h, `"next"`); test.env == "" && string(r.Payload) != `"next"` {
				t.Errorf("the next invocation ends with %+v", r)
			}
			if h.ColdStarts() != test.coldStarts {
				t.Errorf("%d cold starts, want %d", h.ColdStarts(), test.coldStarts)
			}
			h.Stop()
			if text := strings.Join(h.Lines(), "\n"); strings.HasPrefix(test.env, "START=cannot") && !strings.HasPrefix(text, "init/error: 202") {
				t.Errorf("the function has printed %s", text)
			}
		})
	}
}

func TestRuntimeAPIRefusesWhatIsNotDue(t *testing.T) {
	t.Parallel()
	h := start(t, Options{})
	if r := invoke(t, h, `"answer twice"`); string(r.Payload) != `"one"` {
		t.Errorf("%+v; want the first answer", r)
	}
	h.invokeNothing(t)
	h.Stop()
	if lines := h.Lines(); lines[len(lines)-1] != "answers: 202 400 400 403" {
		t.Errorf("the function has printed %q", lines)
	}
}

// invokeNothing returns when the function has come back for another event.
func (h *Host) invokeNothing(t *testing.T) {
	t.Helper()
	if r := invoke(t, h, `"nothing"`); string(r.Payload) != `"nothing"` {
		t.Errorf("%+v", r)
	}
}

func TestExtensionsHaveNoEvents(t *testing.T) {
	t.Parallel()
	h := start(t, Options{Env: []string{"START=extension"}})
	h.invokeNothing(t)
	if lines := h.Lines(); !reflect.DeepEqual(lines, []string{"registered: 200 true", "to stdout", "to stderr"}) {
		t.Errorf("the function has printed %q", lines)
	}
}

func TestLinesAreOfBothStreams(t *testing.T) {
	t.Parallel()
	h := start(t, Options{})
	invoke(t, h, `"print"`)
	h.Stop()
	if want := []string{"to stdout", "to stderr", strings.Repeat("x", 2<<20)}; !reflect.DeepEqual(h.Lines(), want) {
		t.Errorf("%.200q; want two lines and a long one", h.Lines())
	}
}

func TestInvokeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, env := range []string{"START=hangs", "START="} {
		h := start(t, Options{Env: []string{env}})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := h.Invoke(ctx, []byte(`"hang"`))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", env, err)
		}
	}
}

func TestStopLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	h := start(t, Options{Env: []string{"START=extension"}})
	h.invokeNothing(t)
	pid := h.process.cmd.Process.Pid
	ended := make(chan Result, 1)
	go func() {
		r, _ := h.Invoke(context.Background(), []byte(`"hang"`))
		ended <- r
	}()
	time.Sleep(100 * time.Millisecond)
	h.Stop()
	h.Stop() // once more is as well
	if r := <-ended; !r.Exited {
		t.Errorf("the invocation under way ends with %+v", r)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", pid, err)
	}
	if _, err := h.Invoke(t.Context(), nil); err == nil || h.ColdStarts() != 1 {
		t.Errorf("an invocation after Stop: %v, %d cold starts", err, h.ColdStarts())
	}
	for begin := time.Now(); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestStartOfNoProgram(t *testing.T) {
	t.Parallel()
	h, err := Start(t.Context(), Options{Binary: "/no/such/program"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Stop()
	if _, err := h.Invoke(t.Context(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	const refused = `{"message":"Internal Server Error"}`
	asJSON := http.Header{"Content-Type": {"application/json"}}
	for name, test := range map[string]struct {
		result Result
		want   Answer
		ok     bool
	}{
		"a status and a body":       {Result{Payload: []byte(`{"statusCode":404,"headers":{"x-own":"1","content-type":"a/b"},"body":"b"}`)}, Answer{404, http.Header{"X-Own": {"1"}, "Content-Type": {"a/b"}}, []byte("b")}, true},
		"a status alone":            {Result{Payload: []byte(`{"statusCode":204}`)}, Answer{204, http.Header{}, []byte("")}, true},
		"base64":                    {Result{Payload: []byte(`{"statusCode":200,"body":"/w==","isBase64Encoded":true}`)}, Answer{200, http.Header{}, []byte{0xff}}, true},
		"cookies":                   {Result{Payload: []byte(`{"statusCode":200,"cookies":["a=1","b=2"]}`)}, Answer{200, http.Header{"Set-Cookie": {"a=1", "b=2"}}, []byte("")}, true},
		"no status":                 {Result{Payload: []byte(`{"code":"done"}`)}, Answer{200, asJSON, []byte(`{"code":"done"}`)}, true},
		"a text":                    {Result{Payload: []byte(`"done"`)}, Answer{200, asJSON, []byte(`"done"`)}, true},
		"no JSON":                   {Result{Payload: []byte(`done`)}, Answer{500, asJSON, []byte(refused)}, false},
		"an empty reply":            {Result{Payload: []byte{}}, Answer{500, asJSON, []byte(refused)}, false},
		"a status that is a text":   {Result{Payload: []byte(`{"statusCode":"abc"}`)}, Answer{500, asJSON, []byte(refused)}, false},
		"a status of no meaning":    {Result{Payload: []byte(`{"statusCode":99}`)}, Answer{500, asJSON, []byte(refused)}, false},
		"a body that is an object":  {Result{Payload: []byte(`{"statusCode":200,"body":{}}`)}, Answer{500, asJSON, []byte(refused)}, false},
		"base64 that is none":       {Result{Payload: []byte(`{"statusCode":200,"body":"%","isBase64Encoded":true}`)}, Answer{500, asJSON, []byte(refused)}, false},
		"an error of the function":  {Result{Error: &Error{"a", "b"}}, Answer{500, asJSON, []byte(refused)}, false},
		"no answer within the time": {Result{TimedOut: true}, Answer{500, asJSON, []byte(refused)}, false},
		"an end of the process":     {Result{Exited: true}, Answer{500, asJSON, []byte(refused)}, false},
	} {
		got, err := ReadAnswer(test.result)
		if (err == nil) != test.ok || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v %q, %v; want %v", name, got, got.Body, err, test.want)
		}
	}
}

func TestEvent(t *testing.T) {
	t.Parallel()
	header := http.Header{"X-Own": {"1", "2"}, "Cookie": {"a=1; b=2"}, "User-Agent": {"caller/1"}}
	for name, test := range map[string]struct {
		body   []byte
		base64 bool
		want   map[string]any // of the parts that differ
	}{
		"a text":              {[]byte(`{"a":1}`), false, map[string]any{"body": `{"a":1}`, "isBase64Encoded": false}},
		"bytes":               {[]byte{0xff, 0}, true, map[string]any{"body": "/wA=", "isBase64Encoded": true}},
		"no body":             {nil, false, map[string]any{"isBase64Encoded": false}},
		"no body, for base64": {nil, true, map[string]any{"isBase64Encoded": false}},
	} {
		text, err := Event(http.MethodPost, "/api/unassign?a=1&a=%20", header, test.body, test.base64)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(&got); err != nil {
			t.Fatal(err)
		}
		request, _ := got["requestContext"].(map[string]any)["http"].(map[string]any)
		delete(got, "requestContext")
		want := map[string]any{
			"version": "2.0", "routeKey": "ANY /api/unassign", "rawPath": "/api/unassign", "rawQueryString": "a=1&a=%20", "cookies": []any{"a=1", "b=2"},
			"headers": map[string]any{"x-own": "1,2", "user-agent": "caller/1"},
		}
		maps.Copy(want, test.want)
		if !reflect.DeepEqual(got, want) || request["method"] != "POST" || request["path"] != "/api/unassign" {
			t.Errorf("%s: %s", name, text)
		}
	}
}
