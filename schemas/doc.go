// Package schemas is the contract of outrelay as Go: the names, events, cursors
// and problems that gateway and client share.
//
// Most programs want [ParseEvent] and its siblings [ParseBatch] and [ParseBinary],
// which read a CloudEvent strictly into its one JSON form, and [Problem], which is
// every error that crosses the wire.
//
// It imports nothing else of the project, so a program on a customer's machine
// that speaks the wire carries no broker with it. The contract's prose is in
// protocol.md beside this file, its machine-readable forms are event.schema.json,
// openapi.yaml and asyncapi.yaml, and the folder vectors has input with its outcome
// for tests in any language.
//
// # Promises
//
//   - What a parser accepts comes out as strictly valid JSON that reads back as the
//     same event, byte for byte the same form whichever mode it came in.
//   - A payload keeps its bytes: JSON its text and digits, text its characters.
//   - Nothing that a stranger sends makes a parser panic, or take more time or
//     memory than in proportion to its length.
//   - No attribute is changed, renamed or dropped but the broker's own.
//
// # Concurrency
//
// Values are immutable once made and may be used from any goroutine.
package schemas
