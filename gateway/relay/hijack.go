package relay

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// A hijacked connection is one taken over from net/http.
type hijacked struct {
	conn  net.Conn
	early []byte // came before it was taken over
}

// hijack takes over the connection of an HTTP/1 request. net/http's memory goes when
// the handler returns.
func hijack(w http.ResponseWriter) (hijacked, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return hijacked{}, err
	}
	h := hijacked{conn: conn}
	if n := rw.Reader.Buffered(); n > 0 {
		early, err := rw.Reader.Peek(n)
		if err != nil {
			conn.Close()
			return h, err
		}
		h.early = slices.Clone(early)
	}
	if rw.Writer.Buffered() > 0 {
		conn.Close()
		return h, errors.New("relay: an answer had begun")
	}
	return h, nil
}

// reader reads what came early, then the connection.
func (h hijacked) reader() io.Reader {
	if len(h.early) == 0 {
		return h.conn
	}
	return io.MultiReader(bytes.NewReader(h.early), h.conn)
}

// acceptKey is the answer to a handshake's key (RFC 6455 section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// isUpgrade says whether a request wants to become a WebSocket.
func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

// switching is the answer that completes a handshake. The headers, each ended by
// CRLF, are ours.
func switching(key string, headers string) []byte {
	return []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		acceptKey(key) + "\r\n" + headers + "\r\n")
}

// hasToken says whether a comma-separated header names a token, without case.
func hasToken(header http.Header, name, token string) bool {
	for _, value := range header.Values(name) {
		for item := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(item, " \t"), token) {
				return true
			}
		}
	}
	return false
}
