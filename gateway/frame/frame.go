package frame

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"
)

// Opcodes (RFC 6455 section 5.2).
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
	final   = 0x80
	rsv1    = 0x40 // compressed (RFC 7692 section 6)
	masked  = 0x80 // of the second byte
)

// maxControl is the longest payload of a control frame (RFC 6455 section 5.5).
const maxControl = 125

// MaxHeader is the longest header of a server's frame, which has no mask.
const MaxHeader = 10

// appendHeader appends a frame's header.
func appendHeader(dst []byte, first byte, length int) []byte {
	dst = append(dst, first)
	switch {
	case length < 126:
		return append(dst, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(length))
}

// AppendText appends a text message in one frame.
func AppendText(dst []byte, payload ...[]byte) []byte {
	length := 0
	for _, p := range payload {
		length += len(p)
	}
	dst = appendHeader(slices.Grow(dst, MaxHeader+length), final|opText, length)
	for _, p := range payload {
		dst = append(dst, p...)
	}
	return dst
}

// appendClose appends a Close frame; a reason that is too long is cut at a rune.
// Code 0 is none.
func appendClose(dst []byte, code int, reason string) []byte {
	if code == 0 {
		return appendHeader(dst, final|opClose, 0)
	}
	if len(reason) > maxControl-2 {
		reason = reason[:maxControl-2]
		for !utf8.ValidString(reason) {
			reason = reason[:len(reason)-1]
		}
	}
	dst = appendHeader(dst, final|opClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// A Chunk is some frames joined, and where each ends.
type Chunk struct {
	Bytes []byte
	Ends  []int
}

// Reset empties the chunk and keeps its memory.
func (c *Chunk) Reset() { c.Bytes, c.Ends = c.Bytes[:0], c.Ends[:0] }

// Text adds a text message.
func (c *Chunk) Text(payload ...[]byte) {
	c.Bytes = AppendText(c.Bytes, payload...)
	c.Ends = append(c.Ends, len(c.Bytes))
}

// From is the chunk without its first n frames. It shares the chunk's memory.
func (c *Chunk) From(n int) (bytes []byte, base int) {
	if n == 0 {
		return c.Bytes, 0
	}
	base = c.Ends[n-1]
	return c.Bytes[base:], base
}
