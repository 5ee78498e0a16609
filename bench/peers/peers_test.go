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

// The figures of the benchmark are found, and their absence is.
func TestAckedFigures(t *testing.T) {
	const head = "goos: linux\npkg: github.com/outrelay/outrelay/broker\n"
	perCPU, perSecond, err := ackedFigures(head + "BenchmarkAcked/outrelay/10-2 \t   20000\t 15857 ns/op\t     89792 acked/cpu-s\t     63064 acked/s\t    4644 B/op\t      46 allocs/op\nPASS\n")
	if perCPU != 89792 || perSecond != 63064 || err != nil {
		t.Errorf("%v, %v, %v", perCPU, perSecond, err)
	}
	for _, out := range []string{"", head + "PASS\n", "BenchmarkAcked/outrelay/10-2 20000 15857 ns/op\n"} {
		if _, _, err := ackedFigures(out); err == nil {
			t.Errorf("%q has figures", out)
		}
	}
}

// What goes wrong between a server and a durable subscription is found, and an ack is
// sent for each delivery.
func TestDurableDeliveriesAreChecked(t *testing.T) {
	type came struct{ n, attempt int }
	for _, tt := range []struct {
		name               string
		came               []came
		wrong              string
		total, redelivered int
	}{
		{"in order", []came{{1, 1}, {4, 1}, {7, 1}}, "", 3, 0},
		{"lost", []came{{1, 1}, {7, 1}}, "event 7", 2, 0},
		{"doubled", []came{{1, 1}, {1, 1}}, "event 1", 2, 0},
		{"redelivered", []came{{1, 1}, {1, 2}, {4, 1}}, "", 2, 1},
		{"seen at the second attempt only", []came{{1, 1}, {4, 2}}, "", 2, 1},
		{"another topic's", []came{{2, 1}}, "event 2", 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := newEngine(spec{Peer: "outrelay", Topics: 3, Subscribers: 1, Publishers: 1, Size: eventSize})
			if err != nil {
				t.Fatal(err)
			}
			e.got, e.closing = []int{0}, true
			d := &durableLoad{engine: e}
			s := &durableSession{load: d, client: &client{fd: -1}, next: 1} // acks go nowhere
			for i, c := range tt.came {
				s.take(fmt.Appendf(nil, `{"op":"event","id":"s","delivery":"tag","attempt":%d,"event":%s}`, c.attempt, e.event.event(0, c.n, 1e18))) // a number of JSON has no zeros before it
				if s.acks != i+1 {
					t.Fatalf("%d acks after %d deliveries", s.acks, i+1)
				}
			}
			if got := strings.Join(e.wrong, "; "); tt.wrong == "" && got != "" || !strings.Contains(got, tt.wrong) {
				t.Errorf("found %q, want %q", got, tt.wrong)
			}
			if e.total != tt.total || d.redelivered != tt.redelivered {
				t.Errorf("%d deliveries, %d redelivered, want %d, %d", e.total, d.redelivered, tt.total, tt.redelivered)
			}
			for range tt.came {
				s.take([]byte(`{"op":"ok","id":"s"}`))
			}
			if s.acks != 0 {
				t.Errorf("%d acks are open", s.acks)
			}
			for _, m := range []string{`{"op":"ok","id":"s","unknown":["tag"]}`, `{"op":"error","id":"s","problem":{}}`, "x"} {
				e.wrong = nil
				if s.take([]byte(m)); len(e.wrong) != 1 {
					t.Errorf("%s is no fault", m)
				}
			}
		})
	}
}

// A goal is met, is not, or has not been measured; what did nothing meets none.
func TestGoals(t *testing.T) {
	for _, tt := range []struct {
		ours, others int
		met          string
	}{
		{60, 100, "yes"}, {59, 100, "**no**"}, {0, 100, "**no**"}, {60, 0, "not measured"}, {0, 0, ""},
	} {
		w := plan(options{rounds: 1, measure: time.Second, only: []string{"publish-64-stored"}})[0]
		m := &measurement{workload: w, results: [][]result{{{Answers: tt.ours, Seconds: 1}}, {{Answers: tt.others, Seconds: 1}}}}
		met := ""
		for _, g := range goals(outcomes{w.name: m}) {
			met += g.met
		}
		if met != tt.met {
			t.Errorf("%d answers beside %d: %q, want %q", tt.ours, tt.others, met, tt.met)
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
	for _, want := range []string{other, "measured fanin", "measured cost", "| the same, published in sessions, which answer each publish: CPU ÷ NATS | ≤ 2.5 | 1.00 | yes |"} {
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
