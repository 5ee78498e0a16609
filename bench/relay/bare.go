package main

import (
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// The bare rendezvous is what outrelay is measured by: two WebSockets joined with the
// least work that the protocol allows. It checks no right, no name and no frame, knows
// one listener, keeps no time and counts nothing.
type bare struct {
	mu      sync.Mutex
	control net.Conn
	waiting map[string]chan net.Conn
	last    int
}

func serveBare(ready string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := announce(ready, l); err != nil {
		return err
	}
	b := &bare{waiting: map[string]chan net.Conn{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/listen", b.listen)
	mux.HandleFunc("/connect", b.connect)
	mux.HandleFunc("/accept", b.accept)
	return http.Serve(l, mux)
}

// upgrade answers a WebSocket handshake.
func upgrade(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if n := rw.Reader.Buffered(); n > 0 {
		c.Close()
		return nil, fmt.Errorf("%d bytes came before the answer", n)
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"))
	return c, err
}

func (b *bare) listen(w http.ResponseWriter, r *http.Request) {
	if c, err := upgrade(w, r); err == nil {
		b.mu.Lock()
		b.control = c
		b.mu.Unlock()
	}
}

// connect names an address to the listener, waits for it and joins the two.
func (b *bare) connect(w http.ResponseWriter, r *http.Request) {
	arrived := make(chan net.Conn, 1)
	b.mu.Lock()
	b.last++
	id := strconv.Itoa(b.last)
	b.waiting[id] = arrived
	message := "/accept?" + id
	b.control.Write(append([]byte{0x81, byte(len(message))}, message...)) //nolint:errcheck // the load notices
	b.mu.Unlock()
	listener := <-arrived
	sender, err := upgrade(w, r)
	if err != nil {
		listener.Close()
		return
	}
	go b.join(sender, listener)
}

func (b *bare) accept(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	arrived := b.waiting[r.URL.RawQuery]
	delete(b.waiting, r.URL.RawQuery)
	b.mu.Unlock()
	if c, err := upgrade(w, r); err == nil {
		arrived <- c
	}
}

func (b *bare) join(sender, listener net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { carry(sender, listener) })
	carry(listener, sender)
	both.Wait()
}

// carry passes frames on: it takes the masks off in place and writes what it has read,
// once.
func carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 32<<10)
	kept := 0       // bytes of a header whose rest has not come
	var left int    // of the frame's payload
	var word uint64 // the key, twice, from the next byte on
	for {
		n, err := from.Read(b[kept:])
		if n == 0 && err != nil {
			return
		}
		end := kept + n
		r, w, begin := 0, 0, 0 // read up to r; what goes out is b[begin:w]
		for r < end {
			if left > 0 {
				n := min(left, end-r)
				word = unmask(b[w:w+n], b[r:r+n], word)
				r, w, left = r+n, w+n, left-n
				continue
			}
			size := 2
			if end-r >= size {
				switch b[r+1] & 0x7f {
				case 126:
					size = 4
				case 127:
					size = 10
				}
			}
			if end-r < size+4 {
				break
			}
			switch size {
			case 2:
				left = int(b[r+1] & 0x7f)
			case 4:
				left = int(binary.BigEndian.Uint16(b[r+2:]))
			case 10:
				left = int(binary.BigEndian.Uint64(b[r+2:]))
			}
			key := uint64(binary.LittleEndian.Uint32(b[r+size:]))
			word = key<<32 | key
			if w == begin {
				// In front of its payload, which then stays where it is.
				begin, w = r+4, r+4
			}
			copy(b[w:], b[r:r+size])
			b[w+1] &= 0x7f
			r, w = r+size+4, w+size
		}
		if _, err := to.Write(b[begin:w]); err != nil {
			return
		}
		kept = copy(b, b[r:end])
	}
}

// stretch is how far a key is written out to take masks off many bytes at a time.
const stretch = 1024

// unmask writes src without its mask to dst, which lies at or before it, and returns the
// key for the byte that follows.
func unmask(dst, src []byte, word uint64) uint64 {
	turn := 8 * (len(src) & 3)
	if len(src) >= 2*stretch && &dst[0] == &src[0] {
		var keys [stretch]byte
		for i := 0; i < stretch; i += 8 {
			binary.LittleEndian.PutUint64(keys[i:], word)
		}
		for len(src) >= stretch {
			subtle.XORBytes(dst[:stretch], src[:stretch], keys[:])
			dst, src = dst[stretch:], src[stretch:]
		}
	}
	for len(src) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^word)
		dst, src = dst[8:], src[8:]
	}
	for i, c := range src {
		dst[i] = c ^ byte(word>>(8*i))
	}
	return word>>turn | word<<(64-turn)
}
