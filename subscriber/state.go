package subscriber

import "time"

// A Phase is what a stream is doing about its connection.
type Phase uint8

// The phases of a stream.
const (
	Connecting   Phase = iota // for the first time
	Connected                 // the gateway has opened the stream
	Reconnecting              // cut off, and trying
	Ended                     // closed, or refused for good
)

// String is the phase in lower case.
func (p Phase) String() string {
	return [...]string{"connecting", "connected", "reconnecting", "ended"}[p]
}

// A State is the truth about a stream's connection.
type State struct {
	Phase Phase
	// Since is when the phase began.
	Since time.Time
	// Why is what cut the connection or refused the last attempt; nil while all is well.
	Why error
	// Attempt counts the attempts that failed since Since.
	Attempt int
	// Wait is how long it will be until the next attempt.
	Wait time.Duration
}
