package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// A rawSocket is a WebSocket client that can do everything wrong.
type rawSocket struct {
	net.Conn
	r *bufio.Reader
}

const rawHandshake = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// raw opens a stream by hand; early is sent in one piece with the handshake.
func (w *world) raw(t testing.TB, secure bool, path, early string) *rawSocket {
	t.Helper()
	var c net.Conn
	var err error
	if secure {
		c, err = tls.Dial("tcp", w.HTTPSAddr().String(), &tls.Config{InsecureSkipVerify: true})
	} else {
		c, err = net.Dial("tcp", w.HTTPAddr().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\n"+rawHandshake+early); err != nil {
		t.Fatal(err)
	}
	s := &rawSocket{c, bufio.NewReader(c)}
	resp, err := http.ReadResponse(s.r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("handshake: %v, %v", resp, err)
	}
	return s
}

// frame is a client's frame: first is the byte with FIN, RSV and opcode.
func frame(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

func (s *rawSocket) send(t testing.TB, frames ...string) {
	t.Helper()
	for _, f := range frames {
		if _, err := io.WriteString(s, f); err != nil {
			t.Fatalf("write: %v", err)
		}
	}
}

// read returns the gateway's next frame.
func (s *rawSocket) read() (first byte, payload string, err error) {
	var head [10]byte
	if _, err := io.ReadFull(s.r, head[:2]); err != nil {
		return 0, "", err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(s.r, head[2:4])
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		_, err = io.ReadFull(s.r, head[2:10])
		n = binary.BigEndian.Uint64(head[2:])
	}
	if err != nil {
		return 0, "", err
	}
	if n > 4<<20 { // also where the mask bit is set, which it may not be
		return 0, "", fmt.Errorf("a frame of %d bytes", n)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(s.r, b)
	return head[0], string(b), err
}

// wantRawClose reads up to the Close frame and then the end of the connection.
func (s *rawSocket) wantRawClose(t testing.TB, code int, word string) {
	t.Helper()
	for {
		first, payload, err := s.read()
		if err != nil {
			t.Errorf("no Close frame: %v", err)
			return
		}
		if first != 0x88 {
			continue
		}
		got, text := 1005, ""
		if len(payload) >= 2 {
			got, text = int(binary.BigEndian.Uint16([]byte(payload))), payload[2:]
		}
		if got != code || word != "" && text != word && !strings.HasPrefix(text, word+":") || word == "" && text != "" {
			t.Errorf("closed with %d %q, want %d %s", got, text, code, word)
		}
		if rest, err := io.ReadAll(s.r); len(rest) > 0 {
			t.Errorf("after the Close frame came %q (%v)", rest, err)
		}
		return
	}
}

func TestFrames(t *testing.T) {
	w := start(t, nil)
	long := strings.Repeat("p", 125)
	for _, tt := range []struct {
		name   string
		frames []string
		code   int
		word   string
	}{
		{"close", []string{frame(0x88, "\x03\xe8bye")}, 1000, ""},
		{"close without a code", []string{frame(0x88, "")}, 1005, ""},
		{"close of an application", []string{frame(0x88, "\x0f\xa0")}, 4000, ""},
		{"close while going away", []string{frame(0x88, "\x03\xe9")}, 1001, ""},
		{"close with half a code", []string{frame(0x88, "\x03")}, 1002, "protocol"},
		{"close with a reserved code", []string{frame(0x88, "\x03\xed")}, 1002, "protocol"},
		{"close with code 0", []string{frame(0x88, "\x00\x00")}, 1002, "protocol"},
		{"a first reserved bit", []string{frame(0xC1, event("x"))}, 1002, "protocol"},
		{"a second reserved bit", []string{frame(0xA1, event("x"))}, 1002, "protocol"},
		{"a third reserved bit", []string{frame(0x91, event("x"))}, 1002, "protocol"},
		{"an unknown opcode", []string{frame(0x83, "x")}, 1002, "protocol"},
		{"an unknown control opcode", []string{frame(0x8B, "x")}, 1002, "protocol"},
		{"a long ping", []string{frame(0x89, long+"p")}, 1002, "protocol"},
		{"a ping in pieces", []string{frame(0x09, "x")}, 1002, "protocol"},
		{"a continuation of nothing", []string{frame(0x80, "x")}, 1002, "protocol"},
		{"a message within a message", []string{frame(0x01, "x"), frame(0x81, "y")}, 1002, "protocol"},
		{"no mask", []string{"\x81\x01x"}, 1002, "protocol"},
		{"a length of 2^63", []string{"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04"}, 1002, "protocol"},
		{"a length of 2^62", []string{"\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04" + strings.Repeat("x", 3<<20)}, 1009, "too-big"},
		{"endless pieces", []string{frame(0x01, "x") + strings.Repeat(frame(0x00, strings.Repeat("x", 60<<10)), 40)}, 1009, "too-big"},
		{"binary in pieces", []string{frame(0x02, "x")}, 1003, "frame-kind"},
		{"not UTF-8 in pieces", []string{frame(0x01, "\xc3"), frame(0x80, "\x28")}, 1007, "not-utf8"},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " ", secure), func(t *testing.T) {
				s := w.raw(t, secure, "/topics/a", "")
				for _, f := range tt.frames {
					if _, err := io.WriteString(s, f); err != nil {
						break // it may have been closed before all was sent
					}
				}
				s.wantRawClose(t, tt.code, tt.word)
			})
		}
	}
	if r := w.do(t, "GET", "/topics/**", ""); r.body != "[]" {
		t.Errorf("something is stored: %s", r.body)
	}
}

