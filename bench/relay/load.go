package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A spec tells the load process what to do.
type spec struct {
	Peer, Address, Sink string
	PID                 int
	Workload            string
	Seconds             float64
}

// A result is what was measured.
type result struct {
	Seconds float64 // of wall time
	CPU     float64 // of the server, s
	Busy    float64 // how much of its own processor the load used
	Bytes   int64   // of payload that arrived
	Trips   int     // round trips, or streams set up
	P50     float64 // µs
	P99     float64
	KiB     float64 // of the server for an idle pair
	Growth  float64 // of the server while much was moved, MiB
	Equal   bool    // SHA-256 of what was sent and of what arrived
}

func (r result) brief() string {
	if r.Growth > 0 {
		return fmt.Sprintf("%d bytes in %.1f s, SHA-256 equal: %v, the server grew by %.1f MiB", r.Bytes, r.Seconds, r.Equal, r.Growth)
	}
	if r.KiB > 0 {
		return fmt.Sprintf("%.1f KiB a pair", r.KiB)
	}
	if r.Bytes > 0 {
		return fmt.Sprintf("%.2f GB/s, %.3f CPU s/GB, load %.0f %%", r.gigabytes(), r.perGigabyte(), 100*r.Busy)
	}
	return fmt.Sprintf("%.0f/s, p50 %.0f µs, p99 %.0f µs, load %.0f %%", r.rate(), r.P50, r.P99, 100*r.Busy)
}

func (r result) gigabytes() float64   { return float64(r.Bytes) / 1e9 / r.Seconds }
func (r result) perGigabyte() float64 { return r.CPU / (float64(r.Bytes) / 1e9) }
func (r result) rate() float64        { return float64(r.Trips) / r.Seconds }
func (r result) p50() float64         { return r.P50 }

// A run is one measurement.
type run struct {
	length time.Duration
	result
}

// A workload is one way of loading a peer.
type workload struct {
	name, title string
	run         func(*world, *run) error
	peers       []string // that take part
}

var workloads = []workload{
	{"stream", "one stream, one way", func(w *world, r *run) error { return w.streams(1, r) }, joiners},
	{"stream-4", "four streams, one way", func(w *world, r *run) error { return w.streams(4, r) }, joiners},
	{"trip", "messages of 64 bytes there and back, one at a time", func(w *world, r *run) error { return w.trips(1, r) }, joiners},
	{"trip-4", "the same, four at a time", func(w *world, r *run) error { return w.trips(4, r) }, joiners},
	{"setup", "streams set up, used for one message there and back, and ended, eight at a time", (*world).setups, joiners},
	{"idle", "1,000 idle pairs", (*world).idle, joiners},
	{"much", "1 GiB through one pair, beside 1,000 idle ones", (*world).much, []string{"outrelay", "bare"}},
	{"http", "HTTP requests of 64 bytes and their answers, eight at a time", (*world).requests, []string{"outrelay", "proxy"}},
}

func workloadNames() (names []string) {
	for _, w := range workloads {
		names = append(names, w.name)
	}
	return names
}

// A world is the load's side of a peer: its senders, and the listener that they reach.
type world struct {
	spec
	framed  bool
	echo    atomic.Bool // what the listener does with what comes
	arrived atomic.Int64
	digest  hash.Hash // of what arrives on one stream; nil if nobody asks
	fault   atomic.Pointer[error]
	close   func()
	kept    []net.Conn
}

func (w *world) fail(err error) {
	if err != nil {
		w.fault.CompareAndSwap(nil, &err)
	}
}

func loadCommand(text string) error {
	w := &world{}
	if err := json.Unmarshal([]byte(text), &w.spec); err != nil {
		return err
	}
	w.framed = w.Peer == "outrelay" || w.Peer == "bare"
	if err := w.listen(); err != nil {
		return err
	}
	i := slices.IndexFunc(workloads, func(l workload) bool { return l.name == w.Workload })
	r := run{length: time.Duration(w.Seconds * float64(time.Second))}
	if err := workloads[i].run(w, &r); err != nil {
		return err
	}
	w.close()
	if err := w.fault.Load(); err != nil {
		return *err
	}
	return json.NewEncoder(os.Stdout).Encode(r.result)
}

