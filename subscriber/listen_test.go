package subscriber_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A listener whose gateway is stopped and started again is back by itself, says what
// it does meanwhile, and its connections of before are not taken for whole.
func TestListenerComesBack(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	subscriber.Hurry(c)
	states := make(chan subscriber.State, 1000)
	l, err := c.ListenWith(t.Context(), "back", subscriber.ListenOptions{OnState: func(s subscriber.State) { states <- s }})
	if err != nil {
		t.Fatal(err)
	}
	var echoing sync.WaitGroup
	echoing.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			echoing.Go(func() {
				defer conn.Close()
				_, _ = conn.(*subscriber.Conn).WriteTo(conn)
			})
		}
	})
	defer echoing.Wait()
	defer l.Close()
	sender := w.client()
	ask := func() (net.Conn, error) {
		conn, err := sender.Dial(t.Context(), "back")
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		write(t, conn, "hello")
		b := make([]byte, 5)
		_, err = conn.Read(b)
		return conn, err
	}
	before, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	w.proxy.to("") // so that nothing comes back to the gateway that stops
	w.proxy.cutAll()
	w.stop()
	if _, err := before.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a connection over the stopped gateway reads %v, want an error that is no EOF", err)
	}
	w.start()
	await(t, states, subscriber.Connected)
	lost := await(t, states, subscriber.Reconnecting)
	if lost.Why == nil || lost.Since.IsZero() {
		t.Errorf("the state is %+v, want since when and why", lost)
	}
	await(t, states, subscriber.Connected)
	after, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	after.Close()
	if got := l.State().Phase; got != subscriber.Connected {
		t.Errorf("the state is %v, want connected", got)
	}
	l.Close()
	await(t, states, subscriber.Ended)
}

// await waits for a state.
func await(t *testing.T, states <-chan subscriber.State, phase subscriber.Phase) subscriber.State {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case s := <-states:
			if s.Phase == phase {
				return s
			}
		case <-deadline:
			t.Fatalf("the listener was never %v", phase)
		}
	}
}

// What waits for Accept is bounded: one more is refused at once.
func TestBacklogIsBounded(t *testing.T) {
	w := newWorld(t)
	l, err := w.client().ListenWith(t.Context(), "busy", subscriber.ListenOptions{Backlog: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sender := w.client()
	var waiting []net.Conn
	for i := range 2 {
		c, err := sender.Dial(t.Context(), "busy")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	var status *subscriber.StatusError
	if c, err := sender.Dial(t.Context(), "busy"); !errors.As(err, &status) || status.Status != http.StatusServiceUnavailable {
		t.Errorf("the third gave %v, %v; want a refusal with 503", c, err)
	}
	taken, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	// Which comes first is not said.
	which := make([]byte, 1)
	_ = taken.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(taken, which); err != nil {
		t.Fatal(err)
	}
	c, err := sender.Dial(t.Context(), "busy")
	if err != nil {
		t.Fatalf("after an Accept: %v", err)
	}
	defer c.Close()
	l.Close()
	left := waiting[1-which[0]]
	_ = left.SetDeadline(time.Now().Add(patience))
	if _, err := left.Read(make([]byte, 1)); !errors.As(err, new(*subscriber.AbortedError)) {
		t.Errorf("a connection that nobody accepted reads %v, want that it was aborted", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close gave %v, want net.ErrClosed", err)
	}
}

// Nobody listens: that is said, at once.
func TestDialNobody(t *testing.T) {
	_, err := newWorld(t).client().Dial(t.Context(), "nobody")
	if !errors.Is(err, schemas.ErrNoListener) {
		t.Errorf("Dial gave %v, want no-listener", err)
	}
}

// tokens hands out tokens that hold for so long, by number.
type tokens struct {
	mu    sync.Mutex
	life  time.Duration
	asked int
	fixed bool // the first one again and again
}

func (s *tokens) next(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fixed || s.asked == 0 {
		s.asked++
	}
	return fmt.Sprintf("SharedAccessSignature sr=x&sig=%d&se=%d&skn=k", s.asked, start.Add(time.Duration(s.asked)*s.life).Unix()), nil
}

// start is when a test's clock begins.
var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func number(token string) string {
	_, n, _ := strings.Cut(token, "sig=")
	n, _, _ = strings.Cut(n, "&")
	return n
}

// A listener renews its token on the open control channel, before it expires.
func TestListenerRenewsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var renewed []string
		var at []time.Duration
		f := newFaulty(t, func(v *visit) {
			if got := number(v.r.Header.Get("ServiceBusAuthorization")); got != "1" {
				t.Errorf("the handshake has token %s, want the first", got)
			}
			v.accept()
			for {
				_, b, err := v.conn.Read(context.Background())
				if err != nil {
					return
				}
				var m struct{ RenewToken struct{ Token string } }
				if err := json.Unmarshal(b, &m); err != nil || m.RenewToken.Token == "" {
					t.Errorf("message %s, want a renewToken", b)
				}
				renewed, at = append(renewed, number(m.RenewToken.Token)), append(at, time.Since(start))
			}
		})
		defer f.close()
		config := f.config()
		config.Token = (&tokens{life: time.Minute}).next
		c := f.client(t, config)
		defer c.Close()
		if _, err := c.Listen(t.Context(), "name"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		c.Close()
		if len(renewed) < 3 || renewed[0] != "2" || renewed[1] != "3" {
			t.Fatalf("renewed with %v, want 2, 3, 4...", renewed)
		}
		for i, when := range at {
			if expires := time.Duration(i+1) * time.Minute; when >= expires || when < expires/2 {
				t.Errorf("token %d, which expires after %v, was replaced after %v", i+1, expires, when)
			}
		}
	})
}

// A token that is expired is never tried again: a listener and a stream ask for another,
// with growing waits, and are back as soon as they have one.
func TestExpiredTokenIsNotTriedAgain(t *testing.T) {
	for name, open := range map[string]func(*testing.T, *subscriber.Client) func() subscriber.State{
		"listener": func(t *testing.T, c *subscriber.Client) func() subscriber.State {
			l, err := c.Listen(t.Context(), "name")
			if err != nil {
				t.Fatal(err)
			}
			return l.State
		},
		"stream": func(t *testing.T, c *subscriber.Client) func() subscriber.State {
			s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return s.State
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { checkExpiredToken(t, open) })
		})
	}
}

