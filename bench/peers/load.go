package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A workload is what the load does to a peer.
type workload struct {
	Name        string
	Publishers  int
	Subscribers int  // per topic
	Topics      int  // 1, or one subscriber each
	Rate        int  // events a second in all; 0 is as fast as 64 under way a publisher allow
	Idle        bool // only connect
	Stored      bool // outrelay: topics that are stored
	Seconds     int
}

// A result is what one round measured.
type result struct {
	Peer              string
	Events            int
	Deliveries        int
	Seconds           float64
	CPU               float64 // of the server, seconds
	LoadBusy          float64 // of the load's processor
	EventsPerRead     float64
	P50, P99, P999    float64 // ms
	Fault             string
	KiB               float64 // idle: of server memory a connection
	CPUPerThousand    float64 // idle: seconds a thousand connects
	ConnectsPerSecond float64
}

const (
	eventSize = 256
	underWay  = 64
	idAt      = 27
	timeAt    = 52
)

// event is a CloudEvent of 256 bytes. Publisher and number are its id, the intended
// time of publishing its source.
func event(publisher, n int, at int64) []byte {
	b := fmt.Appendf(make([]byte, 0, eventSize), `{"specversion":"1.0","id":"%03d%07d","source":"/b/%019d","type":"bench.event","datacontenttype":"application/json","data":"`, publisher, n, at)
	for len(b) < eventSize-2 {
		b = append(b, 'x')
	}
	return append(b, '"', '}')
}

// A dialect is how a peer is spoken to.
type dialect struct {
	path      func(topic string, publisher bool) string
	protocol  string
	subscribe func(topic string) [][]byte // messages, and the answer to wait for
	ready     []byte
	publish   func(topic string, e []byte) []byte
	binary    bool
	stream    bool // messages are bytes of a stream, not one thing each
}

var dialects = map[string]dialect{
	"outrelay": {
		path: func(topic string, publisher bool) string {
			if publisher && topic == "" {
				return "/connect"
			}
			return "/topics/" + topic
		},
		protocol: "cloudevents.json",
		publish: func(topic string, e []byte) []byte {
			if topic == "" {
				return e
			}
			return fmt.Appendf(nil, `{"op":"publish","id":"p","topic":"%s","event":%s}`, topic, e)
		},
	},
	"nats": {
		path: func(string, bool) string { return "/" },
		subscribe: func(topic string) [][]byte {
			return [][]byte{[]byte("CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB " + natsSubject(topic) + " 1\r\nPING\r\n")}
		},
		ready: []byte("PONG"),
		publish: func(topic string, e []byte) []byte {
			return fmt.Appendf(nil, "PUB %s %d\r\n%s\r\n", natsSubject(topic), len(e), e)
		},
		binary: true, stream: true,
	},
	"centrifuge": {
		path: func(string, bool) string { return "/connection/websocket" },
		subscribe: func(topic string) [][]byte {
			return [][]byte{[]byte(`{"id":1,"connect":{}}`), fmt.Appendf(nil, `{"id":2,"subscribe":{"channel":"%s"}}`, topic)}
		},
		ready: []byte(`"id":2`),
		publish: func(topic string, e []byte) []byte {
			return fmt.Appendf(nil, `{"id":9,"publish":{"channel":"%s","data":%s}}`, topic, e)
		},
	},
	"limit": {
		path: func(topic string, _ bool) string { return "/" + topic },
		publish: func(topic string, e []byte) []byte {
			if topic == "" {
				return e
			}
			return fmt.Appendf(nil, "/%s %s", topic, e)
		},
	},
}

func natsSubject(topic string) string {
	return strings.ReplaceAll(topic, "/", ".")
}

// A client is one connection of the load.
type client struct {
	fd        int
	publisher bool
	topic     int
	rest      []byte      // of an unfinished frame
	text      []byte      // of an unfinished line of a stream
	next      map[int]int // by publisher, the number that must come
	unsent    []byte
}

type load struct {
	w       workload
	d       dialect
	peer    string
	clients []*client
	byFD    map[int]*client
	subs    []*client
	pubs    []*client
	// by publisher: how many were sent, and how many one subscriber got
	sent, got  []int
	deliveries int
	reads      int
	latencies  []float64
	fault      string
	first      *client
}

