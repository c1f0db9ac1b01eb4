// Package queue holds two queue engines for tests: Amazon SQS with a Lambda event source mapping, and Azure Storage
// queues with the listener of the Functions host. Each drives a Go function directly, in the time of its caller:
// under testing/synctest a night of redeliveries takes milliseconds.
//
// Sources: [L] AWS documentation, "Using Lambda with Amazon SQS", "Configuring scaling behavior" and "Handling
// errors for an SQS event source", and "Amazon SQS dead-letter queues"; [A] "Amazon SQS API Reference"; [H] measured on the Functions host 4.1037
// with Azurite, November 2026; [S] azure-webjobs-sdk, QueueListener.cs, QueueProcessor.cs,
// RandomizedExponentialBackoffStrategy.cs; [D] Microsoft's documentation of the queue trigger.
//
// # SQS
//
//	S1  A receive hides a message for the visibility timeout and adds one to its receive count. [L]
//	S2  A message whose receive count has reached maxReceiveCount is moved to the dead-letter queue at its next
//	    receive. [L]
//	S3  At most MaximumConcurrency environments work at a time. Each takes one batch at a time, and is kept for the
//	    next. [L]
//	S4  A receive returns a batch of at most BatchSize messages; with a batching window it waits to fill up. [L]
//	S5  After a success the messages that batchItemFailures does not name are deleted. The others come back when their
//	    visibility timeout has run out, and not before. [L]
//	S6  An error, a timeout, a killed environment, or a batchItemFailures with an id that is not in the batch fails
//	    the whole batch. A timeout or a kill ends the environment; the next batch gets a new one. [L]
//	S7  A message older than the retention period is deleted, wherever it is. [L]
//	S8  A message that is not deleted in time is received again, also while it is being worked on. A delete by an
//	    earlier receive then does nothing. (Stricter than SQS, where such a delete may succeed.)
//	S9  DeleteMessage and ChangeMessageVisibility settle a message by the receipt of its last receive, also while the
//	    invocation runs. The timeout of ChangeMessageVisibility counts from the call. [A]
//
// # Storage queues
//
//	Q1  Each instance receives BatchSize messages when it works on NewBatchThreshold or fewer. [S]
//	Q2  A receive hides a message for ten minutes and adds one to its dequeue count. While the invocation runs, the
//	    host renews this every five minutes: an invocation of twelve minutes keeps its message. [H, S]
//	Q3  After a success the message is deleted. [S]
//	Q4  After a failure it is hidden for VisibilityTimeout; at MaxDequeueCount it is copied to the poison queue
//	    instead. [S, D]
//	Q5  A message that is received more often than MaxDequeueCount goes to the poison queue without an invocation. [S]
//	Q6  FunctionTimeout fails the invocation and kills the worker with all its other invocations, which fail too. [H]
//	Q7  A killed worker fails its invocations at once, and is started again. [H]
//	Q8  A killed instance settles nothing: its messages come back ten minutes after the last renewal, or after the
//	    receive if there was none, with a try used up. [H]
//	Q9  An instance that finds messages looks for more at once. One that finds none waits longer each time, from 100
//	    ms to MaxPollingInterval. (An idle queue takes a message after 13 to 30 s. [H])
//	Q10 Messages expire after seven days, those in the poison queue too. [H]
//
// # Where the engines are more lenient
//
//   - SQS delivers some messages twice without a reason, and in any order: here only S8 does, and the oldest message is
//     first.
//   - Lambda adds pollers over minutes and backs off after errors: here all of them work from the start.
//   - Environments and instances that were killed are replaced at once; in the cloud a cold start comes in between.
//   - The host spreads its polls at random: here each wait is twice the one before.
//   - The Functions scale controller adds and removes instances: here their number is fixed.
package queue
