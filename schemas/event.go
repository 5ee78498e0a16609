package schemas

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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

// A Kind is the type of an attribute's value, as far as it is known: a value
// that came in a header is a String whatever it was meant to be.
type Kind uint8

// The kinds that JSON tells apart.
const (
	String Kind = iota
	Integer
	Boolean
)

// An Attribute is a context attribute in its canonical text.
type Attribute struct {
	Name, Value string
	Kind        Kind
}

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
	// attributes in the order of the JSON form: required, optional, extensions by name.
	attributes []Attribute
	kind       dataKind
	json       []byte
	data       []byte // what follows "data": or "data_base64": in json
}

// JSON is the event in the JSON event format, in one form for one event: the
// attributes in a fixed order without blanks, then the data. The same event
// published in another mode has the same bytes. The caller must not change them.
func (e *Event) JSON() []byte { return e.json }

// Size is the length of the JSON form in bytes, which [MaxEvent] bounds.
func (e *Event) Size() int { return len(e.json) }

// ID, Source and Type are the required attributes.
func (e *Event) ID() string     { return e.value("id") }
func (e *Event) Source() string { return e.value("source") } //nolint:revive
func (e *Event) Type() string   { return e.value("type") }

// Expiry is the attribute expirytime, zero if there is none.
func (e *Event) Expiry() time.Time {
	v, ok := e.Attribute("expirytime")
	if !ok {
		return time.Time{}
	}
	t, err := ParseTimestamp(v.Value)
	if err != nil {
		return time.Time{}
	}
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

// AppendDelivered appends to dst the event as a subscriber gets it: its JSON form
// with the topic and, unless cursor is nil, the cursor added.
func AppendDelivered(dst, json []byte, topic Topic, cursor *Cursor) []byte {
	dst = append(dst, json[:len(json)-1]...)
	dst = append(dst, `,"relaytopic":"`...)
	dst = append(dst, topic...) // its grammar needs no escape
	if cursor != nil {
		dst = append(dst, `","relaycursor":"`...)
		dst = cursor.AppendTo(dst)
	}
	return append(dst, `"}`...)
}

// order is the place of the specification's own attributes in the JSON form.
var order = map[string]int{
	"specversion": 0, "id": 1, "source": 2, "type": 3,
	"subject": 4, "time": 5, "datacontenttype": 6, "dataschema": 7,
}

// finish sorts and validates the attributes, joins them with the data to the
// JSON form, and checks the limits.
func (e *Event) finish() error {
	slices.SortFunc(e.attributes, func(a, b Attribute) int {
		i, iok := order[a.Name]
		j, jok := order[b.Name]
		switch {
		case iok && jok:
			return i - j
		case iok:
			return -1
		case jok:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	size, needed := 0, [4]bool{}
	for i := range e.attributes {
		a := &e.attributes[i]
		size += len(a.Name) + len(a.Value)
		if p := checkAttribute(a); p != nil {
			p.Attribute = a.Name
			return p
		}
		if j, ok := order[a.Name]; ok && j < len(needed) {
			needed[j] = true
		}
	}
	for j, name := range [...]string{"specversion", "id", "source", "type"} {
		if !needed[j] {
			p := Problemf("event", "The required attribute %q is missing.", name)
			p.Attribute = name
			return p
		}
	}
	if size > MaxAttributes {
		return Problemf("too-large", "The attributes have %d bytes in all; at most %d are allowed. Move what is large into the data.", size, MaxAttributes)
	}
	b := make([]byte, 0, size+8*len(e.attributes)+len(e.data)+24)
	for i := range e.attributes {
		a := &e.attributes[i]
		if i == 0 {
			b = append(b, '{')
		} else {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, a.Name...)
		b = append(b, '"', ':')
		if a.Kind == String {
			b, _ = jsontext.AppendQuote(b, a.Value)
		} else {
			b = append(b, a.Value...)
		}
	}
	switch e.kind {
	case dataJSON, dataText:
		b = append(b, `,"data":`...)
	case dataBase64:
		b = append(b, `,"data_base64":`...)
	}
	start := len(b)
	b = append(b, e.data...)
	e.data = b[start:len(b):len(b)]
	e.json = append(b, '}')
	if len(e.json) > MaxEvent {
		return Problemf("too-large", "The event has %d bytes in its JSON form; at most %d are allowed. Put large data elsewhere and send its address (extension dataref).", len(e.json), MaxEvent)
	}
	return nil
}

// broker says whether the attribute is the broker's own.
func brokers(name string) bool {
	return name == AttributeTopic || name == AttributeCursor || strings.HasPrefix(name, AttributeDeadPrefix)
}

// checkName checks the name of an attribute (CloudEvents 1.0, "Naming Conventions").
func checkName(name string) *Problem {
	ok := name != "" && name != "data"
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
	}
	if ok {
		return nil
	}
	p := Problemf("event", "The attribute name %q is not allowed; names are made of a-z and 0-9, and not \"data\".", clip(name))
	p.Attribute = clip(name)
	return p
}

// clip keeps a stranger's text short enough for an answer.
func clip(s string) string {
	if len(s) <= 64 {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}

func checkAttribute(a *Attribute) *Problem {
	own := false
	if _, ok := order[a.Name]; ok {
		own = true
	}
	if own && a.Kind != String {
		return Problemf("event", "The attribute %q must be a string.", a.Name)
	}
	if own && a.Value == "" {
		return Problemf("event", "The attribute %q must not be empty.", a.Name)
	}
	if a.Kind == String {
		if p := checkText(a); p != nil {
			return p
		}
	}
	switch a.Name {
	case "specversion":
		if a.Value != SpecVersion {
			return Problemf("event", "The specversion %q is not known; only %q is taken.", clip(a.Value), SpecVersion)
		}
	case "source":
		if !validURIReference(a.Value, false) {
			return Problemf("event", "The source %q is no URI-reference (RFC 3986); percent-encode what is not allowed in one.", clip(a.Value))
		}
	case "dataschema":
		if !validURIReference(a.Value, true) {
			return Problemf("event", "The dataschema %q is no absolute URI (RFC 3986).", clip(a.Value))
		}
	case "time", "expirytime":
		if _, err := ParseTimestamp(a.Value); err != nil || a.Kind != String {
			return Problemf("event", "The attribute %q is no RFC 3339 timestamp, such as 2026-01-31T12:00:00Z.", a.Name)
		}
	case "datacontenttype":
		if _, _, ok := parseMediaType(a.Value); !ok {
			return Problemf("event", "The datacontenttype %q is no media type, such as application/json.", clip(a.Value))
		}
	}
	return nil
}

// checkText checks the characters of a String (CloudEvents 1.0, "Type System").
func checkText(a *Attribute) *Problem {
	for i := 0; i < len(a.Value); {
		c := a.Value[i]
		if c >= 0x20 && c < 0x7F {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(a.Value[i:])
		if r < 0x20 || r >= 0x7F && r <= 0x9F || r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE ||
			r == utf8.RuneError && n == 1 {
			return Problemf("event", "The attribute %q has the character U+%04X, which is not allowed in one.", a.Name, r)
		}
		i += n
	}
	return nil
}

// checkInteger checks the text of a JSON number against the type Integer.
func checkInteger(name, text string) *Problem {
	if _, err := strconv.ParseInt(text, 10, 32); err != nil {
		p := Problemf("event", "The attribute %q is a number outside the Integers of CloudEvents: whole, from -2147483648 to 2147483647, without fraction or exponent.", name)
		p.Attribute = name
		return p
	}
	return nil
}
