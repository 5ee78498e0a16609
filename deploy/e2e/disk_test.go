package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const diskConfig = "topics: [{filter: live/**, stored: false}]\n"

// fill publishes large events until one is refused, and returns the ids of those that
// were answered 200. The refusal must say what is wrong.
func fill(t *testing.T, g *gateway, topic string, most int) (ids []string, detail string) {
	t.Helper()
	client := httpClient(t)
	padding := strings.Repeat("x", 64<<10)
	for n := range most {
		id := fmt.Sprintf("%s-%d", topic[strings.LastIndex(topic, "/")+1:], n)
		body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/e2e","type":"sample","data":%q}`, id, padding)
		status, answer, err := try(t.Context(), client, g.topics(topic), structured, body)
		if err != nil {
			t.Fatal(err)
		}
		if status == http.StatusOK {
			ids = append(ids, id)
			continue
		}
		var problem struct{ Type, Title, Detail string }
		if err := json.Unmarshal(answer, &problem); err != nil || status != http.StatusServiceUnavailable || !strings.HasSuffix(problem.Type, "/storage") {
			t.Fatalf("a publish is answered %d %s (%v), want 503 and the problem storage", status, answer, err)
		}
		return ids, problem.Detail
	}
	t.Fatalf("%d events of 64 KiB were taken, and the disk is not full", most)
	return nil, ""
}

// On a full disk publishes are refused with a problem that says so, live events go
// through, deliveries can be settled, nothing that was answered is lost, and with space
// again the same process takes publishes.
func TestDiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mount: %v (this test needs root)", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	g := startOn(t, diskConfig, filepath.Join(disk, "data"))
	client := httpClient(t)
	publish(t, g.topics("disk/before"), sample("before"))
	live := dial(t, g.ws("live/**"))
	g.subscription(t, "work", `{"topic":"disk/**","from":"earliest","ackwait":"1m"}`)

	following := g.following(t, "disk/**")
	ids, detail := fill(t, g, "disk/one", 400)
	if !strings.Contains(detail, "disk is full") || len(ids) < 30 {
		t.Errorf("after %d events the refusal says %q", len(ids), detail)
	}
	for n := range 20 {
		id := fmt.Sprint("live-", n)
		post(t, g.topics("live/a"), structured, sample(id), http.StatusAccepted)
		if got := live.nextID(t); got != id {
			t.Errorf("on a full disk the live topic brings %s, want %s", got, id)
		}
	}
	t.Logf("%d events were taken: %s", len(ids), detail)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serve said:\n%s", g.output)
		}
	})
	came, err := following()
	if err != nil {
		t.Error(err)
	}
	if d := difference(came, append([]string{"before"}, ids...)); d != "" {
		t.Errorf("what was stored and a subscriber got: %s", d)
	}
	some := g.receive(t, "work", 10)
	g.acks(t, "work", some)
	g.kill(t) // it starts on a full disk, too
	g.run(t)
	post(t, g.topics("disk/one"), structured, strings.Replace(sample("refused"), `{"id"`, `{"x":"`+strings.Repeat("x", 64<<10)+`","id"`, 1), http.StatusServiceUnavailable)
	if d := difference(g.stored(t, "disk/**", "limit", "100"), append([]string{"before"}, ids...)); d != "" {
		t.Errorf("started on a full disk, the log: %s", d)
	}
	// Something else takes what is left, to the last byte.
	filler := filepath.Join(disk, "filler")
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, int64(st.Bfree)*st.Bsize), 0o600); err != nil {
		t.Fatal(err)
	}
	post(t, g.topics("disk/one"), structured, sample("refused"), http.StatusServiceUnavailable)
	some = g.receive(t, "work", 10)
	g.acks(t, "work", some)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, "size=14m"); err != nil {
		t.Fatal(err)
	}
	pid := g.PID
	if err := untilTaken(t.Context(), client, g.topics("disk/one"), structured, sample("after"), 1); err != nil {
		t.Fatal(err)
	}
	more, _ := fill(t, g, "disk/two", 400)
	if pid != g.PID || len(more) < 30 {
		t.Errorf("with space again %d events were taken", len(more))
	}
	want := append(append(append([]string{"before"}, ids...), "after"), more...)
	if d := difference(g.stored(t, "disk/**", "limit", "100"), want); d != "" {
		t.Errorf("the log: %s", d)
	}
}