// listen starts the listener.
func (w *world) listen() error {
	if w.Peer == "proxy" {
		return w.serveSink()
	}
	if !w.framed {
		l, err := net.Listen("tcp", w.Sink)
		if err != nil {
			return err
		}
		w.close = func() { l.Close() }
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go w.serve(c, bufio.NewReader(c))
			}
		}()
		return nil
	}
	path := "/listen"
	if w.Peer == "outrelay" {
		path = "/$hc/bench?sb-hc-action=listen"
	}
	control, in, err := handshake(w.Address, path)
	if err != nil {
		return err
	}
	w.close = func() { control.Close() }
	go func() {
		for {
			first, payload, err := readFrame(in)
			if err != nil {
				return
			}
			switch first {
			case 0x89:
				control.Write(appendFrame(nil, 0x8A, payload)) //nolint:errcheck // the reader notices
			case 0x81:
				if bytes.HasPrefix(payload, []byte(`{"request"`)) {
					w.fail(w.respond(control, in, payload))
					continue
				}
				go w.answer(payload)
			}
		}
	}()
	return nil
}

// answer dials the address of a message on the control channel.
func (w *world) answer(message []byte) {
	address, path := w.Address, string(message)
	if w.Peer == "outrelay" {
		var m struct{ Accept struct{ Address string } }
		if err := json.Unmarshal(message, &m); err != nil {
			w.fail(err)
			return
		}
		u, err := url.Parse(m.Accept.Address)
		if err != nil {
			w.fail(err)
			return
		}
		address, path = u.Host, u.RequestURI()
	}
	c, in, err := handshake(address, path)
	if err != nil {
		w.fail(fmt.Errorf("the listener's rendezvous: %w", err))
		return
	}
	w.serve(c, in)
}

// handshake opens a WebSocket.
func handshake(address, path string) (net.Conn, *bufio.Reader, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, address)
	in := bufio.NewReaderSize(c, 4<<10)
	answer, err := http.ReadResponse(in, nil)
	if err == nil && answer.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("%s: %s", path, answer.Status)
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, in, nil
}

// dial opens a stream to the listener.
func (w *world) dial() (net.Conn, *bufio.Reader, error) {
	switch {
	case w.Peer == "outrelay":
		return handshake(w.Address, "/$hc/bench?sb-hc-action=connect")
	case w.framed:
		return handshake(w.Address, "/connect")
	}
	c, err := net.Dial("tcp", w.Address)
	return c, bufio.NewReader(c), err
}

// readFrame reads a frame of a server.
func readFrame(in *bufio.Reader) (first byte, payload []byte, err error) {
	first, n, err := readHeader(in)
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(in, payload)
	return first, payload, err
}

func readHeader(in *bufio.Reader) (first byte, n int, err error) {
	var h [10]byte
	if _, err := io.ReadFull(in, h[:2]); err != nil {
		return 0, 0, err
	}
	switch n = int(h[1]); n {
	case 126:
		if _, err := io.ReadFull(in, h[2:4]); err != nil {
			return 0, 0, err
		}
		n = int(binary.BigEndian.Uint16(h[2:]))
	case 127:
		if _, err := io.ReadFull(in, h[2:10]); err != nil {
			return 0, 0, err
		}
		n = int(binary.BigEndian.Uint64(h[2:]))
	}
	return h[0], n, nil
}

// appendFrame appends a client's frame with a random key.
func appendFrame(dst []byte, first byte, payload []byte) []byte {
	dst = append(dst, first)
	if n := len(payload); n < 126 {
		dst = append(dst, 0x80|byte(n))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	}
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], rand.Uint32())
	dst = append(dst, key[:]...)
	for i, c := range payload {
		dst = append(dst, c^key[i&3])
	}
	return dst
}

// Streams carry a pattern again and again, in messages of messageBytes.
const messageBytes = 16 << 10

var pattern = func() []byte {
	b := make([]byte, messageBytes)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}()

// serve is the listener's end of a stream: it echoes messages, or checks the pattern.
func (w *world) serve(c net.Conn, in *bufio.Reader) {
	defer c.Close()
	if w.echo.Load() {
		w.echoes(c, in)
		return
	}
	w.checks(c, in)
}

func (w *world) echoes(c net.Conn, in *bufio.Reader) {
	b := make([]byte, tripBytes)
	for {
		if !w.framed {
			if _, err := io.ReadFull(in, b); err != nil {
				return
			}
			c.Write(b) //nolint:errcheck // the sender notices
			continue
		}
		first, payload, err := readFrame(in)
		if err != nil {
			return
		}
		if first == 0x88 {
			c.Write(appendFrame(nil, 0x88, payload)) //nolint:errcheck // it ends anyway
			return
		}
		c.Write(appendFrame(nil, first, payload)) //nolint:errcheck // the sender notices
	}
}

