// Command peers measures outrelay beside its peers: the same load, in turn, in one
// run, each server on one processor and the load on another. See ../README.md.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	rounds := flag.Int("rounds", 3, "interleaved rounds")
	seconds := flag.Int("seconds", 4, "length of a measurement")
	only := flag.String("only", "", "comma-separated workloads; all if empty")
	out := flag.String("out", "", "write RESULTS.md and cost.svg into this folder")
	binary := flag.String("outrelay", "", "the outrelay binary; built if empty")
	flag.Parse()
	if err := command(*rounds, *seconds, *only, *out, *binary, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(rounds, seconds int, only, out, binary string, args []string) error {
	switch {
	case len(args) == 3 && args[0] == "serve":
		return serve(args[1], args[2])
	case len(args) == 5 && args[0] == "load":
		var w workload
		if err := json.Unmarshal([]byte(args[4]), &w); err != nil {
			return err
		}
		pid := 0
		fmt.Sscan(args[3], &pid)
		os.Stdout.Write(run(args[1], args[2], pid, w).json())
		return nil
	case len(args) > 0:
		return fmt.Errorf("unknown arguments %v", args)
	}
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if binary == "" {
		binary = filepath.Join(dir, "outrelay")
		build := exec.Command("go", "build", "-C", "../..", "-o", binary, "./cmd/outrelay")
		if b, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build: %w\n%s", err, b)
		}
	}
	h := &host{dir: dir, outrelay: binary}
	if err := h.certificate(); err != nil {
		return err
	}
	var measured []measurement
	for _, m := range plan(seconds) {
		if only != "" && !slices.Contains(strings.Split(only, ","), m.Name) {
			continue
		}
		m.results = map[string][]result{}
		for round := range rounds {
			for _, peer := range m.peers {
				w := m.workload
				r, err := h.measure(peer, w)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", m.Name, peer, err)
				}
				if r.Fault != "" {
					return fmt.Errorf("%s, %s: %s", m.Name, peer, r.Fault)
				}
				m.results[peer] = append(m.results[peer], r)
				fmt.Fprintf(os.Stderr, "%s %d/%d %s: %s\n", m.Name, round+1, rounds, peer, brief(r))
			}
		}
		measured = append(measured, m)
	}
	text, faults := report(measured, rounds, seconds)
	if out == "" {
		fmt.Print(text)
	} else {
		if err := os.WriteFile(filepath.Join(out, "RESULTS.md"), []byte(text), 0o644); err != nil {
			return err
		}
		if svg := plot(measured); svg != "" {
			if err := os.WriteFile(filepath.Join(out, "cost.svg"), []byte(svg), 0o644); err != nil {
				return err
			}
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("the run measures something wrong: %s", strings.Join(faults, "; "))
	}
	return nil
}

// A measurement is a workload, who takes part, and what came of it.
type measurement struct {
	workload
	peers   []string
	results map[string][]result
}

func plan(seconds int) []measurement {
	all := []string{"outrelay", "nats", "centrifuge", "limit"}
	own := []string{"outrelay"}
	w := func(name string, publishers, subscribers, topics, rate int) workload {
		return workload{Name: name, Publishers: publishers, Subscribers: subscribers, Topics: topics, Rate: rate, Seconds: seconds}
	}
	stored := func(w workload) workload { w.Name += "-stored"; w.Stored = true; return w }
	list := []measurement{
		{workload: w("fanout", 1, 1000, 1, 0), peers: all},
		{workload: w("fanout-20", 1, 1000, 1, 20), peers: all},
		{workload: w("fanin", 100, 1, 1, 0), peers: all},
		{workload: w("topics", 1, 1, 1000, 5000), peers: all},
		{workload: stored(w("fanout", 1, 1000, 1, 0)), peers: own},
		{workload: stored(w("fanout-20", 1, 1000, 1, 20)), peers: own},
		{workload: stored(w("topics", 1, 1, 1000, 5000)), peers: own},
		{workload: workload{Name: "idle", Subscribers: 10_000, Topics: 1, Idle: true, Seconds: 15}, peers: []string{"outrelay", "nats", "centrifuge"}},
		{workload: workload{Name: "idle-15000", Subscribers: 15_000, Topics: 1, Idle: true, Seconds: 15}, peers: own},
		{workload: workload{Name: "idle-tls", Subscribers: 10_000, Topics: 1, Idle: true, Seconds: 15}, peers: own},
	}
	for _, n := range []int{1, 10, 100, 3000} {
		list = append(list, measurement{workload: w(fmt.Sprintf("cost-%d", n), 1, n, 1, 0), peers: []string{"outrelay", "nats"}})
	}
	return list
}

func brief(r result) string {
	if r.KiB > 0 {
		return fmt.Sprintf("%.1f KiB, %.3f CPU s per 1,000 connects, %.0f connects/s", r.KiB, r.CPUPerThousand, r.ConnectsPerSecond)
	}
	return fmt.Sprintf("%.0f deliveries/s, %.3f µs each, p50 %.2f p99 %.2f ms, %.1f events a read, load busy %.2f",
		float64(r.Deliveries)/r.Seconds, perDelivery(r), r.P50, r.P99, r.EventsPerRead, r.LoadBusy)
}

func perDelivery(r result) float64 { return r.CPU / float64(max(r.Deliveries, 1)) * 1e6 }
