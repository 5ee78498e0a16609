package subscriber_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// openSocket opens one on a topic of a world.
func openSocket(t *testing.T, c *subscriber.Client, topic string) *subscriber.Socket {
	t.Helper()
	s, err := c.OpenSocket(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func sendAll(t *testing.T, s *subscriber.Socket, events [][]byte) {
	t.Helper()
	for i, e := range events {
		if err := s.Send(t.Context(), e); err != nil {
			t.Fatalf("Send %d: %v", i, err)
		}
	}
}

func settle(t *testing.T, s *subscriber.Socket, accepted, duplicates int) subscriber.Taken {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := s.Settle(ctx)
	if err != nil || got.Accepted != accepted || got.Duplicates != duplicates {
		t.Fatalf("Settle = %+v, %v; want %d accepted, %d of them known", got, err, accepted, duplicates)
	}
	return got
}

// expired is an event that is accepted and never delivered.
const expired = `{"specversion":"1.0","id":"old","source":"/test","type":"t","expirytime":"2020-01-01T00:00:00Z"}`

func TestSocketCountsWhatTheGatewayTook(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	events := numbered(1, 600) // more than may be unsettled
	for _, tt := range []struct {
		name       string
		topic      string
		events     [][]byte
		duplicates int
		cursor     bool
	}{
		{"all new", "a/new", events, 0, true},
		{"known ones among them", "a/mixed", append(append(numbered(1, 5), numbered(3, 4)...), numbered(6, 9)...), 2, true},
		{"known ones at the end", "a/tail", append(numbered(1, 9), numbered(3, 7)...), 5, true},
		{"an expired one among them", "a/expired", [][]byte{events[0], []byte(expired), events[1]}, 0, true},
		{"an expired one at the end", "a/late", [][]byte{events[0], []byte(expired)}, 0, true},
		{"not stored", "live/a", events, 0, false},
		{"nothing", "a/none", nil, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openSocket(t, c, tt.topic)
			sendAll(t, s, tt.events)
			got := settle(t, s, len(tt.events), tt.duplicates)
			if (got.Cursor != "") != tt.cursor {
				t.Errorf("cursor %q, want one: %v", got.Cursor, tt.cursor)
			}
		})
	}
	t.Run("all known", func(t *testing.T) { // 300: the window is full, and nothing comes back
		s := openSocket(t, c, "a/new")
		sendAll(t, s, events[:300])
		settle(t, s, 300, 300)
	})
}

func TestSocketThatIsCutLosesNothing(t *testing.T) {
	const events, resets = 1500, 12
	w := newWorld(t)
	chance := seeded(t)
	watch, err := w.client().Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{From: "earliest"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	c := w.client()
	subscriber.Hurry(c)
	w.proxy.cutting(func() int {
		if w.proxy.cuts >= resets { // called under its lock
			return -1
		}
		return 1 + chance.IntN(16<<10)
	})
	var s *subscriber.Socket
	for s == nil { // the first connection may be cut before it stands
		if s, err = c.OpenSocket(t.Context(), "a/b"); err != nil {
			t.Log(err)
		}
	}
	defer s.Close()
	sendAll(t, s, numbered(1, events))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got, err := s.Settle(ctx); err != nil || got.Accepted != events {
		t.Errorf("Settle = %+v, %v; want %d accepted", got, err, events)
	}
	expect(t, watch, events)
	if got := w.proxy.count(); got != resets {
		t.Errorf("%d connections were reset, want %d", got, resets)
	}
}

// inbound reads what a client sends and gives each event to take.
func (v *visit) inbound(take func(id string, raw []byte)) {
	for {
		_, raw, err := v.conn.Read(context.Background())
		if err != nil {
			return
		}
		var e struct{ ID string }
		if err := json.Unmarshal(raw, &e); err != nil {
			v.t.Errorf("sent %s: %v", raw, err)
		}
		take(e.ID, raw)
	}
}

func (v *visit) reject(id, problem string) {
	v.send(notice("rejected", map[string]any{
		"type": schemas.ProblemBase + problem, "title": "x", "status": schemas.Problemf(problem, "").Status(), "detail": "Because.", "eventid": id,
	}))
}

func (v *visit) back(raw []byte, sequence uint64) {
	c := schemas.Cursor{Log: 1, Sequence: sequence, Accepted: int64(sequence)}
	v.send(string(schemas.AppendDelivered(nil, raw, "a/b", &c)))
}

func TestSocketStopsAtARejectedEvent(t *testing.T) {
	for _, late := range []bool{false, true} { // the notice may come after what was sent behind it
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t, func(v *visit) {
					v.open(0)
					n := uint64(0)
					v.inbound(func(id string, raw []byte) {
						n++
						switch {
						case id == "3" && !late:
							v.reject(id, "forbidden")
						case id == "3":
						case id == "4" && late:
							v.back(raw, n)
							v.reject("3", "forbidden")
						default:
							v.back(raw, n)
						}
					})
				})
				defer f.close()
				c := f.client(t, f.config())
				defer c.Close()
				s, err := c.OpenSocket(t.Context(), "a/b")
				if err != nil {
					t.Fatal(err)
				}
				taken := -1 // all that were sent, but for the one that is rejected
				for i, e := range numbered(1, 4) {
					err := s.Send(t.Context(), e)
					if err == nil {
						taken++
					} else if i < 3 { // the rejection may be there before the fourth
						t.Fatal(err)
					}
				}
				synctest.Wait()
				var rejected *subscriber.RejectedError
				if err := s.Send(t.Context(), numbered(5, 5)[0]); !errors.As(err, &rejected) || rejected.Index != 2 || !errors.Is(err, schemas.ErrForbidden) {
					t.Errorf("Send = %v, want that event 2 was rejected", err)
				}
				got, err := s.Settle(t.Context())
				if !errors.As(err, &rejected) || got.Accepted != taken || got.Duplicates != 0 {
					t.Errorf("Settle = %+v, %v; want %d accepted and the rejection", got, err, taken)
				}
			})
		})
	}
}

