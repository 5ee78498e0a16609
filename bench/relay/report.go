package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// outcomes are the rounds' results by workload and peer.
type outcomes map[string]map[string][]result

func (o outcomes) add(workload, peer string, r result) {
	if o[workload] == nil {
		o[workload] = map[string][]result{}
	}
	o[workload][peer] = append(o[workload][peer], r)
}

// median is that of a figure over the rounds, with the least and the most.
func (o outcomes) median(workload, peer string, of func(result) float64) (median, least, most float64) {
	var all []float64
	for _, r := range o[workload][peer] {
		all = append(all, of(r))
	}
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], all[0], all[len(all)-1]
}

// A goal compares outrelay with a peer in the same run.
type goal struct {
	title, workload, peer string
	of                    func(result) float64
	most, least           float64 // of the ratio; 0 for none
}

var goals = []goal{
	{"CPU per GB with 4 streams ÷ bare rendezvous", "stream-4", "bare", result.perGigabyte, 1.2, 0},
	{"round trip p50 ÷ nginx's stream proxy", "trip", "nginx", result.p50, 1.6, 0},
	{"streams set up a second ÷ bare rendezvous", "setup", "bare", result.rate, 0, 0.7},
}

// publish puts the section into a file, whose other parts are somebody else's.
func publish(file, text string) error {
	const begin, end = "<!-- begin relay -->\n", "<!-- end relay -->\n"
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	if !ok && before != "" {
		before = strings.TrimRight(before, "\n") + "\n\n"
	}
	_, after, _ := strings.Cut(rest, end)
	return os.WriteFile(file, []byte(before+begin+text+end+after), 0o644)
}

func (g goal) ratio(o outcomes) (ratio float64, ok bool) {
	ours, _, _ := o.median(g.workload, "outrelay", g.of)
	theirs, _, _ := o.median(g.workload, g.peer, g.of)
	return ours / theirs, ours > 0 && theirs > 0
}

// tooGood is an error if outrelay needs clearly less than what does the least work.
func tooGood(o outcomes) error {
	if ratio, ok := goals[0].ratio(o); ok && ratio < 0.8 {
		return fmt.Errorf("outrelay needs %.2f of the bare rendezvous' processor time: something wrong is measured", ratio)
	}
	return nil
}

var titles = map[string]string{
	"direct": "direct TCP", "outrelay": "outrelay", "nginx": "nginx stream", "bare": "bare rendezvous of two WebSockets",
	"proxy": "reverse proxy of net/http",
}

// report is the section of RESULTS.md.
func report(o options, found outcomes, took time.Duration) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# The relay\n")
	say("Written by `make bench-relay`; [README.md](README.md) says what is measured and how. Do not edit. Measured %s, commit %s; %d rounds in %.0f s.", time.Now().UTC().Format("2006-01-02"), commit(), o.rounds, took.Seconds())
	say("%s, %d processors, Linux %s, %s, %s.\n", field("/proc/cpuinfo", "model name"), runtime.NumCPU(), kernel(), runtime.Version(), nginxVersion())
	say("Medians of interleaved rounds, the least and the most behind. The server had one\nprocessor, the load another. **Read the ratios.**\n")
	say("| goal | least or most | measured | |\n|---|---|---|---|")
	for _, g := range goals {
		ratio, ok := g.ratio(found)
		if !ok {
			continue
		}
		bound, held := fmt.Sprintf("≤ %.1f", g.most), ratio <= g.most
		if g.least > 0 {
			bound, held = fmt.Sprintf("≥ %.1f", g.least), ratio >= g.least
		}
		verdict := "held"
		if !held {
			verdict = "**missed**"
		}
		say("| %s | %s | %.2f | %s |", g.title, bound, ratio, verdict)
	}
	for _, w := range workloads {
		if found[w.name] == nil {
			continue
		}
		say("\n## %s\n", w.title)
		if w.name == "idle" {
			say("| | the server's memory, KiB a pair |\n|---|---|")
			for _, p := range peers {
				if median, least, most := found.median(w.name, p, func(r result) float64 { return r.KiB }); median > 0 {
					say("| %s | %.1f (%.1f–%.1f) |", titles[p], median, least, most)
				}
			}
			continue
		}
		if w.name == "much" {
			say("| | bytes | GB/s | SHA-256 at both ends | the server grew by, MiB |\n|---|---|---|---|---|")
			for _, p := range peers {
				if all := found[w.name][p]; all != nil {
					speed, _, _ := found.median(w.name, p, result.gigabytes)
					growth, least, most := found.median(w.name, p, func(r result) float64 { return r.Growth })
					say("| %s | %d | %.2f | equal, %d times | %.1f (%.1f–%.1f) |", titles[p], all[0].Bytes, speed, len(all), growth, least, most)
				}
			}
			continue
		}
		if strings.HasPrefix(w.name, "stream") {
			say("| | GB/s | server's CPU s/GB | load's processor |\n|---|---|---|---|")
		} else {
			say("| | a second | p50 µs | p99 µs | server's CPU µs each | load's processor |\n|---|---|---|---|---|---|")
		}
		for _, p := range peers {
			if found[w.name][p] == nil {
				continue
			}
			show := func(format string, of func(result) float64) string {
				median, least, most := found.median(w.name, p, of)
				return fmt.Sprintf(format+" ("+format+"–"+format+")", median, least, most)
			}
			busy := show("%.0f %%", func(r result) float64 { return 100 * r.Busy })
			if strings.HasPrefix(w.name, "stream") {
				say("| %s | %s | %s | %s |", titles[p], show("%.2f", result.gigabytes), show("%.3f", result.perGigabyte), busy)
				continue
			}
			say("| %s | %s | %s | %s | %s | %s |", titles[p], show("%.0f", result.rate), show("%.0f", result.p50),
				show("%.0f", func(r result) float64 { return r.P99 }), show("%.0f", func(r result) float64 { return r.CPU / float64(r.Trips) * 1e6 }), busy)
		}
	}
	return b.String()
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=10").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func nginxVersion() string {
	out, err := exec.Command("nginx", "-v").CombinedOutput()
	if err != nil {
		return "no nginx"
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "nginx version: ")
}
