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
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"autopilot-unassign/internal/config"
	"autopilot-unassign/internal/upstream"
)

// maxSQSBatch is the number of messages that SQS takes in one request, and maxSQSBytes their size
// (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html; the size was 262,144
// before 2025).
const (
	maxSQSBatch = 10
	maxSQSBytes = 200_000
)

// SQS sends messages to queues. It signs the requests itself: the SDK's client of SQS would be larger than the rest of
// the program's code for AWS.
type SQS struct {
	Role      config.AWSRole
	Transport upstream.Doer
}

// Send sends bodies to the queue with that ARN. After an error some of them may have been sent.
func (s SQS) Send(ctx context.Context, arn string, bodies ...[]byte) error {
	endpoint, queue, err := queueURL(arn, s.Role.Region)
	if err != nil {
		return err
	}
	for len(bodies) > 0 {
		count, size := 0, 0
		for count < min(maxSQSBatch, len(bodies)) && (count == 0 || size+len(bodies[count]) <= maxSQSBytes) {
			size += len(bodies[count])
			count++
		}
		if err := s.sendBatch(ctx, endpoint, queue, bodies[:count]); err != nil {
			return err
		}
		bodies = bodies[count:]
	}
	return nil
}

// sqsEntry is a message of the request SendMessageBatch.
type sqsEntry struct {
	ID   string `json:"Id"`
	Body string `json:"MessageBody"`
}

func (s SQS) sendBatch(ctx context.Context, endpoint, queue string, bodies [][]byte) error {
	request := struct {
		QueueURL string `json:"QueueUrl"`
		Entries  []sqsEntry
	}{QueueURL: queue}
	for i, body := range bodies {
		request.Entries = append(request.Entries, sqsEntry{strconv.Itoa(i), string(body)})
	}
	payload, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("sqs: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("sqs: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.0")
	r.Header.Set("X-Amz-Target", "AmazonSQS.SendMessageBatch")
	hash := sha256.Sum256(payload)
	credentials := aws.Credentials{AccessKeyID: s.Role.KeyID, SecretAccessKey: s.Role.Secret, SessionToken: s.Role.Session}
	err = v4.NewSigner().SignHTTP(ctx, credentials, r, hex.EncodeToString(hash[:]), "sqs", s.Role.Region, time.Now())
	if err != nil {
		return fmt.Errorf("sqs: %w", err)
	}
	resp, err := s.Transport.Do(r)
	if err != nil {
		return fmt.Errorf("sqs: no response: %T", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("sqs: the response broke off: %T", err)
	}
	var response struct {
		Failed []struct{ Code string }
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("sqs: status %d", resp.StatusCode)
	case json.Unmarshal(text, &response) != nil:
		return errors.New("sqs: the response is no JSON")
	case len(response.Failed) > 0:
		return fmt.Errorf("sqs: %d of %d messages failed: %s", len(response.Failed), len(bodies),
			upstream.PlainCode(response.Failed[0].Code))
	}
	return nil
}

// queueURL returns the endpoint of SQS in region, and the URL of a queue there
// (https://docs.aws.amazon.com/general/latest/gr/sqs-service.html). The ARN may come from an event: it selects no host.
func queueURL(arn, region string) (endpoint, queue string, err error) {
	parts := strings.Split(arn, ":")
	if len(parts) != 6 || parts[0] != "arn" || parts[2] != "sqs" || parts[3] != region || !isPlain(parts[4]) || !isPlain(parts[5]) {
		return "", "", errors.New("sqs: not the ARN of a queue in the region of the function")
	}
	domain := "amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		domain = "amazonaws.com.cn"
	}
	endpoint = "https://sqs." + region + "." + domain + "/"
	return endpoint, endpoint + parts[4] + "/" + parts[5], nil
}

// isPlain reports whether a part of an ARN has only the characters of account ids and queue names.
func isPlain(part string) bool {
	return part != "" && strings.IndexFunc(part, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	}) < 0
}
