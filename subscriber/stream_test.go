package subscriber_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// states records what a stream says of itself.
type states struct {
	mu  sync.Mutex
	all []subscriber.State
}

func (s *states) add(state subscriber.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, state)
}

func (s *states) list() []subscriber.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func TestStreamResumesAfterEveryCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 50
		f := newFaulty(t, func(v *visit) {
			if got := v.r.URL.Query().Get("positions"); got != "true" {
				t.Errorf("positions = %q, want true", got)
			}
			from := v.after()
			v.open(from)
			for n := from + 1; n <= most; n++ {
				v.events(n)
				if n%7 == 0 {
					v.cut()
					return
				}
			}
			v.linger()
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		var seen states
		s, err := c.Subscribe(t.Context(), "a/*", subscriber.SubscribeOptions{From: "earliest", OnState: seen.add})
		if err != nil {
			t.Fatal(err)
		}
		for i, got := range take(t, s, most) {
			if want := fmt.Sprint(i + 1); got != want {
				t.Fatalf("event %d is %s, want %s", i, got, want)
			}
		}
		if got := s.Cursor(); got != place(most) {
			t.Errorf("Cursor() = %s, want that of the last event", got)
		}
		if got := s.State(); got.Phase != subscriber.Connected || got.Why != nil {
			t.Errorf("State() = %+v, want connected", got)
		}
		cuts := 0
		for _, state := range seen.list() {
			if state.Phase == subscriber.Reconnecting {
				cuts++
				if state.Why == nil || state.Since.IsZero() || state.Wait > time.Second {
					t.Errorf("state %+v: want why and since when, and a short wait after progress", state)
				}
			}
		}
		if cuts != most/7 {
			t.Errorf("told of %d cuts, want %d", cuts, most/7)
		}
	})
}

func TestStreamCutBeforeItsFirstEventResumesWhereItStood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) {
			switch v.n {
			case 0: // accepted, and not yet opened: nothing was promised
				v.accept()
				v.cut()
			case 1:
				if v.r.URL.RawQuery != "from=latest&positions=true" {
					t.Errorf("query %q of a stream that never stood", v.r.URL.RawQuery)
				}
				v.open(17)
				v.cut()
			default:
				if got := v.after(); got != 17 {
					t.Errorf("goes on after %d, want 17", got)
				}
				v.open(17)
				v.events(18)
				v.linger()
			}
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{From: "latest"})
		if err != nil {
			t.Fatal(err)
		}
		if got := take(t, s, 1); got[0] != "18" {
			t.Errorf("got %v, want 18", got)
		}
	})
}

func TestPositionsMoveAStreamOnBehindItsFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) {
			if v.n == 0 {
				v.open(1)
				v.send(notice("position", map[string]any{"cursor": place(1000)}))
				v.cut()
				return
			}
			if got := v.after(); got != 1000 {
				t.Errorf("goes on after %d, want 1000", got)
			}
			v.open(1000)
			v.events(1001)
			v.linger()
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{Notices: true})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Next(t.Context()) // open and position are the stream's own
		if err != nil || d.Notice != nil || d.Topic != "a/b" || d.Cursor != place(1001) {
			t.Errorf("Next = %+v, %v; want the event 1001", d, err)
		}
	})
}

func TestStreamFromLastAsksAgainUntilItHasAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) {
			q := v.r.URL.Query()
			switch v.n {
			case 0:
				v.open(3)
				v.cut()
			case 1:
				if q.Get("from") != "last" || q.Has("after") {
					t.Errorf("query %v, want from=last again", q)
				}
				v.open(3)
				v.events(5)
				v.cut()
			default:
				if v.after() != 5 || q.Has("from") {
					t.Errorf("query %v, want after 5", q)
				}
				v.open(5)
				v.events(9)
				v.linger()
			}
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{From: "last"})
		if err != nil {
			t.Fatal(err)
		}
		if got := take(t, s, 2); !slices.Equal(got, []string{"5", "9"}) {
			t.Errorf("got %v, want 5 and 9", got)
		}
	})
}

