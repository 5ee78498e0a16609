// Package publish is what the command "outrelay publish" does: it reads events
// out of a file or a pipe and sends them, in order, as fast or as slowly as told.
//
// # Promises
//
//   - Events are sent in the order in which they stand, and as they stand.
//   - What waits is joined to batches; what is alone goes at once. No more than a
//     few batches are in memory, however long the input is.
//   - The first event that is refused ends it. All before it are taken, none after it,
//     save over a WebSocket, where some after it may be on their way.
package publish
