package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A figure is what is taken from a result.
type figure func(result) float64

func perDelivery(r result) float64 { return r.CPU / float64(max(r.Deliveries, 1)) * 1e6 } // µs
func perEvent(r result) float64    { return r.CPU / float64(max(r.Events, 1)) * 1e6 }     // µs
func rate(r result) float64        { return float64(r.Deliveries) / r.Seconds }
func perRead(r result) float64     { return r.PerRead }
func busy(r result) float64        { return r.Busy }
func p50(r result) float64         { return r.P50 }
func p99(r result) float64         { return r.P99 }
func p999(r result) float64        { return r.P999 }
func kib(r result) float64         { return r.KiB }
func connects(r result) float64    { return r.ConnectCPU / float64(max(r.Connects, 1)) * 1000 } // s a thousand
func growth(r result) float64      { return r.GrowthMiB }
func answers(r result) float64     { return float64(r.Answers) / r.Seconds }
func perCPU(r result) float64      { return float64(r.Deliveries) / r.CPU } // deliveries a second of processor time
func share(r result) float64       { return r.CPU / r.Seconds }             // of one processor

// brief is a result as a line of the progress.
func brief(t table, r result) string {
	switch t {
	case idleTable:
		return fmt.Sprintf("%.1f KiB (at once %.1f), %.3f CPU s per 1,000 connects, %.0f connects/s", r.KiB, r.AtOnceKiB, connects(r), float64(r.Connects)/r.ConnectFor)
	case stuckTable:
		return fmt.Sprintf("%.0f MiB published in %.1f s, growth %.1f MiB (reading again %.1f), at least %d owed, %d missed in %d notices, %d caught up in %.1f s",
			r.PublishedMiB, r.Seconds, r.GrowthMiB, r.ReadingMiB, r.Unsent, r.Missed, r.Notices, r.CaughtUp, r.CatchUpFor)
	case filterTable:
		return fmt.Sprintf("%.1f µs an event, %.0f events/s, waited %.2f", perEvent(r), float64(r.Events)/r.Seconds, r.Waited)
	case ackedTable:
		return fmt.Sprintf("%.0f acked a CPU second, %.0f acked/s", perCPU(r), rate(r))
	case durableTable:
		return fmt.Sprintf("%.0f MiB bare, %.0f then %.0f at the end, %.0f at most; %.3f of a processor, p50 %.2f p99 %.2f ms, %d redelivered, connected in %.1f s, waited %.2f",
			r.BareMiB, r.EarlyMiB, r.LateMiB, r.PeakMiB, share(r), r.P50, r.P99, r.Redelivered, r.ConnectFor, r.Waited)
	case paceTable:
		return fmt.Sprintf("%.0f deliveries/s, %.2f µs each, p50 %.2f p99 %.2f p99.9 %.2f ms, waited %.2f, load busy %.2f", rate(r), perDelivery(r), r.P50, r.P99, r.P999, r.Waited, r.Busy)
	}
	return fmt.Sprintf("%.0f deliveries/s, %.3f µs each, %.1f a read, waited %.2f, load busy %.2f, soft %.3f", rate(r), perDelivery(r), r.PerRead, r.Waited, r.Busy, r.SoftIRQ/r.Seconds)
}

// A spread is the median of some rounds, the least and the most; NaN of none.
type spread struct{ median, least, most float64 }

func of(rounds []result, f figure) spread {
	if len(rounds) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	v := make([]float64, len(rounds))
	for i, r := range rounds {
		v[i] = f(r)
	}
	slices.Sort(v)
	return spread{(v[(len(v)-1)/2] + v[len(v)/2]) / 2, v[0], v[len(v)-1]}
}