func checkExpiredToken(t *testing.T, open func(*testing.T, *subscriber.Client) func() subscriber.State) {
	used := 0 // the first token
	f := newFaulty(t, func(v *visit) {
		first := number(v.r.Header.Get("ServiceBusAuthorization")+v.r.Header.Get("Authorization")) == "1"
		if first {
			used++
		}
		if first && time.Since(start) >= time.Minute {
			v.refuse(schemas.Problemf("unauthorized", "The token is expired."))
			return
		}
		v.accept()
		if strings.HasPrefix(v.r.URL.Path, "/topics/") {
			v.send(notice("open", map[string]any{"cursor": place(0)}))
		}
		if first {
			v.conn.CloseRead(context.Background()) // which answers pings
			time.Sleep(time.Minute - time.Since(start))
			_ = v.conn.Close(websocket.StatusPolicyViolation, schemas.CloseTokenExpired.Word)
			return
		}
		v.linger()
	})
	defer f.close()
	config := f.config()
	source := &tokens{life: time.Minute, fixed: true}
	config.Token = source.next
	c := f.client(t, config)
	defer c.Close()
	state := open(t, c)
	time.Sleep(10 * time.Minute)
	if used != 1 {
		t.Errorf("the expired token was tried %d times more, want never", used-1)
	}
	if s := state(); s.Phase != subscriber.Reconnecting || s.Why == nil {
		t.Errorf("the state is %+v, want reconnecting and why", s)
	}
	source.mu.Lock()
	source.fixed, source.asked, source.life = false, 1, time.Hour
	source.mu.Unlock()
	time.Sleep(time.Minute)
	if got := state().Phase; got != subscriber.Connected {
		t.Errorf("with a new token the state is %v, want connected", got)
	}
}

// A listener that can't come back is ended by a gateway that will never take it, at
// first, and tries on later.
func TestRefusedListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, func(v *visit) { v.refuse(schemas.Problemf("not-found", "Endpoint does not exist.")) })
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		if _, err := c.Listen(t.Context(), "name"); !errors.Is(err, schemas.ErrNotFound) {
			t.Errorf("Listen gave %v, want not-found", err)
		}
	})
}

// A gateway that says nothing more is left within half a minute.
func TestSilentControlChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		visits := make(chan time.Duration, 100)
		f := newFaulty(t, func(v *visit) {
			visits <- time.Since(start)
			v.acceptPings(func() bool { return false }, func() {})
			v.linger()
		})
		defer f.close()
		c := f.client(t, f.config())
		defer c.Close()
		if _, err := c.Listen(t.Context(), "name"); err != nil {
			t.Fatal(err)
		}
		<-visits
		if second := <-visits; second > 30*time.Second {
			t.Errorf("the listener came back after %v, want within 30 s", second)
		}
	})
}