func TestDrainingStreamComesBackWithinTheToldSpread(t *testing.T) {
	const told = 4 * time.Second
	for _, closes := range []bool{true, false} { // some gateways forget to close
		t.Run(fmt.Sprint("closes ", closes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var noticed time.Time
				var mu sync.Mutex
				f := newFaulty(t, func(v *visit) {
					mu.Lock()
					defer mu.Unlock()
					if v.n == 0 {
						v.open(0)
						v.events(1)
						noticed = time.Now()
						v.send(notice("draining", map[string]any{"reconnectafterms": told.Milliseconds()}))
						v.events(2) // what is held is finished
						if closes {
							_ = v.conn.Close(websocket.StatusGoingAway, "drain")
							return
						}
						v.linger()
						return
					}
					if wait := v.at.Sub(noticed); wait < told || wait > 2*told+farewell {
						t.Errorf("came back after %v, want %v to %v", wait, told, 2*told)
					}
					if v.after() != 2 {
						t.Errorf("goes on after %d, want 2", v.after())
					}
					v.open(2)
					v.events(3)
					v.linger()
				})
				defer f.close()
				c := f.client(t, f.config())
				defer c.Close()
				var kinds []string
				s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{
					OnNotice: func(n subscriber.Notice) { kinds = append(kinds, n.Type) },
				})
				if err != nil {
					t.Fatal(err)
				}
				if got := take(t, s, 3); !slices.Equal(got, []string{"1", "2", "3"}) {
					t.Errorf("got %v, want 1, 2, 3", got)
				}
				if !slices.Equal(kinds, []string{schemas.NoticeDraining}) {
					t.Errorf("notices %v, want draining", kinds)
				}
			})
		})
	}
}

// farewell is how long a client waits for the answer to its Close frame.
const farewell = time.Second

func TestStreamWaitsAsLongAsARefusalSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		f := newFaulty(t, func(v *visit) {
			at = append(at, v.at)
			switch v.n {
			case 0:
				v.refuse(&schemas.Problem{Name: "draining", RetryAfter: 7 * time.Second})
			case 1:
				v.refuse(&schemas.Problem{Name: "rate", RetryAfter: 11 * time.Second})
			default:
				v.open(0)
				v.linger()
			}
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		// FailFast is about the network; who answers "later" is there.
		if _, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{FailFast: true}); err != nil {
			t.Fatal(err)
		}
		for i, want := range []time.Duration{7 * time.Second, 11 * time.Second} {
			if got := at[i+1].Sub(at[i]); got < want || got > want+time.Second {
				t.Errorf("try %d came %v after the one before, want %v and a little", i+1, got, want)
			}
		}
	})
}

// A gateway that accepts and closes at once is no progress: the waits grow.
func TestStreamDoesNotHammer(t *testing.T) {
	tests := map[string]func(*visit){
		"refuses": func(v *visit) { v.w.WriteHeader(http.StatusBadGateway) },
		"opens and cuts": func(v *visit) {
			v.open(0)
			v.cut()
		},
		"over quota, after an event": func(v *visit) {
			v.open(0)
			v.events(1)
			_ = v.conn.Close(websocket.StatusTryAgainLater, "quota")
		},
	}
	for name, each := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t, func(v *visit) {
					if v.n == 0 {
						v.open(0)
						v.cut()
						return
					}
					each(v)
				})
				defer f.close()
				c := f.client(t, f.config())
				defer c.Close()
				var seen states
				s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{OnState: seen.add})
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					for _, err := range s.All(t.Context()) {
						if err != nil {
							return
						}
					}
				}()
				time.Sleep(10 * time.Minute)
				tries := 0
				for _, state := range seen.list() {
					if state.Phase == subscriber.Reconnecting {
						tries++
					}
				}
				// 30 s at most, 15 s in the mean: about 40 tries.
				if tries < 15 || tries > 90 {
					t.Errorf("%d tries in 10 minutes, want about 40", tries)
				}
				_ = s.Close()
			})
		})
	}
}

