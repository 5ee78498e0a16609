package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// maskedFrame is a client's frame.
func maskedFrame(first byte, key [4]byte, payload []byte) []byte {
	b := appendHeader(nil, first, uint64(len(payload)))
	b[1] |= bitMask
	b = append(b, key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i&3])
	}
	return b
}

// reference reads frames one by one, in the plainest way, and returns what is to be sent
// on: whole frames and the beginning of the last, without masks. wrong says that a frame
// breaks the protocol.
func reference(b []byte, extended bool) (out []byte, wrong bool) {
	open := false
	for {
		if len(b) < 2 {
			return out, false
		}
		first, n, size := b[0], uint64(b[1]&0x7f), 2
		switch n {
		case 126:
			if size = 4; len(b) < size {
				return out, false
			}
			n = uint64(binary.BigEndian.Uint16(b[2:]))
		case 127:
			if size = 10; len(b) < size {
				return out, false
			}
			if n = binary.BigEndian.Uint64(b[2:]); n>>63 != 0 {
				return out, true
			}
		}
		masked := b[1]&0x80 != 0
		if masked && len(b) < size+4 {
			return out, false
		}
		op, final := first&0xF, first&0x80 != 0
		switch {
		case op > 2 && op < 8 || op > 10, !masked:
			return out, true
		case op >= 8 && (n > 125 || !final || first&0x70 != 0):
			return out, true
		case op < 8 && first&0x70 != 0 && !extended:
			return out, true
		case op < 8 && open != (op == 0):
			return out, true
		}
		key, header := b[size:size+4], append([]byte{}, b[:size]...)
		header[1] &= 0x7f
		b = b[size+4:]
		if op >= 8 && uint64(len(b)) < n {
			return out, false // a control frame goes as a whole
		}
		have := min(n, uint64(len(b)))
		payload := make([]byte, have)
		for i := range payload {
			payload[i] = b[i] ^ key[i&3]
		}
		b = b[have:]
		if op < 8 {
			open = !final
		}
		if op != opPong || !bytes.Equal(payload, pingPayload) {
			out = append(append(out, header...), payload...)
		}
		if op == opClose || have < n {
			return out, false
		}
	}
}

// What a client sends is passed on as the plainest reader has it, whatever it is and in
// whatever pieces it comes.
func FuzzReframer(f *testing.F) {
	key := [4]byte{1, 2, 3, 4}
	for _, frames := range [][]byte{
		maskedFrame(bitFinal|opText, key, []byte("hello")),
		append(maskedFrame(opText, key, []byte("one ")), maskedFrame(bitFinal, [4]byte{}, []byte("two"))...),
		append(maskedFrame(opBinary, key, nil), append(maskedFrame(bitFinal|opPing, key, []byte("p")), maskedFrame(bitFinal, key, nil)...)...),
		maskedFrame(bitFinal|opBinary, key, bytes.Repeat([]byte("x"), 70_000)),
		maskedFrame(bitFinal|opBinary, key, bytes.Repeat([]byte("y"), 1500)),
		append(maskedFrame(bitFinal|opPong, key, pingPayload), maskedFrame(bitFinal|opText, key, []byte("after"))...),
		append(maskedFrame(bitFinal|opClose, key, []byte{3, 232}), maskedFrame(bitFinal|opText, key, []byte("late"))...),
		maskedFrame(bitFinal|0x40|opText, key, []byte("reserved")),
		{0x81, 0x00}, {0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, {0x83, 0x80, 1, 2, 3, 4},
	} {
		f.Add(frames, []byte{1, 7, 200}, false)
		f.Add(frames, []byte{255}, true)
	}
	f.Fuzz(func(t *testing.T, sent, pieces []byte, extended bool) {
		want, wrong := reference(sent, extended)
		r := reframer{extended: extended, control: func(opcode byte, payload []byte) bool {
			return opcode != opPong || !bytes.Equal(payload, pingPayload)
		}}
		var got []byte
		var err error
		rest := bytes.Clone(sent)
		buffer := make([]byte, headroom+bulkBuffer)
		for i := 0; len(rest) > 0 && err == nil && !r.closed; i++ {
			n := len(rest)
			if len(pieces) > 0 {
				n = min(n, 1+int(pieces[i%len(pieces)])*int(pieces[(i/7)%len(pieces)]))
			}
			n = min(n, bulkBuffer)
			copy(buffer[headroom:], rest[:n])
			rest = rest[n:]
			var out []byte
			out, err = r.feed(buffer, headroom, headroom+n)
			got = append(got, out...)
		}
		if wrong != (err != nil) || err != nil && !errors.Is(err, errFrame) {
			t.Fatalf("feed of %x: %v, want an error: %v", sent[:min(len(sent), 100)], err, wrong)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("of %x (%d bytes) came %x (%d), want %x (%d)", sent[:min(len(sent), 100)], len(sent), got[:min(len(got), 100)], len(got), want[:min(len(want), 100)], len(want))
		}
	})
}

// unmask does what the byte by byte loop of RFC 6455 section 5.3 does, at any place and
// length, also where it moves what it unmasks.
func FuzzUnmask(f *testing.F) {
	f.Add([]byte("some bytes of a payload"), uint32(0x12345678), uint8(3), uint8(1))
	f.Add(bytes.Repeat([]byte{0xAA, 1}, 2000), uint32(0xFFFF0001), uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, payload []byte, word uint32, gap, offset uint8) {
		var key [4]byte
		binary.LittleEndian.PutUint32(key[:], word)
		dst := int(offset)
		src := dst + int(gap)
		b := append(make([]byte, src), payload...)
		next := unmask(b, dst, src, len(payload), key)
		for i, c := range payload {
			if b[dst+i] != c^key[i&3] {
				t.Fatalf("byte %d is %#x, want %#x", i, b[dst+i], c^key[i&3])
			}
		}
		for i := range next {
			if next[i] != key[(i+len(payload))&3] {
				t.Fatalf("after %d bytes of %x the key is %x", len(payload), key, next)
			}
		}
	})
}
