package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A delivered line is what outrelay deliver says of an event.
type deliveredLine struct {
	ID, Source, Subscription, Outcome, Error string
	Attempt                                  int
	Status                                   *int
}

// An agent is a running "outrelay deliver" and what it has said.
type agent struct {
	*process
	reading sync.WaitGroup

	mu    sync.Mutex
	lines []deliveredLine
}

func startAgent(t *testing.T, args ...string) *agent {
	t.Helper()
	a := &agent{process: client(t, outrelay, append([]string{"deliver"}, args...)...)}
	lines := a.process.lines
	a.reading.Go(func() {
		for line := range lines {
			var l deliveredLine
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Errorf("deliver printed %q (%v)", line, err)
			}
			a.mu.Lock()
			a.lines = append(a.lines, l)
			a.mu.Unlock()
		}
	})
	return a
}

func (a *agent) said() []deliveredLine {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]deliveredLine(nil), a.lines...)
}

// end ends the agent by a signal and waits for it.
func (a *agent) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := a.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	a.reading.Wait()
	_ = a.cmd.Wait() // the status says how it ended
	if signal == syscall.SIGTERM && a.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("deliver ended with %v after SIGTERM:\n%s", a.cmd.ProcessState, a.errs)
	}
}

// counts is a subscription's state.
type subscriptionCounts struct{ Pending, Unsettled, Delayed int }

