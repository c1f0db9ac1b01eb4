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
//	L3  A process is started for the first invocation and kept. After a kill or an end the next invocation starts
//	    another. [X]
//	L4  An invocation that exceeds Timeout fails, and the process is killed. [X, E]
//	L5  A process that does not ask for an event within Init, or that reports POST …/runtime/init/error, fails the
//	    invocation and is killed. Such a report after the first /next gets 403. [R, X]
//	L6  A process that ends during an invocation fails it. [X, G]
//	L7  /2020-01-01/extension/register is accepted, for a runtime that listens for SIGTERM. [G]
//	L8  stdout and stderr are one stream. [X]
//	L9  Payload format 2.0: header names in lower case, values of one name joined by commas, cookies apart, the stage
//	    $default. A reply without statusCode is the body of a 200; any other reply that is malformed, and any failure,
//	    is a 500 {"message":"Internal Server Error"}. [H]
//
// Differences on purpose: of the parent's environment the function gets PATH, HOME and TMPDIR alone.
//
// The double is more lenient: it never freezes a process between invocations, never fills up memory or disk, limits no
// payload (Lambda: 6 MB), keeps HTTP APIs waiting for more than 30 s, and retries no failed asynchronous invocation.
package lambda
