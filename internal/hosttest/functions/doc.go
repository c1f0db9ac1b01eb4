// Package functions is a double of the Azure Functions host for tests. It starts a custom handler, the real binary,
// as a process, supervises it, and sends it requests and invocations as the host does.
//
// # Sources
//
// [M] measured in November 2026 on the host 4.1037, built from its published source, as it is (it forwards) and with
// the published proxying code of 2025. [S] read in the source of that host, at commit 89dc438d of
// Azure/azure-functions-host; [S25] in its files of 2025 (DefaultHttpWorkerService.cs, DefaultHttpProxyService.cs,
// RetryProxyHandler.cs); [Y] in microsoft/reverse-proxy 202cca96; [N]
// in HttpConnection.cs of dotnet/runtime 000f1046; [K] in azure-webjobs-sdk f79ea0bf and its
// extensions. [D] from Microsoft's documentation.
//
// # Modes
//
// Hosts pass a request to the worker in three ways, all with the original method, path and body:
//
//	                         Forwarding          EarlyProxying       Proxying
//	hosts                    before 2025 [M]     mid 2025 [S25]      today [M]
//	Host                     the caller's        the caller's        127.0.0.1:PORT
//	X-Forwarded-*            the caller's        the caller's        For: the peer's address; Host, Proto: the
//	request's X-Ms-Invocation-Id       the caller's        set                 set
//	X-Azure-Functions-*      added to the caller's values; set in both proxying modes
//	query                    rebuilt (E12)       unchanged           unchanged
//	body                     buffered; chunked   streamed            streamed
//	                         fails with 500
//
// # Start
//
//	E1  host.json names customHandler.description.defaultExecutablePath: a file in the folder of the app, else a name
//	    for PATH. A file without the run bit lets the host start; requests then get 500. [S, M]
//	E2  Functions are the folders of depth one with a function.json; names, triggers and binding names are checked. [S
//	    HostFunctionMetadataProvider.cs:73-149, Utility.cs:59-60] customHandler.http.routes excludes them. [S25]
//	E3  The port is found by binding and closing. It stays the same for later workers. The working directory is the
//	    app's. The environment is the host's and FUNCTIONS_CUSTOMHANDLER_PORT, FUNCTIONS_CUSTOMHANDLER_WORKER_ID and
//	    older names of these, FUNCTIONS_APP_ROOT_PATH. The Core Tools add FUNCTIONS_CORETOOLS_ENVIRONMENT. [S
//	    HttpWorkerProcess.cs:56-62, M]
//	E4  GET / goes to the worker every 25 ms until any response arrives. A refused connection is none. [S
//	    DefaultHttpWorkerService.cs:263-289]
//	E5  Requests and invocations are held until the worker is ready, also while it restarts. GET / is sent now and
//	    then later. [S, M]
//
// # Output of the worker
//
//	E6  A line of stdout is Information. A line of stderr is Warning if it contains "warn", else Error. The prefix
//	    LanguageWorkerConsoleLog is removed, azfuncjsonlog: stays. [S WorkerProcess.cs:112-233, M]
//
// # Requests
//
//	E7  Before the worker sees a request:
//	    a request line over 8 KiB gets 414, more than 100 headers 431, a header value that is not ASCII 400, an
//	    unknown method 404 [M]; dot segments are resolved, an encoded slash stays, an empty segment matches no route
//	    [M]; /admin/functions gets 401 [M];
//	    routes match in any case, with or without one slash at the end [M]; no route, a method that the route does not
//	    list, or a trigger that is no httpTrigger get 404 [S];
//	    / gets the homepage, 200 text/html, or 204 with AzureWebJobsDisableHomepage, unless a function has the route
//	    "/" under the prefix "", or one that matches everything [M];
//	    a missing or wrong key gets 401; the function's, the host's and the master key all open [M];
//	    a body over 104857600 bytes gets 413 [S];
//	    more than maxConcurrentRequests wait, and more than maxOutstandingRequests get 429 with X-FUNCTION-SCALEOUT
//	    and no Retry-After [M];
//	    a body slower than 240 bytes a second, after five seconds, breaks off: 500, unless the worker has responded [D
//	    MinRequestBodyDataRate of Kestrel, S ExceptionMiddleware.cs].
//	    None of these responses has a body, but for the homepage.
//	E8  Proxying: all but the hop-by-hop headers are passed on [Y RequestUtilities.cs:71-90], and the table's are set.
//	    [M]
//	E9  Status, headers except hop-by-hop ones, and body are passed back. Content-Length is dropped from 204 and 205.
//	    [Y] The host reads a response only after it has sent the body [N SendAsync]. A worker that closes the connection
//	    before breaks the write: the caller gets 500 (bodies from 8 MiB always, from 4 MiB at times [M]).
//	E10 Proxying: a request whose connection breaks is sent again, up to 10 times within 1.9 s, unless its body has
//	    been read; then the caller gets 500. Without a byte for 240 s the caller gets 500. [S25, M]
//	E11 Proxying: a caller that goes away cancels the request to the worker. [Y] Forwarding does not.
//	E12 Forwarding: the query is rebuilt in its order, with the values of one name joined by commas and a space as %20
//	    [M]; headers of the content other than Content-Type and Content-Length are lost [S
//	    HttpRequestExtensions.cs:155-181]; a chunked body or an invalid Content-Type gets 500 [S, M]; Allow comes back
//	    as a header for each value [M]; after a 204 or 304 the host closes the caller's connection without saying so
//	    [M].
//
// # Invocations
//
//	E13 Every function that is not one httpTrigger and one http output is invoked: POST /{folder}, chunked, as JSON
//	    with Data and Metadata. Under the Core Tools the body has a length. None of the headers of the table but
//	    X-Azure-Functions-* is set. [S ScriptInvocationContextExtensions.cs:18-96, M]
//	E14 RetryContext is there if the function has a retry. Its Exception is a whole .NET exception, 3.4 KB. [M]
//	E15 Redirects are followed only without enableForwardingHttpRequest. [S, M]
//	E16 A status other than 2xx, another media type than JSON, or invalid JSON fails the invocation. [S, M]
//	E17 A 2xx without a body, or with null, never ends it: the function's time runs out. [S, M]
//	E18 Outputs are taken by the names of output bindings, others are dropped. A string that is valid base64 becomes
//	    bytes. [S, M]
//	E19 A timer's retries have the invocation id of the first try [M]. Runs of a timer never overlap. [K]
//	E20 At functionTimeout plus 2.4 s the invocation fails, or the caller gets 500, and the worker is killed and
//	    replaced. [M]
//
// # End
//
//	E21 The worker is stopped by SIGKILL. [S, M]
//	E22 Exit code 0 is followed by nothing: later requests get 500. 200 is followed by a restart. Any other is a
//	    crash, followed by a restart; at the third crash, each within 30 minutes of the one before, the host's process
//	    ends: connections are refused. [S, M]
//	E23 Connections to the worker are kept and used again. [M]
//
// # Differences on purpose
//
//   - Of the parent's environment the worker gets PATH, HOME and TMPDIR alone, so that a test means the same on every
//     machine.
//   - A worker that is slow to answer GET /, redirects it, or does not answer within InitTimeout stops the host at
//     once. (The host makes four tries of 30 s.)
//   - An invocation that would hang (E17) fails at once.
//
// # Where the double is more lenient
//
//   - Times: an early refusal of a large body takes the host up to 2.9 s, the double no time.
//   - Bodies between 4 and 8 MiB that are refused early: whether the write breaks depends on the machine.
//   - Constraints in routes are not checked.
//   - Pings during an invocation, placeholder mode, the front end of Azure, Application Insights.
//   - The order in which functions with equally good routes match.
package functions
