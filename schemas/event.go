package schemas

import (
	"encoding/base64"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// SpecVersion is the one version of CloudEvents that is taken.
const SpecVersion = "1.0"

// Attributes that the broker adds to a delivered event. Incoming ones, and all
// that begin with [AttributeDeadPrefix], are removed (protocol section 3).
const (
	AttributeTopic      = "relaytopic"
	AttributeCursor     = "relaycursor"
	AttributeDeadPrefix = "relaydead"
)

// dataKind says how an event's data stands in its JSON form.
type dataKind uint8

const (
	dataNone   dataKind = iota
	dataJSON            // a JSON value under "data", its text as it came
	dataText            // a JSON string under "data" that is the text itself
	dataBase64          // under "data_base64"
)

// An Event is a valid CloudEvent 1.0. Make one with [ParseEvent], [ParseBatch]
// or [ParseBinary]; it is immutable.
type Event struct {
	attributes []Attribute // in the order of the JSON form
	kind       dataKind
	json       []byte
	data       []byte       // what follows "data": or "data_base64": in json
	room       [8]Attribute // for the attributes, if it is enough
}

// attributesFor returns room for n attributes, all of which are to be set. What of the
// event's own is not taken is emptied.
func (e *Event) attributesFor(n int) []Attribute {
	if n > len(e.room) {
		e.room = [len(e.room)]Attribute{}
		return make([]Attribute, n)
	}
	for i := n; i < len(e.room) && e.room[i].Name != ""; i++ {
		e.room[i] = Attribute{}
	}
	return e.room[:n]
}

// JSON is the event in the JSON event format, in one form for one event: the
// attributes in a fixed order without blanks, then the data. The same event
// published in another mode has the same bytes. The caller must not change them.
//
// The order is specversion, id, source, type, subject, time, datacontenttype,
// dataschema, the extensions by name, then data or data_base64.
func (e *Event) JSON() []byte { return e.json }

// Size is the length of the JSON form in bytes, which [MaxEvent] bounds.
func (e *Event) Size() int { return len(e.json) }

// ID is the required attribute id. With the source it identifies the event.
func (e *Event) ID() string { return e.value("id") }

// Source is the required attribute source, a URI-reference as it came.
func (e *Event) Source() string { return e.value("source") }

// Type is the required attribute type.
func (e *Event) Type() string { return e.value("type") }

// Expiry is the attribute expirytime, zero if there is none.
func (e *Event) Expiry() time.Time {
	t, _ := ParseTimestamp(e.value("expirytime")) // checked when the event was made
	return t
}

// Attribute finds a context attribute by its name.
func (e *Event) Attribute(name string) (Attribute, bool) {
	for i := range e.attributes {
		if e.attributes[i].Name == name {
			return e.attributes[i], true
		}
	}
	return Attribute{}, false
}

// Attributes lists the context attributes in the order of the JSON form. The
// caller must not change the slice.
func (e *Event) Attributes() []Attribute { return e.attributes }

func (e *Event) value(name string) string {
	a, _ := e.Attribute(name)
	return a.Value
}

// Data is the event's payload in bytes, as a binary-mode message would carry it;
// false where the event has none. The slice is the caller's.
func (e *Event) Data() ([]byte, bool) {
	switch e.kind {
	case dataJSON:
		return slices.Clone(e.data), true
	case dataText:
		b, err := jsontext.AppendUnquote(nil, e.data)
		return b, err == nil
	case dataBase64:
		b, err := base64.StdEncoding.AppendDecode(nil, e.data[1:len(e.data)-1])
		return b, err == nil
	}
	return nil, false
}

// JSONData says whether the payload is a JSON value, which it also is where the event has
// no datacontenttype. Then [Event.Data] is its text.
func (e *Event) JSONData() bool { return e.kind == dataJSON }

// DeliveredRoom is by how many bytes [AppendDelivered] makes an event longer, without a
// cursor.
func DeliveredRoom(topic Topic) int { return len(`,"`+AttributeTopic+`":""`) + len(topic) }

// AppendDelivered appends to dst the event as a subscriber gets it: json, which
// is what [Event.JSON] returned, with the topic and, unless cursor is nil, the
// cursor added.
func AppendDelivered(dst, json []byte, topic Topic, cursor *Cursor) []byte {
	dst = append(dst, json[:len(json)-1]...)
	dst = append(dst, `,"`+AttributeTopic+`":"`...)
	dst = append(dst, topic...) // its grammar needs no escape
	if cursor != nil {
		dst = append(dst, `","`+AttributeCursor+`":"`...)
		dst = cursor.AppendTo(dst)
	}
	return append(dst, `"}`...)
}
