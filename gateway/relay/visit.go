package relay

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// The values of sb-hc-action.
const (
	actionListen  = "listen"
	actionConnect = "connect"
	actionAccept  = "accept"
	actionRequest = "request"
)

// A visit is a request for an address of the relay, and its answer. It belongs to the
// request's goroutine.
type visit struct {
	relay     *Relay
	w         http.ResponseWriter
	r         *http.Request
	namespace string
	bound     string // the hybrid connection of the request's host name, "" for none

	hc         bool   // the address is below /$hc
	path       string // escaped, without /$hc, as it came
	query      string // raw, as it came
	segments   []string
	parameters map[string]string
	action     string
	upgrade    bool // it is a WebSocket handshake
	tracking   string
	session    string // the id of the listener that a sticky session has; "" for none
	entity     entity // once it is known
	answered   bool
}

func (r *Relay) visit(w http.ResponseWriter, q *http.Request, namespace, bound string) *visit {
	return &visit{relay: r, w: w, r: q, namespace: namespace, bound: bound}
}

// read finds out what the request is about.
func (v *visit) read() error {
	v.tracking = newID()
	v.upgrade = isUpgrade(v.r)
	v.path, v.query = receivedPath(v.r), v.r.URL.RawQuery
	if first, rest, _ := strings.Cut(strings.TrimPrefix(v.path, "/"), "/"); isHC(first) {
		v.hc, v.path = true, "/"+rest
		if path, query := unescapeQuery(v.path, v.query); query != v.query {
			v.path, v.query = path, query
			// The token may be in the part that was found.
			found := *v.r.URL
			found.RawQuery = query
			v.r = v.r.WithContext(v.r.Context())
			v.r.URL = &found
		}
	} else if v.bound != "" {
		v.path = "/" + v.bound + v.path
	}
	v.parameters = parameters(v.query)
	if id := v.parameters[paramID]; validID(id) {
		v.tracking = id
	}
	for _, s := range strings.Split(v.path[1:], "/") {
		decoded, err := url.PathUnescape(s)
		if err != nil {
			return schemas.Problemf("name", "The path has a bad percent-encoding.")
		}
		v.segments = append(v.segments, decoded)
	}
	v.action = actionConnect
	if action, given := v.parameters[paramAction]; given && v.hc {
		v.action = action
	}
	switch v.action {
	case actionListen, actionConnect, actionAccept, actionRequest:
	default:
		return schemas.Problemf("parameter", "The parameter sb-hc-action must be listen, connect, accept or request.")
	}
	_, named := v.parameters[paramKeyName]
	if _, key := v.parameters[paramKey]; key || named {
		return schemas.Problemf("unauthorized", "A shared key is not taken in an address, where it is seen by others; send a token made from it. Change this key.")
	}
	if v.hc && !v.upgrade {
		return schemas.Problemf("parameter", "This endpoint is for web sockets only; send HTTP requests to the same address without /$hc.")
	}
	return nil
}

// receivedPath is a request's path byte for byte. What net/url makes of it has other
// escapes where the sender's were unusual.
func receivedPath(r *http.Request) string {
	if !strings.HasPrefix(r.RequestURI, "/") {
		return r.URL.EscapedPath() // the absolute form, as to a proxy
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return path
}

// isHC says whether a path's first segment is that of the relay's own addresses.
func isHC(segment string) bool {
	decoded, err := url.PathUnescape(segment)
	return err == nil && strings.EqualFold(decoded, "$hc")
}

// unescapeQuery finds a query whose "?" was escaped, as some clients do.
func unescapeQuery(path, query string) (string, string) {
	at := strings.Index(strings.ToLower(path), "%3fsb-hc-")
	if at < 0 {
		return path, query
	}
	found := path[at+3:]
	if query != "" {
		found += "&" + query
	}
	return path[:at], found
}

// maxID is the longest tracking id that is taken from a client.
const maxID = 128

// validID says whether a client's tracking id can stand in headers, messages and logs.
func validID(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0) {
			return false
		}
	}
	return true
}

// newID is a random GUID.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// trackingID is the id with the suffix of the service, as Azure's has one.
func (v *visit) trackingID() string { return v.tracking + "_G0" }

// authorize asks for a right to a hybrid connection.
func (v *visit) authorize(action access.Action, name string) (*access.Grant, error) {
	return v.relay.access.AuthorizeRelayed(v.namespace, v.r, access.Ask{Action: action, Name: name})
}

// checkHandshake checks a WebSocket handshake (RFC 6455 section 4.2.1).
func (v *visit) checkHandshake() error {
	h := v.r.Header
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(h.Get("Sec-WebSocket-Key")))
	switch {
	case v.r.Method != http.MethodGet || v.r.ProtoMajor != 1 || v.r.ProtoMinor < 1:
		return schemas.Problemf("upgrade", "A WebSocket handshake is a GET over HTTP/1.1.")
	case h.Get("Sec-WebSocket-Version") != "13":
		return schemas.Problemf("upgrade", "This endpoint speaks version 13 of the WebSocket protocol.")
	case len(h.Values("Sec-WebSocket-Key")) != 1 || err != nil || len(key) == 0:
		return schemas.Problemf("upgrade", "The handshake needs one Sec-WebSocket-Key in base64.")
	case v.r.ContentLength != 0:
		return schemas.Problemf("upgrade", "A WebSocket handshake has no body.")
	}
	return nil
}

// checkOrigin keeps foreign web pages out.
func (v *visit) checkOrigin() error {
	if v.relay.access.RequestAllowed(v.namespace, v.r) {
		return nil
	}
	return schemas.Problemf("forbidden", "Pages of this origin may not connect; its owner may add it to origins.")
}

// remote is the client's address and port.
func (v *visit) remote() (address string, port int) {
	host, p, err := net.SplitHostPort(v.r.RemoteAddr)
	if err != nil {
		return "", 0
	}
	port, _ = strconv.Atoi(p)
	if i := strings.IndexByte(host, '%'); i >= 0 {
		host = host[:i]
	}
	return strings.TrimPrefix(host, "::ffff:"), port
}

// suffixOf is what of the path, as it came, is behind the name.
func (v *visit) suffixOf(name string) string {
	rest := v.path
	for range strings.Count(name, "/") + 1 {
		next := strings.IndexByte(rest[1:], '/')
		if next < 0 {
			return ""
		}
		rest = rest[next+1:]
	}
	return rest
}