func TestRefusalForGoodEndsAStream(t *testing.T) {
	forbidden := &schemas.Problem{Name: "forbidden", Detail: "Ask for a token with the right to subscribe."}
	tests := []struct {
		name   string
		refuse func(*visit)
		first  bool // refused from the beginning, or only later
		want   func(error) bool
		ends   bool
	}{
		{"the gateway's, first", func(v *visit) { v.refuse(forbidden) }, true, func(err error) bool { return errors.Is(err, schemas.ErrForbidden) }, true},
		{"the gateway's, later", func(v *visit) { v.refuse(forbidden) }, false, func(err error) bool { return errors.Is(err, schemas.ErrForbidden) }, true},
		{"no token", func(v *visit) { v.refuse(schemas.ErrUnauthorized) }, false, func(err error) bool { return errors.Is(err, schemas.ErrUnauthorized) }, true},
		{"somebody else's, first", func(v *visit) { http.NotFound(v.w, v.r) }, true, isStatus(404), true},
		{"somebody else's, later", func(v *visit) { http.NotFound(v.w, v.r) }, false, nil, false},
		{"a redirect", func(v *visit) { http.Redirect(v.w, v.r, "http://elsewhere.test/", http.StatusFound) }, true, isStatus(302), true},
		{"a page", func(v *visit) { fmt.Fprint(v.w, "<h1>Please log in</h1>") }, true, isStatus(200), true},
		{"broken", func(v *visit) { v.refuse(&schemas.Problem{Name: "internal"}) }, false, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t, func(v *visit) {
					switch {
					case tt.first || v.n == 1:
						tt.refuse(v)
					case v.n == 0:
						v.open(0)
						v.cut()
					default:
						v.open(0)
						v.events(1)
						v.linger()
					}
				})
				defer f.close()
				c := f.client(t, f.config())
				defer c.Close()
				s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
				if err == nil {
					_, err = s.Next(t.Context())
				}
				if !tt.ends {
					if err != nil {
						t.Errorf("the stream ended with %v, want it to go on", err)
					}
					return
				}
				if err == nil || !tt.want(err) {
					t.Fatalf("the stream ended with %v", err)
				}
				if s != nil {
					if _, again := s.Next(t.Context()); again != err {
						t.Errorf("Next = %v, then %v; want the same", err, again)
					}
					if state := s.State(); state.Phase != subscriber.Ended || !tt.want(state.Why) {
						t.Errorf("State() = %+v, want ended and why", state)
					}
				}
			})
		})
	}
}

func isStatus(status int) func(error) bool {
	return func(err error) bool {
		var s *subscriber.StatusError
		return errors.As(err, &s) && s.Status == status
	}
}

func TestFailFastTellsWhatTheNetworkSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(*visit) {})
		f.close()
		c := f.client(t, f.config())
		defer c.Close()
		if _, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{FailFast: true}); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Subscribe = %v, want the refused connection", err)
		}
	})
}

func TestSilentGatewayIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := make(chan time.Time, 1)
		f := newFaulty(t, func(v *visit) {
			if v.n == 0 {
				v.acceptPings(func() bool { return false }, func() {}) // not even a pong
				v.send(notice("open", map[string]any{"cursor": place(0)}))
				v.events(1)
				silent <- time.Now()
				v.linger()
				return
			}
			v.open(1)
			if wait := v.at.Sub(<-silent); wait < 50*time.Second || wait > time.Minute {
				t.Errorf("a silent gateway was left after %v, want 55 s and a little", wait)
			}
			v.events(2)
			v.linger()
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := take(t, s, 2); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("got %v, want 1, 2", got)
		}
	})
}

func TestQuietGatewayAndSlowProgramAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events = 200    // more than wait in the stream
		var heard, visits int // pings, and pongs while the program is busy
		f := newFaulty(t, func(v *visit) {
			visits++
			v.acceptPings(func() bool { heard++; return true }, func() { heard++ })
			v.send(notice("open", map[string]any{"cursor": place(0)}))
			read := make(chan struct{})
			go func() {
				defer close(read)
				v.linger()
			}()
			time.Sleep(time.Hour) // only its pongs are heard
			for n := range events {
				v.events(uint64(n + 1))
			}
			<-read
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour) // the program is busy
		if got := take(t, s, events); got[events-1] != fmt.Sprint(events) {
			t.Errorf("the last event is %s, want %d", got[events-1], events)
		}
		_ = s.Close()
		f.close()
		if visits != 1 || heard < 280 {
			t.Errorf("%d connections that gave %d signs of life, want one with a sign every 25 s for 2 hours", visits, heard)
		}
	})
}

