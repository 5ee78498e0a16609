package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A log whose files were cut short, overwritten in part, removed, or replaced by older
// ones is opened, and it is said how many events are lost: just as many as are not served
// any more. What it serves are the events as they were published, in their order, and
// nothing else; a subscription passes over none that is not settled and still there; and
// new events are taken, and reach it.
func TestInjuredLog(t *testing.T) {
	t.Parallel()
	injuries := 5
	if soak() {
		injuries = 50
	}
	random := chance(t)
	// Files of 4 MiB, of which there are some.
	g := startOn(t, "retention: {maxbytes: 16MiB}\n", filepath.Join(t.TempDir(), "data"))
	v := &injured{gateway: g, random: random, client: httpClient(t), want: map[string]string{}, settled: map[string]bool{}}
	g.subscription(t, "worker", `{"topic":"injury/**","from":"earliest","ackwait":"3s","maxdeliver":100}`)
	v.publish(t, 45)
	v.work(t, 300)
	older := filepath.Join(t.TempDir(), "older")
	g.stop(t)
	system(t, "cp", "-a", g.data, older)
	g.run(t)
	v.publish(t, 15)
	time.Sleep(time.Second) // acks older than that survive a kill
	g.kill(t)
	killed, whole := filepath.Join(t.TempDir(), "killed"), filepath.Join(t.TempDir(), "whole")
	died := time.Now()
	system(t, "cp", "-a", g.data, killed)
	g.run(t)
	g.stop(t)
	system(t, "cp", "-a", g.data, whole)
	time.Sleep(time.Until(died.Add(5 * time.Second))) // nobody takes a wound for the last write of a process that died just before
	wordless, lossy := 0, 0
	for n := range injuries {
		from, how := whole, "after a stop"
		if n%2 == 1 {
			from, how = killed, "after a kill"
		}
		g.data = filepath.Join(t.TempDir(), "injured")
		system(t, "cp", "-a", from, g.data)
		how += ", " + injure(t, random, g.data, older)
		g.run(t)
		lost, said := v.check(t, how)
		if lost > 0 {
			lossy++
		} else if !said {
			wordless++
		}
		g.kill(t)
		if err := os.RemoveAll(g.data); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d injuries: %d lost events, %d others needed a word, %d none", injuries, lossy, injuries-lossy-wordless, wordless)
}

// An injured is a gateway whose log is injured, and what was published to it.
type injured struct {
	*gateway
	random  *rand.Rand
	client  *http.Client
	want    map[string]string // by id, the data
	order   []string          // the ids, and so the sequences from 1
	settled map[string]bool   // by id: acked long enough before
	first   string            // the cursor of the first event
}

// publish publishes batches of ten.
func (v *injured) publish(t *testing.T, batches int) {
	t.Helper()
	for range batches {
		var batch []string
		for range 10 {
			id := fmt.Sprint(len(v.order))
			data := strings.Repeat(string(rune('a'+v.random.IntN(26))), 100+v.random.IntN(30_000))
			v.want[id], v.order = data, append(v.order, id)
			batch = append(batch, fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/e2e","type":"sample","data":%q}`, id, data))
		}
		if err := untilTaken(t.Context(), v.client, v.topics("injury/one"), batched, "["+strings.Join(batch, ",")+"]", len(batch)); err != nil {
			t.Fatal(err)
		}
	}
}

// A received is what a receive brings.
type received struct {
	Delivery string
	Attempt  int
	Event    struct{ ID, Data, Relaycursor string }
}

func (v *injured) receive(t *testing.T, max int) []received {
	t.Helper()
	var answer struct{ Deliveries []received }
	text := post(t, fmt.Sprintf("%s/subscriptions/worker/receive?max=%d&wait=500ms", v.HTTP, max), "application/json", "{}", http.StatusOK)
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Deliveries
}

// work takes n events of the subscription and acks all but every seventh.
func (v *injured) work(t *testing.T, n int) {
	t.Helper()
	for taken := 0; taken < n; {
		var tags []string
		for _, d := range v.receive(t, min(50, n-taken)) {
			if v.first == "" {
				v.first = d.Event.Relaycursor
			}
			if taken++; taken%7 != 0 {
				v.settled[d.Event.ID] = true
				tags = append(tags, fmt.Sprintf("%q", d.Delivery))
			}
		}
		if len(tags) > 0 {
			post(t, v.HTTP+"/subscriptions/worker/ack", "application/json", `{"deliveries":[`+strings.Join(tags, ",")+`]}`, http.StatusOK)
		}
	}
}

var lostEvents = regexp.MustCompile(`"?events lost"?[=:](\d+)`)

// check looks at what is left after an injury. It returns how many events are lost, and
// whether serve had anything to say about its files.
func (v *injured) check(t *testing.T, how string) (lost int, said bool) {
	t.Helper()
	log := v.output.String()
	served := map[string]bool{}
	at := 0
	for id, data := range v.bodies(t, "injury/one") {
		if v.want[id] != data {
			t.Errorf("%s: event %s is served with other data than it was published with", how, id)
		}
		for at < len(v.order) && v.order[at] != id {
			at++
		}
		if at == len(v.order) {
			t.Errorf("%s: event %s is out of order, or twice", how, id)
			break
		}
		at++
		served[id] = true
	}
	lost = len(v.order) - len(served)
	told := 0
	if m := lostEvents.FindStringSubmatch(log); m != nil {
		told, _ = strconv.Atoi(m[1])
	}
	said = strings.Contains(log, "spoilt") || strings.Contains(log, "can't be read") || told > 0
	t.Logf("%s: %d of %d events are lost, said %d", how, lost, len(v.order), told)
	if told != lost {
		t.Errorf("%s: %d events are lost, and serve says %d:\n%s", how, lost, told, log)
	}
	metric := fmt.Sprintf("outrelay_log_lost_events_total{namespace=%q} %d\n", "default", lost)
	if lost > 0 && !strings.Contains(get(t, v.Admin+"/metrics"), metric) {
		t.Errorf("%s: the metrics don't have %s", how, metric)
	}
	// Who resumes after the first event is told of the others.
	if behind := lost; served[v.order[0]] || behind > 1 {
		events := dial(t, v.ws("injury/one", "after", v.first))
		if gap := strings.Contains(events.next(t), "dev.outrelay.gap"); gap != (behind > 0) {
			t.Errorf("%s: resuming after the first event when %d are lost: a gap is said: %t", how, behind, gap)
		}
		_ = events.conn.CloseNow()
	}
	if err := untilTaken(t.Context(), v.client, v.topics("injury/two"), structured, `{"specversion":"1.0","id":"after","source":"/e2e","type":"sample","data":"after"}`, 1); err != nil {
		t.Errorf("%s: no publish after it: %v", how, err)
	}
	left := map[string]bool{"after": true}
	for id := range served {
		if !v.settled[id] {
			left[id] = true
		}
	}
	for deadline := time.Now().Add(patience); len(left) > 0 && time.Now().Before(deadline); {
		for _, d := range v.receive(t, 100) {
			if d.Event.ID != "after" && v.want[d.Event.ID] != d.Event.Data {
				t.Errorf("%s: event %s is delivered with other data than it was published with", how, d.Event.ID)
			}
			delete(left, d.Event.ID)
		}
	}
	if len(left) > 0 {
		t.Errorf("%s: the subscription never gets %d events that are there and not acked", how, len(left))
	}
	return lost, said
}

func get(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s (%v)", address, resp.Status, err)
	}
	return string(text)
}

// injure does something to one of the files of the log, or of the notes about it, most
// often to one with events.
func injure(t *testing.T, random *rand.Rand, data, older string) string {
	t.Helper()
	var blocks, others []string
	for _, folder := range []string{"jetstream/$G/streams/LOG_default", "log-notes"} {
		err := filepath.WalkDir(filepath.Join(data, folder), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			if strings.HasSuffix(path, ".blk") {
				blocks = append(blocks, path)
			} else {
				others = append(others, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(blocks) < 2 || len(others) < 8 {
		t.Fatalf("the data folder has %d files of events and %d others", len(blocks), len(others))
	}
	files := blocks
	if random.IntN(5) < 2 {
		files = others
	}
	file := files[random.IntN(len(files))]
	name, err := filepath.Rel(data, file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := random.IntN(max(len(b), 1))
	what := fmt.Sprintf("%s of %d bytes ", strings.TrimPrefix(name, "jetstream/$G/streams/"), len(b))
	switch kind := random.IntN(5); {
	case kind == 0 || len(b) == 0:
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		return what + "removed"
	case kind == 1:
		what, b = what+fmt.Sprintf("cut at %d", at), b[:at]
	case kind == 2:
		at -= at % 4096
		what += fmt.Sprintf("with 4 KiB of zeros at %d", at)
		clear(b[at:min(at+4096, len(b))])
	case kind == 3:
		old, err := os.ReadFile(filepath.Join(older, name))
		if err == nil {
			what, b = what+"replaced by an older one", old
			break
		}
		fallthrough
	default:
		bit := random.IntN(8)
		b[at] ^= 1 << bit
		what += fmt.Sprintf("with bit %d of byte %d turned", bit, at)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return what
}

// bodies reads all of a topic: the data of each event by its id, in order.
func (g *gateway) bodies(t *testing.T, topic string) func(yield func(id, data string) bool) {
	t.Helper()
	client := httpClient(t)
	return func(yield func(id, data string) bool) {
		cursor := ""
		for {
			query := []string{"limit", "1000"}
			if cursor != "" {
				query = append(query, "after", cursor)
			}
			resp, err := client.Get(g.topics(topic, query...))
			if err != nil {
				t.Fatal(err)
			}
			var page []struct {
				ID, Source string
				Data       any
			}
			err = json.NewDecoder(resp.Body).Decode(&page)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("history: %s (%v)", resp.Status, err)
			}
			for _, e := range page {
				data, _ := e.Data.(string)
				if e.Source != "/outrelay" && !yield(e.ID, data) {
					return
				}
			}
			if resp.Header.Get("Link") == "" {
				return
			}
			cursor = resp.Header.Get("Outrelay-Cursor")
		}
	}
}
