package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

// A worker is a subscriber of a durable subscription over sessions, which writes down
// what it sees. It connects again whenever its connection is gone.
type worker struct {
	Name         string
	Address      string // of the gateway, http
	Topic        string
	Subscription string
	Credit       int
	AckWait      time.Duration
	// Release, Forget and Die are its chances, for each delivery, to release it, never
	// to settle it, and to leave at once with all that it has in hand.
	Release, Forget, Die float64
	UpTo                 bool          // it acks all that it has at once, by "upto", and does nothing else with them
	Silence              time.Duration // after which it gives a connection up
	Seed                 uint64

	record func(entry)
	random *rand.Rand
}

// run works until ctx ends. The error is what no gateway may do.
func (w *worker) run(ctx context.Context) error {
	w.random = rand.New(rand.NewPCG(w.Seed, 1))
	for n := 1; ctx.Err() == nil; n++ {
		shift := &shift{worker: w, who: fmt.Sprintf("%s#%d", w.Name, n)}
		err := shift.run(ctx)
		w.record(entry{Act: ended, At: time.Now(), Who: shift.who})
		if errors.Is(err, errContract) {
			return fmt.Errorf("%s: %w", shift.who, err)
		}
		_ = pause(ctx) // then it is over
	}
	return nil
}

// A shift is one connection of a worker.
type shift struct {
	*worker
	who     string
	conn    *websocket.Conn
	pending []settlement // sent and not answered, in order
	due     []handed     // to be acked
}

type handed struct {
	tag, id string
	attempt int
}

type settlement struct {
	op         string
	deliveries []handed
}

// A message is what a gateway says in a session.
type message struct {
	Op, ID, Delivery string
	Attempt          int
	Unknown          []string
	Cursor           string
	Accepted         int
	Problem          struct {
		Type, Detail string
		Status       int
	}
	Event struct{ ID, RelayCursor string }
}

// sequenceOf is the place in the log that a cursor names. Clients need not know.
func sequenceOf(cursor string) (uint64, error) {
	c, err := schemas.ParseCursor(cursor)
	return c.Sequence, err
}

// session opens one.
func session(ctx context.Context, address string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(address, "http")+"/connect",
		&websocket.DialOptions{Subprotocols: []string{"outrelay.v1.json"}})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusSwitchingProtocols {
			return nil, contractError("a session is refused with %s", resp.Status)
		}
		return nil, err
	}
	conn.SetReadLimit(16 << 20)
	return conn, nil
}