func TestGapsAreToldAtTheirPlace(t *testing.T) {
	script := func(v *visit) {
		v.open(0)
		v.events(1)
		v.send(notice("gap", map[string]any{"reason": "slow", "missed": 3}))
		v.events(5)
		v.linger()
	}
	subscribe := func(t *testing.T, o subscriber.SubscribeOptions, use func(*testing.T, *subscriber.Stream)) {
		synctest.Test(t, func(t *testing.T) {
			f := newFaulty(t, script)
			defer f.close()
			c := f.client(t, f.config())
			defer c.Close()
			s, err := c.Subscribe(t.Context(), "a/b", o)
			if err != nil {
				t.Fatal(err)
			}
			use(t, s)
		})
	}
	t.Run("as an error", func(t *testing.T) {
		subscribe(t, subscriber.SubscribeOptions{}, func(t *testing.T, s *subscriber.Stream) {
			var got []string
			for d, err := range s.All(t.Context()) {
				var gap *subscriber.GapError
				switch {
				case errors.As(err, &gap):
					got = append(got, fmt.Sprint(gap.Reason, *gap.Missed))
				case err != nil:
					t.Fatal(err)
				default:
					got = append(got, id(t, d))
				}
				if len(got) == 3 {
					break
				}
			}
			if !slices.Equal(got, []string{"1", "slow3", "5"}) {
				t.Errorf("got %v, want 1, the gap, 5", got)
			}
		})
	})
	t.Run("as a delivery", func(t *testing.T) {
		subscribe(t, subscriber.SubscribeOptions{Notices: true}, func(t *testing.T, s *subscriber.Stream) {
			take(t, s, 1)
			d, err := s.Next(t.Context())
			if err != nil || d.Notice == nil || d.Notice.Gap == nil || d.Notice.Gap.Reason != schemas.GapSlow || !strings.Contains(string(d.Raw), `"missed":3`) {
				t.Errorf("Next = %+v, %v; want the gap", d, err)
			}
			take(t, s, 1)
		})
	})
	t.Run("to a function", func(t *testing.T) {
		var gaps []subscriber.Notice
		o := subscriber.SubscribeOptions{OnNotice: func(n subscriber.Notice) { gaps = append(gaps, n) }}
		subscribe(t, o, func(t *testing.T, s *subscriber.Stream) {
			if take(t, s, 1); len(gaps) != 0 {
				t.Error("told of the gap before its place")
			}
			if take(t, s, 1); len(gaps) != 1 {
				t.Error("not told of the gap")
			}
		})
	})
}

func TestBrokenOrderIsNeverHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) {
			v.open(0)
			v.events(1, 3, 2, 3, 4)
			// Another log begins anew, which is no broken order.
			v.send(notice("gap", map[string]any{"reason": "reset", "missed": nil}))
			v.events(1)
			v.linger()
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{Notices: true})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for d, err := range s.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if d.Notice != nil {
				continue
			}
			got = append(got, fmt.Sprint(id(t, d), " ", d.Repeated, " ", s.Cursor() == place(3)))
			if len(got) == 6 {
				break
			}
		}
		want := []string{"1 false false", "3 false true", "2 true true", "3 true true", "4 false false", "1 false false"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestEveryConnectionHasATokenOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := []string{"Bearer one", "SharedAccessSignature sr=x", "Bearer three"}
		f := newFaulty(t, func(v *visit) {
			if got := v.r.Header.Get("Authorization"); got != want[v.n] {
				t.Errorf("visit %d has %q, want %q", v.n, got, want[v.n])
			}
			if v.n < len(want)-1 {
				v.open(0)
				_ = v.conn.Close(websocket.StatusPolicyViolation, "token-expired")
				return
			}
			v.open(0)
			v.events(1)
			v.linger()
		})
		defer f.close()
		config := f.config()
		asked := 0
		config.Token = func(context.Context) (string, error) {
			asked++
			if asked == 2 {
				return "", errors.New("the issuer is down") // passes, as a lost connection does
			}
			return []string{"one", "", "SharedAccessSignature sr=x", "three"}[asked-1], nil
		}
		c := f.client(t, config)
		defer c.Close()
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		take(t, s, 1)
	})
}

