package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// subscribed is an engine with one subscriber, for events of one publisher.
func subscribed(t *testing.T, stuck bool) (*engine, *client) {
	t.Helper()
	e, err := newEngine(spec{Peer: "outrelay", Topics: 1, Subscribers: 1, Publishers: 1, Size: eventSize})
	if err != nil {
		t.Fatal(err)
	}
	e.got = []int{0}
	return e, &client{reads: true, stuck: stuck, next: []int32{0}}
}

func gap(missed int) []byte {
	return fmt.Appendf(nil, `{"specversion":"1.0","id":"1","source":"/outrelay","type":"dev.outrelay.gap","data":{"reason":"slow","missed":%d},"padding":"%s"}`,
		missed, strings.Repeat("x", 200))
}

// What goes wrong between a server and a subscriber is found, and nothing else is.
func TestDeliveriesAreChecked(t *testing.T) {
	const notice = 1000 // and more: a gap notice of so many less
	tests := []struct {
		name  string
		stuck bool
		came  []int
		wrong string
	}{
		{"in order", false, []int{0, 1, 2, 3}, ""},
		{"lost", false, []int{0, 1, 3}, "1 are missing"},
		{"lost at first", false, []int{1}, "1 are missing"},
		{"doubled", false, []int{0, 1, 1}, "doubled or out of order"},
		{"out of order", false, []int{0, 2, 1}, "missing"},
		{"a gap for one that reads", false, []int{0, notice + 2, 3}, "dev.outrelay.gap"},
		{"a gap", true, []int{0, notice + 2, 3, 4}, ""},
		{"two gaps in a row", true, []int{0, notice + 2, notice + 1, 4}, ""},
		{"a gap with too small a count", true, []int{0, notice + 1, 3}, "of which it was told 1"},
		{"a gap with too great a count", true, []int{0, notice + 3, 3}, "of which it was told 3"},
		{"a gap where nothing is missing", true, []int{0, notice + 3, 1}, "doubled or out of order"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, c := subscribed(t, tt.stuck)
			for _, n := range tt.came {
				if n > notice {
					e.message(c, gap(n-notice))
				} else {
					e.message(c, e.event.event(0, n, 1))
				}
			}
			got := strings.Join(e.wrong, "; ")
			if tt.wrong == "" && got != "" || !strings.Contains(got, tt.wrong) {
				t.Errorf("found %q, want %q", got, tt.wrong)
			}
		})
	}
}

// Every dialect's way to carry an event is read back as that event.
func TestDialectsCarryEvents(t *testing.T) {
	carried := map[style]func(event []byte) []byte{
		oneEvent: func(event []byte) []byte { return event },
		lines: func(event []byte) []byte {
			return fmt.Appendf(nil, `{"push":{"channel":"live/0","pub":{"data":%s}}}`+"\n{}", event)
		},
		natsText: func(event []byte) []byte {
			return fmt.Appendf(nil, "PING\r\nMSG live.0 1 %d\r\n%s\r\n", len(event), event)
		},
	}
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			e, c := subscribed(t, false)
			e.style = d.style()
			c.fd = -1 // answers to pings go nowhere
			e.closing = true
			for n := range 3 {
				m := carried[d.style()](e.event.event(0, n, 1))
				if d.style() == natsText { // a stream: messages may end anywhere
					e.message(c, m[:n*20])
					m = m[n*20:]
				}
				e.message(c, m)
			}
			if e.total != 3 || len(e.wrong) > 0 {
				t.Errorf("%d deliveries, %q, want 3", e.total, e.wrong)
			}
		})
	}
}

func TestClientFrames(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 1000, 65535, 65536, 70000} {
		payload := bytes.Repeat([]byte("x"), size)
		frame := appendClientFrame([]byte("before"), frameText, payload[:size/2], payload[size/2:])[len("before"):]
		first, begin, end := parseFrame(frame)
		if first != frameText || end != len(frame) || frame[1]&0x80 == 0 {
			t.Fatalf("%d bytes: parsed as %#x, %d to %d of %d", size, first, begin, end, len(frame))
		}
		xor(frame[begin:])
		if !bytes.Equal(frame[begin:], payload) {
			t.Errorf("%d bytes: the payload changed", size)
		}
		if _, _, end := parseFrame(frame[:len(frame)-1]); end != 0 {
			t.Errorf("%d bytes: a frame without its last byte is taken for a whole one", size)
		}
	}
}

