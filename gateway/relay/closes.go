package relay

import "github.com/outrelay/outrelay/schemas"

// Why the relay closes a WebSocket in its own name.
var (
	// closePeerLost: the other side is gone without a Close frame.
	closePeerLost = schemas.CloseReason{Word: "peer-lost", Code: 1011, Retry: schemas.RetryLater}
	// closeSenderGone: the sender whose request this was has gone.
	closeSenderGone = schemas.CloseReason{Word: "sender-gone", Code: 1001, Retry: schemas.RetryNever}
	// closeBadAnswer: what the listener sent in answer to the request can't be used.
	closeBadAnswer = schemas.CloseReason{Word: "bad-answer", Code: 1011, Retry: schemas.RetryNever}
	// closeDeleted: no rule is about the hybrid connection any more.
	closeDeleted = schemas.CloseReason{Word: "deleted", Code: 1001, Retry: schemas.RetryLater}
	// closeIdle and closeLifetime: a joined pair has reached a limit.
	closeIdle     = schemas.CloseReason{Word: "idle", Code: 1001, Retry: schemas.RetryNow}
	closeLifetime = schemas.CloseReason{Word: "lifetime", Code: 1001, Retry: schemas.RetryNow}
)
