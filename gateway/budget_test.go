package gateway_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// Messages that end badly, and requests whose answers nobody reads, hold no memory.
func TestLostMessagesAreGivenBack(t *testing.T) {
	w := start(t, nil)
	whole := frame(0x81, strings.Repeat("x", 100))
	reset := func(s *rawSocket) {
		if err := s.Conn.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	for _, path := range []string{"/topics/live/a", "/connect"} {
		for _, bad := range []string{
			whole[:20],                             // ends in the middle
			frame(0x81, "\xff"),                    // no UTF-8
			frame(0x01, "a") + frame(0x81, "b"),    // a message in a message
			frame(0x01, "a") + frame(0x89, "ping"), // ends between its frames
		} {
			s := w.raw(t, false, path, "")
			s.send(t, bad)
			s.Close()
		}
		var many strings.Builder
		for i := range 500 {
			event := fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/s","type":"t"}`, i)
			if path == "/connect" {
				event = fmt.Sprintf(`{"op":"publish","id":"%d","topic":"a","event":%s}`, i, event)
			}
			many.WriteString(frame(0x81, event))
		}
		for range 5 {
			s := w.raw(t, false, path, "")
			s.send(t, many.String())
			reset(s)
		}
	}
	var held []string
	defer func() {
		if t.Failed() {
			t.Log(held)
		}
	}()
	eventually(t, "nothing is held", func() bool {
		held = nil
		for line := range strings.Lines(w.do(t, "GET", w.admin+"/metrics", "").body) {
			if strings.HasPrefix(line, "outrelay_body_bytes ") {
				held = append(held, line)
			}
		}
		return len(held) > 0 && held[0] == "outrelay_body_bytes 0\n"
	})
}
