package functions

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"autopilot-unassign/internal/guid"
)

// Result is the end of an invocation that succeeded.
type Result struct {
	Logs        []string
	Outputs     map[string]any // by the names of the bindings (E18)
	ReturnValue any
	Attempts    int `json:"-"`
}

// errHang fails an invocation that would never end (E17).
var errHang = errors.New("functions host: 2xx with no body or null: the invocation would hang until its time is up")

// Invoke invokes a function as its trigger does, with data by the names of its bindings, and retries it as
// function.json says (E13 to E20). The error is the one of the last try.
func (h *Host) Invoke(ctx context.Context, name string, data map[string]any) (Result, error) {
	return h.InvokeWith(ctx, name, data, nil)
}

// InvokeWith is Invoke with metadata of the trigger.
func (h *Host) InvokeWith(ctx context.Context, name string, data, metadata map[string]any) (Result, error) {
	at := slices.IndexFunc(h.app.functions, func(f *function) bool { return f.name == name })
	if at < 0 {
		return Result{}, fmt.Errorf("functions host: there is no function %q", name)
	}
	f := h.app.functions[at]
	if strings.EqualFold(f.trigger.Type, "timerTrigger") {
		f.alone.Lock()
		defer f.alone.Unlock()
	}
	id := h.newInvocation() // the same for all tries
	var failure error
	for attempt := 0; ; attempt++ {
		result, err := h.attempt(ctx, f, id, data, metadata, attempt, failure)
		result.Attempts = attempt + 1
		if err == nil || attempt == f.retries || errors.Is(err, errHang) || ctx.Err() != nil || h.ctx.Err() != nil {
			return result, err
		}
		failure = err
		select {
		case <-time.After(f.delay(attempt + 1)):
		case <-ctx.Done():
			return result, err
		}
	}
}

// attempt is one run of a function.
func (h *Host) attempt(
	ctx context.Context, f *function, id string, data, more map[string]any, attempt int, failure error,
) (Result, error) {
	worker, err := h.await(ctx)
	if err != nil {
		return Result{}, err
	}
	metadata := map[string]any{}
	maps.Copy(metadata, more)
	metadata["sys"] = map[string]any{
		"MethodName": f.name, "UtcNow": time.Now().UTC().Format(time.RFC3339Nano),
		"RandGuid": guid.New().String(),
	}
	if f.retries != 0 {
		retry := map[string]any{
			"RetryCount": attempt, "MaxRetryCount": f.retries, "Exception": nil, "Instance": nil,
			"State": map[string]any{},
		}
		if failure != nil {
			retry["Exception"] = exception(f.name, failure)
		}
		metadata["RetryContext"] = retry
	}
	body, err := json.Marshal(map[string]any{"Data": data, "Metadata": metadata})
	if err != nil {
		return Result{}, err
	}
	limited, cancel := h.limitTime(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, http.MethodPost, h.workerURL("/"+f.name), bytes.NewReader(body))
	if err != nil {
		return Result{}, err
	}
	if !h.options.CoreTools {
		req.ContentLength = -1 // chunked
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Azure-Functions-Host/"+hostVersion)
	req.Header.Set(headerHostVersion, hostVersion)
	req.Header.Set(headerInvocationID, id)
	resp, err := h.client.Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	switch {
	case err != nil && errors.Is(context.Cause(limited), errFunctionTimeout):
		h.kill(worker)
		return Result{}, errFunctionTimeout
	case err != nil:
		return Result{}, fmt.Errorf("functions host: %w", err)
	}
	result, err := f.result(resp, text)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range result.Logs {
		h.lines = append(h.lines, Line{Level: "Information", Text: line, Log: "Function", InvocationID: id})
	}
	return result, err
}

// exception returns the exception of a failed try as .NET serialises it (E14).
func exception(name string, failure error) map[string]any {
	message := "Exception while executing function: Functions." + name
	const frame = "   at Microsoft.Azure.WebJobs.Script.Workers.Http.DefaultHttpWorkerService.InvokeAsync(ScriptInvocationContext scriptInvocationContext)\n"
	inner := map[string]any{
		"ClassName": "System.Net.Http.HttpRequestException", "Message": failure.Error(), "Data": nil,
		"InnerException": nil, "HelpURL": nil,
		"StackTraceString": strings.Repeat(frame, 6), "RemoteStackTraceString": nil, "RemoteStackIndex": 0,
		"ExceptionMethod": nil,
		"HResult":         -2146233088, "Source": "System.Net.Http", "WatsonBuckets": nil,
	}
	outer := maps.Clone(inner)
	outer["ClassName"], outer["Message"], outer["InnerException"] = "Microsoft.Azure.WebJobs.Host.FunctionInvocationException", message, inner
	outer["StackTraceString"] = strings.Repeat(frame, 14)
	return outer
}

// result reads a worker's response to an invocation (E16, E17, E18).
func (f *function) result(resp *http.Response, body []byte) (Result, error) {
	if resp.StatusCode/100 != 2 {
		return Result{}, fmt.Errorf("functions host: response status code does not indicate success: %s", resp.Status)
	}
	if resp.ContentLength == 0 {
		return Result{}, errHang
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil ||
		(media != "application/json" && media != "text/json") {
		return Result{}, fmt.Errorf("functions host: unsupported media type %q", resp.Header.Get("Content-Type"))
	}
	if text := bytes.TrimSpace(body); len(text) == 0 || string(text) == "null" {
		return Result{}, errHang
	}
	var result Result
	if err := json.Unmarshal(body, &result); err != nil {
		return Result{}, fmt.Errorf("functions host: invalid HttpResponseMessage: %w", err)
	}
	maps.DeleteFunc(result.Outputs, func(name string, _ any) bool {
		return !slices.ContainsFunc(f.bindings, func(b binding) bool {
			return b.Name == name && strings.EqualFold(b.Direction, "out")
		})
	})
	for name, value := range result.Outputs {
		result.Outputs[name] = decoded(value)
	}
	result.ReturnValue = decoded(result.ReturnValue)
	return result, nil
}

// decoded returns the bytes of a string that is valid base64, and anything else unchanged.
func decoded(value any) any {
	if text, ok := value.(string); ok {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			return raw
		}
	}
	return value
}
