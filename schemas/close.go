package schemas

import "strings"

// A Retry says whether a client whose WebSocket was closed should connect again.
type Retry string

// What a close reason says of connecting again.
const (
	RetryNever Retry = "never" // it was done
	RetryNow   Retry = "now"   // at once, with jitter
	RetryLater Retry = "later" // with growing waits: the same may happen again
	RetryToken Retry = "token" // not without a new token
)

// A CloseReason is why the gateway closes a WebSocket (protocol section 4).
type CloseReason struct {
	// Word begins the reason text of the Close frame. Logs and metrics have the same.
	Word string
	// Code is the status code of the Close frame (RFC 6455 section 7.4).
	Code int
	// Retry says whether to connect again.
	Retry Retry
}

// The close reasons of the contract.
var (
	CloseDone         = CloseReason{"done", 1000, RetryNever}
	CloseDrain        = CloseReason{"drain", 1001, RetryNow}
	CloseDeleted      = CloseReason{"deleted", 1001, RetryLater} // of the relay, as all that follow with this code
	CloseIdle         = CloseReason{"idle", 1001, RetryNow}
	CloseLifetime     = CloseReason{"lifetime", 1001, RetryNow}
	CloseSenderGone   = CloseReason{"sender-gone", 1001, RetryNever}
	CloseProtocol     = CloseReason{"protocol", 1002, RetryLater}
	CloseFrameKind    = CloseReason{"frame-kind", 1003, RetryLater}
	CloseNotUTF8      = CloseReason{"not-utf8", 1007, RetryLater}
	CloseTokenExpired = CloseReason{"token-expired", 1008, RetryToken}
	CloseRightLost    = CloseReason{"right-lost", 1008, RetryToken}
	CloseTooBig       = CloseReason{"too-big", 1009, RetryLater}
	CloseFault        = CloseReason{"fault", 1011, RetryLater}
	CloseSilent       = CloseReason{"silent", 1011, RetryNow}
	ClosePeerLost     = CloseReason{"peer-lost", 1011, RetryLater}  // of the relay
	CloseBadAnswer    = CloseReason{"bad-answer", 1011, RetryNever} // of the relay
	CloseSlow         = CloseReason{"slow", 1013, RetryNow}
	CloseQuota        = CloseReason{"quota", 1013, RetryLater}
)

// CloseReasons lists the close reasons of the contract, by code.
func CloseReasons() []CloseReason {
	return []CloseReason{
		CloseDone, CloseDrain, CloseDeleted, CloseIdle, CloseLifetime, CloseSenderGone, CloseProtocol, CloseFrameKind, CloseNotUTF8, CloseTokenExpired,
		CloseRightLost, CloseTooBig, CloseFault, CloseSilent, ClosePeerLost, CloseBadAnswer, CloseSlow, CloseQuota,
	}
}

// ParseClose finds the reason of a Close frame that a client got: by its code and
// the text's first word; where the word is not known, the first reason of the
// code. For a code that is not the contract's Word is empty and Retry is later.
func ParseClose(code int, text string) CloseReason {
	word, _, _ := strings.Cut(text, " ")
	word = strings.TrimRight(word, ":;,.")
	found := CloseReason{Code: code, Retry: RetryLater}
	for _, r := range CloseReasons() {
		switch {
		case r.Code != code:
		case r.Word == word:
			return r
		case found.Word == "":
			found = r
		}
	}
	return found
}

// Text is the reason text of the Close frame: the word, and behind a colon a
// detail for people, cut to the 123 bytes that a Close frame holds (RFC 6455
// section 5.5).
func (r CloseReason) Text(detail string) string {
	const most = 123
	if detail == "" {
		return r.Word
	}
	s := r.Word + ": " + detail
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-len("...")], "") + "..."
	}
	return s
}