// checks compares what arrives with the pattern, frame by frame as it comes.
func (w *world) checks(c net.Conn, in *bufio.Reader) {
	b := make([]byte, 256<<10)
	at := 0 // place in the pattern
	check := func(p []byte) bool {
		for len(p) > 0 {
			n := min(len(p), len(pattern)-at)
			if !bytes.Equal(p[:n], pattern[at:at+n]) {
				w.fail(errors.New("other bytes arrived than were sent"))
				return false
			}
			if w.digest != nil {
				w.digest.Write(p[:n])
			}
			w.arrived.Add(int64(n)) // last: who waits for it reads the digest then
			if at += n; at == len(pattern) {
				at = 0
			}
			p = p[n:]
		}
		return true
	}
	var kept []byte // the beginning of a header
	left := 0       // of the frame
	reader := io.MultiReader(bytes.NewReader(peeked(in)), c)
	for {
		n, err := reader.Read(b)
		p := b[:n]
		if !w.framed {
			if !check(p) {
				return
			}
		} else {
			if len(kept) > 0 {
				p = append(kept, p...)
				kept = nil
			}
			for len(p) > 0 {
				if left > 0 {
					n := min(left, len(p))
					if !check(p[:n]) {
						return
					}
					p, left = p[n:], left-n
					continue
				}
				size, length := header(p)
				if size == 0 {
					kept = append(kept, p...)
					break
				}
				if p[0] != 0x82 {
					return // a Close frame
				}
				p, left = p[size:], length
			}
		}
		if err != nil {
			return
		}
	}
}

// peeked takes what a reader holds.
func peeked(in *bufio.Reader) []byte {
	b, _ := in.Peek(in.Buffered()) // as much as is there
	return bytes.Clone(b)
}

// header reads a server's frame header; size is 0 if not all of it is there.
func header(p []byte) (size, length int) {
	if len(p) < 2 {
		return 0, 0
	}
	switch p[1] {
	case 126:
		if len(p) < 4 {
			return 0, 0
		}
		return 4, int(binary.BigEndian.Uint16(p[2:]))
	case 127:
		if len(p) < 10 {
			return 0, 0
		}
		return 10, int(binary.BigEndian.Uint64(p[2:]))
	}
	return 2, int(p[1])
}

// A stopwatch measures the server's and the load's processor time over a stretch.
type stopwatch struct {
	began       time.Time
	server, own time.Duration
}

func (w *world) begin() (s stopwatch, err error) {
	if s.server, err = processorTime(w.PID); err != nil {
		return s, err
	}
	if s.own, err = processorTime(os.Getpid()); err != nil {
		return s, err
	}
	s.began = time.Now()
	return s, nil
}

func (w *world) end(s stopwatch, r *run) error {
	r.Seconds = time.Since(s.began).Seconds()
	server, err := processorTime(w.PID)
	if err != nil {
		return err
	}
	own, err := processorTime(os.Getpid())
	if err != nil {
		return err
	}
	r.CPU, r.Busy = (server - s.server).Seconds(), (own-s.own).Seconds()/r.Seconds
	return nil
}

// warmUp is before every measurement.
const warmUp = 300 * time.Millisecond

// streams sends the pattern on n streams.
func (w *world) streams(n int, r *run) error {
	var batches [8][]byte // ready to send, with keys of their own
	for i := range batches {
		for range 4 {
			if w.framed {
				batches[i] = appendFrame(batches[i], 0x82, pattern)
			} else {
				batches[i] = append(batches[i], pattern...)
			}
		}
	}
	var stopped atomic.Bool
	var writers sync.WaitGroup
	for range n {
		c, _, err := w.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		writers.Go(func() {
			for i := 0; !stopped.Load(); i++ {
				c.SetWriteDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the write will say it
				if _, err := c.Write(batches[i%len(batches)]); err != nil {
					w.fail(fmt.Errorf("a sender: %w", err))
					return
				}
			}
		})
	}
	time.Sleep(warmUp)
	before := w.arrived.Load()
	s, err := w.begin()
	if err != nil {
		return err
	}
	time.Sleep(r.length)
	r.Bytes = w.arrived.Load() - before
	err = w.end(s, r)
	stopped.Store(true)
	writers.Wait()
	if r.Bytes == 0 {
		return errors.New("nothing arrived")
	}
	return err
}

// idlePairs is how many are open while nothing moves on them.
const idlePairs = 1000

// open joins n pairs, each used once.
func (w *world) open(n int) error {
	for range n {
		c, in, err := w.dial()
		if err != nil {
			return err
		}
		if err := w.trip(c, in, make([]byte, tripBytes), make([]byte, tripBytes)); err != nil {
			return err
		}
		w.kept = append(w.kept, c)
	}
	return nil
}

// idle joins pairs and lets them be.
func (w *world) idle(r *run) error {
	w.echo.Store(true)
	if w.PID == 0 {
		return nil
	}
	if err := w.open(100); err != nil { // what is made once
		return err
	}
	time.Sleep(r.length)
	before, err := resident(w.PID)
	if err != nil {
		return err
	}
	if err := w.open(idlePairs); err != nil {
		return err
	}
	time.Sleep(r.length)
	after, err := resident(w.PID)
	if err != nil {
		return err
	}
	r.Seconds, r.Trips, r.KiB = r.length.Seconds(), idlePairs, (after-before)/idlePairs
	for _, c := range w.kept {
		c.Close()
	}
	return nil
}

