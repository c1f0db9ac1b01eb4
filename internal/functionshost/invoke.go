package functionshost

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// Result is the end of an invocation that succeeded.
type Result struct {
	Logs        []string
	Outputs     map[string]any // a string that is valid base64 has become its bytes (E18)
	ReturnValue any
	Attempts    int
}

// Invoke invokes a function as its trigger would, with data by the names of its bindings, and again as its retry says
// (E13, E14, E16 to E20). The error says why the last attempt failed.
func (h *Host) Invoke(ctx context.Context, name string, data map[string]any) (Result, error) {
	var f *function
	for _, known := range h.app.functions {
		if known.name == name {
			f = known
		}
	}
	if f == nil {
		return Result{}, fmt.Errorf("functionshost: there is no function %q", name)
	}
	var failure error
	for attempt := 0; ; attempt++ {
		result, err := h.attempt(ctx, f, data, attempt, failure)
		result.Attempts = attempt + 1
		if err == nil || attempt == f.retries || errors.Is(err, errHang) || ctx.Err() != nil {
			return result, err
		}
		failure = err
		select {
		case <-time.After(f.delay):
		case <-ctx.Done():
		}
	}
}

func (h *Host) attempt(ctx context.Context, f *function, data map[string]any, attempt int, failure error) (Result, error) {
	id := newID() // a new one for every attempt (E19)
	h.mu.Lock()
	h.last = id
	h.mu.Unlock()
	metadata := map[string]any{"sys": map[string]any{"MethodName": f.name, "UtcNow": time.Now().UTC().Format(time.RFC3339Nano), "RandGuid": newID()}}
	if f.retries > 0 {
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
	ctx, cancel := context.WithTimeout(ctx, h.options.FunctionTimeout)
	defer cancel()
	// The body has no length: it is sent in chunks (E13).
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.workerURL("/"+f.name), io.MultiReader(bytes.NewReader(body)))
	if err != nil {
		return Result{}, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Azure-Functions-Host/"+hostVersion)
	req.Header.Set(headerHostVersion, hostVersion)
	req.Header.Set(headerInvocationID, id)
	resp, err := h.client.Do(req)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		h.kill() // E20
		return Result{}, errors.New("functionshost: the function's time is up; the worker was killed")
	}
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return Result{}, err
	}
	return parseResult(resp, answer)
}

// parseResult reads what a worker answers to an invocation (E16, E17, E18).
func parseResult(resp *http.Response, answer []byte) (Result, error) {
	if resp.StatusCode/100 != 2 {
		return Result{}, fmt.Errorf("functionshost: response status code does not indicate success: %s", resp.Status)
	}
	if len(answer) == 0 || string(bytes.TrimSpace(answer)) == "null" {
		return Result{}, errHang
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || (media != "application/json" && media != "text/json") {
		return Result{}, fmt.Errorf("functionshost: unsupported media type %q", resp.Header.Get("Content-Type"))
	}
	var result Result
	if err := json.Unmarshal(answer, &result); err != nil {
		return Result{}, fmt.Errorf("functionshost: invalid HttpResponseMessage: %w", err)
	}
	for name, value := range result.Outputs {
		if text, ok := value.(string); ok {
			if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
				result.Outputs[name] = raw
			}
		}
	}
	return result, nil
}

// kill ends the worker with all that it is doing, and starts another on the same port (E20).
func (h *Host) kill() {
	h.mu.Lock()
	worker, ended := h.worker, h.ended
	h.stopping = true // it is no crash
	h.mu.Unlock()
	_ = worker.Process.Kill()
	<-ended
	h.mu.Lock()
	h.stopping = false
	h.restarts++
	h.mu.Unlock()
	_ = h.launch()
}
