package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Where the log promises it, as it does by default, every event is flushed to the
// device before its publish is answered. The kernel's own record of what the
// process asked for is the witness.
func TestFlushComesBeforeTheAnswer(t *testing.T) {
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
	accepted = regexp.MustCompile(`HTTP/1\.1 200 .*\\"accepted\\":(\d+)`)
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
		if m := accepted.FindStringSubmatch(call); m != nil {
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
