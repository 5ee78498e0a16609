package frame

import (
	"bytes"
	"testing"
)

// The header of a frame lies in what it was read from, and a mask that is put on twice
// is off again.
func FuzzClientFrame(f *testing.F) {
	f.Add([]byte{0x81, 0x80, 1, 2, 3, 4})
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4, 'h', 'e', 'l', 'l', 'o'})
	f.Add([]byte{0x81, 0xFE, 0, 126, 1, 2, 3, 4})
	f.Add([]byte{0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4})
	f.Add([]byte{0x88, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		header, length, known := clientFrame(b)
		if !known {
			if len(b) >= 14 {
				t.Fatal("no header is longer than 14 bytes")
			}
			return
		}
		if header < 2 || header > len(b) || length > 0 && length < 126 && b[1]&^masked == 0 {
			t.Fatalf("header of %d, payload of %d bytes", header, length)
		}
		if b[1]&masked == 0 {
			return
		}
		key, payload := b[header-4:header], b[header:]
		got := bytes.Clone(payload)
		unmask(got, key)
		for i := range payload {
			if got[i] != payload[i]^key[i%4] {
				t.Fatalf("byte %d", i)
			}
		}
	})
}
