package main

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stuckBuffer is the receive buffer of a subscriber that does not read, bytes; the
	// kernel makes more of it.
	stuckBuffer = 2304
	// readingBuffer is what it has once it reads again.
	readingBuffer = 256 << 10
	// pongs is how often a stuck subscriber says that it is alive (protocol section 4).
	pongs = 20 * time.Second
	// ringBytes is outrelay's default for limits.ringbytes.
	ringBytes = 32 << 20
	// catchUpTime is how long reading again may go without any progress.
	catchUpTime = 30 * time.Second
)

// stuckSubscribers publishes the spec's burst while stuck subscribers of topic 0 read
// nothing, then has them read and looks at what each gets.
func stuckSubscribers(s spec) (result, error) {
	var r result
	e, err := newEngine(s)
	if err != nil {
		return r, err
	}
	if err := e.connect(); err != nil {
		return r, err
	}
	e.wait(time.Second)
	before, err := resident(s.PID)
	if err != nil {
		return r, err
	}
	look, pong := after(0), after(pongs)
	watch := func(growth *float64) {
		if look() {
			look = after(50 * time.Millisecond)
			if now, err := resident(s.PID); err == nil {
				*growth = max(*growth, (now-before)/1024)
			}
		}
	}
	m, err := e.begin()
	if err != nil {
		return r, err
	}
	e.saturate(func() bool {
		watch(&r.GrowthMiB)
		if pong() {
			pong = after(pongs)
			for _, c := range e.stuck {
				c.out = appendClientFrame(c.out, framePong, nil)
				e.write(c)
			}
		}
		return e.published() >= s.Burst
	})
	e.drain()
	watch(&r.GrowthMiB)
	if err := m.end(&r); err != nil {
		return r, err
	}
	r.PublishedMiB = float64(e.published()) * float64(s.Size) / (1 << 20)
	if r.Unsent, err = e.unsent(); err != nil {
		return r, err
	}
	r.Ring = ringBytes / s.Size / s.Topics
	if s.Stuck > 0 && r.Unsent <= r.Ring {
		e.fault("a stuck subscriber was owed %d events, which the ring may hold (%d)", r.Unsent, r.Ring)
	}
	r.ReadingMiB = r.GrowthMiB
	began := time.Now()
	if err := e.readAgain(func() { watch(&r.ReadingMiB) }); err != nil {
		return r, err
	}
	r.CatchUpFor = time.Since(began).Seconds()
	for _, c := range e.stuck {
		r.Checked += c.received
		r.Missed += c.missed
		r.Notices += c.notices
		if c.received+c.missed == e.onTopic0() {
			r.CaughtUp++
		}
	}
	r.Checked += e.total
	r.Wrong = e.wrong
	e.close()
	return r, nil
}

// onTopic0 is how many events were published on topic 0.
func (e *engine) onTopic0() (n int) {
	for _, sent := range e.sent {
		n += (sent + e.spec.Topics - 1) / e.spec.Topics
	}
	return n
}

// unsent is how many events of topic 0 the server still owes, at least, to the stuck
// subscriber that it owes least: those that lie neither in the subscriber's socket
// nor in the server's.
func (e *engine) unsent() (int, error) {
	if len(e.stuck) == 0 {
		return 0, nil
	}
	queued, err := sendQueues(e.spec.Address)
	if err != nil {
		return 0, err
	}
	least := e.onTopic0()
	for _, c := range e.stuck {
		info, err := unix.GetsockoptTCPInfo(int(c.fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return 0, err
		}
		local, err := unix.Getsockname(int(c.fd))
		if err != nil {
			return 0, err
		}
		a := local.(*unix.SockaddrInet4)
		bytes := int(info.Bytes_received) + queued[netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))]
		least = min(least, e.onTopic0()-bytes/e.spec.Size)
	}
	return least, nil
}

// sendQueues is what the kernel holds of what a server wrote and its clients have
// not taken, by the client's address.
func sendQueues(address string) (map[netip.AddrPort]int, error) {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	queues := map[netip.AddrPort]int{}
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		local, ok := hexAddress(f[1])
		if !ok || local.Port() != at.Port() {
			continue
		}
		remote, ok := hexAddress(f[2])
		tx, _, _ := strings.Cut(f[4], ":")
		n, err := strconv.ParseInt(tx, 16, 64)
		if ok && err == nil {
			queues[remote] = int(n)
		}
	}
	return queues, nil
}

// hexAddress reads an address as /proc/net/tcp has it on a little-endian machine.
func hexAddress(s string) (netip.AddrPort, bool) {
	ip, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(ip)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(b) != 4 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}), uint16(p)), true
}

// readAgain has the stuck subscribers read until each has come to the end.
func (e *engine) readAgain(each func()) error {
	for _, c := range e.stuck {
		if err := unix.SetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_RCVBUF, readingBuffer); err != nil {
			return err
		}
		if err := e.watch(c); err != nil {
			return fmt.Errorf("watch a stuck subscriber: %w", err)
		}
	}
	behind := func() (n, received int) {
		for _, c := range e.stuck {
			received += c.received + c.missed
			if c.received+c.missed < e.onTopic0() {
				n++
			}
		}
		return n, received
	}
	last, progress := 0, time.Now()
	quiet := false
	for len(e.wrong) == 0 {
		for range 100 {
			e.turn(1)
		}
		each()
		n, received := behind()
		if n == 0 && (quiet || len(e.stuck) == 0) {
			return nil
		}
		if received > last {
			last, progress = received, time.Now()
			continue
		}
		if n == 0 || !quiet && time.Since(progress) > time.Second {
			// A few more events: who was told of a gap sees that it goes on.
			quiet = true
			more := e.published() + 4*e.spec.Topics
			e.saturate(func() bool { return e.published() >= more })
			e.drain()
		}
		if time.Since(progress) > catchUpTime {
			e.fault("%d stuck subscribers did not come to the end", n)
		}
	}
	return nil
}