func TestCloseThatForbidsAnotherTryEndsAStream(t *testing.T) {
	for _, tt := range []struct {
		name string
		code websocket.StatusCode
		text string
		ends bool
	}{
		{"expired token and nobody to ask", websocket.StatusPolicyViolation, "token-expired", true},
		{"done", websocket.StatusNormalClosure, "done", true},
		{"1000 without a word", websocket.StatusNormalClosure, "", false}, // a proxy's
		{"slow", websocket.StatusTryAgainLater, "slow: behind by 4 s", false},
		{"fault", websocket.StatusInternalError, "fault", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t, func(v *visit) {
					v.open(0)
					if v.n == 0 {
						_ = v.conn.Close(tt.code, tt.text)
						return
					}
					v.events(1)
					v.linger()
				})
				defer f.close()
				c := f.client(t, f.config())
				defer c.Close()
				s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				_, err = s.Next(t.Context())
				var closed *subscriber.CloseError
				if tt.ends && (!errors.As(err, &closed) || closed.Reason.Code != int(tt.code)) || !tt.ends && err != nil {
					t.Errorf("Next = %v", err)
				}
			})
		})
	}
}

func TestCloseSaysGoodbyeAndKeepsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		code := make(chan websocket.StatusCode, 1)
		f := newFaulty(t, func(v *visit) {
			v.open(0)
			v.events(1, 2, 3)
			code <- v.linger()
		})
		defer f.close()
		c := f.client(t, f.config())
		s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		_ = s.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("Close took %v", took)
		}
		if got := <-code; got != websocket.StatusNormalClosure {
			t.Errorf("closed with %d, want 1000", got)
		}
		if got := take(t, s, 3); !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("got %v of what waited, want 1, 2, 3", got)
		}
		if _, err := s.Next(t.Context()); !errors.Is(err, subscriber.ErrClosed) {
			t.Errorf("Next after Close = %v, want ErrClosed", err)
		}
		_ = c.Close()
		if _, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{}); !errors.Is(err, subscriber.ErrClosed) {
			t.Errorf("Subscribe of a closed client = %v, want ErrClosed", err)
		}
	})
}

func TestCloseDoesNotWaitForADeadGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		f := newFaulty(t, func(v *visit) {
			v.open(0)
			<-hang
		})
		defer f.close()
		defer close(hang)
		c := f.client(t, f.config())
		if _, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_ = c.Close()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("Close took %v, want a second", took)
		}
	})
}

func TestContextEndsAStreamAndOnlyAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) {
			v.open(0)
			time.Sleep(20 * time.Second)
			v.events(1)
			v.linger()
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Subscribe(ctx, "a/b", subscriber.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := s.Next(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next = %v, want the end of its own context", err)
		}
		take(t, s, 1)
		cancel()
		if _, err := s.Next(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("Next = %v, want the end of the stream's context", err)
		}
	})
}

func TestSubscribeChecksItsArguments(t *testing.T) {
	c, err := subscriber.New(subscriber.Config{Gateway: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Subscribe(t.Context(), "a/**/b", subscriber.SubscribeOptions{}); !errors.Is(err, schemas.ErrName) {
		t.Errorf("Subscribe(a/**/b) = %v, want the problem name", err)
	}
	if _, err := c.Subscribe(t.Context(), "a", subscriber.SubscribeOptions{Filter: []byte(`{"exact"`)}); !errors.Is(err, schemas.ErrFilter) {
		t.Errorf("Subscribe with half a filter = %v, want the problem filter", err)
	}
}

func TestNewChecksTheAddress(t *testing.T) {
	for _, bad := range []string{"", "events.example.com", "ftp://x", "https://", "https://u:secret@x", "https://x?a=b", "http://x\x7f"} {
		if _, err := subscriber.New(subscriber.Config{Gateway: bad}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%q) = %v, want an error without the password", bad, err)
		}
	}
	if _, err := subscriber.New(subscriber.Config{Gateway: "https://events.example.com/base/"}); err != nil {
		t.Error(err)
	}
}

var _ net.Listener = (*pipeListener)(nil)
