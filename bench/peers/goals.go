package main

import (
	"fmt"
	"math"
)

// A goal is a line of what must hold, and whether it does.
type goal struct{ what, goal, measured, met string }

// goals are those that the results say something about.
func goals(found outcomes) (list []goal) {
	add := func(what string, value float64, most bool, bound float64, unit string) {
		if math.IsNaN(value) {
			return
		}
		sign, met := "≤", value <= bound
		if !most {
			sign, met = "≥", value >= bound
		}
		g := goal{what, fmt.Sprintf("%s %v%s", sign, bound, unit), fmt.Sprintf("%.2f%s", value, unit), "yes"}
		if value >= 100 {
			g.measured = number(value) + unit
		}
		if !met {
			g.met = "**no**"
		}
		if math.IsInf(value, 0) { // what it is compared with did nothing in its time
			g.measured, g.met = "–", "not measured"
		}
		list = append(list, g)
	}
	const ours, nats, limit = "outrelay", "nats", "limit"
	value := func(workload, peer string, f figure) float64 {
		return of(found.find(workload, peers[peer].label), f).median
	}
	ratio := func(workload, other string, f figure) float64 {
		return value(workload, ours, f) / value(workload, other, f)
	}
	label := func(workload, label string, f figure) float64 { return of(found.find(workload, label), f).median }

	add("1 to 1,000, most rate: CPU a delivery ÷ NATS", ratio("fanout", nats, perDelivery), true, 0.5, "")
	add("1 to 1,000, most rate: deliveries/s ÷ NATS", ratio("fanout", nats, rate), false, 2, "")
	add("1 to 1,000, 20 events/s: CPU ÷ limit", ratio("fanout-20", limit, perDelivery), true, 1.3, "")
	add("1 to 1,000, 20 events/s: p99 ÷ NATS", ratio("fanout-20", nats, p99), true, 1, "")
	add("100 publishers to 1, most rate, published on streams, which like NATS answer nothing: CPU ÷ NATS", value("fanin", "outrelay-stream", perDelivery)/value("fanin", nats, perDelivery), true, 2.5, "")
	add("the same, published in sessions, which answer each publish: CPU ÷ NATS", ratio("fanin", nats, perDelivery), true, 2.5, "")
	add("1,000 topics, 5,000 events/s: CPU ÷ NATS", ratio("topics", nats, perDelivery), true, 1.2, "")
	for _, m := range found {
		if m.name != "idle" {
			continue
		}
		for i, r := range m.runs {
			if r.spec.Peer != ours {
				continue
			}
			memory, cpu := 16.0, 0.25
			if r.spec.Secure {
				memory, cpu = 32, 0.9
			}
			add(r.label+" idle: memory each", of(m.results[i], kib).median, true, memory, " KiB")
			add(r.label+" idle: CPU per 1,000 connects", of(m.results[i], connects).median, true, cpu, " s")
		}
	}
	for _, m := range found {
		if m.name != "stuck" {
			continue
		}
		for i, r := range m.runs {
			if r.spec.Stuck == 0 {
				continue
			}
			add(fmt.Sprintf("%s stuck, %s, 1 GiB published: growth", thousands(r.spec.Stuck), r.label), of(m.results[i], growth).median, true, 200, " MiB")
			share := of(m.results[i], func(got result) float64 { return float64(got.CaughtUp) / float64(r.spec.Stuck) * 100 }).median
			add("of them, reading again, told or given all", share, false, 100, " %")
		}
	}
	add("one of a thousand stuck: honest p99 ÷ without", label("stuck-one", "one of a thousand stuck", p99)/label("stuck-one", "none stuck", p99), true, 1.1, "")
	few, many := label("filters", "500 filters, 1 subscribers each", perEvent), label("filters", "500 filters, 30 subscribers each", perEvent)
	add("500 filters: CPU an event with 30 subscribers each ÷ with 1", many/few, true, 1.2, "")
	add("64 publishers in sessions, most rate, stored: answered publishes/s ÷ JetStream", ratio("publish-64-stored", "jetstream", answers), false, 0.6, "")
	for _, n := range ackedSubscribers {
		each := func(w ackedWay) float64 { return label("acked", w.label(n), perCPU) }
		add(fmt.Sprintf("acked by %d competing: events a CPU second ÷ nats.go, each ack answered too", n), each(ackedWays[0])/each(ackedWays[1]), false, 0.6, "")
	}
	add("durable subscriptions: memory at the end ÷ after a fifth of the time", label("durable", ours, func(r result) float64 { return r.LateMiB / r.EarlyMiB }), true, 1.2, "")
	add("durable subscriptions: redelivered", label("durable", ours, func(r result) float64 { return float64(r.Redelivered) }), true, 0, "")
	return list
}
