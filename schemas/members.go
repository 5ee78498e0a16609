package schemas

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// ReadObject returns the JSON object that b is, without the blanks around it; false if it
// is anything else. It reads as strictly as [ParseEvent].
func ReadObject(b []byte) (jsontext.Value, bool) {
	r := newReader(b)
	defer r.free()
	r.decode()
	v, p := r.value()
	return v, p == nil && v.Kind() == '{' && r.end() == nil
}

// Members walks through the members of a JSON object that is known to be valid.
type Members struct {
	rest []byte
}

// MembersOf begins with the first member.
func MembersOf(object jsontext.Value) Members { return Members{object[1:]} }

// Next returns the next member: its name, in quotes, and its value, both parts of the
// object; false after the last.
func (m *Members) Next() (name, value jsontext.Value, ok bool) {
	m.skip(',')
	if m.rest[0] == '}' {
		return nil, nil, false
	}
	name = m.take(text(m.rest))
	m.skip(':')
	return name, m.take(extent(m.rest)), true
}

// skip passes over blanks and the mark.
func (m *Members) skip(mark byte) {
	for m.rest[0] == mark || m.rest[0] <= ' ' {
		m.rest = m.rest[1:]
	}
}

func (m *Members) take(n int) jsontext.Value {
	v := m.rest[:n:n]
	m.rest = m.rest[n:]
	return v
}

// extent is the length of the value that b begins with.
func extent(b []byte) int {
	switch b[0] {
	case '"':
		return text(b)
	case '{', '[':
		for i, depth := 0, 0; ; i++ {
			switch b[i] {
			case '"':
				i += text(b[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	n := 1
	for n < len(b) && b[n] > ' ' && b[n] != ',' && b[n] != '}' {
		n++
	}
	return n
}

// text is the length of the string, quotes included, that b begins with.
func text(b []byte) int {
	end := 1
	for {
		end += bytes.IndexByte(b[end:], '"')
		escapes := 0
		for b[end-1-escapes] == '\\' {
			escapes++
		}
		end++
		if escapes%2 == 0 {
			return end
		}
	}
}
