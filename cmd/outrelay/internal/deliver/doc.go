// Package deliver hands the events of a durable subscription to a local service, one
// HTTP request an event, or to a command: what "outrelay deliver" does.
//
// # What becomes of an event
//
//   - A 2xx answer that came whole, or exit code 0: it is acked.
//   - Any other 4xx than 429, or the exit code [ExitReject]: it is rejected, with the
//     answer as the reason.
//   - All else (429, 5xx, 3xx, no connection, no answer in time, an answer that was cut,
//     any other exit code) is a failure. The event is released with a delay that grows
//     with its attempts and is no shorter than Retry-After, up to [MaxRetryAfter]. The
//     failure of its last attempt rejects it, so that the dead letter says why.
//
// Redirects are not followed. A service that sends one is misconfigured, which somebody
// can put right, so it counts as a failure and rejects nothing at once.
//
// # Pace
//
// While the service works, up to Concurrency events are with it at once. When it is down
// the whole agent slows down: nothing new is begun, and one event at a time is tried, at
// growing intervals of up to [maxPause] and not before a Retry-After is over, until one
// of them succeeds. It is taken to be down when it can't be reached, asks for a pause
// (429, 503, Retry-After), lets a request time out during which nothing else succeeded,
// or fails [maxRow] times in a row. What is held meanwhile is extended; it
// uses no attempts. No more than twice Concurrency events are held.
//
// # Order
//
// With Ordered the events of one partitionkey are with the service one after another, in
// the order in which the broker stored them: the next waits until the one before is acked
// or rejected. An event that fails is not released but kept and tried again here, so that
// nothing can overtake it. After each connection to the gateway nothing is begun until
// all that the gateway has handed out before has come again; see settle-in in order.go.
// It holds for one agent: where several share a subscription, it must be exclusive. Up to
// [orderedCredit] events are held; when all of them wait behind ones that fail, all wait.
//
// # Standards
//
// The requests follow the CloudEvents HTTP protocol binding 1.0.2: section 3.1 (binary
// mode, header values encoded as 3.1.3.2 says) and 3.2 (structured mode), no batches. Of
// the HTTP 1.1 Web Hooks for Event Delivery 1.0.2 it follows section 2 (POST, the meaning
// of the answers, Retry-After, no redirects); not section 4, the handshake, because who
// runs the agent says which service it is for.
//
// # Concurrency
//
// One goroutine owns all that is held. Requests, settlements and questions to the gateway
// each have a goroutine of their own, which tells the owner what came of it; Run waits
// for all of them.
package deliver
