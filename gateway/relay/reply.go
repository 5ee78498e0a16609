package relay

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"
)

// A reply is an answer that is being written to the sender.
//
// net/http writes it, and the connection lives on. It has no way to write a reason
// phrase of one's own, though: an answer with one is written here, and ends the
// connection.
type reply struct {
	exchange *exchange
	bodyless bool     // nothing may follow the head
	pending  bool     // something may wait to be flushed
	conn     net.Conn // taken over from net/http; nil where it writes
	buffer   *bufio.Writer
	body     io.Writer // into buffer, framed
	chunks   io.Closer // writes the last chunk; nil if there are none
}

// begin writes the head of an answer. length is that of the body, -1 if it is not
// known. whole says that the request's body has been read to its end.
func (x *exchange) begin(r *response, length int64, whole bool) (*reply, error) {
	p := &reply{exchange: x, pending: true}
	p.bodyless = x.r.Method == http.MethodHead || r.status == http.StatusNoContent || r.status == http.StatusNotModified
	r.relayed(safeHost(x.r.Host), p.bodyless)
	if !p.bodyless && length >= 0 {
		r.header["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	if cookie := x.sessionCookie(); cookie != "" {
		r.header["Set-Cookie"] = append(r.header["Set-Cookie"], cookie)
	}
	x.answered = true
	p.await()
	if r.reason != "" && r.reason != http.StatusText(r.status) && x.r.ProtoMajor == 1 && whole {
		return p, p.takeOver(r, length)
	}
	h := x.w.Header()
	clear(h)
	for name, values := range r.header {
		h[name] = values
	}
	x.w.WriteHeader(r.status)
	p.body = x.w
	return p, nil
}

// takeOver writes the head with the listener's own reason phrase.
func (p *reply) takeOver(r *response, length int64) error {
	x := p.exchange
	clear(x.w.Header())
	h, err := hijack(x.w)
	if err != nil {
		return errCut
	}
	p.conn, p.buffer = h.conn, bufio.NewWriterSize(h.conn, 4<<10)
	p.body = p.buffer
	p.await()
	fmt.Fprintf(p.buffer, "HTTP/1.1 %d %s\r\n", r.status, r.reason)
	if r.header["Date"] == nil {
		r.header["Date"] = []string{time.Now().UTC().Format(http.TimeFormat)}
	}
	r.header["Connection"] = []string{"close"}
	if !p.bodyless && length < 0 && x.r.ProtoAtLeast(1, 1) {
		r.header["Transfer-Encoding"] = []string{"chunked"}
		w := httputil.NewChunkedWriter(p.buffer)
		p.body, p.chunks = w, w
	}
	r.header.Write(p.buffer) //nolint:errcheck // the flush will say it
	if _, err := p.buffer.WriteString("\r\n"); err != nil {
		h.conn.Close()
		return nil // the sender has gone
	}
	return nil
}

// await sets the deadline of the next write.
func (p *reply) await() {
	deadline := time.Now().Add(p.exchange.relay.limits.RelayBodyIdle)
	if p.conn != nil {
		p.conn.SetWriteDeadline(deadline) //nolint:errcheck // the write will say it
	} else {
		p.exchange.control.SetWriteDeadline(deadline) //nolint:errcheck // the write will say it
	}
}

// write writes a piece of the body. The error says that the sender takes no more.
func (p *reply) write(b []byte) error {
	if p.bodyless || len(b) == 0 {
		return nil
	}
	p.pending = true
	p.await()
	_, err := p.body.Write(b)
	return err
}

// flush sends what waits in buffers.
func (p *reply) flush() error {
	if !p.pending {
		return nil
	}
	p.pending = false
	p.await()
	if p.conn != nil {
		return p.buffer.Flush()
	}
	return p.exchange.control.Flush()
}

// finish ends an answer that is complete.
func (p *reply) finish() error {
	if p.conn == nil {
		return nil // net/http does the rest
	}
	p.await()
	if p.chunks != nil {
		p.chunks.Close()             //nolint:errcheck // the flush will say it
		p.buffer.WriteString("\r\n") //nolint:errcheck // the flush will say it
	}
	if p.buffer.Flush() != nil {
		p.conn.Close()
		return nil
	}
	linger(p.conn, time.Second)
	return nil
}

// cut breaks an answer off.
func (p *reply) cut() error {
	if p.conn != nil {
		p.conn.Close()
		return nil
	}
	return errCut
}

// ownAddress is scheme and host by which a request has reached us.
func (v *visit) ownAddress() (scheme, host string) {
	scheme = "ws"
	if v.secure() {
		scheme = "wss"
	}
	return scheme, safeHost(v.r.Host)
}
