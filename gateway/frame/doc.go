// Package frame sends prepared WebSocket frames over coder/websocket: an event is
// encoded once, and the same bytes go to every socket, past coder, without waiting
// for any of them (design section 2; facts on the traps are in DESIGN.md).
//
// coder/websocket does the handshake, the answers to pings and Close frames, and the
// reading of all but short text messages of one frame, which [Socket.Next] takes from
// the socket's buffer; all that is written passes the [Socket]'s lock, so that a control
// frame never lands inside a data frame and no data follows a Close frame.
//
// # Concurrency
//
// A Socket's methods may be called from any goroutine, but for Next, Ready
// and Read, which belong to one. The package starts no goroutine.
package frame
