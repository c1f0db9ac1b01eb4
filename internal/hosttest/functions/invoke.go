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
)

// Result is the end of an invocation that succeeded.
type Result struct {
	Logs        []string
	Outputs     map[string]any // by the names of the bindings; a string that is valid base64 has become its bytes (E18)
	ReturnValue any            // likewise
	Attempts    int            `json:"-"`
}

// errHang is the end of an invocation that would never come (E17).
var errHang = errors.New("functions host: 2xx with no body or null: the invocation would hang until its time is up")

// Invoke invokes a function as its trigger would, with data by the names of its bindings, and again as its retry says
// (E13, E14, E16 to E20). The error says why the last attempt failed.
func (h *Host) Invoke(ctx context.Context, name string, data map[string]any) (Result, error) {
	return h.InvokeWith(ctx, name, data, nil)
}

// InvokeWith is Invoke with metadata of the trigger beside what the host itself puts there.
func (h *Host) InvokeWith(ctx context.Context, name string, data, metadata map[string]any) (Result, error) {
	at := slices.IndexFunc(h.app.functions, func(f *function) bool { return f.name == name })
	if at < 0 {
		return Result{}, fmt.Errorf("functions host: there is no function %q", name)
	}
	f := h.app.functions[at]
	if strings.EqualFold(f.trigger.Type, "timerTrigger") { // never two at a time (E19)
		f.alone.Lock()
		defer f.alone.Unlock()
	}
	var failure error
	for attempt := 0; ; attempt++ {
		result, err := h.attempt(ctx, f, data, metadata, attempt, failure)
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
func (h *Host) attempt(ctx context.Context, f *function, data, more map[string]any, attempt int, failure error) (Result, error) {
	worker, err := h.await(ctx)
	if err != nil {
		return Result{}, err
	}
	id := h.newInvocation() // a new one for every attempt (E19)
	metadata := map[string]any{}
	maps.Copy(metadata, more)
	metadata["sys"] = map[string]any{"MethodName": f.name, "UtcNow": time.Now().UTC().Format(time.RFC3339Nano), "RandGuid": newID()}
	if f.retries != 0 {
		retry := map[string]any{"RetryCount": attempt, "MaxRetryCount": f.retries, "Exception": nil, "Instance": nil, "State": map[string]any{}}
		if failure != nil {
			retry["Exception"] = map[string]any{"ClassName": "System.Exception", "Message": failure.Error()}
		}
		metadata["RetryContext"] = retry
	}
	body, err := json.Marshal(map[string]any{"Data": data, "Metadata": metadata})
	if err != nil {
		return Result{}, err
	}
	limited, cancel := context.WithTimeoutCause(ctx, h.options.FunctionTimeout, errFunctionTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, http.MethodPost, h.workerURL("/"+f.name), bytes.NewReader(body))
	if err != nil {
		return Result{}, err
	}
	if !h.options.ContentLength {
		req.ContentLength = -1 // and so the body is sent in chunks (E13)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Azure-Functions-Host/"+hostVersion)
	req.Header.Set(headerHostVersion, hostVersion)
	req.Header.Set(headerInvocationID, id)
	resp, err := h.client.Do(req)
	var answer []byte
	if err == nil {
		answer, err = io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	switch {
	case err != nil && errors.Is(context.Cause(limited), errFunctionTimeout):
		h.kill(worker)
		return Result{}, errFunctionTimeout
	case err != nil:
		return Result{}, fmt.Errorf("functions host: %w", err)
	}
	result, err := f.result(resp, answer)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, text := range result.Logs {
		h.lines = append(h.lines, Line{Level: "Information", Text: text, Log: "Function", InvocationID: id})
	}
	return result, err
}

// result reads what a worker answers to an invocation (E16, E17, E18).
func (f *function) result(resp *http.Response, answer []byte) (Result, error) {
	if resp.StatusCode/100 != 2 {
		return Result{}, fmt.Errorf("functions host: response status code does not indicate success: %s", resp.Status)
	}
	if resp.ContentLength == 0 {
		return Result{}, errHang
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || (media != "application/json" && media != "text/json") {
		return Result{}, fmt.Errorf("functions host: unsupported media type %q", resp.Header.Get("Content-Type"))
	}
	if text := bytes.TrimSpace(answer); len(text) == 0 || string(text) == "null" {
		return Result{}, errHang
	}
	var result Result
	if err := json.Unmarshal(answer, &result); err != nil {
		return Result{}, fmt.Errorf("functions host: invalid HttpResponseMessage: %w", err)
	}
	maps.DeleteFunc(result.Outputs, func(name string, _ any) bool {
		return !slices.ContainsFunc(f.bindings, func(b binding) bool { return b.Name == name && strings.EqualFold(b.Direction, "out") })
	})
	for name, value := range result.Outputs {
		result.Outputs[name] = decoded(value)
	}
	result.ReturnValue = decoded(result.ReturnValue)
	return result, nil
}

// decoded returns the bytes of a string that is valid base64, and anything else as it is.
func decoded(value any) any {
	if text, ok := value.(string); ok {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			return raw
		}
	}
	return value
}