func TestFramesOfGoodMessages(t *testing.T) {
	w := start(t, nil)
	text := func(s *rawSocket, id string) {
		t.Helper()
		for {
			first, payload, err := s.read()
			if err != nil {
				t.Fatalf("waiting for %s: %v", id, err)
			}
			if first == 0x81 && strings.Contains(payload, fmt.Sprintf(`"id":%q`, id)) {
				return
			}
			if first == 0x81 {
				t.Fatalf("waiting for %s: %s", id, payload)
			}
		}
	}
	for i, secure := range []bool{false, true} {
		path := fmt.Sprintf("/topics/good/%d", i)
		early := w.raw(t, secure, path, frame(0x81, event("early")))
		text(early, "early") // sent before the handshake was answered

		e := event("pieces")
		pieces := frame(0x01, e[:10]) + frame(0x89, "between") + frame(0x00, "") + frame(0x00, e[10:20]) + frame(0x80, e[20:])
		for i := range len(pieces) { // byte by byte
			early.send(t, pieces[i:i+1])
		}
		if first, payload, err := early.read(); err != nil || first != 0x8A || payload != "between" {
			t.Errorf("a ping between pieces is answered %x %q %v", first, payload, err)
		}
		text(early, "pieces")

		early.send(t, frame(0x89, ""), frame(0x8A, "unasked"), frame(0x81, event("after")))
		var kinds []byte // in either order
		for range 2 {
			first, payload, err := early.read()
			if err != nil || first == 0x8A && payload != "" {
				t.Fatalf("an empty ping is answered %x %q %v", first, payload, err)
			}
			kinds = append(kinds, first)
		}
		if slices.Sort(kinds); string(kinds) != "\x81\x8a" {
			t.Errorf("a ping and an event brought frames %x", kinds)
		}
		early.send(t, frame(0x88, "\x03\xe8"))
		early.wantRawClose(t, 1000, "")
	}
}

// TestPingFlood: of many pings at least the last is answered, and no more than one
// answer waits.
func TestPingFlood(t *testing.T) {
	w := start(t, nil)
	s := w.raw(t, false, "/topics/a", "")
	var flood bytes.Buffer
	const pings = 20_000
	for i := range pings {
		flood.WriteString(frame(0x89, fmt.Sprint(i)))
	}
	go s.Write(flood.Bytes())
	for {
		first, payload, err := s.read()
		if err != nil || first != 0x8A {
			t.Fatalf("got %x %q %v", first, payload, err)
		}
		if payload == fmt.Sprint(pings-1) {
			break
		}
	}
	s.send(t, frame(0x81, event("1")))
	if first, payload, err := s.read(); err != nil || first != 0x81 {
		t.Errorf("after the flood: %x %q %v", first, payload, err)
	}
}

