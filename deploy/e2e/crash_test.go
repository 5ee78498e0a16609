package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Under load from publishers that wait for answers and from competing subscribers that
// ack, release, forget and leave, nothing that was answered is lost and nothing comes
// again without reason, whatever dies: the gateway, subscribers, or the network.
func TestCrash(t *testing.T) {
	rounds := 5
	if soak() {
		rounds = 50
	}
	t.Run("gateway killed", func(t *testing.T) {
		t.Parallel()
		s := newStorm(t)
		s.workers(false)
		s.publishers()
		for range rounds {
			s.progress(100 + s.random.IntN(200))
			s.kill()
		}
		s.finish()
	})
	t.Run("subscribers killed", func(t *testing.T) {
		t.Parallel()
		s := newStorm(t)
		s.workers(true)
		s.publishers()
		for range rounds {
			for range 2 {
				s.progress(50 + s.random.IntN(100))
				s.killWorker()
			}
		}
		s.finish()
	})
	t.Run("network cut", func(t *testing.T) {
		t.Parallel()
		s := newStorm(t)
		network := newStaller(t, hostport(t, s.gateway.HTTP))
		s.address = network.address()
		s.workers(false)
		s.publishers()
		for i := range rounds {
			s.progress(100 + s.random.IntN(200))
			s.ledger.record(entry{Act: stalled, At: time.Now()})
			network.stall()
			// Longer than ackwait now and then, so that deliveries lapse on the way.
			time.Sleep(time.Duration(200+s.random.IntN(1000))*time.Millisecond + time.Duration(i%3)*stormAckWait*2/3)
			network.heal()
			s.ledger.record(entry{Act: healed, At: time.Now()})
		}
		s.finish()
	})
}

const (
	stormAckWait = 4 * time.Second
	stormTransit = 1500 * time.Millisecond
	// stormAhead is by how many events publishers may be ahead of the acks.
	stormAhead = 400
)

// A storm is a gateway under load, and what all that take part in it write down.
type storm struct {
	t       *testing.T
	gateway *gateway
	address string // by which clients reach it
	topic   string
	name    string // of the subscription
	random  *rand.Rand
	ledger  *ledger
	crew    []*worker
	hands   []*hand

	ctx                   context.Context
	cancel                context.CancelFunc
	publishing, receiving sync.WaitGroup
	enough                atomic.Bool  // publishers are to end
	published             atomic.Int64 // events that were answered
}

func newStorm(t *testing.T) *storm {
	t.Helper()
	return newStormOn(t, start(t), "storm/eu", "work")
}

