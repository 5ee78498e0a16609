package relay_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRequest is one small HTTP request and its answer through the relay, next to
// the same through a plain reverse proxy of net/http. Sender, relay or proxy, and
// listener or server are one process; cpu-µs/op is that of all of them.
//
// The kinds: a GET with an answer of 100 bytes, a POST and an answer of 10 KiB each,
// both on the control channel; and an answer of 1 MiB over a rendezvous.
func BenchmarkRequest(b *testing.B) {
	kinds := []struct {
		name         string
		body, answer int
	}{{"GET", 0, 100}, {"POST-10KiB", 10 << 10, 10 << 10}, {"GET-1MiB", 0, 1 << 20}}
	for _, k := range kinds {
		answer := strings.Repeat("x", k.answer)
		b.Run(k.name+"/relay", func(b *testing.B) {
			w := start(b, nil)
			control := w.listen(b, "app")
			go answerAll(control, answer)
			measure(b, "http://"+w.host+"/app", k.body, k.answer)
		})
		b.Run(k.name+"/proxy", func(b *testing.B) {
			origin := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
				io.Copy(io.Discard, q.Body)
				io.WriteString(rw, answer)
			}))
			defer origin.Close()
			to, err := url.Parse(origin.URL)
			if err != nil {
				b.Fatal(err)
			}
			proxy := httputil.NewSingleHostReverseProxy(to)
			proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 100}
			s := httptest.NewServer(proxy)
			defer s.Close()
			measure(b, s.URL+"/app", k.body, k.answer)
		})
	}
}

// measure sends requests, 16 at a time for each processor.
func measure(b *testing.B, address string, body, answer int) {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	text := strings.Repeat("y", body)
	before, began := cpu(b), time.Now()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			var r *http.Response
			var err error
			if body == 0 {
				r, err = c.Get(address)
			} else {
				r, err = c.Post(address, "text/plain", strings.NewReader(text))
			}
			if err != nil {
				b.Error(err)
				return
			}
			n, err := io.Copy(io.Discard, r.Body)
			r.Body.Close()
			if err != nil || int(n) != answer || r.StatusCode != 200 {
				b.Errorf("%s with %d bytes: %v", r.Status, n, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "requests/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpu is what the process has used of its processors.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// answerAll is a listener that answers every request with the same, until its control
// channel ends: on it, or on a rendezvous if the answer is long.
func answerAll(control *peer, answer string) {
	body := clientFrame(0x82, []byte(answer))
	for {
		first, text, err := control.frame()
		switch {
		case err != nil:
			return
		case first == 0x89:
			control.conn.Write(clientFrame(0x8A, text))
			continue
		case first != 0x81:
			continue // a body
		}
		m, err := parseMessage(text)
		if err != nil || m.Request == nil {
			return
		}
		reply := append(clientFrame(0x81, []byte(answerText(m.Request.ID, `"statusCode":200,"responseHeaders":{"Content-Type":"text/plain"},"body":true`))), body...)
		if len(answer) <= 65536 {
			control.conn.Write(reply)
			continue
		}
		go func() {
			address := strings.TrimPrefix(m.Request.Address, "ws://")
			host, path, _ := strings.Cut(address, "/")
			c, err := net.Dial("tcp", host)
			if err != nil {
				return
			}
			defer c.Close()
			io.WriteString(c, "GET /"+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+testKey+"\r\n\r\n")
			in := bufio.NewReader(c)
			if _, err := http.ReadResponse(in, nil); err != nil {
				return
			}
			c.Write(reply)
			io.Copy(io.Discard, in)
		}()
	}
}
