package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// ackedSubscribers are how many compete.
var ackedSubscribers = []int{1, 10, 100}

// An ackedWay is who acks, and whether it knows that it has.
type ackedWay struct{ peer, benchmark, name string }

// ackedWays: the first is compared with the others.
var ackedWays = []ackedWay{
	{"outrelay", "outrelay", "outrelay"},
	{"nats", "nats-confirmed", "nats.go, each ack answered"},
	{"nats", "nats-unconfirmed", "nats.go, acks not answered"},
}

// label is of a run with so many subscribers.
func (w ackedWay) label(subscribers int) string { return fmt.Sprintf("%s, %d", w.name, subscribers) }

// benchmark runs one benchmark of the broker's BenchmarkAcked once, in a process of its
// own. The program is built in folder, by the first. profile is a file, or "".
func benchmark(s spec, folder, profile string) (r result, err error) {
	program := filepath.Join(folder, "broker.test")
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		build := exec.Command("go", "test", "-C", "../..", "-c", "-o", program, "./broker")
		if b, err := build.CombinedOutput(); err != nil {
			return r, fmt.Errorf("build the benchmark: %w\n%s", err, b)
		}
	}
	args := []string{"-test.run=^$", "-test.bench=^BenchmarkAcked$/^" + strings.ReplaceAll(s.Benchmark, "/", "$/^") + "$",
		fmt.Sprintf("-test.benchtime=%dx", s.Times)}
	if profile != "" {
		args = append(args, "-test.cpuprofile="+profile)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = folder
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("benchmark %s: %w: %s%s", s.Benchmark, err, out, errs.Bytes())
	}
	perCPU, perSecond, err := ackedFigures(string(out))
	if err != nil {
		return r, fmt.Errorf("benchmark %s: %w in %q", s.Benchmark, err, out)
	}
	n := float64(s.Times)
	return result{Events: s.Times, Deliveries: s.Times, CPU: n / perCPU, Seconds: n / perSecond}, nil
}

// ackedFigures finds in what one benchmark said how many acks a second of processor
// time and a second took.
func ackedFigures(out string) (perCPU, perSecond float64, err error) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "BenchmarkAcked/") {
			continue
		}
		for i := 1; i < len(f); i++ {
			v, err := strconv.ParseFloat(f[i-1], 64)
			switch {
			case err != nil:
			case f[i] == "acked/cpu-s":
				perCPU = v
			case f[i] == "acked/s":
				perSecond = v
			}
		}
	}
	if perCPU <= 0 || perSecond <= 0 {
		return 0, 0, errors.New("no figures")
	}
	return perCPU, perSecond, nil
}

// writeAcked writes the table of acked deliveries.
func writeAcked(say func(string, ...any), m *measurement) {
	say("Events acked a second of processor time, and a second. NATS is embedded in the process, which has both processors; a delivery and its ack are all that is counted. Outrelay answers each ack once it is settled, as NATS does where its client asks for it.")
	say("")
	head, rule := "| subscribers |", "|---|"
	for i, w := range ackedWays {
		head, rule = head+" "+w.name+" | acked/s |", rule+"---|---|"
		if i > 0 {
			head, rule = head+" outrelay ÷ it |", rule+"---|"
		}
	}
	say("%s", head)
	say("%s", rule)
	found := outcomes{m.name: m}
	for _, n := range ackedSubscribers {
		row := fmt.Sprintf("| %d |", n)
		ours := of(found.find(m.name, ackedWays[0].label(n)), perCPU).median
		for i, w := range ackedWays {
			rounds := found.find(m.name, w.label(n))
			row += fmt.Sprintf(" %s | %s |", of(rounds, perCPU), number(of(rounds, rate).median))
			if i > 0 {
				row += " " + number(ours/of(rounds, perCPU).median) + " |"
			}
		}
		say("%s", row)
	}
}
