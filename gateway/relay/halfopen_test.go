package relay_test

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// A cable is a way to the relay that can be cut as networks are: bytes stop, and nobody
// is told.
type cable struct {
	host string // where it begins
	cut  atomic.Bool
}

func newCable(t testing.TB, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{host: l.Addr().String()}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	carry := func(from, to net.Conn) {
		b := make([]byte, 16<<10)
		for {
			n, err := from.Read(b)
			if c.cut.Load() {
				continue // until the test closes it
			}
			if err != nil {
				to.Close()
				return
			}
			to.Write(b[:n])
		}
	}
	all.Go(func() { // ends with the listener
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, near, far)
			mu.Unlock()
			all.Go(func() { carry(near, far) })
			all.Go(func() { carry(far, near) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.cut.Store(false) // so that they hear of the end
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return c
}

// halfOpen cuts the cable of a listener and a joined sender, and checks what the others
// hear, within limits of time. Who is joined is not waited for with a limit of 0.
func halfOpen(t *testing.T, w *world, control, pair time.Duration) {
	t.Helper()
	c := newCable(t, w.host)
	listening := dial(t, c.host+"/$hc/name?sb-hc-action=listen")
	waiting := w.connecting(t, "name")
	listener := dial(t, listening.message().Accept.dialed(t))
	sender := <-waiting
	sender.text("through")
	listener.expect(0x81, "through")

	c.cut.Store(true)
	began := time.Now()
	late := w.connecting(t, "name") // is offered to a listener that will never know
	var all sync.WaitGroup
	all.Go(func() {
		p := <-late
		p.refused(502, "lost")
		if took := time.Since(began); took > control {
			t.Errorf("a sender hung for %v; %v is the limit", took, control)
		}
		p = handshake(t, w.host+"/$hc/name")
		p.refused(404, "There are no listeners connected")
	})
	all.Go(func() { // the peer of the joined listener
		if pair == 0 {
			return
		}
		if u := listener.conn.RemoteAddr().String(); u != c.host {
			t.Errorf("the listener has dialed %s, not the cable", u)
		}
		for {
			f, b, err := sender.frameBy(time.Now().Add(2 * pair))
			if err != nil {
				t.Errorf("the joined sender: %v, want a Close frame", err)
				return
			}
			if f == 0x89 {
				sender.raw(clientFrame(0x8A, b))
			} else if f == 0x88 {
				break
			}
		}
		if took := time.Since(began); took > pair {
			t.Errorf("the joined sender heard of it after %v; %v is the limit", took, pair)
		}
	})
	all.Wait()
}

// A listener whose network is cut without a FIN is noticed within two and a half pings:
// its senders get 502 or 404 and do not hang. Whom it was joined to hears of it too.
func TestHalfOpenListener(t *testing.T) {
	t.Parallel()
	w := start(t, func(rc *relay.Config, _ *access.Config) {
		rc.Limits.RelayPing, rc.Limits.RelayPeerPing = 500*time.Millisecond, 2*time.Second
	})
	halfOpen(t, w, 10*time.Second, 15*time.Second)
}

// The same with the limits that the gateway has by default: 30 seconds for a control
// channel and, in the long form, a minute for a joined pair.
func TestHalfOpenListenerByDefault(t *testing.T) {
	t.Parallel()
	if d := relay.DefaultLimits(); d.RelayPing != 10*time.Second || d.RelayPeerPing != 25*time.Second {
		t.Errorf("control channels are pinged every %v, pairs every %v; protocol: 10 s and 25 s", d.RelayPing, d.RelayPeerPing)
	}
	pair := 60 * time.Second
	if os.Getenv("OUTRELAY_SOAK") == "" {
		pair = 0
	}
	halfOpen(t, start(t, nil), 30*time.Second, pair)
}
