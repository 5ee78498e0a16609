// Package relay is the part of the gateway that joins the senders and listeners of
// hybrid connections, wire-compatible with Azure Relay: a service behind a firewall
// opens one outbound WebSocket, and is then reached through it.
//
// A listener's standing WebSocket is its control channel ([Relay.listen]). A sender
// that arrives is offered to one of the listeners, which dials back to an address that
// is good once ([meeting]). Then two raw connections are joined frame by frame
// ([splice]), or an HTTP request is carried over ([visit.request]). A listener that
// dials another gateway than the sender's is carried there ([tunnel]).
//
// # Promises
//
//   - An address joins once, and only the sender that it was made for.
//   - The relay never looks inside: messages pass with their kind and their boundaries,
//     Close frames with their code and reason, and it answers none on a peer's behalf.
//   - No message is held as a whole, but the bodies of HTTP requests and answers that
//     travel on the control channel, which are bounded. Who does not read is not read
//     from on the other side.
//   - A token never reaches the other side, nor a log, an error or an address.
//
// # Concurrency
//
// All methods of [Relay] may be called from any goroutine. No goroutine of the relay
// starts before [Relay.Run] is called or outlives it.
package relay
