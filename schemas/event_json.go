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

// readers are reused; each is reset over its input, which it does not copy.
var readers = sync.Pool{New: func() any { return &reader{} }}

// A reader reads events from JSON.
type reader struct {
	jsontext.Decoder
	in    []byte
	buf   bytes.Buffer // over in, as the decoder wants it
	draft draft
}

func newReader(in []byte) *reader {
	r := readers.Get().(*reader)
	r.in = in
	r.buf = *bytes.NewBuffer(in)
	r.Reset(&r.buf)
	return r
}

func (r *reader) free() {
	r.in = nil
	r.buf = bytes.Buffer{}
	r.Reset(&r.buf)
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

func parseOne(b []byte, stored bool) (*Event, error) { return newReader(b).one(stored) }

// one reads what is one event, and frees the reader.
func (r *reader) one(stored bool) (*Event, error) {
	defer r.free()
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
	var data payload
	for all := MembersOf(object); ; {
		quoted, value, ok := all.Next()
		if !ok {
			return d.event(data)
		}
		name := quoted[1 : len(quoted)-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name, _ = jsontext.AppendUnquote(nil, quoted)
		}
		switch {
		case string(name) == "data":
			data.data = value
		case string(name) == "data_base64":
			if value.Kind() != 'n' {
				data.base64 = value
			}
		case brokers(name) && !d.stored:
		default:
			if p := d.member(name, value); p != nil {
				return nil, p
			}
		}
	}
}

// member takes one attribute. A null is an attribute that is not set.
func (d *draft) member(name []byte, value jsontext.Value) *Problem {
	r := rankOf(name)
	if r == rankExtension {
		if p := checkName(name); p != nil {
			return p
		}
	}
	kind := value.Kind()
	if kind == 'n' {
		return nil
	}
	p := part{rank: r, name: name, value: value, plain: true}
	switch kind {
	case '"':
		p.value = value[1 : len(value)-1]
		if bytes.IndexByte(value, '\\') >= 0 {
			text, _ := jsontext.AppendUnquote(d.text[len(d.text):], value) // it is valid
			p.value, p.plain = keep(d, text), false
		}
	case 't', 'f':
		p.kind = Boolean
	case '0':
		p.kind = Integer
		if !validInteger(value) {
			return fault(p.called(), "The attribute %q is a number outside the Integers of CloudEvents: whole, from -2147483648 to 2147483647, without fraction or exponent.", p.called())
		}
	default:
		return fault(p.called(), "The attribute %q is an object or array; attributes are strings, whole numbers or booleans. Put it into the data.", p.called())
	}
	return d.add(p)
}

// jsonValue returns b without the blanks around it, if it is one strictly valid
// JSON value.
func jsonValue(b []byte) ([]byte, bool) {
	r := newReader(b)
	defer r.free()
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
