package functions

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// invocation is the payload that the worker receives.
type invocation struct {
	Data     map[string]any
	Metadata map[string]any
}

// reply answers 200 with a JSON text.
func reply(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = io.WriteString(w, text)
}

// invoked is the worker's handler for an invocation.
func invoked(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var in invocation
	_ = json.Unmarshal(body, &in)
	what, _ := in.Data["do"].(string)
	if req, ok := in.Data["req"].(map[string]any); ok {
		query, _ := req["Query"].(map[string]any)
		what, _ = query["do"].(string)
	}
	switch what {
	case "see":
		seen := map[string]any{
			"ReturnValue": map[string]any{
				"Method": r.Method, "URI": r.RequestURI, "Host": r.Host, "Header": r.Header, "Chunked": slices.Contains(r.TransferEncoding, "chunked"),
				"Body": json.RawMessage(body),
			},
		}
		text, _ := json.Marshal(seen)
		reply(w, string(text))
	case "echo request":
		text, _ := json.Marshal(map[string]any{"Outputs": map[string]any{"res": map[string]any{
			"statusCode": "201", "headers": map[string]string{"X-Answer": "1"}, "body": in.Data["req"],
		}}})
		reply(w, string(text))
	case "retry":
		retry, _ := in.Metadata["RetryContext"].(map[string]any)
		text, _ := json.Marshal(retry)
		fmt.Printf("%s %s %s\n", time.Now().Format(time.RFC3339Nano), r.Header.Get(headerInvocationID), text)
		if retry["RetryCount"] != in.Data["succeed at"] {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		reply(w, `{}`)
	case "redirect 302":
		http.Redirect(w, r, "/moved", http.StatusFound)
	case "redirect 307":
		http.Redirect(w, r, "/moved", http.StatusTemporaryRedirect)
	case "500":
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"Logs":["lost"]}`)
	case "answer":
		if media, _ := in.Data["type"].(string); media != "" {
			w.Header().Set("Content-Type", media)
		} else {
			w.Header()["Content-Type"] = nil
		}
		status, _ := in.Data["status"].(float64)
		if text, _ := in.Data["text"].(string); status == http.StatusNoContent {
			w.WriteHeader(http.StatusNoContent)
		} else {
			if in.Data["chunked"] == true {
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = io.WriteString(w, text)
		}
	case "hang":
		fmt.Println("asked")
		<-r.Context().Done()
	case "hang in the answer":
		fmt.Println("asked")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case "pid":
		fmt.Println("begins")
		time.Sleep(50 * time.Millisecond)
		fmt.Println("ends")
		reply(w, fmt.Sprintf(`{"ReturnValue":%d}`, os.Getpid()))
	}
}

func TestInvocationIsSentAsTheHostSendsIt(t *testing.T) { // E13, E14
	t.Parallel()
	for name, test := range map[string]struct {
		sized bool
		data  string
	}{
		"E13: chunked, no status yet":             {false, `{"timer":{"Schedule":{"AdjustForDST":true},"ScheduleStatus":null,"IsPastDue":false},"do":"see"}`},
		"E13: with a length, as under Core Tools": {true, `{"timer":{"ScheduleStatus":null,"IsPastDue":true},"do":"see"}`},
		"E14: before the first run":               {false, `{"timer":{"ScheduleStatus":{"Last":"0001-01-01T00:00:00","Next":"2026-11-23T02:00:00+00:00","LastUpdated":"0001-01-01T00:00:00"},"IsPastDue":true},"do":"see"}`},
		"E14: unknown members":                    {false, `{"timer":{"Unknown":{"a":[1]}},"do":"see"}`},
	} {
		h := mustStart(t, "listens", Options{CoreTools: test.sized})
		var data map[string]any
		if err := json.Unmarshal([]byte(test.data), &data); err != nil {
			t.Fatal(err)
		}
		result, err := h.Invoke(t.Context(), "sweep", data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text, _ := json.Marshal(result.ReturnValue)
		var got struct {
			Method, URI, Host string
			Header            http.Header
			Chunked           bool
			Body              invocation
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if got.Method != http.MethodPost || got.URI != "/sweep" || got.Host != fmt.Sprintf("127.0.0.1:%d", h.port) || got.Chunked == test.sized {
			t.Errorf("%s: the worker has seen %+v", name, got)
		}
		got.Header.Del("Accept-Encoding")
		got.Header.Del("Content-Length")
		want := http.Header{
			"Content-Type": {"application/json; charset=utf-8"}, "User-Agent": {"Azure-Functions-Host/" + hostVersion},
			headerHostVersion: {hostVersion}, headerInvocationID: {h.InvocationID()},
		}
		if !reflect.DeepEqual(got.Header, want) {
			t.Errorf("%s: headers %v, want %v", name, got.Header, want)
		}
		sys, _ := got.Body.Metadata["sys"].(map[string]any)
		_, notUTC := time.Parse(time.RFC3339Nano, fmt.Sprint(sys["UtcNow"]))
		if !reflect.DeepEqual(got.Body.Data, data) || len(got.Body.Metadata) != 1 || sys["MethodName"] != "sweep" || notUTC != nil || !isGUID(fmt.Sprint(sys["RandGuid"])) {
			t.Errorf("%s: the worker has got %v; want %v, and no RetryContext", name, got.Body, data)
		}
	}
}

func TestInvocationHasTheMetadataOfItsTrigger(t *testing.T) { // E13
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	result, err := h.InvokeWith(t.Context(), "sweep", map[string]any{"do": "see"}, map[string]any{"DequeueCount": "2", "sys": "forged"})
	if err != nil {
		t.Fatal(err)
	}
	seen, _ := result.ReturnValue.(map[string]any)
	body, _ := seen["Body"].(map[string]any)
	metadata, _ := body["Metadata"].(map[string]any)
	if sys, ok := metadata["sys"].(map[string]any); !ok || sys["MethodName"] != "sweep" || metadata["DequeueCount"] != "2" || len(metadata) != 2 {
		t.Errorf("the worker has got %v", seen)
	}
}

func TestInvocationFollowsRedirectsOnlyWithoutForwarding(t *testing.T) { // E15
	t.Parallel()
	for more, want := range map[string]map[string]string{
		"":       {"redirect 302": "GET with 0 bytes", "redirect 307": "POST with "},
		proxying: {"redirect 302": "302 Found", "redirect 307": "307 Temporary Redirect"},
	} {
		h := mustStart(t, "listens", Options{AppDir: newApp(t, hostJSON(more), map[string]string{"sweep": timerAlone})})
		for what, text := range want {
			result, err := h.Invoke(t.Context(), "sweep", map[string]any{"do": what})
			if got := fmt.Sprint(result.ReturnValue, err); !strings.Contains(got, text) || strings.Contains(got, "POST with 0 bytes") || (err == nil) != (more == "") {
				t.Errorf("%s, %s: %s; want %s", more, what, got, text)
			}
		}
	}
}

func TestInvocationEndsByItsAnswer(t *testing.T) { // E16, E17, E18
	t.Parallel()
	h := mustStart(t, "listens", Options{AppDir: newApp(t, hostJSON(proxying), map[string]string{
		"sweep": `{"bindings":[` + timer + `,{"type":"queue","direction":"out","name":"out"},{"type":"blob","direction":"in","name":"in"}]}`,
	})})
	const (
		media   = "functions host: unsupported media type "
		invalid = "functions host: invalid HttpResponseMessage: "
	)
	for name, test := range map[string]struct {
		answer map[string]any
		want   Result
		err    string
	}{
		"E16: an empty object":                  {map[string]any{"type": "application/json", "text": `{}`}, Result{}, ""},
		"E16: text/json":                        {map[string]any{"type": "text/json", "text": `{}`}, Result{}, ""},
		"E16: nulls":                            {map[string]any{"type": "application/json", "text": `{"Outputs":null,"Logs":null,"ReturnValue":null}`}, Result{}, ""},
		"E16: names in another case":            {map[string]any{"type": "application/json", "text": `{"returnvalue":1,"LOGS":["a"]}`}, Result{ReturnValue: 1.0, Logs: []string{"a"}}, ""},
		"E16: unknown members":                  {map[string]any{"type": "application/json", "text": `{"Attempts":7,"x":1}`}, Result{}, ""},
		"E16: no Content-Type":                  {map[string]any{"text": `{}`}, Result{}, media + `""`},
		"E16: text/plain":                       {map[string]any{"type": "text/plain; charset=utf-8", "text": `{}`}, Result{}, media + `"text/plain; charset=utf-8"`},
		"E16: no JSON":                          {map[string]any{"type": "application/json", "text": `done`}, Result{}, invalid},
		"E16: an array":                         {map[string]any{"type": "application/json", "text": `[]`}, Result{}, invalid},
		"E16: a text in place of Outputs":       {map[string]any{"type": "application/json", "text": `{"Outputs":"x"}`}, Result{}, invalid},
		"E16: a text in place of Logs":          {map[string]any{"type": "application/json", "text": `{"Logs":"x"}`}, Result{}, invalid},
		"E16: a null of another type":           {map[string]any{"type": "text/plain", "text": `null`}, Result{}, media + `"text/plain"`},
		"E17: no body":                          {map[string]any{"type": "application/json"}, Result{}, errHang.Error()},
		"E17: no body, no Content-Type":         {map[string]any{}, Result{}, errHang.Error()},
		"E17: no body, chunked":                 {map[string]any{"type": "application/json", "chunked": true}, Result{}, errHang.Error()},
		"E17: 204":                              {map[string]any{"status": 204}, Result{}, errHang.Error()},
		"E17: null":                             {map[string]any{"type": "application/json", "text": " null\n"}, Result{}, errHang.Error()},
		"E18: base64 becomes bytes":             {map[string]any{"type": "application/json", "text": `{"Outputs":{"out":"abcd"},"ReturnValue":"abcd"}`}, Result{Outputs: map[string]any{"out": []byte{0x69, 0xb7, 0x1d}}, ReturnValue: []byte{0x69, 0xb7, 0x1d}}, ""},
		"E18: other texts stay":                 {map[string]any{"type": "application/json", "text": `{"Outputs":{"out":"abc"}}`}, Result{Outputs: map[string]any{"out": "abc"}}, ""},
		"E18: objects stay":                     {map[string]any{"type": "application/json", "text": `{"Outputs":{"out":{"a":"abcd"}}}`}, Result{Outputs: map[string]any{"out": map[string]any{"a": "abcd"}}}, ""},
		"E18: what is no output binding is not": {map[string]any{"type": "application/json", "text": `{"Outputs":{"in":1,"timer":2,"x":3}}`}, Result{Outputs: map[string]any{}}, ""},
	} {
		test.answer["do"] = "answer"
		result, err := h.Invoke(t.Context(), "sweep", test.answer)
		test.want.Attempts = 1
		if (err == nil) != (test.err == "") || (err != nil && !strings.HasPrefix(err.Error(), test.err)) || !reflect.DeepEqual(result, test.want) {
			t.Errorf("%s: %+v, %v; want %+v, %s", name, result, err, test.want, test.err)
		}
	}
	if _, err := h.Invoke(t.Context(), "sweep", map[string]any{"do": "500"}); err == nil || err.Error() != "functions host: response status code does not indicate success: 500 Internal Server Error" {
		t.Errorf("E16: a 500: %v", err)
	}
	if _, err := h.Invoke(t.Context(), "sweeper", nil); err == nil {
		t.Error("a function that is not there was invoked")
	}
	// E18: the log has the logs of a successful invocation by its id; a failed one loses its logs.
	if _, err := h.Invoke(t.Context(), "sweep", map[string]any{"do": "answer", "type": "application/json", "text": `{"Logs":["one","two"]}`}); err != nil {
		t.Fatal(err)
	}
	var logs []Line
	for _, line := range h.Lines() {
		if line.InvocationID == h.InvocationID() || line.Text == "lost" {
			logs = append(logs, line)
		}
	}
	id := h.InvocationID()
	if want := []Line{{"Information", "one", "Function", id}, {"Information", "two", "Function", id}}; !reflect.DeepEqual(logs, want) {
		t.Errorf("E18: %v, want %v", logs, want)
	}
}

func TestInvocationIsRetried(t *testing.T) { // E14, E19
	t.Parallel()
	retries := `{"retry":{"strategy":"fixedDelay","maxRetryCount":%d,"delayInterval":"00:00:00.100"},"bindings":[` + timer + `]}`
	dir := newApp(t, hostJSON(proxying), map[string]string{"twice": fmt.Sprintf(retries, 2), "forEver": fmt.Sprintf(retries, -1), "once": timerAlone})
	h := mustStart(t, "listens", Options{AppDir: dir})
	for name, test := range map[string]struct {
		function string
		succeed  any
		attempts int
		ok       bool
	}{
		"no attempt more than maxRetryCount and one": {"twice", 9, 3, false},
		"none after a success":                       {"twice", 1, 2, true},
		"none without a retry in function.json":      {"once", 9, 1, false},
		"-1 is without end":                          {"forEver", 4, 5, true},
	} {
		before := len(attempts(h))
		result, err := h.Invoke(t.Context(), test.function, map[string]any{"do": "retry", "succeed at": test.succeed})
		if result.Attempts != test.attempts || (err == nil) != test.ok {
			t.Errorf("%s: %d attempts, %v; want %d", name, result.Attempts, err, test.attempts)
			continue
		}
		eventually(t, "the worker has printed it", func() bool { return len(attempts(h))-before >= test.attempts })
		ids, last := map[string]bool{}, time.Time{}
		for i, line := range attempts(h)[before:] {
			parts := strings.SplitN(line, " ", 3)
			ids[parts[1]] = true
			at, err := time.Parse(time.RFC3339Nano, parts[0])
			if err != nil || at.Sub(last) < 100*time.Millisecond {
				t.Errorf("%s: attempt %d came %v after the one before: %v", name, i, at.Sub(last), err)
			}
			last = at
			maxRetries := map[string]int{"twice": 2, "forEver": -1}[test.function]
			var retry *struct {
				Exception *struct {
					ClassName, StackTraceString string
					InnerException              struct{ Message string }
				}
				MaxRetryCount, RetryCount int
			}
			if err := json.Unmarshal([]byte(parts[2]), &retry); err != nil {
				t.Fatal(err)
			}
			switch {
			case test.function == "once":
				if retry != nil {
					t.Errorf("%s: the RetryContext %s", name, parts[2])
				}
			case retry.MaxRetryCount != maxRetries || retry.RetryCount != i || (retry.Exception == nil) != (i == 0):
				t.Errorf("%s: attempt %d has the RetryContext %s", name, i, parts[2])
			case i > 0 && (retry.Exception.ClassName != "Microsoft.Azure.WebJobs.Host.FunctionInvocationException" || len(parts[2]) < 3400 ||
				!strings.Contains(retry.Exception.InnerException.Message, "503 Service Unavailable")):
				t.Errorf("%s: attempt %d has an exception of %d bytes: %s", name, i, len(parts[2]), parts[2])
			}
		}
		if len(ids) != 1 { // measured: the same id on all tries
			t.Errorf("%s: the ids %v; want one for all of %d tries", name, ids, test.attempts)
		}
	}
	if result, err := h.Invoke(t.Context(), "twice", map[string]any{"do": "answer", "status": 204}); !errors.Is(err, errHang) || result.Attempts != 1 {
		t.Errorf("E17: %d attempts, %v; what hangs is not retried", result.Attempts, err)
	}
}

// attempts are the lines that the worker prints for each, which begin with the time.
func attempts(h *Host) []string {
	var lines []string
	for _, line := range h.Lines() {
		if strings.HasPrefix(line.Text, "20") {
			lines = append(lines, line.Text)
		}
	}
	return lines
}

func TestRunsOfATimerDoNotOverlap(t *testing.T) { // E19
	t.Parallel()
	h := mustStart(t, "listens", Options{})
	var runs sync.WaitGroup
	for range 3 {
		runs.Go(func() {
			if _, err := h.Invoke(t.Context(), "sweep", map[string]any{"do": "pid"}); err != nil {
				t.Error(err)
			}
		})
	}
	runs.Wait()
	eventually(t, "the worker has printed it", func() bool { return h.printed("ends") == 3 })
	var order []string
	for _, line := range h.Lines() {
		if line.Text == "begins" || line.Text == "ends" {
			order = append(order, line.Text)
		}
	}
	if want := []string{"begins", "ends", "begins", "ends", "begins", "ends"}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

func TestFunctionTimeoutEndsTheWorker(t *testing.T) { // E20
	t.Parallel()
	for _, what := range []string{"hang", "hang in the answer"} {
		h := mustStart(t, "listens", Options{FunctionTimeout: 1500 * time.Millisecond, Grace: 500 * time.Millisecond})
		port := h.port
		before, err := h.Invoke(t.Context(), "sweep", map[string]any{"do": "pid"})
		if err != nil {
			t.Fatal(err)
		}
		others := make(chan answered, 1) // a request that goes down with the worker
		go func() {
			for h.printed("asked") == 0 {
				time.Sleep(time.Millisecond)
			}
			a, _ := send(t, h, http.MethodPost, "/api/echo", bytes.NewReader([]byte("x")), "X-Do", "hang")
			others <- a
		}()
		if _, err := h.Invoke(t.Context(), "sweep", map[string]any{"do": what}); !errors.Is(err, errFunctionTimeout) {
			t.Fatalf("%s: %v", what, err)
		}
		if a := <-others; a.status != http.StatusInternalServerError {
			t.Errorf("%s: the other request has %d, want 500", what, a.status)
		}
		after, err := h.Invoke(t.Context(), "sweep", map[string]any{"do": "pid"}) // E5: held until there is a worker
		if err != nil || after.ReturnValue == before.ReturnValue || h.port != port || h.Restarts() != 1 || h.Err() != nil || len(h.crashes) != 0 {
			t.Errorf("%s: workers %v and %v, %d restarts, %v, %v; want two on one port, and no crash counted", what, before, after, h.Restarts(), h.Err(), err)
		}
	}
}

func TestBase64IsDecodedByTheStandardAlphabet(t *testing.T) { // E18
	t.Parallel()
	raw := []byte{0xfb, 0xff, 0xfe}
	for text, want := range map[string]any{
		base64.StdEncoding.EncodeToString(raw): raw, base64.URLEncoding.EncodeToString(raw): base64.URLEncoding.EncodeToString(raw), "": []byte{}, "abcde": "abcde",
	} {
		if got := decoded(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := decoded(1.0); got != 1.0 {
		t.Errorf("1: %v", got)
	}
}
