package frame_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/gateway/frame"
)

// clientFrame is a masked frame.
func clientFrame(r *rand.Rand, first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126 && r.IntN(8) > 0:
		b = append(b, 0x80|byte(n))
	case n < 1<<16 && r.IntN(8) > 0: // a longer form than needed is for coder to judge
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], r.Uint32())
	b = append(b, key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i&3])
	}
	return b
}

// A memory is bounded; it fails the test if more is given back than was taken.
type memory struct {
	t    testing.TB
	most int64
	used atomic.Int64
}

func (m *memory) Take(n int) bool {
	if m.used.Add(int64(n)) > m.most {
		m.used.Add(int64(-n))
		return false
	}
	return true
}

func (m *memory) Give(n int) {
	if m.used.Add(int64(-n)) < 0 {
		m.t.Error("more memory was given back than was taken")
	}
}

// handshaken is the raw connection of a WebSocket.
func handshaken(t *testing.T, url string, client *http.Client, behind []byte) net.Conn {
	t.Helper()
	address := url[strings.Index(url, "//")+2:]
	var c net.Conn
	var err error
	if strings.HasPrefix(url, "https") {
		c, err = tls.Dial("tcp", address, client.Transport.(*http.Transport).TLSClientConfig)
	} else {
		c, err = net.Dial("tcp", address)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	head := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := c.Write(append([]byte(head), behind...)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 0, 500)
	for !bytes.HasSuffix(answer, []byte("\r\n\r\n")) { // and nothing behind it
		if _, err := io.ReadFull(c, answer[len(answer):len(answer)+1]); err != nil {
			t.Fatalf("handshake: %v after %q", err, answer)
		}
		answer = answer[:len(answer)+1]
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("handshake: %q", answer)
	}
	return c
}

// Whatever the frames are and however they are cut, Next and Read together give the
// messages as they were sent, with memory to read ahead or without.
func TestNextAndReadGiveAllMessages(t *testing.T) {
	each(t, func(t *testing.T, secure bool) {
		for _, room := range []int64{0, 1 << 20} {
			seed := rand.Uint64()
			t.Logf("seed %d, room %d", seed, room)
			r := rand.New(rand.NewPCG(seed, 1))
			m := &memory{t: t, most: room}
			got := make(chan []byte, 1000)
			whole, parts := 0, 0
			url, client := serve(t, secure, frame.Options{Memory: m}, func(s *frame.Socket) {
				defer close(got)
				s.SetReadLimit(1 << 20)
				for {
					ready := s.Ready()
					message, ok, err := s.Next(time.Minute)
					if err != nil {
						return
					}
					if ready && !ok {
						t.Error("Ready promised a message that Next did not have")
					}
					if ok {
						whole++
						got <- append([]byte("1"), message...)
						continue
					}
					kind, reader, err := s.Read(context.Background())
					if err != nil {
						return
					}
					parts++
					b, err := io.ReadAll(reader)
					if err != nil {
						return
					}
					got <- append([]byte{'0' + byte(kind)}, b...)
				}
			})
			sizes := []int{0, 1, 20, 125, 126, 300, 505, 506, 512, 513, 600, 4000, 32000, 32760, 32768, 40000, 65535, 65536, 100000}
			var sent []byte
			var want [][]byte
			for range 400 {
				payload := bytes.Repeat([]byte{byte('a' + r.IntN(26))}, sizes[min(r.IntN(len(sizes)), r.IntN(len(sizes)))])
				switch r.IntN(8) {
				case 0: // in pieces, with a ping between them
					cut := r.IntN(len(payload) + 1)
					sent = append(sent, clientFrame(r, 0x01, payload[:cut])...)
					sent = append(sent, clientFrame(r, 0x89, []byte("?"))...)
					sent = append(sent, clientFrame(r, 0x80, payload[cut:])...)
					want = append(want, append([]byte("1"), payload...))
				case 1:
					sent = append(sent, clientFrame(r, 0x82, payload)...)
					want = append(want, append([]byte("2"), payload...))
				case 2:
					sent = append(sent, clientFrame(r, 0x8A, nil)...)
					fallthrough
				default:
					sent = append(sent, clientFrame(r, 0x81, payload)...)
					want = append(want, append([]byte("1"), payload...))
				}
			}
			early := r.IntN(3000)
			c := handshaken(t, url, client, sent[:early])
			go io.Copy(io.Discard, c) //nolint:errcheck // pongs
			go func() {
				for rest := sent[early:]; len(rest) > 0; {
					n := min(len(rest), 1+r.IntN(1+r.IntN(50_000)))
					if _, err := c.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
			}()
			for i := range want {
				message, ok := <-got
				if !ok || !bytes.Equal(message, want[i]) {
					t.Fatalf("message %d of %d bytes came as %d bytes", i, len(want[i]), len(message))
				}
			}
			c.Close()
			for range got {
				t.Error("a message too many")
			}
			if whole == 0 || parts == 0 {
				t.Errorf("%d messages came by Next and %d by Read", whole, parts)
			}
			for end := time.Now().Add(10 * time.Second); m.used.Load() != 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d bytes were not given back", m.used.Load())
				}
			}
		}
	})
}

// A frame that begins and does not go on ends the connection at the message's time; one
// that coder would refuse is left to it.
func TestNextLeavesTheRest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	ended := make(chan error, 1)
	url, client := serve(t, false, frame.Options{}, func(s *frame.Socket) {
		_, _, err := s.Next(50 * time.Millisecond)
		ended <- err
	})
	c := handshaken(t, url, client, nil)
	if _, err := c.Write(clientFrame(r, 0x81, make([]byte, 100))[:60]); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("half a frame was taken")
	}

	unmasked := append([]byte{0x81, 5}, "hello"...)
	for name, bad := range map[string][]byte{
		"no mask":         unmasked,
		"reserved bit":    clientFrame(r, 0x81|0x20, []byte("hello")),
		"continuation":    clientFrame(r, 0x80, []byte("hello")),
		"too long":        clientFrame(r, 0x81, make([]byte, 2000)),
		"unknown":         clientFrame(r, 0x83, []byte("hello")),
		"Close too short": clientFrame(r, 0x88, []byte("x")),
	} {
		url, client := serve(t, false, frame.Options{}, func(s *frame.Socket) {
			s.SetReadLimit(1000)
			_, whole, err := s.Next(time.Minute)
			if whole || err != nil {
				t.Errorf("%s: Next took it: %v", name, err)
			}
			_, reader, err := s.Read(context.Background())
			if err == nil {
				_, err = io.ReadAll(reader)
			}
			ended <- err
		})
		handshaken(t, url, client, slices.Concat(bad, bad))
		if err := <-ended; err == nil || websocket.CloseStatus(err) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
