package schemas

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// headerPrefix begins the headers that carry attributes (HTTP binding, section 3.1.3).
const headerPrefix = "ce-"

// A Mode is how an HTTP message carries events (HTTP binding, section 3).
type Mode uint8

// The content modes, and what is none of them.
const (
	NoEvent Mode = iota
	Binary
	Structured
	Batched
	UnknownFormat // an event format other than JSON
)

// ContentMode tells an HTTP message's mode by its Content-Type and headers.
func ContentMode(header map[string][]string) Mode {
	contentType := ""
	if v := header["Content-Type"]; len(v) > 0 {
		contentType = v[0]
	}
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	media = strings.TrimSpace(media)
	switch {
	case media == MediaTypeBatch:
		return Batched
	case media == MediaTypeEvent:
		return Structured
	case strings.HasPrefix(media, "application/cloudevents"):
		return UnknownFormat
	}
	for name := range header {
		if len(name) >= len(headerPrefix) && strings.EqualFold(name[:len(headerPrefix)], headerPrefix) {
			return Binary
		}
	}
	return NoEvent
}

// ParseBinary reads an event from the headers and body of an HTTP message in
// binary mode. An empty body is no data. The error is a [Problem] that names the
// first broken rule. body is not kept.
//
// JSON that is valid by the strict reading of [ParseEvent] becomes data, text
// that is valid UTF-8 a string, and everything else data_base64 (JSON event
// format, section 3.1.1). A "%" that begins no escape stays itself, because many
// senders do not encode.
func ParseBinary(header map[string][]string, body []byte) (*Event, error) {
	e := &Event{attributes: make([]Attribute, 0, 12)}
	for name, values := range header {
		if len(name) < len(headerPrefix) || !strings.EqualFold(name[:len(headerPrefix)], headerPrefix) {
			continue
		}
		attribute := strings.ToLower(name[len(headerPrefix):])
		if brokers(attribute) {
			continue
		}
		if p := checkName(attribute); p != nil {
			return nil, p
		}
		p := Problemf("event", "")
		p.Attribute = attribute
		if attribute == "datacontenttype" {
			p.Detail = "In binary mode the datacontenttype is the header Content-Type; leave out ce-datacontenttype."
			return nil, p
		}
		if len(values) != 1 {
			p.Detail = "The attribute " + attribute + " stands in several headers."
			return nil, p
		}
		value, ok := decodeHeader(values[0])
		if !ok {
			p.Detail = "The header ce-" + attribute + " is no UTF-8 after percent-decoding."
			return nil, p
		}
		e.attributes = append(e.attributes, Attribute{Name: attribute, Value: value})
	}
	contentType := ""
	switch values := header["Content-Type"]; {
	case len(values) > 1:
		return nil, Problemf("event", "There are several Content-Type headers; send one.")
	case len(values) == 1 && strings.TrimSpace(values[0]) != "":
		contentType = strings.TrimSpace(values[0])
		e.attributes = append(e.attributes, Attribute{Name: "datacontenttype", Value: contentType})
	}
	e.bytes(contentType, body)
	if err := e.finish(); err != nil {
		return nil, err
	}
	return e, nil
}

// bytes chooses the JSON form of a payload.
func (e *Event) bytes(contentType string, body []byte) {
	if len(body) == 0 {
		return
	}
	if contentType != "" && jsonMediaType(contentType) {
		if value, ok := jsonValue(body); ok {
			e.kind, e.data = dataJSON, value
			return
		}
	}
	if textMediaType(contentType) && utf8.Valid(body) {
		e.kind = dataText
		e.data, _ = jsontext.AppendQuote(nil, body)
		return
	}
	e.kind = dataBase64
	e.data = append(make([]byte, 0, base64.StdEncoding.EncodedLen(len(body))+2), '"')
	e.data = append(base64.StdEncoding.AppendEncode(e.data, body), '"')
}

// decodeHeader undoes the encoding of a header value (HTTP binding, section
// 3.1.3.2): optional blanks, then double-quoted parts, then one round of
// percent-decoding. A quote that is not closed stays itself, as a "%" that begins
// no escape does.
func decodeHeader(s string) (string, bool) {
	s = strings.Trim(s, " \t")
	if strings.Contains(s, `"`) {
		s = unquoteParts(s)
	}
	if strings.Contains(s, "%") {
		s = percentDecode(s)
	}
	return s, utf8.ValidString(s)
}

func unquoteParts(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '"' {
			out = append(out, s[i])
			continue
		}
		part, end := out, -1
		for j := i + 1; j < len(s); j++ {
			if s[j] == '"' {
				end = j
				break
			}
			if s[j] == '\\' && j+1 < len(s) {
				j++
			}
			part = append(part, s[j])
		}
		if end < 0 {
			return string(append(out, s[i:]...))
		}
		out, i = part, end
	}
	return string(out)
}

func percentDecode(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi < 16 && lo < 16 {
				out = append(out, hi<<4|lo)
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// EncodeHeader encodes an attribute's value for a header: what is not printable
// ASCII, and blank, quote and percent, as the escapes of its UTF-8 bytes.
func EncodeHeader(s string) string {
	const hex = "0123456789ABCDEF"
	var out []byte
	for i := range len(s) {
		c := s[i]
		if c > 0x20 && c < 0x7F && c != '"' && c != '%' {
			if out != nil {
				out = append(out, c)
			}
			continue
		}
		if out == nil {
			out = append(make([]byte, 0, len(s)+8), s[:i]...)
		}
		out = append(out, '%', hex[c>>4], hex[c&15])
	}
	if out == nil {
		return s
	}
	return string(out)
}
