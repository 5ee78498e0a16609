package main

import (
	"encoding/binary"
	"fmt"
)

// WebSocket opcodes with the final bit (RFC 6455 section 5.2).
const (
	frameText   = 0x81
	frameBinary = 0x82
	frameClose  = 0x88
	framePing   = 0x89
	framePong   = 0x8A
)

// handshakeKey and handshakeAccept belong together (RFC 6455 section 1.3).
const (
	handshakeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	handshakeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// appendServerHeader appends the header of a frame without a mask.
func appendServerHeader(dst []byte, first byte, length int) []byte {
	switch {
	case length < 126:
		return append(dst, first, byte(length))
	case length < 1<<16:
		return append(dst, first, 126, byte(length>>8), byte(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(length))
}

// The mask of all frames that the load sends: any will do for the server, whose
// work is the same.
var mask = [4]byte{0x37, 0xFA, 0x21, 0x3D}

var mask64 = binary.LittleEndian.Uint64(append(mask[:], mask[:]...))

func xor(b []byte) {
	i := 0
	for ; len(b)-i >= 8; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:])^mask64)
	}
	for ; i < len(b); i++ {
		b[i] ^= mask[i&3]
	}
}

// appendClientFrame appends a masked frame.
func appendClientFrame(dst []byte, first byte, payload ...[]byte) []byte {
	length := 0
	for _, p := range payload {
		length += len(p)
	}
	dst = appendServerHeader(dst, first, length)
	header := len(dst)
	switch {
	case length < 126:
		dst[header-1] |= 0x80
	case length < 1<<16:
		dst[header-3] |= 0x80
	default:
		dst[header-9] |= 0x80
	}
	dst = append(dst, mask[:]...)
	header = len(dst)
	for _, p := range payload {
		dst = append(dst, p...)
	}
	xor(dst[header:])
	return dst
}

// parseFrame finds the first frame of b: its first byte and where its payload,
// masked or not, begins and ends. end is 0 while the frame is not whole.
func parseFrame(b []byte) (first byte, begin, end int) {
	if len(b) < 2 {
		return 0, 0, 0
	}
	size, head := int(b[1]&0x7F), 2
	switch size {
	case 126:
		if len(b) < 4 {
			return 0, 0, 0
		}
		size, head = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return 0, 0, 0
		}
		size, head = int(binary.BigEndian.Uint64(b[2:])), 10
	}
	if b[1]&0x80 != 0 {
		head += 4
	}
	if len(b) < head+size {
		return 0, 0, 0
	}
	return b[0], head, head + size
}

// An event's JSON begins with prefix; then come the publisher's number and the
// event's, of fixed width, and later the time at which it was to be published.
const (
	prefix          = `{"specversion":"1.0","id":"`
	publisherDigits = 3
	numberDigits    = 9
	ownSource       = `","source":"/bench/peers"`
	afterID         = ownSource + `,"type":"dev.outrelay.bench","datacontenttype":"application/json","data":{"at":`
	timeDigits      = 19
	afterTime       = `,"pad":"`
	ending          = `"}}`

	publisherAt = len(prefix)
	numberAt    = publisherAt + publisherDigits
	timeAt      = numberAt + numberDigits + len(afterID)
	leastEvent  = timeAt + timeDigits + len(afterTime) + len(ending)
)

// A template makes events of one size.
type template []byte

func newTemplate(size int) template {
	t := fmt.Appendf(nil, "%s%0*d%0*d%s%0*d%s", prefix, publisherDigits, 0, numberDigits, 0, afterID, timeDigits, 0, afterTime)
	for len(t)+len(ending) < size {
		t = append(t, 'x')
	}
	return append(t, ending...)
}

// event is the event with that id. It is overwritten by the next.
func (t template) event(publisher, number int, at int64) []byte {
	putDigits(t[publisherAt:numberAt], publisher)
	putDigits(t[numberAt:numberAt+numberDigits], number)
	putDigits(t[timeAt:timeAt+timeDigits], int(at))
	return t
}

func putDigits(b []byte, n int) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

func digits(b []byte) int {
	n := 0
	for _, c := range b {
		n = n*10 + int(c-'0')
	}
	return n
}
