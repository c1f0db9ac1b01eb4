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
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"autopilot-unassign/internal/upstream"
)

// DeadLetters sends messages of SQS to the dead-letter queue that the redrive policy of their queue names. Redrive
// itself takes maxReceiveCount times the visibility timeout.
type DeadLetters struct {
	credentials aws.Credentials
	client      upstream.Doer

	mu     sync.Mutex
	queues map[string]queueAddress // by the ARN of the source
}

// NewDeadLetters takes the credentials of the function's role, which Lambda puts into the environment.
func NewDeadLetters(getenv func(string) string, client upstream.Doer) *DeadLetters {
	return &DeadLetters{
		credentials: aws.Credentials{
			AccessKeyID: getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: getenv("AWS_SESSION_TOKEN"),
		},
		client: upstream.Capped(client, 64<<10), queues: map[string]queueAddress{},
	}
}

// queueAddress is the region and the URL of a queue.
type queueAddress struct{ region, host, url string }

var queueARN = regexp.MustCompile(`^arn:(aws|aws-cn|aws-us-gov):sqs:([a-z0-9-]{1,32}):([0-9]{12}):([0-9A-Za-z_-]{1,80}(?:\.fifo)?)$`)

func parseQueueARN(arn string) (queueAddress, error) {
	m := queueARN.FindStringSubmatch(arn)
	if m == nil {
		return queueAddress{}, errors.New("the ARN is not one of a queue")
	}
	host := "sqs." + m[2] + ".amazonaws.com"
	if m[1] == "aws-cn" {
		host += ".cn"
	}
	return queueAddress{region: m[2], host: host, url: "https://" + host + "/" + m[3] + "/" + m[4]}, nil
}

// deadLetterTimeout limits the sending of one message.
const deadLetterTimeout = 5 * time.Second

// Send sends a message with its id and the code of its failure as attributes. The body is unchanged, so that the
// message can be moved back.
func (d *DeadLetters) Send(ctx context.Context, sourceARN, body, id, code string) error {
	if d == nil || d.credentials.AccessKeyID == "" {
		return errors.New("there are no credentials of a role")
	}
	ctx, cancel := context.WithTimeout(ctx, deadLetterTimeout)
	defer cancel()
	target, err := d.findTarget(ctx, sourceARN)
	if err != nil {
		return err
	}
	attribute := func(value string) map[string]string {
		return map[string]string{"DataType": "String", "StringValue": value}
	}
	attributes := map[string]any{"code": attribute(code)}
	if id != "" {
		attributes["messageId"] = attribute(id)
	}
	return d.callAction(ctx, target, "SendMessage", map[string]any{"QueueUrl": target.url, "MessageBody": body, "MessageAttributes": attributes}, nil)
}

// findTarget returns the dead-letter queue of a queue.
func (d *DeadLetters) findTarget(ctx context.Context, sourceARN string) (queueAddress, error) {
	d.mu.Lock()
	target, ok := d.queues[sourceARN]
	d.mu.Unlock()
	if ok {
		return target, nil
	}
	source, err := parseQueueARN(sourceARN)
	if err != nil {
		return queueAddress{}, err
	}
	var out struct {
		Attributes struct{ RedrivePolicy string }
	}
	in := map[string]any{"QueueUrl": source.url, "AttributeNames": []string{"RedrivePolicy"}}
	if err := d.callAction(ctx, source, "GetQueueAttributes", in, &out); err != nil {
		return queueAddress{}, err
	}
	var policy struct{ DeadLetterTargetARN string }
	if err := json.Unmarshal([]byte(out.Attributes.RedrivePolicy), &policy); err != nil {
		return queueAddress{}, errors.New("the queue has no redrive policy")
	}
	if target, err = parseQueueARN(policy.DeadLetterTargetARN); err != nil {
		return queueAddress{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queues[sourceARN] = target
	return target, nil
}

// callAction calls an action of SQS in its JSON protocol. Its errors quote nothing of the response but the status.
func (d *DeadLetters) callAction(ctx context.Context, queue queueAddress, action string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+queue.host+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("X-Amz-Target", "AmazonSQS."+action)
	hash := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, d.credentials, req, hex.EncodeToString(hash[:]), "sqs", queue.region, time.Now()); err != nil {
		return errors.New("sign: " + action)
	}
	resp, err := d.client.Do(req)
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
