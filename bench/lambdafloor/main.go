// The floor as a Lambda function: the same job, with events of an HTTP API.
package main

import (
	"context"
	"net/http"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"

	"autopilot-unassign/bench/webhook"
)

func main() {
	unassign := webhook.NewGraph()
	key, err := webhook.ParseKey(os.Getenv("SIGNING_KEY"))
	if err != nil {
		panic(err)
	}
	lambda.Start(func(ctx context.Context, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
		h := http.Header{}
		for name, value := range event.Headers {
			h.Set(name, value)
		}
		status := webhook.Answer(ctx, key, h, []byte(event.Body), unassign)
		return events.APIGatewayV2HTTPResponse{StatusCode: status}, nil
	})
}
