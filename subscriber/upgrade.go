package subscriber

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// upgrade hands a sender's WebSocket to an HTTP server as the handshake that it was,
// and joins the two if the server takes it. It reports whether the place in the
// backlog was used.
func (l *Listener) upgrade(o *acceptOffer, header http.Header) bool {
	head, ok := handshake(l.target(o.Address), header)
	if !ok {
		l.reject(l.ctx, o, http.StatusBadRequest, "The handshake can't be put into HTTP/1.1.")
		return false
	}
	ctx, done, err := l.client.open(context.WithoutCancel(l.ctx))
	if err != nil {
		return false
	}
	defer done()
	near, far := net.Pipe()
	defer near.Close()
	l.deliver(&served{Conn: far, local: l.Addr(), remote: o.RemoteEndpoint.addr(l.name)})
	stop := context.AfterFunc(ctx, func() { near.Close() })
	defer stop()
	_ = near.SetDeadline(time.Now().Add(relayTimeout))
	in := bufio.NewReaderSize(near, smallCopy)
	var resp *http.Response
	if _, err = near.Write(head); err == nil {
		resp, err = http.ReadResponse(in, &http.Request{Method: http.MethodGet})
	}
	switch {
	case err != nil:
		l.reject(ctx, o, http.StatusBadGateway, "The service gave no answer that is HTTP.")
		return true
	case resp.StatusCode != http.StatusSwitchingProtocols:
		status := resp.StatusCode
		if status < 300 {
			status = http.StatusBadRequest // it is no WebSocket endpoint
		}
		_, reason, _ := strings.Cut(resp.Status, " ")
		l.reject(ctx, o, status, reason)
		return true
	}
	_ = near.SetDeadline(time.Time{})
	address, err := l.client.rendezvous(o.Address)
	if err != nil {
		l.fault("accept", err)
		return true
	}
	answer := http.Header{}
	if protocol := resp.Header.Get("Sec-WebSocket-Protocol"); protocol != "" {
		answer.Set("Sec-WebSocket-Protocol", protocol)
	}
	ln, _, err := l.client.openLink(ctx, address, answer)
	if err != nil {
		l.fault("accept", err)
		return true
	}
	joinFrames(ctx, ln, near, in)
	return true
}

// handshake is a sender's handshake as HTTP/1.1 has it. No extension is left in it, for
// none is relayed.
func handshake(target string, header http.Header) ([]byte, bool) {
	if strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, false
	}
	b := append(make([]byte, 0, 512), "GET "+target+" HTTP/1.1\r\n"...)
	b = appendHeader(b, "Host", header.Get("Host"))
	for name, values := range header {
		switch name {
		case "Host", "Connection", "Upgrade", "Sec-Websocket-Extensions", "Content-Length", "Transfer-Encoding", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Expect":
			continue
		}
		for _, value := range values {
			b = appendHeader(b, name, value)
		}
	}
	b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
	return b, true
}

// joinFrames carries frames between a WebSocket of the relay and a server in memory,
// as they come, until both have ended. Only their masks are changed: towards the
// relay we are the client, and towards the server too.
func joinFrames(ctx context.Context, l *link, server net.Conn, in io.Reader) {
	defer context.AfterFunc(ctx, func() {
		_ = l.raw.SetWriteDeadline(time.Now().Add(farewell))
		_ = l.goodbye(1001, "going-away")
		l.raw.Close()
		server.Close()
	})()
	var ending sync.Once
	lost := func() { // without a Close frame: the other side must learn it
		ending.Do(func() {
			_ = l.raw.SetDeadline(time.Now().Add(farewell))
			_ = server.SetDeadline(time.Now().Add(farewell))
		})
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		defer lost()
		_ = remask(server, l, nil)
	})
	err := remask(l.raw, in, l)
	if err != nil && !errors.Is(err, errClosing) {
		_ = l.raw.SetWriteDeadline(time.Now().Add(farewell))
		_ = l.goodbye(schemas.CloseFault.Code, schemas.CloseFault.Word)
	}
	lost()
	tasks.Wait()
	l.raw.Close()
	server.Close()
}

// remask copies unmasked frames from one side to the other as a client's, until a
// Close frame was copied (errClosing) or the reading ends. Within a frame nothing else
// may write to to; that is what mind is for, which is locked for as long, if it is
// given.
func remask(to io.Writer, from io.Reader, mind *link) error {
	buffer := frameBuffers.Get().(*[headroom + frameBuffer]byte)
	defer frameBuffers.Put(buffer)
	b := buffer[:smallCopy]
	n := 0
	for {
		h, size, err := parseHeader(b[:n])
		if err != nil {
			return err
		}
		if size == 0 {
			m, err := from.Read(b[n:])
			if m == 0 && err != nil {
				return err
			}
			n += m
			continue
		}
		if mind != nil {
			mind.writing.Lock()
		}
		n, err = remaskFrame(to, from, b, size, n, h)
		if mind != nil {
			if h.op == opClose || err != nil {
				mind.closed = true
			}
			mind.writing.Unlock()
		}
		if err != nil {
			return err
		}
		if h.op == opClose {
			return errClosing
		}
	}
}

// remaskFrame copies a frame of which b[:n] has come, with a header of size bytes. It
// returns how much of what is behind the frame is in b.
func remaskFrame(to io.Writer, from io.Reader, b []byte, size, n int, h frameHeader) (int, error) {
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], rand.Uint32())
	out := append(b[len(b):], b[:size]...) // there is room for it and a part behind b
	out[1] |= maskedBit
	out = append(out, key[:]...)
	payload := b[size:n]
	for at := 0; ; {
		part := payload[:min(uint64(len(payload)), h.left)]
		mask(part, [4]byte{key[at&3], key[(at+1)&3], key[(at+2)&3], key[(at+3)&3]})
		if out = append(out, part...); len(out) > 0 {
			if _, err := to.Write(out); err != nil {
				return 0, err
			}
		}
		out = out[:0]
		at += len(part)
		h.left -= uint64(len(part))
		if h.left == 0 {
			return copy(b, payload[len(part):]), nil
		}
		m, err := from.Read(b)
		if m == 0 && err != nil {
			return 0, unexpected(err)
		}
		payload = b[:m]
	}
}
