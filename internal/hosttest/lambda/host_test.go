package lambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	case "exits":
		os.Exit(1)
	case "hangs":
		select {}
	case "late":
		time.Sleep(300 * time.Millisecond)
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
			fmt.Println("answers:", answer(`"one"`), answer(`"two"`), post(runtimePath+"invocation/other/response", `"x"`))
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
	if len(ids) != 3 || h.FirstNext() < 300*time.Millisecond {
		t.Errorf("ids %v, the first question after %v; want three and 300 ms", ids, h.FirstNext())
	}
}

func TestInvocationEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		payload string
		want    Result
		err     string // of this invocation or, after a result, of the next one
	}{
		"with an answer":                       {`{"a":1}`, Result{Payload: []byte(`{"a":1}`)}, ""},
		"with an error":                        {`"fail"`, Result{Error: &Error{"errorString", "it cannot be"}}, ""},
		"with an error that is no JSON":        {`"fail without words"`, Result{Error: &Error{}}, ""},
		"with an error and the process":        {`"panic"`, Result{Error: &Error{"panic", "oh"}}, "the process has ended: exit status 2"},
		"with an answer, and then the process": {`"answer and exit"`, Result{Payload: []byte(`"done"`)}, "the process has ended: exit status 0"},
		"with the process":                     {`"exit"`, Result{}, "the process has ended: exit status 1: to std"},
		"by time, and the process is killed":   {`"hang"`, Result{}, "the invocation took more than 400ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, Options{Timeout: 400 * time.Millisecond})
			r, err := h.Invoke(t.Context(), []byte(test.payload))
			if test.want.RequestID = r.RequestID; !reflect.DeepEqual(r, test.want) || (err != nil) != (r.RequestID == "") {
				t.Errorf("%+v, %v; want %+v", r, err, test.want)
			}
			if err == nil {
				_, err = h.Invoke(t.Context(), []byte(`"next"`))
			}
			if got := fmt.Sprint(err); (err != nil) != (test.err != "") || !strings.Contains(got, test.err) {
				t.Errorf("%v, want %s", err, test.err)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		o    Options
		want string
	}{
		"no program":                {t.Context(), Options{Binary: "/no/such/program"}, "no such file"},
		"a process that ends":       {t.Context(), Options{Binary: self, Env: []string{"START=exits"}}, "exit status 1"},
		"a process that never asks": {short, Options{Binary: self, Env: []string{"START=hangs"}}, "deadline exceeded"},
	} {
		h, err := Start(t.Context(), test.o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Invoke(test.ctx, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		h.Stop()
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
	if lines := h.Lines(); lines[len(lines)-1] != "answers: 202 400 400" {
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
	h := start(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := h.Invoke(ctx, []byte(`"hang"`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	h := start(t, Options{})
	h.invokeNothing(t)
	pid := h.PID()
	ended := make(chan error, 1)
	go func() {
		_, err := h.Invoke(context.Background(), []byte(`"hang"`))
		ended <- err
	}()
	time.Sleep(100 * time.Millisecond)
	h.Stop()
	h.Stop() // once more is as well
	if err := <-ended; err == nil {
		t.Error("the invocation under way has succeeded")
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", pid, err)
	}
	if _, err := h.Invoke(t.Context(), nil); err == nil {
		t.Error("an invocation after Stop has succeeded")
	}
	for begin := time.Now(); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]Answer{
		`{"statusCode":404,"headers":{"x-own":"1","content-type":"a/b"},"body":"b"}`: {404, http.Header{"X-Own": {"1"}, "Content-Type": {"a/b"}}, []byte("b")},
		`{"statusCode":204}`: {204, http.Header{}, []byte("")},
		`{"statusCode":200,"body":"/w==","isBase64Encoded":true}`: {},
		`{"statusCode":200,"cookies":["a=1","b=2"]}`:              {},
		`{"code":"done"}`:              {},
		`done`:                         {},
		``:                             {},
		`{"statusCode":"abc"}`:         {},
		`{"statusCode":99}`:            {},
		`{"statusCode":200,"body":{}}`: {},
	} {
		got, err := ReadAnswer(Result{Payload: []byte(reply)})
		if (err == nil) != (want.Status != 0) || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v %q, %v; want %v", reply, got, got.Body, err, want)
		}
	}
}

func TestEvent(t *testing.T) {
	t.Parallel()
	header := http.Header{"X-Own": {"1", "2"}, "User-Agent": {"caller/1"}}
	for body, want := range map[string]any{`{"a":1}`: `{"a":1}`, "": nil} {
		text, err := Event(http.MethodPost, "/api/unassign?a=1&a=%20", header, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		request, _ := got["requestContext"].(map[string]any)["http"].(map[string]any)
		delete(got, "requestContext")
		all := map[string]any{
			"version": "2.0", "routeKey": "ANY /api/unassign", "rawPath": "/api/unassign", "rawQueryString": "a=1&a=%20",
			"headers": map[string]any{"x-own": "1,2", "user-agent": "caller/1"}, "isBase64Encoded": false,
		}
		if want != nil {
			all["body"] = want
		}
		if !reflect.DeepEqual(got, all) || request["method"] != "POST" || request["path"] != "/api/unassign" {
			t.Errorf("%s", text)
		}
	}
}
