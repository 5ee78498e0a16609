package schemas

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// readers are reused. They do not copy their input.
var readers = sync.Pool{New: func() any { return &reader{} }}

// A reader reads events from JSON: most with its object, and the others, and what is wrong
// with some, with its decoder.
type reader struct {
	object Object
	jsontext.Decoder
	in       []byte
	buf      bytes.Buffer // over in, as the decoder wants it
	decoding bool
	draft    draft
}

func newReader(in []byte) *reader {
	r := readers.Get().(*reader)
	r.in = in
	return r
}

// decode sets the decoder to the beginning of the input.
func (r *reader) decode() {
	r.decoding = true
	r.buf = *bytes.NewBuffer(r.in)
	r.Reset(&r.buf)
}

func (r *reader) free() {
	if r.decoding {
		r.decoding = false
		r.buf = bytes.Buffer{}
		r.Reset(&r.buf)
	}
	r.in = nil
	r.object.Clear()
	r.draft.reset()
	readers.Put(r)
}

// ParseEvent reads one event in the JSON event format (structured mode). It reads
// strictly: a duplicate member at any depth, bad UTF-8, a lone surrogate or
// anything after the value is refused. The error is a [Problem] that names the
// first broken rule. b is not kept.
func ParseEvent(b []byte) (*Event, error) {
	return parseOne(b, false)
}

// ParseStored reads an event as the log has it: as ParseEvent does, but what the broker
// added to a dead letter stays, and counts for no limit.
func ParseStored(b []byte) (*Event, error) {
	return parseOne(b, true)
}

func parseOne(b []byte, stored bool) (*Event, error) {
	r := newReader(b)
	if !r.object.Read(b, "") {
		return r.one(stored)
	}
	defer r.free()
	return r.draft.parse(r.object.text, b, r.object.members, stored)
}

// one reads what is one event with the decoder, and frees the reader.
func (r *reader) one(stored bool) (*Event, error) {
	defer r.free()
	r.decode()
	e, p := r.event(stored)
	if p == nil {
		p = r.end()
	}
	if p != nil {
		return nil, p
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
	r := newReader(b)
	defer r.free()
	r.decode()
	if k := r.PeekKind(); k != '[' && k != 0 {
		return nil, Problemf("event", "A batch is a JSON array of events.")
	}
	if _, err := r.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	var events []*Event
	for r.PeekKind() != ']' {
		if len(events) == MaxBatchEvents {
			return nil, Problemf("too-large", "The batch has more than %d events. Send several.", MaxBatchEvents)
		}
		e, p := r.event(false)
		if p != nil {
			return nil, p.At(len(events))
		}
		events = append(events, e)
	}
	if _, err := r.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	if p := r.end(); p != nil {
		return nil, p
	}
	return events, nil
}

func (r *reader) end() *Problem {
	_, err := r.ReadToken()
	switch {
	case err == nil:
		return Problemf("event", "There is something after the JSON value.")
	case errors.Is(err, io.EOF):
		return nil
	}
	return syntax(err)
}

// value reads the next value, or the next member's name in quotes. Unlike that of
// the decoder it stays valid.
func (r *reader) value() (jsontext.Value, *Problem) {
	v, err := r.ReadValue()
	if err != nil {
		return nil, syntax(err)
	}
	end := r.InputOffset()
	return r.in[end-int64(len(v)) : end], nil
}

// event reads one object at the reader's place.
func (r *reader) event(stored bool) (*Event, *Problem) {
	object, p := r.value()
	if p != nil {
		return nil, p
	}
	if object.Kind() != '{' {
		return nil, Problemf("event", "An event is a JSON object.")
	}
	r.draft.begin(stored)
	return r.draft.object(object)
}

// object reads a valid JSON object.
func (d *draft) object(object jsontext.Value) (*Event, *Problem) {
	for all := MembersOf(object); ; {
		quoted, value, ok := all.Next()
		if !ok {
			return d.event(d.data)
		}
		name := quoted[1 : len(quoted)-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name, _ = jsontext.AppendUnquote(nil, quoted)
		}
		f := uncommon
		if bytes.IndexByte(value, '\\') >= 0 {
			f |= escaped
		}
		if p := d.member(name, value, f); p != nil {
			return nil, p
		}
	}
}

// parse makes an event of an object whose members lie in b. They were found by an [Object].
func (d *draft) parse(object, b []byte, members []memberAt, stored bool) (*Event, error) {
	d.begin(stored)
	d.source, d.shallow = object, true
	for i := range members {
		m := &members[i]
		if p := d.member(m.name.of(b), m.value.of(b), m.form); p != nil {
			return nil, p
		}
	}
	e, p := d.event(d.data)
	if p != nil { // a nil *Problem would be an error
		return nil, p
	}
	return e, nil
}

// member takes one member. A null is an attribute that is not set.
func (d *draft) member(name []byte, value jsontext.Value, f form) *Problem {
	r := rankOf(name)
	if r == rankExtension {
		switch {
		case string(name) == "data":
			d.data.data, d.behind = value, true
			if value[0] == '"' && f&escaped != 0 {
				d.source = nil
			}
			return nil
		case string(name) == "data_base64":
			if value.Kind() != 'n' {
				d.data.base64, d.behind = value, true
			}
			if f&escaped != 0 {
				d.source = nil
			}
			return nil
		case brokers(name) && !d.stored:
			return nil
		}
		if p := checkName(name); p != nil {
			return p
		}
	}
	kind := value[0]
	if kind == 'n' {
		return nil
	}
	if d.behind {
		d.source = nil // the data comes last
	}
	p := d.part()
	p.rank, p.kind, p.plain, p.common, p.name, p.value = r, String, true, f&uncommon == 0, name, value
	switch kind {
	case '"':
		p.value = value[1 : len(value)-1]
		if f&escaped != 0 {
			text, _ := jsontext.AppendUnquote(d.text[len(d.text):], value) // it is valid
			p.value, p.plain, p.common = keep(d, text), false, false
		}
	case 't', 'f':
		p.kind = Boolean
	case '{', '[':
		return fault(p.called(), "The attribute %q is an object or array; attributes are strings, whole numbers or booleans. Put it into the data.", p.called())
	default:
		p.kind = Integer
		if !validInteger(value) {
			return fault(p.called(), "The attribute %q is a number outside the Integers of CloudEvents: whole, from -2147483648 to 2147483647, without fraction or exponent.", p.called())
		}
	}
	return d.added(p)
}

// jsonValue returns b without the blanks around it, if it is one strictly valid
// JSON value.
func jsonValue(b []byte) ([]byte, bool) {
	r := newReader(b)
	defer r.free()
	if r.object.Read(b, "") {
		return r.object.text, true
	}
	r.decode()
	v, p := r.value()
	if p != nil || r.end() != nil || tooDeep(v) {
		return nil, false
	}
	return v, true
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
	case strings.Contains(s.Err.Error(), "depth"):
		what = "it is nested too deep"
	}
	where := ""
	if s.JSONPointer != "" {
		where = fmt.Sprintf(" in %q", clip(string(s.JSONPointer)))
	}
	return Problemf("event", "The JSON is wrong at byte %d%s: %s.", s.ByteOffset, where, what)
}
