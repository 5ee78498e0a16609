package schemas

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// decoders are reused; each is reset over its input, which it does not copy.
var decoders = sync.Pool{New: func() any { return &decoder{} }}

type decoder struct {
	jsontext.Decoder
	buf bytes.Buffer
}

func newDecoder(b []byte) *decoder {
	d := decoders.Get().(*decoder)
	d.buf = *bytes.NewBuffer(b)
	d.Reset(&d.buf)
	return d
}

func (d *decoder) free() {
	d.buf = bytes.Buffer{}
	d.Reset(&d.buf)
	decoders.Put(d)
}

// ParseEvent reads one event in the JSON event format (structured mode). It reads
// strictly: a duplicate member at any depth, bad UTF-8, a lone surrogate or
// anything after the value is refused. The error is a [Problem] that names the
// first broken rule. b is not kept.
func ParseEvent(b []byte) (*Event, error) {
	d := newDecoder(b)
	defer d.free()
	e, err := d.event()
	if err != nil {
		return nil, err
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return e, nil
}

// ParseBatch reads a JSON array of events (batched mode), which may be empty. An
// error that belongs to one event names its index; nothing of the batch is taken
// then. b is not kept.
func ParseBatch(b []byte) ([]*Event, error) {
	if len(b) > MaxBatch {
		return nil, Problemf("too-large", "The batch has %d bytes; at most %d are allowed. Send several.", len(b), MaxBatch)
	}
	d := newDecoder(b)
	defer d.free()
	if d.PeekKind() != '[' {
		if _, err := d.ReadToken(); err != nil {
			return nil, syntax(err)
		}
		return nil, Problemf("event", "A batch is a JSON array of events.")
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	var events []*Event
	for d.PeekKind() != ']' {
		e, err := d.event()
		if err != nil {
			var p *Problem
			if errors.As(err, &p) {
				return nil, p.At(len(events))
			}
			return nil, err
		}
		if len(events) == MaxBatchEvents {
			return nil, Problemf("too-large", "The batch has more than %d events. Send several.", MaxBatchEvents)
		}
		events = append(events, e)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	return events, d.end()
}

func (d *decoder) end() error {
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		if err != nil {
			return syntax(err)
		}
		return Problemf("event", "There is something after the JSON value.")
	}
	return nil
}

// syntax puts a fault of the JSON into the words of the contract.
func syntax(err error) *Problem {
	var s *jsontext.SyntacticError
	if !errors.As(err, &s) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return Problemf("event", "The JSON ends too early.")
		}
		return Problemf("event", "The JSON can't be read.")
	}
	what := "invalid syntax"
	switch {
	case errors.Is(s.Err, jsontext.ErrDuplicateName):
		what = "a member stands twice"
	case errors.Is(s.Err, io.ErrUnexpectedEOF):
		what = "it ends too early"
	case strings.Contains(s.Err.Error(), "UTF-8"):
		what = "invalid UTF-8"
	case strings.Contains(s.Err.Error(), "surrogate"):
		what = "a lone surrogate"
	}
	where := ""
	if s.JSONPointer != "" {
		where = fmt.Sprintf(" in %q", clip(string(s.JSONPointer)))
	}
	return Problemf("event", "The JSON is wrong at byte %d%s: %s.", s.ByteOffset, where, what)
}

// event reads one object at the decoder's place.
func (d *decoder) event() (*Event, error) {
	if k := d.PeekKind(); k != '{' {
		if _, err := d.ReadValue(); err != nil {
			return nil, syntax(err)
		}
		return nil, Problemf("event", "An event is a JSON object.")
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	e := &Event{attributes: make([]Attribute, 0, 12)}
	var raw, base []byte // of data and data_base64
	for d.PeekKind() != '}' {
		token, err := d.ReadToken()
		if err != nil {
			return nil, syntax(err)
		}
		name := token.String()
		value, err := d.ReadValue()
		if err != nil {
			return nil, syntax(err)
		}
		switch {
		case name == "data":
			raw = bytes.Clone(value)
		case name == "data_base64":
			if value.Kind() != 'n' {
				base = bytes.Clone(value)
			}
		case brokers(name):
		default:
			if p := checkName(name); p != nil {
				return nil, p
			}
			if p := e.member(name, value); p != nil {
				return nil, p
			}
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	if p := e.payload(raw, base); p != nil {
		return nil, p
	}
	return e, e.finish()
}

// member takes one attribute. A null is an attribute that is not set.
func (e *Event) member(name string, value jsontext.Value) *Problem {
	a := Attribute{Name: name}
	switch value.Kind() {
	case 'n':
		return nil
	case '"':
		text, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return syntax(err)
		}
		a.Value = string(text)
	case 't', 'f':
		a.Kind, a.Value = Boolean, string(value)
	case '0':
		a.Kind, a.Value = Integer, string(value)
		if p := checkInteger(name, a.Value); p != nil {
			return p
		}
	default:
		p := Problemf("event", "The attribute %q is an object or array; attributes are strings, whole numbers or booleans. Put it into the data.", name)
		p.Attribute = name
		return p
	}
	e.attributes = append(e.attributes, a)
	return nil
}

// payload takes the members data and data_base64 (JSON event format, section 3.1).
func (e *Event) payload(raw, base []byte) *Problem {
	switch {
	case raw != nil && base != nil:
		return Problemf("event", "The event has both data and data_base64; give one.")
	case base != nil:
		if base[0] != '"' {
			return Problemf("event", "data_base64 must be a string.")
		}
		text, err := jsontext.AppendUnquote(nil, base)
		if err != nil {
			return syntax(err)
		}
		if !validBase64(text) {
			return Problemf("event", "data_base64 is no padded standard base64 (RFC 4648 section 4).")
		}
		e.kind = dataBase64
		e.data = append(append(append(make([]byte, 0, len(text)+2), '"'), text...), '"')
	case raw != nil:
		if contentType := e.value("datacontenttype"); contentType == "" || jsonMediaType(contentType) {
			e.kind, e.data = dataJSON, raw
			return nil
		}
		if raw[0] != '"' {
			return Problemf("event", "With this datacontenttype, data must be a string; binary data goes into data_base64.")
		}
		text, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return syntax(err)
		}
		e.kind = dataText
		e.data, _ = jsontext.AppendQuote(nil, text)
	}
	return nil
}

// validBase64 is stricter than the decoder, which skips line ends.
func validBase64(text []byte) bool {
	if bytes.ContainsAny(text, "\r\n") {
		return false
	}
	_, err := base64.StdEncoding.Strict().AppendDecode(make([]byte, 0, len(text)), text)
	return err == nil
}

// jsonValue returns b without the blanks around it, if it is one strictly valid
// JSON value.
func jsonValue(b []byte) ([]byte, bool) {
	d := newDecoder(b)
	defer d.free()
	v, err := d.ReadValue()
	if err != nil {
		return nil, false
	}
	value := bytes.Clone(v)
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, false
	}
	return value, true
}
