// Package schemas is the contract of outrelay as Go: the names, events, cursors
// and problems that gateway and client share.
//
// It imports nothing else of the project, so a program on a customer's machine
// that speaks the wire carries no broker with it. The contract's prose is in
// protocol.md beside this file.
//
// # Concurrency
//
// Values are immutable once made and may be used from any goroutine.
package schemas
