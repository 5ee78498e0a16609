package schemas

import (
	"bytes"
	"encoding/base64"
	"slices"
	"unicode/utf8"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"
)

// A draft gathers the attributes of an event as they are read, without an
// allocation for each, until [draft.event] checks and joins them. It is reused.
type draft struct {
	text     []byte // what does not stand in the source as it is needed
	parts    []part
	size     int  // of all names and values
	disorder bool // the parts are not in the order of the JSON form
	// stored says that the event comes from the log: the broker's own attributes stay,
	// and with them it may be larger than a publisher's.
	stored bool
	arena  *Arena // of the event; nil if it is to have memory of its own

	data   payload // of the members read so far
	behind bool    // there is some, so that an attribute would come behind it
	// source is the object that is read, as long as it may be the JSON form already.
	source []byte
	// shallow says that an [Object] read it, so that nothing in it is nested too deep.
	shallow bool
}

// A part is one attribute. Its bytes are some of the source's or of the draft's text.
type part struct {
	rank  rank
	kind  Kind
	plain bool // JSON has the value as it is
	// common says that the value is known to have no character but those from blank to
	// tilde.
	common bool
	name   []byte // of an extension
	value  []byte
}

// compare orders parts as the JSON form has them.
func (p *part) compare(q *part) int {
	if p.rank != q.rank || p.rank < rankExtension {
		return int(p.rank) - int(q.rank)
	}
	return bytes.Compare(p.name, q.name)
}

// called is the attribute's name.
func (p *part) called() string {
	if p.rank < rankExtension {
		return coreNames[p.rank]
	}
	return string(p.name)
}

// begin begins an event.
func (d *draft) begin(stored bool) {
	d.text, d.parts, d.size, d.disorder, d.stored = d.text[:0], d.parts[:0], 0, false, stored
	d.data, d.behind, d.source, d.shallow = payload{}, false, nil, false
}

// reset lets go of all that the draft refers to.
func (d *draft) reset() {
	if cap(d.text) > 2*MaxAttributes {
		d.text = nil // a stranger's large event must not stay
	}
	if cap(d.parts) > 64 {
		d.parts = nil
	}
	clear(d.parts[:cap(d.parts)])
	d.arena = nil
	d.begin(false)
}

// keep copies a text into the draft's.
func keep[T string | []byte](d *draft, s T) []byte {
	start := len(d.text)
	d.text = append(d.text, s...)
	return d.text[start:len(d.text):len(d.text)]
}

// add takes one part.
func (d *draft) add(p part) *Problem {
	to := d.part()
	*to = p
	return d.added(to)
}

// part returns the next part, which is to be filled and then added.
func (d *draft) part() *part {
	n := len(d.parts)
	if n < cap(d.parts) {
		d.parts = d.parts[:n+1]
	} else {
		d.parts = append(d.parts, part{})
	}
	return &d.parts[n]
}

// added looks at the last part.
func (d *draft) added(p *part) *Problem {
	name := len(p.name)
	if p.rank < rankExtension {
		name = len(coreNames[p.rank])
	}
	d.size += name + len(p.value)
	if d.size > MaxAttributes && !d.stored {
		return Problemf("too-large", "The attributes have more than %d bytes in all. Move what is large into the data.", MaxAttributes)
	}
	if n := len(d.parts); n > 1 && d.parts[n-2].compare(p) > 0 {
		d.disorder = true
	}
	return nil
}

