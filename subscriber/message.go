package subscriber

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// noticeType begins the type of the gateway's own words on a stream. What is
// published has a relaytopic, they have none.
const noticeType = "dev.outrelay."

// A Notice is the gateway's own word on a stream, at its place among the events.
type Notice struct {
	// Type is its type, such as [schemas.NoticeGap]; the stream keeps open and
	// position notices to itself.
	Type string
	// Gap is set on a gap.
	Gap *Gap
	// ReconnectAfter is the time that a draining gateway named. The stream minds it.
	ReconnectAfter time.Duration
	// Problem is set on a rejected event, which it names.
	Problem *schemas.Problem
	// Raw is the notice as it came.
	Raw []byte

	cursor string // of open and position
}

// A Gap says that a stream will not get some events, and why. The stream goes on.
type Gap struct {
	// Reason is one of the contract's, such as [schemas.GapExpired].
	Reason string
	// Missed counts the events after the filter; nil where it can't be known.
	Missed *uint64
}

// A GapError is what [Stream.Next] returns for a gap where the program asked for
// no notices. The stream goes on: call Next again.
type GapError struct {
	Gap
	// Notice is the notice as it came.
	Notice []byte
}

// Error says what the reason means.
func (e *GapError) Error() string {
	missed := "events"
	if e.Missed != nil {
		missed = fmt.Sprintf("%d events", *e.Missed)
	}
	why := map[string]string{
		schemas.GapSlow:     "this subscriber was too slow for a topic that is not stored",
		schemas.GapExpired:  "the log no longer keeps what came after the cursor",
		schemas.GapReset:    "the log is another one than the cursor's",
		schemas.GapUnstored: "the topic is not stored, and the stream was not connected for a while",
	}[e.Reason]
	if why == "" {
		why = "reason " + printable([]byte(e.Reason))
	}
	return fmt.Sprintf("gap: %s missed: %s", missed, why)
}

// A Delivery is what [Stream.Next] hands out: an event, or, where the program
// asked for them, a notice.
type Delivery struct {
	// Raw is the JSON exactly as it came. It is the caller's.
	Raw []byte
	// Topic is where the event was published; empty for a notice.
	Topic string
	// Cursor is the event's place: a stream with After set to it begins with what
	// comes next. Empty for a notice and on a topic that is not stored.
	Cursor string
	// Notice is set if this is no event.
	Notice *Notice
	// Repeated says that the place is not after that of an event handed out before:
	// the gateway broke its order, and the event may have been here already. It is
	// handed out all the same, because it may also be late.
	Repeated bool
}

// Event reads the event into the type of the CloudEvents SDK, anew at each call.
// The SDK changes some values in form, such as times to UTC; Raw is as published. Its
// DataAs decodes application/json alone; of types such as application/geo+json take Data.
func (d *Delivery) Event() (e event.Event, err error) {
	defer func() { // some versions of the SDK panic on input that is no event
		if r := recover(); r != nil {
			err = fmt.Errorf("read the event: %v", r)
		}
	}()
	if e, err = readEvent(d.Raw); err != nil {
		return e, fmt.Errorf("read the event: %w", err)
	}
	return e, nil
}

// parse reads what a stream needs to know of a message, which it keeps as Raw.
// topic is the last event's, whose text is used again where it is the same.
func parse(raw []byte, topic string) (Delivery, error) {
	if d, ok := tail(raw, topic); ok {
		return d, nil
	}
	return parseMembers(raw)
}

// The end of a delivered event in the form in which the gateway writes it.
var (
	tailTopic  = []byte(`,"relaytopic":"`)
	tailCursor = []byte(`,"relaycursor":"`)
	tailEnd    = []byte(`"}`)
	nameCursor = []byte(`"relaycursor"`)
)