func (s *shift) run(ctx context.Context) (err error) {
	if s.conn, err = session(ctx, s.Address); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan message, 100)
	failed := make(chan error, 1)
	go func() { // owns reading; ends with the connection
		defer close(messages)
		failed <- s.read(ctx, messages)
	}()
	defer func() {
		cancel()
		s.conn.CloseNow() // with what was not read, this is a reset
		for range messages {
		}
		if failure := <-failed; errors.Is(failure, errContract) {
			err = failure
		}
	}()
	if err := s.say(ctx, map[string]any{"op": "subscribe", "id": "s", "subscription": s.Subscription, "topic": s.Topic,
		"from": "earliest", "credit": s.Credit, "ackwait": s.AckWait.String(), "maxdeliver": 1000}); err != nil {
		return err
	}
	s.pending = append(s.pending, settlement{op: "subscribe"})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	heard := time.Now()
	for n := 0; ; {
		select {
		case m, ok := <-messages:
			if !ok {
				return errLeft
			}
			heard = time.Now()
			if err := s.take(ctx, m); err != nil {
				return err
			}
			if len(messages) > 0 {
				continue
			}
		case <-tick.C:
			if time.Since(heard) > s.Silence {
				return errLeft
			}
			if n++; n%5 == 0 {
				if err := s.say(ctx, map[string]any{"op": "ping", "id": fmt.Sprint("p", n)}); err != nil {
					return err
				}
			}
			if err := s.ack(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(s.due) > s.random.IntN(8) {
			if err := s.ack(ctx); err != nil {
				return err
			}
		}
	}
}

func (s *shift) read(ctx context.Context, messages chan<- message) error {
	for {
		_, b, err := s.conn.Read(ctx)
		if err != nil {
			return err
		}
		var m message
		if err := json.Unmarshal(b, &m); err != nil {
			return contractError("a message is %q (%v)", b, err)
		}
		select {
		case messages <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *shift) say(ctx context.Context, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Silence)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageText, b)
}

// take deals with a message.
func (s *shift) take(ctx context.Context, m message) error {
	switch m.Op {
	case "welcome", "pong", "position", "draining":
	case "event":
		return s.deliver(ctx, m)
	case "subscribed", "ok", "error":
		if m.Op == "error" && m.Problem.Status != http.StatusServiceUnavailable && m.Problem.Status != http.StatusTooManyRequests {
			return contractError("an error on %s: %+v", m.ID, m.Problem)
		}
		if len(s.pending) == 0 {
			return contractError("%s with nothing asked: %+v", m.Op, m)
		}
		p := s.pending[0]
		s.pending = s.pending[1:]
		if m.Op == "error" && p.op == "subscribe" {
			return errLeft
		}
		if p.op != "ack" || m.Op == "error" { // what an error leaves open comes again, or was settled
			return nil
		}
		unknown := map[string]bool{}
		for _, tag := range m.Unknown {
			unknown[tag] = true
		}
		now := time.Now()
		for _, d := range p.deliveries {
			e := entry{Act: acked, At: now, Who: s.who, ID: d.id, Attempt: d.attempt}
			if unknown[d.tag] {
				e.Act = denied
			}
			s.record(e)
		}
	default:
		return contractError("the message %+v", m)
	}
	return nil
}

func (s *shift) deliver(ctx context.Context, m message) error {
	sequence, err := sequenceOf(m.Event.RelayCursor)
	if err != nil || m.Event.ID == "" || m.Delivery == "" || m.Attempt < 1 {
		return contractError("the delivery %+v (%v)", m, err)
	}
	d := handed{m.Delivery, m.Event.ID, m.Attempt}
	s.record(entry{Act: delivered, At: time.Now(), Who: s.who, ID: d.id, Attempt: d.attempt, Sequence: sequence})
	switch chance := s.random.Float64(); {
	case chance < s.Die:
		return errLeft
	case s.UpTo:
		s.due = append(s.due, d)
	case chance < s.Die+s.Forget:
	case chance < s.Die+s.Forget+s.Release:
		s.record(entry{Act: released, At: time.Now(), Who: s.who, ID: d.id, Attempt: d.attempt})
		s.pending = append(s.pending, settlement{"release", []handed{d}})
		request := map[string]any{"op": "release", "id": "s", "deliveries": []string{d.tag}}
		if s.random.IntN(2) == 0 {
			request["delay"] = strconv.Itoa(s.random.IntN(500)) + "ms"
		}
		return s.say(ctx, request)
	default:
		s.due = append(s.due, d)
	}
	return nil
}

// ack acks what is due.
func (s *shift) ack(ctx context.Context) error {
	if len(s.due) == 0 {
		return nil
	}
	request := map[string]any{"op": "ack", "id": "s"}
	all := s.due
	if s.UpTo {
		request["upto"] = all[len(all)-1].tag
	} else {
		tags := make([]string, len(all))
		for i, d := range all {
			tags[i] = d.tag
		}
		request["deliveries"] = tags
	}
	for _, d := range all {
		s.record(entry{Act: asked, At: time.Now(), Who: s.who, ID: d.id, Attempt: d.attempt})
	}
	s.pending = append(s.pending, settlement{"ack", all})
	s.due = nil
	return s.say(ctx, request)
}

// workerVariable makes the test's own program a worker, which prints what it sees.
const workerVariable = "OUTRELAY_E2E_WORKER"

// asWorker runs the worker that the environment describes, if it does, until the
// process is killed.
func asWorker() {
	text := os.Getenv(workerVariable)
	if text == "" {
		return
	}
	w := worker{}
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	w.record = func(e entry) { // written before anything is done about it
		b, err := json.Marshal(e)
		if err == nil {
			_, err = os.Stdout.Write(append(b, '\n'))
		}
		if err != nil {
			os.Exit(2)
		}
	}
	fmt.Fprintln(os.Stderr, w.run(context.Background()))
	os.Exit(1)
}