func (l *load) dial(address, topic string, publisher bool) (*client, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	path, protocol := l.d.path(topic, publisher), l.d.protocol
	if path == "/connect" {
		protocol = "outrelay.v1.json"
	}
	if protocol != "" {
		protocol = "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", path, protocol)
	r := bufio.NewReaderSize(c, 64<<10)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 101 {
		b, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s", resp.Status, b)
	}
	if l.d.subscribe != nil {
		name := topic
		if publisher {
			name = "nothing" // a place to be ready on
		}
		for _, m := range l.d.subscribe(name) {
			c.Write(maskedFrame(m, l.d.binary))
		}
		seen := make([]byte, 0, 4096)
		for c.SetReadDeadline(time.Now().Add(10 * time.Second)); !bytes.Contains(seen, l.d.ready); {
			b := make([]byte, 4096)
			n, err := r.Read(b)
			if err != nil {
				return nil, fmt.Errorf("subscribing: %w", err)
			}
			seen = append(seen, b[:n]...)
		}
	}
	if r.Buffered() > 0 && path != "/connect" {
		return nil, errors.New("something came with the handshake")
	}
	cl := &client{fd: detach(c), publisher: publisher, next: map[int]int{}}
	cl.rest, _ = r.Peek(r.Buffered())
	cl.rest = slices.Clone(cl.rest)
	return cl, nil
}

// maskedFrame is a client's frame; its mask is zero, so that masking costs nothing.
func maskedFrame(payload []byte, bin bool) []byte {
	first := byte(0x81)
	if bin {
		first = 0x82
	}
	var b []byte
	if len(payload) < 126 {
		b = append(b, first, 0x80|byte(len(payload)))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, first, 0x80|126), uint16(len(payload)))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

func (l *load) topicName(i int) string {
	kind := "live"
	if l.w.Stored {
		kind = "log"
	}
	return fmt.Sprintf("%s/%d", kind, i)
}

// connect opens all clients.
func (l *load) connect(address string) error {
	l.byFD = map[int]*client{}
	add := func(topic string, publisher bool) (*client, error) {
		c, err := l.dial(address, topic, publisher)
		if err != nil {
			return nil, err
		}
		l.clients, l.byFD[c.fd] = append(l.clients, c), c
		return c, nil
	}
	for t := range l.w.Topics {
		for range l.w.Subscribers {
			name := l.topicName(t)
			if l.peer == "outrelay" && l.w.Publishers > 1 {
				name = strings.Replace(name, "/0", "/*", 1) // each publisher has a topic of its own
			}
			c, err := add(name, false)
			if err != nil {
				return err
			}
			c.topic = t
			l.subs = append(l.subs, c)
		}
	}
	for p := range l.w.Publishers {
		name := l.topicName(0)
		switch {
		case l.peer == "outrelay" && l.w.Topics > 1, l.peer == "limit" && l.w.Topics > 1:
			name = ""
		case l.peer == "outrelay" && l.w.Publishers > 1:
			name = l.topicName(p)
		}
		c, err := add(name, true)
		if err != nil {
			return err
		}
		l.pubs = append(l.pubs, c)
	}
	l.sent, l.got = make([]int, l.w.Publishers), make([]int, l.w.Publishers)
	if len(l.subs) > 0 {
		l.first = l.subs[0]
	}
	return nil
}

// send publishes the next event of a publisher.
func (l *load) send(p int, at int64) {
	n := l.sent[p]
	topic := l.topicName(n % l.w.Topics)
	if l.w.Topics == 1 && (l.peer == "outrelay" || l.peer == "limit") {
		topic = "" // the socket's own
	}
	e := event(p, n, at)
	if topic != "" || l.peer != "limit" {
		e = l.d.publish(topic, e)
	}
	c := l.pubs[p]
	c.unsent = append(c.unsent, maskedFrame(e, l.d.binary)...)
	l.sent[p]++
}

func (l *load) flush(c *client) {
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			l.fault = "write: " + err.Error()
			return
		}
		c.unsent = c.unsent[n:]
	}
	c.unsent = nil
}

