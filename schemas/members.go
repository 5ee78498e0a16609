package schemas

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// members walks through the members of a JSON object that is known to be valid.
type members struct {
	rest []byte
}

// membersOf begins with the first member.
func membersOf(object jsontext.Value) members { return members{object[1:]} }

// next returns the next member: its name, in quotes, and its value, both parts of the
// object; false after the last.
func (m *members) next() (name, value jsontext.Value, ok bool) {
	m.skip(',')
	if m.rest[0] == '}' {
		return nil, nil, false
	}
	name = m.take(text(m.rest))
	m.skip(':')
	return name, m.take(extent(m.rest)), true
}

// skip passes over blanks and the mark.
func (m *members) skip(mark byte) {
	for m.rest[0] == mark || m.rest[0] <= ' ' {
		m.rest = m.rest[1:]
	}
}

func (m *members) take(n int) jsontext.Value {
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
