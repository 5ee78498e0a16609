package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// pages follows the links from path on and returns the ids of each page.
func (w *world) pages(t testing.TB, path string) (all [][]string, cursor string) {
	t.Helper()
	for path != "" {
		r := w.do(t, "GET", path, "")
		var page []received
		if err := json.Unmarshal([]byte(r.body), &page); err != nil || r.status != 200 {
			t.Fatalf("GET %s = %d %s", path, r.status, r.body)
		}
		ids := []string{}
		for _, e := range page {
			ids = append(ids, e.ID)
		}
		all = append(all, ids)
		if cursor = r.header.Get("Outrelay-Cursor"); cursor == "" {
			t.Fatalf("GET %s: no Outrelay-Cursor", path)
		}
		link := r.header.Get("Link")
		path = ""
		if link != "" {
			if !strings.HasPrefix(link, "<") || !strings.HasSuffix(link, `>; rel="next"`) {
				t.Fatalf("Link = %q", link)
			}
			path = link[1:strings.Index(link, ">")]
			if u, err := url.Parse(path); err != nil || u.Query().Get("after") != cursor {
				t.Fatalf("Link = %q with cursor %q, %v", link, cursor, err)
			}
		}
		if len(all) > 100 {
			t.Fatal("there is always a next page")
		}
	}
	return all, cursor
}

func TestHistory(t *testing.T) {
	w := start(t, nil)
	if got, _ := w.pages(t, "/topics/**"); fmt.Sprint(got) != "[[]]" {
		t.Errorf("of an empty log: %v", got)
	}
	w.publish(t, "h/a", "1", "2", "3")
	time.Sleep(2 * time.Millisecond)
	between := time.Now()
	cursor := w.publish(t, "h/b", "4")
	w.publish(t, "h/a", "5")
	w.publish(t, "live/a", "6")
	q := url.QueryEscape
	for _, tt := range []struct{ path, want string }{
		{"/topics/**", "[[1 2 3 4 5]]"},
		{"/topics/h/a", "[[1 2 3 5]]"},
		{"/topics/h/*?from=earliest", "[[1 2 3 4 5]]"},
		{"/topics/**?limit=2", "[[1 2] [3 4] [5]]"},
		{"/topics/**?limit=5", "[[1 2 3 4 5]]"},
		{"/topics/**?limit=1000", "[[1 2 3 4 5]]"},
		{"/topics/**?after=" + cursor, "[[5]]"},
		{"/topics/**?after=" + cursor + "&from=earliest", "[[5]]"},
		{"/topics/**?from=" + q(between.Format(time.RFC3339Nano)), "[[4 5]]"},
		{"/topics/**?limit=1&from=" + q(between.Format(time.RFC3339Nano)), "[[4] [5]]"},
		{"/topics/**?limit=2&sql=" + q("id <> '2'"), "[[1 3] [4 5]]"},
		{"/topics/**?limit=1&filter=" + q(`{"any":[{"exact":{"id":"5"}},{"exact":{"id":"1"}}]}`), "[[1] [5]]"},
		{"/topics/live/**", "[[]]"},
		{"/topics/live/a", "[[]]"},
		{"/topics/none", "[[]]"},
	} {
		got, _ := w.pages(t, tt.path)
		if len(got) > 1 && len(got[len(got)-1]) == 0 {
			got = got[:len(got)-1] // a last page may be empty
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("GET %s: %v, want %s", tt.path, got, tt.want)
		}
	}
	_, end := w.pages(t, "/topics/**")
	w.publish(t, "h/a", "7")
	if got, _ := w.pages(t, "/topics/**?after="+end); fmt.Sprint(got) != "[[7]]" {
		t.Errorf("from the end of history: %v", got)
	}
	c := w.dial(t, "/topics/h/*?after="+end)
	defer c.CloseNow()
	if e := next(t, c); e.ID != "7" {
		t.Errorf("a stream from there: %s", e.raw)
	}
}

func TestHistoryMediaTypes(t *testing.T) {
	w := start(t, nil)
	w.publish(t, "a", "1")
	for accept, want := range map[string]string{
		"*/*":                                "application/cloudevents-batch+json",
		"application/cloudevents-batch+json": "application/cloudevents-batch+json",
		"application/json":                   "application/json",
	} {
		r := w.do(t, "GET", "/topics/a", "", "Accept: "+accept)
		if got := r.header.Get("Content-Type"); r.status != 200 || got != want {
			t.Errorf("Accept %s: %d %s, want %s", accept, r.status, got, want)
		}
		events, err := schemas.ParseBatch([]byte(r.body))
		if err != nil || len(events) != 1 {
			t.Errorf("the page %s is no batch: %v", r.body, err)
		}
	}
}

// TestHistoryGoesBackIn: a page can be published as it is.
func TestHistoryGoesBackIn(t *testing.T) {
	w := start(t, nil)
	w.publish(t, "a", "1", "2")
	page := w.do(t, "GET", "/topics/a", "").body
	if r := w.do(t, "POST", "/topics/b", page, batched); r.status != 200 {
		t.Fatalf("POST = %d %s", r.status, r.body)
	}
	got := w.do(t, "GET", "/topics/b", "").body
	if strings.Count(got, `"relaytopic":"b"`) != 2 || strings.Contains(got, `"relaytopic":"a"`) {
		t.Errorf("the copies are %s", got)
	}
}
