package e2e

import (
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A cutter passes TCP connections on to a gateway, and resets them, with an RST to
// both sides, after as many bytes of the answer as it is told: mostly inside a frame.
type cutter struct {
	listener net.Listener
	target   string
	tasks    sync.WaitGroup

	mu    sync.Mutex
	limit func() int            // for the next connection; nil passes everything
	conns map[net.Conn]struct{} // both ends of what is open
	spare []int                 // what connections that ended by themselves had left
	cuts  int                   // connections that reached their limit
	came  []time.Time           // when each connection came
}

// newCutter starts one in front of target, a host and port. It ends with the test.
func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, target: target, conns: map[net.Conn]struct{}{}}
	c.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.came = append(c.came, time.Now())
			c.mu.Unlock()
			c.tasks.Go(func() { c.pass(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.cutAll()
		c.tasks.Wait()
	})
	return c
}

// address is where clients reach the gateway through the cutter.
func (c *cutter) address() string { return "http://" + c.listener.Addr().String() }

// cutting sets what says after how many bytes of the answer a connection is reset,
// -1 for never. It is called for new connections, for one at a time; one that ends
// before its limit leaves the rest of it to the next.
func (c *cutter) cutting(limit func() int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = limit
}

// count is how many connections reached their limit.
func (c *cutter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cuts
}

// mark is a moment for attempts.
func (c *cutter) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.came)
}

// attempts is when each connection came since a mark, whether a gateway was there or not.
func (c *cutter) attempts(mark int) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.came[mark:])
}

// cutAll resets whatever is open, not counted.
func (c *cutter) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		reset(conn)
	}
}

// reset closes a connection with an RST.
func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0) // it fails on one that is closed already
	_ = conn.Close()
}

// pass owns one connection of a client, and the one to the gateway behind it.
func (c *cutter) pass(client net.Conn) {
	gateway, err := net.Dial("tcp", c.target)
	if err != nil {
		reset(client)
		return
	}
	left := -1
	c.mu.Lock()
	if n := len(c.spare) - 1; n >= 0 {
		left, c.spare = c.spare[n], c.spare[:n]
	} else if c.limit != nil {
		left = c.limit()
	}
	c.conns[client], c.conns[gateway] = struct{}{}, struct{}{}
	c.mu.Unlock()
	var up sync.WaitGroup
	defer func() {
		client.Close()
		gateway.Close()
		up.Wait()
		c.mu.Lock()
		if left > 0 {
			c.spare = append(c.spare, left)
		}
		delete(c.conns, client)
		delete(c.conns, gateway)
		c.mu.Unlock()
	}()
	up.Go(func() {
		b := make([]byte, 16<<10)
		for {
			n, err := client.Read(b)
			if _, failed := gateway.Write(b[:n]); failed != nil || err != nil {
				_ = gateway.(*net.TCPConn).CloseWrite() // it may be gone already
				return
			}
		}
	})
	b := make([]byte, 16<<10)
	for {
		n, err := gateway.Read(b)
		if left >= 0 {
			n = min(n, left)
			left -= n
		}
		if _, failed := client.Write(b[:n]); failed != nil {
			reset(gateway)
			return
		}
		if left == 0 {
			c.mu.Lock()
			c.cuts++
			c.mu.Unlock()
			reset(client)
			reset(gateway)
			return
		}
		if err != nil {
			return
		}
	}
}

// seedVariable is the environment variable with which a run's chances are repeated.
const seedVariable = "OUTRELAY_SEED"

// chance is a source of chance whose seed is printed.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if given := os.Getenv(seedVariable); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	t.Logf("seed %d; %s=%[1]d repeats it", seed, seedVariable)
	return rand.New(rand.NewPCG(seed, seed))
}
