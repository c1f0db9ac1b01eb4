package azuresim

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

const (
	batchPath = "/beta/$batch"
	maxBatch  = 20
)

// batch answers a batch of requests: each as it would be alone, the answers in no order, and 200 over all whatever became
// of each. An item has the faults of StepItem; of these only an answer has an effect.
func (c *Cloud) batch(r *http.Request, body []byte) answer {
	var batch struct {
		Requests []struct {
			ID      string
			Method  string
			URL     string
			Headers map[string]string
			Body    json.RawMessage
		}
	}
	if json.Unmarshal(body, &batch) != nil || len(batch.Requests) == 0 || len(batch.Requests) > maxBatch {
		return graphError(http.StatusBadRequest, Plain, "BadRequest", "Invalid batch payload format.", 0)
	}
	ids := map[string]bool{}
	for _, item := range batch.Requests {
		target, err := url.Parse(item.URL)
		if item.ID == "" || ids[item.ID] || err != nil || target.IsAbs() || !strings.HasPrefix(item.URL, "/") {
			return graphError(http.StatusBadRequest, Plain, "BadRequest", "Invalid batch payload format.", 0)
		}
		if item.Method == http.MethodPost && (item.Body == nil || item.Headers["Content-Type"] == "") {
			return graphError(http.StatusBadRequest, Plain, "BadRequest", "A request with a body needs a Content-Type.", 0)
		}
		ids[item.ID] = true
	}
	items := map[string]any{}
	for _, item := range batch.Requests {
		target, _ := url.Parse(item.URL)
		alone := r.Clone(r.Context())
		alone.Method = item.Method
		alone.URL.Path, alone.URL.RawQuery = "/beta"+target.Path, target.RawQuery
		c.requests[StepItem] = append(c.requests[StepItem], Request{item.Method, r.Host, alone.URL.Path, target.RawQuery, nil, item.Body, c.Now()})
		a := c.graphHeaders(alone, c.itemAnswer(alone))
		headers := map[string]string{}
		for name := range a.header {
			headers[name] = a.header.Get(name)
		}
		said := any(json.RawMessage(a.body))
		if !json.Valid(a.body) {
			said = string(a.body)
		}
		items[item.ID] = map[string]any{"id": item.ID, "status": a.status, "headers": headers, "body": said}
	}
	// Maps have no order, as the answers of a batch have none.
	var answers []any
	for item := range maps.Values(items) {
		answers = append(answers, item)
	}
	return jsonAnswer(http.StatusOK, map[string]any{"responses": answers})
}

// itemAnswer answers a request inside a batch.
func (c *Cloud) itemAnswer(r *http.Request) answer {
	fault := c.nextFault(StepItem)
	if fault.answer == nil {
		return c.graphAnswer(r, nil)
	}
	if fault.acts {
		c.graphAnswer(r, nil)
	}
	a := *fault.answer
	a.header, a.body = a.header.Clone(), bytes.Clone(a.body)
	return a
}