// A write that fails, although there seemed to be room, is no loss either: the publish is
// refused, and when writes are possible again the same process takes them.
func TestFailedWrite(t *testing.T) {
	g := startOn(t, diskConfig, filepath.Join(t.TempDir(), "data"))
	publish(t, g.topics("disk/one"), sample("before"))
	live := dial(t, g.ws("live/**"))
	limit := func(bytes uint64) { // of any file that the process writes
		t.Helper()
		if err := unix.Prlimit(g.PID, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	limit(1 << 20)
	began := time.Now()
	ids, detail := fill(t, g, "disk/one", 100)
	if !strings.Contains(detail, "disk") {
		t.Errorf("after %d events the refusal says %q", len(ids), detail)
	}
	t.Logf("%d events were taken, and the refusal took %v: %s", len(ids), time.Since(began), detail)
	limit(unix.RLIM_INFINITY)
	pid := g.PID
	if err := untilTaken(t.Context(), httpClient(t), g.topics("disk/one"), structured, sample("after"), 1); err != nil {
		t.Fatal(err)
	}
	want := append(append([]string{"before"}, ids...), "after")
	g.readable(t, "disk/**")
	if d := difference(g.stored(t, "disk/**", "limit", "100"), want); d != "" || pid != g.PID {
		t.Errorf("the log: %s", d)
	}
	if !strings.Contains(g.output.String(), "opened anew") {
		t.Errorf("the log was not opened anew:\n%s", g.output)
	}
	post(t, g.topics("live/a"), structured, sample("live"), http.StatusAccepted)
	if got := live.nextID(t); got != "live" { // perhaps behind the notice of a gap
		t.Errorf("the live topic brings %s", got)
	}
	g.kill(t)
	g.run(t)
	if d := difference(g.stored(t, "disk/**", "limit", "100"), want); d != "" {
		t.Errorf("after a kill, the log: %s", d)
	}
}

// readable waits until the log can be read again, which may be a moment after it takes
// publishes again.
func (g *gateway) readable(t *testing.T, filter string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		resp, err := httpClient(t).Get(g.topics(filter))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		if resp.StatusCode != http.StatusServiceUnavailable || time.Now().After(deadline) {
			t.Fatalf("GET %s: %s", g.topics(filter), resp.Status)
		}
	}
}

// following begins to follow a filter from the earliest event on. What it returns waits
// until the log's end has come, and returns the ids of what came.
func (g *gateway) following(t *testing.T, filter string) func() ([]string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	f := &follower{endpoint: endpoint{name: "a subscriber", address: g.topics(filter, "from", "earliest", "positions", "true"), client: httpClient(t)}}
	ids := make(chan string, 10_000)
	f.each = func(a arrival) (bool, error) {
		if !a.notice() {
			ids <- a.ID
		}
		return true, nil
	}
	done := make(chan error, 1)
	go func() { done <- f.follow(ctx, "") }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func() (came []string, err error) {
		for range g.stored(t, filter, "limit", "100") {
			select {
			case id := <-ids:
				came = append(came, id)
			case err := <-done:
				done <- err
				return came, err
			}
		}
		return came, nil
	}
}

// nextID is the id of the event that comes next, notices left out.
func (s *stream) nextID(t *testing.T) string {
	t.Helper()
	for {
		event := s.next(t)
		if member(t, event, "source") != "/outrelay" {
			return member(t, event, "id")
		}
	}
}

// startOn runs a gateway for development with a config and a data folder of its own.
func startOn(t *testing.T, config, data string) *gateway {
	t.Helper()
	file := filepath.Join(t.TempDir(), "outrelay.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return launch(t, &gateway{config: file, dev: true, data: data})
}

// subscription creates a durable subscription.
func (g *gateway) subscription(t *testing.T, name, options string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, g.HTTP+"/subscriptions/"+name, strings.NewReader(options))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("PUT %s: %s", name, resp.Status)
	}
}

// receive takes so many deliveries over HTTP, waiting for them.
func (g *gateway) receive(t *testing.T, name string, n int) (all []message) {
	t.Helper()
	for deadline := time.Now().Add(patience); len(all) < n && time.Now().Before(deadline); {
		status, b, err := try(t.Context(), httpClient(t), fmt.Sprintf("%s/subscriptions/%s/receive?max=%d&wait=5s", g.HTTP, name, n-len(all)), "application/json", "")
		var got struct{ Deliveries []message }
		if err != nil || status != http.StatusOK || json.Unmarshal(b, &got) != nil {
			t.Fatalf("receive: %d %s (%v)", status, b, err)
		}
		all = append(all, got.Deliveries...)
	}
	if len(all) < n {
		t.Fatalf("%d deliveries came, want %d", len(all), n)
	}
	return all
}

// acks acks deliveries over HTTP; all must be known.
func (g *gateway) acks(t *testing.T, name string, deliveries []message) {
	t.Helper()
	var tags []string
	for _, d := range deliveries {
		tags = append(tags, d.Delivery)
	}
	body, err := json.Marshal(map[string]any{"deliveries": tags})
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Accepted, Unknown []string }
	status, b, err := try(t.Context(), httpClient(t), g.HTTP+"/subscriptions/"+name+"/ack", "application/json", string(body))
	if err != nil || status != http.StatusOK || json.Unmarshal(b, &answer) != nil || len(answer.Accepted) != len(tags) {
		t.Errorf("ack of %d: %d %s (%v)", len(tags), status, b, err)
	}
}
