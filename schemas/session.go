package schemas

import (
	"encoding/json"
	"time"
)

// The ops of a session (protocol section 5): what its messages are told apart by.
// Those of a client first.
const (
	OpSubscribe   = "subscribe"
	OpUnsubscribe = "unsubscribe"
	OpAck         = "ack"
	OpRelease     = "release"
	OpReject      = "reject"
	OpExtend      = "extend"
	OpPublish     = "publish"
	OpToken       = "token"
	OpPing        = "ping"

	OpWelcome    = "welcome"
	OpSubscribed = "subscribed"
	OpPosition   = "position"
	OpEvent      = "event"
	OpGap        = "gap"
	OpPublished  = "published"
	OpOK         = "ok"
	OpPong       = "pong"
	OpDraining   = "draining"
	OpError      = "error"
)

// Bounds of what a client sends in a session, or in the body of a request about a
// durable subscription.
const (
	// MaxRequestID is the longest id in bytes.
	MaxRequestID = 256
	// MaxTags is how many deliveries one message settles.
	MaxTags = 10_000
	// MaxTag is the longest tag in bytes.
	MaxTag = 256
)

// A SessionRequest is a message of a client in a session (protocol section 5, which
// says what each op takes). A field that is zero is not sent.
type SessionRequest struct {
	Op string `json:"op"`
	ID string `json:"id"`

	// Of subscribe; Topic also of publish. Durations are text, see [FormatDuration].
	Topic        string          `json:"topic,omitempty"`
	From         string          `json:"from,omitempty"`
	After        string          `json:"after,omitempty"`
	Filter       json.RawMessage `json:"filter,omitempty"`
	SQL          string          `json:"sql,omitempty"`
	Slow         string          `json:"slow,omitempty"`
	Subscription string          `json:"subscription,omitempty"`
	Credit       int             `json:"credit,omitempty"`
	AckWait      string          `json:"ackwait,omitempty"`
	MaxDeliver   int             `json:"maxdeliver,omitempty"`
	DeadLetter   *string         `json:"deadletter,omitempty"`
	Exclusive    *bool           `json:"exclusive,omitempty"`
	Expires      string          `json:"expires,omitempty"`

	// Of ack, release, reject and extend.
	Deliveries []string `json:"deliveries,omitempty"`
	UpTo       string   `json:"upto,omitempty"`
	Delay      string   `json:"delay,omitempty"`
	Reason     string   `json:"reason,omitempty"`

	Event  json.RawMessage   `json:"event,omitempty"`
	Events []json.RawMessage `json:"events,omitempty"`

	Token string `json:"token,omitempty"`
}

// A SessionMessage is a message of the gateway in a session, of whatever op: the
// fields that its op has not are zero.
type SessionMessage struct {
	Op string `json:"op"`
	// ID is that of the request that is answered, or of the subscription that the
	// message is of. Empty on welcome and draining, and on an error about a message
	// whose id could not be read.
	ID string `json:"id"`

	// Of welcome. TokenExpires is zero if the session doesn't end with a token.
	Connection   string        `json:"connection"`
	Gateway      string        `json:"gateway"`
	TokenExpires time.Time     `json:"tokenexpires"`
	Limits       SessionLimits `json:"limits"`

	// Of subscribed, position and published: empty on published where nothing was
	// stored.
	Cursor string `json:"cursor"`

	// Of event; the first two where the subscription is durable.
	Delivery string          `json:"delivery"`
	Attempt  int             `json:"attempt"`
	Event    json.RawMessage `json:"event"`

	// Reason is of gap, and of an error that ended the subscription ID: then it is the
	// word of a [CloseReason]. Empty on an error that answers a request.
	Reason string  `json:"reason"`
	Missed *uint64 `json:"missed"` // of gap; nil where it can't be known

	// Of published.
	Accepted   int   `json:"accepted"`
	Duplicates []int `json:"duplicates"`

	Unknown          []string `json:"unknown"`          // of ok, where it answers a settlement
	ReconnectAfterMS int64    `json:"reconnectafterms"` // of draining
	Problem          *Problem `json:"problem"`          // of error
}

// SessionLimits are what a session takes, as its welcome says.
type SessionLimits struct {
	// In bytes: an event, a batch, a message, an id.
	Event   int `json:"event"`
	Batch   int `json:"batch"`
	Message int `json:"message"`
	ID      int `json:"id"`
	// Numbers: events in a batch, subscriptions open at once, requests that wait for
	// their answer (beyond that the gateway stops reading), tags in a settlement.
	BatchEvents   int `json:"batchevents"`
	Subscriptions int `json:"subscriptions"`
	Pending       int `json:"pending"`
	Tags          int `json:"tags"`
	// PingSeconds is the longest silence of an idle session.
	PingSeconds float64 `json:"pingseconds"`
}

// A Subscription is a durable subscription, its options and its state, as
// /subscriptions shows it (protocol section 6).
type Subscription struct {
	Name       string          `json:"name"`
	Topic      TopicFilter     `json:"topic"`
	Filter     json.RawMessage `json:"filter,omitempty"`
	SQL        string          `json:"sql,omitempty"`
	AckWait    string          `json:"ackwait"`
	MaxDeliver int             `json:"maxdeliver"`
	DeadLetter Topic           `json:"deadletter,omitempty"`
	Exclusive  bool            `json:"exclusive"`
	Expires    string          `json:"expires"`

	Pending     uint64 `json:"pending"`     // not yet handed out
	Unsettled   int    `json:"unsettled"`   // handed out, and not delayed
	Delayed     int    `json:"delayed"`     // released with a delay that is not over
	Redelivered int    `json:"redelivered"` // of the two before: handed out more than once
	// OldestUnsettled is when the oldest event handed out and not settled was
	// accepted; nil if there is none.
	OldestUnsettled *time.Time `json:"oldestunsettled"`
	Subscribers     int        `json:"subscribers"` // open sessions
}

// A Delivery is an event handed out by POST /subscriptions/{name}/receive.
type Delivery struct {
	Delivery string          `json:"delivery"`
	Attempt  int             `json:"attempt"`
	Event    json.RawMessage `json:"event"`
}

// Settled is the answer to a settlement over HTTP: what became of each tag.
type Settled struct {
	Accepted []string `json:"accepted"`
	Unknown  []string `json:"unknown"`
}
