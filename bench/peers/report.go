package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// median returns the middle of what f says of the rounds, and the least and most.
func median(rounds []result, f func(result) float64) (mid, least, most float64) {
	var v []float64
	for _, r := range rounds {
		v = append(v, f(r))
	}
	if len(v) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	slices.Sort(v)
	return v[len(v)/2], v[0], v[len(v)-1]
}

func rate(r result) float64 { return float64(r.Deliveries) / r.Seconds }

// report writes RESULTS.md. faults are what shows that the run measured something
// wrong: outrelay can't beat the bare writer of ready frames.
func report(all []measurement, rounds, seconds int) (text string, faults []string) {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	by := map[string]measurement{}
	for _, m := range all {
		by[m.Name] = m
	}
	say("# Measured beside the peers")
	say("")
	say("Written by `make bench-peers` (`go run . -out ..` in `bench/peers`) on %s, commit %s.", time.Now().UTC().Format("2006-01-02"), commit())
	say("One machine, two processors: the server on one (GOMAXPROCS=1), the load on the other, over loopback.")
	say("%d interleaved rounds of %d s; medians, the least and most behind in brackets; processor time from the operating system.", rounds, seconds)
	say("Read the ratios, not the rates. Events are CloudEvents of 256 bytes. Every delivery was checked: none was lost, doubled or out of order, else there is no table.")
	say("")
	say("Versions: %s. The limit is a bare writer of ready frames that parses and decides nothing.", versions())
	say("")
	say("## Goals")
	say("")
	say("| goal | measured | met |")
	say("|---|---|---|")
	goal := func(what string, value, bound float64, atLeast bool) {
		if math.IsNaN(value) {
			return
		}
		met := "yes"
		if atLeast && value < bound || !atLeast && value > bound {
			met = "**no**"
		}
		say("| %s | %.2f | %s |", what, value, met)
	}
	value := func(name, peer string, f func(result) float64) float64 {
		v, _, _ := median(by[name].results[peer], f)
		return v
	}
	ratio := func(name, peer string, f func(result) float64) float64 {
		return value(name, "outrelay", f) / value(name, peer, f)
	}
	goal("1 to 1,000 at most rate: CPU a delivery, of NATS's (≤ 0.5)", ratio("fanout", "nats", perDelivery), 0.5, false)
	goal("1 to 1,000 at most rate: deliveries a second, of NATS's (≥ 2)", ratio("fanout", "nats", rate), 2, true)
	goal("1 to 1,000 at 20 events/s: CPU, of the limit's (≤ 1.3)", ratio("fanout-20", "limit", perDelivery), 1.3, false)
	goal("1 to 1,000 at 20 events/s: p99, of NATS's (≤ 1)", ratio("fanout-20", "nats", func(r result) float64 { return r.P99 }), 1, false)
	goal("100 publishers to 1: CPU, of NATS's (≤ 2.5)", ratio("fanin", "nats", perDelivery), 2.5, false)
	goal("1,000 topics at 5,000 events/s: CPU, of NATS's (≤ 1.2)", ratio("topics", "nats", perDelivery), 1.2, false)
	kib := func(r result) float64 { return r.KiB }
	connects := func(r result) float64 { return r.CPUPerThousand }
	goal("10,000 idle: KiB each (≤ 16)", value("idle", "outrelay", kib), 16, false)
	goal("10,000 idle: CPU s per 1,000 connects (≤ 0.25)", value("idle", "outrelay", connects), 0.25, false)
	goal("10,000 idle over TLS: KiB each (≤ 32)", value("idle-tls", "outrelay", kib), 32, false)
	goal("10,000 idle over TLS: CPU s per 1,000 connects (≤ 0.9)", value("idle-tls", "outrelay", connects), 0.9, false)
	goal("15,000 idle: KiB each (they work)", value("idle-15000", "outrelay", kib), 1e9, false)
	for _, m := range all {
		say("")
		say("## %s", describe(m.workload))
		say("")
		if m.Idle {
			say("| server | KiB a connection | CPU s per 1,000 connects | connects/s |")
			say("|---|---|---|---|")
		} else {
			say("| server | deliveries/s | CPU µs a delivery | of NATS's | of the limit's | events a read | p50 / p99 / p99.9 ms | load busy |")
			say("|---|---|---|---|---|---|---|---|")
		}
		for _, peer := range m.peers {
			rs := m.results[peer]
			if m.Idle {
				k, kl, km := median(rs, kib)
				c, cl, cm := median(rs, connects)
				n, _, _ := median(rs, func(r result) float64 { return r.ConnectsPerSecond })
				say("| %s | %.1f (%.1f–%.1f) | %.3f (%.3f–%.3f) | %.0f |", peer, k, kl, km, c, cl, cm, n)
				continue
			}
			d, dl, dm := median(rs, rate)
			c, cl, cm := median(rs, perDelivery)
			reads, _, _ := median(rs, func(r result) float64 { return r.EventsPerRead })
			p50, _, _ := median(rs, func(r result) float64 { return r.P50 })
			p99, _, _ := median(rs, func(r result) float64 { return r.P99 })
			p999, _, _ := median(rs, func(r result) float64 { return r.P999 })
			busy, _, _ := median(rs, func(r result) float64 { return r.LoadBusy })
			of := func(other string) string {
				v, _, _ := median(m.results[other], perDelivery)
				if math.IsNaN(v) {
					return ""
				}
				return fmt.Sprintf("%.2f", c/v)
			}
			latency := ""
			if m.Rate > 0 {
				latency = fmt.Sprintf("%.1f / %.1f / %.1f", p50, p99, p999)
			}
			note := ""
			if busy > 0.9 {
				note = " (the bound)"
			}
			say("| %s | %.0f (%.0f–%.0f) | %.2f (%.2f–%.2f) | %s | %s | %.1f | %s | %.2f%s |", peer, d, dl, dm, c, cl, cm, of("nats"), of("limit"), reads, latency, busy, note)
		}
		if limit := m.results["limit"]; len(limit) > 0 && m.Subscribers >= 100 {
			_, least, _ := median(limit, perDelivery)
			if c, _, _ := median(m.results["outrelay"], perDelivery); c < 0.9*least {
				faults = append(faults, fmt.Sprintf("%s: outrelay %.3f µs, the bare writer at least %.3f", m.Name, c, least))
			}
		}
	}
	if _, ok := by["cost-1"]; ok {
		say("")
		say("![Cost of a delivery against the number of subscribers](cost.svg)")
	}
	return b.String(), faults
}

