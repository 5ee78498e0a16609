package publish

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// bufferSize is how much of the input is read at once, in bytes, and so about the
// size of a batch while there is plenty.
const bufferSize = 1 << 20

// An item is one JSON value of the input.
type item struct {
	raw []byte
	// line is where it begins, from 1.
	line int
	// array says that it is an array, a batch of its own.
	array bool
}

// A reader splits its input into JSON values: one, or several with or without
// lines between them. It looks for where a value ends and no closer; what is no
// JSON it returns as a value, to be refused by whoever reads it.
type reader struct {
	in   *bufio.Reader
	line int
}

func newReader(in io.Reader) *reader {
	return &reader{in: bufio.NewReaderSize(in, bufferSize), line: 1}
}

// next returns the next value, or io.EOF. A value longer than a batch may be is a
// [lineError].
func (r *reader) next() (item, error) {
	first, err := r.skip()
	if err != nil {
		return item{}, err
	}
	it := item{line: r.line, array: first == '['}
	if first != '{' && first != '[' {
		return r.rest(it)
	}
	var depth int
	var text, escaped bool
	for {
		chunk, err := r.fill()
		if err != nil {
			if errors.Is(err, io.EOF) { // cut short, which its reader will see
				return it, nil
			}
			return it, err
		}
		end := -1
	scan:
		for i, c := range chunk {
			switch {
			case c == '\n' && text: // no JSON, and no use to look for its end
				end, depth = i, 0
				break scan
			case c == '\n':
				r.line++
			case escaped:
				escaped = false
			case text:
				escaped = c == '\\'
				text = c != '"'
			case c == '"':
				text = true
			case c == '{' || c == '[':
				depth++
			case c == '}' || c == ']':
				if depth--; depth == 0 {
					end = i + 1
					break scan
				}
			}
		}
		if end < 0 {
			end = len(chunk)
		}
		if err := r.take(&it, end); err != nil {
			return it, err
		}
		if depth == 0 {
			return it, nil
		}
	}
}

// skip passes blanks and returns the byte after them without taking it.
func (r *reader) skip() (byte, error) {
	for {
		c, err := r.in.ReadByte()
		if err != nil {
			return 0, err
		}
		switch c {
		case '\n':
			r.line++
		case ' ', '\t', '\r':
		default:
			return c, r.in.UnreadByte()
		}
	}
}

// rest takes what begins like nothing known, up to the end of the line.
func (r *reader) rest(it item) (item, error) {
	for {
		chunk, err := r.fill()
		if errors.Is(err, io.EOF) {
			return it, nil
		}
		if err != nil {
			return it, err
		}
		end := bytes.IndexByte(chunk, '\n')
		if end < 0 {
			end = len(chunk)
		}
		if err := r.take(&it, end); err != nil || end < len(chunk) {
			return it, err
		}
	}
}

// fill returns what is in the buffer, at least a byte.
func (r *reader) fill() ([]byte, error) {
	if r.in.Buffered() == 0 {
		if _, err := r.in.Peek(1); err != nil {
			return nil, err
		}
	}
	return r.in.Peek(r.in.Buffered())
}

// take moves n bytes of the buffer to the item.
func (r *reader) take(it *item, n int) error {
	if len(it.raw)+n > schemas.MaxBatch {
		return &lineError{it.line, schemas.Problemf("too-large",
			"The JSON value that begins here has more than %d bytes, which is the most that one request may have.", schemas.MaxBatch)}
	}
	chunk, err := r.in.Peek(n)
	if err != nil {
		return err
	}
	it.raw = append(it.raw, chunk...)
	_, err = r.in.Discard(n)
	return err
}

// waiting says whether a whole line is there to be read without waiting for it.
func (r *reader) waiting() bool {
	b, err := r.in.Peek(r.in.Buffered())
	return err == nil && bytes.IndexByte(bytes.TrimLeft(b, " \t\r\n"), '\n') >= 0
}

// elements returns the members of an array, each with its line. What is no array,
// though it begins like one, is its own only element, as no array.
func (it item) elements() []item {
	if !jsontext.Value(it.raw).IsValid() {
		return []item{{raw: it.raw, line: it.line}}
	}
	inner := bytes.TrimSpace(it.raw)
	inner = inner[1 : len(inner)-1]
	var found []item
	var depth, start int
	var text, escaped bool
	line, counted := it.line, 0
	add := func(end int) {
		raw := bytes.TrimLeft(inner[start:end], " \t\r\n")
		begin := end - len(raw)
		line += bytes.Count(inner[counted:begin], []byte{'\n'})
		counted, start = begin, end+1
		if raw = bytes.TrimSpace(raw); len(raw) > 0 {
			found = append(found, item{raw: raw, line: line})
		}
	}
	for i, c := range inner {
		switch {
		case escaped:
			escaped = false
		case text:
			escaped = c == '\\'
			text = c != '"'
		case c == '"':
			text = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ',' && depth == 0:
			add(i)
		}
	}
	add(len(inner))
	return found
}
