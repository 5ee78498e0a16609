package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
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

// subscriptionCounts are a subscription's state.
type subscriptionCounts struct{ Pending, Unsettled, Delayed, Subscribers int }

func (c subscriptionCounts) settled() bool { return c.Pending+c.Unsettled+c.Delayed == 0 }

func (g *gateway) counts(t *testing.T, name string) (c subscriptionCounts) {
	t.Helper()
	resp, err := http.Get(g.HTTP + "/subscriptions/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return subscriptionCounts{Pending: 1} // it is yet to be made
	}
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("subscription %s: %s, %v", name, resp.Status, err)
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

// An existing web service that fails, in every way, gets each event until it has dealt with
// it, is never hammered, and what it refuses is a dead letter.
func TestDeliverToAServiceThatFails(t *testing.T) {
	t.Parallel()
	g := start(t)
	var ways sync.WaitGroup
	defer ways.Wait()
	for _, f := range []failing{
		{name: "refuses"},
		{name: "hangs", does: hanging},
		{name: "fails", does: answering(http.StatusInternalServerError)},
		{name: "dies", does: dying},
		{name: "is-busy", does: answering(http.StatusTooManyRequests, "Retry-After", "2"), quiet: 2 * time.Second},
		{name: "is-away", does: func(w http.ResponseWriter, r *http.Request) {
			answering(http.StatusServiceUnavailable, "Retry-After", time.Now().Add(3*time.Second).UTC().Format(http.TimeFormat))(w, r)
		}, quiet: 2 * time.Second},
	} {
		// All at once, however many processors there are: they mostly wait.
		ways.Go(func() { t.Run(f.name, func(t *testing.T) { f.check(t, g) }) })
	}
}

// A failing is a way in which a service fails.
type failing struct {
	name  string
	does  behaviour     // nil: nobody listens
	quiet time.Duration // for how long it wants to be left alone
}

// check lets a service work, fail and work again, with events coming all the while.
func (f failing) check(t *testing.T, g *gateway) {
	const concurrency, each, long = 4, 12, 1500 * time.Millisecond
	works := func(c *call) behaviour {
		if strings.HasSuffix(c.id, "-refused") {
			return answering(http.StatusBadRequest)
		}
		return answering(http.StatusNoContent)
	}
	s := newWebService(t, works)
	a := startAgent(t, f.name, "--to", "http://"+s.address+"/events", "--topic", f.name+"/*", "--from", "earliest",
		"--deadletter", "dead/"+f.name, "--concurrency", fmt.Sprint(concurrency), "--timeout", "700ms", "--gateway", g.HTTP)
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
		post(t, g.topics(f.name+"/a"), batched, "["+strings.Join(batch, ",")+"]", http.StatusOK)
	}
	send("before")
	until(t, "the first events are there", func() bool { return len(s.seen()) == each })
	until(t, "the first events are settled", func() bool { return g.counts(t, f.name).settled() })
	lines := len(a.said())

	if f.does == nil {
		s.down()
	} else {
		s.will(always(f.does))
	}
	send("meanwhile")
	time.Sleep(long) // is how long it fails; nothing is waited for
	during := s.seen()[each:]
	attempts := len(during)
	if f.does == nil {
		attempts = len(a.said()) - lines
		s.up()
	}
	s.will(works)
	// As many as were in hand, two more until three in a row have failed, and then a try a
	// second at first.
	if attempts < 1 || attempts > concurrency+4 {
		t.Errorf("while the service %s, there were %d attempts in %v", f.name, attempts, long)
	}
	send("after")
	until(t, "all events are settled", func() bool { return g.counts(t, f.name).settled() })
	a.end(t, syscall.SIGTERM)

	calls := s.seen()
	for _, c := range during {
		for _, later := range calls[each:] {
			// Those that were under way with it had not been told yet.
			if after := later.began.Sub(c.ended); f.quiet > 0 && after > f.quiet/4 && after < f.quiet {
				t.Errorf("%s was tried %v after a Retry-After of %v", later.id, after, f.quiet)
			}
		}
	}
	dead := g.deadLetters(t, f.name)
	done, ends, tries := map[string]int{}, map[string]int{}, map[string]int{}
	for _, c := range calls {
		tries[c.id]++
		if c.status/100 == 2 {
			done[c.id]++
		}
	}
	for _, l := range a.said() {
		if l.Outcome != "released" {
			ends[l.ID]++
		}
	}
	most := 0
	for _, id := range all {
		most = max(most, tries[id])
		refused := strings.HasSuffix(id, "-refused")
		if ends[id] != 1 || tries[id] > 4 {
			t.Errorf("%s was settled %d times, after %d requests", id, ends[id], tries[id])
		}
		if refused && (done[id] != 0 || dead[id] != "400 Bad Request") || !refused && (done[id] != 1 || dead[id] != "") {
			t.Errorf("%s was dealt with %d times and is a dead letter for %q", id, done[id], dead[id])
		}
	}
	t.Logf("%d attempts in %v; of %d events %d requests, at most %d for one", attempts, long, len(all), len(calls), most)
	if text := a.errs.String(); !strings.Contains(text, "one event at a time") || !strings.Contains(text, "works again") {
		t.Errorf("deliver said %s", text)
	}
}

