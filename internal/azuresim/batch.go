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

// serveBatch responds to a batch: 200, and in it the response to each request, in no order. The faults of StepItem
// apply to the items, as far as they are responses.
func (c *Cloud) serveBatch(r *http.Request, body []byte) answer {
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
		return refuseBatch("Invalid batch payload format.")
	}
	ids := map[string]bool{}
	for _, item := range batch.Requests {
		target, err := url.Parse(item.URL)
		if item.ID == "" || ids[item.ID] || err != nil || target.IsAbs() || !strings.HasPrefix(item.URL, "/") {
			return refuseBatch("Invalid batch payload format.")
		}
		if item.Method == http.MethodPost && (item.Body == nil || item.Headers["Content-Type"] == "") {
			return refuseBatch("A request with a body needs a Content-Type.")
		}
		ids[item.ID] = true
	}
	refused := c.refuseItems > 0
	if refused {
		c.refuseItems--
	}
	items := map[string]any{}
	for _, item := range batch.Requests {
		target, _ := url.Parse(item.URL)
		alone := r.Clone(r.Context())
		alone.Method = item.Method
		alone.URL.Path, alone.URL.RawQuery = "/beta"+target.Path, target.RawQuery
		c.recordRequest(StepItem, alone, nil, item.Body)
		a := refusedToken()
		if !refused {
			a = c.itemAnswer(alone)
		}
		a = c.graphHeaders(alone, a)
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
	// The order of a map is random, as the order of a batch is.
	var answers []any
	for item := range maps.Values(items) {
		answers = append(answers, item)
	}
	return jsonAnswer(http.StatusOK, map[string]any{"responses": answers})
}

// refuseBatch returns the response to a malformed batch.
func refuseBatch(message string) answer {
	return graphError(http.StatusBadRequest, Plain, "BadRequest", message, 0)
}

// itemAnswer returns the response to a request inside a batch.
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