func TestIdleSocketsArePingedAndSilentOnesClosed(t *testing.T) {
	t.Parallel()
	const interval = 400 * time.Millisecond
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.PingInterval = interval })
	for _, secure := range []bool{false, true} {
		began := time.Now()
		s := w.raw(t, secure, "/topics/a", "")
		for i := range 6 { // a client that answers stays
			first, payload, err := s.read()
			if err != nil || first != 0x89 {
				t.Fatalf("ping %d: %x %q %v", i, first, payload, err)
			}
			s.send(t, frame(0x8A, payload))
		}
		if took := time.Since(began); took < 6*interval*3/4 || took > 6*interval*2 {
			t.Errorf("6 pings took %v with an interval of %v", took, interval)
		}
		began = time.Now()
		s.wantRawClose(t, 1011, "silent") // it answers no more
		if took := time.Since(began); took < interval || took > 3*interval+closeWaitOfTheGateway {
			t.Errorf("a silent client was closed after %v with an interval of %v", took, interval)
		}
	}
	eventually(t, "the metrics count it", func() bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, `outrelay_stream_closes_total{kind="websocket",namespace="default",reason="silent"} 2`)
	})
}

// closeWaitOfTheGateway is how long the gateway waits for an answer to its Close.
const closeWaitOfTheGateway = 6 * time.Second

// TestSlowReaderIsNotSilent: who takes a little all the time and answers no ping,
// because it has not come to it yet, keeps its stream.
func TestSlowReaderIsNotSilent(t *testing.T) {
	t.Parallel()
	const interval = time.Second
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.PingInterval = interval })
	data := strings.Repeat("x", 256<<10)
	const events = 60
	for i := range events {
		if r := w.do(t, "POST", "/topics/big", data, fmt.Sprint("ce-id: ", i), "ce-source: /s", "ce-type: t", "ce-specversion: 1.0", "Content-Type: text/plain"); r.status != 200 {
			t.Fatal(r.status, r.body)
		}
	}
	s := w.raw(t, false, "/topics/big?from=earliest", "")
	s.r = bufio.NewReaderSize(&slowReader{s.Conn, 128 << 10, 40 * time.Millisecond}, 128<<10)
	seen := 0
	for seen < events {
		first, payload, err := s.read()
		if err != nil {
			t.Fatalf("after %d events: %v\n%s", seen, err, grep(w.do(t, "GET", w.admin+"/metrics", "").body, "closes_total"))
		}
		if first == 0x81 {
			if !strings.Contains(payload, fmt.Sprintf(`"id":"%d"`, seen)) {
				t.Fatalf("event %d: %.100s", seen, payload)
			}
			seen++
		}
	}
}

func grep(text, what string) (found string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, what) {
			found += line
		}
	}
	return found
}

// A slowReader takes a piece, then waits.
type slowReader struct {
	r     io.Reader
	piece int
	pause time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	return io.ReadFull(s.r, p[:min(len(p), s.piece)])
}

// TestStalledReaderIsCut: who takes nothing at all gives its place back.
func TestStalledReaderIsCut(t *testing.T) {
	t.Parallel()
	const interval = 300 * time.Millisecond
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.PingInterval = interval })
	s := w.raw(t, false, "/topics/live/a", "")
	c, _ := w.raw(t, false, "/topics/live/a", ""), s
	go io.Copy(io.Discard, c)
	data := strings.Repeat("x", 256<<10)
	for i := range 100 {
		w.do(t, "POST", "/topics/live/a", data, fmt.Sprint("ce-id: ", i), "ce-source: /s", "ce-type: t", "ce-specversion: 1.0", "Content-Type: text/plain")
	}
	eventually(t, "the stalled streams are gone", func() bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, `outrelay_streams{kind="websocket",namespace="default"} 0`)
	})
}

// TestSlowMessageIsCut: a message must arrive in time, however lively its bytes.
func TestSlowMessageIsCut(t *testing.T) {
	t.Parallel()
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.PingInterval, g.Limits.BodyTimeout = 300*time.Millisecond, time.Second
	})
	for _, begin := range []string{frame(0x01, "x"), "\x81"} { // a message begun; a frame's head
		s := w.raw(t, false, "/topics/a", "")
		began := time.Now()
		s.send(t, begin)
		done := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, s.r)
			done <- err
		}()
		ended := false
		for !ended {
			select {
			case <-done:
				ended = true
			case <-time.After(50 * time.Millisecond):
				if begin[0] == 0x01 {
					s.Write([]byte(frame(0x00, "x")))
				}
			}
			if time.Since(began) > 15*time.Second {
				t.Fatal("it is still open after 15 s")
			}
		}
	}
}