// receive takes one event as a subscriber got it.
func (l *load) receive(c *client, e []byte, now int64) {
	if len(e) < timeAt+19 {
		l.fault = fmt.Sprintf("short event %q", e)
		return
	}
	p, n := number(e[idAt:idAt+3]), number(e[idAt+3:idAt+10])
	want := c.next[p]
	if want == 0 {
		want = c.topic
	}
	if n != want {
		l.fault = fmt.Sprintf("a subscriber got number %d of publisher %d, want %d", n, p, want)
		return
	}
	c.next[p] = n + l.w.Topics
	l.deliveries++
	if c == l.first || l.w.Topics > 1 {
		l.got[p]++
	}
	if l.w.Rate > 0 {
		l.latencies = append(l.latencies, float64(now-int64(number(e[timeAt:timeAt+19])))/1e6)
	}
}

func number(b []byte) int {
	n := 0
	for _, c := range b {
		n = n*10 + int(c-'0')
	}
	return n
}

// read takes what a socket has.
func (l *load) read(c *client, buf []byte) {
	n, err := unix.Read(c.fd, buf)
	if err == unix.EAGAIN {
		return
	}
	if err != nil || n == 0 {
		l.fault = fmt.Sprintf("a connection ended: %v", err)
		return
	}
	if !c.publisher {
		l.reads++
	}
	now := time.Now().UnixNano()
	b := buf[:n]
	if len(c.rest) > 0 {
		b = append(c.rest, b...)
	}
	for len(b) >= 2 {
		size, h := int(b[1]), 2
		switch size {
		case 126:
			if len(b) < 4 {
				size = 1 << 30
			} else {
				size, h = int(binary.BigEndian.Uint16(b[2:])), 4
			}
		case 127:
			if len(b) < 10 {
				size = 1 << 30
			} else {
				size, h = int(binary.BigEndian.Uint64(b[2:])), 10
			}
		}
		if len(b) < h+size {
			break
		}
		l.message(c, b[0]&0xF, b[h:h+size], now)
		b = b[h+size:]
	}
	c.rest = append(c.rest[:0:0], b...)
}

func (l *load) message(c *client, op byte, m []byte, now int64) {
	switch {
	case op == 9:
		c.unsent = append(c.unsent, 0x8A, 0x80, 0, 0, 0, 0)
		l.flush(c)
	case op == 8:
		l.fault = fmt.Sprintf("closed: %q", m)
	case l.d.stream:
		l.lines(c, m, now)
	case l.peer == "centrifuge":
		for line := range bytes.SplitSeq(m, []byte("\n")) {
			if i := bytes.Index(line, []byte(`{"specversion"`)); i >= 0 && !c.publisher {
				l.receive(c, line[i:], now)
			} else if bytes.Equal(line, []byte("{}")) {
				c.unsent = append(c.unsent, maskedFrame(line, false)...)
				l.flush(c)
			}
		}
	case !c.publisher:
		l.receive(c, m, now)
	case bytes.HasPrefix(m, []byte(`{"op":"error"`)) || bytes.Contains(m, []byte("dev.outrelay.rejected")):
		l.fault = string(m)
	}
}

// lines takes NATS's protocol.
func (l *load) lines(c *client, m []byte, now int64) {
	b := append(c.text, m...)
	for {
		end := bytes.Index(b, []byte("\r\n"))
		if end < 0 {
			break
		}
		line := b[:end]
		if !bytes.HasPrefix(line, []byte("MSG ")) {
			if bytes.Equal(line, []byte("PING")) {
				c.unsent = append(c.unsent, maskedFrame([]byte("PONG\r\n"), true)...)
				l.flush(c)
			}
			b = b[end+2:]
			continue
		}
		size := number(line[bytes.LastIndexByte(line, ' ')+1:])
		if len(b) < end+2+size+2 {
			break
		}
		l.receive(c, b[end+2:end+2+size], now)
		b = b[end+2+size+2:]
	}
	c.text = append(c.text[:0:0], b...)
}

func processorTime(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	u, _ := strconv.ParseFloat(f[11], 64)
	s, _ := strconv.ParseFloat(f[12], 64)
	return (u + s) / 100
}

