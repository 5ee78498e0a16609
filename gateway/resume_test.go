package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// A cutter passes bytes on to a gateway and resets connections: each after some
// random number of the gateway's bytes, also within a frame.
type cutter struct {
	net.Listener
	target atomic.Pointer[string]
	cuts   atomic.Int64
	most   int64
	mean   int
	tasks  sync.WaitGroup

	mu     sync.Mutex
	random *rand.Rand
}

func newCutter(t testing.TB, seed uint64, target string, cuts int64, mean int) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, most: cuts, mean: mean, random: rand.New(rand.NewPCG(seed, 0))}
	c.target.Store(&target)
	c.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.tasks.Go(func() { c.pass(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.tasks.Wait()
	})
	return c
}

func (c *cutter) pass(client *net.TCPConn) {
	conn, err := net.Dial("tcp", *c.target.Load())
	if err != nil {
		client.Close()
		return
	}
	server := conn.(*net.TCPConn)
	limit := int64(1) << 62
	if c.cuts.Add(1) <= c.most {
		c.mu.Lock()
		limit = c.random.Int64N(int64(2 * c.mean))
		c.mu.Unlock()
	}
	var up sync.WaitGroup
	up.Go(func() {
		io.Copy(server, client)
		server.Close()
	})
	if n, _ := io.CopyN(client, server, limit); n == limit {
		client.SetLinger(0) // so that closing it resets it
		server.SetLinger(0)
	}
	client.Close()
	server.Close()
	up.Wait()
}

// TestResumeThroughResets: a subscriber whose connection is reset again and again,
// and whose gateway stops once, gets every event once, in order, with no gap.
func TestResumeThroughResets(t *testing.T) {
	events, cuts := 2000, 20
	if os.Getenv("OUTRELAY_SOAK") != "" {
		events, cuts = 20_000, 200
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := start(t, nil)
	address := strings.TrimPrefix(w.http, "http://")
	size := len(event("1000")) + 100
	webSocket := newCutter(t, seed, address, int64(cuts), events*size/cuts)
	eventStream := newCutter(t, seed+1, address, int64(cuts), events*size/cuts)

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var reading, opened sync.WaitGroup
	follow := func(name string, connect func(cursor string) (read func() (received, string, error), close func(), err error)) {
		opened.Add(1)
		reading.Go(func() {
			cursor, n, first := "", 0, true
			connections := 0
			for n < events && ctx.Err() == nil {
				read, end, err := connect(cursor)
				if err != nil {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				connections++
				for n < events {
					e, id, err := read()
					if err != nil {
						break
					}
					if e.Type == schemas.NoticeGap {
						t.Errorf("%s: a gap: %s", name, e.raw)
					}
					if id != "" {
						cursor = id
						if first {
							opened.Done()
							first = false
						}
					}
					if e.RelayCursor == "" {
						continue
					}
					if e.ID != fmt.Sprint(n) {
						t.Errorf("%s: got %s, want %d", name, e.ID, n)
						end()
						return
					}
					n++
				}
				end()
			}
			if first {
				opened.Done()
			}
			if n < events || connections < cuts/2 {
				t.Errorf("%s: %d events over %d connections", name, n, connections)
			}
		})
	}
	follow("WebSocket", func(cursor string) (func() (received, string, error), func(), error) {
		path := "http://" + webSocket.Addr().String() + "/topics/r/*?positions=true"
		if cursor != "" {
			path += "&after=" + cursor
		}
		c, _, err := w.tryDial(path)
		if err != nil {
			return nil, nil, err
		}
		return func() (received, string, error) {
			e, err := tryNext(c)
			id := e.RelayCursor
			if e.Type == schemas.NoticeOpen || e.Type == schemas.NoticePosition {
				var data struct{ Cursor string }
				err = json.Unmarshal(e.Data, &data)
				id = data.Cursor
			}
			return e, id, err
		}, func() { c.CloseNow() }, nil
	})
	follow("event stream", func(cursor string) (func() (received, string, error), func(), error) {
		s, err := w.trySSE(ctx, "http://"+eventStream.Addr().String()+"/topics/r/*", cursor)
		if err != nil {
			return nil, nil, err
		}
		return s.nextOrID, s.close, nil
	})
	opened.Wait()
	publish := func(via *world, from, to int) {
		for i := from; i < to; i++ {
			var r reply
			var err error
			for { // a publish that is refused by a gateway that stops is tried again
				if r, err = via.try("POST", "/topics/r/a", event(fmt.Sprint(i)), structured); err == nil && r.status == 200 {
					break
				}
				if ctx.Err() != nil {
					t.Fatalf("publish: %d %s %v", r.status, r.body, err)
				}
			}
		}
	}
	publish(w, 0, events/2)
	next := w.again(t)
	w.stop()
	target := strings.TrimPrefix(next.http, "http://")
	webSocket.target.Store(&target)
	eventStream.target.Store(&target)
	publish(next, events/2, events)
	reading.Wait()
}

// trySSE opens an event stream as an EventSource that comes back does.
func (w *world) trySSE(ctx context.Context, address, last string) (*eventSource, error) {
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, "GET", address, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	s := newEventSource(resp, cancel)
	s.id = last
	if resp.StatusCode != 200 {
		s.close()
		return nil, errors.New(resp.Status)
	}
	return s, nil
}

// nextOrID returns the next event with its id, or an id that came alone. An id
// counts only once its block is complete.
func (s *eventSource) nextOrID() (e received, id string, err error) {
	before := s.blocks
	data, err := s.nextBlock()
	if err != nil {
		return e, "", err
	}
	if s.blocks > before {
		return e, s.id, nil
	}
	e.raw = data
	err = json.Unmarshal([]byte(data), &e)
	return e, s.id, err
}
