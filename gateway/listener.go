package gateway

import (
	"net"
	"sync"
	"sync/atomic"
)

// A connectionLimit counts the open connections of some listeners.
type connectionLimit struct {
	most    int64
	open    atomic.Int64
	refused atomic.Int64
}

// A listener closes what comes beyond its limit at once, so that those who are in
// keep what they need.
type listener struct {
	net.Listener
	limit *connectionLimit
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.limit.open.Add(1) > l.limit.most {
			l.limit.open.Add(-1)
			l.limit.refused.Add(1)
			c.Close()
			continue
		}
		return &connection{TCPConn: c.(*net.TCPConn), limit: l.limit}, nil
	}
}

// A connection gives its place back when it is closed. All else is the TCP
// connection's.
type connection struct {
	*net.TCPConn
	limit *connectionLimit
	once  sync.Once
}

func (c *connection) Close() error {
	c.once.Do(func() { c.limit.open.Add(-1) })
	return c.TCPConn.Close()
}
