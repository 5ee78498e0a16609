package subscriber

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// frameBuffer is the longest payload that is sent in one frame, and what a busy
// connection holds for each direction.
const frameBuffer = 32 << 10

var frameBuffers = sync.Pool{New: func() any { return new([headroom + frameBuffer]byte) }}

// A link is one WebSocket of the relay, beneath its messages: its frames are made and
// read here, because a Close frame ends one direction only, which no library knows.
type link struct {
	raw   net.Conn  // writes and deadlines
	in    io.Reader // what came with the handshake's answer, then raw
	heard atomic.Int64

	writing sync.Mutex // of frames; guards what follows
	closed  bool       // our Close frame was written
	broken  error      // part of a frame was written
}

// errWriteClosed is the error of a write after CloseWrite.
var errWriteClosed = fmt.Errorf("subscriber: write after CloseWrite: %w", net.ErrClosed)

// open opens a WebSocket at an address of the relay, without extensions. The headers
// are the caller's. ctx is for the handshake alone.
func (c *Client) openLink(ctx context.Context, address string, header http.Header) (*link, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	l := new(link)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { l.raw = info.Conn },
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, errors.New("the relay's address is none")
	}
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	r.Header = header
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", key)
	resp, err := c.links.Do(r)
	if err != nil {
		return nil, nil, c.plain(err)
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	switch {
	case !ok || l.raw == nil:
		resp.Body.Close()
		return nil, nil, errors.New("the answer to the WebSocket handshake has no connection")
	case resp.Header.Get("Sec-WebSocket-Accept") != acceptKey(key), !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket"):
		body.Close()
		return nil, nil, errors.New("the answer to the WebSocket handshake is wrong: this is no gateway, or a proxy in between speaks for it")
	case resp.Header.Get("Sec-WebSocket-Extensions") != "":
		body.Close()
		return nil, nil, errors.New("the answer to the WebSocket handshake names an extension that nobody offered")
	}
	l.in = body
	l.heard.Store(time.Now().UnixNano())
	return l, resp.Header, nil
}

// acceptKey is the answer to a handshake's key (RFC 6455 section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Read reads bytes of frames.
func (l *link) Read(b []byte) (int, error) {
	n, err := l.in.Read(b)
	if n > 0 {
		l.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// send sends p as one frame, or as several of a message if it is long. first is the
// first frame's first byte.
func (l *link) send(first byte, p []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.sendLocked(first, p)
}

func (l *link) sendLocked(first byte, p []byte) error {
	buffer := frameBuffers.Get().(*[headroom + frameBuffer]byte)
	defer frameBuffers.Put(buffer)
	for {
		n := copy(buffer[headroom:], p)
		p = p[n:]
		now := first
		if len(p) > 0 {
			now &^= finalBit
		}
		if err := l.frame(buffer[:headroom+n], now); err != nil {
			return err
		}
		if len(p) == 0 {
			return nil
		}
		first = first & finalBit // and opContinuation
	}
}

// frame sends b[headroom:] as one frame, masking it in place. writing is held.
func (l *link) frame(b []byte, first byte) error {
	switch {
	case l.broken != nil:
		return l.broken
	case l.closed:
		return errWriteClosed
	}
	start := putHeader(b, first)
	n, err := l.raw.Write(b[start:])
	if err != nil && n > 0 {
		l.broken = fmt.Errorf("subscriber: an earlier write ended within a frame: %w", err)
	}
	return err
}

// control sends a control frame unless somebody is writing, who then shows well
// enough that we live.
func (l *link) control(op byte, payload []byte) {
	if !l.writing.TryLock() {
		return
	}
	defer l.writing.Unlock()
	if !l.closed {
		_ = l.sendLocked(finalBit|op, payload) // who reads or writes notices
	}
}

// goodbye sends the Close frame, once. A code of 0 has no place in it.
func (l *link) goodbye(code int, reason string) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed {
		return nil
	}
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	err := l.sendLocked(finalBit|opClose, append(payload, reason...))
	l.closed = true
	return err
}

// A closeFrame is what a Close frame says.
type closeFrame struct {
	code   int // 1005 for none (RFC 6455 section 7.4.1)
	reason string
}

func parseClose(payload []byte) closeFrame {
	if len(payload) < 2 {
		return closeFrame{code: 1005}
	}
	return closeFrame{int(binary.BigEndian.Uint16(payload)), printable(payload[2:])}
}

// rendezvous is where an address of the relay is to be dialed: at the gateway that
// this client knows, where it is the same one, because the gateway may not know by
// which scheme and path it is reached.
func (c *Client) rendezvous(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", errors.New("the relay's address is none")
	}
	base, err := url.Parse(c.base)
	if err != nil {
		return "", err
	}
	switch u.Scheme {
	case "wss", "https":
		u.Scheme = "https"
	case "ws", "http":
		u.Scheme = "http"
	default:
		return "", errors.New("the relay's address is none")
	}
	switch {
	case strings.EqualFold(u.Host, base.Host):
		u.Scheme = base.Scheme
		if prefix := base.EscapedPath(); prefix != "" && !strings.HasPrefix(u.EscapedPath(), prefix+"/") {
			u.Path, u.RawPath = base.Path+u.Path, prefix+u.EscapedPath()
		}
	case base.Scheme == "https" && u.Scheme == "http":
		return "", errors.New("the relay's address is not encrypted, but the gateway's is")
	}
	return u.String(), nil
}
