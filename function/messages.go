package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"autopilot-unassign/handler"
	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/text"
)

// This file turns the messages of SQS and of a Storage queue into the messages of package handler, which carries them out
// like requests, and settles them as it says.

// runMessages works through a batch of messages of SQS, and returns those that SQS must deliver again. The messages
// that replace the others are sent before the response, which deletes their originals. A message that is in the batch
// twice is handled once.
func (l *lambdaHost) runMessages(ctx context.Context, payload []byte) ([]byte, error) {
	var batch events.SQSEvent
	if err := json.Unmarshal(payload, &batch); err != nil || len(batch.Records) == 0 {
		return nil, l.refuseEvent(ctx, "the event is a batch of records of no kind that is served")
	}
	var messages []handler.Message
	var records []events.SQSMessage
	seen := map[string]bool{}
	for _, m := range batch.Records {
		if m.EventSource != "aws:sqs" || m.MessageId == "" {
			return nil, l.refuseEvent(ctx, "the event is a batch of records of no kind that is served")
		}
		if !seen[m.MessageId] {
			seen[m.MessageId] = true
			messages, records = append(messages, sqsMessage(m)), append(records, m)
		}
	}
	l.hideMessages(ctx, records)
	back, deleting := make([]bool, len(records)), true
	l.settle(ctx, handler.SourceSQS, messages, func(i int, s handler.Settlement) {
		back[i] = !l.sendMessages(ctx, records[i].EventSourceARN, messages[i].ID, s)
		if !back[i] && deleting {
			// At once, so that the message does not return if the process is killed. Otherwise the response deletes it.
			deleting = l.queues.Delete(ctx, records[i].EventSourceARN, records[i].ReceiptHandle) == nil
		}
	})
	reply := events.SQSEventResponse{BatchItemFailures: []events.SQSBatchItemFailure{}}
	for i, m := range records {
		if back[i] {
			reply.BatchItemFailures = append(reply.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: m.MessageId})
		}
	}
	return json.Marshal(reply)
}

// hideMessages sets the time after which messages are delivered again, unless they are settled before. Otherwise the
// queue's visibility timeout holds, which must be above the function's timeout, and the sweep needs a long one.
func (l *lambdaHost) hideMessages(ctx context.Context, records []events.SQSMessage) {
	receipts := make([]string, len(records))
	for i, m := range records {
		receipts[i] = m.ReceiptHandle
	}
	if err := l.queues.Hide(ctx, records[0].EventSourceARN, l.hide, receipts...); err != nil {
		l.warnUnsent(ctx, "visibility of messages not changed", "", err)
	}
}

// sendMessages sends the messages that replace a message: those for the queue, and dead letters. It reports whether the
// message is done. Otherwise SQS delivers it again, and moves it to the dead-letter queue after its last receive.
func (l *lambdaHost) sendMessages(ctx context.Context, queue, id string, s handler.Settlement) bool {
	if s.Retry {
		return false
	}
	if err := l.queues.Requeue(ctx, queue, s.Requeue...); err != nil {
		l.warnUnsent(ctx, "messages not requeued", id, err)
		return false
	}
	for _, d := range s.DeadLetters {
		if err := l.queues.DeadLetter(ctx, queue, d.Text, id, string(d.Code)); err != nil {
			l.warnUnsent(ctx, "dead letter not sent", id, err)
			return false
		}
	}
	return true
}

func (l *lambdaHost) warnUnsent(ctx context.Context, message, id string, err error) {
	l.log.LogAttrs(ctx, slog.LevelWarn, message, slog.String("host", config.Lambda),
		slog.String("invocation_id", invocationID(ctx)), slog.String("message_id", id), slog.String("reason", err.Error()))
}

// sqsMessage returns a message of SQS for the handler, with the host's data for the log.
func sqsMessage(m events.SQSMessage) handler.Message {
	message := newMessage([]byte(m.Body), m.MessageId, "receiveCount", m.Attributes["ApproximateReceiveCount"])
	if ms, err := strconv.ParseInt(m.Attributes["SentTimestamp"], 10, 64); err == nil {
		message.Sent = time.UnixMilli(ms)
	}
	return message
}

// setOutput sets the messages of a queue output. One message is sent as base64, byte for byte: the host decodes it,
// as it would also decode a plain text that happens to be base64. Several are a list of texts, which the host takes
// one by one and as they are (FunctionBinding.ReadAsEnumerable of azure-functions-host).
func (r *invocationResult) setOutput(name string, messages [][]byte) {
	switch len(messages) {
	case 0:
	case 1:
		r.Outputs[name] = messages[0]
	default:
		texts := make([]string, len(messages))
		for i, m := range messages {
			texts[i] = string(m)
		}
		r.Outputs[name] = texts
	}
}

// storageMessage returns a message of a Storage queue for the handler, with the host's data for the log.
func storageMessage(in invocation) handler.Message {
	var metadata map[string]json.RawMessage
	_ = json.Unmarshal(in.Metadata, &metadata) // not an object: no data
	message := newMessage(messageText(in.Data.Message), string(messageText(metadata["Id"])),
		"dequeueCount", string(messageText(metadata["DequeueCount"])))
	if sent, err := time.Parse(time.RFC3339, string(messageText(metadata["InsertionTime"]))); err == nil {
		message.Sent = sent
	}
	return message
}

// messageText returns the text of a queue's message. The host encodes a text as JSON, and that once more as a JSON
// string; a message that it has decoded itself arrives as JSON.
func messageText(data json.RawMessage) []byte {
	var text string
	if json.Unmarshal(data, &text) != nil {
		return data
	}
	var inner string
	if json.Unmarshal([]byte(text), &inner) == nil {
		text = inner
	}
	return []byte(text)
}

// newMessage returns a message with the words of its queue for the log: its id, and the number of its deliveries under
// the queue's name for it. It drops a word that is not plain: a sender can write into the metadata of Azure, and each
// principal with the right to invoke the Lambda function can write its events.
func newMessage(body []byte, id, countName, count string) handler.Message {
	words := map[string]string{"messageId": id, countName: count}
	maps.DeleteFunc(words, func(_, word string) bool {
		return word == "" || len(word) > 64 || strings.Trim(word, text.Alphanumeric+"-") != ""
	})
	deliveries, _ := strconv.ParseUint(words[countName], 10, 16) // 0 for no number
	return handler.Message{ID: words["messageId"], Text: body, Deliveries: int(max(1, deliveries)), Context: words}
}
