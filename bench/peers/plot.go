package main

import (
	"fmt"
	"math"
	"strings"
)

// A line is what a peer's deliveries cost by the number of subscribers.
type line struct {
	peer   string
	points []point
}

type point struct {
	subscribers int
	cost        spread // µs
}

// costs are the lines of the cost workload.
func costs(m *measurement) (lines []line) {
	at := map[string]int{}
	for i, r := range m.runs {
		k, ok := at[r.spec.Peer]
		if !ok {
			k = len(lines)
			at[r.spec.Peer] = k
			lines = append(lines, line{peer: r.spec.Peer})
		}
		lines[k].points = append(lines[k].points, point{r.spec.Subscribers, of(m.results[i], perDelivery)})
	}
	return lines
}

var colours = map[string]string{"outrelay": "#c2410c", "nats": "#1d4ed8", "centrifuge": "#15803d", "limit": "#6b7280"}

// plot draws the cost of a delivery against the number of subscribers, "" without
// such results.
func plot(all []*measurement) string {
	var lines []line
	for _, m := range all {
		if m.table == costTable {
			lines = costs(m)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	least, most := math.Inf(1), math.Inf(-1)
	for _, l := range lines {
		for _, p := range l.points {
			if !math.IsNaN(p.cost.median) && p.cost.median > 0 {
				least, most = min(least, p.cost.median), max(most, p.cost.median)
			}
		}
	}
	if math.IsInf(least, 0) {
		return ""
	}
	low, high := math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
	const width, height, left, right, top, bottom = 720.0, 420.0, 70.0, 110.0, 50.0, 50.0
	x := func(n float64) float64 { return left + math.Log10(n)/4*(width-left-right) }
	y := func(c float64) float64 {
		return height - bottom - (math.Log10(c)-low)/(high-low)*(height-top-bottom)
	}
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12" role="img">`, width, height)
	say(`<title>CPU time of a delivery against the number of subscribers</title>`)
	say(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	say(`<text x="%g" y="22" font-size="15">CPU time of a delivery against the number of subscribers</text>`, left)
	say(`<text x="%g" y="39" fill="#555">one topic, most rate, 256-byte events; server on one processor; bars: least to most</text>`, left)
	for d := 0; d <= 4; d++ {
		n := math.Pow10(d)
		say(`<path d="M%.1f %g V%g" stroke="#e5e7eb"/><text x="%.1f" y="%g" text-anchor="middle">%s</text>`, x(n), top, height-bottom, x(n), height-bottom+17, thousands(int(n)))
	}
	for d := low; d <= high; d++ {
		c := math.Pow(10, d)
		say(`<path d="M%g %.1f H%g" stroke="#e5e7eb"/><text x="%g" y="%.1f" text-anchor="end">%g µs</text>`, left, y(c), width-right, left-7, y(c)+4, c)
	}
	say(`<text x="%g" y="%g" text-anchor="middle">subscribers</text>`, (left+width-right)/2, height-12)
	ends := map[int]bool{}
	for _, l := range lines {
		colour, path, end := colours[l.peer], "", 0.0
		for _, p := range l.points {
			if math.IsNaN(p.cost.median) || p.cost.least <= 0 {
				continue
			}
			px, py := x(float64(p.subscribers)), y(p.cost.median)
			path += fmt.Sprintf("%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[path == ""], px, py)
			say(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/><path d="M%.1f %.1f V%.1f" stroke="%s"/>`, px, py, colour, px, y(p.cost.least), y(p.cost.most), colour)
			end = py
		}
		if path == "" {
			continue
		}
		slot := int(end / 14)
		for ends[slot] { // labels don't lie on each other
			slot++
		}
		ends[slot] = true
		say(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%g" y="%d" fill="%s">%s</text>`, path, colour, width-right+10, slot*14+11, colour, l.peer)
	}
	say(`</svg>`)
	return b.String()
}
