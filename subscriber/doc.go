// Package subscriber is the outbound side of outrelay, for programs behind a
// firewall: it publishes CloudEvents to a gateway and subscribes to them, over
// connections that it opens itself, to one port, through whatever proxy there is.
//
// It is also how a service there is reached: [Client.Listen] is a net.Listener on a
// hybrid connection of the gateway's relay, so that an HTTP server, or any other that
// accepts connections, runs behind the firewall unchanged, and [Client.Dial] is the
// other end.
//
// Make a [Client] with [New], then call [Client.Publish] and [Client.Subscribe].
// Events are those of the CloudEvents SDK (package event) where a program meets
// them; who wants the bytes has [Client.PublishJSON] and [Delivery.Raw].
//
// # Promises
//
//   - What is published to a stream's topics after [Client.Subscribe] returned is
//     handed out by [Stream.Next], each event once and in the order in which the
//     gateway stored it, whatever happens to the connection: a stream connects
//     again by itself and goes on after the last cursor.
//   - What a stream can't get any more (kept too long ago, a topic that is not
//     stored, another log) it tells: a gap is an error of Next, unless the program
//     asked for notices. It is never silence.
//   - A stream that is not connected says so, since when and why ([State]).
//   - A refusal that a further try can't change ends a stream with the gateway's
//     [schemas.Problem]; everything else is tried again, spread by full jitter.
//   - A relayed connection ([Conn]) is a stream of bytes, complete and in order, whose
//     two directions end apart. One that is cut reads as an error, never as io.EOF.
//   - A [Listener] connects again by itself and renews its token through
//     [Config.Token] before it expires; a token that was refused as expired is never
//     tried again. What waits for Accept is bounded. Close finishes what has begun.
//
// # Concurrency
//
// A Client may be used from any goroutine. A Stream has one goroutine of its own
// from Subscribe to Close; Next is for one caller at a time, the other methods for
// any. Listeners and relayed connections are used as those of package net.
package subscriber
