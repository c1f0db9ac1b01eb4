// Package lambda is a double of AWS Lambda for tests. It starts a function, the real binary, as a process and gives
// it invocations by the Runtime API. It also makes the events of an HTTP API or a Function URL, and reads the
// replies as these do.
//
// Sources: [R] AWS documentation, "Using the Lambda runtime API"; [X] "Understanding the Lambda execution
// environment lifecycle"; [G] aws-lambda-go v1.55.1, its source and runs; [H] "Create AWS Lambda proxy integrations
// for HTTP APIs"; [E] the runtime interface emulator of January 2026, runs.
//
//	L1  GET /2018-06-01/runtime/invocation/next returns an event with the headers Lambda-Runtime-Aws-Request-Id,
//	    -Deadline-Ms, -Invoked-Function-Arn and -Trace-Id. A process has one invocation at a time. [R, G]
//	L2  POST …/invocation/{id}/response or …/error ends it with 202. Any other id gets 400. [R]
//	L3  A process is started for the first invocation and kept. [X]
//	L4  An invocation that exceeds Timeout fails, and the process is killed. [X, E]
//	L5  A process that does not ask for an event within ten seconds fails, and is killed. [R, X]
//	L6  A process that ends during an invocation fails it. [X, G]
//	L8  stdout and stderr are one stream. [X]
//	L9  Payload format 2.0: header names in lower case, values of one name joined by commas, the stage $default. [H]
//
// Differences on purpose: of the parent's environment the function gets PATH, HOME and TMPDIR alone. No other process is
// started after the end of the first (Lambda starts one for the next invocation). A reply that is not the object of
// payload format 2.0 with a status, and a body in base64 or cookies, is an error (HTTP APIs make a 500 of a malformed
// one, and a 200 of one without a status).
//
// The double is more lenient: it never freezes a process between invocations, never fills up memory or disk, limits no
// payload (Lambda: 6 MB), keeps HTTP APIs waiting for more than 30 s, and retries no failed asynchronous invocation.
package lambda
