package frame

import (
	"net"
	"slices"
	"sync"
)

// An Outlet is a Socket's way out for joined frames. All that a write touches lies
// together: who writes to a thousand sockets in turn finds nothing of the last round in
// the processor's cache. Get one from [Socket.Outlet]. It may be used from any goroutine.
type Outlet struct {
	mu       sync.Mutex // of all that follows
	way      way
	direct   bool // nothing stands between: no TLS, and no Close frame was sent
	closed   bool
	detached bool
	deflate  bool   // does not change
	kept     []byte // what the socket refused, to be written before all else
	socket   *Socket
}

// Outlet is the socket's way out. Both write in turn, and may be used together.
func (s *Socket) Outlet() *Outlet { return &s.conn.Outlet }

// Deflate says that the client takes compressed messages.
func (o *Outlet) Deflate() bool { return o.deflate }

// TryWrite is [Socket.TryWrite].
func (o *Outlet) TryWrite(b []byte, ends []int, base int) (frames int, err error) {
	o.mu.Lock()
	if !o.direct {
		o.mu.Unlock()
		return o.socket.TryWrite(b, ends, base)
	}
	frames, err = o.tryFrames(b, ends, base)
	o.mu.Unlock()
	return frames, err
}

// attach makes o the way out of a socket.
func (o *Outlet) attach(s *Socket, deflate bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.socket, o.deflate, o.direct = s, deflate, s.tls == nil && !o.closed
}

// detach makes writes not wait any more.
func (o *Outlet) detach() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.detached = true
}

// shut sends all to the socket, which knows why nothing more may be written.
func (o *Outlet) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.direct = false
}

// full says whether something is kept. mu is held.
func (o *Outlet) full() bool { return len(o.kept) > 0 }

// put writes b after what is kept, and keeps the rest. mu is held.
func (o *Outlet) put(b []byte) error {
	if len(o.kept) == 0 {
		n, err := o.try(b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	if len(b) > 0 {
		o.kept = append(o.kept, b...)
	}
	return nil
}

// try writes what the socket takes at once. A descriptor that was closed may be another
// connection's. mu is held.
func (o *Outlet) try(b []byte) (int, error) {
	if o.closed {
		return 0, net.ErrClosed
	}
	return o.way.write(b)
}

// tryFrames is TryWrite without TLS. mu is held.
func (o *Outlet) tryFrames(b []byte, ends []int, base int) (frames int, err error) {
	if o.full() {
		return 0, nil
	}
	n, err := o.try(b)
	if err != nil {
		return 0, err
	}
	if n == len(b) {
		return len(ends), nil
	}
	frames, whole := slices.BinarySearch(ends, n+base)
	if whole {
		return frames + 1, nil
	}
	begun := 0
	if frames > 0 {
		begun = ends[frames-1] - base
	}
	if n == begun {
		return frames, nil
	}
	o.kept = append(o.kept, b[n:ends[frames]-base]...)
	return frames + 1, nil
}
