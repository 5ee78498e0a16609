package subscriber

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// DefaultBacklog is [ListenOptions.Backlog] where it is zero.
	DefaultBacklog = 128
	// DefaultRequests is [ListenOptions.Requests] where it is zero.
	DefaultRequests = 1000
)

// ListenOptions say how a [Listener] takes what comes. The zero value is right for
// most.
type ListenOptions struct {
	// ID is the listener's among those of its name, by which a sender may ask for it
	// (the parameter sb-hc-listener): one segment of a name. Empty is none.
	ID string
	// Backlog is how many connections and requests wait for Accept; what comes beyond
	// is refused with 503. 0 is [DefaultBacklog].
	Backlog int
	// Requests is how many HTTP requests are under way at once; what comes beyond is
	// answered 503. 0 is [DefaultRequests].
	Requests int
	// Upgrades hands a sender's WebSocket out as an HTTP connection whose request is
	// the sender's handshake, so that the WebSocket endpoints of an HTTP server are
	// reached. A [Client.Dial] is still a stream of bytes. Without it every
	// WebSocket is one, whoever opens it.
	Upgrades bool
	// KeepName leaves the hybrid connection's name in the path of HTTP requests: an
	// HTTP server sees /printer/status instead of /status.
	KeepName bool
	// FailFast makes Listen return where no connection can be had at first, instead
	// of trying on.
	FailFast bool
	// OnState is told each change of state as it happens, by the listener's own
	// goroutine: it must not wait, nor call Close.
	OnState func(State)
}

// A Listener takes the connections of a hybrid connection's senders. It is a
// [net.Listener], made by [Client.Listen].
//
// A sender's WebSocket comes as a [*Conn]: a stream of bytes. An HTTP request that
// the relay carries comes as a connection of its own, on which one HTTP/1.1 request
// is to be read and answered, so that [net/http.Serve] serves both, and any server
// that speaks HTTP.
type Listener struct {
	client  *Client
	name    string
	options ListenOptions

	ctx     context.Context
	cancel  context.CancelFunc
	opened  chan struct{} // closed when the control channel stands, for the first time
	closing chan struct{} // closed by Close
	once    sync.Once
	done    chan struct{} // closed when its goroutine has ended
	err     error         // why, set before done is closed

	queue    chan net.Conn
	places   chan struct{} // taken from the offer on until Accept
	requests chan struct{} // taken while a request is under way
	refusing chan struct{} // taken while an offer is refused
	tasks    sync.WaitGroup

	// Owned by the goroutine.
	wasOpen  bool
	attempts int

	mu    sync.Mutex
	state State
}

// Listen awaits the connections of a hybrid connection's senders over a connection of
// its own to the gateway, the control channel. It returns when that stands. Until ctx
// ends or the listener is closed it connects again by itself, and renews its token
// through [Config.Token] before it expires. Connections that were accepted go on
// whatever becomes of the listener.
//
// Errors are those of [Client.Subscribe].
func (c *Client) Listen(ctx context.Context, name string) (*Listener, error) {
	return c.ListenWith(ctx, name, ListenOptions{})
}

// ListenWith is [Client.Listen] with options.
func (c *Client) ListenWith(ctx context.Context, name string, options ListenOptions) (*Listener, error) {
	name = strings.Trim(name, "/")
	if _, err := schemas.ParseTopic(name); err != nil {
		return nil, fmt.Errorf("listen on %q: %w", name, err)
	}
	if options.Backlog <= 0 {
		options.Backlog = DefaultBacklog
	}
	if options.Requests <= 0 {
		options.Requests = DefaultRequests
	}
	caller := ctx
	ctx, done, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	l := &Listener{
		client: c, name: name, options: options,
		opened: make(chan struct{}), closing: make(chan struct{}), done: make(chan struct{}),
		queue: make(chan net.Conn, options.Backlog), places: make(chan struct{}, options.Backlog),
		requests: make(chan struct{}, options.Requests), refusing: make(chan struct{}, mostRefusals),
		state: State{Phase: Connecting, Since: time.Now()},
	}
	l.ctx, l.cancel = context.WithCancel(ctx)
	go func() {
		defer done()
		l.end(l.run(), caller)
		l.tasks.Wait()
	}()
	select {
	case <-l.opened:
		return l, nil
	case <-l.done:
		l.cancel()
		return nil, l.err
	}
}

// end tells everybody that the listener is over, and why. Nothing is queued any more.
func (l *Listener) end(err error, caller context.Context) {
	switch {
	case l.isClosing():
		err = net.ErrClosed
	case caller.Err() != nil:
		err = context.Cause(caller)
	case l.ctx.Err() != nil:
		err = ErrClosed
	}
	l.err = fmt.Errorf("listen on %s: %w", l.name, err)
	l.cancel()
	l.tell(State{Phase: Ended, Since: time.Now(), Why: err})
	close(l.done)
}

// Accept waits for the next connection. Its error is that of the listener's end, and
// stays: [net.ErrClosed] after Close.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closing:
		return nil, fmt.Errorf("listen on %s: %w", l.name, net.ErrClosed)
	default:
	}
	select {
	case conn := <-l.queue:
		<-l.places
		return conn, nil
	case <-l.closing:
		return nil, fmt.Errorf("listen on %s: %w", l.name, net.ErrClosed)
	case <-l.done:
		return nil, l.err
	}
}

// reserve takes a place in the backlog, if there is one.
func (l *Listener) reserve() bool {
	select {
	case l.places <- struct{}{}:
		return true
	default:
		return false
	}
}

// deliver puts a connection into its place in the backlog. What nobody accepts, since
// the listener has ended, is closed.
func (l *Listener) deliver(conn net.Conn) {
	l.queue <- conn // there is room, for it has a place
	if l.isClosing() || l.ctx.Err() != nil {
		l.empty()
	}
}

// empty closes what waits in the backlog.
func (l *Listener) empty() {
	for {
		select {
		case conn := <-l.queue:
			<-l.places
			if relayed, ok := conn.(*Conn); ok {
				_ = relayed.Abort()
			}
			conn.Close()
		default:
			return
		}
	}
}

// Close takes nothing new: Accept ends, and the gateway is told, for whose answer it
// waits 2 seconds at most. What waits in the backlog is cut; accepted connections and
// requests go on.
func (l *Listener) Close() error {
	err := fmt.Errorf("listen on %s: %w", l.name, net.ErrClosed)
	l.once.Do(func() {
		close(l.closing)
		l.empty()
		err = nil
		timer := time.NewTimer(2 * farewell)
		defer timer.Stop()
		select {
		case <-l.done:
		case <-timer.C:
		}
	})
	return err
}

func (l *Listener) isClosing() bool {
	select {
	case <-l.closing:
		return true
	default:
		return false
	}
}

// Addr is the hybrid connection's name, an [Addr].
func (l *Listener) Addr() net.Addr { return Addr(l.name) }

// State is what the listener is doing now.
func (l *Listener) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

func (l *Listener) tell(state State) {
	l.mu.Lock()
	l.state = state
	l.mu.Unlock()
	if l.options.OnState != nil {
		l.options.OnState(state)
	}
}
