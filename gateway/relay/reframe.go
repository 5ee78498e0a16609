package relay

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// Opcodes and bits of a frame's first two bytes (RFC 6455 section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	bitFinal   = 0x80
	bitsRSV    = 0x70
	bitControl = 0x08
	bitMask    = 0x80
)

const (
	// maxControl is the longest payload of a control frame (RFC 6455 section 5.5).
	maxControl = 125
	// maxHeader is the longest header of a client's frame.
	maxHeader = 14
	// headroom is what a [reframer] keeps of a control frame, at most, and wants free
	// in front of what it is fed.
	headroom = maxHeader + maxControl
)

// errFrame says that a client's frame breaks RFC 6455.
var errFrame = errors.New("a frame breaks the WebSocket protocol")

// A frameHeader is the header of a frame.
type frameHeader struct {
	first  byte // FIN, RSV and opcode
	masked bool
	length uint64
	key    [4]byte
}

func (h frameHeader) opcode() byte  { return h.first & 0xF }
func (h frameHeader) final() bool   { return h.first&bitFinal != 0 }
func (h frameHeader) control() bool { return h.first&bitControl != 0 }

// parseHeader reads the header at the beginning of b. size is its length, 0 if b has
// not all of it.
func parseHeader(b []byte) (h frameHeader, size int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.first, h.masked, h.length = b[0], b[1]&bitMask != 0, uint64(b[1]&^bitMask)
	size = 2
	switch h.length {
	case 126:
		if len(b) < 4 {
			return h, 0, nil
		}
		h.length, size = uint64(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return h, 0, nil
		}
		h.length, size = binary.BigEndian.Uint64(b[2:]), 10
		if h.length>>63 != 0 {
			return h, 0, errFrame
		}
	}
	if h.masked {
		if len(b) < size+4 {
			return h, 0, nil
		}
		h.key = [4]byte(b[size:])
		size += 4
	}
	switch op := h.opcode(); {
	case op > opBinary && op < opClose || op > opPong:
		return h, 0, errFrame
	case h.control() && (h.length > maxControl || !h.final() || h.first&bitsRSV != 0):
		return h, 0, errFrame
	}
	return h, size, nil
}

// appendHeader appends the header of a server's frame, which has no mask.
func appendHeader(dst []byte, first byte, length uint64) []byte {
	switch {
	case length < 126:
		return append(dst, first, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, first, 127), length)
}

// A sequence checks that the fragments of messages follow each other as they must
// (RFC 6455 section 5.4).
type sequence struct{ open bool }

func (s *sequence) next(h frameHeader) error {
	if h.control() {
		return nil
	}
	if s.open != (h.opcode() == opContinuation) {
		return errFrame
	}
	s.open = !h.final()
	return nil
}

// A reframer makes the frames that a client sends into those that a server sends: it
// takes the masks off, in place, and changes nothing else. It is pure: bytes in, bytes
// out.
type reframer struct {
	// extended says that the two clients have agreed on an extension, so that
	// reserved bits may be set.
	extended bool
	// control is asked about each whole control frame whether it passes.
	control func(opcode byte, payload []byte) bool

	sequence sequence
	kept     [headroom]byte // the beginning of a frame whose rest has not come
	keeps    int
	left     uint64 // bytes of the present frame's payload that have not come
	key      [4]byte
	closed   bool // a Close frame has passed: the client may say no more
}

// between says whether all that has come out ends at the end of a frame.
func (f *reframer) between() bool { return f.left == 0 }

// feed takes the next bytes of the client, b[start:end], and returns what to send,
// which lies in b. start is at least [headroom]. What comes before the error is to be
// sent all the same.
func (f *reframer) feed(b []byte, start, end int) (out []byte, err error) {
	p := start - f.keeps
	copy(b[p:], f.kept[:f.keeps])
	f.keeps = 0
	begin, w := p, p // what comes out is b[begin:w]
	for p < end && !f.closed {
		if f.left > 0 {
			n := end - p
			if uint64(n) > f.left {
				n = int(f.left)
			}
			f.key = unmask(b, w, p, n, f.key)
			p, w, f.left = p+n, w+n, f.left-uint64(n)
			continue
		}
		h, size, err := parseHeader(b[p:end])
		if err == nil && size > 0 {
			switch {
			case !h.masked, !h.control() && h.first&bitsRSV != 0 && !f.extended:
				err = errFrame
			default:
				err = f.sequence.next(h)
			}
		}
		if err != nil {
			return b[begin:w], err
		}
		whole := size
		if h.control() {
			whole += int(h.length)
		}
		if size == 0 || p+whole > end {
			f.keeps = copy(f.kept[:], b[p:end])
			break
		}
		// The header without its mask fits in front of the payload: nothing moves if
		// nothing is waiting to go out before it.
		if begin == w {
			begin, w = p+4, p+4
		}
		copy(b[w:], b[p:p+size-4])
		b[w+1] &^= bitMask
		if !h.control() {
			p, w = p+size, w+size-4
			f.left, f.key = h.length, h.key
			continue
		}
		payload := w + size - 4
		unmask(b, payload, p+size, int(h.length), h.key)
		if f.control(h.opcode(), b[payload:payload+int(h.length)]) {
			w = payload + int(h.length)
		}
		p += whole
		f.closed = h.opcode() == opClose
	}
	return b[begin:w], nil
}

// maskStretch is how far a key is written out for [subtle.XORBytes].
const maskStretch = 512

// unmask writes n bytes of b from src on without their mask to dst, which is src or
// lies before it. It returns the key for the byte after them.
func unmask(b []byte, dst, src, n int, key [4]byte) [4]byte {
	if n == 0 {
		return key
	}
	next := key
	if r := n & 3; r != 0 {
		for i := range next {
			next[i] = key[(i+r)&3]
		}
	}
	if dst == src && n >= 2*maskStretch {
		var stretch [maskStretch]byte
		word := binary.LittleEndian.Uint32(key[:])
		for i := 0; i < maskStretch; i += 4 {
			binary.LittleEndian.PutUint32(stretch[i:], word)
		}
		for p := b[src : src+n]; len(p) > 0; {
			done := subtle.XORBytes(p, p, stretch[:])
			p = p[done:]
		}
		return next
	}
	to, from := b[dst:dst+n], b[src:src+n]
	half := uint64(binary.LittleEndian.Uint32(key[:]))
	word := half<<32 | half
	// What is written lies before all that is still to be read.
	for len(from) >= 32 && len(to) >= 32 {
		x0 := binary.LittleEndian.Uint64(from)
		x1 := binary.LittleEndian.Uint64(from[8:])
		x2 := binary.LittleEndian.Uint64(from[16:])
		x3 := binary.LittleEndian.Uint64(from[24:])
		binary.LittleEndian.PutUint64(to, x0^word)
		binary.LittleEndian.PutUint64(to[8:], x1^word)
		binary.LittleEndian.PutUint64(to[16:], x2^word)
		binary.LittleEndian.PutUint64(to[24:], x3^word)
		to, from = to[32:], from[32:]
	}
	for i := range from {
		to[i] = from[i] ^ key[i&3]
	}
	return next
}
