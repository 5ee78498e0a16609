package gateway

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/frame"
	"github.com/outrelay/outrelay/schemas"
)

// These make the gateway's messages of a session (protocol section 5). An id comes in
// quotes: it is a client's text, and quoted once.

func quote(id string) []byte {
	b, err := jsontext.AppendQuote(nil, id)
	if err != nil {
		panic(err) // it came out of JSON
	}
	return b
}

// begin begins a message with its op and, unless it is nil or empty, its id.
func begin(op string, quoted []byte, room int) []byte {
	b := make([]byte, 0, len(`{"op":"","id":}`)+len(op)+len(quoted)+room)
	b = append(b, `{"op":"`...)
	b = append(b, op...)
	b = append(b, '"')
	if len(quoted) > len(`""`) {
		b = append(b, `,"id":`...)
		b = append(b, quoted...)
	}
	return b
}

// closeObject ends a message.
var closeObject = []byte("}")

// plainMessage has no more than an op and an id.
func plainMessage(op string, quoted []byte) []byte { return append(begin(op, quoted, 0), '}') }

// mustJSON is for the gateway's own types.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (s *session) welcome() []byte {
	l := s.gateway.config.Limits
	limits := schemas.SessionLimits{
		Event: schemas.MaxEvent, Batch: schemas.MaxBatch, Message: schemas.MaxSessionMessage, ID: schemas.MaxRequestID,
		BatchEvents: schemas.MaxBatchEvents, Subscriptions: l.SessionSubscriptions, Pending: l.SessionRequests,
		Tags: schemas.MaxTags, PingSeconds: l.PingInterval.Seconds(),
	}
	b := begin(schemas.OpWelcome, nil, 300)
	b = append(b, `,"connection":"`+s.id+`","gateway":"`+gatewayID+`"`...)
	if expires := s.grant.Load().Expires; !expires.IsZero() {
		b = append(b, `,"tokenexpires":"`...)
		b = expires.UTC().AppendFormat(b, time.RFC3339)
		b = append(b, '"')
	}
	b = append(b, `,"limits":`...)
	return append(append(b, mustJSON(limits)...), '}')
}

func subscribedMessage(quoted []byte, c schemas.Cursor) []byte {
	return cursorMessage(schemas.OpSubscribed, quoted, c)
}

func positionMessage(quoted []byte, c schemas.Cursor) []byte {
	return cursorMessage(schemas.OpPosition, quoted, c)
}

func cursorMessage(op string, quoted []byte, c schemas.Cursor) []byte {
	b := append(begin(op, quoted, 80), `,"cursor":"`...)
	return append(c.AppendTo(b), `"}`...)
}

// eventHead comes before the event of a stream, closeObject behind it.
func eventHead(quoted []byte) []byte {
	return append(begin(schemas.OpEvent, quoted, 20), `,"event":`...)
}

// appendDelivery appends what comes before the event of a delivery.
func appendDelivery(b, quoted []byte, d *broker.SubscriptionDelivery) []byte {
	b = append(b, `{"op":"event","id":`...)
	b = append(b, quoted...)
	b = append(b, `,"delivery":"`...)
	b = append(b, d.Tag...)
	b = append(b, `","attempt":`...)
	b = strconv.AppendInt(b, int64(d.Attempt), 10)
	return append(b, `,"event":`...)
}

func gapMessage(quoted []byte, g *broker.Gap) []byte {
	b := append(begin(schemas.OpGap, quoted, 60), `,"reason":"`+g.Reason+`","missed":`...)
	if g.Missed == nil {
		return append(b, `null}`...)
	}
	return append(strconv.AppendUint(b, *g.Missed, 10), '}')
}

func publishedMessage(quoted []byte, r broker.Receipt) []byte {
	return publishedTail(begin(schemas.OpPublished, quoted, publishedRoom(r)), r)
}

// publishedRoom is about what an answer to a publish holds beside its op and id.
func publishedRoom(r broker.Receipt) int {
	if r.Stored {
		return 120
	}
	return len(`,"accepted":000}`)
}

// publishedHead comes before the id of an answer to a publish, publishedTail behind it.
var publishedHead = []byte(`{"op":"` + schemas.OpPublished + `","id":`)

func publishedTail(b []byte, r broker.Receipt) []byte {
	b = append(b, `,"accepted":`...)
	b = strconv.AppendInt(b, int64(r.Accepted), 10)
	if r.Stored {
		b = append(b, `,"cursor":"`...)
		b = append(r.Cursor.AppendTo(b), '"')
	}
	if len(r.Duplicates) > 0 {
		b = append(append(b, `,"duplicates":`...), mustJSON(r.Duplicates)...)
	}
	return append(b, '}')
}

// settledMessage answers a settlement; unknown are the tags that were none.
func settledMessage(quoted []byte, unknown []string) []byte {
	b := append(begin(schemas.OpOK, quoted, 20), `,"unknown":`...)
	if len(unknown) == 0 {
		return append(b, `[]}`...)
	}
	return append(append(b, mustJSON(unknown)...), '}')
}

func drainingMessage(retry time.Duration) []byte {
	b := append(begin(schemas.OpDraining, nil, 40), `,"reconnectafterms":`...)
	return append(strconv.AppendInt(b, retry.Milliseconds(), 10), '}')
}

// errorMessage answers a request that was refused.
func (s *session) errorMessage(quoted []byte, err error) []byte {
	p := s.gateway.problem(err)
	s.gateway.metrics.refused(s.namespace, p)
	return problemMessage(quoted, "", p)
}

// endedMessage says that a subscription is closed: an error with a reason is no
// answer to a request.
func endedMessage(quoted []byte, end *ending, p *schemas.Problem) []byte {
	return problemMessage(quoted, end.reason.Word, p)
}

func problemMessage(quoted []byte, reason string, p *schemas.Problem) []byte {
	b := begin(schemas.OpError, quoted, 300)
	if reason != "" {
		b = append(b, `,"reason":"`+reason+`"`...)
	}
	b = append(b, `,"problem":`...)
	return append(append(b, mustJSON(p)...), '}')
}

// newChunk takes an empty chunk from those that are kept.
func newChunk() *frame.Chunk {
	c := chunks.Get().(*frame.Chunk)
	c.Reset()
	return c
}

// freeChunk keeps a chunk for the next who needs one.
func freeChunk(c *frame.Chunk) {
	if cap(c.Bytes) <= 2*joined {
		chunks.Put(c)
	}
}

// joinChunk appends the frames of another chunk.
func joinChunk(c, other *frame.Chunk) {
	base := len(c.Bytes)
	c.Bytes = append(c.Bytes, other.Bytes...)
	for _, end := range other.Ends {
		c.Ends = append(c.Ends, base+end)
	}
}
