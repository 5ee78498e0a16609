package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestOneOrder: with many publishers at once every way out, and every filter, has
// the same order.
func TestOneOrder(t *testing.T) {
	w := start(t, nil)
	const publishers, each = 8, 60
	open := map[string]func() received{}
	for _, filter := range []string{"o/**", "*/a", "o/a"} {
		c, s := w.dial(t, "/topics/"+filter), w.sse(t, "/topics/"+filter)
		defer c.CloseNow()
		open["WebSocket "+filter] = func() received { return next(t, c) }
		open["event stream "+filter] = func() received { return s.event(t) }
	}
	secure := w.dial(t, w.https+"/topics/o/a")
	defer secure.CloseNow()
	open["WebSocket over TLS"] = func() received { return next(t, secure) }

	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for i := range each {
				r, err := w.try("POST", "/topics/o/a", event(fmt.Sprintf("%d-%d", p, i)), structured)
				if err != nil || r.status != 200 {
					t.Errorf("publish: %d %s %v", r.status, r.body, err)
				}
			}
		})
	}
	publishing.Wait()
	var want []string
	pages, _ := w.pages(t, "/topics/o/**?limit=100")
	for _, page := range pages {
		want = append(want, page...)
	}
	if len(want) != publishers*each {
		t.Fatalf("%d events are stored, want %d", len(want), publishers*each)
	}
	last := make([]int, publishers)
	for _, id := range want { // each publisher waited for its answers
		var p, i int
		if _, err := fmt.Sscanf(id, "%d-%d", &p, &i); err != nil || i != last[p] {
			t.Fatalf("publisher %d: %s came where %d is due", p, id, last[p])
		}
		last[p]++
	}
	open["from earliest"] = func() func() received {
		c := w.dial(t, "/topics/o/*?from=earliest")
		t.Cleanup(func() { c.CloseNow() })
		return func() received { return next(t, c) }
	}()
	for name, read := range open {
		for i, id := range want {
			if e := read(); e.ID != id {
				t.Fatalf("%s: event %d is %s, want %s", name, i, e.raw, id)
			}
		}
	}
}

// TestBatchStaysTogether: nothing stands between the events of a batch.
func TestBatchStaysTogether(t *testing.T) {
	w := start(t, nil)
	const publishers, batches, size = 4, 10, 25
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for b := range batches {
				var events []string
				for i := range size {
					events = append(events, event(fmt.Sprintf("%d-%d-%d", p, b, i)))
				}
				if r, err := w.try("POST", "/topics/b", "["+strings.Join(events, ",")+"]", batched); err != nil || r.status != 200 {
					t.Errorf("batch: %d %s %v", r.status, r.body, err)
				}
			}
		})
	}
	publishing.Wait()
	r := w.do(t, "GET", "/topics/b?limit=1000", "")
	var page []received
	if err := json.Unmarshal([]byte(r.body), &page); err != nil || len(page) != publishers*batches*size {
		t.Fatalf("%d events, %v", len(page), err)
	}
	for i := 0; i < len(page); i += size {
		prefix := page[i].ID[:strings.LastIndex(page[i].ID, "-")+1]
		for j := range size {
			if want := fmt.Sprint(prefix, j); page[i+j].ID != want {
				t.Fatalf("event %d is %s, want %s", i+j, page[i+j].ID, want)
			}
		}
	}
}
