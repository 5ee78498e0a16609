package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// An opening is how a connection begins: a handshake, then messages, after which
// ready must come.
type opening struct {
	path     string
	header   string // lines of the request's header, each with its end
	protocol string
	messages [][]byte
	ready    string
}

// A style is how a server's messages carry events.
type style int

const (
	oneEvent style = iota // a message is an event
	lines                 // a message is lines, of which each may carry an event
	natsText              // messages are pieces of NATS's own protocol
)

// A dialect is how a peer is spoken to. Topics are numbers; kind is "live" or "log".
type dialect interface {
	style() style
	// subscribe opens a stream of a topic; with filter > 0 of those events of it
	// that pass a filter which none passes, another for each number.
	subscribe(kind string, topic, filter int) opening
	// publisher opens the connection of a publisher, of which index is the number.
	publisher(kind string, index int) opening
	// publish appends the frame that publishes an event. number is unique for the
	// publisher.
	publish(dst []byte, kind string, topic, index, number int, event []byte) []byte
}

var dialects = map[string]dialect{
	"outrelay":           outrelayDialect{},
	"outrelay-stream":    outrelayDialect{stream: true},
	"nats":               natsDialect{},
	"jetstream":          natsDialect{acks: true},
	"centrifuge":         centrifugeDialect{},
	"centrifuge-delayed": centrifugeDialect{},
	"limit":              limitDialect{},
}

// outrelayDialect subscribes with streams and publishes in a session, which answers
// every publish, or on the stream of the topic, which answers none.
type outrelayDialect struct{ stream bool }

func (outrelayDialect) style() style { return oneEvent }

// nothing is a filter that no event passes.
func nothing(n int) string {
	return "?filter=" + url.QueryEscape(fmt.Sprintf(`{"exact":{"type":"dev.outrelay.nothing%d"}}`, n))
}

func (outrelayDialect) subscribe(kind string, topic, filter int) opening {
	path := fmt.Sprintf("/topics/%s/%d", kind, topic)
	if filter > 0 {
		path += nothing(filter)
	}
	return opening{path: path, protocol: "cloudevents.json"}
}

func (d outrelayDialect) publisher(kind string, _ int) opening {
	if d.stream {
		return opening{path: "/topics/" + kind + "/0" + nothing(0), protocol: "cloudevents.json"}
	}
	return opening{path: "/connect", protocol: "outrelay.v1.json", ready: `"op":"welcome"`}
}

func (d outrelayDialect) publish(dst []byte, kind string, topic, _, number int, event []byte) []byte {
	if d.stream {
		return appendClientFrame(dst, frameText, event)
	}
	var room [96]byte
	head := append(room[:0], `{"op":"publish","id":"`...)
	head = strconv.AppendInt(head, int64(number), 10)
	head = append(head, `","topic":"`...)
	head = append(head, kind...)
	head = append(head, '/')
	head = strconv.AppendInt(head, int64(topic), 10)
	head = append(head, `","event":`...)
	return appendClientFrame(dst, frameText, head, event, []byte("}"))
}

// natsDialect; with acks a publisher asks for JetStream's answer to each publish.
type natsDialect struct{ acks bool }

func (natsDialect) style() style { return natsText }

const natsConnect = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"1\",\"protocol\":1}\r\n"

func (natsDialect) subscribe(kind string, topic, filter int) opening {
	text := fmt.Sprintf("%sSUB %s.%d 1\r\nPING\r\n", natsConnect, kind, topic)
	return opening{path: "/", messages: [][]byte{appendClientFrame(nil, frameBinary, []byte(text))}, ready: "PONG\r\n"}
}

func (natsDialect) publisher(_ string, index int) opening {
	text := fmt.Sprintf("%sSUB _INBOX.%d 1\r\nPING\r\n", natsConnect, index)
	return opening{path: "/", messages: [][]byte{appendClientFrame(nil, frameBinary, []byte(text))}, ready: "PONG\r\n"}
}

func (d natsDialect) publish(dst []byte, kind string, topic, index, _ int, event []byte) []byte {
	var room [96]byte
	head := append(room[:0], "PUB "...)
	head = append(head, kind...)
	head = append(head, '.')
	head = strconv.AppendInt(head, int64(topic), 10)
	head = append(head, ' ')
	if d.acks {
		head = append(head, "_INBOX."...)
		head = strconv.AppendInt(head, int64(index), 10)
		head = append(head, ' ')
	}
	head = strconv.AppendInt(head, int64(len(event)), 10)
	head = append(head, "\r\n"...)
	return appendClientFrame(dst, frameBinary, head, event, []byte("\r\n"))
}

type centrifugeDialect struct{}

func (centrifugeDialect) style() style { return lines }

func (centrifugeDialect) subscribe(kind string, topic, filter int) opening {
	return opening{path: "/connection/websocket", ready: `"id":2,`, messages: [][]byte{
		appendClientFrame(nil, frameText, []byte(`{"id":1,"connect":{}}`)),
		appendClientFrame(nil, frameText, fmt.Appendf(nil, `{"id":2,"subscribe":{"channel":"%s/%d"}}`, kind, topic)),
	}}
}

func (centrifugeDialect) publisher(string, int) opening {
	return opening{path: "/connection/websocket", ready: `"id":1,`, messages: [][]byte{
		appendClientFrame(nil, frameText, []byte(`{"id":1,"connect":{}}`)),
	}}
}

func (centrifugeDialect) publish(dst []byte, kind string, topic, _, number int, event []byte) []byte {
	var room [96]byte
	head := append(room[:0], `{"id":`...)
	head = strconv.AppendInt(head, int64(number+10), 10)
	head = append(head, `,"publish":{"channel":"`...)
	head = append(head, kind...)
	head = append(head, '/')
	head = strconv.AppendInt(head, int64(topic), 10)
	head = append(head, `","data":`...)
	return appendClientFrame(dst, frameText, head, event, []byte("}}"))
}

// limitDialect: a subscriber's path is its topic; a message that is published begins
// with its topic in two bytes.
type limitDialect struct{}

func (limitDialect) style() style { return oneEvent }

func (limitDialect) subscribe(_ string, topic, _ int) opening {
	return opening{path: "/" + strconv.Itoa(topic)}
}

func (limitDialect) publisher(string, int) opening { return opening{path: "/"} }

func (limitDialect) publish(dst []byte, _ string, topic, _, _ int, event []byte) []byte {
	return appendClientFrame(dst, frameBinary, []byte{byte(topic >> 8), byte(topic)}, event)
}

// handshake is the HTTP request of an opening.
func (o opening) handshake() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", o.path, handshakeKey)
	if o.protocol != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", o.protocol)
	}
	b.WriteString(o.header + "\r\n")
	return []byte(b.String())
}
