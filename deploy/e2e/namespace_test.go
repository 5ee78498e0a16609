package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A namespace is a network of its own on this machine, as good as a host: it has no
// connections to others but those that a test makes. Root is needed.
type namespace struct {
	t    *testing.T
	name string
}

var namespaces atomic.Int32

// newNamespace makes a network that goes when the test is over.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t, fmt.Sprintf("outrelay-%d-%d", os.Getpid(), namespaces.Add(1))}
	system(t, "ip", "netns", "add", n.name)
	t.Cleanup(func() { system(t, "ip", "netns", "delete", n.name) })
	n.run("ip", "link", "set", "lo", "up")
	return n
}

// system runs a command that must succeed.
func system(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// in is what to put before a command so that it runs in the network.
func (n *namespace) in() []string { return []string{"ip", "netns", "exec", n.name} }

func (n *namespace) run(args ...string) {
	n.t.Helper()
	system(n.t, "ip", append([]string{"netns", "exec", n.name}, args...)...)
}

// wire joins two networks by a cable whose ends have addresses with a prefix length.
func (n *namespace) wire(own string, other *namespace, theirs string) {
	n.t.Helper()
	end := fmt.Sprintf("or%d", namespaces.Add(1))
	system(n.t, "ip", "link", "add", end, "netns", n.name, "type", "veth", "peer", "name", end, "netns", other.name)
	for _, e := range []struct {
		n       *namespace
		address string
	}{{n, own}, {other, theirs}} {
		e.n.run("ip", "address", "add", e.address, "dev", end)
		e.n.run("ip", "link", "set", end, "up")
	}
}

// firewall loads rules of nftables.
func (n *namespace) firewall(rules string) {
	n.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", n.name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("nft: %v\n%s", err, out)
	}
}

// counter is how many packets a counter of the table "firewall" has seen.
func (n *namespace) counter(name string) string {
	n.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", n.name, "nft", "list", "counter", "inet", "firewall", name).CombinedOutput()
	if err != nil {
		n.t.Fatalf("nft: %v\n%s", err, out)
	}
	_, packets, _ := strings.Cut(string(out), "packets ")
	packets, _, _ = strings.Cut(packets, " ")
	return packets
}

// inside runs f on a thread that is in the network: a socket that f opens belongs to it
// for good.
func (n *namespace) inside(f func() error) error {
	failed := make(chan error, 1)
	go func() { // ends with f; the thread goes with it if it can't be brought back
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			failed <- err
			return
		}
		defer unix.Close(home)
		away, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			failed <- err
			return
		}
		defer unix.Close(away)
		if err := unix.Setns(away, unix.CLONE_NEWNET); err != nil {
			failed <- err
			return
		}
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		failed <- err
	}()
	return <-failed
}

// listen listens on an address of the network.
func (n *namespace) listen(address string) net.Listener {
	n.t.Helper()
	var l net.Listener
	err := n.inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close() })
	return l
}

// dial connects from the network to an address, which must be one and no name.
func (n *namespace) dial(d net.Dialer, address string) (conn net.Conn, err error) {
	err = n.inside(func() (err error) {
		conn, err = d.Dial("tcp", address)
		return err
	})
	return conn, err
}
