package schemas

// Notices are events of the gateway's own on a stream (protocol section 3). Their
// source is [NoticeSource]; they have no relaycursor.
const (
	NoticeSource = "/outrelay"

	NoticeGap      = "dev.outrelay.gap"      // data: reason, missed
	NoticeRejected = "dev.outrelay.rejected" // data: [Problem]
	NoticeDraining = "dev.outrelay.draining" // data: reconnectafterms
	NoticeOpen     = "dev.outrelay.open"     // data: cursor
	NoticePosition = "dev.outrelay.position" // data: cursor
)

// Notices of the relay are events on the topic [ListenerTopic] of a hybrid connection.
const (
	NoticeListenerUp   = "dev.outrelay.listener.up"   // data: name, listener
	NoticeListenerDown = "dev.outrelay.listener.down" // data: name, listener, reason
)

// ListenerTopic is where the listeners of a hybrid connection, whose name is folded,
// are announced.
func ListenerTopic(name string) Topic { return Topic(NoticeSegment + "/listeners/" + name) }

// The reasons of a gap.
const (
	GapSlow     = "slow"     // fell behind on a topic that is not stored
	GapExpired  = "expired"  // the cursor is older than what the log keeps
	GapReset    = "reset"    // the cursor is of another log
	GapUnstored = "unstored" // resumed over a topic that is not stored
)
