package subscriber

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math/rand/v2"
)

// The opcodes and bits of WebSocket frames (RFC 6455 section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	finalBit  = 0x80
	maskedBit = 0x80

	// headroom is the longest header of a client's frame.
	headroom = 14
	// maxControl is the longest payload of a control frame.
	maxControl = 125
)

// errProtocol says that what came is no WebSocket frame of a server.
var errProtocol = errors.New("the gateway broke the WebSocket protocol (RFC 6455)")

// putHeader masks the payload b[headroom:], and puts a client's frame header right
// before it. It returns where in b the frame begins.
func putHeader(b []byte, first byte) (start int) {
	n := len(b) - headroom
	key := rand.Uint32()
	binary.LittleEndian.PutUint32(b[headroom-4:], key)
	mask(b[headroom:], [4]byte(b[headroom-4:headroom]))
	switch {
	case n < 126:
		start = headroom - 6
		b[start+1] = maskedBit | byte(n)
	case n < 1<<16:
		start = headroom - 8
		b[start+1] = maskedBit | 126
		binary.BigEndian.PutUint16(b[start+2:], uint16(n))
	default:
		start = headroom - 14
		b[start+1] = maskedBit | 127
		binary.BigEndian.PutUint64(b[start+2:], uint64(n))
	}
	b[start] = first
	return start
}

// mask masks or unmasks b, whose first byte is the payload's first.
func mask(b []byte, key [4]byte) {
	var pattern [512]byte
	n := copy(pattern[:], key[:])
	for most := min(len(b), len(pattern)); n < most; {
		n += copy(pattern[n:], pattern[:n])
	}
	for len(b) > 0 {
		b = b[subtle.XORBytes(b, b, pattern[:n]):]
	}
}

// A frameHeader is that of a server's frame.
type frameHeader struct {
	op    byte
	final bool
	left  uint64 // of the payload
}

// parseHeader reads a server's frame header from the start of b. A size of 0 asks
// for more bytes.
func parseHeader(b []byte) (h frameHeader, size int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.op, h.final = b[0]&0x0F, b[0]&finalBit != 0
	if b[0]&0x70 != 0 || b[1]&maskedBit != 0 {
		return h, 0, errProtocol
	}
	switch n := b[1]; {
	case n < 126:
		h.left, size = uint64(n), 2
	case n == 126:
		if len(b) < 4 {
			return h, 0, nil
		}
		h.left, size = uint64(binary.BigEndian.Uint16(b[2:])), 4
	default:
		if len(b) < 10 {
			return h, 0, nil
		}
		h.left, size = binary.BigEndian.Uint64(b[2:]), 10
	}
	switch h.op {
	case opContinuation, opText, opBinary:
		if h.left>>63 != 0 {
			return h, 0, errProtocol
		}
	case opClose, opPing, opPong:
		if !h.final || h.left > maxControl {
			return h, 0, errProtocol
		}
	default:
		return h, 0, errProtocol
	}
	return h, size, nil
}

// A deframer takes the payload of data messages out of the frames of a server, as
// they come and in place. Boundaries and kinds of messages do not count.
type deframer struct {
	// control is called for each control frame; its error ends the reading. The
	// payload is good until it returns.
	control func(op byte, payload []byte) error

	frame   frameHeader
	inside  bool // a frame has begun and has bytes left
	message bool // a message has begun and has frames left
	part    [maxControl]byte
	have    int // of a header or a control frame's payload, in part
}

// feed moves the payload that b holds to its start and returns its length. With an
// error what came before it counts.
func (d *deframer) feed(b []byte) (n int, err error) {
	for i := 0; i < len(b) || d.inside && d.frame.left == 0; {
		if !d.inside {
			size, err := d.begin(b[i:])
			if err != nil {
				return n, err
			}
			i += size
			continue
		}
		take := int(min(uint64(len(b)-i), d.frame.left))
		if d.frame.op < opClose {
			if n != i {
				copy(b[n:], b[i:i+take])
			}
			n += take
		} else {
			d.have += copy(d.part[d.have:], b[i:i+take])
		}
		i += take
		d.frame.left -= uint64(take)
		if d.frame.left == 0 {
			d.inside = false
			if d.frame.op >= opClose {
				have := d.have
				d.have = 0
				if err := d.control(d.frame.op, d.part[:have]); err != nil {
					return n, err
				}
			}
		}
	}
	return n, nil
}

// begin reads a frame's header, of which parts may have come before, and returns how
// much of b it took.
func (d *deframer) begin(b []byte) (size int, err error) {
	before := d.have
	d.have += copy(d.part[before:10], b)
	h, size, err := parseHeader(d.part[:d.have])
	if err != nil {
		return 0, err
	}
	if size == 0 {
		return d.have - before, nil
	}
	d.have = 0
	switch {
	case h.op >= opClose:
	case d.message != (h.op == opContinuation):
		return 0, errProtocol
	default:
		d.message = !h.final
	}
	d.frame, d.inside = h, true
	return size - before, nil
}
