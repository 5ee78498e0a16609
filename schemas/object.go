package schemas

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// An Object is a JSON object that was read as strictly as [ParseEvent] reads, and where
// its members lie, in one pass. Nothing of it is copied. The zero value is ready; it may
// be read into again, and belongs to one goroutine at a time.
type Object struct {
	text    []byte // the object, without the blanks around it
	members []memberAt
	inner   []memberAt // of the member within
	within  int        // its place among the members, -1 if there is none

	// Of the reading.
	b    []byte
	into string // the name of the member within
	open []span // the names so far of all objects that are open
	wide bool   // something beyond ASCII came
}

// A memberAt is where a member of an object lies in what was read.
type memberAt struct {
	name, value span
	form        form // of the value
}

// A span is a part of what was read. 32 bits keep a member short.
type span struct{ from, to int32 }

// form says what a value that is a string needs besides its quotes taken off.
type form uint8

const (
	escaped  form = 1 << iota // it has escapes
	uncommon                  // it has more than the characters from blank to tilde
)

// What an Object takes, so that its names are compared with one another, and it is
// walked into, without memory of its own. Few objects have more.
const (
	objectDepth = 64
	objectNames = 64
)

// Read reads b. False is that b is no JSON object as [ParseEvent] would read it, or is
// one that takes more to read: a name has escapes, or there are more than 64 members in
// one object, or 64 levels. [ReadObject] reads those too.
//
// Of the member within, unless that is "", the members are found as well if it is an
// object: see [Arena.ParseWithin]. b must not change while the Object is in use.
func (o *Object) Read(b []byte, within string) bool {
	o.Clear()
	o.b, o.into = b, within
	start := blanks(b, 0)
	if start == len(b) || b[start] != '{' || len(b) > math.MaxInt32 {
		return false
	}
	end := o.object(start, 1, &o.members)
	if end < 0 || blanks(b, end) != len(b) || o.wide && !utf8.Valid(b) {
		o.Clear()
		return false
	}
	o.text = b[start:end]
	return true
}

// Clear lets go of what was read: the Object has no members then.
func (o *Object) Clear() {
	o.b, o.text, o.wide = nil, nil, false
	o.members, o.inner, o.within, o.open = o.members[:0], o.inner[:0], -1, o.open[:0]
}

// Len is how many members there are.
func (o *Object) Len() int { return len(o.members) }

// Member is the member i, in the order in which they stand: its name, without quotes, and
// its value, both parts of what was read.
func (o *Object) Member(i int) (name []byte, value jsontext.Value) {
	m := &o.members[i]
	return m.name.of(o.b), jsontext.Value(m.value.of(o.b))
}

func (s span) of(b []byte) []byte { return b[s.from:s.to:s.to] }

// Each of the following reads what begins at i, and returns where it ends; -1 if it is
// wrong or beyond what an Object takes.

func (o *Object) object(i, depth int, members *[]memberAt) int {
	if depth > objectDepth {
		return -1
	}
	b, base := o.b, len(o.open)
	var seen uint64 // a bit for each name, perhaps of several
	if i = blanks(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return -1
		}
		end, f := o.string(i)
		if end < 0 || f&escaped != 0 {
			return -1
		}
		name := span{int32(i + 1), int32(end - 1)}
		bit := uint64(1) << (nameHash(b[i+1:end-1]) & 63)
		if seen&bit != 0 && o.named(name, base) || len(o.open)-base == objectNames {
			return -1
		}
		seen |= bit
		o.open = append(o.open, name)

		if i = blanks(b, end); i >= len(b) || b[i] != ':' {
			return -1
		}
		if i = blanks(b, i+1); i >= len(b) {
			return -1
		}
		switch {
		case b[i] == '"':
			end, f = o.string(i)
		case b[i] == '{' && depth == 1 && members != nil && o.into != "" && string(name.of(b)) == o.into:
			o.within = len(*members)
			end, f = o.object(i, depth+1, &o.inner), 0
		default:
			end, f = o.value(i, depth), 0
		}
		if end < 0 {
			return -1
		}
		if members != nil {
			*members = append(*members, memberAt{name, span{int32(i), int32(end)}, f})
		}
		if i = blanks(b, end); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i = blanks(b, i+1)
		case '}':
			o.open = o.open[:base]
			return i + 1
		default:
			return -1
		}
	}
}

