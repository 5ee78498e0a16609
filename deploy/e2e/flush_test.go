package e2e

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Where the log promises it, as it does by default, every event is flushed to the
// device before its publish is answered, over HTTP and in a session, alone, in a batch
// and among others. The kernel's own record of what the process asked for is the witness.
func TestFlushComesBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	record := filepath.Join(t.TempDir(), "calls")
	g := start(t, "strace", "--follow-forks", "--seccomp-bpf", "--decode-fds=path", "--string-limit=100000",
		"--trace=fsync,fdatasync,pwrite64,write,writev,sendto", "--output="+record)
	n := 0
	event := func() string {
		n++
		return sample(fmt.Sprintf("flush-%d", n))
	}
	for range 3 { // alone
		publish(t, g.topics("flush/one"), event())
	}
	batch := "[" + event() + "," + event() + "," + event() + "]"
	post(t, g.topics("flush/batch"), "application/cloudevents-batch+json", batch, http.StatusOK)
	var together sync.WaitGroup // some will share a flush
	for range 16 {
		e := event()
		together.Go(func() {
			if _, err := tryPost(t.Context(), g.topics("flush/together"), "application/cloudevents+json", e, http.StatusOK); err != nil {
				t.Error(err)
			}
		})
	}
	together.Wait()
	inSession(t, g, []string{event()}, []string{event()}, []string{event(), event(), event()})
	var many [][]string
	for range 16 {
		many = append(many, []string{event(), event()})
	}
	inSession(t, g, many...)
	g.stop(t)

	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	w := witness{t: t, unfinished: map[string]string{}, flushing: map[string]int{}}
	for line := range strings.Lines(string(b)) {
		w.read(strings.TrimSuffix(line, "\n"))
	}
	if w.written != n || w.answered != n || w.flushes == 0 {
		t.Errorf("the record shows %d events written, %d answered and %d flushes of the log, want %d, %[4]d and some", w.written, w.answered, w.flushes, n)
	}
}

