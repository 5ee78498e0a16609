package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A large file goes through a bridge, and one comes back after the end of the first:
// both are whole, to the byte, and the end of one direction is not that of the other.
func TestBridge(t *testing.T) {
	size := int64(32 << 20)
	if soak() {
		size = 1 << 30
	}
	random := chance(t)
	g := start(t)
	server := newSumServer(t, listenLoopback(t), random.Uint64(), size)
	t.Setenv("OUTRELAY_GATEWAY", g.HTTP)
	remote := client(t, outrelay, "bridge", "-R", "files/large:"+server.address)
	remote.line(t)
	local := client(t, outrelay, "bridge", "-L", "0:files/large")
	conn, err := net.Dial("tcp", bridged(t, local))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	exchangeSums(t, conn, random.Uint64(), size, server)
	t.Logf("%d bytes each way in %v", size, time.Since(began).Round(time.Millisecond))
	for _, p := range []*process{remote, local} {
		var report struct {
			Received, Sent int64
			Error          string
		}
		if err := json.Unmarshal([]byte(p.line(t)), &report); err != nil {
			t.Fatal(err)
		}
		if report.Received < size || report.Sent < size || report.Error != "" {
			t.Errorf("%v reports %+v, want %d bytes each way and no error", p.cmd.Args[1:], report, size)
		}
	}
}

// bridged is the address of the local port that a bridge has opened.
func bridged(t *testing.T, p *process) string {
	t.Helper()
	line := p.line(t)
	if !strings.Contains(line, `"bridge":"local"`) {
		t.Fatalf("the bridge says %s", line)
	}
	return member(t, line, "address")
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A sumServer reads all that a client sends, and only then answers with its sum in a
// line, and a stream of its own.
type sumServer struct {
	address string
	sum     string // of what it sends
}

func newSumServer(t *testing.T, l net.Listener, seed uint64, size int64) *sumServer {
	s := &sumServer{address: l.Addr().String(), sum: sumOf(seed, size)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * patience))
				sum := sha256.New()
				if _, err := io.Copy(sum, conn); err != nil {
					t.Errorf("the server read %v", err)
					return
				}
				fmt.Fprintf(conn, "%x\n", sum.Sum(nil))
				if _, err := io.Copy(conn, randomBytes(seed, size)); err != nil {
					t.Errorf("the server wrote %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return s
}

// exchangeSums sends a stream to a sumServer, ends it, and reads and checks what comes.
func exchangeSums(t *testing.T, conn net.Conn, seed uint64, size int64, s *sumServer) {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(conn, randomBytes(seed, size)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	line, err := in.ReadString('\n')
	if err != nil {
		t.Fatalf("behind the end of what was sent: %v", err)
	}
	if got, want := strings.TrimSpace(line), sumOf(seed, size); got != want {
		t.Errorf("the server got a stream with the sum %s, want %s", got, want)
	}
	sum := sha256.New()
	if n, err := io.Copy(sum, in); err != nil || n != size {
		t.Errorf("got %d bytes and %v, want %d and the end", n, err, size)
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != s.sum {
		t.Errorf("what came has the sum %s, want %s", got, s.sum)
	}
}

// randomBytes are bytes by chance, the same for the same seed.
func randomBytes(seed uint64, size int64) io.Reader {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	return io.LimitReader(rand.NewChaCha8(key), size)
}

func sumOf(seed uint64, size int64) string {
	sum := sha256.New()
	_, _ = io.Copy(sum, randomBytes(seed, size)) // which can't fail
	return fmt.Sprintf("%x", sum.Sum(nil))
}