// named says whether the object that began with base open names has that name.
func (o *Object) named(name span, base int) bool {
	for _, other := range o.open[base:] {
		if string(other.of(o.b)) == string(name.of(o.b)) {
			return true
		}
	}
	return false
}

// nameHash tells most names of an object apart.
func nameHash(name []byte) uint {
	n := uint(len(name))
	if n == 0 {
		return 0
	}
	return n*7 + uint(name[0])*5 + uint(name[n-1])*3 + uint(name[n/2])
}

func (o *Object) array(i, depth int) int {
	if depth > objectDepth {
		return -1
	}
	b := o.b
	if i = blanks(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i >= len(b) {
			return -1
		}
		end := o.value(i, depth)
		if end < 0 {
			return -1
		}
		if i = blanks(b, end); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i = blanks(b, i+1)
		case ']':
			return i + 1
		default:
			return -1
		}
	}
}

// value reads a value within depth levels.
func (o *Object) value(i, depth int) int {
	b := o.b
	switch c := b[i]; c {
	case '"':
		end, _ := o.string(i)
		return end
	case '{':
		return o.object(i, depth+1, nil)
	case '[':
		return o.array(i, depth+1)
	case 't':
		return word(b, i, "true")
	case 'f':
		return word(b, i, "false")
	case 'n':
		return word(b, i, "null")
	default:
		if c != '-' && !digit(c) {
			return -1
		}
		return number(b, i)
	}
}

func word(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// number reads a number (RFC 8259 section 6).
func number(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	digits := func() bool {
		start := i
		for i < len(b) && digit(b[i]) {
			i++
		}
		return i > start
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case !digits():
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return -1
		}
	}
	return i
}

func digit(c byte) bool { return c-'0' <= 9 }

// string reads a string. Whether what is beyond ASCII is UTF-8 is left to Read.
func (o *Object) string(i int) (end int, f form) {
	b := o.b
	for i++; ; {
		for len(b)-i >= 8 {
			if found := remarkable(binary.LittleEndian.Uint64(b[i:])); found != 0 {
				i += bits.TrailingZeros64(found) / 8
				break
			}
			i += 8
		}
		if i >= len(b) {
			return -1, 0
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, f
		case c == '\\':
			f |= escaped
			if i = escape(b, i); i < 0 {
				return -1, 0
			}
		case c < ' ':
			return -1, 0
		case c >= 0x7F:
			f |= uncommon
			for ; i < len(b) && b[i] >= 0x7F; i++ {
				o.wide = o.wide || b[i] > 0x7F
			}
		default: // fewer than eight bytes are left
			i++
		}
	}
}

// remarkable marks, with its high bit, the first of eight bytes that is a quote, a
// backslash, or not from blank to tilde; what is above that is marked at random. Zero is
// that there is none.
func remarkable(eight uint64) uint64 {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := eight^ones*'"', eight^ones*'\\'
	return ((quote-ones)&^quote | (backslash-ones)&^backslash | (eight-ones*' ')&^eight | (eight + ones) | eight) & high
}

// escape reads an escape (RFC 8259 section 7). Surrogates come in pairs.
func escape(b []byte, i int) int {
	if len(b)-i < 2 {
		return -1
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
	default:
		return -1
	}
	switch unit := codeUnit(b, i); {
	case unit < 0 || unit >= 0xDC00 && unit < 0xE000:
		return -1
	case unit < 0xD800 || unit >= 0xE000:
		return i + 6
	}
	if low := codeUnit(b, i+6); low < 0xDC00 || low >= 0xE000 {
		return -1
	}
	return i + 12
}

// codeUnit is that of \uXXXX, -1 if b has none at i.
func codeUnit(b []byte, i int) int {
	if len(b)-i < 6 || b[i] != '\\' || b[i+1] != 'u' {
		return -1
	}
	unit := 0
	for _, c := range b[i+2 : i+6] {
		d := unhex(c)
		if d > 15 {
			return -1
		}
		unit = unit<<4 | int(d)
	}
	return unit
}

// blanks passes over blanks.
func blanks(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}