// inSession publishes batches in one session, all before it reads an answer, and waits
// for the answers.
func inSession(t *testing.T, g *gateway, batches ...[]string) {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(g.HTTP, "http")+"/connect",
		&websocket.DialOptions{Subprotocols: []string{"outrelay.v1.json"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow() //nolint:errcheck // it is over
	for i, batch := range batches {
		request := fmt.Sprintf(`{"op":"publish","id":"%d","topic":"flush/session","events":[%s]}`, i, strings.Join(batch, ","))
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(request)); err != nil {
			t.Fatal(err)
		}
	}
	s := stream{conn}
	for answered := 0; answered < len(batches); {
		switch answer := s.next(t); member(t, answer, "op") {
		case "published":
			answered++
		case "welcome":
		default:
			t.Fatalf("publishing in a session: %s", answer)
		}
	}
}

// Publishers that wait at the same time share flushes: on a disk whose flush takes 10 ms,
// 64 of them are at least 5 times as fast as one that waits for each. The long form says
// what they are on the disk as it is, too.
func TestPublishersShareFlushes(t *testing.T) {
	t.Parallel()
	const publishers = 64
	length := time.Second
	if soak() {
		length = 5 * time.Second
	}
	record := filepath.Join(t.TempDir(), "calls")
	g := &gateway{bare: bare(t), under: []string{"strace", "--follow-forks", "--seccomp-bpf", "--decode-fds=path",
		"--trace=fsync,fdatasync", "--inject=fsync,fdatasync:delay_enter=10000", "--output=" + record}}
	launch(t, g)
	g.rate(t, publishers, length/4) // warm
	begun := flushes(t, record)
	alone := g.rate(t, 1, length)
	single := flushes(t, record)
	together := g.rate(t, publishers, length)
	shared := flushes(t, record) - single
	t.Logf("a flush of 10 ms: %.0f/s answered to one publisher (%d flushes), %.0f/s to %d (%d flushes), %.1f times as many",
		alone, single-begun, together, publishers, shared, together/alone)
	if together < 5*alone {
		t.Errorf("%d publishers are %.1f times as fast as one, want 5", publishers, together/alone)
	}
	if float64(single-begun) < 0.9*alone*length.Seconds() || shared == 0 {
		t.Errorf("%d flushes for %.0f publishes one by one, %d for %.0f together", single-begun, alone*length.Seconds(), shared, together*length.Seconds())
	}
	if !soak() {
		return
	}
	g = launch(t, &gateway{bare: g.bare})
	g.rate(t, publishers, length/4)
	alone, together = g.rate(t, 1, length), g.rate(t, publishers, length)
	t.Logf("this disk: %.0f/s answered to one publisher, %.0f/s to %d, %.1f times as many", alone, together, publishers, together/alone)
}

// flushes counts those of the log's files in a record.
func flushes(t *testing.T, record string) int {
	t.Helper()
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	return len(logFlush.FindAll(b, -1))
}

var logFlush = regexp.MustCompile(`sync\([^\n]*/LOG_default/msgs/\d+\.blk>`)

// rate has publishers publish for a while, each waiting for its answer, and returns how
// many were answered a second.
func (g *gateway) rate(t *testing.T, publishers int, length time.Duration) float64 {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: publishers}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var answered atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range publishers {
		name := rand.Text()
		all.Go(func() {
			for n := 0; time.Since(began) < length; n++ {
				status, answer, err := try(t.Context(), client, g.topics("flush/rate"), structured, sample(fmt.Sprintf("%s-%d", name, n)))
				if err != nil || status != http.StatusOK {
					t.Errorf("publish: %d %s (%v)", status, answer, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	all.Wait()
	return float64(answered.Load()) / time.Since(began).Seconds()
}

// A witness reads a record of system calls in the order in which they happened.
type witness struct {
	t          *testing.T
	unfinished map[string]string // by thread: the beginning of a call that was recorded in two parts
	written    int               // events in the log's file, as calls that have returned
	flushing   map[string]int    // by thread: how many were written when its flush began
	flushed    int               // events that a flush after their write has brought to the device
	flushes    int
	answered   int // events whose publish was answered
}

var (
	eventID  = regexp.MustCompile(`\\"id\\":\\"flush-\d+\\",\\"source`)
	accepted = regexp.MustCompile(`(?:HTTP/1\.1 200 .*|\\"op\\":\\"published\\",\\"id\\":\\"\d+\\",)\\"accepted\\":(\d+)`)
)

func (w *witness) read(line string) {
	thread, call, ok := strings.Cut(line, " ")
	if !ok {
		return
	}
	call = strings.TrimSpace(call)
	begins, ends := true, true
	if start, cut := strings.CutSuffix(call, "<unfinished ...>"); cut {
		ends = false
		w.unfinished[thread] = start
	} else if strings.HasPrefix(call, "<... ") {
		begins = false
		_, rest, _ := strings.Cut(call, "resumed>")
		call = w.unfinished[thread] + rest
	}
	name, _, _ := strings.Cut(call, "(")
	log := strings.Contains(call, "/LOG_default/msgs/") && strings.Contains(call, ".blk>")
	switch {
	case name == "fsync" || name == "fdatasync":
		if begins && log {
			w.flushing[thread] = w.written
		}
		if ends && log && strings.HasSuffix(call, "= 0") {
			w.flushed = max(w.flushed, w.flushing[thread])
			w.flushes++
		}
	case log:
		if ends {
			w.written += len(eventID.FindAllString(call, -1))
		}
	case begins:
		for _, m := range accepted.FindAllStringSubmatch(call, -1) {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				w.t.Fatal(err)
			}
			w.answered += n
			if w.answered > w.flushed {
				w.t.Errorf("%d events are answered when %d are flushed (%d written): %s", w.answered, w.flushed, w.written, call)
			}
		}
	}
}
