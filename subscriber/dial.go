package subscriber

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// headerToken carries the token to the relay, which never passes it on.
	headerToken = "ServiceBusAuthorization"
	// headerStream tells a listener that the sender wants a stream of bytes, and not
	// the messages of a WebSocket.
	headerStream = "Outrelay-Stream"
	streamBytes  = "bytes"

	actionConnect = "connect"
	actionListen  = "listen"
)

// Dial opens a connection to a listener of a hybrid connection: a [*Conn]. The name
// may have more behind it, "printer/tray/2?copies=3", which the listener finds in
// [Conn.Target]. It returns when the listener has taken the connection. ctx is for
// that alone.
//
// Errors: a [schemas.Problem] of the gateway: "no-listener" where nobody listens, and
// "listener-timeout" or "listener-failed" where the listener does not come; a
// [StatusError] where the listener refused; ctx's error; whatever the network said.
func (c *Client) Dial(ctx context.Context, name string) (net.Conn, error) {
	conn, err := c.dialRelay(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", name, err)
	}
	return conn, nil
}

func (c *Client) dialRelay(ctx context.Context, name string) (*Conn, error) {
	path, query, _ := strings.Cut(name, "?")
	address, err := c.relayAddress(path, query, actionConnect)
	if err != nil {
		return nil, err
	}
	header := http.Header{headerStream: {streamBytes}}
	if _, err := c.authorizeRelay(ctx, header); err != nil {
		return nil, err
	}
	l, _, err := c.openLink(ctx, address, header)
	if err != nil {
		return nil, err
	}
	return c.newConn(l, l.raw.LocalAddr(), Addr(strings.Trim(path, "/")))
}

// relayAddress is an address of the relay, of what its path and query are.
func (c *Client) relayAddress(path, query, action string) (string, error) {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return "", schemas.Problemf("name", "The name of the hybrid connection is empty.")
	}
	u := url.URL{Path: "/" + path}
	if query != "" {
		query += "&"
	}
	return c.base + "/$hc" + u.EscapedPath() + "?" + query + "sb-hc-action=" + action + "&sb-hc-id=" + newID(), nil
}

// newID is a random GUID (RFC 9562 section 5.4).
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// authorizeRelay puts a token where the relay takes it out, if there is one to be had.
func (c *Client) authorizeRelay(ctx context.Context, h http.Header) (token string, err error) {
	token, err = c.token(ctx)
	if token != "" {
		h.Set(headerToken, token)
	}
	return token, err
}