// number writes a figure with three digits that count.
func number(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 1000:
		return thousands(int(v + 0.5))
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func (s spread) String() string {
	if math.IsNaN(s.median) || s.least == s.most {
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// outcomes finds results by workload and label.
type outcomes map[string]*measurement

func (o outcomes) find(workload, label string) []result {
	if m := o[workload]; m != nil {
		for i, r := range m.runs {
			if r.label == label {
				return m.results[i]
			}
		}
	}
	return nil
}

// margin is how much less than the limit outrelay may seem to need before the run
// is held to measure something wrong: what two runs of the same differ.
const margin = 0.1

// tooGood finds where outrelay beats the limit, which nothing can.
func tooGood(m *measurement) (faults []error) {
	for i, r := range m.runs {
		if r.spec.Peer != "outrelay" {
			continue
		}
		for j, other := range m.runs {
			if other.spec.Peer != "limit" || other.spec.Subscribers != r.spec.Subscribers {
				continue
			}
			got, limit := of(m.results[i], perDelivery), of(m.results[j], perDelivery)
			if got.median < (1-margin)*limit.least {
				faults = append(faults, fmt.Errorf("%s: outrelay needs %s µs a delivery, the bare writer at least %s: something is measured wrong",
					m.name, number(got.median), number(limit.least)))
			}
		}
	}
	return faults
}

// report is the section of RESULTS.md that this command writes.
func report(all []*measurement) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	found := outcomes{}
	var faults []string
	checked := 0
	for _, m := range all {
		found[m.name] = m
		faults = append(faults, m.record.Faults...)
		for _, rounds := range m.results {
			for _, r := range rounds {
				checked += r.Checked
			}
		}
	}
	say("# outrelay beside its peers")
	say("")
	say("Written by `make bench-peers`; [README.md](README.md) says what is measured and how. Do not edit.")
	say("")
	for _, line := range circumstances() {
		say("- %s", line)
	}
	say("- %s deliveries were checked for loss, doubles and order.", thousands(checked))
	say("")
	say("Read the ratios, not the rates. Figures are medians, with the least and the most of the rounds behind them.")
	if len(faults) > 0 {
		say("")
		say("**This run failed:**")
		say("")
		for _, f := range faults {
			say("- %s", f)
		}
	}
	say("")
	say("## Goals")
	say("")
	say("| | goal | measured | met |")
	say("|---|---|---|---|")
	for _, g := range goals(found) {
		say("| %s | %s | %s | %s |", g.what, g.goal, g.measured, g.met)
	}
	wrong := "yes"
	if len(faults) > 0 {
		wrong = "**no**"
	}
	say("| nothing lost, doubled or out of order | 0 of %s | %d faults | %s |", thousands(checked), len(faults), wrong)
	for _, m := range all {
		say("")
		say("## %s", strings.ToUpper(m.title[:1])+m.title[1:])
		say("")
		writeTable(say, m)
		say("")
		waited := 0.0
		for _, rounds := range m.results {
			for _, r := range rounds {
				waited = max(waited, r.Waited)
			}
		}
		say("`go run . -only %s`; measured %s at commit %s with `%s` in %.0f s.", m.name, m.record.When.Format("2006-01-02 15:04 MST"), m.record.Commit, m.record.Command, m.record.Took)
		if waited > 0.05 {
			say("A server waited up to %.0f %% of a measurement for a processor that something else used: latencies are not to be trusted, and costs are high for all.", waited*100)
		}
	}
	return b.String()
}

// writeTable writes a workload's results.
func writeTable(say func(string, ...any), m *measurement) {
	switch m.table {
	case rateTable, paceTable:
		writeDeliveries(say, m)
	case idleTable:
		say("| | KiB a connection | at once | kernel, both ends | CPU s per 1,000 connects | connects/s |")
		say("|---|---|---|---|---|---|")
		for i, r := range m.runs {
			rounds := m.results[i]
			say("| %s | %s | %s | %s | %s | %s |", r.label, of(rounds, kib), number(of(rounds, func(r result) float64 { return r.AtOnceKiB }).median),
				number(of(rounds, func(r result) float64 { return r.KernelKiB }).median), of(rounds, connects),
				number(of(rounds, func(r result) float64 { return float64(r.Connects) / r.ConnectFor }).median))
		}
	case stuckTable:
		say("| | MiB published | growth, MiB | growth while they caught up | events owed, at least | of which the ring has at most | gap notices | events they named | came to the end with nothing missing but that | in s |")
		say("|---|---|---|---|---|---|---|---|---|---|")
		for i, run := range m.runs {
			for _, r := range m.results[i] {
				say("| %s | %.0f | %.0f | %.0f | %s | %s | %s | %s | %s of %s | %.0f |", run.label, r.PublishedMiB, r.GrowthMiB, r.ReadingMiB, thousands(r.Unsent), thousands(r.Ring),
					thousands(r.Notices), thousands(r.Missed), thousands(r.CaughtUp), thousands(run.spec.Stuck), r.CatchUpFor)
			}
		}
	case filterTable:
		say("| | CPU µs an event | events/s |")
		say("|---|---|---|")
		for i, r := range m.runs {
			say("| %s | %s | %s |", r.label, of(m.results[i], perEvent), number(of(m.results[i], func(r result) float64 { return float64(r.Events) / r.Seconds }).median))
		}
	case ackedTable:
		writeAcked(say, m)
	case durableTable:
		say("| | sessions and subscriptions | events | p50 ms | p99 ms | p99.9 ms | redelivered | share of one processor | MiB before the first | after a fifth of the time | at the end | at most | s to subscribe all | CPU s of that |")
		say("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
		for i, run := range m.runs {
			for _, r := range m.results[i] {
				say("| %s | %s | %s in %.0f s | %s | %s | %s | %s | %s | %.0f | %.0f | %.0f | %.0f | %.1f | %.1f |", run.label, thousands(r.Connects), thousands(r.Checked), r.Seconds,
					number(r.P50), number(r.P99), number(r.P999), thousands(r.Redelivered), number(share(r)), r.BareMiB, r.EarlyMiB, r.LateMiB, r.PeakMiB, r.ConnectFor, r.ConnectCPU)
			}
		}
	case costTable:
		say("CPU µs a delivery:")
		say("")
		lines := costs(m)
		head, rule := "| subscribers |", "|---|"
		for _, l := range lines {
			head, rule = head+" "+l.peer+" |", rule+"---|"
		}
		say("%s", head)
		say("%s", rule)
		if len(lines) > 0 {
			for i, p := range lines[0].points {
				row := "| " + thousands(p.subscribers) + " |"
				for _, l := range lines {
					row += " " + l.points[i].cost.String() + " |"
				}
				say("%s", row)
			}
		}
		say("")
		say("![CPU time of a delivery against the number of subscribers](cost.svg)")
	}
}

func writeDeliveries(say func(string, ...any), m *measurement) {
	paced := m.table == paceTable
	against := func(peer string) []result {
		for i, r := range m.runs {
			if r.spec.Peer == peer {
				return m.results[i]
			}
		}
		return nil
	}
	nats, limit := against("nats"), against("limit")
	if len(nats) == 0 {
		nats = against("jetstream")
	}
	head := "| | deliveries/s | CPU µs a delivery |"
	columns := 3
	if len(nats) > 0 {
		head, columns = head+" ÷ NATS |", columns+1
	}
	if len(limit) > 0 {
		head, columns = head+" ÷ limit |", columns+1
	}
	if paced {
		head, columns = head+" p50 ms | p99 ms | p99.9 ms |", columns+3
	} else {
		head, columns = head+" events a read |", columns+1
	}
	say("%s load busy |", head)
	say("|%s", strings.Repeat("---|", columns+1))
	for i, r := range m.runs {
		rounds := m.results[i]
		cost := of(rounds, perDelivery)
		row := fmt.Sprintf("| %s | %s | %s |", r.label, of(rounds, rate), cost)
		if len(nats) > 0 {
			row += " " + number(cost.median/of(nats, perDelivery).median) + " |"
		}
		if len(limit) > 0 {
			row += " " + number(cost.median/of(limit, perDelivery).median) + " |"
		}
		if paced {
			row += fmt.Sprintf(" %s | %s | %s |", of(rounds, p50), of(rounds, p99), of(rounds, p999))
		} else {
			row += " " + number(of(rounds, perRead).median) + " |"
		}
		b := of(rounds, busy).median
		row += fmt.Sprintf(" %.2f", b)
		if b > 0.9 {
			row += ", the bound"
		}
		say("%s |", row)
	}
}
