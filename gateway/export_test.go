package gateway

import (
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// For tests of the pure parts.

// SplitPath is splitPath.
func SplitPath(escaped string) ([]string, bool) { return splitPath(escaped) }

// FindRoute tells the pattern of the route, "" for none, and the methods of the path.
func FindRoute(method string, segments []string) (pattern string, allow []string) {
	r, allow := findRoute(method, segments)
	if r != nil {
		pattern = r.Pattern
	}
	return pattern, allow
}

// Negotiate is negotiate.
func Negotiate(h http.Header) string { return negotiate(h) }

// CheckParams reads the parameters of a stream (0), an event stream (1) or a page (2).
func CheckParams(r *http.Request, w int) (limit int, positions bool, err error) {
	p, err := parseStreamParams(r, way(w))
	return p.limit, p.positions, err
}

// AppendData is appendData.
func AppendData(b []byte) []byte { return appendData(nil, b) }

// EventID is eventID.
func EventID(b []byte) string { return eventID(b) }

// LoopbackHost and HostName are those of host.go.
func LoopbackHost(s string) bool { return loopbackHost(s) }
func HostName(s string) string   { return hostName(s) }

// HurryDrain lets a drain be over before /healthz has said so for a second.
func (g *Gateway) HurryDrain() { g.drainLeast = 10 * time.Millisecond }

// ParseSession reads a session's message and tells what it asks for; quoted is the id
// as answers have it.
func ParseSession(b []byte) (id, op string, quoted []byte, err error) {
	var s session
	var o schemas.Object
	wrong := s.fields.read(b)
	if o.Read(b, "event") {
		read := s.fields
		if s.fields.take(&o); wrong != nil || !reflect.DeepEqual(s.fields, read) {
			return "", "", nil, fmt.Errorf("read as %q, %v and as %q", read, wrong, s.fields)
		}
	}
	id, r := s.interpret(wrong)
	return id, r.op, quote(id), r.err
}