// tail finds topic and cursor where they stand last in the object, which is where
// the gateway puts them. In valid JSON nothing else can look so: the last brace
// closes the object, and no quote within a string goes without a backslash before
// it, so these are the object's last members. False: look closer.
func tail(raw []byte, topic string) (Delivery, bool) {
	rest, ok := bytes.CutSuffix(raw, tailEnd)
	if !ok {
		return Delivery{}, false
	}
	d := Delivery{Raw: raw}
	last := func(name []byte, most int) ([]byte, bool) {
		low := max(0, len(rest)-most-len(name))
		i := bytes.LastIndex(rest[low:], name)
		if i < 0 {
			return nil, false
		}
		value := rest[low+i+len(name):]
		for _, c := range value {
			if !plain(c) {
				return nil, false
			}
		}
		rest = rest[:low+i]
		return value, true
	}
	if cursor, ok := last(tailCursor, schemas.MaxCursor); ok {
		d.Cursor = string(cursor)
		if rest, ok = bytes.CutSuffix(rest, []byte{'"'}); !ok {
			return Delivery{}, false
		}
	} else if bytes.Contains(raw, nameCursor) {
		return Delivery{}, false
	}
	name, ok := last(tailTopic, schemas.MaxTopic)
	if !ok || len(name) == 0 {
		return Delivery{}, false
	}
	if d.Topic = topic; topic != string(name) {
		d.Topic = string(name)
	}
	return d, true
}

// plain says whether c may stand in a topic or a cursor; none of these is escaped.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._~-/", c) >= 0
}

// parseMembers reads the object member by member.
func parseMembers(raw []byte) (Delivery, error) {
	decoder := jsontext.NewDecoder(bytes.NewReader(raw))
	if decoder.PeekKind() != '{' {
		return Delivery{}, fmt.Errorf("a message is no JSON object: %s", printable(raw))
	}
	if _, err := decoder.ReadToken(); err != nil {
		return Delivery{}, fmt.Errorf("a message can't be read: %w", err)
	}
	d := Delivery{Raw: raw}
	text := map[string]string{}
	var data []byte
	for decoder.PeekKind() == '"' {
		token, err := decoder.ReadToken()
		if err != nil {
			return Delivery{}, fmt.Errorf("a message can't be read: %w", err)
		}
		name := token.String()
		value, err := decoder.ReadValue()
		if err != nil {
			return Delivery{}, fmt.Errorf("a message can't be read: %w", err)
		}
		switch name {
		case "data":
			data = bytes.Clone(value)
		case "source", "type", schemas.AttributeTopic, schemas.AttributeCursor:
			if value.Kind() == '"' {
				b, _ := jsontext.AppendUnquote(nil, value)
				text[name] = string(b)
			}
		}
	}
	if _, err := decoder.ReadToken(); err != nil {
		return Delivery{}, fmt.Errorf("a message can't be read: %w", err)
	}
	d.Topic, d.Cursor = text[schemas.AttributeTopic], text[schemas.AttributeCursor]
	if d.Topic != "" || d.Cursor != "" || text["source"] != schemas.NoticeSource || !strings.HasPrefix(text["type"], noticeType) {
		return d, nil
	}
	n, err := parseNotice(text["type"], data)
	if err != nil {
		return Delivery{}, fmt.Errorf("a notice can't be read: %w", err)
	}
	n.Raw, d.Notice = raw, n
	return d, nil
}

func parseNotice(noticeType string, data []byte) (*Notice, error) {
	n := &Notice{Type: noticeType}
	if data == nil {
		data = []byte("{}")
	}
	switch noticeType {
	case schemas.NoticeGap:
		var gap struct {
			Reason string  `json:"reason"`
			Missed *uint64 `json:"missed"`
		}
		if err := json.Unmarshal(data, &gap); err != nil {
			return nil, err
		}
		n.Gap = &Gap{gap.Reason, gap.Missed}
	case schemas.NoticeRejected:
		n.Problem = new(schemas.Problem)
		if err := json.Unmarshal(data, n.Problem); err != nil {
			return nil, err
		}
		readable(n.Problem)
	case schemas.NoticeDraining:
		var draining struct {
			ReconnectAfter float64 `json:"reconnectafterms"`
		}
		if err := json.Unmarshal(data, &draining); err != nil {
			return nil, err
		}
		// An hour is more than any gateway means, and far from overflowing.
		n.ReconnectAfter = time.Duration(min(max(draining.ReconnectAfter, 0), 3_600_000) * float64(time.Millisecond))
	case schemas.NoticeOpen, schemas.NoticePosition:
		var place struct {
			Cursor string `json:"cursor"`
		}
		if err := json.Unmarshal(data, &place); err != nil {
			return nil, err
		}
		n.cursor = place.Cursor
	}
	return n, nil
}