func TestEventsHaveTheirSize(t *testing.T) {
	for _, size := range []int{eventSize, stuckSize} {
		if e := newTemplate(size).event(1, 2, 3); len(e) != size {
			t.Errorf("%d bytes, want %d", len(e), size)
		}
	}
}

// A run in which outrelay beats the bare writer fails; noise does not make it fail.
func TestTooGood(t *testing.T) {
	for _, tt := range []struct {
		ours, limit []float64
		want        int
	}{
		{[]float64{1, 1, 1}, []float64{1, 1.1, 1.2}, 0},
		{[]float64{0.95, 0.95, 0.95}, []float64{1, 1.1, 1.2}, 0},
		{[]float64{0.8, 0.8, 2}, []float64{1, 1.1, 1.2}, 1},
		{nil, []float64{1}, 0},
	} {
		m := &measurement{workload: workload{name: "fanout", runs: []run{{spec: spec{Peer: "outrelay"}}, {spec: spec{Peer: "limit"}}}}, results: make([][]result, 2)}
		for i, costs := range [][]float64{tt.ours, tt.limit} {
			for _, c := range costs {
				m.results[i] = append(m.results[i], result{Deliveries: 1e6, CPU: c})
			}
		}
		if got := tooGood(m); len(got) != tt.want {
			t.Errorf("%v beside %v: %v, want %d faults", tt.ours, tt.limit, got, tt.want)
		}
	}
}

func TestSpread(t *testing.T) {
	rounds := []result{{CPU: 3}, {CPU: 1}, {CPU: 2}, {CPU: 10}}
	cpu := func(r result) float64 { return r.CPU }
	if got := of(rounds, cpu); got != (spread{2.5, 1, 10}) {
		t.Errorf("of four rounds %v", got)
	}
	if got := of(rounds[:3], cpu); got != (spread{2, 1, 3}) {
		t.Errorf("of three rounds %v", got)
	}
	if got := of(nil, cpu); !math.IsNaN(got.median) {
		t.Errorf("of none %v", got)
	}
}

// Every workload names peers that there are, and fits the descriptors of a process.
func TestPlan(t *testing.T) {
	for _, w := range plan(options{rounds: 3, measure: 1}) {
		for _, r := range w.runs {
			if _, ok := peers[r.spec.Peer]; !ok || dialects[r.spec.Peer] == nil {
				t.Errorf("%s, %s: no peer %q", w.name, r.label, r.spec.Peer)
			}
			s := r.spec
			if n := s.Publishers + s.Topics*s.Subscribers + s.Filters*s.Filtered + s.Stuck; n > 19_000 {
				t.Errorf("%s, %s: %d connections", w.name, r.label, n)
			}
		}
	}
}

// What others wrote into RESULTS.md stays, and what is kept of a workload comes back.
func TestResultsAreMerged(t *testing.T) {
	out := t.TempDir()
	file := filepath.Join(out, "RESULTS.md")
	const other = "<!-- begin other -->\nfigures\n<!-- end other -->\n"
	if err := os.WriteFile(file, []byte(section(other, "peers", "old\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fanin", "cost"} {
		w := plan(options{rounds: 1, measure: time.Second, only: []string{name}})[0]
		m := &measurement{workload: w, results: make([][]result, len(w.runs))}
		m.record.Command = "measured " + name
		for i := range w.runs {
			m.results[i] = []result{{Deliveries: 1e6, CPU: 1, Seconds: 1, Checked: 7}}
		}
		if err := errors.Join(m.save(out), publish(out)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{other, "measured fanin", "measured cost", "| 100 publishers to 1, most rate: CPU ÷ NATS | ≤ 2.5 | 1.00 | yes |"} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is not there once in\n%s", want, text)
		}
	}
	if strings.Contains(text, "old") {
		t.Error("the old text is still there")
	}
	if _, err := os.Stat(filepath.Join(out, "cost.svg")); err != nil {
		t.Error(err)
	}
}