// event checks the parts and joins them with the data to an event. It keeps
// nothing of either.
func (d *draft) event(data payload) (*Event, *Problem) {
	if d.disorder {
		slices.SortFunc(d.parts, func(p, q part) int { return p.compare(&q) })
	}
	e := d.arena.event()
	e.attributes = e.attributesFor(len(d.parts))
	var b []byte
	asItIs := d.asItIs(data)
	if asItIs {
		b = append(d.arena.bytes(len(d.source)), d.source...)
	} else {
		b = d.arena.bytes(len(`{}`) + len(d.parts)*len(`"":"",`) + d.size + data.size())
	}
	end := 0 // of what is known of b
	required := rank(0)
	var contentType string
	for i := range d.parts {
		p := &d.parts[i]
		if i > 0 && d.parts[i-1].compare(p) == 0 {
			return nil, fault(p.called(), "The attribute %q stands twice.", p.called())
		}
		a := &e.attributes[i]
		if asItIs {
			end = p.find(b, end, a)
		} else {
			b, *a = p.appendMember(b)
		}
		if problem := a.check(p.rank, p.common); problem != nil {
			return nil, problem
		}
		if p.rank == required {
			required++
		}
		if p.rank == rankContentType {
			contentType = a.Value
		}
	}
	if required <= rankType {
		return nil, fault(coreNames[required], "The required attribute %q is missing.", coreNames[required])
	}
	kind, value, problem := data.read(contentType, d.shallow)
	if problem != nil {
		return nil, problem
	}
	if e.kind = kind; asItIs {
		end = len(b) - len(`}`)
		e.json, e.data = b, b[end-len(value):end:end]
	} else {
		e.addData(b, data, value)
	}
	if len(e.json) > MaxEvent && !d.stored {
		return nil, Problemf("too-large", "The event has %d bytes in its JSON form; at most %d are allowed. Put large data elsewhere and send its address (extension dataref).", len(e.json), MaxEvent)
	}
	return e, nil
}

// asItIs says whether what was read is the JSON form: all is in its order, without escapes
// that it may not have, and as long as the form is, so that nothing was left out, nor any
// blank is between.
func (d *draft) asItIs(data payload) bool {
	if d.source == nil || d.disorder {
		return false
	}
	size := len(`{}`) + d.size + len(d.parts)*len(`"":,`)
	for i := range d.parts {
		p := &d.parts[i]
		if !p.plain {
			return false
		}
		if p.kind == String {
			size += len(`""`)
		}
	}
	switch {
	case data.data != nil:
		size += len(`"data":`) + len(data.data)
	case data.base64 != nil:
		size += len(`"data_base64":`) + len(data.base64)
	default:
		size-- // the last comma
	}
	return size == len(d.source)
}

// find finds the attribute's texts in the JSON form, in which it comes after what ends at
// end. It returns its own end.
func (p *part) find(b []byte, end int, a *Attribute) int {
	a.Kind = p.kind
	start := end + len(`,"`)
	if p.rank < rankExtension {
		a.Name = coreNames[p.rank]
		start += len(a.Name)
	} else {
		a.Name = textOf(b[start : start+len(p.name)])
		start += len(p.name)
	}
	start += len(`":`)
	if p.kind != String {
		a.Value = textOf(b[start : start+len(p.value)])
		return start + len(p.value)
	}
	start++
	a.Value = textOf(b[start : start+len(p.value)])
	return start + len(p.value) + 1
}

// appendMember appends the attribute as a member of a JSON object. The texts of the
// Attribute are those in b where they can be.
func (p *part) appendMember(b []byte) ([]byte, Attribute) {
	a := Attribute{Kind: p.kind}
	if len(b) == 0 {
		b = append(b, '{', '"')
	} else {
		b = append(b, ',', '"')
	}
	if p.rank < rankExtension {
		a.Name = coreNames[p.rank]
		b = append(b, a.Name...)
	} else {
		b = append(b, p.name...)
		a.Name = textOf(b[len(b)-len(p.name):])
	}
	b = append(b, '"', ':')
	if p.kind == String {
		b = append(b, '"')
	}
	if p.plain {
		b = append(b, p.value...)
		a.Value = textOf(b[len(b)-len(p.value):])
	} else {
		a.Value = string(p.value)
		for _, c := range p.value { // what else JSON escapes is not allowed in a String
			if c == '"' || c == '\\' {
				b = append(b, '\\')
			}
			b = append(b, c)
		}
	}
	if p.kind == String {
		b = append(b, '"')
	}
	return b, a
}

// textOf is b as a string without a copy: an event's JSON form never changes.
func textOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// A payload is an event's data as it came: from structured mode the JSON values
// of the two members, from binary mode the body. Nil or empty: none.
type payload struct {
	data, base64 []byte
	body         []byte
}

// size is about how much the payload adds to the JSON form.
func (p *payload) size() int {
	n := len(`,"data_base64":""`) + len(p.data) + len(p.base64) + len(p.body)
	if len(p.body) > 0 {
		n += len(p.body) / 3 // as base64
	}
	return n
}