func TestSocketRepeatsWhatAGatewayCantTakeNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stored := map[string]uint64{}
		var mu sync.Mutex
		var kept [][]byte
		f := newFaulty(t, func(v *visit) {
			if v.r.Method == "POST" { // the socket asks
				v.answer(200, `{"accepted":1,"cursor":"abc","duplicates":[0]}`)
				return
			}
			v.open(v.after())
			mu.Lock()
			for i, raw := range kept { // the stream catches up
				if uint64(i+1) > v.after() {
					v.back(raw, uint64(i+1))
				}
			}
			mu.Unlock()
			v.inbound(func(id string, raw []byte) {
				if id == "2" && v.n == 0 {
					v.reject(id, "storage")
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if stored[id] == 0 {
					kept = append(kept, raw)
					stored[id] = uint64(len(kept))
					v.back(raw, stored[id])
				}
			})
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.OpenSocket(t.Context(), "a/b")
		if err != nil {
			t.Fatal(err)
		}
		sendAll(t, s, numbered(1, 4))
		if got, err := s.Settle(t.Context()); err != nil || got.Accepted != 4 {
			t.Errorf("Settle = %+v, %v; want 4 accepted", got, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(stored) != 4 {
			t.Errorf("the gateway has %v, want 1 to 4", stored)
		}
	})
}

func TestSocketRefusesWhatIsNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) {
			v.open(0)
			v.inbound(func(id string, _ []byte) { t.Errorf("event %s was sent", id) })
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.OpenSocket(t.Context(), "a/b")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(t.Context(), []byte(`{"specversion":"1.0","id":"1"}`)); !errors.Is(err, schemas.ErrEvent) {
			t.Errorf("Send = %v, want the problem event", err)
		}
		if got, err := s.Settle(t.Context()); err != nil || got.Accepted != 0 {
			t.Errorf("Settle = %+v, %v; want nothing", got, err)
		}
	})
}

func TestSocketGivesUpInTime(t *testing.T) {
	for _, retry := range []time.Duration{0, -1} {
		t.Run(fmt.Sprint(retry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t, func(v *visit) {
					if v.n > 0 {
						v.refuse(&schemas.Problem{Name: "draining"})
						return
					}
					v.open(0)
					v.inbound(func(string, []byte) { v.cut() })
				})
				defer f.close()
				config := f.config()
				config.PublishRetry = retry
				c := f.client(t, config)
				defer c.Close()
				s, err := c.OpenSocket(t.Context(), "a/b")
				if err != nil {
					t.Fatal(err)
				}
				sendAll(t, s, numbered(1, 1))
				began := time.Now()
				if got, err := s.Settle(t.Context()); err == nil || got.Accepted != 0 {
					t.Errorf("Settle = %+v, %v; want an error", got, err)
				}
				most := 2 * time.Second
				if retry == 0 {
					most = 2 * subscriber.DefaultPublishRetry
				}
				if took := time.Since(began); took > most {
					t.Errorf("took %v, want at most %v", took, most)
				}
				if err := s.Send(t.Context(), numbered(2, 2)[0]); err == nil {
					t.Error("a socket that gave up takes events")
				}
			})
		})
	}
}

func TestSocketIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) { v.refuse(schemas.ErrForbidden) })
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		if _, err := c.OpenSocket(t.Context(), "a/b"); !errors.Is(err, schemas.ErrForbidden) {
			t.Errorf("OpenSocket = %v, want the problem forbidden", err)
		}
		if _, err := c.OpenSocket(t.Context(), "a/*"); !errors.Is(err, schemas.ErrName) {
			t.Errorf("OpenSocket(a/*) = %v, want the problem name", err)
		}
	})
}