func describe(w workload) string {
	s := ""
	switch {
	case w.Idle:
		s = fmt.Sprintf("%d idle subscribers", w.Subscribers)
	case w.Topics > 1:
		s = fmt.Sprintf("%d topics with one subscriber each, %d events/s in all", w.Topics, w.Rate)
	case w.Rate > 0:
		s = fmt.Sprintf("%d publisher to %d subscribers, %d events/s", w.Publishers, w.Subscribers, w.Rate)
	default:
		s = fmt.Sprintf("%d WebSocket publishers to %d subscribers, most rate (64 under way each)", w.Publishers, w.Subscribers)
	}
	if w.Stored {
		s += ", stored topics"
	}
	return s + " (`-only " + w.Name + "`)"
}

func commit() string {
	b, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func versions() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := []string{info.GoVersion}
	for _, d := range info.Deps {
		if strings.HasSuffix(d.Path, "/nats-server/v2") || strings.HasSuffix(d.Path, "/centrifuge") {
			v = append(v, d.Path+" "+d.Version)
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		v = append(v, "Linux "+strings.TrimSpace(string(b)))
	}
	return strings.Join(v, ", ")
}

// plot draws the processor time of a delivery against the number of subscribers.
func plot(all []measurement) string {
	type point struct{ n, cost float64 }
	lines := map[string][]point{}
	for _, m := range all {
		if strings.HasPrefix(m.Name, "cost-") || m.Name == "fanout" {
			for peer, rs := range m.results {
				c, _, _ := median(rs, perDelivery)
				lines[peer] = append(lines[peer], point{float64(m.Subscribers), c})
			}
		}
	}
	if len(lines["outrelay"]) < 3 {
		return ""
	}
	const width, height, left, bottom = 640.0, 360.0, 70.0, 50.0
	x := func(n float64) float64 { return left + math.Log10(n)/4*(width-left-20) }
	y := func(c float64) float64 { return height - bottom - (math.Log10(c)+1)/3*(height-bottom-20) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12"><rect width="100%%" height="100%%" fill="white"/>`, width, height)
	for _, n := range []float64{1, 10, 100, 1000, 10000} {
		fmt.Fprintf(&b, `<line x1="%.0f" y1="20" x2="%.0f" y2="%.0f" stroke="#ddd"/><text x="%.0f" y="%.0f" text-anchor="middle">%.0f</text>`, x(n), x(n), height-bottom, x(n), height-bottom+16, n)
	}
	for _, c := range []float64{0.1, 1, 10, 100} {
		fmt.Fprintf(&b, `<line x1="%g" y1="%.0f" x2="%g" y2="%.0f" stroke="#ddd"/><text x="%g" y="%.0f" text-anchor="end">%g µs</text>`, left, y(c), width-20, y(c), left-6, y(c)+4, c)
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">subscribers of one topic, most rate</text><text x="14" y="%g" transform="rotate(-90 14 %g)" text-anchor="middle">CPU a delivery</text>`, (left+width)/2, height-12, height/2, height/2)
	colours := map[string]string{"outrelay": "#c2410c", "nats": "#1d4ed8", "centrifuge": "#15803d", "limit": "#525252"}
	for i, peer := range []string{"outrelay", "nats", "centrifuge", "limit"} {
		points := lines[peer]
		slices.SortFunc(points, func(a, b point) int { return int(a.n - b.n) })
		path := ""
		for j, p := range points {
			path += fmt.Sprintf("%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], x(p.n), y(p.cost))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x(p.n), y(p.cost), colours[peer])
		}
		if path != "" {
			fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%g" y="%d" fill="%s">%s</text>`, path, colours[peer], width-110, 40+16*i, colours[peer], peer)
		}
	}
	return b.String() + "</svg>\n"
}
