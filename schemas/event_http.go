package schemas

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// headerPrefix begins the headers that carry attributes (HTTP binding 1.0.2,
// section 3.1.3), in lower case.
const headerPrefix = "ce-"

// A Mode is how an HTTP message carries events (HTTP binding 1.0.2, section 3).
type Mode uint8

// The content modes, and what is none of them.
const (
	NoEvent Mode = iota
	Binary
	Structured
	Batched
	UnknownFormat // an event format other than JSON
)

// ContentMode tells an HTTP message's mode by its Content-Type and headers, whose
// names have the form of [net/http.Header]. Several Content-Type headers of which
// one is of CloudEvents are no known format.
func ContentMode(header map[string][]string) Mode {
	const family = "application/cloudevents"
	for i, contentType := range header["Content-Type"] {
		media, _, _ := strings.Cut(contentType, ";")
		media = strings.ToLower(strings.Trim(media, " \t"))
		switch {
		case !strings.HasPrefix(media, family):
		case i > 0 || len(header["Content-Type"]) > 1:
			return UnknownFormat
		case media == MediaTypeBatch:
			return Batched
		case media == MediaTypeEvent:
			return Structured
		default:
			return UnknownFormat
		}
	}
	for name := range header {
		if attributeHeader(name) {
			return Binary
		}
	}
	return NoEvent
}

func attributeHeader(name string) bool {
	return len(name) >= len(headerPrefix) && name[0]|0x20 == 'c' && name[1]|0x20 == 'e' && name[2] == '-'
}

// ParseBinary reads an event from the headers and body of an HTTP message in
// binary mode; the names of the headers have the form of [net/http.Header]. An
// empty body is no data. The error is a [Problem]; of several faulty headers it
// names the first by name. body is not kept.
//
// JSON that is valid by the strict reading of [ParseEvent] becomes data, text
// that is valid UTF-8 a string, and everything else data_base64 (JSON event
// format 1.0.2, section 3.1.1). A "%" that begins no escape stays itself, because
// many senders do not encode.
func ParseBinary(header map[string][]string, body []byte) (*Event, error) {
	r := newReader(nil)
	defer r.free()
	e, p := r.draft.binary(header, body)
	if p != nil {
		return nil, p
	}
	return e, nil
}

func (d *draft) binary(header map[string][]string, body []byte) (*Event, *Problem) {
	var first *Problem
	for key, values := range header {
		if !attributeHeader(key) || len(values) == 0 {
			continue
		}
		if p := d.header(key[len(headerPrefix):], values); p != nil && (first == nil || p.Attribute < first.Attribute) {
			first = p
		}
	}
	switch values := header["Content-Type"]; {
	case first != nil:
	case len(values) > 1:
		first = fault("datacontenttype", "There are several Content-Type headers; send one.")
	case len(values) == 1 && strings.Trim(values[0], " \t") != "":
		first = d.add(newPart(rankContentType, nil, keep(d, strings.Trim(values[0], " \t"))))
	}
	if first != nil {
		return nil, first
	}
	return d.event(payload{body: body})
}

// header takes one attribute. key has no prefix.
func (d *draft) header(key string, values []string) *Problem {
	start := len(d.text)
	for i := range len(key) {
		c := key[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		d.text = append(d.text, c)
	}
	name := d.text[start:len(d.text):len(d.text)]
	if brokers(name) {
		return nil
	}
	if p := checkName(name); p != nil {
		return p
	}
	p := part{rank: rankOf(name), name: name}
	switch {
	case p.rank == rankContentType:
		return fault(p.called(), "In binary mode the datacontenttype is the header Content-Type; leave out ce-datacontenttype.")
	case len(values) > 1:
		return fault(p.called(), "The attribute %q stands in several headers.", p.called())
	}
	value := decodeHeader(values[0])
	if !utf8.ValidString(value) {
		return fault(p.called(), "The header ce-%s is no UTF-8 after percent-decoding.", p.called())
	}
	return d.add(newPart(p.rank, name, keep(d, value)))
}

// newPart is a part of type String.
func newPart(r rank, name, value []byte) part {
	return part{rank: r, name: name, value: value, plain: !bytes.ContainsAny(value, `"\`)}
}
