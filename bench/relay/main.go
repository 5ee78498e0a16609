// Command relay measures what the relay of outrelay costs: in one run the same bytes go
// through a direct TCP connection, outrelay, nginx's stream proxy and a bare rendezvous
// of two WebSockets, and HTTP requests through outrelay and a reverse proxy of net/http,
// the server on one processor and the load on another. It writes a section of RESULTS.md;
// see README.md in the folder above.
//
// It fails if a byte is lost or changed, and if outrelay needs clearly less than the bare
// rendezvous, for then it measures something wrong. A goal that is not met is no failure:
// the results say so.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds      int
	measure     time.Duration
	only, peers []string
	out, binary string
	profile     string
}

func command(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "bare":
		return serveBare(args[1])
	case len(args) == 3 && args[0] == "proxy":
		return serveProxy(args[1], args[2])
	case len(args) == 2 && args[0] == "load":
		return loadCommand(args[1])
	}
	var o options
	flags := flag.NewFlagSet("relay", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 5, "interleaved rounds; results are their medians")
	flags.DurationVar(&o.measure, "duration", 2*time.Second, "length of a measurement")
	only := flags.String("only", "", "comma-separated workloads; all if empty: "+strings.Join(workloadNames(), ", "))
	with := flags.String("peers", "", "comma-separated peers; all if empty: "+strings.Join(peers, ", "))
	flags.StringVar(&o.out, "out", "", "folder of the RESULTS.md whose section to write anew; standard output if empty")
	flags.StringVar(&o.binary, "outrelay", "", "the outrelay binary; built from ../../cmd/outrelay if empty")
	flags.StringVar(&o.profile, "profile", "", "file for a processor profile of outrelay in its last measurement")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	o.only, o.peers = split(*only), split(*with)
	return measureAll(o)
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func among(asked []string, name string) bool {
	for _, a := range asked {
		if a == name {
			return true
		}
	}
	return len(asked) == 0
}

// measureAll takes every peer in every round, workload by workload.
func measureAll(o options) error {
	folder, err := os.MkdirTemp("", "outrelay-bench-relay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if o.binary == "" {
		if o.binary, err = build(folder); err != nil {
			return err
		}
	}
	began := time.Now()
	found := outcomes{}
	for _, w := range workloads {
		if !among(o.only, w.name) {
			continue
		}
		for round := range o.rounds {
			for _, p := range peers {
				if !among(o.peers, p) || !slices.Contains(w.peers, p) {
					continue
				}
				r, err := measure(o, folder, p, w)
				if err != nil {
					return fmt.Errorf("%s through %s: %w", w.name, p, err)
				}
				found.add(w.name, p, r)
				fmt.Fprintf(os.Stderr, "round %d  %-10s %-9s %s\n", round+1, w.name, p, r.brief())
			}
		}
	}
	text := report(o, found, time.Since(began))
	if o.out == "" {
		fmt.Print(text)
	} else if err := publish(filepath.Join(o.out, "RESULTS.md"), text); err != nil {
		return err
	}
	return tooGood(found)
}

// measure starts a server, loads it once and ends it.
func measure(o options, folder, peer string, w workload) (r result, err error) {
	sink, err := freeAddress()
	if err != nil {
		return r, err
	}
	s, err := startServer(o, folder, peer, sink)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	text, err := json.Marshal(spec{Peer: peer, Address: s.address, Sink: sink, PID: s.pid(), Workload: w.name, Seconds: o.measure.Seconds()})
	if err != nil {
		return r, err
	}
	if peer == "outrelay" && o.profile != "" {
		defer s.profile(o.profile, o.measure)()
	}
	return load(string(text))
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
