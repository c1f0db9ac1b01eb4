//go:build !noaws

package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"autopilot-unassign/internal/upstream"
)

// Queues settles messages of an SQS queue before the invocation ends. It also sends messages to the queue again, or to
// the dead-letter queue that its redrive policy names, because redrive would take maxReceiveCount times the visibility
// timeout.
type Queues struct {
	credentials      aws.Credentials
	client           upstream.Doer
	deadLetterQueues sync.Map // ARNs, by the ARN of the source
}

// NewQueues takes the credentials of the function's role, which Lambda puts into the environment.
func NewQueues(getenv func(string) string, client upstream.Doer) *Queues {
	return &Queues{
		credentials: aws.Credentials{
			AccessKeyID: getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"),
			SessionToken: getenv("AWS_SESSION_TOKEN"),
		},
		client: upstream.Capped(client, 64<<10),
	}
}

// arnOfQueue matches the ARN of a standard queue: a FIFO queue takes no message without a group, and a group would make
// its messages wait for one another. Compiling it would delay every start.
var arnOfQueue = sync.OnceValue(func() *regexp.Regexp { //nolint:gochecknoglobals // a constant
	return regexp.MustCompile(
		`^arn:(aws|aws-cn|aws-us-gov):sqs:([a-z0-9-]{1,32}):([0-9]{12}):([0-9A-Za-z_-]{1,80})$`)
})

var errNoRole = errors.New("there are no credentials of a role")

// sendTimeout limits one request to SQS.
const sendTimeout = 5 * time.Second

// maxBatch is the number of messages that SQS takes in one request, and maxBatchBytes their size
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html; 262,144 until
// 2025).
const (
	maxBatch      = 10
	maxBatchBytes = 200_000
)

// Requeue sends messages to a queue. After an error some of them may have been sent.
func (q *Queues) Requeue(ctx context.Context, queueARN string, bodies ...[]byte) error {
	for len(bodies) > 0 {
		var entries []object
		for size := 0; len(entries) < min(maxBatch, len(bodies)); {
			body := bodies[len(entries)]
			if size += len(body); size > maxBatchBytes && len(entries) > 0 {
				break
			}
			entries = append(entries, object{"Id": strconv.Itoa(len(entries)), "MessageBody": string(body)})
		}
		var out struct{ Failed []struct{ Code string } }
		if err := q.call(ctx, queueARN, "SendMessageBatch", object{"Entries": entries}, &out); err != nil {
			return err
		}
		if len(out.Failed) > 0 {
			return fmt.Errorf("SendMessageBatch: %d of %d messages failed", len(out.Failed), len(entries))
		}
		bodies = bodies[len(entries):]
	}
	return nil
}

// Delete deletes a message from a queue, by the receipt of its delivery.
func (q *Queues) Delete(ctx context.Context, queueARN, receipt string) error {
	return q.call(ctx, queueARN, "DeleteMessage", object{"ReceiptHandle": receipt}, nil)
}

// Hide makes a queue deliver messages again after d, counted from now, and not after its visibility timeout. It ignores
// failures of single messages, for which the visibility timeout holds.
func (q *Queues) Hide(ctx context.Context, queueARN string, d time.Duration, receipts ...string) error {
	if q == nil {
		return nil
	}
	for chunk := range slices.Chunk(receipts, maxBatch) {
		entries := make([]object, len(chunk))
		for i, receipt := range chunk {
			entries[i] = object{"Id": strconv.Itoa(i), "ReceiptHandle": receipt, "VisibilityTimeout": int(d.Seconds())}
		}
		if err := q.call(ctx, queueARN, "ChangeMessageVisibilityBatch", object{"Entries": entries}, nil); err != nil {
			return err
		}
	}
	return nil
}

// DeadLetter sends a message to the dead-letter queue of a queue, with the id of the original and the code of the
// failure as attributes.
func (q *Queues) DeadLetter(ctx context.Context, sourceARN string, body []byte, id, code string) error {
	target, err := q.deadLetterQueue(ctx, sourceARN)
	if err != nil {
		return err
	}
	attributes := object{"code": object{"DataType": "String", "StringValue": code}}
	if id != "" {
		attributes["messageId"] = object{"DataType": "String", "StringValue": id}
	}
	return q.call(ctx, target, "SendMessage", object{"MessageBody": string(body), "MessageAttributes": attributes}, nil)
}

func (q *Queues) deadLetterQueue(ctx context.Context, sourceARN string) (string, error) {
	if q == nil {
		return "", errNoRole
	}
	known, _ := q.deadLetterQueues.Load(sourceARN)
	if target, ok := known.(string); ok {
		return target, nil
	}
	var out struct {
		Attributes struct{ RedrivePolicy string }
	}
	in := object{"AttributeNames": []string{"RedrivePolicy"}}
	if err := q.call(ctx, sourceARN, "GetQueueAttributes", in, &out); err != nil {
		return "", err
	}
	var policy struct{ DeadLetterTargetARN string }
	_ = json.Unmarshal([]byte(out.Attributes.RedrivePolicy), &policy) // empty without a policy
	if !arnOfQueue().MatchString(policy.DeadLetterTargetARN) {
		return "", errors.New("the queue has no redrive policy to a standard queue")
	}
	q.deadLetterQueues.Store(sourceARN, policy.DeadLetterTargetARN)
	return policy.DeadLetterTargetARN, nil
}

// object is an object in a request.
type object map[string]any

// call calls an action of SQS on a queue, in its JSON protocol. Its errors quote nothing of the response but the status.
func (q *Queues) call(ctx context.Context, queueARN, action string, in object, out any) error {
	if q == nil || q.credentials.AccessKeyID == "" {
		return errNoRole
	}
	arn := arnOfQueue().FindStringSubmatch(queueARN)
	if arn == nil {
		return errors.New("the ARN is not of a standard queue")
	}
	region, host := arn[2], "https://sqs."+arn[2]+".amazonaws.com"
	if arn[1] == "aws-cn" {
		host += ".cn"
	}
	in["QueueUrl"] = host + "/" + arn[3] + "/" + arn[4]
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, host+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("X-Amz-Target", "AmazonSQS."+action)
	hash := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, q.credentials, req, hex.EncodeToString(hash[:]), "sqs", region, time.Now()); err != nil {
		return errors.New("sign: " + action)
	}
	resp, err := q.client.Do(req)
	if err != nil {
		return errors.New(action + ": no response")
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", action, resp.StatusCode)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil || out != nil && json.Unmarshal(text, out) != nil {
		return errors.New(action + ": invalid response")
	}
	return nil
}