// Over failures, and ends of the gateway and of the agent, nothing is lost; and with
// --ordered no event of a key is dealt with before the one before it is, or is a dead
// letter.
func TestDeliverOverKills(t *testing.T) {
	t.Parallel()
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() { t.Run("as they come", func(t *testing.T) { deliverOverKills(t, false) }) })
	both.Go(func() { t.Run("in order", func(t *testing.T) { deliverOverKills(t, true) }) })
}

func deliverOverKills(t *testing.T, ordered bool) {
	keys, each, rounds := 10, 12, 1
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
		case c.attempt > 3: // the waits between attempts grow
		case chance < 0.03:
			return answering(http.StatusInternalServerError)
		case chance < 0.05:
			return dying
		case chance < 0.055:
			return hanging
		case chance < 0.06:
			return answering(http.StatusTooManyRequests)
		}
		return func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Duration(chance * float64(20*time.Millisecond))) // some take longer than others
			answering(http.StatusNoContent)(w, r)
		}
	})
	args := []string{"kills", "--to", "http://" + s.address, "--topic", "kills/*", "--from", "earliest", "--ackwait", "2s",
		"--deadletter", "dead/kills", "--maxdeliver", "100", fmt.Sprint("--ordered=", ordered), "--timeout", "500ms", "--gateway", g.HTTP}
	launch := func() *agent { // it gives up where nobody is there at first
		until(t, "no agent is there", func() bool { return g.counts(t, "kills").Subscribers == 0 })
		a := startAgent(t, args...)
		until(t, "the agent is there", func() bool { return g.counts(t, "kills").Subscribers > 0 })
		return a
	}
	a := launch()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("at %v %+v is left; the last agent printed %d lines and said:\n%s", time.Now(), g.counts(t, "kills"), len(a.said()), a.errs)
		}
	})
	n := 0
	send := func() { // a third
		for range keys * each / 3 {
			key := n % keys
			publish(t, g.topics(fmt.Sprint("kills/", key%2)), keyed(fmt.Sprintf("%d-%d", key, n/keys), fmt.Sprint(key)))
			n++
		}
	}
	some := func(share int) { // waits until so much of what is due is dealt with
		before := len(s.seen())
		until(t, "some are dealt with", func() bool { return len(s.seen()) > before+share || g.counts(t, "kills").settled() })
	}
	for range rounds {
		send()
		some(keys * each / 15)
		a.end(t, syscall.SIGKILL)
		a = launch()
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
		a = launch()
		some(keys * each / 15)
		g.stop(t)
		g.run(t)
		some(keys * each / 15)
		a.end(t, syscall.SIGTERM)
		a = launch()
	}
	until(t, "all are settled", func() bool { return g.counts(t, "kills").settled() })
	a.end(t, syscall.SIGTERM)

	dead := g.deadLetters(t, "kills")
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
		if !ordered || i == 0 || c.status != http.StatusNoContent {
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