func (g *gateway) counts(t *testing.T, name string) (c subscriptionCounts) {
	t.Helper()
	if err := json.Unmarshal([]byte(output(t, "", "", outrelay, "subscriptions", "show", name, "--gateway", g.HTTP)), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// deadLetters are the reasons of a subscription's dead letters by the events' ids.
func (g *gateway) deadLetters(t *testing.T, name string) map[string]string {
	t.Helper()
	dead := map[string]string{}
	for line := range strings.Lines(output(t, "", "", outrelay, "deadletters", name, "--gateway", g.HTTP)) {
		id := member(t, line, "id")
		if dead[id] != "" {
			t.Errorf("%s is a dead letter twice", id)
		}
		dead[id] = member(t, line, "relaydeadreason")
	}
	return dead
}

// An existing web service that fails in every way gets each event until it has dealt with
// it, is never hammered, and what it refuses is a dead letter.
func TestDeliverToAServiceThatFails(t *testing.T) {
	t.Parallel()
	const concurrency, each = 4, 12
	g := start(t)
	good := func(c *call) behaviour {
		if strings.HasSuffix(c.id, "-refused") {
			return answering(http.StatusBadRequest)
		}
		return answering(http.StatusNoContent)
	}
	s := newWebService(t, good)
	a := startAgent(t, "work", "--to", "http://"+s.address+"/events", "--topic", "work/*", "--from", "earliest",
		"--deadletter", "dead/work", "--concurrency", fmt.Sprint(concurrency), "--timeout", "700ms", "--gateway", g.HTTP)
	var all []string
	send := func(name string) {
		t.Helper()
		var batch []string
		for n := range each {
			id := fmt.Sprintf("%s-%d", name, n)
			if n == each-1 {
				id = name + "-refused"
			}
			batch, all = append(batch, sample(id)), append(all, id)
		}
		post(t, g.topics("work/a"), batched, "["+strings.Join(batch, ",")+"]", http.StatusOK)
	}
	settled := func() bool { return g.counts(t, "work") == subscriptionCounts{} }
	send("works")
	until(t, "the first events are settled", settled)

	pause := 1200 * time.Millisecond
	for _, phase := range []struct {
		name  string
		fails behaviour // nil: nobody listens
		quiet time.Duration
	}{
		{name: "refuses"},
		{name: "hangs", fails: hanging},
		{name: "fails", fails: answering(http.StatusInternalServerError)},
		{name: "dies", fails: dying},
		{name: "busy", fails: answering(http.StatusTooManyRequests, "Retry-After", "1"), quiet: time.Second},
		{name: "away", fails: func(w http.ResponseWriter, r *http.Request) {
			answering(http.StatusServiceUnavailable, "Retry-After", time.Now().Add(2*time.Second).UTC().Format(http.TimeFormat))(w, r)
		}, quiet: time.Second},
	} {
		calls, lines := len(s.seen()), len(a.said())
		if phase.fails == nil {
			s.down()
		} else {
			s.will(always(phase.fails))
		}
		send(phase.name)
		time.Sleep(pause) // how long it is down; nothing is waited for
		during := s.seen()[calls:]
		attempts := len(during)
		if phase.fails == nil {
			attempts = len(a.said()) - lines
			s.up()
		}
		s.will(good)
		// As many as it had in hand, and then a try a second at first.
		if attempts < 1 || attempts > concurrency+3 {
			t.Errorf("while the service %s, there were %d attempts in %v", phase.name, attempts, pause)
		}
		t.Logf("%s: %d attempts in %v", phase.name, attempts, pause)
		for _, c := range during {
			for _, later := range s.seen()[calls:] {
				if after := later.began.Sub(c.ended); phase.quiet > 0 && after > pause/6 && after < phase.quiet {
					t.Errorf("%s: %s was tried %v after a Retry-After of %v", phase.name, later.id, after, phase.quiet)
				}
			}
		}
		before := len(s.seen())
		until(t, "after it "+phase.name+", it gets something", func() bool {
			return slices.ContainsFunc(s.seen()[before:], func(c call) bool { return c.status/100 == 2 })
		})
	}
	until(t, "all events are settled", settled)
	a.end(t, syscall.SIGTERM)

	dead := g.deadLetters(t, "work")
	done, acks, attempts := map[string]int{}, map[string]int{}, map[string]int{}
	for _, c := range s.seen() {
		attempts[c.id]++
		if c.status/100 == 2 {
			done[c.id]++
		}
	}
	for _, l := range a.said() {
		if l.Outcome != "released" {
			acks[l.ID]++
		}
	}
	most := 0
	for _, id := range all {
		most = max(most, attempts[id])
		refused := strings.HasSuffix(id, "-refused")
		if acks[id] != 1 || attempts[id] > 8 {
			t.Errorf("%s was settled %d times, after %d requests", id, acks[id], attempts[id])
		}
		if refused && (done[id] != 0 || dead[id] != "400 Bad Request") || !refused && (done[id] != 1 || dead[id] != "") {
			t.Errorf("%s was dealt with %d times and is a dead letter for %q", id, done[id], dead[id])
		}
	}
	t.Logf("%d events, %d requests, at most %d for one", len(all), len(s.seen()), most)
	if text := a.errs.String(); !strings.Contains(text, "one event at a time") || !strings.Contains(text, "works again") {
		t.Errorf("deliver said %s", text)
	}
}

// With --ordered no event of a key is dealt with before the one before it is, or is a dead
// letter: over failures, ends of the gateway and of the agent.
func TestDeliverInOrder(t *testing.T) {
	t.Parallel()
	keys, each, rounds := 6, 20, 1
	if soak() {
		keys, each, rounds = 12, 200, 5
	}
	random := chance(t)
	g := start(t)
	refused := func(id string) bool { return strings.HasSuffix(id, "7") }
	s := newWebService(t, func(c *call) behaviour {
		chance := random.Float64()
		switch {
		case refused(c.id):
			return answering(http.StatusUnprocessableEntity)
		case chance < 0.04:
			return answering(http.StatusInternalServerError)
		case chance < 0.07:
			return dying
		case chance < 0.08:
			return hanging
		case chance < 0.09:
			return answering(http.StatusTooManyRequests)
		}
		return func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Duration(chance * float64(20*time.Millisecond))) // some take longer than others
			answering(http.StatusNoContent)(w, r)
		}
	})
	args := []string{"ordered", "--to", "http://" + s.address, "--topic", "ordered/*", "--from", "earliest", "--ackwait", "2s",
		"--deadletter", "dead/ordered", "--maxdeliver", "100", "--ordered", "--timeout", "500ms", "--gateway", g.HTTP}
	a := startAgent(t, args...)
	until(t, "the agent is there", func() bool {
		return strings.Contains(output(t, "", "", outrelay, "subscriptions", "list", "--gateway", g.HTTP), `"subscribers":1`)
	})
	n := 0
	send := func() { // a third
		for range keys * each / 3 {
			key := n % keys
			publish(t, g.topics(fmt.Sprint("ordered/", key%2)), keyed(fmt.Sprintf("%d-%d", key, n/keys), fmt.Sprint(key)))
			n++
		}
	}
	some := func(share int) { // waits until so much of what is due is dealt with
		before := len(s.seen())
		until(t, "some are dealt with", func() bool { return len(s.seen()) > before+share || g.counts(t, "ordered") == subscriptionCounts{} })
	}
	for range rounds {
		send()
		some(keys * each / 15)
		a.end(t, syscall.SIGKILL)
		a = startAgent(t, args...)
		some(keys * each / 15)
		g.kill(t)
		g.run(t)
		send()
		some(keys * each / 15)
		// Both at once: nobody knows what was handed out but the log.
		a.end(t, syscall.SIGKILL)
		g.kill(t)
		g.run(t)
		send() // which can be handed out before what was handed out already
		a = startAgent(t, args...)
		some(keys * each / 15)
		g.stop(t)
		g.run(t)
		some(keys * each / 15)
		a.end(t, syscall.SIGTERM)
		a = startAgent(t, args...)
	}
	until(t, "all are settled", func() bool { return g.counts(t, "ordered") == subscriptionCounts{} })
	a.end(t, syscall.SIGTERM)

	dead := g.deadLetters(t, "ordered")
	first := map[string]time.Time{} // when an event was first dealt with
	requests := map[string]int{}
	calls := s.seen()
	for _, c := range calls {
		requests[c.id]++
		if (c.status == http.StatusNoContent || c.status == http.StatusUnprocessableEntity) && (first[c.id].IsZero() || c.ended.Before(first[c.id])) {
			first[c.id] = c.ended
		}
	}
	for _, c := range calls {
		var key, i int
		if _, err := fmt.Sscanf(c.id, "%d-%d", &key, &i); err != nil {
			t.Fatal(err)
		}
		if i == 0 || c.status != http.StatusNoContent {
			continue
		}
		if before := first[fmt.Sprintf("%d-%d", key, i-1)]; before.IsZero() || before.After(c.began) {
			t.Errorf("%s was tried at %v (attempt %d), the one before was dealt with at %v", c.id, c.began.Format("05.000"), c.attempt, before.Format("05.000"))
		}
	}
	most := 0
	for key := range keys {
		for i := range n / keys {
			id := fmt.Sprintf("%d-%d", key, i)
			most = max(most, requests[id])
			if first[id].IsZero() || refused(id) != (dead[id] == "422 Unprocessable Entity") {
				t.Errorf("%s had %d requests, was dealt with at %v, and is a dead letter for %q", id, requests[id], first[id], dead[id])
			}
		}
	}
	t.Logf("%d events, %d requests, at most %d for one", n, len(calls), most)
}