// read says in which form the payload stands in the JSON form, and what is to stand there,
// or of a body what is to be put so.
func (p *payload) read(contentType string, shallow bool) (dataKind, []byte, *Problem) {
	if len(p.body) > 0 {
		kind, value := fromBody(p.body, contentType)
		return kind, value, nil
	}
	return fromMembers(p, contentType, shallow)
}

// addData ends the JSON form b with the data, which is of the event's kind.
func (e *Event) addData(b []byte, data payload, value []byte) {
	switch e.kind {
	case dataJSON, dataText:
		b = append(b, `,"data":`...)
	case dataBase64:
		b = append(b, `,"data_base64":`...)
	}
	start := len(b)
	switch {
	case len(data.body) == 0 || e.kind == dataJSON:
		b = append(b, value...)
	case e.kind == dataText:
		b, _ = jsontext.AppendQuote(b, value) // it is UTF-8
	case e.kind == dataBase64:
		b = append(base64.StdEncoding.AppendEncode(append(b, '"'), value), '"')
	}
	e.data = b[start:len(b):len(b)]
	e.json = append(b, '}')
}

// fromBody chooses the form of a binary-mode body (JSON event format 1.0.2,
// section 3.1.1).
func fromBody(body []byte, contentType string) (dataKind, []byte) {
	media, _ := parseMediaType(contentType)
	if media.json() {
		if value, ok := jsonValue(body); ok {
			return dataJSON, value
		}
	}
	if media.text() && utf8.Valid(body) {
		return dataText, body
	}
	return dataBase64, body
}

// fromMembers reads the members data and data_base64 (JSON event format 1.0.2,
// section 3.1). Those that are shallow are not nested too deep.
func fromMembers(p *payload, contentType string, shallow bool) (dataKind, []byte, *Problem) {
	switch {
	case p.data != nil && p.base64 != nil:
		return 0, nil, Problemf("event", "The event has both data and data_base64; give one.")
	case p.base64 != nil:
		value, ok := plainString(p.base64)
		if !ok {
			return 0, nil, Problemf("event", "data_base64 must be a string.")
		}
		if !validBase64(value[1 : len(value)-1]) {
			return 0, nil, Problemf("event", "data_base64 is no padded standard base64 (RFC 4648 section 4).")
		}
		return dataBase64, value, nil
	case p.data == nil:
		return dataNone, nil, nil
	}
	if media, _ := parseMediaType(contentType); contentType == "" || media.json() {
		if !shallow && tooDeep(p.data) {
			return 0, nil, Problemf("event", "The data is nested more than %d deep.", MaxDepth)
		}
		return dataJSON, p.data, nil
	}
	value, ok := plainString(p.data)
	if !ok {
		return 0, nil, Problemf("event", "With this datacontenttype, data must be a string; binary data goes into data_base64.")
	}
	return dataText, value, nil
}

// plainString returns a valid JSON string without the escapes that it does not
// need; false if value is something else.
func plainString(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value, true
	}
	text, err := jsontext.AppendUnquote(nil, value)
	if err != nil {
		return nil, false
	}
	value, err = jsontext.AppendQuote(make([]byte, 0, len(text)+len(text)/16+2), text)
	return value, err == nil
}

// validBase64 is stricter than the decoder, which skips line ends.
func validBase64(text []byte) bool {
	const chunk = 1024
	var buf [chunk / 4 * 3]byte
	for len(text) > 0 {
		n := min(len(text), chunk)
		want := n / 4 * 3
		if last := text[max(0, n-2):]; n == len(text) {
			want -= len(last) - len(bytes.TrimRight(last, "="))
		}
		if got, err := base64.StdEncoding.Strict().Decode(buf[:], text[:n]); err != nil || got != want || n%4 != 0 {
			return false
		}
		text = text[n:]
	}
	return true
}

// tooDeep says whether arrays and objects in valid JSON lie more than [MaxDepth]
// deep.
func tooDeep(value []byte) bool {
	if bytes.Count(value, []byte{'['})+bytes.Count(value, []byte{'{'}) <= MaxDepth {
		return false
	}
	depth, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}
