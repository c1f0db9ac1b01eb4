package functions

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Message is a message of a Storage queue. A queue.Message converts to it.
type Message struct {
	ID       string
	Body     string
	Sent     time.Time
	Receives int
}

// Deliver invokes function name, which has a queueTrigger, with a message (E13). See Invoke for the result.
func (h *Host) Deliver(ctx context.Context, name string, m Message) (Result, error) {
	var binding string
	if at := slices.IndexFunc(h.app.functions, func(f *function) bool { return f.name == name }); at >= 0 {
		binding = h.app.functions[at].trigger.Name
	}
	// The host encodes the text as JSON, and that once more as a JSON string.
	text, err := json.Marshal(m.Body)
	if err != nil {
		return Result{}, err
	}
	metadata := map[string]any{}
	var members map[string]any
	if json.Unmarshal([]byte(m.Body), &members) == nil {
		maps.Copy(metadata, members) // the host adds the members of a message to its metadata
	}
	maps.Copy(metadata, map[string]any{
		"Id": m.ID, "DequeueCount": strconv.Itoa(m.Receives), "InsertionTime": m.Sent.UTC().Format(time.RFC3339),
		"ExpirationTime": m.Sent.UTC().AddDate(0, 0, 7).Format(time.RFC3339), "PopReceipt": strings.ToUpper(m.ID),
	})
	return h.InvokeWith(ctx, name, map[string]any{binding: string(text)}, metadata)
}
