package schemas

// The limits of the contract (protocol section 3). Inner limits, such as NATS's
// payload and the read limits of sockets, lie above them.
const (
	// MaxEvent is the size of one event in bytes, counted in its JSON form
	// before the broker's own attributes; binary data counts as base64.
	MaxEvent = 1 << 20
	// MaxBatch is the size of a batch in bytes.
	MaxBatch = 8 << 20
	// MaxBatchEvents is the number of events in a batch.
	MaxBatchEvents = 1000
	// MaxAttributes is the size in bytes of all names and values of an event's
	// context attributes together.
	MaxAttributes = 8 << 10
	// MaxDepth is how deep arrays and objects may lie in JSON data. It is below
	// what common readers of JSON take (10,000), so that what wraps an event
	// stays readable.
	MaxDepth = 9000
	// MaxStreamMessage is the longest text message in bytes that a client may
	// send on a cloudevents.json WebSocket; a longer one closes with 1009.
	MaxStreamMessage = 2 << 20
	// MaxSessionMessage is the same for a session (section 5).
	MaxSessionMessage = 9 << 20
)

// Subprotocols of the WebSocket endpoints.
const (
	SubprotocolCloudEvents = "cloudevents.json"
	SubprotocolSession     = "outrelay.v1.json"
	// SubprotocolBearerPrefix comes before a token in base64url, for browsers,
	// which can't set headers. It is never echoed (section 7).
	SubprotocolBearerPrefix = "outrelay.bearer."
)

// Media types of the CloudEvents HTTP binding.
const (
	MediaTypeEvent   = "application/cloudevents+json"
	MediaTypeBatch   = "application/cloudevents-batch+json"
	MediaTypeProblem = "application/problem+json"
)
