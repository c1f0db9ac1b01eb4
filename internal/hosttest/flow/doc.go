// Package flow is a test double of Power Automate. It reads the source of a flow and runs it. The test supplies the
// connectors; the requests of HTTP actions go out for real.
//
// It knows as much of the workflow definition language as the flows of this project use, and refuses the rest. It was
// never compared with the platform itself. The rules that it obeys, with their sources:
//
//   - Headers of a request: public captures of requests that arrived from the platform.
//   - Headers that an HTTP action drops, the retried statuses (408, 429, 5xx, connection failures) and the retry
//     policies: Microsoft's reference of the HTTP action and of limits. Without a policy: two retries, after 5 and 10
//     minutes.
//   - A request is sometimes sent twice without any retry: Azure/logicapps#1483, Azure/azure-functions-host#5678.
//   - The body of a response: application/json becomes its value, or fails the action if it does not parse; text/*
//     becomes a string; anything else becomes an object with $content-type and $content; no bytes become null.
//   - A property of a string or a number is an error, with and without the question mark (public threads about
//     InvalidTemplate). A property of null is null with the question mark, an error without.
//   - An error in an expression fails its action, not the run.
//   - A skipped branch ends as the action before it. An Until ends as its last round.
package flow
