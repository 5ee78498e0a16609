package subscriber

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// messages reads the messages of a link one after the other. It answers pings.
type messages struct {
	link *link
	in   *bufio.Reader
	left uint64 // of the frame, to be read
	more bool   // the message has more frames
}

// newMessages reads from l; no byte within silence is an error, 0 for none.
func newMessages(l *link, silence time.Duration) *messages {
	return &messages{link: l, in: bufio.NewReader(patientReader{l, silence})}
}

// A patientReader ends a read that hears nothing for too long.
type patientReader struct {
	link    *link
	silence time.Duration
}

func (r patientReader) Read(b []byte) (int, error) {
	if r.silence > 0 {
		if err := r.link.raw.SetReadDeadline(time.Now().Add(r.silence)); err != nil {
			return 0, err
		}
	}
	return r.link.Read(b)
}

// next waits for the next message, whose bytes Read reads. The error is a
// [CloseError] at the other side's Close frame.
func (m *messages) next() (op byte, err error) {
	if _, err := io.Copy(io.Discard, m); err != nil {
		return 0, err
	}
	h, err := m.header()
	if err != nil {
		return 0, err
	}
	if h.op == opContinuation {
		return 0, errProtocol
	}
	m.left, m.more = h.left, !h.final
	return h.op, nil
}

// Read reads the message. Its end is io.EOF.
func (m *messages) Read(b []byte) (int, error) {
	for m.left == 0 {
		if !m.more {
			return 0, io.EOF
		}
		h, err := m.header()
		if err != nil {
			return 0, unexpected(err)
		}
		if h.op != opContinuation {
			return 0, errProtocol
		}
		m.left, m.more = h.left, !h.final
	}
	n, err := m.in.Read(b[:min(uint64(len(b)), m.left)])
	m.left -= uint64(n)
	return n, unexpected(err)
}

// all reads the message whole, up to a length.
func (m *messages) all(most int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(m, int64(most)+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("a message of the gateway is longer than %d bytes", most)
	}
	return b, err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// header reads the header of the next frame that is none of control.
func (m *messages) header() (frameHeader, error) {
	for {
		for need := 2; ; {
			b, err := m.in.Peek(need)
			if err != nil {
				return frameHeader{}, unexpected(err)
			}
			h, size, err := parseHeader(b)
			if err != nil {
				return h, err
			}
			if size == 0 {
				need += 2 // 4 or 10, by way of what is there anyway
				continue
			}
			_, _ = m.in.Discard(size)
			if h.op < opClose {
				return h, nil
			}
			payload := make([]byte, h.left)
			if _, err := io.ReadFull(m.in, payload); err != nil {
				return h, unexpected(err)
			}
			switch h.op {
			case opPing:
				m.link.control(opPong, payload)
			case opClose:
				said := parseClose(payload)
				return h, &CloseError{schemas.ParseClose(said.code, said.reason), said.reason}
			}
			break
		}
	}
}
