package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The gateway that handed out an event's last attempt dies, and nobody is connected. At
// the next receive the event is a dead letter with its reason, and does not come again.
// Requeued, within the dedup window, it goes at once to the subscription that failed on
// it and to no other, as it was.
func TestDeadLetterOfAKilledGateway(t *testing.T) {
	t.Parallel()
	g := start(t)
	const ackWait = 2500 * time.Millisecond
	g.subscription(t, "work", fmt.Sprintf(`{"topic":"jobs/*","ackwait":"%s","maxdeliver":2,"deadletter":"dead/jobs"}`, ackWait))
	g.subscription(t, "other", `{"topic":"jobs/*"}`)
	publish(t, g.topics("jobs/one"), sample("lapses"))
	publish(t, g.topics("jobs/two"), sample("rejected"))
	first := g.received(t, "work", 2, "5s")
	byID := map[string]attempt{}
	for _, d := range first {
		byID[member(t, string(d.Event), "id")] = d
	}
	settle := func(verb, more, tag string) {
		t.Helper()
		post(t, g.HTTP+"/subscriptions/work/"+verb, "application/json", fmt.Sprintf(`{"deliveries":[%q]%s}`, tag, more), http.StatusOK)
	}
	settle("reject", `,"reason":"not mine"`, byID["rejected"].Delivery)
	settle("release", "", byID["lapses"].Delivery)
	last := g.received(t, "work", 1, "5s")
	if last[0].Attempt != 2 {
		t.Fatalf("the second attempt is %+v", last)
	}
	time.Sleep(1200 * time.Millisecond) // a kill may forget a second
	g.kill(t)
	g.run(t)
	if again := g.received(t, "work", 0, (2 * ackWait).String()); len(again) > 0 {
		t.Errorf("after its last attempt the event came again: %+v", again)
	}
	var dead []string
	for deadline := time.Now().Add(patience); len(dead) < 2 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err := json.Unmarshal([]byte(get(t, g.topics("dead/**"))), rawList(&dead)); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][2]string{"rejected": {"not mine", "jobs/two"}, "lapses": {"maxdeliver", "jobs/one"}}
	var cursors []string
	for _, letter := range dead {
		id := member(t, letter, "id")
		if w := want[id]; member(t, letter, "relaydeadreason") != w[0] || member(t, letter, "relaydeadtopic") != w[1] || member(t, letter, "relaydeadsubscription") != "work" {
			t.Errorf("the dead letter of %s is %s", id, letter)
		}
		delete(want, id)
		cursors = append(cursors, fmt.Sprintf("%q", member(t, letter, "relaycursor")))
	}
	if len(want) > 0 {
		t.Fatalf("no dead letters of %v in %s", want, dead)
	}
	for range 2 { // again at once: each requeue is an event of its own
		post(t, g.HTTP+"/subscriptions/work/requeue", "application/json", `{"cursors":[`+strings.Join(cursors, ",")+`]}`, http.StatusNoContent)
		var tags []string
		for _, d := range g.received(t, "work", 2, "5s") {
			id := member(t, string(d.Event), "id")
			if d.Attempt != 1 || own(t, string(d.Event)) != own(t, string(byID[id].Event)) ||
				member(t, string(d.Event), "relaytopic") != member(t, string(byID[id].Event), "relaytopic") {
				t.Errorf("requeued, attempt %d: %s, want it as it was: %s", d.Attempt, d.Event, byID[id].Event)
			}
			tags = append(tags, fmt.Sprintf("%q", d.Delivery))
		}
		post(t, g.HTTP+"/subscriptions/work/ack", "application/json", `{"deliveries":[`+strings.Join(tags, ",")+`]}`, http.StatusOK)
	}
	if others := g.received(t, "other", 2, "5s"); len(others) != 2 {
		t.Errorf("the other subscription got %d events, want the 2 that were published", len(others))
	}
	for _, name := range []string{"other", "work"} {
		if more := g.received(t, name, 0, "300ms"); len(more) > 0 {
			t.Errorf("then %s got %+v", name, more)
		}
	}
}

// An attempt is one delivery of a receive.
type attempt struct {
	Delivery string
	Attempt  int
	Event    json.RawMessage
}

// received receives until there are n deliveries; for 0, once, as long as wait.
func (g *gateway) received(t *testing.T, name string, n int, wait string) []attempt {
	t.Helper()
	var all []attempt
	for deadline := time.Now().Add(patience); ; {
		var answer struct{ Deliveries []attempt }
		text := post(t, fmt.Sprintf("%s/subscriptions/%s/receive?max=%d&wait=%s", g.HTTP, name, max(n-len(all), 1), wait), "application/json", "{}", http.StatusOK)
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
		if all = append(all, answer.Deliveries...); len(all) >= n {
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s got %d deliveries, want %d", name, len(all), n)
		}
	}
}

// rawList has a list's members parsed as their own text.
func rawList(into *[]string) json.Unmarshaler { return (*texts)(into) }

type texts []string

func (s *texts) UnmarshalJSON(b []byte) error {
	var raw []json.RawMessage
	err := json.Unmarshal(b, &raw)
	*s = nil
	for _, r := range raw {
		*s = append(*s, string(r))
	}
	return err
}
