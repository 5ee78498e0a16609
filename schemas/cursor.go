package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"time"
)

// A Cursor is a place in a namespace's log: after which event to go on. Clients
// see its text form only, which is opaque, URL-safe and at most 64 bytes.
type Cursor struct {
	// Log identifies the log; a log made anew has another.
	Log uint64
	// Sequence is the event's place in the log, from 1; 0 is before the first.
	Sequence uint64
	// Accepted is when the gateway accepted that event, in nanoseconds since 1970;
	// 0 where the log was empty.
	Accepted int64
}

const (
	cursorVersion = 1
	// MaxCursor is the length of a cursor's text in bytes.
	MaxCursor = 64
)

// ParseCursor reads a cursor's text form. The error is a [Problem] of name "cursor".
func ParseCursor(s string) (Cursor, error) {
	if c, ok := parseCursor(s); ok {
		return c, nil
	}
	return Cursor{}, Problemf("cursor", "This is no cursor; send one back as it was received, or use \"from\".")
}

func parseCursor(s string) (c Cursor, ok bool) {
	if len(s) > MaxCursor {
		return c, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 11 || b[0] != cursorVersion {
		return c, false
	}
	c.Log = binary.BigEndian.Uint64(b[1:9])
	b = b[9:]
	var n int
	if c.Sequence, n = binary.Uvarint(b); n <= 0 {
		return c, false
	}
	b = b[n:]
	accepted, n := binary.Uvarint(b)
	if n <= 0 || n != len(b) || accepted > 1<<63-1 {
		return c, false
	}
	c.Accepted = int64(accepted)
	if c.String() != s { // one text for one cursor
		return c, false
	}
	return c, true
}

// String is the cursor's text form.
func (c Cursor) String() string {
	return string(c.AppendTo(make([]byte, 0, MaxCursor)))
}

// AppendTo appends the cursor's text form to dst.
func (c Cursor) AppendTo(dst []byte) []byte {
	var raw [1 + 8 + 2*binary.MaxVarintLen64]byte
	b := append(raw[:0], cursorVersion)
	b = binary.BigEndian.AppendUint64(b, c.Log)
	b = binary.AppendUvarint(b, c.Sequence)
	b = binary.AppendUvarint(b, uint64(max(c.Accepted, 0)))
	return base64.RawURLEncoding.AppendEncode(dst, b)
}

// Time is Accepted as a time.
func (c Cursor) Time() time.Time { return time.Unix(0, c.Accepted) }
