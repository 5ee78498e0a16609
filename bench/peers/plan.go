package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// options are the flags.
type options struct {
	rounds      int
	measure     time.Duration
	quick       bool
	only, peers []string
	out         string
	binary      string
	profile     string
	args        []string
}

// A workload is what is done in turn: some runs, which are compared.
type workload struct {
	name, title string
	table       table
	rounds      int
	runs        []run
}

// A run is one row of a workload's table.
type run struct {
	label  string
	spec   spec // with the peer
	gather int  // for the limit: frames joined before they are written
}

// A table is how a workload's results are shown.
type table int

const (
	rateTable    table = iota // most rate
	paceTable                 // a fixed rate, with latencies
	idleTable                 // connections
	stuckTable                // stuck subscribers
	filterTable               // cost of an event
	costTable                 // cost of a delivery against subscribers
	ackedTable                // acked deliveries beside NATS's client
	durableTable              // durable subscriptions over time
)

// underWay is how many events a publisher has under way at most rate.
const underWay = 64

// eventSize is what the peers are compared with, bytes.
const eventSize = 256

// Sizes of the stuck loads: stuckVolume is published in events of stuckSize.
const (
	stuckVolume = 1 << 30
	stuckSize   = 4 << 10
)

// plan is what the options ask for.
func plan(o options) []workload {
	measure, rounds := o.measure, o.rounds
	if o.quick {
		measure, rounds = time.Second, 1
	}
	count := func(n int) int { // of connections
		if o.quick {
			return n / 10
		}
		return n
	}

	base := spec{Kind: deliver, Publishers: 1, Topics: 1, Subscribers: 1, Size: eventSize, UnderWay: underWay, Warm: measure / 3, Measure: measure}
	flow := func(name, title string, publishers, topics, subscribers, rate int, with ...string) workload {
		s := base
		s.Publishers, s.Topics, s.Subscribers, s.Rate = publishers, topics, subscribers, rate
		w := workload{name: name, title: title, rounds: rounds}
		gather := underWay
		if rate > 0 {
			s.Measure, gather, w.table = 2*measure, 1, paceTable
		}
		for _, name := range with {
			s.Peer = name
			w.runs = append(w.runs, run{peers[name].label, s, gather})
		}
		return w
	}
	stored := func(w workload) workload {
		w.name, w.title = w.name+"-stored", w.title+"; stored"
		for i := range w.runs {
			w.runs[i].spec.Stored = true
		}
		return w
	}
	// own is a workload of outrelay with itself.
	own := func(name, title string, t table, rounds int) workload {
		return workload{name: name, title: title, table: t, rounds: rounds}
	}

	fanout := "1 publisher to 1,000 subscribers"
	fanin := "100 WebSocket publishers to 1 subscriber"
	publish := "64 publishers in sessions to 1 subscriber"
	topics := "1,000 topics with 1 subscriber each, 5,000 events/s in all"
	// JetStream's subscriber and answers come in bursts of all that is under way, more than
	// a second apart.
	longer := func(w workload) workload {
		for i := range w.runs {
			w.runs[i].spec.Measure *= 4
		}
		return w
	}
	list := []workload{
		flow("fanout", fanout+", most rate", 1, 1, 1000, 0, "outrelay", "nats", "centrifuge", "centrifuge-delayed", "limit"),
		flow("fanout-20", fanout+", 20 events/s", 1, 1, 1000, 20, "outrelay", "nats", "centrifuge", "limit"),
		flow("fanin", fanin+", most rate", 100, 1, 1, 0, "outrelay", "outrelay-stream", "nats", "centrifuge", "limit"),
		flow("topics", topics, 1, 1000, 1, 5000, "outrelay", "nats", "centrifuge", "limit"),
		stored(flow("fanout", fanout+", most rate", 1, 1, 1000, 0, "outrelay", "jetstream")),
		stored(flow("fanout-20", fanout+", 20 events/s", 1, 1, 1000, 20, "outrelay", "jetstream")),
		longer(stored(flow("fanin", fanin+", most rate", 100, 1, 1, 0, "outrelay", "jetstream"))),
		longer(stored(flow("publish-64", publish+", most rate", 64, 1, 1, 0, "outrelay", "jetstream"))),
		stored(flow("topics", topics, 1, 1000, 1, 5000, "outrelay", "jetstream")),
	}

	connections := func(s spec, n int) spec {
		s.Kind, s.Subscribers, s.Measure = idle, count(n), 10*time.Second
		if o.quick {
			s.Measure = 2 * time.Second
		}
		return s
	}
	w := own("idle", "idle connections", idleTable, min(rounds, 2))
	for _, name := range []string{"outrelay", "nats", "centrifuge"} {
		s := connections(base, 10_000)
		s.Peer = name
		w.runs = append(w.runs, run{peers[name].label + ", " + thousands(s.Subscribers), s, 1})
	}
	for _, n := range []int{10_000, 15_000} {
		s := connections(base, n)
		s.Peer, s.Secure = "outrelay", n == 10_000
		label := "outrelay, " + thousands(s.Subscribers)
		if s.Secure {
			label += " with TLS"
		}
		w.runs = append(w.runs, run{label, s, 1})
	}
	list = append(list, w)

	w = own("stuck", "1,000 subscribers that read nothing while 1 GiB is published, then read again", stuckTable, 1)
	for i := range 4 {
		kept, n := i > 1, count(1000)*(i%2)
		s := base
		s.Kind, s.Peer, s.Stuck, s.Stored, s.Size = stuck, "outrelay", n, kept, stuckSize
		// All must be read in the end by each of them, so their topic has a part of it.
		s.Topics = 8
		label := "live"
		if kept {
			s.Topics, label = 64, "stored"
		}
		if n == 0 {
			label += ", none stuck"
		}
		s.Burst = stuckVolume / stuckSize
		if o.quick {
			s.Burst /= 4
		}
		w.runs = append(w.runs, run{label, s, 1})
		if kept && n == 0 { // what the log takes by itself
			s.Peer = "jetstream"
			w.runs = append(w.runs, run{label + ", JetStream by itself", s, 1})
		}
	}
	list = append(list, w)

	w = own("stuck-one", "1 publisher to 1,000 subscribers, 20 events/s, none or one of them stuck", paceTable, rounds)
	for n, label := range []string{"none stuck", "one of a thousand stuck"} {
		s := base
		s.Peer, s.Subscribers, s.Stuck, s.Rate, s.Measure, s.Burst = "outrelay", 1000-n, n, 20, 3*measure, 20_000
		w.runs = append(w.runs, run{label, s, 1})
	}
	list = append(list, w)

	w = own("filters", "distinct filters on one topic that nothing passes, and one subscriber without a filter", filterTable, rounds)
	for _, f := range [][2]int{{0, 0}, {1, 1}, {50, 1}, {500, 1}, {500, 10}, {500, 30}} {
		if o.quick && f[0]*f[1] > 5000 {
			continue
		}
		s := base
		s.Peer, s.Filters, s.Filtered = "outrelay", f[0], f[1]
		label := fmt.Sprintf("%d filters, %d subscribers each", f[0], f[1])
		if f[0] == 0 {
			label = "no filter"
		}
		w.runs = append(w.runs, run{label, s, 1})
	}
	list = append(list, w)

	w = own("cost", "cost of a delivery against the number of subscribers, most rate", costTable, min(rounds, 3))
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		for _, name := range []string{"outrelay", "nats", "centrifuge", "limit"} {
			s := base
			s.Peer, s.Subscribers, s.Measure = name, n, min(measure, 2*time.Second)
			w.runs = append(w.runs, run{fmt.Sprintf("%s, %s", name, thousands(n)), s, underWay})
		}
	}
	list = append(list, w)

	w = own("acked", "events acked by competing subscribers, in one process, beside NATS's client", ackedTable, rounds)
	for _, n := range ackedSubscribers {
		for _, way := range ackedWays {
			s := spec{Kind: acked, Peer: way.peer, Benchmark: fmt.Sprintf("%s/%d", way.benchmark, n), Times: 20_000}
			if o.quick {
				s.Times = 2000
			}
			w.runs = append(w.runs, run{way.label(n), s, 1})
		}
	}
	list = append(list, w)

	w = own("durable", "1,000 durable subscriptions with a session each, 100 events/s in all, each event for one of them", durableTable, 1)
	s := base
	s.Kind, s.Peer, s.Stored, s.Topics, s.Rate, s.Warm, s.Measure = durable, "outrelay", true, count(1000), 100, 0, 5*time.Minute
	if o.quick {
		s.Measure = 20 * time.Second
	}
	w.runs = append(w.runs, run{"outrelay", s, 1})
	list = append(list, w)

	var chosen []workload
	for _, w := range list {
		w.runs = slices.DeleteFunc(w.runs, func(r run) bool { return !among(o.peers, r.spec.Peer) })
		if among(o.only, w.name) && len(w.runs) > 0 {
			chosen = append(chosen, w)
		}
	}
	return chosen
}

// among says whether a name was asked for; a name that ends with * stands for all
// that begin so, and nothing for all.
func among(asked []string, name string) bool {
	return len(asked) == 0 || slices.ContainsFunc(asked, func(s string) bool {
		before, all := strings.CutSuffix(s, "*")
		return s == name || all && strings.HasPrefix(name, before)
	})
}

// thousands is n with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