// muchBytes is how much goes through one pair.
const muchBytes = 1 << 30

// much moves much through one pair beside idle ones, and compares SHA-256 at both ends.
func (w *world) much(r *run) error {
	w.echo.Store(true)
	if err := w.open(idlePairs); err != nil {
		return err
	}
	w.echo.Store(false)
	arrived := sha256.New()
	w.digest = arrived
	before, err := resident(w.PID)
	if err != nil {
		return err
	}
	s, err := w.begin()
	if err != nil {
		return err
	}
	c, _, err := w.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	sent, most := sha256.New(), before
	for n := 0; n < muchBytes; n += len(pattern) {
		c.SetWriteDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the write will say it
		if _, err := c.Write(appendFrame(nil, 0x82, pattern)); err != nil {
			return fmt.Errorf("the sender: %w", err)
		}
		sent.Write(pattern)
		if n%(16<<20) == 0 {
			now, err := resident(w.PID)
			if err != nil {
				return err
			}
			most = max(most, now)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); w.arrived.Load() < muchBytes; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d bytes of %d arrived", w.arrived.Load(), muchBytes)
		}
	}
	if err := w.end(s, r); err != nil {
		return err
	}
	r.Bytes, r.Growth = w.arrived.Load(), max(most-before, 1)/1024
	if r.Equal = bytes.Equal(sent.Sum(nil), arrived.Sum(nil)); !r.Equal {
		return errors.New("SHA-256 differs at the ends")
	}
	for _, c := range w.kept {
		c.Close()
	}
	return nil
}

const tripBytes = 64

// trip sends a message and waits until it is back.
func (w *world) trip(c net.Conn, in *bufio.Reader, message, back []byte) error {
	c.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the read will say it
	if !w.framed {
		if _, err := c.Write(message); err != nil {
			return err
		}
		_, err := io.ReadFull(in, back)
		return err
	}
	if _, err := c.Write(appendFrame(make([]byte, 0, 80), 0x82, message)); err != nil {
		return err
	}
	first, n, err := readHeader(in)
	if err != nil {
		return err
	}
	if first != 0x82 || n != len(back) {
		return fmt.Errorf("got frame %#x of %d bytes", first, n)
	}
	_, err = io.ReadFull(in, back)
	return err
}

// trips measures round trips, n at a time, each on a stream of its own.
func (w *world) trips(n int, r *run) error {
	w.echo.Store(true)
	return w.parallel(n, r, func() (func(message, back []byte) error, func(), error) {
		c, in, err := w.dial()
		if err != nil {
			return nil, nil, err
		}
		return func(message, back []byte) error { return w.trip(c, in, message, back) }, func() { c.Close() }, nil
	})
}

// setups measures how fast streams are set up.
func (w *world) setups(r *run) error {
	w.echo.Store(true)
	return w.parallel(8, r, func() (func(message, back []byte) error, func(), error) {
		return func(message, back []byte) error {
			c, in, err := w.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			return w.trip(c, in, message, back)
		}, func() {}, nil
	})
}

// parallel does something n times at a time, again and again, and times each.
func (w *world) parallel(n int, r *run, open func() (do func(message, back []byte) error, end func(), err error)) error {
	var measuring, stopped atomic.Bool
	var workers sync.WaitGroup
	took := make([][]time.Duration, n)
	for i := range n {
		do, end, err := open()
		if err != nil {
			return err
		}
		workers.Go(func() {
			defer end()
			message, back := bytes.Repeat([]byte{byte('a' + i)}, tripBytes), make([]byte, tripBytes)
			for !stopped.Load() {
				began := time.Now()
				if err := do(message, back); err != nil {
					w.fail(fmt.Errorf("a sender: %w", err))
					return
				}
				if !bytes.Equal(message, back) {
					w.fail(errors.New("another message came back"))
					return
				}
				if measuring.Load() {
					took[i] = append(took[i], time.Since(began))
				}
			}
		})
	}
	time.Sleep(warmUp)
	s, err := w.begin()
	if err != nil {
		return err
	}
	measuring.Store(true)
	time.Sleep(r.length)
	measuring.Store(false)
	err = w.end(s, r)
	stopped.Store(true)
	workers.Wait()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		return errors.Join(errors.New("nothing came back"), err)
	}
	r.Trips = len(all)
	r.P50 = float64(all[len(all)/2].Nanoseconds()) / 1e3
	r.P99 = float64(all[len(all)*99/100].Nanoseconds()) / 1e3
	return err
}
