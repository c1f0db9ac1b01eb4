// The floor does the least that the job takes: net/http, a signature, and two requests to Graph (read, then act) over
// a kept connection, with a token from its environment. No program that does the job can be much faster.
package main

import (
	"fmt"
	"os"

	"autopilot-unassign/bench/webhook"
)

func main() {
	fmt.Fprintln(os.Stderr, webhook.Serve(os.Getenv("SIGNING_KEY"), webhook.NewGraph()))
	os.Exit(1)
}
