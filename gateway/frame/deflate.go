package frame

import (
	"bytes"
	"compress/flate"
)

// deflateLeast is the shortest payload that is worth compressing.
const deflateLeast = 128

// A Deflater compresses messages for sockets whose Deflate is set: each by itself,
// so that one result serves them all (RFC 7692 section 7.2.1, without context
// takeover). It keeps about 1 MiB. It belongs to one goroutine.
type Deflater struct {
	w   *flate.Writer
	out bytes.Buffer
}

// tail ends what Flush writes and is left out (RFC 7692 section 7.2.1).
var tail = []byte{0x00, 0x00, 0xFF, 0xFF}

// Compress returns the payload's compressed form, nil if that is not shorter. The
// slice is the caller's.
func (d *Deflater) Compress(payload []byte) []byte {
	if len(payload) < deflateLeast {
		return nil
	}
	d.out.Reset()
	if d.w == nil {
		d.w, _ = flate.NewWriter(&d.out, flate.BestSpeed) // the level is valid
	} else {
		d.w.Reset(&d.out)
	}
	// Writing to a buffer can't fail.
	_, _ = d.w.Write(payload)
	_ = d.w.Flush()
	short := bytes.TrimSuffix(d.out.Bytes(), tail)
	if len(short) >= len(payload) {
		return nil
	}
	return bytes.Clone(short)
}

// Compressed adds a text message whose payload a [Deflater] compressed.
func (c *Chunk) Compressed(payload []byte) {
	c.Bytes = append(appendHeader(c.Bytes, final|rsv1|opText, len(payload)), payload...)
	c.Ends = append(c.Ends, len(c.Bytes))
}