func resident(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	kib, _ := strconv.ParseFloat(strings.Fields(after)[0], 64)
	return kib
}

// run measures one round.
func run(peer, address string, pid int, w workload) (r result) {
	r.Peer = peer
	l := &load{w: w, d: dialects[peer], peer: peer}
	if w.Idle {
		return idle(l, address, pid)
	}
	if err := l.connect(address); err != nil {
		r.Fault = err.Error()
		return r
	}
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		r.Fault = err.Error()
		return r
	}
	for _, c := range l.clients {
		unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)})
	}
	time.Sleep(300 * time.Millisecond) // what connecting left to do is not measured
	cpu, own, began := processorTime(pid), processorTime(os.Getpid()), time.Now()
	end, next := began.Add(time.Duration(w.Seconds)*time.Second), began
	events, buf := make([]unix.EpollEvent, 1024), make([]byte, 256<<10)
	per := 1
	if w.Topics == 1 {
		per = w.Subscribers
	}
	var over time.Time
	for l.fault == "" {
		now := time.Now()
		total := 0
		for _, n := range l.sent {
			total += n
		}
		if now.Before(end) {
			if w.Rate == 0 {
				for p := range l.pubs {
					for l.sent[p]-l.got[p] < underWay {
						l.send(p, now.UnixNano())
					}
				}
			} else {
				for ; !next.After(now); next = next.Add(time.Second / time.Duration(w.Rate)) {
					l.send(total%w.Publishers, next.UnixNano())
					total++
				}
			}
			for _, c := range l.pubs {
				l.flush(c)
			}
		} else if l.deliveries >= total*per {
			break
		} else if over.IsZero() {
			over = now
		} else if now.Sub(over) > 10*time.Second {
			l.fault = fmt.Sprintf("%d of %d deliveries are lost", total*per-l.deliveries, total*per)
			break
		}
		n, _ := unix.EpollWait(ep, events, 1)
		for _, e := range events[:max(n, 0)] {
			l.read(l.byFD[int(e.Fd)], buf)
		}
	}
	r.Seconds = time.Since(began).Seconds()
	r.CPU = processorTime(pid) - cpu
	r.LoadBusy = (processorTime(os.Getpid()) - own) / r.Seconds
	r.Fault, r.Deliveries = l.fault, l.deliveries
	for _, n := range l.sent {
		r.Events += n
	}
	r.EventsPerRead = float64(l.deliveries) / float64(max(l.reads, 1))
	if len(l.latencies) > 0 {
		slices.Sort(l.latencies)
		at := func(q float64) float64 { return l.latencies[int(q*float64(len(l.latencies)-1))] }
		r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
	}
	return r
}

// idle connects and waits. The scheme of the address says whether TLS is spoken.
func idle(l *load, address string, pid int) (r result) {
	r.Peer = l.peer
	before, cpu, began := resident(pid), processorTime(pid), time.Now()
	host, secure := strings.CutPrefix(address, "https://")
	var kept []net.Conn
	for i := range l.w.Subscribers {
		if !secure {
			if _, err := l.dial(host, l.topicName(0), false); err != nil {
				r.Fault = fmt.Sprintf("connection %d: %v", i, err)
				return r
			}
			continue
		}
		c, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			r.Fault = err.Error()
			return r
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", l.d.path(l.topicName(0), false), l.d.protocol)
		resp, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
		if err != nil || resp.StatusCode != 101 {
			r.Fault = fmt.Sprint("handshake: ", err, resp)
			return r
		}
		kept = append(kept, c)
	}
	r.Seconds = time.Since(began).Seconds()
	n := float64(l.w.Subscribers)
	r.ConnectsPerSecond = n / r.Seconds
	r.CPU = processorTime(pid) - cpu
	r.CPUPerThousand = r.CPU / n * 1000
	time.Sleep(time.Duration(l.w.Seconds) * time.Second)
	r.KiB = (resident(pid) - before) / n
	for _, c := range kept {
		c.Close()
	}
	return r
}

func (r result) json() []byte { b, _ := json.Marshal(r); return b }
