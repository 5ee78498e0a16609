package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/relay"
)

// Limits are the bounds of all parts. The key of each is its field's name in lower
// case; no two parts have the same.
type Limits struct {
	Gateway gateway.Limits
	Broker  broker.Limits
	Relay   relay.Limits
}

// limitDocs says in a line what each limit is. A test holds that none is missing.
var limitDocs = map[string]string{
	"maxconnections": "TCP connections open at once on both public addresses",
	"maxstreams":     "streams, sessions, their subscriptions and long polls open at once in a namespace",
	"maxbodybytes":   "memory for the bodies of all requests and the messages of all WebSockets at once",
	"headerbytes":    "longest request head",
	"headertimeout":  "for the TLS handshake, and for a request's head",
	"bodytimeout":    "for a request's body or a WebSocket message to arrive in all",
	"stalltimeout":   "for the next piece of a body to arrive",
	"idletimeout":    "how long a connection may wait for its next request",
	"writetimeout":   "for a client to take the next piece of an answer",
	"brokertimeout":  "for the broker to publish, read a page or open a stream",
	"pinginterval":   "longest silence of an idle stream; two without a sign of life close it",
	"draintimeout":   "how long a drain may take in all",
	"compression":    "true: offer compression (permessage-deflate) to WebSocket clients",
	"preflightage":   "how long a browser may keep the answer to a CORS preflight",

	"sessionsubscriptions": "subscriptions open at once in a session",
	"sessionrequests":      "requests of a session without an answer; then no more is read from it",

	"ringbytes":        "memory for the newest events of a namespace",
	"ringage":          "how long events stay there",
	"feedlinger":       "how long a namespace's feed outlives its last subscriber",
	"logreaders":       "subscribers that read the log at once because they are behind",
	"publishqueue":     "events that may wait for the log in a namespace",
	"maxsubscriptions": "durable subscriptions of a namespace",
	"diskreserve":      "bytes of the log's disk that stay free, a twentieth of it at most: publishes that would take them are refused",
	"subscriberbytes":  "memory for the events that wait for one subscriber of a durable subscription",

	"relaylisteners":   "listeners connected at once to this gateway",
	"relayconnections": "joined pairs of the relay open at once",
	"relaywaiting":     "senders that wait for a listener at once",
	"relayaccept":      "how long a listener may take to accept a connection, and how long its address is good",
	"relayping":        "how often a listener is pinged; one silent for two and a half times as long is cut",
	"relaypeerping":    "silence after which a side of a joined pair is pinged; two without a sign of life cut it",
	"relayidle":        "how long a joined pair may carry nothing",
	"relaylifetime":    "how long a joined pair may live",
	"relayrequests":    "HTTP requests that the relay has under way at once",
	"relaybodybytes":   "the longest body of a relayed HTTP request or answer",
	"relayinlinebytes": "the longest body of an answer that a listener sends over its control channel",
	"relayheldbytes":   "memory for the bodies that travel over control channels",
	"relaybodyidle":    "for the next piece of a relayed body to come, or to be taken",
}

func defaultLimits() Limits {
	return Limits{gateway.DefaultLimits(), broker.DefaultLimits(), relay.DefaultLimits()}
}

// A limit is one of them, with its place in a [Limits].
type limit struct {
	key, doc string
	value    reflect.Value // int, int64, time.Duration or bool
}

// list names all limits of l.
func (l *Limits) list() []limit {
	var all []limit
	parts := reflect.ValueOf(l).Elem()
	for i := range parts.NumField() {
		part := parts.Field(i)
		for j := range part.NumField() {
			key := strings.ToLower(part.Type().Field(j).Name)
			all = append(all, limit{key, limitDocs[key], part.Field(j)})
		}
	}
	return all
}

// scalar is a fresh value of what the limit is written as.
func (l limit) scalar() scalar {
	switch {
	case l.value.Kind() == reflect.Bool:
		t := toggle(l.value.Bool())
		return &t
	case l.value.Type() == reflect.TypeFor[time.Duration]():
		d := Duration(l.value.Int())
		return &d
	case strings.Contains(l.key, "bytes"):
		z := Size(l.value.Int())
		return &z
	}
	n := count(l.value.Int())
	return &n
}

// set reads the limit from text.
func (l limit) set(s string) error {
	v := l.scalar()
	if err := v.parse(s); err != nil {
		return err
	}
	if l.value.Kind() == reflect.Bool {
		l.value.SetBool(reflect.ValueOf(v).Elem().Bool())
		return nil
	}
	n := reflect.ValueOf(v).Elem().Int()
	if n <= 0 {
		return fmt.Errorf("%q: a limit can't be switched off; write at least 1", s)
	}
	if l.value.OverflowInt(n) {
		return fmt.Errorf("%q is more than can be counted; write less", s)
	}
	l.value.SetInt(n)
	return nil
}

// A count is a whole number.
type count int64

func (c *count) parse(s string) error {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return fmt.Errorf("%q is no whole number", s)
	}
	*c = count(n)
	return nil
}

func (c count) String() string { return strconv.FormatInt(int64(c), 10) }

// A toggle is true or false.
type toggle bool

func (t *toggle) parse(s string) error {
	if s != "true" && s != "false" {
		return fmt.Errorf("%q is neither true nor false; write one of them", s)
	}
	*t = s == "true"
	return nil
}

func (t toggle) String() string { return strconv.FormatBool(bool(t)) }
