package subscriber

import (
	"net"
	"time"
)

const (
	// pingEvery is how often a client pings, so that a slow reader, too, is known
	// to be there; the gateway pings as often (protocol section 4).
	pingEvery = 25 * time.Second
	// silence is how long a connection may bring nothing at all while it is being
	// read: two of the gateway's intervals and some slack.
	silence = 2*pingEvery + 5*time.Second
	// handshakeTimeout bounds a TLS handshake and an unanswered HTTP/2 ping.
	handshakeTimeout = 15 * time.Second
	// answerTimeout is how long a request waits for the head of its answer.
	answerTimeout = 30 * time.Second
)

// A heardConn ends a read that hears nothing for too long. It counts bytes, not
// messages: a long message over a slow line is no silence. While nobody reads,
// because the program is slow, no time passes.
type heardConn struct{ net.Conn }

func (c *heardConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}
