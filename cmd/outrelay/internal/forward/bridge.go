package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/outrelay/outrelay/schemas"
)

// A Bridge joins a local port and a hybrid connection.
type Bridge struct {
	// Remote says that the hybrid connection is listened on and the local address
	// dialed (-R); else the local address is listened on (-L).
	Remote bool
	// Name is the hybrid connection's.
	Name string
	// Address is the local one: HOST:PORT.
	Address string
}

// String is the bridge as its flag has it.
func (b Bridge) String() string {
	if b.Remote {
		return "-R " + b.Name + ":" + b.Address
	}
	return "-L " + b.Address + ":" + b.Name
}

// ParseLocal reads what -L takes: [HOST:]PORT:NAME. Without a host it is loopback.
func ParseLocal(s string) (Bridge, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Bridge{}, fmt.Errorf("-L %s: give [HOST:]PORT:NAME", s)
	}
	address, err := hostPort(s[:i])
	if err == nil {
		err = checkName(s[i+1:])
	}
	if err != nil {
		return Bridge{}, fmt.Errorf("-L %s: %w; give [HOST:]PORT:NAME", s, err)
	}
	return Bridge{Name: s[i+1:], Address: address}, nil
}

// ParseRemote reads what -R takes: NAME:[HOST:]PORT. Without a host it is loopback.
func ParseRemote(s string) (Bridge, error) {
	name, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Bridge{}, fmt.Errorf("-R %s: give NAME:HOST:PORT", s)
	}
	address, err := hostPort(rest)
	if err == nil {
		err = checkName(name)
	}
	if _, port, _ := net.SplitHostPort(address); err == nil && port == "0" {
		err = errors.New("0 is no port to connect to")
	}
	if err != nil {
		return Bridge{}, fmt.Errorf("-R %s: %w; give NAME:HOST:PORT", s, err)
	}
	return Bridge{Remote: true, Name: name, Address: address}, nil
}

func hostPort(s string) (string, error) {
	host, port := "127.0.0.1", s
	if strings.Contains(s, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", fmt.Errorf("%q is no HOST:PORT", s)
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("%q is no port", port)
	}
	return net.JoinHostPort(host, port), nil
}

func checkName(name string) error {
	_, err := schemas.ParseTopic(name)
	return err
}

// ReadBridges reads bridges, one a line, as their flags have them: "-L 8022:ssh". What
// is behind a # and empty lines do not count. The errors name the line of the file.
func ReadBridges(file string, r io.Reader) ([]Bridge, error) {
	var bridges []Bridge
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var b Bridge
		err := errors.New(`give "-L [HOST:]PORT:NAME" or "-R NAME:HOST:PORT"`)
		if len(words) == 2 && words[0] == "-L" {
			b, err = ParseLocal(words[1])
		} else if len(words) == 2 && words[0] == "-R" {
			b, err = ParseRemote(words[1])
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		bridges = append(bridges, b)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return bridges, nil
}

// Run joins each connection of l, the bridge's listening side, to one that dial opens,
// at most so many at once, until ctx ends, which is no error, or l does. Then it cuts
// what is open. It closes l.
func (b Bridge) Run(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error), connections int, report func(Report)) error {
	if b.Remote {
		dial = Target{Network: "tcp", Address: b.Address}.dial
	}
	return serveStreams(ctx, l, streams{b.Name, dial, connections, func(r Report) {
		if !b.Remote { // what came from the local side went over the relay
			r.Received, r.Sent = r.Sent, r.Received
		}
		report(r)
	}})
}
