// Command peers measures outrelay beside its peers: the same load on each in turn,
// in one run, the server on one processor and the load on another. It writes its
// section of RESULTS.md, and cost.svg; see README.md in the folder above.
//
// It fails if a delivery is lost, doubled or out of order, and if outrelay beats the
// bare writer of ready frames, for then it measures something wrong. A goal that is
// not met is no failure: the results say so.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "serve":
		gather, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return serve(args[1], gather)
	case len(args) == 2 && args[0] == "load":
		return loadCommand(args[1])
	}
	o := options{}
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 3, "interleaved rounds; results are their medians")
	flags.DurationVar(&o.measure, "duration", 3*time.Second, "length of a measurement at most rate; at a fixed rate twice that")
	flags.BoolVar(&o.quick, "quick", false, "one short round of everything, to see that it works")
	only := flags.String("only", "", "comma-separated workloads, * for the rest of a name; all if empty")
	with := flags.String("peers", "", "comma-separated peers; all if empty")
	flags.StringVar(&o.out, "out", "", "folder whose RESULTS.md, cost.svg and results to bring up to date; standard output if empty")
	flags.StringVar(&o.binary, "outrelay", "", "the outrelay binary; built from ../../cmd/outrelay if empty")
	flags.StringVar(&o.profile, "profile", "", "folder for a CPU profile of outrelay in each measurement")
	list := flags.Bool("list", false, "list the workloads")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if o.out != "" && (o.quick || *with != "" || o.profile != "") {
		return errors.New("-out keeps whole measurements: leave out -quick, -peers and -profile")
	}
	o.only, o.peers, o.args = split(*only), split(*with), args
	if *list {
		for _, w := range plan(o) {
			fmt.Printf("%-22s %s\n", w.name, w.title)
		}
		return nil
	}
	return measureAll(o)
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// loadCommand is the load process.
func loadCommand(text string) error {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	loads := map[kind]func(spec) (result, error){deliver: deliveries, idle: idleConnections, stuck: stuckSubscribers, durable: durableSubscriptions}
	r, err := loads[s.Kind](s)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