func newStormOn(t *testing.T, g *gateway, topic, name string) *storm {
	t.Helper()
	limit := 5 * patience
	if soak() {
		limit = 30 * patience
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	s := &storm{
		t: t, gateway: g, address: g.HTTP, topic: topic, name: name,
		random: chance(t), ledger: newLedger(stormAckWait, stormTransit), ctx: ctx, cancel: cancel,
	}
	t.Cleanup(s.end)
	return s
}

// end ends all that the storm started.
func (s *storm) end() {
	s.cancel()
	s.publishing.Wait()
	for _, h := range s.hands {
		h.kill()
	}
	s.receiving.Wait()
}

// fail is for the storm's goroutines; the first failure is what counts.
func (s *storm) fail(err error) {
	if s.ctx.Err() != context.Canceled {
		s.t.Error(err)
	}
	s.cancel()
}

// workers starts three that compete over sessions, each of its own kind, in processes of
// their own if these are to be killed; and one that receives over HTTP.
func (s *storm) workers(processes bool) {
	crew := []*worker{
		{Name: "careful", Credit: 32, Release: 0.05, Forget: 0.002, Die: 0.002},
		{Name: "hasty", Credit: 64, UpTo: true, Die: 0.005},
		{Name: "clumsy", Credit: 5, Release: 0.2, Forget: 0.005, Die: 0.01},
	}
	for _, w := range crew {
		w.Address, w.Topic, w.Subscription, w.AckWait = s.address, s.topic, s.name, stormAckWait
		w.Silence, w.Seed, w.record = 3*time.Second, s.random.Uint64(), s.ledger.record
		if w.UpTo && s.address != s.gateway.HTTP { // what lapsed on the way "upto" leaves out, and doesn't say so
			w.UpTo = false
		}
		s.crew = append(s.crew, w)
		if processes {
			s.hands = append(s.hands, s.hire(w))
			continue
		}
		s.receiving.Go(func() {
			if err := w.run(s.ctx); err != nil {
				s.fail(err)
			}
		})
	}
	s.receiving.Go(s.pull)
}

// A hand is a worker in a process of its own.
type hand struct {
	worker *worker
	cmd    *exec.Cmd
	done   chan struct{} // closed when all that it wrote is in the ledger

	mu   sync.Mutex
	open string // its connection
}

func (s *storm) hire(w *worker) *hand {
	s.t.Helper()
	program, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	description, err := json.Marshal(w)
	if err != nil {
		s.t.Fatal(err)
	}
	h := &hand{worker: w, cmd: exec.Command(program), done: make(chan struct{})}
	h.cmd.Env = append(os.Environ(), workerVariable+"="+string(description))
	h.cmd.Stderr = os.Stderr
	out, err := h.cmd.StdoutPipe()
	if err == nil {
		err = h.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	go func() { // ends with the process, which kill waits for
		defer close(h.done)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var e entry
			if err := json.Unmarshal(line, &e); err != nil {
				s.fail(fmt.Errorf("worker %s wrote %q: %w", w.Name, line, err))
				return
			}
			h.mu.Lock()
			h.open = e.Who
			h.mu.Unlock()
			s.ledger.record(e)
		}
	}()
	return h
}

// kill ends the process with SIGKILL and returns the connection that it had.
func (h *hand) kill() string {
	_ = h.cmd.Process.Kill() // it may be gone
	<-h.done
	_ = h.cmd.Wait() // killed on purpose
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// killWorker kills one, and hires another in its place.
func (s *storm) killWorker() {
	i := s.random.IntN(len(s.hands))
	h := s.hands[i]
	who := h.kill()
	s.ledger.record(entry{Act: ended, At: time.Now(), Who: who})
	next := *h.worker
	next.Name += "+"
	next.Seed++
	s.hands[i] = s.hire(&next)
}

// kill kills the gateway and starts it again.
func (s *storm) kill() {
	s.t.Helper()
	s.ledger.record(entry{Act: killed, At: time.Now()})
	s.gateway.kill(s.t)
	if strings.Contains(s.gateway.output.String(), "DATA RACE") {
		s.t.Errorf("serve has a data race:\n%s", s.gateway.output)
	}
	s.gateway.run(s.t)
	if log := s.gateway.output.String(); strings.Contains(log, "are lost") || strings.Contains(log, "spoilt") {
		s.t.Errorf("after a kill serve calls lost or spoilt what is not:\n%s", log)
	}
}

// progress waits until so many events more are acked for the first time.
func (s *storm) progress(n int) {
	s.t.Helper()
	want := s.ledger.settled() + n
	s.until(fmt.Sprint(n, " more events to be acked"), func() bool { return s.ledger.settled() >= want })
}

func (s *storm) until(what string, ok func() bool) {
	s.t.Helper()
	limit := patience
	if soak() {
		limit *= 5
	}
	for deadline := time.Now().Add(limit); !ok(); {
		if s.ctx.Err() != nil || time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %s: %d published, %d acked\n%s", what, s.published.Load(), s.ledger.settled(), s.gateway.output)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// publishers starts four: singly and in batches over HTTP, and in sessions. Each sends an
// event again until it is answered.
func (s *storm) publishers() {
	for p, publish := range []func(p int) error{s.publishSingly, s.publishSingly, s.publishInBatches, s.publishInSession} {
		s.publishing.Go(func() {
			if err := publish(p); err != nil && s.ctx.Err() == nil {
				s.fail(fmt.Errorf("publisher %d: %w", p, err))
			}
		})
	}
}

// mayPublish waits while publishers are too far ahead; false when they are to end.
func (s *storm) mayPublish() bool {
	for !s.enough.Load() && s.ctx.Err() == nil {
		if s.published.Load() < int64(s.ledger.settled())+stormAhead {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

func (s *storm) wereAnswered(began time.Time, ids ...string) {
	now := time.Now()
	for _, id := range ids {
		s.ledger.record(entry{Act: answered, At: now, Began: began, ID: id})
	}
	s.published.Add(int64(len(ids)))
}

// insist posts until it is answered 200, each try within some seconds.
func (s *storm) insist(client *http.Client, contentType, body string, n int) error {
	client.Timeout = 3 * time.Second
	return untilTaken(s.ctx, client, s.address+"/topics/"+s.topic, contentType, body, n)
}

func (s *storm) publishSingly(p int) error {
	client := httpClient(s.t)
	for n := 0; s.mayPublish(); n++ {
		began, id := time.Now(), numbered(p, n)
		if err := s.insist(client, structured, sample(id), 1); err != nil {
			return err
		}
		s.wereAnswered(began, id)
	}
	return nil
}

func (s *storm) publishInBatches(p int) error {
	client := httpClient(s.t)
	for n := 0; s.mayPublish(); {
		began := time.Now()
		var ids, events []string
		for range 1 + n%17 {
			ids = append(ids, numbered(p, n))
			events = append(events, sample(numbered(p, n)))
			n++
		}
		if err := s.insist(client, batched, "["+strings.Join(events, ",")+"]", len(ids)); err != nil {
			return err
		}
		s.wereAnswered(began, ids...)
	}
	return nil
}

func (s *storm) publishInSession(p int) error {
	began := map[int]time.Time{}
	for n := 0; s.mayPublish(); {
		conn, err := session(s.ctx, s.address)
		if err == nil {
			n, err = s.publishOn(conn, p, n, began)
			conn.CloseNow()
		}
		if errors.Is(err, errContract) {
			return err
		}
		if err != nil && pause(s.ctx) != nil {
			break
		}
	}
	return nil
}

func (s *storm) publishOn(conn *websocket.Conn, p, n int, began map[int]time.Time) (int, error) {
	for ; s.mayPublish(); n++ {
		if _, again := began[n]; !again {
			began[n] = time.Now()
		}
		ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
		err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"op":"publish","id":"%d","topic":%q,"event":%s}`, n, s.topic, sample(numbered(p, n))))
		var m message
		for err == nil && m.Op != "published" && m.Op != "error" {
			var b []byte
			if _, b, err = conn.Read(ctx); err == nil {
				m = message{}
				err = json.Unmarshal(b, &m)
			}
		}
		cancel()
		switch {
		case err != nil:
			return n, err
		case m.ID != fmt.Sprint(n) || m.Op == "published" && (m.Accepted != 1 || m.Cursor == ""):
			return n, contractError("the answer to the publish of %d is %+v", n, m)
		case m.Op == "error" && m.Problem.Status != http.StatusServiceUnavailable:
			return n, contractError("the publish of %d is refused: %+v", n, m)
		case m.Op == "error":
			return n, errLeft
		}
		s.wereAnswered(began[n], numbered(p, n))
		delete(began, n)
	}
	return n, nil
}

// pull receives and acks over HTTP, with tags that are good on any connection and after
// a restart. It acks until it is answered.
func (s *storm) pull() {
	client := httpClient(s.t)
	client.Timeout = 8 * time.Second
	base := s.address + "/subscriptions/" + s.name
	ask := func(path, body string, answer any) (bool, error) {
		status, b, err := try(s.ctx, client, base+path, "application/json", body)
		switch {
		case err != nil || status == http.StatusServiceUnavailable || status == http.StatusNotFound:
			return false, pause(s.ctx)
		case status != http.StatusOK:
			return false, contractError("POST %s: %d %s", path, status, b)
		}
		return true, json.Unmarshal(b, answer)
	}
	for s.ctx.Err() == nil {
		var got struct{ Deliveries []message }
		ok, err := ask("/receive?max=20&wait=2s", "", &got)
		var tags []string
		of := map[string]message{}
		for _, m := range got.Deliveries {
			s.ledger.record(deliveryOverHTTP(m))
			tags, of[m.Delivery] = append(tags, m.Delivery), m
		}
		for _, m := range of {
			s.ledger.record(entry{Act: asked, At: time.Now(), Who: "http", ID: m.Event.ID, Attempt: m.Attempt})
		}
		for ok = ok && len(tags) > 0; ok && err == nil; {
			var taken struct{ Accepted, Unknown []string }
			body, _ := json.Marshal(map[string]any{"deliveries": tags}) // it is text
			var done bool
			if done, err = ask("/ack", string(body), &taken); err != nil || !done {
				continue
			}
			for _, tag := range taken.Accepted {
				m := of[tag]
				s.ledger.record(entry{Act: acked, At: time.Now(), Who: "http", ID: m.Event.ID, Attempt: m.Attempt})
			}
			for _, tag := range taken.Unknown {
				m := of[tag]
				s.ledger.record(entry{Act: denied, At: time.Now(), Who: "http", ID: m.Event.ID, Attempt: m.Attempt})
			}
			ok = false
		}
		if err != nil {
			if s.ctx.Err() == nil {
				s.fail(err)
			}
			return
		}
	}
}

func deliveryOverHTTP(m message) entry {
	sequence, err := sequenceOf(m.Event.RelayCursor)
	if err != nil {
		sequence = 0 // which is in no log, and so a fault
	}
	return entry{Act: delivered, At: time.Now(), Who: "http", ID: m.Event.ID, Attempt: m.Attempt, Sequence: sequence}
}

// finish ends the publishing, waits until all is settled, and judges.
func (s *storm) finish() {
	s.t.Helper()
	s.settle()
	faults := s.ledger.faults()
	for _, f := range faults {
		s.t.Error(f)
	}
	if len(faults) > 0 {
		s.t.Logf("serve said:\n%s", s.gateway.output)
	}
	count := map[act]int{}
	again := 0
	for _, e := range s.ledger.entries {
		count[e.Act]++
		if e.Act == delivered && e.Attempt > 1 {
			again++
		}
	}
	s.t.Logf("%d events answered, %d lost; %d deliveries, %d of them again; %d acks; %d kills, %d stalls, %d connections ended",
		count[answered], slices.IndexFunc(faults, func(f fault) bool { return f.rule == ruleLost })+1,
		count[delivered], again, count[acked], count[killed], count[stalled], count[ended])
}

// settle ends the publishing and waits until the subscription has nothing left; then
// nothing can come any more. All take part until then, and none after it.
func (s *storm) settle() {
	s.t.Helper()
	s.enough.Store(true)
	s.publishing.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	client := httpClient(s.t)
	s.until("the subscription to be empty", func() bool {
		resp, err := client.Get(s.gateway.HTTP + "/subscriptions/" + s.name)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		var state struct{ Pending, Unsettled, Delayed *int }
		return err == nil && json.Unmarshal(b, &state) == nil && state.Pending != nil && *state.Pending+*state.Unsettled+*state.Delayed == 0
	})
	s.end()
	if s.t.Failed() {
		s.t.FailNow()
	}
}
